//! Files of which everything fails from some operation on, as after a crash, and which can be held up.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use quorate_persist::{Files, OsFiles, Storage};

#[derive(Clone, Debug)]
pub(super) struct Failing(Arc<Mutex<Record>>);

#[derive(Debug)]
struct Record {
    /// How many operations that change something still succeed.
    left: usize,
    /// What was done.
    done: Vec<&'static str>,
}

impl Failing {
    /// `left` operations succeed.
    pub(super) fn after(left: usize) -> Self {
        let done = Vec::new();
        Self(Arc::new(Mutex::new(Record { left, done })))
    }

    /// What was done so far, in order.
    pub(super) fn done(&self) -> Vec<&'static str> {
        self.record(|record| record.done.clone())
    }

    /// Does `meanwhile` while nobody can change anything.
    pub(super) fn held_up<T>(&self, meanwhile: impl FnOnce() -> T) -> T {
        self.record(|_| meanwhile())
    }

    fn record<T>(&self, with: impl FnOnce(&mut Record) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn step(&self, what: &'static str) -> io::Result<()> {
        self.record(|record| {
            record.left = record
                .left
                .checked_sub(1)
                .ok_or_else(|| io::Error::other("the disk is gone"))?;
            record.done.push(what);
            Ok(())
        })
    }

    fn around(&self, file: Box<dyn Storage>) -> Box<dyn Storage> {
        let files = self.clone();
        Box::new(FailingFile { file, files })
    }
}

impl Files for Failing {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        OsFiles.make_directory(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        OsFiles.exists(path)
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        OsFiles.length(path)
    }

    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        OsFiles.free_bytes(directory)
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        OsFiles.names(directory)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Storage>> {
        self.step("create")?;
        Ok(self.around(OsFiles.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Storage>> {
        Ok(self.around(OsFiles.open(path)?))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.step("sync")?;
        OsFiles.sync(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("link")?;
        OsFiles.link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename")?;
        OsFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step("remove")?;
        OsFiles.remove(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.step("sync directory")?;
        OsFiles.sync_directory(directory)
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        OsFiles.random(bytes)
    }
}

#[derive(Debug)]
struct FailingFile {
    file: Box<dyn Storage>,
    files: Failing,
}

impl Storage for FailingFile {
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.files.step("set length")?;
        self.file.set_length(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.files.step("sync data")?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.files.step("write")?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
