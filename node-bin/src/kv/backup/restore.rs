//! A new cluster from a backup.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_consensus::{EntryId, LogStore, LogWrite, Membership, StateMachineError};
use quorate_persist::{
    CreateError, Files, OpenError, Opened, Options, OsFiles, Store, StoreFault, StoreIdentity,
    fresh_origin, seconds_now,
};

use super::file::{BackupError, BackupReader, BackupSummary};
use crate::kv::STATE_FILE;
use crate::kv::store::sink_to;
use crate::node::LOG_FILE;
use crate::planted;

/// What was restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restored {
    /// What the state has in it.
    pub summary: BackupSummary,
    /// The entry that the new cluster's log begins after: the backup's last one, in a term of its own.
    pub last: EntryId,
}

/// Why a backup was not restored. No data folder is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The data folder is in use.
    #[error(
        "{} is there and not empty; name a folder that does not exist: what a node has is never overwritten",
        .path.display()
    )]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The data folder is where a file system of its own begins, whose name cannot be given to another folder.
    #[error("{} is a file system of its own; name a folder in it that does not exist", .path.display())]
    FileSystem {
        /// The folder.
        path: PathBuf,
    },
    /// The folder cannot be made or used.
    #[error("cannot make {}: {error}", .path.display())]
    Directory {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The backup cannot be used.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A file cannot be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// A file that was just made cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The state cannot be written.
    #[error("cannot write the state: {}; check the disk and its free space", cause(.0))]
    State(#[from] StateMachineError),
    /// The log cannot be written.
    #[error("cannot write the log: {0}")]
    Log(#[from] quorate_consensus::StoreError),
}

/// What failed, without what a running node would have to do about it.
fn cause(error: &StateMachineError) -> String {
    match error.0.downcast_ref() {
        Some(StoreFault::Database(error)) => error.to_string(),
        _ => error.to_string(),
    }
}

/// Makes `directory` the data folder of the node `identity`, the only member of a new cluster with the state of
/// `backup`. The folder must not exist, or be empty; it gets its name once all of it is durable.
///
/// The cluster's nodes refuse those of the one that the backup is of, and are refused by them, also where its name is
/// the same. Its terms are [above](quorate_consensus::Term::founded_anew) all that the other had, and with them its
/// revisions and the numbers of its sessions and leases: clients may have seen some of writes after the backup, which
/// are lost, and must not take others for them.
///
/// # Errors
///
/// [`RestoreError`]; no data folder is left behind then, but for where its name could not be made durable.
pub fn restore(
    backup: &mut BackupReader<impl Read>,
    identity: &StoreIdentity,
    directory: &Path,
) -> Result<Restored, RestoreError> {
    let failed = |error| RestoreError::Directory {
        path: directory.to_owned(),
        error,
    };
    check_unused(directory)?;
    let parent = quorate_persist::directory(directory);
    quorate_persist::make_directory(&OsFiles, parent).map_err(failed)?;
    // Removed if it does not get its name; nobody else may look into it.
    let draft = tempfile::Builder::new()
        .prefix(".quorate-restore-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map_err(failed)?;

    let last = backup.header().last;
    let last = match planted::is("restored-revisions-repeated") {
        true => last,
        false => EntryId::new(last.term.founded_anew(seconds_now()), last.index),
    };
    let summary = write_state(backup, identity, draft.path(), last)?;
    write_log(identity, draft.path(), last)?;

    let draft = draft.keep();
    // In the place of an empty one, if there is one.
    if let Err(error) = fs::rename(&draft, directory) {
        let _ = fs::remove_dir_all(&draft);
        return Err(failed(error));
    }
    OsFiles.sync_directory(parent).map_err(failed)?;
    Ok(Restored { summary, last })
}

fn check_unused(directory: &Path) -> Result<(), RestoreError> {
    let path = || directory.to_owned();
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
    if let (Ok(own), Ok(above)) = (device(directory), device(&directory.join("..")))
        && own != above
    {
        return Err(RestoreError::FileSystem { path: path() });
    }
    match fs::read_dir(directory) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(RestoreError::NotEmpty { path: path() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(RestoreError::Directory {
            path: path(),
            error,
        }),
    }
}

fn write_state(
    backup: &mut BackupReader<impl Read>,
    identity: &StoreIdentity,
    directory: &Path,
    last: EntryId,
) -> Result<BackupSummary, RestoreError> {
    let mut sink = sink_to(Arc::new(OsFiles), &directory.join(STATE_FILE), identity);
    sink.begin(last)?;
    while let Some(piece) = backup.next_piece()? {
        if !sink.add(&piece)? {
            return Err(BackupError::Misfit.into());
        }
    }
    match sink.finish()? {
        true => Ok(backup.so_far()),
        false => Err(BackupError::Incomplete.into()),
    }
}

fn write_log(
    identity: &StoreIdentity,
    directory: &Path,
    last: EntryId,
) -> Result<(), RestoreError> {
    let path = directory.join(LOG_FILE);
    let options = Options {
        background: false,
        ..Options::default()
    };
    let write = LogWrite::restored(identity.node, last);
    let alone = Membership::new([identity.node], []).expect("one voter is a cluster");
    Store::create(&path, identity, &alone, options)?;
    let Opened { mut store, .. } = Store::open(&path, identity, options)?;
    let origin = fresh_origin(&OsFiles).map_err(|error| RestoreError::Directory { path, error })?;
    store.append(std::slice::from_ref(&write))?;
    store
        .found_anew(origin)
        .map_err(quorate_consensus::StoreError::from)?;
    Ok(())
}
