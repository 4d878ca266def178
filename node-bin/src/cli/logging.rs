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
    let filter = parse(text).map_err(|error| {
        Failure::new(
            exit::USAGE,
            format!("{origin}: `{text}` is no log filter: {error}"),
        )
        .help("use error, warn, info, debug or trace, or a list such as `info,quinn=debug`")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let started = match format {
        Format::Human => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::new(exit::SOFTWARE, format!("cannot start logging: {error}")))
}

/// `EnvFilter` takes an unknown word for the name of a target and then logs nothing at all: a
/// misspelt level must not silence a node.
fn parse(text: &str) -> Result<EnvFilter, String> {
    let text = text.trim();
    let level = text.parse::<LevelFilter>();
    if text.is_empty() || (!text.contains(['=', ',', '[']) && level.is_err()) {
        return Err("unknown level".into());
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())
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
