//! Signals to a command that runs.

use std::{io, thread};

use signal_hook::iterator::Signals;

use super::{Failure, exit};

/// Has `each` of `signals` that comes from now on handled on a thread of its own, until that returns false. None of them
/// ends this process by itself any more.
pub(crate) fn listen(
    signals: impl IntoIterator<Item = i32>,
    mut each: impl FnMut(i32) -> bool + Send + 'static,
) -> Result<(), Failure> {
    let mut signals = Signals::new(signals).map_err(|error| refused(&error))?;
    thread::Builder::new()
        .name("quorate-signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if !each(signal) {
                    break;
                }
            }
        })
        .map(drop)
        .map_err(|error| refused(&error))
}

fn refused(error: &io::Error) -> Failure {
    Failure::new(exit::OS, format!("cannot listen for signals: {error}"))
}

/// Whether this process ignores `signal`, as it did from its start. Where the system does not say so, as Linux does, it
/// counts as heard.
pub(crate) fn is_ignored(signal: i32) -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, signal))
}

/// The same, of what Linux says about a process: one bit for each signal, the lowest for the first.
fn ignores(status: &str, signal: i32) -> bool {
    let mut lines = status.lines();
    let ignored = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    ignored.is_some_and(|bits| bits >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use signal_hook::consts::SIGHUP;

    use super::*;

    /// The bits of signals are counted from the first signal; what says nothing names none.
    #[test]
    fn which_signals_are_ignored() {
        let status =
            "SigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\nSigCgt:\tffffffffffffffff\n";
        let ignored = (1..=64).filter(|signal| ignores(status, *signal));
        assert_eq!(ignored.collect::<Vec<_>>(), [SIGHUP, 13]);
        assert!(!ignores("SigIgn:\tnothing\n", SIGHUP) && !ignores("", SIGHUP));
    }
}
