//! What a log does to the keys of a store, found anew in the simplest way: for what clients are told of
//! changes and leases, which is not an answer to an operation of theirs.

use std::collections::BTreeMap;
use std::mem;

use bytes::Bytes;
use quorate::kv::{Change, Command, Logged, Step, Transaction, Value, Watched};

use super::once;

/// What a watcher was told in one answer: that these changes, and no others, happened to its keys after one
/// revision and up to another.
#[derive(Clone, Debug)]
pub struct Told {
    /// Which keys.
    pub watched: Watched,
    /// After this revision ..
    pub after: u64,
    /// .. and up to this one.
    pub upto: u64,
    /// What happened.
    pub changes: Vec<Change>,
}

/// A key's value, and the lease it is bound to.
#[derive(Clone, PartialEq)]
struct Held {
    value: Value,
    lease: Option<u64>,
}

struct Lease {
    ttl_ms: u64,
    ends: u64,
}

#[derive(Default)]
struct Replay {
    now: u64,
    keys: BTreeMap<Bytes, Held>,
    leases: BTreeMap<u64, Lease>,
    /// What keys were before the entry that is being applied.
    before: BTreeMap<Bytes, Option<Held>>,
}

/// The changes that a log, which is there from its beginning, makes to keys, in their order: by revision, and
/// those of one revision by key. All its commands must be valid.
#[must_use]
pub fn changes(log: &[(u64, Logged)]) -> Vec<Change> {
    let effective = once::effective(log.iter().map(|(index, logged)| (*index, logged)));
    let mut replay = Replay::default();
    let mut changes = Vec::new();
    for (index, logged) in log {
        replay.pass(logged.elapsed_ms.into());
        if let Some(command) = effective.get(index) {
            replay.carry_out(command, *index);
        }
        changes.extend(replay.changed(*index));
    }
    changes
}

/// Holds what a watcher was told against all `changes` there were.
///
/// # Errors
///
/// How they differ.
pub fn hold_against(changes: &[Change], told: &Told) -> Result<(), String> {
    let Watched { start, end } = &told.watched;
    let first = changes.partition_point(|change| change.revision <= told.after);
    let last = changes.partition_point(|change| change.revision <= told.upto);
    let concerned =
        |change: &&Change| change.key >= start && end.as_ref().is_none_or(|end| change.key < end);
    let range = changes.get(first..last).unwrap_or_default();
    let expected: Vec<&Change> = range.iter().filter(concerned).collect();
    let mut found: Vec<&Change> = told.changes.iter().collect();
    // What has one revision happened in one moment.
    for moment in found.chunk_by_mut(|one, next| one.revision == next.revision) {
        moment.sort_by_key(|change| &change.key);
    }
    if expected == found {
        return Ok(());
    }
    Err(format!(
        "after {} and up to {}: told {found:?}, not {expected:?}",
        told.after, told.upto
    ))
}

impl Replay {
    fn set(&mut self, key: &Bytes, held: Option<Held>) {
        let before = match held {
            Some(held) => self.keys.insert(key.clone(), held),
            None => self.keys.remove(key),
        };
        self.before.entry(key.clone()).or_insert(before);
    }

    /// What is different since the entry before this one.
    fn changed(&mut self, revision: u64) -> Vec<Change> {
        let before = mem::take(&mut self.before).into_iter();
        let changed = before.filter(|(key, before)| self.keys.get(key) != before.as_ref());
        let change = |(key, _)| Change {
            value: self.keys.get(&key).map(|held| held.value.data.clone()),
            key,
            revision,
        };
        changed.map(change).collect()
    }

    fn pass(&mut self, elapsed_ms: u64) {
        self.now += elapsed_ms;
        let over = self.leases.iter().filter(|(_, it)| it.ends <= self.now);
        let over: Vec<u64> = over.map(|(lease, _)| *lease).collect();
        for lease in over {
            self.end(lease);
        }
    }

    fn end(&mut self, lease: u64) {
        if self.leases.remove(&lease).is_none() {
            return;
        }
        let bound = self.keys.iter().filter(|(_, it)| it.lease == Some(lease));
        let bound: Vec<Bytes> = bound.map(|(key, _)| key.clone()).collect();
        for key in &bound {
            self.set(key, None);
        }
    }

    fn carry_out(&mut self, command: &Command, revision: u64) {
        let ends = |ttl_ms: u64| self.now + ttl_ms;
        match command {
            Command::Put { key, value } => self.put(key, value, None, revision),
            Command::Delete { key } => self.set(key, None),
            Command::CompareAndSet {
                key,
                expected,
                value,
            } => {
                let current = self.keys.get(key).map(|held| &held.value.data);
                match (current == expected.as_ref(), value) {
                    (false, _) => {}
                    (true, Some(value)) => self.put(key, value, None, revision),
                    (true, None) => self.set(key, None),
                }
            }
            Command::Transact(transaction) => self.transact(transaction, revision),
            Command::GrantLease { ttl_ms } => {
                let (ttl_ms, ends) = (*ttl_ms, ends(*ttl_ms));
                self.leases.insert(revision, Lease { ttl_ms, ends });
            }
            Command::KeepLease { lease } => {
                if let Some(lease) = self.leases.get_mut(lease) {
                    lease.ends = self.now + lease.ttl_ms;
                }
            }
            Command::RevokeLease { lease } => self.end(*lease),
            Command::OpenSession => {}
        }
    }

    fn put(&mut self, key: &Bytes, data: &Bytes, lease: Option<u64>, revision: u64) {
        let data = data.clone();
        let value = Value { data, revision };
        self.set(key, Some(Held { value, lease }));
    }

    fn transact(&mut self, transaction: &Transaction, revision: u64) {
        let held = |key: &Bytes| self.keys.get(key).map(|held| &held.value);
        let mut compare = transaction.compare.iter();
        let steps = match compare.all(|it| it.condition.holds(held(&it.key))) {
            true => &transaction.then,
            false => &transaction.otherwise,
        };
        let lacks_lease = |step: &Step| match step {
            Step::Put { lease, .. } => lease.is_some_and(|it| !self.leases.contains_key(&it)),
            Step::Delete { .. } | Step::Get { .. } => false,
        };
        if steps.iter().any(lacks_lease) {
            return;
        }
        for step in steps {
            match step {
                Step::Put { key, value, lease } => self.put(key, value, *lease, revision),
                Step::Delete { key } => self.set(key, None),
                Step::Get { .. } => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate::kv::{Compare, Condition};

    use super::*;

    fn entry(elapsed_ms: u32, command: Option<Command>) -> Logged {
        Logged {
            elapsed_ms,
            tag: None,
            command,
            owner: 0,
        }
    }

    fn put(key: &'static str, value: &'static str) -> Option<Command> {
        let (key, value) = (key.into(), value.into());
        Some(Command::Put { key, value })
    }

    fn bound(key: &'static str, lease: u64) -> Option<Command> {
        let absent = Compare {
            key: key.into(),
            condition: Condition::Absent,
        };
        let put = |value: &'static str, lease| Step::Put {
            key: key.into(),
            value: value.into(),
            lease,
        };
        Some(Command::Transact(Transaction {
            compare: vec![absent],
            then: vec![put("new", Some(lease))],
            otherwise: vec![put("old", None)],
        }))
    }

    fn all(log: Vec<Logged>) -> Vec<(u64, &'static str, u64)> {
        let log: Vec<(u64, Logged)> = (1..).zip(log).collect();
        let name = |value: Option<&Bytes>| match value.map(AsRef::as_ref) {
            None => "-",
            Some(b"new") => "new",
            Some(b"old") => "old",
            Some(_) => "other",
        };
        let tell = |change: Change| {
            let key = u64::from(change.key[0] - b'a');
            (change.revision, name(change.value.as_ref()), key)
        };
        changes(&log).into_iter().map(tell).collect()
    }

    /// A key goes when its lease ends, in the entry that lets enough time pass, unless it was written since.
    #[test]
    fn keys_go_with_their_leases() {
        let grant = Some(Command::GrantLease { ttl_ms: 1_000 });
        let log = vec![
            entry(7, grant),
            entry(0, bound("a", 1)),
            entry(0, bound("b", 1)),
            entry(0, bound("b", 1)),
            entry(0, bound("c", 9)),
            entry(999, Some(Command::KeepLease { lease: 1 })),
            entry(999, put("d", "old")),
            entry(1, None),
        ];
        let expected = [
            (2, "new", 0),
            (3, "new", 1),
            (4, "old", 1),
            (7, "old", 3),
            (8, "-", 0),
        ];
        assert_eq!(all(log), expected);
    }

    /// A change left out, one too many, and one of another value are noticed; what is outside of the keys or of
    /// the revisions does not matter.
    #[test]
    fn a_watcher_is_told_everything_and_nothing_else() {
        let log = [put("a", "1"), put("b", "2"), put("a", "3"), put("a", "4")];
        let log: Vec<(u64, Logged)> = (1..).zip(log.map(|it| entry(0, it))).collect();
        let all = changes(&log);
        let mut told = Told {
            watched: Watched {
                start: "a".into(),
                end: Some("b".into()),
            },
            after: 1,
            upto: 3,
            changes: vec![all[2].clone()],
        };
        assert_eq!(hold_against(&all, &told), Ok(()));
        told.upto = 4;
        assert!(hold_against(&all, &told).is_err(), "one is left out");
        told.changes.push(all[3].clone());
        assert_eq!(hold_against(&all, &told), Ok(()));
        told.changes.insert(0, all[1].clone());
        assert!(hold_against(&all, &told).is_err(), "of another's keys");
        told.changes.remove(0);
        told.changes[1].value = Some("5".into());
        assert!(hold_against(&all, &told).is_err(), "another value");
    }
}
