//! Snapshots, and members that `raft` believes to be on their way (the page, section 3.9).

use quorate_consensus::{Body, LogIndex, ORIGIN, Refused, Role, Transfer};
use raft::eraftpb::{Message as PbMessage, MessageType};
use raft::storage::MemStorage;
use raft::{ProgressState, RawNode, SnapshotStatus};

use super::bare::{
    accept, bare, carry_out, config, elected, follows, kinds, members, node, panics, pb,
    pb_snapshot, settled, settled_leader, write,
};
use super::broken::{Broken, How};
use super::message;
use crate::rig::{Fate, Rig, Setup, id};

/// n3 needs what n1, which leads, has no more in its log, and is about to come back.
fn behind() -> Rig {
    let mut rig = Rig::led_by(1, Setup::voters(3).small());
    rig.crash(3);
    rig.ticks(60);
    for n in 0..100 {
        rig.commit(1, &format!("{n}"));
        if n % 5 == 0 {
            (1..=2).for_each(|node| rig.checkpoint(node));
        }
    }
    assert!(rig.durable(1).base() > rig.durable(3).last());
    rig
}

/// A leader whose log begins after five entries, of which n2 has none.
fn bare_behind(storage: MemStorage, how: How) -> RawNode<Broken> {
    let snapshot = pb_snapshot(1, 5, members(&[1, 2, 3], &[]));
    storage.wl().apply_snapshot(snapshot).unwrap();
    let mut leader = elected(follows(node(&config(), Broken::sound(storage))));
    leader.mut_store().how = how;
    leader
}

/// n2 has nothing.
fn reject<T: raft::Storage>(node: &mut RawNode<T>, previous: u64) {
    let mut rejects = pb(MessageType::MsgAppendResponse, node.raft.term);
    rejects.reject = true;
    rejects.index = previous;
    node.step(rejects).unwrap();
}

fn sent<T: raft::Storage>(node: &RawNode<T>, kind: MessageType) -> Vec<&PbMessage> {
    let sent = node.raft.msgs.iter();
    sent.filter(|message| message.to == 2 && message.get_msg_type() == kind)
        .collect()
}

/// A snapshot of nothing, or none for good: raft panics as it wants to send one (`raft.rs` lines 702 and
/// 698). Here it is told to come again, until the state machine has given one.
#[test]
fn a_snapshot_that_is_none() {
    let mut rig = behind();
    rig.stall_machine(1, true);
    rig.restart(3);
    rig.ticks(100);
    assert!(
        rig.leads(1) && rig.applied(3).is_empty(),
        "it is not there yet"
    );
    rig.stall_machine(1, false);
    rig.run_until(400, "all agree", Rig::agrees);
    assert_eq!(rig.applied(3).len(), 100);

    for (how, place) in [
        (How::EmptySnapshot, "raft.rs:702"),
        (How::NoSnapshot, "raft.rs:698"),
    ] {
        let at = panics(bare_behind(MemStorage::new(), how), |node| reject(node, 5));
        assert_eq!(at, place);
    }
    let storage = MemStorage::new();
    let mut later = bare_behind(storage.clone(), How::NotAtAll);
    storage.wl().trigger_snap_unavailable();
    reject(&mut later, 5);
    assert!(sent(&later, MessageType::MsgSnapshot).is_empty());
}

/// A member that was offered a snapshot is sent nothing else, for ever (`progress.rs` line 212), unless
/// somebody says how that ended. Here it is offered again until it has it.
#[test]
fn a_snapshot_that_does_not_arrive() {
    let mut rig = behind();
    rig.net.rule = Some(Box::new(|_, _, message| match message.body {
        Body::Transfer(Transfer::Chunk { .. }) => Fate::Drop,
        _ => Fate::Deliver,
    }));
    rig.restart(3);
    rig.ticks(10_000);
    assert!(rig.leads(1) && rig.applied(3).is_empty());
    rig.net.rule = None;
    rig.run_until(10_000, "all agree", Rig::agrees);
    assert_eq!(rig.applied(3).len(), 100);

    let mut leader = bare_behind(MemStorage::new(), How::NotAtAll);
    reject(&mut leader, 5);
    assert_eq!(sent(&leader, MessageType::MsgSnapshot).len(), 1);
    leader.raft.msgs.clear();
    let term = leader.raft.term;
    for _ in 0..1000 {
        leader.tick();
        leader
            .step(pb(MessageType::MsgHeartbeatResponse, term))
            .unwrap();
    }
    assert!(sent(&leader, MessageType::MsgSnapshot).is_empty());
    assert!(sent(&leader, MessageType::MsgAppend).is_empty());
    let progress = leader.raft.prs().get(2).unwrap();
    assert_eq!(progress.state, ProgressState::Snapshot);
    leader.report_snapshot(2, SnapshotStatus::Failure);
    leader
        .step(pb(MessageType::MsgHeartbeatResponse, term))
        .unwrap();
    assert_eq!(sent(&leader, MessageType::MsgSnapshot).len(), 1);
}

/// An election at a node that has written a snapshot and not installed it: raft panics, for it looks for
/// what it takes for not applied (`raft.rs` line 1543). Here the node does not ask, whoever tells it to.
#[test]
fn an_election_before_a_snapshot_is_installed() {
    let mut rig = behind();
    rig.stall_machine(3, true);
    rig.restart(3);
    rig.stall_disk(3, true);
    rig.run_until(200, "it is there", |rig| rig.queued_writes(3) > 0);
    rig.campaign(3);
    assert_eq!(rig.status(3).role, Role::Follower);
    let now = message(rig.term(1), Body::TimeoutNow);
    assert_eq!(rig.hear(3, 1, now), Err(Refused::Busy));
    rig.isolate(3);
    rig.ticks(200);
    assert_eq!(rig.status(3).role, Role::Follower);
    rig.stall_disk(3, false);
    rig.stall_machine(3, false);
    rig.heal();
    rig.run_until(400, "all agree", Rig::agrees);

    let written = || {
        let mut node = bare();
        let mut snapshot = pb(MessageType::MsgSnapshot, 1);
        snapshot.set_snapshot(pb_snapshot(1, 9, members(&[1, 2, 3], &[])));
        node.step(snapshot).unwrap();
        let ready = node.ready();
        let number = ready.number();
        write(node.store(), &ready);
        node.advance_append_async(ready);
        node.on_persist_ready(number);
        node
    };
    let at = panics(written(), |node| drop(node.campaign()));
    assert_eq!(at, "raft.rs:1543");
    let mut installed = written();
    installed.advance_apply_to(9);
    assert_eq!(installed.campaign(), Ok(()));
}

/// What is believed to be on its way is not sent again by itself: each answer to a heartbeat makes room for
/// what comes after it (`raft.rs` line 1845). Here a message that cannot be sent is reported, and what is
/// lost without a word is refused by its receiver.
#[test]
fn appends_that_are_lost() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.isolate(2);
    rig.sent.clear();
    for n in 0..100 {
        rig.propose(1, format!("{n}"));
    }
    let to_nobody = rig.sent.iter().filter(|(from, to, message)| {
        (*from, *to) == (1, 2) && matches!(message.body, Body::Append { .. })
    });
    assert!(to_nobody.count() <= 2, "the link is gone, and it tries one");
    rig.heal();
    rig.run_until(20, "all agree", Rig::agrees);

    for reported in [false, true] {
        let window = raft::Config {
            max_inflight_msgs: 2,
            ..config()
        };
        let storage = MemStorage::new_with_conf_state(members(&[1, 2, 3], &[]));
        let mut leader = settled(elected(follows(node(&window, storage))));
        let matched = leader.raft.raft_log.last_index();
        for _ in 0..5 {
            leader.propose(vec![], b"a".to_vec()).unwrap();
        }
        let lost = carry_out(&mut leader);
        let to_two = lost.iter().filter(|message| message.to == 2);
        assert_eq!(to_two.count(), 2, "and then it waits");
        if reported {
            leader.report_unreachable(2);
        }
        let answers = pb(MessageType::MsgHeartbeatResponse, leader.raft.term);
        leader.step(answers).unwrap();
        let again = sent(&leader, MessageType::MsgAppend);
        assert_eq!(again[0].index == matched, reported);
    }
}

/// A late refusal takes a member's position to before what it has acknowledged (`progress.rs` line 194,
/// mended on the main branch of `raft` only). What is sent again does no harm, and it gets on.
#[test]
fn a_position_before_what_was_acknowledged() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.run_until(50, "all agree", Rig::agrees);
    let previous = rig.status(1).last.index;
    rig.core(1).handle_unreachable(id(2));
    let refusal = Body::AppendRejected {
        previous,
        hint: ORIGIN,
        commit: LogIndex::new(1),
    };
    let refusal = message(rig.term(1), refusal);
    rig.hear(1, 2, refusal).unwrap();
    rig.commit(1, "b");
    rig.run_until(50, "all agree", Rig::agrees);
    assert_eq!(rig.applied(2), ["a", "b"]);

    let mut leader = settled_leader();
    leader.report_unreachable(2);
    let last = leader.raft.raft_log.last_index();
    reject(&mut leader, last);
    let progress = leader.raft.prs().get(2).unwrap();
    assert!(progress.next_idx <= progress.matched, "{progress:?}");
    accept(&mut leader, 2, last);
    assert!(!kinds(&carry_out(&mut leader)).is_empty());
}
