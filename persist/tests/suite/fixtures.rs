//! Files of every format that a version had, kept in the tree: a later version still reads them, or the
//! change of format was not meant.

use std::fs;
use std::path::{Path, PathBuf};

use quorate_consensus::{LogStore, LogWrite};
use quorate_persist::{FORMAT, Options, Store};

use crate::{State, hard_state, identity, membership, small, write};

/// Set, it makes the files of the present format anew.
const BLESS: &str = "BLESS";
const BOOT: u64 = 1;

fn fixture(format: u32, end: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    folder.join(format!("log-format-{format}-{end}.redb"))
}

/// Entries, a suffix that was replaced, a vote, and enough to go round the journal.
fn script() -> Vec<Vec<LogWrite>> {
    let vote = LogWrite {
        cut: None,
        entries: vec![],
        hard_state: hard_state(7, Some(3), 3),
    };
    let mut script = vec![vec![write(2, 2..=9, 2)], vec![write(4, 5..=6, 3), vote]];
    script.extend((0..20).map(|round| {
        let first = 7 + 10 * round;
        vec![write(7, first..=first + 9, first)]
    }));
    script
}

fn make() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    Store::create(&path, &identity(), &membership(), small()).unwrap();
    let mut opened = Store::open(&path, &identity(), small()).unwrap();
    assert_eq!(opened.boot, BOOT);
    for batch in script() {
        opened.store.append(&batch).unwrap();
    }
    // As a crash would leave it: the journal holds what is not in its place yet.
    fs::copy(&path, fixture(FORMAT, "crashed")).unwrap();
    drop(opened);
    fs::copy(&path, fixture(FORMAT, "closed")).unwrap();
}

#[test]
fn k4_every_format_there_was_is_read() {
    if std::env::var_os(BLESS).is_some() {
        make();
    }
    let mut expected = State::founding();
    for batch in script() {
        expected.apply(&batch);
    }
    // The first one that was kept is 2.
    for format in 2..=FORMAT {
        for end in ["crashed", "closed"] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("log.redb");
            fs::copy(fixture(format, end), &path).unwrap();
            let opened = Store::open(&path, &identity(), Options::default()).unwrap();
            assert_eq!(
                State::of(&opened).unwrap(),
                expected,
                "format {format}, {end}"
            );
            assert_eq!(opened.recovered.membership, membership());
            assert_eq!(opened.boot, BOOT + 1);
        }
    }
}
