//! What clients asked and what they were told, in the order in which it happened.
//!
//! The rules of recording (they are what makes a verdict about a history a verdict about the store):
//!
//! - an invocation is recorded before the first byte leaves, an answer after it was decoded;
//! - what may or may not have happened is [`Kind::Unknown`], and only what certainly did not is
//!   [`Kind::Fail`];
//! - a client has one operation under way at most, and none ever again after an unknown one;
//! - every value is written by one operation only, so that who sees a value knows whose it is.
//!
//! [`calls`](super::calls) checks the last two.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A key. How it looks in the store is up to the workload.
pub type Key = u64;

/// A value, unique in its history.
pub type Value = u64;

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// The value of a key.
    Get {
        /// Which key.
        key: Key,
    },
    /// Sets a key.
    Put {
        /// Which key.
        key: Key,
        /// To what.
        value: Value,
    },
    /// Changes a key if it is as expected.
    CompareAndSet {
        /// Which key.
        key: Key,
        /// What it must be; `None` for absent.
        expected: Option<Value>,
        /// What it becomes; `None` for absent.
        value: Option<Value>,
    },
    /// Removes a key.
    Delete {
        /// Which key.
        key: Key,
    },
    /// All keys and values at one moment.
    Scan,
}

impl Operation {
    /// The key it is about; `None` for all of them.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        match self {
            Self::Get { key }
            | Self::Put { key, .. }
            | Self::CompareAndSet { key, .. }
            | Self::Delete { key } => Some(*key),
            Self::Scan => None,
        }
    }

    /// Whether it leaves everything as it is, whatever it finds.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::Scan)
    }

    /// The value that only this operation writes.
    #[must_use]
    pub fn writes(&self) -> Option<Value> {
        match self {
            Self::Put { value, .. } => Some(*value),
            Self::CompareAndSet { value, .. } => *value,
            Self::Get { .. } | Self::Delete { .. } | Self::Scan => None,
        }
    }
}

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To a get: the value, or `None` for absent.
    Value(Option<Value>),
    /// To a put.
    Written,
    /// To a compare-and-set: the key was as expected.
    Swapped,
    /// To a compare-and-set: the key was not as expected.
    NotSwapped {
        /// What it was instead.
        current: Option<Value>,
    },
    /// To a delete.
    Deleted {
        /// Whether the key was there.
        existed: bool,
    },
    /// To a scan: every pair, by key.
    Pairs(Vec<(Key, Value)>),
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A client is about to ask.
    Invoke(Operation),
    /// It was told.
    Ok {
        /// What it was told.
        answer: Answer,
        /// The index in the log at which the store says that it took effect.
        index: Option<u64>,
    },
    /// It was told that nothing happened, and nothing will.
    Fail,
    /// It does not know whether anything happened, or will.
    Unknown,
}

/// One thing that happened to one client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the history. What has the smaller one happened earlier.
    pub seq: u64,
    /// When it happened, in nanoseconds since some start. For people; order is in `seq`.
    pub at_ns: u64,
    /// To whom.
    pub client: u64,
    /// The operation that it begins or ends.
    pub op_id: u64,
    /// What happened.
    pub kind: Kind,
}

/// Events in their order.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct History {
    /// The events.
    pub events: Vec<Event>,
}

/// Why a saved history cannot be used.
#[derive(Debug)]
pub enum LoadError {
    /// The file cannot be read.
    Io(io::Error),
    /// A line, counted from one, is no event.
    Line(usize, serde_json::Error),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Line(line, error) => write!(f, "line {line} is no event of a history: {error}"),
        }
    }
}

impl std::error::Error for LoadError {}

impl History {
    /// Writes one event a line, as JSON.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        for event in &self.events {
            serde_json::to_writer(&mut out, event)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// [`LoadError`] names the line.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let lines = BufReader::new(File::open(path).map_err(LoadError::Io)?).lines();
        let mut events = Vec::new();
        for (number, line) in (1..).zip(lines) {
            let line = line.map_err(LoadError::Io)?;
            let event = serde_json::from_str(&line);
            events.push(event.map_err(|error| LoadError::Line(number, error))?);
        }
        Ok(Self { events })
    }
}

/// Where the clients of one run write down what happens to them. Clones write into the same history.
#[derive(Clone, Default)]
pub struct Recorder {
    recorded: Arc<Mutex<Recorded>>,
}

#[derive(Default)]
struct Recorded {
    history: History,
    clients: u64,
    operations: u64,
}

impl Recorder {
    /// A client that has not asked for anything yet.
    #[must_use]
    pub fn client(&self) -> RecordedClient {
        let client = self.recorded().next_client();
        RecordedClient {
            recorder: self.clone(),
            client,
            op_id: None,
        }
    }

    /// Everything so far. Clients go on with what they have under way in the next history, where it
    /// would be malformed; so it is for the end, or for moments when nothing is under way.
    #[must_use]
    pub fn take(&self) -> History {
        std::mem::take(&mut self.recorded().history)
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        // Every change is complete before its lines could panic.
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorded {
    fn next_client(&mut self) -> u64 {
        self.clients += 1;
        self.clients
    }

    fn push(&mut self, at: Duration, client: u64, op_id: u64, kind: Kind) {
        self.history.events.push(Event {
            seq: self.history.events.len() as u64,
            at_ns: u64::try_from(at.as_nanos()).expect("no run lasts 584 years"),
            client,
            op_id,
            kind,
        });
    }
}

/// One client of a history. After an operation with an unknown outcome it goes on under a new number.
pub struct RecordedClient {
    recorder: Recorder,
    client: u64,
    op_id: Option<u64>,
}

impl RecordedClient {
    /// The client is about to ask for `operation`. `at` is the time since the start of the run.
    ///
    /// # Panics
    ///
    /// While another operation is under way.
    pub fn invoke(&mut self, at: Duration, operation: Operation) {
        assert!(self.op_id.is_none(), "one operation at a time");
        let mut recorded = self.recorder.recorded();
        let op_id = recorded.operations;
        recorded.operations += 1;
        recorded.push(at, self.client, op_id, Kind::Invoke(operation));
        self.op_id = Some(op_id);
    }

    /// What came of it: anything but [`Kind::Invoke`].
    ///
    /// # Panics
    ///
    /// When nothing was under way.
    pub fn complete(&mut self, at: Duration, kind: Kind) {
        assert!(!matches!(kind, Kind::Invoke(_)), "that begins an operation");
        let op_id = self.op_id.take().expect("an operation is under way");
        let unknown = kind == Kind::Unknown;
        let mut recorded = self.recorder.recorded();
        recorded.push(at, self.client, op_id, kind);
        if unknown {
            self.client = recorded.next_client();
        }
    }
}
