//! One number for many records.

use super::record::Record;

/// FNV-1a over the keys, revisions and values of records, in the order of the keys. It compares members
/// with each other; it does not resist anyone who looks for collisions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    pub(super) fn add(&mut self, key: &[u8], record: &Record<'_>) {
        self.part(key);
        self.part(&record.revision.to_le_bytes());
        self.part(record.data);
    }

    pub(super) fn value(self) -> u64 {
        self.0
    }

    /// With its length, so that a byte does not move from one part to the next unnoticed.
    fn part(&mut self, part: &[u8]) {
        let length = (part.len() as u64).to_le_bytes();
        for byte in length.iter().chain(part) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
