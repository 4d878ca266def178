//! What the clones of one client share, and how it comes about.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_channel::Sender;
use quinn::Runtime;
use quorate_certs::{Credentials, Identity, Subject};
use quorate_consensus::{MEMBERS_MAX, NodeId};
use quorate_quic_transport::{
    BindError, CloseCode, Config, Environment, HandshakeError, Inbox, Peer, PeerState, PeerStatus,
    Timings, Transport,
};

use super::address_book::AddressBook;
use super::error::{ClientError, ConnectError};
use super::keeper::{self, Job};
use super::routing::Routing;
use super::sessions::Sessions;
use super::{ClientConfig, REQUEST_TIMEOUT_MAX};
use crate::kv::directory::Directory;
use crate::kv::protocol::NodeStatus;
use crate::node::SERVICE;

/// After how long without a word a connection counts as dead. There may be thousands of clients that have nothing
/// to say, and who asks something of a dead node learns it from the others, who tell of the next leader.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// How often an idle client says that it is there, so that two such words may be lost: routers forget a silent UDP flow
/// after 30 s or more (RFC 9308, section 3.2).
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What the clones of one client share.
pub(super) struct Shared {
    /// Locked before `routing`, which has the same nodes, where both are.
    peers: Mutex<Peers>,
    routing: Mutex<Routing>,
    pub(super) transport: Transport,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) jobs: Sender<Job>,
    /// How long one operation may take.
    pub(super) within: Duration,
    /// Whether nodes that it was not given are asked.
    pub(super) follow_members: bool,
    /// Names for what must be applied once.
    pub(super) sessions: Sessions,
    /// The state of [`Shared::draw`].
    seed: AtomicU64,
}

/// Whom a client asks.
#[derive(Default)]
struct Peers {
    book: AddressBook,
    /// Those in the book of whom it is said where they are.
    known: BTreeMap<NodeId, (Identity, Peer)>,
}

impl Shared {
    pub(super) fn open(
        config: ClientConfig,
        runtime: Arc<dyn Runtime>,
    ) -> Result<Arc<Self>, ConnectError> {
        let ClientConfig {
            endpoints,
            credentials,
            request_timeout,
            follow_members,
            environment,
        } = config;
        check(&endpoints)?;
        if let Some(node) = credentials.identity().node_id() {
            // It would take the place of that node's own connections.
            return Err(ConnectError::NodeCredentials { node: node.into() });
        }
        let (transport, inbox) = bind(&endpoints, &credentials, &environment, &runtime)?;
        let mut peers = Peers::default();
        for (node, addresses) in endpoints {
            peers.book.give(node, addresses);
            peers.update(node, &transport);
        }
        let mut seed = [0; 8];
        environment
            .fill(&mut seed)
            .map_err(ConnectError::NoRandomness)?;
        let (jobs, jobs_of_keeper) = async_channel::bounded(keeper::JOBS_MAX);
        let shared = Arc::new(Self {
            routing: Mutex::new(Routing::new(
                peers.known.keys().copied().collect::<Vec<_>>(),
            )),
            peers: Mutex::new(peers),
            transport: transport.clone(),
            runtime,
            jobs,
            within: request_timeout.min(REQUEST_TIMEOUT_MAX),
            follow_members,
            sessions: Sessions::new(),
            seed: AtomicU64::new(u64::from_le_bytes(seed)),
        });
        let keeper = keeper::run(
            Arc::downgrade(&shared),
            transport,
            inbox,
            jobs_of_keeper,
            Arc::clone(&shared.runtime),
        );
        shared.runtime.spawn(Box::pin(keeper));
        Ok(shared)
    }

    pub(super) fn routing(&self) -> MutexGuard<'_, Routing> {
        // Every change is complete before its lines could panic.
        self.routing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        // The worst that a change leaves behind that panics half way is a node that is not asked.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.peers().known.keys().copied().collect()
    }

    pub(super) fn peer(&self, node: NodeId) -> Option<Peer> {
        self.peers().known.get(&node).map(|(_, peer)| peer.clone())
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        self.routing().leader()
    }

    /// A number for jitter (splitmix64): nothing secret, only different each time.
    pub(super) fn draw(&self) -> u64 {
        let seed = self
            .seed
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Closes the transport and waits for that.
    pub(super) async fn close(&self) {
        let (done, closed) = async_channel::bounded(1);
        if self.jobs.send(Job::Close(done)).await.is_ok() {
            // Nothing is ever sent: it ends when the keeper drops its side.
            let _ = closed.recv().await;
        }
    }

    /// Whether nothing can be asked any more: a clone was closed, or the runtime has ended. Sleeping takes no time then.
    pub(super) fn is_closed(&self) -> bool {
        self.jobs.is_closed()
    }

    /// Whether every node is out of reach for a reason that waiting does not remove. The transport goes
    /// on trying, so that a later operation finds out when someone has removed it.
    pub(super) fn all_hopeless(&self) -> bool {
        self.is_closed() || self.transport.peers().iter().all(refuses_for_good)
    }

    /// The same of one node.
    pub(super) fn is_hopeless(&self, node: NodeId) -> bool {
        self.is_closed() || self.link(node).as_ref().is_some_and(refuses_for_good)
    }

    /// As [`Client::set_addresses`](super::Client::set_addresses).
    pub(super) fn set_addresses(
        &self,
        node: NodeId,
        addresses: Vec<SocketAddr>,
    ) -> Result<(), ClientError> {
        let mut peers = self.peers();
        if !peers.book.has_room_for(node) {
            let nodes_max = MEMBERS_MAX;
            return Err(ClientError::TooManyNodes { nodes_max });
        }
        peers.book.give(node, addresses);
        self.update(&mut peers, node);
        Ok(())
    }

    /// As [`Client::forget`](super::Client::forget).
    pub(super) fn forget(&self, node: NodeId) {
        let mut peers = self.peers();
        peers.book.forget(node);
        self.update(&mut peers, node);
    }

    /// A node says who the members are.
    pub(super) fn hear(&self, news: Directory) {
        if !self.follow_members {
            return;
        }
        let mut peers = self.peers();
        for node in peers.book.hear(news) {
            self.update(&mut peers, node);
        }
    }

    /// The same, if it does.
    pub(super) fn hear_of(&self, status: &NodeStatus) {
        if let Some(news) = Directory::of(status) {
            self.hear(news);
        }
    }

    /// What the book says of `node` may have changed.
    fn update(&self, peers: &mut Peers, node: NodeId) {
        let before = peers.known.contains_key(&node);
        peers.update(node, &self.transport);
        match (before, peers.known.contains_key(&node)) {
            (false, true) => self.routing().add(node),
            (true, false) => self.routing().remove(node),
            (true, true) | (false, false) => {}
        }
    }

    fn link(&self, node: NodeId) -> Option<PeerStatus> {
        let identity = self.peers().known.get(&node)?.0.clone();
        let mut links = self.transport.peers().into_iter();
        links.find(|link| link.identity == identity)
    }

    /// What is known of a node that could not be asked, or did not help: the reason why there is no
    /// connection, or else the last thing it said.
    pub(super) fn known_of(&self, node: NodeId) -> String {
        if self.is_closed() {
            return "this client was closed, or its runtime has ended".into();
        }
        if self.peer(node).is_none() {
            return "no address was given for it".into();
        }
        if let Some(link) = self.link(node)
            && !matches!(link.state, PeerState::Connected { .. })
        {
            let closed = || link.last_close.map(|reason| reason.to_string());
            let error = link.last_error.map(|error| error.to_string());
            return error
                .or_else(closed)
                .unwrap_or_else(|| no_answer(&link.state));
        }
        let routing = self.routing();
        routing
            .said(node)
            .unwrap_or("connected, but it did not say who leads")
            .to_owned()
    }

    /// Sleeps on the client's runtime, wherever this future is polled.
    pub(super) async fn sleep_until(&self, at: Instant) {
        let (wake, woken) = async_channel::bounded(1);
        if self.jobs.send(Job::Wake(at, wake)).await.is_ok() {
            // Nothing is ever sent: it ends when the timer drops its side.
            let _ = woken.recv().await;
        }
    }
}

impl Peers {
    /// Has the transport know of `node` what the book says.
    fn update(&mut self, node: NodeId, transport: &Transport) {
        let Some(addresses) = self.book.addresses(node) else {
            if let Some((identity, _)) = self.known.remove(&node) {
                transport.remove_peer(&identity);
            }
            return;
        };
        let cluster = transport.identity().cluster.clone();
        let identity = Identity::new(cluster, Subject::Node(node.into()));
        let entered = transport.set_peer(identity.clone(), addresses);
        entered.expect("a client of the cluster is none of its nodes");
        let peer = transport
            .peer(&identity)
            .expect("a peer in the address book has a handle");
        self.known.insert(node, (identity, peer));
    }
}

fn check(endpoints: &BTreeMap<NodeId, Vec<SocketAddr>>) -> Result<(), ConnectError> {
    if endpoints.is_empty() {
        return Err(ConnectError::NoEndpoint);
    }
    if endpoints.len() > MEMBERS_MAX {
        return Err(ConnectError::TooManyEndpoints {
            endpoints: endpoints.len(),
            endpoints_max: MEMBERS_MAX,
        });
    }
    Ok(())
}

/// Any free port, of the family that reaches most: an IPv6 socket reaches IPv4 as well. Where there is no
/// IPv6, names may have such addresses all the same.
fn bind(
    endpoints: &BTreeMap<NodeId, Vec<SocketAddr>>,
    credentials: &Credentials,
    environment: &Arc<dyn Environment>,
    runtime: &Arc<dyn Runtime>,
) -> Result<(Transport, Inbox), ConnectError> {
    let bind = |local: SocketAddr| {
        let config = Config {
            accept: false,
            timings: Timings {
                idle_timeout: IDLE_TIMEOUT,
                keep_alive: KEEP_ALIVE,
                ..Timings::default()
            },
            ..Config::new_in(Arc::clone(environment), SERVICE, local)
        };
        Transport::bind(config, credentials.clone(), Arc::clone(runtime))
    };
    let addresses = || endpoints.values().flatten();
    // One that is to be said later may be either.
    let later = endpoints.values().any(Vec::is_empty);
    let ipv4 = (Ipv4Addr::UNSPECIFIED, 0).into();
    if !later && addresses().all(SocketAddr::is_ipv4) {
        return Ok(bind(ipv4)?);
    }
    match bind((Ipv6Addr::UNSPECIFIED, 0).into()) {
        Err(BindError::Socket { .. }) if later || addresses().any(SocketAddr::is_ipv4) => {
            Ok(bind(ipv4)?)
        }
        bound => Ok(bound?),
    }
}

fn no_answer(state: &PeerState) -> String {
    match state {
        PeerState::Dialling { addrs } => {
            let addrs: Vec<String> = addrs.iter().map(SocketAddr::to_string).collect();
            format!("no answer from {} yet", addrs.join(" or "))
        }
        _ => "no address is known for it".into(),
    }
}

fn refuses_for_good(link: &PeerStatus) -> bool {
    !matches!(link.state, PeerState::Connected { .. })
        && link.last_error.as_ref().is_some_and(is_final)
}

/// Whether the same would happen again until a person has changed something.
fn is_final(error: &HandshakeError) -> bool {
    match error {
        HandshakeError::PeerCertificate { .. }
        | HandshakeError::OurCertificate { .. }
        | HandshakeError::WrongPeer { .. }
        | HandshakeError::RefusedByUs { .. } => true,
        HandshakeError::RefusedByPeer { code, .. } => [
            CloseCode::REVOKED,
            CloseCode::EXPIRED,
            CloseCode::WRONG_CLUSTER,
            CloseCode::ID_MISMATCH,
            CloseCode::VERSION,
            CloseCode::WRONG_SERVICE,
            CloseCode::NOT_ADMITTED,
        ]
        .contains(code),
        _ => false,
    }
}
