//! Whether what clients saw could have been seen by clients of one single copy of the store.
//!
//! Clients write what happens to them into a [`history`]. From it, [`check`] asks three questions that do
//! not depend on each other: is there, for each key, an order that explains every answer ([`wgl`]); is
//! everything that was acknowledged there at the end ([`durability`]); and, where the committed log is at
//! hand, does every answer hold at the log index it names ([`witness`], asked separately). [`replay`] finds anew what
//! the log did to keys, for what those who watch were told.

mod blind;
pub mod calls;
mod chains;
pub mod durability;
pub mod history;
pub mod kv;
pub mod once;
pub mod porcupine;
mod register;
pub mod replay;
pub mod wgl;
pub mod witness;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use calls::{Call, End, Malformed};
use history::{History, Key, LoadError};
use wgl::{STEPS_MAX, Verdict};

/// What is known about a history.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Report {
    /// How many operations were invoked.
    pub operations: u64,
    /// How many were answered.
    pub answered: u64,
    /// How many certainly did nothing.
    pub failed: u64,
    /// Of how many it is not known.
    pub unknown: u64,
    /// How many keys there are.
    pub keys: u64,
    /// What cannot have happened, in words.
    pub violations: Vec<String>,
    /// The keys for which the search was given up.
    pub undecided: Vec<Key>,
}

impl Report {
    /// Whether every question was answered, and well.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.undecided.is_empty()
    }

    /// Adds what is known about another history.
    pub fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.answered += other.answered;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.keys += other.keys;
        self.violations.extend(other.violations);
        self.undecided.extend(other.undecided);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            operations,
            answered,
            failed,
            unknown,
            keys,
            violations,
            undecided,
        } = self;
        write!(
            f,
            "{operations} operations on {keys} keys: {answered} answered, {failed} failed, {unknown} \
             with an unknown outcome; "
        )?;
        match (violations.len(), undecided.len()) {
            (0, 0) => write!(f, "linearizable")?,
            (0, _) => write!(f, "undecided for the keys {undecided:?}")?,
            (count, _) => write!(f, "{count} violations")?,
        }
        violations
            .iter()
            .try_for_each(|violation| write!(f, "\n{violation}"))
    }
}

/// Why there is no verdict about a file.
#[derive(Debug)]
pub enum FileError {
    /// It cannot be read.
    Load(LoadError),
    /// What it holds means nothing.
    Malformed(Malformed),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(error) => write!(f, "cannot read the history: {error}"),
            Self::Malformed(error) => {
                write!(f, "the history was not recorded by the rules: {error}")
            }
        }
    }
}

impl std::error::Error for FileError {}

/// Checks `history`.
///
/// # Errors
///
/// [`Malformed`] when it was not recorded by the rules, so that no verdict would mean anything.
pub fn check(history: &History) -> Result<Report, Malformed> {
    Ok(check_calls(&calls::calls(history)?))
}

/// Checks a history that [`History::save`] wrote.
///
/// # Errors
///
/// [`FileError`] when there is no verdict.
pub fn check_file(path: &Path) -> Result<Report, FileError> {
    let history = History::load(path).map_err(FileError::Load)?;
    check(&history).map_err(FileError::Malformed)
}

fn check_calls(calls: &[Call]) -> Report {
    let keys: BTreeSet<Key> = calls.iter().flat_map(keys_of).collect();
    let count = |ended: fn(&End) -> bool| {
        let calls = calls.iter().filter(|call| ended(&call.end));
        calls.count() as u64
    };
    let mut report = Report {
        operations: calls.len() as u64,
        answered: count(|end| matches!(end, End::Ok { .. })),
        failed: count(|end| matches!(end, End::Failed)),
        unknown: count(|end| matches!(end, End::Unknown)),
        keys: keys.len() as u64,
        ..Report::default()
    };
    if let Err(lost) = durability::check(calls) {
        report.violations.push(lost.to_string());
    }
    for key in keys {
        match wgl::check_key(calls, key, STEPS_MAX) {
            Verdict::Linearizable => {}
            Verdict::Violation { reason } => {
                report.violations.push(format!("key {key}: {reason}"));
            }
            Verdict::Undecided { .. } => report.undecided.push(key),
        }
    }
    report
}

/// The keys that an operation is about or that it found.
fn keys_of(call: &Call) -> Vec<Key> {
    let found = match call.answer() {
        Some(history::Answer::Pairs(pairs)) => pairs.iter().map(|(key, _)| *key).collect(),
        _ => Vec::new(),
    };
    call.operation.key().into_iter().chain(found).collect()
}
