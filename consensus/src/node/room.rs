//! Entries that come while there is no room for them.

use super::RaftNode;
use crate::message::{Body, Message};
use crate::types::{LogIndex, NodeId, Role};

impl RaftNode {
    /// Whether new entries have to wait until older ones are durable and applied, and can be forgotten.
    /// Those that are only not committed yet do not go away by waiting: the entry that commits them may
    /// be the one that is refused. A leader bounds what it proposes; one that does not is refused.
    pub(super) fn must_wait_for_room(&self) -> bool {
        let view = self.raw.store();
        let commit = LogIndex::new(self.raw.raft.raft_log.committed);
        let settles = self.applied < commit || !self.log_is_durable();
        view.is_full() && (settles || view.is_full_of_proposals(commit))
    }

    /// There was no room for `message` of `from`. A leader that hears nothing takes it that its entries are
    /// still on their way, and waits for a second or more before it sends them again (see
    /// [`Repeats`](crate::repeats::Repeats)). An answer now would bring them back at once, and so on for as
    /// long as there is no room; so it is given when there is. Only the last such message is kept: the answer
    /// to it says what is missing before it, too.
    pub(super) fn answer_later(&mut self, from: NodeId, message: Message) {
        let Message { term, body } = message;
        if let Body::Append {
            previous, commit, ..
        } = body
            && term >= self.seen.term
        {
            let entries = Vec::new();
            let body = Body::Append {
                previous,
                commit,
                entries,
            };
            self.refused = Some((from, Message { term, body }));
        }
    }

    /// Once there is room, answers what was refused as if it had come without its entries, which says how far
    /// the log here matches. That is one answer for all that was refused, and the leader sends on with it or
    /// with its next heartbeat.
    pub(super) fn answer_refused(&mut self) {
        if self.refused.is_none() || self.must_wait_for_room() {
            return;
        }
        let refused = self.refused.take();
        let follows = |from, message: &Message| {
            let leads = self.seen.leader == Some(from) && self.seen.term == message.term;
            leads && self.seen.role == Role::Follower
        };
        if let Some((from, message)) = refused.filter(|(from, message)| follows(*from, message)) {
            // It came some time ago, and shows nothing of whether the leader is alive.
            let silent = self.raw.raft.election_elapsed;
            // It may be refused for another reason by now, as its sender may have been removed.
            let _ = self.handle_message(from, message);
            self.raw.raft.election_elapsed = silent;
        }
    }
}
