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
    /// The state that is compared: the last entry in it, and its digest.
    pub(super) scan: Option<(EntryId, u64)>,
    /// Memory that changed by itself.
    pub(super) flipped: bool,
    /// The snapshot that is given away.
    pub(super) source: Option<Vec<Entry>>,
    /// The one that is being received, and its last entry.
    pub(super) sink: Option<(EntryId, Vec<Entry>)>,
}

pub(super) enum Job {
    Apply(Committed),
    Install(EntryId),
    Snapshot,
    Read(ReadToken),
}

impl Machine {
    /// The state is to be compared as it is now.
    pub(super) fn begin_scan(&mut self) {
        let fold = |digest: u64, entry: &Entry| {
            (digest ^ entry.id.index.value()).wrapping_mul(0x0100_0000_01b3)
        };
        let digest = self.applied.iter().fold(u64::from(self.flipped), fold);
        self.scan = Some((self.last(), digest));
    }

    pub(super) fn last(&self) -> EntryId {
        self.applied.last().map_or(ORIGIN, |entry| entry.id)
    }
}
