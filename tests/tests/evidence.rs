//! `docs/testing.md` is what the ledgers say, and they say what can be: see `tests/src/evidence`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;

use quorate_tests::corpus;
use quorate_tests::evidence::{Bugs, Evidence, page_path};
use quorate_tests::level::{Failure, Level};
use quorate_tests::report::{Failed, Totals};

/// The page is made of the ledgers and never typed.
#[test]
fn the_page_is_made_of_the_ledgers() {
    let page = Evidence::load().unwrap().page();
    let found = fs::read_to_string(page_path()).unwrap_or_default();
    assert!(
        found == page,
        "docs/testing.md is not what tests/evidence says; run\n\n    \
         cargo run -p quorate-tests --release -- evidence\n"
    );
}

/// What is counted was run from a commit that anybody can check out, and each plan that the register calls
/// pinned is in the corpus; each plan of the corpus is in the register.
#[test]
fn the_ledgers_can_be_run_again() {
    let evidence = Evidence::load().unwrap();
    let sweeps = evidence.sweeps.iter().map(|sweep| &sweep.commit);
    let commits = sweeps.chain(evidence.processes.iter().map(|run| &run.commit));
    for commit in commits {
        assert!(is_commit(commit), "`{commit}` is not a commit");
    }
    let all = evidence.bugs.bug.iter().chain(&evidence.bugs.false_alarm);
    let registered: BTreeSet<String> = all.flat_map(|bug| bug.pinned.clone()).collect();
    let names = corpus::load().unwrap().into_iter();
    let pinned = names.map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned());
    assert_eq!(registered, pinned.collect());
}

/// As git shortens it for the ledgers, or longer; nothing is said of changes.
fn is_commit(name: &str) -> bool {
    name.len() >= 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Control: what a run without a repository, or with changes, says of its commit is none.
#[test]
fn control_commits() {
    assert!(is_commit("f732e0b91017"));
    for other in ["", "f732e0b", "unknown", "f732e0b91017 with changes"] {
        assert!(!is_commit(other), "{other}");
    }
}

/// No run is counted twice: sweeps of one commit and level have no seed in common.
#[test]
fn no_run_is_counted_twice() {
    let sweeps = Evidence::load().unwrap().sweeps;
    for (place, one) in sweeps.iter().enumerate() {
        for other in &sweeps[..place] {
            let same = (&one.commit, one.level) == (&other.commit, other.level);
            let apart = one.seeds.1 <= other.seeds.0 || other.seeds.1 <= one.seeds.0;
            assert!(!same || apart, "{one}\n\n{other}");
        }
    }
}

/// Control: a failure that nobody has explained is on the page, with its seed; an explained one is not.
#[test]
fn a_failure_is_open_until_it_is_explained() {
    let mut sweep = Totals::new(Level::Stack, false);
    sweep.failures.push(Failed {
        commit: "abc".into(),
        level: Level::Stack,
        seed: 4711,
        failure: Failure {
            invariant: "one leader per term".into(),
            detail: "two".into(),
        },
    });
    let bugs = |level| {
        let entry =
            format!("[[bug]]\nwhat = 'w'\nfound_by = 'level {level}'\nseed = 4711\nfixed_by = 'f'");
        toml::from_str::<Bugs>(&entry).unwrap()
    };
    let mut evidence = Evidence {
        sweeps: vec![sweep],
        bugs: bugs(1),
        ..Evidence::default()
    };
    assert!(evidence.page().contains("level 2, seed 4711"));
    assert_eq!(evidence.open().len(), 1);
    evidence.bugs = bugs(2);
    assert!(evidence.open().is_empty());
    assert!(evidence.page().contains("No failure is open"));
}
