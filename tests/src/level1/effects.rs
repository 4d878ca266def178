//! What the world makes of what a node did: it checks it, and carries it on.

use std::collections::BTreeMap;

use quorate_consensus::{Batch, Body, LeaderChange, LogIndex, Message, ORIGIN, Payload, Role};

use super::clock::{MICROSECOND, MILLISECOND};
use super::executor::lock;
use super::log::MemLog;
use super::seams::{Effect, Registers, Write};
use super::world::{Event, World, id};

/// What tells one kind of event from another in the hash.
#[derive(Clone, Copy)]
enum Kind {
    Sent = 100,
    Wrote,
    Applied,
    Changed,
    Installed,
}

impl World {
    pub(super) fn take_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Sent { from, to, message } => self.sent(from, to, message),
            Effect::Wrote {
                node,
                before,
                removed,
                first,
                base,
                durable,
            } => {
                let disk = std::sync::Arc::clone(&self.member(node).disk);
                let log = &lock(&disk).log;
                let (last, now) = (log.last(), self.now());
                let numbers = [
                    Kind::Wrote as u64,
                    node,
                    last.index.value(),
                    last.term.value(),
                ];
                self.trace.note(now, &numbers, || {
                    format!("n{node} has written up to {last}, {:?}", log.hard_state())
                });
                self.counts.writes += 1;
                self.invariants.wrote(node, before, &removed, first, log);
                if let Some(base) = base {
                    self.invariants.cut(node, base, durable);
                }
            }
            Effect::Applied { node, from, batch } => self.applied(node, from, &batch),
            Effect::Installed { node, state } => self.installed(node, &state),
            Effect::Changed { node, change } => self.changed(node, change),
            Effect::Answered { attempt, answer } => self.write_answered(attempt, &answer),
            Effect::Read { attempt, answer } => self.read_answered(attempt, &answer),
        }
    }

    fn sent(&mut self, from: u64, to: u64, message: Message) {
        let now = self.now();
        self.trace.note(now, &[Kind::Sent as u64, from, to], || {
            format!("n{from} -> n{to} {message:?}")
        });
        let bytes = std::mem::take(&mut self.buffer);
        let bytes = postcard::to_extend(&message, bytes).expect("messages have an encoding");
        self.trace.bytes(&bytes);
        self.buffer = bytes;
        self.buffer.clear();
        self.counts.messages += 1;
        let disk = lock(&self.members[from as usize - 1].disk);
        self.invariants.message(from, to, &message, &disk.log);
        drop(disk);
        self.carry(from, to, message);
    }

    fn carry(&mut self, from: u64, to: u64, message: Message) {
        let link = self.links.get(from, to);
        let network = &self.plan.params.network;
        let (loss, duplicate) = match self.healed {
            true => (0, 0),
            false => (network.loss_permille, network.duplicate_permille),
        };
        let (shortest, longest) = (network.delay_min_us, network.delay_max_us);
        let lost = self.rng.permille(loss) || self.rng.permille(link.loss_permille);
        if link.cut || lost {
            return;
        }
        if self.rng.permille(duplicate) {
            let delay = self.rng.within(shortest..10 * longest + 1) * MICROSECOND;
            let message = Box::new(message.clone());
            self.schedule(delay, Event::Deliver { from, to, message });
        }
        let slower = self.rng.within(0..link.delay_ms * MILLISECOND + 1);
        let delay = self.rng.within(shortest..longest + 1) * MICROSECOND + slower;
        let mut at = self.now() + delay;
        if self.healed && matches!(message.body, Body::Append { .. }) {
            at = self.lanes.in_order(from, to, at);
        }
        let message = Box::new(message);
        self.schedule_at(at, Event::Deliver { from, to, message });
    }

    fn applied(&mut self, node: u64, from: LogIndex, batch: &Batch) {
        let now = self.now();
        let last = batch.last.index;
        let numbers = [
            Kind::Applied as u64,
            node,
            last.value(),
            batch.last.term.value(),
        ];
        self.trace.note(now, &numbers, || {
            format!("n{node} has applied {}", batch.last)
        });
        let disks: Vec<_> = self
            .members
            .iter()
            .map(|member| lock(&member.disk))
            .collect();
        let log = |node: u64| disks.get(node as usize - 1).map(|disk| &disk.log);
        let mut commands = batch.commands.iter();
        for index in from.next().value()..=last.value() {
            let entry = log(node).and_then(|log: &MemLog| log.get(LogIndex::new(index)));
            let Some(entry) = entry else {
                let detail = || format!("n{node} applies {index}, which its disk does not hold");
                return self
                    .invariants
                    .require("applied is durable here", false, detail);
            };
            let known = self.invariants.committed().len();
            self.invariants.applies(node, entry, log);
            if let Payload::Command(data) = &entry.payload {
                let given = commands.next();
                let same = given.is_some_and(|given| given.id == entry.id && given.data == data);
                let detail = || format!("n{node} applies {given:?} for {entry:?}");
                self.invariants.require("applied as written", same, detail);
                if self.invariants.committed().len() > known {
                    self.clients.committed(entry.id.index, Write::decode(data));
                }
            }
        }
        let rest = commands.next().is_none();
        self.invariants.require("applied as written", rest, || {
            format!("n{node} applies more commands up to {last} than there are")
        });
    }

    /// The state of a snapshot is that after the entries that were committed up to it.
    fn installed(&mut self, node: u64, state: &Registers) {
        let (now, last) = (self.now(), state.applied);
        let numbers = [Kind::Installed as u64, node, last.index.value()];
        self.trace
            .note(now, &numbers, || format!("n{node} has installed {last}"));
        if self.invariants.byzantine {
            return;
        }
        let mut values = BTreeMap::new();
        let mut end = ORIGIN;
        let committed = self.invariants.committed().iter();
        for entry in committed.take_while(|entry| entry.id.index <= last.index) {
            if let Payload::Command(data) = &entry.payload {
                let write = Write::decode(data);
                values.insert(write.key, write.operation);
            }
            end = entry.id;
        }
        let same = end == last && values == state.values;
        self.invariants.require("equal states", same, || {
            format!("n{node} installs a state up to {last} that nobody else had")
        });
    }

    fn changed(&mut self, node: u64, change: LeaderChange) {
        let now = self.now();
        let leader = change.leader.map_or(0, quorate_consensus::NodeId::value);
        let numbers = [Kind::Changed as u64, node, change.term.value(), leader];
        self.trace
            .note(now, &numbers, || format!("n{node} {change:?}"));
        self.member_mut(node).undisturbed_since = now;
        if change.role == Role::Leader {
            self.counts.elections += 1;
            self.invariants.leads(node, change.term);
            let disk = &lock(&self.members[node as usize - 1].disk).log;
            self.invariants.leads_with(node, change.term, disk);
        }
    }

    /// The others notice that `node` has ended, each at its own time.
    pub(super) fn notice_end(&mut self, node: u64) {
        let others = (1..=self.members.len() as u64).filter(|&other| other != node);
        for other in others.collect::<Vec<_>>() {
            let delay = self.rng.within(0..1_000) * MILLISECOND;
            let event = Event::Disconnected {
                node: other,
                peer: id(node).value(),
            };
            self.schedule(delay, event);
        }
    }
}
