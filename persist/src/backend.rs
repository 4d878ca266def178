//! The backend of a file without a journal.

use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use redb::{BackendError, StorageBackend};

use crate::storage::Storage;

/// How much may have been written and not be synced: some milliseconds of a disk's time. With all that a
/// checkpoint writes left to its end, the disk is given tens of MiB at once, and every commit of the log waits
/// behind them (256 clients on one slow disk: p99 of 68 instead of 40 ms). Too small: more syncs than writes.
const UNSYNCED_BYTES_MAX: usize = 1 << 20;

/// Any storage, since redb takes backends by type; synced while it is written, and not only when redb asks.
///
/// A page that becomes durable early is harmless: until the header names it, nothing does.
#[derive(Debug)]
pub(crate) struct Paced {
    storage: Box<dyn Storage>,
    /// Written since the last sync, or a little less where threads write at the same time.
    unsynced: AtomicUsize,
    /// A write or a sync has failed: nobody knows what is on the disk, and a sync that succeeds after that does not say
    /// it. redb stops by itself, but for writes that only make room in its cache.
    failed: AtomicBool,
}

impl Paced {
    pub(crate) fn new(storage: Box<dyn Storage>) -> Self {
        Self {
            storage,
            unsynced: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
        }
    }

    /// Does `work`, and nothing ever again after it failed.
    fn unless_failed(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier write to the file failed"));
        }
        let done = work();
        if done.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        done
    }
}

impl StorageBackend for Paced {
    fn len(&self) -> io::Result<u64> {
        self.storage.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.storage.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.unless_failed(|| self.storage.set_length(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.unsynced.store(0, Ordering::Relaxed);
        self.unless_failed(|| self.storage.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.unless_failed(|| self.storage.write(offset, data))?;
        let before = self.unsynced.fetch_add(data.len(), Ordering::Relaxed);
        if before.saturating_add(data.len()) >= UNSYNCED_BYTES_MAX {
            self.sync_data()?;
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.storage.close()
    }

    /// The whole file or nothing: redb then asks for no more.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        match (start, end) {
            (Bound::Unbounded | Bound::Included(0), Bound::Unbounded) => {
                self.storage.try_lock().map_err(BackendError::Io)
            }
            _ => Err(BackendError::Unsupported),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Counts what is not synced, and fails the sync number `fails`.
    #[derive(Debug, Default)]
    struct Disk {
        unsynced: usize,
        most: usize,
        syncs: usize,
        fails: Option<usize>,
    }

    #[derive(Debug)]
    struct OnDisk(Arc<Mutex<Disk>>);

    impl Storage for OnDisk {
        fn length(&self) -> io::Result<u64> {
            Ok(1 << 30)
        }

        fn read(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Ok(())
        }

        fn set_length(&self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            let mut disk = self.0.lock().unwrap();
            disk.syncs += 1;
            if disk.fails == Some(disk.syncs) {
                return Err(io::Error::other("no"));
            }
            disk.unsynced = 0;
            Ok(())
        }

        fn write(&self, _: u64, data: &[u8]) -> io::Result<()> {
            let mut disk = self.0.lock().unwrap();
            disk.unsynced += data.len();
            disk.most = disk.most.max(disk.unsynced);
            Ok(())
        }
    }

    fn paced(disk: &Arc<Mutex<Disk>>) -> Paced {
        Paced::new(Box::new(OnDisk(Arc::clone(disk))))
    }

    #[test]
    fn what_is_written_is_synced_before_it_is_much() {
        let disk = Arc::new(Mutex::new(Disk::default()));
        let paced = paced(&disk);
        let page = [0; 4096];
        for written in 1..=4 * UNSYNCED_BYTES_MAX / page.len() {
            paced.write(0, &page).unwrap();
            let syncs = written * page.len() / UNSYNCED_BYTES_MAX;
            assert_eq!(disk.lock().unwrap().syncs, syncs);
        }
        // A sync that was asked for counts as well.
        paced.write(0, &vec![0; UNSYNCED_BYTES_MAX - 1]).unwrap();
        paced.sync_data().unwrap();
        paced.write(0, &page).unwrap();
        let disk = disk.lock().unwrap();
        assert_eq!((disk.syncs, disk.most), (5, UNSYNCED_BYTES_MAX));
    }

    /// After a sync that failed nobody knows what is on the disk: whoever writes has to hear of it, and so has
    /// everybody after that, though the disk says that all is well again.
    #[test]
    fn a_sync_that_fails_is_the_last() {
        let disk = Arc::new(Mutex::new(Disk {
            fails: Some(1),
            ..Disk::default()
        }));
        let paced = paced(&disk);
        paced.write(0, &vec![0; UNSYNCED_BYTES_MAX - 1]).unwrap();
        paced.write(0, &[0]).unwrap_err();
        assert_eq!(disk.lock().unwrap().syncs, 1);
        paced.sync_data().unwrap_err();
        paced.write(0, &[0]).unwrap_err();
        paced.set_len(1).unwrap_err();
        assert_eq!(
            disk.lock().unwrap().syncs,
            1,
            "nobody asks the disk any more"
        );
    }
}
