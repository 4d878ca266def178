//! What a node is started with (the page, section 3.4).

use std::ops::RangeInclusive;

use quorate_consensus::{
    Config, Entry, EntryId, LogIndex, Membership, ORIGIN, RaftNode, Recovered, StartError, Term,
};
use raft::storage::MemStorage;

use super::bare::{config, members, node, panics_in, pb_entries, pb_hard_state};
use super::entry_id;
use crate::rig::id;

pub(super) fn recovered(members: &[u64], base: EntryId, last: u64, commit: u64) -> Recovered {
    let members = members.iter().copied().map(id);
    let mut recovered = Recovered::founding(Membership::new(members, []).unwrap());
    recovered.terms = vec![base];
    recovered.last = LogIndex::new(last);
    recovered.hard_state.term = Term::new(base.term.value());
    recovered.hard_state.commit = LogIndex::new(commit);
    recovered
}

fn tail(term: u64, indexes: RangeInclusive<u64>) -> Vec<Entry> {
    let ids = indexes.map(|index| entry_id(term, index));
    ids.map(|id| Entry::command(id, "x".into())).collect()
}

pub(super) fn start(
    recovered: &Recovered,
    applied: EntryId,
    tail: Vec<Entry>,
) -> Result<RaftNode, StartError> {
    RaftNode::new(Config::new(id(1)), recovered, applied, tail)
}

/// A storage with three entries in it.
fn stored(commit: u64) -> MemStorage {
    let storage = MemStorage::new_with_conf_state(members(&[1, 2, 3], &[]));
    storage.wl().append(&pb_entries(1, &[1, 2, 3])).unwrap();
    storage.wl().set_hardstate(pb_hard_state(1, commit));
    storage
}

/// A commit index outside of the log: raft panics as it starts (`raft.rs` line 2786). One before the log
/// is raised to what was applied. One beyond it is a damaged log, which our store does not open
/// (`persist/src/verify.rs`, `impossible_single_rows_are_refused` there); a store that did would not get a node either.
#[test]
fn a_commit_index_outside_of_the_log() {
    let base = entry_id(1, 5);
    let node = start(&recovered(&[1, 2], base, 5, 3), base, vec![]).unwrap();
    assert_eq!(node.status().commit, base.index);
    let beyond = recovered(&[1, 2], base, 5, 6);
    let _ = panics_in(|| drop(start(&beyond, base, vec![])));

    let at = panics_in(|| drop(self::node(&config(), stored(9))));
    assert_eq!(at, "raft.rs:2786");
    let storage = stored(3);
    storage.wl().compact(3).unwrap();
    storage.wl().set_hardstate(pb_hard_state(1, 1));
    let at = panics_in(|| drop(self::node(&config(), storage)));
    assert_eq!(at, "raft.rs:2786");
}

/// A state machine that is ahead of the durable commit index: raft panics as it starts (`raft_log.rs`
/// line 314). What was applied was committed, so that the commit index is raised; but not beyond the log.
#[test]
fn a_state_ahead_of_the_commit_index() {
    let log = recovered(&[1, 2], ORIGIN, 4, 1);
    let node = start(&log, entry_id(1, 3), tail(1, 4..=4)).unwrap();
    assert_eq!(node.status().commit, LogIndex::new(3));
    let ahead = start(&log, entry_id(1, 5), vec![]).err();
    assert!(matches!(ahead, Some(StartError::StateAheadOfLog { .. })));

    let ahead = raft::Config {
        applied: 3,
        ..config()
    };
    let at = panics_in(|| drop(self::node(&ahead, stored(2))));
    assert_eq!(at, "raft_log.rs:314");
}

/// A node that does not tell raft what its state machine has applied gets it again (`raw_node.rs` line 311).
#[test]
fn a_state_that_raft_is_not_told_of() {
    let log = recovered(&[1], ORIGIN, 4, 3);
    let handed = |applied: u64| {
        let applied = entry_id(1, applied);
        let tail = tail(1, applied.index.value() + 1..=4);
        let mut node = start(&log, applied, tail).unwrap();
        let ready = std::iter::from_fn(|| node.poll_ready());
        let committed = ready.flat_map(|ready| ready.committed);
        let indexes = committed.map(|committed| committed.entry.id.index.value());
        indexes.collect::<Vec<_>>()
    };
    assert_eq!(handed(3), []);
    assert_eq!(handed(1), [2, 3]);

    let mut node = node(&config(), stored(3));
    let again = node.ready().take_committed_entries();
    assert_eq!(again.len(), 3, "whatever its state machine has");
}
