//! Everything that happens, as one number, and in words for who wants to read it.

use super::clock::{MICROSECOND, MILLISECOND};
use super::log::{mix, mix_bytes};

pub(super) struct Trace {
    hash: u64,
    print: bool,
}

impl Trace {
    pub(super) fn new(print: bool) -> Self {
        Self { hash: 0, print }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// `what` happened at `now`; `numbers` tell it from anything else that might have.
    pub(super) fn note(&mut self, now: u64, numbers: &[u64], what: impl FnOnce() -> String) {
        self.hash = mix(self.hash, now);
        self.hash = numbers
            .iter()
            .fold(self.hash, |hash, &word| mix(hash, word));
        if self.print {
            let (ms, us) = (now / MILLISECOND, now % MILLISECOND / MICROSECOND);
            println!("{ms:>7}.{us:03} {}", what());
        }
    }

    /// What was said or written, byte by byte.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.hash = mix_bytes(self.hash, bytes);
    }
}
