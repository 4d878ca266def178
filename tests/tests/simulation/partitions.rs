//! Links that are cut: who leads, who does not, and what is served.

use std::time::Duration;

use quorate_tests::plan::Fault;
use quorate_tests::sim::World;

use crate::stage::{
    ELECTION, LONG, PATIENCE, ask, fault, get, get_at, leader, others, params, put, settle,
    survives, term, world,
};

/// Waits until one of `nodes` leads.
fn one_of_leads(world: &mut World, nodes: &[u64], within: Duration) {
    let deadline = world.now() + within;
    let led = world.run_until(deadline, |world| {
        world.leader().is_some_and(|leader| nodes.contains(&leader))
    });
    assert!(led, "one of {nodes:?} leads within {within:?}");
}

/// Cuts or mends everything between nodes for which `apart` holds.
fn cut(world: &mut World, voters: u64, cut: bool, apart: impl Fn(u64, u64) -> bool) {
    for from in 1..=voters {
        for to in 1..=voters {
            if from != to && apart(from, to) {
                world.cut(from, to, cut);
            }
        }
    }
}

/// The leader alone, and the leader with a minority: the others elect soon and go on, and whoever is cut off
/// serves neither reads nor writes.
#[test]
fn d2_a_minority_serves_nothing_and_a_majority_everything() {
    for alone in [true, false] {
        let mut world = world(5, 1);
        let old = leader(&world);
        let mut minority = vec![old];
        if !alone {
            minority.push(others(5, old)[0]);
        }
        let majority: Vec<u64> = (1..=5).filter(|node| !minority.contains(node)).collect();
        world.partition(&minority, true);
        // Up to two timeouts without a sign of life, and one for the votes.
        one_of_leads(&mut world, &majority, 3 * ELECTION);
        put(&mut world, "a");
        for node in &minority {
            let read = get_at(&mut world, *node, "a");
            assert!(read.is_err(), "n{node} answers {read:?}");
        }
        let client = world.client_at(1, old, PATIENCE);
        let written = ask(&mut world, LONG, async move { client.put("b", "c").await });
        assert!(written.unwrap().is_err());
        world.partition(&minority, false);
        settle(&mut world, 5);
        assert!(get(&mut world, "a"));
        assert_eq!(world.failure(), None);
    }
}

/// A leader that can send and hears nothing does not keep the cluster from electing another.
#[test]
fn d3_a_deaf_leader_is_replaced() {
    let mut world = world(3, 1);
    let deaf = leader(&world);
    cut(&mut world, 3, true, |_, to| to == deaf);
    one_of_leads(&mut world, &others(3, deaf), LONG);
    put(&mut world, "a");
    cut(&mut world, 3, false, |_, to| to == deaf);
    settle(&mut world, 3);
    assert_eq!(world.failure(), None);
}

/// A node that hears and cannot speak leaves the terms alone (pre-vote), before and after it is mended.
#[test]
fn d4_a_mute_node_disturbs_nobody() {
    let mut world = world(3, 1);
    let leads = leader(&world);
    let before = term(&world, leads);
    let mute = others(3, leads)[0];
    cut(&mut world, 3, true, |from, _| from == mute);
    world.run_for(Duration::from_secs(20));
    put(&mut world, "a");
    cut(&mut world, 3, false, |from, _| from == mute);
    settle(&mut world, 3);
    assert_eq!((leader(&world), term(&world, mute)), (leads, before));
    assert_eq!(world.failure(), None);
}

/// Three nodes in a chain, whichever is in the middle: one leads, and after a moment terms stand still.
#[test]
fn d5_a_chain_is_led() {
    for middle in 1..=3 {
        let mut world = world(3, 1);
        cut(&mut world, 3, true, |from, to| {
            from != middle && to != middle
        });
        put(&mut world, "a");
        world.run_for(Duration::from_secs(5));
        let before = term(&world, middle);
        world.run_for(Duration::from_secs(20));
        assert_eq!(term(&world, middle), before, "n{middle} in the middle");
        put(&mut world, "b");
        assert_eq!(world.failure(), None);
    }
}

/// Of five, one alone is in touch with all: it leads within ten seconds, whoever led before.
#[test]
fn d6_the_hub_of_a_star_leads() {
    let mut world = world(5, 1);
    let hub = others(5, leader(&world))[0];
    cut(&mut world, 5, true, |from, to| from != hub && to != hub);
    one_of_leads(&mut world, &[hub], Duration::from_secs(10));
    put(&mut world, "a");
    assert_eq!(world.failure(), None);
}

/// The only one that is in touch with all lacks what is committed: it cannot lead, nobody else can, and no
/// promise is broken. One more link is enough to go on.
#[test]
fn d7_a_stale_hub_waits_for_one_more_link() {
    let mut world = world(5, 1);
    let hub = others(5, leader(&world))[0];
    world.partition(&[hub], true);
    put(&mut world, "a");
    // A connection that is still there would bring the hub what was sent in the meantime.
    world.run_for(Duration::from_secs(20));
    // Everybody is alone until nobody leads any more; only then is the hub there.
    cut(&mut world, 5, true, |from, to| from != hub && to != hub);
    let deadline = world.now() + LONG;
    assert!(world.run_until(deadline, |world| world.leader().is_none()));
    world.partition(&[hub], false);
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.leader(), None);
    let [one, other, ..] = others(5, hub)[..] else {
        panic!("five nodes");
    };
    world.cut(one, other, false);
    world.cut(other, one, false);
    one_of_leads(&mut world, &[one, other], LONG);
    assert!(get(&mut world, "a"));
    assert_eq!(world.failure(), None);
}

/// Five nodes under one partition after the other, in halves, alone, one-way and through a bridge: no read
/// is stale and no write is lost.
#[test]
fn d2_d3_d4_d6_histories_hold_under_every_partition() {
    let partition = |side: &[u64]| Fault::Partition {
        side: side.to_vec(),
        noticed: false,
    };
    let kinds = [
        partition(&[1]),
        partition(&[2, 3]),
        partition(&[1, 2, 3]),
        Fault::CutOneWay { from: 1, to: 2 },
        Fault::CutOneWay { from: 3, to: 1 },
        Fault::Bridge { node: 4 },
    ];
    let faults = (0..)
        .zip(kinds)
        .map(|(turn, kind)| fault(500 + turn * 2_000, 1_500, kind));
    let counts = survives(params(5), 13, faults.collect());
    assert_eq!(counts.partitions, 6);
}
