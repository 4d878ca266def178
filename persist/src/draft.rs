//! A database, or any file, that is filled little by little and gets its name once it is complete.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, StorageBackend, WriteTransaction};

use crate::backend::Paced;
use crate::error::CreateError;
use crate::file::{self, OpenedDatabase};
use crate::files::Files;
use crate::identity::{FileKind, StoreIdentity};
use crate::planted;
use crate::schema::Seal;

/// A database under a temporary name, for a state that is received in pieces and lives in redb's tables: filling it
/// takes redb's own types. Dropped, or lost in a crash, it leaves nothing that would be taken for complete.
///
/// A state of another form has a [`FileDraft`], which knows nothing of redb.
pub struct DatabaseDraft {
    files: Arc<dyn Files>,
    temporary: PathBuf,
    path: PathBuf,
    /// `None` once it is closed.
    opened: Option<OpenedDatabase>,
}

impl DatabaseDraft {
    /// Makes a file that will be at `path`, owned by `identity`, with what `fill` writes, and removes what
    /// an earlier draft left behind.
    ///
    /// # Errors
    ///
    /// [`CreateError`].
    pub fn begin(
        files: Arc<dyn Files>,
        path: &Path,
        kind: FileKind,
        identity: &StoreIdentity,
        cache_bytes: usize,
        fill: impl FnOnce(&WriteTransaction, &Seal) -> Result<(), redb::Error>,
    ) -> Result<Self, CreateError> {
        let io = |source| CreateError::Io {
            path: path.to_owned(),
            source,
        };
        let temporary = file::fresh_name(&*files, path).map_err(io)?;
        file::make_under(&*files, &temporary, path, |storage| {
            let id = file::random_id(&*files).map_err(io)?;
            file::create_database_on(Paced::new(storage), path, kind, identity, id, fill)
        })?;
        let opened = file::open_database(&*files, &temporary, kind, identity, cache_bytes);
        let opened = opened.map_err(|error| io(io::Error::other(error)))?;
        Ok(Self {
            files,
            temporary,
            path: path.to_owned(),
            opened: Some(opened),
        })
    }

    /// The database.
    ///
    /// # Panics
    ///
    /// Never: it is open until it is published.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.opened().database
    }

    /// For the checksums of its rows.
    #[must_use]
    pub fn seal(&self) -> &Seal {
        &self.opened().seal
    }

    fn opened(&self) -> &OpenedDatabase {
        self.opened.as_ref().expect("open until it is published")
    }

    /// Gives the file its name, and takes that from a file that has it. Durable when this returns.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; what was at the path is still there.
    pub fn publish(mut self) -> Result<(), CreateError> {
        let io = |source| CreateError::Io {
            path: self.path.clone(),
            source,
        };
        if let Some(opened) = self.opened.take() {
            opened
                .database
                .close()
                .map_err(|error| CreateError::Database {
                    path: self.path.clone(),
                    source: Box::new(error.into()),
                })?;
        }
        self.files.sync(&self.temporary).map_err(io)?;
        file::replace_file(&*self.files, &self.temporary, &self.path).map_err(io)
    }
}

impl Drop for DatabaseDraft {
    fn drop(&mut self) {
        self.opened = None;
        // If it fails, the next draft removes it. After it was published, there is nothing.
        let _ = self.files.remove(&self.temporary);
    }
}

impl fmt::Debug for DatabaseDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseDraft({})", self.path.display())
    }
}

/// A plain file under a temporary name, synced while it is written, so that nobody waits behind all of it.
/// Dropped, or lost in a crash, it leaves nothing that would be taken for complete.
pub struct FileDraft {
    files: Arc<dyn Files>,
    temporary: PathBuf,
    path: PathBuf,
    storage: Paced,
}

impl FileDraft {
    /// Makes a file of `bytes` zeros that will be at `path`, readable by its user only, and removes what an
    /// earlier draft left behind.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn begin(files: Arc<dyn Files>, path: &Path, bytes: u64) -> io::Result<Self> {
        let temporary = file::fresh_name(&*files, path)?;
        let storage = files.create(&temporary)?;
        let draft = Self {
            files,
            temporary,
            path: path.to_owned(),
            storage: Paced::new(storage),
        };
        draft.storage.set_len(bytes)?;
        Ok(draft)
    }

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    ///
    /// When it cannot be written, and ever after that.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.storage.write(offset, data)
    }

    /// Fills `out` with what was written at `offset`.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.storage.read(offset, out)
    }

    /// Gives the file its name, and takes that from a file that has it. Durable when this returns.
    ///
    /// # Errors
    ///
    /// When it is not known which file has the name after a power loss; it is one of the two.
    pub fn publish(self) -> io::Result<()> {
        if planted::is("draft-not-synced") {
            return file::replace_file(&*self.files, &self.temporary, &self.path);
        }
        self.storage.sync_data()?;
        self.storage.close()?;
        self.files.sync(&self.temporary)?;
        file::replace_file(&*self.files, &self.temporary, &self.path)
    }
}

impl Drop for FileDraft {
    fn drop(&mut self) {
        // If it fails, the next draft removes it. After it was published, there is nothing.
        let _ = self.files.remove(&self.temporary);
    }
}

impl fmt::Debug for FileDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileDraft({})", self.path.display())
    }
}
