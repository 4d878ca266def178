//! Damage by the sector: files cut short, sectors in the wrong place, and what a crash and a flipped
//! bit do together. The controls show what redb alone would do.

use std::collections::BTreeSet;

use quorate_consensus::LogStore;
use quorate_persist::{Corruption, OpenError, Store};
use redb::{Database, ReadableDatabase, TableDefinition};

use crate::State;
use crate::crash::{new_disk, open, script};
use crate::damage::closed_file;
use crate::disk::{Bare, Disk, IMAGE_AT, Image, Rng, SECTOR};

const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");

/// What a start on `content` finds: nothing, because it is refused, or a state.
fn found(content: Vec<u8>) -> Option<State> {
    let opened = open(&Disk::holding(content)).ok()?;
    State::of(&opened).ok()
}

/// A file that was cut short, by a byte as well as by half, is refused as damaged.
#[test]
fn b4_a_file_cut_short_is_refused() {
    let (content, state) = closed_file();
    assert_eq!(found(content.clone()), Some(state), "the control");
    let whole = content.len();
    let pages = (0..whole).step_by(4096);
    for length in pages.chain([1, whole / 2, whole - SECTOR, whole - 1]) {
        let error = open(&Disk::holding(content[..length].to_vec())).unwrap_err();
        assert!(
            matches!(error, OpenError::Corrupt { .. }),
            "{length} of {whole} bytes: {error:?}"
        );
    }
    let nothing = open(&Disk::holding(Vec::new())).unwrap_err();
    let OpenError::Corrupt { what, .. } = nothing else {
        panic!("{nothing}")
    };
    assert_eq!(what, Corruption::NotALog);
}

/// The control of `b5`: redb as it comes serves rows of damaged files as if nothing were wrong.
#[test]
fn b5_control_redb_alone_serves_damaged_rows() {
    let rows = |content: Vec<u8>| -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
        let database = Database::builder().create_with_backend(Image(Disk::holding(content)))?;
        let log = database.begin_read()?.open_table(LOG)?;
        log.range(0..)?
            .map(|row| {
                let (index, row) = row?;
                Ok((index.value(), row.value().to_vec()))
            })
            .collect()
    };
    let (content, _) = closed_file();
    let whole = rows(content.clone()).unwrap();
    let wrong = (IMAGE_AT as usize..content.len())
        .step_by(97)
        .filter(|at| {
            let mut damaged = content.clone();
            damaged[*at] ^= 1;
            // Some damage makes it panic, which is at least no wrong data.
            let found = std::panic::catch_unwind(|| rows(damaged));
            matches!(found, Ok(Ok(found)) if found != whole)
        })
        .count();
    assert!(wrong > 0);
}

/// Files after a crash: before and after the last step of the script, with everything on the disk.
fn unclosed_files() -> (Vec<u8>, Vec<u8>) {
    let (before, _store, disk) = last_commit();
    (before, disk.content())
}

/// The file before the last step of the script, and the store and its disk after it.
fn last_commit() -> (Vec<u8>, Store, Disk) {
    let disk = Disk::holding(new_disk());
    let mut store = open(&disk).unwrap().store;
    let script = script();
    let (last, first) = script.split_last().unwrap();
    for batch in first {
        store.append(batch).unwrap();
    }
    let before = disk.content();
    store.append(last).unwrap();
    (before, store, disk)
}

/// The bytes in which two files differ, and their neighbours in the sector.
fn changed(before: &[u8], after: &[u8]) -> Vec<usize> {
    (0..after.len())
        .filter(|at| {
            let sector = at / SECTOR * SECTOR..(at / SECTOR + 1) * SECTOR;
            before.get(sector.clone()) != after.get(sector)
        })
        .collect()
}

/// A flipped bit where the last commit wrote, found after a crash, is never mistaken for a commit that
/// was under way: the file is refused, or holds that commit.
#[test]
fn b7_a_flipped_bit_after_a_crash_takes_no_commit_back() {
    let flips = 3_000 * crate::times();
    let (before, after) = unclosed_files();
    let state = found(after.clone()).unwrap();
    assert_ne!(found(before.clone()), Some(state.clone()));
    let places = changed(&before, &after);
    let mut refused = 0;
    for seed in 0..flips {
        let mut rng = Rng::new(seed);
        let at = places[rng.below(places.len())];
        let mut damaged = after.clone();
        damaged[at] ^= 1 << rng.below(8);
        match found(damaged) {
            None => refused += 1,
            Some(found) => assert_eq!(found, state, "flip {seed} at {at}"),
        }
    }
    println!("{flips} flipped bits after a crash: {refused} refused");
    assert!(refused > flips / 10, "{refused} of {flips} refused");
}

/// The control of `b7`: with one phase, redb's default, the same damage silently takes commits back.
#[test]
fn b7_control_one_phase_takes_commits_back() {
    let disk = Disk::default();
    let database = Database::builder()
        .create_with_backend(Bare(disk.clone()))
        .unwrap();
    let commit = |index: u64| {
        let transaction = database.begin_write().unwrap();
        let mut log = transaction.open_table(LOG).unwrap();
        log.insert(index, &[7; 300][..]).unwrap();
        drop(log);
        transaction.commit().unwrap();
        disk.content()
    };
    let before = (1..=20).fold(Vec::new(), |_, index| commit(index));
    let after = commit(21);
    let places = changed(&before, &after);
    let taken_back = (0..3_000)
        .filter(|seed| {
            let mut rng = Rng::new(*seed);
            let mut damaged = after.clone();
            damaged[places[rng.below(places.len())]] ^= 1 << rng.below(8);
            let opened = Database::builder()
                .set_check_integrity_on_open(true)
                .create_with_backend(Bare(Disk::holding(damaged)));
            let Ok(database) = opened else { return false };
            let log = database.begin_read().unwrap().open_table(LOG).unwrap();
            log.get(20).unwrap().is_some() && log.get(21).unwrap().is_none()
        })
        .count();
    assert!(taken_back > 0);
}

/// One sector of what the last commit wrote keeps what it held before, though it was synced: whether or
/// not the store had settled, the file is refused, or holds the commit all the same.
#[test]
fn b8_a_lost_sector_of_the_last_commit_takes_nothing_back() {
    for settles in [false, true] {
        let (before, mut store, disk) = last_commit();
        if settles {
            store.settle().unwrap();
        }
        let after = disk.content();
        let state = found(after.clone()).unwrap();
        let places = changed(&before, &after);
        let sectors: BTreeSet<usize> = places.iter().map(|at| at / SECTOR * SECTOR).collect();
        let mut made_good = 0;
        for &at in &sectors {
            let mut damaged = after.clone();
            damaged[at..at + SECTOR].copy_from_slice(&before[at..at + SECTOR]);
            if let Some(found) = found(damaged) {
                assert_eq!(found, state, "sector at {at}, settled: {settles}");
                made_good += 1;
            }
        }
        assert!(made_good >= 8, "{made_good} of {}", sectors.len());
    }
}

/// The same of what an orderly stop writes.
#[test]
fn b8_a_lost_sector_of_an_orderly_stop_is_noticed() {
    let (_, store, disk) = last_commit();
    let before = disk.content();
    let state = found(before.clone()).unwrap();
    drop(store);
    let closed = disk.content();
    let places = changed(&before, &closed);
    let sectors: BTreeSet<usize> = places.iter().map(|at| at / SECTOR * SECTOR).collect();
    assert!(sectors.len() > 8, "{} sectors", sectors.len());
    for &at in &sectors {
        let mut damaged = closed.clone();
        let before = before.get(at..at + SECTOR).unwrap_or(&[0; SECTOR]);
        damaged[at..at + SECTOR].copy_from_slice(before);
        if let Some(found) = found(damaged) {
            assert_eq!(found, state, "sector at {at}");
        }
    }
}

/// The promise's edge, and the control of `b8`: two lost sectors of the last commit look as if the power
/// had failed in the middle of the write, until the store has settled.
#[test]
fn b8_control_two_lost_sectors_are_noticed_once_settled() {
    let (before, mut store, disk) = last_commit();
    let after = disk.content();
    let former = found(before.clone()).unwrap();
    let lost = |content: &[u8], at: usize| {
        let mut damaged = content.to_vec();
        damaged[at..at + 2 * SECTOR].copy_from_slice(&before[at..at + 2 * SECTOR]);
        found(damaged)
    };
    let places = changed(&before, &after);
    let sectors: BTreeSet<usize> = places.iter().map(|at| at / SECTOR * SECTOR).collect();
    let takes_back = |at: &&usize| lost(&after, **at).as_ref() == Some(&former);
    let taken_back = *sectors.iter().find(takes_back).unwrap();
    store.settle().unwrap();
    assert_eq!(lost(&disk.content(), taken_back), None);
}

/// Two sectors in each other's place, or one where another belongs: refused, or of no consequence.
#[test]
fn b9_misplaced_sectors_never_become_data() {
    let (content, state) = closed_file();
    // Those of the journal hold nothing that is needed.
    misplace(&content, &state, IMAGE_AT as usize / SECTOR);
    let (_, mut store, disk) = last_commit();
    store.settle().unwrap();
    let content = disk.content();
    let state = found(content.clone()).unwrap();
    misplace(&content, &state, 0);
}

fn misplace(content: &[u8], state: &State, first_sector: usize) {
    let moves = 1_000 * crate::times();
    let used: Vec<usize> = (first_sector..content.len() / SECTOR)
        .filter(|sector| {
            let start = sector * SECTOR;
            content[start..start + SECTOR].iter().any(|byte| *byte != 0)
        })
        .collect();
    let mut refused = 0;
    for seed in 0..moves {
        let mut rng = Rng::new(seed);
        let mut from = || used[rng.below(used.len())] * SECTOR;
        let (one, two) = (from(), from());
        let mut damaged = content.to_vec();
        damaged[one..one + SECTOR].copy_from_slice(&content[two..two + SECTOR]);
        if seed % 2 == 0 {
            damaged[two..two + SECTOR].copy_from_slice(&content[one..one + SECTOR]);
        }
        match found(damaged) {
            None => refused += 1,
            Some(found) => assert_eq!(found, *state, "move {seed}: {one} and {two}"),
        }
    }
    println!("{moves} misplaced sectors: {refused} refused");
    assert!(refused > 0, "{refused} of {moves} refused");
}
