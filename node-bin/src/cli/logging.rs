//! Where diagnostics go: to stderr, never to stdout, so that output can be piped.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use super::{Failure, exit};

/// Overrides the level of every command when `--log` is not given.
pub(crate) const VARIABLE: &str = "QUORATE_LOG";

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line, for machines.
    Json,
}

/// Starts logging at `level`, or at what `QUORATE_LOG` says, or at `default`.
pub(crate) fn init(level: Option<&str>, format: Format, default: &str) -> Result<(), Failure> {
    let from_environment = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let (origin, text) = match (level, from_environment.as_deref()) {
        (Some(level), _) => ("--log", level),
        (None, Some(level)) => (VARIABLE, level),
        (None, None) => ("the default", default),
    };
    let filter =
        parse(text).map_err(|error| Failure::new(exit::USAGE, format!("{origin}: {error}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // What cannot be written (a full disk, a reader that is gone) is lost. Saying so, to the same place, would
        // panic.
        .log_internal_errors(false);
    let started = match format {
        Format::Human => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::new(exit::SOFTWARE, format!("cannot start logging: {error}")))
}

/// Whether `text` can be a level, or what is wrong with it: for those who collect mistakes before they
/// start anything.
pub(crate) fn check(text: &str) -> Result<(), String> {
    parse(text).map(drop)
}

/// `EnvFilter` takes an unknown word for the name of a target and then logs nothing at all: a
/// misspelt level must not silence a node.
fn parse(text: &str) -> Result<EnvFilter, String> {
    let wrong = |why: &str| {
        format!(
            "`{text}` is no log filter: {why}; use error, warn, info, debug or trace, or a list such as \
             `info,quinn=debug`"
        )
    };
    let trimmed = text.trim();
    let level = trimmed.parse::<LevelFilter>();
    if trimmed.is_empty() || (!trimmed.contains(['=', ',', '[']) && level.is_err()) {
        return Err(wrong("unknown level"));
    }
    EnvFilter::try_new(trimmed).map_err(|error| wrong(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels and lists are accepted; a misspelt level, which would silence everything, is not.
    #[test]
    fn misspelt_levels_are_refused() {
        for good in ["info", "DEBUG", "off", "warn,consensus::event=debug"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["inof", "", "quorate=loud"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
