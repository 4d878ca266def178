//! Looking at a file without changing it.

use quorate_consensus::LogStore;
use quorate_persist::{CheckedLog, OpenError, Options, OsFiles, Store, check_log};

use crate::{identity, membership, small, write};

/// The log of a node that was killed is found in order, records of its journal included, and is
/// afterwards byte for byte what it was, again and again. So is one that was closed, and a damaged one
/// is refused.
#[test]
fn a_log_is_checked_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (
        directory.path().join("log.redb"),
        directory.path().join("killed.redb"),
    );
    Store::create(&path, &identity(), &membership(), small()).unwrap();
    let mut store = Store::open(&path, &identity(), small()).unwrap().store;
    store.append(&[write(1, 2..=200, 1)]).unwrap();
    store.append(&[write(3, 150..=151, 20)]).unwrap();
    std::fs::copy(&path, &copy).unwrap();
    let locked = check_log(OsFiles, &path).unwrap_err();
    assert!(matches!(locked, OpenError::Locked { .. }), "{locked}");
    drop(store);

    for path in [&path, &copy] {
        let before = std::fs::read(path).unwrap();
        for _ in 0..2 {
            let checked: CheckedLog = check_log(OsFiles, path).unwrap();
            assert_eq!(checked.identity, identity());
            assert_eq!(checked.boots, 1);
            assert_eq!(checked.last().to_string(), "151@3");
        }
        assert!(std::fs::read(path).unwrap() == before, "it changed");
    }
    let opened = Store::open(&copy, &identity(), Options::default()).unwrap();
    assert_eq!(opened.boot, 2, "looking was no start");
    drop(opened);

    let mut damaged = std::fs::read(&copy).unwrap();
    let at = damaged
        .windows(13)
        .rposition(|bytes| bytes == b"command 151@3");
    damaged[at.unwrap()] ^= 4;
    std::fs::write(&copy, damaged).unwrap();
    let error = check_log(OsFiles, &copy).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}
