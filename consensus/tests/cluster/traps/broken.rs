//! A storage that does to `raft` what it must not.

use std::cell::RefCell;

use raft::eraftpb::{Entry as PbEntry, Snapshot as PbSnapshot};
use raft::storage::MemStorage;
use raft::{Error, GetEntriesContext, RaftState, Result as RaftResult, Storage, StorageError};

/// A storage that breaks a rule.
pub(super) struct Broken {
    pub(super) storage: MemStorage,
    pub(super) how: How,
    /// From where to where it was read, and how much of that at most.
    pub(super) asked: RefCell<Vec<(u64, u64, Option<u64>)>>,
}

impl Broken {
    pub(super) fn sound(storage: MemStorage) -> Self {
        Self {
            storage,
            how: How::NotAtAll,
            asked: RefCell::default(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    NotAtAll,
    /// It has no entries, wherever they are asked for.
    Entries(Nothing),
    /// It does not know the terms of entries.
    Terms,
    /// Entries that were to be replaced are still there, up to this index and in term 1.
    Tail(u64),
    /// It has a snapshot of nothing.
    EmptySnapshot,
    /// It has no snapshot, for good.
    NoSnapshot,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Nothing {
    Empty,
    Unavailable,
    Later,
}

impl Storage for Broken {
    fn initial_state(&self) -> RaftResult<RaftState> {
        self.storage.initial_state()
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> RaftResult<Vec<PbEntry>> {
        let max_size = max_size.into();
        self.asked.borrow_mut().push((low, high, max_size));
        match self.how {
            How::Entries(Nothing::Empty) => Ok(Vec::new()),
            How::Entries(Nothing::Unavailable) => Err(Error::Store(StorageError::Unavailable)),
            How::Entries(Nothing::Later) => {
                Err(Error::Store(StorageError::LogTemporarilyUnavailable))
            }
            How::NotAtAll | How::Terms | How::Tail(_) | How::EmptySnapshot | How::NoSnapshot => {
                self.storage.entries(low, high, max_size, context)
            }
        }
    }

    fn term(&self, index: u64) -> RaftResult<u64> {
        match self.how {
            How::Terms => Err(Error::Store(StorageError::Compacted)),
            How::Tail(_) if index > self.storage.last_index()? => Ok(1),
            How::NotAtAll
            | How::Tail(_)
            | How::Entries(_)
            | How::EmptySnapshot
            | How::NoSnapshot => self.storage.term(index),
        }
    }

    fn first_index(&self) -> RaftResult<u64> {
        self.storage.first_index()
    }

    fn last_index(&self) -> RaftResult<u64> {
        match self.how {
            How::Tail(last) => Ok(last),
            How::NotAtAll | How::Terms | How::Entries(_) | How::EmptySnapshot | How::NoSnapshot => {
                self.storage.last_index()
            }
        }
    }

    fn snapshot(&self, request_index: u64, to: u64) -> RaftResult<PbSnapshot> {
        match self.how {
            How::EmptySnapshot => Ok(PbSnapshot::default()),
            How::NoSnapshot => Err(Error::Store(StorageError::Unavailable)),
            How::NotAtAll | How::Terms | How::Tail(_) | How::Entries(_) => {
                self.storage.snapshot(request_index, to)
            }
        }
    }
}
