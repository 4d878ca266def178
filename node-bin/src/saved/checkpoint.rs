//! Writes the state to its file, away from the thread that applies.

use std::thread::{Builder, JoinHandle};

use quorate_consensus::EntryId;

use super::State;
use super::error::SavedError;
use super::file::{Place, StateDraft};

/// Writes at most one state at a time. Dropped, it first finishes what it is writing.
///
/// A write that failed is reported once and never retried: after a failed fsync nobody knows what is on the disk.
pub(super) struct Checkpoints {
    place: Place,
    /// Whether there is a thread for it; a simulation has no other than the caller's.
    background: bool,
    running: Option<JoinHandle<Outcome>>,
}

/// Up to where the file goes now; `None` when it was left as it is.
type Outcome = Result<Option<EntryId>, SavedError>;

impl Checkpoints {
    pub(super) fn new(place: Place, background: bool) -> Self {
        Self {
            place,
            background,
            running: None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Writes `state` as it was after `last`, or begins to.
    ///
    /// # Panics
    ///
    /// When a state is being written.
    pub(super) fn start(&mut self, state: impl State, last: EntryId) -> Outcome {
        assert!(!self.is_running(), "one state is written at a time");
        if !self.background {
            return write(&self.place, &state, last);
        }
        let place = self.place.clone();
        let thread = Builder::new().name("quorate-save".into());
        let running = thread.spawn(move || write(&place, &state, last));
        self.running = Some(running.map_err(|source| SavedError::Thread { source })?);
        Ok(None)
    }

    /// What has come of a state that was being written and is not any more.
    pub(super) fn poll(&mut self) -> Outcome {
        match &self.running {
            Some(running) if running.is_finished() => self.wait(),
            Some(_) | None => Ok(None),
        }
    }

    /// As [`poll`](Self::poll), once nothing is being written.
    pub(super) fn wait(&mut self) -> Outcome {
        match self.running.take() {
            Some(running) => running.join().unwrap_or(Err(SavedError::Panicked)),
            None => Ok(None),
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        // The file may be opened again in this process. Nobody is there to be told of an error.
        let _ = self.wait();
    }
}

fn write(place: &Place, state: &impl State, last: EntryId) -> Outcome {
    let bytes = postcard::experimental::serialized_size(state);
    let bytes = bytes.map_err(|source| SavedError::Encode {
        path: place.path.clone(),
        source,
    })? as u64;
    if bytes > place.bytes_max {
        // Not the end of the node, which could not start again either: its log still has everything.
        tracing::error!(
            path = %place.path.display(), bytes, bytes_max = place.bytes_max, applied = %last,
            "the state is too large to be saved: the log grows until it is smaller"
        );
        return Ok(None);
    }
    let mut draft = StateDraft::begin(place, bytes)?;
    draft.encode(state)?;
    draft.finish(last)?.publish()?;
    tracing::debug!(path = %place.path.display(), bytes, applied = %last, "state saved");
    Ok(Some(last))
}
