//! Changes of the members that `raft` gets wrong, or leaves to others (the page, section 3.7).

use quorate_consensus::{Membership, MembershipChange, MembershipError, Payload, Role};
use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
    Entry as PbEntry, EntryType,
};
use raft::storage::MemStorage;
use raft::{RawNode, StateRole};

use super::bare::{
    accept, carry_out, config, elected, follows, members, node, panics, panics_in, settled,
    settled_leader, write,
};
use crate::rig::{Rig, Setup, id};

fn change(kind: ConfChangeType, node: u64) -> ConfChange {
    let mut change = ConfChange {
        node_id: node,
        ..ConfChange::default()
    };
    change.set_change_type(kind);
    change
}

fn last_entry(node: &RawNode<MemStorage>) -> PbEntry {
    let log = &node.raft.raft_log;
    log.all_entries().pop().expect("a leader has one")
}

/// A leader among `members`.
fn leader_of(members: ConfState) -> RawNode<MemStorage> {
    let storage = MemStorage::new_with_conf_state(members);
    settled(elected(follows(node(&config(), storage))))
}

fn joint(auto_leave: bool) -> ConfState {
    ConfState {
        voters_outgoing: vec![1, 2, 3],
        auto_leave,
        ..members(&[1, 2], &[])
    }
}

/// A change that cannot be now is replaced by an empty entry, and nobody is told (`raft.rs` lines 2076 to
/// 2089). Here it is refused before, and the log does not grow.
#[test]
fn a_change_that_is_refused_becomes_an_empty_entry() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    rig.commit(1, "a");
    rig.run_until(50, "all agree", Rig::agrees);
    rig.net.loss_percent = 100;
    let remove = MembershipChange::Remove { node: id(4) };
    rig.change(1, &remove).unwrap();
    let last = rig.status(1).last;
    let refused = rig.change(1, &remove);
    assert_eq!(refused, Err(MembershipError::ChangeInProgress));
    assert_eq!(rig.status(1).last, last);

    let mut node = settled_leader();
    let learner = change(ConfChangeType::AddLearnerNode, 4);
    let context = || b"who asked".to_vec();
    assert_eq!(node.propose_conf_change(context(), learner.clone()), Ok(()));
    assert!(!last_entry(&node).context.is_empty());
    assert_eq!(node.propose_conf_change(context(), learner), Ok(()));
    let replaced = last_entry(&node);
    assert_eq!(replaced.get_entry_type(), EntryType::EntryNormal);
    assert!(replaced.context.is_empty() && replaced.data.is_empty());
}

/// What leaves a joint membership has no data (`raft.rs` line 973), so that who skips empty entries before it
/// looks at their kind never leaves; and where `raft` appends it by itself, it has no context either, of
/// which ours are made. Here each step names all members, and the leader takes it.
#[test]
fn a_change_without_data() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    rig.run_until(50, "all agree", Rig::agrees);
    rig.ticks(100);
    let promote = MembershipChange::Promote { node: id(4) };
    rig.change(1, &promote).unwrap();
    rig.run_until(200, "four voters", |rig| {
        rig.members(2) == [vec![1, 2, 3, 4], vec![], vec![]]
    });
    let entries = rig.durable(1).entries().iter();
    let steps: Vec<&Membership> = entries
        .filter_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(&**membership),
            _ => None,
        })
        .collect();
    let joint_then_not: Vec<bool> = steps.iter().map(|step| step.is_joint()).collect();
    assert_eq!(joint_then_not, [true, false]);

    let mut asked = leader_of(joint(false));
    let leave = ConfChangeV2::default();
    asked.propose_conf_change(vec![], leave).unwrap();
    let mut by_itself = leader_of(joint(true));
    for node in [&mut asked, &mut by_itself] {
        let last = last_entry(node);
        assert_eq!(last.get_entry_type(), EntryType::EntryConfChangeV2);
        assert!(last.data.is_empty() && last.context.is_empty());
    }
}

/// A leader that is asked to leave stays leader of a cluster that it does not belong to, and raft panics as
/// it commits (`raft.rs` line 943), or learns that its own disk is done (line 1055). Here leadership goes
/// first, and a node that is removed does nothing any more.
#[test]
fn a_leader_that_removes_itself() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    let remove = MembershipChange::Remove { node: id(1) };
    let handed = rig.change(1, &remove).unwrap_err();
    let MembershipError::NotLeader { leader: Some(next) } = handed else {
        panic!("{handed}");
    };
    let next = next.value();
    rig.run_until(50, "it leads", |rig| rig.leads(next));
    rig.commit(next, "b");
    rig.ticks(50);
    rig.change(next, &remove).unwrap();
    rig.run_until(400, "n1 is told", |rig| rig.stopped(1).is_some());
    assert!(!rig.leads(1));
    rig.commit(next, "c");

    let removed = || {
        let mut node = settled_leader();
        node.propose(vec![], b"a".to_vec()).unwrap();
        let gone = change(ConfChangeType::RemoveNode, 1);
        node.apply_conf_change(&gone).unwrap();
        assert_eq!(node.raft.state, StateRole::Leader);
        node
    };
    let at = panics(removed(), |node| {
        let last = node.raft.raft_log.last_index();
        accept(node, 2, last);
        accept(node, 3, last);
    });
    assert_eq!(at, "raft.rs:943");
    let at = panics(removed(), |node| {
        let ready = node.ready();
        write(node.store(), &ready);
        let _ = node.advance_append(ready);
    });
    assert_eq!(at, "raft.rs:1055");
}

/// `campaign` asks nobody whether the node votes (`raft.rs` line 1461): a learner becomes a candidate, and
/// where nobody votes, whoever asks has won (line 1225). Here a learner does not campaign, and members
/// without a voter cannot be.
#[test]
fn a_campaign_of_somebody_who_does_not_vote() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    let before = rig.status(4);
    rig.campaign(4);
    assert_eq!(rig.status(4), before);
    assert_eq!(before.role, Role::Follower);
    assert!(Membership::new([], []).is_err() && Membership::new([], [id(1)]).is_err());

    let storage = MemStorage::new_with_conf_state(members(&[2, 3], &[1]));
    let mut learner = follows(node(&config(), storage));
    learner.campaign().unwrap();
    assert_eq!(learner.raft.state, StateRole::PreCandidate);
    let at = panics_in(|| {
        let mut empty = node(&config(), MemStorage::new());
        let _ = empty.campaign();
    });
    assert_eq!(at, "raft.rs:1225");
}

/// Whoever is to follow only is added as a learner, in one step with others; the page of `raft` itself
/// (`lib.rs` line 460, to demote a voter) removes it. Here former voters stay members.
#[test]
fn a_voter_becomes_a_learner() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.ticks(50);
    let set = MembershipChange::Set {
        voters: [id(1), id(2)].into(),
        learners: [id(3)].into(),
        addresses: [].into(),
    };
    rig.change(1, &set).unwrap();
    rig.run_until(200, "n3 is a learner", |rig| {
        rig.members(3) == [vec![1, 2], vec![], vec![3]]
    });
    rig.commit(1, "b");
    rig.run_until(50, "all agree", Rig::agrees);

    let single = |kind| {
        let mut single = ConfChangeSingle {
            node_id: 3,
            ..ConfChangeSingle::default()
        };
        single.set_change_type(kind);
        let mut change = ConfChangeV2::default();
        change.set_transition(ConfChangeTransition::Explicit);
        change.mut_changes().push(single);
        change
    };
    for (kind, stays) in [
        (ConfChangeType::AddLearnerNode, true),
        (ConfChangeType::RemoveNode, false),
    ] {
        let mut node = settled_leader();
        node.apply_conf_change(&single(kind)).unwrap();
        let left = node.apply_conf_change(&ConfChangeV2::default()).unwrap();
        assert_eq!(left.learners.contains(&3), stays);
        carry_out(&mut node);
    }
}
