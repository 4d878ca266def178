//! What stands between a node and its log and its state machine, and tells the book of promises.

use std::sync::Arc;

use bytes::Bytes;
use quorate::kv::KvStore;
use quorate::saved::{Saved, State};
use quorate::{Batch, EntryId, NodeId, StateMachine, StateMachineError};
use quorate_consensus::{
    Entry, LogIndex, LogStore, LogWrite, Recovered, SnapshotSink, SnapshotSource, StateScan,
    StoreError, read_tail,
};
use quorate_quic_transport::Instance;

use super::book::{Book, SharedBook};
use crate::planted;

/// How often the whole state is compared, in entries: it costs a scan.
const DIGEST_EVERY: u64 = 16;

/// A node's log, with someone who watches what is made durable.
pub(super) struct WatchedLog {
    log: Box<dyn LogStore>,
    book: SharedBook,
    node: NodeId,
    store_id: u128,
}

impl WatchedLog {
    /// Checks what the log holds at a start against what it was told to keep.
    pub(super) fn open(
        book: SharedBook,
        node: NodeId,
        instance: Instance,
        recovered: &Recovered,
        log: Box<dyn LogStore>,
    ) -> Box<dyn LogStore> {
        let base = recovered.base();
        let entries = read_tail(&*log, base.index, recovered.last);
        // A log that cannot be read stops the node a moment later.
        let entries = entries.unwrap_or_default();
        book.with(|book| book.opened(node, instance, recovered.hard_state, base, &entries));
        Box::new(Self {
            log: planted::around_log(log),
            book,
            node,
            store_id: instance.store_id,
        })
    }
}

impl LogStore for WatchedLog {
    fn append(&mut self, batch: &[LogWrite]) -> Result<(), StoreError> {
        self.book.with(|book| book.writing(self.store_id, batch));
        self.log.append(batch)?;
        self.book
            .with(|book| book.written(self.node, self.store_id, batch));
        Ok(())
    }

    fn read(
        &self,
        first: LogIndex,
        last: LogIndex,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, StoreError> {
        self.log.read(first, last, bytes_max)
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        self.log.settle()
    }
}

/// A state machine whose states can be compared as a whole.
pub(super) trait Digested: StateMachine {
    /// A number that is the same for equal states.
    fn digest(&mut self) -> Result<u64, StateMachineError>;
}

impl Digested for KvStore {
    fn digest(&mut self) -> Result<u64, StateMachineError> {
        KvStore::digest(self)
    }
}

impl<S: State> Digested for Saved<S> {
    fn digest(&mut self) -> Result<u64, StateMachineError> {
        let mut scan = self.scan()?.expect("a state that is compared");
        let digest = scan.read_on(u64::MAX)?;
        Ok(digest.expect("all of it was read"))
    }
}

/// A node's state, with someone who watches what is applied and answered.
pub(super) struct WatchedState<S> {
    store: S,
    book: SharedBook,
    node: NodeId,
}

impl<S: Digested> WatchedState<S> {
    pub(super) fn new(book: SharedBook, node: NodeId, store: S) -> Self {
        book.with(|book| book.state_opened(node, store.applied()));
        Self { store, book, node }
    }

    fn tell(&self, tell: impl FnOnce(&mut Book)) {
        self.book.with(tell);
    }
}

impl<S: Digested> StateMachine for WatchedState<S> {
    fn applied(&self) -> EntryId {
        self.store.applied()
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
        let before = self.store.applied();
        let answers = self.store.apply(batch)?;
        self.tell(|book| book.applied(self.node, before, batch, &answers));
        let compare_all = self.book.with(|book| book.compare_all);
        if compare_all || batch.last.index.value().is_multiple_of(DIGEST_EVERY) {
            let digest = self.store.digest()?;
            self.tell(|book| book.state_is(self.node, batch.last, digest));
        }
        Ok(answers)
    }

    fn query(&mut self, query: &[u8]) -> Result<Bytes, StateMachineError> {
        self.store.query(query)
    }

    fn checkpoint(&mut self) -> Result<(), StateMachineError> {
        self.store.checkpoint()
    }

    fn durable(&mut self) -> Result<EntryId, StateMachineError> {
        let durable = self.store.durable()?;
        self.tell(|book| book.state_is_durable(self.node, durable));
        Ok(durable)
    }

    fn snapshot(&mut self) -> Result<Option<Box<dyn SnapshotSource>>, StateMachineError> {
        self.store.snapshot()
    }

    fn sink(&mut self) -> Option<Box<dyn SnapshotSink>> {
        self.store.sink()
    }

    fn received(&self) -> Result<Option<EntryId>, StateMachineError> {
        self.store.received()
    }

    fn install(&mut self, last: EntryId) -> Result<(), StateMachineError> {
        self.store.install(last)?;
        let digest = self.store.digest()?;
        self.tell(|book| {
            book.installed(self.node, last);
            book.state_is(self.node, last, digest);
        });
        Ok(())
    }

    fn scan(&mut self) -> Result<Option<Box<dyn StateScan>>, StateMachineError> {
        self.store.scan()
    }

    fn close(&mut self) -> Result<(), StateMachineError> {
        self.store.close()
    }
}

/// What `entry` says, in short.
pub(super) fn content_hash(entry: &Entry) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, entry_bytes(entry));
    u64::from_be_bytes(*digest.as_ref().first_chunk().expect("32 bytes"))
}

fn entry_bytes(entry: &Entry) -> &[u8] {
    match &entry.payload {
        quorate_consensus::Payload::Command(command) => command,
        _ => &[],
    }
}

/// Only to name the type that a node's log is wrapped in.
pub(super) type Around =
    Box<dyn FnOnce(Instance, &Recovered, Box<dyn LogStore>) -> Box<dyn LogStore> + Send>;

pub(super) fn around(book: &SharedBook, node: NodeId) -> Around {
    let book = Arc::clone(&book.0);
    Box::new(move |instance, recovered, log| {
        WatchedLog::open(SharedBook(book), node, instance, recovered, log)
    })
}
