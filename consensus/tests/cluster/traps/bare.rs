//! `raft` itself, with nothing of ours around it, and what it makes of what it is given.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;

use raft::eraftpb::{
    ConfState, Entry as PbEntry, HardState as PbHardState, Message as PbMessage, MessageType,
    Snapshot as PbSnapshot,
};
use raft::storage::MemStorage;
use raft::{RawNode, StateRole, Storage};

pub(super) fn members(voters: &[u64], learners: &[u64]) -> ConfState {
    ConfState {
        voters: voters.to_vec(),
        learners: learners.to_vec(),
        ..ConfState::default()
    }
}

/// The settings of a node that is careful.
pub(super) fn config() -> raft::Config {
    raft::Config {
        id: 1,
        check_quorum: true,
        pre_vote: true,
        ..raft::Config::default()
    }
}

pub(super) fn node<T: Storage>(config: &raft::Config, storage: T) -> RawNode<T> {
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(config, storage, &logger).unwrap()
}

/// One of the voters n1, n2 and n3, which knows nobody else.
pub(super) fn alone() -> RawNode<MemStorage> {
    let storage = MemStorage::new_with_conf_state(members(&[1, 2, 3], &[]));
    node(&config(), storage)
}

/// A bare `raft` follower in term 1 of n2, with nothing in its log.
pub(super) fn bare() -> RawNode<MemStorage> {
    follows(alone())
}

pub(super) fn follows<T: Storage>(mut node: RawNode<T>) -> RawNode<T> {
    node.step(pb(MessageType::MsgHeartbeat, 1)).unwrap();
    assert_eq!(node.raft.leader_id, 2);
    node
}

/// A leader in term 2 whose first entry is not durable yet.
pub(super) fn bare_leader() -> RawNode<MemStorage> {
    elected(bare())
}

/// `node` wins its next election with the vote of n2.
pub(super) fn elected<T: Storage>(mut node: RawNode<T>) -> RawNode<T> {
    node.campaign().unwrap();
    let term = node.raft.term + 1;
    node.step(pb(MessageType::MsgRequestPreVoteResponse, term))
        .unwrap();
    node.step(pb(MessageType::MsgRequestVoteResponse, term))
        .unwrap();
    assert_eq!(node.raft.state, StateRole::Leader);
    node
}

/// A leader that has committed in its term, with n2, whose log is as long as its own.
pub(super) fn settled_leader() -> RawNode<MemStorage> {
    settled(bare_leader())
}

pub(super) fn settled(mut node: RawNode<MemStorage>) -> RawNode<MemStorage> {
    carry_out(&mut node);
    let last = node.raft.raft_log.last_index();
    accept(&mut node, 2, last);
    carry_out(&mut node);
    assert!(node.raft.commit_to_current_term());
    node
}

/// `from` has everything up to `index`.
pub(super) fn accept<T: Storage>(node: &mut RawNode<T>, from: u64, index: u64) {
    let mut message = pb(MessageType::MsgAppendResponse, node.raft.term);
    (message.from, message.index) = (from, index);
    node.step(message).unwrap();
}

/// Writes and applies whatever `node` wants at once, and returns what it wants to send.
pub(super) fn carry_out(node: &mut RawNode<MemStorage>) -> Vec<PbMessage> {
    let mut messages = Vec::new();
    while node.has_ready() {
        let mut ready = node.ready();
        messages.extend(ready.take_messages());
        write(node.store(), &ready);
        messages.extend(ready.take_persisted_messages());
        messages.extend(node.advance(ready).take_messages());
        node.advance_apply();
    }
    messages
}

pub(super) fn write(storage: &MemStorage, ready: &raft::Ready) {
    let mut storage = storage.wl();
    if ready.snapshot().get_metadata().index > 0 {
        storage.apply_snapshot(ready.snapshot().clone()).unwrap();
    }
    storage.append(ready.entries()).unwrap();
    if let Some(hard_state) = ready.hs() {
        storage.set_hardstate(hard_state.clone());
    }
}

pub(super) fn kinds(messages: &[PbMessage]) -> Vec<MessageType> {
    messages.iter().map(PbMessage::get_msg_type).collect()
}

/// A message from n2.
pub(super) fn pb(kind: MessageType, term: u64) -> PbMessage {
    let mut message = PbMessage {
        from: 2,
        to: 1,
        term,
        ..PbMessage::default()
    };
    message.set_msg_type(kind);
    message
}

/// Entries of n2 in term 1.
pub(super) fn pb_append(previous: (u64, u64), indexes: &[u64]) -> PbMessage {
    let mut message = pb(MessageType::MsgAppend, 1);
    (message.log_term, message.index) = previous;
    message.set_entries(pb_entries(1, indexes).into());
    message
}

pub(super) fn pb_entries(term: u64, indexes: &[u64]) -> Vec<PbEntry> {
    let entries = indexes.iter().map(|&index| PbEntry {
        term,
        index,
        data: "x".into(),
        ..PbEntry::default()
    });
    entries.collect()
}

pub(super) fn pb_snapshot(term: u64, index: u64, members: ConfState) -> PbSnapshot {
    let mut snapshot = PbSnapshot::default();
    snapshot.mut_metadata().index = index;
    snapshot.mut_metadata().term = term;
    snapshot.mut_metadata().set_conf_state(members);
    snapshot
}

pub(super) fn pb_hard_state(term: u64, commit: u64) -> PbHardState {
    PbHardState {
        term,
        commit,
        ..PbHardState::default()
    }
}

/// Where in its source `raft` panics in `step`, as `raft.rs:1214`; that it does not is a failure.
#[track_caller]
pub(super) fn panics<T: Storage>(
    mut node: RawNode<T>,
    step: impl FnOnce(&mut RawNode<T>),
) -> String {
    panics_in(|| step(&mut node))
}

#[track_caller]
pub(super) fn panics_in(step: impl FnOnce()) -> String {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| match EXPECTED.get() {
            true => PLACE.set(panic.location().map(place)),
            false => before(panic),
        }));
    });
    EXPECTED.set(true);
    let panicked = catch_unwind(AssertUnwindSafe(step)).is_err();
    EXPECTED.set(false);
    assert!(panicked, "nothing panics");
    PLACE.take().expect("a panic has a place")
}

thread_local! {
    /// Whether a panic in this thread is what its test is about: its place is kept then, and not printed.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

fn place(location: &Location<'_>) -> String {
    let path = Path::new(location.file());
    let file = path.file_name().expect("sources are files");
    format!("{}:{}", file.display(), location.line())
}
