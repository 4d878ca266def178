//! A cluster of real nodes and real clients in a world where everything follows from a seed.

mod checks;
mod faults;
mod noting;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use quorate::kv::{Client, ClientConfig, KvOptions};
use quorate::{LogIndex, Node, NodeConfig, NodeId, Role, StartError, Status, Term};

pub use self::faults::Image;
pub use self::noting::Submitted;
use super::book::SharedBook;
use super::chance;
use super::disk::Disk;
use super::engine::{Engine, HostId};
use super::network::{Network, address};
use super::notes::Notes;
use super::pki;
use super::runtime::Process;
use super::watch::{WatchedState, around};
use crate::level;
use crate::params::Params;
use crate::rng::Rng;

/// The largest cluster.
pub const NODES_MAX: u64 = 9;
/// The most clients.
pub const CLIENTS_MAX: u64 = 10;

/// Where the tasks of the world itself run: on a host that never fails.
const OUTSIDE: HostId = HostId(0);
const CLIENT_HOSTS: u16 = 100;
const NODE_PORT: u16 = 7_000;

/// How often the world looks at what it cannot be told of, in simulated time.
const WATCH_EVERY: Duration = Duration::from_millis(50);
/// How often members compare their states.
const COMPARE_INTERVAL: Duration = Duration::from_secs(5);
/// How long an orderly stop of a node may take to say goodbye.
const SHUTDOWN_WITHIN: Duration = Duration::from_millis(200);
/// When a node that was told to stop must have ended and every task of it: pauses in the meantime, and
/// connections that drain on slow links, are part of it. Those take three probe timeouts (RFC 9000, section
/// 10.2), each of a round trip and four times its variation (RFC 9002, section 6.2.1): with links that delay
/// by up to three seconds at random, a minute and more.
const STOP_MAX: Duration = Duration::from_secs(180);

/// The host of the node `node`.
#[must_use]
pub fn node_host(node: u64) -> HostId {
    HostId(u16::try_from(node).expect("few nodes"))
}

/// The host of the client `client`, counted from one.
#[must_use]
pub fn client_host(client: u64) -> HostId {
    HostId(CLIENT_HOSTS + u16::try_from(client).expect("few clients"))
}

fn node_id(node: u64) -> NodeId {
    NodeId::new(node).expect("nodes are counted from one")
}

/// Everything there is: hosts, network, disks, and the book of what was promised.
pub struct World {
    pub(super) engine: Engine,
    pub(super) network: Network,
    pub(super) book: SharedBook,
    params: Params,
    disks: BTreeMap<u64, Disk>,
    running: BTreeMap<u64, Running>,
    stopping: BTreeMap<u64, Stopping>,
    /// Nodes that will not come back: their disks are damaged, and they have noticed.
    lost: BTreeSet<u64>,
    /// Nodes whose disks were damaged on purpose.
    damaged: BTreeSet<u64>,
    /// Whether anybody was asked to change who votes.
    changes_voters: bool,
    keeps: Keeps,
    leading: BTreeMap<u64, Term>,
    rng: Rng,
    watched_until: u64,
}

/// What the nodes replicate.
enum Keeps {
    /// The key-value store.
    Pairs,
    /// [`Notes`], a state that is saved.
    Notes,
    /// The same, to which commands are applied once.
    NotesOnce,
}

struct Running {
    node: Node,
    /// Dead once nothing of the node is left.
    process: Weak<Process>,
    /// Set when the node has ended by itself.
    ended: Arc<Mutex<Option<String>>>,
}

/// A node on its way to an orderly end.
struct Stopping {
    done: Arc<AtomicBool>,
    process: Weak<Process>,
    until: Duration,
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(seed: u64, params: &Params, keep_trace: bool) -> Self {
        chance::begin(seed);
        let engine = Engine::new(seed, keep_trace);
        let network = Network::new(engine.clone(), seed, params.network.clone());
        engine.add_host(OUTSIDE, 0);
        let mut disks = BTreeMap::new();
        for node in 1..=params.nodes() {
            engine.add_host(node_host(node), params.write_max_us);
            disks.insert(node, Disk::new(seed, node));
        }
        for client in 1..=params.clients.all() {
            engine.add_host(client_host(client), 0);
        }
        Self {
            book: SharedBook::new(params.voters),
            engine,
            network,
            params: params.clone(),
            disks,
            running: BTreeMap::new(),
            stopping: BTreeMap::new(),
            lost: BTreeSet::new(),
            damaged: BTreeSet::new(),
            changes_voters: false,
            keeps: Keeps::Pairs,
            leading: BTreeMap::new(),
            rng: Rng::stream(seed, "world"),
            watched_until: 0,
        }
    }

    /// True time since the beginning.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.engine.now())
    }

    /// The first promise that was broken, if one was.
    #[must_use]
    pub fn failure(&self) -> Option<level::Failure> {
        self.book.with(|book| book.failure())
    }

    fn process(&self, host: HostId) -> Arc<Process> {
        Arc::new(Process {
            engine: self.engine.clone(),
            network: self.network.clone(),
            host,
            life: self.engine.life(host),
        })
    }

    fn addresses(&self) -> BTreeMap<NodeId, SocketAddr> {
        (1..=self.params.nodes())
            .map(|node| (node_id(node), address(node_host(node), NODE_PORT)))
            .collect()
    }

    /// Starts `node` on what is on its disk.
    ///
    /// # Errors
    ///
    /// As the node's.
    pub fn start(&mut self, node: u64) -> Result<(), StartError> {
        assert!(!self.running.contains_key(&node), "node {node} runs");
        let host = node_host(node);
        let id = node_id(node);
        let process = self.process(host);
        let builder = Node::builder(self.config(node), pki::node(node))
            .inline(Arc::<Process>::clone(&process))
            .environment(Arc::<Process>::clone(&process))
            .files(self.disks[&node].mount(Some(self.engine.clone())))
            .around_log(around(&self.book, id));
        let book = self.book.clone();
        let started = match self.keeps {
            Keeps::Pairs => {
                builder.start_kv_with(self.options(), |store| WatchedState::new(book, id, store))
            }
            Keeps::Notes => builder
                .start_saved_with(Notes::default(), |saved| WatchedState::new(book, id, saved)),
            Keeps::NotesOnce => builder.start_saved_once_with(Notes::default(), |saved| {
                WatchedState::new(book, id, saved)
            }),
        };
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                self.engine.note(&format!("{id} does not start: {error}"));
                self.disks[&node].cut_off();
                self.engine.kill(host);
                return Err(error);
            }
        };
        self.engine.note(&format!("{id} starts"));
        let ended = Arc::default();
        self.watch_status(&process, &started);
        self.watch_end(&started, Arc::clone(&ended));
        let running = Running {
            node: started,
            process: Arc::downgrade(&process),
            ended,
        };
        self.running.insert(node, running);
        Ok(())
    }

    fn config(&self, node: u64) -> NodeConfig {
        let Params { bounds, .. } = &self.params;
        let mut config = NodeConfig::new(address(node_host(node), NODE_PORT), "/data");
        // Whoever comes after the voters is no founder: it joins, where a script has it start.
        config.join = node > self.params.voters;
        config.peers = (self.addresses().into_iter())
            .map(|(node, at)| (node, vec![at]))
            .collect();
        let told = self.told(node);
        config.peers.retain(|peer, _| told.contains(&peer.value()));
        config.log_cache_bytes = 1 << 20;
        // So small that halves fill up all the time, and some commits are larger than one.
        config.log_journal_bytes = 64 << 10;
        // No disk here has a size.
        config.disk_reserve_bytes = 0;
        let raft = &mut config.raft;
        raft.priority = self.params.priority(node);
        raft.election_timeout = Duration::from_millis(self.params.election_timeout_ms);
        raft.heartbeat_interval = Duration::from_millis(self.params.heartbeat_interval_ms);
        // A key and the encoding come on top of the largest value.
        raft.command_bytes_max = bounds.command + 100;
        raft.uncommitted_bytes_max = bounds.uncommitted + 200;
        raft.message_bytes_max = bounds.message;
        raft.log_view_bytes_max = raft.log_view_bytes_min() + bounds.log_view;
        raft.checkpoint_bytes = bounds.checkpoint;
        raft.compare_interval = COMPARE_INTERVAL;
        bounds.compaction.set(raft);
        config
    }

    /// The members that the configuration of `node` names. Of those that join, every other one knows of a single founder:
    /// what it was told must be no membership for anybody else.
    fn told(&self, node: u64) -> RangeInclusive<u64> {
        let voters = self.params.voters;
        match node > voters && (node - voters).is_multiple_of(2) {
            true => {
                let one = 1 + node % voters;
                one..=one
            }
            false => 1..=voters,
        }
    }

    fn options(&self) -> KvOptions {
        KvOptions {
            cache_bytes: 1 << 20,
            overlay_bytes_max: usize::try_from(self.params.bounds.checkpoint * 2)
                .unwrap_or(usize::MAX),
            background: false,
            watch_history_bytes: 64 << 10,
        }
    }

    /// Asks the node again and again how it stands.
    fn watch_status(&self, process: &Arc<Process>, node: &Node) {
        let (handle, book) = (node.handle(), self.book.clone());
        let clock = Process::clone(process);
        let watch = async move {
            while let Ok(status) = handle.status().await {
                book.with(|book| book.status(status));
                clock.sleep(WATCH_EVERY).await;
            }
        };
        self.engine
            .spawn(process.host, process.life, Box::pin(watch));
    }

    fn watch_end(&self, node: &Node, ended: Arc<Mutex<Option<String>>>) {
        let stopped = node.stopped();
        let watch = async move {
            let why = match stopped.await {
                Ok(()) => String::new(),
                Err(fatal) => fatal.to_string(),
            };
            if let Ok(mut ended) = ended.lock() {
                *ended = Some(why);
            }
        };
        self.engine.spawn(OUTSIDE, 0, Box::pin(watch));
    }

    /// Whether `node` runs.
    #[must_use]
    pub fn runs(&self, node: u64) -> bool {
        self.running.contains_key(&node)
    }

    /// Who leads in the highest term, as the leaders say.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        let leaders = self
            .running
            .iter()
            .filter(|(_, running)| leads(&running.node));
        leaders
            .max_by_key(|(_, running)| running.node.raft().leader().term)
            .map(|(node, _)| *node)
    }

    /// A client that knows all nodes, on a host of its own.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn client(&self, client: u64, timeout: Duration) -> Client {
        self.client_of(client, self.addresses(), true, timeout)
    }

    /// A client that knows only `node`.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn client_at(&self, client: u64, node: u64, timeout: Duration) -> Client {
        let at = address(node_host(node), NODE_PORT);
        self.client_of(
            client,
            BTreeMap::from([(node_id(node), at)]),
            false,
            timeout,
        )
    }

    fn client_of(
        &self,
        client: u64,
        nodes: BTreeMap<NodeId, SocketAddr>,
        follow_members: bool,
        timeout: Duration,
    ) -> Client {
        let process = self.process(client_host(client));
        let mut config = ClientConfig::new(nodes.into_iter().collect(), pki::client(client));
        config.request_timeout = timeout;
        config.follow_members = follow_members;
        config.environment = Arc::<Process>::clone(&process);
        Client::connect(config, process).expect("a client")
    }

    /// Lets the first client's host do `work` until it is done; returns whether it was by `deadline`.
    pub fn run_to_end(
        &mut self,
        work: impl Future<Output = ()> + Send + 'static,
        deadline: Duration,
    ) -> bool {
        let done = Arc::new(AtomicBool::new(false));
        let finished = Arc::clone(&done);
        self.spawn_on(client_host(1), async move {
            work.await;
            finished.store(true, Ordering::Relaxed);
        });
        self.run_until(deadline, |_| done.load(Ordering::Relaxed))
    }

    /// What `node` said of itself last, if it runs.
    #[must_use]
    pub fn status(&self, node: u64) -> Option<Status> {
        let statuses = self.statuses();
        statuses
            .into_iter()
            .find(|status| status.node == node_id(node))
    }

    /// Why `node` is not in touch with those it is not in touch with.
    #[must_use]
    pub fn refusals(&self, node: u64) -> Vec<String> {
        let Some(running) = self.running.get(&node) else {
            return Vec::new();
        };
        let peers = running.node.peers();
        // Where both dial, whoever refuses may do so after the other has taken it for connected.
        let told = peers.iter().filter_map(|peer| {
            let error = peer.last_error.as_ref().map(ToString::to_string);
            error.or_else(|| peer.last_close.as_ref().map(ToString::to_string))
        });
        told.collect()
    }

    pub(super) fn client_process(&self, client: u64) -> Arc<Process> {
        self.process(client_host(client))
    }

    /// Lets the process that runs on `host` now do `task`, without waiting for it.
    pub fn spawn_on(&self, host: HostId, task: impl Future<Output = ()> + Send + 'static) {
        self.engine
            .spawn(host, self.engine.life(host), Box::pin(task));
    }

    /// Nodes that refuse their damaged disks.
    #[must_use]
    pub fn lost(&self) -> &BTreeSet<u64> {
        &self.lost
    }

    /// Starts `node` again. One that does not start is lost if its disk was damaged; otherwise that
    /// breaks a promise.
    pub fn restart(&mut self, node: u64) {
        if self.runs(node) || self.stopping.contains_key(&node) || self.lost.contains(&node) {
            return;
        }
        if let Err(error) = self.start(node) {
            if self.damaged.contains(&node) {
                self.lost.insert(node);
            } else {
                self.book
                    .with(|book| book.fails("a healthy node starts", format!("n{node}: {error}")));
            }
        }
    }

    /// Lets time pass. Ends early when a promise is broken.
    pub fn run_for(&mut self, time: Duration) {
        let deadline = self.now() + time;
        self.run_until(deadline, |_| false);
    }

    /// Lets time pass until `done`, or until `deadline`; returns whether it was done.
    pub fn run_until(&mut self, deadline: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let deadline = u64::try_from(deadline.as_nanos()).expect("less than centuries");
        loop {
            self.engine.run_ready();
            self.check();
            if self.failure().is_some() {
                return false;
            }
            if done(self) {
                return true;
            }
            let more = self.engine.advance(deadline);
            if !more {
                self.engine.run_ready();
                return done(self);
            }
        }
    }

    /// Whether a node is still on its way to an orderly end.
    pub(super) fn is_stopping(&self) -> bool {
        !self.stopping.is_empty()
    }

    /// How the running nodes stand, as they said last.
    pub fn statuses(&self) -> Vec<Status> {
        let running: BTreeSet<NodeId> = self.running.keys().map(|node| node_id(*node)).collect();
        self.book.with(|book| {
            let seen = book.seen().values();
            seen.filter(|status| running.contains(&status.node))
                .cloned()
                .collect()
        })
    }

    /// Whether the states of all running nodes have been compared since index `from`.
    pub(super) fn states_compared(&self, from: LogIndex) -> bool {
        self.book.with(|book| {
            let mut nodes = self.running.keys();
            nodes.all(|node| book.compared_to(node_id(*node)) > from)
        })
    }

    /// How many datagrams were sent.
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.network.sent().0
    }

    /// How often a disk was synced, and how much was sent.
    pub(super) fn effort(&self) -> (u64, u64) {
        let syncs = self.disks.values().map(Disk::syncs).sum();
        (syncs, self.network.sent().0)
    }

    /// Ends everything.
    pub fn end(&mut self) {
        for node in 1..=self.params.nodes() {
            self.kill(node, true);
        }
        for client in 1..=self.params.clients.all() {
            self.network.close(client_host(client));
            self.engine.kill(client_host(client));
        }
        self.engine.end();
    }
}

fn leads(node: &Node) -> bool {
    node.raft().leader().role == Role::Leader
}
