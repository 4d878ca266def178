//! Who belongs to the cluster, as a value, and which may follow it. When one does is decided in `node/membership.rs`.

mod change;
mod codec;
mod history;

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::entry::ORIGIN;
use crate::types::{LogIndex, NodeId};

pub use change::{ChangeRefused, MembershipChange, NODE_ID_STEP_MAX};
pub(crate) use change::{Transition, path, transition};
pub use codec::MEMBERSHIP_BYTES_MAX;
pub(crate) use history::Memberships;

/// The most members, voters and learners together, that a cluster may have. Every commit waits for
/// a majority and every message is copied to all, so larger groups only get slower; the bound also
/// caps what a hostile peer can make a node allocate.
pub const MEMBERS_MAX: usize = 31;

/// The members of a cluster, as an entry of the log made them.
///
/// While voters change, both the former and the new ones have to agree to everything (joint consensus,
/// Raft paper, section 6).
///
/// Invariants, checked by [`Membership::new`] and whenever one is decoded:
/// - at least one voter, because an empty set would let anybody win an election;
/// - nobody is both voter, of either set, and learner;
/// - whoever is to become a learner is one of the former voters, and none of the new ones;
/// - only learners wait to be promoted, each for another member or for none;
/// - only members have addresses;
/// - at most [`MEMBERS_MAX`] ids, none of them above `highest`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Membership(Parts);

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Parts {
    voters: BTreeSet<NodeId>,
    /// The former voters; none unless joint.
    outgoing: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    /// Former voters that become learners.
    staged: BTreeSet<NodeId>,
    addresses: BTreeMap<NodeId, SocketAddr>,
    /// Learners that become voters once they have caught up, and whose place they take then.
    promotions: BTreeMap<NodeId, Option<NodeId>>,
    /// The highest id that any member ever had.
    highest: NodeId,
    /// The entry that made it so.
    index: LogIndex,
}

/// What an id is to a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It elects and commits.
    Voter,
    /// It follows without a say.
    Learner,
    /// It does not belong to the cluster, and never will: it was removed, or passed over.
    Removed,
    /// It is above every id that was ever a member: it may have been added by an entry that is not known
    /// here yet.
    Unknown,
}

impl Membership {
    /// A new cluster of `voters`, who elect and commit, and `learners`, who only follow.
    ///
    /// # Errors
    ///
    /// [`InvalidMembership`] when an invariant of the type would not hold.
    pub fn new(
        voters: impl IntoIterator<Item = NodeId>,
        learners: impl IntoIterator<Item = NodeId>,
    ) -> Result<Self, InvalidMembership> {
        let voters: BTreeSet<NodeId> = voters.into_iter().collect();
        let learners: BTreeSet<NodeId> = learners.into_iter().collect();
        let highest = voters.iter().chain(&learners).max();
        Parts {
            highest: *highest.ok_or(InvalidMembership::NoVoter)?,
            voters,
            outgoing: BTreeSet::new(),
            learners,
            staged: BTreeSet::new(),
            addresses: BTreeMap::new(),
            promotions: BTreeMap::new(),
            index: ORIGIN.index,
        }
        .try_into()
    }

    /// Those who elect leaders and commit entries, in order; while it is [joint](Self::is_joint), the new
    /// ones.
    pub fn voters(&self) -> impl ExactSizeIterator<Item = NodeId> + '_ {
        self.0.voters.iter().copied()
    }

    /// The former voters, who have to agree as well while it is [joint](Self::is_joint); else none.
    pub fn outgoing(&self) -> impl ExactSizeIterator<Item = NodeId> + '_ {
        self.0.outgoing.iter().copied()
    }

    /// Those who receive the log without a say, in order.
    pub fn learners(&self) -> impl ExactSizeIterator<Item = NodeId> + '_ {
        self.0.learners.iter().copied()
    }

    /// Former voters that become learners when the membership is no longer joint.
    pub(crate) fn staged(&self) -> impl ExactSizeIterator<Item = NodeId> + '_ {
        self.0.staged.iter().copied()
    }

    /// All of them, in order.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.all().into_iter()
    }

    fn all(&self) -> BTreeSet<NodeId> {
        let Parts {
            voters,
            outgoing,
            learners,
            ..
        } = &self.0;
        voters
            .iter()
            .chain(outgoing)
            .chain(learners)
            .copied()
            .collect()
    }

    /// Whether former and new voters have to agree, until a change is complete.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.0.outgoing.is_empty()
    }

    /// Whether `id` belongs to the cluster in any way.
    #[must_use]
    pub fn contains(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.0.learners.contains(&id)
    }

    /// Whether `id` elects and commits.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.0.voters.contains(&id) || self.0.outgoing.contains(&id)
    }

    /// Whether `id` elects and commits now, and goes on to when the change that is under way, if any, is complete.
    #[must_use]
    pub fn votes_from_now_on(&self, id: NodeId) -> bool {
        self.0.voters.contains(&id)
    }

    /// Whether `id` elects and commits, and nobody else, before and after a change that is under way.
    #[must_use]
    pub fn is_single_voter(&self, id: NodeId) -> bool {
        let alone = |voters: &BTreeSet<NodeId>| voters.iter().all(|&voter| voter == id);
        self.votes_from_now_on(id) && alone(&self.0.voters) && alone(&self.0.outgoing)
    }

    /// What `id` is to the cluster, as far as is known here.
    #[must_use]
    pub fn standing(&self, id: NodeId) -> Standing {
        if self.is_voter(id) {
            Standing::Voter
        } else if self.0.learners.contains(&id) {
            Standing::Learner
        } else if id <= self.0.highest && !self.is_provisional() {
            Standing::Removed
        } else {
            Standing::Unknown
        }
    }

    /// Whether those for whom `agrees` holds decide: a majority of the voters, and, while it is joint, of the
    /// former voters as well.
    pub fn is_quorum(&self, agrees: impl Fn(NodeId) -> bool) -> bool {
        let majority = |voters: &BTreeSet<NodeId>| {
            let agree = voters.iter().filter(|&&voter| agrees(voter)).count();
            2 * agree > voters.len()
        };
        majority(&self.0.voters) && (self.0.outgoing.is_empty() || majority(&self.0.outgoing))
    }

    /// Where `id` is reached, if that is part of the membership; founding members and their addresses are
    /// configured.
    #[must_use]
    pub fn address(&self, id: NodeId) -> Option<SocketAddr> {
        self.0.addresses.get(&id).copied()
    }

    /// Learners that become voters once they have caught up, and whose place each takes then.
    pub fn promotions(&self) -> impl Iterator<Item = (NodeId, Option<NodeId>)> + '_ {
        self.0.promotions.iter().map(|(&id, &place)| (id, place))
    }

    /// The highest id that any member ever had. Ids are never used again, so a new member's is above.
    #[must_use]
    pub fn highest(&self) -> NodeId {
        self.0.highest
    }

    /// The entry that made it so: [`ORIGIN`]'s index for the founding members, zero for a node that joins and
    /// does not know yet.
    #[must_use]
    pub fn index(&self) -> LogIndex {
        self.0.index
    }

    /// Whether it is what a node that joins was told, and not from the log.
    #[must_use]
    pub fn is_provisional(&self) -> bool {
        self.0.index < ORIGIN.index
    }

    /// Only `node`, since the entry `index`.
    pub(crate) fn alone(node: NodeId, index: LogIndex) -> Self {
        let Self(parts) = Self::new([node], []).expect("one voter is a cluster");
        Self(Parts { index, ..parts })
    }

    /// The membership of a node that joins a cluster: who may be a member, until the log says it.
    ///
    /// # Errors
    ///
    /// [`InvalidMembership`] when an invariant of the type would not hold.
    pub fn joining(
        node: NodeId,
        members: impl IntoIterator<Item = NodeId>,
    ) -> Result<Self, InvalidMembership> {
        let Self(parts) = Self::new(members, [node])?;
        Ok(Self(Parts {
            index: LogIndex::ZERO,
            ..parts
        }))
    }
}

impl TryFrom<Parts> for Membership {
    type Error = InvalidMembership;

    fn try_from(parts: Parts) -> Result<Self, Self::Error> {
        let Parts {
            voters,
            outgoing,
            learners,
            staged,
            addresses,
            promotions,
            highest,
            index: _,
        } = &parts;
        if voters.is_empty() {
            return Err(InvalidMembership::NoVoter);
        }
        let twice = voters.union(outgoing).find(|id| learners.contains(id));
        if let Some(&id) = twice {
            return Err(InvalidMembership::VoterAndLearner { id });
        }
        let stray_stage = staged
            .iter()
            .find(|id| voters.contains(id) || !outgoing.contains(id));
        let stray_promotion = promotions
            .iter()
            .find(|(id, place)| !learners.contains(id) || place.is_some_and(|place| place == **id));
        let membership = Self(parts.clone());
        let stray_address = addresses.keys().find(|id| !membership.contains(**id));
        let stray = stray_stage
            .or(stray_promotion.map(|(id, _)| id))
            .or(stray_address);
        if let Some(&id) = stray {
            return Err(InvalidMembership::Contradiction { id });
        }
        let all = membership.all();
        if let Some(&id) = all.iter().find(|id| *id > highest) {
            return Err(InvalidMembership::Contradiction { id });
        }
        if all.len() > MEMBERS_MAX {
            return Err(InvalidMembership::TooMany { members: all.len() });
        }
        Ok(membership)
    }
}

impl From<Membership> for Parts {
    fn from(Membership(parts): Membership) -> Self {
        parts
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts {
            voters,
            outgoing,
            learners,
            ..
        } = &self.0;
        write!(f, "voters={voters:?}")?;
        if self.is_joint() {
            write!(f, " outgoing={outgoing:?}")?;
        }
        write!(f, " learners={learners:?}")
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
    /// What is said of an id does not fit what it is.
    #[error("what is said of {id} contradicts itself")]
    Contradiction {
        /// The id.
        id: NodeId,
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
        let good = Membership::new([id(1), id(2)], [id(3)]).unwrap().0;
        let broken: [fn(&mut Parts); 6] = [
            |parts| assert!(parts.staged.insert(id(1))),
            |parts| assert_eq!(parts.promotions.insert(id(2), None), None),
            |parts| assert_eq!(parts.promotions.insert(id(3), Some(id(3))), None),
            |parts| parts.addresses = [(id(4), ([127, 0, 0, 1], 1).into())].into(),
            |parts| parts.highest = id(2),
            |parts| assert!(parts.outgoing.insert(id(3))),
        ];
        for broken in broken {
            let mut parts = good.clone();
            broken(&mut parts);
            assert!(Membership::try_from(parts.clone()).is_err(), "{parts:?}");
        }
    }

    /// Two majorities while it is joint, one else.
    #[test]
    fn f8_both_majorities_decide() {
        let mut parts = Membership::new((1..=3).map(id), []).unwrap().0;
        let plain = Membership(parts.clone());
        (parts.outgoing, parts.voters) = (parts.voters, [id(3), id(4)].into());
        parts.highest = id(4);
        let joint = Membership::try_from(parts).unwrap();
        let quorum = |membership: &Membership, ids: &[u64]| {
            membership.is_quorum(|voter| ids.contains(&voter.value()))
        };
        assert!(quorum(&plain, &[1, 2]) && !quorum(&plain, &[1, 4]));
        assert!(!quorum(&joint, &[1, 2]) && !quorum(&joint, &[3, 4]));
        assert!(quorum(&joint, &[2, 3, 4]) && !quorum(&joint, &[1, 2, 3]));
        assert!(joint.is_voter(id(1)) && !joint.votes_from_now_on(id(1)));
    }

    #[test]
    fn f6_an_id_that_is_not_above_all_is_removed() {
        let membership = Membership::new([id(1), id(5)], [id(3)]).unwrap();
        for (node, standing) in [
            (1, Standing::Voter),
            (3, Standing::Learner),
            (2, Standing::Removed),
            (6, Standing::Unknown),
        ] {
            assert_eq!(membership.standing(id(node)), standing, "{node}");
        }
    }
}
