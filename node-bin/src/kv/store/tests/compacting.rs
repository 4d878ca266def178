//! A file that is made as small as what is in it.

use std::sync::atomic::AtomicI64;

use super::snapshots::full_after;
use super::*;

/// Of many keys, most are deleted again.
fn hollow() -> (TempDir, PathBuf, u64) {
    let (directory, path, mut store) = new_store();
    let key = |number: u64| number.to_be_bytes();
    let puts: Vec<Bytes> = (0..3_000)
        .map(|number| put(&key(number), &[7; 200]).encode())
        .collect();
    store.apply(&batch(2, &puts)).unwrap();
    store.close().unwrap();
    let deletes: Vec<Bytes> = (0..3_000)
        .filter(|number| number % 50 > 0)
        .map(|number| {
            let key = Bytes::copy_from_slice(&key(number));
            Command::Delete { key }.encode()
        })
        .collect();
    store.apply(&batch(3_002, &deletes)).unwrap();
    store.close().unwrap();
    let digest = store.digest().unwrap();
    (directory, path, digest)
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// It becomes smaller and keeps its content, also where the disk has no room at any moment of it; another run goes on then.
#[test]
fn a_compacted_file_has_the_same_content() {
    let (directory, path, digest) = hollow();
    let before = length(&path);
    let copy = directory.path().join("copy.redb");
    let mut broken_off = 0;
    for room in (0..).map(|step: i64| step * 16 * 1024) {
        fs::copy(&path, &copy).unwrap();
        let room = Arc::new(AtomicI64::new(room));
        let compacted = KvStore::compact_in(&full_after(room), &copy, &identity());
        assert_eq!(open(&copy).digest().unwrap(), digest, "{compacted:?}");
        if compacted.is_ok() {
            break;
        }
        broken_off += 1;
        KvStore::compact_in(&OsFiles, &copy, &identity()).unwrap();
        assert_eq!(open(&copy).digest().unwrap(), digest);
        assert!(length(&copy) < before / 2, "{}", length(&copy));
    }
    assert!(broken_off > 2, "{broken_off}");
    let after = length(&copy);
    assert!(after < before / 2, "{before} to {after}");
}

/// A file that a node works on is left alone.
#[test]
fn an_open_file_is_not_compacted() {
    let (_directory, path, _) = hollow();
    let store = open(&path);
    let refused = KvStore::compact_in(&OsFiles, &path, &identity());
    let Err(CompactError::Open(OpenError::Locked { .. })) = refused else {
        panic!("{refused:?}");
    };
    drop(store);
}
