//! What many runs add up to, for people and for programs.

use std::fmt;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::level::{Counts, Failure, Level, Outcome};

/// The sum of many runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Totals {
    /// What was run: the commit, and whether files differ from it.
    pub commit: String,
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// The level.
    pub level: Level,
    /// The first seed, and the one after the last that was run.
    pub seeds: (u64, u64),
    /// How many runs ended, each in two processes if `twice`.
    pub runs: u64,
    /// Whether each seed was run in two processes and had to give the same.
    pub twice: bool,
    /// The time that passed inside, without the second runs.
    pub simulated: Duration,
    /// The time that passed outside.
    pub wall: Duration,
    /// The time that the runs took, on all cores together and with the second runs.
    pub busy: Duration,
    /// What happened.
    pub counts: Counts,
    /// What broke.
    pub failures: Vec<Failed>,
}

/// A seed that broke a promise.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failed {
    /// What was run.
    pub commit: String,
    /// The level.
    pub level: Level,
    /// The seed.
    pub seed: u64,
    /// How it failed.
    pub failure: Failure,
}

impl Totals {
    /// Of no run yet.
    #[must_use]
    pub fn new(level: Level, twice: bool) -> Self {
        Self {
            commit: commit(),
            began: since_1970(),
            level,
            seeds: (u64::MAX, 0),
            runs: 0,
            twice,
            simulated: Duration::ZERO,
            wall: Duration::ZERO,
            busy: Duration::ZERO,
            counts: Counts::default(),
            failures: Vec::new(),
        }
    }

    /// Adds the run of `seed`, which took `busy`.
    pub fn add(&mut self, seed: u64, outcome: Outcome, busy: Duration) {
        self.seeds = (self.seeds.0.min(seed), self.seeds.1.max(seed + 1));
        self.runs += 1;
        self.simulated += outcome.simulated;
        self.busy += busy;
        self.counts.add(&outcome.counts);
        self.failures.extend(outcome.failure.map(|failure| Failed {
            commit: self.commit.clone(),
            level: self.level,
            seed,
            failure,
        }));
    }

    /// One line on how far it is.
    #[must_use]
    pub fn progress(&self) -> String {
        let hours = self.simulated.as_secs_f64() / 3600.0;
        format!(
            "{} seeds, {hours:.1} simulated hours, {} failures",
            self.runs,
            self.failures.len()
        )
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let simulated = self.simulated.as_secs_f64();
        let speed = |real: Duration| simulated / real.as_secs_f64().max(f64::EPSILON);
        let twice = if self.twice { ", each twice" } else { "" };
        writeln!(f, "level {} at commit {}", self.level, self.commit)?;
        writeln!(
            f,
            "{:>12} seeds from {} to {}{twice}",
            self.runs, self.seeds.0, self.seeds.1
        )?;
        writeln!(f, "{:>12.2} simulated hours", simulated / 3600.0)?;
        writeln!(
            f,
            "{:>12.0} x real time, {:.0} x per core",
            speed(self.wall),
            speed(self.busy)
        )?;
        for (name, count) in self.counts.named() {
            writeln!(f, "{count:>12} {}", name.replace('_', " "))?;
        }
        write!(f, "{:>12} failures", self.failures.len())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            commit,
            level,
            seed,
            failure,
        } = self;
        let command = "cargo run -p quorate-tests --release --";
        writeln!(f, "FAILED level {level} seed {seed} at commit {commit}")?;
        writeln!(f, "  {failure}")?;
        writeln!(
            f,
            "  {command} replay --level {level} --seed {seed} --trace"
        )?;
        write!(f, "  {command} shrink --level {level} --seed {seed}")
    }
}

/// Now, in seconds since 1970.
#[must_use]
pub fn since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The commit that is checked out; the same seed means the same run only there.
#[must_use]
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let folder = env!("CARGO_MANIFEST_DIR");
        let output = Command::new("git")
            .arg("-C")
            .arg(folder)
            .args(arguments)
            .output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => commit + " with changes",
    }
}
