//! Members that come and go on the whole stack (reliability scenario F1).

use std::time::Duration;

use quorate::MembershipChange;
use quorate_tests::sim::World;

use crate::stage::{LONG, get, leader, others, params, put, world_as};

/// `voters` founders that run, and `newcomers` nodes that do not yet.
fn world(voters: u64, newcomers: u64) -> World {
    let mut params = params(voters);
    params.learners = newcomers;
    world_as(1, params)
}

fn add(world: &World, node: u64, replaces: Option<u64>) -> MembershipChange {
    MembershipChange::Add {
        node: quorate::NodeId::new(node).unwrap(),
        address: world.address_of(node),
        promote: true,
        replaces: replaces.and_then(quorate::NodeId::new),
    }
}

/// The voters, as `node` knows them, unless a change is under way.
fn voters(world: &World, node: u64) -> Vec<u64> {
    let Some(status) = world.status(node) else {
        return Vec::new();
    };
    let members = status.membership;
    match members.is_joint() {
        true => Vec::new(),
        false => members.voters().map(quorate::NodeId::value).collect(),
    }
}

fn until_voters(world: &mut World, node: u64, expected: &[u64]) {
    let deadline = world.now() + LONG;
    let reached = world.run_until(deadline, |world| voters(world, node) == expected);
    assert!(
        reached,
        "n{node} knows {:?}: {:?}",
        voters(world, node),
        world.failure()
    );
}

/// A node joins while the network is parted between it and the leader, and becomes a voter when it is whole.
#[test]
fn f1_a_node_joins_through_a_partition() {
    let mut world = world(3, 1);
    put(&mut world, "a");
    let leads = leader(&world);
    world.start(4).unwrap();
    let change = add(&world, 4, None);
    world.change_members(change);
    world.run_for(Duration::from_millis(30));
    world.partition(&[4], true);
    put(&mut world, "b");
    world.run_for(Duration::from_secs(5));
    assert_eq!(voters(&world, leads), [1, 2, 3], "it has not caught up");
    world.partition(&[4], false);
    for node in 1..=4 {
        until_voters(&mut world, node, &[1, 2, 3, 4]);
    }
    assert!(get(&mut world, "a") && get(&mut world, "b"));
    assert_eq!(world.failure(), None);
}

/// A node that joined, and was connected before it was a member, is kept out without its disk like any other: by those
/// who have run all the while, and by those who have begun again with a state from before it was a member.
#[test]
fn e1_a_wiped_node_that_joined_is_kept_out() {
    let mut world = world(3, 1);
    put(&mut world, "a");
    world.start(4).unwrap();
    // Connected to all, and a stranger to all.
    world.run_for(Duration::from_secs(5));
    let change = add(&world, 4, None);
    world.change_members(change);
    for node in 1..=4 {
        until_voters(&mut world, node, &[1, 2, 3, 4]);
    }
    put(&mut world, "b");
    // The log knows of the new member, and the state that was saved last may not.
    let restarted = others(3, leader(&world))[0];
    world.kill(restarted, true);
    world.start(restarted).unwrap();
    world.kill(4, true);
    world.wipe(4);
    world.start(4).unwrap();
    world.run_for(Duration::from_secs(5));
    let refusals = world.refusals(4);
    let told = refusals.iter().filter(|why| why.contains("data folder"));
    assert!(told.count() >= 3, "{refusals:?}");
    let status = world.status(4).unwrap();
    assert_eq!(
        status.last,
        quorate::ORIGIN,
        "nobody sends it anything: {status}"
    );
    put(&mut world, "c");
    assert_eq!(world.failure(), None);
}

/// A node that is gone for good is replaced; the leader is killed in the middle of it, and the next one
/// completes the change.
#[test]
fn f1_f4_a_dead_node_is_replaced_by_two_leaders() {
    let mut world = world(5, 1);
    put(&mut world, "a");
    let first = leader(&world);
    let dead = others(5, first)[0];
    world.kill(dead, true);
    world.start(6).unwrap();
    let change = add(&world, 6, Some(dead));
    world.change_members(change);
    let deadline = world.now() + LONG;
    let known = |world: &World| {
        let status = world.status(first);
        status.is_some_and(|status| status.membership.promotions().next().is_some())
    };
    assert!(world.run_until(deadline, known), "n6 is a learner");
    world.kill(first, true);
    put(&mut world, "b");
    let second = leader(&world);
    assert_ne!(first, second);
    let mut expected: Vec<u64> = (1..=6).filter(|node| *node != dead).collect();
    expected.sort_unstable();
    until_voters(&mut world, second, &expected);
    world.start(first).unwrap();
    until_voters(&mut world, first, &expected);
    until_voters(&mut world, 6, &expected);
    assert!(get(&mut world, "a") && get(&mut world, "b"));
    // Whoever was replaced comes back, is told, and disturbs nobody.
    world.start(dead).unwrap();
    world.run_for(Duration::from_secs(5));
    let refusals = world.refusals(dead);
    let told = refusals.iter().filter(|why| why.contains("not a member"));
    assert!(told.count() >= 3, "{refusals:?}");
    put(&mut world, "c");
    assert_eq!(world.failure(), None);
}
