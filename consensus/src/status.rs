//! How a node stands, for people and tests.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::membership::Membership;
use crate::types::{EntryId, LogIndex, NodeId, Role, Term};

/// A snapshot of a node's consensus state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The node.
    pub node: NodeId,
    /// Its term.
    pub term: Term,
    /// Its role in that term.
    pub role: Role,
    /// The leader it knows in that term.
    pub leader: Option<NodeId>,
    /// The last entry of its log, durable or not.
    pub last: EntryId,
    /// The last entry it knows to be committed.
    pub commit: LogIndex,
    /// The last entry its state machine has applied.
    pub applied: LogIndex,
    /// For how long its state machine has not come back with what it was given, once that is
    /// [`Config::apply_stall_timeout`](crate::Config::apply_stall_timeout).
    pub state_machine_stalled: Option<Duration>,
    /// The members.
    pub membership: Membership,
    /// How far each other member is; known to the leader only.
    pub peers: Vec<PeerProgress>,
}

/// How far a member is, as its leader knows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerProgress {
    /// The member.
    pub node: NodeId,
    /// The last entry known to be durable there.
    pub matched: LogIndex,
    /// Whether entries flow to it: false while the leader still looks for where the logs meet, or
    /// has been told that it is unreachable.
    pub replicating: bool,
    /// Whether it was heard of within the last election timeout.
    pub active: bool,
}

impl fmt::Display for Status {
    /// `n2@4 follower(n5) last=9@4 commit=8 applied=8`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} {}", self.node, self.term, self.role)?;
        match self.leader {
            Some(leader) if leader != self.node => write!(f, "({leader})")?,
            Some(_) | None => {}
        }
        write!(
            f,
            " last={} commit={} applied={}",
            self.last, self.commit, self.applied
        )
    }
}
