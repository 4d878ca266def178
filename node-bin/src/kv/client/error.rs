//! What a client operation can fail with. Each answers: did anything happen, and what now?

use std::fmt;
use std::time::Duration;

use quorate_consensus::NodeId;
use quorate_quic_transport::BindError;

use super::super::invalid::Invalid;
use super::super::logged::SLOTS_MAX;
use super::super::protocol::Refusal;
use super::lock::Lost;

/// Why a client could not be set up. Nothing was sent anywhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is nobody to talk to.
    #[error("no node was given; name at least one, with its id and address")]
    NoEndpoint,
    /// The credentials are a node's, and clients have their own.
    #[error(
        "these are the credentials of node {}, which only that node may use; issue a client's with \
         `quorate certs issue --client NAME`", .node.value()
    )]
    NodeCredentials {
        /// Whose they are.
        node: NodeId,
    },
    /// More nodes than a cluster can have.
    #[error("{endpoints} nodes were given; a cluster has at most {endpoints_max}")]
    TooManyEndpoints {
        /// How many there were.
        endpoints: usize,
        /// How many there may be.
        endpoints_max: usize,
    },
    /// The local socket could not be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system gave no randomness.
    #[error("the system gave no random bytes: {0}")]
    NoRandomness(#[source] std::io::Error),
}

/// Why an operation did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The write may have been applied, or may yet be: once, however often it was sent.
    #[error(
        "outcome unknown: node {} was sent the write, but {why}. It may or may not have happened; \
         look before you repeat it", .node.value()
    )]
    OutcomeUnknown {
        /// Who was sent the write.
        node: NodeId,
        /// Why there is no answer.
        why: Unanswered,
    },
    /// No node that leads could be found in time. Nothing happened.
    #[error("no leader found within {within:?}; nothing was changed{}", list(tried, *unlisted))]
    NoLeader {
        /// How long was searched.
        within: Duration,
        /// What is known of each node, in order.
        tried: Vec<Tried>,
        /// A leader that was named, but of which nobody said where it is.
        unlisted: Option<NodeId>,
    },
    /// Every node is out of reach for a reason that waiting does not remove, such as a certificate from
    /// another CA, or a client that was closed. Nothing happened.
    #[error("no node can be used; nothing was changed{}", list(tried, None))]
    NoUsableNode {
        /// Why each cannot be used, in order.
        tried: Vec<Tried>,
    },
    /// The operation was refused again and again until the time was up. Nothing happened.
    #[error("not done within {within:?}; nothing was changed: node {} said that {refusal}", .node.value())]
    StillRefused {
        /// How long was tried.
        within: Duration,
        /// Who refused last.
        node: NodeId,
        /// Why it did.
        refusal: Refusal,
    },
    /// A read, or the opening of the session that a write needs, had no answer in time. Nothing happened; try
    /// again.
    #[error(
        "node {} did not answer within {within:?}; nothing was changed. Try again, or with a longer \
         timeout", .node.value()
    )]
    TimedOut {
        /// Who was asked.
        node: NodeId,
        /// How long it had.
        within: Duration,
    },
    /// The node refused for good. Nothing happened.
    #[error("node {} refused; nothing was changed: {refusal}", .node.value())]
    Refused {
        /// Who refused.
        node: NodeId,
        /// Why.
        refusal: Refusal,
    },
    /// Leadership was to be handed over, and nobody took over in time.
    #[error(
        "nobody took over from node {} in time, so that it may lead on; see who leads, and try again or \
         name another node", .node.value()
    )]
    NobodyTookOver {
        /// The leader that was to hand over.
        node: NodeId,
    },
    /// Too many writes of this client had no answer yet. Nothing happened.
    #[error(
        "{SLOTS_MAX} writes of this client were waiting for their answers all the time; nothing was changed. \
         Start fewer at a time"
    )]
    TooManyUnderWay,
    /// The lease has ended. Nothing happened.
    #[error(
        "there is no lease {lease}: it has expired, was revoked, or never was; nothing was changed"
    )]
    LeaseUnknown {
        /// Its number.
        lease: u64,
    },
    /// The lock, or the place among those who wait for it, is not there any more.
    #[error("the lock is lost: {0}")]
    LockLost(Lost),
    /// There are as many leases as there can be. Nothing happened; it may be otherwise later.
    #[error("{}; nothing was changed", Invalid::TooManyLeases)]
    TooManyLeases,
    /// This client's identity has as many leases as one may have. Nothing happened; it may be otherwise later.
    #[error("{}; nothing was changed", Invalid::TooManyLeasesOfOne)]
    TooManyLeasesOfOne,
    /// The request breaks a limit and was not sent.
    #[error("{0}; nothing was sent")]
    Invalid(#[from] Invalid),
    /// The node holds the state of a backup no more: it was started anew, others took its place, or nobody asked for too
    /// long. Begin again.
    #[error("node {}: {}", .node.value(), Invalid::BackupGone)]
    BackupGone {
        /// Which one.
        node: NodeId,
    },
    /// The node answered something that is no answer to the question.
    #[error(
        "node {} gave an answer that does not fit the question; do both sides run the same version?",
        .node.value()
    )]
    Nonsense {
        /// Who answered.
        node: NodeId,
    },
    /// The node could not be asked. Nothing happened.
    #[error("node {} cannot be reached: {why}", .node.value())]
    Unreachable {
        /// Which one.
        node: NodeId,
        /// Why, as far as is known.
        why: String,
        /// Whether waiting does not remove that, as in [`NoUsableNode`](Self::NoUsableNode).
        for_good: bool,
    },
    /// The client knows as many nodes as there may be. Forget one of them.
    #[error("a client knows {nodes_max} nodes at most: forget those that were removed")]
    TooManyNodes {
        /// How many there may be.
        nodes_max: usize,
    },
    /// The node is not among those the client was given.
    #[error("no address was given for node {}", .node.value())]
    UnknownNode {
        /// Which one.
        node: NodeId,
    },
}

/// Why a write that was sent has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unanswered {
    /// The time was up.
    #[error("it did not answer in time")]
    Deadline,
    /// The connection broke, or the node dropped the request.
    #[error("the connection or the node broke before it answered")]
    Lost,
    /// Its answer found no room behind others on their way.
    #[error("its answer found no room behind others")]
    NoRoom,
    /// Another node has become the leader.
    #[error("another leader was elected before it answered")]
    Superseded,
    /// The node itself does not know.
    #[error("it does not know itself whether the write happened, or will")]
    Undecided,
    /// It was sent again, and then the session in which it would have been recognised had ended.
    #[error("the session in which it was sent expired before it could be asked again")]
    SessionExpired,
    /// It was carried out, once, and sent again for want of an answer, which had been too long to be kept: it had found
    /// more than 16 KiB. A compare-and-set of which this is said has changed nothing.
    #[error("it was carried out before it was sent again, and its long answer was not kept")]
    NotKept,
    /// It answered what cannot be understood.
    #[error("its answer could not be understood")]
    Nonsense,
}

/// What is known of a node that was tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tried {
    /// Which node.
    pub node: NodeId,
    /// The last thing it said, or why it could not be asked.
    pub why: String,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}: {}", self.node.value(), self.why)
    }
}

fn list(tried: &[Tried], unlisted: Option<NodeId>) -> String {
    let mut text: String = tried.iter().map(|tried| format!("\n  {tried}")).collect();
    if let Some(node) = unlisted {
        let node = node.value();
        text += &format!(
            "\n  node {node} was named as the leader, but nobody said where it is; give its address too"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error a user meets first says what each node answered and what to do.
    #[test]
    fn no_leader_lists_every_node() {
        let node = |id| NodeId::new(id).unwrap();
        let error = ClientError::NoLeader {
            within: Duration::from_secs(5),
            tried: vec![
                Tried {
                    node: node(1),
                    why: "not connected".into(),
                },
                Tried {
                    node: node(2),
                    why: "follower, knows of no leader".into(),
                },
            ],
            unlisted: Some(node(3)),
        };
        assert_eq!(
            error.to_string(),
            "no leader found within 5s; nothing was changed\
             \n  node 1: not connected\
             \n  node 2: follower, knows of no leader\
             \n  node 3 was named as the leader, but nobody said where it is; give its address too"
        );
    }
}
