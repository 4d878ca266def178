//! What every task of one transport shares, and the bookkeeping of who is connected.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use async_channel::Sender;
use quinn::{Endpoint, Runtime, TransportConfig};
use quorate_certs::{Credentials, Identity, Role};

use crate::{
    budget::{Budget, Budgets},
    close::{CloseCode, Refused},
    config::Config,
    credentials::{Own, Verdict},
    failures::Failures,
    hello::{Hello, PeerUp},
    inbox::InboxSender,
    link::{Established, Link},
    origins::Origins,
    pending::InFlight,
    rng::Rng,
    signal::{Signal, lock},
};

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) own: Own,
    pub(crate) identity: Arc<Identity>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) rng: Arc<Rng>,
    pub(crate) inbox: InboxSender,
    /// What a connection is like that this side dialled.
    pub(crate) dialled: Arc<TransportConfig>,
    /// And one that it accepted.
    pub(crate) accepted: Arc<TransportConfig>,
    /// `None` once shut down: the last handle keeps the port.
    pub(crate) endpoint: Mutex<Option<Endpoint>>,
    pub(crate) local_addr: SocketAddr,
    /// Nodes, whoever dialled.
    pub(crate) nodes: Mutex<BTreeMap<Arc<Identity>, Arc<Link>>>,
    /// Connections of clients, readers and admins: each is its own link.
    clients: Mutex<BTreeMap<Identity, Vec<Arc<Link>>>>,
    /// The room for responses to all callers, and for large frames of all clients.
    budgets: Budgets,
    /// Peers, calls or the shutdown state changed.
    pub(crate) signal: Signal,
    stopping: AtomicBool,
    finished: AtomicBool,
    next_connection: AtomicU64,
    pub(crate) handshakes: Count,
    /// What was said of peers that fail.
    pub(crate) failures: Failures,
    pub(crate) origins: Origins,
    pub(crate) inbound: Count,
    /// The earliest deadline that the sweeper knows.
    pub(crate) next_deadline: Mutex<Option<Instant>>,
    /// `next_deadline` came nearer.
    pub(crate) deadlines: Signal,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("identity", &self.identity)
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

impl Shared {
    #[allow(clippy::too_many_arguments)] // the parts of a whole, named at the only call
    pub(crate) fn new(
        config: Config,
        credentials: Credentials,
        runtime: Arc<dyn Runtime>,
        rng: Arc<Rng>,
        inbox: InboxSender,
        [dialled, accepted]: [Arc<TransportConfig>; 2],
        endpoint: Endpoint,
        local_addr: SocketAddr,
    ) -> Arc<Self> {
        let identity = Arc::new(credentials.identity().clone());
        Arc::new(Self {
            budgets: Budgets {
                replies: Budget::new(config.limits.replies_bytes_max),
                frames: Budget::new(config.limits.frames_bytes_max),
            },
            config,
            own: Own::new(credentials),
            identity,
            runtime,
            rng,
            inbox,
            dialled,
            accepted,
            endpoint: Mutex::new(Some(endpoint)),
            local_addr,
            nodes: Mutex::default(),
            clients: Mutex::default(),
            signal: Signal::default(),
            stopping: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            next_connection: AtomicU64::new(1),
            handshakes: Count::default(),
            failures: Failures::default(),
            origins: Origins::default(),
            inbound: Count::default(),
            next_deadline: Mutex::default(),
            deadlines: Signal::default(),
        })
    }

    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        lock(&self.endpoint).clone()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.signal.notify();
        for link in self.links() {
            link.signal.notify();
        }
    }

    /// Ends without a word to anybody but the peers.
    pub(crate) fn abort(&self) {
        self.stop();
        if let Some(endpoint) = lock(&self.endpoint).take() {
            endpoint.close(CloseCode::SHUTDOWN.wire(), b"dropped");
        }
        self.finish();
    }

    /// After the last connection: ends what is left.
    pub(crate) fn finish(&self) {
        self.finished.store(true, Ordering::Release);
        self.deadlines.notify();
        self.own.stop();
        self.inbox.close();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// The link of a node, made if it is new.
    pub(crate) fn node(&self, identity: Arc<Identity>) -> Arc<Link> {
        let mut nodes = lock(&self.nodes);
        if let Some(link) = nodes.get(&identity) {
            return Arc::clone(link);
        }
        let budgets = Budgets {
            replies: Budget::part_of(&self.budgets.replies, self.config.limits.lane_bytes_max),
            // Nodes are few, and wait for no client.
            frames: Budget::new(self.config.limits.lane_bytes_max),
        };
        let link = self.new_link(Arc::clone(&identity), budgets);
        nodes.insert(identity, Arc::clone(&link));
        link
    }

    fn budgets_of_a_client(&self) -> Budgets {
        let bytes_max = self.config.limits.lane_bytes_max;
        Budgets {
            replies: Budget::part_of(&self.budgets.replies, bytes_max),
            frames: Budget::part_of(&self.budgets.frames, bytes_max),
        }
    }

    fn new_link(&self, identity: Arc<Identity>, budgets: Budgets) -> Arc<Link> {
        let first_call = self.rng.next();
        Link::new(&self.config, &self.identity, identity, first_call, budgets)
    }

    /// A link for one more connection of a client, reader or admin.
    pub(crate) fn client(&self, identity: &Identity) -> Result<Arc<Link>, Refused> {
        let mut clients = lock(&self.clients);
        let links = clients.entry(identity.clone()).or_default();
        if links.len() >= self.config.limits.connections_per_client_max {
            let reason = format!(
                "{identity} has {} connections, the most allowed",
                links.len()
            );
            return Err(Refused::new(CloseCode::OVERLOAD, reason));
        }
        let budgets = links.first().map(|other| other.budgets.clone());
        let budgets = budgets.unwrap_or_else(|| self.budgets_of_a_client());
        let link = self.new_link(Arc::new(identity.clone()), budgets);
        links.push(Arc::clone(&link));
        Ok(link)
    }

    pub(crate) fn forget_client(&self, link: &Arc<Link>) {
        if link.identity.role() == Role::Node {
            return;
        }
        let mut clients = lock(&self.clients);
        if let Some(links) = clients.get_mut(&*link.identity) {
            links.retain(|other| !Arc::ptr_eq(other, link));
            if links.is_empty() {
                clients.remove(&*link.identity);
            }
        }
    }

    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        let mut links: Vec<_> = lock(&self.nodes).values().map(Arc::clone).collect();
        links.extend(lock(&self.clients).values().flatten().map(Arc::clone));
        links
    }

    /// Whether the address book has a node at `ip`, on whatever port.
    pub(crate) fn has_node_at(&self, ip: IpAddr) -> bool {
        let is_there = |addr: &SocketAddr| addr.ip().to_canonical() == ip;
        let nodes = lock(&self.nodes);
        let mut links = nodes.values();
        links.any(|link| link.with(|state| state.addrs.iter().any(is_there)))
    }

    /// The version range of our hello, or the one chosen in a welcome.
    pub(crate) fn hello(&self, chosen: Option<u16>) -> Hello {
        let versions = match chosen {
            Some(version) => version..=version,
            None => self.config.service_versions.clone(),
        };
        Hello::new(&self.config, &self.identity, versions)
    }

    /// Every check of the other side's hello; the certificate was checked before.
    pub(crate) fn judge(
        &self,
        hello: &Hello,
        verified: &Identity,
        addr: SocketAddr,
        dialled: bool,
    ) -> Result<PeerUp, Refused> {
        let version = hello.judge(&self.config, &self.identity, verified)?;
        let identity = Arc::new(verified.clone());
        let up = PeerUp {
            identity,
            instance: hello.instance(),
            progress: hello.progress,
            origin: hello.origin,
            process: hello.process,
            addr,
            version,
            dialled,
        };
        if let Some(admit) = &self.config.admit {
            admit.admit(&up)?;
        }
        Ok(up)
    }

    pub(crate) fn establish(
        &self,
        connection: quinn::Connection,
        up: PeerUp,
        verdict: Verdict,
    ) -> (Arc<Established>, Sender<Infallible>) {
        let (ended_sender, ended) = async_channel::bounded(1);
        let established = Established {
            id: self.next_connection.fetch_add(1, Ordering::Relaxed),
            connection,
            up,
            verdict: Mutex::new(verdict),
            since: self.runtime.now(),
            in_flight: InFlight::new(self.config.limits.calls_in_flight_max),
            progress: Default::default(),
            copies: Default::default(),
            closed_with: Default::default(),
            superseded: Default::default(),
            ended,
        };
        (Arc::new(established), ended_sender)
    }
}

/// A bounded count of things that live for a while.
#[derive(Debug, Default, Clone)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    pub(crate) fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// One more, until the guard is dropped; `None` at `max`.
    pub(crate) fn enter(&self, max: usize) -> Option<Counted> {
        let counted = |now: usize| (now < max).then_some(now + 1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted)
            .ok()?;
        Some(Counted(self.clone()))
    }
}

#[derive(Debug)]
pub(crate) struct Counted(Count);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
