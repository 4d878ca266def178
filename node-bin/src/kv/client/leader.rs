//! Who leads, as far as a client can tell. Pure: events in, one belief out.

use std::collections::BTreeSet;

use quorate_consensus::{NodeId, Term};

/// What a client believes about the leader.
///
/// Two kinds of evidence come in. An *announcement* carries a term, so of two the one with the higher
/// term wins, in whichever order they arrive (at most one leader a term, Raft paper, section 5.2). A
/// *hint* in a refusal carries none, so it only ever replaces the node that gave it.
///
/// Invariants:
/// - `leader` is one of `nodes`;
/// - `term` never decreases.
#[derive(Debug)]
pub(super) struct LeaderTracker {
    nodes: BTreeSet<NodeId>,
    /// The highest term in which a leader was announced.
    term: Term,
    leader: Option<NodeId>,
    /// A leader that was named but is not one of `nodes`.
    unlisted: Option<NodeId>,
}

/// What a piece of evidence changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Nothing that matters.
    None,
    /// A leader is believed in where there was none, or another one, without proof that the former
    /// one is gone: what was sent to it may still be answered.
    Leader,
    /// This node leads in a higher term than any leader before, so no other node can still commit
    /// what it was sent.
    Superseded(NodeId),
}

impl LeaderTracker {
    pub(super) fn new(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        Self {
            nodes: nodes.into_iter().collect(),
            term: Term::ZERO,
            leader: None,
            unlisted: None,
        }
    }

    /// The address of `node` is known now.
    pub(super) fn add(&mut self, node: NodeId) -> Change {
        self.nodes.insert(node);
        if self.leader.is_some() || self.unlisted != Some(node) {
            return Change::None;
        }
        (self.leader, self.unlisted) = (Some(node), None);
        Change::Leader
    }

    /// It is to be asked no more.
    pub(super) fn remove(&mut self, node: NodeId) {
        self.nodes.remove(&node);
        self.handle_unreachable(node);
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// A leader that was named last but whose address is not known.
    pub(super) fn unlisted(&self) -> Option<NodeId> {
        self.unlisted
    }

    /// `from` says who leads `term`: in a notice, or when asked for its status.
    pub(super) fn handle_announcement(
        &mut self,
        from: NodeId,
        term: Term,
        leader: Option<NodeId>,
    ) -> Change {
        if term < self.term {
            return Change::None;
        }
        match leader {
            Some(leader) => self.handle_leader(term, leader),
            // Only the leader itself can know that it stepped down; anyone else may merely be behind.
            None if self.leader == Some(from) => {
                self.leader = None;
                Change::None
            }
            None => Change::None,
        }
    }

    fn handle_leader(&mut self, term: Term, leader: NodeId) -> Change {
        let newer = term > self.term;
        if !self.nodes.contains(&leader) {
            if newer || self.leader.is_none() {
                (self.term, self.leader, self.unlisted) = (term, None, Some(leader));
            }
            return Change::None;
        }
        if newer {
            (self.term, self.unlisted) = (term, None);
            let before = self.leader.replace(leader);
            return match before {
                Some(before) if before == leader => Change::None,
                _ => Change::Superseded(leader),
            };
        }
        if self.leader.is_none() {
            (self.leader, self.unlisted) = (Some(leader), None);
            return Change::Leader;
        }
        Change::None
    }

    /// `from`, which was asked as the leader, says that it is not, and perhaps who is.
    pub(super) fn handle_refusal(&mut self, from: NodeId, hint: Option<NodeId>) -> Change {
        if self.leader != Some(from) {
            return Change::None; // already known to be over
        }
        let other = hint.filter(|hint| *hint != from);
        self.leader = other.filter(|hint| self.nodes.contains(hint));
        if self.leader.is_some() {
            return Change::Leader;
        }
        self.unlisted = other.or(self.unlisted);
        Change::None
    }

    /// Nothing can be sent to `node`.
    pub(super) fn handle_unreachable(&mut self, node: NodeId) {
        if self.leader == Some(node) {
            self.leader = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn tracker() -> LeaderTracker {
        LeaderTracker::new([1, 2, 3].map(node))
    }

    fn announce(tracker: &mut LeaderTracker, from: u64, term: u64, leader: u64) -> Change {
        tracker.handle_announcement(node(from), Term::new(term), NodeId::new(leader))
    }

    /// The highest term wins, in whichever order the announcements arrive.
    #[test]
    fn the_highest_term_wins() {
        let mut tracker = tracker();
        assert_eq!(announce(&mut tracker, 3, 5, 2), Change::Superseded(node(2)));
        assert_eq!(announce(&mut tracker, 1, 4, 1), Change::None);
        assert_eq!(tracker.leader(), Some(node(2)));
        assert_eq!(announce(&mut tracker, 2, 5, 2), Change::None);
        assert_eq!(announce(&mut tracker, 1, 6, 3), Change::Superseded(node(3)));
        assert_eq!(tracker.leader(), Some(node(3)));
    }

    /// A leader elected again does not supersede itself: its calls stay good.
    #[test]
    fn a_leader_elected_again_keeps_its_calls() {
        let mut tracker = tracker();
        announce(&mut tracker, 1, 5, 1);
        assert_eq!(announce(&mut tracker, 1, 7, 1), Change::None);
        assert_eq!(announce(&mut tracker, 1, 6, 2), Change::None);
        assert_eq!(tracker.leader(), Some(node(1)));
    }

    /// A leader that was named before its address was known leads from then on; one that is removed does not.
    #[test]
    fn nodes_come_and_go() {
        let mut tracker = tracker();
        announce(&mut tracker, 1, 5, 9);
        assert_eq!(tracker.add(node(4)), Change::None);
        assert_eq!(tracker.leader(), None);
        assert_eq!(tracker.add(node(9)), Change::Leader);
        assert_eq!(
            (tracker.leader(), tracker.unlisted()),
            (Some(node(9)), None)
        );
        tracker.remove(node(1));
        assert_eq!(tracker.leader(), Some(node(9)));
        tracker.remove(node(9));
        assert_eq!(tracker.leader(), None);
        assert_eq!(announce(&mut tracker, 2, 6, 9), Change::None);
        assert_eq!(
            (tracker.leader(), tracker.unlisted()),
            (None, Some(node(9)))
        );
    }

    /// A hint moves the belief, but only away from the node that gave it, and proves nothing.
    #[test]
    fn hints_replace_only_their_giver() {
        let mut tracker = tracker();
        announce(&mut tracker, 1, 5, 1);
        assert_eq!(
            tracker.handle_refusal(node(2), Some(node(3))),
            Change::None,
            "node 2 was not believed to lead"
        );
        assert_eq!(
            tracker.handle_refusal(node(1), Some(node(2))),
            Change::Leader
        );
        assert_eq!(tracker.leader(), Some(node(2)));
        assert_eq!(announce(&mut tracker, 3, 5, 1), Change::None);
        assert_eq!(tracker.leader(), Some(node(2)), "same term, older news");
    }

    /// A refusal without a usable hint leaves no leader, and the next announcement fills the gap.
    #[test]
    fn a_refusal_without_a_hint_leaves_nobody() {
        for hint in [None, Some(node(1)), Some(node(9))] {
            let mut tracker = tracker();
            announce(&mut tracker, 1, 5, 1);
            assert_eq!(tracker.handle_refusal(node(1), hint), Change::None);
            assert_eq!(tracker.leader(), None);
            assert_eq!(announce(&mut tracker, 3, 4, 3), Change::None);
            assert_eq!(tracker.leader(), None, "an older term fills no gap");
            assert_eq!(announce(&mut tracker, 3, 5, 2), Change::Leader);
            assert_eq!(tracker.leader(), Some(node(2)));
        }
    }

    /// Only the leader's own word, not a bystander's, ends a leadership without naming another.
    #[test]
    fn only_the_leader_can_step_down() {
        let mut tracker = tracker();
        announce(&mut tracker, 1, 5, 1);
        announce(&mut tracker, 2, 6, 0);
        assert_eq!(tracker.leader(), Some(node(1)));
        announce(&mut tracker, 1, 6, 0);
        assert_eq!(tracker.leader(), None);
        announce(&mut tracker, 2, 5, 1);
        tracker.handle_unreachable(node(2));
        assert_eq!(tracker.leader(), Some(node(1)), "node 2 does not lead");
        tracker.handle_unreachable(node(1));
        assert_eq!(tracker.leader(), None);
    }

    /// A leader whose address was not given is remembered for the error message, and never asked.
    #[test]
    fn an_unlisted_leader_is_remembered() {
        let mut tracker = tracker();
        announce(&mut tracker, 1, 5, 1);
        assert_eq!(announce(&mut tracker, 1, 6, 9), Change::None);
        assert_eq!(
            (tracker.leader(), tracker.unlisted()),
            (None, Some(node(9)))
        );
        announce(&mut tracker, 1, 7, 2);
        assert_eq!(
            (tracker.leader(), tracker.unlisted()),
            (Some(node(2)), None)
        );
    }
}
