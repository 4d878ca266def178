//! States that are saved in a file, under loss of power: what the log does not have any more, the file has.

use std::time::Duration;

use quorate_tests::params::{Compaction, Params};
use quorate_tests::sim::World;

use crate::stage::{LONG, leader, others, params, settle};

/// How many numbers are written down until the power is lost.
const NOTES: u64 = 12;
/// Different losses of power tried at each operation.
const SEEDS: u64 = 4;
/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Two numbers are saved at a time, and the log keeps nothing that is saved.
fn small(voters: u64) -> Params {
    let mut params = params(voters);
    params.clients.count = 1;
    params.bounds.checkpoint = 500;
    params.bounds.compaction = Compaction {
        tail: 1,
        log_max: 2_000,
        snapshot_rate: 64 << 20,
    };
    params
}

/// Writes `numbers` down at `node` as long as it answers; returns those that were acknowledged.
fn note(world: &mut World, node: u64, numbers: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    for number in numbers {
        let deadline = world.now() + PATIENCE;
        if !world.note(node, number, deadline) {
            break;
        }
        acknowledged.push(number);
    }
    acknowledged
}

/// What `node` has noted, once it says so.
fn notes(world: &mut World, node: u64) -> Vec<u64> {
    let deadline = world.now() + LONG;
    while world.now() < deadline && world.failure().is_none() {
        let until = world.now() + PATIENCE;
        if let Some(notes) = world.notes(node, until) {
            return notes;
        }
        // A refusal that takes no time must not be asked for again and again at the same moment.
        world.run_for(Duration::from_millis(20));
    }
    panic!("n{node} says nothing: {:?}", world.failure());
}

/// Waits until `node` leads, or has ended.
fn leads_or_ends(world: &mut World, node: u64) {
    let deadline = world.now() + LONG;
    let done = world.run_until(deadline, |world| {
        !world.runs(node) || world.leader() == Some(node)
    });
    assert!(done, "{:?}", world.failure());
}

/// Whatever a loss of power at any operation of a node's disk leaves, from its first start on: the node starts,
/// and has every number that was acknowledged, in order, and at most the one besides that was on its way. In many
/// of these cases the log had some of them no more.
#[test]
fn a2_a_saved_state_survives_a_loss_of_power_at_any_operation() {
    let (mut losses, mut compacted) = (0, 0);
    for after in 0.. {
        let mut whole = false;
        for seed in 0..SEEDS {
            let mut world = World::new(after * SEEDS + seed, &small(1), false).noting();
            let mut acknowledged = Vec::new();
            if world.start_failing(1, after).is_ok() {
                leads_or_ends(&mut world, 1);
                acknowledged = note(&mut world, 1, 1..=NOTES);
            }
            whole |= acknowledged.len() as u64 == NOTES;
            world.lose_power(1);
            losses += 1;
            // The first two entries are the founding one and the leader's own.
            compacted += u64::from(world.log_base(1) > Some(2));
            has_it_all(&mut world, &acknowledged, after);
            world.end();
        }
        if whole {
            assert!(after > 100, "{after} operations are no script");
            break;
        }
    }
    assert!(
        compacted > losses / 4,
        "{compacted} of {losses} logs lacked anything"
    );
}

/// Starts the one node after a loss of power and asks for what it knows.
fn has_it_all(world: &mut World, acknowledged: &[u64], after: u64) {
    let started = world.start(1);
    started.unwrap_or_else(|error| panic!("no start after operation {after}: {error}"));
    settle(world, 1);
    let found = notes(world, 1);
    let told = || format!("{found:?} for {acknowledged:?} after operation {after}");
    assert!(found.starts_with(acknowledged), "{}", told());
    assert!(
        found.iter().copied().eq(1..=found.len() as u64),
        "{}",
        told()
    );
    assert!(found.len() <= acknowledged.len() + 1, "{}", told());
    // And it goes on from there.
    assert_eq!(
        note(world, 1, [NOTES + 1].into_iter()),
        [NOTES + 1],
        "{}",
        told()
    );
    assert_eq!(world.failure(), None, "{}", told());
}

/// A member that needs a snapshot, because the others' logs lack what it does, loses power at any operation of
/// its disk while it gets one: it starts, and has everything in the end.
#[test]
fn g3_a_received_state_survives_a_loss_of_power_at_any_operation() {
    let mut world = World::new(1, &small(3), false).noting();
    for node in 1..=3 {
        world.start(node).unwrap();
    }
    settle(&mut world, 3);
    let mut next = 1;
    for after in 0.. {
        let leads = leader(&world);
        let behind = others(3, leads)[0];
        let last = world.status(behind).unwrap().last.index.value();
        world.lose_power(behind);
        let numbers = next..next + 2 * NOTES;
        next = numbers.end;
        assert_eq!(
            note(&mut world, leads, numbers.clone()),
            numbers.collect::<Vec<_>>()
        );
        assert!(
            world.log_base(leads) > Some(last),
            "what it lacks is in no log"
        );

        let mut whole = false;
        if world.start_failing(behind, after).is_ok() {
            let deadline = world.now() + LONG;
            let done = world.run_until(deadline, |world| {
                let applied = |node| world.status(node).map(|status| status.applied);
                whole = applied(behind).is_some() && applied(behind) >= applied(leads);
                whole || !world.runs(behind)
            });
            assert!(done, "operation {after}: {:?}", world.failure());
        }
        world.lose_power(behind);
        world
            .start(behind)
            .unwrap_or_else(|error| panic!("operation {after}: {error}"));
        settle(&mut world, 3);
        let expected: Vec<u64> = (1..next).collect();
        assert_eq!(notes(&mut world, behind), expected, "operation {after}");
        assert_eq!(world.failure(), None, "operation {after}");
        if whole {
            assert!(after > 50, "{after} operations are no snapshot");
            world.end();
            return;
        }
    }
}
