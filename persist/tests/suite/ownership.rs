//! A file is opened by its owner only, and made only where there is none.

use std::fs;
use std::path::Path;

use quorate_persist::{CreateError, OpenError, Options, Store, StoreIdentity};

use crate::{identity, membership, node, small};

fn create(path: &Path) -> Result<(), CreateError> {
    Store::create(path, &identity(), &membership(), small())
}

fn open_as(path: &Path, cluster: &str, id: u64) -> Result<(), OpenError> {
    let identity = StoreIdentity {
        cluster: cluster.into(),
        node: node(id),
    };
    Store::open(path, &identity, Options::default()).map(drop)
}

/// Another node, another cluster, a second process and a missing file are each refused by name, and
/// the text says which path, what was found and what to do.
#[test]
fn b17_e8_only_the_owner_opens_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    let refused = |error: OpenError, words: &[&str]| {
        let text = error.to_string();
        for word in words.iter().chain(&[path.to_str().unwrap()]) {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
        error
    };

    let error = refused(
        open_as(&path, "test", 2).unwrap_err(),
        &["does not exist", "add a new"],
    );
    assert!(matches!(error, OpenError::Missing { .. }));
    create(&path).unwrap();

    let error = refused(
        open_as(&path, "test", 3).unwrap_err(),
        &["n2", "n3", "correct"],
    );
    assert!(matches!(error, OpenError::WrongNode { .. }));
    let error = refused(
        open_as(&path, "prod", 2).unwrap_err(),
        &["test", "prod", "correct"],
    );
    assert!(matches!(error, OpenError::WrongCluster { .. }));

    let opened = Store::open(&path, &identity(), Options::default()).unwrap();
    let error = refused(
        open_as(&path, "test", 2).unwrap_err(),
        &["already open", "stop"],
    );
    assert!(matches!(error, OpenError::Locked { .. }));
    drop(opened);
    open_as(&path, "test", 2).unwrap();
}

/// Files that are no database, or half of one, are refused as damaged.
#[test]
fn b4_something_else_is_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    create(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    for content in [
        &b""[..],
        b"hello",
        &[0; 8192],
        &whole[..whole.len() / 2],
        &whole[..4096],
    ] {
        fs::write(&path, content).unwrap();
        let error = open_as(&path, "test", 2).unwrap_err();
        assert!(
            matches!(error, OpenError::Corrupt { .. }),
            "{} bytes: {error:?}",
            content.len()
        );
        // What cannot be opened is left as it was, for whoever looks into it.
        assert_eq!(fs::read(&path).unwrap().len(), content.len());
    }
}

/// An existing file is never replaced, whatever it is.
#[test]
fn e9_create_leaves_an_existing_file_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    assert!(!path.try_exists().unwrap());
    fs::write(&path, "precious").unwrap();
    assert!(path.try_exists().unwrap());
    assert!(matches!(create(&path), Err(CreateError::Exists { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

/// What a crashed create left is removed by the next one, and nothing else is.
#[test]
fn a11_create_cleans_up_after_a_crashed_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    let stale = directory.path().join("log.redb.creating-0123");
    let other = directory.path().join("other.redb.creating-0123");
    fs::write(&stale, "half").unwrap();
    fs::write(&other, "another's").unwrap();
    create(&path).unwrap();
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["log.redb", "other.redb.creating-0123"]);
}

/// A create that fails leaves nothing behind.
#[test]
fn a11_a_failed_create_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    for cluster in [String::new(), "x".repeat(256)] {
        let identity = StoreIdentity {
            cluster,
            ..identity()
        };
        let error = Store::create(&path, &identity, &membership(), small()).unwrap_err();
        assert!(matches!(error, CreateError::ClusterName { .. }));
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let error = create(&directory.path().join("missing/log.redb")).unwrap_err();
    assert!(matches!(error, CreateError::Io { .. }));
}

/// Only the user who runs the node can read the file.
#[test]
fn a_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    create(&path).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Store ids come from chance and nothing else: of files that one node makes one after the other, every
/// bit of the id takes both values. Neither a clock nor a name would do that.
#[test]
fn e10_store_ids_are_random() {
    const FILES: usize = 40;
    let directory = tempfile::tempdir().unwrap();
    let ids: Vec<u128> = (0..FILES)
        .map(|number| {
            let path = directory.path().join(number.to_string());
            create(&path).unwrap();
            let opened = Store::open(&path, &identity(), Options::default()).unwrap();
            opened.store_id
        })
        .collect();
    let ones = ids.iter().fold(0, |all, id| all | id);
    let zeros = ids.iter().fold(0, |all, id| all | !id);
    // A fair bit is the same 40 times in a row once in 550 billion times.
    assert_eq!((ones, zeros), (u128::MAX, u128::MAX), "{ids:x?}");
}
