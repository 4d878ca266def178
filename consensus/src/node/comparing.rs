//! Comparing the states of the members through the log: what a node writes, sends and reads for that, and when. What a
//! comparison is, and how it ends, is said in [`comparison`](crate::comparison).

use tracing::{debug, error, warn};

use super::RaftNode;
use crate::comparison::{Decision, Diverged};
use crate::entry::{Entry, Payload};
use crate::error::Fatal;
use crate::message::{Body, Message};
use crate::planted;
use crate::types::{EntryId, Role};

impl RaftNode {
    /// The state machine has applied the entry `at`, which asks for a comparison, and can be read as it was
    /// then, unless it is not `possible`.
    pub fn handle_scan_begun(&mut self, at: EntryId, possible: bool) {
        self.comparison.scan_begins(at, possible);
    }

    /// What [`Ready::scan`](crate::Ready::scan) asked for is done, for the state after the entry `at`;
    /// `digest` once all of it has been read.
    pub fn handle_scanned(&mut self, at: EntryId, digest: Option<u64>) {
        let diverged = self.comparison.was_read(at, digest);
        self.note_divergence(diverged);
    }

    /// Reads on, tells, and decides.
    pub(super) fn watch_comparison(&mut self) {
        self.out.scan |= self.comparison.reads_on();
        if self.seen.leader.is_some()
            && let Some((at, digest)) = self.comparison.tells(self.now)
        {
            self.tell_digest(at, digest);
        }
        if self.seen.role != Role::Leader || !self.may_append_own() {
            return;
        }
        match self.comparison.decides(self.memberships.current()) {
            Some(Decision::Agreed(at, digest)) => self.append_own(Payload::Digest { at, digest }),
            Some(Decision::Undecided(at)) => error!(
                node = %self.config.node, term = %self.seen.term, index = %at.index,
                "the members' states differ, and no majority has the same: stop the cluster and look"
            ),
            None => self.begin_comparison(),
        }
    }

    fn begin_comparison(&mut self) {
        let Some(term) = self.raw.store().term_at(self.applied) else {
            return;
        };
        let due = self
            .comparison
            .is_due(self.now, EntryId::new(term, self.applied));
        if due {
            if let Some(at) = self.comparison.unfinished() {
                warn!(
                    node = %self.config.node, term = %self.seen.term, index = %at.index,
                    interval = ?self.config.compare_interval,
                    "the members' states could not be compared: too few members have answered, or reading a state \
                     takes many times `compare_interval`, which should then be longer"
                );
            }
            self.comparison.put_off(self.now);
            self.append_own(Payload::Compare);
        }
    }

    fn tell_digest(&mut self, at: EntryId, digest: u64) {
        match self.seen.leader {
            Some(leader) if leader != self.config.node => {
                let term = self.seen.term;
                let body = Body::Digest { at, digest };
                self.out.messages.push((leader, Message { term, body }));
            }
            Some(own) => self.comparison.heard(own, at, digest),
            None => {}
        }
    }

    /// An entry that is committed, as far as it is about comparisons.
    pub(super) fn compare(&mut self, entry: &Entry) {
        match entry.payload {
            Payload::Compare => self.comparison.begins(entry.id, self.now),
            Payload::Digest { at, digest } => {
                debug!(node = %self.config.node, index = %at.index, "states compared");
                let diverged = self.comparison.agreed(at, digest);
                self.note_divergence(diverged);
            }
            Payload::Empty | Payload::Command(_) | Payload::Membership(_) => {}
        }
    }

    fn note_divergence(&mut self, diverged: Option<Diverged>) {
        let Some(Diverged { at, own, agreed }) = diverged else {
            return;
        };
        error!(
            node = %self.config.node, term = %self.seen.term, index = %at.index,
            own = format_args!("{own:016x}"), majority = format_args!("{agreed:016x}"),
            "this node's state is not that of the majority"
        );
        if !planted::is("divergence-ignored") {
            self.out.stop = Some(Fatal::StateDiverged { at });
        }
    }
}
