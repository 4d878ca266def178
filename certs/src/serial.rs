//! The number of a certificate.

use std::fmt;
use std::str::FromStr;

use crate::facts::hex;

/// Longest serial number (RFC 5280 section 4.1.2.2).
const SERIAL_BYTES_MAX: usize = 20;

/// The number of a certificate, of which its CA gives each only once. As text, lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// As it stands in a certificate or a list: with a zero in front where it would be negative otherwise.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes[zeros..].to_vec())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.is_empty() {
            true => f.write_str("00"),
            false => f.write_str(&hex(&self.0)),
        }
    }
}

/// Why a text is no serial number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no serial number: give 2 to 40 hex digits that are not all zero, as `quorate certs inspect` shows them"
)]
pub struct SerialError {
    text: String,
}

impl FromStr for Serial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        let wrong = || SerialError { text: text.into() };
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bytes = text.len() / 2;
        if !is_hex || !text.len().is_multiple_of(2) || bytes == 0 || bytes > SERIAL_BYTES_MAX {
            return Err(wrong());
        }
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong());
        let bytes: Vec<u8> = (0..text.len())
            .step_by(2)
            .map(byte)
            .collect::<Result<_, _>>()?;
        // Numbers are positive (RFC 5280 section 4.1.2.2): nobody has that one.
        match bytes.iter().all(|byte| *byte == 0) {
            true => Err(wrong()),
            false => Ok(Self::new(&bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it is printed, in either case, and nothing else.
    #[test]
    fn serials_are_hex() {
        for (text, same) in [("4a", "4A"), ("00ff01", "ff01"), ("40", "0040")] {
            let serial: Serial = text.parse().unwrap();
            assert_eq!(serial, same.parse().unwrap());
            assert_eq!(serial.to_string().parse(), Ok(serial));
        }
        let zeros = "00".repeat(20);
        for wrong in [
            "",
            "4",
            "4g",
            "+4",
            "0x4a",
            "é",
            &"ab".repeat(21),
            "00",
            &zeros,
        ] {
            assert!(wrong.parse::<Serial>().is_err(), "{wrong}");
        }
        // Somebody else's list may have it.
        assert_eq!(Serial::new(&[0]).to_string(), "00");
    }
}
