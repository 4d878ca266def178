//! The second opinion: every answer names the index in the log at which it took effect, so that nothing
//! has to be searched. The committed log is replayed, every answer is compared with it, and the indexes
//! must grow as time does. It covers scans, commands applied twice and commands out of nowhere, and it says
//! where exactly the first thing went wrong.
//!
//! It believes the indexes that the store gives; [`wgl`](super::wgl) does not, and so is asked as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::calls::{Call, End};
use super::history::{Answer, Key, Operation, Value};

/// The writes that were committed, by their index in the log.
pub type CommittedLog = BTreeMap<u64, Operation>;

/// What does not fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Discord {
    /// An answer without an index.
    NoIndex(Box<Call>),
    /// The log holds another command, or none, where this one is said to be.
    NotThere {
        /// The operation.
        call: Box<Call>,
        /// What is there instead.
        found: Option<Operation>,
    },
    /// The log at that index gives another answer.
    OtherAnswer {
        /// The operation.
        call: Box<Call>,
        /// The answer that is right at the index.
        right: Answer,
    },
    /// An operation that began after another one had ended took effect before it.
    BackInTime {
        /// The later operation.
        call: Box<Call>,
        /// The index at which an earlier one had taken effect.
        floor: u64,
    },
    /// A command in the log that nobody proposed, or that was refused, or that is there already.
    OutOfNowhere {
        /// Where it is.
        index: u64,
        /// What it is.
        command: Operation,
    },
}

impl fmt::Display for Discord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoIndex(call) => write!(f, "no index: {call}"),
            Self::NotThere { call, found } => write!(f, "the log has {found:?} there: {call}"),
            Self::OtherAnswer { call, right } => {
                write!(f, "the log there gives {right:?}: {call}")
            }
            Self::BackInTime { call, floor } => write!(
                f,
                "an operation that had ended before took effect at index {floor}: {call}"
            ),
            Self::OutOfNowhere { index, command } => {
                write!(f, "at index {index} is {command:?}, which nobody asked for")
            }
        }
    }
}

impl std::error::Error for Discord {}

/// Holds `calls`, in the order of their invocations, against the `log` that was committed.
///
/// # Errors
///
/// The first [`Discord`].
pub fn check(calls: &[Call], log: &CommittedLog) -> Result<(), Discord> {
    indexes_follow_time(calls)?;
    answers_follow_the_log(calls, log)?;
    nothing_comes_out_of_nowhere(calls, log)
}

fn answered(call: &Call) -> Option<(u64, &Answer, Option<u64>)> {
    match &call.end {
        End::Ok {
            returned,
            answer,
            index,
        } => Some((*returned, answer, *index)),
        End::Failed | End::Unknown => None,
    }
}

/// What began after something had ended is not before it in the log; and behind it, if it writes.
fn indexes_follow_time(calls: &[Call]) -> Result<(), Discord> {
    // Invocations and answers in one order; an answer raises the floor of what is invoked later.
    let mut answers: BTreeMap<u64, u64> = BTreeMap::new();
    let mut floor = 0;
    for call in calls {
        let Some((returned, _, index)) = answered(call) else {
            continue;
        };
        let index = index.ok_or_else(|| Discord::NoIndex(Box::new(call.clone())))?;
        let later = answers.split_off(&call.invoked);
        floor = answers.into_values().fold(floor, u64::max);
        answers = later;
        if index < floor || (index == floor && floor > 0 && !call.operation.is_read()) {
            let call = Box::new(call.clone());
            return Err(Discord::BackInTime { call, floor });
        }
        answers.insert(returned, index);
    }
    Ok(())
}

fn answers_follow_the_log(calls: &[Call], log: &CommittedLog) -> Result<(), Discord> {
    let mut by_index: Vec<(u64, &Call, &Answer)> = Vec::new();
    for call in calls {
        if let Some((_, answer, Some(index))) = answered(call) {
            by_index.push((index, call, answer));
        }
    }
    // A write and the reads that saw it have one index; of those, only the write changes anything.
    by_index.sort_by_key(|(index, ..)| *index);
    let mut state = BTreeMap::new();
    let mut commands = log.iter().peekable();
    let mut last = None;
    for (index, call, answer) in by_index {
        while let Some((at, command)) = commands.next_if(|(at, _)| **at <= index) {
            last = Some((*at, apply(&mut state, command)));
        }
        let right = if call.operation.is_read() {
            look(&state, &call.operation)
        } else {
            let found = log.get(&index).copied();
            match &last {
                Some((at, right)) if *at == index && found == Some(call.operation) => right.clone(),
                _ => {
                    let call = Box::new(call.clone());
                    return Err(Discord::NotThere { call, found });
                }
            }
        };
        if *answer != right {
            let call = Box::new(call.clone());
            return Err(Discord::OtherAnswer { call, right });
        }
    }
    Ok(())
}

/// Each command in the log is one that was answered there, or one with an unknown outcome.
fn nothing_comes_out_of_nowhere(calls: &[Call], log: &CommittedLog) -> Result<(), Discord> {
    let mut at: BTreeSet<u64> = BTreeSet::new();
    let mut uncertain: BTreeMap<Operation, u64> = BTreeMap::new();
    for call in calls.iter().filter(|call| !call.operation.is_read()) {
        match &call.end {
            End::Ok { index, .. } => {
                let index = index.ok_or_else(|| Discord::NoIndex(Box::new(call.clone())))?;
                if !at.insert(index) {
                    let call = Box::new(call.clone());
                    let found = log.get(&index).copied();
                    return Err(Discord::NotThere { call, found });
                }
            }
            End::Unknown => *uncertain.entry(call.operation).or_default() += 1,
            End::Failed => {}
        }
    }
    for (&index, &command) in log.iter().filter(|(index, _)| !at.contains(index)) {
        match uncertain.get_mut(&command) {
            Some(count) if *count > 0 => *count -= 1,
            _ => return Err(Discord::OutOfNowhere { index, command }),
        }
    }
    Ok(())
}

/// What a store of key and value does.
fn apply(state: &mut BTreeMap<Key, Value>, command: &Operation) -> Answer {
    match *command {
        Operation::Put { key, value } => {
            state.insert(key, value);
            Answer::Written
        }
        Operation::Delete { key } => Answer::Deleted {
            existed: state.remove(&key).is_some(),
        },
        Operation::CompareAndSet {
            key,
            expected,
            value,
        } => {
            let current = state.get(&key).copied();
            if current != expected {
                return Answer::NotSwapped { current };
            }
            match value {
                Some(value) => drop(state.insert(key, value)),
                None => drop(state.remove(&key)),
            }
            Answer::Swapped
        }
        Operation::Get { .. } | Operation::Scan => look(state, command),
    }
}

fn look(state: &BTreeMap<Key, Value>, query: &Operation) -> Answer {
    match query {
        Operation::Get { key } => Answer::Value(state.get(key).copied()),
        _ => Answer::Pairs(state.iter().map(|(key, value)| (*key, *value)).collect()),
    }
}
