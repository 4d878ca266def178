//! Clocks that are wrong, processes that stand still.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate::NodeId;
use quorate_tests::plan::Fault;

use crate::stage::{
    LONG, PATIENCE, ask, fault, get, get_at, leader, others, params, put, settle, survives, term,
    world,
};

const HOUR_S: i64 = 60 * 60;
const YEAR_S: i64 = 365 * 24 * HOUR_S;

/// A node whose calendar is off by ten years keeps its connections and makes no new ones; with the right
/// time it is back. An hour ahead, everywhere, harms nothing.
#[test]
fn c1_a_wrong_calendar_costs_new_connections_and_nothing_else() {
    let mut world = world(3, 1);
    let wrong = others(3, leader(&world))[0];
    for by_s in [-10 * YEAR_S, 10 * YEAR_S] {
        world.set_wall_clock(wrong, by_s);
        put(&mut world, "while its connections are up");
        let (seen, last) = (world.status(wrong).unwrap(), leader(&world));
        assert_eq!(seen.leader.map(NodeId::value), Some(last));

        world.kill(wrong, true);
        world.start(wrong).unwrap();
        put(&mut world, "while it is away");
        world.run_for(Duration::from_secs(5));
        let status = world.status(wrong).unwrap();
        assert_eq!(status.leader, None, "nobody takes its word: {status}");

        world.set_wall_clock(wrong, 0);
        settle(&mut world, 3);
    }
    for node in 1..=3 {
        world.set_wall_clock(node, HOUR_S);
    }
    world.kill(wrong, true);
    world.start(wrong).unwrap();
    settle(&mut world, 3);
    assert_eq!(world.failure(), None);
}

/// All calendars are ten years off: what is connected goes on, and once they are right everything does.
#[test]
fn c1_wrong_calendars_everywhere_take_back_nothing() {
    let mut world = world(3, 1);
    put(&mut world, "a");
    for node in 1..=3 {
        world.set_wall_clock(node, 10 * YEAR_S);
    }
    world.run_for(Duration::from_secs(20));
    let leads = leader(&world);
    for node in 1..=3 {
        world.kill(node, true);
        world.start(node).unwrap();
    }
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.leader(), None, "n{leads} and all others are alone");
    for node in 1..=3 {
        world.set_wall_clock(node, 0);
    }
    settle(&mut world, 3);
    assert!(get(&mut world, "a"));
    assert_eq!(world.failure(), None);
}

/// Clocks that run 20 % fast or slow, each node by its own, elect one leader and keep it; what clients saw
/// is judged by the true time alone, and holds.
#[test]
fn c2_h14_clocks_that_drift_keep_their_leader() {
    let rates = [800, 900, 1_000, 1_100, 1_200];
    let faults = (1..).zip(rates).map(|(node, permille)| {
        let drifts = Fault::ClockRate { node, permille };
        fault(0, 10_000, drifts)
    });
    let counts = survives(params(5), 10, faults.collect());
    assert_eq!(counts.elections, 1);
}

/// A leader that stood still, for a moment or a minute, answers no read from its past when it goes on.
#[test]
fn c3_a_leader_that_stood_still_serves_nothing_old() {
    for stood in [100, 1_000, 60_000].map(Duration::from_millis) {
        let mut world = world(3, 1);
        let paused = leader(&world);
        put(&mut world, "before");
        world.pause(paused, true);
        let replaced = stood >= Duration::from_secs(1);
        if replaced {
            put(&mut world, "since");
        }
        world.run_for(stood);
        world.pause(paused, false);
        let seen = get_at(&mut world, paused, "since");
        // What it does not have it may say only if nobody else has it.
        assert!(!replaced || !matches!(seen, Ok(false)), "{seen:?}");
        settle(&mut world, 3);
        assert_eq!(replaced, leader(&world) != paused);
        assert_eq!(world.failure(), None);
    }
}

/// A follower, a majority, all of them stand still for a while: afterwards they go on by themselves, and
/// in between nothing was acknowledged that a majority did not have.
#[test]
fn c4_whoever_stands_still_goes_on_by_itself() {
    let mut world = world(3, 1);
    let leads = leader(&world);
    let follow = others(3, leads);
    for (still, works) in [
        (vec![follow[0]], true),
        (follow.clone(), false),
        (vec![1, 2, 3], false),
    ] {
        for node in &still {
            world.pause(*node, true);
        }
        let client = world.client(1, PATIENCE);
        let written = ask(&mut world, LONG, async move { client.put("a", "b").await });
        let written = written.expect("nothing waits without a limit");
        assert_eq!(written.is_ok(), works, "{still:?} stand still: {written:?}");
        for node in &still {
            world.pause(*node, false);
        }
        settle(&mut world, 3);
        put(&mut world, "after");
    }
    assert_eq!(world.failure(), None);
}

/// Pauses of a few milliseconds at every node, between any two steps of a read: no read is stale.
#[test]
fn c5_pauses_in_the_middle_of_reads_make_none_stale() {
    let mut params = params(3);
    params.clients.count = 4;
    params.clients.think_max_ms = 10;
    let pauses = (0..600).map(|turn| {
        let node = turn % 3 + 1;
        fault(turn * 15, 1 + turn * 7 % 400, Fault::Pause { node })
    });
    let counts = survives(params, 10, pauses.collect());
    assert!(counts.reads > 100, "{counts:?}");
}

/// Suspended for an hour, longer than every connection lives, all of them are back with few packets.
#[test]
fn c7_an_hour_of_suspension_ends_without_a_storm() {
    let mut world = world(3, 1);
    put(&mut world, "a");
    (1..=3).for_each(|node| world.pause(node, true));
    world.run_for(Duration::from_secs(60 * 60));
    (1..=3).for_each(|node| world.pause(node, false));
    let (sent, at) = (world.datagrams(), world.now());
    settle(&mut world, 3);
    assert!(get(&mut world, "a"));
    let (sent, took) = (world.datagrams() - sent, world.now() - at);
    assert!(took < Duration::from_secs(20), "after {took:?}");
    assert!(sent < 2_000, "{sent} datagrams");
    assert!(term(&world, 1) < 10, "{}", term(&world, 1));
    assert_eq!(world.failure(), None);
}

/// Election timeouts are drawn from what differs between clusters, not only between the nodes of one: whoever is elected
/// first is not the same one everywhere, and two nodes that draw nearly the same do so in one cluster, not in all.
#[test]
fn each_cluster_draws_its_own_timeouts() {
    let first_leader = |seed| leader(&world(3, seed));
    let leaders: BTreeSet<u64> = (1..=12).map(first_leader).collect();
    assert_eq!(leaders.len(), 3, "{leaders:?}");
}
