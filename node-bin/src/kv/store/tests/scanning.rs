//! Digests of a state that goes on meanwhile.

use super::flushing::Gate;
use super::*;

/// Reads all of `scan`, so many bytes at a time.
fn finish(mut scan: Box<dyn StateScan>, bytes: u64) -> u64 {
    loop {
        if let Some(digest) = scan.read_on(bytes).unwrap() {
            return digest;
        }
    }
}

/// A state that is partly in the file, partly on its way there, which the gate holds up, and partly in memory; and
/// the index of the next entry.
fn spread(path: &Path) -> (Gate, KvStore, u64) {
    let (gate, mut store) = Gate::open(path, KvOptions::default());
    let mut index = 2;
    let mut next = |store: &mut KvStore, command: &Command| {
        apply(store, index, command);
        index += 1;
    };
    for n in 0..50_u8 {
        next(&mut store, &put(&[n], b"in the file"));
    }
    store.checkpoint().unwrap();
    while store.durable().unwrap() != store.applied() {
        std::thread::yield_now();
    }
    gate.hold();
    for n in 0..50_u8 {
        if n % 3 == 0 {
            next(&mut store, &put(&[n, 1], b"on its way"));
        } else {
            let key = vec![n].into();
            next(&mut store, &Command::Delete { key });
        }
    }
    store.checkpoint().unwrap();
    for n in 40..60_u8 {
        next(&mut store, &put(&[n], b"in memory"));
    }
    (gate, store, index)
}

/// Lets go of what is held up, and changes the state.
fn go_on(gate: &Gate, store: &mut KvStore, index: u64) {
    let then = store.digest().unwrap();
    apply(store, index, &put(&[0], b"later"));
    gate.release();
    let key = vec![59].into();
    apply(store, index + 1, &Command::Delete { key });
    assert_ne!(store.digest().unwrap(), then);
}

/// Wherever the pairs are, in the file, on their way there or in memory, and in whatever steps they are
/// read, the digest is that of the state as it was.
#[test]
fn a_scan_sees_the_state_as_it_was() {
    let (_directory, path, store) = new_store();
    drop(store);
    let (gate, mut store, index) = spread(&path);
    let then = store.digest().unwrap();
    let scans: Vec<_> = (0..4).map(|_| store.scan().unwrap().unwrap()).collect();
    go_on(&gate, &mut store, index);
    for (scan, bytes) in scans.into_iter().zip([1, 300, 1000, 1 << 20]) {
        assert_eq!(finish(scan, bytes), then, "{bytes} at a time");
    }
}

/// The piece of the state after `of` that comes after `after`.
fn piece(store: &mut KvStore, of: EntryId, after: Bytes) -> Answer {
    ask(store, &Query::BackupPiece { of, after })
}

/// A backup has everything that was applied when it began, and nothing that came later, however long it is read.
#[test]
fn a_backup_is_the_state_as_it_was() {
    let (_directory, path, store) = new_store();
    drop(store);
    let (gate, mut store, index) = spread(&path);
    // More than one piece.
    for n in 0..4 {
        apply(&mut store, index + n, &put(&[200, n as u8], &[7; 500_000]));
    }
    let then = store.digest().unwrap();
    let last = store.applied();
    let begun = ask(&mut store, &Query::BeginBackup);
    assert_eq!(begun, Answer::BackupBegun { last });
    go_on(&gate, &mut store, index + 4);

    let mut progress = Progress::default();
    let mut pieces = 0;
    let mut after = Some(Bytes::new());
    while let Some(place) = after {
        let Answer::BackupPiece(BackupPiece { data, next }) = piece(&mut store, last, place) else {
            panic!("no piece");
        };
        assert!(progress.check(&data));
        after = next;
        pieces += 1;
        let key = vec![100, pieces].into();
        let put = Command::Put {
            key,
            value: Bytes::from_static(b"meanwhile"),
        };
        apply(&mut store, index + 5 + u64::from(pieces), &put);
    }
    assert!(pieces > 1, "{pieces}");
    assert_eq!(progress.digest(), then);
    // The state as it is now is another one, which nobody has asked to hold.
    let now = store.applied();
    let other = piece(&mut store, now, Bytes::new());
    assert_eq!(other, Answer::Refused(Invalid::BackupGone));
}
