//! For tests: the files of the system, and somebody who is asked before each change of them.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::{fmt, io};

use quorate_persist::{Files, OsFiles, Storage};

/// Told what is to be done, and how many bytes it writes. An error is what comes of it instead.
type Ask = dyn Fn(&'static str, usize) -> io::Result<()> + Send + Sync;

#[derive(Clone)]
pub(crate) struct Asking(Arc<Ask>);

impl Asking {
    pub(crate) fn new(
        ask: impl Fn(&'static str, usize) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(ask))
    }

    fn step(&self, what: &'static str) -> io::Result<()> {
        (self.0)(what, 0)
    }

    fn around(&self, file: Box<dyn Storage>) -> Box<dyn Storage> {
        let files = self.clone();
        Box::new(AskingFile { file, files })
    }
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asking")
    }
}

impl Files for Asking {
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
struct AskingFile {
    file: Box<dyn Storage>,
    files: Asking,
}

impl Storage for AskingFile {
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
        (self.files.0)("write", data.len())?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
