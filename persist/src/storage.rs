//! What one file is kept on, and the operating system's.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

use crate::through::Through;

/// A file, as [`StorageBackend`], that can also make a part of itself durable.
pub trait Storage: StorageBackend {
    /// Writes `data`, which lies within the file, and returns once it survives a power loss. Nothing
    /// is said about what was written before.
    ///
    /// # Errors
    ///
    /// When nobody knows whether it survives.
    fn write_through(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write(offset, data)?;
        self.sync_data()
    }
}

/// A file of the operating system.
#[derive(Debug)]
pub(crate) struct OsFile {
    /// Carries out what redb asks for, with its locks.
    backend: FileBackend,
    /// The same file.
    through: Through,
}

impl OsFile {
    /// `file`, which was opened at `path`.
    pub(crate) fn new(file: File, path: &Path) -> Result<Self, DatabaseError> {
        Ok(Self {
            backend: FileBackend::new(file.try_clone()?)?,
            through: Through::new(file, path),
        })
    }
}

impl Storage for OsFile {
    fn write_through(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.through.write(offset, data)
    }
}

impl StorageBackend for OsFile {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}
