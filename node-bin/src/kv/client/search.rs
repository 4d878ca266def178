//! What one search for the leader asks each node. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use quorate_consensus::NodeId;

use crate::kv::protocol::Request;
use crate::planted;

/// How long a node is only asked who leads, where its whole status is wanted and was asked for in vain: longer than an
/// election takes, in which there are thousands who ask.
const AGAIN: Duration = Duration::from_secs(2);

/// What was asked so far.
///
/// A status says where the members are, but it is large, and takes a node some work: so each node is asked for it
/// once, and after that for who leads.
#[derive(Debug)]
pub(super) struct Search {
    /// Whether it matters where the members are.
    follow_members: bool,
    nodes: BTreeMap<NodeId, Asked>,
    /// Those who have not answered their last question yet.
    outstanding: BTreeSet<NodeId>,
}

#[derive(Debug)]
struct Asked {
    /// When it was last asked for its status.
    at: Instant,
    /// Whether it is to be asked for it once more.
    again: bool,
}

impl Search {
    pub(super) fn new(follow_members: bool) -> Self {
        Self {
            follow_members,
            nodes: BTreeMap::new(),
            outstanding: BTreeSet::new(),
        }
    }

    /// What to ask `node` now; nothing while it is to answer the last question.
    pub(super) fn question(&mut self, node: NodeId, now: Instant) -> Option<Request> {
        let may_ask = self.outstanding.insert(node) || planted::is("questions-pile-up");
        may_ask.then(|| self.next_question(node, now))
    }

    fn next_question(&mut self, node: NodeId, now: Instant) -> Request {
        let asked = self.nodes.get(&node);
        let enough = asked.is_some_and(|asked| !asked.again || now < asked.at + AGAIN);
        if enough && !planted::is("status-asked-for-again") || !self.follow_members {
            return Request::Leader;
        }
        let (at, again) = (now, true);
        self.nodes.insert(node, Asked { at, again });
        Request::Status
    }

    /// The question to `node` has come to an end, with an answer or without: it may be asked again.
    pub(super) fn handle_end(&mut self, node: NodeId) {
        self.outstanding.remove(&node);
    }

    /// `question` did not leave this process.
    pub(super) fn handle_not_sent(&mut self, node: NodeId, question: &Request) {
        if *question == Request::Status {
            self.nodes.remove(&node);
        }
    }

    /// `node` has answered `question`. It is worth asking for its status again if it `names_a_stranger` as the leader: it
    /// may have come to know since where that one is.
    pub(super) fn handle_answer(
        &mut self,
        node: NodeId,
        question: &Request,
        names_a_stranger: bool,
    ) {
        if let Some(asked) = self.nodes.get_mut(&node) {
            let has_said = *question == Request::Status;
            asked.again = names_a_stranger || asked.again && !has_said;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: bool = false;
    const STRANGER: bool = true;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    /// Asks, and hears no more of it.
    fn ask(search: &mut Search, id: u64, now: Instant) -> Request {
        let question = search.question(node(id), now);
        search.handle_end(node(id));
        question.expect("nothing is outstanding")
    }

    /// A node that takes its time is not asked again meanwhile, and others are.
    #[test]
    fn one_question_at_a_time() {
        let mut search = Search::new(false);
        let now = Instant::now();
        let asks = |search: &mut Search, id| search.question(node(id), now).is_some();
        assert!(asks(&mut search, 1));
        assert!(!asks(&mut search, 1) && asks(&mut search, 2));
        search.handle_end(node(1));
        assert!(asks(&mut search, 1) && !asks(&mut search, 2));
    }

    /// Each node is asked for its status once, however long nobody leads; not at all by whom it does not help.
    #[test]
    fn a_status_is_asked_for_once() {
        let mut search = Search::new(true);
        let begun = Instant::now();
        for id in [1, 2] {
            assert_eq!(ask(&mut search, id, begun), Request::Status);
            search.handle_answer(node(id), &Request::Status, KNOWN);
            for round in 0..100 {
                let now = begun + round * AGAIN;
                assert_eq!(ask(&mut search, id, now), Request::Leader);
                search.handle_answer(node(id), &Request::Leader, KNOWN);
            }
        }
        let mut search = Search::new(false);
        assert_eq!(ask(&mut search, 1, begun), Request::Leader);
    }

    /// What did not leave is asked for at once; what was not answered, whatever else was, after a while.
    #[test]
    fn a_status_that_did_not_come_is_asked_for_again() {
        let mut search = Search::new(true);
        let now = Instant::now();
        assert_eq!(ask(&mut search, 1, now), Request::Status);
        search.handle_not_sent(node(1), &Request::Status);
        assert_eq!(ask(&mut search, 1, now), Request::Status);
        let just_before = now + AGAIN - Duration::from_millis(1);
        assert_eq!(ask(&mut search, 1, just_before), Request::Leader);
        search.handle_not_sent(node(1), &Request::Leader);
        assert_eq!(ask(&mut search, 1, just_before), Request::Leader);
        search.handle_answer(node(1), &Request::Leader, KNOWN);
        assert_eq!(ask(&mut search, 1, now + AGAIN), Request::Status);
    }

    /// Who names a leader of whom nobody has said where it is may say that later.
    #[test]
    fn a_stranger_is_asked_after() {
        let mut search = Search::new(true);
        let mut now = Instant::now();
        assert_eq!(ask(&mut search, 1, now), Request::Status);
        search.handle_answer(node(1), &Request::Status, KNOWN);
        search.handle_answer(node(1), &Request::Leader, STRANGER);
        assert_eq!(ask(&mut search, 1, now), Request::Leader);
        now += AGAIN;
        assert_eq!(ask(&mut search, 1, now), Request::Status);
        search.handle_answer(node(1), &Request::Status, STRANGER);
        assert_eq!(ask(&mut search, 1, now), Request::Leader);
        now += AGAIN;
        assert_eq!(ask(&mut search, 1, now), Request::Status);
        search.handle_answer(node(1), &Request::Status, KNOWN);
        assert_eq!(ask(&mut search, 1, now + AGAIN), Request::Leader);
    }
}
