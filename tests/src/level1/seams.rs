//! What a node is given instead of a network, a disk and a state machine. They carry out at once what
//! they are told, and note it for the world to check and to carry on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quorate_consensus::{
    Batch, Entry, EntryId, HardState, LeaderChange, LogIndex, LogStore, LogWrite, Membership,
    Message, NodeId, ORIGIN, ProposeError, ReadError, StateMachine, StateMachineError, StoreError,
    Transport, Undelivered,
};

use super::executor::lock;
use super::log::{MemLog, Removed};

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
    },
    Applied {
        node: u64,
        from: LogIndex,
        batch: Batch,
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
    pub(super) effects: Effects,
}

impl LogStore for Store {
    fn append(&mut self, batch: &[LogWrite]) -> Result<(), StoreError> {
        let mut disk = lock(&self.disk);
        if disk.fails {
            disk.has_failed = true;
            return Err(StoreError::new("told to fail"));
        }
        for write in batch {
            let before = disk.log.hard_state();
            let end = disk.log.last().index.next();
            let first = write.entries.first().map_or(end, |entry| entry.id.index);
            let removed = disk.log.write(write);
            lock(&self.effects).push(Effect::Wrote {
                node: self.node,
                before,
                removed,
                first,
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
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Registers {
    pub(super) applied: EntryId,
    /// By key: which operation wrote last.
    pub(super) values: BTreeMap<u64, u64>,
}

/// The registers in memory, and as a crash would leave them.
pub(super) struct Memory {
    pub(super) now: Registers,
    pub(super) durable: Registers,
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
        }
    }
}

/// A state machine of registers, each holding the number of the operation that wrote it last.
pub(super) struct Machine {
    pub(super) node: u64,
    pub(super) memory: Arc<Mutex<Memory>>,
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

    fn close(&mut self) -> Result<(), StateMachineError> {
        self.checkpoint()
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
