//! Lets each bug loose and waits until it is noticed.

use std::collections::BTreeMap;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::bugs::{BUGS, Bug, Finder};
use super::table::{Caught, Control, Table};
use super::{PLANTED, VARIABLE};
use crate::case::Case;
use crate::level::Level;
use crate::report::commit;
use crate::sweep::{self, Sweep};
use crate::worker::Worker;

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum HuntError {
    /// There is nothing to find.
    #[error("this build contains no bugs: scripts/planted.sh makes one that does")]
    NotPlanted,
    /// No such bug.
    #[error("no bug is called {0}")]
    Unknown(String),
    /// No process could be started.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A test that is to find a bug does not pass without it.
    #[error("without a bug, {0} does not pass")]
    TestFails(&'static str),
}

/// Lets the bugs called `names` loose, `jobs` at a time. If none is named, all of them, after it was shown
/// that nothing is found where there is none.
///
/// # Errors
///
/// [`HuntError`]; a bug that is not caught is none, but is in the table.
pub fn hunt(names: &[String], jobs: usize) -> Result<Table, HuntError> {
    if !PLANTED {
        return Err(HuntError::NotPlanted);
    }
    let known = |name: &String| BUGS.iter().any(|bug| bug.name == *name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        return Err(HuntError::Unknown(unknown.clone()));
    }
    let wanted = |bug: &&Bug| names.is_empty() || names.iter().any(|name| name == bug.name);
    let bugs: Vec<Bug> = BUGS.iter().filter(wanted).copied().collect();
    Ok(Table {
        commit: commit(),
        controls: match names {
            [] => controls(&bugs, jobs)?,
            _ => Vec::new(),
        },
        bugs: caught(&bugs, jobs)?,
    })
}

/// Every seed and every test without a bug.
fn controls(bugs: &[Bug], jobs: usize) -> Result<Vec<Control>, HuntError> {
    let mut most: BTreeMap<Level, u64> = BTreeMap::new();
    for bug in bugs {
        match bug.finder {
            Finder::Seeds { level, allowed } => {
                let most = most.entry(level).or_default();
                *most = allowed.max(*most);
            }
            Finder::Test { test, .. } => {
                if run_test(bug.finder, "")? != Verdict::Passed {
                    return Err(HuntError::TestFails(test));
                }
            }
        }
    }
    let control = |(level, seeds)| {
        let totals = sweep::run(&Sweep {
            level,
            seeds: 0..seeds,
            jobs,
            within: None,
            twice: false,
        })?;
        println!("{totals}");
        Ok(Control {
            level,
            seeds: totals.runs,
            failures: totals.failures.len() as u64,
        })
    };
    most.into_iter().map(control).collect()
}

/// What noticed each of `bugs`, in their order.
fn caught(bugs: &[Bug], jobs: usize) -> Result<Vec<Caught>, HuntError> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(bug) = bugs.get(at) else { break };
                    let caught = chase(bug);
                    if let Ok(caught) = &caught {
                        println!("{caught}");
                    }
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.insert(at, caught);
                }
            });
        }
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(found.into_values().collect::<io::Result<_>>()?)
}

fn chase(bug: &Bug) -> io::Result<Caught> {
    let (seeds, by) = match bug.finder {
        Finder::Seeds { level, allowed } => first_failure(bug, level, allowed)?,
        Finder::Test { test, .. } => {
            let failed = run_test(bug.finder, bug.name)? == Verdict::Failed;
            (None, failed.then(|| test.to_owned()))
        }
    };
    Ok(Caught::new(bug, seeds, by))
}

/// In how many seeds, and by which promise, `bug` is noticed.
fn first_failure(
    bug: &Bug,
    level: Level,
    allowed: u64,
) -> io::Result<(Option<u64>, Option<String>)> {
    let mut worker = Worker::with_bug(bug.name);
    for seed in 0..allowed {
        if let Some(failure) = worker.run(&Case::of(level, seed))?.failure {
            return Ok((Some(seed + 1), Some(failure.invariant)));
        }
    }
    Ok((None, None))
}

/// How a test ended.
#[derive(PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    /// It was not built, or is not there.
    DidNotRun,
}

/// Runs the test of `finder` in a process that has `bug`.
fn run_test(finder: Finder, bug: &str) -> io::Result<Verdict> {
    let Finder::Test {
        package,
        target,
        test,
    } = finder
    else {
        return Ok(Verdict::DidNotRun);
    };
    let output = Command::new("cargo")
        .args(["test", "--quiet", "--locked", "--profile", "planted", "-p"])
        .args([package, target, test, "--", "--exact"])
        .env(VARIABLE, bug)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let ended = |how: &str| said.contains(&format!("test result: {how}. "));
    Ok(match (ended("ok"), said.contains(" 1 passed;")) {
        (true, true) => Verdict::Passed,
        (false, _) if ended("FAILED") => Verdict::Failed,
        _ => Verdict::DidNotRun,
    })
}
