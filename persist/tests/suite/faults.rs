//! A disk on which one operation fails and the next ones work, as disks do.

use std::io::ErrorKind;

use quorate_consensus::{LogIndex, LogStore};
use quorate_persist::{OpenError, Opened, Options, Store};

use crate::crash::{Run, Script, check, new_disk, open, rounds_script, script, vote};
use crate::disk::{Disk, Failure, Operation, Rng};
use crate::{identity, small, write};

/// Lets each operation of the script fail once in turn. Those in which opening fails are only counted;
/// in the others the store must say so, and touch the disk no more.
fn fail_once_everywhere(kind: ErrorKind, wanted: fn(Operation) -> bool) -> (u64, u64) {
    let (content, script) = (new_disk(), script());
    let (mut at_open, mut at_append) = (0, 0);
    for fail_at in 1.. {
        let disk = Disk::with_failure(&content, fail_at, Failure::Once(kind));
        let mut run = Run::default();
        let opened = open(&disk);
        if let Ok(mut opened) = opened {
            let failed = script.iter().find_map(|batch| {
                let error = opened.store.append(batch).err();
                run.acked += usize::from(error.is_none());
                error
            });
            let Some(operation) = disk.failed() else {
                break;
            };
            if !wanted(operation) {
                continue;
            }
            if let Some(error) = failed {
                at_append += 1;
                assert!(error.to_string().contains("check its disk"), "{error}");
                stays_stopped(&mut opened.store, &disk);
            }
            drop(opened);
        } else if disk.failed().is_some_and(wanted) {
            at_open += 1;
        } else {
            continue;
        }
        nothing_is_lost(&disk, &run, &script, fail_at);
    }
    (at_open, at_append)
}

/// With the disk in order again: nothing acknowledged is lost, whether the machine went on or lost what it had not
/// written.
fn nothing_is_lost(disk: &Disk, run: &Run, script: &Script, fail_at: u64) {
    let lost = disk.after_power_loss(&mut Rng::new(fail_at));
    for left in [disk.content(), lost] {
        if let Err(wrong) = check(&Disk::holding(left), run, script) {
            panic!("operation {fail_at}: {wrong}");
        }
    }
}

/// Nobody knows what a failed write left, so the store answers nothing, and writes and syncs nothing,
/// not even as it is dropped.
fn stays_stopped(store: &mut Store, disk: &Disk) {
    let before = (disk.operations(), disk.syncs());
    for _ in 0..2 {
        let error = store.append(&script()[4]).unwrap_err();
        assert!(error.to_string().contains("restart"), "{error}");
        let error = store.read(LogIndex::new(2), LogIndex::new(2), 0);
        assert!(error.is_err());
    }
    assert_eq!((disk.operations(), disk.syncs()), before);
}

/// A failed sync stops the store for good and is not tried again: the pages it was for count as clean
/// from then on, and a second sync would succeed without them (Rebello et al., ATC 2020).
#[test]
fn b1_a_failed_sync_is_final() {
    let (at_open, at_append) =
        fail_once_everywhere(ErrorKind::Other, |operation| operation == Operation::Sync);
    assert!(at_open > 0 && at_append >= 8, "{at_open}, {at_append}");
}

/// The same for a write or a growing file when the disk is full; with space again, the node goes on
/// where it was.
#[test]
fn b2_a_full_disk_stops_the_store_and_loses_nothing() {
    let (at_open, at_append) = fail_once_everywhere(ErrorKind::StorageFull, |operation| {
        operation != Operation::Sync
    });
    assert!(at_open > 0 && at_append > 8, "{at_open}, {at_append}");
}

/// A sector that cannot be read is an error, and never an entry, a row or a file that is not there.
#[test]
fn b3_what_cannot_be_read_is_not_taken_for_absent() {
    let disk = Disk::holding(new_disk());
    let mut store = open(&disk).unwrap().store;
    store.append(&[write(1, 2..=200, 1)]).unwrap();
    drop(store);
    let content = disk.content();
    let uncached = |disk: &Disk| {
        let options = Options {
            cache_bytes: 0,
            ..small()
        };
        Store::open_on(disk.clone(), "disk".as_ref(), &identity(), options)
    };

    let whole = Disk::holding(content.clone());
    let opened = uncached(&whole).unwrap();
    let at_open = whole.reads();
    drop(opened);
    assert!(at_open > 10, "{at_open} reads");
    for count in 0..at_open {
        let disk = Disk::holding(content.clone());
        disk.fail_read_after(count);
        match uncached(&disk) {
            Err(OpenError::Io { .. } | OpenError::Database { .. }) => {}
            other => panic!("read {count}: {:?}", other.map(drop)),
        }
    }

    let (first, last) = (LogIndex::new(2), LogIndex::new(200));
    let disk = Disk::holding(content.clone());
    let opened = uncached(&disk).unwrap();
    let before = disk.reads();
    assert_eq!(opened.store.read(first, last, u64::MAX).unwrap().len(), 199);
    let reads = disk.reads() - before;
    assert!(reads > 3, "{reads} reads");
    for count in 0..reads {
        let disk = Disk::holding(content.clone());
        let opened = uncached(&disk).unwrap();
        disk.fail_read_after(count);
        let error = opened.store.read(first, last, u64::MAX).unwrap_err();
        assert!(error.to_string().contains("check its disk"), "{error}");
    }
}

/// More commits than fit into the journal, each of a block at least.
const TWO_HALVES: u64 = 2 * (64 << 10) / 4096;

/// As nodes open it: a thread brings what fills half of the journal to the image.
fn open_as_nodes_do(disk: &Disk) -> Result<Opened, OpenError> {
    let options = Options {
        background: true,
        ..small()
    };
    Store::open_on(disk.clone(), "disk".as_ref(), &identity(), options)
}

/// A write or sync of the image fails in a thread, behind an append that was acknowledged long ago. Before the
/// journal needs the place of what did not get there, an append says so, and the store stops.
#[test]
fn b1_b2_a_failure_in_the_background_is_told_by_a_later_append() {
    let content = new_disk();
    let mut script = rounds_script();
    script.extend((5..5 + 2 * TWO_HALVES).map(|term| vec![vote(term, 3, 43)]));
    let (mut at_open, mut told) = (0, Vec::new());
    for fail_at in 1.. {
        let disk = Disk::failing_in_image(&content, fail_at);
        let mut run = Run::default();
        let Ok(mut opened) = open_as_nodes_do(&disk) else {
            at_open += 1;
            nothing_is_lost(&disk, &run, &script, fail_at);
            continue;
        };
        let mut since_failure = 0;
        let failed = script.iter().find_map(|batch| {
            since_failure += u64::from(disk.failed().is_some());
            let error = opened.store.append(batch).err();
            run.acked += usize::from(error.is_none());
            error
        });
        match failed {
            Some(error) => {
                assert!(error.to_string().contains("check its disk"), "{error}");
                told.extend(disk.failed());
                stays_stopped(&mut opened.store, &disk);
            }
            None => assert!(
                since_failure < TWO_HALVES,
                "operation {fail_at} on the image failed {since_failure} appends ago, and none said so"
            ),
        }
        drop(opened);
        if disk.failed().is_none() {
            break;
        }
        nothing_is_lost(&disk, &run, &script, fail_at);
    }
    let count = |operation| told.iter().filter(|it| **it == operation).count();
    let counts = [Operation::Write, Operation::SetLength, Operation::Sync].map(count);
    println!("{at_open} at the opening, told by an append: {counts:?}");
    assert!(
        // How many depends on how far the thread is when the script ends.
        counts.iter().all(|count| *count > 0),
        "{counts:?}"
    );
}

/// The same where the store is closed before an append could say so: what did not get to the image stays in the
/// journal.
#[test]
fn b1_b2_a_failure_in_the_background_loses_nothing_at_the_end() {
    let (content, script) = (new_disk(), rounds_script());
    let mut silent = 0;
    for steps in 1..=script.len() {
        for fail_at in 1.. {
            let disk = Disk::failing_in_image(&content, fail_at);
            let mut run = Run::default();
            let Ok(mut opened) = open_as_nodes_do(&disk) else {
                continue;
            };
            let told = script[..steps].iter().any(|batch| {
                let fails = opened.store.append(batch).is_err();
                run.acked += usize::from(!fails);
                fails
            });
            drop(opened);
            if disk.failed().is_none() {
                break;
            }
            if !told {
                silent += 1;
                nothing_is_lost(&disk, &run, &script, fail_at);
            }
        }
    }
    println!("{silent} failures that no append told of");
    assert!(silent > 10, "{silent}");
}
