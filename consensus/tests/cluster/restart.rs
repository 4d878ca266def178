//! What a node starts from, and what it refuses to start from.

use quorate_consensus::{
    Config, EntryId, LogIndex, Membership, ORIGIN, RaftNode, Recovered, StartError, Term,
};

use crate::rig::{Rig, Setup, id};

fn entry_id(term: u64, index: u64) -> EntryId {
    EntryId::new(Term::new(term), LogIndex::new(index))
}

fn recovered(last: u64) -> Recovered {
    let mut recovered = Recovered::founding(Membership::new([id(1)], []).unwrap());
    recovered.last = LogIndex::new(last);
    recovered
}

fn start(recovered: &Recovered, applied: EntryId) -> Result<RaftNode, StartError> {
    RaftNode::new(Config::new(id(1)), recovered, applied, Vec::new())
}

/// The state machine may be ahead of the durable commit index.
#[test]
fn applied_may_be_ahead_of_the_durable_commit() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    for n in 0..10 {
        let _ = rig.commit(1, &format!("{n}"));
    }
    rig.run_until(50, "all agree", Rig::agrees);
    for node in 1..=3 {
        rig.checkpoint(node);
        assert!(rig.applied_index(node) > rig.durable(node).hard_state.commit);
    }
    (1..=3).for_each(|node| rig.crash(node));
    (1..=3).for_each(|node| rig.restart(node));
    for node in 1..=3 {
        assert_eq!(rig.status(node).commit, rig.applied_index(node));
    }
    rig.run_until(200, "a leader", |rig| rig.leader().is_some());
    let leader = rig.leader().unwrap();
    rig.commit(leader, "after");
    rig.run_until(50, "all agree", Rig::agrees);
    assert_eq!(rig.applied(1).len(), 11, "nothing is applied twice");
}

/// A state machine that is behind the log is brought up to date by applying again.
#[test]
fn a_state_behind_the_log_is_applied_again() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.run_until(50, "all agree", Rig::agrees);
    rig.checkpoint(2);
    rig.commit(1, "b");
    rig.crash(2);
    assert_eq!(rig.applied(2), ["a"]);
    rig.restart(2);
    rig.run_until(50, "all agree", Rig::agrees);
    assert_eq!(rig.applied(2), ["a", "b"]);
}

/// All nodes lose power at once, again and again; nothing acknowledged is lost.
#[test]
fn a14_the_whole_cluster_loses_power() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    for round in 1..=5 {
        let leader = rig.leader().unwrap();
        rig.commit(leader, &format!("{round}"));
        (1..=3).for_each(|node| rig.crash(node));
        (1..=3).for_each(|node| rig.restart(node));
        rig.run_until(300, "a leader", |rig| rig.leader().is_some());
        rig.run_until(100, "all agree", Rig::agrees);
        assert_eq!(rig.applied(3).len(), round);
    }
}

/// A state machine that holds more than the log is refused, with both ends in the error.
#[test]
fn a_state_ahead_of_the_log_is_refused() {
    let applied = entry_id(1, 9);
    let last = entry_id(1, 5);
    let error = start(&recovered(5), applied).err();
    assert_eq!(error, Some(StartError::StateAheadOfLog { applied, last }));
    assert!(start(&recovered(1), ORIGIN).is_ok());
}

/// A state machine that lacks what the log no longer has is refused, with both ends in the error.
#[test]
fn a_state_behind_the_beginning_of_the_log_is_refused() {
    let mut compacted = recovered(9);
    let base = entry_id(1, 5);
    compacted.terms = vec![base];
    compacted.hard_state.commit = LogIndex::new(5);
    for applied in [entry_id(0, 0), ORIGIN, entry_id(1, 4)] {
        let error = start(&compacted, applied).err();
        assert_eq!(error, Some(StartError::StateBehindLog { applied, base }));
    }
}

/// A state machine that holds an entry of another term is not the one of this log.
#[test]
fn a_state_of_another_log_is_refused() {
    let mut recovered = recovered(9);
    recovered.terms = vec![ORIGIN, entry_id(3, 4), entry_id(5, 7)];
    recovered.hard_state.term = Term::new(5);
    let error = start(&recovered, entry_id(4, 9)).err();
    let expected = StartError::StateNotOfThisLog {
        applied: entry_id(4, 9),
        term: 5,
    };
    assert_eq!(error, Some(expected));
    assert!(start(&recovered, entry_id(5, 9)).is_ok());
}

/// A node that was passed over is refused; one with a new id may be about to join.
#[test]
fn a_node_that_is_no_member_is_refused() {
    let mut recovered = recovered(1);
    recovered.memberships = vec![Membership::new([id(1), id(3)], []).unwrap()];
    let start = |node| RaftNode::new(Config::new(id(node)), &recovered, ORIGIN, Vec::new()).err();
    assert!(matches!(start(2), Some(StartError::NotAMember { node, .. }) if node == id(2)));
    assert_eq!(start(4), None);
}

/// Every mistake in a configuration is reported, not only the first.
#[test]
fn a_wrong_configuration_is_refused_with_every_mistake() {
    let mut config = Config::new(id(1));
    config.reads_max = 0;
    config.message_bytes_max = 0;
    let error = RaftNode::new(config, &recovered(1), ORIGIN, Vec::new()).err();
    let Some(StartError::Config { mistakes }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
}

/// A node whose disk was wiped refuses the leader's heartbeats instead of acknowledging what it lost.
#[test]
fn e5_a_wiped_disk_does_not_acknowledge_what_it_lost() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    let old = rig.durable(3).clone();
    let at = rig.commit(1, "a");
    rig.crash(3);
    rig.disk(3).replace(old);
    rig.restart(3);
    rig.ticks(50);
    assert!(rig.leads(1));
    assert_eq!(
        rig.holders(at).len(),
        2,
        "n3 is left out until it is replaced"
    );
    rig.commit(1, "b");
}
