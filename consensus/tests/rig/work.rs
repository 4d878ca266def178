//! How the rig carries out what nodes want.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_consensus::{
    Body, Chunk, ChunkWanted, Committed, Entry, EntryId, Fatal, LogIndex, LogStore, Message,
    Payload, Ready, Take, TakeStep, persist,
};

use super::machine::{Job, Scan};
use super::{MemLog, Rig, id};

/// How many entries a piece of a snapshot has.
const PIECE_ENTRIES: usize = 4;

/// The ids of `entries`: a snapshot holds what is committed, so that says all.
fn encode(entries: &[Entry]) -> Bytes {
    let ids = entries.iter().map(|entry| entry.id);
    let numbers = ids.flat_map(|id| [id.term.value(), id.index.value()]);
    numbers.flat_map(u64::to_le_bytes).collect()
}

fn decode(data: &[u8], committed: &[Entry]) -> Option<Vec<Entry>> {
    let (ids, []) = data.as_chunks::<16>() else {
        return None;
    };
    let entry = |id: &[u8; 16]| {
        committed
            .iter()
            .find(|entry| encode(&[(*entry).clone()]) == id[..])
    };
    ids.iter().map(|id| entry(id).cloned()).collect()
}

/// A state machine cannot tell that the snapshot of a member that lies is not what was committed.
fn made_up(last: EntryId) -> Vec<Entry> {
    let first = quorate_consensus::FIRST_INDEX.value();
    let indexes = first..=last.index.value().min(first + MADE_UP_MAX);
    let entries = indexes.map(|index| Entry::empty(EntryId::new(last.term, LogIndex::new(index))));
    entries.collect()
}

/// How many entries a snapshot may claim that was made up.
const MADE_UP_MAX: u64 = 20_000;

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
        slot.fetches.extend(ready.fetches);
        slot.disk
            .queue
            .extend(ready.append.map(|append| (due, append)));
        let machine = &mut slot.machine;
        machine.queue.extend(ready.install.map(Job::Install));
        machine
            .queue
            .extend(ready.take_snapshot.then_some(Job::Snapshot));
        if ready.release_snapshot {
            machine.source = None;
        }
        machine
            .queue
            .extend(ready.committed.into_iter().map(Job::Apply));
        machine.queue.extend(ready.reads.into_iter().map(Job::Read));
        slot.changes.extend(ready.change);
        slot.events.extend(ready.events);
        if let Some(stop) = &ready.stop {
            slot.diverged |= matches!(stop, Fatal::StateDiverged { .. });
            slot.stopped = Some(stop.to_string());
        }
        self.membership_changes
            .extend(ready.changed.map(|outcome| (node, outcome)));
        let slot = self.slots.get_mut(&node).expect("a member");
        let scan = slot.machine.scan.as_mut().filter(|_| ready.scan);
        let scanned = scan.map(Scan::read_on);
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
        for take in ready.take {
            self.take(node, take);
        }
        for wanted in ready.chunks {
            self.give(node, wanted);
        }
        if let Some((at, digest)) = scanned {
            self.core(node).handle_scanned(at, digest);
        }
        self.check(node);
        true
    }

    fn send(&mut self, from: u64, to: u64, message: &Message) {
        if self.setup.record {
            self.sent.push((from, to, message.clone()));
        }
        let entries = match &message.body {
            Body::Append { entries, .. } => !entries.is_empty(),
            body => matches!(body, Body::Snapshot { .. }),
        };
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
        let mut busy = false;
        // As the writer does it, whose own tests hold it: what was asked for before it is cut off comes before that.
        if appends.iter().any(|append| append.write().cut.is_some()) {
            busy |= self.turn_fetches(node);
        }
        let slot = self.slots.get_mut(&node).expect("a member");
        if !appends.is_empty() {
            busy = true;
            let ticket = persist(&mut slot.disk, appends).unwrap();
            self.core(node).handle_persisted(ticket);
        }
        busy |= self.turn_fetches(node);
        if busy {
            self.check(node);
        }
        busy
    }

    fn turn_fetches(&mut self, node: u64) -> bool {
        let mut busy = false;
        while let Some(fetch) = self.slot_mut(node).fetches.pop_front() {
            busy = true;
            self.fetched += 1;
            let bytes_max = self.core(node).config().message_bytes_max;
            let read = self.disk(node).read(fetch.first(), fetch.last(), bytes_max);
            self.core(node).handle_fetched(fetch, read.unwrap());
        }
        busy
    }

    pub(super) fn turn_machine(&mut self, node: u64) -> bool {
        let slot = self.slots.get_mut(&node).expect("a member");
        let machine = &mut slot.machine;
        if machine.stalled || machine.queue.is_empty() {
            return false;
        }
        let (mut installed, mut taken, mut scans) = (None, None, Vec::new());
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
                    let compare = entry.payload == Payload::Compare;
                    machine.applied.push(entry);
                    if compare {
                        machine.begin_scan(self.scan_pieces);
                        scans.push(machine.last());
                    }
                }
                Job::Install(last) => {
                    machine.applied.clone_from(&slot.disk.received[&last]);
                    machine.durable = machine.applied.len();
                    installed = Some(last.index);
                }
                Job::Snapshot => {
                    let snapshot = machine.applied[..machine.durable].to_vec();
                    taken = Some(snapshot.last().map(|entry| entry.id));
                    machine.source = Some(snapshot);
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
        let core = self.core(node);
        core.handle_applied(applied);
        if let Some(durable) = installed {
            core.handle_durable(durable);
        }
        for at in scans {
            core.handle_scan_begun(at, true);
        }
        if let Some(last) = taken {
            core.handle_snapshot_taken(last);
        }
        self.check(node);
        true
    }

    /// The sink of `node` does what it is asked for. A piece is the encoded entries themselves.
    fn take(&mut self, node: u64, take: Take) {
        let slot = self.slots.get_mut(&node).expect("a member");
        let sink = &mut slot.machine.sink;
        let accepted = match take.step {
            TakeStep::Begin(last) => {
                *sink = Some((last, Vec::new()));
                true
            }
            TakeStep::Add(data) => {
                let (_, entries) = sink.as_mut().expect("begun");
                let piece = decode(&data, self.checker.committed());
                let fits = piece.is_some() || self.checker.byzantine;
                entries.extend(piece.into_iter().flatten());
                fits
            }
            TakeStep::Finish => {
                let (last, mut entries) = sink.take().expect("begun");
                if self.checker.byzantine {
                    entries = made_up(last);
                }
                let whole = entries.last().map(|entry| entry.id) == Some(last);
                if whole {
                    slot.disk.received.insert(last, entries);
                }
                whole
            }
        };
        self.core(node).handle_taken(take.number, accepted);
        self.check(node);
    }

    /// `node` reads a piece of the snapshot that it gives away.
    fn give(&mut self, node: u64, wanted: ChunkWanted) {
        let Some(source) = &self.slots[&node].machine.source else {
            return;
        };
        let from = wanted
            .after
            .first_chunk()
            .map_or(0, |at| usize::from_le_bytes(*at));
        let to = (from + PIECE_ENTRIES).min(source.len());
        let place = |at: usize| Bytes::copy_from_slice(&at.to_le_bytes());
        let chunk = Chunk {
            data: encode(&source[from..to]),
            next: (to < source.len()).then(|| place(to)),
        };
        self.core(node).handle_chunk(wanted, chunk);
        self.check(node);
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
