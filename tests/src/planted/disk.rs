//! Bugs between a node and a file.

use std::io;

use quorate_persist::Storage;

use super::is;

/// `file`, with the bug that is planted there, if one is.
pub(crate) fn around(file: Box<dyn Storage>) -> Box<dyn Storage> {
    let planted = ["no-fsync", "io-errors-ignored", "failed-sync-repeated"];
    match planted.iter().any(|bug| is(bug)) {
        true => Box::new(Faulty(file)),
        false => file,
    }
}

/// A file whose owner does not take care of it.
#[derive(Debug)]
struct Faulty(Box<dyn Storage>);

impl Storage for Faulty {
    fn write_through(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if is("no-fsync") {
            return self.0.write(offset, data);
        }
        unless_ignored(self.0.write_through(offset, data))
    }

    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        unless_ignored(self.0.set_length(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        if is("no-fsync") {
            return Ok(());
        }
        let synced = self.0.sync_data();
        match is("failed-sync-repeated") {
            true => synced.or_else(|_| self.0.sync_data()),
            false => unless_ignored(synced),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        unless_ignored(self.0.write(offset, data))
    }
}

fn unless_ignored(result: io::Result<()>) -> io::Result<()> {
    match is("io-errors-ignored") {
        true => Ok(()),
        false => result,
    }
}
