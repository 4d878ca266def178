//! Crashes while a node's files come into being, on a file system that keeps POSIX's promises and no
//! others: a file's content survives a power loss once the file was synced, its name once the directory
//! was.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use quorate_consensus::Recovered;
use quorate_persist::{Files, OpenError, Storage, Store, make_directory};

use crate::disk::{Disk, Failure, Rng, power_failed};
use crate::{identity, membership, small};

const LOG: &str = "/srv/quorate/data/log.redb";

/// Names and what they stand for. Handles share it, as processes share a file system.
#[derive(Clone, Default, Debug)]
struct Folders(Arc<Mutex<Names>>);

#[derive(Clone, Default, Debug)]
struct Names {
    now: BTreeMap<PathBuf, Kind>,
    durable: BTreeMap<PathBuf, Kind>,
    random: u8,
    changes: u64,
    /// The change of a name at which the power fails.
    fail_at: Option<u64>,
    /// The operation on a new file at which it does.
    fail_inside_at: Option<u64>,
    dead: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Folder,
    File(Disk),
}

impl Names {
    fn is_dead(&self) -> bool {
        let failed = |kind: &Kind| matches!(kind, Kind::File(disk) if disk.failed().is_some());
        self.dead || self.now.values().any(failed)
    }

    fn alive(&self) -> io::Result<()> {
        if self.is_dead() {
            Err(power_failed())
        } else {
            Ok(())
        }
    }

    /// Counts a change of names; the power may fail just before it.
    fn change(&mut self) -> io::Result<()> {
        self.alive()?;
        self.changes += 1;
        self.dead = self.fail_at == Some(self.changes);
        self.alive()
    }
}

impl Folders {
    /// With `/srv`, and nothing in it.
    fn new(fail_at: Option<u64>, fail_inside_at: Option<u64>) -> Self {
        let there = BTreeMap::from([(PathBuf::from("/srv"), Kind::Folder)]);
        Self(Arc::new(Mutex::new(Names {
            now: there.clone(),
            durable: there,
            fail_at,
            fail_inside_at,
            ..Names::default()
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap()
    }

    /// What a power loss leaves: each name as it is or as it was last synced, of each file what its
    /// disk kept, and nothing below a folder that is gone.
    fn after_power_loss(&self, rng: &mut Rng) -> Self {
        let names = self.lock();
        let mut paths: Vec<&PathBuf> = names.now.keys().chain(names.durable.keys()).collect();
        paths.sort();
        paths.dedup();
        let mut left = BTreeMap::new();
        for path in paths {
            let outcomes = [names.now.get(path), names.durable.get(path)];
            let Some(kind) = outcomes[rng.below(2)] else {
                continue;
            };
            let parent = path.parent().unwrap();
            if parent == Path::new("/") || left.contains_key(parent) {
                let kind = match kind {
                    Kind::Folder => Kind::Folder,
                    Kind::File(disk) => Kind::File(Disk::holding(disk.after_power_loss(rng))),
                };
                left.insert(path.clone(), kind);
            }
        }
        let left = Names {
            now: left.clone(),
            durable: left,
            random: names.random,
            ..Names::default()
        };
        Self(Arc::new(Mutex::new(left)))
    }
}

impl Folders {
    /// What the end of a process leaves: everything, and what was not synced still is not.
    fn after_kill(&self) -> Self {
        let names = Names {
            fail_at: None,
            fail_inside_at: None,
            dead: false,
            ..self.lock().clone()
        };
        let revived = |kind: Kind| match kind {
            Kind::Folder => Kind::Folder,
            Kind::File(disk) => Kind::File(disk.after_kill()),
        };
        let now = names.now.into_iter();
        let now = now.map(|(path, kind)| (path, revived(kind))).collect();
        Self(Arc::new(Mutex::new(Names { now, ..names })))
    }

    /// How many files under temporary names do not open.
    fn half_made(&self) -> usize {
        let names = self.lock();
        let broken = |(path, kind): &(&PathBuf, &Kind)| {
            let Kind::File(disk) = kind else { return false };
            let copy = Disk::holding(disk.content());
            path.to_string_lossy().contains(".creating-") && crate::crash::open(&copy).is_err()
        };
        names.now.iter().filter(broken).count()
    }
}

impl Files for Folders {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let mut names = self.lock();
        names.change()?;
        for path in path.ancestors().filter(|path| path.parent().is_some()) {
            names.now.entry(path.to_owned()).or_insert(Kind::Folder);
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let names = self.lock();
        names.alive()?;
        Ok(names.now.contains_key(path))
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        match self.lock().now.get(path) {
            Some(Kind::File(disk)) => disk.length(),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn free_bytes(&self, _directory: &Path) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let names = self.lock();
        names.alive()?;
        let inside = names
            .now
            .keys()
            .filter(|path| path.parent() == Some(directory));
        Ok(inside
            .map(|path| path.file_name().unwrap().to_owned())
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Storage>> {
        let mut names = self.lock();
        names.change()?;
        let disk = match names.fail_inside_at {
            Some(at) => Disk::with_failure(&[], at, Failure::PowerLoss),
            None => Disk::default(),
        };
        let former = names.now.insert(path.to_owned(), Kind::File(disk.clone()));
        assert!(former.is_none(), "{} is there already", path.display());
        Ok(Box::new(disk))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Storage>> {
        match self.lock().now.get(path) {
            Some(Kind::File(disk)) => Ok(Box::new(disk.clone())),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        let names = self.lock();
        names.alive()?;
        match names.now.get(path) {
            Some(Kind::File(disk)) => disk.sync_data(),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.lock();
        names.change()?;
        if names.now.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let kind = names.now[from].clone();
        names.now.insert(to.to_owned(), kind);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.lock();
        names.change()?;
        let kind = names.now.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.now.insert(to.to_owned(), kind);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut names = self.lock();
        names.change()?;
        names.now.remove(path);
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut names = self.lock();
        names.change()?;
        names
            .durable
            .retain(|path, _| path.parent() != Some(directory));
        let now = names.now.clone();
        let now = now
            .into_iter()
            .filter(|(path, _)| path.parent() == Some(directory));
        names.durable.extend(now);
        Ok(())
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut names = self.lock();
        names.random += 1;
        bytes.fill(names.random);
        Ok(())
    }
}

/// What a node does before its first start is complete.
fn found(files: &Folders) -> io::Result<()> {
    let path = Path::new(LOG);
    make_directory(files, path.parent().unwrap())?;
    Store::create_in(files, path, &identity(), &membership(), small()).map_err(io::Error::other)
}

fn open(files: &Folders) -> Result<Recovered, OpenError> {
    let opened = Store::open_in(files, LOG.as_ref(), &identity(), small())?;
    Ok(opened.recovered)
}

/// Lets the power fail at each change of a name and at each operation on the new file in turn.
fn fail_everywhere(mut inspect: impl FnMut(&Folders, &str)) {
    let mut points = [0; 2];
    for inside in [false, true] {
        for at in 1.. {
            let files = if inside {
                Folders::new(None, Some(at))
            } else {
                Folders::new(Some(at), None)
            };
            let founded = found(&files);
            assert_eq!(founded.is_err(), files.lock().is_dead());
            if founded.is_ok() {
                break;
            }
            points[usize::from(inside)] += 1;
            inspect(&files, &format!("at {at}, inside of the file: {inside}"));
        }
    }
    let [names, inside] = points;
    assert!(
        names > 5 && inside > 15,
        "{names} and {inside} crash points"
    );
}

/// A crash at any moment of a first start leaves no log or a good one, and the next start gets there. Of
/// what is left under other names, nothing stays.
#[test]
fn a11_a_crash_of_a_first_start_leaves_no_file_that_does_not_open() {
    const LOSSES: u64 = 20;
    let (mut complete, mut half_made) = (0, 0);
    fail_everywhere(|files, at| {
        for loss in 0..LOSSES {
            let left = files.after_power_loss(&mut Rng::new(loss));
            half_made += left.half_made();
            if left.exists(LOG.as_ref()).unwrap() {
                complete += 1;
            } else {
                found(&left).unwrap_or_else(|error| panic!("{at}, loss {loss}: {error}"));
                let data = Path::new(LOG).parent().unwrap();
                assert_eq!(left.names(data).unwrap(), ["log.redb"], "{at}, loss {loss}");
            }
            let recovered = open(&left).unwrap_or_else(|error| panic!("{at}: {error}"));
            assert_eq!(recovered, Recovered::founding(membership()));
        }
    });
    // The control: without another name first, these would have been the log.
    assert!(complete > 0 && half_made > 0, "{complete}, {half_made}");
}

/// When a first start has returned, no power loss takes the log away, nor a folder above it: a node that
/// had voted would start empty. The same when an earlier attempt made the folders and was interrupted.
#[test]
fn a12_a_founded_log_does_not_lose_its_name() {
    let there = |files: &Folders| {
        for loss in 0..20 {
            let left = files.after_power_loss(&mut Rng::new(loss));
            open(&left).unwrap_or_else(|error| panic!("loss {loss}: {error}"));
        }
    };
    let files = Folders::new(None, None);
    found(&files).unwrap();
    there(&files);

    let mut found_again = 0;
    fail_everywhere(|files, _| {
        // The process was killed and the machine went on, so that nothing is lost yet.
        let files = files.after_kill();
        make_directory(&files, Path::new(LOG).parent().unwrap()).unwrap();
        if files.exists(LOG.as_ref()).unwrap() {
            found_again += 1;
        } else {
            found(&files).unwrap();
        }
        open(&files).unwrap();
        there(&files);
    });
    assert!(found_again > 0);
}
