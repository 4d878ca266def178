//! Compaction, and snapshots for members that need what was compacted: what this node decides about them. How the
//! content gets from one member to another is said in [`snapshots`](crate::snapshots), how much of the log goes in
//! [`compaction`](crate::compaction).
//!
//! A snapshot that this node gets has four moments:
//!
//! 1. its content arrives, and `raft` does not know of it;
//! 2. it is whole, and `raft` has accepted it;
//! 3. the log begins after it, and the write that makes it so is not durable: `is_writing_snapshot`;
//! 4. it is handed to the state machine, which takes it for its state and then says that it is applied. Until then,
//!    from the second moment on: `has_uninstalled_snapshot`.

use raft::eraftpb::{Message as PbMessage, MessageType};
use raft::{ProgressState, SnapshotStatus, StateRole};
use tracing::{debug, error, info, warn};

use super::RaftNode;
use crate::convert;
use crate::driver::Chunk;
use crate::durability::Cut;
use crate::entry::Entry;
use crate::membership::Membership;
use crate::message::{Body, Message, Transfer};
use crate::planted;
use crate::ready::Event;
use crate::snapshots::{ChunkWanted, Next};
use crate::types::{EntryId, LogIndex, NodeId, Role, Term};

impl RaftNode {
    /// The state machine has the effects of everything up to `index` durably, so that the log may be
    /// compacted up to there.
    ///
    /// # Panics
    ///
    /// When that was not applied.
    pub fn handle_durable(&mut self, index: LogIndex) {
        assert!(
            index <= self.applied,
            "the state up to {index} is durable, but only {} is applied",
            self.applied
        );
        self.compaction.is_durable(index);
    }

    /// The state machine has given a snapshot up to `last`, as [`Ready::take_snapshot`] asked for; or it
    /// has none.
    ///
    /// [`Ready::take_snapshot`]: crate::Ready::take_snapshot
    pub fn handle_snapshot_taken(&mut self, last: Option<EntryId>) {
        let here = last.filter(|last| {
            let here = self.raw.store().term_at(last.index) == Some(last.term);
            here && last.index <= self.applied
        });
        let useful = here.filter(|last| {
            // What this node was told when it joined may name a few of the voters, who would elect each other.
            !self.memberships.at(last.index).is_provisional()
                || planted::is("told-members-in-snapshot")
        });
        if useful.is_none() {
            self.out.release_snapshot = true;
        }
        if let (Some(last), None) = (here, useful) {
            info!(
                node = %self.config.node, %last,
                "the state that is saved is older than all this node knows of the members: a newer one will be given"
            );
        } else if useful.is_none() {
            error!(
                node = %self.config.node, last = ?last,
                "a member needs entries that are no longer in the log, and there is no snapshot for it"
            );
        }
        let snapshot = useful.map(|last| (last, self.memberships.at(last.index).clone()));
        self.giving.taken(snapshot, self.now);
        self.raw.mut_store().offer_snapshot(self.giving.offer());
        self.settle();
    }

    /// The piece that `wanted` asked for was read.
    pub fn handle_chunk(&mut self, wanted: ChunkWanted, chunk: Chunk) {
        self.giving.read(&wanted, chunk.data.len() as u64);
        let chunk = Transfer::Chunk {
            last: wanted.last,
            after: wanted.after,
            data: chunk.data,
            next: chunk.next,
        };
        self.transfer(wanted.to, chunk);
    }

    /// What [`Ready::take`](crate::Ready::take) asked for with this number is done; `accepted` unless the
    /// sink could not make sense of what it got.
    pub fn handle_taken(&mut self, number: u64, accepted: bool) {
        if !accepted {
            warn!(node = %self.config.node, "a snapshot was not accepted; it will be asked for again");
        }
        let next = self.taking.done(number, accepted, self.now);
        self.take_on(next);
        self.settle();
    }

    /// What is said of a snapshot, and not to `raft`.
    pub(super) fn handle_transfer(&mut self, from: NodeId, transfer: Transfer) {
        match transfer {
            Transfer::Request { last, after } => {
                if !self.giving.asks(from, last, after, self.now) {
                    self.transfer(from, Transfer::Gone { last });
                }
            }
            Transfer::Chunk {
                last,
                after,
                data,
                next,
            } => {
                let next = self
                    .taking
                    .arrived(from, last, &after, data, next, self.now);
                self.take_on(next);
            }
            Transfer::Gone { last } => self.taking.gone(from, last),
        }
    }

    /// The leader says that this node needs a snapshot. `raft` is told once its content is there; at once
    /// where the log has what is in it, so that the leader learns of that.
    pub(super) fn handle_offer(
        &mut self,
        from: NodeId,
        term: Term,
        last: EntryId,
        members: Membership,
    ) {
        let follows = term == self.seen.term && self.seen.leader == Some(from);
        if !follows || self.has_uninstalled_snapshot() {
            // It comes again, when this node knows its leader, or has installed what it got: another
            // snapshot would take the place of that one.
            return;
        }
        let here = self.raw.store().term_at(last.index) == Some(last.term);
        if here || last.index.value() <= self.raw.raft.raft_log.committed {
            return self.install(last, members);
        }
        debug!(node = %self.config.node, peer = %from, %last, "a snapshot is offered");
        let next = self.taking.offered(from, last, members, self.now);
        self.take_on(next);
    }

    fn take_on(&mut self, next: Option<Next>) {
        match next {
            Some(Next::Ask(from, request)) => self.transfer(from, request),
            Some(Next::Do(take)) => self.out.take.push(take),
            Some(Next::Whole(last, members)) => self.install(last, members),
            None => {}
        }
    }

    /// `raft` hears of a snapshot whose content is here. Whichever leader there is now: what is in it is
    /// committed.
    fn install(&mut self, last: EntryId, membership: Membership) {
        let Some(leader) = self
            .seen
            .leader
            .filter(|&leader| leader != self.config.node)
        else {
            // Without a leader there is nobody to answer; the next one offers it again.
            return;
        };
        // `raft` would replace a committed entry by one of another term, which only a liar has.
        let commit = LogIndex::new(self.raw.raft.raft_log.committed);
        let lies = last.index == commit && self.raw.store().term_at(commit) != Some(last.term);
        if last.term > self.seen.term || lies {
            return;
        }
        let message = Message {
            term: self.seen.term,
            body: Body::Snapshot { last, membership },
        };
        let pb = convert::message_to_pb(leader, self.config.node, message);
        if let Err(error) = self.raw.step(pb) {
            debug!(node = %self.config.node, %error, "snapshot ignored");
        }
    }

    fn transfer(&mut self, to: NodeId, transfer: Transfer) {
        let message = Message {
            term: self.seen.term,
            body: Body::Transfer(transfer),
        };
        self.out.messages.push((to, message));
    }

    /// The log begins anew after a snapshot that `raft` has accepted.
    pub(super) fn restore(&mut self, base: EntryId, membership: Membership) -> Cut {
        info!(
            node = %self.config.node, term = %self.seen.term, %base, applied = %self.applied,
            "restoring from a snapshot"
        );
        self.raw.mut_store().restore(base);
        self.compaction.restored(base.index);
        self.handed = base.index;
        self.memberships.restore(membership.clone());
        self.out.membership = Some(membership.clone());
        self.out.events.push(Event::SnapshotReceived { last: base });
        self.forget_change();
        let unknown = self.proposals.overtaken(base.index);
        self.out.failed_proposals.extend(unknown);
        Cut::Restore { base, membership }
    }

    /// The third moment: until it is over, `raft` must not begin an election, for which it would look at entries that
    /// it takes for not applied, and that are not in the log.
    pub(super) fn is_writing_snapshot(&self) -> bool {
        self.raw.raft.raft_log.applied < self.raw.store().base().index.value()
    }

    /// The second to the fourth moment: a snapshot is whole, and the state machine has not installed it yet.
    pub(super) fn has_uninstalled_snapshot(&self) -> bool {
        let uninstalled = self.raw.snap().is_some() || self.applied < self.raw.store().base().index;
        uninstalled && !planted::is("second-snapshot-taken-early")
    }

    /// How the log is to be cut together with a write of `entries`.
    pub(super) fn compact(&mut self, entries: &[Entry]) -> Option<Cut> {
        let written = entries.iter().map(Entry::bytes).sum();
        if planted::is("compacted-beyond-the-state") {
            self.compaction.is_durable(self.applied);
        }
        let held = self.held_from();
        let index = self.compaction.cut(written, held)?;
        self.raw.mut_store().compact(index);
        self.memberships.compact(index);
        let membership = self.memberships.at(index).clone();
        debug!(node = %self.config.node, %index, "log compacted");
        Some(Cut::Compact { index, membership })
    }

    /// The first entry that somebody still needs: a read that is under way, the members that get on, and
    /// those that will go on after the snapshot they are getting.
    fn held_from(&self) -> Option<LogIndex> {
        let after_snapshot = self.giving.held().map(|last| last.index.next());
        let fetched = self.raw.store().first_fetched();
        let leads = self.raw.raft.state == StateRole::Leader;
        let members = leads.then(|| {
            let members = self.raw.raft.prs().iter();
            let following = members.filter(|(_, progress)| {
                progress.recent_active && progress.state != ProgressState::Snapshot
            });
            following
                .map(|(_, progress)| LogIndex::new(progress.matched + 1))
                .min()
        });
        [after_snapshot, fetched, members.flatten()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Notes what `raft` says to members of snapshots.
    pub(super) fn note_offers(&mut self, messages: &[PbMessage]) {
        for message in messages {
            if message.get_msg_type() == MessageType::MsgSnapshot
                && let Some(to) = NodeId::new(message.to)
            {
                self.giving.begins(to, self.now);
                let last = message.get_snapshot().get_metadata().index;
                info!(node = %self.config.node, peer = %to, last, "offering a snapshot");
                let last = LogIndex::new(last);
                self.out.events.push(Event::SnapshotOffered { to, last });
            }
        }
    }

    /// `raft` must not wait for a member that no longer gets its snapshot.
    pub(super) fn give_up_snapshot(&mut self, member: NodeId) {
        if self.giving.ends(member) {
            debug!(node = %self.config.node, peer = %member, "a snapshot did not arrive");
            self.raw
                .report_snapshot(member.value(), SnapshotStatus::Failure);
        }
    }

    /// A tick for what is on its way.
    pub(super) fn watch_snapshots(&mut self) {
        self.watch_giving();
        let next = self.taking.tick(self.now);
        self.take_on(next);
        if self.giving.is_over(self.now) {
            self.raw.mut_store().offer_snapshot(None);
            self.out.release_snapshot = true;
        }
    }

    fn watch_giving(&mut self) {
        self.notice_caught_up();
        let (raft, leads) = (&self.raw.raft, self.seen.role == Role::Leader);
        self.giving.keep(|member| {
            let progress = raft.prs().get(member.value());
            leads && progress.is_some_and(|it| it.state == ProgressState::Snapshot)
        });
        let due = self.giving.tick(self.now);
        for member in due.stalled {
            warn!(node = %self.config.node, peer = %member, "a snapshot has stalled");
            self.out.events.push(Event::SnapshotStalled { to: member });
            let failure = SnapshotStatus::Failure;
            self.raw.report_snapshot(member.value(), failure);
        }
        for member in due.offers {
            let Some((last, membership)) = self.giving.offer() else {
                continue;
            };
            let membership = membership.clone();
            let offer = Message {
                term: self.seen.term,
                body: Body::Snapshot { last, membership },
            };
            self.out.messages.push((member, offer));
        }
    }

    /// `raft` ends the wait for a snapshot when an acknowledgement moves the member's position, and offers a
    /// snapshot also to one whose position is known to be at its end already: a late refusal can take the
    /// position to be tried to before what was acknowledged. Nothing that member says would end that wait.
    fn notice_caught_up(&mut self) {
        let members = self.raw.raft.prs().iter();
        let caught_up: Vec<u64> = members
            .filter(|(_, progress)| progress.is_snapshot_caught_up())
            .map(|(&member, _)| member)
            .collect();
        for member in caught_up {
            debug!(node = %self.config.node, peer = member, "has what the snapshot holds");
            self.raw.report_snapshot(member, SnapshotStatus::Finish);
        }
    }

    /// What the state machine and its snapshots are asked for now.
    pub(super) fn ask_for_snapshots(&mut self) {
        if self.raw.mut_store().take_snapshot_wanted() && self.giving.is_wanted(self.now) {
            self.out.take_snapshot = true;
        }
        self.out.chunks.extend(self.giving.next());
    }
}
