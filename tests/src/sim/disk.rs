//! A disk that keeps what POSIX promises and, when the power fails, nothing more.
//!
//! Of a file that was not synced, each sector that was written since survives in any of the forms it
//! had, or torn; a name survives in whichever way once it was changed and its directory not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_persist::{Files, Storage};

use super::chance;
use super::engine::Engine;
use crate::planted;
use crate::rng::Rng;

const SECTOR_BYTES: usize = 512;

/// How a disk fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Nothing works any more (EIO).
    Broken,
    /// Nothing more fits (ENOSPC); reading works.
    Full,
    /// A file ends before its end.
    ShortRead,
    /// One sync fails, and what it was for is lost: the next one succeeds without it (Rebello and others,
    /// ATC 2020).
    LostSync,
}

/// The disk of one host. Clones are the same disk.
#[derive(Clone)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Clone)]
struct State {
    files: BTreeMap<u64, Content>,
    /// Files and directories, which are files without content.
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    next_file: u64,
    /// Counts processes: handles of an earlier one do nothing.
    life: u64,
    operations: u64,
    /// From which operation on it fails, and how.
    failing: Option<(u64, Failure)>,
    /// How many of the writes that are synced next are lost though they were promised.
    losing: u64,
    /// Whether it says that all is synced, and nothing is.
    lying: bool,
    rng: Rng,
    syncs: u64,
}

#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    durable_length: usize,
    /// What every write since the last sync replaced, oldest first.
    unsynced: Vec<Replaced>,
}

/// What was there before a write. Where it ends early, the file had ended.
#[derive(Clone)]
struct Replaced {
    from: usize,
    to: usize,
    before: Vec<u8>,
}

impl Disk {
    pub(super) fn new(seed: u64, host: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            next_file: 0,
            life: 0,
            operations: 0,
            failing: None,
            losing: 0,
            lying: false,
            rng: Rng::stream(seed ^ host.rotate_left(32), "disk"),
            syncs: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files, for one process. `engine` is told who waits for the disk.
    pub(super) fn mount(&self, engine: Option<Engine>) -> Arc<dyn Files> {
        Arc::new(Mounted {
            disk: self.clone(),
            life: self.state().life,
            engine,
        })
    }

    /// The process that used the disk has ended: nothing it does any more has an effect.
    pub(super) fn cut_off(&self) {
        let mut state = self.state();
        state.life += 1;
        state.failing = None;
        state.losing = 0;
    }

    /// The power has failed.
    pub(super) fn lose_power(&self) {
        self.state().lose_power();
    }

    /// What would be there if the power failed now and everything unsynced were lost.
    pub(super) fn durable_image(&self) -> Self {
        let mut state = self.state().clone();
        state.failing = None;
        state.keep(0);
        Self(Arc::new(Mutex::new(state)))
    }

    /// Nothing is left on it.
    pub(super) fn wipe(&self) {
        let mut state = self.state();
        state.files.clear();
        state.names.clear();
        state.durable_names.clear();
    }

    /// A copy of what is durable, to be restored later.
    pub(super) fn restore(&self, image: &Self) {
        let image = image.state().clone();
        let mut state = self.state();
        state.files = image.files;
        state.names = image.names;
        state.durable_names = image.durable_names;
        state.next_file = state.next_file.max(image.next_file);
    }

    /// Fails from the `after`-th operation from now on until the process ends.
    pub(super) fn fail(&self, after: u64, how: Failure) {
        let mut state = self.state();
        state.failing = Some((state.operations + after, how));
    }

    /// Loses `writes` of those that are synced next, without a word.
    pub(super) fn lose_writes(&self, writes: u64) {
        self.state().losing = writes;
    }

    /// From now on it only says that it syncs.
    pub(super) fn lie(&self) {
        self.state().lying = true;
    }

    /// Puts what is stored in one sector of a file also where another belongs; false when no file has two.
    pub(super) fn misplace_sector(&self) -> bool {
        let mut state = self.state();
        let state = &mut *state;
        let large = |content: &&mut Content| content.bytes.len() >= 2 * SECTOR_BYTES;
        let mut files: Vec<_> = state.files.values_mut().filter(large).collect();
        if files.is_empty() {
            return false;
        }
        let file = state.rng.within(0..files.len() as u64) as usize;
        let bytes = &mut files[file].bytes;
        let sectors = (bytes.len() / SECTOR_BYTES) as u64;
        let from = state.rng.within(0..sectors) as usize * SECTOR_BYTES;
        let to = state.rng.within(0..sectors) as usize * SECTOR_BYTES;
        bytes.copy_within(from..from + SECTOR_BYTES, to);
        true
    }

    /// Turns one bit of what is stored; false when nothing is.
    pub(super) fn flip_bit(&self) -> bool {
        let mut state = self.state();
        let state = &mut *state;
        let total: usize = state
            .files
            .values()
            .map(|content| content.bytes.len())
            .sum();
        if total == 0 {
            return false;
        }
        let mut at = state.rng.within(0..total as u64) as usize;
        for content in state.files.values_mut() {
            if at < content.bytes.len() {
                content.bytes[at] ^= 1 << state.rng.within(0..8);
                return true;
            }
            at -= content.bytes.len();
        }
        unreachable!("the byte lies in one of the files")
    }

    pub(super) fn syncs(&self) -> u64 {
        self.state().syncs
    }
}

impl State {
    fn lose_power(&mut self) {
        self.lying = false;
        // Everything, nothing and anything between are different kinds of trouble.
        let keep_percent = *self.rng.pick(&[0, 10, 50, 50, 90, 100]);
        self.keep(keep_percent);
    }

    /// Keeps so many of a hundred unsynced sectors, lengths and names, and syncs what is left.
    fn keep(&mut self, percent: u64) {
        let changed: BTreeSet<PathBuf> = self
            .names
            .keys()
            .chain(self.durable_names.keys())
            .cloned()
            .collect();
        for path in changed {
            let (live, durable) = (self.names.get(&path), self.durable_names.get(&path));
            if live == durable || self.rng.chance(percent) {
                continue;
            }
            match durable.copied() {
                Some(file) => self.names.insert(path, file),
                None => self.names.remove(&path),
            };
        }
        // What lies in a directory that is gone is gone as well. Parents come before their children.
        let mut reachable: BTreeMap<PathBuf, u64> = BTreeMap::new();
        for (path, file) in std::mem::take(&mut self.names) {
            let parent = path.parent().unwrap_or(Path::new("/"));
            if parent.parent().is_none() || reachable.contains_key(parent) {
                reachable.insert(path, file);
            }
        }
        self.names = reachable;
        self.durable_names = self.names.clone();
        let kept: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|file, _| kept.contains(file));
        for content in self.files.values_mut() {
            content.keep(percent, &mut self.rng);
        }
    }

    fn operate(&mut self, life: u64, writes: bool) -> io::Result<()> {
        if life != self.life {
            return Err(io::Error::other("the process has ended"));
        }
        self.operations += 1;
        match self.failing {
            Some((from, Failure::Broken)) if self.operations >= from => {
                Err(io::Error::from_raw_os_error(5))
            }
            Some((from, Failure::Full)) if self.operations >= from && writes => {
                Err(io::ErrorKind::StorageFull.into())
            }
            Some((from, Failure::ShortRead)) if self.operations >= from && !writes => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the sync that is going on is the one that fails.
    fn loses_sync(&mut self) -> bool {
        let now = self.operations;
        let lost = |&mut (from, how): &mut _| how == Failure::LostSync && now >= from;
        self.failing.take_if(lost).is_some()
    }

    fn create(&mut self, path: &Path) -> u64 {
        self.next_file += 1;
        self.files.insert(self.next_file, Content::default());
        self.names.insert(path.to_owned(), self.next_file);
        self.next_file
    }

    fn file(&self, path: &Path) -> io::Result<u64> {
        let file = self.names.get(path).copied();
        file.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn content(&mut self, file: u64) -> io::Result<&mut Content> {
        let content = self.files.get_mut(&file);
        content.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Content {
    /// Puts aside what the file holds from `from` to `to`, before it is written.
    fn save(&mut self, from: usize, to: usize) {
        let end = self.bytes.len();
        let before = self.bytes[from.min(end)..to.min(end)].to_vec();
        self.unsynced.push(Replaced { from, to, before });
    }

    fn sync(&mut self) {
        self.unsynced.clear();
        self.durable_length = self.bytes.len();
    }

    /// What was written from `from` to `to` is durable, and nothing else.
    fn sync_range(&mut self, from: usize, to: usize) {
        let unsynced = std::mem::take(&mut self.unsynced);
        for replaced in unsynced {
            let outside = [
                replaced.part(replaced.from, from.min(replaced.to)),
                replaced.part(to.max(replaced.from), replaced.to),
            ];
            self.unsynced.extend(outside.into_iter().flatten());
        }
        self.durable_length = self.durable_length.max(to);
    }

    /// Takes back everything since the last sync.
    fn lose_all(&mut self) {
        let unsynced = std::mem::take(&mut self.unsynced);
        // What was cut off comes back with what it held.
        let end = unsynced.iter().map(|lost| lost.to).max().unwrap_or(0);
        self.bytes.resize(end.max(self.bytes.len()), 0);
        for lost in unsynced.iter().rev() {
            lost.put_back(&mut self.bytes);
        }
        self.bytes.resize(self.durable_length, 0);
    }

    /// Takes one write since the last sync back, wherever it was.
    fn lose_one(&mut self, rng: &mut Rng) {
        if !self.unsynced.is_empty() {
            let lost = rng.within(0..self.unsynced.len() as u64) as usize;
            let lost = self.unsynced.swap_remove(lost);
            lost.put_back(&mut self.bytes);
        }
    }

    fn keep(&mut self, percent: u64, rng: &mut Rng) {
        let live = self.bytes.len();
        let keeps_length = rng.chance(percent);
        // What was cut off comes back with the old length.
        let cut_from = if keeps_length {
            usize::MAX
        } else {
            live / SECTOR_BYTES
        };
        let versions = self.versions();
        if !keeps_length {
            self.bytes.resize(self.durable_length, 0);
        }
        for (sector, versions) in versions {
            if sector < cut_from && rng.chance(percent) {
                continue;
            }
            let version = match percent {
                // Not one write since the last sync survives.
                0 => versions
                    .last()
                    .expect("a written sector had a version before"),
                _ => rng.pick(&versions),
            };
            let torn = percent > 0 && rng.chance(10);
            let skip = if torn {
                rng.within(0..SECTOR_BYTES as u64)
            } else {
                0
            };
            self.revert(sector, version, skip as usize);
        }
        self.sync();
    }

    /// What each sector written since the last sync held before, newest first.
    fn versions(&self) -> BTreeMap<usize, Vec<Vec<u8>>> {
        let written = self.unsynced.iter().map(|replaced| replaced.to).max();
        let mut image = self.bytes.clone();
        let end = image
            .len()
            .max(written.unwrap_or(0))
            .next_multiple_of(SECTOR_BYTES);
        image.resize(end, 0);
        let mut versions: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
        for replaced in self.unsynced.iter().rev() {
            replaced.put_back(&mut image);
            for sector in replaced.from / SECTOR_BYTES..=(replaced.to - 1) / SECTOR_BYTES {
                let at = sector * SECTOR_BYTES;
                let version = image[at..at + SECTOR_BYTES].to_vec();
                versions.entry(sector).or_default().push(version);
            }
        }
        versions
    }

    /// Puts `version` back, but for its first `skip` bytes.
    fn revert(&mut self, sector: usize, version: &[u8], skip: usize) {
        let end = self.bytes.len();
        let from = (sector * SECTOR_BYTES + skip).min(end);
        let to = ((sector + 1) * SECTOR_BYTES).min(end);
        self.bytes[from..to].copy_from_slice(&version[skip..skip + (to - from)]);
    }
}

impl Replaced {
    /// The same between `from` and `to`, where there is anything.
    fn part(&self, from: usize, to: usize) -> Option<Self> {
        (from < to).then(|| {
            let end = self.before.len();
            let (first, last) = (from - self.from, to - self.from);
            let before = self.before[first.min(end)..last.min(end)].to_vec();
            Self { from, to, before }
        })
    }

    fn put_back(&self, bytes: &mut [u8]) {
        let to = self.to.min(bytes.len());
        let (kept, was_after_end) = bytes[self.from.min(to)..to]
            .split_at_mut(self.before.len().min(to.saturating_sub(self.from)));
        kept.copy_from_slice(&self.before[..kept.len()]);
        was_after_end.fill(0);
    }
}

/// The files of one process.
#[derive(Clone)]
struct Mounted {
    disk: Disk,
    life: u64,
    engine: Option<Engine>,
}

impl fmt::Debug for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mounted(life {})", self.life)
    }
}

impl Mounted {
    fn reads(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.disk.state();
        state.operate(self.life, false)?;
        Ok(state)
    }

    fn writes(&self) -> io::Result<MutexGuard<'_, State>> {
        if let Some(engine) = &self.engine {
            engine.note_disk_use();
        }
        let mut state = self.disk.state();
        state.operate(self.life, true)?;
        Ok(state)
    }

    fn handle(&self, file: u64) -> Box<dyn Storage> {
        planted::around_disk(Box::new(Handle {
            mounted: self.clone(),
            file,
        }))
    }
}

impl Files for Mounted {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.writes()?;
        for path in path.ancestors().filter(|path| path.parent().is_some()) {
            if !state.names.contains_key(path) {
                state.create(path);
            }
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.reads()?;
        Ok(path.parent().is_none() || state.names.contains_key(path))
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        let mut state = self.reads()?;
        let file = state.file(path)?;
        Ok(state.content(file)?.bytes.len() as u64)
    }

    /// It fills up by faults, and not by what is written.
    fn free_bytes(&self, _directory: &Path) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let state = self.reads()?;
        let inside = state
            .names
            .keys()
            .filter(|path| path.parent() == Some(directory));
        Ok(inside
            .filter_map(|path| path.file_name().map(ToOwned::to_owned))
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Storage>> {
        let mut state = self.writes()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.create(path);
        drop(state);
        Ok(self.handle(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Storage>> {
        let file = self.reads()?.file(path)?;
        Ok(self.handle(file))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        if planted::is("no-fsync") {
            return Ok(());
        }
        let mut state = self.writes()?;
        let file = state.file(path)?;
        if !state.lying {
            state.content(file)?.sync();
        }
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.writes()?;
        if state.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.file(from)?;
        state.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.writes()?;
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.writes()?;
        let removed = state.names.remove(path);
        removed
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        if planted::is("directory-not-synced") {
            return Ok(());
        }
        let mut state = self.writes()?;
        let state = &mut *state;
        if state.lying {
            return Ok(());
        }
        let inside = |path: &Path| path.parent() == Some(directory);
        state.durable_names.retain(|path, _| !inside(path));
        let now = state.names.iter().filter(|(path, _)| inside(path));
        state
            .durable_names
            .extend(now.map(|(path, file)| (path.clone(), *file)));
        Ok(())
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        chance::fill(bytes);
        Ok(())
    }
}

struct Handle {
    mounted: Mounted,
    file: u64,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({} of {:?})", self.file, self.mounted)
    }
}

impl Storage for Handle {
    fn write_through(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write(offset, data)?;
        let mut state = self.mounted.writes()?;
        state.syncs += 1;
        if state.lying {
            return Ok(());
        }
        let fails = state.loses_sync();
        let lost = std::mem::take(&mut state.losing) > 0;
        let content = state.content(self.file)?;
        let written = content.unsynced.pop().expect("written just now");
        if lost || fails {
            written.put_back(&mut content.bytes);
        } else {
            content.sync_range(written.from, written.to);
        }
        match fails {
            true => Err(io::Error::from_raw_os_error(5)),
            false => Ok(()),
        }
    }

    fn length(&self) -> io::Result<u64> {
        let mut state = self.mounted.reads()?;
        Ok(state.content(self.file)?.bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.mounted.reads()?;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = &state.content(self.file)?.bytes;
        let found = bytes.get(from..from + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut state = self.mounted.writes()?;
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let content = state.content(self.file)?;
        if length < content.bytes.len() {
            content.save(length, content.bytes.len());
        }
        content.bytes.resize(length, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.mounted.writes()?;
        state.syncs += 1;
        if state.lying {
            return Ok(());
        }
        if state.loses_sync() {
            state.content(self.file)?.lose_all();
            return Err(io::Error::from_raw_os_error(5));
        }
        let lost = state.losing;
        state.losing = 0;
        let mut rng = state.rng.clone();
        let content = state.content(self.file)?;
        for _ in 0..lost {
            content.lose_one(&mut rng);
        }
        content.sync();
        state.rng = rng;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.mounted.writes()?;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let to = from + data.len();
        let content = state.content(self.file)?;
        if data.is_empty() {
            return Ok(());
        }
        content.save(from, to);
        if to > content.bytes.len() {
            content.bytes.resize(to, 0);
        }
        content.bytes[from..to].copy_from_slice(data);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
