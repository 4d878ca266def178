//! What went wrong, and whether the caller may try again.

use std::time::Duration;

use crate::driver::{StateMachineError, StoreError};
use crate::types::{EntryId, NodeId};

/// Why a proposal has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Nothing happened. Propose at `leader`, if one is known.
    #[error("not the leader{}", at(*leader))]
    NotLeader {
        /// The leader, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Nothing happened. Propose here again after a pause.
    #[error("overloaded: too many bytes are waiting to be committed or applied; try again later")]
    Overloaded,
    /// Nothing happened and nothing ever will: the command is too large.
    #[error("command of {bytes} bytes exceeds the limit of {bytes_max}")]
    TooLarge {
        /// The size of the command.
        bytes: u64,
        /// [`Config::command_bytes_max`](crate::Config::command_bytes_max).
        bytes_max: u64,
    },
    /// Nothing happened and nothing ever will: an empty command is how Raft writes "nothing".
    #[error("a command must not be empty")]
    Empty,
    /// It may have been applied, or may yet be. Repeat it only if applying it twice does no harm.
    #[error("outcome unknown: leadership was lost before {at:?} was decided")]
    OutcomeUnknown {
        /// The entry that held the command, if it got as far as the log.
        at: Option<EntryId>,
    },
}

/// Why a read has no answer. Nothing happened; reading again is always safe.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Read at `leader`, if one is known.
    #[error("not the leader{}", at(*leader))]
    NotLeader {
        /// The leader, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Too many reads are waiting here. Try again after a pause.
    #[error("overloaded: too many reads are waiting; try again later")]
    Overloaded,
    /// No majority confirmed the leader in time.
    #[error("no majority confirmed the leader in time; try again")]
    TimedOut,
    /// The node is stopping.
    #[error("the node is stopping; read at another one")]
    Stopped,
}

/// Why leadership did not move.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// Only the leader can hand over.
    #[error("not the leader{}", at(*leader))]
    NotLeader {
        /// The leader, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// The target is not a voter of the cluster, or there is no other voter.
    #[error("there is no such voter to hand leadership to")]
    NoTarget,
    /// The target did not take over in time. This node leads on, or an election decides.
    #[error(
        "{target} did not take over within two election timeouts; try again, or name another voter"
    )]
    TimedOut {
        /// Who should have taken over.
        target: NodeId,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// Why the node stopped by itself. Acknowledged data is safe; a restart on healthy hardware recovers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fatal {
    /// The log could not be written or read.
    #[error("the log store failed, so this node stops: {0}")]
    Store(#[source] StoreError),
    /// The state machine could not go on.
    #[error("the state machine failed, so this node stops: {0}")]
    StateMachine(#[source] StateMachineError),
    /// A write has not come back from the disk for
    /// [`Config::disk_hang_timeout`](crate::Config::disk_hang_timeout), or, when the node was told to stop,
    /// for four election timeouts. The thread that waits for it cannot
    /// be ended; the process can.
    #[error("the disk has not answered for {waited:?}, so this node stops; check the disk")]
    DiskHangs {
        /// For how long.
        waited: Duration,
    },
    /// After the same entries, this node's state is not that of the majority: memory that changed by itself,
    /// or a state machine that is not deterministic.
    #[error(
        "after {}, this node's state differs from that of the majority, so it stops: check the machine's \
         memory and replace the node",
        divergence.at
    )]
    StateDiverged {
        /// Where that was noticed.
        divergence: Divergence,
    },
    /// A worker thread ended without an error of its own; it panicked.
    #[error("the {worker} thread panicked, so this node stops")]
    WorkerGone {
        /// Which one.
        worker: &'static str,
    },
}

/// This node's state is not that of the majority, though both have applied the same entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Divergence {
    /// The entry after which the states differed.
    pub at: EntryId,
}

/// Why a core cannot start from what was recovered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is not valid.
    #[error("invalid configuration: {}", mistakes.join("; "))]
    Config {
        /// Every mistake found.
        mistakes: Vec<String>,
    },
    /// The node does not belong to the cluster that its store belongs to.
    #[error("{node} is not a member of its cluster ({members})")]
    NotAMember {
        /// This node.
        node: NodeId,
        /// The members.
        members: String,
    },
    /// The state machine is ahead of the log: one of the two was lost or rolled back.
    #[error(
        "the state machine holds {applied}, but the log ends at {last}: the log was lost or rolled \
         back; replace this node instead of restarting it"
    )]
    StateAheadOfLog {
        /// The last entry in the state machine.
        applied: EntryId,
        /// The last entry in the log.
        last: EntryId,
    },
    /// The state machine lacks entries that the log no longer has.
    #[error(
        "the state machine holds {applied}, but the log begins after {base}: the state was lost or \
         rolled back; replace this node instead of restarting it"
    )]
    StateBehindLog {
        /// The last entry in the state machine.
        applied: EntryId,
        /// The entry before the first one in the log.
        base: EntryId,
    },
    /// The state machine holds an entry that differs from the log's.
    #[error(
        "the state machine holds {applied}, but the log has term {term} at that index: the two files \
         do not belong together"
    )]
    StateNotOfThisLog {
        /// The last entry in the state machine.
        applied: EntryId,
        /// The log's term at that index.
        term: u64,
    },
}

fn at(leader: Option<NodeId>) -> String {
    leader.map_or_else(
        || "; no leader is known".into(),
        |leader| format!("; the leader is {leader}"),
    )
}
