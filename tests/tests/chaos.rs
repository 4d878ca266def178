//! Real processes under kill, pause and partition, on every runtime: what clients see stays linearizable
//! and is what the logs on the disks say. The long run is `quorate-tests chaos`.
#![allow(
    clippy::unwrap_used,
    reason = "tests may; these are not in functions marked so"
)]

use quorate_tests::chaos::{ChaosError, ChaosOptions, ChaosReport, Runtime, run};
use quorate_tests::check::check_file;

/// How long the clients of each test work.
const SECONDS: u64 = 5;

fn options(runtime: Runtime) -> ChaosOptions {
    ChaosOptions {
        runtime,
        operations: 1_000_000,
        seconds: SECONDS,
        seed: 1,
        kills_only: false,
        log_tail: None,
        stale_reads: false,
    }
}

/// A run without a failure, in which enough happened for that to mean something.
fn survives(runtime: Runtime) {
    let report = run(&options(runtime)).unwrap_or_else(|error| panic!("{error}"));
    println!("{report}");
    let ChaosReport {
        checked,
        faults,
        traffic,
        witnessed,
        ..
    } = report;
    assert!(checked.is_good() && checked.answered > 100);
    assert_eq!(witnessed, checked.operations);
    assert!(faults.values().sum::<u64>() >= 2, "{faults:?}");
    assert!(traffic.lost > 0 && traffic.duplicated > 0 && traffic.late > 0);
}

/// On async-std.
#[test]
fn c3_c4_d2_processes_survive_on_async_std() {
    survives(Runtime::AsyncStd);
}

/// On smol.
#[test]
fn c3_c4_d2_processes_survive_on_smol() {
    survives(Runtime::Smol);
}

/// On tokio.
#[test]
fn c3_c4_d2_processes_survive_on_tokio() {
    survives(Runtime::Tokio);
}

/// With logs so short that whoever was away needs a snapshot; the states of all are the same in the end.
#[test]
fn processes_survive_with_short_logs() {
    let options = ChaosOptions {
        log_tail: Some("4KiB".into()),
        ..options(Runtime::AsyncStd)
    };
    let report = run(&options).unwrap_or_else(|error| panic!("{error}"));
    println!("{report}");
    assert!(report.checked.is_good() && report.checked.answered > 100);
    assert_eq!(report.witnessed, 0, "no log is whole");
}

/// Clients that sometimes get an old answer are noticed; and the history that was kept says so again.
#[test]
fn stale_reads_are_found() {
    let options = ChaosOptions {
        stale_reads: true,
        ..options(Runtime::Smol)
    };
    match run(&options) {
        Err(ChaosError::Answers { report, history }) => {
            assert!(!report.violations.is_empty(), "{report}");
            assert_eq!(check_file(&history).unwrap(), report);
            std::fs::remove_file(history).unwrap();
        }
        other => panic!("{other:?}"),
    }
}
