//! Who the members are, for the parts of a node that are not consensus: whom the transport dials, and whom
//! it lets in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::Runtime;
use quorate_certs::{ClusterName, Identity, Subject};
use quorate_consensus::{Membership, Message, NodeId, Standing, Undelivered};
use quorate_quic_transport::runtime::sleep_until;
use quorate_quic_transport::{Peer, Transport};
use tracing::warn;

use super::peers::PeerMemory;
use super::seams::{GROUP, RaftMessage, lane};

/// How long the connection with a node that was removed stays: many round trips and a write to its disk.
const PARTING: Duration = Duration::from_secs(1);

/// How many addresses of a member are tried, besides the one that the membership has: more than a name has
/// where it stands for one node.
pub const ADDRESSES_MAX: usize = 8;

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

/// Tells the transport where the other members are.
#[derive(Clone)]
pub(super) struct AddressBook(Arc<Book>);

struct Book {
    own: NodeId,
    cluster: ClusterName,
    transport: Transport,
    members: Members,
    /// What the membership does not say: where founding members are, unless they moved, and whoever is known
    /// by name. Locked before the members.
    given: Mutex<BTreeMap<NodeId, Vec<SocketAddr>>>,
}

impl AddressBook {
    pub(super) fn new(
        own: NodeId,
        cluster: ClusterName,
        transport: Transport,
        members: Members,
        given: BTreeMap<NodeId, Vec<SocketAddr>>,
    ) -> Self {
        Self(Arc::new(Book {
            own,
            cluster,
            transport,
            members,
            given: Mutex::new(given),
        }))
    }

    fn identity(&self, node: NodeId) -> Identity {
        Identity::new(self.0.cluster.clone(), Subject::Node(node.into()))
    }

    /// As [`NodeHandle::peer`](super::NodeHandle::peer).
    pub(super) fn peer(&self, node: NodeId) -> Option<Peer> {
        self.0.transport.peer(&self.identity(node))
    }

    /// Whether `node` is a member, as far as this one knows.
    pub(super) fn is_member(&self, node: NodeId) -> bool {
        self.0.members.now().contains(node)
    }

    fn given(&self) -> MutexGuard<'_, BTreeMap<NodeId, Vec<SocketAddr>>> {
        self.0.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`NodeHandle::set_addresses`](super::NodeHandle::set_addresses).
    pub(super) fn give(&self, node: NodeId, addresses: Vec<SocketAddr>) {
        let mut given = self.given();
        given.insert(node, addresses);
        if node != self.0.own {
            self.tell(node, &given);
        }
    }

    /// Where `node` is may have changed.
    fn meet(&self, node: NodeId) {
        let given = self.given();
        if self.tell(node, &given) == 0 && !given.contains_key(&node) {
            warn!(node = %self.0.own, peer = %node, "no address is known: it has to dial this node");
        }
    }

    /// Tells the transport of a member, and returns how many addresses it has.
    fn tell(&self, node: NodeId, given: &BTreeMap<NodeId, Vec<SocketAddr>>) -> usize {
        let mut addresses: Vec<SocketAddr> = {
            let membership = self.0.members.now();
            if !membership.contains(node) {
                return 0;
            }
            // Unlocked again before the transport is told, which asks for the members itself.
            membership.address(node).into_iter().collect()
        };
        let others = given.get(&node).into_iter().flatten().take(ADDRESSES_MAX);
        for other in others {
            if !addresses.contains(other) {
                addresses.push(*other);
            }
        }
        let count = addresses.len();
        if let Err(err) = self.0.transport.set_peer(self.identity(node), addresses) {
            warn!(node = %self.0.own, peer = %node, %err, "cannot be dialled");
        }
        count
    }
}

/// Sends Raft's messages to the other members, and keeps the address book.
pub(super) struct PeerTransport {
    pub(super) own: NodeId,
    pub(super) book: AddressBook,
    pub(super) members: Members,
    pub(super) memory: PeerMemory,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    pub(super) runtime: Arc<dyn Runtime>,
}

impl PeerTransport {
    fn meet(&mut self, node: NodeId) {
        self.book.meet(node);
        self.peers
            .extend(self.book.peer(node).map(|peer| (node, peer)));
    }

    /// Closes the connection with `node`, once what is on its way has had time to arrive: that it was removed
    /// is the last thing it is to hear.
    ///
    /// It is not dialled again, unless it may not have heard yet: a node that was removed stops, and that is no fault.
    fn part(&self, node: NodeId) {
        let (transport, identity) = (self.book.0.transport.clone(), self.book.identity(node));
        if self.book.peer(node).is_some_and(|peer| peer.is_connected())
            && let Err(err) = transport.set_peer(identity.clone(), Vec::new())
        {
            warn!(node = %self.own, peer = %node, %err, "cannot be dialled");
        }
        let (members, runtime) = (self.members.clone(), Arc::clone(&self.runtime));
        self.runtime.spawn(Box::pin(async move {
            sleep_until(&*runtime, runtime.now() + PARTING).await;
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
            None => send(&self.book.peer(to).ok_or(Undelivered)?),
        }
    }

    fn set_members(&mut self, membership: &Membership) {
        *self.members.now() = membership.clone();
        // Whoever is not known yet may be a member by an entry that is not here yet, or not again yet.
        self.memory
            .keep(|node| membership.standing(node) != Standing::Removed);
        self.memory.learn_origin(membership);
        let gone: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in gone.into_iter().filter(|&node| !membership.contains(node)) {
            self.peers.remove(&node);
            self.part(node);
        }
        let own = self.own;
        for node in membership.members().filter(|&node| node != own) {
            self.meet(node);
        }
    }
}
