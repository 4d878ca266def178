use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use bytes::Bytes;
use quorate_consensus::{Batch, Command, EntryId, LogIndex, NodeId, Term};
use quorate_persist::{Files, OsFiles, StoreIdentity};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use self::failing::Failing;
use super::file::Place;
use super::*;

mod failing;
mod fixtures;
mod snapshots;

/// What was said, in order.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
struct Lines(Vec<String>);

impl State for Lines {
    const COMPARED: bool = true;

    fn apply(&mut self, command: &Command) -> Bytes {
        match std::str::from_utf8(&command.data) {
            Ok("forget") => self.0.clear(),
            Ok(line) => self.0.push(line.into()),
            Err(_) => {}
        }
        self.0.len().to_string().into()
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        self.0.join(" ").into()
    }
}

/// Another form of it.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Count(u8);

impl State for Count {
    fn apply(&mut self, _command: &Command) -> Bytes {
        Bytes::new()
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        Bytes::new()
    }
}

fn at(index: u64) -> EntryId {
    EntryId::new(Term::new(2), LogIndex::new(index))
}

fn owner(cluster: &str, node: u64) -> StoreIdentity {
    StoreIdentity {
        cluster: cluster.into(),
        node: NodeId::new(node).unwrap(),
    }
}

fn place(directory: &TempDir, files: impl Files) -> Place {
    Place {
        files: Arc::new(files),
        path: directory.path().join(STATE_FILE),
        owner: owner("c", 1),
        bytes_max: STATE_BYTES_MAX,
    }
}

/// What is saved in the folder, on the operating system's files and with everything on one thread.
fn open(directory: &TempDir) -> Saved<Lines> {
    open_on(directory, OsFiles)
}

fn open_on(directory: &TempDir, files: impl Files) -> Saved<Lines> {
    Saved::open_at(place(directory, files), Lines::default(), false).unwrap()
}

/// Applies `line` as entry `index`.
fn say(saved: &mut Saved<Lines>, index: u64, line: &str) {
    let command = Command {
        id: at(index),
        data: Bytes::copy_from_slice(line.as_bytes()),
    };
    let batch = Batch {
        commands: vec![command],
        last: at(index),
    };
    assert_eq!(saved.apply(&batch).unwrap().len(), 1);
}

fn said(saved: &mut Saved<Lines>) -> String {
    String::from_utf8(saved.query(b"").unwrap().to_vec()).unwrap()
}

/// A folder in which "a b", up to entry 3, is saved.
fn filled() -> TempDir {
    let directory = TempDir::new().unwrap();
    let mut saved = open(&directory);
    say(&mut saved, 2, "a");
    say(&mut saved, 3, "b");
    saved.checkpoint().unwrap();
    assert_eq!(saved.durable().unwrap(), at(3));
    directory
}

fn names(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What the file is refused with.
fn refused(directory: &TempDir) -> SavedError {
    refused_at(place(directory, OsFiles))
}

fn refused_at(place: Place) -> SavedError {
    let path = place.path.clone();
    let error = Saved::open_at(place, Lines::default(), false).expect_err("it is refused");
    let text = error.to_string();
    assert!(text.contains(&*path.to_string_lossy()), "{text}");
    error
}

/// A state is where it was as it was last saved, and nothing else is in the folder.
#[test]
fn what_was_saved_is_found_again() {
    let directory = filled();
    assert_eq!(names(&directory), [STATE_FILE]);
    let path = directory.path().join(STATE_FILE);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "for its user only");
    let mut saved = open(&directory);
    assert_eq!((saved.applied(), saved.durable().unwrap()), (at(3), at(3)));
    assert_eq!(said(&mut saved), "a b");

    say(&mut saved, 4, "c");
    assert_eq!(saved.durable().unwrap(), at(3), "not before a checkpoint");
    drop(saved);
    let mut saved = open(&directory);
    assert_eq!(said(&mut saved), "a b", "a drop is a crash");
    say(&mut saved, 4, "c");
    // An entry without a command moves the state on as well.
    let last = at(5);
    let commands = Vec::new();
    saved.apply(&Batch { commands, last }).unwrap();
    saved.close().unwrap();
    let mut saved = open(&directory);
    assert_eq!((saved.applied(), &*said(&mut saved)), (at(5), "a b c"));
}

/// Wherever a crash comes while the state is saved, what was durable is found again, and the next checkpoint goes
/// on from there.
#[test]
fn a_crash_at_any_step_of_saving_loses_nothing() {
    let mut found = Vec::new();
    for left in 0.. {
        let directory = filled();
        // One for the folder that is synced as the state is opened.
        let mut saved = open_on(&directory, Failing::after(1 + left).files());
        say(&mut saved, 4, "c");
        let done = saved.checkpoint().is_ok();
        let durable = saved.durable().ok();
        assert_eq!(
            durable,
            done.then(|| at(4)),
            "nothing is said after a fault"
        );
        drop(saved);

        let mut saved = open(&directory);
        let lines = match saved.applied() {
            applied if applied == at(3) => "a b",
            applied if applied == at(4) => "a b c",
            applied => panic!("{applied} after step {left}"),
        };
        assert_eq!(said(&mut saved), lines, "step {left}");
        found.push(saved.applied());
        say(&mut saved, 9, "d");
        saved.checkpoint().unwrap();
        assert_eq!(names(&directory), [STATE_FILE], "step {left}");
        assert_eq!(said(&mut open(&directory)), format!("{lines} d"));
        if done {
            break;
        }
    }
    // Before the rename the one, after it the other.
    assert!(found.is_sorted() && found.len() > 6, "{found:?}");
    assert_eq!((found[0], found[found.len() - 2]), (at(3), at(4)));
}

/// The file is durable before it has its name, and the name before anyone is told; one that was found is made
/// durable first.
#[test]
fn names_are_given_to_what_is_durable() {
    let directory = filled();
    let failing = Failing::after(usize::MAX);
    let mut saved = open_on(&directory, failing.files());
    assert_eq!(failing.done(), ["sync directory"]);
    say(&mut saved, 4, "c");
    saved.checkpoint().unwrap();
    let done = failing.done();
    let end = done.iter().rposition(|what| *what == "write").unwrap();
    let after = ["sync data", "sync", "rename", "sync directory"];
    assert_eq!(done[end + 1..][..4], after, "{done:?}");
}

/// What a crash has left under a temporary name, torn as it may be, is in nobody's way.
#[test]
fn leftovers_are_removed() {
    let directory = filled();
    let whole = fs::read(directory.path().join(STATE_FILE)).unwrap();
    for (number, length) in [0, 1, whole.len() / 2, whole.len()].into_iter().enumerate() {
        let name = format!("{STATE_FILE}.creating-{number:032x}");
        fs::write(directory.path().join(name), &whole[..length]).unwrap();
    }
    let mut saved = open(&directory);
    assert_eq!(said(&mut saved), "a b");
    say(&mut saved, 4, "c");
    saved.checkpoint().unwrap();
    assert_eq!(names(&directory), [STATE_FILE]);
}

/// A byte that is another, or missing, or too many, is noticed wherever it is.
#[test]
fn a_damaged_file_is_refused() {
    let directory = filled();
    let path = directory.path().join(STATE_FILE);
    let good = fs::read(&path).unwrap();
    let damaged = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        let error = refused(&directory);
        assert!(matches!(error, SavedError::Damaged { .. }), "{error}");
    };
    for byte in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut content = good.clone();
            content[byte] ^= flip;
            damaged(&content);
        }
    }
    for length in 0..good.len() {
        damaged(&good[..length]);
    }
    damaged(&[&good[..], b"\0"].concat());
    fs::write(&path, &good).unwrap();
    assert_eq!(
        said(&mut open(&directory)),
        "a b",
        "as it was, it is in order"
    );
}

/// `content` with other bytes from `at` on, and with a header whose checksum is right.
fn forged(content: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    content[at..at + bytes.len()].copy_from_slice(bytes);
    // The cluster's name has one byte.
    let header = 50 + 1;
    let checksum = crc32c::crc32c(&content[..header]);
    content[header..header + 4].copy_from_slice(&checksum.to_le_bytes());
    content
}

/// A file that is in order, but of another node, cluster, version or program, is told from a damaged one, and no
/// length in it is believed.
#[test]
fn what_is_not_ours_is_refused_by_name() {
    let directory = filled();
    let path = directory.path().join(STATE_FILE);
    for other in [owner("d", 1), owner("c", 2)] {
        let mut place = place(&directory, OsFiles);
        place.owner = other;
        let error = refused_at(place);
        assert!(matches!(error, SavedError::OtherOwner { .. }), "{error}");
    }
    let good = fs::read(&path).unwrap();
    let write = |at: usize, bytes: &[u8]| fs::write(&path, forged(&good, at, bytes)).unwrap();
    write(8, &2_u32.to_le_bytes());
    let error = refused(&directory);
    assert!(
        matches!(
            error,
            SavedError::NewerFormat {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
    for bytes in [STATE_BYTES_MAX + 1, u64::MAX] {
        write(36, &bytes.to_le_bytes());
        let error = refused(&directory);
        assert!(error.to_string().contains(&bytes.to_string()), "{error}");
    }
    write(36, &STATE_BYTES_MAX.to_le_bytes());
    let Damage::Length { expected, .. } = (match refused(&directory) {
        SavedError::Damaged { what, .. } => what,
        error => panic!("{error}"),
    }) else {
        panic!("the file is shorter than it says")
    };
    assert!(expected > STATE_BYTES_MAX);

    fs::write(&path, &good).unwrap();
    let count = Saved::open_at(place(&directory, OsFiles), Count::default(), false);
    let error = count.expect_err("another program's");
    assert!(matches!(error, SavedError::Decode { .. }), "{error}");
    assert_eq!(said(&mut open(&directory)), "a b", "it was left alone");
}

/// What fails in the background is the next call's error, stops everything, and is not tried again.
#[test]
fn what_fails_in_the_background_is_told_once() {
    let directory = filled();
    let failing = Failing::after(2);
    let place = place(&directory, failing.files());
    let mut saved = Saved::open_at(place, Lines::default(), true).unwrap();
    say(&mut saved, 4, "c");
    saved.checkpoint().unwrap();
    let error = loop {
        match saved.query(b"") {
            Ok(_) => std::thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    assert!(std::error::Error::source(&error).is_some());
    let done = failing.done();
    for _ in 0..2 {
        let stopped = saved.checkpoint().unwrap_err().to_string();
        assert!(stopped.contains("has failed before"), "{stopped}");
        assert!(saved.durable().is_err() && saved.close().is_err());
    }
    assert_eq!(failing.done(), done, "the disk was left alone");
}

/// A checkpoint is left out while another is written, and the state goes on; the next one has all of it.
#[test]
fn one_checkpoint_at_a_time() {
    let directory = filled();
    let failing = Failing::after(usize::MAX);
    let place = place(&directory, failing.files());
    let mut saved = Saved::open_at(place, Lines::default(), true).unwrap();
    say(&mut saved, 4, "c");
    failing.held_up(|| {
        saved.checkpoint().unwrap();
        say(&mut saved, 5, "d");
        saved.checkpoint().unwrap();
        assert_eq!(said(&mut saved), "a b c d");
        assert_eq!(saved.durable().unwrap(), at(3));
    });
    while saved.durable().unwrap() == at(3) {
        std::thread::yield_now();
    }
    assert_eq!(saved.durable().unwrap(), at(4), "as it was when it began");
    saved.close().unwrap();
    drop(saved);
    let mut saved = open(&directory);
    assert_eq!((saved.applied(), &*said(&mut saved)), (at(5), "a b c d"));
}

/// A state that is too large is not saved, and nothing else happens; once it is smaller, it is saved again.
#[test]
fn a_state_that_is_too_large_is_not_saved() {
    let directory = filled();
    let mut place = place(&directory, OsFiles);
    // The count, and twice a length and a letter; or once a length and three letters.
    place.bytes_max = 5;
    let mut saved = Saved::open_at(place, Lines::default(), false).unwrap();
    say(&mut saved, 4, "c");
    saved.checkpoint().unwrap();
    assert_eq!(saved.durable().unwrap(), at(3));
    say(&mut saved, 5, "forget");
    say(&mut saved, 6, "abcd");
    saved.checkpoint().unwrap();
    assert_eq!(saved.durable().unwrap(), at(3));
    say(&mut saved, 7, "forget");
    say(&mut saved, 8, "abc");
    saved.checkpoint().unwrap();
    assert_eq!(saved.durable().unwrap(), at(8));
}

/// Equal states have equal digests, others other ones, and states that cannot be compared none.
#[test]
fn states_are_compared_by_what_they_hold() {
    let digest = |lines: &[&str]| {
        let directory = TempDir::new().unwrap();
        let mut saved = open(&directory);
        for (line, index) in lines.iter().zip(2..) {
            say(&mut saved, index, line);
        }
        let mut scan = saved.scan().unwrap().expect("they can be compared");
        scan.read_on(1).unwrap().expect("all at once")
    };
    assert_eq!(digest(&["a", "b"]), digest(&["x", "forget", "a", "b"]));
    assert_ne!(digest(&["a", "b"]), digest(&["b", "a"]));
    assert_ne!(digest(&["a", "b"]), digest(&["ab"]));
    let directory = TempDir::new().unwrap();
    let mut count = Saved::open_at(place(&directory, OsFiles), Count::default(), false).unwrap();
    assert!(count.scan().unwrap().is_none());
}
