//! What has been run and found so far, from ledgers in `tests/evidence` that only grow, and the page that is
//! made of them: `docs/testing.md`.
//!
//! A sweep appends a line with `sweep --json`, a run of processes with `chaos --json`, and a real bug is an
//! entry in `bugs.toml`. Nothing on the page is typed.

mod page;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::chaos::ChaosReport;
use crate::level::{Counts, Level};
use crate::report::{Failed, Totals, commit, since_1970};

/// Everything that the page is made of.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Sweeps of the simulation, oldest first.
    pub sweeps: Vec<Totals>,
    /// Runs of real processes, oldest first.
    pub processes: Vec<ProcessRun>,
    /// What all of them found.
    pub bugs: Bugs,
    /// Whether there is a page of planted bugs to point at.
    pub planted: bool,
}

/// A run of real processes, as a line of its ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessRun {
    /// What was run.
    pub commit: String,
    /// When it ended, in seconds since 1970.
    pub ended: u64,
    /// Where nodes and clients were awaited.
    pub runtime: String,
    /// What decided faults and operations.
    pub seed: u64,
    /// How long clients worked.
    pub elapsed: Duration,
    /// Operations of clients that were checked.
    pub operations: u64,
    /// How many of them were answered.
    pub answered: u64,
    /// Of how many it is not known whether they happened.
    pub unknown: u64,
    /// How many were held against the log on the disks, too.
    pub witnessed: u64,
    /// What was done to nodes and network, by name.
    pub faults: BTreeMap<String, u64>,
}

impl ProcessRun {
    /// What `report` says, of a run that has just ended without a failure.
    #[must_use]
    pub fn of(report: &ChaosReport) -> Self {
        let faults = report.faults.iter();
        Self {
            commit: commit(),
            ended: since_1970(),
            runtime: report.options.runtime.to_string(),
            seed: report.options.seed,
            elapsed: report.elapsed,
            operations: report.checked.operations,
            answered: report.checked.answered,
            unknown: report.checked.unknown,
            witnessed: report.witnessed,
            faults: faults
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
        }
    }
}

/// The register of bugs.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bugs {
    /// Of Quorate.
    #[serde(default)]
    pub bug: Vec<Bug>,
    /// Of the harness, which took something for a bug that was none.
    #[serde(default)]
    pub false_alarm: Vec<Bug>,
}

/// Something that was found.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bug {
    /// In one sentence.
    pub what: String,
    /// What noticed it.
    pub found_by: String,
    /// In which run.
    pub seed: Option<u64>,
    /// The plans in the corpus that keep it found.
    #[serde(default)]
    pub pinned: Vec<String>,
    /// The commit that put it right, unless there was nothing to mend.
    #[serde(default)]
    pub fixed_by: String,
}

impl Bug {
    /// Whether this is what `failed` ran into.
    fn explains(&self, failed: &Failed) -> bool {
        self.seed == Some(failed.seed) && self.found_by == format!("level {}", failed.level)
    }
}

/// What all sweeps of one level add up to.
struct Sum {
    runs: u64,
    twice: u64,
    simulated: Duration,
    counts: Counts,
}

impl Evidence {
    /// Reads the ledgers.
    ///
    /// # Errors
    ///
    /// When one cannot be read, or holds something else.
    pub fn load() -> io::Result<Self> {
        let folder = folder();
        let bugs = fs::read_to_string(folder.join("bugs.toml"))?;
        Ok(Self {
            sweeps: lines(&folder.join("sweeps.jsonl"))?,
            processes: lines(&folder.join("processes.jsonl"))?,
            bugs: toml::from_str(&bugs).map_err(io::Error::other)?,
            planted: root().join(PLANTED).exists(),
        })
    }

    /// The page for readers.
    #[must_use]
    pub fn page(&self) -> String {
        page::page(self)
    }

    /// Failures that no entry of the register explains.
    #[must_use]
    pub fn open(&self) -> Vec<&Failed> {
        let known = |failed: &&Failed| {
            let mut all = self.bugs.bug.iter().chain(&self.bugs.false_alarm);
            all.any(|bug| bug.explains(failed))
        };
        let failures = self.sweeps.iter().flat_map(|sweep| &sweep.failures);
        failures.filter(|failed| !known(failed)).collect()
    }

    fn sum(&self, level: Level) -> Sum {
        let mut sum = Sum {
            runs: 0,
            twice: 0,
            simulated: Duration::ZERO,
            counts: Counts::default(),
        };
        for sweep in self.sweeps.iter().filter(|sweep| sweep.level == level) {
            sum.runs += sweep.runs;
            sum.twice += sweep.runs * u64::from(sweep.twice);
            sum.simulated += sweep.simulated;
            sum.counts.add(&sweep.counts);
        }
        sum
    }
}

/// The page of planted bugs, below the root.
const PLANTED: &str = "docs/planted-bugs.md";

/// Where the page is.
#[must_use]
pub fn page_path() -> PathBuf {
    root().join("docs/testing.md")
}

/// Appends `line` to a file of JSON lines.
///
/// # Errors
///
/// When the file cannot be written.
pub fn append(path: &Path, line: &impl Serialize) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all((serde_json::to_string(line)? + "\n").as_bytes())
}

fn lines<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    let text = fs::read_to_string(path)?;
    let named = |error| io::Error::other(format!("{}: {error}", path.display()));
    let read = |line| serde_json::from_str(line).map_err(named);
    text.lines().map(read).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("evidence")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
