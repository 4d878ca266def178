//! Every pinned plan runs without a broken promise, and twice with the same hash.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by failing")]

use quorate_tests::case::Case;
use quorate_tests::corpus;
use quorate_tests::level::{Counts, Level};

/// What once failed does not fail again, and what is decided by a plan is decided by it alone.
#[test]
fn every_pinned_plan_passes_and_repeats() {
    let corpus = corpus::load().unwrap();
    assert!(!corpus.is_empty(), "the corpus was not found");
    for (path, pinned) in corpus {
        let Case { level, plan } = &pinned.case;
        let name = path.display();
        let first = level.run(plan, false);
        assert_eq!(first.failure, None, "{name}: {}", pinned.found);
        assert_eq!(first, level.run(plan, false), "{name} differs from itself");
    }
}

/// Seeds of level 1 that nobody has looked at: every promise holds, and enough happens that it could
/// have been broken.
#[test]
fn seeds_of_level_1_break_no_promise() {
    let mut counts = Counts::default();
    for seed in 0..30 {
        let mut case = Case::of(Level::Consensus, seed);
        // Shorter than in a sweep, where the optimiser helps.
        case.plan.params.chaos_ms = 6_000;
        case.plan.faults.retain(|fault| fault.at_ms < 6_000);
        let outcome = case.level.run(&case.plan, false);
        assert_eq!(outcome.failure, None, "seed {seed}");
        counts.add(&outcome.counts);
    }
    for (name, count) in counts.named() {
        // Who is who, and what commands mean, is decided above the consensus crate.
        let expected = !["identity_faults", "changes", "leases"].contains(&name);
        assert_eq!(count > 0, expected, "{name} happened {count} times");
    }
}

/// Control: the hash tells two runs apart that differ in their seed only.
#[test]
fn another_seed_is_another_run() {
    let case = Case::of(Level::Consensus, 4);
    let mut other = case.clone();
    other.plan.seed += 1;
    let hash = |case: &Case| case.level.run(&case.plan, false).hash;
    assert_eq!(hash(&case), hash(&case));
    assert_ne!(hash(&case), hash(&other));
}
