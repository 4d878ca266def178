//! The state machine of the rig.

use std::collections::VecDeque;

use quorate_consensus::{Committed, Entry, EntryId, ORIGIN, ReadToken};

/// A state machine whose state is the list of what it applied.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) applied: Vec<Entry>,
    /// How many of `applied` survive a crash.
    pub(super) durable: usize,
    pub(super) queue: VecDeque<Job>,
    pub(super) stalled: bool,
    /// The state that is compared.
    pub(super) scan: Option<Scan>,
    /// Memory that changed by itself.
    pub(super) flipped: bool,
    /// The snapshot that is given away.
    pub(super) source: Option<Vec<Entry>>,
    /// The one that is being received, and its last entry.
    pub(super) sink: Option<(EntryId, Vec<Entry>)>,
}

pub(super) struct Scan {
    /// The last entry in it.
    at: EntryId,
    digest: u64,
    /// How many pieces are still to be read.
    pieces: u64,
}

impl Scan {
    /// Reads a piece; the digest comes with the last one.
    pub(super) fn read_on(&mut self) -> (EntryId, Option<u64>) {
        self.pieces -= 1;
        (self.at, (self.pieces == 0).then_some(self.digest))
    }
}

pub(super) enum Job {
    Apply(Committed),
    Install(EntryId),
    Snapshot,
    Read(ReadToken),
}

impl Machine {
    /// The state is to be compared as it is now, and is read in so many pieces.
    pub(super) fn begin_scan(&mut self, pieces: u64) {
        let fold = |digest: u64, entry: &Entry| {
            (digest ^ entry.id.index.value()).wrapping_mul(0x0100_0000_01b3)
        };
        let digest = self.applied.iter().fold(u64::from(self.flipped), fold);
        let at = self.last();
        self.scan = Some(Scan { at, digest, pieces });
    }

    pub(super) fn last(&self) -> EntryId {
        self.applied.last().map_or(ORIGIN, |entry| entry.id)
    }
}
