//! Where diagnostics go: to stderr, never to stdout, so that output can be piped.

use std::convert::Infallible;
use std::io::{self, IsTerminal};
use std::mem;
use std::time::Duration;

use async_io::Timer;
use tracing::warn;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::MakeWriter;

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

/// How many lines may wait for whoever reads the log: about a MiB. Further ones are lost, and counted.
const LINES_MAX: usize = 4096;

/// How often it is looked whether lines were lost.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Starts logging at `level`, or at what `QUORATE_LOG` says, or at `default`.
pub(crate) fn init(level: Option<&str>, format: Format, default: &str) -> Result<(), Failure> {
    init_to(io::stderr, level, format, default)
}

/// The same for what must never wait for its log: a thread of its own writes it.
pub(crate) fn init_in_background(
    level: Option<&str>,
    format: Format,
    default: &str,
) -> Result<Background, Failure> {
    let (writer, worker) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .thread_name("quorate-logger")
        .finish(io::stderr());
    let lost = writer.error_counter();
    init_to(writer, level, format, default)?;
    Ok(Background {
        worker: Some(worker),
        lost,
    })
}

/// The thread that writes the log. Dropped, it has written what waits, unless its reader does not take it.
pub(crate) struct Background {
    worker: Option<WorkerGuard>,
    lost: ErrorCounter,
}

impl Background {
    /// Says so when lines were lost, for as long as it is polled.
    pub(crate) async fn tell_losses(&self) -> Infallible {
        let mut told = 0;
        loop {
            Timer::after(LOOK_EVERY).await;
            let lost = self.lost.dropped_lines();
            if lost > told {
                warn!(
                    lines = lost - told,
                    "lines of the log were lost: its reader is too slow"
                );
                told = lost;
            }
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let worker = self.worker.take();
        if self.lost.dropped_lines() > 0 {
            // It is stuck most likely: it would be waited for, and complain on standard output.
            mem::forget(worker);
        }
    }
}

fn init_to<W>(writer: W, level: Option<&str>, format: Format, default: &str) -> Result<(), Failure>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
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
        .with_writer(writer)
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
