//! Writing and syncing some bytes of a file alone, where other parts of it may be dirty.

use std::fs::File;
use std::io;
use std::path::Path;

/// A file of which parts are made durable.
#[derive(Debug)]
pub(crate) struct Through {
    file: File,
    #[cfg(target_os = "linux")]
    direct: Option<linux::Direct>,
}

#[cfg(target_os = "linux")]
impl Through {
    /// `file`, which was opened at `path`.
    pub(crate) fn new(file: File, path: &Path) -> Self {
        let direct = linux::Direct::open(path, &file);
        Self { file, direct }
    }

    /// As [`Storage::write_through`](crate::Storage::write_through).
    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let done = match &self.direct {
            Some(direct) => direct.write(offset, data)?,
            None => 0,
        };
        linux::write(&self.file, offset + done as u64, &data[done..])
    }
}

#[cfg(not(target_os = "linux"))]
impl Through {
    /// `file`, which was opened at `path`.
    pub(crate) fn new(file: File, _path: &Path) -> Self {
        Self { file }
    }

    /// As [`Storage::write_through`](crate::Storage::write_through).
    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.file.write_all_at(data, offset)?;
        self.file.sync_data()
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::{File, OpenOptions};
    use std::io::{self, IoSlice};
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    use std::path::Path;
    use std::sync::{Mutex, PoisonError};

    use rustix::fs::OFlags;
    use rustix::io::{Errno, ReadWriteFlags, pwritev2};

    /// What place, length and memory of a direct write are a multiple of: at least the blocks of every disk
    /// in use.
    const ALIGNMENT: usize = 4096;

    /// How much memory is kept for the next write: more than that of a commit under full load. Larger ones
    /// bring their own.
    const KEPT_BYTES: usize = 1 << 20;

    /// Writes with one call, which also syncs.
    pub(super) fn write(file: &File, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            match write_some(file, offset, data) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    data = &data[written..];
                    offset += written as u64;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write_some(file: &File, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        match pwritev2(file, &[IoSlice::new(data)], offset, ReadWriteFlags::DSYNC) {
            Err(Errno::INTR) => write_some(file, offset, data),
            done => done,
        }
    }

    /// The file past the page cache, which would only be in the way: what is written is not read before the
    /// next start, and to find and mark its pages takes longer than to copy the bytes.
    #[derive(Debug)]
    pub(super) struct Direct {
        file: File,
        buffer: Mutex<Vec<u8>>,
    }

    impl Direct {
        /// Nothing where the file system has no such way, or when another file is at `path` by now.
        pub(super) fn open(path: &Path, same: &File) -> Option<Self> {
            let flags = i32::try_from(OFlags::DIRECT.bits()).ok()?;
            let file = OpenOptions::new()
                .write(true)
                .custom_flags(flags)
                .open(path)
                .ok()?;
            let which = |file: &File| file.metadata().map(|it| (it.dev(), it.ino())).ok();
            let is_same = which(&file).is_some() && which(&file) == which(same);
            is_same.then(|| Self {
                file,
                buffer: Mutex::default(),
            })
        }

        /// Writes and syncs whole blocks from the beginning of `data`, and returns how many bytes; zero when
        /// that is not possible here.
        pub(super) fn write(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
            let aligned = |length: u64| length.is_multiple_of(ALIGNMENT as u64);
            if !aligned(offset) || !aligned(data.len() as u64) {
                return Ok(0);
            }
            let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
            buffer.clear();
            buffer.reserve(data.len() + ALIGNMENT);
            let pad = buffer.as_ptr().align_offset(ALIGNMENT);
            if pad >= ALIGNMENT {
                return Ok(0);
            }
            buffer.resize(pad, 0);
            buffer.extend_from_slice(data);
            let mut done = 0;
            while done < data.len() {
                match write_some(&self.file, offset + done as u64, &buffer[pad + done..]) {
                    // The rest takes the other way.
                    Ok(0) | Err(Errno::INVAL) => break,
                    Ok(written) => done += written,
                    Err(error) => return Err(error.into()),
                }
            }
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES);
            Ok(done)
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::through::Through;

        /// Blocks go past the cache where the file system can do that, everything else through it, and both
        /// are found in the file.
        #[test]
        fn what_is_written_either_way_is_in_the_file() {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            std::fs::write(&path, vec![0; 4 * ALIGNMENT]).unwrap();
            let open = || {
                let options = OpenOptions::new().read(true).write(true).open(&path);
                options.unwrap()
            };
            let through = Through::new(open(), &path);
            let buffered = Through {
                file: open(),
                direct: None,
            };
            let mut expected = vec![0; 4 * ALIGNMENT];
            let ways = [&through, &buffered].into_iter().cycle();
            for (byte, ((offset, length), way)) in (1..).zip(
                [
                    (0, ALIGNMENT),
                    (ALIGNMENT, 2 * ALIGNMENT),
                    (ALIGNMENT, 3 * ALIGNMENT),
                    (ALIGNMENT, 100),
                    (300, ALIGNMENT),
                    (ALIGNMENT + 1, ALIGNMENT),
                    (ALIGNMENT, ALIGNMENT),
                ]
                .into_iter()
                .zip(ways),
            ) {
                way.write(offset as u64, &vec![byte; length]).unwrap();
                expected[offset..offset + length].fill(byte);
                assert_eq!(std::fs::read(&path).unwrap(), expected, "{byte}");
            }
            if let Some(direct) = through.direct {
                assert_eq!(direct.write(1, &[77; ALIGNMENT]).unwrap(), 0);
                assert_eq!(direct.write(0, &[77; 1]).unwrap(), 0);
                assert_eq!(std::fs::read(&path).unwrap(), expected);
            }
        }

        /// A second name of nothing, or of another file, is not taken for the first.
        #[test]
        fn another_file_is_not_written_to() {
            let directory = tempfile::tempdir().unwrap();
            let at = |name: &str| directory.path().join(name);
            std::fs::write(at("one"), "one").unwrap();
            std::fs::write(at("other"), "other").unwrap();
            let one = File::open(at("one")).unwrap();
            assert!(Direct::open(&at("other"), &one).is_none());
            assert!(Direct::open(&at("none"), &one).is_none());
        }
    }
}
