//! Going on alone, after the majority is lost for ever or from a backup.
//!
//! Raft has no answer to that (Ongaro's dissertation, section 4.2, leaves it to an administrator): nobody can tell
//! those who are gone from those who cannot be reached. So this is for a person who knows.

use crate::durability::{Cut, LogWrite, Recovered};
use crate::entry::{Entry, ORIGIN, Payload};
use crate::membership::{Membership, Standing};
use crate::planted;
use crate::types::{EntryId, HardState, LogIndex, NodeId};

impl Recovered {
    /// What to write to the log of `node` so that it is the only member of its cluster, and decides alone.
    ///
    /// Everything in the log is committed with it, also what never was: who could have said so is gone. What
    /// only the others had is lost, even if it was acknowledged. Of several that are left, the one to take is the
    /// one whose last entry has the highest term, and among those the highest index: whatever was committed
    /// is in the log of at least one of a majority.
    ///
    /// If the others are not gone, there are two clusters afterwards: they do not need `node` to go on. Its terms are
    /// those of a cluster [founded anew](crate::Term::founded_anew) `at` so many seconds after 1970.
    ///
    /// `None` when `node` is no member, and cannot become the only one.
    #[must_use]
    pub fn alone(&self, node: NodeId, at: u64) -> Option<LogWrite> {
        let term = self.hard_state.term.max(self.last_term());
        let term = match planted::is("recovered-numbers-repeated") {
            true => term.next(),
            false => term.founded_anew(at),
        };
        let steps = self.membership().steps_to_alone(node, self.last.next())?;
        let entry = |step: Membership| Entry {
            id: EntryId::new(term, step.index()),
            payload: Payload::Membership(Box::new(step)),
        };
        let steps: Vec<Entry> = steps.into_iter().map(entry).collect();
        let hard_state = HardState {
            term,
            vote: Some(node),
            commit: steps.last().map_or(self.last, |entry| entry.id.index),
        };
        Some(LogWrite::new(steps, hard_state))
    }
}

impl LogWrite {
    /// What to write to a new log of `node` so that it is the only member of a cluster whose state is that after `last`,
    /// which comes from a backup. The log is empty, and goes on after `last`.
    ///
    /// Whoever knows entries after `last` of the cluster that the backup is of must not take them for entries of
    /// this one: its term should be that of a cluster [founded anew](crate::Term::founded_anew).
    ///
    /// # Panics
    ///
    /// When `last` is not after [`ORIGIN`].
    #[must_use]
    pub fn restored(node: NodeId, last: EntryId) -> Self {
        assert!(last > ORIGIN, "a state after {last} is empty");
        let membership = Membership::alone(node, last.index);
        Self {
            cut: Some(Cut::Restore {
                base: last,
                membership,
            }),
            entries: Vec::new(),
            hard_state: HardState {
                term: last.term,
                vote: None,
                commit: last.index,
            },
        }
    }
}

impl Membership {
    /// The way of every change (section 4.3): through a joint membership, so that whoever reads the log later finds
    /// nothing that no leader would have done.
    fn steps_to_alone(&self, node: NodeId, first: LogIndex) -> Option<Vec<Self>> {
        let mut steps: Vec<Self> = Vec::new();
        let next = |steps: &[Self]| steps.last().map_or(first, |step| step.index().next());
        let mut at = self.clone();
        if at.is_joint() {
            at = at.left(first);
            steps.push(at.clone());
        }
        if !matches!(at.standing(node), Standing::Voter | Standing::Learner) {
            return None;
        }
        let target = at.only(node);
        if at.members().ne(target.members()) || !at.is_voter(node) {
            at = at.step_to(&target, next(&steps)).ok()?;
            steps.push(at.clone());
        }
        if at.is_joint() {
            steps.push(at.left(next(&steps)));
        }
        Some(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::transition;
    use crate::types::Term;

    const AT: u64 = 1_800_000_000;

    fn id(number: u64) -> NodeId {
        NodeId::new(number).expect("not zero")
    }

    fn recovered(membership: Membership, last: u64) -> Recovered {
        Recovered {
            last: LogIndex::new(last),
            hard_state: HardState {
                term: Term::new(7),
                vote: Some(id(2)),
                commit: LogIndex::new(last - 3),
            },
            ..Recovered::founding(membership)
        }
    }

    /// Whatever the members were, each step is one that a leader could have taken, and in the end there is
    /// one member, in a term in which it has voted for itself, with all of the log committed.
    #[test]
    fn every_membership_ends_with_one() {
        let three = Membership::new([1, 2, 3].map(id), []).expect("valid");
        let learner = Membership::new([1, 2].map(id), [id(3)]).expect("valid");
        let one = Membership::new([id(3)], []).expect("valid");
        let with_learners = Membership::new([id(3)], [4, 5].map(id)).expect("valid");
        let five = Membership::new([1, 2, 3, 4, 5].map(id), []).expect("valid");
        let five = three.step_to(&five, LogIndex::new(9)).expect("valid");
        assert!(five.is_joint());
        for (members, entries) in [
            (three, 2),
            (learner, 2),
            (one, 0),
            (with_learners, 2),
            (five, 3),
        ] {
            let write = recovered(members.clone(), 20)
                .alone(id(3), AT)
                .expect("a member");
            assert_eq!(write.entries.len(), entries, "{members}");
            let mut at = members.clone();
            for (entry, index) in write.entries.iter().zip(21..) {
                assert_eq!(
                    entry.id,
                    EntryId::new(Term::new(7).founded_anew(AT), LogIndex::new(index))
                );
                let Payload::Membership(next) = &entry.payload else {
                    panic!("{entry:?}");
                };
                assert!(transition(&at, next).is_some(), "from {at} to {next}");
                assert_eq!(next.index(), entry.id.index);
                at = Membership::clone(next);
            }
            assert!(at.is_single_voter(id(3)), "{at}");
            assert_eq!(at.members().count(), 1, "{at}");
            assert_eq!(at.highest(), members.highest(), "ids are never used again");
            assert_eq!(write.hard_state.term, Term::new(7).founded_anew(AT));
            assert_eq!(write.hard_state.vote, Some(id(3)));
            assert_eq!(write.hard_state.commit.value(), 20 + entries as u64);
        }
    }

    /// A log from a backup begins where its state ends, with one member, who has not voted yet.
    #[test]
    fn a_backup_has_one_member() {
        let last = EntryId::new(Term::new(7), LogIndex::new(1000));
        let write = LogWrite::restored(id(3), last);
        let Some(Cut::Restore { base, membership }) = &write.cut else {
            panic!("{write:?}");
        };
        assert_eq!((*base, membership.index()), (last, last.index));
        assert!(membership.is_single_voter(id(3)) && !membership.is_provisional());
        assert_eq!(membership.members().count(), 1);
        assert_eq!(write.hard_state.vote, None);
        assert_eq!(write.hard_state.term, last.term);
        assert_eq!(write.hard_state.commit, last.index);
        assert!(write.entries.is_empty());
    }

    /// Who was removed, or never belonged to it, does not become the cluster.
    #[test]
    fn a_stranger_is_not_left() {
        let members = Membership::new([1, 2].map(id), []).expect("valid");
        assert_eq!(recovered(members.clone(), 20).alone(id(3), AT), None);
        let base = Recovered::founding(members);
        assert!(base.last == ORIGIN.index && base.alone(id(1), AT).is_some());
    }
}
