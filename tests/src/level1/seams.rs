//! What a node is given instead of a network, a disk and a state machine. They carry out at once what
//! they are told, and note it for the world to check and to carry on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quorate_consensus::{
    Batch, Chunk, Cut, Entry, EntryId, HardState, LeaderChange, LogIndex, LogStore, LogWrite,
    Membership, Message, NodeId, ORIGIN, ProposeError, ReadError, SnapshotSink, SnapshotSource,
    StateMachine, StateMachineError, StateScan, StoreError, Transport, Undelivered,
};
use serde::{Deserialize, Serialize};

use super::executor::lock;
use super::log::{MemLog, Removed, mix};

/// What a part of a node has done.
pub(super) enum Effect {
    Sent {
        from: u64,
        to: u64,
        message: Message,
    },
    Wrote {
        node: u64,
        before: HardState,
        removed: Vec<Removed>,
        /// Where the log is new.
        first: LogIndex,
        /// Where it begins now, if that has changed.
        base: Option<EntryId>,
        /// Up to where the state was durable.
        durable: LogIndex,
    },
    Applied {
        node: u64,
        from: LogIndex,
        batch: Batch,
    },
    Installed {
        node: u64,
        state: Registers,
    },
    Changed {
        node: u64,
        change: LeaderChange,
    },
    Answered {
        attempt: u64,
        answer: Result<Bytes, ProposeError>,
    },
    Read {
        attempt: u64,
        answer: Result<Bytes, ReadError>,
    },
}

/// What happened since the world last looked, in order.
pub(super) type Effects = Arc<Mutex<Vec<Effect>>>;

/// Sends into the world.
pub(super) struct Wire {
    pub(super) node: u64,
    pub(super) effects: Effects,
    /// To whom connections are refused, as one bit for each node.
    pub(super) refused: Arc<Mutex<u64>>,
}

impl Transport for Wire {
    fn send(&mut self, to: NodeId, message: Message) -> Result<(), Undelivered> {
        let to = to.value();
        if *lock(&self.refused) & (1 << to) != 0 {
            return Err(Undelivered);
        }
        lock(&self.effects).push(Effect::Sent {
            from: self.node,
            to,
            message,
        });
        Ok(())
    }
}

/// A disk: what is written is durable, until it is told to fail.
pub(super) struct Disk {
    pub(super) log: MemLog,
    pub(super) fails: bool,
    /// It did, in the present life of its node.
    pub(super) has_failed: bool,
}

/// The log on a disk.
pub(super) struct Store {
    pub(super) node: u64,
    pub(super) disk: Arc<Mutex<Disk>>,
    pub(super) memory: Arc<Mutex<Memory>>,
    pub(super) effects: Effects,
}

impl LogStore for Store {
    fn append(&mut self, batch: &[LogWrite]) -> Result<(), StoreError> {
        let mut disk = lock(&self.disk);
        if disk.fails {
            disk.has_failed = true;
            return Err(StoreError::new("told to fail"));
        }
        let memory = lock(&self.memory);
        let received = memory.received.as_ref();
        let received = received.map_or(&[][..], |snapshot| &snapshot.log);
        for write in batch {
            let before = disk.log.hard_state();
            let end = disk.log.last().index.next();
            let mut first = write.entries.first().map_or(end, |entry| entry.id.index);
            if let Some(Cut::Restore { .. }) = write.cut {
                first = ORIGIN.index.next();
            }
            let removed = disk.log.write(write, received);
            lock(&self.effects).push(Effect::Wrote {
                node: self.node,
                before,
                removed,
                first,
                base: write.cut.is_some().then(|| disk.log.base()),
                durable: match write.cut {
                    Some(Cut::Restore { .. }) => disk.log.base().index,
                    _ => memory.durable.applied.index,
                },
            });
        }
        Ok(())
    }

    fn read(
        &self,
        first: LogIndex,
        last: LogIndex,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, StoreError> {
        lock(&self.disk).log.read(first, last, bytes_max)
    }
}

/// The state of the replicated registers after some entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Registers {
    pub(super) applied: EntryId,
    /// By key: which operation wrote last.
    pub(super) values: BTreeMap<u64, u64>,
}

/// The registers in memory, and as a crash would leave them.
pub(super) struct Memory {
    pub(super) now: Registers,
    pub(super) durable: Registers,
    /// A snapshot that is complete and was perhaps not installed yet; a crash leaves it.
    pub(super) received: Option<Snapshot>,
}

/// The registers after some entry, and the log up to it: no node could look at that, but what a log that
/// begins after a snapshot stands for can be compared with the others by it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Snapshot {
    pub(super) registers: Registers,
    pub(super) log: Vec<Entry>,
}

impl Memory {
    pub(super) fn new() -> Self {
        let empty = Registers {
            applied: ORIGIN,
            values: BTreeMap::new(),
        };
        Self {
            now: empty.clone(),
            durable: empty,
            received: None,
        }
    }

    /// What a process finds that starts on a log with this base.
    pub(super) fn restart(&mut self, base: EntryId) {
        if self.durable.applied.index < base.index
            && let Some(received) = &self.received
            && received.registers.applied == base
        {
            self.durable = received.registers.clone();
        }
        self.now = self.durable.clone();
    }
}

/// A state machine of registers, each holding the number of the operation that wrote it last.
pub(super) struct Machine {
    pub(super) node: u64,
    pub(super) memory: Arc<Mutex<Memory>>,
    pub(super) disk: Arc<Mutex<Disk>>,
    pub(super) effects: Effects,
}

impl StateMachine for Machine {
    fn applied(&self) -> EntryId {
        lock(&self.memory).now.applied
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
        let mut memory = lock(&self.memory);
        let registers = &mut memory.now;
        let from = registers.applied.index;
        let mut answers = Vec::new();
        for command in &batch.commands {
            let write = Write::decode(&command.data);
            registers.values.insert(write.key, write.operation);
            answers.push(numbers(&[command.id.index.value()]));
        }
        registers.applied = batch.last;
        lock(&self.effects).push(Effect::Applied {
            node: self.node,
            from,
            batch: batch.clone(),
        });
        Ok(answers)
    }

    fn query(&mut self, query: &[u8]) -> Result<Bytes, StateMachineError> {
        let memory = lock(&self.memory);
        let key = number(query, 0);
        let value = memory.now.values.get(&key).copied().unwrap_or_default();
        Ok(numbers(&[memory.now.applied.index.value(), value]))
    }

    fn checkpoint(&mut self) -> Result<(), StateMachineError> {
        let mut memory = lock(&self.memory);
        memory.durable = memory.now.clone();
        Ok(())
    }

    fn durable(&mut self) -> Result<EntryId, StateMachineError> {
        Ok(lock(&self.memory).durable.applied)
    }

    fn snapshot(&mut self) -> Result<Option<Box<dyn SnapshotSource>>, StateMachineError> {
        let registers = lock(&self.memory).durable.clone();
        let disk = lock(&self.disk);
        let log = disk.log.entries().iter();
        let log = log.take_while(|entry| entry.id.index <= registers.applied.index);
        let log = log.cloned().collect();
        Ok(Some(Box::new(Source(Snapshot { registers, log }))))
    }

    fn sink(&mut self) -> Option<Box<dyn SnapshotSink>> {
        Some(Box::new(Sink {
            memory: Arc::clone(&self.memory),
            last: ORIGIN,
            bytes: Vec::new(),
        }))
    }

    fn install(&mut self, last: EntryId) -> Result<(), StateMachineError> {
        let mut memory = lock(&self.memory);
        let received = memory.received.as_ref();
        let received = received.filter(|snapshot| snapshot.registers.applied == last);
        let Some(received) = received else {
            let error = format!("no snapshot up to {last} was received");
            return Err(StateMachineError::new(error));
        };
        let state = received.registers.clone();
        memory.now = state.clone();
        memory.durable = state.clone();
        lock(&self.effects).push(Effect::Installed {
            node: self.node,
            state,
        });
        Ok(())
    }

    fn scan(&mut self) -> Result<Option<Box<dyn StateScan>>, StateMachineError> {
        let values = lock(&self.memory).now.values.clone();
        Ok(Some(Box::new(Scan(values))))
    }

    fn close(&mut self) -> Result<(), StateMachineError> {
        self.checkpoint()
    }
}

/// The registers as they were.
struct Scan(BTreeMap<u64, u64>);

impl StateScan for Scan {
    fn read_on(&mut self, _bytes_max: u64) -> Result<Option<u64>, StateMachineError> {
        let fold = |digest, (&key, &value)| mix(mix(digest, key), value);
        Ok(Some(self.0.iter().fold(0, fold)))
    }
}

/// Gives a snapshot away in one to three pieces.
struct Source(Snapshot);

impl Source {
    fn pieces(&self) -> usize {
        1 + self.0.registers.applied.index.value() as usize % 3
    }
}

impl SnapshotSource for Source {
    fn last(&self) -> EntryId {
        self.0.registers.applied
    }

    fn chunk(&mut self, after: &[u8], _bytes_max: u64) -> Result<Chunk, StateMachineError> {
        let bytes = postcard::to_stdvec(&self.0).map_err(StateMachineError::new)?;
        let at = after.first().copied().unwrap_or_default();
        let pieces = self.pieces();
        let place = |at: usize| bytes.len() * at.min(pieces) / pieces;
        let data = Bytes::copy_from_slice(&bytes[place(at.into())..place(usize::from(at) + 1)]);
        let next = (usize::from(at) + 1 < pieces).then(|| Bytes::from(vec![at + 1]));
        Ok(Chunk { data, next })
    }
}

/// Takes one in; what is not finished is gone with the process.
struct Sink {
    memory: Arc<Mutex<Memory>>,
    last: EntryId,
    bytes: Vec<u8>,
}

impl SnapshotSink for Sink {
    fn begin(&mut self, last: EntryId) -> Result<(), StateMachineError> {
        (self.last, self.bytes) = (last, Vec::new());
        Ok(())
    }

    fn add(&mut self, data: &[u8]) -> Result<bool, StateMachineError> {
        self.bytes.extend_from_slice(data);
        Ok(true)
    }

    fn finish(&mut self) -> Result<bool, StateMachineError> {
        let snapshot = postcard::from_bytes::<Snapshot>(&self.bytes).ok();
        let snapshot = snapshot.filter(|snapshot| snapshot.registers.applied == self.last);
        let whole = snapshot.is_some();
        if whole {
            lock(&self.memory).received = snapshot;
        }
        Ok(whole)
    }
}

/// A command: which operation writes to which key. Operations are numbered from one, and no number
/// is used twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Write {
    pub(super) operation: u64,
    pub(super) key: u64,
}

impl Write {
    /// The command, filled up to `bytes`.
    pub(super) fn encode(self, bytes: u64) -> Bytes {
        let mut command = numbers(&[self.operation, self.key]).to_vec();
        command.resize(command.len().max(bytes as usize), 0);
        command.into()
    }

    pub(super) fn decode(command: &[u8]) -> Self {
        Self {
            operation: number(command, 0),
            key: number(command, 1),
        }
    }
}

pub(super) fn numbers(numbers: &[u64]) -> Bytes {
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
    bytes.collect()
}

pub(super) fn number(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes[8 * at..8 * at + 8].try_into();
    u64::from_le_bytes(bytes.expect("eight bytes"))
}

pub(super) fn new_disk(membership: Membership) -> Arc<Mutex<Disk>> {
    Arc::new(Mutex::new(Disk {
        log: MemLog::new(membership),
        fails: false,
        has_failed: false,
    }))
}
