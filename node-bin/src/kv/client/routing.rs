//! What all operations of one client share: the belief about the leader, and who waits for news of it.

use std::collections::BTreeMap;
use std::convert::Infallible;

use async_channel::{Receiver, Sender};
use quorate_consensus::{NodeId, Term};

use super::leader::{Change, LeaderTracker};

/// Guarded by one mutex that is only ever held for lines.
#[derive(Debug)]
pub(super) struct Routing {
    tracker: LeaderTracker,
    /// For each node: what ends the calls it was sent, once another node leads a higher term.
    outstanding: BTreeMap<NodeId, Event>,
    /// Happens when a leader becomes known, or looking for one is given up.
    found: Event,
    /// How many operations wait for a leader.
    waiting: usize,
    /// Whether a task is asking round.
    seeking: bool,
    /// The last thing each node said about leadership, or why it could not be asked.
    said: BTreeMap<NodeId, String>,
}

/// Where to send a request, and what ends the wait for its answer.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) node: NodeId,
    pub(super) superseded: Watch,
    /// Happens when a leader becomes known from now on, be it this very node.
    pub(super) news: Watch,
}

impl Routing {
    pub(super) fn new(nodes: impl IntoIterator<Item = NodeId> + Clone) -> Self {
        Self {
            tracker: LeaderTracker::new(nodes.clone()),
            outstanding: nodes.into_iter().map(|node| (node, Event::new())).collect(),
            found: Event::new(),
            waiting: 0,
            seeking: false,
            said: BTreeMap::new(),
        }
    }

    /// There is one more node.
    pub(super) fn add(&mut self, node: NodeId) {
        self.outstanding.insert(node, Event::new());
        let change = self.tracker.add(node);
        self.carry_out(change);
    }

    /// Nothing is sent to `node` any more, and nobody waits for its answers.
    pub(super) fn remove(&mut self, node: NodeId) {
        self.tracker.remove(node);
        self.outstanding.remove(&node);
        self.said.remove(&node);
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        self.tracker.leader()
    }

    pub(super) fn unlisted(&self) -> Option<NodeId> {
        self.tracker.unlisted()
    }

    pub(super) fn said(&self, node: NodeId) -> Option<&str> {
        self.said.get(&node).map(String::as_str)
    }

    /// The way to the leader, if one is known.
    pub(super) fn route(&self) -> Option<Route> {
        let node = self.tracker.leader()?;
        let superseded = self.outstanding[&node].watch();
        let news = self.found.watch();
        Some(Route {
            node,
            superseded,
            news,
        })
    }

    /// What `node` said, if it is not one that was forgotten meanwhile.
    pub(super) fn note(&mut self, node: NodeId, said: String) {
        if self.outstanding.contains_key(&node) {
            self.said.insert(node, said);
        }
    }

    pub(super) fn handle_announcement(&mut self, from: NodeId, term: Term, leader: Option<NodeId>) {
        let change = self.tracker.handle_announcement(from, term, leader);
        self.carry_out(change);
    }

    pub(super) fn handle_refusal(&mut self, from: NodeId, hint: Option<NodeId>) {
        let change = self.tracker.handle_refusal(from, hint);
        self.carry_out(change);
    }

    pub(super) fn handle_unreachable(&mut self, node: NodeId) {
        self.tracker.handle_unreachable(node);
    }

    fn carry_out(&mut self, change: Change) {
        match change {
            Change::None => {}
            Change::Leader => self.found.happen(),
            Change::Superseded(leader) => {
                for (node, event) in &mut self.outstanding {
                    if *node != leader {
                        event.happen();
                    }
                }
                self.found.happen();
            }
        }
    }

    /// An operation begins to wait for a leader: what it waits for, and whether it has to start the task
    /// that asks round.
    pub(super) fn begin_wait(&mut self) -> (Watch, bool) {
        self.waiting += 1;
        let start = !self.seeking;
        self.seeking = true;
        (self.found.watch(), start)
    }

    /// An operation no longer waits.
    pub(super) fn end_wait(&mut self) {
        assert!(self.waiting > 0, "a wait ended that never began");
        self.waiting -= 1;
    }

    /// Whether asking round goes on: what ends the pause before the next round. It ends when a leader is
    /// known, and when nobody wants to know any more.
    pub(super) fn seek_on(&mut self) -> Option<Watch> {
        self.seeking = self.tracker.leader().is_none() && self.waiting > 0;
        self.seeking.then(|| self.found.watch())
    }

    /// The task that was to ask round could not be started.
    pub(super) fn seek_failed(&mut self) {
        self.seeking = false;
    }

    /// Asking round is hopeless: wakes those who wait, so that they see it.
    pub(super) fn give_up(&mut self) {
        self.seeking = false;
        self.found.happen();
    }
}

/// Something that happens again and again, and wakes all who watch for its next time.
///
/// A channel on which nothing is ever sent: dropping the sender wakes every receiver, whatever executor
/// it waits on.
#[derive(Debug)]
struct Event {
    /// Only held to be dropped.
    _alive: Sender<Infallible>,
    next: Receiver<Infallible>,
}

/// Waits for the next time of an event.
#[derive(Clone, Debug)]
pub(super) struct Watch(Receiver<Infallible>);

impl Event {
    fn new() -> Self {
        let (alive, next) = async_channel::bounded(1);
        Self {
            _alive: alive,
            next,
        }
    }

    fn watch(&self) -> Watch {
        Watch(self.next.clone())
    }

    fn happen(&mut self) {
        *self = Self::new();
    }
}

impl Watch {
    pub(super) async fn happened(&self) {
        let Err(async_channel::RecvError) = self.0.recv().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn routing() -> Routing {
        Routing::new([1, 2, 3].map(node))
    }

    fn announce(routing: &mut Routing, term: u64, leader: u64) {
        routing.handle_announcement(node(leader), Term::new(term), Some(node(leader)));
    }

    fn has_happened(watch: &Watch) -> bool {
        watch.0.is_closed()
    }

    /// What a node is asked last is answered when it has been forgotten: that leaves nothing behind, and what was sent
    /// to it is over.
    #[test]
    fn a_forgotten_node_leaves_nothing() {
        let mut routing = routing();
        announce(&mut routing, 1, 1);
        let route = routing.route().unwrap();
        routing.remove(node(1));
        assert!(has_happened(&route.superseded));
        assert!(routing.route().is_none());
        routing.note(node(1), "late".into());
        assert_eq!(routing.said(node(1)), None);
        routing.note(node(2), "in time".into());
        assert_eq!(routing.said(node(2)), Some("in time"));
    }

    /// A leader of a higher term ends the calls to the former leader, not those to itself, and not those
    /// that are sent after it.
    #[test]
    fn a_new_leader_ends_calls_to_the_former() {
        let mut routing = routing();
        announce(&mut routing, 5, 1);
        let former = routing.route().unwrap();
        announce(&mut routing, 5, 1);
        assert!(!has_happened(&former.superseded), "old news end nothing");
        announce(&mut routing, 6, 2);
        assert!(has_happened(&former.superseded));
        let now = routing.route().unwrap();
        assert_eq!(now.node, node(2));
        assert!(!has_happened(&now.superseded));
        announce(&mut routing, 7, 2);
        assert!(!has_happened(&now.superseded), "it leads on");
    }

    /// A hint proves nothing about the former leader, so calls to it go on.
    #[test]
    fn a_hint_ends_no_calls() {
        let mut routing = routing();
        announce(&mut routing, 5, 1);
        let former = routing.route().unwrap();
        routing.handle_refusal(node(1), Some(node(2)));
        assert_eq!(routing.leader(), Some(node(2)));
        assert!(!has_happened(&former.superseded));
    }

    /// One task asks round for all who wait, and stops when a leader is known or nobody waits.
    #[test]
    fn one_task_asks_round_for_all() {
        let mut routing = routing();
        let (first, start) = routing.begin_wait();
        assert!(start);
        let (_, start) = routing.begin_wait();
        assert!(!start, "one is enough");
        assert!(routing.seek_on().is_some());
        announce(&mut routing, 5, 1);
        assert!(has_happened(&first));
        assert!(routing.seek_on().is_none(), "found");
        routing.handle_unreachable(node(1));
        routing.end_wait();
        routing.end_wait();
        assert!(routing.begin_wait().1, "asks again when asked again");
        routing.end_wait();
        assert!(routing.seek_on().is_none(), "nobody waits");
    }
}
