//! Looking at files without changing them.
//!
//! Opening a log carries its journal out, lets redb repair itself and counts the start: all of it writes.
//! Through [`Unchanged`] the same code runs, and what it writes stays in memory.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::files::Files;
use crate::journal::{Changes, read_layers};
use crate::storage::Storage;

/// Files that can be opened and stay as they are.
#[derive(Debug)]
pub struct Unchanged<F>(pub F);

/// A file under the changes that are made to it, which nobody else sees.
#[derive(Debug)]
struct View {
    storage: Box<dyn Storage>,
    changes: Mutex<Changes>,
}

impl View {
    fn changes<T>(&self, work: impl FnOnce(&mut Changes) -> T) -> T {
        work(&mut self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Storage for View {
    fn length(&self) -> io::Result<u64> {
        Ok(self.changes(|changes| changes.length()))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.changes(|changes| {
            read_layers(&[changes], offset, out, |out| {
                self.storage.read(offset, out)
            })
        })
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.changes(|changes| changes.set_length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.changes(|changes| changes.write(offset, data.to_vec()));
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.storage.close()
    }

    /// A file that somebody writes to would change while it is looked at.
    fn try_lock(&self) -> io::Result<bool> {
        self.storage.try_lock()
    }
}

fn read_only() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

impl<F: Files> Files for Unchanged<F> {
    fn make_directory(&self, _path: &Path) -> io::Result<()> {
        Err(read_only())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        self.0.length(path)
    }

    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        self.0.free_bytes(directory)
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        self.0.names(directory)
    }

    fn create(&self, _path: &Path) -> io::Result<Box<dyn Storage>> {
        Err(read_only())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Storage>> {
        let storage = self.0.open(path)?;
        let changes = Mutex::new(Changes::none(storage.length()?));
        Ok(Box::new(View { storage, changes }))
    }

    fn sync(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn link(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(read_only())
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(read_only())
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        Err(read_only())
    }

    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.0.random(bytes)
    }
}
