//! The state machine around a state.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate_consensus::{
    Batch, EntryId, ORIGIN, SnapshotSink, SnapshotSource, StateMachine, StateMachineError,
    StateScan,
};
use quorate_persist::{Files, OsFiles, StoreIdentity};

use super::checkpoint::Checkpoints;
use super::error::SavedError;
use super::file::Place;
use super::scan::SavedScan;
use super::snapshot::{SavedSink, SavedSource};
use super::{STATE_BYTES_MAX, State};

/// A [`State`] in memory, as a state machine that saves it.
///
/// The file always holds the state after some entry, whole. [`checkpoint`](StateMachine::checkpoint) replaces it by
/// that of the moment, in the background; after a crash it is as at the last one that was completed, and the log is
/// applied from there on. It is the same after a drop without [`close`](StateMachine::close).
///
/// A fault stops it: all further use of it as a state machine is refused.
pub struct Saved<S> {
    state: S,
    /// Up to where the log is applied in it.
    applied: EntryId,
    /// Up to where it is in the file.
    durable: EntryId,
    checkpoints: Checkpoints,
    place: Place,
    /// After a fault, nobody knows what is on the disk.
    stopped: bool,
}

impl<S: State> Saved<S> {
    /// Opens the state that is saved at `path`, owned by `identity`; `empty`, where there is none. Nothing is written
    /// before a checkpoint. [`NodeBuilder::start_saved`](crate::NodeBuilder::start_saved) does this in its place;
    /// this is for programs that look at it without a node.
    ///
    /// # Errors
    ///
    /// [`SavedError`]; the node must not run on such a file.
    pub fn open(path: &Path, identity: &StoreIdentity, empty: S) -> Result<Self, SavedError> {
        Self::open_in(Arc::new(OsFiles), path, identity, empty, true)
    }

    /// As [`open`](Self::open), elsewhere than on the operating system's files, and with a thread that saves only
    /// if it may work in the `background`.
    pub(crate) fn open_in(
        files: Arc<dyn Files>,
        path: &Path,
        identity: &StoreIdentity,
        empty: S,
        background: bool,
    ) -> Result<Self, SavedError> {
        let place = Place {
            files,
            path: path.to_owned(),
            owner: identity.clone(),
            bytes_max: STATE_BYTES_MAX,
        };
        Self::open_at(place, empty, background)
    }

    pub(super) fn open_at(place: Place, empty: S, background: bool) -> Result<Self, SavedError> {
        let (state, applied) = match place.is_taken()? {
            true => {
                let file = place.open()?;
                (file.decode()?, file.whole.last)
            }
            false => (empty, ORIGIN),
        };
        tracing::info!(path = %place.path.display(), %applied, "state opened");
        Ok(Self {
            state,
            applied,
            durable: applied,
            checkpoints: Checkpoints::new(place.clone(), background),
            place,
            stopped: false,
        })
    }

    /// Takes note of a checkpoint that has ended.
    fn settle(&mut self) -> Result<(), SavedError> {
        let saved = self.checkpoints.poll()?;
        self.note_saved(saved);
        Ok(())
    }

    /// Waits until no checkpoint is under way.
    fn wait(&mut self) -> Result<(), SavedError> {
        let saved = self.checkpoints.wait()?;
        self.note_saved(saved);
        Ok(())
    }

    fn note_saved(&mut self, saved: Option<EntryId>) {
        let durable = saved.unwrap_or(self.durable);
        assert!(
            self.durable <= durable && durable <= self.applied,
            "{durable} is saved"
        );
        self.durable = durable;
    }

    fn checkpoint_checked(&mut self) -> Result<(), SavedError> {
        self.settle()?;
        if self.applied == self.durable || self.checkpoints.is_running() {
            // The next checkpoint takes this one's share along.
            return Ok(());
        }
        let saved = self.checkpoints.start(self.state.clone(), self.applied)?;
        self.note_saved(saved);
        Ok(())
    }

    fn close_checked(&mut self) -> Result<(), SavedError> {
        self.wait()?;
        self.checkpoint_checked()?;
        self.wait()
    }

    fn source(&mut self) -> Result<Option<Box<dyn SnapshotSource>>, SavedError> {
        self.settle()?;
        if self.durable == ORIGIN {
            return Ok(None);
        }
        // It may be that of a checkpoint which has ended just now.
        Ok(Some(Box::new(SavedSource::new(self.place.open()?))))
    }

    /// The file that was received takes the place of the state's, once it has been read.
    fn install_checked(&mut self, last: EntryId) -> Result<(), SavedError> {
        self.wait()?;
        let received = self.place.received();
        let file = received.open()?;
        if file.whole.last != last {
            return Err(SavedError::OtherSnapshot {
                path: received.path,
                found: file.whole.last,
                expected: last,
            });
        }
        let state = file.decode()?;
        self.place.replace_by(&received)?;
        (self.state, self.applied, self.durable) = (state, last, last);
        tracing::info!(applied = %last, "state replaced by a snapshot");
        Ok(())
    }

    /// Does `work`, and nothing ever again after it failed.
    fn unless_stopped<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, SavedError>,
    ) -> Result<T, StateMachineError> {
        if self.stopped {
            return Err(SavedError::Stopped.into());
        }
        let outcome = work(self);
        self.stopped = outcome.is_err();
        Ok(outcome?)
    }
}

impl<S: State> StateMachine for Saved<S> {
    fn applied(&self) -> EntryId {
        self.applied
    }

    /// # Panics
    ///
    /// When `batch` does not come after everything applied before it.
    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
        let (applied, last) = (self.applied, batch.last);
        assert!(
            last.index > applied.index && last.term >= applied.term,
            "a batch that ends in {last}, with {applied} applied"
        );
        self.unless_stopped(Self::settle)?;
        let commands = batch.commands.iter();
        let answers = commands.map(|command| self.state.apply(command)).collect();
        self.applied = last;
        Ok(answers)
    }

    fn query(&mut self, query: &[u8]) -> Result<Bytes, StateMachineError> {
        self.unless_stopped(Self::settle)?;
        Ok(self.state.query(query))
    }

    /// Begins to write a clone of the state, or does nothing while an earlier one is being written.
    fn checkpoint(&mut self) -> Result<(), StateMachineError> {
        self.unless_stopped(Self::checkpoint_checked)
    }

    fn durable(&mut self) -> Result<EntryId, StateMachineError> {
        self.unless_stopped(|saved| saved.settle().map(|()| saved.durable))
    }

    /// The file as it is.
    fn snapshot(&mut self) -> Result<Option<Box<dyn SnapshotSource>>, StateMachineError> {
        self.unless_stopped(Self::source)
    }

    fn sink(&mut self) -> Option<Box<dyn SnapshotSink>> {
        Some(Box::new(SavedSink::<S>::new(self.place.received())))
    }

    fn received(&self) -> Result<Option<EntryId>, StateMachineError> {
        let received = self.place.received();
        Ok(match received.is_taken()? {
            true => Some(received.open()?.whole.last),
            false => None,
        })
    }

    fn install(&mut self, last: EntryId) -> Result<(), StateMachineError> {
        self.unless_stopped(|saved| saved.install_checked(last))
    }

    /// Clones the state, if states are [compared](State::COMPARED).
    fn scan(&mut self) -> Result<Option<Box<dyn StateScan>>, StateMachineError> {
        self.unless_stopped(Self::settle)?;
        if !S::COMPARED {
            return Ok(None);
        }
        Ok(Some(Box::new(SavedScan::new(self.state.clone()))))
    }

    fn close(&mut self) -> Result<(), StateMachineError> {
        self.unless_stopped(Self::close_checked)
    }
}

impl<S> fmt::Debug for Saved<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saved")
            .field("applied", &self.applied)
            .field("durable", &self.durable)
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}
