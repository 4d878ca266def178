//! The whole stack in a simulated world: what a seed decides, that all seeds end well, and that what does not is
//! noticed.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use quorate_tests::level::Level;
use quorate_tests::params::{Clients, Network, Params};
use quorate_tests::plan::Plan;
use quorate_tests::rng::Rng;
use quorate_tests::sim::{self, World};

const LONG: Duration = Duration::from_secs(60);

fn plan(seed: u64) -> Plan {
    Plan::draw(Level::Stack, seed)
}

/// Three nodes on a good network, and no clients but those that a test makes.
fn world(seed: u64) -> World {
    let mut params = Params::draw(Level::Stack, &mut Rng::new(1));
    params.voters = 3;
    params.election_timeout_ms = 250;
    params.heartbeat_interval_ms = 50;
    params.write_max_us = 500;
    params.network = Network {
        delay_min_us: 200,
        delay_max_us: 500,
        loss_permille: 0,
        duplicate_permille: 0,
        corrupt_permille: 0,
    };
    params.clients = Clients {
        count: 1,
        ..params.clients
    };
    let mut world = World::new(seed, &params, false);
    for node in 1..=3 {
        world.start(node).unwrap();
    }
    assert!(world.run_until(LONG, |world| world.leader().is_some()));
    world
}

/// Writes `key` and waits until it is acknowledged.
fn put(world: &mut World, key: &'static str) {
    let client = world.client(1, Duration::from_secs(5));
    let put = async move {
        client.put(key, "value").await.unwrap();
    };
    let deadline = world.now() + LONG;
    assert!(world.run_to_end(put, deadline), "{key} is written");
}

/// A few seeds: no promise is broken, and each cluster recovers.
#[test]
fn seeds_end_well() {
    for seed in 1..=4 {
        let outcome = sim::run(&plan(seed), false);
        assert_eq!(outcome.failure, None, "seed {seed}");
        let counts = outcome.counts;
        assert!(counts.acknowledged > 0, "seed {seed}: {counts:?}");
    }
}

/// The same seed gives the same bytes on the wire at the same times, and another seed others.
#[test]
fn a_seed_decides_everything() {
    let mut plan = plan(3);
    plan.params.chaos_ms = plan.params.chaos_ms.min(5_000);
    let first = sim::run(&plan, false);
    assert_eq!(sim::run(&plan, false), first);
    plan.seed += 1;
    assert_ne!(sim::run(&plan, false).hash, first.hash);
}

/// A disk that says that writes are there which are not is noticed: the harness does look at disks.
#[test]
fn control_a_lying_disk_is_noticed() {
    let mut world = world(1);
    put(&mut world, "a");
    world.check_disks();
    assert_eq!(world.failure(), None);
    let liar = world.leader().unwrap();
    world.lose_writes(liar, 1_000);
    put(&mut world, "b");
    world.check_disks();
    let failure = world.failure().unwrap();
    assert_eq!(failure.invariant, "durable writes survive", "{failure}");
}

/// All machines lose power at once, again and again, each with whatever its disk kept: what was
/// acknowledged is there.
#[test]
fn a14_acknowledged_writes_survive_power_failures_everywhere() {
    let mut world = world(1);
    for round in 1..=10 {
        let value = format!("value {round}");
        let client = world.client(1, Duration::from_secs(5));
        let put = {
            let (client, value) = (client.clone(), value.clone());
            async move {
                client.put("a", value).await.unwrap();
            }
        };
        let deadline = world.now() + LONG;
        assert!(world.run_to_end(put, deadline), "round {round}");
        for node in 1..=3 {
            world.kill(node, false);
        }
        for node in 1..=3 {
            world.start(node).unwrap();
        }
        let get = async move {
            let found = client.get("a").await.unwrap().unwrap();
            assert_eq!(found.data, value);
        };
        let deadline = world.now() + LONG;
        assert!(world.run_to_end(get, deadline), "round {round}");
        assert_eq!(world.failure(), None, "round {round}");
    }
    world.end();
}

/// A bit that turned while a node was down does no harm, or the node refuses its disk; the others go on.
#[test]
fn b5_a_turned_bit_is_refused_or_harmless() {
    let mut refused = 0;
    for seed in 1..=20 {
        let mut world = world(seed);
        put(&mut world, "a");
        let victim = world.leader().unwrap();
        world.kill(victim, true);
        assert!(world.flip_bit(victim));
        world.restart(victim);
        refused += world.lost().len();
        put(&mut world, "b");
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.failure(), None, "seed {seed}");
        world.end();
    }
    assert!(refused > 0, "some bits matter");
}

/// A node that comes back with an empty disk is kept out by peers that have known it before.
#[test]
fn e1_a_wiped_node_is_kept_out() {
    let mut world = world(1);
    put(&mut world, "a");
    let wiped = world.leader().unwrap();
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
    let mut world = world(1);
    put(&mut world, "a");
    let restored = world.leader().unwrap();
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
    let led = world.status(world.leader().unwrap()).unwrap();
    assert!(status.commit < led.commit, "{status} against {led}");
}
