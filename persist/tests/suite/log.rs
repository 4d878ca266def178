//! The log as Raft uses it, on a real file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use quorate_consensus::{
    Cut, ENTRY_OVERHEAD_BYTES, Entry, EntryId, LogIndex, LogStore, LogWrite, ORIGIN, Payload,
    Recovered, Term,
};
use quorate_persist::{Opened, Options, Store};
use tempfile::TempDir;

use crate::disk::Rng;
use crate::{
    State, changed, compact_to, entry, hard_state, identity, index, membership, node, small, write,
};

fn new_store() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    Store::create(&path, &identity(), &membership(), small()).unwrap();
    (directory, path)
}

fn open(path: &Path) -> Opened {
    Store::open(path, &identity(), Options::default()).unwrap()
}

/// A new store starts as a founding member, with the members it was given; every start counts.
#[test]
fn a_new_store_is_a_founding_member() {
    let (_directory, path) = new_store();
    let opened = open(&path);
    assert_eq!(opened.recovered, Recovered::founding(membership()));
    assert_eq!(opened.boot, 1);
    let store_id = opened.store_id;
    assert_ne!(store_id, 0);
    drop(opened);
    let opened = open(&path);
    assert_eq!((opened.boot, opened.store_id), (2, store_id));
    assert_eq!(opened.recovered, Recovered::founding(membership()));
}

/// A log of a cluster that goes on as another one: its number is another from then on, and nothing else is.
#[test]
fn k10_a_log_that_is_founded_anew() {
    let (_directory, path) = new_store();
    let mut opened = open(&path);
    let former = opened.origin;
    opened.store.append(&[write(2, 2..=5, 4)]).unwrap();
    let alone = open_after(opened, &path)
        .recovered
        .alone(node(2), 0)
        .unwrap();
    let mut opened = open(&path);
    opened.store.append(&[alone]).unwrap();
    let number = (1 << 63 | 7).try_into().unwrap();
    opened.store.found_anew(number).unwrap();
    let (store_id, boot) = (opened.store_id, opened.boot);
    let opened = open_after(opened, &path);
    assert_eq!(opened.origin, number.get());
    assert_ne!(opened.origin, former);
    assert_eq!((opened.store_id, opened.boot), (store_id, boot + 1));
    let recovered = opened.recovered;
    assert!(recovered.membership().is_single_voter(node(2)));
    let term = Term::new(2).founded_anew(0).value();
    assert_eq!(recovered.hard_state, hard_state(term, Some(2), 7));
    assert_eq!(recovered.last, index(7));
}

fn open_after(opened: Opened, path: &Path) -> Opened {
    drop(opened);
    open(path)
}

/// Entries, a replaced suffix, the hard state and the members are the same after a restart.
#[test]
fn what_was_appended_is_there_after_a_restart() {
    let (_directory, path) = new_store();
    let mut expected = State::founding();
    let empty = LogWrite {
        cut: None,
        entries: vec![Entry::empty(EntryId::new(Term::new(1), index(2)))],
        hard_state: hard_state(1, Some(1), 1),
    };
    let only_a_vote = LogWrite {
        cut: None,
        entries: vec![],
        hard_state: hard_state(7, Some(2), 3),
    };
    for batch in [
        vec![empty],
        vec![write(2, 3..=9, 2)],
        vec![write(4, 5..=6, 3)],
        vec![only_a_vote],
    ] {
        let mut opened = open(&path);
        opened.store.append(&batch).unwrap();
        expected.apply(&batch);
        drop(opened);
        let opened = open(&path);
        assert_eq!(State::of(&opened).unwrap(), expected);
        assert_eq!(opened.recovered.membership(), &membership());
    }
    let first = |term, at| EntryId::new(Term::new(term), index(at));
    assert_eq!(
        open(&path).recovered.terms,
        [ORIGIN, first(2, 3), first(4, 5)]
    );
}

/// In one batch, a later write may replace what an earlier one has just written.
#[test]
fn a_batch_may_replace_its_own_suffix() {
    let (_directory, path) = new_store();
    let batch = [
        write(1, 2..=5, 1),
        write(2, 3..=8, 1),
        write(3, 8..=8, 2),
        LogWrite {
            cut: None,
            entries: vec![],
            hard_state: hard_state(4, None, 3),
        },
    ];
    let mut expected = State::founding();
    expected.apply(&batch);
    let mut opened = open(&path);
    opened.store.append(&batch).unwrap();
    drop(opened);
    assert_eq!(State::of(&open(&path)).unwrap(), expected);
}

/// A read gives as many entries as fit, at least one, and an error where an entry should be.
#[test]
fn a_read_is_bounded_in_bytes() {
    let (_directory, path) = new_store();
    let mut store = open(&path).store;
    store.append(&[write(1, 2..=5, 1)]).unwrap();
    let each = entry(1, 2).bytes();
    assert_eq!(each, ENTRY_OVERHEAD_BYTES + 11);
    for (bytes_max, count) in [
        (0, 1),
        (each, 1),
        (2 * each - 1, 1),
        (2 * each, 2),
        (u64::MAX, 4),
    ] {
        let entries = store.read(index(2), index(5), bytes_max).unwrap();
        assert_eq!(
            entries,
            (2..2 + count).map(|at| entry(1, at)).collect::<Vec<_>>()
        );
    }
    assert_eq!(
        store.read(index(4), index(4), u64::MAX).unwrap(),
        [entry(1, 4)]
    );
    for (first, last) in [(1, 2), (5, 6), (6, 9)] {
        assert!(
            store.read(index(first), index(last), u64::MAX).is_err(),
            "{first} to {last}"
        );
    }
}

/// A write that breaks a rule of Raft is a bug in the caller: the store panics, refuses all further
/// use, and the file keeps what it had. The first case breaks none, and passes.
#[test]
fn a_write_against_the_rules_changes_nothing() {
    let vote = |term, vote, commit| LogWrite {
        cut: None,
        entries: vec![],
        hard_state: hard_state(term, vote, commit),
    };
    for (name, bad, batch) in [
        ("nothing wrong", false, vec![write(3, 5..=5, 4)]),
        ("gap", true, vec![write(2, 6..=6, 3)]),
        (
            "gap inside of a batch",
            true,
            vec![write(2, 5..=5, 3), write(2, 7..=7, 3)],
        ),
        ("committed entry replaced", true, vec![write(2, 3..=5, 3)]),
        (
            "entry term falls",
            true,
            vec![LogWrite {
                cut: None,
                entries: vec![entry(1, 5)],
                hard_state: hard_state(2, Some(3), 3),
            }],
        ),
        ("term falls", true, vec![vote(1, None, 3)]),
        (
            "entry above the term",
            true,
            vec![LogWrite {
                cut: None,
                entries: vec![entry(3, 5)],
                hard_state: hard_state(2, Some(3), 3),
            }],
        ),
        ("second vote", true, vec![vote(2, Some(1), 3)]),
        ("vote taken back", true, vec![vote(2, None, 3)]),
        ("commit beyond the log", true, vec![vote(2, Some(3), 5)]),
    ] {
        let (_directory, path) = new_store();
        let before = [write(2, 2..=4, 3)];
        let mut expected = State::founding();
        expected.apply(&before);
        let mut store = open(&path).store;
        store.append(&before).unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| store.append(&batch)));
        assert_eq!(result.is_err(), bad, "{name}");
        if bad {
            assert!(
                store.append(&[vote(9, None, 3)]).is_err(),
                "{name}: used after"
            );
            assert!(
                store.read(index(2), index(2), 0).is_err(),
                "{name}: read after"
            );
        } else {
            expected.apply(&batch);
        }
        drop(store);
        assert_eq!(State::of(&open(&path)).unwrap(), expected, "{name}");
    }
}

/// The members are those at the base and those that the log names after it, wherever the base is and
/// whatever was replaced.
#[test]
fn f11_members_go_with_their_entries() {
    let (_directory, path) = new_store();
    let at = |index: u64, members: bool| Entry {
        id: EntryId::new(Term::new(2), LogIndex::new(index)),
        payload: match members {
            true => Payload::Membership(Box::new(changed(index))),
            false => Payload::Empty,
        },
    };
    let hard_state = |commit| hard_state(2, None, commit);
    let members = |path: &Path| open(path).recovered.memberships;
    let append = |path: &Path, write: LogWrite| open(path).store.append(&[write]).unwrap();
    let entries = (2..=9).map(|index| at(index, index == 4 || index == 8));
    append(&path, LogWrite::new(entries.collect(), hard_state(5)));
    assert_eq!(members(&path), [membership(), changed(4), changed(8)]);
    append(&path, LogWrite::new(vec![at(8, false)], hard_state(7)));
    assert_eq!(members(&path), [membership(), changed(4)], "8 was replaced");
    let compacted = |index, membership| LogWrite {
        cut: Some(Cut::Compact { index, membership }),
        ..LogWrite::new(vec![], hard_state(8))
    };
    append(&path, compacted(index(3), membership()));
    assert_eq!(members(&path), [membership(), changed(4)]);
    append(&path, compacted(index(6), changed(4)));
    assert_eq!(members(&path), [changed(4)]);
}

/// Rows of several entries are divided wherever the log is cut, at either end or in one batch at both, and
/// what stays is what a plain list of entries keeps.
#[test]
fn rows_are_divided_where_the_log_is_cut() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let (_directory, path) = new_store();
        let mut expected = State::founding();
        let mut opened = open(&path);
        for step in 0..40_u64 {
            let batch: Vec<LogWrite> = (0..1 + rng.below(3))
                .map(|write| {
                    let write = drawn_write(&mut rng, &expected, 3 * step + write as u64);
                    expected.apply(std::slice::from_ref(&write));
                    write
                })
                .collect();
            opened.store.append(&batch).unwrap();
            if rng.below(8) == 0 {
                drop(opened);
                opened = open(&path);
                assert_eq!(State::of(&opened).unwrap(), expected, "seed {seed}");
            }
            let (first, last) = (expected.base.index.next(), expected.last());
            let from =
                first.value() + rng.below((last.value() + 1 - first.value()) as usize) as u64;
            if from <= last.value() {
                let read = opened.store.read(index(from), last, u64::MAX).unwrap();
                let wanted = expected
                    .entries
                    .iter()
                    .filter(|e| e.id.index >= index(from));
                assert!(read.iter().eq(wanted), "seed {seed}");
            }
        }
    }
}

/// Entries of 1 to 1,500 bytes at or before the end of the log of `state`, now and then with a compaction.
fn drawn_write(rng: &mut Rng, state: &State, number: u64) -> LogWrite {
    let (base, last) = (state.base.index.value(), state.last().value());
    let commit = state.hard_state.commit.value();
    let commit = commit + rng.below((last + 1 - commit) as usize / 2 + 1) as u64;
    let commit = commit.min(last);
    let first = commit + 1 + rng.below((last + 1 - commit) as usize) as u64;
    let first = match rng.below(2) {
        0 => first,
        _ => last + 1,
    };
    let rises = first <= last || rng.below(6) == 0;
    let term = match rises {
        true => number + 2,
        false => state.hard_state.term.value(),
    };
    let entries = (first..first + rng.below(30) as u64).map(|at| {
        let id = EntryId::new(Term::new(term), index(at));
        Entry::command(id, vec![at as u8; 1 + rng.below(1_500)].into())
    });
    let entries: Vec<Entry> = entries.collect();
    let compacted = base + rng.below((commit + 1 - base) as usize) as u64;
    let cut = (compacted > base && rng.below(3) == 0).then(|| compact_to(compacted));
    LogWrite {
        cut,
        entries,
        hard_state: hard_state(term, None, commit),
    }
}
