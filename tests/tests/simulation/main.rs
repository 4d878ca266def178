//! The whole stack in a simulated world: what a seed decides, that all seeds end well, that what does not is
//! noticed, and scenario after scenario, each with its number.

#![allow(clippy::unwrap_used, reason = "tests")]

mod clients;
mod disks;
mod identity;
mod members;
mod network;
mod partitions;
mod saved;
mod stage;
mod submitted;
mod time;

use quorate_tests::level::Level;
use quorate_tests::plan::Plan;
use quorate_tests::sim;

fn plan(seed: u64) -> Plan {
    Plan::draw(Level::Stack, seed)
}

/// A few seeds: no promise is broken, equal positions have equal states on all nodes, and each cluster
/// recovers.
#[test]
fn g14_seeds_end_well() {
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
