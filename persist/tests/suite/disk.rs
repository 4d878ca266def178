//! A disk in memory that loses what was not synced, and fails when it is told to.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use quorate_persist::Storage;
use redb::StorageBackend;

pub(crate) const SECTOR: usize = 512;

/// Numbers from a seed (xorshift64*), so that a failure can be run again.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Handles share one disk, as two starts of a node share a file.
#[derive(Clone, Default, Debug)]
pub(crate) struct Disk(Arc<Mutex<Inner>>);

#[derive(Default, Debug)]
struct Inner {
    content: Vec<u8>,
    /// Every content that a sector had since the last sync; the first one is durable.
    versions: BTreeMap<usize, Vec<Vec<u8>>>,
    durable_length: usize,
    operations: u64,
    syncs: u64,
    reads: u64,
    fail_at: Option<(u64, Failure)>,
    /// How many operations were on the image of a log, and which of them fails, once.
    image_operations: u64,
    fail_image_at: Option<u64>,
    failed: Option<Operation>,
    fail_read_at: Option<u64>,
    dead: bool,
    sync_lies: bool,
}

/// What changes a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Write,
    SetLength,
    Sync,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failure {
    /// It may have its effect, and nothing works after it.
    PowerLoss,
    /// It has no effect; all others work.
    Once(io::ErrorKind),
}

impl Disk {
    pub(crate) fn holding(content: Vec<u8>) -> Self {
        let inner = Inner {
            durable_length: content.len(),
            content,
            ..Inner::default()
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// The same content on another disk, whose power fails at operation `fail_at`.
    pub(crate) fn failing_at(content: &[u8], fail_at: u64, sync_lies: bool) -> Self {
        let disk = Self::with_failure(content, fail_at, Failure::PowerLoss);
        disk.lock().sync_lies = sync_lies;
        disk
    }

    /// The same content on another disk, whose operation `at` fails like this.
    pub(crate) fn with_failure(content: &[u8], at: u64, failure: Failure) -> Self {
        let disk = Self::holding(content.to_vec());
        disk.lock().fail_at = Some((at, failure));
        disk
    }

    /// The same content on another disk, whose operation `at` on the image of the log fails, once. These have one
    /// order, whichever threads they come from.
    pub(crate) fn failing_in_image(content: &[u8], at: u64) -> Self {
        let disk = Self::holding(content.to_vec());
        disk.lock().fail_image_at = Some(at);
        disk
    }

    /// From now on, the read after `count` others fails, once.
    pub(crate) fn fail_read_after(&self, count: u64) {
        let mut inner = self.lock();
        inner.fail_read_at = Some(inner.reads + count + 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        self.lock().content.clone()
    }

    /// How many writes, syncs and changes of length there were.
    pub(crate) fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// How many of them were syncs.
    pub(crate) fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// How many reads there were.
    pub(crate) fn reads(&self) -> u64 {
        self.lock().reads
    }

    /// What failed, once something has.
    pub(crate) fn failed(&self) -> Option<Operation> {
        self.lock().failed
    }

    /// What a power loss leaves: of every sector any of its contents since the last sync, and the
    /// old length or the new one.
    pub(crate) fn after_power_loss(&self, rng: &mut Rng) -> Vec<u8> {
        self.lost(rng, |versions, rng| {
            versions[rng.below(versions.len())].clone()
        })
    }

    /// The same on a disk whose sectors can tear: each is the beginning of one of its contents and
    /// the end of another.
    pub(crate) fn after_torn_power_loss(&self, rng: &mut Rng) -> Vec<u8> {
        self.lost(rng, |versions, rng| {
            let mut sector = versions[rng.below(versions.len())].clone();
            let end = &versions[rng.below(versions.len())];
            let from = rng.below(SECTOR + 1);
            sector[from..].copy_from_slice(&end[from..]);
            sector
        })
    }

    /// What the end of a process leaves: everything, and what was not synced still is not.
    pub(crate) fn after_kill(&self) -> Self {
        let inner = self.lock();
        Self(Arc::new(Mutex::new(Inner {
            content: inner.content.clone(),
            versions: inner.versions.clone(),
            durable_length: inner.durable_length,
            ..Inner::default()
        })))
    }

    fn lost(&self, rng: &mut Rng, survivor: impl Fn(&[Vec<u8>], &mut Rng) -> Vec<u8>) -> Vec<u8> {
        let inner = self.lock();
        let mut content = inner.content.clone();
        let length = [inner.content.len(), inner.durable_length][rng.below(2)];
        content.resize(content.len().max(length).next_multiple_of(SECTOR), 0);
        for (&sector, versions) in &inner.versions {
            let survivor = survivor(versions, rng);
            let start = sector * SECTOR;
            if start + SECTOR <= content.len() {
                content[start..start + SECTOR].copy_from_slice(&survivor);
            }
        }
        content.truncate(length);
        content
    }
}

impl Inner {
    /// Counts an operation that changes something; says whether the power fails during it.
    fn operation(&mut self, operation: Operation) -> io::Result<bool> {
        if self.dead {
            return Err(power_failed());
        }
        self.operations += 1;
        self.syncs += u64::from(operation == Operation::Sync);
        let Some((_, failure)) = self.fail_at.filter(|(at, _)| *at == self.operations) else {
            return Ok(false);
        };
        self.failed = Some(operation);
        match failure {
            Failure::PowerLoss => self.dead = true,
            Failure::Once(kind) => return Err(kind.into()),
        }
        Ok(true)
    }

    /// The same for one on the image.
    fn image_operation(&mut self, operation: Operation) -> io::Result<bool> {
        self.image_operations += 1;
        if self.fail_image_at == Some(self.image_operations) {
            self.fail_at = Some((self.operations + 1, Failure::Once(io::ErrorKind::Other)));
        }
        self.operation(operation)
    }

    fn sector(&self, sector: usize) -> Vec<u8> {
        let start = (sector * SECTOR).min(self.content.len());
        let end = (start + SECTOR).min(self.content.len());
        let mut content = self.content[start..end].to_vec();
        content.resize(SECTOR, 0);
        content
    }

    /// Changes the sectors from byte `start` to `end`, remembering what they held.
    fn change(&mut self, start: usize, end: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let sectors = start / SECTOR..end.div_ceil(SECTOR);
        for sector in sectors.clone() {
            let before = self.sector(sector);
            self.versions.entry(sector).or_insert_with(|| vec![before]);
        }
        change(&mut self.content);
        for sector in sectors {
            let after = self.sector(sector);
            let versions = self.versions.get_mut(&sector).expect("remembered above");
            versions.push(after);
        }
    }
}

pub(crate) fn power_failed() -> io::Error {
    io::Error::other("the power failed")
}

impl Storage for Disk {
    fn write_through(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write(offset, data)?;
        let mut inner = self.lock();
        if inner.operation(Operation::Sync)? {
            return Err(power_failed());
        }
        let (start, end) = (offset as usize, offset as usize + data.len());
        assert!(
            start.is_multiple_of(SECTOR) && end.is_multiple_of(SECTOR),
            "what is written through shares no sector with anything else"
        );
        if !inner.sync_lies {
            for sector in start / SECTOR..end / SECTOR {
                inner.versions.remove(&sector);
            }
            inner.durable_length = inner.durable_length.max(end);
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.lock().content.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.dead {
            return Err(power_failed());
        }
        inner.reads += 1;
        if inner.fail_read_at == Some(inner.reads) {
            return Err(io::Error::other("the sector cannot be read"));
        }
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = start
            .checked_add(out.len())
            .and_then(|end| inner.content.get(start..end))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut inner = self.lock();
        let fails = inner.image_operation(Operation::SetLength)?;
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let old = inner.content.len();
        if length > 1 << 30 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.change(length.min(old), old, |content| content.resize(length, 0));
        if fails { Err(power_failed()) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.image_operation(Operation::Sync)? {
            return Err(power_failed());
        }
        if !inner.sync_lies {
            inner.versions.clear();
            inner.durable_length = inner.content.len();
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        let fails = match offset < IMAGE_AT {
            true => inner.operation(Operation::Write)?,
            false => inner.image_operation(Operation::Write)?,
        };
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + data.len();
        if end > inner.content.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        inner.change(start, end, |content| {
            content[start..end].copy_from_slice(data);
        });
        if fails { Err(power_failed()) } else { Ok(()) }
    }
}

/// A disk that redb has for itself, without a log.
#[derive(Debug)]
pub(crate) struct Bare(pub(crate) Disk);

impl StorageBackend for Bare {
    fn len(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_length(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

/// The redb database in a log that was closed, past its journal: `docs/disk.md`, "The journal".
#[derive(Debug)]
pub(crate) struct Image(pub(crate) Disk);

/// Where the image begins in a log with the smallest journal.
pub(crate) const IMAGE_AT: u64 = 2 * 4096 + 2 * (64 << 10);

impl StorageBackend for Image {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.length()? - IMAGE_AT)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(IMAGE_AT + offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_length(IMAGE_AT + length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(IMAGE_AT + offset, data)
    }

    /// Whoever changes the image says so in the journal's header.
    fn close(&self) -> io::Result<()> {
        let mut inner = self.0.lock();
        let image = IMAGE_AT as usize;
        let checksum = crc32c::crc32c(&inner.content[image..image + 4096]);
        for copy in [0, 4096] {
            let header = &mut inner.content[copy..copy + 76];
            header[68..72].copy_from_slice(&checksum.to_le_bytes());
            let whole = crc32c::crc32c(&header[..72]);
            header[72..].copy_from_slice(&whole.to_le_bytes());
        }
        Ok(())
    }
}
