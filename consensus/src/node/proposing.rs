//! Commands on their way into the log.

use bytes::Bytes;
use raft::StateRole;
use raft::eraftpb::{Entry as PbEntry, Message as PbMessage, MessageType};

use super::RaftNode;
use crate::convert;
use crate::entry::{Entry, Payload};
use crate::error::ProposeError;
use crate::proposals::{Proposal, ProposalToken};
use crate::types::{EntryId, LogIndex, Role, Term};

impl RaftNode {
    /// Proposes `command`. The token comes back in [`Ready::committed`] or
    /// [`Ready::failed_proposals`].
    ///
    /// [`Ready::committed`]: crate::Ready::committed
    /// [`Ready::failed_proposals`]: crate::Ready::failed_proposals
    pub fn propose(&mut self, token: ProposalToken, command: Bytes) {
        match self.may_propose(&command) {
            Ok(()) => self.proposals.push(Proposal { token, command }),
            Err(error) => self.out.failed_proposals.push((token, error)),
        }
    }

    /// Gives up the proposals that are not in the log yet: nothing happened, and nothing will. For a node
    /// that stops.
    pub fn abandon_proposals(&mut self) -> Vec<ProposalToken> {
        let batch = self.proposals.take_batch();
        let tokens = batch.iter().map(|proposal| proposal.token).collect();
        for proposal in batch {
            self.proposals.dropped(proposal.command.len());
        }
        tokens
    }

    fn may_propose(&self, command: &Bytes) -> Result<(), ProposeError> {
        if self.seen.role != Role::Leader {
            return Err(ProposeError::NotLeader {
                leader: self.seen.leader,
            });
        }
        if let Some(transfer) = &self.transfer {
            return Err(ProposeError::NotLeader {
                leader: Some(transfer.target),
            });
        }
        if command.is_empty() {
            return Err(ProposeError::Empty);
        }
        let (bytes, bytes_max) = (command.len() as u64, self.config.command_bytes_max);
        if bytes > bytes_max {
            return Err(ProposeError::TooLarge { bytes, bytes_max });
        }
        let uncommitted = self.uncommitted_bytes();
        let fits = uncommitted == 0 || uncommitted + bytes <= self.config.uncommitted_bytes_max;
        if !fits || self.raw.store().is_full() {
            return Err(ProposeError::Overloaded);
        }
        Ok(())
    }

    /// Whether this leader may add an entry of its own: as for commands, and once it knows what is committed.
    pub(super) fn may_append_own(&self) -> bool {
        let room = self.uncommitted_bytes() < self.config.uncommitted_bytes_max;
        let committed = self.raw.raft.commit_to_current_term();
        committed && room && !self.raw.store().is_full() && self.transfer.is_none()
    }

    /// Puts an entry of this leader's own into the log. Nobody waits for it, and where it cannot be, it is
    /// left out.
    pub(super) fn append_own(&mut self, payload: Payload) {
        // What was proposed before comes before.
        self.append_proposals();
        let term = Term::new(self.raw.raft.term);
        let index = LogIndex::new(self.raw.raft.raft_log.last_index()).next();
        let id = EntryId::new(term, index);
        let entry = Entry { id, payload };
        let bytes = entry.bytes();
        if self.append_as_leader(vec![convert::entry_to_pb(entry)]) {
            self.proposals.appended_own(id, bytes);
        }
    }

    fn append_as_leader(&mut self, entries: Vec<PbEntry>) -> bool {
        // A follower would forward the proposal to its leader, and its outcome would be lost.
        if self.raw.raft.state != StateRole::Leader {
            return false;
        }
        let mut message = PbMessage {
            from: self.config.node.value(),
            ..PbMessage::default()
        };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(entries.into());
        self.raw.raft.step(message).is_ok()
    }

    /// What this leader's log holds beyond the commit index. What former leaders left there counts: if
    /// every term could add to it, it would fill the windows, and the entry that commits it all would
    /// find no room.
    fn uncommitted_bytes(&self) -> u64 {
        let inherited = match self.raw.raft.commit_to_current_term() {
            true => 0,
            false => self.inherited_bytes,
        };
        self.proposals.bytes() + inherited
    }

    /// Gives all proposals of this turn to Raft as one: one append, and one message per member.
    pub(super) fn append_proposals(&mut self) {
        let batch = self.proposals.take_batch();
        if batch.is_empty() {
            return;
        }
        let before = self.raw.raft.raft_log.last_index();
        let entries: Vec<PbEntry> = batch
            .iter()
            .map(|proposal| PbEntry {
                data: proposal.command.clone(),
                ..PbEntry::default()
            })
            .collect();
        if !self.append_as_leader(entries) {
            let target = self.transfer.as_ref().map(|transfer| transfer.target);
            let error = ProposeError::NotLeader {
                leader: target.or(self.seen.leader),
            };
            for proposal in batch {
                self.proposals.dropped(proposal.command.len());
                self.out
                    .failed_proposals
                    .push((proposal.token, error.clone()));
            }
            return;
        }
        let term = Term::new(self.raw.raft.term);
        for (index, proposal) in (before + 1..).zip(batch) {
            let id = EntryId::new(term, LogIndex::new(index));
            self.proposals
                .appended(id, proposal.token, proposal.command.len());
        }
    }
}
