//! Who leads, and who does not.

use quorate_consensus::Role;

use crate::rig::{Rig, Setup, id};

/// A node that is alone elects itself, commits, and recovers all of it after a power loss.
#[test]
fn a_single_node_leads_commits_and_recovers() {
    let mut rig = Rig::led_by(1, Setup::voters(1));
    rig.commit(1, "a");
    rig.commit(1, "b");
    assert_eq!(rig.applied(1), ["a", "b"]);
    rig.crash(1);
    assert!(rig.applied(1).is_empty(), "the state was in memory only");
    rig.restart(1);
    rig.run_until(100, "it leads again by itself", |rig| rig.leads(1));
    rig.commit(1, "c");
    assert_eq!(rig.applied(1), ["a", "b", "c"]);
}

/// Three nodes elect one leader by themselves, and two of them are enough to commit.
#[test]
fn three_nodes_elect_one_leader_and_commit_by_majority() {
    let mut rig = Setup::voters(3).build();
    rig.run_until(200, "a leader", |rig| rig.leader().is_some());
    let leader = rig.leader().unwrap();
    assert_eq!(rig.up().iter().filter(|&&node| rig.leads(node)).count(), 1);
    let [one, other] = rig.others(leader)[..] else {
        panic!("three members");
    };
    rig.crash(one);
    rig.commit(leader, "a");
    rig.run_until(50, "the follower hears of it", |rig| {
        rig.applied(other) == ["a"]
    });
    rig.crash(other);
    let token = rig.propose(leader, "b");
    rig.ticks(20);
    assert_eq!(rig.outcome(token), None, "one of three is no majority");
    rig.restart(one);
    rig.run_until(200, "a majority again", |rig| {
        rig.leader()
            .is_some_and(|leader| rig.applied(leader).len() == 2)
    });
    rig.restart(other);
    rig.run_until(200, "all agree", Rig::agrees);
}

/// When the leader dies, the others elect one that has everything.
#[test]
fn a_dead_leader_is_replaced_and_nothing_is_lost() {
    let mut rig = Rig::led_by(1, Setup::voters(5));
    rig.isolate(5);
    rig.commit(1, "a");
    rig.heal();
    // n5 lacks "a": it may ask, but must not win.
    rig.crash(1);
    rig.run_until(300, "another leader", |rig| rig.leader().is_some());
    let leader = rig.leader().unwrap();
    rig.commit(leader, "b");
    rig.restart(1);
    rig.run_until(100, "all agree", Rig::agrees);
    assert_eq!(rig.applied(1), ["a", "b"]);
    assert_eq!(rig.applied(5), ["a", "b"]);
}

/// Two that campaign at the same moment never lead the same term, and one of them leads soon.
#[test]
fn a_split_vote_is_resolved() {
    for seed in 1..=20 {
        let mut setup = Setup::voters(4);
        setup.seed = seed;
        let mut rig = setup.build();
        for node in 1..=4 {
            rig.core(node).campaign();
        }
        rig.pump();
        rig.run_until(400, "a leader", |rig| rig.leader().is_some());
    }
}

/// An election that one node calls while the leader is alive changes neither the leader nor its term, and holds up
/// nothing.
#[test]
fn a_needless_election_deposes_nobody() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    rig.run_until(50, "all agree", Rig::agrees);
    let term = rig.term(1);
    for node in [2, 3, 4, 1].repeat(10) {
        rig.campaign(node);
        rig.commit(1, &node.to_string());
        rig.run_until(20, "it follows again", |rig| {
            rig.status(node).leader == Some(id(1))
        });
    }
    assert!(rig.leads(1));
    rig.run_until(50, "all agree", Rig::agrees);
    for node in 1..=4 {
        assert_eq!(rig.term(node), term, "n{node}");
    }

    // Negative control: those who have no leader vote, and here they are a majority.
    for node in [2, 3] {
        rig.core(node).campaign();
    }
    rig.pump();
    rig.run_until(50, "another one leads", |rig| {
        rig.leader().is_some_and(|leader| leader != 1)
    });
    assert!(rig.term(2) > term);
}

/// A node that returns from isolation does not depose the leader: pre-vote left its term alone.
#[test]
fn d4_a_returning_node_does_not_disturb() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    let term = rig.term(1);
    rig.isolate(3);
    rig.ticks(500);
    assert_eq!(rig.term(3), term, "it only rehearsed");
    assert_eq!(rig.status(3).role, Role::PreCandidate);
    rig.commit(1, "a");
    rig.heal();
    rig.run_until(100, "it follows again", Rig::agrees);
    assert_eq!((rig.leader(), rig.term(1)), (Some(1), term));
    assert_eq!(
        rig.changes(1)
            .iter()
            .filter(|c| c.role == Role::Leader)
            .count(),
        1
    );
}

/// An isolated leader steps down by check-quorum, and neither it nor a minority commits.
#[test]
fn d2_an_isolated_leader_and_a_minority_commit_nothing() {
    let mut rig = Rig::led_by(1, Setup::voters(5));
    rig.commit(1, "a");
    rig.partition(&[&[1, 2], &[3, 4, 5]]);
    let token = rig.propose(1, "lost");
    rig.run_until(60, "the old leader steps down", |rig| !rig.leads(1));
    rig.run_until(200, "the majority elects", |rig| rig.leader().is_some());
    assert!(rig.leader().unwrap() > 2);
    rig.ticks(200);
    assert!(!rig.leads(1) && !rig.leads(2));
    assert_eq!(
        (rig.applied(1), rig.applied(2)),
        (vec!["a".into()], vec!["a".into()])
    );
    assert!(!matches!(rig.outcome(token), Some(Ok(_))));
}

/// A burst of ticks after a pause makes a follower ask, but the leader keeps its term.
#[test]
fn c10_a_burst_of_ticks_does_not_depose_the_leader() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    let term = rig.term(1);
    for _ in 0..60 {
        rig.core(3).handle_tick();
    }
    assert_eq!(rig.status(3).role, Role::PreCandidate);
    rig.pump();
    rig.ticks(20);
    assert_eq!((rig.leader(), rig.term(1)), (Some(1), term));
    assert_eq!(rig.status(3).role, Role::Follower);
}

/// A leader that was paused steps down in a burst of ticks rather than lead without a majority.
#[test]
fn c10_a_burst_of_ticks_at_the_leader_is_survived() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    for _ in 0..200 {
        rig.core(1).handle_tick();
    }
    rig.run_until(200, "a leader", |rig| rig.leader().is_some());
    let leader = rig.leader().unwrap();
    rig.commit(leader, "a");
}

/// Timers that fire a tick early, at each node as it likes, depose nobody and hold nothing up.
#[test]
fn c6_ticks_that_come_early_depose_nobody() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    let term = rig.term(1);
    let mut early = [false; 3];
    for round in 0..500 {
        // Whoever is a tick ahead waits for the others, who may get ahead in the meantime.
        for (node, early) in (1..=3).zip(&mut early) {
            *early = !*early && rig.rng.chance(50);
            if *early {
                rig.core(node).handle_tick();
                rig.pump();
            }
        }
        rig.tick();
        if round % 50 == 0 {
            rig.commit(1, "a");
        }
    }
    assert_eq!((rig.leader(), rig.term(1)), (Some(1), term));
    rig.run_until(20, "all agree", Rig::agrees);
}

/// A learner receives the log and neither votes nor campaigns.
#[test]
fn a_learner_only_follows() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    rig.commit(1, "a");
    rig.run_until(50, "the learner hears of it", |rig| rig.applied(4) == ["a"]);
    rig.crash(1);
    rig.crash(2);
    rig.core(4).campaign();
    rig.ticks(200);
    assert_eq!(rig.leader(), None, "n3 and the learner are no majority");
    assert_eq!(rig.status(4).role, Role::Follower);
    rig.restart(2);
    rig.run_until(200, "two voters elect", |rig| rig.leader().is_some());
}

/// The same seed gives the same run, tick for tick.
#[test]
fn a_run_can_be_repeated() {
    let run = |seed| {
        let mut setup = Setup::voters(3);
        setup.seed = seed;
        let mut rig = setup.build();
        rig.net.latency_max = 5;
        rig.net.loss_percent = 10;
        rig.ticks(300);
        rig.sent
    };
    assert!(run(1) == run(1), "the same seed, another run");
    assert!(run(1) != run(2), "another seed, the same run");
}
