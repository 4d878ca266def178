//! The operations of a history, carried out by a client of the key-value store.

use bytes::Bytes;
use quorate::kv::{self, Client, ClientError, Command, Outcome, Query, RANGE_LIMIT_MAX};

use super::history::{Answer, Key, Kind, Operation, Value};

/// Stands for a value that is no number: like every value that nobody wrote, it is a violation.
pub const FOREIGN: Value = Value::MAX;

/// Where the keys of one history lie in the store: keys and values are numbers in decimal, the keys behind
/// a prefix, so that several histories can be taken from one store.
#[derive(Clone, Debug)]
pub struct Keyspace {
    prefix: String,
}

impl Keyspace {
    /// The keys that begin with `prefix` and a stroke.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("{prefix}/"),
        }
    }

    /// Carries out `operation` and says how it ended, as a history wants to know it.
    pub async fn run(&self, client: &Client, operation: Operation) -> Kind {
        match self.request(operation) {
            Request::Command(command) => match client.execute(command).await {
                Ok(outcome) => written(&outcome),
                // That an answer made no sense says nothing about the write.
                Err(ClientError::OutcomeUnknown { .. } | ClientError::Nonsense { .. }) => {
                    Kind::Unknown
                }
                Err(_) => Kind::Fail,
            },
            Request::Query(query) => match client.query(query).await {
                Ok(answer) => self.found(&answer),
                Err(_) => Kind::Fail,
            },
        }
    }

    /// The operation that `command`, found in a log, stands for; `None` if it is of another history.
    #[must_use]
    pub fn operation(&self, command: &Command) -> Option<Operation> {
        Some(match command {
            Command::Put { key, value } => Operation::Put {
                key: self.key(key)?,
                value: number(value),
            },
            Command::Delete { key } => Operation::Delete {
                key: self.key(key)?,
            },
            Command::CompareAndSet {
                key,
                expected,
                value,
            } => Operation::CompareAndSet {
                key: self.key(key)?,
                expected: expected.as_ref().map(number),
                value: value.as_ref().map(number),
            },
            // Histories have no such operations.
            _ => return None,
        })
    }

    fn request(&self, operation: Operation) -> Request {
        let name = |key: Key| Bytes::from(format!("{}{key}", self.prefix));
        match operation {
            Operation::Get { key } => Request::Query(Query::Get { key: name(key) }),
            Operation::Scan => Request::Query(Query::Range {
                start: Bytes::from(self.prefix.clone()),
                // Digits come before the colon, and the stroke before them.
                end: Some(Bytes::from(format!("{}:", self.prefix))),
                limit: RANGE_LIMIT_MAX,
            }),
            Operation::Put { key, value } => Request::Command(Command::Put {
                key: name(key),
                value: text(value),
            }),
            Operation::Delete { key } => Request::Command(Command::Delete { key: name(key) }),
            Operation::CompareAndSet {
                key,
                expected,
                value,
            } => Request::Command(Command::CompareAndSet {
                key: name(key),
                expected: expected.map(text),
                value: value.map(text),
            }),
        }
    }

    fn found(&self, answer: &kv::Answer) -> Kind {
        match answer {
            kv::Answer::Value { value, revision } => {
                let value = value.as_ref().map(|value| number(&value.data));
                done(Answer::Value(value), *revision)
            }
            kv::Answer::Page {
                pairs,
                more,
                revision,
            } => {
                assert!(!more, "a history has fewer than {RANGE_LIMIT_MAX} keys");
                let pair = |pair: &kv::Pair| {
                    let key = self.key(&pair.key).unwrap_or(FOREIGN);
                    (key, number(&pair.value.data))
                };
                let mut pairs: Vec<_> = pairs.iter().map(pair).collect();
                // The store sorts by text.
                pairs.sort_unstable();
                done(Answer::Pairs(pairs), *revision)
            }
            kv::Answer::Refused(_)
            | kv::Answer::Lease { .. }
            | kv::Answer::BackupBegun { .. }
            | kv::Answer::BackupPiece(_)
            | kv::Answer::BackupEnded
            | kv::Answer::Leases { .. } => Kind::Fail,
        }
    }

    fn key(&self, key: &Bytes) -> Option<Key> {
        let text = std::str::from_utf8(key).ok()?;
        text.strip_prefix(&self.prefix)?.parse().ok()
    }
}

enum Request {
    Command(Command),
    Query(Query),
}

fn written(outcome: &Outcome) -> Kind {
    match outcome {
        Outcome::Written { revision } => done(Answer::Written, *revision),
        Outcome::Deleted { existed, revision } => {
            done(Answer::Deleted { existed: *existed }, *revision)
        }
        Outcome::Swapped { revision } => done(Answer::Swapped, *revision),
        Outcome::NotSwapped { current, revision } => {
            let current = current.as_ref().map(number);
            done(Answer::NotSwapped { current }, *revision)
        }
        // Refused, or of a kind that no history asks for.
        _ => Kind::Fail,
    }
}

fn done(answer: Answer, index: u64) -> Kind {
    let index = Some(index);
    Kind::Ok { answer, index }
}

fn text(value: Value) -> Bytes {
    Bytes::from(value.to_string())
}

fn number(value: &Bytes) -> Value {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(FOREIGN)
}
