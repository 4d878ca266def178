//! A register as it should be, with clients that use it at the same time: histories made from it are
//! linearizable by construction, and their log is known.

use std::collections::BTreeMap;

use quorate_tests::check::history::{Answer, Event, History, Key, Kind, Operation, Value};
use quorate_tests::check::witness::CommittedLog;
use quorate_tests::rng::Rng;

/// What a history is made of.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) operations: u64,
    pub(crate) clients: usize,
    pub(crate) keys: u64,
    /// In percent: how many operations have an unknown outcome.
    pub(crate) unknown: u64,
    /// In percent: how many remove a key.
    pub(crate) removals: u64,
}

/// A history and the log behind it.
pub(crate) struct Made {
    pub(crate) history: History,
    pub(crate) log: CommittedLog,
}

/// A client between two events.
#[derive(Clone)]
enum Stage {
    Idle,
    Invoked(u64, Operation),
    Applied(u64, Answer, u64),
}

struct World {
    rng: Rng,
    shape: Shape,
    history: History,
    log: CommittedLog,
    state: BTreeMap<Key, Value>,
    index: u64,
    invoked: u64,
    values: Value,
    clients: Vec<(u64, Stage)>,
    numbers: u64,
    /// Left behind by clients that gave up: they take effect at some time, or never.
    floating: Vec<Operation>,
}

/// The history of `seed`.
pub(crate) fn history(seed: u64, shape: Shape) -> Made {
    let numbers = shape.clients as u64;
    let mut world = World {
        rng: Rng::new(seed),
        shape,
        history: History::default(),
        log: CommittedLog::new(),
        state: BTreeMap::new(),
        index: 1,
        invoked: 0,
        values: 0,
        clients: (1..=numbers).map(|client| (client, Stage::Idle)).collect(),
        numbers,
        floating: Vec::new(),
    };
    while world.turn() {}
    Made {
        history: world.history,
        log: world.log,
    }
}

impl World {
    /// One event; false when there is none left.
    fn turn(&mut self) -> bool {
        if !self.floating.is_empty() && self.rng.chance(10) {
            let late = self.rng.within(0..self.floating.len() as u64) as usize;
            let operation = self.floating.swap_remove(late);
            if self.rng.chance(50) {
                self.apply(operation);
            }
        }
        let busy = |(_, stage): &(u64, Stage)| !matches!(stage, Stage::Idle);
        if self.invoked == self.shape.operations && !self.clients.iter().any(busy) {
            return false;
        }
        let at = self.rng.within(0..self.clients.len() as u64) as usize;
        let (client, stage) = self.clients[at].clone();
        let stage = match stage {
            Stage::Idle if self.invoked == self.shape.operations => Stage::Idle,
            Stage::Idle => {
                let (op_id, operation) = (self.invoked, self.operation());
                self.invoked += 1;
                self.record(client, op_id, Kind::Invoke(operation));
                Stage::Invoked(op_id, operation)
            }
            Stage::Invoked(op_id, operation) if self.rng.chance(self.shape.unknown) => {
                if !operation.is_read() {
                    self.floating.push(operation);
                }
                self.record(client, op_id, Kind::Unknown);
                self.numbers += 1;
                self.clients[at].0 = self.numbers;
                Stage::Idle
            }
            Stage::Invoked(op_id, operation) => {
                let (answer, index) = self.apply(operation);
                Stage::Applied(op_id, answer, index)
            }
            Stage::Applied(op_id, answer, index) => {
                let index = Some(index);
                self.record(client, op_id, Kind::Ok { answer, index });
                Stage::Idle
            }
        };
        self.clients[at].1 = stage;
        true
    }

    fn record(&mut self, client: u64, op_id: u64, kind: Kind) {
        let seq = self.history.events.len() as u64;
        self.history.events.push(Event {
            seq,
            at_ns: seq * 1000,
            client,
            op_id,
            kind,
        });
    }

    fn operation(&mut self) -> Operation {
        let key = self.rng.within(0..self.shape.keys);
        if self.rng.chance(self.shape.removals) {
            return match self.rng.within(0..2) {
                0 => Operation::Delete { key },
                _ => Operation::CompareAndSet {
                    key,
                    expected: self.expectation(key),
                    value: None,
                },
            };
        }
        self.values += 1;
        let value = self.values;
        match self.rng.within(0..20) {
            0..9 => Operation::Get { key },
            9 => Operation::Scan,
            10..15 => Operation::Put { key, value },
            _ => Operation::CompareAndSet {
                key,
                expected: self.expectation(key),
                value: Some(value),
            },
        }
    }

    /// Mostly what is there, so that swaps succeed.
    fn expectation(&mut self, key: Key) -> Option<Value> {
        match self.rng.within(0..10) {
            0 => None,
            1 if self.values > 1 => Some(self.rng.within(1..self.values)),
            _ => self.state.get(&key).copied(),
        }
    }

    fn apply(&mut self, operation: Operation) -> (Answer, u64) {
        if operation.is_read() {
            let answer = match operation {
                Operation::Get { key } => Answer::Value(self.state.get(&key).copied()),
                _ => Answer::Pairs(self.state.iter().map(|(k, v)| (*k, *v)).collect()),
            };
            return (answer, self.index);
        }
        self.index += 1;
        self.log.insert(self.index, operation);
        (self.write(operation), self.index)
    }

    fn write(&mut self, operation: Operation) -> Answer {
        let (key, value) = (operation.key().unwrap(), operation.writes());
        let before = self.state.get(&key).copied();
        let answer = match operation {
            Operation::Delete { .. } => Answer::Deleted {
                existed: before.is_some(),
            },
            Operation::CompareAndSet { expected, .. } if before != expected => {
                return Answer::NotSwapped { current: before };
            }
            Operation::CompareAndSet { .. } => Answer::Swapped,
            _ => Answer::Written,
        };
        match value {
            Some(value) => self.state.insert(key, value),
            None => self.state.remove(&key),
        };
        answer
    }
}
