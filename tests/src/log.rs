//! What the code under test logs, with the time inside the simulation and the host it came from.

use std::cell::Cell;
use std::fmt;
use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

thread_local! {
    /// A simulation runs in one thread: nanoseconds since its beginning, and the host whose turn it is.
    static MOMENT: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// From now on what is logged was logged at `now` by `host`.
pub(crate) fn moment(now: u64, host: u64) {
    MOMENT.set((now, host));
}

/// Prints to the standard error what `filter` lets through, until the process ends.
///
/// # Errors
///
/// When `filter` is not one.
pub fn print(filter: &str) -> io::Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(io::Error::other)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(Moment)
        .with_ansi(false)
        .with_writer(io::stderr)
        .init();
    Ok(())
}

struct Moment;

impl FormatTime for Moment {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let (now, host) = MOMENT.get();
        let ms = now as f64 / 1e6;
        write!(writer, "{ms:>12.3} n{host}")
    }
}
