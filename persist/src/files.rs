//! What a node's files are kept on.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::storage::{OsFile, Storage};

/// A file system, as far as a node needs one, with the promises of POSIX and no more: what was
/// written survives a power loss once the file was synced, and a name once its directory was.
///
/// [`OsFiles`] is the real one. A simulation brings another, whose power can fail.
pub trait Files: fmt::Debug + Send + Sync + 'static {
    /// Makes a directory, and those above it, with no access for others. Nothing happens where there
    /// is one.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    fn make_directory(&self, path: &Path) -> io::Result<()>;

    /// Whether there is anything at `path`.
    ///
    /// # Errors
    ///
    /// When that cannot be told, which is not the same as "no".
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// How many bytes the file at `path` has.
    ///
    /// # Errors
    ///
    /// When that cannot be told.
    fn length(&self, path: &Path) -> io::Result<u64>;

    /// How many bytes more the file system of `directory` takes from a user without privileges.
    ///
    /// # Errors
    ///
    /// When that cannot be told.
    fn free_bytes(&self, directory: &Path) -> io::Result<u64>;

    /// The names in `directory`.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>>;

    /// Makes an empty file that only its user can read.
    ///
    /// # Errors
    ///
    /// Also when there is one already.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Storage>>;

    /// Opens a file to read and write.
    ///
    /// # Errors
    ///
    /// Also when there is none.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Storage>>;

    /// Makes content and length of the file at `path` survive a power loss, but not its name.
    ///
    /// # Errors
    ///
    /// When nobody knows whether they do.
    fn sync(&self, path: &Path) -> io::Result<()>;

    /// Gives the file at `from` a second name, and never replaces another file by that.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] when there is something at `to`.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives the file at `from` the name `to` instead, and takes that from the file that has it: at no
    /// moment, and after no power loss, does it name neither.
    ///
    /// # Errors
    ///
    /// When the names stay as they were.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name.
    ///
    /// # Errors
    ///
    /// When it stays.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in `directory` survive a power loss; syncing the files does not.
    ///
    /// # Errors
    ///
    /// When nobody knows whether they do.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;

    /// Fills `bytes` with what nobody can predict, for names, ids and secrets.
    ///
    /// # Errors
    ///
    /// When there is no randomness.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsFiles;

impl Files for OsFiles {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        let found = rustix::fs::statvfs(directory)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Storage>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Box::new(OsFile::new(file, path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Storage>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(OsFile::new(file, path)?))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::other)
    }
}
