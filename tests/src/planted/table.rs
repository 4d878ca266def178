//! What came of the planted bugs, for people and for programs.

use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::finder::{Bug, Finder};
use crate::level::Level;

/// What was measured.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Table {
    /// What was run.
    pub commit: String,
    /// What was found where nothing was planted.
    pub controls: Vec<Control>,
    /// What noticed each bug.
    pub bugs: Vec<Caught>,
}

/// Seeds without a bug.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Control {
    /// The level.
    pub level: Level,
    /// How many, from zero on.
    pub seeds: u64,
    /// How many failed.
    pub failures: u64,
}

/// A bug, and what noticed it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Caught {
    /// Its name.
    pub name: String,
    /// What goes wrong.
    pub breaks: String,
    /// Who has to notice.
    pub finder: String,
    /// In how many seeds.
    pub allowed: Option<u64>,
    /// In how many seeds it was noticed.
    pub seeds: Option<u64>,
    /// The promise that was seen broken, or the test that failed; none if nobody noticed.
    pub by: Option<String>,
}

impl Caught {
    /// What noticed `bug`: `by`, after so many `seeds`.
    #[must_use]
    pub fn new(bug: &Bug, seeds: Option<u64>, by: Option<String>) -> Self {
        let (finder, allowed) = match bug.finder {
            Finder::Seeds { level, allowed } => (format!("level {level}"), Some(allowed)),
            Finder::Test { folder, .. } => (format!("a test of `{folder}`"), None),
        };
        Self {
            name: bug.name.to_owned(),
            breaks: bug.breaks.to_owned(),
            finder,
            allowed,
            seeds,
            by,
        }
    }
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match (&self.by, self.seeds) {
            (Some(by), Some(seeds)) => write!(f, "{name}: {by}, after {seeds} seeds"),
            (Some(by), None) => write!(f, "{name}: {by}"),
            (None, _) => write!(f, "NOT CAUGHT {name}"),
        }
    }
}

impl Table {
    /// Whether every bug was noticed, and nothing where there was none.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let quiet = self.controls.iter().all(|control| control.failures == 0);
        quiet && self.bugs.iter().all(|bug| bug.by.is_some())
    }

    /// The table that is part of the project.
    ///
    /// # Errors
    ///
    /// When there is none, or it holds something else.
    pub fn load() -> io::Result<Self> {
        Ok(serde_json::from_str(&fs::read_to_string(data())?)?)
    }

    /// Makes this the table that is part of the project, and the page of it.
    ///
    /// # Errors
    ///
    /// When one cannot be written.
    pub fn save(&self) -> io::Result<()> {
        fs::write(data(), serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(page(), self.to_string())
    }
}

/// Where the table is kept.
fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("planted.json")
}

/// Where people find it.
#[must_use]
pub fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/planted-bugs.md")
}

/// The page.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(INTRODUCTION)?;
        let caught = self.bugs.iter().filter(|bug| bug.by.is_some()).count();
        let (all, commit) = (self.bugs.len(), &self.commit);
        writeln!(f, "**{caught} of {all} were caught**, at commit {commit}.")?;
        for control in &self.controls {
            let Control {
                level,
                seeds,
                failures,
            } = control;
            writeln!(
                f,
                "Without a bug, {failures} of the same {seeds} seeds of level {level} failed."
            )?;
        }
        f.write_str(
            "\n| bug | what goes wrong | found by | within seeds | after | noticed as |\n",
        )?;
        f.write_str("|---|---|---|---|---|---|\n")?;
        for bug in &self.bugs {
            let mut row = String::new();
            write!(row, "| `{}` | {} | {}", bug.name, bug.breaks, bug.finder)?;
            for number in [bug.allowed, bug.seeds] {
                let number = number.map_or_else(|| "-".to_owned(), |number| number.to_string());
                write!(row, " | {number}")?;
            }
            let by = bug.by.as_deref().unwrap_or("**nobody**");
            writeln!(f, "{row} | {by} |")?;
        }
        Ok(())
    }
}

const INTRODUCTION: &str = "\
<!-- Made by scripts/planted.sh -->

# Planted bugs

A simulation that finds nothing may be blind. So each of these bugs is planted, one at a time, and has to be
noticed: by a simulation within a stated number of seeds, counted from zero, or by a test where the bug lies
in what simulations replace, or needs an enemy that they do not have. The bugs are compiled in by `--cfg
quorate_planted` and by nothing else; `tests/src/planted/bugs.rs` names them, and `scripts/planted.sh` makes
the build, runs everything and writes this page.

";
