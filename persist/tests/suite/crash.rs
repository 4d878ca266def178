//! The power fails at every operation of a script; nothing acknowledged is lost.

use std::path::Path;

use quorate_consensus::{LogStore, LogWrite};
use quorate_persist::{OpenError, Opened, Options, Store};

use crate::disk::{Disk, Rng};
use crate::{State, hard_state, identity, membership, write};

/// Different power losses tried at each operation.
const LOSSES: u64 = 24;

fn open(disk: &Disk) -> Result<Opened, OpenError> {
    Store::open_on(
        disk.clone(),
        Path::new("disk"),
        &identity(),
        Options::default(),
    )
}

fn new_disk() -> Vec<u8> {
    let disk = Disk::default();
    Store::create_on(
        disk.clone(),
        Path::new("disk"),
        &identity(),
        77,
        &membership(),
    )
    .unwrap();
    disk.content()
}

/// Appends, votes, a replaced suffix, and a batch that replaces its own.
fn script() -> Vec<Vec<LogWrite>> {
    let vote = |term, commit| LogWrite {
        entries: vec![],
        hard_state: hard_state(term, Some(3), commit),
    };
    vec![
        vec![write(1, 2..=4, 1)],
        vec![vote(2, 2)],
        vec![write(3, 3..=3, 2)],
        vec![write(3, 4..=40, 3), write(4, 20..=22, 19), vote(5, 20)],
        vec![write(5, 23..=23, 22)],
    ]
}

/// What the outside knows of a run.
#[derive(Default)]
struct Run {
    /// Starts that returned.
    boots: u64,
    /// Steps of the script that returned.
    acked: usize,
}

/// Runs the script until the power fails, then closes as far as that goes.
fn run(disk: &Disk) -> Run {
    let mut run = Run::default();
    let Ok(mut opened) = open(disk) else {
        return run;
    };
    run.boots = opened.boot;
    for batch in script() {
        if opened.store.append(&batch).is_err() {
            break;
        }
        run.acked += 1;
    }
    run
}

/// Every state that the script goes through.
fn states() -> Vec<State> {
    let mut states = vec![State::founding()];
    for batch in script() {
        let mut next = states.last().unwrap().clone();
        next.apply(&batch);
        states.push(next);
    }
    states
}

/// Says what is wrong with what a power loss left, if anything.
fn check(left: &Disk, run: &Run, states: &[State]) -> Result<(), String> {
    let opened = open(left).map_err(|error| format!("refused: {error}"))?;
    let state = State::of(&opened).map_err(|error| format!("unreadable: {error}"))?;
    let possible = &states[run.acked..states.len().min(run.acked + 2)];
    if !possible.contains(&state) {
        return Err(format!("after {} acknowledged steps: {state:?}", run.acked));
    }
    if opened.recovered.membership != membership() || opened.store_id != 77 {
        return Err("the membership or the store id changed".into());
    }
    if opened.boot <= run.boots {
        return Err(format!("start {} after start {}", opened.boot, run.boots));
    }
    Ok(())
}

/// Whatever a power loss at any operation leaves, it opens, and holds every acknowledged step whole
/// and the step under way wholly or not at all. So it does when the power fails again while it is
/// being opened.
#[test]
fn a1_a2_nothing_acknowledged_is_lost_at_any_crash_point() {
    let (content, states) = (new_disk(), states());
    let whole = Disk::holding(content.clone());
    assert_eq!(run(&whole).acked, states.len() - 1);
    let operations = whole.operations();
    assert!(operations > 50, "{operations} operations are no script");
    for fail_at in 1..=operations {
        let disk = Disk::failing_at(&content, fail_at, false);
        let run = run(&disk);
        for loss in 0..LOSSES {
            let mut rng = Rng::new(fail_at * LOSSES + loss);
            let left = disk.after_power_loss(&mut rng);
            let again = Disk::failing_at(&left, 1 + rng.below(12) as u64, false);
            drop(open(&again));
            let left = Disk::holding(again.after_power_loss(&mut rng));
            if let Err(wrong) = check(&left, &run, &states) {
                panic!("operation {fail_at}, loss {loss}: {wrong}");
            }
        }
    }
}

/// The control: the same check finds a disk whose syncs do nothing.
#[test]
fn a16_the_check_finds_a_disk_that_does_not_sync() {
    let (content, states) = (new_disk(), states());
    let operations = {
        let whole = Disk::holding(content.clone());
        run(&whole);
        whole.operations()
    };
    let found = (1..=operations)
        .filter(|&fail_at| {
            let disk = Disk::failing_at(&content, fail_at, true);
            let run = run(&disk);
            let left = disk.after_power_loss(&mut Rng::new(fail_at));
            check(&Disk::holding(left), &run, &states).is_err()
        })
        .count();
    assert!(found as u64 > operations / 2, "{found} of {operations}");
}

/// A failed write is reported once and for all: the store refuses everything after it.
#[test]
fn a_store_stops_at_the_first_failed_write() {
    let content = new_disk();
    let disk = Disk::holding(content.clone());
    let opened = open(&disk).unwrap();
    let operations = disk.operations();
    drop(opened);

    let disk = Disk::failing_at(&content, operations + 1, false);
    let mut store = open(&disk).unwrap().store;
    let error = store.append(&script()[0]).unwrap_err();
    assert!(error.to_string().contains("check its disk"), "{error}");
    let error = store.append(&script()[0]).unwrap_err();
    assert!(error.to_string().contains("restart"), "{error}");
}
