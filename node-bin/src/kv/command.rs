//! What the key-value store can be told and asked, and how that is written in the log.
//!
//! Encoded, each of the four types is one byte of version and a postcard body. Members must agree on
//! what every command does, so a new version is proposed only once all of them know it.

use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The longest key, in bytes. A few still fit into one page of 4 KiB, so that searching stays short.
pub const KEY_BYTES_MAX: usize = 1024;

/// The longest value, in bytes: 1 MiB, the default limit of a command, less room for the rest of
/// it. A compare-and-set holds two, which together must not be longer.
pub const VALUE_BYTES_MAX: usize = (1 << 20) - (4 << 10);

/// The most pairs in one page of a range, so that no single query keeps the others waiting.
pub const RANGE_LIMIT_MAX: u32 = 1000;

/// The most bytes of keys and values in one page: room for the largest pair, and small enough for
/// one frame.
pub const RANGE_BYTES_MAX: usize = 1 << 20;

/// The version in front of every encoding.
const VERSION: u8 = 1;

/// A change of the state.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Sets `key` to `value`.
    Put {
        /// Which key, 1 to [`KEY_BYTES_MAX`] bytes.
        key: Bytes,
        /// Its new value, at most [`VALUE_BYTES_MAX`] bytes.
        value: Bytes,
    },
    /// Removes `key`.
    Delete {
        /// Which key.
        key: Bytes,
    },
    /// Changes `key` if it is as expected.
    CompareAndSet {
        /// Which key.
        key: Bytes,
        /// What its value must be; `None` if it must be absent.
        expected: Option<Bytes>,
        /// Its new value; `None` to remove it.
        value: Option<Bytes>,
    },
}

/// What a command did. The revision is the command's index in the log: where it took effect.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The key has the value.
    Written {
        /// The revision of the write.
        revision: u64,
    },
    /// The key is absent.
    Deleted {
        /// Whether it was there before.
        existed: bool,
        /// The revision of the removal.
        revision: u64,
    },
    /// The key was as expected and was changed.
    Swapped {
        /// The revision of the change.
        revision: u64,
    },
    /// The key was not as expected; nothing changed.
    NotSwapped {
        /// Its value, or `None` if it is absent.
        current: Option<Bytes>,
        /// The revision of the comparison.
        revision: u64,
    },
    /// The command makes no sense; nothing changed.
    Refused(Invalid),
}

/// A question about the state.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// The value of `key`.
    Get {
        /// Which key.
        key: Bytes,
    },
    /// The pairs whose keys lie in a range, in the order of the keys' bytes.
    Range {
        /// The first key; empty for the very first.
        start: Bytes,
        /// The first key that no longer belongs to the range; `None` for no end.
        end: Option<Bytes>,
        /// The most pairs in the answer, 1 to [`RANGE_LIMIT_MAX`].
        limit: u32,
    },
}

/// The answer to a [`Query`]. The revision is the index in the log up to which the state that gave the
/// answer had been applied: the answer is that of the moment right after that entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To `Get`.
    Value {
        /// The value, or `None` if the key is absent.
        value: Option<Value>,
        /// The revision of the state.
        revision: u64,
    },
    /// To `Range`.
    Page {
        /// The first pairs of the range: as many as the limit and [`RANGE_BYTES_MAX`] allow.
        pairs: Vec<Pair>,
        /// Whether the range goes on after them. Its next key is not before the last one here with a
        /// zero byte appended.
        more: bool,
        /// The revision of the state.
        revision: u64,
    },
    /// The query makes no sense.
    Refused(Invalid),
}

/// A value and where it comes from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// The bytes.
    pub data: Bytes,
    /// The index in the log of the command that wrote it.
    pub revision: u64,
}

/// A key and its value.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Value,
}

/// Why a command or query makes no sense. Nothing happened, and nothing will if it is repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// The bytes are not an encoding of what they should be.
    #[error("the message cannot be decoded; check that client and server are of matching versions")]
    Malformed,
    /// The encoding has another version.
    #[error("encoding version {version} is unknown, {VERSION} is known; use matching versions")]
    UnknownVersion {
        /// The version found.
        version: u8,
    },
    /// There is no key.
    #[error("the key is empty; it needs 1 to {KEY_BYTES_MAX} bytes")]
    KeyEmpty,
    /// The key is too long.
    #[error("a key of {bytes} bytes is too long; at most {KEY_BYTES_MAX} are possible")]
    KeyTooLong {
        /// How long it is.
        bytes: u64,
    },
    /// The value, or both values of a compare-and-set together, are too long.
    #[error("{bytes} bytes of values are too long; at most {VALUE_BYTES_MAX} are possible")]
    ValueTooLong {
        /// How long they are.
        bytes: u64,
    },
    /// A page of that size cannot be had.
    #[error(
        "a limit of {limit} pairs is impossible; ask for 1 to {RANGE_LIMIT_MAX}, then for more"
    )]
    LimitOutOfRange {
        /// The limit asked for.
        limit: u32,
    },
}

impl Command {
    /// Checks the sizes, as every member does before it applies the command.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the size that is out of bounds.
    pub fn validate(&self) -> Result<(), Invalid> {
        let (key, values) = match self {
            Self::Put { key, value } => (key, value.len()),
            Self::Delete { key } => (key, 0),
            Self::CompareAndSet {
                key,
                expected,
                value,
            } => {
                let length = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
                (key, length(expected) + length(value))
            }
        };
        validate_key(key)?;
        if values > VALUE_BYTES_MAX {
            let bytes = values as u64;
            return Err(Invalid::ValueTooLong { bytes });
        }
        Ok(())
    }
}

impl Query {
    /// Checks the sizes, as a node does before it answers.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the size that is out of bounds.
    pub fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Get { key } => validate_key(key),
            Self::Range { start, end, limit } => {
                for bound in [Some(start), end.as_ref()].into_iter().flatten() {
                    // One more than a key: the successor of the longest one is a bound, too.
                    if bound.len() > KEY_BYTES_MAX + 1 {
                        let bytes = bound.len() as u64;
                        return Err(Invalid::KeyTooLong { bytes });
                    }
                }
                if !(1..=RANGE_LIMIT_MAX).contains(limit) {
                    return Err(Invalid::LimitOutOfRange { limit: *limit });
                }
                Ok(())
            }
        }
    }
}

fn validate_key(key: &Bytes) -> Result<(), Invalid> {
    match key.len() {
        0 => Err(Invalid::KeyEmpty),
        1..=KEY_BYTES_MAX => Ok(()),
        bytes => Err(Invalid::KeyTooLong {
            bytes: bytes as u64,
        }),
    }
}

macro_rules! codec {
    ($($name:ident),*) => {$(
        impl $name {
            /// The encoding, with its version in front.
            #[must_use]
            pub fn encode(&self) -> Bytes {
                encode(self)
            }

            /// Decodes exactly what [`encode`](Self::encode) returns. Never allocates more than a
            /// small multiple of the length of `bytes`. Sizes are not checked here.
            ///
            /// # Errors
            ///
            /// [`Invalid::UnknownVersion`], or [`Invalid::Malformed`] for anything else that is
            /// wrong, bytes left over included.
            pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
                decode(bytes)
            }
        }
    )*};
}

codec!(Command, Outcome, Query, Answer);

fn encode(message: &impl Serialize) -> Bytes {
    postcard::to_extend(message, vec![VERSION])
        .expect("these types have no form that postcard cannot write")
        .into()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Invalid> {
    match bytes.split_first() {
        None => Err(Invalid::Malformed),
        Some((&VERSION, body)) => match postcard::take_from_bytes(body) {
            Ok((message, [])) => Ok(message),
            Ok(_) | Err(_) => Err(Invalid::Malformed),
        },
        Some((&version, _)) => Err(Invalid::UnknownVersion { version }),
    }
}

// Keys and values are the user's secrets: the debug forms, which end in logs, show sizes only.

struct Size<'a>(&'a Bytes);

impl fmt::Debug for Size<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { key, value } => write!(f, "Put({:?}, {:?})", Size(key), Size(value)),
            Self::Delete { key } => write!(f, "Delete({:?})", Size(key)),
            Self::CompareAndSet {
                key,
                expected,
                value,
            } => {
                let [expected, value] = [expected, value].map(|value| value.as_ref().map(Size));
                write!(f, "CompareAndSet({:?}, {expected:?}, {value:?})", Size(key))
            }
        }
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written { revision } => write!(f, "Written({revision})"),
            Self::Deleted { existed, revision } => write!(f, "Deleted({existed}, {revision})"),
            Self::Swapped { revision } => write!(f, "Swapped({revision})"),
            Self::NotSwapped { current, revision } => {
                let current = current.as_ref().map(Size);
                write!(f, "NotSwapped({current:?}, {revision})")
            }
            Self::Refused(invalid) => write!(f, "Refused({invalid:?})"),
        }
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get { key } => write!(f, "Get({:?})", Size(key)),
            Self::Range { start, end, limit } => {
                let end = end.as_ref().map(Size);
                write!(f, "Range({:?}, {end:?}, {limit})", Size(start))
            }
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({:?}, {})", Size(&self.data), self.revision)
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({:?}, {:?})", Size(&self.key), self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize) -> Bytes {
        vec![7; length].into()
    }

    fn commands() -> Vec<Command> {
        let key = || Bytes::from_static(b"key");
        vec![
            Command::Put {
                key: key(),
                value: bytes(300),
            },
            Command::Delete { key: key() },
            Command::CompareAndSet {
                key: key(),
                expected: None,
                value: Some(bytes(0)),
            },
        ]
    }

    /// A command comes back from its encoding; cut short, prolonged or of another version, it is
    /// refused.
    #[test]
    fn i2_decoding_is_strict() {
        for command in commands() {
            let encoded = command.encode();
            assert_eq!(Command::decode(&encoded), Ok(command));
            for length in 0..encoded.len() {
                assert_eq!(Command::decode(&encoded[..length]), Err(Invalid::Malformed));
            }
            let longer = [&encoded[..], &[0]].concat();
            assert_eq!(Command::decode(&longer), Err(Invalid::Malformed));
            let other = [&[2], &encoded[1..]].concat();
            let unknown = Invalid::UnknownVersion { version: 2 };
            assert_eq!(Command::decode(&other), Err(unknown));
        }
    }

    /// A length that promises more than there is costs an error, not memory.
    #[test]
    fn i1_a_lying_length_is_refused() {
        let length = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        for variant in [0, 1, 2] {
            let lie = [&[VERSION, variant], &length[..]].concat();
            assert_eq!(Command::decode(&lie), Err(Invalid::Malformed));
            assert_eq!(Query::decode(&lie), Err(Invalid::Malformed));
            assert!(Answer::decode(&lie).is_err());
        }
    }

    /// Every bound is reached, and one more is refused.
    #[test]
    fn sizes_are_bounded() {
        let put = |key, value| {
            let (key, value) = (bytes(key), bytes(value));
            Command::Put { key, value }.validate()
        };
        assert_eq!(put(KEY_BYTES_MAX, VALUE_BYTES_MAX), Ok(()));
        assert_eq!(put(0, 1), Err(Invalid::KeyEmpty));
        assert_eq!(
            put(KEY_BYTES_MAX + 1, 1),
            Err(Invalid::KeyTooLong { bytes: 1025 })
        );
        let long = Invalid::ValueTooLong {
            bytes: VALUE_BYTES_MAX as u64 + 1,
        };
        assert_eq!(put(1, VALUE_BYTES_MAX + 1), Err(long));

        let swap = |expected, value| Command::CompareAndSet {
            key: bytes(KEY_BYTES_MAX),
            expected: Some(bytes(expected)),
            value: Some(bytes(value)),
        };
        let largest = swap(1000, VALUE_BYTES_MAX - 1000);
        assert_eq!(largest.validate(), Ok(()));
        assert!(
            largest.encode().len() <= 1 << 20,
            "the largest command fits the default limit"
        );
        assert_eq!(swap(1001, VALUE_BYTES_MAX - 1000).validate(), Err(long));

        let range = |start, limit| {
            Query::Range {
                start: bytes(start),
                end: None,
                limit,
            }
            .validate()
        };
        assert_eq!(range(0, 1), Ok(()));
        assert_eq!(range(KEY_BYTES_MAX + 1, RANGE_LIMIT_MAX), Ok(()));
        assert!(range(KEY_BYTES_MAX + 2, 1).is_err());
        for limit in [0, RANGE_LIMIT_MAX + 1] {
            assert_eq!(range(0, limit), Err(Invalid::LimitOutOfRange { limit }));
        }
    }

    /// What ends in a log shows no user data.
    #[test]
    fn i15_debug_forms_show_sizes_only() {
        let pair = Pair {
            key: Bytes::from_static(b"secret"),
            value: Value {
                data: Bytes::from_static(b"secret"),
                revision: 9,
            },
        };
        assert_eq!(format!("{pair:?}"), "Pair(6 bytes, Value(6 bytes, 9))");
        let put = &commands()[0];
        assert_eq!(format!("{put:?}"), "Put(3 bytes, 300 bytes)");
    }
}
