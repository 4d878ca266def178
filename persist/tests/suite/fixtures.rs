//! Files of every format that a version had, kept in the tree: a later version still reads them, or the
//! change of format was not meant.

use std::fs;
use std::path::{Path, PathBuf};

use quorate_consensus::{Entry, EntryId, LogStore, LogWrite, Payload, Term};
use quorate_persist::{FORMAT, Options, Store};

use crate::disk::{Disk, Rng};
use crate::{State, changed, compact_to, hard_state, identity, index, membership, small, write};

/// Set, it makes the files of the present format anew.
const BLESS: &str = "BLESS";
const BOOT: u64 = 1;

fn fixture(format: u32, end: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    folder.join(format!("log-format-{format}-{end}.redb"))
}

/// Entries, a suffix that was replaced, a vote, and enough to go round the journal; from format 3 on, a
/// compaction, from format 4 on, entries of every kind, and in format 5 rows that are divided.
fn script(format: u32) -> Vec<Vec<LogWrite>> {
    let vote = LogWrite {
        cut: None,
        entries: vec![],
        hard_state: hard_state(7, Some(3), 3),
    };
    let compacted = LogWrite {
        cut: Some(compact_to(150)),
        ..write(7, 207..=209, 200)
    };
    let mut script = vec![vec![write(2, 2..=9, 2)], vec![write(4, 5..=6, 3), vote]];
    script.extend((0..20).map(|round| {
        let first = 7 + 10 * round;
        vec![write(7, first..=first + 9, first)]
    }));
    if format > 2 {
        script.push(vec![compacted]);
    }
    if format > 3 {
        script.push(vec![every_kind()]);
    }
    if format > 4 {
        script.push(vec![write(7, 214..=240, 210), write(8, 230..=250, 213)]);
    }
    script
}

/// From format 4 on: the entries that a leader adds by itself.
fn every_kind() -> LogWrite {
    let id = |at| EntryId::new(Term::new(7), index(at));
    let members = Payload::Membership(Box::new(changed(212)));
    let digest = Payload::Digest {
        at: id(210),
        digest: 0x0123_4567_89ab_cdef,
    };
    let payloads = (210..).zip([Payload::Compare, digest, members, Payload::Empty]);
    let entries = payloads.map(|(at, payload)| Entry {
        id: id(at),
        payload,
    });
    LogWrite {
        cut: None,
        entries: entries.collect(),
        hard_state: hard_state(7, Some(3), 210),
    }
}

fn make() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    Store::create(&path, &identity(), &membership(), small()).unwrap();
    let mut opened = Store::open(&path, &identity(), small()).unwrap();
    assert_eq!(opened.boot, BOOT);
    for batch in script(FORMAT) {
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
    // The first one that was kept is 2.
    for format in 2..=FORMAT {
        let mut expected = State::founding();
        for batch in script(format) {
            expected.apply(&batch);
        }
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
            assert_eq!(opened.boot, BOOT + 1);
        }
    }
}

/// A file of an older format is of the present one once it was opened, at whichever operation that was cut short
/// before.
#[test]
fn k4_an_older_file_is_upgraded_in_one_step() {
    (2..FORMAT).for_each(upgraded);
}

fn upgraded(format: u32) {
    let content = fs::read(fixture(format, "closed")).unwrap();
    let mut expected = State::founding();
    for batch in script(format) {
        expected.apply(&batch);
    }
    let whole = Disk::holding(content.clone());
    drop(crate::crash::open(&whole).unwrap());
    for fail_at in 1..=whole.operations() {
        let disk = Disk::failing_at(&content, fail_at, false);
        drop(crate::crash::open(&disk));
        let left = Disk::holding(disk.after_power_loss(&mut Rng::new(fail_at)));
        let mut opened = crate::crash::open(&left).unwrap();
        assert_eq!(State::of(&opened).unwrap(), expected, "operation {fail_at}");
        let base = opened.recovered.base().index.value() + 10;
        let next = opened.recovered.last.value() + 1;
        let entries = write(7, next..=next + 9, 200);
        opened.store.append(&[entries.clone(), entries]).unwrap();
        let next = next + 5;
        let compacted = LogWrite {
            cut: Some(compact_to(base)),
            ..write(7, next..=next, 200)
        };
        opened.store.append(&[compacted]).unwrap();
        drop(opened);
        let opened = crate::crash::open(&left).unwrap();
        assert_eq!(opened.recovered.base().index, index(base));
    }
}
