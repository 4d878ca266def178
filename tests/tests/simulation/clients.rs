//! Clients that ask too much, and nodes that are restarted under them.

use std::time::Duration;

use quorate_tests::plan::Fault;
use quorate_tests::sim::{World, client_host};

use crate::stage::{PATIENCE, fault, leader, params, put, survives, term, world};

/// How many writes a flooding client has open at the same time: more than a node admits.
const FLOOD: usize = 2_000;
/// How many writes of another client are watched.
const WRITES: usize = 20;

/// How long a write takes at most, of some.
fn slowest_write(world: &mut World) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..WRITES {
        let began = world.now();
        put(world, "a");
        slowest = slowest.max(world.now() - began);
    }
    slowest
}

/// One client floods the leader with more writes than it admits: the leader stays, and another client waits
/// less than ten times as long as usual.
#[test]
fn h12_a_flood_of_one_client_leaves_room_for_another() {
    let mut world = world(3, 1);
    let leads = leader(&world);
    let before = term(&world, leads);
    let usual = slowest_write(&mut world);
    let floods = world.client(2, PATIENCE);
    for _ in 0..FLOOD {
        let client = floods.clone();
        world.spawn_on(client_host(2), async move {
            loop {
                let _ = client.put("flood", vec![7; 1_000]).await;
            }
        });
    }
    world.run_for(Duration::from_secs(1));
    let flooded = slowest_write(&mut world);
    assert!(
        flooded < 10 * usual,
        "{flooded:?}, and {usual:?} without a flood"
    );
    let written = world.status(leads).unwrap().commit.value();
    assert!(written > FLOOD as u64, "the flood arrives: {written}");
    assert_eq!((leader(&world), term(&world, leads)), (leads, before));
    assert_eq!(world.failure(), None);
}

/// Every node is restarted in turn, in good order: each that leads hands over first, so that no election has
/// to wait for a timeout, and clients lose nothing.
#[test]
fn k1_a_rolling_restart_loses_nothing() {
    let stops = (1..=3).map(|node| fault(node * 3_000, 500, Fault::Stop { node }));
    let counts = survives(params(3), 12, stops.collect());
    assert_eq!(counts.stops, 3);
    assert!(counts.elections <= 4, "{counts:?}");
}
