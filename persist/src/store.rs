//! The durable log of one node.

use std::fmt;
use std::mem;
use std::num::NonZeroU64;
use std::path::Path;

use quorate_consensus::{
    Cut, Entry, EntryId, HardState, LogIndex, LogStore, LogWrite, Membership, Payload, Recovered,
    StoreError,
};
use redb::{Database, ReadTransaction, ReadableDatabase, Table, WriteTransaction};

use crate::error::{Corruption, CreateError, OpenError, StoreFault};
use crate::file::{self, OpenedDatabase};
use crate::files::{Files, OsFiles};
use crate::identity::{FileKind, IDENTITY, IdentityRow, StoreIdentity};
use crate::journal::Journal;
use crate::log_table::{self, LogTable};
use crate::planted;
use crate::schema::{
    BASE, BOOT, HARD_STATE, MEMBERSHIP, META_TABLE, ORIGIN_ROW, Seal, encode_entry_id,
    encode_hard_state, origin_of,
};
use crate::shape::LogShape;
use crate::storage::Storage;
use crate::verify::{Contents, verify};

/// The format of the log file that this version writes. It reads 2 to 4 as well and upgrades them: in 2
/// nothing was ever compacted, up to 3 states were not compared and members never changed, and up to 4
/// every entry had a row of its own.
pub const FORMAT: u32 = 5;

/// How large each half of the journal of a new log is unless told otherwise: some hundred commits of
/// a busy node. While one half fills up, all that the other half says becomes durable in its place.
pub const JOURNAL_BYTES_DEFAULT: u64 = 8 << 20;

/// What redb keeps of the log in memory unless told otherwise. The newest entries are in the core's
/// own window, so this serves the upper levels of the tree and a follower that catches up.
pub const CACHE_BYTES_DEFAULT: usize = 2 << 20;

const LOG_FILE: FileKind = FileKind {
    magic: *b"QRMLOG\0\0",
    format: FORMAT,
    oldest: 2,
};

/// How a store uses the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// How many bytes of the file redb keeps in memory. Default [`CACHE_BYTES_DEFAULT`]. Too small:
    /// a follower that catches up reads from the disk. Too large: memory the state machine could
    /// use. Zero works.
    pub cache_bytes: usize,
    /// How large each half of the journal is in a new file; an existing one keeps what it has.
    /// Default [`JOURNAL_BYTES_DEFAULT`], at least 64 KiB. Too small: a commit waits now and then for
    /// the disk to catch up, and one that is larger than a half costs two syncs and more. Too large:
    /// a longer start after a crash.
    pub journal_bytes: u64,
    /// Whether a thread brings what fills the journal to its place (default), or whoever appends does:
    /// for a simulation, which has no other thread.
    pub background: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: CACHE_BYTES_DEFAULT,
            journal_bytes: JOURNAL_BYTES_DEFAULT,
            background: true,
        }
    }
}

/// A store and what it held as it was opened.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// What the core starts from.
    pub recovered: Recovered,
    /// Random, drawn when the file was made. Peers that know it refuse a node whose file was
    /// replaced.
    pub store_id: u128,
    /// How often the file has been opened, this time included; already durable. Peers that remember
    /// a higher one refuse a node whose file was rolled back.
    pub boot: u64,
    /// A number of the founding members, equal on all nodes that were founded together; zero for a node
    /// that joined later.
    pub origin: u64,
}

/// The log, hard state and membership of one node in one file.
///
/// Invariants:
/// - `shape` and `hard_state` are what the file holds, unless `stopped`;
/// - once `stopped`, nothing is read or written any more.
pub struct Store {
    // Dropped before the database.
    /// What the log was before the last commit. While somebody may read a page that a commit frees, redb
    /// leaves it to the next one. Otherwise it would bring its own tables up to date after the commit, once
    /// more and for the next one to do again: a fifth of the instructions of an append of one entry.
    before: Option<ReadTransaction>,
    database: Database,
    journal: Journal,
    seal: Seal,
    shape: LogShape,
    hard_state: HardState,
    stopped: bool,
}

/// What a write takes from the log.
struct Removes {
    /// Everything up to this one, which becomes the base.
    base: Option<EntryId>,
    /// Everything after this one.
    suffix: Option<EntryId>,
}

impl Removes {
    fn any(&self) -> bool {
        self.base.is_some() || self.suffix.is_some()
    }
}

impl Store {
    /// Makes the file of a founding member of the cluster `membership`: an empty log, boot counter
    /// zero. Durable when this returns; a crash before leaves nothing at `path`.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; an existing file is never touched.
    pub fn create(
        path: &Path,
        identity: &StoreIdentity,
        membership: &Membership,
        options: Options,
    ) -> Result<(), CreateError> {
        Self::create_in(&OsFiles, path, identity, membership, options)
    }

    /// As [`Store::create`], elsewhere than on the operating system's files.
    ///
    /// # Errors
    ///
    /// As [`Store::create`].
    pub fn create_in(
        files: &dyn Files,
        path: &Path,
        identity: &StoreIdentity,
        membership: &Membership,
        options: Options,
    ) -> Result<(), CreateError> {
        file::publish_database(files, path, |storage, store_id| {
            Self::make(storage, path, identity, store_id, membership, options)
        })?;
        Ok(())
    }

    /// As [`Store::create`], on any storage, such as a simulated disk, and with a given store id.
    /// `name` stands for the path in errors.
    ///
    /// # Errors
    ///
    /// As [`Store::create`].
    pub fn create_on(
        storage: impl Storage,
        name: &Path,
        identity: &StoreIdentity,
        store_id: u128,
        membership: &Membership,
        options: Options,
    ) -> Result<(), CreateError> {
        let storage = Box::new(storage);
        Self::make(storage, name, identity, store_id, membership, options)
    }

    fn make(
        storage: Box<dyn Storage>,
        name: &Path,
        identity: &StoreIdentity,
        store_id: u128,
        membership: &Membership,
        options: Options,
    ) -> Result<(), CreateError> {
        let journal = Journal::create(storage, store_id, options.journal_bytes);
        let journal = journal.map_err(|source| CreateError::Database {
            path: name.to_owned(),
            source: Box::new(source),
        })?;
        let fill = |transaction: &WriteTransaction, seal: &Seal| {
            fill_founding(transaction, seal, membership)
        };
        file::create_database_on(journal, name, LOG_FILE, identity, store_id, fill)
    }

    /// Opens the file at `path`, verifies every row of it and counts the start durably. Reads the
    /// whole file: about 0.7 s for each gigabyte in memory.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the node must not run on such a file.
    pub fn open(
        path: &Path,
        identity: &StoreIdentity,
        options: Options,
    ) -> Result<Opened, OpenError> {
        Self::open_in(&OsFiles, path, identity, options)
    }

    /// As [`Store::open`], elsewhere than on the operating system's files.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn open_in(
        files: &dyn Files,
        path: &Path,
        identity: &StoreIdentity,
        options: Options,
    ) -> Result<Opened, OpenError> {
        let storage = file::open_storage(files, path)?;
        Self::start(storage, path, identity, options)
    }

    /// As [`Store::open`], on any storage. `name` stands for the path in errors.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn open_on(
        storage: impl Storage,
        name: &Path,
        identity: &StoreIdentity,
        options: Options,
    ) -> Result<Opened, OpenError> {
        Self::start(Box::new(storage), name, identity, options)
    }

    /// Whose log is at `path`.
    pub(crate) fn owner(files: &dyn Files, path: &Path) -> Result<StoreIdentity, OpenError> {
        let journal = Journal::open(file::open_storage(files, path)?, path, false)?;
        file::owner_on(journal, path, LOG_FILE)
    }

    fn start(
        storage: Box<dyn Storage>,
        path: &Path,
        identity: &StoreIdentity,
        options: Options,
    ) -> Result<Opened, OpenError> {
        let journal = Journal::open(storage, path, options.background)?;
        let image = journal.clone();
        let OpenedDatabase {
            database,
            seal,
            store_id,
            format,
        } = file::open_database_on(image, path, LOG_FILE, identity, options.cache_bytes)?;
        let contents = database
            .begin_read()
            .map_err(StoreFault::from)
            .and_then(|transaction| verify(&transaction, &seal, format))
            .map_err(|fault| fault.at_open(path))?;
        let Contents {
            recovered,
            shape,
            boot,
            origin,
        } = contents;
        let rows = Rows {
            identity: IdentityRow {
                kind: LOG_FILE,
                identity: identity.clone(),
                store_id,
            },
            origin,
            membership: recovered.memberships[0].clone(),
        };
        let counted = count_start(&database, &seal, boot, &rows);
        let boot = counted.map_err(|fault| fault.at_open(path))?;
        tracing::info!(
            path = %path.display(), boot, term = %recovered.hard_state.term,
            last = %shape.last(), commit = %recovered.hard_state.commit, "log opened"
        );
        let store = Self {
            before: None,
            database,
            journal,
            seal,
            shape,
            hard_state: recovered.hard_state,
            stopped: false,
        };
        Ok(Opened {
            store,
            recovered,
            store_id,
            boot,
            origin,
        })
    }

    /// Makes the log one of a cluster that was founded anew, with the number `origin`, a
    /// [fresh](crate::fresh_origin) one: a node that knows another
    /// number is refused from now on, and refuses this one. Durable when this returns.
    ///
    /// # Errors
    ///
    /// [`StoreFault`]; nothing is read or written any more then.
    pub fn found_anew(&mut self, origin: NonZeroU64) -> Result<(), StoreFault> {
        if self.stopped {
            return Err(StoreFault::Stopped);
        }
        self.stopped = true;
        let transaction = file::begin_durable(&self.database)?;
        {
            let mut meta = transaction.open_table(META_TABLE)?;
            let body = origin.get().to_le_bytes().to_vec();
            let row = self.seal.close_row(ORIGIN_ROW, body);
            meta.insert(ORIGIN_ROW, row.as_slice())?;
        }
        transaction.commit()?;
        self.stopped = false;
        Ok(())
    }

    /// Checks `write` against the log before it, takes it over into the outline, and says what it removes.
    fn take_over(&mut self, write: &LogWrite) -> Removes {
        let base = self.take_over_cut(write);
        let mut suffix = None;
        if let Some(first) = write.entries.first() {
            let (first, last) = (first.id.index, self.shape.last().index);
            assert!(
                first > self.hard_state.commit,
                "entry {first} is committed (commit {}) and must not be replaced",
                self.hard_state.commit
            );
            if first <= last {
                self.shape.truncate_from(first);
                suffix = Some(self.shape.last());
            }
        }
        for entry in &write.entries {
            if let Payload::Command(command) = &entry.payload {
                assert!(
                    !command.is_empty(),
                    "entry {} is an empty command",
                    entry.id
                );
            }
            if let Err(wrong) = self.shape.push(entry.id) {
                panic!("entry {} does not continue the log: {wrong}", entry.id);
            }
        }
        self.take_over_hard_state(write.hard_state);
        Removes { base, suffix }
    }

    /// The new base, if the log gets one. A compaction that was done before does nothing.
    fn take_over_cut(&mut self, write: &LogWrite) -> Option<EntryId> {
        let base = match *write.cut.as_ref()? {
            Cut::Compact { index, .. } => {
                if index <= self.shape.base().index {
                    return None;
                }
                assert!(
                    index <= write.hard_state.commit && index <= self.shape.last().index,
                    "compaction up to {index} of a log that ends in {} with commit {}",
                    self.shape.last(),
                    write.hard_state.commit
                );
                self.shape.compact_to(index);
                self.shape.base()
            }
            Cut::Restore { base, .. } => {
                assert!(
                    base.index > self.hard_state.commit,
                    "a snapshot up to {base} over a log with commit {}",
                    self.hard_state.commit
                );
                self.shape = LogShape::new(base);
                base
            }
        };
        Some(base)
    }

    fn take_over_hard_state(&mut self, new: HardState) {
        let (old, last) = (self.hard_state, self.shape.last());
        assert!(
            new.term >= old.term && new.term >= last.term,
            "term {} after term {}, with a log that ends in {last}",
            new.term,
            old.term
        );
        // One vote in a term, for good: a second one could elect two leaders (Raft paper, 5.2).
        assert!(
            new.term > old.term || old.vote.is_none() || new.vote == old.vote,
            "vote in term {} changes from {:?} to {:?}",
            new.term,
            old.vote,
            new.vote
        );
        assert!(
            (self.shape.base().index..=last.index).contains(&new.commit),
            "commit {} outside of the log, which ends in {last}",
            new.commit
        );
        self.hard_state = new;
    }

    fn commit(&mut self, batch: &[LogWrite], removes: &[Removes]) -> Result<(), StoreFault> {
        // The one before lets go first, or this commit could take up nothing that was freed.
        self.before = None;
        self.before = Some(self.database.begin_read()?);
        let transaction = file::begin_durable(&self.database)?;
        {
            let mut log = LogTable::open(&transaction, self.seal)?;
            let mut meta = transaction.open_table(META_TABLE)?;
            // Not added yet: entries of several writes share rows.
            let mut added: Vec<&Entry> = Vec::new();
            for (write, removes) in batch.iter().zip(removes) {
                if removes.any() {
                    log.add(&mem::take(&mut added))?;
                }
                if let (Some(cut), Some(base)) = (&write.cut, removes.base) {
                    write_cut(&mut log, &mut meta, &self.seal, cut, base)?;
                }
                if let Some(last) = removes.suffix {
                    log.remove_after(last)?;
                }
                added.extend(&write.entries);
            }
            log.add(&added)?;
            let row = self
                .seal
                .close_row(HARD_STATE, encode_hard_state(&self.hard_state));
            meta.insert(HARD_STATE, row.as_slice())?;
        }
        // Both phases become durable as one step, with one write.
        let hold = self.journal.hold();
        transaction.commit()?;
        hold.release()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("shape", &self.shape)
            .field("hard_state", &self.hard_state)
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}

impl LogStore for Store {
    /// # Panics
    ///
    /// When `batch` breaks a rule of Raft: entries that do not continue the log or replace a
    /// committed one, a term that falls, a second vote in one term, a commit index outside of the
    /// log, a compaction of what is not committed. Nothing is written then.
    fn append(&mut self, batch: &[LogWrite]) -> Result<(), StoreError> {
        if self.stopped {
            return Err(StoreFault::Stopped.into());
        }
        // Set for the time of the write, so that a failure, or a panic, leaves it set.
        self.stopped = true;
        let removes: Vec<Removes> = batch.iter().map(|write| self.take_over(write)).collect();
        if !batch.is_empty() {
            self.commit(batch, &removes)?;
        }
        self.stopped = false;
        Ok(())
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        if self.stopped {
            return Err(StoreFault::Stopped.into());
        }
        self.stopped = true;
        self.journal.note_known()?;
        self.stopped = false;
        Ok(())
    }

    fn read(
        &self,
        first: LogIndex,
        last: LogIndex,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, StoreError> {
        assert!(first <= last, "entries {first} to {last} are none");
        if self.stopped {
            return Err(StoreFault::Stopped.into());
        }
        let transaction = self.database.begin_read().map_err(StoreFault::from)?;
        let range = (first, last);
        Ok(log_table::read(
            &transaction,
            &self.seal,
            &self.shape,
            range,
            bytes_max,
        )?)
    }
}

fn fill_founding(
    transaction: &WriteTransaction,
    seal: &Seal,
    membership: &Membership,
) -> Result<(), redb::Error> {
    let founding = Recovered::founding(membership.clone());
    let mut meta = transaction.open_table(META_TABLE)?;
    for (name, body) in [
        (BASE, encode_entry_id(founding.terms[0])),
        (BOOT, 0u64.to_le_bytes().to_vec()),
        (ORIGIN_ROW, origin_of(membership).to_le_bytes().to_vec()),
        (HARD_STATE, encode_hard_state(&founding.hard_state)),
        (MEMBERSHIP, membership.encode()),
    ] {
        meta.insert(name, seal.close_row(name, body).as_slice())?;
    }
    LogTable::open(transaction, *seal)?;
    Ok(())
}

/// What an older format says in another form, or not at all.
struct Rows {
    identity: IdentityRow,
    origin: u64,
    membership: Membership,
}

/// Counts the start, and has the file be of the present format from now on, in one step.
fn count_start(
    database: &Database,
    seal: &Seal,
    boot: u64,
    rows: &Rows,
) -> Result<u64, StoreFault> {
    let boot = boot
        .checked_add(u64::from(!planted::is("starts-not-counted")))
        .ok_or(Corruption::RowContent { row: BOOT })?;
    let transaction = file::begin_durable(database)?;
    {
        let mut meta = transaction.open_table(META_TABLE)?;
        meta.insert(IDENTITY, rows.identity.encode().as_slice())?;
        for (name, body) in [
            (BOOT, boot.to_le_bytes().to_vec()),
            (ORIGIN_ROW, rows.origin.to_le_bytes().to_vec()),
            (MEMBERSHIP, rows.membership.encode()),
        ] {
            meta.insert(name, seal.close_row(name, body).as_slice())?;
        }
    }
    transaction.commit()?;
    Ok(boot)
}

/// Removes the rows up to `base`, or all of them, and says in the same transaction where the log begins
/// now.
fn write_cut(
    log: &mut LogTable<'_>,
    meta: &mut Table<'_, &'static str, &'static [u8]>,
    seal: &Seal,
    cut: &Cut,
    base: EntryId,
) -> Result<(), StoreFault> {
    match cut {
        Cut::Compact { .. } => log.remove_to(base)?,
        Cut::Restore { .. } => log.clear()?,
    }
    let (Cut::Compact { membership, .. } | Cut::Restore { membership, .. }) = cut;
    if !planted::is("members-at-base-not-saved") {
        let row = seal.close_row(MEMBERSHIP, membership.encode());
        meta.insert(MEMBERSHIP, row.as_slice())?;
    }
    let mut base = base;
    if planted::is("boundary-term-lost") {
        base = EntryId::new(quorate_consensus::ORIGIN.term, base.index);
    }
    if !planted::is("base-not-saved") {
        let row = seal.close_row(BASE, encode_entry_id(base));
        meta.insert(BASE, row.as_slice())?;
    }
    Ok(())
}
