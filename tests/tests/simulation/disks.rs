//! Disks that fail, lie, or are slow.

use std::time::Duration;

use quorate::Status;
use quorate_tests::sim::World;

use crate::stage::{LONG, get, leader, others, put, term, world};

/// A disk that says that writes are there which are not is noticed: the harness does look at disks.
#[test]
fn control_a_lying_disk_is_noticed() {
    let mut world = world(3, 1);
    put(&mut world, "a");
    world.check_disks();
    assert_eq!(world.failure(), None);
    let liar = leader(&world);
    for key in ["b", "c", "d", "e", "f", "g", "h", "i"] {
        // Not every write matters: some only say what is kept elsewhere as well.
        world.lose_writes(liar, 1_000);
        put(&mut world, key);
        world.check_disks();
        if world.failure().is_some() {
            break;
        }
    }
    let failure = world.failure().unwrap();
    assert_eq!(failure.invariant, "durable writes survive", "{failure}");
}

/// All machines lose power at once, again and again, each with whatever its disk kept: what was
/// acknowledged is there.
#[test]
fn a14_acknowledged_writes_survive_power_failures_everywhere() {
    let mut world = world(3, 1);
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
        let mut world = world(3, seed);
        put(&mut world, "a");
        let victim = leader(&world);
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

/// Sectors that lie where others belong do no harm, or the node refuses its disk; the others go on.
#[test]
fn b9_misplaced_sectors_are_refused_or_harmless() {
    const SECTORS: usize = 8;
    let mut refused = 0;
    for seed in 1..=20 {
        let mut world = world(3, seed);
        put(&mut world, "a");
        // Until the log has settled, only one sector of its last record is made good.
        world.run_for(Duration::from_secs(1));
        let victim = leader(&world);
        world.kill(victim, true);
        for _ in 0..SECTORS {
            assert!(world.misplace_sector(victim));
        }
        world.restart(victim);
        refused += world.lost().len();
        put(&mut world, "b");
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.failure(), None, "seed {seed}");
        world.end();
    }
    assert!(refused > 0, "some sectors matter");
}

/// A disk that only says that it syncs loses what a node promised when the power fails, or its node refuses
/// it; the other two disks have kept it, and no acknowledged write is lost.
#[test]
fn b13_one_disk_that_lies_loses_no_acknowledged_write() {
    let mut world = world(3, 1);
    let liar = others(3, leader(&world))[0];
    world.lie(liar);
    for key in ["a", "b", "c"] {
        put(&mut world, key);
    }
    let honest = others(3, liar);
    let last = world.status(leader(&world)).unwrap().commit;
    let deadline = world.now() + LONG;
    assert!(world.run_until(deadline, |world| {
        let applied = |node: &u64| world.status(*node).is_some_and(|s| s.applied >= last);
        honest.iter().all(applied)
    }));
    world.kill(liar, false);
    world.forget(liar);
    world.restart(liar);
    world.kill(leader(&world), false);
    world.run_for(Duration::from_secs(2));
    (1..=3).for_each(|node| world.restart(node));
    for key in ["a", "b", "c"] {
        assert!(get(&mut world, key), "{key}");
    }
    assert_eq!(world.failure(), None);
}

/// Control: when the disks of a majority lie, acknowledged writes are lost, and the harness says so.
#[test]
fn b14_disks_that_lie_on_a_majority_are_noticed() {
    let mut world = world(3, 1);
    (1..=3).for_each(|node| world.lie(node));
    put(&mut world, "a");
    for node in 1..=3 {
        world.kill(node, false);
    }
    (1..=3).for_each(|node| world.restart(node));
    world.run_for(Duration::from_secs(1));
    let failure = world.failure().unwrap();
    // Whichever is seen first: entries that are gone, or a file that is in pieces.
    let noticed = ["durable writes survive", "a healthy node starts"];
    assert!(noticed.contains(&failure.invariant.as_str()), "{failure}");
}

/// How long ten writes take.
fn ten_writes(world: &mut World) -> Duration {
    let began = world.now();
    for key in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"] {
        put(world, key);
    }
    world.now() - began
}

/// A disk that needs up to half a second for a write costs writes nothing at a follower. At the leader it
/// delays its own acknowledgements only: heartbeats leave, and it keeps its place.
#[test]
fn b15_a_slow_disk_deposes_nobody() {
    let mut world = world(3, 1);
    let leads = leader(&world);
    let before = term(&world, leads);
    let usual = ten_writes(&mut world);
    let slow = Duration::from_millis(500);
    for node in [others(3, leads)[0], leads] {
        world.slow_disk(node, slow);
        let took = ten_writes(&mut world);
        assert!(
            node == leads || took < 2 * usual,
            "{took:?}, and {usual:?} without"
        );
        world.run_for(Duration::from_secs(10));
        assert_eq!((leader(&world), term(&world, leads)), (leads, before));
        world.slow_disk(node, Duration::from_micros(500));
    }
    assert_eq!(world.failure(), None);
}

/// A leader whose disk needs many seconds gives its place to another, and writes go on there; it comes back
/// as a follower.
#[test]
fn b16_a_leader_whose_disk_hangs_gives_its_place_away() {
    let mut world = world(3, 1);
    let led = leader(&world);
    put(&mut world, "before");
    world.stall_disk(led, true);
    put(&mut world, "during");
    assert_ne!(leader(&world), led);
    let usual = ten_writes(&mut world);
    assert!(usual < Duration::from_secs(2), "{usual:?}");
    world.stall_disk(led, false);
    world.run_for(Duration::from_secs(5));
    let statuses = world.statuses();
    let equal = |status: &Status| status.applied == statuses[0].applied;
    assert!(
        statuses.len() == 3 && statuses.iter().all(equal),
        "{statuses:?}"
    );
    assert_eq!(world.failure(), None);
}
