//! Proposals between the client's call and the entry's commit.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::entry::ENTRY_OVERHEAD_BYTES;
use crate::error::ProposeError;
use crate::planted;
use crate::types::{EntryId, LogIndex, Term};

/// Names a proposal to the one who waits for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProposalToken(pub u64);

/// A command on its way into the log.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) token: ProposalToken,
    pub(crate) command: Bytes,
}

/// Proposals that are not yet decided.
///
/// Invariants:
/// - `waiting` is ordered by index, and by term;
/// - `bytes` is the sum over `batch` and `waiting`.
#[derive(Debug, Default)]
pub(crate) struct Proposals {
    /// Taken, but not yet given to Raft: all of one turn go into the log together.
    batch: Vec<Proposal>,
    waiting: VecDeque<Waiting>,
    bytes: u64,
}

#[derive(Debug)]
struct Waiting {
    id: EntryId,
    /// `None` for an entry of the leader's own.
    token: Option<ProposalToken>,
    bytes: u64,
    /// Set when leadership is lost: the tick at which waiting ends.
    until: Option<u64>,
}

impl Proposals {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn push(&mut self, proposal: Proposal) {
        self.bytes += cost(proposal.command.len());
        self.batch.push(proposal);
    }

    pub(crate) fn take_batch(&mut self) -> Vec<Proposal> {
        std::mem::take(&mut self.batch)
    }

    /// Remembers that the command of `token` became the entry `id`.
    pub(crate) fn appended(&mut self, id: EntryId, token: ProposalToken, command_bytes: usize) {
        self.push_waiting(id, Some(token), cost(command_bytes));
    }

    /// Counts the entry `id` of the leader's own, for whose outcome nobody waits.
    pub(crate) fn appended_own(&mut self, id: EntryId, bytes: u64) {
        self.bytes += bytes;
        self.push_waiting(id, None, bytes);
    }

    fn push_waiting(&mut self, id: EntryId, token: Option<ProposalToken>, bytes: u64) {
        if let Some(last) = self.waiting.back() {
            assert!(last.id.index < id.index, "{id} appended after {}", last.id);
        }
        self.waiting.push_back(Waiting {
            id,
            token,
            bytes,
            until: None,
        });
    }

    /// Forgets a command that never became an entry.
    pub(crate) fn dropped(&mut self, command_bytes: usize) {
        self.bytes -= cost(command_bytes);
    }

    /// The token that waits for the committed entry `id`, if there is one here.
    ///
    /// Proposals whose index was committed with another term are pushed to `lost`: their entry was
    /// replaced, and by the Log Matching property it will never be committed anywhere.
    pub(crate) fn committed(
        &mut self,
        id: EntryId,
        lost: &mut Vec<ProposalToken>,
    ) -> Option<ProposalToken> {
        while let Some(first) = self.waiting.front() {
            if first.id.index > id.index {
                return None;
            }
            let first = self.waiting.pop_front().expect("just seen");
            self.bytes -= first.bytes;
            if first.id == id || planted::is("answered-by-index") && first.id.index == id.index {
                return first.token;
            }
            lost.extend(first.token);
        }
        None
    }

    /// Leadership is lost: what is in the log may still be committed by the next leader. Waits for
    /// that decision until the tick `until`, then gives up.
    pub(crate) fn leadership_lost(&mut self, until: u64) {
        for waiting in &mut self.waiting {
            waiting.until.get_or_insert(until);
        }
    }

    /// The proposals for which waiting ends at the tick `now`: another member may still hold their
    /// entries and commit them.
    pub(crate) fn undecided_at(&mut self, now: u64) -> Vec<(ProposalToken, ProposeError)> {
        let mut expired = Vec::new();
        while let Some(first) = self.waiting.front() {
            if first.until.is_none_or(|until| until > now) {
                break;
            }
            let first = self.waiting.pop_front().expect("just seen");
            self.bytes -= first.bytes;
            let mut error = ProposeError::OutcomeUnknown { at: Some(first.id) };
            if planted::is("timeout-reported-as-failure") {
                error = ProposeError::NotLeader { leader: None };
            }
            expired.extend(first.token.map(|token| (token, error)));
        }
        expired
    }

    /// A snapshot has taken the place of the entries up to `last`: whether those proposed here are among
    /// them, nobody here can tell.
    pub(crate) fn overtaken(&mut self, last: LogIndex) -> Vec<(ProposalToken, ProposeError)> {
        let mut unknown = Vec::new();
        while self
            .waiting
            .front()
            .is_some_and(|first| first.id.index <= last)
        {
            let first = self.waiting.pop_front().expect("just seen");
            self.bytes -= first.bytes;
            let at = Some(first.id);
            let error = ProposeError::OutcomeUnknown { at };
            unknown.extend(first.token.map(|token| (token, error)));
        }
        unknown
    }

    /// A node that leads again appends at lower indexes than proposals of its former term may have:
    /// those are given up, so that the order of indexes holds.
    pub(crate) fn leads_again(
        &mut self,
        last: LogIndex,
        term: Term,
    ) -> Vec<(ProposalToken, ProposeError)> {
        let mut unknown = Vec::new();
        while let Some(tail) = self.waiting.back() {
            if tail.id.index <= last || tail.id.term == term {
                break;
            }
            let tail = self.waiting.pop_back().expect("just seen");
            self.bytes -= tail.bytes;
            let error = ProposeError::OutcomeUnknown { at: Some(tail.id) };
            unknown.extend(tail.token.map(|token| (token, error)));
        }
        unknown
    }
}

fn cost(command_bytes: usize) -> u64 {
    ENTRY_OVERHEAD_BYTES + command_bytes as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId::new(Term::new(term), LogIndex::new(index))
    }

    fn proposals(ids: &[EntryId]) -> Proposals {
        let mut proposals = Proposals::default();
        for (token, &id) in ids.iter().enumerate() {
            let token = ProposalToken(token as u64);
            proposals.push(Proposal {
                token,
                command: Bytes::from_static(b"x"),
            });
            proposals.take_batch();
            proposals.appended(id, token, 1);
        }
        proposals
    }

    #[test]
    fn a_proposal_is_answered_only_by_the_same_index_and_term() {
        let mut proposals = proposals(&[id(2, 5), id(2, 6), id(2, 8)]);
        let mut lost = Vec::new();
        assert_eq!(
            proposals.committed(id(2, 5), &mut lost),
            Some(ProposalToken(0))
        );
        assert_eq!(proposals.committed(id(3, 6), &mut lost), None);
        assert_eq!(
            lost,
            [ProposalToken(1)],
            "6 was committed with another term"
        );
        assert_eq!(proposals.committed(id(3, 7), &mut lost), None);
        assert_eq!(
            proposals.committed(id(2, 8), &mut lost),
            Some(ProposalToken(2))
        );
        assert_eq!(proposals.bytes(), 0);
    }

    #[test]
    fn a_lost_leadership_leaves_the_outcome_open_for_a_while() {
        let mut proposals = proposals(&[id(2, 5), id(2, 6)]);
        assert!(proposals.undecided_at(1000).is_empty());
        proposals.leadership_lost(50);
        assert!(proposals.undecided_at(49).is_empty());
        let unknown = proposals.undecided_at(50);
        assert_eq!(unknown.len(), 2);
        assert_eq!(
            unknown[0].1,
            ProposeError::OutcomeUnknown { at: Some(id(2, 5)) }
        );
        assert_eq!(proposals.bytes(), 0);
    }

    #[test]
    fn proposals_beyond_the_log_of_a_new_term_are_given_up() {
        let mut proposals = proposals(&[id(2, 5), id(2, 6), id(2, 7)]);
        let unknown = proposals.leads_again(LogIndex::new(5), Term::new(4));
        assert_eq!(unknown.len(), 2);
        proposals.appended(id(4, 6), ProposalToken(9), 1);
    }
}
