//! The road of one operation: find the leader, ask it, judge the trouble, try again.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_channel::Sender;
use futures_lite::future;
use quinn::Runtime;
use quorate_certs::{Identity, Subject};
use quorate_consensus::{MEMBERS_MAX, NodeId};
use quorate_quic_transport::{
    CallError, CloseCode, Config, HandshakeError, NotSent, Peer, PeerState, Refusal as NoAnswer,
    Transport,
};

use super::ClientConfig;
use super::error::{ClientError, ConnectError, Tried, Unanswered};
use super::keeper::{self, Job};
use super::retry::{self, Operation, Trouble, Verdict};
use super::routing::{Route, Routing};
use crate::kv::protocol::{Refusal, Request, Response};

/// How long an answer that is on its way may still take once another leader was announced: many round
/// trips in one site, little against an election.
const GRACE: Duration = Duration::from_millis(20);

/// What the clones of one client share.
pub(super) struct Shared {
    peers: BTreeMap<NodeId, (Identity, Peer)>,
    addresses: BTreeMap<NodeId, SocketAddr>,
    routing: Mutex<Routing>,
    transport: Transport,
    runtime: Arc<dyn Runtime>,
    jobs: Sender<Job>,
    within: Duration,
    /// The state of [`Shared::draw`].
    seed: AtomicU64,
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
        } = config;
        let endpoints = check(&endpoints)?;
        if let Some(node) = credentials.identity().node_id() {
            // It would take the place of that node's own connections.
            return Err(ConnectError::NodeCredentials { node: node.into() });
        }
        let cluster = credentials.identity().cluster.clone();
        let local = local_address(endpoints.values());
        let (transport, inbox) = Transport::bind(
            Config {
                listen: local,
                accept: false,
                ..Config::new(local)
            },
            credentials,
            Arc::clone(&runtime),
        )?;
        let mut peers = BTreeMap::new();
        for (&node, &address) in &endpoints {
            let identity = Identity::new(cluster.clone(), Subject::Node(node.into()));
            transport.set_peer(identity.clone(), vec![address]);
            let peer = transport
                .peer(&identity)
                .expect("a peer in the address book has a handle");
            peers.insert(node, (identity, peer));
        }
        let (jobs, jobs_of_keeper) = async_channel::bounded(keeper::JOBS_MAX);
        let shared = Arc::new(Self {
            routing: Mutex::new(Routing::new(peers.keys().copied())),
            peers,
            addresses: endpoints,
            transport: transport.clone(),
            runtime,
            jobs,
            within: request_timeout,
            seed: AtomicU64::new(getrandom::u64()?),
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

    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.keys().copied()
    }

    pub(super) fn peer(&self, node: NodeId) -> Option<Peer> {
        self.peers.get(&node).map(|(_, peer)| peer.clone())
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

    /// Asks whoever leads.
    pub(super) async fn request(
        &self,
        operation: Operation,
        request: &Request,
    ) -> Result<(NodeId, Response), ClientError> {
        let begun = self.runtime.now();
        let deadline = begun + self.within;
        let mut refused = None;
        for attempt in 1.. {
            let Some(route) = self.route(deadline).await else {
                return Err(self.gave_up(self.runtime.now() - begun, refused));
            };
            let node = route.node;
            let trouble = match self.attempt(&route, operation, request, deadline).await {
                Ok(response) => return Ok((node, response)),
                Err(trouble) => trouble,
            };
            match retry::decide(operation, &trouble) {
                Verdict::Retry => {}
                Verdict::Unknown => return Err(unknown(node, &trouble)),
                Verdict::Fail => return Err(self.failure(node, trouble)),
            }
            self.learn(node, &trouble);
            if let Trouble::Refused(refusal) = trouble {
                refused = Some((node, refusal));
            }
            // The first few hints are followed at once; two nodes that point at each other are not.
            let moved = self.leader().is_some_and(|leader| leader != node);
            if !moved || attempt as usize > self.peers.len() {
                let pause = retry::pause(attempt, self.draw());
                self.sleep_until((self.runtime.now() + pause).min(deadline))
                    .await;
            }
        }
        unreachable!("attempts end at the deadline, long before they cannot be counted")
    }

    /// Asks `node` itself, whether it leads or not, something that changes nothing.
    pub(super) async fn ask(
        &self,
        node: NodeId,
        request: &Request,
    ) -> Result<Response, ClientError> {
        let peer = self.peer(node).ok_or(ClientError::UnknownNode { node })?;
        let deadline = self.runtime.now() + self.within;
        for attempt in 1.. {
            let left = deadline.saturating_duration_since(self.runtime.now());
            let trouble = match outcome(peer.call(request.clone(), left).await) {
                Ok(response) => return Ok(response),
                Err(trouble) => trouble,
            };
            if retry::decide(Operation::Read, &trouble) != Verdict::Retry {
                return Err(self.failure(node, trouble));
            }
            let next = self.runtime.now() + retry::pause(attempt, self.draw());
            if next >= deadline {
                let why = self.known_of(node);
                return Err(ClientError::Unreachable { node, why });
            }
            self.sleep_until(next).await;
        }
        unreachable!("attempts end at the deadline, long before they cannot be counted")
    }

    /// Closes the transport and waits for that.
    pub(super) async fn close(&self) {
        let (done, closed) = async_channel::bounded(1);
        if self.jobs.send(Job::Close(done)).await.is_ok() {
            // Nothing is ever sent: it ends when the keeper drops its side.
            let _ = closed.recv().await;
        }
    }

    /// The way to the leader; waits for one until the deadline, unless that is hopeless.
    async fn route(&self, deadline: Instant) -> Option<Route> {
        loop {
            if self.runtime.now() >= deadline || self.jobs.is_closed() {
                return None;
            }
            let (_waiting, found, start) = {
                let mut routing = self.routing();
                if let Some(route) = routing.route() {
                    return Some(route);
                }
                if self.is_hopeless() {
                    return None;
                }
                let (found, start) = routing.begin_wait();
                (Waiting(self), found, start)
            };
            if start && self.jobs.send(Job::Seek).await.is_err() {
                return None;
            }
            future::or(found.happened(), self.sleep_until(deadline)).await;
        }
    }

    async fn attempt(
        &self,
        route: &Route,
        operation: Operation,
        request: &Request,
        deadline: Instant,
    ) -> Result<Response, Trouble> {
        let (_, peer) = &self.peers[&route.node];
        let left = deadline.saturating_duration_since(self.runtime.now());
        let mut call = pin!(peer.call(request.clone(), left));
        let answered = async { Some(call.as_mut().await) };
        let superseded = async {
            route.superseded.happened().await;
            None
        };
        if let Some(answer) = future::or(answered, superseded).await {
            return outcome(answer);
        }
        match operation {
            Operation::Read => Err(Trouble::Superseded),
            // The answer may be on its way, and here the difference matters.
            Operation::Write | Operation::Transfer => {
                let grace = async {
                    self.sleep_until(self.runtime.now() + GRACE).await;
                    Err(Trouble::Superseded)
                };
                future::or(async { outcome(call.await) }, grace).await
            }
        }
    }

    /// Takes from trouble what it says about who leads.
    fn learn(&self, node: NodeId, trouble: &Trouble) {
        match trouble {
            Trouble::Refused(Refusal::NotLeader { leader }) => {
                self.routing().handle_refusal(node, *leader);
            }
            Trouble::Refused(Refusal::Stopping) => self.routing().handle_refusal(node, None),
            Trouble::NotSent | Trouble::Lost => self.routing().handle_unreachable(node),
            Trouble::Unsendable
            | Trouble::Deadline
            | Trouble::Superseded
            | Trouble::Nonsense
            | Trouble::Refused(_) => {}
        }
    }

    /// Why there is no answer after `within`.
    fn gave_up(&self, within: Duration, refused: Option<(NodeId, Refusal)>) -> ClientError {
        let within = Duration::from_millis(within.as_millis() as u64); // shorter to read
        match refused {
            Some((node, refusal)) if !matches!(refusal, Refusal::NotLeader { .. }) => {
                ClientError::StillRefused {
                    within,
                    node,
                    refusal,
                }
            }
            _ => ClientError::NoLeader {
                within,
                tried: self
                    .nodes()
                    .map(|node| Tried {
                        node,
                        why: self.known_of(node),
                    })
                    .collect(),
                unlisted: self.routing().unlisted(),
            },
        }
    }

    fn failure(&self, node: NodeId, trouble: Trouble) -> ClientError {
        match trouble {
            Trouble::Refused(refusal) => ClientError::Refused { node, refusal },
            Trouble::Deadline => ClientError::TimedOut {
                node,
                within: self.within,
            },
            Trouble::Nonsense => ClientError::Nonsense { node },
            Trouble::NotSent | Trouble::Unsendable | Trouble::Lost | Trouble::Superseded => {
                ClientError::Unreachable {
                    node,
                    why: self.known_of(node),
                }
            }
        }
    }

    /// Whether every node is out of reach for a reason that waiting does not remove. The transport goes
    /// on trying, so that a later operation finds out when someone has removed it.
    pub(super) fn is_hopeless(&self) -> bool {
        let links = self.transport.peers();
        links.iter().all(|link| {
            !matches!(link.state, PeerState::Connected { .. })
                && link.last_error.as_ref().is_some_and(is_final)
        })
    }

    /// What is known of a node that could not be asked, or did not help: the reason why there is no
    /// connection, or else the last thing it said.
    fn known_of(&self, node: NodeId) -> String {
        let Some((identity, _)) = self.peers.get(&node) else {
            return "no address was given for it".into();
        };
        let link = self
            .transport
            .peers()
            .into_iter()
            .find(|link| link.identity == *identity);
        if let Some(link) = link
            && !matches!(link.state, PeerState::Connected { .. })
        {
            let closed = || link.last_close.map(|reason| reason.to_string());
            let error = link.last_error.map(|error| error.to_string());
            return error.or_else(closed).unwrap_or_else(|| {
                format!(
                    "not connected; no answer from {} yet",
                    self.addresses[&node]
                )
            });
        }
        let routing = self.routing();
        routing
            .said(node)
            .unwrap_or("connected, but it did not say who leads")
            .to_owned()
    }

    /// Sleeps on the client's runtime, wherever this future is polled.
    async fn sleep_until(&self, at: Instant) {
        let (wake, woken) = async_channel::bounded(1);
        if self.jobs.send(Job::Wake(at, wake)).await.is_ok() {
            // Nothing is ever sent: it ends when the timer drops its side.
            let _ = woken.recv().await;
        }
    }
}

/// An operation that waits for a leader.
struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.routing().end_wait();
    }
}

fn check(endpoints: &[(NodeId, SocketAddr)]) -> Result<BTreeMap<NodeId, SocketAddr>, ConnectError> {
    let mut checked = BTreeMap::new();
    for (node, address) in endpoints {
        let before = checked.insert(*node, *address);
        if before.is_some_and(|before| before != *address) {
            return Err(ConnectError::SameNodeTwice { node: *node });
        }
    }
    if checked.is_empty() {
        return Err(ConnectError::NoEndpoint);
    }
    if checked.len() > MEMBERS_MAX {
        return Err(ConnectError::TooManyEndpoints {
            endpoints: checked.len(),
            endpoints_max: MEMBERS_MAX,
        });
    }
    Ok(checked)
}

/// Any free port, of the family that reaches all nodes (an IPv6 socket reaches IPv4 as well).
fn local_address<'a>(mut nodes: impl Iterator<Item = &'a SocketAddr>) -> SocketAddr {
    if nodes.any(SocketAddr::is_ipv6) {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    }
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

/// What the transport's answer means for an operation.
fn outcome(answer: Result<Response, CallError>) -> Result<Response, Trouble> {
    match answer {
        Ok(Response::Refused(refusal)) => Err(Trouble::Refused(refusal)),
        Ok(response) => Ok(response),
        Err(error) => Err(trouble(&error)),
    }
}

/// What is not known for certain to have left nothing behind counts as lost.
fn trouble(error: &CallError) -> Trouble {
    match error {
        CallError::NotSent(NotSent::NotConnected | NotSent::QueueFull) => Trouble::NotSent,
        CallError::NotSent(_) => Trouble::Unsendable,
        CallError::Deadline => Trouble::Deadline,
        CallError::Remote(NoAnswer::Overloaded) => Trouble::Refused(Refusal::Overloaded),
        CallError::Remote(refusal @ (NoAnswer::UnknownKind | NoAnswer::Malformed)) => {
            Trouble::Refused(Refusal::malformed(refusal))
        }
        CallError::Remote(NoAnswer::Unsendable) | CallError::Decode(_) => Trouble::Nonsense,
        CallError::Unknown(_) | CallError::Remote(_) => Trouble::Lost,
        _ => Trouble::Lost,
    }
}

fn unknown(node: NodeId, trouble: &Trouble) -> ClientError {
    let why = match trouble {
        Trouble::Deadline => Unanswered::Deadline,
        Trouble::Superseded => Unanswered::Superseded,
        Trouble::Nonsense => Unanswered::Nonsense,
        Trouble::Refused(_) => Unanswered::Undecided,
        Trouble::Lost | Trouble::NotSent | Trouble::Unsendable => Unanswered::Lost,
    };
    ClientError::OutcomeUnknown { node, why }
}
