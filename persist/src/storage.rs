//! What one file is kept on, and the operating system's.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use crate::through::Through;

/// A file that is open. What was written to it survives a power loss once it was synced.
///
/// It is ours, and not what the database asks for, so that whoever keeps files elsewhere does not change with that.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// How many bytes the file has.
    ///
    /// # Errors
    ///
    /// When that cannot be told.
    fn length(&self) -> io::Result<u64>;

    /// Fills `out` with what is at `offset`.
    ///
    /// # Errors
    ///
    /// Also when the file ends before `out` is full.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Makes the file longer, by zeros, or shorter.
    ///
    /// # Errors
    ///
    /// When it stays as it was.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    ///
    /// When nobody knows how much of it was written.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes content and length survive a power loss.
    ///
    /// # Errors
    ///
    /// When nobody knows whether they do.
    fn sync_data(&self) -> io::Result<()>;

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

    /// Keeps everybody else who asks for it out until the file is closed; returns false when somebody else has done
    /// so. Where nobody else can open the file, there is nothing to do.
    ///
    /// # Errors
    ///
    /// When that cannot be told.
    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Gives up what the file holds, the lock among it. Nothing is asked of it after that.
    ///
    /// # Errors
    ///
    /// When the system says so.
    fn close(&self) -> io::Result<()> {
        Ok(())
    }
}

/// What a lock is taken on.
const WHOLE: (Bound<u64>, Bound<u64>) = (Bound::Unbounded, Bound::Unbounded);

/// A file of the operating system.
#[derive(Debug)]
pub(crate) struct OsFile<B = FileBackend> {
    /// redb's own, with its locks: other programs that open the file know these.
    backend: B,
    /// The same file.
    through: Through,
}

impl OsFile {
    /// `file`, which was opened at `path`.
    pub(crate) fn new(file: File, path: &Path) -> io::Result<Self> {
        let backend = FileBackend::new(file.try_clone()?);
        Ok(Self {
            backend: backend.map_err(io::Error::other)?,
            through: Through::new(file, path),
        })
    }
}

impl<B: StorageBackend> Storage for OsFile<B> {
    fn length(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.backend.set_len(length)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.backend.write(offset, data)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.backend.sync_data()
    }

    fn write_through(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.through.write(offset, data)
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.backend.try_lock_range(WHOLE.0, WHOLE.1) {
            // A system without locks.
            Err(BackendError::Unsupported) => Ok(true),
            locked => Ok(locked?),
        }
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Counts the syncs of a file, each of which fails from the second one on.
    #[derive(Debug)]
    struct Counting(FileBackend, AtomicU64);

    impl StorageBackend for Counting {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }

        fn set_len(&self, length: u64) -> io::Result<()> {
            self.0.set_len(length)
        }

        fn sync_data(&self) -> io::Result<()> {
            match self.1.fetch_add(1, Ordering::Relaxed) {
                0 => self.0.sync_data(),
                _ => Err(io::ErrorKind::StorageFull.into()),
            }
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(offset, data)
        }
    }

    /// No test can make a disk lose what was not synced, so it is counted: one sync is one of the file, which is not
    /// tried again, and nothing else is one.
    #[test]
    fn a_sync_is_one_of_the_file() {
        let file = tempfile::tempfile().unwrap();
        let storage = OsFile {
            backend: Counting(
                FileBackend::new(file.try_clone().unwrap()).unwrap(),
                AtomicU64::new(0),
            ),
            through: Through::new(file, Path::new("")),
        };
        let syncs = || storage.backend.1.load(Ordering::Relaxed);
        storage.set_length(100).unwrap();
        storage.write(10, b"data").unwrap();
        assert_eq!(syncs(), 0);
        storage.sync_data().unwrap();
        assert_eq!(syncs(), 1);
        let error = storage.sync_data().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(syncs(), 2);
        let mut found = [0; 4];
        storage.read(10, &mut found).unwrap();
        assert_eq!(&found, b"data");
    }
}
