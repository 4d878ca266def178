//! How single values are written: numbers of nodes, folders, addresses, times, sizes. Each parser says what it
//! expected instead.

use std::path::PathBuf;
use std::time::Duration;

use quorate_consensus::NodeId;

pub(crate) fn node_id(text: &str) -> Result<NodeId, String> {
    text.parse()
        .ok()
        .and_then(NodeId::new)
        .ok_or_else(|| format!("`{text}` is not a node's number (1 or more)"))
}

pub(crate) fn folder(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("an empty path; expected a folder".into());
    }
    Ok(text.into())
}

/// A whole number and a unit: `250ms`, `5s`, `2m`.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis_per_unit = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(millis_per_unit)
        .and_then(|(number, millis)| number.checked_mul(millis))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is not a time; expected a whole number of ms, s or m"))
}

/// A whole number of bytes, or of units of them: `512KiB`, `64MiB`, `1GiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let bytes_per_unit = match unit {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(bytes_per_unit)
        .and_then(|(number, bytes)| number.checked_mul(bytes))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| {
            format!("`{text}` is not a size; expected a whole number of bytes, KiB, MiB or GiB")
        })
}

/// As [`size`], or `0`.
pub(crate) fn size_or_none(text: &str) -> Result<u64, String> {
    match text {
        "0" => Ok(0),
        text => size(text).map_err(|mistake| mistake + ", or 0"),
    }
}

/// How many of something there may be: one at least.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| format!("`{text}` is not a number of 1 or more"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes are whole numbers, of bytes or with a unit, and not nothing; nothing overflows.
    #[test]
    fn sizes() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        for bad in [
            "",
            "0",
            "MiB",
            "64MB",
            "-1",
            "1.5GiB",
            "1 GiB",
            "99999999999GiB",
        ] {
            assert!(size(bad).is_err(), "{bad}");
            assert_eq!(size_or_none(bad).is_err(), bad != "0", "{bad}");
        }
        assert_eq!(size_or_none("64MiB"), Ok(64 << 20));
    }

    /// Times are whole numbers with a unit; nothing overflows.
    #[test]
    fn times() {
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("5s"), Ok(Duration::from_secs(5)));
        for bad in ["", "ms", "5", "-5s", "1.5s", "5 s", "18446744073709551615m"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
