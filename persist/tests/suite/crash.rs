//! The power fails at every operation of a script; nothing acknowledged is lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use quorate_consensus::{Cut, Entry, EntryId, LogIndex, LogStore, LogWrite, Membership, Term};
use quorate_persist::{META_TABLE, OpenError, Opened, Options, Store, begin_durable};
use redb::{Database, ReadableDatabase};

use crate::disk::{Disk, Image, Rng};
use crate::{State, hard_state, identity, membership, small, write};

/// Different power losses tried at each operation.
const LOSSES: u64 = 24;

/// What is appended, batch by batch.
pub(crate) type Script = Vec<Vec<LogWrite>>;

pub(crate) fn open(disk: &Disk) -> Result<Opened, OpenError> {
    Store::open_on(disk.clone(), Path::new("disk"), &identity(), small())
}

pub(crate) fn new_disk() -> Vec<u8> {
    disk_with_journal(0).content()
}

fn disk_with_journal(journal_bytes: u64) -> Disk {
    let disk = Disk::default();
    let options = Options {
        journal_bytes,
        ..small()
    };
    Store::create_on(
        disk.clone(),
        Path::new("disk"),
        &identity(),
        77,
        &membership(),
        options,
    )
    .unwrap();
    disk
}

pub(crate) fn vote(term: u64, candidate: u64, commit: u64) -> LogWrite {
    LogWrite {
        cut: None,
        entries: vec![],
        hard_state: hard_state(term, Some(candidate), commit),
    }
}

/// Appends, votes, a replaced suffix, and a batch that replaces its own.
pub(crate) fn script() -> Script {
    vec![
        vec![write(1, 2..=4, 1)],
        vec![vote(2, 3, 2)],
        vec![write(3, 3..=3, 2)],
        vec![write(3, 4..=40, 3), write(4, 20..=22, 19), vote(5, 3, 20)],
        vec![write(5, 23..=23, 22)],
    ]
}

/// What the outside knows of a run.
#[derive(Default)]
pub(crate) struct Run {
    /// Starts that returned.
    boots: u64,
    /// Steps of the script that returned.
    pub(crate) acked: usize,
}

/// Runs the script until something fails, then closes as far as that goes.
fn run(disk: &Disk, script: &Script) -> Run {
    let mut run = Run::default();
    let Ok(mut opened) = open(disk) else {
        return run;
    };
    run.boots = opened.boot;
    for batch in script {
        if opened.store.append(batch).is_err() {
            break;
        }
        run.acked += 1;
    }
    run
}

/// Every state that the script goes through.
fn states(script: &Script) -> Vec<State> {
    let mut states = vec![State::founding()];
    for batch in script {
        let mut next = states.last().unwrap().clone();
        next.apply(batch);
        states.push(next);
    }
    states
}

/// Says what is wrong with what a failure left, if anything.
pub(crate) fn check(left: &Disk, run: &Run, script: &Script) -> Result<(), String> {
    let opened = open(left).map_err(|error| format!("refused: {error}"))?;
    let state = State::of(&opened).map_err(|error| format!("unreadable: {error}"))?;
    let states = states(script);
    let possible = &states[run.acked..states.len().min(run.acked + 2)];
    if !possible.contains(&state) {
        return Err(format!("after {} acknowledged steps: {state:?}", run.acked));
    }
    if opened.store_id != 77 {
        return Err("the store id changed".into());
    }
    if opened.boot <= run.boots {
        return Err(format!("start {} after start {}", opened.boot, run.boots));
    }
    Ok(())
}

/// Lets the power fail at each operation of the script in turn, and gives `inspect` what was
/// acknowledged and the dead disk.
fn fail_everywhere(script: &Script, mut inspect: impl FnMut(u64, &Run, &Disk)) {
    let content = new_disk();
    let whole = Disk::holding(content.clone());
    assert_eq!(run(&whole, script).acked, script.len());
    let operations = whole.operations();
    assert!(operations > 20, "{operations} operations are no script");
    for fail_at in 1..=operations {
        let disk = Disk::failing_at(&content, fail_at, false);
        let run = run(&disk, script);
        inspect(fail_at, &run, &disk);
    }
}

/// Whatever a power loss at any operation leaves, it opens, and holds every acknowledged step whole
/// and the step under way wholly or not at all.
#[test]
fn a1_a2_nothing_acknowledged_is_lost_at_any_crash_point() {
    let (script, losses) = (script(), LOSSES * crate::times());
    let mut points = 0;
    fail_everywhere(&script, |fail_at, run, disk| {
        for loss in 0..losses {
            let mut rng = Rng::new(fail_at * losses + loss);
            points += 1;
            let left = Disk::holding(disk.after_power_loss(&mut rng));
            if let Err(wrong) = check(&left, run, &script) {
                panic!("operation {fail_at}, loss {loss}: {wrong}");
            }
        }
    });
    println!("{points} crash points");
}

/// A crash between the disk and the acknowledgement: whether or not the step got there, it can be
/// written again, and the result is the same.
#[test]
fn a3_a_step_can_be_written_again_after_a_crash() {
    let script = vec![
        vec![write(1, 2..=4, 1)],
        vec![write(2, 4..=9, 3)],
        vec![write(2, 10..=30, 9)],
    ];
    let states = states(&script);
    let mut there = [0; 2];
    fail_everywhere(&script, |fail_at, run, disk| {
        let Some(step) = script.get(run.acked) else {
            return;
        };
        // A loss of power seldom leaves all of a record; the end of the process does.
        let left = Disk::holding(match fail_at % 2 {
            0 => disk.after_power_loss(&mut Rng::new(fail_at)),
            _ => disk.content(),
        });
        let mut opened = open(&left).unwrap();
        let survived = State::of(&opened).unwrap() == states[run.acked + 1];
        there[usize::from(survived)] += 1;
        opened.store.append(step).unwrap();
        drop(opened);
        let again = State::of(&open(&left).unwrap()).unwrap();
        assert_eq!(again, states[run.acked + 1], "operation {fail_at}");
    });
    assert!(there.iter().all(|count| *count > 0), "{there:?}");
}

/// An acknowledged vote is there after the crash, and neither it nor one that just made it to the disk
/// can be followed by another vote in its term.
#[test]
fn a4_a_vote_survives_and_no_other_can_follow_it() {
    let script = vec![
        vec![vote(2, 3, 1)],
        vec![vote(3, 1, 1)],
        vec![vote(7, 2, 1)],
    ];
    let states = states(&script);
    fail_everywhere(&script, |fail_at, run, disk| {
        let left = Disk::holding(disk.after_power_loss(&mut Rng::new(fail_at)));
        let mut opened = open(&left).unwrap();
        let hard_state = opened.recovered.hard_state;
        assert!(
            hard_state.term >= states[run.acked].hard_state.term,
            "operation {fail_at}: {hard_state:?}"
        );
        let Some(candidate) = hard_state.vote else {
            assert_eq!(run.acked, 0);
            return;
        };
        let another = candidate.value() % 3 + 1;
        let second = vote(hard_state.term.value(), another, 1);
        let second = catch_unwind(AssertUnwindSafe(|| opened.store.append(&[second])));
        assert!(second.is_err(), "two votes in {}", hard_state.term);
        drop(opened);
        assert_eq!(open(&left).unwrap().recovered.hard_state, hard_state);
    });
}

/// Entries, the removal of a suffix and the hard state of any number of writes cost the syncs of one
/// transaction, so there is no moment between them.
#[test]
fn a5_a_batch_is_one_transaction() {
    // So large that no half of the journal is filled, which costs syncs of its own.
    let disk = disk_with_journal(8 << 20);
    let mut store = open(&disk).unwrap().store;
    let mut syncs = |batch: &[LogWrite]| {
        let before = disk.syncs();
        store.append(batch).unwrap();
        disk.syncs() - before
    };
    let one = syncs(&[vote(2, 3, 1)]);
    // Both phases of redb in one record of the journal.
    assert_eq!(one, 1);
    assert_eq!(syncs(&[write(2, 2..=30, 1)]), one);
    assert_eq!(syncs(&[write(3, 9..=12, 3), vote(4, 3, 5)]), one);
    let several = [
        write(4, 10..=20, 6),
        write(5, 13..=40, 12),
        vote(6, 3, 13),
        write(6, 30..=31, 29),
    ];
    assert_eq!(syncs(&several), one);
}

/// A suffix is replaced in one step: no crash shows the log without it and without its successor.
#[test]
fn a6_a_suffix_is_never_seen_half_replaced() {
    let script = vec![
        vec![write(1, 2..=60, 1)],
        vec![write(2, 5..=9, 4)],
        vec![write(3, 6..=80, 5)],
        vec![write(4, 7..=7, 6)],
    ];
    fail_everywhere(&script, |fail_at, run, disk| {
        for loss in 0..LOSSES / 3 {
            let left = disk.after_power_loss(&mut Rng::new(fail_at * LOSSES + loss));
            if let Err(wrong) = check(&Disk::holding(left), run, &script) {
                panic!("operation {fail_at}, loss {loss}: {wrong}");
            }
        }
    });
}

/// The log up to `index` goes, with a write of entries in `term` at `indexes`.
fn compacted(
    index: u64,
    term: u64,
    indexes: std::ops::RangeInclusive<u64>,
    commit: u64,
) -> LogWrite {
    LogWrite {
        cut: Some(crate::compact_to(index)),
        ..write(term, indexes, commit)
    }
}

fn restored(term: u64, index: u64, voters: &[u64]) -> LogWrite {
    let base = EntryId::new(Term::new(term), LogIndex::new(index));
    let membership = Membership::new(voters.iter().map(|&id| crate::node(id)), []).unwrap();
    LogWrite {
        cut: Some(Cut::Restore { base, membership }),
        ..vote(term, 3, index)
    }
}

/// Compactions alone, again, across terms, up to the end and together with what else a batch may do; and
/// snapshots in place of all of it.
pub(crate) fn cut_script() -> Script {
    vec![
        vec![write(1, 2..=40, 30)],
        vec![compacted(10, 2, 41..=42, 31)],
        vec![compacted(10, 2, 43..=43, 31), compacted(20, 3, 42..=50, 41)],
        vec![compacted(45, 3, 51..=60, 50), write(4, 55..=56, 51)],
        vec![restored(5, 80, &[2, 3])],
        vec![write(5, 81..=90, 85), compacted(90, 6, 91..=91, 90)],
        vec![
            write(6, 92..=99, 95),
            restored(7, 97, &[1, 2, 3]),
            write(7, 98..=98, 97),
        ],
    ]
}

/// The beginning of the log, its base and the members change in one step with the rest of a batch: no
/// crash shows a base without its entries, entries without their base, or an old one.
#[test]
fn a10_a_new_beginning_is_there_wholly_or_not_at_all() {
    let (script, losses) = (cut_script(), LOSSES * crate::times());
    let mut points = 0;
    fail_everywhere(&script, |fail_at, run, disk| {
        for loss in 0..losses {
            points += 1;
            let mut rng = Rng::new(fail_at * losses + loss);
            let left = Disk::holding(disk.after_power_loss(&mut rng));
            if let Err(wrong) = check(&left, run, &script) {
                panic!("operation {fail_at}, loss {loss}: {wrong}");
            }
        }
    });
    println!("{points} crash points");
}

/// A compaction costs no sync of its own, and one that was done already does nothing.
#[test]
fn a10_a_compaction_goes_along_with_a_write() {
    let disk = disk_with_journal(8 << 20);
    let mut store = open(&disk).unwrap().store;
    store.append(&[write(1, 2..=40, 30)]).unwrap();
    let before = disk.syncs();
    store.append(&[compacted(30, 1, 41..=41, 31)]).unwrap();
    assert_eq!(disk.syncs() - before, 1);
    store.append(&[compacted(30, 1, 42..=42, 31)]).unwrap();
    store.append(&[compacted(7, 1, 43..=43, 31)]).unwrap();
    let early = store.read(LogIndex::new(30), LogIndex::new(31), u64::MAX);
    assert!(early.is_err(), "{early:?}");
    drop(store);
    let recovered = open(&disk).unwrap().recovered;
    assert_eq!(
        recovered.base(),
        EntryId::new(Term::new(1), LogIndex::new(30))
    );
    assert_eq!(recovered.last, LogIndex::new(43));
}

/// What is not committed is not compacted, and no snapshot replaces what is committed.
#[test]
fn a10_a_cut_that_would_lose_something_is_refused() {
    for (what, bad) in [
        ("not committed", compacted(31, 1, 41..=41, 30)),
        ("beyond the log", compacted(41, 1, 41..=41, 41)),
        ("below the commit index", restored(1, 30, &[2])),
    ] {
        let disk = Disk::holding(new_disk());
        let mut store = open(&disk).unwrap().store;
        store.append(&[write(1, 2..=40, 30)]).unwrap();
        let refused = catch_unwind(AssertUnwindSafe(|| store.append(&[bad])));
        assert!(refused.is_err(), "{what}");
        drop(store);
        assert_eq!(open(&disk).unwrap().recovered.last, LogIndex::new(40));
    }
}

/// Some hundred kilobytes through halves of 64: ones that fill up and are brought to the image, and a commit that is
/// larger than one and goes around it.
pub(crate) fn rounds_script() -> Script {
    let large = |term, first: u64, count: u64, commit| LogWrite {
        cut: None,
        entries: (first..first + count)
            .map(|index| {
                let id = EntryId::new(Term::new(term), LogIndex::new(index));
                Entry::command(id, vec![index as u8; 3000].into())
            })
            .collect(),
        hard_state: hard_state(term, Some(3), commit),
    };
    vec![
        vec![large(1, 2, 4, 1)],
        vec![large(1, 6, 4, 2)],
        vec![vote(2, 3, 3)],
        vec![large(2, 8, 60, 6)],
        vec![large(3, 20, 4, 19)],
        vec![large(3, 24, 6, 19)],
        vec![large(3, 30, 40, 28)],
        vec![large(4, 40, 3, 39)],
        vec![large(4, 43, 3, 40)],
        vec![large(4, 46, 3, 41)],
        vec![large(4, 49, 3, 42)],
    ]
}

/// The same through many rounds of the journal.
#[test]
fn a2_nothing_acknowledged_is_lost_in_any_round_of_the_journal() {
    let script = rounds_script();
    let (mut rounds, mut losses) = (0, 0);
    fail_everywhere(&script, |fail_at, run, disk| {
        let images = (0..2).map(|loss| {
            let mut rng = Rng::new(fail_at * LOSSES + loss);
            disk.after_power_loss(&mut rng)
        });
        for left in images.chain([disk.content()]) {
            let generation = u64::from_le_bytes(*left[36..].first_chunk().unwrap());
            rounds = rounds.max(generation);
            losses += 1;
            if let Err(wrong) = check(&Disk::holding(left), run, &script) {
                panic!("operation {fail_at}: {wrong}");
            }
        }
    });
    assert!(
        rounds > 8 && losses > 200,
        "{rounds} rounds, {losses} losses"
    );
}

/// When the power fails again at any operation of opening what a first failure left, the third start
/// finds the same.
#[test]
fn a13_a_crash_during_the_repair_after_a_crash_changes_nothing() {
    let crashes = fail_twice_everywhere(&script(), 1);
    assert!(crashes > 500, "{crashes} second crashes");
}

/// Also where a record is written over what the first failure left of another one, and torn as well.
#[test]
fn a13_records_that_were_torn_one_after_the_other_are_no_damage() {
    let votes = (2..9).map(|term| vec![vote(term, 3, 1)]).collect();
    let crashes = fail_twice_everywhere(&votes, LOSSES / 8);
    assert!(crashes > 500, "{crashes} second crashes");
}

/// How often the power failed again.
fn fail_twice_everywhere(script: &Script, losses: u64) -> u32 {
    let mut crashes = 0;
    fail_everywhere(script, |fail_at, run, disk| {
        for loss in 0..losses {
            let mut rng = Rng::new(fail_at * losses + loss);
            let left = disk.after_power_loss(&mut rng);
            for again_at in 1.. {
                let again = Disk::failing_at(&left, again_at, false);
                drop(open(&again));
                if again.failed().is_none() {
                    break;
                }
                crashes += 1;
                let left = Disk::holding(again.after_power_loss(&mut rng));
                if let Err(wrong) = check(&left, run, script) {
                    panic!("operation {fail_at}, then {again_at}, loss {loss}: {wrong}");
                }
            }
        }
    });
    crashes
}

/// A panic ends the process, whose writes the machine still has: at every operation, what is there
/// opens, as after a power loss. Where a panic is caught while a transaction is open, the transaction
/// never was.
#[test]
fn a15_a_panic_inside_of_a_transaction_leaves_it_whole_or_undone() {
    let script = script();
    fail_everywhere(&script, |fail_at, run, disk| {
        if let Err(wrong) = check(&Disk::holding(disk.content()), run, &script) {
            panic!("operation {fail_at}: {wrong}");
        }
    });

    let content = new_disk();
    let inserted = |commits: bool| {
        let disk = Disk::holding(content.clone());
        let database = Database::builder()
            .create_with_backend(Image(disk.clone()))
            .unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let transaction = begin_durable(&database).unwrap();
            let mut meta = transaction.open_table(META_TABLE).unwrap();
            meta.insert("another", &b"row"[..]).unwrap();
            drop(meta);
            assert!(commits, "told to");
            transaction.commit().unwrap();
        }));
        assert_eq!(panicked.is_err(), !commits);
        let transaction = database.begin_read().unwrap();
        let meta = transaction.open_table(META_TABLE).unwrap();
        let found = meta.get("another").unwrap().is_some();
        drop((meta, transaction, database));
        assert!(check(&disk, &Run::default(), &script).is_ok());
        found
    };
    assert!(!inserted(false));
    assert!(inserted(true), "the control");
}

/// A sector that is torn at any byte is no worse than one that is lost.
#[test]
fn b10_a_torn_sector_never_becomes_data() {
    let script = script();
    fail_everywhere(&script, |fail_at, run, disk| {
        for loss in 0..LOSSES / 2 {
            let left = disk.after_torn_power_loss(&mut Rng::new(fail_at * LOSSES + loss));
            if let Err(wrong) = check(&Disk::holding(left), run, &script) {
                panic!("operation {fail_at}, loss {loss}: {wrong}");
            }
        }
    });
}

/// The control: the same check finds a disk whose syncs do nothing.
#[test]
fn a16_the_check_finds_a_disk_that_does_not_sync() {
    let (content, script) = (new_disk(), script());
    let operations = {
        let whole = Disk::holding(content.clone());
        run(&whole, &script);
        whole.operations()
    };
    let found = (1..=operations)
        .filter(|&fail_at| {
            let disk = Disk::failing_at(&content, fail_at, true);
            let run = run(&disk, &script);
            let left = disk.after_power_loss(&mut Rng::new(fail_at));
            check(&Disk::holding(left), &run, &script).is_err()
        })
        .count();
    assert!(found as u64 > operations / 2, "{found} of {operations}");
}
