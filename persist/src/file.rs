//! How a database file comes into being and is opened again: all or nothing, and only by its owner.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use redb::{Builder, Database, Durability, ReadableDatabase, StorageBackend, WriteTransaction};

use crate::backend::Paced;
use crate::error::{Corruption, CreateError, OpenError, StoreFault};
use crate::files::Files;
use crate::identity::{CLUSTER_BYTES_MAX, FileKind, IDENTITY, IdentityRow, StoreIdentity};
use crate::planted;
use crate::schema::{META_TABLE, Seal};
use crate::storage::Storage;

/// Between the file's name and a random number in the name of a file that is still being made.
const CREATING: &str = ".creating-";

/// What redb may keep in memory while a new file, which holds next to nothing, is written.
const CREATE_CACHE_BYTES: usize = 1 << 20;

/// A database that belongs to whom it should. Its tables are the caller's, who reads and writes them through redb.
#[derive(Debug)]
pub struct OpenedDatabase {
    /// The database. Commits to it that must survive a power loss use two phases.
    pub database: Database,
    /// For the checksums of its rows.
    pub seal: Seal,
    /// Random, drawn when the file was made; two files never share it.
    pub store_id: u128,
    /// The format in which it is written, one of those that its kind names.
    pub format: u32,
}

/// Makes the file at `path`, owned by `identity` and readable by its user only, with what `fill`
/// writes, and returns its store id. When this returns, the file survives a power loss; when it
/// fails or the machine crashes, there is nothing at `path`.
///
/// A crash while redb initialises a file can leave one that never opens, so the file gets its name
/// only when it is complete. What a crash has left under a temporary name is removed here.
///
/// # Errors
///
/// [`CreateError`]; an existing file is never touched. Of two that create the same file at the same
/// time, at most one succeeds.
pub fn create_database(
    files: &dyn Files,
    path: &Path,
    kind: FileKind,
    identity: &StoreIdentity,
    fill: impl FnOnce(&WriteTransaction, &Seal) -> Result<(), redb::Error>,
) -> Result<u128, CreateError> {
    publish_database(files, path, |storage, id| {
        create_database_on(Paced::new(storage), path, kind, identity, id, fill)
    })
}

/// As [`create_database`]; `make` makes the database on empty storage, with the store id it is given.
pub(crate) fn publish_database(
    files: &dyn Files,
    path: &Path,
    make: impl FnOnce(Box<dyn Storage>, u128) -> Result<(), CreateError>,
) -> Result<u128, CreateError> {
    let id = publish_new(files, path, |storage| {
        let id = random_id(files).map_err(|source| CreateError::Io {
            path: path.to_owned(),
            source,
        })?;
        make(storage, id)?;
        Ok(id)
    })?;
    tracing::info!(path = %path.display(), store = %format_args!("{id:032x}"), "file created");
    Ok(id)
}

/// A number that no other file has.
pub(crate) fn random_id(files: &dyn Files) -> io::Result<u128> {
    let mut id = [0; 16];
    files.random(&mut id)?;
    Ok(u128::from_le_bytes(id))
}

/// Makes the directory `path`, and those above it that are missing, with no access for others. When
/// this returns, their names survive a power loss: without that, a node could lose its folder after it
/// had voted, and start empty.
///
/// # Errors
///
/// When one cannot be made, or made durable.
pub fn make_directory(files: &dyn Files, path: &Path) -> io::Result<()> {
    let mut directories = Vec::new();
    for path in path.ancestors() {
        if path.parent().is_some() {
            directories.push((path, files.exists(path)?));
        }
    }
    files.make_directory(path)?;
    // Also those that were there: a start that was interrupted here may have made them.
    for (path, existed) in directories {
        match files.sync_directory(directory(path)) {
            Err(error) if existed && holds_no_names_of_ours(&error) => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// Whether a directory that cannot be synced is one in which no node can have made anything.
fn holds_no_names_of_ours(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem | Kind::InvalidInput | Kind::Unsupported
    )
}

/// Makes a small file at `path`, readable by its user only, with `content`: all of it or nothing,
/// as [`create_database`].
///
/// # Errors
///
/// As [`create_database`].
pub fn create_file(files: &dyn Files, path: &Path, content: &[u8]) -> Result<(), CreateError> {
    publish_new(files, path, |file| write_whole(&*file, path, content))
}

/// Writes `content` into a new file, which will be at `path`.
pub(crate) fn write_whole(
    file: &dyn Storage,
    path: &Path,
    content: &[u8],
) -> Result<(), CreateError> {
    let write = || {
        file.set_length(content.len() as u64)?;
        file.write(0, content)?;
        file.sync_data()?;
        file.close()
    };
    write().map_err(|source| CreateError::Io {
        path: path.to_owned(),
        source,
    })
}

/// What is in the file at `path`, up to `bytes_max` of it.
///
/// # Errors
///
/// [`io::ErrorKind::NotFound`] when there is none.
pub fn read_file(files: &dyn Files, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = files.open(path)?;
    let bytes = file.length()?.min(bytes_max);
    let mut content = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    file.read(0, &mut content)?;
    file.close()?;
    Ok(content)
}

/// As [`create_database`], on any storage and with a given store id, which must be random wherever
/// it matters. `name` stands for the path in errors. Giving the storage its name only once this has
/// returned is left to the caller.
///
/// # Errors
///
/// As [`create_database`].
pub(crate) fn create_database_on(
    backend: impl StorageBackend,
    name: &Path,
    kind: FileKind,
    identity: &StoreIdentity,
    store_id: u128,
    fill: impl FnOnce(&WriteTransaction, &Seal) -> Result<(), redb::Error>,
) -> Result<(), CreateError> {
    let bytes = identity.cluster.len();
    if !(1..=CLUSTER_BYTES_MAX).contains(&bytes) {
        return Err(CreateError::ClusterName { bytes });
    }
    let row = IdentityRow {
        kind,
        identity: identity.clone(),
        store_id,
    };
    write_first(backend, &row, fill).map_err(|source| CreateError::Database {
        path: name.to_owned(),
        source: Box::new(source),
    })
}

/// Opens the file at `path`: checks every page of it, that it is of the expected kind and format,
/// and whose it is. redb keeps at most `cache_bytes` of it in memory.
///
/// # Errors
///
/// [`OpenError`] says what was found, what was expected and what to do.
pub fn open_database(
    files: &dyn Files,
    path: &Path,
    kind: FileKind,
    identity: &StoreIdentity,
    cache_bytes: usize,
) -> Result<OpenedDatabase, OpenError> {
    let storage = open_storage(files, path)?;
    open_database_on(Paced::new(storage), path, kind, identity, cache_bytes)
}

/// Opens the file at `path`, whose name is durable when this returns.
pub(crate) fn open_storage(files: &dyn Files, path: &Path) -> Result<Box<dyn Storage>, OpenError> {
    let opened = files.open(path);
    let storage = opened.map_err(|error| OpenError::from_redb(path.to_owned(), error.into()))?;
    // A create that was interrupted just before this may have left a name that is not durable yet.
    files
        .sync_directory(directory(path))
        .map_err(|source| OpenError::Io {
            path: path.to_owned(),
            source,
        })?;
    Ok(storage)
}

/// As [`open_database`], on any storage. `name` stands for the path in errors.
///
/// # Errors
///
/// As [`open_database`].
pub(crate) fn open_database_on(
    backend: impl StorageBackend,
    name: &Path,
    kind: FileKind,
    identity: &StoreIdentity,
    cache_bytes: usize,
) -> Result<OpenedDatabase, OpenError> {
    let (database, row) = open_any(backend, name, kind, cache_bytes)?;
    row.identity.check(name, identity)?;
    let seal = Seal::new(&row.identity, row.store_id);
    Ok(OpenedDatabase {
        database,
        seal,
        store_id: row.store_id,
        format: row.kind.format,
    })
}

/// Has the file whose database `transaction` is of, with this owner and id, be of the format that `kind` writes.
///
/// # Errors
///
/// [`StoreFault`]; the transaction must not be committed then.
pub fn write_format(
    transaction: &WriteTransaction,
    kind: FileKind,
    identity: &StoreIdentity,
    store_id: u128,
) -> Result<(), StoreFault> {
    let row = IdentityRow {
        kind,
        identity: identity.clone(),
        store_id,
    };
    let mut meta = transaction.open_table(META_TABLE)?;
    meta.insert(IDENTITY, row.encode().as_slice())?;
    Ok(())
}

/// Whose database is on `backend`.
pub(crate) fn owner_on(
    backend: impl StorageBackend,
    name: &Path,
    kind: FileKind,
) -> Result<StoreIdentity, OpenError> {
    let (_, row) = open_any(backend, name, kind, CREATE_CACHE_BYTES)?;
    Ok(row.identity)
}

/// Opens a database of this kind, whoever owns it.
fn open_any(
    backend: impl StorageBackend,
    name: &Path,
    kind: FileKind,
    cache_bytes: usize,
) -> Result<(Database, IdentityRow), OpenError> {
    let failed = |error| OpenError::from_redb(name.to_owned(), error);
    // redb would quietly make a new database out of nothing.
    if backend.len().map_err(|error| failed(error.into()))? == 0 {
        return Err(OpenError::Corrupt {
            path: name.to_owned(),
            what: Corruption::NotADatabase,
        });
    }
    let database = Builder::new()
        .set_cache_size(cache_bytes)
        // Ordinary reads do not verify checksums: without this, one flipped bit in a file that
        // was closed in order is served as data.
        .set_check_integrity_on_open(!planted::is("no-integrity-check"))
        .create_with_backend(backend)
        .map_err(|error| failed(error.into()))?;
    let row = read_identity(&database).map_err(|fault| fault.at_open(name))?;
    let row = IdentityRow::decode(name, &row, kind)?;
    Ok((database, row))
}

/// A transaction whose commit survives a power loss.
///
/// Two phases: with one, damage to the last commit makes redb fall back to the one before it, which
/// silently takes back an acknowledgement. Quick-repair stays off: it trusts an allocator state that
/// damage may have reached.
///
/// # Errors
///
/// [`StoreFault`] when an earlier operation on the database failed.
pub fn begin_durable(database: &Database) -> Result<WriteTransaction, StoreFault> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_two_phase_commit(true);
    Ok(transaction)
}

fn read_identity(database: &Database) -> Result<Vec<u8>, StoreFault> {
    let meta = database.begin_read()?.open_table(META_TABLE)?;
    let row = meta.get(IDENTITY)?;
    let row = row.ok_or(Corruption::RowMissing { row: IDENTITY })?;
    Ok(row.value().to_vec())
}

/// Gives a file that `make` has written its name once it is complete and durable.
fn publish_new<T>(
    files: &dyn Files,
    path: &Path,
    make: impl FnOnce(Box<dyn Storage>) -> Result<T, CreateError>,
) -> Result<T, CreateError> {
    let io = |source| CreateError::Io {
        path: path.to_owned(),
        source,
    };
    if files.exists(path).map_err(io)? {
        return Err(CreateError::Exists {
            path: path.to_owned(),
        });
    }
    if planted::is("creation-not-atomic") {
        return make_under(files, path, path, make);
    }
    let temporary = fresh_name(files, path).map_err(io)?;
    let made = make_under(files, &temporary, path, make)
        .and_then(|made| publish(files, &temporary, path).map(|()| made));
    // After success this removes the second name, after a failure the only one. If it fails, the
    // next create removes it.
    let _ = files.remove(&temporary);
    let made = made?;
    files.sync_directory(directory(path)).map_err(io)?;
    Ok(made)
}

pub(crate) fn make_under<T>(
    files: &dyn Files,
    temporary: &Path,
    path: &Path,
    make: impl FnOnce(Box<dyn Storage>) -> Result<T, CreateError>,
) -> Result<T, CreateError> {
    let io = |source| CreateError::Io {
        path: path.to_owned(),
        source,
    };
    let made = make(files.create(temporary).map_err(io)?)?;
    files.sync(temporary).map_err(io)?;
    Ok(made)
}

fn write_first(
    backend: impl StorageBackend,
    row: &IdentityRow,
    fill: impl FnOnce(&WriteTransaction, &Seal) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let database = Builder::new()
        .set_cache_size(CREATE_CACHE_BYTES)
        .create_with_backend(backend)?;
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction
        .open_table(META_TABLE)?
        .insert(IDENTITY, row.encode().as_slice())?;
    fill(&transaction, &Seal::new(&row.identity, row.store_id))?;
    transaction.commit()?;
    database.close()?;
    Ok(())
}

/// Gives the finished file its name, without replacing another.
fn publish(files: &dyn Files, temporary: &Path, path: &Path) -> Result<(), CreateError> {
    let path_owned = || path.to_owned();
    match files.link(temporary, path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(CreateError::Exists { path: path_owned() })
        }
        Err(source) => Err(CreateError::Io {
            path: path_owned(),
            source,
        }),
    }
}

/// Gives the file at `from`, which is durable, the name `to` instead; that is durable when this returns.
///
/// # Errors
///
/// When it is not known which file has the name after a power loss; it is one of the two.
pub fn replace_file(files: &dyn Files, from: &Path, to: &Path) -> io::Result<()> {
    files.rename(from, to)?;
    files.sync_directory(directory(to))
}

/// A temporary name for what will be at `path`; what a crash has left under others is gone.
pub(crate) fn fresh_name(files: &dyn Files, path: &Path) -> io::Result<PathBuf> {
    remove_stale(files, path)?;
    let mut random = [0; 16];
    files.random(&mut random)?;
    let mut name = prefix(path)?;
    name.push(format!("{:032x}", u128::from_le_bytes(random)));
    Ok(path.with_file_name(name))
}

fn prefix(path: &Path) -> io::Result<OsString> {
    let mut name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?
        .to_owned();
    name.push(CREATING);
    Ok(name)
}

/// Removes what a crash during an earlier create left. A create that is running at the same time
/// loses its file by this and fails, which is what the later of two must do anyway.
fn remove_stale(files: &dyn Files, path: &Path) -> io::Result<()> {
    let prefix = prefix(path)?;
    let prefix = prefix.as_encoded_bytes();
    remove_names(files, directory(path), |name| name.starts_with(prefix))
}

/// Removes every file in `directory` that was being made when a crash came. Nobody else may be making one: whoever has
/// the node's files open knows that.
///
/// # Errors
///
/// When one stays.
pub fn remove_drafts(files: &dyn Files, directory: &Path) -> io::Result<()> {
    let creating = CREATING.as_bytes();
    remove_names(files, directory, |name| {
        name.windows(creating.len()).any(|part| part == creating)
    })
}

fn remove_names(
    files: &dyn Files,
    directory: &Path,
    is_one: impl Fn(&[u8]) -> bool,
) -> io::Result<()> {
    for name in files.names(directory)? {
        if is_one(name.as_encoded_bytes()) {
            files.remove(&directory.join(name))?;
        }
    }
    Ok(())
}

/// The directory that `path` is in.
#[must_use]
pub fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
