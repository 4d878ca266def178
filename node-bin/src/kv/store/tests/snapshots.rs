//! A state that is copied to another member.

use std::io;
use std::sync::atomic::{AtomicI64, Ordering};

use quorate_certs::{ClusterName, Identity, Subject};
use quorate_consensus::{Chunk, SnapshotSink, SnapshotSource};

use super::*;
use crate::asking::Asking;
use crate::kv::history::{Seen, Watched};

/// Pieces of a few pairs each.
const PIECE_BYTES: u64 = 300;

fn filled() -> (TempDir, PathBuf, KvStore) {
    let (directory, path, mut store) = new_store();
    for index in 2..90 {
        let key = format!("key {:02}", index % 60);
        apply(&mut store, index, &put(key.as_bytes(), &[index as u8; 40]));
    }
    let key = Bytes::from_static(b"key 07");
    apply(&mut store, 90, &Command::Delete { key });
    store.close().unwrap();
    (directory, path, store)
}

fn other() -> (TempDir, PathBuf, KvStore) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kv.redb");
    let identity = StoreIdentity {
        node: NodeId::new(2).unwrap(),
        ..identity()
    };
    KvStore::create(&path, &identity).unwrap();
    let store = KvStore::open(&path, &identity, KvOptions::default()).unwrap();
    (directory, path, store)
}

pub(super) fn source(store: &mut KvStore) -> Box<dyn SnapshotSource> {
    store.snapshot().unwrap().unwrap()
}

/// Every piece, with the place before it.
pub(super) fn pieces(source: &mut dyn SnapshotSource) -> Vec<(Bytes, Chunk)> {
    let mut pieces = Vec::new();
    let mut after = Bytes::new();
    loop {
        let chunk = source.chunk(&after, PIECE_BYTES).unwrap();
        let next = chunk.next.clone();
        pieces.push((after, chunk));
        match next {
            Some(next) => after = next,
            None => return pieces,
        }
    }
}

pub(super) fn receive(
    store: &mut KvStore,
    last: EntryId,
    pieces: &[(Bytes, Chunk)],
) -> Box<dyn SnapshotSink> {
    let mut sink = store.sink().unwrap();
    sink.begin(last).unwrap();
    for (_, piece) in pieces {
        assert!(sink.add(&piece.data).unwrap());
    }
    sink
}

/// What was received and never installed goes before the next is received: there may be no room for both.
#[test]
fn what_was_received_in_vain_goes() {
    let (_from, _, mut store) = filled();
    let (_to, path, mut copy) = other();
    let mut snapshot = source(&mut store);
    let pieces = pieces(&mut *snapshot);
    let finished = receive(&mut copy, snapshot.last(), &pieces)
        .finish()
        .unwrap();
    let received = received_path(&path);
    assert!(finished && received.exists());
    let mut sink = copy.sink().unwrap();
    sink.begin(snapshot.last()).unwrap();
    assert!(!received.exists());
}

/// A member that gets a snapshot has the same state, durably, and goes on from there; it reads the old
/// state until then.
#[test]
fn a_snapshot_replaces_the_state_of_another_member() {
    let (_from, _, mut store) = filled();
    let (_to, path, mut copy) = other();
    apply(&mut copy, 2, &put(b"stale", b"x"));
    let mut snapshot = source(&mut store);
    assert_eq!(snapshot.last(), id(90));
    let pieces = pieces(&mut *snapshot);
    assert!(pieces.len() > 5, "{} pieces", pieces.len());

    let mut sink = receive(&mut copy, id(90), &pieces);
    assert_eq!(copy.received().unwrap(), None);
    assert!(sink.finish().unwrap());
    assert_eq!(copy.received().unwrap(), Some(id(90)));
    assert!(get(&mut copy, b"stale").is_some());

    copy.install(id(90)).unwrap();
    assert_eq!((copy.applied(), copy.durable().unwrap()), (id(90), id(90)));
    assert_eq!(copy.digest().unwrap(), store.digest().unwrap());
    assert_eq!(
        (get(&mut copy, b"stale"), copy.received().unwrap()),
        (None, None)
    );
    apply(&mut copy, 91, &put(b"more", b"y"));
    copy.close().unwrap();
    drop((copy, sink));
    let identity = StoreIdentity {
        node: NodeId::new(2).unwrap(),
        ..identity()
    };
    let again = KvStore::open(&path, &identity, KvOptions::default()).unwrap();
    assert_eq!(again.applied(), id(91));
}

/// Nobody knows what happened on the way to a snapshot: who waited since before it, and who asks then for what was
/// before it, has to read anew. What comes after it is told.
#[test]
fn who_watches_is_told_that_a_snapshot_came_between() {
    let (_from, _, mut store) = filled();
    let mut snapshot = source(&mut store);
    let pieces = pieces(&mut *snapshot);
    let (_to, _, mut copy) = other();
    apply(&mut copy, 2, &put(b"key 01", b"x"));
    let board = copy.board();
    let watch = |after| {
        let (sender, seen) = std::sync::mpsc::channel();
        let cluster = ClusterName::new("test").unwrap();
        let who = Arc::new(Identity::new(cluster, Subject::client("c").unwrap()));
        let (start, end) = (Bytes::new(), None);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(3600);
        let answer = move |answer| sender.send(answer).unwrap();
        let watched = Watched { start, end };
        assert!(board.history.watch(&who, watched, after, until, answer));
        seen
    };
    let waiting = watch(2);
    assert!(waiting.try_recv().is_err(), "nothing has happened");
    receive(&mut copy, id(90), &pieces).finish().unwrap();
    copy.install(id(90)).unwrap();
    let gone = Ok(Seen::Gone { since: 90 });
    assert_eq!(waiting.try_recv(), gone);
    assert_eq!(watch(2).try_recv(), gone);
    assert_eq!(watch(89).try_recv(), gone);
    let after = watch(90);
    assert!(after.try_recv().is_err(), "nothing has happened");
    apply(&mut copy, 91, &put(b"key 01", b"y"));
    let seen = after.try_recv();
    assert!(
        matches!(&seen, Ok(Seen::Changes { changes, revision: 91 }) if changes.len() == 1),
        "{seen:?}"
    );
}

/// A snapshot that was received but not installed before a crash is found at the next start; one that
/// was not finished is not.
#[test]
fn g3_a_received_snapshot_survives_until_it_is_installed() {
    let (_from, _, mut store) = filled();
    let mut snapshot = source(&mut store);
    let pieces = pieces(&mut *snapshot);
    let (to, path, mut copy) = new_store();
    let sink = receive(&mut copy, id(90), &pieces);
    drop((sink, copy));
    let mut copy = open(&path);
    assert_eq!(copy.received().unwrap(), None);
    receive(&mut copy, id(90), &pieces).finish().unwrap();
    drop(copy);
    let mut copy = open(&path);
    assert_eq!(
        (copy.applied(), copy.received().unwrap()),
        (ORIGIN, Some(id(90)))
    );
    assert!(copy.install(id(80)).is_err(), "another snapshot");
    let mut copy = {
        drop(copy);
        open(&path)
    };
    copy.install(id(90)).unwrap();
    assert_eq!(copy.digest().unwrap(), store.digest().unwrap());
    let names = fs::read_dir(to.path()).unwrap().count();
    assert_eq!(names, 1, "nothing is left behind");
}

/// A snapshot is the state at one entry, whatever is applied and flushed while it is read.
#[test]
fn a_snapshot_does_not_change_while_it_is_read() {
    let (_from, _, mut store) = filled();
    let digest = store.digest().unwrap();
    let mut snapshot = source(&mut store);
    let first = pieces(&mut *snapshot);
    for index in 91..150 {
        apply(&mut store, index, &put(b"key 03", &index.to_le_bytes()));
        store.checkpoint().unwrap();
    }
    store.close().unwrap();
    assert_eq!(
        pieces(&mut *snapshot),
        first,
        "the same question, the same answer"
    );
    let (_to, _, mut copy) = other();
    receive(&mut copy, id(90), &first).finish().unwrap();
    copy.install(id(90)).unwrap();
    assert_eq!(copy.digest().unwrap(), digest);
}

/// A source that did not give the pieces before goes on all the same: the digest is that of the state and
/// not of the transfer.
#[test]
fn g2_another_member_can_go_on_with_the_same_snapshot() {
    let (_from, _, mut store) = filled();
    let pieces = pieces(&mut *source(&mut store));
    let middle = pieces.len() / 2;
    let (after, piece) = &pieces[middle];
    let resumed = source(&mut store).chunk(after, PIECE_BYTES).unwrap();
    assert_eq!(&resumed, piece);
}

/// A piece that is missing, twice, out of order, changed anywhere or of another snapshot is refused, and
/// the right one still fits after it.
#[test]
fn g6_g7_a_piece_that_does_not_fit_is_refused() {
    let (_from, _, mut store) = filled();
    let good = pieces(&mut *source(&mut store));
    apply(&mut store, 91, &put(b"key 00", b"changed"));
    store.close().unwrap();
    let newer = pieces(&mut *source(&mut store));
    let (_to, _, mut copy) = other();
    let mut sink = receive(&mut copy, id(90), &good[..2]);
    let refused = |sink: &mut dyn SnapshotSink, data: &[u8], what: &str| {
        assert!(!sink.add(data).unwrap(), "{what}");
    };
    refused(&mut *sink, &good[1].1.data, "twice");
    refused(&mut *sink, &good[3].1.data, "one is missing");
    refused(&mut *sink, &newer[2].1.data, "of another snapshot");
    let data = &good[2].1.data;
    for byte in 0..data.len() {
        let mut damaged = data.to_vec();
        damaged[byte] ^= 0x10;
        refused(&mut *sink, &damaged, "changed");
    }
    for length in 0..data.len() {
        refused(&mut *sink, &data[..length], "cut short");
    }
    for (_, piece) in &good[2..] {
        assert!(sink.add(&piece.data).unwrap());
    }
    assert!(sink.finish().unwrap());
    copy.install(id(90)).unwrap();
}

/// A sink that was never begun takes nothing.
#[test]
fn nothing_is_taken_before_the_beginning() {
    let (_to, _, mut copy) = other();
    let mut sink = copy.sink().unwrap();
    assert!(!sink.add(b"").unwrap());
    assert!(!sink.finish().unwrap());
    assert!(copy.install(id(9)).is_err());
}

/// A record that is damaged on the sender's disk is noticed by the sender, and is in no piece.
#[test]
fn g6_a_damaged_record_is_not_given_away() {
    let (_from, path, store) = filled();
    drop(store);
    {
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(KV_TABLE).unwrap();
            let mut record = table.get(&b"key 33"[..]).unwrap().unwrap().value().to_vec();
            *record.last_mut().unwrap() ^= 1;
            table.insert(&b"key 33"[..], record.as_slice()).unwrap();
        }
        transaction.commit().unwrap();
    }
    let mut store = open(&path);
    let mut source = source(&mut store);
    let mut after = Bytes::new();
    let error = loop {
        match source.chunk(&after, PIECE_BYTES) {
            Ok(chunk) => after = chunk.next.expect("it does not get to the end"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("checksum"), "{error}");
}

/// A disk that is full when so many bytes more are written.
pub(super) fn full_after(room: Arc<AtomicI64>) -> Asking {
    Asking::new(move |what, bytes| {
        let bytes = i64::try_from(bytes).unwrap();
        match what == "write" && room.fetch_sub(bytes, Ordering::Relaxed) < bytes {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    })
}

/// A disk that fills up while a snapshot is received is an error of the transfer, wherever it happens:
/// the state is as it was, and with room the same snapshot is received.
#[test]
fn g11_a_full_disk_stops_the_transfer_and_costs_nothing() {
    let (_from, _, mut store) = filled();
    let pieces = pieces(&mut *source(&mut store));
    let (to, path, mut copy) = new_store();
    apply(&mut copy, 2, &put(b"kept", b"x"));
    copy.close().unwrap();
    drop(copy);
    let room = Arc::new(AtomicI64::new(i64::MAX));
    let options = KvOptions::default();
    let open_full = || {
        let files = full_after(Arc::clone(&room));
        KvStore::open_in(Arc::new(files), &path, &identity(), options).unwrap()
    };
    let transfer = |copy: &mut KvStore| -> Result<(), StateMachineError> {
        let mut sink = copy.sink().unwrap();
        sink.begin(id(90))?;
        for (_, piece) in &pieces {
            assert!(sink.add(&piece.data)?);
        }
        assert!(sink.finish()?);
        Ok(())
    };
    let mut failed = 0;
    for bytes in (0..).step_by(20_000) {
        let mut copy = open_full();
        room.store(bytes, Ordering::Relaxed);
        let outcome = transfer(&mut copy);
        room.store(i64::MAX, Ordering::Relaxed);
        if outcome.is_ok() {
            break;
        }
        failed += 1;
        assert_eq!(copy.received().unwrap(), None);
        assert!(get(&mut copy, b"kept").is_some());
    }
    assert!(failed > 2, "{failed}");
    let mut copy = open_full();
    assert_eq!(copy.received().unwrap(), Some(id(90)));
    copy.install(id(90)).unwrap();
    assert_eq!(copy.digest().unwrap(), store.digest().unwrap());
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1);
}
