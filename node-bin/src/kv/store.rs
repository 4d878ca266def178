//! The replicated state: keys and values in a redb file of their own, and in memory what happened
//! since that was written.

mod apply;
mod bound;
mod compact;
mod digest;
mod flusher;
mod listing;
mod overlay;
mod picture;
mod piece;
mod record;
mod rows;
mod scan;
mod snapshot;
mod timed;
mod upgrade;
mod view;

use std::fmt;
use std::mem;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorate_consensus::{
    Batch, Chunk, EntryId, ORIGIN, SnapshotSink, SnapshotSource, StateMachine, StateMachineError,
    StateScan,
};
use quorate_persist::{
    CreateError, FileKind, Files, META_TABLE, OpenError, OpenedDatabase, OsFiles, Seal, StoreFault,
    StoreIdentity, create_database, open_database, replace_file,
};
use redb::{Database, StorageError};

use self::apply::{Applying, check_order};
pub use self::compact::CompactError;
use self::digest::Digest;
use self::flusher::{Flusher, Write};
use self::overlay::Overlay;
use self::picture::Picture;
pub(crate) use self::piece::Progress;
use self::record::{APPLIED, KV_TABLE, KvTable, applied_row, open_table, write_overlay};
use self::scan::KvScan;
use self::snapshot::KvSource;
pub(crate) use self::snapshot::sink_to;
use self::timed::Timed;
pub use self::timed::{LEASES_MAX, LEASES_OF_ONE_MAX, SESSION_TTL, SESSIONS_MAX};
use self::view::Below;
use super::board::Board;
use super::history::WATCH_HISTORY_BYTES_DEFAULT;
use super::invalid::Invalid;
use super::query::{Answer, BackupPiece, Pair, Query, RANGE_BYTES_MAX};
use crate::node::received_path;
use crate::planted;

/// What redb keeps of the state in memory unless told otherwise: enough for the hot part of a small
/// machine's data, whatever the size of the file. What was written last is in memory anyway. Twice as much
/// answers a fifth more reads of 100,000 keys of 256 bytes, and brings a busy node above 100 MiB.
pub const KV_CACHE_BYTES_DEFAULT: usize = 8 << 20;

/// How much may have been applied and not yet be on its way to the disk, unless told otherwise:
/// twice the default of [`Config::checkpoint_bytes`](quorate_consensus::Config::checkpoint_bytes), so that a
/// flush may take as long as the load between two checkpoints before anyone waits, unless nearly every write is
/// to another small key.
pub const KV_OVERLAY_BYTES_DEFAULT: usize = 72 << 20;

/// How much higher revisions are in a cluster for each second that it was founded anew later, or for each time at
/// least: more than it writes in that second, and more than may have been lost.
const REVISIONS_PER_FOUNDING: u64 = 1_000_000_000;

/// The revision of what the entry `at` writes, which is the number of a session or lease as well that it opens: its
/// index, and in a cluster that was [founded anew](quorate_consensus::Term::founding) more, so that no number is given
/// again that clients may have seen of entries that are lost. Of two entries the later has the higher one.
fn revision_of(at: EntryId) -> u64 {
    let anew = at.term.founding().saturating_mul(REVISIONS_PER_FOUNDING);
    at.index.value().saturating_add(anew)
}

/// In format 1 there were users' keys only, as they are.
const KV_FILE: FileKind = FileKind {
    magic: *b"QRMKV\0\0\0",
    format: 2,
    oldest: 1,
};

/// How the key-value store uses the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvOptions {
    /// How many bytes of the file redb keeps in memory. Default [`KV_CACHE_BYTES_DEFAULT`]. Too
    /// small: reads go to the disk. Too large: memory others could use.
    pub cache_bytes: usize,
    /// How many bytes of keys and values, with an overhead for each key, may be applied in memory
    /// before `apply` writes them, which includes waiting for what is being written. Default
    /// [`KV_OVERLAY_BYTES_DEFAULT`]. There may be as much again that is being written, and each may
    /// be exceeded by one batch. Too small: `apply` waits for the disk. Too large: memory others
    /// could use, and a longer replay after a crash.
    pub overlay_bytes_max: usize,
    /// Whether checkpoints are written by a thread of the store's own. Default `true`. With `false`,
    /// [`checkpoint`](StateMachine::checkpoint) returns when all is durable, as a simulation needs
    /// it, in which everything happens on one thread.
    pub background: bool,
    /// How many bytes of what has happened to keys are remembered for those who watch. Default
    /// [`WATCH_HISTORY_BYTES_DEFAULT`]. Too small: whoever was away for a moment has to read everything
    /// again. Too large: memory others could use.
    pub watch_history_bytes: usize,
}

impl Default for KvOptions {
    fn default() -> Self {
        Self {
            cache_bytes: KV_CACHE_BYTES_DEFAULT,
            overlay_bytes_max: KV_OVERLAY_BYTES_DEFAULT,
            background: true,
            watch_history_bytes: WATCH_HISTORY_BYTES_DEFAULT,
        }
    }
}

/// The key-value state machine.
///
/// Commands are applied in memory; [`checkpoint`](StateMachine::checkpoint) hands what has gathered
/// there to a thread that writes it to the file, all of it with one durable commit. Committing each
/// batch to redb instead, even without waiting for the disk, took 46 % of all CPU of a loaded cluster
/// (three nodes, 256 clients writing): redb copies one leaf for every random key. A checkpoint copies
/// a leaf once, however many of its keys have changed.
///
/// After a crash the state is as at the last completed checkpoint, and the log is applied again from
/// there, with the same result. It is the same after a drop without [`close`](StateMachine::close).
///
/// A fault stops the store: all further use of it as a state machine is refused.
pub struct KvStore {
    // The order of the fields is that in which they are dropped: the database comes last.
    /// The file as reads find it: as at the end of the last flush that has been noticed.
    table: Arc<KvTable>,
    /// Up to where the log is applied in the file, as it was then.
    saved: EntryId,
    /// What was applied after that which the flusher has got.
    active: Overlay,
    /// What ends by itself, as the rows say.
    timed: Timed,
    /// Where others see what has happened, and when something ends.
    board: Arc<Board>,
    flusher: Flusher,
    database: Arc<Database>,
    seal: Seal,
    place: Place,
    /// After a fault, what is in memory may be half of a batch.
    stopped: bool,
}

/// Where a store is, and how it was opened.
#[derive(Clone)]
struct Place {
    files: Arc<dyn Files>,
    path: PathBuf,
    identity: StoreIdentity,
    options: KvOptions,
}

impl KvStore {
    /// Makes an empty store at `path`. Durable when this returns.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; an existing file is never touched.
    pub fn create(path: &Path, identity: &StoreIdentity) -> Result<(), CreateError> {
        Self::create_in(&OsFiles, path, identity)
    }

    /// As [`KvStore::create`], elsewhere than on the operating system's files.
    ///
    /// # Errors
    ///
    /// As [`KvStore::create`].
    pub fn create_in(
        files: &dyn Files,
        path: &Path,
        identity: &StoreIdentity,
    ) -> Result<(), CreateError> {
        create_database(files, path, KV_FILE, identity, |transaction, seal| {
            transaction.open_table(KV_TABLE)?;
            let mut meta = transaction.open_table(META_TABLE)?;
            meta.insert(APPLIED, applied_row(seal, ORIGIN).as_slice())?;
            Ok(())
        })?;
        Ok(())
    }

    /// Opens the store at `path` and checks every page of it.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the node must not run on such a file. Where the log was never compacted, a lost
    /// or damaged store can be created anew: it is rebuilt from the log.
    pub fn open(
        path: &Path,
        identity: &StoreIdentity,
        options: KvOptions,
    ) -> Result<Self, OpenError> {
        Self::open_in(Arc::new(OsFiles), path, identity, options)
    }

    /// As [`KvStore::open`], elsewhere than on the operating system's files.
    ///
    /// # Errors
    ///
    /// As [`KvStore::open`].
    pub fn open_in(
        files: Arc<dyn Files>,
        path: &Path,
        identity: &StoreIdentity,
        options: KvOptions,
    ) -> Result<Self, OpenError> {
        Self::open_around(files, path, identity, options, |write| write)
    }

    /// As [`open`](Self::open), with `around` between the flusher and the file.
    fn open_around(
        files: Arc<dyn Files>,
        path: &Path,
        identity: &StoreIdentity,
        options: KvOptions,
        around: impl FnOnce(Write) -> Write,
    ) -> Result<Self, OpenError> {
        let opened = open_database(&*files, path, KV_FILE, identity, options.cache_bytes)?;
        upgrade::to_present(&opened, identity).map_err(|fault| fault.at_open(path))?;
        let place = Place {
            files,
            path: path.to_owned(),
            identity: identity.clone(),
            options,
        };
        let board = Arc::new(Board::new(options.watch_history_bytes, options.background));
        let store = Self::assemble(opened, place, board, around);
        let store = store.map_err(|fault| fault.at_open(path))?;
        tracing::info!(
            path = %path.display(), applied = %store.applied(), "key-value store opened"
        );
        Ok(store)
    }

    fn assemble(
        opened: OpenedDatabase,
        place: Place,
        board: Arc<Board>,
        around: impl FnOnce(Write) -> Write,
    ) -> Result<Self, StoreFault> {
        let OpenedDatabase { database, seal, .. } = opened;
        let (table, applied) = open_table(&database, &seal)?;
        let table = Arc::new(table);
        let database = Arc::new(database);
        let write = around(Box::new({
            let (database, seal) = (Arc::clone(&database), seal);
            let cache_bytes = place.options.cache_bytes;
            move |overlay| write_overlay(&database, &seal, overlay, cache_bytes)
        }));
        let flusher = if place.options.background {
            Flusher::thread(write).map_err(StorageError::Io)?
        } else {
            Flusher::inline(write)
        };
        let active = Overlay::new(applied);
        let below = Below {
            frozen: None,
            table: &table,
            seal: &seal,
        };
        let timed = Timed::load(&below, &active)?;
        board.begin_anew(revision_of(applied), timed.due_in());
        Ok(Self {
            table,
            saved: applied,
            active,
            timed,
            board,
            flusher,
            database,
            seal,
            place,
            stopped: false,
        })
    }

    /// A number that is the same for the same keys, values and revisions, and most likely differs
    /// otherwise. Reads the whole store.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] when a record is damaged or the disk fails.
    pub fn digest(&self) -> Result<u64, StateMachineError> {
        let mut digest = Digest::default();
        self.below()
            .scan(&self.active, b"", None, |key, record| {
                digest.add(key, record);
                ControlFlow::Continue(())
            })
            .map_err(StateMachineError::new)?;
        Ok(digest.value())
    }

    /// Where it tells others what it does.
    pub(crate) fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }

    fn below(&self) -> Below<'_> {
        Below {
            frozen: self.flusher.frozen().map(|frozen| &**frozen),
            table: &self.table,
            seal: &self.seal,
        }
    }

    fn apply_checked(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StoreFault> {
        self.settle()?;
        // Before the batch and not after it, so that the answers to the one before do not wait.
        if self.is_full() {
            self.checkpoint_checked()?;
        }
        let below = Below {
            frozen: self.flusher.frozen().map(|frozen| &**frozen),
            table: &self.table,
            seal: &self.seal,
        };
        let before = self.timed.at();
        let mut applying = Applying {
            active: &mut self.active,
            below,
            timed: &mut self.timed,
            changes: Vec::new(),
        };
        let outcomes = batch
            .commands
            .iter()
            .map(|command| applying.apply(command))
            .collect::<Result<Vec<Bytes>, StoreFault>>()?;
        applying.write_clock(before);
        let changes = applying.changes;
        self.active.reach(batch.last);
        self.board
            .tell(changes, self.revision(), self.timed.due_in());
        Ok(outcomes)
    }

    fn answer(&mut self, query: &[u8]) -> Result<Answer, StateMachineError> {
        self.settle()?;
        let query = Query::decode(query).and_then(|query| query.validate().map(|()| query));
        match query {
            Ok(Query::Get { key }) => Ok(Answer::Value {
                value: self.below().find(&self.active, &rows::of_user(&key))?,
                revision: self.revision(),
            }),
            Ok(Query::Range { start, end, limit }) => {
                Ok(self.page(&start, end.as_deref(), limit)?)
            }
            Ok(Query::Lease { lease }) => Ok(Answer::Lease {
                lease: self.timed.lease(lease),
                revision: self.revision(),
            }),
            Ok(Query::Leases { from, limit }) => Ok(self.leases(from, limit)?),
            Ok(Query::BeginBackup) => {
                let picture = match planted::is("backup-of-what-is-saved") {
                    true => self.saved_picture()?,
                    false => self.picture()?,
                };
                let last = picture.last();
                self.board.backups.hold(Box::new(KvSource::new(picture)));
                Ok(Answer::BackupBegun { last })
            }
            Ok(Query::BackupPiece { of, after }) => self.backup_piece(of, &after),
            Ok(Query::EndBackup { of }) => {
                self.board.backups.release(of);
                Ok(Answer::BackupEnded)
            }
            Err(invalid) => Ok(Answer::Refused(invalid)),
        }
    }

    fn backup_piece(&self, of: EntryId, after: &[u8]) -> Result<Answer, StateMachineError> {
        let held = &self.board.backups;
        Ok(match held.chunk(of, after, RANGE_BYTES_MAX as u64)? {
            Some(Chunk { data, next }) => Answer::BackupPiece(BackupPiece { data, next }),
            None => Answer::Refused(Invalid::BackupGone),
        })
    }

    fn page(&self, start: &[u8], end: Option<&[u8]>, limit: u32) -> Result<Answer, StoreFault> {
        let mut pairs = Vec::new();
        let mut more = false;
        let mut bytes = 0;
        let (start, end) = (rows::bound(start), end.map(rows::bound));
        self.below()
            .scan(&self.active, &start, end.as_deref(), |row, record| {
                let key = rows::user_key(row);
                bytes += key.len() + record.data.len();
                // The first pair always fits: see the assertion below.
                if pairs.len() == limit as usize || bytes > RANGE_BYTES_MAX {
                    more = true;
                    return ControlFlow::Break(());
                }
                pairs.push(Pair {
                    key,
                    value: record.to_value(),
                });
                ControlFlow::Continue(())
            })?;
        Ok(Answer::Page {
            pairs,
            more,
            revision: self.revision(),
        })
    }

    /// Up to where the state has been applied.
    fn revision(&self) -> u64 {
        revision_of(self.active.applied())
    }

    fn is_full(&self) -> bool {
        self.active.bytes() >= self.place.options.overlay_bytes_max
    }

    /// Takes note of a flush that has ended.
    fn settle(&mut self) -> Result<(), StoreFault> {
        if self.flusher.poll()? {
            self.see_file()?;
        }
        Ok(())
    }

    /// Reads see the file as it is now.
    fn see_file(&mut self) -> Result<(), StoreFault> {
        let (table, saved) = open_table(&self.database, &self.seal)?;
        (self.table, self.saved) = (Arc::new(table), saved);
        Ok(())
    }

    /// Waits until no flush is running.
    fn wait(&mut self) -> Result<(), StoreFault> {
        if self.flusher.wait()? {
            self.see_file()?;
        }
        Ok(())
    }

    /// Hands what was applied to the flusher, which must be idle.
    fn freeze(&mut self) -> Result<(), StoreFault> {
        let next = Overlay::new(self.active.applied());
        let frozen = mem::replace(&mut self.active, next);
        if self.flusher.start(frozen)? {
            self.see_file()?;
        }
        Ok(())
    }

    fn checkpoint_checked(&mut self) -> Result<(), StoreFault> {
        self.settle()?;
        if !self.active.is_news() {
            return Ok(());
        }
        if self.flusher.frozen().is_some() {
            if !self.is_full() {
                // The next checkpoint takes this one's share along.
                tracing::debug!(active = ?self.active, "checkpoint left out: a flush is running");
                return Ok(());
            }
            self.wait()?;
        }
        self.freeze()
    }

    fn close_checked(&mut self) -> Result<(), StoreFault> {
        self.wait()?;
        if self.active.is_news() {
            self.freeze()?;
            self.wait()?;
        }
        Ok(())
    }

    /// What a crash would leave.
    fn saved_picture(&mut self) -> Result<Picture, StoreFault> {
        self.settle()?;
        Ok(self.picture_of(None, Overlay::new(self.saved)))
    }

    /// Everything that was applied.
    fn picture(&mut self) -> Result<Picture, StoreFault> {
        self.settle()?;
        let frozen = self.flusher.frozen().cloned();
        Ok(self.picture_of(frozen, self.active.clone()))
    }

    /// The file is as it was at the end of a flush, not as it is now: during one it is nothing's state.
    fn picture_of(&self, frozen: Option<Arc<Overlay>>, active: Overlay) -> Picture {
        Picture {
            table: Arc::clone(&self.table),
            _database: Arc::clone(&self.database),
            seal: self.seal,
            frozen,
            active,
        }
    }

    fn open_received(&self) -> Result<OpenedDatabase, OpenError> {
        let Place {
            files,
            path,
            identity,
            options,
        } = &self.place;
        let path = received_path(path);
        let opened = open_database(&**files, &path, KV_FILE, identity, options.cache_bytes)?;
        // It may have been received before the program was replaced by this version.
        upgrade::to_present(&opened, identity).map_err(|fault| fault.at_open(&path))?;
        Ok(opened)
    }

    /// The file that was received takes the place of the state's, once it has been read.
    fn install_checked(&mut self, last: EntryId) -> Result<(), StateMachineError> {
        self.wait().map_err(StateMachineError::new)?;
        let opened = self.open_received().map_err(StateMachineError::new)?;
        let applied = open_table(&opened.database, &opened.seal)
            .map_err(StateMachineError::new)?
            .1;
        if applied != last {
            return Err(StateMachineError::new(format!(
                "the snapshot that was received goes up to {applied}, and should to {last}"
            )));
        }
        let Place { files, path, .. } = &self.place;
        replace_file(&**files, &received_path(path), path).map_err(StateMachineError::new)?;
        let (place, board) = (self.place.clone(), Arc::clone(&self.board));
        let installed = Self::assemble(opened, place, board, |write| write);
        *self = installed.map_err(StateMachineError::new)?;
        tracing::info!(applied = %last, "state replaced by a snapshot");
        Ok(())
    }

    /// Does `work`, and nothing ever again after it failed.
    fn unless_stopped<T, E: Into<StateMachineError>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, StateMachineError> {
        if self.stopped {
            return Err(StoreFault::Stopped.into());
        }
        let outcome = work(self);
        self.stopped = outcome.is_err();
        outcome.map_err(Into::into)
    }
}

const _: () = assert!(
    super::command::KEY_BYTES_MAX + super::command::VALUE_BYTES_MAX <= RANGE_BYTES_MAX,
    "a page holds at least one pair, or a reader would never get past it"
);

impl StateMachine for KvStore {
    fn applied(&self) -> EntryId {
        self.active.applied()
    }

    /// # Panics
    ///
    /// When `batch` does not come after everything applied before it, in order.
    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
        check_order(self.applied(), batch);
        self.unless_stopped(|store| store.apply_checked(batch))
    }

    fn query(&mut self, query: &[u8]) -> Result<Bytes, StateMachineError> {
        self.unless_stopped(|store| store.answer(query).map(|answer| answer.encode()))
    }

    /// Begins to write what was applied, or does nothing while an earlier checkpoint is still being
    /// written and there is room in memory.
    fn checkpoint(&mut self) -> Result<(), StateMachineError> {
        self.unless_stopped(Self::checkpoint_checked)
    }

    fn durable(&mut self) -> Result<EntryId, StateMachineError> {
        self.unless_stopped(|store| store.settle().map(|()| store.saved))
    }

    fn snapshot(&mut self) -> Result<Option<Box<dyn SnapshotSource>>, StateMachineError> {
        let picture = self.unless_stopped(Self::saved_picture)?;
        Ok(Some(Box::new(KvSource::new(picture))))
    }

    fn sink(&mut self) -> Option<Box<dyn SnapshotSink>> {
        let Place {
            files,
            path,
            identity,
            ..
        } = &self.place;
        Some(sink_to(Arc::clone(files), &received_path(path), identity))
    }

    fn received(&self) -> Result<Option<EntryId>, StateMachineError> {
        let Place { files, path, .. } = &self.place;
        let there = files.exists(&received_path(path));
        if !there.map_err(StateMachineError::new)? {
            return Ok(None);
        }
        let opened = self.open_received().map_err(StateMachineError::new)?;
        let opened = open_table(&opened.database, &opened.seal);
        let (_, last) = opened.map_err(StateMachineError::new)?;
        Ok(Some(last))
    }

    fn install(&mut self, last: EntryId) -> Result<(), StateMachineError> {
        if self.stopped {
            return Err(StateMachineError::new(StoreFault::Stopped));
        }
        self.stopped = true;
        self.install_checked(last)?;
        self.stopped = false;
        Ok(())
    }

    /// Copies what was applied since the last checkpoint: some milliseconds when that is much.
    fn scan(&mut self) -> Result<Option<Box<dyn StateScan>>, StateMachineError> {
        let picture = self.unless_stopped(Self::picture)?;
        Ok(Some(Box::new(KvScan::new(picture))))
    }

    fn close(&mut self) -> Result<(), StateMachineError> {
        self.unless_stopped(Self::close_checked)
    }
}

impl fmt::Debug for KvStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the table, whose form shows keys.
        f.debug_struct("KvStore")
            .field("active", &self.active)
            .field("frozen", &self.flusher.frozen())
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
