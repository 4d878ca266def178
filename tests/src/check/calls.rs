//! A history as operations with a beginning and an end, and the rules it must keep to mean anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::history::{Answer, History, Key, Kind, Operation, Value};

/// One operation of a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// The client's number.
    pub client: u64,
    /// The operation's number.
    pub op_id: u64,
    /// What was asked.
    pub operation: Operation,
    /// The place of its invocation in the history.
    pub invoked: u64,
    /// How it ended.
    pub end: End,
}

/// How an operation ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// With an answer: it took effect once, between invocation and answer.
    Ok {
        /// The place of the answer in the history.
        returned: u64,
        /// The answer.
        answer: Answer,
        /// Where in the log the store says that it took effect.
        index: Option<u64>,
    },
    /// It took no effect, and never will.
    Failed,
    /// It takes effect once at any time after its invocation, or never.
    Unknown,
}

impl Call {
    /// The place of its answer in the history; later than everything when nothing is known of it.
    #[must_use]
    pub fn returned(&self) -> u64 {
        match self.end {
            End::Ok { returned, .. } => returned,
            End::Failed | End::Unknown => u64::MAX,
        }
    }

    /// Its answer, if it has one.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        match &self.end {
            End::Ok { answer, .. } => Some(answer),
            End::Failed | End::Unknown => None,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client,
            op_id,
            operation,
            invoked,
            end,
        } = self;
        write!(f, "operation {op_id} of client {client}: {operation:?}")?;
        match end {
            End::Ok {
                returned, answer, ..
            } => write!(f, " gave {answer:?}, from event {invoked} to {returned}"),
            End::Failed => write!(f, " failed, from event {invoked}"),
            End::Unknown => write!(f, " has an unknown outcome, from event {invoked}"),
        }
    }
}

/// How a history breaks the rules of recording: a fault of the test, not of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// An event is not after the one before it.
    OutOfOrder {
        /// Its place.
        seq: u64,
    },
    /// A client asked before it was told, or after it could not be told.
    Busy {
        /// Where it asked.
        seq: u64,
    },
    /// An operation ended that was not under way.
    NotUnderWay {
        /// Where it ended.
        seq: u64,
    },
    /// Two operations have one number.
    SameOperation {
        /// Where the second began.
        seq: u64,
    },
    /// Two operations write one value to one key.
    SameValue {
        /// Where the second was invoked.
        seq: u64,
        /// The value.
        value: Value,
    },
    /// A value is to be replaced by itself, so that nobody could tell whether it was.
    SelfSwap {
        /// Where that was asked for.
        seq: u64,
    },
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfOrder { seq } => write!(f, "event {seq} is not after the one before it"),
            Self::Busy { seq } => write!(
                f,
                "event {seq} begins an operation of a client that has another one under way, or \
                 one with an unknown outcome"
            ),
            Self::NotUnderWay { seq } => {
                write!(f, "event {seq} ends an operation that is not under way")
            }
            Self::SameOperation { seq } => {
                write!(f, "event {seq} begins an operation under a number in use")
            }
            Self::SameValue { seq, value } => write!(
                f,
                "event {seq} writes the value {value}, which another operation writes to that key"
            ),
            Self::SelfSwap { seq } => write!(f, "event {seq} swaps a value for itself"),
        }
    }
}

impl std::error::Error for Malformed {}

/// The operations of `history`, in the order of their invocations. One without an end is unknown.
///
/// # Errors
///
/// [`Malformed`] when the rules of recording were broken: no verdict would mean anything.
pub fn calls(history: &History) -> Result<Vec<Call>, Malformed> {
    let mut calls: Vec<Call> = Vec::new();
    // Who has what under way: the place in `calls`; or nothing any more, after an unknown outcome.
    let mut busy: BTreeMap<u64, Option<usize>> = BTreeMap::new();
    let mut numbers: BTreeSet<u64> = BTreeSet::new();
    let mut written: BTreeSet<(Key, Value)> = BTreeSet::new();
    let mut previous = None;
    for event in &history.events {
        let seq = event.seq;
        if previous.is_some_and(|previous| seq <= previous) || seq == u64::MAX {
            return Err(Malformed::OutOfOrder { seq });
        }
        previous = Some(seq);
        match &event.kind {
            Kind::Invoke(operation) => {
                if busy.insert(event.client, Some(calls.len())).is_some() {
                    return Err(Malformed::Busy { seq });
                }
                if !numbers.insert(event.op_id) {
                    return Err(Malformed::SameOperation { seq });
                }
                is_recognisable(operation, seq, &mut written)?;
                calls.push(Call {
                    client: event.client,
                    op_id: event.op_id,
                    operation: *operation,
                    invoked: seq,
                    end: End::Unknown,
                });
            }
            Kind::Ok { answer, index } => {
                let at = busy.remove(&event.client).flatten();
                end(&mut calls, at, event.op_id, seq)?.end = End::Ok {
                    returned: seq,
                    answer: answer.clone(),
                    index: *index,
                };
            }
            Kind::Fail => {
                let at = busy.remove(&event.client).flatten();
                end(&mut calls, at, event.op_id, seq)?.end = End::Failed;
            }
            Kind::Unknown => {
                let at = busy.insert(event.client, None).flatten();
                end(&mut calls, at, event.op_id, seq)?.end = End::Unknown;
            }
        }
    }
    Ok(calls)
}

fn end(
    calls: &mut [Call],
    at: Option<usize>,
    op_id: u64,
    seq: u64,
) -> Result<&mut Call, Malformed> {
    let call = at.map(|at| &mut calls[at]);
    call.filter(|call| call.op_id == op_id)
        .ok_or(Malformed::NotUnderWay { seq })
}

/// Whether one can tell from what is seen later that `operation` took effect.
fn is_recognisable(
    operation: &Operation,
    seq: u64,
    written: &mut BTreeSet<(Key, Value)>,
) -> Result<(), Malformed> {
    if let Operation::CompareAndSet {
        expected: Some(expected),
        value: Some(value),
        ..
    } = operation
        && expected == value
    {
        return Err(Malformed::SelfSwap { seq });
    }
    if let (Some(key), Some(value)) = (operation.key(), operation.writes())
        && !written.insert((key, value))
    {
        return Err(Malformed::SameValue { seq, value });
    }
    Ok(())
}
