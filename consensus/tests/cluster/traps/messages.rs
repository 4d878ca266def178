//! Messages that make no sense (the page, section 3.5). Each rule of the sanitizer has a control which shows
//! what the bare `raft` crate makes of the same message.

use quorate_consensus::{Body, EntryId, LogIndex, Membership, Refused, Term};
use raft::eraftpb::{ConfState, Entry as PbEntry, MessageType};

use super::bare::{
    accept, bare, bare_leader, carry_out, members, panics, pb, pb_append, pb_entries, pb_snapshot,
    settled_leader,
};
use super::{append, cluster, entry_id, goes_on, heartbeat, message, refuses};
use crate::rig::id;

/// A leader cannot know of acknowledgements that this node never gave; raft panics (`raft_log.rs` line 292,
/// from `raft.rs` line 2516).
#[test]
fn e5_a_commit_beyond_the_log() {
    let (mut rig, term, status) = cluster();
    let refused = refuses(&mut rig, 2, 1, message(term, heartbeat(99)));
    let expected = Refused::LostEntries {
        commit: LogIndex::new(99),
        last: status.last.index,
    };
    assert_eq!(refused, expected);
    goes_on(&mut rig);

    let at = panics(bare(), |node| {
        let mut message = pb(MessageType::MsgHeartbeat, 1);
        message.commit = 99;
        let _ = node.step(message);
    });
    assert_eq!(at, "raft_log.rs:292");
}

/// A previous entry of term zero "matches" any index beyond raft's log (`raft_log.rs` line 122); raft panics
/// where it adds the entries after it (`log_unstable.rs` line 201). Without entries the message may commit what is not there
/// (`raft_log.rs` line 292).
#[test]
fn i7_a_previous_entry_of_term_zero() {
    let (mut rig, term, _) = cluster();
    let previous = entry_id(0, 100);
    let refused = refuses(
        &mut rig,
        2,
        1,
        message(term, append(previous, &[entry_id(term, 101)])),
    );
    assert_eq!(refused, Refused::BadEntries { previous });
    goes_on(&mut rig);

    let at = panics(bare(), |node| {
        let _ = node.step(pb_append((0, 100), &[101]));
    });
    assert_eq!(at, "log_unstable.rs:201");
    let at = panics(bare(), |node| {
        let mut message = pb_append((0, 100), &[]);
        message.commit = 100;
        let _ = node.step(message);
    });
    assert_eq!(at, "raft_log.rs:292");
}

/// Entries with a gap, or not after the previous one; raft panics (`raft_log.rs` line 268), or keeps them.
#[test]
fn i7_entries_with_a_gap() {
    let (mut rig, term, status) = cluster();
    let previous = status.last;
    let next = previous.index.value() + 1;
    for indexes in [
        [next, next + 2],
        [next + 1, next + 2],
        [next, next],
        [next - 1, next],
    ] {
        let ids = indexes.map(|index| entry_id(term, index));
        let refused = refuses(&mut rig, 2, 1, message(term, append(previous, &ids)));
        assert_eq!(refused, Refused::BadEntries { previous }, "{indexes:?}");
    }
    goes_on(&mut rig);

    let at = panics(bare(), |node| {
        let _ = node.step(pb_append((0, 0), &[5]));
    });
    assert_eq!(at, "raft_log.rs:268");
}

/// Terms that fall, or that the sender has not reached, make no piece of a log.
#[test]
fn entries_of_impossible_terms() {
    let (mut rig, term, status) = cluster();
    let previous = status.last;
    let next = previous.index.value() + 1;
    for (first, second) in [(term, term - 1), (term - 1, term), (term, term + 1)] {
        let ids = [entry_id(first, next), entry_id(second, next + 1)];
        let refused = refuses(&mut rig, 2, 1, message(term, append(previous, &ids)));
        assert_eq!(refused, Refused::BadEntries { previous });
    }
    let previous = entry_id(term + 1, next);
    let refused = refuses(&mut rig, 2, 1, message(term, append(previous, &[])));
    assert_eq!(refused, Refused::BadEntries { previous });
}

/// Indexes before the origin or near the end of numbers.
#[test]
fn previous_entries_that_cannot_be() {
    let (mut rig, term, _) = cluster();
    for index in [0, u64::MAX, u64::MAX - 1] {
        let previous = entry_id(1, index);
        let refused = refuses(&mut rig, 2, 1, message(term, append(previous, &[])));
        assert_eq!(refused, Refused::BadEntries { previous });
    }
}

/// Term zero means "local" to raft, which then skips every check of terms: it takes the heartbeat of
/// a leader long gone (`raft.rs` line 1326).
#[test]
fn i7_a_message_of_term_zero() {
    let (mut rig, _, _) = cluster();
    for from in [1, 3] {
        let refused = refuses(&mut rig, 2, from, message(0, heartbeat(1)));
        let term = Term::ZERO;
        assert_eq!(refused, Refused::BadTerm { term });
    }
    let mut node = bare();
    let mut stale = pb(MessageType::MsgHeartbeat, 0);
    stale.from = 3;
    node.step(stale).unwrap();
    assert_eq!(node.raft.leader_id, 3, "a second leader in term 1");
}

/// A term at the end of numbers; raft overflows at its next election (`raft.rs` line 1265), or, where that is not
/// looked for, finds its term at zero (line 640).
#[test]
fn i7_a_term_that_overflows() {
    let (mut rig, _, _) = cluster();
    let refused = refuses(&mut rig, 2, 1, message(u64::MAX, heartbeat(1)));
    let term = Term::new(u64::MAX);
    assert_eq!(refused, Refused::BadTerm { term });
    goes_on(&mut rig);

    let at = panics(bare(), |node| {
        node.step(pb(MessageType::MsgHeartbeat, u64::MAX)).unwrap();
        let _ = node.campaign();
    });
    let expected = if cfg!(debug_assertions) {
        "raft.rs:1265"
    } else {
        "raft.rs:640"
    };
    assert_eq!(at, expected);
}

/// Acknowledgements of what the leader does not have; raft overflows (`progress.rs` line 143), or, where that is
/// not looked for, wants to send a snapshot of nothing (`raft.rs` line 702).
#[test]
fn i7_an_acknowledgement_beyond_the_log() {
    let (mut rig, term, status) = cluster();
    let last = status.last.index;
    let none = entry_id(1, 1);
    for index in [last.next(), LogIndex::new(u64::MAX)] {
        let commit = LogIndex::new(1);
        let accepted = Body::AppendAccepted {
            last: index,
            commit,
        };
        let rejected = |previous, hint| Body::AppendRejected {
            previous,
            hint,
            commit,
        };
        let hint = EntryId::new(Term::new(1), index);
        for body in [accepted, rejected(index, none), rejected(last, hint)] {
            let refused = refuses(&mut rig, 1, 2, message(term, body));
            assert_eq!(refused, Refused::BeyondLog { index, last });
        }
    }
    goes_on(&mut rig);

    let at = panics(bare_leader(), |node| {
        let mut message = pb(MessageType::MsgAppendResponse, 2);
        message.index = u64::MAX;
        let _ = node.step(message);
    });
    let expected = if cfg!(debug_assertions) {
        "progress.rs:143"
    } else {
        "raft.rs:702"
    };
    assert_eq!(at, expected);
}

/// Entries in place of committed ones; raft panics (`raft_log.rs` line 260). Its answer to a previous entry
/// before the commit index comes first (`raft.rs` line 2457), so that only entries which do not follow the
/// previous one get there. Those that do follow it are answered with what is committed, by raft and here.
#[test]
fn i7_entries_in_place_of_committed_ones() {
    let (mut rig, term, status) = cluster();
    let commit = status.commit;
    let previous = EntryId::new(status.last.term, commit);
    let instead = EntryId::new(Term::new(term + 1), commit);
    let hostile = message(term + 1, append(previous, &[instead]));
    let refused = refuses(&mut rig, 2, 1, hostile);
    assert_eq!(refused, Refused::BadEntries { previous });

    let before = rig.durable(2).entries().to_vec();
    let previous = entry_id(1, 1);
    let instead = entry_id(term, 2);
    rig.hear(2, 1, message(term, append(previous, &[instead])))
        .unwrap();
    goes_on(&mut rig);
    assert!(rig.durable(2).entries().starts_with(&before));

    let at = panics(bare(), |node| {
        let mut first = pb_append((0, 0), &[1]);
        first.commit = 1;
        node.step(first).unwrap();
        carry_out(node);
        let mut message = pb_append((1, 1), &[]);
        message.set_entries(pb_entries(2, &[1]).into());
        let _ = node.step(message);
    });
    assert_eq!(at, "raft_log.rs:260");
}

/// A snapshot whose members make no sense; raft panics where it makes them its own (`raft.rs` lines 2632 and
/// 2643). Such members cannot be written as a `Membership`, nor decoded. One with an index or term that
/// cannot be is refused.
#[test]
fn i7_a_snapshot_of_impossible_members() {
    let twice = Membership::new([id(1), id(2)], [id(2)]);
    assert!(twice.is_err() && Membership::new([], [id(2)]).is_err());
    let (mut rig, term, status) = cluster();
    for (last, at) in [
        (entry_id(term, 0), term),
        (entry_id(term, u64::MAX), term),
        (entry_id(0, 9), term),
        (entry_id(term + 1, 9), term),
    ] {
        let membership = status.membership.clone();
        let snapshot = Body::Snapshot { last, membership };
        let refused = refuses(&mut rig, 2, 1, message(at, snapshot));
        assert_eq!(refused, Refused::BadSnapshot { last });
    }
    goes_on(&mut rig);

    let both = members(&[1], &[1]);
    let staged_from_nowhere = ConfState {
        learners_next: vec![3],
        ..members(&[1], &[])
    };
    for (members, expected) in [
        (both, "raft.rs:2632"),
        (staged_from_nowhere, "raft.rs:2643"),
    ] {
        let at = panics(bare(), |node| {
            let mut message = pb(MessageType::MsgSnapshot, 1);
            message.set_snapshot(pb_snapshot(1, 9, members));
            let _ = node.step(message);
        });
        assert_eq!(at, expected);
    }
}

/// A snapshot for others: raft drops it without a word (`raft.rs` lines 2585 to 2598) and answers as if it
/// had been useful, so that its leader sends it again and again.
#[test]
fn a_snapshot_for_others() {
    let (mut rig, term, _) = cluster();
    let last = entry_id(term, 50);
    let membership = Membership::new([id(1), id(3)], []).unwrap();
    let snapshot = Body::Snapshot { last, membership };
    let refused = refuses(&mut rig, 2, 1, message(term, snapshot));
    assert_eq!(refused, Refused::BadSnapshot { last });

    let mut node = bare();
    carry_out(&mut node);
    let mut message = pb(MessageType::MsgSnapshot, 1);
    message.set_snapshot(pb_snapshot(1, 50, members(&[2, 3], &[])));
    node.step(message).unwrap();
    assert!(node.snap().is_none());
    let answers = carry_out(&mut node);
    assert_eq!(answers.len(), 1);
    assert!(!answers[0].reject && answers[0].index == 0);
}

/// The kinds that panic raft whatever their fields, or that forge reads and moves of leadership, cannot
/// be written as a `Message` at all. This is what they would do at a leader: `raft.rs` line 2024 for a
/// proposal of nothing, line 2125 for a read without a context, line 1869 for a move of leadership, which
/// goes to whoever is named as its sender.
#[test]
fn i6_kinds_that_have_no_message() {
    let at = panics(bare_leader(), |node| {
        let _ = node.step(pb(MessageType::MsgPropose, 0));
    });
    assert_eq!(at, "raft.rs:2024");
    // A leader looks at reads only after its first commit.
    let at = panics(settled_leader(), |node| {
        let _ = node.step(pb(MessageType::MsgReadIndex, 0));
    });
    assert_eq!(at, "raft.rs:2125");
    let mut node = settled_leader();
    let mut moves = pb(MessageType::MsgTransferLeader, 0);
    moves.from = 3;
    let last = node.raft.raft_log.last_index();
    accept(&mut node, 3, last);
    carry_out(&mut node);
    node.step(moves).unwrap();
    assert_eq!(node.raft.lead_transferee, Some(3));
}

/// What a follower passes on to its leader, if it comes with the term that all messages here have: raft
/// panics as it sends it (`raft.rs` line 648, from lines 2322, 2349 and 2382).
#[test]
fn i6_kinds_that_a_follower_passes_on() {
    let with_entry = |kind| {
        let mut message = pb(kind, 1);
        message.set_entries(vec![PbEntry::default()].into());
        message
    };
    let kinds = [
        MessageType::MsgPropose,
        MessageType::MsgReadIndex,
        MessageType::MsgTransferLeader,
    ];
    for message in kinds.map(with_entry) {
        let at = panics(bare(), |node| {
            let _ = node.step(message);
        });
        assert_eq!(at, "raft.rs:648");
    }
}
