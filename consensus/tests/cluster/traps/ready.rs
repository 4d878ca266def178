//! In which order a `Ready` of `raft` is carried out (the page, section 3.3).

use raft::eraftpb::MessageType;
use raft::storage::MemStorage;
use raft::{RawNode, StateRole};

use super::bare::{
    accept, bare, bare_leader, carry_out, config, elected, members, node, panics, pb, pb_append,
    pb_entries, settled_leader, write,
};
use super::{append, cluster, entry_id, heartbeat, message, vote};
use crate::rig::{Rig, Setup, id};

/// A single voter that leads; its first entry is on its way to the disk.
fn single() -> RawNode<MemStorage> {
    let storage = MemStorage::new_with_conf_state(members(&[1], &[]));
    let mut node = node(&config(), storage);
    node.campaign().unwrap();
    assert_eq!(node.raft.state, StateRole::Leader);
    node
}

/// An input between `ready` and `advance`: raft panics (`raw_node.rs` line 685, and 523 and 674 likewise).
/// Here one call does both, so that inputs come between what is asked for and what is done only.
#[test]
fn an_input_before_a_ready_is_done() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.stall_disk(2, true);
    rig.propose(1, "a");
    assert!(rig.queued_writes(2) > 0);
    let term = rig.term(1) + 1;
    rig.hear(2, 3, message(term, heartbeat(1))).unwrap();
    rig.stall_disk(2, false);
    rig.run_until(200, "all agree", Rig::agrees);

    let at = panics(bare(), |node| {
        carry_out(node);
        node.step(pb_append((0, 0), &[1])).unwrap();
        let ready = node.ready();
        write(node.store(), &ready);
        node.step(pb(MessageType::MsgHeartbeat, 9)).unwrap();
        let _ = node.advance(ready);
    });
    assert_eq!(at, "raw_node.rs:674");
    let at = panics(settled_leader(), |node| {
        let ready = node.ready();
        let mut newer = pb(MessageType::MsgAppendResponse, 9);
        newer.reject = true;
        node.step(newer).unwrap();
        let _ = node.advance(ready);
    });
    assert_eq!(at, "raw_node.rs:685");
}

/// What a follower says waits for its disk, and what a leader says does not: raft only marks which is which
/// (`raw_node.rs` line 546). Here the gate holds the former back; see `durability.rs` for each kind.
#[test]
fn what_must_wait_for_the_disk() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    (1..=3).for_each(|node| rig.stall_disk(node, true));
    rig.sent.clear();
    rig.propose(1, "a");
    let from: Vec<u64> = rig.sent.iter().map(|(from, ..)| *from).collect();
    assert_eq!(from, [1, 1], "entries are sent, but not acknowledged");
    (1..=3).for_each(|node| rig.stall_disk(node, false));
    assert!(rig.sent.iter().any(|(from, ..)| *from != 1));

    let mut follower = bare();
    follower.step(pb_append((0, 0), &[1])).unwrap();
    let ready = follower.ready();
    assert!(ready.messages().is_empty() && !ready.persisted_messages().is_empty());
    let ready = bare_leader().ready();
    assert!(!ready.messages().is_empty() && ready.persisted_messages().is_empty());
}

/// `advance_append` takes all that was handed out before for durable (`raw_node.rs` line 671), so that a
/// leader counts what its disk may lose. Here each write has a ticket.
#[test]
fn what_is_not_durable_yet() {
    let mut rig = Rig::led_by(1, Setup::voters(1));
    rig.stall_disk(1, true);
    let tokens = ["a", "b"].map(|command| rig.propose(1, command));
    rig.persist_one(1);
    assert!(rig.outcome(tokens[0]).is_some() && rig.outcome(tokens[1]).is_none());
    rig.persist_one(1);
    assert!(rig.outcome(tokens[1]).is_some());

    let mut node = single();
    let first = node.ready();
    write(node.store(), &first);
    node.advance_append_async(first);
    assert_eq!(node.raft.raft_log.committed, 0);
    node.propose(vec![], b"a".to_vec()).unwrap();
    let second = node.ready();
    write(node.store(), &second);
    let _ = node.advance_append(second);
    assert_eq!(node.raft.raft_log.committed, 2, "and nobody told it so");
}

/// Of writes that were begun, `raft` must be able to read the entries: it looks for them in the storage from
/// then on (`raw_node.rs` line 697), and where they are not, has forgotten them and waits for ever. Here they
/// are in the view of the log before they are on the disk.
#[test]
fn what_is_on_its_way_to_the_disk() {
    let mut rig = Rig::led_by(1, Setup::voters(1));
    rig.stall_disk(1, true);
    let before = rig.status(1).last.index;
    let token = rig.propose(1, "a");
    assert_eq!(rig.status(1).last.index, before.next());
    assert!(rig.queued_writes(1) > 0);
    rig.stall_disk(1, false);
    assert!(matches!(rig.outcome(token), Some(Ok(_))));

    let mut node = single();
    let ready = node.ready();
    let number = ready.number();
    node.advance_append_async(ready);
    assert_eq!(node.raft.raft_log.last_index(), 0, "it is forgotten");
    node.on_persist_ready(number);
    assert_eq!(node.raft.raft_log.committed, 0);
}

/// `advance` takes all that was handed out before for applied (`raw_node.rs` line 655): what still waits
/// for a state machine may be compacted, and a change of the members among it does not hold up an election.
/// Here only what the state machine says counts.
#[test]
fn what_is_not_applied_yet() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.stall_machine(1, true);
    let before = rig.status(1).applied;
    for command in ["a", "b", "c"] {
        rig.propose(1, command);
    }
    let status = rig.status(1);
    assert!(status.applied == before && status.commit > before);
    rig.stall_machine(1, false);
    assert_eq!(rig.status(1).applied, status.commit);

    let mut node = settled_leader();
    let before = node.raft.raft_log.applied;
    node.propose(vec![], b"a".to_vec()).unwrap();
    let last = node.raft.raft_log.last_index();
    let ready = node.ready();
    write(node.store(), &ready);
    let _ = node.advance_append(ready);
    accept(&mut node, 2, last);
    let mut handed_out = node.ready();
    assert_eq!(handed_out.take_committed_entries().len(), 1);
    let _ = node.advance(handed_out);
    assert_eq!((before, node.raft.raft_log.applied), (1, last));
}

/// An entry is on its way to the disk, another leader replaces it, and a third one sends it again. When the
/// first write is durable, raft takes it for the last one (`raft_log.rs` line 532 guards only what was not handed
/// out yet). So it applies the entry while the disk may still come to hold the other one, and panics if it is
/// elected (`raw_node.rs` line 496). Here `raft` is not told of a write that another one on its way replaces.
#[test]
fn entries_that_are_replaced_and_come_again() {
    let (mut rig, term, status) = cluster();
    rig.checker.byzantine = true;
    rig.isolate(2);
    rig.stall_disk(2, true);
    let index = status.last.index.next().value();
    let (first, other) = (entry_id(term, index), entry_id(term + 1, index));
    let leaders = [(1, term, first), (3, term + 1, other), (1, term + 2, first)];
    for (leader, term, entry) in leaders {
        rig.hear(2, leader, message(term, append(status.last, &[entry])))
            .unwrap();
        rig.pump();
    }
    rig.hear(2, 1, message(term + 2, heartbeat(index))).unwrap();
    rig.pump();
    assert_eq!(rig.queued_writes(2), 3);
    let applied = rig.applied_index(2);
    rig.persist_one(2);
    assert_eq!(rig.applied_index(2), applied, "another entry replaces it");
    rig.core(2).campaign();
    for pre in [true, false] {
        let vote = message(term + 3, vote(pre));
        let _ = rig.core(2).handle_message(id(3), vote);
    }
    rig.pump();
    assert!(!rig.leads(2), "it leads, and its log is not durable");
    rig.persist_one(2);
    assert!(rig.durable(2).holds(other));
    assert_eq!(rig.applied_index(2), applied);
    rig.persist_one(2);
    assert_eq!(rig.applied_index(2), first.index);

    let mut node = bare();
    let mut first_write = None;
    for (leader, term, entry_term) in [(2, 1, 1), (3, 2, 2), (2, 3, 1)] {
        let mut append = pb_append((0, 0), &[]);
        (append.from, append.term) = (leader, term);
        append.set_entries(pb_entries(entry_term, &[1]).into());
        append.commit = u64::from(term == 3);
        node.step(append).unwrap();
        let ready = node.ready();
        write(node.store(), &ready);
        first_write = first_write.or(Some(ready.number()));
        node.advance_append_async(ready);
    }
    node.on_persist_ready(first_write.unwrap());
    let ready = node.ready();
    assert_eq!(ready.committed_entries().len(), 1);
    node.advance_append_async(ready);
    let at = panics(elected(node), |node| drop(node.ready()));
    assert_eq!(at, "raw_node.rs:496");
}
