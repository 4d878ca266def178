//! A state's file made as small as what is in it, while no node runs on it.

use std::io;
use std::path::Path;

use quorate_persist::{Files, OpenError, StoreFault, StoreIdentity, open_database};
use redb::{CompactionError, StorageError};

use super::{KV_FILE, KvStore};

/// How often redb is asked: each time it moves what lies furthest back into what is free, as far as that goes in one
/// transaction, and most files take a few. The bound is for one that would never say that it is done.
const ROUNDS_MAX: usize = 64;

/// Of redb, which does it: each commit of it makes pages anew that it changes.
const CACHE_BYTES: usize = 64 << 20;

/// Why a file was not compacted, or not to its end. It is as it was, or a smaller one with the same content.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The disk failed, which may have been for want of room.
    #[error("compaction broke off: {0}")]
    Fault(#[from] StoreFault),
}

impl KvStore {
    /// Gives back what the file at `path`, of a node that does not run, holds free: it keeps what it has once been given, also
    /// after keys are deleted. Whatever interrupts it, the content stays the same. Reads and writes all of the file.
    ///
    /// # Errors
    ///
    /// [`CompactError`].
    pub fn compact_in(
        files: &dyn Files,
        path: &Path,
        identity: &StoreIdentity,
    ) -> Result<(), CompactError> {
        let mut opened = open_database(files, path, KV_FILE, identity, CACHE_BYTES)?;
        for _ in 0..ROUNDS_MAX {
            let went_on = opened.database.compact().map_err(|error| match error {
                CompactionError::Storage(error) => StoreFault::from(error),
                // Nobody else uses it; but what another program has left in the file is no reason to panic.
                other => StoreFault::from(StorageError::Io(io::Error::other(other))),
            })?;
            if !went_on {
                break;
            }
        }
        Ok(())
    }
}
