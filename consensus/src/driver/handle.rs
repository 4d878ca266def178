//! How the rest of the process talks to a running node.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_channel::Sender;
use bytes::Bytes;

use super::done::Done;
use super::seams::{Chunk, SnapshotSource, StateScan};
use crate::durability::AppendTicket;
use crate::entry::Entry;
use crate::error::{Fatal, MembershipError, ProposeError, ReadError, TransferError};
use crate::log_view::Fetch;
use crate::membership::{Membership, MembershipChange};
use crate::message::Message;
use crate::ready::LeaderChange;
use crate::size::Size;
use crate::snapshots::ChunkWanted;
use crate::status::Status;
use crate::types::{EntryId, LogIndex, NodeId};

/// How many requests may wait for the driver. It takes them in turns of a thousand, so
/// more than this means that it cannot keep up, and the sender should know.
pub const INBOX_REQUESTS_MAX: usize = 16_384;

/// How many bytes of commands may wait for the driver: eight times what may be uncommitted by default.
pub const INBOX_BYTES_MAX: u64 = 32 << 20;

/// How many messages of members may wait for the driver, whatever else waits: however many requests there are, they
/// must not cost the leader its followers' answers. What does not fit is dropped, as by a network.
pub const MESSAGES_MAX: usize = 16_384;

/// How many bytes of entries and snapshots may wait in them.
pub const MESSAGES_BYTES_MAX: u64 = 32 << 20;

/// How many reads may wait for their answers, those that a majority has confirmed and the state machine has not
/// come to among them. As many as [`Config::reads_max`](crate::Config::reads_max) may wait for the majority.
pub const READS_MAX: usize = 100_000;

/// How many bytes the queries of the reads that wait may have.
pub const READS_BYTES_MAX: u64 = 32 << 20;

/// Everything that can happen to a node, besides the passing of time.
pub(super) enum Input {
    Message {
        from: NodeId,
        message: Message,
        bytes: u64,
    },
    Propose {
        command: Bytes,
        done: Done<Bytes, ProposeError>,
    },
    Query {
        query: Bytes,
        done: Done<Bytes, ReadError>,
    },
    /// A query of the state as it is here, whatever others know.
    Stale {
        query: Bytes,
        done: Done<Stale, ReadError>,
    },
    Transfer {
        target: Option<NodeId>,
        done: Done<NodeId, TransferError>,
    },
    ChangeMembership {
        change: MembershipChange,
        expected: Option<LogIndex>,
        done: Done<Membership, MembershipError>,
    },
    Status {
        done: Done<Status, Stopped>,
    },
    Unreachable(NodeId),
    Campaign,
    Stop,
    Persisted(AppendTicket),
    Fetched(Fetch, Vec<Entry>),
    Applied(LogIndex),
    Durable(LogIndex),
    Snapshot(Option<Box<dyn SnapshotSource>>),
    Chunk(ChunkWanted, Chunk),
    Taken {
        number: u64,
        accepted: bool,
    },
    /// The state after this entry is to be compared, if that is possible.
    Scan(EntryId, Option<Box<dyn StateScan>>),
    Scanned(EntryId, Option<u64>),
    Failed(Fatal),
}

/// An answer from a state that may be old.
#[derive(Clone, PartialEq, Eq)]
pub struct Stale {
    /// What the state machine said.
    pub answer: Bytes,
    /// How long ago this node last heard of its leader when it was asked, or, at the leader, when it last did
    /// anything; `None` where no leader is known. The state lacks what was committed since, what was on its way
    /// then, and what it has not applied yet.
    pub leader_silent_for: Option<Duration>,
}

impl fmt::Debug for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stale")
            .field("answer", &Size(&self.answer))
            .field("leader_silent_for", &self.leader_silent_for)
            .finish()
    }
}

/// The node has stopped and answers no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the node has stopped")]
pub struct Stopped;

/// A handle on a running node: cheap to clone, usable from any thread and any async runtime. It asks, and can
/// neither speak for another member nor stop the node: that takes a [`DriverControl`](super::DriverControl).
#[derive(Clone)]
pub struct RaftHandle {
    pub(super) inbox: Sender<Input>,
    shared: Arc<Shared>,
}

/// What handles and driver share.
pub(super) struct Shared {
    /// What is in the inbox and was asked here.
    pub(super) inbox: Budget,
    /// What is in the inbox and came from other members.
    pub(super) messages: Budget,
    /// The reads that are not answered, wherever they are.
    reads: Budget,
    pub(super) leader: Mutex<LeaderChange>,
}

impl Shared {
    pub(super) fn new(leader: LeaderChange) -> Arc<Self> {
        Arc::new(Self {
            inbox: Budget::new(INBOX_REQUESTS_MAX, INBOX_BYTES_MAX),
            messages: Budget::new(MESSAGES_MAX, MESSAGES_BYTES_MAX),
            reads: Budget::new(READS_MAX, READS_BYTES_MAX),
            leader: Mutex::new(leader),
        })
    }
}

/// How much of something there may be at a time.
pub(super) struct Budget {
    count: AtomicUsize,
    count_max: usize,
    bytes: AtomicU64,
    bytes_max: u64,
}

impl Budget {
    fn new(count_max: usize, bytes_max: u64) -> Self {
        Self {
            count: AtomicUsize::new(0),
            count_max,
            bytes: AtomicU64::new(0),
            bytes_max,
        }
    }

    /// Counts one more, of `bytes`, if it fits. One alone always does, however large.
    fn admit(&self, bytes: u64) -> bool {
        // Counted first, so that many threads at once cannot pass the bound together.
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let total = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = count < self.count_max && (total == 0 || total + bytes <= self.bytes_max);
        if !fits {
            self.release(bytes);
        }
        fits
    }

    /// Something admitted is gone.
    pub(super) fn release(&self, bytes: u64) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl fmt::Debug for RaftHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftHandle")
            .field("leader", &self.leader())
            .finish_non_exhaustive()
    }
}

impl RaftHandle {
    pub(super) fn new(inbox: Sender<Input>, shared: Arc<Shared>) -> Self {
        Self { inbox, shared }
    }

    /// Replicates `command` and applies it. Resolves to the state machine's answer once the command is
    /// durable on a majority and applied here.
    ///
    /// # Errors
    ///
    /// [`ProposeError`], each of whose variants says whether anything happened.
    pub async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        let (done, answer) = Done::channel(ProposeError::OutcomeUnknown { at: None });
        self.push_proposal(command, done);
        answer.await
    }

    /// Like [`propose`](Self::propose), calling `done` with the outcome, on whatever thread learns it
    /// first. `done` must not block. It is called exactly once.
    pub fn propose_then(
        &self,
        command: Bytes,
        done: impl FnOnce(Result<Bytes, ProposeError>) + Send + 'static,
    ) {
        self.push_proposal(
            command,
            Done::new(ProposeError::OutcomeUnknown { at: None }, done),
        );
    }

    /// Answers `query` from a state that includes every write acknowledged before the call. Works at every
    /// member: one that follows asks the leader up to where its own state has to be.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; reading again is always safe.
    pub async fn query(&self, query: Bytes) -> Result<Bytes, ReadError> {
        let (done, answer) = Done::channel(ReadError::Stopped);
        self.push_read(query, done, |query, done| Input::Query { query, done });
        answer.await
    }

    /// Like [`query`](Self::query), calling `done` with the outcome, on whatever thread learns it first.
    /// `done` must not block. It is called exactly once.
    pub fn query_then(
        &self,
        query: Bytes,
        done: impl FnOnce(Result<Bytes, ReadError>) + Send + 'static,
    ) {
        let done = Done::new(ReadError::Stopped, done);
        self.push_read(query, done, |query, done| Input::Query { query, done });
    }

    /// Answers `query` from the state as it is here, however old: for where an old answer is better than none,
    /// or than the way to the leader. The answer says how old at most.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; reading again is always safe.
    pub async fn query_stale(&self, query: Bytes) -> Result<Stale, ReadError> {
        let (done, answer) = Done::channel(ReadError::Stopped);
        self.push_read(query, done, |query, done| Input::Stale { query, done });
        answer.await
    }

    /// Hands leadership to `target`, or to the most advanced voter. Resolves to the new leader.
    ///
    /// # Errors
    ///
    /// [`TransferError`]; with all but `Stopped` and `OutcomeUnknown`, this node goes on as before.
    pub async fn transfer_leader(&self, target: Option<NodeId>) -> Result<NodeId, TransferError> {
        let (done, answer) = Done::channel(TransferError::Stopped);
        // A dropped `done` answers by itself.
        let _ = self.inbox.try_send(Input::Transfer { target, done });
        answer.await
    }

    /// Changes the members, only if they are still those of the entry `expected`, if one is given. Resolves to
    /// the members once the change is complete.
    ///
    /// # Errors
    ///
    /// [`MembershipError`]; what it says of a leader that would be removed is that another one leads, or
    /// will: it hands over first.
    pub async fn change_membership(
        &self,
        change: MembershipChange,
        expected: Option<LogIndex>,
    ) -> Result<Membership, MembershipError> {
        let (done, answer) = Done::channel(MembershipError::Stopped);
        let _ = self.inbox.try_send(Input::ChangeMembership {
            change,
            expected,
            done,
        });
        answer.await
    }

    /// How the node stands.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when it no longer runs.
    pub async fn status(&self) -> Result<Status, Stopped> {
        let (done, answer) = Done::channel(Stopped);
        let _ = self.inbox.try_send(Input::Status { done });
        answer.await
    }

    /// Who leads, as this node last knew; nobody, once it has stopped.
    #[must_use]
    pub fn leader(&self) -> LeaderChange {
        *self
            .shared
            .leader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the node runs no more, however it ended: it answers nothing, and its word on who leads is of the past.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.inbox.is_closed()
    }

    /// Asks the node to start an election at once. One node that does so deposes no leader that is alive, but knows of
    /// none for a moment; several at once may, as [`RaftNode::campaign`](crate::RaftNode::campaign) says. For simulations,
    /// which call elections when no timeout would. What moves leadership is [`transfer_leader`](Self::transfer_leader),
    /// and a node that is alone leads by itself.
    pub fn campaign(&self) {
        let _ = self.inbox.try_send(Input::Campaign);
    }

    fn push_proposal(&self, command: Bytes, done: Done<Bytes, ProposeError>) {
        let bytes = command.len() as u64;
        let refused = self.push(bytes, Input::Propose { command, done });
        if let Some(Input::Propose { done, .. }) = refused {
            let refusal = self.refusal(ProposeError::Overloaded, ProposeError::Stopped);
            done.call(Err(refusal));
        }
    }

    fn push_read<T: Send + 'static>(
        &self,
        query: Bytes,
        done: Done<T, ReadError>,
        input: impl FnOnce(Bytes, Done<T, ReadError>) -> Input,
    ) {
        let bytes = query.len() as u64;
        let overloaded = || self.refusal(ReadError::Overloaded, ReadError::Stopped);
        if !self.shared.reads.admit(bytes) {
            return done.call(Err(overloaded()));
        }
        let shared = Arc::clone(&self.shared);
        let done = Done::new(ReadError::Stopped, move |answer| {
            shared.reads.release(bytes);
            done.call(answer);
        });
        match self.push(bytes, input(query, done)) {
            Some(Input::Stale { done, .. }) => done.call(Err(overloaded())),
            Some(Input::Query { done, .. }) => done.call(Err(overloaded())),
            _ => {}
        }
    }

    /// Nothing happened: because too much waits, or because the node has stopped.
    fn refusal<E>(&self, overloaded: E, stopped: E) -> E {
        match self.has_stopped() {
            true => stopped,
            false => overloaded,
        }
    }

    /// Gives a message to the driver, or back.
    pub(super) fn push_message(&self, bytes: u64, input: Input) -> Option<Input> {
        self.push_within(&self.shared.messages, bytes, input)
    }

    /// Gives a request to the driver, or back.
    fn push(&self, bytes: u64, input: Input) -> Option<Input> {
        self.push_within(&self.shared.inbox, bytes, input)
    }

    fn push_within(&self, budget: &Budget, bytes: u64, input: Input) -> Option<Input> {
        if !budget.admit(bytes) {
            return Some(input);
        }
        let error = self.inbox.try_send(input).err()?;
        budget.release(bytes);
        Some(error.into_inner())
    }
}
