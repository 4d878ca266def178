//! Nothing that was acknowledged is missing at the end: quick, and clear where the search for an order
//! would be neither.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::calls::{Call, End};
use super::history::{Answer, Key, Operation, Value};

/// A key that does not hold at the end what it must.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost {
    /// The key.
    pub key: Key,
    /// What it holds.
    pub found: Option<Value>,
    /// An acknowledged write that came after everything that could have left that; `None` when nobody
    /// wrote what was found.
    pub write: Option<Box<Call>>,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, found, write } = self;
        write!(f, "at the end, key {key} holds {found:?}, ")?;
        match write {
            Some(call) => write!(f, "but this was acknowledged and is later: {call}"),
            None => write!(f, "which nobody wrote"),
        }
    }
}

/// Looks whether the last scan in `calls` misses anything that was acknowledged before it. Without a scan
/// there is nothing to look at.
///
/// # Errors
///
/// The first key that [`Lost`] something.
pub fn check(calls: &[Call]) -> Result<(), Lost> {
    let last = calls.iter().rev().find_map(|call| match call.answer() {
        Some(Answer::Pairs(pairs)) => Some((call, pairs)),
        _ => None,
    });
    let Some((scan, pairs)) = last else {
        return Ok(());
    };
    let found: BTreeMap<Key, Value> = pairs.iter().copied().collect();
    let mut writes: BTreeMap<Key, Vec<&Call>> = BTreeMap::new();
    let before = calls.iter().filter(|call| call.invoked < scan.returned());
    for call in before.filter(|call| !call.operation.is_read()) {
        if let Some(key) = call.operation.key() {
            writes.entry(key).or_default().push(call);
        }
    }
    let keys: BTreeSet<Key> = writes.keys().chain(found.keys()).copied().collect();
    for key in keys {
        let writes = writes.get(&key).map_or(&[][..], Vec::as_slice);
        is_kept(key, found.get(&key).copied(), writes, scan)?;
    }
    Ok(())
}

/// Whether something that leaves `found` may have come last among `writes` that `scan` could see.
fn is_kept(key: Key, found: Option<Value>, writes: &[&Call], scan: &Call) -> Result<(), Lost> {
    let lost = |write: Option<&Call>| {
        let write = write.cloned().map(Box::new);
        Err(Lost { key, found, write })
    };
    // The end of what may have left it; the beginning of the history leaves every key absent.
    let sources = writes.iter().filter(|call| leaves(call, found));
    let sources = sources.map(|call| call.returned());
    let Some(source) = sources.chain(found.is_none().then_some(0)).max() else {
        return lost(None);
    };
    let covers =
        |call: &&&Call| changes(call) && call.invoked >= source && call.returned() < scan.invoked;
    match writes.iter().find(covers) {
        Some(call) => lost(Some(call)),
        None => Ok(()),
    }
}

/// Whether `call` may have left `found` behind.
fn leaves(call: &Call, found: Option<Value>) -> bool {
    let may = matches!(call.end, End::Unknown) || changes(call);
    may && call.operation.writes() == found
}

/// Whether `call` was acknowledged and changed its key.
fn changes(call: &Call) -> bool {
    match (call.answer(), &call.operation) {
        (Some(Answer::Written | Answer::Deleted { existed: true }), _) => true,
        (
            Some(Answer::Swapped),
            Operation::CompareAndSet {
                expected, value, ..
            },
        ) => expected != value,
        _ => false,
    }
}
