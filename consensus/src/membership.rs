//! Who belongs to the cluster.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::NodeId;

/// The most members, voters and learners together, that a cluster may have. Every commit waits for
/// a majority and every message is copied to all, so larger groups only get slower; the bound also
/// caps what a hostile peer can make a node allocate.
pub const MEMBERS_MAX: usize = 31;

/// The members of a cluster.
///
/// Invariants, checked by [`Membership::new`]:
/// - at least one voter, because an empty set would let anybody win an election;
/// - no id is both voter and learner;
/// - at most [`MEMBERS_MAX`] ids.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Membership {
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
}

#[derive(Serialize, Deserialize)]
struct Parts {
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
}

impl Membership {
    /// A cluster of `voters`, who elect and commit, and `learners`, who only follow.
    ///
    /// # Errors
    ///
    /// [`InvalidMembership`] when an invariant of the type would not hold.
    pub fn new(
        voters: impl IntoIterator<Item = NodeId>,
        learners: impl IntoIterator<Item = NodeId>,
    ) -> Result<Self, InvalidMembership> {
        Parts {
            voters: voters.into_iter().collect(),
            learners: learners.into_iter().collect(),
        }
        .try_into()
    }

    /// Those who elect leaders and commit entries, in order.
    pub fn voters(&self) -> impl ExactSizeIterator<Item = NodeId> + '_ {
        self.voters.iter().copied()
    }

    /// Those who receive the log without a say, in order.
    pub fn learners(&self) -> impl ExactSizeIterator<Item = NodeId> + '_ {
        self.learners.iter().copied()
    }

    /// Whether `id` belongs to the cluster in either way.
    #[must_use]
    pub fn contains(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// Whether `id` elects and commits.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id)
    }
}

impl TryFrom<Parts> for Membership {
    type Error = InvalidMembership;

    fn try_from(Parts { voters, learners }: Parts) -> Result<Self, Self::Error> {
        if voters.is_empty() {
            return Err(InvalidMembership::NoVoter);
        }
        if let Some(&id) = voters.intersection(&learners).next() {
            return Err(InvalidMembership::VoterAndLearner { id });
        }
        let members = voters.len() + learners.len();
        if members > MEMBERS_MAX {
            return Err(InvalidMembership::TooMany { members });
        }
        Ok(Self { voters, learners })
    }
}

impl From<Membership> for Parts {
    fn from(Membership { voters, learners }: Membership) -> Self {
        Self { voters, learners }
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "voters={:?} learners={:?}", self.voters, self.learners)
    }
}

/// Why a set of ids is not a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMembership {
    /// Nobody could ever be elected.
    #[error("a cluster needs at least one voter")]
    NoVoter,
    /// One id stands in both sets.
    #[error("{id} is listed both as voter and as learner; list it once")]
    VoterAndLearner {
        /// The id.
        id: NodeId,
    },
    /// More than [`MEMBERS_MAX`] ids.
    #[error("{members} members are too many; at most {MEMBERS_MAX} are supported")]
    TooMany {
        /// How many there were.
        members: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    #[test]
    fn a_membership_that_breaks_an_invariant_cannot_be_made() {
        assert_eq!(
            Membership::new([], [id(1)]),
            Err(InvalidMembership::NoVoter)
        );
        assert_eq!(
            Membership::new([id(1), id(2)], [id(2)]),
            Err(InvalidMembership::VoterAndLearner { id: id(2) })
        );
        assert_eq!(
            Membership::new((1..=32).map(id), []),
            Err(InvalidMembership::TooMany { members: 32 })
        );
        assert!(Membership::new((1..=31).map(id), []).is_ok());
    }
}
