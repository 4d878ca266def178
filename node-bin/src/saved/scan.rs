//! One number for the whole state.

use std::io::{self, Write};

use quorate_consensus::{StateMachineError, StateScan};

use super::State;

/// A clone of the state, to be compared with the other members'.
pub(super) struct SavedScan<S>(S);

impl<S: State> SavedScan<S> {
    pub(super) fn new(state: S) -> Self {
        Self(state)
    }
}

impl<S: State> StateScan for SavedScan<S> {
    /// All of it at once: an encoder cannot stop in between.
    fn read_on(&mut self, _bytes_max: u64) -> Result<Option<u64>, StateMachineError> {
        let digest = postcard::to_io(&self.0, Digest::default());
        Ok(Some(digest.map_err(StateMachineError::new)?.0))
    }
}

/// FNV-1a over the encoded state. It compares members with each other; it does not resist anyone who looks for
/// collisions.
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Write for Digest {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        for byte in part {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
