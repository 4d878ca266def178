//! The store while a checkpoint is being written, and when that fails.

use std::io;
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::snapshots::{pieces, source};
use super::*;
use crate::kv::store::record::write_step;

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Free,
    Held,
    Broken,
}

/// Longer than any test holds a gate: one that fails drops its store, which waits for it.
const HELD_MAX: Duration = Duration::from_secs(20);

/// Stands between the flusher and the file.
pub(super) struct Gate(Arc<(Mutex<Way>, Condvar)>);

impl Gate {
    /// The store at `path` behind a gate that lets everything through.
    pub(super) fn open(path: &Path, options: KvOptions) -> (Self, KvStore) {
        let shared = Arc::new((Mutex::new(Way::Free), Condvar::new()));
        let seen = Arc::clone(&shared);
        let store = KvStore::open_around(
            Arc::new(OsFiles),
            path,
            &identity(),
            options,
            |mut write| {
                Box::new(move |overlay| {
                    let (way, changed) = &*seen;
                    let held = |way: &mut Way| *way == Way::Held;
                    let (way, waited) = changed
                        .wait_timeout_while(way.lock().unwrap(), HELD_MAX, held)
                        .unwrap();
                    assert!(!waited.timed_out(), "nobody lets the gate go");
                    if *way == Way::Broken {
                        return Err(StorageError::Io(io::Error::other("no space")).into());
                    }
                    drop(way);
                    write(overlay)
                })
            },
        );
        (Self(shared), store.unwrap())
    }

    fn set(&self, way: Way) {
        *self.0.0.lock().unwrap() = way;
        self.0.1.notify_all();
    }

    pub(super) fn hold(&self) {
        self.set(Way::Held);
    }

    pub(super) fn release(&self) {
        self.set(Way::Free);
    }
}

fn held_store(options: KvOptions) -> (TempDir, PathBuf, Gate, KvStore) {
    let (directory, path, store) = new_store();
    drop(store);
    let (gate, store) = Gate::open(&path, options);
    gate.hold();
    (directory, path, gate, store)
}

fn delete(key: &'static [u8]) -> Command {
    Command::Delete {
        key: Bytes::from_static(key),
    }
}

fn keys(pairs: &[Pair]) -> Vec<&str> {
    pairs
        .iter()
        .map(|pair| std::str::from_utf8(&pair.key).unwrap())
        .collect()
}

/// Reads merge the file, what is being written and what came after it: the newest word on a key
/// counts, also when that is its removal; and so it stays when the write is done.
#[test]
fn reads_see_everything_while_a_checkpoint_is_written() {
    let (_directory, _path, gate, mut store) = held_store(KvOptions::default());
    gate.release();
    let mut index = 2;
    let mut run = |store: &mut KvStore, commands: &[Command]| {
        for command in commands {
            apply(store, index, command);
            index += 1;
        }
    };
    let old = ["a", "b", "c", "d", "e"].map(|key| put(key.as_bytes(), b"file"));
    run(&mut store, &old);
    store.close().unwrap();

    gate.hold();
    run(
        &mut store,
        &[put(b"b", b"frozen"), delete(b"c"), delete(b"d")],
    );
    run(&mut store, &[put(b"bb", b"frozen"), put(b"f", b"frozen")]);
    store.checkpoint().unwrap();
    run(&mut store, &[put(b"0", b"active"), put(b"d", b"active")]);
    run(
        &mut store,
        &[delete(b"e"), delete(b"f"), put(b"g", b"active")],
    );

    for written in [false, true] {
        assert_eq!(store.flusher.frozen().is_none(), written);
        for (key, value) in [
            (&b"a"[..], Some("file")),
            (b"b", Some("frozen")),
            (b"c", None),
            (b"d", Some("active")),
            (b"e", None),
            (b"f", None),
        ] {
            let found = get(&mut store, key).map(|value| value.data);
            assert_eq!(found, value.map(Bytes::from), "{key:?}");
        }
        let (pairs, more) = range(&mut store, b"", None, 10);
        assert_eq!(
            (keys(&pairs), more),
            (vec!["0", "a", "b", "bb", "d", "g"], false)
        );
        let (pairs, more) = range(&mut store, b"b", Some(b"e"), 10);
        assert_eq!((keys(&pairs), more), (vec!["b", "bb", "d"], false));
        let (pairs, more) = range(&mut store, b"a", None, 2);
        assert_eq!((keys(&pairs), more), (vec!["a", "b"], true));
        // Everything after the last pair is gone, so there is no next page.
        let (pairs, more) = range(&mut store, b"d", Some(b"g"), 1);
        assert_eq!((keys(&pairs), more), (vec!["d"], false));
        gate.release();
        store.wait().unwrap();
    }
    let digest = store.digest().unwrap();
    store.close().unwrap();
    assert_eq!(store.digest().unwrap(), digest, "wherever the records are");
}

/// A checkpoint asked for while one is being written waits only when memory is full, and applying
/// does the same; what was left out goes along with the next.
#[test]
fn memory_is_bounded_by_waiting_for_the_disk() {
    let options = KvOptions {
        overlay_bytes_max: 10_000,
        ..KvOptions::default()
    };
    let (_directory, path, gate, mut store) = held_store(options);
    apply(&mut store, 2, &put(b"first", b"v"));
    store.checkpoint().unwrap();
    apply(&mut store, 3, &put(b"large", &[0; 9_000]));
    store.checkpoint().unwrap();
    assert_eq!(store.active.bytes(), 9_189, "left out");
    apply(&mut store, 4, &put(b"larger", &[0; 9_000]));
    assert!(store.is_full());
    assert_eq!(store.flusher.frozen().unwrap().applied(), id(2));

    // Full: `apply` waits, or the flusher would refuse to write two at a time.
    thread::scope(|scope| {
        scope.spawn(|| gate.release());
        apply(&mut store, 5, &put(b"last", b"v"));
    });
    assert_eq!(store.active.bytes(), 189, "the last one only");
    store.wait().unwrap();
    let copy = path.with_extension("copy");
    fs::copy(&path, &copy).unwrap();
    assert_eq!(open(&copy).applied(), id(4));
}

/// A process that is killed while it writes a checkpoint leaves the one before it, or, when it was
/// just done, the new one: never anything in between.
#[test]
fn a9_a_crash_during_a_flush_leaves_a_prefix_of_the_log() {
    let (directory, path, gate, mut store) = held_store(KvOptions::default());
    let commands = |value: &'static [u8]| -> Vec<Bytes> {
        let key = |number: u32| number.wrapping_mul(0x9E37_79B9).to_be_bytes();
        (0..3_000)
            .map(|number| put(&key(number), value).encode())
            .collect()
    };
    gate.release();
    store.apply(&batch(2, &commands(b"old"))).unwrap();
    store.close().unwrap();
    let old = store.digest().unwrap();
    store.apply(&batch(3_002, &commands(b"new"))).unwrap();
    let new = store.digest().unwrap();
    assert_ne!(old, new);

    gate.hold();
    store.checkpoint().unwrap();
    let mut left = Vec::new();
    let mut crash = || {
        let copy = directory.path().join(format!("{}.redb", left.len()));
        fs::copy(&path, &copy).unwrap();
        left.push(copy);
    };
    crash();
    gate.release();
    for _ in 0..64 {
        if store.flusher.poll().unwrap() {
            break;
        }
        crash();
    }
    store.wait().unwrap();
    crash();
    drop(store);
    let found: Vec<u64> = left
        .iter()
        .map(|copy| {
            let store = open(copy);
            let digest = store.digest().unwrap();
            let applied = store.applied().index.value();
            assert!([(3_001, old), (6_001, new)].contains(&(applied, digest)));
            applied
        })
        .collect();
    assert_eq!((found[0], *found.last().unwrap()), (3_001, 6_001));
    assert!(found.is_sorted());
}

/// A flush that failed is reported by whatever is asked next, and nothing works after it. The file is
/// as it was, and the log can be applied again.
#[test]
fn a_failed_flush_stops_the_store() {
    type Ask = fn(&mut KvStore) -> Result<(), StateMachineError>;
    let asks: [(&str, Ask); 4] = [
        ("apply", |store| {
            let next = store.applied().index.next().value();
            store
                .apply(&batch(next, &[put(b"l", b"w").encode()]))
                .map(drop)
        }),
        ("query", |store| store.query(b"").map(drop)),
        ("checkpoint", StateMachine::checkpoint),
        ("close", StateMachine::close),
    ];
    for (name, ask) in asks {
        let (_directory, path, gate, mut store) = held_store(KvOptions::default());
        gate.set(Way::Broken);
        apply(&mut store, 2, &put(b"k", b"v"));
        store.checkpoint().unwrap();
        let error = loop {
            match ask(&mut store) {
                Ok(()) => thread::yield_now(),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("no space"), "{name}: {error}");
        for (_, ask) in asks {
            let error = ask(&mut store).unwrap_err().to_string();
            assert!(error.contains("refuses all further use"), "{name}: {error}");
        }
        drop(store);
        let mut store = open(&path);
        assert_eq!(store.applied(), ORIGIN, "{name}");
        apply(&mut store, 2, &put(b"k", b"v"));
        store.close().unwrap();
    }
}

/// Without a thread, a checkpoint that has returned is durable, and one that failed says so itself.
#[test]
fn an_inline_checkpoint_is_done_when_it_returns() {
    let options = KvOptions {
        background: false,
        ..KvOptions::default()
    };
    let (_directory, path, gate, mut store) = held_store(options);
    gate.release();
    apply(&mut store, 2, &put(b"k", b"v"));
    store.checkpoint().unwrap();
    let copy = path.with_extension("copy");
    fs::copy(&path, &copy).unwrap();
    assert_eq!(open(&copy).applied(), id(2));

    gate.set(Way::Broken);
    apply(&mut store, 3, &put(b"k", b"w"));
    let error = store.checkpoint().unwrap_err();
    assert!(error.to_string().contains("no space"), "{error}");
    assert!(store.close().is_err());
}

/// A batch without commands moves the position in the file all the same.
#[test]
fn an_empty_batch_is_checkpointed() {
    let (_directory, path, mut store) = new_store();
    let empty = Batch {
        commands: Vec::new(),
        last: id(7),
    };
    store.apply(&empty).unwrap();
    store.close().unwrap();
    drop(store);
    assert_eq!(open(&path).applied(), id(7));
}

/// The store looks at the file as it was after the last flush; that keeps no pages for longer, so a
/// file in which the same keys change again and again stays as large as it is.
#[test]
fn the_file_does_not_grow_with_the_number_of_checkpoints() {
    let (_directory, path, mut store) = new_store();
    let mut sizes = Vec::new();
    for round in 0..24 {
        let commands: Vec<Bytes> = (0..500u32)
            .map(|number| put(&number.to_be_bytes(), &[round; 200]).encode())
            .collect();
        let first = u64::from(round) * 500 + 2;
        store.apply(&batch(first, &commands)).unwrap();
        store.checkpoint().unwrap();
        assert!(get(&mut store, &7u32.to_be_bytes()).is_some());
        store.wait().unwrap();
        sizes.push(fs::metadata(&path).unwrap().len());
    }
    assert_eq!(sizes[6..].iter().max(), Some(&sizes[6]), "{sizes:?}");
}

/// A store whose state at 3 is in the file, with the first steps of a checkpoint of what came after it.
fn half_written() -> (TempDir, PathBuf, KvStore) {
    let (directory, path, mut store) = new_store();
    apply(&mut store, 2, &put(b"a", b"before"));
    apply(&mut store, 3, &put(b"b", b"before"));
    store.checkpoint().unwrap();
    store.wait().unwrap();
    apply(&mut store, 4, &put(b"a", b"after"));
    apply(&mut store, 5, &delete(b"b"));
    let mut rows = store.active.iter().peekable();
    write_step(&store.database, &store.seal, &mut rows, 1).unwrap();
    assert!(rows.peek().is_some(), "one row is a step of one byte");
    write_step(&store.database, &store.seal, &mut rows, usize::MAX).unwrap();
    assert!(rows.peek().is_none());
    drop(rows);
    (directory, path, store)
}

/// A snapshot that is taken while a checkpoint is written has nothing of that checkpoint: whoever gets it applies those
/// entries once more. Who reads or begins a backup sees what was applied, as always.
#[test]
fn a_snapshot_is_of_a_whole_checkpoint() {
    let (_directory, _path, mut store) = half_written();
    let mut snapshot = source(&mut store);
    assert_eq!(snapshot.last(), id(3));
    let pieces = pieces(&mut *snapshot);
    let all: Vec<u8> = pieces
        .iter()
        .flat_map(|(_, piece)| piece.data.to_vec())
        .collect();
    let count = |word: &[u8]| all.windows(word.len()).filter(|at| *at == word).count();
    assert_eq!((count(b"before"), count(b"after")), (2, 0));
    assert_eq!(get(&mut store, b"a").unwrap().data, "after");
    assert_eq!(get(&mut store, b"b"), None);
}

/// Steps whose end never came are lost with a crash. If they are made durable without it, by a process that ends in order,
/// the file is refused.
#[test]
fn half_a_checkpoint_is_never_a_state() {
    let (directory, path, store) = half_written();
    let copy = directory.path().join("crashed.redb");
    fs::copy(&path, &copy).unwrap();
    let mut crashed = open(&copy);
    assert_eq!(crashed.applied(), id(3));
    assert_eq!(get(&mut crashed, b"a").unwrap().data, "before");
    assert_eq!(get(&mut crashed, b"b").unwrap().data, "before");

    drop(store);
    let refused = KvStore::open(&path, &identity(), KvOptions::default());
    let Err(OpenError::Corrupt { what, .. }) = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(*what, Corruption::RowMissing { row: APPLIED });
}
