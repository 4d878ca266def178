//! What the key-value store can be asked, and its answers.

use std::fmt;

use bytes::Bytes;
use quorate_consensus::{EntryId, PLACE_BYTES_MAX};
use serde::{Deserialize, Serialize};

use super::command::{KEY_BYTES_MAX, validate_key};
use super::encoding::codec;
use super::invalid::Invalid;

/// The most pairs in one page of a range, so that no single query keeps the others waiting.
pub const RANGE_LIMIT_MAX: u32 = 1000;

/// The most bytes of keys and values in one page: room for the largest pair, and small enough for
/// one frame.
pub const RANGE_BYTES_MAX: usize = 1 << 20;

/// How many keys that are bound to leases are counted for one page of these: looking at them takes some milliseconds.
pub const LEASE_KEYS_COUNTED_MAX: u32 = 10_000;

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
    /// How long a lease will live.
    Lease {
        /// Which lease.
        lease: u64,
    },
    /// Hold on to the state as it is now, to be read in pieces. An admin's question.
    BeginBackup,
    /// The next piece of such a state. An admin's question.
    BackupPiece {
        /// Which state.
        of: EntryId,
        /// The place after which the piece begins; empty for the first one.
        after: Bytes,
    },
    /// Whoever began it has all pieces of such a state. An admin's question.
    EndBackup {
        /// Which state.
        of: EntryId,
    },
    /// The leases that there are, in the order of their numbers.
    Leases {
        /// The first number that is of interest.
        from: u64,
        /// The most leases in the answer, 1 to [`RANGE_LIMIT_MAX`].
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
    /// To `Lease`.
    Lease {
        /// How it stands, or `None` if there is none.
        lease: Option<Lease>,
        /// The revision of the state.
        revision: u64,
    },
    /// To `BeginBackup`.
    BackupBegun {
        /// The last entry whose effect is in the state.
        last: EntryId,
    },
    /// To `BackupPiece`.
    BackupPiece(BackupPiece),
    /// To `EndBackup`.
    BackupEnded,
    /// To `Leases`.
    Leases {
        /// The first of them, as many as the limit and [`LEASE_KEYS_COUNTED_MAX`] allow.
        leases: Vec<ListedLease>,
        /// Whether there are others after them.
        more: bool,
        /// The revision of the state.
        revision: u64,
    },
}

/// A piece of a state.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPiece {
    /// What a [`BackupWriter`](super::BackupWriter) takes: about [`RANGE_BYTES_MAX`].
    pub data: Bytes,
    /// The place after it; `None` after the last one.
    pub next: Option<Bytes>,
}

/// A lease, as it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// For how many milliseconds it lives from each renewal.
    pub ttl_ms: u64,
    /// For how many it will live yet, in the time that has passed with a leader.
    pub remaining_ms: u64,
}

/// A lease among others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListedLease {
    /// Its number.
    pub number: u64,
    /// How it stands.
    pub lease: Lease,
    /// How many keys are bound to it, as far as they were counted.
    pub keys: u32,
    /// Whether there are more keys, which were not counted.
    pub more_keys: bool,
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

impl Query {
    /// Whether it is an admin's: its answer has what the store keeps for itself in it.
    #[must_use]
    pub fn is_backup(&self) -> bool {
        matches!(
            self,
            Self::BeginBackup | Self::BackupPiece { .. } | Self::EndBackup { .. }
        )
    }

    /// Checks the sizes, as a node does before it answers.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the size that is out of bounds.
    pub fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Get { key } => validate_key(key),
            Self::Lease { .. } | Self::BeginBackup | Self::EndBackup { .. } => Ok(()),
            Self::BackupPiece { after, .. } if after.len() > PLACE_BYTES_MAX => {
                let bytes = after.len() as u64;
                Err(Invalid::KeyTooLong { bytes })
            }
            Self::BackupPiece { .. } => Ok(()),
            Self::Range { start, end, limit } => {
                validate_bounds(start, end.as_ref())?;
                validate_limit(*limit)
            }
            Self::Leases { limit, .. } => validate_limit(*limit),
        }
    }
}

fn validate_limit(limit: u32) -> Result<(), Invalid> {
    match (1..=RANGE_LIMIT_MAX).contains(&limit) {
        true => Ok(()),
        false => Err(Invalid::LimitOutOfRange { limit }),
    }
}

/// The first key after all that begin with `prefix`: where a range or a watch of these ends. `None` if there is none, and the
/// range goes to the last key.
#[must_use]
pub fn end_of_prefix(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// Checks the bounds of a range of keys.
pub(super) fn validate_bounds(start: &Bytes, end: Option<&Bytes>) -> Result<(), Invalid> {
    for bound in [Some(start), end].into_iter().flatten() {
        // One more than a key: the successor of the longest one is a bound, too.
        if bound.len() > KEY_BYTES_MAX + 1 {
            let bytes = bound.len() as u64;
            return Err(Invalid::KeyTooLong { bytes });
        }
    }
    Ok(())
}

codec!(Query, Answer);

// Keys and values are the user's secrets: the debug forms, which end in logs, show sizes only.

pub(super) struct Size<'a>(pub(super) &'a Bytes);

impl fmt::Debug for Size<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
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
            Self::Lease { lease } => write!(f, "Lease({lease})"),
            Self::BeginBackup => f.write_str("BeginBackup"),
            Self::BackupPiece { of, after } => write!(f, "BackupPiece({of}, {:?})", Size(after)),
            Self::EndBackup { of } => write!(f, "EndBackup({of})"),
            Self::Leases { from, limit } => write!(f, "Leases({from}, {limit})"),
        }
    }
}

impl fmt::Debug for BackupPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let next = self.next.as_ref().map(Size);
        write!(f, "BackupPiece({:?}, {next:?})", Size(&self.data))
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

    /// The end of a prefix is the first key after all that have it.
    #[test]
    fn ends_of_prefixes() {
        let end = |prefix: &'static [u8]| end_of_prefix(prefix);
        assert_eq!(end(b"ab"), Some(Bytes::from_static(b"ac")));
        assert_eq!(end(b"a\xff\xff"), Some(Bytes::from_static(b"b")));
        assert_eq!(end(b"\xff\xff"), None);
        assert_eq!(end(b""), None);
    }
}
