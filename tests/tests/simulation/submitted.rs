//! Commands that are given to any member, and applied once, in a bad world.

use std::time::Duration;

use quorate_tests::params::Params;
use quorate_tests::rng::Rng;
use quorate_tests::sim::World;

use crate::stage::{params, settle};

const VOTERS: u64 = 3;
/// How many worlds there are.
const SEEDS: u64 = 16;
/// How many faults each has.
const FAULTS: u64 = 25;
/// How long a command may take: longer than any fault, or about as long as one.
const WITHIN: [Duration; 2] = [Duration::from_secs(20), Duration::from_millis(600)];
/// How long a question may take that is asked of a healthy cluster.
const PATIENCE: Duration = Duration::from_secs(5);

/// Messages are late, lost and doubled.
fn bad() -> Params {
    let mut params = params(VOTERS);
    params.network.delay_max_us = 20_000;
    params.network.loss_permille = 30;
    params.network.duplicate_permille = 30;
    params.bounds.checkpoint = 4_000;
    params
}

/// One more thing that goes wrong, for some time.
fn fault(world: &mut World, rng: &mut Rng) {
    let time = Duration::from_millis(rng.within(50..1_200));
    let node = match world.leader() {
        Some(leader) if rng.chance(70) => leader,
        _ => rng.within(1..VOTERS + 1),
    };
    match rng.within(0..5) {
        0 => world.transfer(None),
        1 => world.partition(&[node], true),
        2 => world.lose_power(node),
        3 => world.pause(node, true),
        _ => world.stall_disk(node, true),
    }
    world.run_for(time);
    world.heal_network();
    world.pause(node, false);
    world.stall_disk(node, false);
    world.restart(node);
    world.run_for(time);
}

/// What was answered is in the state once, what was refused is not, and what nobody heard of is there once at most: on
/// every member, whatever happens to leaders, links and disks.
#[test]
fn h1_h3_what_any_member_is_given_is_applied_once() {
    let (mut answered, mut refused, mut unheard) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut rng = Rng::stream(seed, "submitted");
        let mut world = World::new(seed, &bad(), false).noting_once();
        for node in 1..=VOTERS {
            world.start(node).unwrap();
        }
        let mut submitted = Vec::new();
        for _ in 0..FAULTS {
            for node in (1..=VOTERS)
                .filter(|node| world.runs(*node))
                .collect::<Vec<_>>()
            {
                for _ in 0..rng.within(0..4) {
                    let number = submitted.len() as u64;
                    submitted.push(world.submit(node, number, *rng.pick(&WITHIN)));
                }
            }
            fault(&mut world, &mut rng);
        }
        world.run_for(WITHIN[0]);
        settle(&mut world, VOTERS);
        let deadline = world.now() + PATIENCE;
        let notes = world.notes(1, deadline).expect("a healthy cluster answers");
        for node in 2..=VOTERS {
            let deadline = world.now() + PATIENCE;
            assert_eq!(
                world.notes(node, deadline).as_ref(),
                Some(&notes),
                "seed {seed}"
            );
        }
        for (number, outcome) in (0..).zip(&submitted) {
            let times = notes.iter().filter(|note| **note == number).count();
            let outcome = outcome.lock().unwrap().take();
            let expected = match &outcome {
                Some(Ok(())) => 1..=1,
                Some(Err(error)) if error.nothing_happened() => {
                    refused += 1;
                    0..=0
                }
                _ => 0..=1,
            };
            assert!(
                expected.contains(&times),
                "seed {seed}: {number} is there {times} times, after {outcome:?}"
            );
            answered += u64::from(matches!(outcome, Some(Ok(()))));
            unheard += u64::from(outcome.is_none());
        }
        assert_eq!(world.failure(), None, "seed {seed}");
        world.end();
    }
    assert!(answered > SEEDS * FAULTS, "{answered} were answered");
    assert!(refused > 0, "nobody ran out of time");
    assert!(unheard > 0, "no node lost what it was given");
}
