//! Changing the members (reliability scenarios F1 to F11).

use std::net::SocketAddr;

use quorate_consensus::{
    Body, ChangeRefused, Membership, MembershipChange, MembershipError, Message, Payload, Refused,
    Role,
};

use crate::rig::{Fate, Rig, Setup, id};

/// Ticks in which a change that nothing hinders is complete, with the rounds of catching up before it.
const CHANGE_TICKS: u64 = 400;

fn at(node: u64) -> SocketAddr {
    ([127, 0, 0, 1], 7000 + node as u16).into()
}

fn add(node: u64) -> MembershipChange {
    MembershipChange::Add {
        node: id(node),
        address: at(node),
        promote: true,
        replaces: None,
    }
}

fn replace(old: u64, new: u64) -> MembershipChange {
    MembershipChange::Add {
        node: id(new),
        address: at(new),
        promote: true,
        replaces: Some(id(old)),
    }
}

fn remove(node: u64) -> MembershipChange {
    MembershipChange::Remove { node: id(node) }
}

fn set(voters: &[u64], learners: &[u64]) -> MembershipChange {
    MembershipChange::Set {
        voters: voters.iter().copied().map(id).collect(),
        learners: learners.iter().copied().map(id).collect(),
        addresses: [].into(),
    }
}

impl Rig {
    /// Until `node` knows exactly these voters, none leaving.
    fn until_voters(&mut self, node: u64, voters: &[u64]) {
        self.run_until(CHANGE_TICKS, &format!("voters {voters:?}"), |rig| {
            rig.members(node) == [voters.to_vec(), vec![], vec![]]
        });
    }
}

/// A node joins as a learner, catches up, becomes a voter by itself, and counts.
#[test]
fn a_node_joins_and_is_promoted() {
    let mut rig = Rig::led_by(1, Setup::voters(1));
    for n in 0..20 {
        rig.commit(1, &format!("{n}"));
    }
    for node in 2..=3 {
        let members: Vec<u64> = (1..node).collect();
        rig.join(node, &members);
        rig.change(1, &add(node)).unwrap();
        rig.until_voters(1, &[&members[..], &[node]].concat());
    }
    rig.commit(1, "with all");
    rig.run_until(100, "the new ones have everything", |rig| {
        (2..=3).all(|node| rig.applied(node).len() == 21)
    });
    // Two of three now decide, so without both others nothing is.
    rig.isolate(1);
    let token = rig.propose(1, "alone");
    rig.ticks(30);
    assert!(!matches!(rig.outcome(token), Some(Ok(_))));
    rig.run_until(400, "the others elect", |rig| rig.leader() != Some(1));
}

/// F8: from one to two to five and back to one, whoever leads.
#[test]
fn f8_up_to_five_and_down_to_one() {
    let mut rig = Rig::led_by(1, Setup::voters(1));
    for node in 2..=5 {
        let members: Vec<u64> = (1..node).collect();
        rig.join(node, &members);
        let leader = rig.leader().unwrap();
        rig.change(leader, &add(node)).unwrap();
        rig.until_voters(leader, &[&members[..], &[node]].concat());
        rig.commit(leader, &format!("{node}"));
    }
    for node in 1..=4 {
        // Its leader goes first each time: it hands over.
        rig.run_until(200, "a leader", |rig| rig.leader().is_some());
        let leader = rig.leader().unwrap();
        if leader == node {
            let refused = rig.change(leader, &remove(node)).unwrap_err();
            assert!(matches!(
                refused,
                MembershipError::NotLeader { leader: Some(_) }
            ));
            rig.run_until(100, "another leader", |rig| {
                rig.leader().is_some_and(|leader| leader != node)
            });
        }
        let leader = rig.leader().unwrap();
        rig.run_until(100, "the change begins", |rig| {
            rig.status(leader).role == Role::Leader
        });
        let mut begun = rig.change(leader, &remove(node));
        while begun == Err(MembershipError::ChangeInProgress) {
            rig.tick();
            begun = rig.change(leader, &remove(node));
        }
        begun.unwrap();
        rig.until_voters(leader, &(node + 1..=5).collect::<Vec<_>>());
        rig.run_until(50, "it is told", |rig| rig.stopped(node).is_some());
        rig.checkpoint(node);
        rig.crash(node);
        assert!(rig.try_restart(node).is_err(), "n{node} was removed");
        rig.commit(leader, &format!("without {node}"));
    }
    assert_eq!(rig.leader(), Some(5));
}

/// F1: a dead node is replaced by a new one in one step, and writes go on meanwhile.
#[test]
fn f1_a_dead_node_is_replaced() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "before");
    rig.crash(3);
    rig.join(4, &[1, 2, 3]);
    rig.change(1, &replace(3, 4)).unwrap();
    let mut n = 0;
    while rig.members(1) != [vec![1, 2, 4], vec![], vec![]] {
        n += 1;
        rig.commit(1, &format!("{n}"));
        rig.ticks(5);
        assert!(n < 100, "{rig}");
    }
    // The new one counts: with it, one of the old ones may go.
    rig.crash(2);
    rig.commit(1, "after");
    assert!(rig.try_restart(3).is_ok(), "it does not know");
    rig.ticks(300);
    assert_eq!(rig.leader(), Some(1), "and it disturbs nobody");
}

/// The leader itself is replaced: it gives leadership away before it goes.
#[test]
fn f1_the_leader_is_replaced() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.join(4, &[1, 2, 3]);
    rig.change(1, &replace(1, 4)).unwrap();
    rig.run_until(2 * CHANGE_TICKS, "n1 is replaced", |rig| {
        rig.members(2) == [vec![2, 3, 4], vec![], vec![]]
    });
    rig.run_until(100, "it is told", |rig| rig.stopped(1).is_some());
    let leader = rig.leader().unwrap();
    rig.commit(leader, "without it");
}

/// F2: two operators at once, or one with an old picture: one wins, and the other is told why.
#[test]
fn f2_one_of_two_changes_wins() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    let before = rig.status(1).membership.index();
    rig.ticks(60);
    let first = rig.core(1).change_membership(&remove(4), Some(before));
    assert_eq!(first, Ok(()));
    let second = rig.core(1).change_membership(&remove(3), Some(before));
    assert_eq!(second, Err(MembershipError::ChangeInProgress));
    rig.pump();
    rig.until_voters(1, &[1, 2, 3]);
    let actual = rig.status(1).membership.index();
    let stale = rig.core(1).change_membership(&remove(3), Some(before));
    assert_eq!(stale, Err(MembershipError::Stale { actual }));
    let [(1, Ok(ended))] = rig.changes_ended() else {
        panic!("{:?}", rig.changes_ended());
    };
    assert_eq!(ended.index(), actual);
}

/// F3: a new leader changes nothing before it has committed in its own term.
#[test]
fn f3_a_new_leader_waits_for_its_first_commit() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.ticks(60);
    let term = rig.term(1);
    rig.net.rule = Some(Box::new(move |_, _, message| {
        let accepted = matches!(message.body, Body::AppendAccepted { .. });
        match accepted && message.term.value() > term {
            true => Fate::Drop,
            false => Fate::Deliver,
        }
    }));
    rig.transfer(1, Some(2)).unwrap();
    assert!(rig.leads(2));
    rig.ticks(20);
    let refused = rig.change(2, &remove(3));
    assert_eq!(refused, Err(MembershipError::ChangeInProgress));
    rig.net.rule = None;
    rig.commit(2, "its first");
    rig.change(2, &remove(3)).unwrap();
    rig.until_voters(2, &[1, 2]);
}

/// F4: of former and new voters, neither decides without the other, however the network parts them in the
/// middle of a change.
#[test]
fn f4_neither_majority_decides_alone() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(2));
    rig.ticks(60);
    let index = rig.status(1).last.index.next();
    // n2 and n3 hold the change, and do not learn that it is committed.
    rig.net.rule = Some(Box::new(move |_, to, message| {
        let (Body::Append { commit, .. } | Body::Heartbeat { commit, .. }) = message.body else {
            return Fate::Deliver;
        };
        match (2..=3).contains(&to) && commit >= index {
            true => Fate::Drop,
            false => Fate::Deliver,
        }
    }));
    rig.change(1, &set(&[1, 4, 5], &[2, 3])).unwrap();
    rig.ticks(2);
    assert_eq!(rig.members(1)[0], [1, 4, 5]);
    assert_eq!(rig.members(2)[0], [1, 2, 3]);
    rig.net.rule = None;
    rig.partition(&[&[1, 4, 5], &[2, 3]]);
    let by_new = rig.propose(1, "by the new voters");
    rig.run_until(200, "n2 or n3 leads", |rig| rig.leads(2) || rig.leads(3));
    let other = if rig.leads(2) { 2 } else { 3 };
    let by_old = rig.propose(other, "by the former voters");
    rig.ticks(40);
    for token in [by_new, by_old] {
        assert!(
            !matches!(rig.outcome(token), Some(Ok(_))),
            "{:?}",
            rig.outcome(token)
        );
    }
    rig.heal();
    rig.run_until(CHANGE_TICKS, "the change is complete", |rig| {
        (1..=5).all(|node| rig.members(node) == [vec![1, 4, 5], vec![], vec![2, 3]])
    });
    let leader = rig.leader().unwrap();
    rig.commit(leader, "together");
}

/// F4: whoever leads when the members are joint sees the change through.
#[test]
fn f4_the_next_leader_leaves_the_joint_membership() {
    for crashes in [1, 2, 3] {
        let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
        rig.ticks(60);
        // The joint membership is committed, but its leader may not go on.
        rig.stall_machine(1, true);
        rig.change(1, &set(&[1, 2, 4], &[])).unwrap();
        rig.run_until(50, "joint", |rig| rig.members(2)[1] == [1, 2, 3]);
        assert!(rig.status(1).membership.is_joint());
        rig.crash(crashes);
        if crashes != 1 {
            rig.stall_machine(1, false);
        }
        let other = if crashes == 2 { 1 } else { 2 };
        rig.run_until(CHANGE_TICKS, "not joint", |rig| {
            rig.members(other) == [vec![1, 2, 4], vec![], vec![]]
        });
    }
}

/// F4: a crash of everybody at every tick of a change leaves members that agree, and the change is
/// completed or was never begun.
#[test]
fn a7_f4_a_crash_at_every_tick_of_a_change() {
    for ticks in 0..12 {
        let setup = Setup {
            disk_latency_max: 2,
            ..Setup::voters(3).learners(1)
        };
        let mut rig = Rig::led_by(1, setup);
        rig.ticks(60);
        rig.change(1, &set(&[1, 2, 4], &[])).unwrap();
        rig.ticks(ticks);
        for node in 1..=4 {
            rig.crash(node);
        }
        for node in 1..=4 {
            let _ = rig.try_restart(node);
        }
        rig.run_until(CHANGE_TICKS, "one membership", |rig| {
            let up = rig.up();
            let leader = rig.leader();
            leader.is_some_and(|leader| {
                let members = rig.members(leader);
                let old = [vec![1, 2, 3], vec![], vec![4]];
                let new = [vec![1, 2, 4], vec![], vec![]];
                (members == old || members == new)
                    && up
                        .iter()
                        .filter(|&&node| rig.members(node) == members)
                        .count()
                        >= 3
            })
        });
        let leader = rig.leader().unwrap();
        rig.commit(leader, "after");
    }
}

/// F5, F6: a removed node is answered by nobody who knows, and its id is not given again.
#[test]
fn f5_f6_a_removed_node_stays_away() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    rig.ticks(60);
    rig.isolate(3);
    rig.change(1, &remove(3)).unwrap();
    rig.run_until(CHANGE_TICKS, "n3 is removed", |rig| {
        rig.members(1) == [vec![1, 2], vec![], vec![4]]
    });
    rig.heal();
    let term = rig.term(1);
    rig.ticks(500);
    assert_eq!(
        rig.term(1),
        term,
        "elections of a removed node cost no term"
    );
    let message = Message {
        term: rig.status(1).term,
        body: Body::HeartbeatResponse {
            commit: quorate_consensus::ORIGIN.index,
            read: None,
        },
    };
    assert_eq!(rig.hear(1, 3, message), Err(Refused::NotAMember));
    let reused = rig.change(1, &add(3)).unwrap_err();
    let expected = ChangeRefused::NodeIdReused {
        node: id(3),
        highest: id(4),
    };
    assert_eq!(reused, MembershipError::Refused(expected));
}

/// F7: who lags behind does not become a voter, however often it is asked for.
#[test]
fn f7_a_learner_that_lags_is_not_promoted() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    rig.isolate(4);
    rig.commit(1, "a");
    rig.ticks(100);
    let promote = MembershipChange::Promote { node: id(4) };
    let refused = rig.change(1, &promote).unwrap_err();
    assert!(
        matches!(refused, MembershipError::LearnerBehind { .. }),
        "{refused}"
    );
    let unknown = rig.change(1, &set(&[1, 2, 3, 9], &[4])).unwrap_err();
    let no_address = ChangeRefused::NoAddress { node: id(9) };
    assert_eq!(unknown, MembershipError::Refused(no_address));
    rig.heal();
    rig.ticks(100);
    rig.change(1, &promote).unwrap();
    rig.until_voters(1, &[1, 2, 3, 4]);
}

/// F7: nor where a new leader knows nothing of it yet but that it answers.
#[test]
fn f7_a_learner_that_lags_is_not_promoted_by_the_next_leader() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    rig.net.rule = Some(Box::new(|_, to, message| match message.body {
        Body::Append { .. } if to == 4 => Fate::Drop,
        _ => Fate::Deliver,
    }));
    rig.commit(1, "a");
    rig.ticks(60);
    rig.elect(2);
    let promote = MembershipChange::Promote { node: id(4) };
    for _ in 0..60 {
        let refused = rig.change(2, &promote);
        assert!(
            matches!(refused, Err(MembershipError::LearnerBehind { .. })),
            "{refused:?}\n{rig}"
        );
        rig.tick();
    }
}

/// A learner becomes a voter by itself after so many whole rounds under its leader, and not before.
#[test]
fn f7_a_learner_is_promoted_after_some_rounds() {
    const ROUND_TICKS: u64 = 25;
    const ROUNDS_MIN: u64 = 4;
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.join(4, &[1, 2, 3]);
    rig.change(1, &add(4)).unwrap();
    rig.run_until(50, "n4 learns", |rig| rig.members(1)[2] == [4]);
    rig.transfer(1, Some(2)).unwrap();
    rig.run_until(50, "n2 leads", |rig| rig.leads(2));
    rig.ticks(ROUNDS_MIN * ROUND_TICKS - 1);
    assert_eq!(rig.members(2)[2], [4], "{rig}");
    rig.run_until(ROUND_TICKS + 5, "n4 votes", |rig| {
        rig.members(2) == [vec![1, 2, 3, 4], vec![], vec![]]
    });
}

/// Removing a live voter while another is dead would stop everything; removing the dead one does not.
#[test]
fn a_change_that_would_lose_the_quorum_is_refused() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.crash(3);
    rig.ticks(100);
    let refused = rig.change(1, &remove(2)).unwrap_err();
    let expected = MembershipError::WouldLoseQuorum {
        active: 1,
        voters: 2,
    };
    assert_eq!(refused, expected);
    rig.change(1, &remove(3)).unwrap();
    rig.until_voters(1, &[1, 2]);
    let last = rig.change(1, &set(&[], &[1, 2])).unwrap_err();
    assert!(matches!(
        last,
        MembershipError::Refused(ChangeRefused::Invalid(_))
    ));
}

/// F9: no change while leadership is being handed over, and a hand-over in the middle of a change leaves
/// the change to the next leader.
#[test]
fn f9_changes_and_transfers() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    rig.ticks(60);
    rig.core(1).transfer_leader(Some(id(2))).unwrap();
    let refused = rig.core(1).change_membership(&remove(4), None);
    let leader = Some(id(2));
    assert_eq!(refused, Err(MembershipError::NotLeader { leader }));
    rig.run_until(100, "n2 leads", |rig| rig.leads(2));
    rig.ticks(60);
    rig.core(2)
        .change_membership(&set(&[1, 2, 4], &[]), None)
        .unwrap();
    let _ = rig.core(2).transfer_leader(Some(id(1)));
    rig.pump();
    rig.run_until(CHANGE_TICKS, "the change is complete", |rig| {
        rig.members(1) == [vec![1, 2, 4], vec![], vec![]]
    });
}

/// F10, G10: a node that joins behind a compacted log learns of the members from the snapshot, joint or
/// not, and then from the log.
#[test]
fn f10_g10_members_come_with_the_snapshot() {
    let mut rig = Rig::led_by(1, Setup::voters(3).small());
    for n in 0..60 {
        rig.commit(1, &format!("{n} {}", "x".repeat(90)));
        rig.checkpoint(1);
    }
    assert!(rig.durable(1).base() > quorate_consensus::ORIGIN);
    rig.join(4, &[1, 2]);
    rig.change(1, &add(4)).unwrap();
    for _ in 0..300 {
        rig.checkpoint(1);
        rig.ticks(5);
        if rig.members(1)[0].contains(&4) && !rig.status(1).membership.is_joint() {
            break;
        }
    }
    rig.until_voters(4, &[1, 2, 3, 4]);
    assert!(
        rig.durable(4).base() > quorate_consensus::ORIGIN,
        "by a snapshot"
    );
    let same = rig.status(1).membership;
    assert_eq!(rig.status(4).membership, same, "with addresses and all");
    rig.crash(4);
    rig.restart(4);
    assert_eq!(rig.status(4).membership.address(id(4)), Some(at(4)));
}

/// F11: a change that was appended and not committed is rolled back with its entry.
#[test]
fn f11_a_change_that_is_not_committed_does_not_count() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    rig.ticks(60);
    rig.isolate(1);
    rig.change(1, &remove(4)).unwrap();
    let holds = |rig: &Rig, node| {
        let mut entries = rig.durable(node).entries().iter();
        entries.any(|entry| matches!(entry.payload, Payload::Membership(_)))
    };
    rig.ticks(3);
    assert!(holds(&rig, 1) && rig.members(1)[2] == [4]);
    let leader = rig.elect_one_of(&[2, 3]);
    rig.commit(leader, "instead");
    rig.heal();
    rig.run_until(100, "n1 follows", |rig| !holds(rig, 1));
    assert_eq!(rig.members(1)[2], [4]);
    let [(1, ended)] = rig.changes_ended() else {
        panic!("{:?}", rig.changes_ended());
    };
    assert_eq!(*ended, Err(MembershipError::OutcomeUnknown));
}

/// F12: an address changes without anything else, and is the same everywhere.
#[test]
fn f12_an_address_changes() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.ticks(60);
    let moved = MembershipChange::Move {
        node: id(2),
        address: at(22),
    };
    rig.change(1, &moved).unwrap();
    let known = |rig: &Rig, node| rig.status(node).membership.address(id(2)) == Some(at(22));
    rig.run_until(50, "all know", |rig| (1..=3).all(|node| known(rig, node)));
    let again = rig.change(1, &moved).unwrap_err();
    let same = ChangeRefused::AlreadyMember { node: id(2) };
    assert_eq!(again, MembershipError::Refused(same));
    rig.crash(3);
    rig.restart(3);
    rig.run_until(50, "after a restart", |rig| known(rig, 3));
}

/// A leader from after this node's time is followed, and one that is known to be gone is not.
#[test]
fn a_leader_that_is_not_known_yet_is_followed() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.isolate(3);
    rig.join(4, &[1, 2]);
    rig.isolate(3);
    rig.change(1, &add(4)).unwrap();
    rig.run_until(CHANGE_TICKS, "n4 votes", |rig| {
        rig.members(1)[0].contains(&4)
    });
    rig.run_until(50, "not joint", |rig| !rig.status(1).membership.is_joint());
    rig.transfer(1, Some(4)).unwrap();
    rig.run_until(100, "n4 leads", |rig| rig.leads(4));
    assert_eq!(rig.members(3)[0], [1, 2, 3], "n3 does not know of it");
    rig.heal();
    rig.commit(4, "from n4");
    rig.until_voters(3, &[1, 2, 3, 4]);
}

/// Members that no log leads to are refused, and nothing panics.
#[test]
fn members_out_of_nowhere_stop_the_node() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.checker.byzantine = true;
    let status = rig.status(2);
    let last = status.last;
    let next = quorate_consensus::EntryId::new(last.term, last.index.next());
    let made_up = Membership::new((1..=5).map(id), []).unwrap();
    let mut bytes = made_up.encode();
    bytes[14..22].copy_from_slice(&next.index.value().to_le_bytes());
    let made_up = Membership::decode(&bytes).unwrap();
    let body = Body::Append {
        previous: last,
        commit: next.index,
        entries: vec![quorate_consensus::Entry {
            id: next,
            payload: Payload::Membership(Box::new(made_up)),
        }],
    };
    let term = status.term;
    rig.hear(2, 1, Message { term, body }).unwrap();
    rig.pump();
    assert!(rig.stopped(2).is_some_and(|why| why.contains("cannot be")));
}

/// A leader that leaves completes the change under another leader that did not know: one that is no voter leads.
/// It answers no read, for the one voter that is left may have elected itself meanwhile, and hands over.
#[test]
fn h8_a_leader_that_is_no_voter_reads_nothing() {
    let mut rig = Rig::led_by(1, Setup::voters(2));
    rig.commit(1, "a");
    // n2 has the entry that completes its leaving; n1 does not learn so.
    rig.change(1, &set(&[1], &[2])).unwrap();
    let left = |rig: &Rig, node: u64| rig.members(node) == [vec![1], vec![], vec![2]];
    if !left(&rig, 1) {
        let joint = rig.status(1).last.index;
        rig.net.rule = Some(Box::new(move |from, _, message| match message.body {
            Body::AppendAccepted { last, .. } if from == 2 && last > joint => Fate::Drop,
            _ => Fate::Deliver,
        }));
        rig.run_until(100, "n2 has it", |rig| rig.durable(2).last().index > joint);
    }
    assert!(!left(&rig, 1) && !left(&rig, 2), "{rig}");
    rig.isolate(1);
    rig.run_until(200, "n1 steps down", |rig| !rig.leads(1));
    rig.net.rule = None;
    // From now on nothing that would hand over arrives.
    rig.net.rule = Some(Box::new(|from, _, message| match message.body {
        Body::TimeoutNow if from == 2 => Fate::Drop,
        _ => Fate::Deliver,
    }));
    rig.heal();
    rig.campaign(2);
    rig.run_until(100, "n2 leads and is no voter", |rig| {
        rig.leads(2) && left(rig, 2)
    });
    rig.isolate(2);
    rig.elect(1);
    rig.commit(1, "b");
    assert!(rig.leads(2), "it has not noticed");
    let token = rig.read(2);
    rig.ticks(2);
    assert!(!matches!(rig.read_outcome(token), Some(Ok(_))));
    rig.net.rule = None;
    rig.heal();
    rig.run_until(200, "n1 leads alone", |rig| rig.leads(1) && !rig.leads(2));
}

/// Without isolation: whoever leads and is no voter gives leadership to one that is.
#[test]
fn f9_a_leader_that_is_no_voter_hands_over() {
    let mut rig = Rig::led_by(1, Setup::voters(2));
    let joint = rig.status(1).last.index.next();
    rig.net.rule = Some(Box::new(move |from, _, message| match message.body {
        Body::AppendAccepted { last, .. } if from == 2 && last > joint => Fate::Drop,
        _ => Fate::Deliver,
    }));
    rig.change(1, &set(&[1], &[2])).unwrap();
    rig.run_until(100, "n2 has it", |rig| rig.durable(2).last().index > joint);
    rig.isolate(1);
    rig.run_until(200, "n1 steps down", |rig| !rig.leads(1));
    rig.net.rule = None;
    rig.heal();
    rig.campaign(2);
    rig.run_until(200, "n1 leads", |rig| rig.leads(1));
    assert_eq!(rig.members(1), [vec![1], vec![], vec![2]]);
    rig.commit(1, "after");
}

/// No voter of before votes afterwards: the leader steps into the joint membership itself, and hands over there.
#[test]
fn f4_the_only_voter_is_replaced() {
    let mut rig = Rig::led_by(1, Setup::voters(1));
    rig.commit(1, "a");
    rig.join(2, &[1]);
    rig.change(1, &replace(1, 2)).unwrap();
    rig.until_voters(2, &[2]);
    rig.run_until(200, "n2 leads", |rig| rig.leads(2));
    rig.commit(2, "b");
    assert_eq!(rig.applied(2), ["a", "b"]);
}

/// F4: when a change is complete, former voters are not needed any more, wherever the power fails after that.
#[test]
fn f4_voters_that_were_removed_are_not_needed_after_a_crash() {
    let mut rig = Rig::led_by(1, Setup::voters(2));
    rig.commit(1, "a");
    rig.change(1, &remove(2)).unwrap();
    rig.run_until(CHANGE_TICKS, "n2 stops", |rig| rig.stopped(2).is_some());
    rig.crash(2);
    rig.crash(1);
    rig.restart(1);
    rig.run_until(200, "n1 leads", |rig| rig.leads(1));
    rig.commit(1, "b");
}

/// F4: whoever asked is told only then, and so are those who are no members any more.
#[test]
fn f4_a_change_is_not_told_before_it_is_durable() {
    let mut rig = Rig::led_by(1, Setup::voters(2));
    rig.commit(1, "a");
    rig.net.rule = Some(Box::new(|_, to, message| {
        let Body::Append { entries, .. } = &message.body else {
            return Fate::Deliver;
        };
        let mut entries = entries.iter();
        let ends = entries.any(
            |entry| matches!(&entry.payload, Payload::Membership(members) if !members.is_joint()),
        );
        match to == 2 && ends {
            true => Fate::Drop,
            false => Fate::Deliver,
        }
    }));
    rig.change(1, &remove(2)).unwrap();
    rig.ticks(5);
    assert!(rig.status(1).membership.is_joint());
    // The entry that ends the joint membership is durable here, and what comes after it will not be.
    rig.stall_disk(1, true);
    rig.net.rule = None;
    rig.until_voters(1, &[1]);
    assert!(rig.changes_ended().is_empty());
    rig.ticks(3);
    assert_eq!(rig.stopped(2), None, "told before it is durable");
    rig.stall_disk(1, false);
    rig.run_until(CHANGE_TICKS, "n2 stops", |rig| rig.stopped(2).is_some());
    assert!(matches!(rig.changes_ended(), [(1, Ok(_))]));
}
