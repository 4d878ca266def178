//! Lets each bug loose and waits until it is noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde::Deserialize;

use super::bugs::BUGS;
use super::finder::{Bug, Finder, UNITS};
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
    let tests = Tests::build(&bugs)?;
    Ok(Table {
        commit: commit(),
        controls: match names {
            [] => controls(&bugs, &tests, jobs)?,
            _ => Vec::new(),
        },
        bugs: caught(&bugs, &tests, jobs)?,
    })
}

/// Every seed and every test without a bug.
fn controls(bugs: &[Bug], tests: &Tests, jobs: usize) -> Result<Vec<Control>, HuntError> {
    let mut most: BTreeMap<Level, u64> = BTreeMap::new();
    for bug in bugs {
        match bug.finder {
            Finder::Seeds { level, allowed } => {
                let most = most.entry(level).or_default();
                *most = allowed.max(*most);
            }
            Finder::Test { test, .. } => {
                if tests.run(bug.finder, "")? != Verdict::Passed {
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
fn caught(bugs: &[Bug], tests: &Tests, jobs: usize) -> Result<Vec<Caught>, HuntError> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(bug) = bugs.get(at) else { break };
                    let caught = chase(bug, tests);
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

fn chase(bug: &Bug, tests: &Tests) -> io::Result<Caught> {
    let (seeds, by) = match bug.finder {
        Finder::Seeds { level, allowed } => first_failure(bug, level, allowed)?,
        Finder::Test { test, .. } => {
            let failed = tests.run(bug.finder, bug.name)? == Verdict::Failed;
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
    /// It is not there.
    DidNotRun,
}

/// The tests that are to find bugs, built once, by package and target.
struct Tests(BTreeMap<(String, String), PathBuf>);

/// What `cargo` says of a file that it has made.
#[derive(Deserialize)]
struct Artifact {
    manifest_path: PathBuf,
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Tests {
    fn build(bugs: &[Bug]) -> io::Result<Self> {
        let targets: BTreeSet<&str> = bugs.iter().filter_map(|bug| bug.finder.target()).collect();
        if targets.is_empty() {
            return Ok(Self(BTreeMap::new()));
        }
        let output = Command::new("cargo")
            .args(["test", "--workspace", "--locked", "--profile", "planted"])
            .args(["--no-run", "--message-format", "json-render-diagnostics"])
            .args(targets.into_iter().flat_map(|target| match target {
                UNITS => vec!["--lib"],
                file => vec!["--test", file],
            }))
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            return Err(io::Error::other("the tests cannot be built"));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let artifacts = said
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let executable = |artifact: Artifact| {
            let folder = artifact.manifest_path.parent()?.file_name()?;
            let Target { name, kind } = artifact.target;
            let is_library = kind.iter().any(|kind| kind == UNITS);
            let target = if is_library { UNITS.into() } else { name };
            let key = (folder.to_string_lossy().into_owned(), target);
            Some((key, artifact.executable?))
        };
        Ok(Self(artifacts.filter_map(executable).collect()))
    }

    /// Runs the test of `finder`, if it is one, in a process that has `bug`.
    fn run(&self, finder: Finder, bug: &str) -> io::Result<Verdict> {
        let Finder::Test {
            folder,
            target,
            test,
        } = finder
        else {
            return Ok(Verdict::DidNotRun);
        };
        let Some(executable) = self.0.get(&(folder.into(), target.into())) else {
            return Ok(Verdict::DidNotRun);
        };
        let output = Command::new(executable)
            .args([test, "--exact"])
            .env(VARIABLE, bug)
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let ran = said.contains("running 1 test");
        Ok(match (ran, output.status.success()) {
            (false, _) => Verdict::DidNotRun,
            (true, true) => Verdict::Passed,
            (true, false) => Verdict::Failed,
        })
    }
}
