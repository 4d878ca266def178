use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use quorate_consensus::{Command as LogCommand, LogIndex, NodeId, Term};
use quorate_persist::{Corruption, begin_durable};
use redb::ReadableTable;
use tempfile::TempDir;

mod compacting;
mod fixtures;
mod flushing;
mod model;
mod once;
mod scanning;
mod shares;
mod snapshots;

use super::*;
use crate::kv::command::{Command, KEY_BYTES_MAX, Outcome, VALUE_BYTES_MAX};
use crate::kv::invalid::Invalid;
use crate::kv::query::{LEASE_KEYS_COUNTED_MAX, ListedLease, RANGE_LIMIT_MAX, Value};

fn identity() -> StoreIdentity {
    StoreIdentity {
        cluster: "test".into(),
        node: NodeId::new(1).unwrap(),
    }
}

fn new_store() -> (TempDir, PathBuf, KvStore) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kv.redb");
    KvStore::create(&path, &identity()).unwrap();
    let store = open(&path);
    (directory, path, store)
}

fn open(path: &Path) -> KvStore {
    KvStore::open(path, &identity(), KvOptions::default()).unwrap()
}

fn id(index: u64) -> EntryId {
    EntryId::new(Term::new(1), LogIndex::new(index))
}

/// The commands at consecutive indexes from `first` on.
fn batch(first: u64, commands: &[Bytes]) -> Batch {
    let entries = (first..).zip(commands);
    Batch {
        commands: entries
            .map(|(index, data)| LogCommand {
                id: id(index),
                data: data.clone(),
            })
            .collect(),
        last: id(first + commands.len() as u64 - 1),
    }
}

fn put(key: &[u8], value: &[u8]) -> Command {
    Command::Put {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
    }
}

/// Applies one command at `index` and returns what it did.
fn apply(store: &mut KvStore, index: u64, command: &Command) -> Outcome {
    let outcomes = store.apply(&batch(index, &[command.encode()])).unwrap();
    assert_eq!(outcomes.len(), 1);
    Outcome::decode(&outcomes[0]).unwrap()
}

fn ask(store: &mut KvStore, query: &Query) -> Answer {
    Answer::decode(&store.query(&query.encode()).unwrap()).unwrap()
}

fn get(store: &mut KvStore, key: &[u8]) -> Option<Value> {
    let key = Bytes::copy_from_slice(key);
    match ask(store, &Query::Get { key }) {
        Answer::Value { value, .. } => value,
        other => panic!("{other:?}"),
    }
}

fn range(store: &mut KvStore, start: &[u8], end: Option<&[u8]>, limit: u32) -> (Vec<Pair>, bool) {
    let query = Query::Range {
        start: Bytes::copy_from_slice(start),
        end: end.map(Bytes::copy_from_slice),
        limit,
    };
    match ask(store, &query) {
        Answer::Page { pairs, more, .. } => (pairs, more),
        other => panic!("{other:?}"),
    }
}

fn leases(store: &mut KvStore, from: u64, limit: u32) -> (Vec<ListedLease>, bool) {
    match ask(store, &Query::Leases { from, limit }) {
        Answer::Leases { leases, more, .. } => (leases, more),
        other => panic!("{other:?}"),
    }
}

/// Each command does what its name says, and says what it did.
#[test]
fn commands_do_what_they_say() {
    let (_directory, _path, mut store) = new_store();
    let swap =
        |expected: Option<&'static [u8]>, value: Option<&'static [u8]>| Command::CompareAndSet {
            key: Bytes::from_static(b"k"),
            expected: expected.map(Bytes::from_static),
            value: value.map(Bytes::from_static),
        };
    let delete = Command::Delete {
        key: Bytes::from_static(b"k"),
    };
    let current = |value: &'static [u8], revision| Outcome::NotSwapped {
        current: Some(Bytes::from_static(value)),
        revision,
    };
    let steps = [
        (
            swap(Some(b"x"), Some(b"y")),
            Outcome::NotSwapped {
                current: None,
                revision: 2,
            },
        ),
        (swap(None, Some(b"1")), Outcome::Swapped { revision: 3 }),
        (swap(None, Some(b"2")), current(b"1", 4)),
        (
            swap(Some(b"1"), Some(b"")),
            Outcome::Swapped { revision: 5 },
        ),
        (swap(None, None), current(b"", 6)),
        (swap(Some(b""), None), Outcome::Swapped { revision: 7 }),
        (swap(None, None), Outcome::Swapped { revision: 8 }),
        (put(b"k", b"v"), Outcome::Written { revision: 9 }),
        (
            delete.clone(),
            Outcome::Deleted {
                existed: true,
                revision: 10,
            },
        ),
        (
            delete,
            Outcome::Deleted {
                existed: false,
                revision: 11,
            },
        ),
        (put(b"k", b"w"), Outcome::Written { revision: 12 }),
    ];
    for (index, (command, outcome)) in (2..).zip(steps) {
        assert_eq!(apply(&mut store, index, &command), outcome, "{index}");
    }
    let value = get(&mut store, b"k").unwrap();
    assert_eq!((&value.data[..], value.revision), (&b"w"[..], 12));
    assert_eq!(get(&mut store, b"other"), None);
}

/// An answer names the last entry that it takes into account, whatever that entry did.
#[test]
fn answers_say_as_of_when() {
    let (_directory, _path, mut store) = new_store();
    let get = Query::Get {
        key: Bytes::from_static(b"k"),
    };
    let all = Query::Range {
        start: Bytes::new(),
        end: None,
        limit: 1,
    };
    apply(&mut store, 2, &put(b"k", b"v"));
    // An entry without a command, and one that changes another key.
    let empty = Batch {
        commands: Vec::new(),
        last: id(3),
    };
    store.apply(&empty).unwrap();
    for revision in [3, 4] {
        match ask(&mut store, &get) {
            Answer::Value {
                value: Some(value),
                revision: of_answer,
            } => assert_eq!((value.revision, of_answer), (2, revision)),
            other => panic!("{other:?}"),
        }
        match ask(&mut store, &all) {
            Answer::Page {
                revision: of_answer,
                ..
            } => assert_eq!(of_answer, revision),
            other => panic!("{other:?}"),
        }
        if revision == 3 {
            apply(&mut store, 4, &put(b"other", b"w"));
        }
    }
}

/// What makes no sense is answered, in the log and in queries, and changes nothing but the index.
#[test]
fn nonsense_is_an_answer() {
    let (_directory, _path, mut store) = new_store();
    apply(&mut store, 2, &put(b"k", b"v"));
    let digest = store.digest().unwrap();
    let nonsense = [
        (Bytes::from_static(b""), Invalid::Malformed),
        (Bytes::from_static(b"\x01\x77"), Invalid::Malformed),
        (
            Bytes::from_static(b"\x09"),
            Invalid::UnknownVersion { version: 9 },
        ),
        (put(b"", b"v").encode(), Invalid::KeyEmpty),
        (
            put(&[1; KEY_BYTES_MAX + 1], b"").encode(),
            Invalid::KeyTooLong { bytes: 1025 },
        ),
    ];
    let commands: Vec<Bytes> = nonsense.iter().map(|(data, _)| data.clone()).collect();
    let outcomes = store.apply(&batch(3, &commands)).unwrap();
    for (outcome, (_, invalid)) in outcomes.iter().zip(&nonsense) {
        assert_eq!(
            Outcome::decode(outcome).unwrap(),
            Outcome::Refused(*invalid)
        );
    }
    assert_eq!(store.digest().unwrap(), digest);
    assert_eq!(store.applied(), id(7));

    for query in [&b""[..], b"\x01\x07", b"\x01\x00"] {
        let answer = Answer::decode(&store.query(query).unwrap()).unwrap();
        assert_eq!(answer, Answer::Refused(Invalid::Malformed));
    }
}

/// A page ends at its limit in pairs and in bytes, and the next one begins after it.
#[test]
fn pages_are_bounded() {
    let (_directory, _path, mut store) = new_store();
    let commands: Vec<Bytes> = (0..1500u32)
        .map(|number| put(&number.to_be_bytes(), b"v").encode())
        .collect();
    store.apply(&batch(2, &commands)).unwrap();
    let key = |number: u32| number.to_be_bytes();
    let (pairs, more) = range(&mut store, b"", None, RANGE_LIMIT_MAX);
    assert_eq!((pairs.len(), more), (1000, true));
    let (pairs, more) = range(&mut store, &key(1000), None, RANGE_LIMIT_MAX);
    assert_eq!((pairs.len(), more), (500, false));
    let (pairs, more) = range(&mut store, &key(10), Some(&key(13)), 3);
    let keys: Vec<_> = pairs.iter().map(|pair| &pair.key[..]).collect();
    assert_eq!(
        (keys, more),
        (vec![&key(10)[..], &key(11), &key(12)], false)
    );
    for end in [10, 3] {
        assert_eq!(
            range(&mut store, &key(10), Some(&key(end)), 3),
            (vec![], false)
        );
    }

    // Two of the largest pairs do not fit one page, one does.
    let largest = vec![5; VALUE_BYTES_MAX];
    for (index, first) in [(1502, 0xf0), (1503, 0xf1)] {
        let mut key = [0; KEY_BYTES_MAX];
        key[0] = first;
        apply(&mut store, index, &put(&key, &largest));
    }
    let (pairs, more) = range(&mut store, &[0xf0], None, 10);
    assert_eq!((pairs.len(), more), (1, true));
    let next = [&pairs[0].key[..], &[0]].concat();
    let (pairs, more) = range(&mut store, &next, None, 10);
    assert_eq!((pairs.len(), more), (1, false));
}

/// A batch that was applied before, or is out of order, is a bug in the caller. The first case is
/// neither, and passes.
#[test]
fn entries_are_applied_once_and_in_order() {
    let entry = |index| LogCommand {
        id: id(index),
        data: put(b"k", b"v").encode(),
    };
    let cases = [
        (vec![entry(4), entry(6)], id(7), false),
        (vec![], id(9), false),
        (vec![], id(3), true),
        (vec![entry(3)], id(4), true),
        (vec![entry(5), entry(5)], id(5), true),
        (vec![entry(5)], id(4), true),
    ];
    for (commands, last, bad) in cases {
        let (_directory, _path, mut store) = new_store();
        apply(&mut store, 3, &put(b"k", b"v"));
        let batch = Batch { commands, last };
        let result = catch_unwind(AssertUnwindSafe(|| store.apply(&batch).map(drop)));
        assert_eq!(result.is_err(), bad, "{batch:?}");
        assert_eq!(store.applied(), if bad { id(3) } else { last });
    }
}

/// The file belongs to its node and its kind.
#[test]
fn only_the_owner_opens_it() {
    let (_directory, path, store) = new_store();
    let locked = KvStore::open(&path, &identity(), KvOptions::default()).unwrap_err();
    assert!(matches!(locked, OpenError::Locked { .. }), "{locked}");
    drop(store);
    let other = StoreIdentity {
        node: NodeId::new(2).unwrap(),
        ..identity()
    };
    let wrong = KvStore::open(&path, &other, KvOptions::default()).unwrap_err();
    assert!(matches!(wrong, OpenError::WrongNode { .. }), "{wrong}");
    let log = quorate_persist::Store::open(&path, &identity(), quorate_persist::Options::default());
    assert!(matches!(log.unwrap_err(), OpenError::Corrupt { .. }));
}

/// A value under another key, or changed on the disk, is an error and not an answer.
#[test]
fn a_damaged_value_is_not_answered() {
    let (_directory, path, mut store) = new_store();
    apply(&mut store, 2, &put(b"one", b"first"));
    apply(&mut store, 3, &put(b"two", b"second"));
    store.close().unwrap();
    drop(store);
    let opened = open_database(&OsFiles, &path, KV_FILE, &identity(), 1 << 20).unwrap();
    let transaction = begin_durable(&opened.database).unwrap();
    {
        let mut table = transaction.open_table(KV_TABLE).unwrap();
        let record = table.get(&b"one"[..]).unwrap().unwrap().value().to_vec();
        table.insert(&b"two"[..], &record[..]).unwrap();
    }
    transaction.commit().unwrap();
    drop(opened);
    let mut store = open(&path);
    assert!(get(&mut store, b"one").is_some());
    let query = Query::Get {
        key: Bytes::from_static(b"two"),
    };
    let error = store.query(&query.encode()).unwrap_err();
    assert!(
        error.to_string().contains("does not match its checksum"),
        "{error}"
    );
    assert!(store.digest().is_err());
}

/// A killed process loses what was applied since the last checkpoint, and nothing before it.
#[test]
fn a_checkpoint_outlives_the_process() {
    let (directory, path, mut store) = new_store();
    let left = |name: &str| {
        let copy = directory.path().join(name);
        fs::copy(&path, &copy).unwrap();
        open(&copy)
    };
    apply(&mut store, 2, &put(b"k", b"v"));
    let mut without = left("without.redb");
    assert_eq!((without.applied(), get(&mut without, b"k")), (ORIGIN, None));

    store.checkpoint().unwrap();
    apply(&mut store, 3, &put(b"k", b"w"));
    store.wait().unwrap();
    let mut with = left("with.redb");
    assert_eq!(with.applied(), id(2));
    assert_eq!(get(&mut with, b"k").unwrap().revision, 2);
}
