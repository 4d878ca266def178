//! What becomes of a membership: what an operator asks for, and the steps of which each is an entry.

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet};

use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};
use serde::{Deserialize, Serialize};

use super::{InvalidMembership, Membership, Parts};
use crate::planted;
use crate::types::{LogIndex, NodeId};

/// How far above the highest id that was ever used a new one may be. Ids are never used again, so one at the end of
/// what a number can say would be the last; with this bound it takes 10^13 changes to get there. Operators who number
/// by site or rack have room for that.
pub const NODE_ID_STEP_MAX: u64 = 1_000_000;

/// A change that is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MembershipChange {
    /// Exactly these members from now on.
    Set {
        /// Those who elect and commit.
        voters: BTreeSet<NodeId>,
        /// Those who only follow.
        learners: BTreeSet<NodeId>,
        /// Where those are that were not members before, and new places of those who were.
        addresses: BTreeMap<NodeId, SocketAddr>,
    },
    /// A new member, which follows at first.
    Add {
        /// Its id, above all that were ever used.
        node: NodeId,
        /// Where it is reached.
        address: SocketAddr,
        /// Whether it becomes a voter once it has caught up.
        promote: bool,
        /// The member that is removed in the same step, once it has caught up and becomes a voter.
        replaces: Option<NodeId>,
    },
    /// A learner that has caught up becomes a voter.
    Promote {
        /// The learner.
        node: NodeId,
    },
    /// A member leaves, for good.
    Remove {
        /// The member.
        node: NodeId,
    },
    /// A member is reached elsewhere.
    Move {
        /// The member.
        node: NodeId,
        /// Where.
        address: SocketAddr,
    },
}

/// Why a change makes no sense for the members there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeRefused {
    /// There is no such member.
    #[error("{node} is not a member of this cluster")]
    UnknownNode {
        /// The id.
        node: NodeId,
    },
    /// It is what it should become.
    #[error("{node} is already a member of this kind; nothing to do")]
    AlreadyMember {
        /// The member.
        node: NodeId,
    },
    /// Ids are never used again: peers remember the promises of whoever had it.
    #[error("ids are never used again: give the new node an id above {highest}")]
    NodeIdReused {
        /// The id.
        node: NodeId,
        /// The highest one that was ever used.
        highest: NodeId,
    },
    /// Numbers would run out.
    #[error(
        "the id of {node} is too far above all others: give the new node one of {highest} + 1 to {highest} + {NODE_ID_STEP_MAX}"
    )]
    NodeIdTooHigh {
        /// The id.
        node: NodeId,
        /// The highest one that was ever used.
        highest: NodeId,
    },
    /// Nobody can be reached there.
    #[error("nobody can be reached at {address}, which {node} is said to have")]
    NoSuchPlace {
        /// The member.
        node: NodeId,
        /// An address that stands for any, or without a port.
        address: SocketAddr,
    },
    /// Nobody knows where it is.
    #[error("an address is needed for the new member {node}")]
    NoAddress {
        /// The new member.
        node: NodeId,
    },
    /// Such members cannot be.
    #[error("{0}")]
    Invalid(#[from] InvalidMembership),
}

impl MembershipChange {
    /// All nodes dial the addresses of members, so an address has to be one of somebody's.
    fn check_addresses(&self) -> Result<(), ChangeRefused> {
        let given: Vec<(NodeId, SocketAddr)> = match self {
            Self::Set { addresses, .. } => addresses.iter().map(|(&id, &at)| (id, at)).collect(),
            &Self::Add { node, address, .. } | &Self::Move { node, address } => {
                vec![(node, address)]
            }
            Self::Promote { .. } | Self::Remove { .. } => Vec::new(),
        };
        let nowhere = |at: &SocketAddr| at.port() == 0 || at.ip().to_canonical().is_unspecified();
        match given.into_iter().find(|(_, at)| nowhere(at)) {
            Some((node, address)) => Err(ChangeRefused::NoSuchPlace { node, address }),
            None => Ok(()),
        }
    }
}

impl Membership {
    /// What the members are once `change` is complete.
    pub(crate) fn after(&self, change: &MembershipChange) -> Result<Self, ChangeRefused> {
        change.check_addresses()?;
        let mut parts = self.0.clone();
        match change {
            MembershipChange::Set {
                voters,
                learners,
                addresses,
            } => {
                parts.voters.clone_from(voters);
                parts.learners.clone_from(learners);
                parts
                    .addresses
                    .extend(addresses.iter().map(|(&id, &at)| (id, plain(at))));
                let new = voters.union(learners).find(|id| !self.contains(**id));
                if let Some(&node) = new.filter(|id| !addresses.contains_key(id)) {
                    return Err(ChangeRefused::NoAddress { node });
                }
            }
            &MembershipChange::Add {
                node,
                address,
                promote,
                replaces,
            } => {
                if self.contains(node) {
                    return Err(ChangeRefused::AlreadyMember { node });
                }
                if let Some(old) = replaces.filter(|old| !self.contains(*old)) {
                    return Err(ChangeRefused::UnknownNode { node: old });
                }
                parts.learners.insert(node);
                parts.addresses.insert(node, plain(address));
                if promote || replaces.is_some() {
                    parts.promotions.insert(node, replaces);
                }
            }
            &MembershipChange::Promote { node } => {
                self.known(node)?;
                if self.votes_from_now_on(node) {
                    return Err(ChangeRefused::AlreadyMember { node });
                }
                parts.learners.remove(&node);
                parts.voters.insert(node);
                if let Some(Some(old)) = parts.promotions.remove(&node) {
                    parts.voters.remove(&old);
                    parts.learners.remove(&old);
                }
            }
            &MembershipChange::Remove { node } => {
                self.known(node)?;
                parts.voters.remove(&node);
                parts.learners.remove(&node);
            }
            &MembershipChange::Move { node, address } => {
                self.known(node)?;
                if self.address(node) == Some(plain(address)) {
                    return Err(ChangeRefused::AlreadyMember { node });
                }
                parts.addresses.insert(node, plain(address));
            }
        }
        self.tidied(parts)
    }

    /// The leader's own step: nobody is to be promoted any more that is not there, no address is kept of
    /// somebody who is gone, and no id was used before, or would leave none for later.
    fn tidied(&self, mut parts: Parts) -> Result<Self, ChangeRefused> {
        let Parts {
            voters,
            learners,
            addresses,
            promotions,
            highest,
            ..
        } = &mut parts;
        let here: BTreeSet<NodeId> = voters.union(learners).copied().collect();
        let reused = here
            .iter()
            .find(|id| !self.contains(**id) && **id <= self.highest())
            .filter(|_| !planted::is("id-used-again"));
        if let Some(&node) = reused {
            let highest = self.highest();
            return Err(ChangeRefused::NodeIdReused { node, highest });
        }
        let most = self.highest().value().saturating_add(NODE_ID_STEP_MAX);
        if let Some(&node) = here.last().filter(|id| id.value() > most) {
            let highest = self.highest();
            return Err(ChangeRefused::NodeIdTooHigh { node, highest });
        }
        addresses.retain(|id, _| here.contains(id));
        promotions.retain(|id, _| learners.contains(id));
        for place in promotions.values_mut() {
            *place = place.filter(|place| here.contains(place));
        }
        *highest = here
            .iter()
            .copied()
            .chain([*highest])
            .max()
            .unwrap_or(*highest);
        Ok(parts.try_into()?)
    }

    fn known(&self, node: NodeId) -> Result<(), ChangeRefused> {
        match self.contains(node) {
            true => Ok(()),
            false => Err(ChangeRefused::UnknownNode { node }),
        }
    }

    /// The first step from here to `target`, as the entry `index`: `target` itself, or, where voters change
    /// or several members do, the joint membership that leads there.
    pub(crate) fn step_to(
        &self,
        target: &Self,
        index: LogIndex,
    ) -> Result<Self, InvalidMembership> {
        let mut parts = target.0.clone();
        parts.index = index;
        let here = |membership: &Self| membership.all();
        let changed = here(self).symmetric_difference(&here(target)).count();
        let simple = self.0.voters == target.0.voters && changed <= 1;
        if simple || planted::is("voters-changed-in-one-step") {
            return parts.try_into();
        }
        parts.outgoing.clone_from(&self.0.voters);
        let (staged, learners) =
            (parts.learners.iter()).partition(|id| parts.outgoing.contains(id));
        (parts.staged, parts.learners) = (staged, learners);
        parts.promotions.retain(|id, _| parts.learners.contains(id));
        for (id, address) in &self.0.addresses {
            if parts.outgoing.contains(id) {
                parts.addresses.entry(*id).or_insert(*address);
            }
        }
        parts.try_into()
    }

    /// `node` alone, with the address it has.
    pub(crate) fn only(&self, node: NodeId) -> Self {
        let mut parts = self.0.clone();
        parts.voters = BTreeSet::from([node]);
        for others in [&mut parts.outgoing, &mut parts.learners, &mut parts.staged] {
            others.clear();
        }
        parts.promotions.clear();
        parts.addresses.retain(|id, _| *id == node);
        parts.try_into().expect("one voter is enough")
    }

    /// What a joint membership becomes with the entry `index`.
    pub(crate) fn left(&self, index: LogIndex) -> Self {
        let mut parts = self.0.clone();
        parts.index = index;
        parts.outgoing = BTreeSet::new();
        parts.learners.append(&mut parts.staged);
        let Parts {
            voters,
            learners,
            addresses,
            promotions,
            ..
        } = &mut parts;
        addresses.retain(|id, _| voters.contains(id) || learners.contains(id));
        for place in promotions.values_mut() {
            *place = place.filter(|place| voters.contains(place) || learners.contains(place));
        }
        parts
            .try_into()
            .expect("what is left of valid members is valid")
    }
}

/// Without what only means something on one machine.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

/// How `raft` gets from one membership to the next.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Transition {
    /// Its members stay as they are.
    Same,
    Change(ConfChangeV2),
}

/// How `raft` gets from `from` to `to`; `None` when no leader would take that step.
pub(crate) fn transition(from: &Membership, to: &Membership) -> Option<Transition> {
    if to.highest() < from.highest() {
        return None;
    }
    match (from.is_joint(), to.is_joint()) {
        (true, true) => None,
        (true, false) => {
            let left = from.left(to.index());
            let same = (left.0.voters == to.0.voters) && (left.0.learners == to.0.learners);
            // Without changes, it means to leave.
            same.then(|| Transition::Change(ConfChangeV2::default()))
        }
        (false, true) => {
            let follows = to.0.outgoing == from.0.voters;
            let mut change = ConfChangeV2::default();
            change.set_transition(ConfChangeTransition::Explicit);
            change.set_changes(singles(from, to).into());
            follows.then_some(Transition::Change(change))
        }
        (false, false) => {
            let singles = singles(from, to);
            let mut change = ConfChangeV2::default();
            match (from.0.voters == to.0.voters, singles.len()) {
                (true, 0) => Some(Transition::Same),
                (true, 1) => {
                    change.set_changes(singles.into());
                    Some(Transition::Change(change))
                }
                _ => None,
            }
        }
    }
}

/// How `raft` gets from `from` to `to`, whatever they are: for a node that joins, to whom the first members
/// that the log names have nothing to do with those that it was told.
pub(crate) fn path(from: &Membership, to: &Membership) -> Vec<ConfChangeV2> {
    let leave = ConfChangeV2::default;
    let enter = |from: &Membership, to: &Membership| {
        let mut change = ConfChangeV2::default();
        change.set_transition(ConfChangeTransition::Explicit);
        change.set_changes(singles(from, to).into());
        change
    };
    let mut steps = Vec::new();
    let mut at = from.clone();
    if at.is_joint() {
        steps.push(leave());
        at = at.left(to.index());
    }
    let mut before = to.clone();
    if to.is_joint() {
        before.0.voters = std::mem::take(&mut before.0.outgoing);
        before.0.staged.clear();
    }
    steps.extend([enter(&at, &before), leave()]);
    if to.is_joint() {
        steps.push(enter(&before, to));
    }
    steps
}

fn singles(from: &Membership, to: &Membership) -> Vec<ConfChangeSingle> {
    let single = |id: NodeId, kind| {
        let mut single = ConfChangeSingle {
            node_id: id.value(),
            ..ConfChangeSingle::default()
        };
        single.set_change_type(kind);
        single
    };
    let voters = to.voters().filter(|&id| !from.votes_from_now_on(id));
    let voters = voters.map(|id| single(id, ConfChangeType::AddNode));
    let learners = to.learners().filter(|id| !from.0.learners.contains(id));
    let learners = learners.chain(to.staged());
    let learners = learners.map(|id| single(id, ConfChangeType::AddLearnerNode));
    let stays = |id: NodeId| {
        to.votes_from_now_on(id) || to.0.learners.contains(&id) || to.0.staged.contains(&id)
    };
    let gone = from.members().filter(|&id| !stays(id));
    let gone = gone.map(|id| single(id, ConfChangeType::RemoveNode));
    voters.chain(learners).chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn add(node: u64, address: SocketAddr) -> MembershipChange {
        MembershipChange::Add {
            node: id(node),
            address,
            promote: true,
            replaces: None,
        }
    }

    fn set(node: u64, address: SocketAddr) -> MembershipChange {
        MembershipChange::Set {
            voters: [1, 2, 3, node].map(id).into(),
            learners: BTreeSet::new(),
            addresses: [(id(node), address)].into(),
        }
    }

    /// Ids are never used again, so one that is far above all others would leave none for later; a step of the size that
    /// there may be is taken, and counts from the highest that ever was.
    #[test]
    fn f6_an_id_far_above_all_others_is_refused() {
        let members = Membership::new([1, 2, 3].map(id), []).unwrap();
        let at = ([127, 0, 0, 1], 7004).into();
        let most = 3 + NODE_ID_STEP_MAX;
        for node in [u64::MAX, most + 1] {
            let refused = ChangeRefused::NodeIdTooHigh {
                node: id(node),
                highest: id(3),
            };
            for change in [add(node, at), set(node, at)] {
                assert_eq!(members.after(&change), Err(refused));
            }
        }
        let members = members.after(&add(most, at)).unwrap();
        let gone = MembershipChange::Remove { node: id(most) };
        let members = members.after(&gone).unwrap();
        assert!(members.after(&add(most + NODE_ID_STEP_MAX, at)).is_ok());
        // Who was founded with the last number there is can at least remove and move.
        let last = Membership::new([1, u64::MAX].map(id), []).unwrap();
        let gone = MembershipChange::Remove { node: id(1) };
        assert!(last.after(&gone).is_ok());
    }

    /// What stands for any address, or has no port, is nowhere that others could dial.
    #[test]
    fn f12_an_address_that_nobody_can_dial_is_refused() {
        let members = Membership::new([1, 2, 3].map(id), []).unwrap();
        for address in [
            "0.0.0.0:7005",
            "[::]:7005",
            "[::ffff:0.0.0.0]:7005",
            "127.0.0.1:0",
        ] {
            let address = address.parse().unwrap();
            let refused = |node| {
                let node = id(node);
                Err(ChangeRefused::NoSuchPlace { node, address })
            };
            assert_eq!(members.after(&add(4, address)), refused(4));
            assert_eq!(members.after(&set(4, address)), refused(4));
            let moved = MembershipChange::Move {
                node: id(2),
                address,
            };
            assert_eq!(members.after(&moved), refused(2));
        }
    }
}
