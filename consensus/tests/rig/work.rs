//! How the rig carries out what nodes want.

use std::collections::BTreeMap;

use quorate_consensus::{Body, Committed, LogStore, Message, Payload, Ready, persist};

use super::machine::Job;
use super::{MemLog, Rig, id};

impl Rig {
    pub(super) fn slot_mut(&mut self, node: u64) -> &mut super::Slot {
        self.slots.get_mut(&node).expect("a member")
    }

    pub(super) fn poll(&mut self, node: u64) -> bool {
        let Some(ready) = self.core(node).poll_ready() else {
            return false;
        };
        self.check_ready(node, &ready);
        let due = self.now + self.rng.within(0..self.disk_latency_max + 1);
        for (to, message) in ready.messages {
            self.send(node, to.value(), &message);
        }
        let slot = self.slots.get_mut(&node).expect("a member");
        slot.disk
            .queue
            .extend(ready.append.map(|append| (due, append)));
        slot.fetches.extend(ready.fetches);
        let machine = &mut slot.machine;
        machine
            .queue
            .extend(ready.committed.into_iter().map(Job::Apply));
        machine.queue.extend(ready.reads.into_iter().map(Job::Read));
        slot.changes.extend(ready.change);
        for (token, error) in ready.failed_proposals {
            let before = self.outcomes.insert(token, Err(error));
            assert_eq!(before, None, "{token:?} is answered twice");
        }
        for (token, error) in ready.failed_reads {
            let before = self.reads.insert(token, Err(error));
            assert_eq!(before, None, "{token:?} is answered twice");
        }
        self.transfers
            .extend(ready.transfer.map(|outcome| (node, outcome)));
        self.check(node);
        true
    }

    fn send(&mut self, from: u64, to: u64, message: &Message) {
        if self.setup.record {
            self.sent.push((from, to, message.clone()));
        }
        let entries = matches!(&message.body, Body::Append { entries, .. } if !entries.is_empty());
        let sent = self.net.send(self.now, &mut self.rng, (from, to), message);
        if !sent && entries {
            self.core(from).handle_unreachable(id(to));
        }
    }

    pub(super) fn turn_disk(&mut self, node: u64) -> bool {
        let now = self.now;
        let slot = self.slots.get_mut(&node).expect("a member");
        if slot.disk.stalled {
            return false;
        }
        let mut appends = Vec::new();
        while slot.disk.queue.front().is_some_and(|(due, _)| *due <= now) {
            appends.push(slot.disk.queue.pop_front().expect("just seen").1);
        }
        let mut busy = !appends.is_empty();
        if busy {
            let ticket = persist(&mut slot.disk, appends).unwrap();
            self.core(node).handle_persisted(ticket);
        }
        while let Some(fetch) = self.slot_mut(node).fetches.pop_front() {
            busy = true;
            self.fetched += 1;
            let bytes_max = self.core(node).config().message_bytes_max;
            let read = self.disk(node).read(fetch.first(), fetch.last(), bytes_max);
            self.core(node).handle_fetched(fetch, read.unwrap());
        }
        if busy {
            self.check(node);
        }
        busy
    }

    pub(super) fn turn_machine(&mut self, node: u64) -> bool {
        let slot = self.slots.get_mut(&node).expect("a member");
        let machine = &mut slot.machine;
        if machine.stalled || machine.queue.is_empty() {
            return false;
        }
        for job in std::mem::take(&mut machine.queue) {
            match job {
                Job::Apply(Committed { entry, token }) => {
                    assert_eq!(
                        entry.id.index,
                        machine.last().index.next(),
                        "applied in order"
                    );
                    if let Some(token) = token {
                        let command = Payload::Command(self.commands[&token].clone());
                        let same = entry.payload == command || self.checker.byzantine;
                        assert!(same, "{entry:?} answers {command:?}");
                        let before = self.outcomes.insert(token, Ok(entry.id));
                        assert_eq!(before, None, "{token:?} is answered twice");
                        self.checker.acknowledged(entry.id);
                    }
                    machine.applied.push(entry);
                }
                Job::Read(token) => {
                    let seen = machine.last().index;
                    self.checker.read_ends(token, seen);
                    let before = self.reads.insert(token, Ok(seen));
                    assert_eq!(before, None, "{token:?} is answered twice");
                }
            }
        }
        let applied = machine.last().index;
        self.core(node).handle_applied(applied);
        self.check(node);
        true
    }

    pub(super) fn deliver(&mut self) -> bool {
        let due = self.net.take_due(self.now);
        let busy = !due.is_empty();
        for message in due {
            if self.is_up(message.to) {
                // Refusals are part of normal life here; tests of the sanitizer call the core.
                let _ = self
                    .core(message.to)
                    .handle_message(id(message.from), message.message);
                self.check(message.to);
            }
        }
        busy
    }

    fn check_ready(&mut self, node: u64, ready: &Ready) {
        let disks: BTreeMap<u64, &MemLog> = self
            .slots
            .iter()
            .map(|(&node, slot)| (node, slot.disk.durable()))
            .collect();
        self.checker.ready(node, ready, &disks);
    }

    pub(super) fn check(&mut self, node: u64) {
        let slot = &self.slots[&node];
        let status = slot.node.as_ref().expect("the node is up").status();
        let log = self
            .checker
            .is_new_leader(&status)
            .then(|| slot.disk.with_queue());
        self.checker.status(&status, log);
    }
}
