//! A state's file, for who does not know what the state is.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use quorate_consensus::EntryId;
use quorate_persist::{OsFiles, StoreIdentity, Unchanged};

use super::STATE_BYTES_MAX;
use super::error::SavedError;
use super::file::{Place, Whole};

/// The file of a stopped node's state, which was found in order: whose it is, how long, and every checksum. What is
/// encoded in it only its program knows. Nothing is written.
pub struct SavedFile {
    place: Place,
    whole: Whole,
}

impl SavedFile {
    /// Reads all of the file at `path`, which belongs to `identity`.
    ///
    /// # Errors
    ///
    /// [`SavedError`]; the node must not run on such a file.
    pub fn check(path: &Path, identity: &StoreIdentity) -> Result<Self, SavedError> {
        let place = Place {
            files: Arc::new(Unchanged(OsFiles)),
            path: path.to_owned(),
            owner: identity.clone(),
            bytes_max: STATE_BYTES_MAX,
        };
        let file = place.open()?;
        file.check()?;
        let whole = file.whole;
        Ok(Self { place, whole })
    }

    /// The last entry whose effect is in it.
    pub fn applied(&self) -> EntryId {
        self.whole.last
    }

    /// How large the state is, encoded.
    pub fn bytes(&self) -> u64 {
        self.whole.bytes
    }

    /// Up to where a snapshot goes that was received, and that the next start puts in the place of this file.
    ///
    /// # Errors
    ///
    /// [`SavedError`], if it is not in order.
    pub fn received(&self) -> Result<Option<EntryId>, SavedError> {
        let received = self.place.received();
        let there = received.files.exists(&received.path);
        if !there.map_err(|source| received.cannot_read(source))? {
            return Ok(None);
        }
        let file = received.open()?;
        file.check()?;
        Ok(Some(file.whole.last))
    }
}

impl fmt::Debug for SavedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedFile")
            .field("path", &self.place.path)
            .field("applied", &self.whole.last)
            .finish_non_exhaustive()
    }
}
