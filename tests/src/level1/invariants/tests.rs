//! Each promise, broken once: a checker that cannot find anything would look like a cluster without
//! faults.

use bytes::Bytes;
use quorate_consensus::{LogWrite, ReadContext};

use super::*;

fn node(id: u64) -> NodeId {
    NodeId::new(id).expect("not zero")
}

fn membership() -> Membership {
    Membership::new([1, 2, 3].map(node), []).expect("three voters")
}

fn at(term: u64, index: u64) -> EntryId {
    EntryId::new(Term::new(term), LogIndex::new(index))
}

fn entry(term: u64, index: u64) -> Entry {
    Entry::command(at(term, index), Bytes::from_static(b"x"))
}

fn hard(term: u64, vote: Option<u64>, commit: u64) -> HardState {
    HardState {
        term: Term::new(term),
        vote: vote.map(node),
        commit: LogIndex::new(commit),
    }
}

/// A log of `entries` with that hard state.
fn log(hard_state: HardState, entries: &[Entry]) -> MemLog {
    let mut log = MemLog::new(membership());
    log.write(
        &LogWrite {
            cut: None,
            entries: entries.to_vec(),
            hard_state,
        },
        &[],
    );
    log
}

/// What `story` breaks, by name.
fn broken(story: impl FnOnce(&mut Invariants)) -> Vec<String> {
    let mut invariants = Invariants::new(membership());
    story(&mut invariants);
    let names = invariants.violations().iter();
    names.map(|failure| failure.invariant.clone()).collect()
}

fn status(term: u64, commit: u64, applied: u64) -> Status {
    Status {
        node: node(1),
        term: Term::new(term),
        role: Role::Follower,
        leader: None,
        last: at(term, 9),
        commit: LogIndex::new(commit),
        applied: LogIndex::new(applied),
        state_machine_stalled: None,
        membership: membership(),
        peers: Vec::new(),
    }
}

fn message(term: u64, body: Body) -> Message {
    Message {
        term: Term::new(term),
        body,
    }
}

fn vote() -> Body {
    Body::Vote {
        pre: false,
        granted: true,
        commit: at(1, 1),
    }
}

fn heartbeat() -> Body {
    Body::Heartbeat {
        commit: LogIndex::new(1),
        read: None::<ReadContext>,
    }
}

/// Two nodes that lead one term, whether they say so or show it, and a leader without what is committed.
#[test]
fn leaders() {
    let two = broken(|seen| {
        assert!(seen.leads(1, Term::new(2)));
        assert!(!seen.leads(1, Term::new(2)));
        seen.message(2, 1, &message(2, heartbeat()), &log(hard(2, None, 1), &[]));
    });
    assert_eq!(two, ["election safety"]);
    let holder = log(hard(2, None, 1), &[entry(2, 2)]);
    let incomplete = broken(|seen| {
        seen.applies(1, &entry(2, 2), |_| Some(&holder));
        seen.leads_with(1, Term::new(3), &holder);
        seen.leads_with(2, Term::new(4), &log(hard(4, None, 1), &[entry(1, 2)]));
    });
    assert_eq!(incomplete, ["leader completeness"]);
    let late = broken(|seen| {
        seen.leads(1, Term::new(4));
        seen.applies(1, &entry(2, 2), |_| Some(&holder));
        seen.leads_with(2, Term::new(3), &log(hard(3, None, 1), &[]));
    });
    assert!(late.is_empty(), "term 4 was led when it was committed");
}

/// An election that a majority has not promised its votes for; one that it has, and one that the leader
/// asked for, are none.
#[test]
fn elections() {
    let ask = |transfer| Body::RequestVote {
        pre: false,
        last: at(1, 1),
        commit: at(1, 1),
        transfer,
    };
    let willing = Body::Vote {
        pre: true,
        granted: true,
        commit: at(1, 1),
    };
    let disk = log(hard(2, Some(1), 1), &[]);
    let sudden = broken(|seen| seen.message(1, 2, &message(2, ask(false)), &disk));
    assert_eq!(sudden, ["elections are rehearsed"]);
    let asked = broken(|seen| seen.message(1, 2, &message(2, ask(true)), &disk));
    assert!(asked.is_empty());
    let rehearsed = broken(|seen| {
        seen.message(2, 1, &message(2, willing), &log(hard(1, None, 1), &[]));
        seen.message(1, 2, &message(2, ask(false)), &disk);
    });
    assert!(rehearsed.is_empty());
}

/// Terms, votes and acknowledgements that are not on the disk yet, and a second vote in one term.
#[test]
fn what_is_said() {
    let early = broken(|seen| {
        seen.message(1, 2, &message(3, heartbeat()), &log(hard(2, None, 1), &[]));
    });
    assert_eq!(early, ["durable before said"]);
    let unsaved = broken(|seen| {
        seen.message(1, 2, &message(2, vote()), &log(hard(2, None, 1), &[]));
    });
    assert_eq!(unsaved, ["durable before voted"]);
    let twice = broken(|seen| {
        seen.message(1, 2, &message(2, vote()), &log(hard(2, Some(2), 1), &[]));
        seen.message(1, 3, &message(2, vote()), &log(hard(2, Some(3), 1), &[]));
    });
    assert_eq!(twice, ["one vote a term"]);
    let accepted = Body::AppendAccepted {
        last: LogIndex::new(3),
        commit: LogIndex::new(1),
    };
    let unwritten = broken(|seen| {
        let disk = log(hard(2, None, 1), &[entry(2, 2)]);
        seen.message(1, 2, &message(2, accepted), &disk);
    });
    assert_eq!(unwritten, ["durable before acknowledged"]);
}

/// Nodes whose numbers go back or out of order, unless they ended between.
#[test]
fn what_nodes_report() {
    let back = broken(|seen| {
        seen.status(&status(2, 5, 5));
        seen.status(&status(2, 4, 4));
    });
    assert_eq!(back, ["monotone"]);
    let ended = broken(|seen| {
        seen.status(&status(2, 5, 5));
        seen.ended(1);
        seen.status(&status(2, 4, 4));
    });
    assert!(ended.is_empty());
    let ahead = broken(|seen| seen.status(&status(2, 4, 5)));
    assert_eq!(ahead, ["applied <= commit <= last"]);
}

/// A disk that takes back its term or vote or commit index, that loses what is committed, or that holds
/// an entry after others than another disk.
#[test]
fn what_is_kept() {
    let first = LogIndex::new(2);
    let revote = broken(|seen| {
        let after = log(hard(2, Some(3), 1), &[]);
        seen.wrote(1, hard(2, Some(2), 1), &[], first, &after);
    });
    assert_eq!(revote, ["term and vote are kept"]);
    let uncommit = broken(|seen| {
        let after = log(hard(2, None, 1), &[]);
        seen.wrote(1, hard(2, None, 2), &[], first, &after);
    });
    assert_eq!(uncommit, ["commit index is kept"]);
    let lost = broken(|seen| {
        let mut disk = log(hard(2, None, 1), &[entry(2, 2)]);
        seen.wrote(1, hard(1, None, 1), &[], first, &disk);
        seen.applies(1, &entry(2, 2), |_| Some(&disk));
        let removed = disk.write(
            &LogWrite {
                cut: None,
                entries: vec![entry(3, 2)],
                hard_state: hard(3, None, 1),
            },
            &[],
        );
        seen.wrote(1, hard(2, None, 1), &removed, first, &disk);
    });
    assert_eq!(lost, ["committed is kept"]);
    let late = broken(|seen| {
        let mut disk = log(hard(2, None, 1), &[entry(2, 2)]);
        seen.wrote(1, hard(1, None, 1), &[], first, &disk);
        seen.leads(3, Term::new(4));
        seen.applies(2, &entry(2, 2), |_| Some(&disk));
        let removed = disk.write(
            &LogWrite {
                cut: None,
                entries: vec![entry(3, 2)],
                hard_state: hard(4, None, 1),
            },
            &[],
        );
        seen.wrote(1, hard(2, None, 1), &removed, first, &disk);
    });
    assert!(late.is_empty(), "ordered before it was committed: {late:?}");
    let crossed = broken(|seen| {
        let one = log(hard(3, None, 1), &[entry(2, 2), entry(3, 3)]);
        let other = log(hard(3, None, 1), &[entry(1, 2), entry(3, 3)]);
        seen.wrote(1, hard(1, None, 1), &[], first, &one);
        seen.wrote(2, hard(1, None, 1), &[], first, &other);
    });
    assert_eq!(crossed, ["log matching"]);
}

/// Entries applied that are not durable here or not on a quorum, that differ, or that are skipped.
#[test]
fn what_is_applied() {
    let disk = log(hard(3, None, 1), &[entry(2, 2), entry(2, 3)]);
    let everywhere = |_| Some(&disk);
    let nowhere = broken(|seen| seen.applies(1, &entry(2, 2), |id| (id != 1).then_some(&disk)));
    assert_eq!(nowhere, ["applied is durable here"]);
    let minority = broken(|seen| seen.applies(1, &entry(2, 2), |id| (id == 1).then_some(&disk)));
    assert_eq!(minority, ["committed is durable on a quorum"]);
    let skipped = broken(|seen| seen.applies(1, &entry(2, 3), everywhere));
    assert_eq!(skipped, ["applied in order"]);
    let other = log(hard(3, None, 1), &[entry(3, 2)]);
    let differs = broken(|seen| {
        seen.applies(1, &entry(2, 2), everywhere);
        seen.applies(2, &entry(3, 2), |_| Some(&other));
    });
    assert_eq!(differs, ["state machine safety"]);
}

/// Answers that are older than what was seen before the question.
#[test]
fn what_clients_are_told() {
    let index = LogIndex::new;
    let stale = broken(|seen| {
        seen.acknowledged(index(1), index(5));
        assert_eq!(seen.floor(), index(5));
        seen.read(seen.floor(), index(4));
    });
    assert_eq!(stale, ["reads are fresh"]);
    let early = broken(|seen| {
        seen.read(index(1), index(5));
        seen.acknowledged(seen.floor(), index(5));
    });
    assert_eq!(early, ["writes are in order"]);
}
