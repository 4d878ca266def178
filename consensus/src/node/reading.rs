//! Linearizable reads, at the leader and at those who follow it.

use raft::StateRole;

use super::RaftNode;
use crate::config::ELECTION_TICKS;
use crate::error::ReadError;
use crate::message::{Body, Message, ReadContext};
use crate::planted;
use crate::reads::{ReadToken, Reader};
use crate::types::{LogIndex, NodeId, Role, Term};

/// For how many ticks a read waits. Two election timeouts: by then a leader that cannot reach a majority has
/// stepped down, and a follower has found another.
const PATIENCE_TICKS: u64 = 2 * ELECTION_TICKS as u64;

impl RaftNode {
    /// Asks for a linearizable read, at the leader or at any member that knows one. The token comes back in
    /// [`Ready::reads`](crate::Ready::reads) or [`Ready::failed_reads`](crate::Ready::failed_reads).
    pub fn read(&mut self, token: ReadToken) {
        let leader = self.seen.leader;
        let error = if self.seen.role != Role::Leader && leader.is_none() {
            ReadError::NotLeader { leader }
        } else if self.reads.count() >= self.config.reads_max {
            ReadError::Overloaded
        } else {
            let deadline = self.now + PATIENCE_TICKS;
            return self.reads.push(Reader::Here(token), deadline);
        };
        self.out.failed_reads.push((token, error));
    }

    /// A member that follows has somebody who reads there.
    pub(super) fn handle_read_index(&mut self, from: NodeId, context: ReadContext) {
        // It asks again where this node does not lead, or has too much to do.
        if self.seen.role == Role::Leader && self.reads.count() < self.config.reads_max {
            let deadline = self.now + PATIENCE_TICKS;
            self.reads.push(Reader::There(from, context), deadline);
        }
    }

    /// The leader has answered a round of this node's.
    pub(super) fn handle_read_answer(
        &mut self,
        from: NodeId,
        term: Term,
        context: ReadContext,
        index: LogIndex,
    ) {
        let follows = self.seen.leader == Some(from) && self.seen.term == term;
        if follows && self.seen.role == Role::Follower {
            self.reads_confirmed(context, index);
        }
    }

    pub(super) fn reads_confirmed(&mut self, context: ReadContext, index: LogIndex) {
        let term = self.seen.term;
        for (node, context) in self.reads.confirmed(context, index) {
            let body = Body::ReadIndexAnswer { context, index };
            self.out.messages.push((node, Message { term, body }));
        }
    }

    /// Starts a round for the waiting reads: at the leader, once it has committed in its own term, for before
    /// that it may not know what its predecessors committed (thesis, section 6.4).
    pub(super) fn start_read_round(&mut self) {
        if !self.reads.wants_round() {
            return;
        }
        let leads = self.raw.raft.state == StateRole::Leader;
        let committed = self.raw.raft.commit_to_current_term();
        let votes = self.membership().is_voter(self.config.node);
        if leads && !votes && !planted::is("read-by-no-voter") {
            // It is about to hand over. Where one voter is left, `raft` would answer here without asking it.
            return;
        }
        match (leads, self.seen.leader) {
            (true, _) if committed || planted::is("read-before-no-op") => {
                let context = self.next_context();
                self.reads.start_round(context, self.now);
                self.raw.read_index(context.to_bytes().to_vec());
                if planted::is("read-without-majority")
                    || planted::is("read-before-no-op") && !committed
                {
                    let commit = LogIndex::new(self.raw.raft.raft_log.committed);
                    self.reads_confirmed(context, commit);
                }
            }
            (false, Some(leader)) if self.seen.role == Role::Follower => {
                let context = self.next_context();
                self.reads.start_round(context, self.now);
                self.ask(leader, context);
                if planted::is("follower-reads-at-once") {
                    self.reads_confirmed(context, self.handed);
                }
            }
            _ => {}
        }
    }

    /// A follower asks for its rounds again whose answers are late: they may be lost, or only slow.
    pub(super) fn ask_late_again(&mut self) {
        let leader = self.seen.leader;
        let Some(leader) = leader.filter(|_| self.seen.role == Role::Follower) else {
            return;
        };
        while self.reads.has_late_round(self.now) {
            let context = self.next_context();
            self.reads.ask_again(context, self.now);
            self.ask(leader, context);
        }
    }

    fn ask(&mut self, leader: NodeId, context: ReadContext) {
        let term = self.seen.term;
        let body = Body::ReadIndex { context };
        self.out.messages.push((leader, Message { term, body }));
    }

    /// Up to where the state machine will be when it gets to a read that it is given now. A snapshot that is
    /// not durable yet has not been handed to it, though the log begins after it already.
    pub(super) fn readable_to(&self) -> LogIndex {
        match self.snapshot_write.is_some() && !planted::is("snapshot-read-before-installed") {
            true => self.applied,
            false => self.handed,
        }
    }

    fn next_context(&mut self) -> ReadContext {
        self.read_round += u64::from(!planted::is("read-context-reused"));
        ReadContext {
            node: self.config.node.value(),
            boot: self.config.boot,
            round: self.read_round,
        }
    }
}
