//! A plan together with the level it is for: what is replayed, shrunk and pinned.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::level::Level;
use crate::plan::Plan;

/// Everything that decides a run, and where to run it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Case {
    /// The level.
    pub level: Level,
    /// What happens there.
    pub plan: Plan,
}

impl Case {
    /// What `seed` stands for at `level`.
    #[must_use]
    pub fn of(level: Level, seed: u64) -> Self {
        Self {
            level,
            plan: Plan::draw(level, seed),
        }
    }

    /// Reads a case from a file. What else the file says is left alone.
    ///
    /// # Errors
    ///
    /// When there is no such file, or it holds something else.
    pub fn load(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
    }

    /// Writes the case for people and programs.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
    }
}
