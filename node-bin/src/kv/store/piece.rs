//! What a snapshot and a backup consist of.
//!
//! Both are the rows of the state in the order of their keys, in pieces. Each piece carries the digest of all rows
//! up to its end, so that a row that is missing, twice or of another state is noticed with its piece, and the last
//! piece's digest is that of the whole.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::record::Record;
use super::rows::{self, ROW_KEY_BYTES_MAX, ROW_VALUE_BYTES_MAX};

/// What a pair counts for besides its bytes.
const PAIR_OVERHEAD_BYTES: usize = 24;

#[derive(Serialize, Deserialize)]
pub(crate) struct Piece {
    pub(super) pairs: Vec<Pair>,
    /// Of all pairs up to the last one here.
    pub(super) digest: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Pair {
    pub(super) key: Bytes,
    pub(super) revision: u64,
    pub(super) value: Bytes,
}

impl Pair {
    fn record(&self) -> Record<'_> {
        Record {
            revision: self.revision,
            data: &self.value,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        PAIR_OVERHEAD_BYTES + self.key.len() + self.value.len()
    }
}

impl Piece {
    /// Decodes what a member or a file gave, which may be anything.
    fn decode(data: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(data) {
            Ok((piece, [])) => Some(piece),
            _ => None,
        }
    }
}

/// How far the pieces of one state have come.
#[derive(Clone, Default)]
pub(crate) struct Progress {
    last_key: Bytes,
    digest: Digest,
    keys: u64,
    bytes: u64,
}

impl Progress {
    /// The digest of all rows so far.
    pub(crate) fn digest(&self) -> u64 {
        self.digest.value()
    }

    /// How many users' keys there were.
    pub(crate) fn keys(&self) -> u64 {
        self.keys
    }

    /// How many bytes users' keys and values had.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the piece that comes next, if `data` is that.
    pub(crate) fn check(&mut self, data: &[u8]) -> bool {
        self.take(data).is_some()
    }

    /// Decodes the piece that comes next. `None` when `data` is not that, and then nothing has changed.
    pub(super) fn take(&mut self, data: &[u8]) -> Option<Piece> {
        let piece = Piece::decode(data)?;
        let mut after = self.clone();
        for pair in &piece.pairs {
            let fits = (1..=ROW_KEY_BYTES_MAX).contains(&pair.key.len())
                && pair.value.len() <= ROW_VALUE_BYTES_MAX
                && pair.key > after.last_key;
            if !fits {
                return None;
            }
            after.add(pair);
        }
        if after.digest.value() != piece.digest {
            return None;
        }
        *self = after;
        Some(piece)
    }

    fn add(&mut self, pair: &Pair) {
        self.digest.add(&pair.key, &pair.record());
        self.last_key = pair.key.clone();
        if !rows::is_own(&pair.key) {
            self.keys += 1;
            self.bytes += (pair.key.len() + pair.value.len()) as u64;
        }
    }
}
