//! Those who write and read, what they are told, and whether it was true.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_consensus::{LogIndex, NodeId, ProposeError, ReadError};

use super::clock::MILLISECOND;
use super::executor::lock;
use super::invariants::Invariants;
use super::seams::{Effect, Write, number, numbers};
use super::world::{Event, World};
use crate::params;
use crate::rng::Rng;

/// How long a client waits at most before it asks again, after it was told "not here" or "not now".
const BACKOFF_MAX_MS: u64 = 100;

/// All clients and their books.
pub(super) struct Clients {
    clients: Vec<Client>,
    operations: u64,
    attempts: u64,
    /// Attempts without an answer yet.
    asked: BTreeMap<u64, Asked>,
    /// By number of the operation, of every write that was begun.
    writes: BTreeMap<u64, Told>,
    /// Where each committed operation stands; twice would be a second place.
    places: BTreeMap<u64, Vec<LogIndex>>,
    /// Who wrote each key, in order.
    written: BTreeMap<u64, Vec<(LogIndex, u64)>>,
}

#[derive(Default)]
struct Client {
    current: Option<Operation>,
    /// Who leads, as the last answer said.
    hint: Option<u64>,
    /// Counts its turns; only the last one that was scheduled is taken.
    turn: u64,
    /// What it got done since the cluster was healed.
    wrote: bool,
    read: bool,
}

#[derive(Clone, Copy)]
struct Operation {
    number: u64,
    what: What,
    /// What had been seen by anybody when it began.
    floor: LogIndex,
    after_healing: bool,
}

#[derive(Clone, Copy)]
enum What {
    Write { key: u64, bytes: u64 },
    Read { key: u64 },
}

struct Asked {
    client: u64,
    operation: Operation,
    node: u64,
}

/// What a client was told of a write.
#[derive(Default)]
struct Told {
    at: Option<LogIndex>,
    unknown: bool,
}

impl Clients {
    pub(super) fn new(params: &params::Clients) -> Self {
        Self {
            clients: (0..params.count).map(|_| Client::default()).collect(),
            operations: 0,
            attempts: 0,
            asked: BTreeMap::new(),
            writes: BTreeMap::new(),
            places: BTreeMap::new(),
            written: BTreeMap::new(),
        }
    }

    /// `write` is committed at `index`.
    pub(super) fn committed(&mut self, index: LogIndex, write: Write) {
        self.places.entry(write.operation).or_default().push(index);
        let written = self.written.entry(write.key).or_default();
        written.push((index, write.operation));
    }

    /// Which operation had written `key` last at `index`.
    fn value(&self, key: u64, index: LogIndex) -> u64 {
        let Some(written) = self.written.get(&key) else {
            return 0;
        };
        let count = written.partition_point(|&(at, _)| at <= index);
        count.checked_sub(1).map_or(0, |last| written[last].1)
    }

    /// Whether every client has written and read since the healing.
    pub(super) fn all_served(&self) -> bool {
        self.clients
            .iter()
            .all(|client| client.wrote && client.read)
    }

    /// What clients were told is true: what was acknowledged is where they were told, what failed for
    /// sure is nowhere, nothing is there twice, and nobody still waits.
    pub(super) fn check(&self, invariants: &mut Invariants) {
        for (number, told) in &self.writes {
            let places = self.places.get(number).map_or(&[][..], Vec::as_slice);
            let kept = match told.at {
                Some(at) => places == [at],
                None if told.unknown => places.len() <= 1,
                None => places.is_empty(),
            };
            invariants.require("answers are true", kept, || {
                let (at, unknown) = (told.at, told.unknown);
                format!("write {number} was told {at:?} (unknown: {unknown}), is at {places:?}")
            });
        }
        for (attempt, asked) in &self.asked {
            invariants.require("nobody is forgotten", false, || {
                let (number, node) = (asked.operation.number, asked.node);
                format!("attempt {attempt} of operation {number} waits at n{node} for ever")
            });
        }
    }
}

impl World {
    pub(super) fn client_turn(&mut self, client: u64, turn: u64) {
        if self.clients.clients[client as usize].turn != turn {
            return;
        }
        if self.clients.clients[client as usize].current.is_none() {
            let Some(operation) = self.next_operation(client) else {
                return;
            };
            self.clients.clients[client as usize].current = Some(operation);
            let patience = self.plan.params.clients.patience_ms * MILLISECOND;
            let number = operation.number;
            if let What::Write { .. } = operation.what {
                self.clients.writes.insert(number, Told::default());
            }
            let event = Event::ClientGivesUp {
                client,
                operation: number,
            };
            self.schedule(patience, event);
        }
        self.ask(client);
    }

    fn next_operation(&mut self, client: u64) -> Option<Operation> {
        let params = &self.plan.params.clients;
        let rng = &mut self.rng;
        let key = rng.within(0..params.keys);
        let Client { wrote, read, .. } = self.clients.clients[client as usize];
        let what = match self.healed {
            true if wrote && read => return None,
            true if wrote => What::Read { key },
            true => What::Write { key, bytes: 0 },
            false if rng.chance(params.read_percent) => What::Read { key },
            // One byte more than a command may have is refused, and says so.
            false => What::Write {
                key,
                bytes: rng.within(0..params.value_bytes_max + 2),
            },
        };
        self.clients.operations += 1;
        Some(Operation {
            number: self.clients.operations,
            what,
            floor: self.invariants.floor(),
            after_healing: self.healed,
        })
    }

    /// Sends the client's operation to whom it takes for the leader, or to anybody.
    fn ask(&mut self, client: u64) {
        let nodes = self.plan.params.nodes();
        let Client { current, hint, .. } = &mut self.clients.clients[client as usize];
        let Some(operation) = *current else { return };
        let trusted = hint.take().filter(|_| self.rng.chance(90));
        let node = trusted.unwrap_or_else(|| self.rng.within(1..nodes + 1));
        self.clients.attempts += 1;
        let attempt = self.clients.attempts;
        let Some(process) = self.process_of(node) else {
            return self.ask_again(client);
        };
        let handle = process.handle.clone();
        self.clients.asked.insert(
            attempt,
            Asked {
                client,
                operation,
                node,
            },
        );
        let effects = Arc::clone(&self.effects);
        match operation.what {
            What::Write { key, bytes } => {
                let write = Write {
                    operation: operation.number,
                    key,
                };
                handle.propose_then(write.encode(bytes), move |answer| {
                    lock(&effects).push(Effect::Answered { attempt, answer });
                });
            }
            What::Read { key } => handle.query_then(numbers(&[key]), move |answer| {
                lock(&effects).push(Effect::Read { attempt, answer });
            }),
        }
    }

    fn ask_again(&mut self, client: u64) {
        let backoff = self.rng.within(1..BACKOFF_MAX_MS) * MILLISECOND;
        self.schedule_turn(client, backoff);
    }

    pub(super) fn schedule_turn(&mut self, client: u64, after: u64) {
        let turn = &mut self.clients.clients[client as usize].turn;
        *turn += 1;
        let turn = *turn;
        self.schedule(after, Event::ClientTurn { client, turn });
    }

    pub(super) fn client_gives_up(&mut self, client: u64, operation: u64) {
        let current = self.clients.clients[client as usize].current;
        if current.is_some_and(|current| current.number == operation) {
            self.finish(client, false);
        }
    }

    /// The client is done with its operation, and begins another one in a while.
    fn finish(&mut self, client: u64, served: bool) {
        let state = &mut self.clients.clients[client as usize];
        let operation = state.current.take();
        if let Some(operation) = operation.filter(|operation| served && operation.after_healing) {
            match operation.what {
                What::Write { .. } => state.wrote = true,
                What::Read { .. } => state.read = true,
            }
        }
        let think_max = self.plan.params.clients.think_max_ms;
        let think = think(&mut self.rng, think_max);
        self.schedule_turn(client, think);
    }

    /// Takes the question that an answer belongs to; whether its client still waits for it.
    fn answered(
        &mut self,
        attempt: u64,
        node_said: u64,
        what: impl FnOnce() -> String,
    ) -> Option<(Asked, bool)> {
        let now = self.now();
        self.trace.note(now, &[attempt, node_said], || {
            format!("attempt {attempt} is answered: {}", what())
        });
        self.counts.operations += 1;
        let asked = self.clients.asked.remove(&attempt);
        self.invariants
            .require("answered once", asked.is_some(), || {
                format!("attempt {attempt} is answered twice")
            });
        let asked = asked?;
        let current = self.clients.clients[asked.client as usize].current;
        let waits = current.is_some_and(|current| current.number == asked.operation.number);
        Some((asked, waits))
    }

    pub(super) fn write_answered(&mut self, attempt: u64, answer: &Result<Bytes, ProposeError>) {
        let at = answer.as_ref().map_or(0, |answer| number(answer, 0));
        let Some((asked, waits)) = self.answered(attempt, at, || format!("{answer:?}")) else {
            return;
        };
        let told = self.clients.writes.entry(asked.operation.number);
        let told = told.or_default();
        match answer {
            Ok(_) => {
                let at = LogIndex::new(at);
                told.at = Some(at);
                if waits {
                    self.counts.acknowledged += 1;
                    self.invariants.acknowledged(asked.operation.floor, at);
                    self.clients.clients[asked.client as usize].hint = Some(asked.node);
                    self.finish(asked.client, true);
                }
            }
            Err(ProposeError::NotLeader { leader }) => self.told_leader(&asked, waits, *leader),
            Err(ProposeError::Overloaded | ProposeError::Stopped) => {
                self.told_leader(&asked, waits, None);
            }
            Err(ProposeError::OutcomeUnknown { .. }) => {
                told.unknown = true;
                if waits {
                    self.finish(asked.client, false);
                }
            }
            Err(_) if waits => self.finish(asked.client, false),
            Err(_) => {}
        }
    }

    pub(super) fn read_answered(&mut self, attempt: u64, answer: &Result<Bytes, ReadError>) {
        let seen = answer.as_ref().map_or(0, |answer| number(answer, 0));
        let Some((asked, waits)) = self.answered(attempt, seen, || format!("{answer:?}")) else {
            return;
        };
        match answer {
            Ok(answer) => {
                let (seen, value) = (LogIndex::new(seen), number(answer, 1));
                let What::Read { key } = asked.operation.what else {
                    return;
                };
                let expected = self.clients.value(key, seen);
                self.invariants
                    .require("reads are true", value == expected, || {
                        format!("key {key} is {value} at {seen}, but {expected} was written")
                    });
                if waits {
                    self.counts.reads += 1;
                    self.invariants.read(asked.operation.floor, seen);
                    self.clients.clients[asked.client as usize].hint = Some(asked.node);
                    self.finish(asked.client, true);
                }
            }
            Err(ReadError::NotLeader { leader }) => self.told_leader(&asked, waits, *leader),
            Err(_) => self.told_leader(&asked, waits, None),
        }
    }

    /// Nothing happened, and `leader` may know more.
    fn told_leader(&mut self, asked: &Asked, waits: bool, leader: Option<NodeId>) {
        if waits {
            self.clients.clients[asked.client as usize].hint = leader.map(NodeId::value);
            self.ask_again(asked.client);
        }
    }
}

fn think(rng: &mut Rng, think_max_ms: u64) -> u64 {
    rng.within(1..think_max_ms + 1) * MILLISECOND
}
