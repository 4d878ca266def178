//! Good histories of every size and kind pass every check.

use std::time::{Duration, Instant};

use quorate_tests::check::calls::calls;
use quorate_tests::check::witness::{self, Discord};
use quorate_tests::check::{self, wgl};

use crate::register::{self, Shape};

/// What a check of the largest history may take: a hundred times what it takes on an idle machine, in a
/// build without optimisation.
const PATIENCE: Duration = Duration::from_secs(120);

/// Histories of one register or several, with and without unknown outcomes and removals.
#[test]
fn good_histories_pass() {
    let (mut unknown, mut absent) = (0, 0);
    for seed in 0..300 {
        let shape = Shape {
            operations: 300,
            clients: 1 + seed as usize % 12,
            keys: 1 + seed % 3,
            unknown: [0, 2, 10][seed as usize % 3],
            removals: [0, 5, 30][seed as usize / 3 % 3],
        };
        let made = register::history(seed, shape);
        let report = check::check(&made.history).unwrap();
        assert!(report.is_good(), "seed {seed}: {report}");
        assert_eq!(report.operations, 300);
        unknown += report.unknown;
        let calls = calls(&made.history).unwrap();
        if let Err(discord) = witness::check(&calls, &made.log) {
            panic!("seed {seed}: {discord}");
        }
        absent += calls.iter().filter(|call| call.answer().is_none()).count() as u64;
    }
    // The generator makes what it says.
    assert!(unknown > 3_000 && absent == unknown, "{unknown} {absent}");
}

/// A thousand, ten thousand and a hundred thousand operations on one key are decided; the time is printed.
#[test]
fn a_hundred_thousand_operations_on_one_key() {
    for operations in [1_000, 10_000, 100_000] {
        for (clients, unknown, removals) in [(10, 2, 0), (20, 5, 2)] {
            let shape = Shape {
                operations,
                clients,
                keys: 1,
                unknown,
                removals,
            };
            let calls = calls(&register::history(operations, shape).history).unwrap();
            let begun = Instant::now();
            let verdict = wgl::check_key(&calls, 0, wgl::STEPS_MAX);
            let taken = begun.elapsed();
            println!(
                "{operations} operations, {clients} clients, {unknown} % unknown: {taken:.1?}"
            );
            assert_eq!(verdict, wgl::Verdict::Linearizable);
            assert!(taken < PATIENCE, "{operations} took {taken:?}");
        }
    }
}

/// A search that is not allowed to look far says that it does not know, which is no success.
#[test]
fn giving_up_is_not_passing() {
    let shape = Shape {
        operations: 300,
        clients: 5,
        keys: 1,
        unknown: 0,
        removals: 0,
    };
    let calls = calls(&register::history(1, shape).history).unwrap();
    assert_eq!(
        wgl::check_key(&calls, 0, 10),
        wgl::Verdict::Undecided { steps: 10 }
    );
    let report = check::Report {
        undecided: vec![7],
        ..check::Report::default()
    };
    assert!(!report.is_good() && report.to_string().contains("undecided for the keys [7]"));
}

/// An answer that does not say where it took effect cannot be checked by its place.
#[test]
fn a_witness_needs_an_index() {
    let shape = Shape {
        operations: 20,
        clients: 2,
        keys: 1,
        unknown: 0,
        removals: 0,
    };
    let mut made = register::history(2, shape);
    for event in &mut made.history.events {
        if let check::history::Kind::Ok { index, .. } = &mut event.kind {
            *index = None;
        }
    }
    let calls = calls(&made.history).unwrap();
    assert!(matches!(
        witness::check(&calls, &made.log),
        Err(Discord::NoIndex(_))
    ));
}
