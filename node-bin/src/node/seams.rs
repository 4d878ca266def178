//! Consensus' seams over QUIC and the node's runtime.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::Runtime;
use quorate_consensus::{Body, Clock, Message};
use quorate_quic_transport::Lane;
use quorate_quic_transport::runtime::sleep_until;
use serde::{Deserialize, Serialize};

/// A Raft message as the transport carries it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct RaftMessage(pub(super) Message);

impl quorate_quic_transport::Message for RaftMessage {
    const KIND: u16 = 0x0001;

    /// Of what says "how things stand now", only the newest counts; what answers a question or carries
    /// entries is never replaced.
    fn replaces(&self) -> Option<u64> {
        match self.0.body {
            Body::Heartbeat { .. } => Some(1),
            Body::HeartbeatResponse { .. } => Some(2),
            Body::Append { .. }
            | Body::AppendAccepted { .. }
            | Body::AppendRejected { .. }
            | Body::Snapshot { .. }
            | Body::Transfer(_)
            | Body::Digest { .. }
            | Body::ReadIndex { .. }
            | Body::LeadershipWanted { .. }
            | Body::ReadIndexAnswer { .. }
            | Body::RequestVote { .. }
            | Body::Vote { .. }
            | Body::TimeoutNow => None,
        }
    }
}

/// The protocol that nodes speak with each other and with clients.
pub(crate) const SERVICE: &str = "quorate";

/// The same where commands are numbered. To a member that numbers none they would be other commands, and what it acknowledged
/// as the leader, the others would not carry out: so the two do not speak with each other.
pub(super) const NUMBERED_SERVICE: &str = "quorate-once";

/// The only group there is yet; every frame carries it so that more can share a connection later.
pub(crate) const GROUP: u64 = 0;

/// The way of a message. Heartbeats and votes must not wait behind entries.
pub(super) fn lane(body: &Body) -> Lane {
    match body {
        // A member that gets a snapshot gets no entries meanwhile.
        Body::Append { .. }
        | Body::AppendAccepted { .. }
        | Body::AppendRejected { .. }
        | Body::Snapshot { .. }
        | Body::Transfer(_)
        | Body::Digest { .. } => Lane::Append,
        Body::RequestVote { .. }
        | Body::Vote { .. }
        | Body::ReadIndex { .. }
        | Body::LeadershipWanted { .. }
        | Body::ReadIndexAnswer { .. }
        | Body::Heartbeat { .. }
        | Body::HeartbeatResponse { .. }
        | Body::TimeoutNow => Lane::Control,
    }
}

/// The time of a [`quinn::Runtime`].
pub(super) struct RuntimeClock(pub(super) Arc<dyn Runtime>);

impl Clock for RuntimeClock {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(sleep_until(&*self.0, self.0.now() + duration))
    }
}
