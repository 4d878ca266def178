//! The state beside a log: that of the key-value store, or a saved one of a program that embeds a node.

use std::path::Path;
use std::sync::Arc;

use quorate::kv::{self, KvOptions, KvStore};
use quorate::saved::{self, SavedError, SavedFile};
use quorate::{EntryId, ORIGIN, StateMachine, StateMachineError};
use quorate_persist::{CheckedLog, OsFiles, Unchanged};
use serde_json::{Value, json};

use super::failure;
use crate::cli::{Failure, exit};

/// A state that was found in order.
pub(super) struct State {
    pub(super) applied: EntryId,
    pub(super) content: Content,
}

/// What is known of what is in it.
pub(super) enum Content {
    KeyValue { digest: u64 },
    Saved { bytes: u64 },
}

impl State {
    /// That of the node with `log` in `dir`. `None` where there is none that this program knows, and the log is whole,
    /// so that nothing is lacking.
    pub(super) fn check(dir: &Path, log: &CheckedLog) -> Result<Option<Self>, Failure> {
        let path = dir.join(kv::STATE_FILE);
        if is_there(&path)? {
            return check_kv(&path, log).map(Some);
        }
        let path = dir.join(saved::STATE_FILE);
        if is_there(&path)? {
            return check_saved(&path, log).map(Some);
        }
        match is_whole(log) {
            true => Ok(None),
            false => Err(unknown(dir, log)),
        }
    }

    /// The name of its file.
    pub(super) fn file(&self) -> &'static str {
        match self.content {
            Content::KeyValue { .. } => kv::STATE_FILE,
            Content::Saved { .. } => saved::STATE_FILE,
        }
    }

    pub(super) fn in_words(&self) -> String {
        let applied = self.applied;
        match self.content {
            Content::KeyValue { digest } => {
                format!("in order: applied {applied}, digest {digest:016x}")
            }
            Content::Saved { bytes } => {
                format!(
                    "in order: applied {applied}, {bytes} bytes that only their program can decode"
                )
            }
        }
    }

    pub(super) fn in_json(&self) -> Value {
        let applied = super::id_in_json(self.applied);
        let file = self.file();
        match self.content {
            Content::KeyValue { digest } => {
                json!({ "file": file, "applied": applied, "digest": format!("{digest:016x}") })
            }
            Content::Saved { bytes } => json!({ "file": file, "applied": applied, "bytes": bytes }),
        }
    }
}

fn is_there(path: &Path) -> Result<bool, Failure> {
    path.try_exists().map_err(|error| {
        let message = format!("cannot read {}: {error}", path.display());
        Failure::new(exit::NO_INPUT, message)
    })
}

fn check_kv(path: &Path, log: &CheckedLog) -> Result<State, Failure> {
    let options = KvOptions {
        background: false,
        ..KvOptions::default()
    };
    let store = KvStore::open_in(Arc::new(Unchanged(OsFiles)), path, &log.identity, options)
        .map_err(|error| rebuilt(log, failure(&error)))?;
    let applied = store.applied();
    let damaged = |error: StateMachineError| damaged(path, log, &error);
    check_fits(path, log, applied, || store.received().map_err(damaged))?;
    let digest = store.digest().map_err(damaged)?;
    Ok(State {
        applied,
        content: Content::KeyValue { digest },
    })
}

fn check_saved(path: &Path, log: &CheckedLog) -> Result<State, Failure> {
    let unusable = |error| match error {
        SavedError::Damaged { path, what } => damaged(&path, log, &what),
        SavedError::OtherOwner { .. } | SavedError::NewerFormat { .. } => {
            Failure::new(exit::CONFIG, error.to_string())
        }
        error => Failure::new(exit::IO, error.to_string()),
    };
    let file = SavedFile::check(path, &log.identity).map_err(unusable)?;
    let applied = file.applied();
    check_fits(path, log, applied, || file.received().map_err(unusable))?;
    let bytes = file.bytes();
    Ok(State {
        applied,
        content: Content::Saved { bytes },
    })
}

/// That the state at `path`, of entry `applied`, and the log go together.
fn check_fits(
    path: &Path,
    log: &CheckedLog,
    applied: EntryId,
    received: impl FnOnce() -> Result<Option<EntryId>, Failure>,
) -> Result<(), Failure> {
    let path = path.display();
    let base = log.recovered.base();
    if applied.index < base.index && received()? == Some(base) {
        let message = format!(
            "{path} is the state of entry {applied}, and a snapshot up to {base} is received but not in its place"
        );
        return Err(Failure::new(exit::DATA, message).help("the next start puts it there"));
    }
    if applied.index < base.index {
        let message = format!(
            "{path} has applied no more than entry {applied}, but the log begins after {base}: the state was lost or \
             rolled back"
        );
        return Err(rebuilt(log, Failure::new(exit::DATA, message)));
    }
    if !holds(log, applied) {
        let message = format!(
            "{path} has applied entry {applied}, which the log, from {base} to {}, does not hold",
            log.last()
        );
        return Err(Failure::new(exit::DATA, message).help(format!(
            "the log was lost or replaced: do not start this node on it; {REPLACE}"
        )));
    }
    Ok(())
}

/// Whether `entry` is one of the log's.
fn holds(log: &CheckedLog, entry: EntryId) -> bool {
    let runs = log.recovered.terms.iter().rev();
    let run = runs.into_iter().find(|first| first.index <= entry.index);
    // The base is the first of the runs.
    entry.index <= log.recovered.last && run.is_some_and(|first| first.term == entry.term)
}

/// Whether nothing was ever compacted.
fn is_whole(log: &CheckedLog) -> bool {
    log.recovered.base() == ORIGIN
}

/// How a node is given up that must not start again, for its operator and for who embeds it.
pub(super) const REPLACE: &str = "`quorate members replace`, or the program's own way to change members, puts a new one in its place";

fn damaged(path: &Path, log: &CheckedLog, what: &dyn std::fmt::Display) -> Failure {
    let message = format!("{} is damaged: {what}", path.display());
    rebuilt(log, Failure::new(exit::DATA, message))
}

/// What to do where only the state is damaged or rolled back, and the log is in order.
fn rebuilt(log: &CheckedLog, failure: Failure) -> Failure {
    match is_whole(log) {
        true => failure.help(
            "the log is in order: move the file away, and the next start makes it again from the log",
        ),
        false => failure.help(format!(
            "the log is in order, but its beginning was compacted into the state: do not start this node on it; {REPLACE}"
        )),
    }
}

/// A state that was lost and one that a program keeps in its own way look the same from here. Exit code 0 would call a
/// copy complete that lacks its state, so whoever knows better has to say so.
fn unknown(dir: &Path, log: &CheckedLog) -> Failure {
    let message = format!(
        "the log in {} is in order, but its beginning was compacted into the state, up to entry {}, and there is no state \
         that this program knows ({} is not there, and {} is not)",
        dir.display(),
        log.recovered.base(),
        kv::STATE_FILE,
        saved::STATE_FILE,
    );
    Failure::new(exit::DATA, message).help(format!(
        "if `quorate start` or `start_saved` ran on it, the state was lost: do not start this node on it; {REPLACE}. \
         If it is of a program that keeps its state in a way of its own, `--log-only` leaves that to the program"
    ))
}
