//! Plans that once found something, pinned so that it is not lost again.
//!
//! A file holds the whole plan: what a seed stands for changes when parameters do, a plan does not.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::case::Case;

/// A pinned plan and its story.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Pinned {
    /// What it found, in one sentence.
    pub found: String,
    /// The commit that put it right, or what is being done about it.
    pub fixed_by: String,
    /// What to run.
    #[serde(flatten)]
    pub case: Case,
}

/// Every pinned plan with its file, in order of name.
///
/// # Errors
///
/// When the folder or one of its files cannot be read, or holds something else.
pub fn load() -> io::Result<Vec<(PathBuf, Pinned)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut files = Vec::new();
    for file in folder.read_dir()? {
        let path = file?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            files.push(path);
        }
    }
    files.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path)?;
        let pinned = serde_json::from_str(&text)
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        Ok((path, pinned))
    };
    files.into_iter().map(read).collect()
}
