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
        self.write_by(linux::SYSTEM, offset, data)
    }

    fn write_by(&self, system: &linux::System<'_>, offset: u64, data: &[u8]) -> io::Result<()> {
        let done = match &self.direct {
            Some(direct) => direct.write(system, offset, data)?,
            None => 0,
        };
        linux::write(system, &self.file, offset + done as u64, &data[done..])
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

    /// What writes at a place: a parameter, since no test can make a disk lose what was not synced.
    pub(super) type System<'a> =
        dyn Fn(&File, &[IoSlice<'_>], u64, ReadWriteFlags) -> Result<usize, Errno> + 'a;

    /// The operating system.
    pub(super) const SYSTEM: &System<'static> =
        &|file, data, offset, flags| pwritev2(file, data, offset, flags);

    /// Writes with one call, which also syncs.
    pub(super) fn write(
        system: &System<'_>,
        file: &File,
        mut offset: u64,
        mut data: &[u8],
    ) -> io::Result<()> {
        while !data.is_empty() {
            match write_some(system, file, offset, data) {
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

    fn write_some(
        system: &System<'_>,
        file: &File,
        offset: u64,
        data: &[u8],
    ) -> Result<usize, Errno> {
        match system(file, &[IoSlice::new(data)], offset, ReadWriteFlags::DSYNC) {
            Err(Errno::INTR) => write_some(system, file, offset, data),
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
        pub(super) fn write(
            &self,
            system: &System<'_>,
            offset: u64,
            data: &[u8],
        ) -> io::Result<usize> {
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
                let rest = &buffer[pad + done..];
                match write_some(system, &self.file, offset + done as u64, rest) {
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
        use std::cell::RefCell;

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
                assert_eq!(direct.write(SYSTEM, 1, &[77; ALIGNMENT]).unwrap(), 0);
                assert_eq!(direct.write(SYSTEM, 0, &[77; 1]).unwrap(), 0);
                assert_eq!(std::fs::read(&path).unwrap(), expected);
            }
        }

        /// Any file: for a system that is none, that it has no cache need not be so.
        fn one_way(is_direct: bool) -> Through {
            let open = || tempfile::tempfile().unwrap();
            let direct = is_direct.then(|| Direct {
                file: open(),
                buffer: Mutex::default(),
            });
            let file = open();
            Through { file, direct }
        }

        /// How the system answers a call: so many bytes, or an error.
        type Answer = Result<usize, Errno>;

        /// Whether it is past the cache, where, and what.
        type Call = (bool, u64, Vec<u8>);

        /// Writes `data` at `offset` with a system that gives `answers` in turn, and all that is asked after them.
        /// Returns what came of it and every call.
        fn calls(
            through: &Through,
            answers: &[Answer],
            offset: u64,
            data: &[u8],
        ) -> (io::Result<()>, Vec<Call>) {
            let calls = RefCell::new(Vec::new());
            let system = |file: &File, data: &[IoSlice<'_>], offset, flags| {
                assert_eq!(flags, ReadWriteFlags::DSYNC, "it is synced with the write");
                let [data] = data else {
                    panic!("{} pieces", data.len());
                };
                let is_direct = !std::ptr::eq(file, &raw const through.file);
                let mut calls = calls.borrow_mut();
                let answer = answers.get(calls.len()).copied();
                calls.push((is_direct, offset, data.to_vec()));
                answer.unwrap_or(Ok(data.len()))
            };
            let written = through.write_by(&system, offset, data);
            (written, calls.into_inner())
        }

        /// Every call syncs what it writes, on either way, and what one leaves is written by the next, at its place.
        #[test]
        fn every_call_syncs_and_the_next_one_goes_on_where_it_ended() {
            let (buffered, direct) = (one_way(false), one_way(true));
            let at = 8192;
            let data: Vec<u8> = (0..2 * ALIGNMENT).map(|byte| (byte % 251) as u8).collect();
            let rest =
                |is_direct, from: usize| (is_direct, at + from as u64, data[from..].to_vec());
            for (what, through, answers, expected) in [
                ("whole", &buffered, &[][..], vec![rest(false, 0)]),
                ("whole", &direct, &[], vec![rest(true, 0)]),
                (
                    "short",
                    &buffered,
                    &[Ok(1), Ok(4999)],
                    vec![rest(false, 0), rest(false, 1), rest(false, 5000)],
                ),
                (
                    "short",
                    &direct,
                    &[Ok(ALIGNMENT)],
                    vec![rest(true, 0), rest(true, ALIGNMENT)],
                ),
                (
                    "interrupted",
                    &buffered,
                    &[Err(Errno::INTR), Ok(7), Err(Errno::INTR)],
                    vec![
                        rest(false, 0),
                        rest(false, 0),
                        rest(false, 7),
                        rest(false, 7),
                    ],
                ),
                (
                    "refused past the cache",
                    &direct,
                    &[Err(Errno::INVAL)],
                    vec![rest(true, 0), rest(false, 0)],
                ),
                (
                    "refused later",
                    &direct,
                    &[Ok(ALIGNMENT), Err(Errno::INVAL), Ok(9)],
                    vec![
                        rest(true, 0),
                        rest(true, ALIGNMENT),
                        rest(false, ALIGNMENT),
                        rest(false, ALIGNMENT + 9),
                    ],
                ),
            ] {
                let (written, calls) = calls(through, answers, at, &data);
                written.unwrap();
                assert!(calls == expected, "{what}: {:?}", places(&calls));
            }
            // A part of a block goes through the cache.
            let (written, calls) = calls(&direct, &[], 1, &data);
            written.unwrap();
            assert_eq!(places(&calls), [(false, 1, data.len())]);
        }

        /// A call that fails is not repeated, on the other way neither, and one that writes nothing is an error.
        #[test]
        fn a_call_that_fails_is_the_last_one() {
            for direct in [false, true] {
                let through = one_way(direct);
                for before in [&[][..], &[Ok(ALIGNMENT)]] {
                    let answers = [before, &[Err(Errno::IO)]].concat();
                    let (written, calls) = calls(&through, &answers, 0, &[1; 3 * ALIGNMENT]);
                    let error = written.unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
                    assert_eq!(calls.len(), answers.len());
                }
            }
            let (written, calls) = calls(&one_way(false), &[Ok(100), Ok(0)], 0, &[1; ALIGNMENT]);
            assert_eq!(written.unwrap_err().kind(), io::ErrorKind::WriteZero);
            assert_eq!(calls.len(), 2);
        }

        fn places(calls: &[Call]) -> Vec<(bool, u64, usize)> {
            let place = |(direct, offset, data): &Call| (*direct, *offset, data.len());
            calls.iter().map(place).collect()
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
