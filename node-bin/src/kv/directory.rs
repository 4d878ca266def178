//! Who belongs to a cluster and where: what a client that knows one node learns of the others.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use quorate_consensus::{LogIndex, NodeId};
use serde::{Deserialize, Serialize};

use super::protocol::NodeStatus;

/// Who the members are and where they may be found, as one node knows it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Directory {
    /// Of what it is: of two, the greater one is newer. Default: of nothing, and older than all.
    pub as_of: AsOf,
    /// The members, and where each may be found, if that is known: no node knows where it is itself.
    pub members: BTreeMap<NodeId, Option<SocketAddr>>,
}

/// What a [`Directory`] is as of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct AsOf {
    /// The [founding](quorate_consensus::Term::founding) of the cluster: one that is recovered or restored begins its
    /// log again at an entry that the lost one may have gone beyond.
    pub founding: u64,
    /// The entry that made them the members.
    pub index: LogIndex,
}

impl Directory {
    /// What `status` says of the members; `None` of a node that does not know yet, for it has not joined.
    #[must_use]
    pub fn of(status: &NodeStatus) -> Option<Self> {
        let NodeStatus {
            members,
            peers,
            term,
            ..
        } = status;
        if members.is_provisional() {
            return None;
        }
        let seen = |node| {
            let peer = peers.iter().find(|peer| peer.node == node);
            peer.and_then(|peer| peer.address)
        };
        let found = |node| (node, members.address(node).or_else(|| seen(node)));
        Some(Self {
            as_of: AsOf {
                founding: term.founding(),
                index: members.index(),
            },
            members: members.members().map(found).collect(),
        })
    }
}
