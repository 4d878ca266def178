//! What an embedder brings: a way to send, a log on disk, a state machine, and a clock.
//!
//! The facade crate implements the first, second and fourth over QUIC, redb and the node's runtime.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::durability::LogWrite;
use crate::entry::{Entry, ORIGIN};
use crate::membership::Membership;
use crate::message::Message;
use crate::size::Size;
use crate::types::{EntryId, LogIndex, NodeId};

/// Carries messages to other members. Loss, delay, duplication and reordering are all allowed. Where a
/// loss is told, by [`DriverControl::report_unreachable`](crate::DriverControl::report_unreachable), entries are
/// sent again at once; where it is not, a member that is being probed gets large ones again after four
/// election timeouts or more.
pub trait Transport: Send + 'static {
    /// Hands `message` to the way to `to`, without waiting.
    ///
    /// # Errors
    ///
    /// [`Undelivered`] when the message cannot be queued; Raft then probes that member again
    /// instead of assuming that the message is on its way.
    fn send(&mut self, to: NodeId, message: Message) -> Result<(), Undelivered>;

    /// These are the members from now on. Called once as the node starts, and whenever they change, before
    /// anything is sent to a new one. Does nothing, the default, where everybody can be reached anyway.
    fn set_members(&mut self, membership: &Membership) {
        let _ = membership;
    }
}

/// The message was not queued: the member is not connected, or its queue is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Undelivered;

/// The durable log. All calls come from one thread, which does nothing else.
///
/// The log may tell its caller that something is written only when it survives a power loss.
pub trait LogStore: Send + 'static {
    /// Makes `batch` durable, in order, as one atomic step: after a crash either all of it is there
    /// or none of it. Each element first gives the log a new beginning, if it has a
    /// [`cut`](LogWrite::cut), then removes every entry at and after its first entry's index
    /// (conflicting suffixes, Raft paper, section 5.3), then adds its entries and replaces the hard
    /// state.
    ///
    /// # Errors
    ///
    /// [`StoreError`] stops the node. It is never retried: after a failed fsync nobody knows what
    /// is on the disk.
    fn append(&mut self, batch: &[LogWrite]) -> Result<(), StoreError>;

    /// The durable entries from `first` to `last`, both included: as many as fit `bytes_max`, but at
    /// least one.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when an entry is missing or does not pass its checksum; the node stops.
    fn read(
        &self,
        first: LogIndex,
        last: LogIndex,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, StoreError>;

    /// Called once when nothing has been appended for a tick or two after the last append: a moment
    /// for what nobody should wait for. Does nothing unless the store has such things.
    ///
    /// # Errors
    ///
    /// [`StoreError`] stops the node.
    fn settle(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A disk or file that did not do what it must. The node stops; a restart on a healthy disk recovers.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl StoreError {
    /// Wraps what the store reported.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// The replicated state machine. All calls come from one thread, which does nothing else, so they
/// may block.
///
/// `apply` must be deterministic: its outcome may depend on the state and the command only, never on
/// a clock, on chance, on hash order or on the machine. Members whose state machines differ answer
/// differently.
///
/// A call that does not return keeps its node in the cluster, which votes, writes its log and answers how it stands,
/// but applies nothing and answers no client. After [`Config::apply_stall_timeout`], 30 s, in which nothing of what it was
/// given came back, the node says so ([`Event::StateMachineStalled`], [`Status::state_machine_stalled`], a warning), whoever waits for a
/// command is told [`OutcomeUnknown`], and a leader hands over to a voter that goes on; if there is none, because a command
/// takes every member as long, it leads on. All that ends when the call returns. Queries wait until then, and only
/// entries that are to be applied show that it hangs: one query alone does not. Time in [`install`](Self::install) does not
/// count.
///
/// [`Config::apply_stall_timeout`]: crate::Config::apply_stall_timeout
/// [`Event::StateMachineStalled`]: crate::Event::StateMachineStalled
/// [`Status::state_machine_stalled`]: crate::Status::state_machine_stalled
/// [`OutcomeUnknown`]: crate::ProposeError::OutcomeUnknown
pub trait StateMachine: Send + 'static {
    /// The last entry whose effect the state holds as it was opened. [`ORIGIN`](crate::ORIGIN) for an
    /// empty state; everything after it is applied again from the log. A state machine that always says so has the
    /// whole log read into memory at every start; `quorate::saved` is for states in memory that are saved.
    fn applied(&self) -> EntryId;

    /// Applies committed commands in order and returns one answer for each, in the same order.
    ///
    /// The state must remember `batch.last` together with the effects, even when `batch.commands` is
    /// empty. Where it is kept on disk, what is there is always the state after some entry, never
    /// half of a batch: effects and position go there in one transaction.
    ///
    /// A command that the state machine refuses is an answer like any other, equal on every member.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] stops the node: its state can no longer be trusted. So do too few answers or too many.
    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError>;

    /// Answers a question from the present state, without changing it.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] stops the node. A malformed query is an answer, not an error.
    fn query(&mut self, query: &[u8]) -> Result<Bytes, StateMachineError>;

    /// Called between batches when the log has grown by [`Config::checkpoint_bytes`] or
    /// [`Config::checkpoint_interval`] has passed since the last call, or when a member needs a snapshot:
    /// begins to make durable what was applied. It may go on in the background after this has returned, and be left out while an
    /// earlier one does: once [`durable`](Self::durable) tells of the end of that one, it is asked for again. After a crash, the state is as at the last one that was completed, and what
    /// came later is applied again from the log. A state machine in memory does nothing here.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] stops the node. What fails in the background is reported by the next
    /// call of any method, and is never tried again.
    ///
    /// [`Config::checkpoint_bytes`]: crate::Config::checkpoint_bytes
    /// [`Config::checkpoint_interval`]: crate::Config::checkpoint_interval
    fn checkpoint(&mut self) -> Result<(), StateMachineError> {
        Ok(())
    }

    /// The last entry whose effect survives a crash now, never less than before. The log may be
    /// compacted up to it, so whoever says more than [`ORIGIN`](crate::ORIGIN), the default, must also
    /// give out a [`snapshot`](Self::snapshot) for the members that need what was removed. With the default the log
    /// is kept whole, and read into memory at every start; `quorate::saved` does all this for a state that fits in
    /// memory.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] stops the node.
    fn durable(&mut self) -> Result<EntryId, StateMachineError> {
        Ok(ORIGIN)
    }

    /// A picture of the state after some entry, not before the one last told by
    /// [`durable`](Self::durable). It must be quick: what it takes to read the picture is done later, on
    /// another thread, while the state goes on. `None`, the default, where there are no snapshots.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] stops the node.
    fn snapshot(&mut self) -> Result<Option<Box<dyn SnapshotSource>>, StateMachineError> {
        Ok(None)
    }

    /// Where snapshots of other members are put; asked for once, before anything else. `None`, the
    /// default, where there are no snapshots.
    fn sink(&mut self) -> Option<Box<dyn SnapshotSink>> {
        None
    }

    /// The snapshot that the sink has finished and that was not installed yet, as found on disk when the
    /// state machine was opened. Asked only where the state lacks what the log no longer has.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] when there is one that cannot be read; the node does not start.
    fn received(&self) -> Result<Option<EntryId>, StateMachineError> {
        Ok(None)
    }

    /// Replaces the state by the snapshot up to `last`, which the sink has finished. When this returns,
    /// that is durable; a crash before leaves what was there, and the snapshot to be installed again.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] stops the node.
    fn install(&mut self, last: EntryId) -> Result<(), StateMachineError> {
        Err(StateMachineError::new(format!(
            "this state machine has no snapshots, but was given one up to {last}"
        )))
    }

    /// The state as it is now, to be compared with the other members' while it goes on. It must be quick;
    /// what it takes to read the state is done later, on another thread. `None`, the default, where states
    /// cannot be compared.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] stops the node.
    fn scan(&mut self) -> Result<Option<Box<dyn StateScan>>, StateMachineError> {
        Ok(None)
    }

    /// The last call, on an orderly stop: makes all that was applied durable before it returns, so
    /// that nothing has to be applied again. It does not come after a crash, nor after an error of
    /// this state machine. A state machine in memory does nothing here.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] is logged; the node has stopped already.
    fn close(&mut self) -> Result<(), StateMachineError> {
        Ok(())
    }
}

/// A picture of a state machine, read in pieces while the state machine goes on.
pub trait SnapshotSource: Send + 'static {
    /// The last entry whose effect is in the picture.
    fn last(&self) -> EntryId;

    /// The piece that follows the place `after`, which the piece before it named as
    /// [`next`](Chunk::next); the first one follows the empty place. The same question has the same
    /// answer as long as the source lives. A piece has at most about `bytes_max` bytes, more where a
    /// single item is larger.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] stops the node: what it holds is damaged.
    fn chunk(&mut self, after: &[u8], bytes_max: u64) -> Result<Chunk, StateMachineError>;
}

/// A state that is being read to be compared.
pub trait StateScan: Send + 'static {
    /// Reads on, about `bytes_max` bytes. Returns the digest once all has been read: equal for equal
    /// states, on every member and machine, and most likely another one for any other state.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] stops the node: what it holds is damaged.
    fn read_on(&mut self, bytes_max: u64) -> Result<Option<u64>, StateMachineError>;
}

/// A piece of a snapshot.
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk {
    /// What the sink understands.
    pub data: Bytes,
    /// The place after this piece, at most [`PLACE_BYTES_MAX`] bytes; `None` after the last one.
    pub next: Option<Bytes>,
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("data", &Size(&self.data))
            .field("next", &self.next.as_deref().map(Size))
            .finish()
    }
}

/// How long the name of a place in a snapshot may be: a key of the key-value store, and some more.
pub const PLACE_BYTES_MAX: usize = 2048;

/// Takes a snapshot in, beside the state, which goes on meanwhile. Unfinished ones may be lost in a
/// crash.
pub trait SnapshotSink: Send + 'static {
    /// Begins with the snapshot up to `last`; forgets any other that is not finished.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] stops the node.
    fn begin(&mut self, last: EntryId) -> Result<(), StateMachineError>;

    /// Takes the next piece. Returns whether it could be read; one that could not be leaves the snapshot
    /// as it was.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] stops the node.
    fn add(&mut self, data: &[u8]) -> Result<bool, StateMachineError>;

    /// All pieces are there: makes the snapshot durable, to be
    /// [installed](StateMachine::install). Returns whether it is whole and was accepted; else it is
    /// forgotten.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] stops the node.
    fn finish(&mut self) -> Result<bool, StateMachineError>;
}

/// Committed entries for the state machine.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The commands, in log order. Entries without a command are left out.
    pub commands: Vec<Command>,
    /// The last entry of the batch, whether or not it held a command.
    pub last: EntryId,
}

/// One committed command.
#[derive(Clone)]
pub struct Command {
    /// Where in the log it stands; the same on every member.
    pub id: EntryId,
    /// What the client proposed.
    pub data: Bytes,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("id", &self.id)
            .field("data", &Size(&self.data))
            .finish()
    }
}

/// The state machine cannot go on. The node stops.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StateMachineError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl StateMachineError {
    /// Wraps what the state machine reported.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// Time, as the driver sees it.
pub trait Clock: Send + Sync + 'static {
    /// A monotonic reading.
    fn now(&self) -> Instant;

    /// Completes after `duration`, or somewhat later.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}
