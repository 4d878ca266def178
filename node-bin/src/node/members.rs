//! Who the members are, for the parts of a node that are not consensus: whom the transport dials, and whom
//! it lets in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::Runtime;
use quorate_certs::{ClusterName, Identity, Subject};
use quorate_consensus::{Membership, Message, NodeId, Undelivered};
use quorate_quic_transport::{Peer, Transport};
use tracing::warn;

use super::peers::PeerMemory;
use super::seams::{GROUP, RaftMessage, lane};

/// How long the connection with a node that was removed stays: many round trips and a write to its disk.
const PARTING: Duration = Duration::from_secs(1);

/// The members as consensus last said, shared with whoever has to know.
#[derive(Clone)]
pub(super) struct Members(Arc<Mutex<Membership>>);

impl Members {
    pub(super) fn new(membership: Membership) -> Self {
        Self(Arc::new(Mutex::new(membership)))
    }

    pub(super) fn now(&self) -> MutexGuard<'_, Membership> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends Raft's messages to the other members, and keeps the transport's address book.
pub(super) struct PeerTransport {
    pub(super) own: NodeId,
    pub(super) cluster: ClusterName,
    /// Where founding members are, who have no address in the membership unless they moved.
    pub(super) configured: BTreeMap<NodeId, SocketAddr>,
    pub(super) transport: Transport,
    pub(super) members: Members,
    pub(super) memory: PeerMemory,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    pub(super) runtime: Arc<dyn Runtime>,
}

impl PeerTransport {
    fn identity(&self, node: NodeId) -> Identity {
        Identity::new(self.cluster.clone(), Subject::Node(node.into()))
    }

    fn meet(&mut self, node: NodeId, membership: &Membership) {
        let identity = self.identity(node);
        let configured = self.configured.get(&node).copied();
        let address = membership.address(node).or(configured);
        if address.is_none() {
            warn!(node = %self.own, peer = %node, "no address is known: it has to dial this node");
        }
        self.transport
            .set_peer(identity.clone(), address.into_iter().collect());
        self.peers
            .extend(self.transport.peer(&identity).map(|peer| (node, peer)));
    }
}

impl PeerTransport {
    /// Closes the connection with `node`, once what is on its way has had time to arrive: that it was removed
    /// is the last thing it is to hear.
    fn part(&self, node: NodeId) {
        let (transport, identity) = (self.transport.clone(), self.identity(node));
        let (members, runtime) = (self.members.clone(), Arc::clone(&self.runtime));
        self.runtime.spawn(Box::pin(async move {
            let mut timer = runtime.new_timer(runtime.now() + PARTING);
            std::future::poll_fn(|context| timer.as_mut().poll(context)).await;
            if !members.now().contains(node) {
                transport.remove_peer(&identity);
            }
        }));
    }
}

impl quorate_consensus::Transport for PeerTransport {
    fn send(&mut self, to: NodeId, message: Message) -> Result<(), Undelivered> {
        let lane = lane(&message.body);
        let send = |peer: &Peer| {
            let sent = peer.try_send(lane, GROUP, RaftMessage(message));
            sent.map_err(|_| Undelivered)
        };
        match self.peers.get(&to) {
            Some(peer) => send(peer),
            // A leader from after this node's time, who has dialled it.
            None => {
                let peer = self.transport.peer(&self.identity(to));
                send(&peer.ok_or(Undelivered)?)
            }
        }
    }

    fn set_members(&mut self, membership: &Membership) {
        *self.members.now() = membership.clone();
        self.memory.keep(|node| membership.contains(node));
        let gone: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in gone.into_iter().filter(|&node| !membership.contains(node)) {
            self.peers.remove(&node);
            self.part(node);
        }
        let own = self.own;
        for node in membership.members().filter(|&node| node != own) {
            self.meet(node, membership);
        }
    }
}
