//! Disks that are empty or old when a node comes back.

use std::time::Duration;

use quorate_tests::sim::World;

use crate::stage::{LONG, get, leader, others, put, world};

/// A node that comes back with an empty disk is kept out by peers that have known it before.
#[test]
fn e1_a_wiped_node_is_kept_out() {
    let mut world = world(3, 1);
    put(&mut world, "a");
    let wiped = leader(&world);
    world.kill(wiped, true);
    world.wipe(wiped);
    world.start(wiped).unwrap();
    put(&mut world, "b");
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.failure(), None);
    assert!(world.leader().is_some_and(|leader| leader != wiped));
    let status = world.status(wiped).unwrap();
    assert_eq!(
        status.last,
        quorate::ORIGIN,
        "nobody sends it anything: {status}"
    );
}

/// A node whose disk went back in time is kept out by peers that have known a later start of it.
#[test]
fn e4_a_restored_node_is_kept_out() {
    let mut world = world(3, 1);
    put(&mut world, "a");
    let restored = leader(&world);
    let image = world.image(restored);
    let restart = |world: &mut World| {
        world.kill(restored, true);
        world.start(restored).unwrap();
        world.run_for(Duration::from_secs(5));
    };
    restart(&mut world);
    restart(&mut world);
    world.kill(restored, true);
    world.restore(restored, &image);
    world.start(restored).unwrap();
    let before = world.status(restored).map(|status| status.last);
    put(&mut world, "b");
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.failure(), None);
    assert!(world.leader().is_some_and(|leader| leader != restored));
    let status = world.status(restored).unwrap();
    assert!(
        before.is_none_or(|before| before == status.last),
        "{status}"
    );
    let led = world.status(leader(&world)).unwrap();
    assert!(status.commit < led.commit, "{status} against {led}");
}

/// A follower whose disk went back to what it was in the middle of its last start is kept out by the leader,
/// to whom it has acknowledged more since.
#[test]
fn e4_a_log_behind_what_it_acknowledged_is_kept_out() {
    let mut world = world(3, 1);
    put(&mut world, "a");
    let restored = others(3, leader(&world))[0];
    let image = world.image(restored);
    put(&mut world, "b");
    world.run_for(Duration::from_secs(1));
    world.kill(restored, true);
    world.restore(restored, &image);
    world.start(restored).unwrap();
    world.run_for(Duration::from_millis(10));
    let before = world.status(restored).unwrap();
    put(&mut world, "c");
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.failure(), None);
    let (status, led) = (
        world.status(restored).unwrap(),
        world.status(leader(&world)).unwrap(),
    );
    assert_ne!(led.node.value(), restored);
    assert_eq!(status.last, before.last, "nobody sends it anything");
    let refusals = world.refusals(restored);
    let told = refusals
        .iter()
        .any(|refusal| refusal.contains("had acknowledged"));
    assert!(told, "{refusals:?}");
    assert!(status.last < led.last, "{status} against {led}");
}

/// A node that gave its vote is kept out by whoever got it, when its disk went back to before that: it could
/// vote again. It has acknowledged no entry there.
#[test]
fn e4_a_store_from_before_its_vote_is_kept_out() {
    // The control: with its vote, the same store is welcome.
    for has_its_vote in [false, true] {
        let mut world = world(3, 1);
        put(&mut world, "a");
        let gone = leader(&world);
        let before: Vec<_> = others(3, gone)
            .into_iter()
            .map(|node| (node, world.image(node)))
            .collect();
        world.kill(gone, true);
        let deadline = world.now() + LONG;
        assert!(world.run_until(deadline, |world| world.leader().is_some()));
        let elected = leader(&world);
        let (voter, old) = before
            .into_iter()
            .find(|(node, _)| *node != elected)
            .expect("one of two");
        // Before an answer to the new leader's first message.
        world.partition(&[voter], true);
        let image = match has_its_vote {
            true => world.image(voter),
            false => old,
        };
        world.kill(voter, true);
        world.restore(voter, &image);
        world.start(voter).unwrap();
        world.partition(&[voter], false);
        world.run_for(Duration::from_secs(5));
        assert_eq!(world.failure(), None);
        let refusals = world.refusals(voter);
        // No more than its vote: as if it had accepted a log that is empty.
        let words = format!("had acknowledged {} in term", quorate::ORIGIN.index);
        let told = refusals.iter().any(|refusal| refusal.contains(&words));
        assert_eq!(told, !has_its_vote, "{refusals:?}");
        // The two that are left are a majority, if they speak to each other.
        assert_eq!(world.leader().is_some(), has_its_vote);
    }
}

/// The leader has the last entry, one follower has it, too, and then the leader's disk is empty: those two
/// were a majority, so the entry is still there once the other follower is back.
#[test]
fn e3_the_last_entry_outlives_the_disk_of_its_leader() {
    let mut world = world(3, 1);
    let wiped = leader(&world);
    let [away, _] = others(3, wiped)[..] else {
        panic!("three nodes");
    };
    world.partition(&[away], true);
    put(&mut world, "a");
    world.kill(wiped, true);
    world.wipe(wiped);
    world.start(wiped).unwrap();
    world.partition(&[away], false);
    assert!(get(&mut world, "a"));
    assert_ne!(leader(&world), wiped);
    assert_eq!(world.failure(), None);
}
