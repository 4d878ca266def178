//! Why a node does not start.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use quorate_certs::Identity;
use quorate_consensus::{InvalidMembership, NodeId, StateMachineError, StoreError};
use quorate_persist::{CreateError, OpenError};
use quorate_quic_transport::BindError;

use crate::saved::SavedError;

/// Why a node does not start. Nothing was lost; most variants say which file or setting to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The certificate is a client's, a reader's or an admin's.
    #[error(
        "the certificate says {identity}, but only a node's certificate can start a node; issue one \
         with `quorate certs issue --node ID`"
    )]
    NotANode {
        /// What the certificate says.
        identity: Identity,
    },
    /// The configured members are no cluster.
    #[error("the peers do not make a cluster: {0}")]
    Membership(#[from] InvalidMembership),
    /// The configuration or the recovered state cannot be started from.
    #[error(transparent)]
    Consensus(#[from] quorate_consensus::StartError),
    /// The data folder cannot be made or used.
    #[error("cannot use the data folder {}: {error}", path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The state is there, but the log is not.
    #[error(
        "{} holds a state but no log: the log was lost, and this node must not start as if it were new; \
         if its folder is somewhere else, start it with that, never with a copy; if not, replace it under a new \
         number: `quorate members replace OLD NEW`, or in a program `NodeHandle::change_membership`",
        path.display()
    )]
    LogLost {
        /// The folder.
        path: PathBuf,
    },
    /// The log's file cannot be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The log's file cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log cannot be read.
    #[error("the log cannot be read: {0}")]
    Log(#[from] StoreError),
    /// The state machine cannot be opened.
    #[error(transparent)]
    StateMachine(#[from] StateMachineError),
    /// The saved state cannot be used.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// A node can only join members that it is told of.
    #[error("there is nobody to join; list the members of the cluster as peers")]
    NobodyToJoin,
    /// A node that founded a cluster cannot join another.
    #[error(
        "{} belongs to a cluster that was founded with {}, and cannot join another; if it is to join, start it with \
         --join on an empty data folder; if it is at home here, start it without --join",
        path.display(), list(founders)
    )]
    NotJoining {
        /// The data folder.
        path: PathBuf,
        /// Its members.
        founders: BTreeSet<NodeId>,
    },
    /// The configuration names other members than the data folder.
    #[error(
        "{} belongs to a cluster of {}, but the configuration names {}; list exactly the other members \
         as peers, or use another data folder",
        path.display(), list(recorded), list(configured)
    )]
    OtherMembers {
        /// The data folder.
        path: PathBuf,
        /// Its members.
        recorded: BTreeSet<NodeId>,
        /// The configured ones.
        configured: BTreeSet<NodeId>,
    },
    /// The socket cannot be opened, or the transport's settings are wrong.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

fn list(nodes: &BTreeSet<NodeId>) -> String {
    let nodes: Vec<String> = nodes.iter().map(|node| node.value().to_string()).collect();
    match nodes.len() {
        1 => format!("node {} alone", nodes[0]),
        _ => format!("nodes {}", nodes.join(", ")),
    }
}
