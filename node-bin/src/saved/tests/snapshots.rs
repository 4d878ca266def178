//! States on their way to other members.

use std::path::{Path, PathBuf};

use quorate_consensus::{ORIGIN, SnapshotSink, SnapshotSource};

use super::*;

/// Nothing, in no bytes.
#[derive(Clone, Serialize, Deserialize)]
struct Nothing;

impl State for Nothing {
    fn apply(&mut self, _command: &Command) -> Bytes {
        Bytes::new()
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        Bytes::new()
    }
}

/// All pieces of the state that `saved` gives away.
fn pieces(source: &mut dyn SnapshotSource, bytes_max: u64) -> Vec<Bytes> {
    let (mut pieces, mut after) = (Vec::new(), Bytes::new());
    loop {
        let chunk = source.chunk(&after, bytes_max).unwrap();
        pieces.push(chunk.data);
        match chunk.next {
            Some(next) => after = next,
            None => return pieces,
        }
    }
}

fn source(saved: &mut Saved<impl State>) -> Box<dyn SnapshotSource> {
    saved.snapshot().unwrap().expect("something is saved")
}

/// Whether the sink accepts these pieces.
fn accepts(sink: &mut dyn SnapshotSink, last: EntryId, pieces: &[Bytes]) -> bool {
    sink.begin(last).unwrap();
    pieces.iter().all(|piece| sink.add(piece).unwrap()) && sink.finish().unwrap()
}

/// A state goes to another member in pieces, from the file as it was, and takes the place of what is there once it
/// is installed.
#[test]
fn a_snapshot_is_installed() {
    let from = filled();
    let mut saved = open(&from);
    let mut given = source(&mut saved);
    assert_eq!(given.last(), at(3));
    say(&mut saved, 4, "c");
    saved.checkpoint().unwrap();
    let all = pieces(&mut *given, 2);
    assert_eq!(all.len(), 3, "5 bytes, 2 at a time");

    let to = TempDir::new().unwrap();
    let mut copy = open(&to);
    assert!(copy.snapshot().unwrap().is_none(), "nothing is saved");
    say(&mut copy, 2, "x");
    copy.checkpoint().unwrap();
    let mut sink = copy.sink().unwrap();
    assert_eq!(copy.received().unwrap(), None);
    assert!(accepts(&mut *sink, at(3), &all));
    assert_eq!(copy.received().unwrap(), Some(at(3)));
    assert_eq!(said(&mut copy), "x", "not before it is installed");
    copy.install(at(3)).unwrap();
    assert_eq!((copy.applied(), copy.durable().unwrap()), (at(3), at(3)));
    assert_eq!(said(&mut copy), "a b");
    assert_eq!(names(&to), [STATE_FILE]);
    assert_eq!(said(&mut open(&to)), "a b");
    assert_eq!(all, pieces(&mut *source(&mut copy), 2), "and goes on");
}

/// A state without bytes is one as well.
#[test]
fn an_empty_state_is_given_away() {
    let directory = TempDir::new().unwrap();
    let mut saved = Saved::open_at(place(&directory, OsFiles), Nothing, false).unwrap();
    let (commands, last) = (Vec::new(), at(2));
    saved.apply(&Batch { commands, last }).unwrap();
    saved.checkpoint().unwrap();
    let pieces = pieces(&mut *source(&mut saved), 9);
    assert!(accepts(&mut *saved.sink().unwrap(), at(2), &pieces));
    saved.install(at(2)).unwrap();
}

/// A piece in which a byte is another, that is missing, comes twice, or is of another state, keeps the snapshot from
/// being accepted; and nothing of it is left that could be installed.
#[test]
fn a_damaged_snapshot_is_refused() {
    let from = filled();
    let mut saved = open(&from);
    let good = pieces(&mut *source(&mut saved), 2);
    let to = TempDir::new().unwrap();
    let copy = &mut open(&to);
    let mut sink = copy.sink().unwrap();
    let mut refused = |what: &str, pieces: &[Bytes]| {
        assert!(!accepts(&mut *sink, at(3), pieces), "{what}");
        assert_eq!(open(&to).received().unwrap(), None, "{what}");
    };
    for number in 0..good.len() {
        for byte in 0..good[number].len() {
            let mut piece = good[number].to_vec();
            piece[byte] ^= 0x01;
            let mut pieces = good.clone();
            pieces[number] = piece.into();
            refused(&format!("byte {byte} of piece {number}"), &pieces);
        }
        let mut pieces = good.clone();
        pieces.remove(number);
        refused("a piece is missing", &pieces);
        let mut pieces = good.clone();
        pieces.insert(number, good[number].clone());
        refused("a piece comes twice", &pieces);
        let mut pieces = good.clone();
        pieces[number] = [&good[number][..], b"\0"].concat().into();
        refused("a piece is longer", &pieces);
    }
    refused("there are no pieces", &[]);
    // Of the same length, as another member may have it that encodes its state in another order.
    let directory = TempDir::new().unwrap();
    let mut other = open(&directory);
    say(&mut other, 2, "b");
    say(&mut other, 3, "a");
    other.checkpoint().unwrap();
    let others = pieces(&mut *source(&mut other), 2);
    refused("two are mixed", &[&good[..1], &others[1..]].concat());
    let mut small = place(&to, OsFiles);
    small.bytes_max = 4;
    let mut small = Saved::open_at(small, Lines::default(), false).unwrap();
    assert!(
        !accepts(&mut *small.sink().unwrap(), at(3), &good),
        "too large"
    );
    let count = Saved::open_at(place(&to, OsFiles), Count::default(), false);
    let mut count = count.unwrap().sink().unwrap();
    assert!(!accepts(&mut *count, at(3), &good), "another program's");
    assert_eq!(open(&to).received().unwrap(), None);
    assert!(
        accepts(&mut *sink, at(3), &good),
        "as it was, it is accepted"
    );
}

/// Wherever a crash comes while a snapshot is received and installed, the former state or the new one is there, and
/// what was accepted can be installed.
#[test]
fn a_crash_at_any_step_of_installing_loses_nothing() {
    let from = filled();
    let pieces = pieces(&mut *source(&mut open(&from)), 2);
    let mut crashes = 0;
    for left in 0.. {
        let to = TempDir::new().unwrap();
        let mut copy = open(&to);
        say(&mut copy, 2, "x");
        copy.checkpoint().unwrap();
        drop(copy);

        let mut copy = open_on(&to, Failing::after(1 + left).files());
        let mut sink = copy.sink().unwrap();
        let mut receive = || {
            sink.begin(at(3))?;
            for piece in &pieces {
                assert!(sink.add(piece)?);
            }
            sink.finish()
        };
        let accepted = receive().unwrap_or(false);
        let installed = accepted && copy.install(at(3)).is_ok();
        drop(sink);
        drop(copy);
        let mut copy = open(&to);
        if accepted && copy.applied() == at(2) {
            assert_eq!(copy.received().unwrap(), Some(at(3)), "step {left}");
            copy.install(at(3)).unwrap();
        }
        let expected = match copy.applied() {
            applied if applied == at(2) => "x",
            _ => "a b",
        };
        assert_eq!(said(&mut copy), expected, "step {left}");
        if installed {
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 8, "{crashes}");
}

/// A file that was received up to another entry, or is damaged, is not installed.
#[test]
fn only_what_was_announced_is_installed() {
    let from = filled();
    let pieces = pieces(&mut *source(&mut open(&from)), 9);
    let to = TempDir::new().unwrap();
    assert!(accepts(&mut *open(&to).sink().unwrap(), at(3), &pieces));
    let error = open(&to).install(at(4)).unwrap_err().to_string();
    assert!(
        error.contains("goes up to 3@2, and should to 4@2"),
        "{error}"
    );
    let received: PathBuf = to.path().join(format!("{STATE_FILE}.received"));
    let mut content = fs::read(&received).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&received, content).unwrap();
    let mut copy = open(&to);
    let error = copy.install(at(3)).unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");
    assert!(copy.checkpoint().is_err(), "it has stopped");
    assert_eq!(open(&to).applied(), ORIGIN);
}

/// A file that is damaged while the node runs is not given away.
#[test]
fn what_is_damaged_is_not_given_away() {
    let directory = filled();
    let path: &Path = &directory.path().join(STATE_FILE);
    let mut saved = open(&directory);
    assert!(source(&mut saved).chunk(b"", 9).is_ok());
    let mut content = fs::read(path).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(path, content).unwrap();
    let error = source(&mut saved).chunk(b"", 9).unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");
}

/// A member may ask for any place; where there is none, there is nothing.
#[test]
fn a_place_that_is_none_is_no_error() {
    let directory = filled();
    let mut source = source(&mut open(&directory));
    let end = source.chunk(&5_u64.to_le_bytes(), 9).unwrap();
    for after in [&b"x"[..], &[0xff; 8], &[0; 9]] {
        assert_eq!(source.chunk(after, 9).unwrap(), end);
    }
    assert_eq!(end.next, None);
    let first = source.chunk(b"", 0).unwrap();
    assert_eq!(
        first.next.unwrap(),
        &1_u64.to_le_bytes()[..],
        "never nothing"
    );
}
