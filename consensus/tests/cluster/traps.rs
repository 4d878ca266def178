//! What `raft` does with nonsense, and that none of it gets that far. Each rule of the sanitizer has a
//! control which shows what the bare `raft` crate makes of the same message.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quorate_consensus::{
    Body, Entry, EntryId, LogIndex, Message, ReadContext, Refused, Role, Status, Term,
};
use raft::eraftpb::{
    ConfState, Entry as PbEntry, Message as PbMessage, MessageType, Snapshot as PbSnapshot,
};
use raft::storage::MemStorage;
use raft::{RawNode, StateRole};

use crate::rig::{Rig, Setup, id};

fn entry_id(term: u64, index: u64) -> EntryId {
    EntryId::new(Term::new(term), LogIndex::new(index))
}

fn message(term: u64, body: Body) -> Message {
    Message {
        term: Term::new(term),
        body,
    }
}

fn append(previous: EntryId, ids: &[EntryId]) -> Body {
    Body::Append {
        previous,
        commit: LogIndex::new(1),
        entries: ids
            .iter()
            .map(|&id| Entry::command(id, "x".into()))
            .collect(),
    }
}

fn heartbeat(commit: u64) -> Body {
    Body::Heartbeat {
        commit: LogIndex::new(commit),
        read: None,
    }
}

fn vote(pre: bool) -> Body {
    Body::Vote {
        pre,
        granted: true,
        commit: entry_id(0, 0),
    }
}

/// Three voters and a learner (n4), led by n1 in the term returned, with two entries.
fn cluster() -> (Rig, u64, Status) {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    rig.commit(1, "a");
    rig.commit(1, "b");
    let term = rig.term(1);
    let status = rig.status(2);
    (rig, term, status)
}

/// `node` refuses `message` from `from`, and nothing about it changes.
#[track_caller]
fn refuses(rig: &mut Rig, node: u64, from: u64, message: Message) -> Refused {
    let before = rig.status(node);
    let shown = format!("{message:?}");
    let Err(refused) = rig.core(node).handle_message(id(from), message) else {
        panic!("n{node} took {shown}");
    };
    assert_eq!(rig.status(node), before);
    refused
}

/// A bare `raft` follower in term 1 of n2, with nothing in its log.
fn bare() -> RawNode<MemStorage> {
    let voters = ConfState {
        voters: vec![1, 2, 3],
        ..ConfState::default()
    };
    let config = raft::Config {
        id: 1,
        check_quorum: true,
        pre_vote: true,
        ..raft::Config::default()
    };
    let storage = MemStorage::new_with_conf_state(voters);
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let mut node = RawNode::new(&config, storage, &logger).unwrap();
    node.step(pb(MessageType::MsgHeartbeat, 1)).unwrap();
    assert_eq!(node.raft.leader_id, 2);
    node
}

fn bare_leader() -> RawNode<MemStorage> {
    let mut node = bare();
    node.campaign().unwrap();
    node.step(pb(MessageType::MsgRequestPreVoteResponse, 2))
        .unwrap();
    node.step(pb(MessageType::MsgRequestVoteResponse, 2))
        .unwrap();
    assert_eq!(node.raft.state, StateRole::Leader);
    node
}

fn pb(kind: MessageType, term: u64) -> PbMessage {
    let mut message = PbMessage {
        from: 2,
        to: 1,
        term,
        ..PbMessage::default()
    };
    message.set_msg_type(kind);
    message
}

fn pb_append(previous: (u64, u64), indexes: &[u64]) -> PbMessage {
    let mut message = pb(MessageType::MsgAppend, 1);
    (message.log_term, message.index) = previous;
    let entries = indexes.iter().map(|&index| PbEntry {
        term: 1,
        index,
        ..PbEntry::default()
    });
    message.set_entries(entries.collect::<Vec<_>>().into());
    message
}

/// Whether bare `raft` panics in `step`.
fn panics(mut node: RawNode<MemStorage>, step: impl FnOnce(&mut RawNode<MemStorage>)) -> bool {
    catch_unwind(AssertUnwindSafe(|| step(&mut node))).is_err()
}

/// A leader cannot know of acknowledgements that this node never gave; raft panics.
#[test]
fn e5_a_commit_beyond_the_log() {
    let (mut rig, term, status) = cluster();
    let refused = refuses(&mut rig, 2, 1, message(term, heartbeat(99)));
    let expected = Refused::LostEntries {
        commit: LogIndex::new(99),
        last: status.last.index,
    };
    assert_eq!(refused, expected);
    assert!(panics(bare(), |node| {
        let mut message = pb(MessageType::MsgHeartbeat, 1);
        message.commit = 99;
        let _ = node.step(message);
    }));
}

/// A previous entry of term zero "matches" any index beyond raft's log; raft panics.
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
    assert!(panics(bare(), |node| {
        let _ = node.step(pb_append((0, 100), &[101]));
    }));
}

/// Entries with a gap, or not after the previous one; raft panics.
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
    assert!(panics(bare(), |node| {
        let _ = node.step(pb_append((0, 0), &[5]));
    }));
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
/// a leader long gone.
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

/// A term at the end of numbers; raft overflows at its next election.
#[test]
fn i7_a_term_that_overflows() {
    let (mut rig, _, _) = cluster();
    let refused = refuses(&mut rig, 2, 1, message(u64::MAX, heartbeat(1)));
    let term = Term::new(u64::MAX);
    assert_eq!(refused, Refused::BadTerm { term });
    assert!(panics(bare(), |node| {
        node.step(pb(MessageType::MsgHeartbeat, u64::MAX)).unwrap();
        let _ = node.campaign();
    }));
}

/// Acknowledgements of what the leader does not have; raft overflows.
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
    assert!(panics(bare_leader(), |node| {
        let mut message = pb(MessageType::MsgAppendResponse, 2);
        message.index = u64::MAX;
        let _ = node.step(message);
    }));
}

/// Only members may speak, and a node does not hear itself.
#[test]
fn strangers_are_not_heard() {
    let (mut rig, term, _) = cluster();
    let vote = Body::RequestVote {
        pre: false,
        last: entry_id(term + 9, 99),
        commit: entry_id(1, 1),
        transfer: true,
    };
    for body in [
        vote.clone(),
        heartbeat(1),
        append(entry_id(1, 1), &[]),
        Body::TimeoutNow,
    ] {
        let refused = refuses(&mut rig, 2, 2, message(term + 9, body));
        assert_eq!(refused, Refused::NotAMember);
    }
    // Who is not known yet may lead, but has nothing to answer.
    for from in [5, u64::MAX] {
        let refused = refuses(&mut rig, 2, from, message(term + 9, vote.clone()));
        assert_eq!(refused, Refused::NotAVoter);
        let index = LogIndex::new(1);
        for body in [
            Body::AppendAccepted {
                last: index,
                commit: index,
            },
            Body::HeartbeatResponse {
                commit: index,
                read: None,
            },
            Body::Digest {
                at: entry_id(1, 1),
                digest: 7,
            },
            self::vote(true),
        ] {
            let refused = refuses(&mut rig, 2, from, message(term, body));
            assert_eq!(refused, Refused::NotAMember);
        }
    }
    let mut node = bare();
    let mut message = pb(MessageType::MsgHeartbeat, 9);
    message.from = 77;
    node.step(message).unwrap();
    assert_eq!(node.raft.leader_id, 77, "raft follows a stranger");
}

/// Only the leader answers for up to where a follower may read, and to whom asked.
#[test]
fn an_answer_to_a_read_that_is_forged() {
    let (mut rig, term, _) = cluster();
    let context = |node| ReadContext {
        node,
        boot: 1,
        round: 1,
    };
    let index = LogIndex::new(1);
    let answer = |node| Body::ReadIndexAnswer {
        context: context(node),
        index,
    };
    let refused = refuses(&mut rig, 2, 3, message(term, answer(2)));
    assert!(matches!(refused, Refused::NotTheLeader { .. }), "{refused}");
    let refused = refuses(&mut rig, 2, 1, message(term, answer(3)));
    assert_eq!(refused, Refused::BadContext);
    let asked = Body::ReadIndex {
        context: context(3),
    };
    let refused = refuses(&mut rig, 1, 2, message(term, asked));
    assert_eq!(refused, Refused::BadContext);
}

/// A learner has no say in elections.
#[test]
fn learners_do_not_speak_for_voters() {
    let (mut rig, term, _) = cluster();
    let asks = Body::RequestVote {
        pre: false,
        last: entry_id(term, 9),
        commit: entry_id(1, 1),
        transfer: true,
    };
    for body in [asks, vote(false)] {
        let refused = refuses(&mut rig, 2, 4, message(term + 1, body));
        assert_eq!(refused, Refused::NotAVoter);
    }
}

/// A vote of an earlier rehearsal says nothing about the one that goes on; raft counts it.
#[test]
fn a_vote_of_an_earlier_rehearsal() {
    let (mut rig, term, _) = cluster();
    for asked in [term - 1, term, term + 2] {
        let refused = refuses(&mut rig, 2, 3, message(asked, vote(true)));
        assert_eq!(refused, Refused::NotAsked);
    }
    let mut node = bare();
    node.campaign().unwrap();
    node.step(pb(MessageType::MsgRequestPreVoteResponse, 1))
        .unwrap();
    assert_eq!(node.raft.state, StateRole::Candidate, "for term 2");
}

/// There is one leader in a term: what another claims to lead is refused, by followers and the leader.
#[test]
fn a_second_leader_of_a_term() {
    let (mut rig, term, _) = cluster();
    let leader = id(1);
    for node in [1, 2] {
        for body in [heartbeat(1), append(entry_id(1, 1), &[])] {
            let refused = refuses(&mut rig, node, 3, message(term, body));
            assert_eq!(refused, Refused::NotTheLeader { leader });
        }
    }
    let mut node = bare();
    let mut message = pb(MessageType::MsgHeartbeat, 1);
    message.from = 3;
    node.step(message).unwrap();
    assert_eq!(node.raft.leader_id, 3, "raft changes sides within a term");
}

/// Only the present leader may ask for an election; raft lets anybody.
#[test]
fn only_the_leader_hands_over() {
    let (mut rig, term, _) = cluster();
    let leader = id(1);
    for term in [term, term + 1] {
        let refused = refuses(&mut rig, 2, 3, message(term, Body::TimeoutNow));
        assert_eq!(refused, Refused::NotTheLeader { leader });
    }
    let mut node = bare();
    let mut message = pb(MessageType::MsgTimeoutNow, 1);
    message.from = 3;
    node.step(message).unwrap();
    assert_eq!(node.raft.state, StateRole::Candidate);
}

/// Votes that nobody asked for, at a node whose log is not durable yet: raft relies on candidates
/// asking only after that, and panics.
#[test]
fn votes_before_the_log_is_durable() {
    let (mut rig, term, _) = cluster();
    rig.stall_disk(2, true);
    rig.propose(1, "c");
    rig.isolate(2);
    rig.run_until(60, "n2 asks", |rig| {
        rig.status(2).role == Role::PreCandidate
    });
    assert!(rig.queued_writes(2) > 0);
    let _ = rig
        .core(2)
        .handle_message(id(3), message(term + 1, vote(true)));
    let _ = rig
        .core(2)
        .handle_message(id(3), message(term + 1, vote(false)));
    assert!(!rig.leads(2), "it leads although it asked nobody");
    rig.stall_disk(2, false);
    rig.heal();
    rig.run_until(100, "all agree", Rig::agrees);

    assert!(panics(bare(), |node| {
        node.step(pb_append((0, 0), &[1])).unwrap();
        node.campaign().unwrap();
        node.step(pb(MessageType::MsgRequestPreVoteResponse, 2))
            .unwrap();
        let _ = node.step(pb(MessageType::MsgRequestVoteResponse, 2));
    }));
}

/// A single voter wins the moment it asks, so it asks only when its log is durable.
#[test]
fn a_single_voter_waits_for_its_disk_before_it_elects_itself() {
    let mut rig = Rig::led_by(1, Setup::voters(1).learners(1));
    rig.stall_disk(1, true);
    let token = rig.propose(1, "a");
    // A learner with a higher term, as after a voter lost its disk: n1 has to step down.
    let response = Body::HeartbeatResponse {
        commit: LogIndex::new(1),
        read: None,
    };
    rig.core(1)
        .handle_message(id(2), message(50, response))
        .unwrap();
    rig.pump();
    rig.core(1).campaign();
    rig.ticks(200);
    assert!(!rig.leads(1));
    rig.stall_disk(1, false);
    rig.run_until(100, "it leads again", |rig| rig.leads(1));
    rig.commit(1, "b");
    assert!(rig.outcome(token).is_some());
    rig.run_until(100, "the learner follows", Rig::agrees);
}

/// The kinds that panic raft whatever their fields, or that forge reads and moves of leadership, cannot
/// be written as a `Message` at all. This is what they would do.
#[test]
fn i6_kinds_that_have_no_message() {
    assert!(panics(bare_leader(), |node| {
        let _ = node.step(pb(MessageType::MsgPropose, 0));
    }));
    assert!(panics(bare_leader(), |node| {
        // A leader looks at reads only after its first commit.
        let ready = node.ready();
        let entries = ready.entries().clone();
        node.store().wl().append(&entries).unwrap();
        let _ = node.advance(ready);
        let mut ack = pb(MessageType::MsgAppendResponse, 2);
        ack.index = 1;
        let _ = node.step(ack);
        let _ = node.step(pb(MessageType::MsgReadIndex, 0));
    }));
    assert!(panics(bare(), |node| {
        let _ = node.step(pb(MessageType::MsgTransferLeader, 1));
    }));
    assert!(panics(bare(), |node| {
        let mut message = pb(MessageType::MsgSnapshot, 1);
        let mut snapshot = PbSnapshot::default();
        snapshot.mut_metadata().index = 9;
        snapshot.mut_metadata().term = 1;
        snapshot.mut_metadata().mut_conf_state().voters = vec![1];
        snapshot.mut_metadata().mut_conf_state().learners = vec![1];
        message.set_snapshot(snapshot);
        let _ = node.step(message);
    }));
}
