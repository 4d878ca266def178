//! A disk in memory that loses what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

const SECTOR: usize = 512;

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
    fail_at: Option<u64>,
    dead: bool,
    sync_lies: bool,
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
        let disk = Self::holding(content.to_vec());
        {
            let mut inner = disk.lock();
            inner.fail_at = Some(fail_at);
            inner.sync_lies = sync_lies;
        }
        disk
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

    /// What a power loss leaves: of every sector any of its contents since the last sync, and the
    /// old length or the new one.
    pub(crate) fn after_power_loss(&self, rng: &mut Rng) -> Vec<u8> {
        let inner = self.lock();
        let mut content = inner.content.clone();
        let length = [inner.content.len(), inner.durable_length][rng.below(2)];
        content.resize(content.len().max(length).next_multiple_of(SECTOR), 0);
        for (&sector, versions) in &inner.versions {
            let survivor = &versions[rng.below(versions.len())];
            let start = sector * SECTOR;
            if start + SECTOR <= content.len() {
                content[start..start + SECTOR].copy_from_slice(survivor);
            }
        }
        content.truncate(length);
        content
    }
}

impl Inner {
    /// Counts an operation that changes something; says whether the power fails during it.
    fn operation(&mut self) -> io::Result<bool> {
        if self.dead {
            return Err(power_failed());
        }
        self.operations += 1;
        self.dead = self.fail_at == Some(self.operations);
        Ok(self.dead)
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

fn power_failed() -> io::Error {
    io::Error::other("the power failed")
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().content.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.lock();
        if inner.dead {
            return Err(power_failed());
        }
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = start
            .checked_add(out.len())
            .and_then(|end| inner.content.get(start..end))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut inner = self.lock();
        let fails = inner.operation()?;
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
        if inner.operation()? {
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
        let fails = inner.operation()?;
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
