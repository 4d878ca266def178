//! What happens to nodes and to the network between them.

use quorate_consensus::{Config, LogIndex, Membership, RaftNode, StartError, persist, read_tail};

use super::{Rig, Slot, id};

impl Rig {
    /// `node` campaigns until it leads. Whoever else is elected first hands over to it.
    pub(crate) fn elect(&mut self, node: u64) {
        for tick in 0..400 {
            if self.leads(node) {
                return;
            }
            let leader = self.leader_heard_by(node);
            match leader {
                Some(leader) if tick % 60 == 0 => drop(self.transfer(leader, Some(node))),
                Some(_) => {}
                None => self.campaign(node),
            }
            (0..3).for_each(|_| self.tick());
        }
        panic!("n{node} is not elected\n{self}");
    }

    /// Waits until one of `among` leads, and says which.
    pub(crate) fn elect_one_of(&mut self, among: &[u64]) -> u64 {
        self.run_until(200, "one of them leads", |rig| {
            among.iter().any(|&node| rig.leads(node))
        });
        let mut leaders = among.iter().copied().filter(|&node| self.leads(node));
        leaders.next().expect("just seen")
    }

    /// The leader of the highest term, if `node` and it can talk.
    fn leader_heard_by(&self, node: u64) -> Option<u64> {
        let leader = self.leader()?;
        self.net.connects(leader, node).then_some(leader)
    }

    pub(crate) fn campaign(&mut self, node: u64) {
        self.core(node).campaign();
        self.check(node);
        self.pump();
    }

    /// A bit of `node`'s memory changes.
    pub(crate) fn flip_memory(&mut self, node: u64) {
        self.slot_mut(node).machine.flipped = true;
    }

    /// A node that is not a member yet, and was told that `members` are.
    pub(crate) fn join(&mut self, node: u64, members: &[u64]) {
        let members = members.iter().copied().map(id);
        let membership = Membership::joining(id(node), members).unwrap();
        let before = self.slots.insert(node, Slot::new(membership));
        assert!(before.is_none(), "n{node} was there before");
        self.restart(node);
    }

    /// Power loss: what was not durable is gone.
    pub(crate) fn crash(&mut self, node: u64) {
        self.crash_keeping(node, 0);
    }

    /// Power loss after the first `kept` queued writes had reached the disk, unnoticed by the node.
    pub(crate) fn crash_keeping(&mut self, node: u64, kept: usize) {
        let slot = self.slot_mut(node);
        slot.node = None;
        slot.disk.lose_queue(kept);
        slot.fetches.clear();
        slot.machine.queue.clear();
        (slot.machine.source, slot.machine.sink) = (None, None);
        slot.machine.scan = None;
        slot.machine.applied.truncate(slot.machine.durable);
        self.checker.crashed(node);
    }

    pub(crate) fn restart(&mut self, node: u64) {
        self.try_restart(node)
            .unwrap_or_else(|error| panic!("n{node} does not start: {error}"));
    }

    pub(crate) fn try_restart(&mut self, node: u64) -> Result<(), StartError> {
        let mut config = Config::new(id(node));
        config.seed = self.setup.seed * 1000 + node;
        (self.setup.config)(&mut config);
        let slot = self.slot_mut(node);
        assert!(slot.node.is_none(), "n{node} is up");
        slot.boot += 1;
        config.boot = slot.boot;
        let recovered = slot.disk.durable().recovered();
        let base = recovered.base();
        if slot.machine.last().index < base.index
            && let Some(received) = slot.disk.received.get(&base)
        {
            slot.machine.applied.clone_from(received);
            slot.machine.durable = received.len();
        }
        let applied = slot.machine.last();
        let tail = match applied.index < recovered.last {
            true => read_tail(&slot.disk, applied.index, recovered.last).unwrap(),
            false => Vec::new(),
        };
        slot.node = Some(RaftNode::new(config, &recovered, applied, tail)?);
        Ok(())
    }

    /// Makes the state machine's state survive a crash.
    pub(crate) fn checkpoint(&mut self, node: u64) {
        self.checkpoint_at(node, self.applied_index(node));
    }

    /// The state of `node` up to `index` survives a crash.
    pub(crate) fn checkpoint_at(&mut self, node: u64, index: LogIndex) {
        let slot = self.slots.get_mut(&node).expect("a member");
        let applied = slot.machine.applied.iter();
        slot.machine.durable = applied.take_while(|entry| entry.id.index <= index).count();
        if let Some(core) = &mut slot.node {
            core.handle_durable(index);
        }
    }

    pub(crate) fn stall_disk(&mut self, node: u64, stalled: bool) {
        self.slot_mut(node).disk.stalled = stalled;
        self.pump();
    }

    pub(crate) fn stall_machine(&mut self, node: u64, stalled: bool) {
        self.slot_mut(node).machine.stalled = stalled;
        self.pump();
    }

    /// Makes exactly one queued write of `node` durable, although its disk is stalled.
    pub(crate) fn persist_one(&mut self, node: u64) {
        let slot = self.slots.get_mut(&node).expect("a member");
        let (_, append) = slot.disk.queue.pop_front().expect("a queued write");
        let ticket = persist(&mut slot.disk, vec![append]).unwrap();
        self.core(node).handle_persisted(ticket);
        self.check(node);
        self.pump();
    }

    // --- what happens to the network

    /// Members hear only those in their own group.
    pub(crate) fn partition(&mut self, groups: &[&[u64]]) {
        let group = |node| groups.iter().position(|group| group.contains(&node));
        for &from in self.slots.keys() {
            for &to in self.slots.keys() {
                if group(from) != group(to) || (group(from).is_none() && from != to) {
                    self.net.cut(from, to);
                }
            }
        }
    }

    pub(crate) fn isolate(&mut self, node: u64) {
        for other in self.others(node) {
            self.net.cut(node, other);
            self.net.cut(other, node);
        }
    }

    pub(crate) fn heal(&mut self) {
        self.net.heal();
        self.net.rule = None;
    }
}
