//! How the cluster stands.

use std::collections::{BTreeMap, BTreeSet};

use quorate_consensus::{
    EntryId, Event, LeaderChange, LogIndex, NodeId, Payload, ProposalToken, ProposeError, RaftNode,
    ReadToken, Role, Status,
};

use super::{Disk, MemLog, Rig};

impl Rig {
    pub(crate) fn core(&mut self, node: u64) -> &mut RaftNode {
        let slot = self.slot_mut(node);
        slot.node.as_mut().expect("the node is up")
    }

    pub(crate) fn status(&self, node: u64) -> Status {
        let node = self.slots[&node].node.as_ref();
        node.expect("the node is up").status()
    }

    pub(crate) fn is_up(&self, node: u64) -> bool {
        self.slots
            .get(&node)
            .is_some_and(|slot| slot.node.is_some())
    }

    /// Whether there is, or was, such a node.
    pub(crate) fn knows(&self, node: u64) -> bool {
        self.slots.contains_key(&node)
    }

    pub(crate) fn up(&self) -> Vec<u64> {
        let up = self.slots.iter().filter(|(_, slot)| slot.node.is_some());
        up.map(|(&node, _)| node).collect()
    }

    pub(crate) fn others(&self, node: u64) -> Vec<u64> {
        let others = self.slots.keys().copied().filter(|&other| other != node);
        others.collect()
    }

    pub(crate) fn leads(&self, node: u64) -> bool {
        self.is_up(node) && self.status(node).role == Role::Leader
    }

    /// The leader of the highest term.
    pub(crate) fn leader(&self) -> Option<u64> {
        let leaders = self.up().into_iter().filter(|&node| self.leads(node));
        leaders.max_by_key(|&node| self.status(node).term)
    }

    pub(crate) fn term(&self, node: u64) -> u64 {
        self.status(node).term.value()
    }

    /// The commands `node` has applied.
    pub(crate) fn applied(&self, node: u64) -> Vec<String> {
        let entries = self.slots[&node].machine.applied.iter();
        let commands = entries.filter_map(|entry| match &entry.payload {
            Payload::Command(command) => Some(String::from_utf8_lossy(command).into_owned()),
            _ => None,
        });
        commands.collect()
    }

    pub(crate) fn applied_index(&self, node: u64) -> LogIndex {
        self.slots[&node].machine.last().index
    }

    /// Why `node` stopped itself.
    pub(crate) fn stopped(&self, node: u64) -> Option<&str> {
        self.slots[&node].stopped.as_deref()
    }

    /// The voters as `node` knows them, those who are leaving behind them, and the learners.
    pub(crate) fn members(&self, node: u64) -> [Vec<u64>; 3] {
        let membership = self.status(node).membership;
        let values = |ids: &mut dyn Iterator<Item = NodeId>| ids.map(NodeId::value).collect();
        [
            values(&mut membership.voters()),
            values(&mut membership.outgoing()),
            values(&mut membership.learners()),
        ]
    }

    /// Whether `node` found that its state is not the majority's.
    pub(crate) fn diverged(&self, node: u64) -> bool {
        self.slots[&node].diverged
    }

    /// How many comparisons were decided, as `node` has applied them.
    pub(crate) fn compared(&self, node: u64) -> usize {
        let applied = self.slots[&node].machine.applied.iter();
        let decided = applied.filter(|entry| matches!(entry.payload, Payload::Digest { .. }));
        decided.count()
    }

    pub(crate) fn durable(&self, node: u64) -> &MemLog {
        self.slots[&node].disk.durable()
    }

    pub(crate) fn disk(&mut self, node: u64) -> &mut Disk {
        &mut self.slot_mut(node).disk
    }

    pub(crate) fn queued_writes(&self, node: u64) -> usize {
        self.slots[&node].disk.queue.len()
    }

    /// What else happened to `node`, in all its lives.
    pub(crate) fn events(&self, node: u64) -> &[Event] {
        &self.slots[&node].events
    }

    pub(crate) fn changes(&self, node: u64) -> &[LeaderChange] {
        &self.slots[&node].changes
    }

    /// All members up, one leader, and the same durable and applied log everywhere.
    pub(crate) fn agrees(&self) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        let last = self.status(leader).last;
        self.slots.keys().all(|&node| {
            self.is_up(node)
                && self.status(node).term == self.status(leader).term
                && self.applied_index(node) == last.index
                && self.durable(node).last() == last
        })
    }

    /// Log Matching (Raft paper, figure 3) over all disks.
    pub(crate) fn check_log_matching(&mut self) {
        let logs: Vec<MemLog> = self
            .slots
            .values()
            .map(|slot| slot.disk.durable().clone())
            .collect();
        self.checker.log_matching(&logs);
    }

    /// Every member whose disk holds it.
    pub(crate) fn holders(&self, id: EntryId) -> BTreeSet<u64> {
        let holders = self.slots.iter();
        let holders = holders.filter(|(_, slot)| slot.disk.durable().holds(id));
        holders.map(|(&node, _)| node).collect()
    }

    /// What clients were told is true: what succeeded is in the log where they were told, what failed
    /// for sure is nowhere, and nobody who asked a living node was forgotten. Commands must differ.
    pub(crate) fn check_answers(&self) {
        let mut places = BTreeMap::new();
        for entry in self.checker.committed() {
            if let Payload::Command(command) = &entry.payload {
                let before = places.insert(command.clone(), entry.id);
                assert_eq!(before, None, "{command:?} is committed twice");
            }
        }
        for (token, command) in &self.commands {
            let (node, boot) = self.asked[&token.0];
            let place = places.get(command);
            match self.outcomes.get(token) {
                Some(Ok(at)) => assert_eq!(place, Some(at), "{command:?} was acknowledged"),
                Some(Err(ProposeError::OutcomeUnknown { .. })) => {}
                Some(Err(error)) => assert_eq!(place, None, "{command:?} failed with {error}"),
                None => assert_ne!(self.slots[&node].boot, boot, "n{node} forgot {command:?}"),
            }
        }
        let asked = self.asked.iter();
        let reads = asked.filter(|(token, _)| !self.commands.contains_key(&ProposalToken(**token)));
        for (&token, &(node, boot)) in reads {
            let answered = self.reads.contains_key(&ReadToken(token));
            assert!(
                answered || self.slots[&node].boot != boot,
                "n{node} forgot read {token}"
            );
        }
    }
}
