//! A closed file that was changed is refused, or still holds what was written. The rows are made
//! here a second time, from `docs/disk.md` alone.

use std::path::Path;

use quorate_consensus::{LogIndex, LogStore, Term};
use quorate_persist::{Corruption, FORMAT, OpenError, Opened, Options, Store};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};

use crate::disk::{Disk, IMAGE_AT, Image, Rng};
use crate::{State, identity, membership, small, write};

const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");
const STORE_ID: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;

fn open(content: Vec<u8>) -> Result<Opened, OpenError> {
    Store::open_on(
        Disk::holding(content),
        Path::new("disk"),
        &identity(),
        small(),
    )
}

/// A file with entries 2 to 30, closed in order, and what it holds.
pub(crate) fn closed_file() -> (Vec<u8>, State) {
    let disk = Disk::default();
    let name = Path::new("disk");
    Store::create_on(
        disk.clone(),
        name,
        &identity(),
        STORE_ID,
        &membership(),
        small(),
    )
    .unwrap();
    let mut opened = Store::open_on(disk.clone(), name, &identity(), small()).unwrap();
    let mut state = State::founding();
    for batch in [
        [write(1, 2..=20, 1)],
        [write(2, 15..=29, 12)],
        [write(4, 30..=30, 28)],
    ] {
        opened.store.append(&batch).unwrap();
        state.apply(&batch);
    }
    drop(opened);
    (disk.content(), state)
}

/// Copies of the journal's header that differ, as a kill between their writes leaves them, are made alike before anything
/// else is written: or the older one, if it were all that is left later, would point at what has been written over.
#[test]
fn copies_of_the_header_are_made_alike() {
    const COPY_BYTES: usize = 4096;
    let (content, state) = closed_file();
    for (from, to) in [(0, COPY_BYTES), (COPY_BYTES, 0)] {
        let mut content = content.clone();
        // An older one that passes its checks: generation and checksum are where docs/disk.md says.
        let mut older = content[from..from + COPY_BYTES].to_vec();
        let generation = u64::from_le_bytes(*older[36..].first_chunk().unwrap());
        older[36..44].copy_from_slice(&(generation - 1).to_le_bytes());
        let checksum = crc32c::crc32c(&older[..72]);
        older[72..76].copy_from_slice(&checksum.to_le_bytes());
        content[to..to + COPY_BYTES].copy_from_slice(&older);
        let disk = Disk::holding(content);
        let opened = Store::open_on(disk.clone(), Path::new("disk"), &identity(), small());
        let opened = opened.unwrap();
        assert_eq!(State::of(&opened).unwrap(), state);
        let now = disk.content();
        assert_eq!(now[..COPY_BYTES], now[COPY_BYTES..2 * COPY_BYTES]);
    }
}

/// One flipped bit anywhere in a closed file: refused, or everything is as it was written.
#[test]
fn b5_a_flipped_bit_never_becomes_data() {
    let flips = 3_000 * crate::times();
    let (content, state) = closed_file();
    let used: Vec<usize> = (0..content.len())
        .filter(|&at| {
            content[at & !63..(at | 63) + 1]
                .iter()
                .any(|&byte| byte != 0)
        })
        .collect();
    let (mut refused, mut harmless) = (0, 0);
    for seed in 0..flips {
        let mut rng = Rng::new(seed);
        let at = match seed % 5 {
            0 => IMAGE_AT as usize + rng.below(512), // redb's header with the commit slots
            1 => rng.below(content.len()),           // anywhere
            2 => rng.below(2 * 4096),                // the journal's header
            3 => IMAGE_AT as usize + rng.below(content.len() - IMAGE_AT as usize),
            _ => used[rng.below(used.len())],
        };
        let mut damaged = content.clone();
        damaged[at] ^= 1 << rng.below(8);
        let opened = open(damaged);
        match opened.map(|opened| (State::of(&opened), opened.recovered, opened.boot)) {
            Err(_) | Ok((Err(_), ..)) => refused += 1,
            Ok((Ok(found), recovered, boot)) => {
                assert_eq!(found, state, "flip {seed} at {at}");
                assert_eq!(recovered.membership(), &membership(), "flip {seed} at {at}");
                assert_eq!(boot, 2, "flip {seed} at {at}");
                harmless += 1;
            }
        }
    }
    println!("{flips} flipped bits: {refused} refused, {harmless} harmless");
    // The control: both outcomes happen, so neither the flips nor the check are idle.
    assert!(
        refused > flips / 10 && harmless > flips / 10,
        "{refused} refused, {harmless} harmless"
    );
}

/// `docs/disk.md`: "Checksums".
fn checksum(parts: &[&[u8]]) -> [u8; 4] {
    let mut all = b"test".to_vec();
    all.extend(2u64.to_le_bytes());
    all.extend(STORE_ID.to_le_bytes());
    all.extend(parts.concat());
    crc32c::crc32c(&all).to_le_bytes()
}

/// `docs/disk.md`: "Table log".
fn entry_row(index: u64, term: u64, kind: u8, payload: &[u8]) -> Vec<u8> {
    let rest = [&term.to_le_bytes()[..], &[kind], payload].concat();
    let checksum = checksum(&[b"e", &0u32.to_le_bytes(), &index.to_le_bytes(), &rest]);
    [&checksum[..], &rest].concat()
}

/// `docs/disk.md`: "Table log", a row of several: the entries of `closed_file` from `first` to `last`.
fn shared_row(first: u64, last: u64, term: u64) -> Vec<u8> {
    let parts = (first..=last).map(|index| {
        let command = format!("command {index}@{term}");
        let length = u32::try_from(command.len()).unwrap();
        [&[1], &length.to_le_bytes()[..], command.as_bytes()].concat()
    });
    let parts: Vec<Vec<u8>> = parts.collect();
    entry_row(first, term, 5, &parts.concat())
}

/// `docs/disk.md`: "Table meta".
fn meta_row(name: &str, numbers: &[u64]) -> Vec<u8> {
    let body: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    let checksum = checksum(&[b"m", name.as_bytes(), b"\0", &body]);
    [&body[..], &checksum].concat()
}

/// `docs/disk.md`: "The identity row".
fn identity_row(magic: &[u8; 8], format: u32) -> Vec<u8> {
    let mut row = magic.to_vec();
    row.extend(format.to_le_bytes());
    row.extend(2u64.to_le_bytes());
    row.extend(STORE_ID.to_le_bytes());
    row.extend(4u16.to_le_bytes());
    row.extend(b"test");
    let checksum = crc32c::crc32c(&row);
    row.extend(checksum.to_le_bytes());
    row
}

type Meta<'a> = Table<'a, &'static str, &'static [u8]>;
type Log<'a> = Table<'a, u64, &'static [u8]>;

/// Opens a closed file after `change` was made to its rows, past all of this crate's checks.
fn open_changed(change: impl FnOnce(&mut Meta<'_>, &mut Log<'_>)) -> Result<Opened, OpenError> {
    let disk = Disk::holding(closed_file().0);
    let database = Database::builder()
        .create_with_backend(Image(disk.clone()))
        .unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        let mut log = transaction.open_table(LOG).unwrap();
        change(&mut meta, &mut log);
    }
    transaction.commit().unwrap();
    drop(database);
    open(disk.content())
}

fn corruption(change: impl FnOnce(&mut Meta<'_>, &mut Log<'_>)) -> Corruption {
    match open_changed(change) {
        Err(OpenError::Corrupt { what, .. }) => what,
        other => panic!("{:?}", other.map(|opened| opened.recovered)),
    }
}

fn put(table: &mut Log<'_>, index: u64, row: &[u8]) {
    table.insert(index, row).unwrap();
}

/// The rows that this file makes are the rows that the store makes, byte for byte. Without this,
/// the tests below could pass because their rows are wrong in another way.
#[test]
fn the_document_describes_the_rows() {
    let disk = Disk::holding(closed_file().0);
    let database = Database::builder()
        .create_with_backend(Image(disk))
        .unwrap();
    let transaction = database.begin_read().unwrap();
    let meta = transaction.open_table(META).unwrap();
    let meta = |name: &str| meta.get(name).unwrap().unwrap().value().to_vec();
    assert_eq!(meta("identity"), identity_row(b"QRMLOG\0\0", FORMAT));
    assert_eq!(meta("base"), meta_row("base", &[1, 1]));
    assert_eq!(meta("boot"), meta_row("boot", &[1]));
    assert_eq!(meta("hard_state"), meta_row("hard_state", &[4, 3, 28]));
    let log = transaction.open_table(LOG).unwrap();
    let rows = log.range(0..).unwrap().map(Result::unwrap);
    let rows: Vec<(u64, Vec<u8>)> = rows
        .map(|(index, row)| (index.value(), row.value().to_vec()))
        .collect();
    assert_eq!(
        rows,
        [
            (2, shared_row(2, 14, 1)),
            (15, shared_row(15, 29, 2)),
            (30, entry_row(30, 4, 1, b"command 30@4")),
        ]
    );
    drop(transaction);
    drop(database);
    // And the store accepts them.
    let opened = open_changed(|meta, log| {
        put(log, 31, &entry_row(31, 4, 0, b""));
        let row = meta_row("hard_state", &[9, 0, 31]);
        meta.insert("hard_state", row.as_slice()).unwrap();
    });
    assert_eq!(opened.unwrap().recovered.last, LogIndex::new(31));
}

/// A row that is right elsewhere, a gap, a missing start, a falling term: each is refused by name.
#[test]
fn b9_g12_entries_out_of_place_are_refused() {
    let index = LogIndex::new;
    let moved = |from: u64, to: u64| {
        corruption(move |_, log| {
            let row = log.get(from).unwrap().unwrap().value().to_vec();
            put(log, to, &row);
        })
    };
    assert_eq!(
        moved(15, 16),
        Corruption::EntryChecksum { index: index(16) }
    );
    assert_eq!(
        moved(30, 31),
        Corruption::EntryChecksum { index: index(31) }
    );

    let gap = |expected, found| Corruption::Gap {
        expected: index(expected),
        found: index(found),
    };
    let removed = |at| corruption(move |_, log| drop(log.remove(at).unwrap()));
    assert_eq!(removed(15), gap(15, 30));
    assert_eq!(removed(2), gap(2, 15));
    // Rows of several that end too early and too late for the next one.
    let replaced = |last| corruption(move |_, log| put(log, 2, &shared_row(2, last, 1)));
    assert_eq!(replaced(13), gap(14, 15));
    assert_eq!(replaced(15), gap(16, 15));
    let far = corruption(|_, log| put(log, u64::MAX, &entry_row(u64::MAX, 4, 0, b"")));
    assert_eq!(
        far,
        Corruption::Gap {
            expected: index(31),
            found: index(u64::MAX)
        }
    );

    let falls = corruption(|_, log| put(log, 31, &entry_row(31, 3, 0, b"")));
    let (previous, found) = (Term::new(4), Term::new(3));
    assert_eq!(
        falls,
        Corruption::TermDecreases {
            index: index(31),
            previous,
            found
        }
    );
    let unknown = corruption(|_, log| put(log, 31, &entry_row(31, 4, 2, b"x")));
    assert_eq!(unknown, Corruption::EntryContent { index: index(31) });
}

/// A hard state that the log contradicts, and rows that are missing, short or damaged.
#[test]
fn impossible_single_rows_are_refused() {
    let hard_state = |numbers: &'static [u64]| {
        corruption(|meta, _| {
            let row = meta_row("hard_state", numbers);
            meta.insert("hard_state", row.as_slice()).unwrap();
        })
    };
    let (term, last_term) = (Term::new(3), Term::new(4));
    assert_eq!(
        hard_state(&[3, 0, 28]),
        Corruption::TermBehindLog { term, last_term }
    );
    let commit = |commit| Corruption::CommitOutsideLog {
        commit: LogIndex::new(commit),
        last: LogIndex::new(30),
    };
    assert_eq!(hard_state(&[4, 0, 31]), commit(31));
    assert_eq!(hard_state(&[4, 0, 0]), commit(0));
    let content = |row| Corruption::RowContent { row };
    assert_eq!(hard_state(&[4, 0]), content("hard_state"));

    for row in ["identity", "base", "boot", "hard_state", "membership"] {
        let missing = corruption(|meta, _| drop(meta.remove(row).unwrap()));
        assert_eq!(missing, Corruption::RowMissing { row });
        let damaged = corruption(|meta, _| {
            let mut bytes = meta.get(row).unwrap().unwrap().value().to_vec();
            bytes[1] ^= 4;
            meta.insert(row, bytes.as_slice()).unwrap();
        });
        assert_eq!(damaged, Corruption::RowChecksum { row });
    }
    let swapped = corruption(|meta, _| {
        let row = meta.get("boot").unwrap().unwrap().value().to_vec();
        meta.insert("base", row.as_slice()).unwrap();
    });
    assert_eq!(swapped, Corruption::RowChecksum { row: "base" });
    // A base that the first entry does not follow, one that cannot be, and one that format 2 never had.
    let rebased = |base: &'static [u64], format| {
        corruption(move |meta, log| {
            let row = meta_row("base", base);
            meta.insert("base", row.as_slice()).unwrap();
            let identity = identity_row(b"QRMLOG\0\0", format);
            meta.insert("identity", identity.as_slice()).unwrap();
            if format < FORMAT {
                // Without the entry 2.
                log.remove(2).unwrap();
                put(log, 3, &shared_row(3, 14, 1));
            }
        })
    };
    let (expected, found) = (LogIndex::new(3), LogIndex::new(2));
    assert_eq!(
        rebased(&[1, 2], FORMAT),
        Corruption::Gap { expected, found }
    );
    assert_eq!(rebased(&[0, 1], FORMAT), content("base"));
    assert_eq!(rebased(&[1, 2], 2), content("base"));
}

/// A newer format is named as such, another kind of file as damage.
#[test]
fn k4_other_formats_are_refused() {
    let with = |row: Vec<u8>| {
        open_changed(|meta, _| drop(meta.insert("identity", row.as_slice()).unwrap())).map(drop)
    };
    with(identity_row(b"QRMLOG\0\0", FORMAT)).unwrap();
    let newer = with(identity_row(b"QRMLOG\0\0", FORMAT + 1)).unwrap_err();
    assert!(
        matches!(
            newer,
            OpenError::NewerFormat {
                found,
                supported: FORMAT,
                ..
            } if found == FORMAT + 1
        ),
        "{newer}"
    );
    assert!(newer.to_string().contains("newer version"), "{newer}");
    let older = with(identity_row(b"QRMLOG\0\0", 1)).unwrap_err();
    assert!(matches!(older, OpenError::Corrupt { .. }), "{older}");
    let other = with(identity_row(b"OTHER\0\0\0", 2)).unwrap_err();
    let OpenError::Corrupt { what, .. } = &other else {
        panic!("{other}")
    };
    assert!(
        matches!(what, Corruption::WrongKind { found, .. } if found == "OTHER"),
        "{what}"
    );
}

/// Damage that appears while the store is open is found when the entry is read.
#[test]
fn b6_damage_under_a_running_store_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    Store::create(&path, &identity(), &membership(), small()).unwrap();
    let options = Options {
        cache_bytes: 0,
        ..small()
    };
    let mut store = Store::open(&path, &identity(), options).unwrap().store;
    store.append(&[write(1, 2..=400, 1)]).unwrap();
    drop(store);
    let store = Store::open(&path, &identity(), options).unwrap().store;
    let last = LogIndex::new(400);
    assert!(store.read(LogIndex::new(2), last, u64::MAX).is_ok());

    let needle = b"command 77@1";
    let mut content = std::fs::read(&path).unwrap();
    for at in 0..content.len() - needle.len() {
        if content[at..].starts_with(needle) {
            content[at + 8] ^= 1;
        }
    }
    std::fs::write(&path, content).unwrap();
    let error = store.read(LogIndex::new(2), last, u64::MAX).unwrap_err();
    assert!(error.to_string().contains("does not match"), "{error}");
    // In another row.
    assert!(store.read(last, last, u64::MAX).is_ok());
}
