//! Reads that `raft` drops, mixes up or answers too early (the page, section 3.8).

use std::collections::BTreeSet;

use quorate_consensus::{Body, ReadContext, ReadError, Role};
use raft::eraftpb::MessageType;
use raft::storage::MemStorage;
use raft::{RawNode, ReadOnlyOption};

use super::bare::{
    accept, alone, bare, bare_leader, carry_out, config, elected, follows, kinds, members, node,
    pb, settled, settled_leader,
};
use crate::rig::{Fate, Rig, Setup, id};

const CONTEXT: &[u8] = b"context";

/// Asks a bare node, and says what came of it: answers, messages and questions that wait.
fn ask(mut node: RawNode<MemStorage>) -> (usize, Vec<MessageType>, usize) {
    carry_out(&mut node);
    node.read_index(CONTEXT.to_vec());
    let waiting = node.raft.pending_read_count();
    let answers = node.raft.ready_read_count();
    (answers, kinds(&carry_out(&mut node)), waiting)
}

/// `n` answers the heartbeat with which a bare leader asked for `CONTEXT`.
fn confirm(node: &mut RawNode<MemStorage>, from: u64) {
    let mut answer = pb(MessageType::MsgHeartbeatResponse, node.raft.term);
    answer.from = from;
    answer.context = CONTEXT.into();
    node.step(answer).unwrap();
}

/// Without a leader, at a candidate, and at a leader that has committed nothing in its term, a read is
/// dropped without a word (`raft.rs` lines 2373, 2305 and 2105). Here it is refused, or waits.
#[test]
fn a_read_is_dropped() {
    let nothing = (0, vec![], 0);
    let nobody = Err(ReadError::NotLeader { leader: None });

    let mut rig = Setup::voters(3).build();
    let read = rig.read(1);
    assert_eq!(rig.read_outcome(read), Some(&nobody));
    assert_eq!(ask(alone()), nothing);

    rig.isolate(1);
    rig.campaign(1);
    assert_eq!(rig.status(1).role, Role::PreCandidate);
    let read = rig.read(1);
    assert_eq!(rig.read_outcome(read), Some(&nobody));
    let mut candidate = bare();
    candidate.campaign().unwrap();
    assert_eq!(ask(candidate), nothing);

    rig.heal();
    rig.net.rule = Some(Box::new(|_, _, message| match message.body {
        Body::AppendAccepted { .. } => Fate::Drop,
        _ => Fate::Deliver,
    }));
    rig.elect(2);
    let read = rig.read(2);
    rig.ticks(10);
    assert_eq!(rig.read_outcome(read), None, "it waits");
    rig.net.rule = None;
    rig.run_until(30, "it is answered", |rig| rig.read_outcome(read).is_some());
    assert!(rig.read_outcome(read).unwrap().is_ok());
    assert_eq!(ask(bare_leader()), nothing);
    assert_eq!(ask(settled_leader()).2, 1, "else it would wait");
}

/// Reads that wait go with the leadership (`raft.rs` line 1001), and raft tells nobody. Here they fail.
#[test]
fn reads_that_wait_are_forgotten() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.net.loss_percent = 100;
    let read = rig.read(1);
    assert_eq!(rig.read_outcome(read), None);
    let term = rig.term(1) + 1;
    rig.hear(1, 2, super::message(term, super::heartbeat(1)))
        .unwrap();
    rig.pump();
    let leader = Some(id(2));
    let moved = Err(ReadError::NotLeader { leader });
    assert_eq!(rig.read_outcome(read), Some(&moved));

    let mut node = settled_leader();
    node.read_index(CONTEXT.to_vec());
    assert_eq!(node.raft.pending_read_count(), 1);
    node.step(pb(MessageType::MsgHeartbeat, 9)).unwrap();
    assert_eq!(node.raft.pending_read_count(), 0);
    let sent = kinds(&carry_out(&mut node));
    assert!(!sent.contains(&MessageType::MsgReadIndexResp));
}

/// A context that is used again: while the first read waits, the second is dropped (`read_only.rs` line 89);
/// after that, what members said to the first confirms the second, though the leader may have lost its
/// place since. Here no two rounds share a context, of one node or of two.
#[test]
fn a_context_is_used_again() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.ticks(5);
    rig.sent.clear();
    for _ in 0..5 {
        for node in 1..=3 {
            rig.read(node);
        }
        rig.tick();
    }
    let mut rounds: Vec<ReadContext> = Vec::new();
    for (_, to, message) in &rig.sent {
        match &message.body {
            Body::Heartbeat {
                read: Some(read), ..
            } if *to == 2 => rounds.push(*read),
            Body::ReadIndex { context } => rounds.push(*context),
            _ => {}
        }
    }
    let different: BTreeSet<ReadContext> = rounds.iter().copied().collect();
    assert!(rounds.len() >= 10);
    assert_eq!(different.len(), rounds.len(), "{rounds:?}");

    let mut node = settled_leader();
    for _ in 0..2 {
        node.read_index(CONTEXT.to_vec());
    }
    assert_eq!(node.raft.pending_read_count(), 1, "of two");
    carry_out(&mut node);
    confirm(&mut node, 2);
    assert_eq!(node.ready().read_states().len(), 1);
    node.read_index(CONTEXT.to_vec());
    confirm(&mut node, 3);
    let stale = node.raft.ready_read_count();
    assert_eq!(stale, 1, "n3 was asked before the second read began");
}

/// Each read is a heartbeat to everybody (`raft.rs` line 2129). Here all that wait share one.
#[test]
fn each_read_asks_everybody() {
    let rounds = |rig: &Rig| {
        let heartbeats = rig.sent.iter().filter(|(_, _, message)| {
            matches!(message.body, Body::Heartbeat { read: Some(_), .. })
        });
        heartbeats.count()
    };
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.sent.clear();
    let reads: Vec<_> = (0..10).map(|_| rig.read_unpumped(1)).collect();
    rig.pump();
    assert!(reads.iter().all(|&read| rig.read_outcome(read).is_some()));
    assert_eq!(rounds(&rig), 2);

    let mut node = settled_leader();
    for n in 0..10 {
        node.read_index(vec![n]);
    }
    let sent = kinds(&carry_out(&mut node));
    let heartbeats = sent
        .iter()
        .filter(|kind| **kind == MessageType::MsgHeartbeat);
    assert_eq!(heartbeats.count(), 20);
}

/// The answer is a commit index, which the state machine may not have reached (`raft.rs` line 2127). Here
/// the read waits for it.
#[test]
fn a_read_is_confirmed_before_it_is_applied() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.stall_disk(1, true);
    rig.propose(1, "b");
    let (commit, read) = (rig.status(1).commit, rig.read(1));
    assert!(
        rig.applied_index(1) < commit,
        "the others have committed it"
    );
    rig.ticks(5);
    assert_eq!(rig.read_outcome(read), None);
    rig.stall_disk(1, false);
    assert_eq!(rig.read_outcome(read), Some(&Ok(commit)));

    let mut node = settled_leader();
    node.propose(vec![], b"b".to_vec()).unwrap();
    let last = node.raft.raft_log.last_index();
    accept(&mut node, 2, last);
    accept(&mut node, 3, last);
    node.read_index(CONTEXT.to_vec());
    confirm(&mut node, 2);
    let ready = node.ready();
    assert_eq!(ready.read_states()[0].index, last);
    assert!(node.raft.raft_log.applied < last);
}

/// A leader that reads by its lease asks nobody (`raft.rs` line 2131), not even when there is another one by
/// now. Here it asks a majority.
#[test]
fn a_lease_is_believed() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.isolate(1);
    let read = rig.read(1);
    rig.ticks(5);
    assert!(rig.leads(1), "it does not know yet");
    assert_eq!(rig.read_outcome(read), None);
    rig.run_until(100, "it is told", |rig| rig.read_outcome(read).is_some());
    assert!(rig.read_outcome(read).unwrap().is_err());

    let lease = raft::Config {
        read_only_option: ReadOnlyOption::LeaseBased,
        ..config()
    };
    let storage = MemStorage::new_with_conf_state(members(&[1, 2, 3], &[]));
    let leader = settled(elected(follows(node(&lease, storage))));
    assert_eq!(ask(leader), (1, vec![], 0));
    assert_eq!(ask(settled_leader()).0, 0);
}

/// A single voter asks nobody, but even it drops a read before its first commit in a term (`raft.rs` line
/// 2105), for which it needs its disk. Here the read waits.
#[test]
fn a_single_voter_has_not_committed() {
    let mut rig = Rig::led_by(1, Setup::voters(1));
    rig.commit(1, "a");
    rig.crash(1);
    rig.restart(1);
    rig.stall_disk(1, true);
    rig.run_until(200, "it asks itself", |rig| rig.queued_writes(1) > 0);
    let read = rig.leads(1).then(|| rig.read(1));
    rig.ticks(5);
    let waits = read.map(|read| rig.read_outcome(read).cloned());
    assert_eq!(waits, Some(None));
    rig.stall_disk(1, false);
    let read = read.expect("just seen");
    assert!(rig.read_outcome(read).unwrap().is_ok());

    let single = || {
        let storage = MemStorage::new_with_conf_state(members(&[1], &[]));
        let mut node = node(&config(), storage);
        node.campaign().unwrap();
        node
    };
    let mut before = single();
    before.read_index(CONTEXT.to_vec());
    assert_eq!(before.raft.ready_read_count(), 0);
    let mut after = single();
    carry_out(&mut after);
    after.read_index(CONTEXT.to_vec());
    assert_eq!(after.raft.ready_read_count(), 1);
}
