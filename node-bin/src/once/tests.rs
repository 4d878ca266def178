use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_consensus::{Command, EntryId, LogIndex, NodeId, ProposeError, Term};
use serde::{Deserialize, Serialize};

use super::form::{TAG_BYTES_MAX, join};
use super::*;

/// Counts how often each command was carried out.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Counts(BTreeMap<Vec<u8>, u64>);

impl State for Counts {
    fn apply(&mut self, command: &Command) -> Bytes {
        let count = self.0.entry(command.data.to_vec()).or_default();
        *count += 1;
        match &*command.data {
            b"long" => vec![b'x'; ANSWER_BYTES_MAX + 1].into(),
            _ => count.to_string().into(),
        }
    }

    fn query(&self, command: &[u8]) -> Bytes {
        let count = self.0.get(command).copied().unwrap_or_default();
        count.to_string().into()
    }
}

fn id(node: u64) -> NodeId {
    NodeId::new(node).unwrap()
}

fn tag(node: u64, start: u64, slot: u16, number: u64) -> Tag {
    Tag {
        node: id(node),
        start,
        slot,
        number,
    }
}

/// The state, and how far the log is.
struct Log(Once<Counts>, u64);

impl Default for Log {
    fn default() -> Self {
        Self(Once::new(Counts::default()), 0)
    }
}

impl Log {
    fn apply(&mut self, whole: Bytes) -> Said {
        self.1 += 1;
        let id = EntryId::new(Term::new(2), LogIndex::new(self.1));
        let said = self.0.apply(&Command { id, data: whole });
        Said::decode(&said).unwrap()
    }

    fn send(&mut self, tag: Tag, command: &str) -> Said {
        self.apply(join(&tag, command.as_bytes()))
    }

    fn count(&self, command: &str) -> u64 {
        self.0
            .state()
            .0
            .get(command.as_bytes())
            .copied()
            .unwrap_or_default()
    }

    /// Saves the state and reads it again, as a checkpoint, a snapshot or a restart does.
    fn restore(&mut self) {
        let encoded = postcard::to_stdvec(&self.0).unwrap();
        self.0 = postcard::from_bytes(&encoded).unwrap();
    }
}

fn answer(text: &'static str) -> Said {
    Said::Answer(text.into())
}

/// However often a command is in the log, and wherever a snapshot comes between, it is carried out once and has one
/// answer, until its slot is used again or its node starts again. Others are not in its way.
#[test]
fn h1_a_numbered_command_is_carried_out_once() {
    let mut log = Log::default();
    assert_eq!(log.send(tag(1, 1, 0, 1), "a"), answer("1"));
    for _ in 0..2 {
        assert_eq!(log.send(tag(1, 1, 0, 1), "a"), answer("1"));
        log.restore();
    }
    assert_eq!(log.count("a"), 1);
    for other in [tag(1, 1, 1, 1), tag(2, 1, 0, 1), tag(1, 1, 0, 2)] {
        log.send(other, "a");
    }
    assert_eq!(log.count("a"), 4, "other commands with the same words");
    assert_eq!(log.send(tag(1, 1, 0, 1), "a"), Said::Late);
    assert_eq!(log.send(tag(1, 2, 5, 1), "b"), answer("1"));
    for former in [tag(1, 1, 0, 3), tag(1, 1, 1, 1), tag(1, 1, 200, 1)] {
        assert_eq!(log.send(former, "a"), Said::Late, "{former:?}");
    }
    assert_eq!(log.send(tag(2, 1, 0, 1), "a"), answer("3"));
    assert_eq!(log.count("a"), 4);
}

/// The answer to a repetition of a command with a long one is that it was carried out.
#[test]
fn h1_a_long_answer_is_not_kept_for_a_numbered_command() {
    let mut log = Log::default();
    let Said::Answer(long) = log.send(tag(1, 1, 0, 1), "long") else {
        panic!("it has an answer")
    };
    assert_eq!(long.len(), ANSWER_BYTES_MAX + 1);
    assert_eq!(log.send(tag(1, 1, 0, 1), "long"), Said::NotKept);
    assert_eq!(log.count("long"), 1);
}

/// Members may send anything: what has no number, or one that no node gives, changes nothing, and is said so.
#[test]
fn what_has_no_number_is_not_carried_out() {
    let mut log = Log::default();
    let whole = join(&tag(1, 1, 0, 1), b"a");
    let header = whole.len() - 1;
    let of_another_slot = join(&tag(1, 1, SLOTS_MAX, 1), b"a");
    let mut newer = whole.to_vec();
    newer[0] += 1;
    let cases = (0..=header).map(|end| whole.slice(..end));
    for wrong in cases.chain([of_another_slot, newer.into(), Bytes::from_static(b"add 7")]) {
        assert_eq!(log.apply(wrong.clone()), Said::Malformed, "{wrong:?}");
    }
    assert!(log.0.heard.is_empty());
    assert_eq!(log.count("a"), 0);
    assert_eq!(log.apply(whole), answer("1"));
}

/// What is kept of others is bounded, whatever is sent: by slots, and by nodes, of which the one goes that has been silent
/// for longest.
#[test]
fn what_is_kept_is_bounded() {
    let mut log = Log::default();
    for number in 1..=3 {
        for slot in 0..SLOTS_MAX {
            log.send(tag(7, 1, slot, number), "a");
        }
    }
    assert_eq!(log.0.heard[&id(7)].slots.len(), usize::from(SLOTS_MAX));
    for node in 1..=NODES_MAX as u64 + 1 {
        log.send(tag(node, 2, 0, 1), "b");
        log.send(tag(1, 2, 0, 1 + node), "b");
    }
    assert_eq!(log.0.heard.len(), NODES_MAX);
    assert!(!log.0.heard.contains_key(&id(2)) && log.0.heard.contains_key(&id(1)));
}

/// Slots come in turn and their numbers grow; who waits for one gets it when another command has ended.
#[test]
fn numbers_are_never_given_twice() {
    use futures_lite::future::{block_on, poll_once};
    let slots = Slots::new(id(3), 9, 100);
    let mut seen = std::collections::BTreeSet::new();
    let mut next = || {
        let number = block_on(poll_once(slots.take()))?;
        let (tag, command) = split(&number.join(b"c")).unwrap();
        assert_eq!((tag.node, tag.start, &*command), (id(3), 9, &b"c"[..]));
        assert!(seen.insert((tag.slot, tag.number)), "{tag:?} again");
        Some(number)
    };
    let mut held: Vec<Numbered> = (0..SLOTS_MAX).map(|_| next().unwrap()).collect();
    assert!(next().is_none(), "all are taken");
    for _ in 0..1000 {
        drop(held.swap_remove(0));
        held.push(next().expect("one is free"));
    }
}

/// What is on disk and in the log, byte for byte: `docs/disk.md`.
#[test]
fn the_form_of_what_is_written() {
    let whole = join(&tag(1, 300, 2, 5), b"add 7");
    assert_eq!(&*whole, b"\x01\x01\xac\x02\x02\x05add 7");
    let mut log = Log::default();
    log.apply(whole);
    let encoded = postcard::to_stdvec(&log.0).unwrap();
    let mark = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    let heard = b"\x01\x01\xac\x02\x01\x01\x02\x05\x01\x011";
    let state = b"\x01\x05add 7\x01";
    assert_eq!(encoded, [&mark[..], heard, state].concat());
    let said = [answer("7"), Said::NotKept, Said::Late, Said::Malformed];
    let encoded = said.map(Said::encode);
    assert_eq!(encoded, [&b"\x007"[..], b"\x01", b"\x02", b"\x03"]);
    assert_eq!(Said::decode(&Bytes::new()), None);
    assert_eq!(Said::decode(&Bytes::from_static(b"\x04")), None);
}

/// A command may be as large as one without a number, less what a number can take, whatever it takes at present.
#[test]
fn a_number_has_room() {
    let slots = Slots::new(id(u64::MAX), u64::MAX, 100);
    let largest = 100 - TAG_BYTES_MAX;
    assert_eq!(slots.check(&vec![0; largest]), Ok(()));
    let refused = ProposeError::TooLarge {
        bytes: largest as u64 + 1,
        bytes_max: largest as u64,
    };
    assert_eq!(slots.check(&vec![0; largest + 1]), Err(refused));
    assert_eq!(slots.check(b""), Err(ProposeError::Empty));
    let most = Tag {
        node: id(u64::MAX),
        start: u64::MAX,
        slot: SLOTS_MAX - 1,
        number: u64::MAX,
    };
    assert!(join(&most, &vec![0; largest]).len() <= 100);
}

/// What one kind of start has saved is not taken for what the other one saves.
#[test]
fn states_with_numbers_and_without_are_told_apart() {
    let mut log = Log::default();
    log.send(tag(1, 1, 0, 1), "a");
    let numbered = postcard::to_stdvec(&log.0).unwrap();
    postcard::from_bytes::<Once<Counts>>(&numbered).unwrap();
    postcard::from_bytes::<Counts>(&numbered)
        .map(drop)
        .unwrap_err();
    postcard::from_bytes::<Vec<u8>>(&numbered).unwrap_err();
    let plain = postcard::to_stdvec(log.0.state()).unwrap();
    postcard::from_bytes::<Once<Counts>>(&plain)
        .map(drop)
        .unwrap_err();
}
