//! What went wrong, and whether the caller may try again.

use std::time::Duration;

use crate::driver::{StateMachineError, StoreError};
use crate::membership::ChangeRefused;
use crate::types::{EntryId, LogIndex, NodeId};

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
    /// Nothing happened, and this node proposes nothing any more.
    #[error("the node is stopping; propose at another one")]
    Stopped,
    /// It may have been applied, or may yet be. Repeat it only if applying it twice does no harm.
    #[error("outcome unknown: the command may have been applied, or may yet be{}", as_entry(*at))]
    OutcomeUnknown {
        /// The entry that held the command, if it got as far as the log.
        at: Option<EntryId>,
    },
}

impl ProposeError {
    /// Whether the command was not applied and never will be, so that it may be proposed again, here or elsewhere.
    #[must_use]
    pub fn nothing_happened(&self) -> bool {
        match self {
            Self::NotLeader { .. }
            | Self::Overloaded
            | Self::TooLarge { .. }
            | Self::Empty
            | Self::Stopped => true,
            Self::OutcomeUnknown { .. } => false,
        }
    }
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
    /// The target did not take over in time. This node leads on.
    #[error(
        "{target} did not take over within two election timeouts; try again, or name another voter"
    )]
    TimedOut {
        /// Who should have taken over.
        target: NodeId,
    },
    /// Leadership was on its way to the target when this node stopped, or had to follow: it may lead by now, or an election
    /// decides.
    #[error("whether the other node has taken over is not known; see who leads")]
    OutcomeUnknown,
    /// The node is stopping. Nothing happened.
    #[error("the node is stopping")]
    Stopped,
}

/// Why the members are not as was asked. Unless it says otherwise, nothing happened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// Only the leader can. A leader that would be removed hands over first: ask the new one.
    #[error("not the leader{}", at(*leader))]
    NotLeader {
        /// The leader, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// One change at a time, none before a new leader knows what is committed, and none while so much waits to be
    /// committed or applied that commands are refused. Ask again after a pause.
    #[error(
        "another change is under way, the leader is new, or too much waits; try again after a moment"
    )]
    ChangeInProgress,
    /// The members are not those that the change was made for.
    #[error("the members have changed since: now they are those of entry {actual}; look again")]
    Stale {
        /// [`Membership::index`](crate::Membership::index) of the members there are.
        actual: LogIndex,
    },
    /// It makes no sense for the members there are.
    #[error("{0}")]
    Refused(#[from] ChangeRefused),
    /// So few of the new voters are here that the cluster would stand still.
    #[error(
        "only {active} of {voters} voters would be active, which is no majority; start the others, or change \
         them one at a time"
    )]
    WouldLoseQuorum {
        /// How many of them were heard of within an election timeout.
        active: usize,
        /// How many voters there would be.
        voters: usize,
    },
    /// A voter that has to catch up first would hold up every write.
    #[error("{node} has not caught up yet: it has {matched} of {commit}; try again later")]
    LearnerBehind {
        /// The node.
        node: NodeId,
        /// The last entry known to be there.
        matched: LogIndex,
        /// The leader's commit index.
        commit: LogIndex,
    },
    /// Leadership was lost, or the node stopped, before it was decided: look at the members, and ask again if
    /// need be.
    #[error(
        "outcome unknown: leadership was lost, or the node stopped, before the change was complete; look at the \
         members"
    )]
    OutcomeUnknown,
    /// The node is stopping, and had not begun.
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
    /// The node was told to stop, and the state machine has not come back with what it was given for
    /// [`Config::apply_stall_timeout`](crate::Config::apply_stall_timeout). The thread that waits for it cannot be ended;
    /// the process can.
    #[error("the state machine has not answered for {waited:?}, so this node stops without it")]
    StateMachineHangs {
        /// For how long.
        waited: Duration,
    },
    /// After the same entries, this node's state is not that of the majority: memory that changed by itself,
    /// or a state machine that is not deterministic.
    #[error(
        "after {at}, this node's state differs from that of the majority, so it stops: check the machine's \
         memory and replace the node"
    )]
    StateDiverged {
        /// The entry after which the states differed.
        at: EntryId,
    },
    /// The node does not belong to the cluster any more.
    #[error(
        "{node} was removed from the cluster by {at}, so it stops; a new node needs a new id, and its own \
         data folder"
    )]
    Removed {
        /// This node.
        node: NodeId,
        /// The entry that removed it.
        at: EntryId,
    },
    /// The log changes the members in a way that no leader does.
    #[error(
        "{at} changes the members in a way that cannot be, so this node stops: a leader was at fault"
    )]
    ImpossibleMembership {
        /// The entry.
        at: EntryId,
    },
    /// A worker thread ended without an error of its own; it panicked.
    #[error("the {worker} thread panicked, so this node stops")]
    WorkerGone {
        /// Which one.
        worker: &'static str,
    },
}

impl Fatal {
    /// Whether a worker thread is left that waits for something that may never come.
    #[must_use]
    pub fn leaves_a_thread(&self) -> bool {
        matches!(
            self,
            Self::DiskHangs { .. } | Self::StateMachineHangs { .. }
        )
    }
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

fn as_entry(at: Option<EntryId>) -> String {
    at.map_or_else(String::new, |at| format!(", as entry {at}"))
}

fn at(leader: Option<NodeId>) -> String {
    leader.map_or_else(
        || "; no leader is known".into(),
        |leader| format!("; the leader is {leader}"),
    )
}
