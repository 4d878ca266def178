//! Exit codes, in one place because `--help`, the README and the tests all state them.
//!
//! 64 and above are those of BSD's `sysexits.h`, so that scripts can tell a mistake in the command
//! line (never retry) from a cluster that is away for a moment (retry).

/// A well-formed question with a negative answer: no such key, no such lease, or a compare-and-set that did not
/// match.
pub(crate) const NEGATIVE: u8 = 1;
/// `quorate certs` found a certificate past its end: apart from other wrong data, because monitoring
/// wants to know and the remedy is always the same.
pub(crate) const EXPIRED: u8 = 3;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 64;
/// The data given is wrong, for example a value over the limit, a damaged certificate, or a revision too old to watch
/// from.
pub(crate) const DATA: u8 = 65;
/// A file that was named does not exist or cannot be read.
pub(crate) const NO_INPUT: u8 = 66;
/// No leader, no node reachable, or an address or data directory that another process uses.
pub(crate) const UNAVAILABLE: u8 = 69;
/// A defect in this program.
pub(crate) const SOFTWARE: u8 = 70;
/// The operating system refused something ordinary, such as a thread or a signal handler.
pub(crate) const OS: u8 = 71;
/// A file cannot be created, or exists already and is not overwritten.
pub(crate) const CANNOT_CREATE: u8 = 73;
/// Reading or writing failed; for a running node: data is in doubt and the node stopped.
pub(crate) const IO: u8 = 74;
/// Try again later; for a write: it is unknown whether it happened.
pub(crate) const TEMPORARY: u8 = 75;
/// The certificate does not allow it, or no node takes it, or a key file can be read by others.
pub(crate) const NOT_ALLOWED: u8 = 77;
/// The configuration file or the data directory does not fit.
pub(crate) const CONFIG: u8 = 78;
/// Interrupted, as a shell reports a process that SIGINT ended.
pub(crate) const INTERRUPTED: u8 = 130;

/// The same, for `--help`. A test holds the two together.
pub(crate) const HELP: &str = "\
Exit codes: 0 done | 1 no such key or lease, not swapped | 3 expired (certs) | 64 wrong command line
  65 wrong data | 66 no such file | 69 no leader, or in use | 70 defect | 71 system error
  73 cannot create | 74 I/O error | 75 try later, or outcome unknown | 77 not allowed
  78 wrong configuration or data directory | 130 interrupted";

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code is explained in `--help`, and none twice.
    #[test]
    fn help_names_every_code() {
        let codes = [
            NEGATIVE,
            EXPIRED,
            USAGE,
            DATA,
            NO_INPUT,
            UNAVAILABLE,
            SOFTWARE,
            OS,
            CANNOT_CREATE,
            IO,
            TEMPORARY,
            NOT_ALLOWED,
            CONFIG,
            INTERRUPTED,
        ];
        let explained: Vec<u8> = HELP
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|word| word.parse().ok())
            .collect();
        assert_eq!(explained[0], 0);
        assert_eq!(explained[1..], codes);
    }
}
