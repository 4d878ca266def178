//! The state on its way to another member, and from one.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use quorate_consensus::{Chunk, EntryId, SnapshotSink, SnapshotSource, StateMachineError};
use serde::{Deserialize, Serialize};

use super::State;
use super::error::SavedError;
use super::file::{Place, StateDraft, StateFile};

/// What a snapshot consists of.
#[derive(Serialize, Deserialize)]
struct Piece {
    /// How large the whole state is, and its checksum: pieces of states that differ are not mixed.
    bytes: u64,
    checksum: u32,
    /// Where this part of it begins.
    at: u64,
    part: Bytes,
}

/// The file as it was when it was opened, in pieces: a member that is behind costs no memory, and the applying
/// thread nothing.
pub(super) struct SavedSource {
    file: StateFile,
    /// Whether all of the file was found in order.
    checked: bool,
}

impl SavedSource {
    pub(super) fn new(file: StateFile) -> Self {
        let checked = false;
        Self { file, checked }
    }

    fn piece(&self, at: u64, bytes_max: u64) -> Result<Piece, SavedError> {
        let whole = self.file.whole;
        let bytes = (whole.bytes - at).min(bytes_max.max(1));
        let mut part = vec![0; bytes as usize];
        self.file.read(at, &mut part)?;
        Ok(Piece {
            bytes: whole.bytes,
            checksum: whole.checksum,
            at,
            part: part.into(),
        })
    }

    /// Where the piece begins that follows `after`: at the end, if no piece has named that.
    fn place(&self, after: &[u8]) -> u64 {
        let end = self.file.whole.bytes;
        match after {
            [] => 0,
            after => after
                .try_into()
                .map_or(end, |at| u64::from_le_bytes(at).min(end)),
        }
    }
}

impl SnapshotSource for SavedSource {
    fn last(&self) -> EntryId {
        self.file.whole.last
    }

    fn chunk(&mut self, after: &[u8], bytes_max: u64) -> Result<Chunk, StateMachineError> {
        if !self.checked {
            self.file.check()?;
            self.checked = true;
        }
        let piece = self.piece(self.place(after), bytes_max)?;
        let next = piece.at + piece.part.len() as u64;
        let next = (next < piece.bytes).then(|| Bytes::copy_from_slice(&next.to_le_bytes()));
        let data = postcard::to_stdvec(&piece).map_err(StateMachineError::new)?;
        let data = data.into();
        Ok(Chunk { data, next })
    }
}

/// Puts a state together in a file of its own, a piece in memory at a time.
pub(super) struct SavedSink<S> {
    place: Place,
    /// Up to where the state goes that is being received.
    last: Option<EntryId>,
    /// From the first piece on, with the checksum that it announced.
    begun: Option<(StateDraft, u32)>,
    state: PhantomData<fn() -> S>,
}

impl<S: State> SavedSink<S> {
    /// To `place`, from which it is installed.
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            last: None,
            begun: None,
            state: PhantomData,
        }
    }

    /// Takes the piece that comes next. Returns whether it is that.
    fn take(&mut self, piece: &Piece) -> Result<bool, SavedError> {
        let (bytes, bytes_max) = (piece.bytes, self.place.bytes_max);
        if bytes > bytes_max {
            tracing::error!(bytes, bytes_max, "a snapshot was refused: it is too large");
            return Ok(false);
        }
        let (mut draft, checksum) = match self.begun.take() {
            Some(begun) => begun,
            None => (StateDraft::begin(&self.place, bytes)?, piece.checksum),
        };
        let follows =
            (piece.checksum, bytes, piece.at) == (checksum, draft.bytes_max(), draft.bytes());
        // An empty piece brings nobody on, but an empty state is one.
        let fits = piece.part.len() as u64 <= bytes - draft.bytes()
            && (!piece.part.is_empty() || bytes == 0);
        let taken = follows && fits;
        if taken {
            draft.add(&piece.part)?;
        }
        self.begun = Some((draft, checksum));
        Ok(taken)
    }

    fn finish_checked(&mut self) -> Result<bool, SavedError> {
        let (Some(last), Some((draft, checksum))) = (self.last.take(), self.begun.take()) else {
            return Ok(false);
        };
        if (draft.bytes(), draft.checksum()) != (draft.bytes_max(), checksum) {
            tracing::warn!(%last, "a snapshot was refused: it is not what was announced");
            return Ok(false);
        }
        let finished = draft.finish(last)?;
        // After this the log begins behind it, so that a node which could not decode it would be lost.
        match finished.decode::<S>() {
            Ok(_) => finished.publish().map(|()| true),
            Err(error @ SavedError::Decode { .. }) => {
                tracing::error!(%last, err = %error, "a snapshot was refused");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl<S: State> SnapshotSink for SavedSink<S> {
    fn begin(&mut self, last: EntryId) -> Result<(), StateMachineError> {
        // What a former transfer left goes first: there may be no room for both.
        self.begun = None;
        // One that was received and is still to be installed is not here: nobody offers another one meanwhile.
        self.place.clear()?;
        self.last = Some(last);
        Ok(())
    }

    fn add(&mut self, data: &[u8]) -> Result<bool, StateMachineError> {
        if self.last.is_none() {
            return Ok(false);
        }
        match postcard::take_from_bytes(data) {
            Ok((piece, [])) => Ok(self.take(&piece)?),
            _ => Ok(false),
        }
    }

    fn finish(&mut self) -> Result<bool, StateMachineError> {
        Ok(self.finish_checked()?)
    }
}

impl<S> fmt::Debug for SavedSink<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedSink")
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}
