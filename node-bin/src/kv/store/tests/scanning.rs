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

/// Wherever the pairs are, in the file, on their way there or in memory, and in whatever steps they are
/// read, the digest is that of the state as it was.
#[test]
fn a_scan_sees_the_state_as_it_was() {
    let (_directory, path, store) = new_store();
    drop(store);
    let (gate, mut store) = Gate::open(&path, KvOptions::default());
    let mut index = 1;
    let mut next = |store: &mut KvStore, command: &Command| {
        index += 1;
        apply(store, index, command);
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
            next(
                &mut store,
                &Command::Delete {
                    key: vec![n].into(),
                },
            );
        }
    }
    store.checkpoint().unwrap();
    for n in 40..60_u8 {
        next(&mut store, &put(&[n], b"in memory"));
    }
    let then = store.digest().unwrap();
    let scans: Vec<_> = (0..4).map(|_| store.scan().unwrap().unwrap()).collect();
    next(&mut store, &put(&[0], b"later"));
    gate.release();
    next(
        &mut store,
        &Command::Delete {
            key: vec![59].into(),
        },
    );
    assert_ne!(store.digest().unwrap(), then);
    for (scan, bytes) in scans.into_iter().zip([1, 300, 1000, 1 << 20]) {
        assert_eq!(finish(scan, bytes), then, "{bytes} at a time");
    }
}
