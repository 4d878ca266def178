//! What the core wants done.

use std::time::Duration;

use crate::durability::Append;
use crate::entry::Entry;
use crate::error::{Fatal, MembershipError, ProposeError, ReadError, TransferError};
use crate::log_view::Fetch;
use crate::membership::Membership;
use crate::message::Message;
use crate::proposals::ProposalToken;
use crate::reads::ReadToken;
use crate::snapshots::{ChunkWanted, Take};
use crate::types::{EntryId, LogIndex, NodeId, Role, Term};

/// Work for the outside. Each field says what it must come before or after; all else may be carried out in any
/// order.
#[derive(Debug, Default)]
#[must_use = "the core waits for what it asked for"]
pub struct Ready {
    /// Send these now. Loss is allowed.
    pub messages: Vec<(NodeId, Message)>,
    /// Read these older entries from the store and bring them back. Before `append`, which may remove them.
    pub fetches: Vec<Fetch>,
    /// Make this durable, after all earlier ones, and bring the ticket back.
    pub append: Option<Append>,
    /// Replace the state by the snapshot up to this entry, which the sink has finished, before anything
    /// of `committed`; then say that it is applied.
    pub install: Option<EntryId>,
    /// Give these to the state machine, in order.
    pub committed: Vec<Committed>,
    /// Answer these from the state machine once it has applied `committed` and all before it.
    pub reads: Vec<ReadToken>,
    /// Do this with the sink of snapshots, in order, and report each.
    pub take: Vec<Take>,
    /// Ask the state machine for a snapshot, keep it for `chunks`, and say up to where it goes.
    pub take_snapshot: bool,
    /// Read these pieces of the snapshot that is kept, and bring them.
    pub chunks: Vec<ChunkWanted>,
    /// The snapshot that is kept is not needed any more.
    pub release_snapshot: bool,
    /// Read on in the state that is being compared with the other members'.
    pub scan: bool,
    /// Why this node must stop, when it must. Nothing comes after it.
    pub stop: Option<Fatal>,
    /// The members changed. Before `messages`, some of which may go to new ones.
    pub membership: Option<Membership>,
    /// How a change of the members that was asked for here ended.
    pub changed: Option<Result<Membership, MembershipError>>,
    /// Proposals that will not be applied here, and why.
    pub failed_proposals: Vec<(ProposalToken, ProposeError)>,
    /// Reads that cannot be answered here, and why.
    pub failed_reads: Vec<(ReadToken, ReadError)>,
    /// How a transfer of leadership ended.
    pub transfer: Option<Result<NodeId, TransferError>>,
    /// The role, term or leader changed.
    pub change: Option<LeaderChange>,
    /// What else happened that somebody may want to know. Nothing depends on it.
    pub events: Vec<Event>,
}

impl Ready {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.append.is_none()
            && self.install.is_none()
            && self.take.is_empty()
            && !self.take_snapshot
            && self.chunks.is_empty()
            && !self.release_snapshot
            && !self.scan
            && self.stop.is_none()
            && self.membership.is_none()
            && self.changed.is_none()
            && self.committed.is_empty()
            && self.reads.is_empty()
            && self.fetches.is_empty()
            && self.failed_proposals.is_empty()
            && self.failed_reads.is_empty()
            && self.transfer.is_none()
            && self.change.is_none()
            && self.events.is_empty()
    }
}

/// Something that happens to a node now and then. None of it is needed to work with a node; it is for
/// dashboards, alarms and tests.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The role, term or leader changed.
    Leader(LeaderChange),
    /// These are the members now; joint ones while a change is under way.
    Members(Membership),
    /// This leader has a snapshot for a member that needs entries which are not in the log any more.
    SnapshotOffered {
        /// The member.
        to: NodeId,
        /// The last entry in it.
        last: LogIndex,
    },
    /// The member has not asked for the rest of it for so long that it is offered again later.
    SnapshotStalled {
        /// The member.
        to: NodeId,
    },
    /// The log begins anew after a snapshot that this node has received, and so will the state.
    SnapshotReceived {
        /// The last entry in it.
        last: EntryId,
    },
    /// The disk has not answered for so long; a leader hands over.
    DiskStalled {
        /// For how long.
        waited: Duration,
    },
    /// The disk answers again.
    DiskAnswers {
        /// After how long.
        waited: Duration,
    },
    /// The state machine has not come back with what it was given for so long; a leader hands over.
    StateMachineStalled {
        /// For how long.
        waited: Duration,
    },
    /// The state machine has come back, and goes on.
    StateMachineAnswers {
        /// After how long.
        waited: Duration,
    },
}

/// A committed entry, and who proposed it here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    /// The entry. It is durable on a majority, and here.
    pub entry: Entry,
    /// Who waits for its outcome, if it was proposed at this node in this term of leadership.
    pub token: Option<ProposalToken>,
}

/// Who leads, from this node's point of view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaderChange {
    /// The term.
    pub term: Term,
    /// What this node is in it.
    pub role: Role,
    /// Who leads it, once known.
    pub leader: Option<NodeId>,
}
