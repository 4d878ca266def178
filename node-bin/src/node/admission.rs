//! Which nodes may connect, besides having a good certificate.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use quorate_consensus::{Membership, NodeId};
use quorate_quic_transport::{Admit, CloseCode, PeerUp, Refused};

use crate::planted;

/// Lets members in, each with the store it was first seen with.
///
/// A member that comes back with another store has lost its log, and with it the votes it cast and the
/// entries it acknowledged; if it took part again, acknowledged writes could be lost (reliability
/// scenario E1). The memory is this process's own.
pub(super) struct Admission {
    members: Membership,
    stores: Mutex<BTreeMap<NodeId, u128>>,
}

impl Admission {
    pub(super) fn new(members: Membership) -> Self {
        Self {
            members,
            stores: Mutex::default(),
        }
    }

    fn check(&self, node: NodeId, store: u128) -> Result<(), String> {
        if !self.members.contains(node) {
            return Err(format!(
                "node {} is not a member of this cluster; start it with the same peers as the others",
                node.value()
            ));
        }
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let known = *stores.entry(node).or_insert(store);
        if known == store || planted::is("other-store-admitted") {
            return Ok(());
        }
        Err(format!(
            "node {} lost its data folder or has another one: a node must not rejoin without its log; \
             restore the folder",
            node.value()
        ))
    }
}

impl Admit for Admission {
    fn admit(&self, peer: &PeerUp) -> Result<(), Refused> {
        // Clients and admins have no store; what they may do is decided call by call.
        let Some(node) = peer.identity.node_id() else {
            return Ok(());
        };
        self.check(node.into(), peer.instance.store_id)
            .map_err(|reason| Refused::new(CloseCode::NOT_ADMITTED, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    /// A member is let in as often as it likes with its store, and never with another; a stranger never.
    #[test]
    fn e1_a_member_without_its_log_is_kept_out() {
        let admission = Admission::new(Membership::new([id(1), id(2)], []).unwrap());
        assert!(admission.check(id(2), 7).is_ok());
        assert!(admission.check(id(2), 7).is_ok());
        let lost = admission.check(id(2), 8).unwrap_err();
        assert!(lost.contains("without its log"), "{lost}");
        assert!(
            admission.check(id(2), 7).is_ok(),
            "the refused one is not remembered"
        );
        let stranger = admission.check(id(3), 7).unwrap_err();
        assert!(stranger.contains("not a member"), "{stranger}");
    }
}
