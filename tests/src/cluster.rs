//! A cluster of real nodes in this process: real sockets, real files, real certificates.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate::kv::{Client, ClientConfig, KvOptions, KvStore};
use quorate::{Credentials, Node, NodeBuilder, NodeConfig, NodeId, Role, StateMachine, Status};
use quorate_certs::{Ca, CaOptions, ClusterName, IssueOptions, Subject};
use quorate_persist::Files;
use quorate_quic_transport::runtime::IoThread;
use tempfile::TempDir;

use crate::ports::Ports;
use crate::wait::until;

/// Nodes 1 to n, their certificates, files and addresses.
pub struct Cluster {
    ca: Ca,
    directory: TempDir,
    addresses: BTreeMap<NodeId, SocketAddr>,
    /// Behind the addresses: nodes end here and start again.
    _ports: Ports,
    nodes: BTreeMap<NodeId, Node>,
    client_thread: IoThread,
    configure: fn(&mut NodeConfig),
}

/// The node id `id`.
///
/// # Panics
///
/// For zero.
#[must_use]
pub fn id(id: u64) -> NodeId {
    NodeId::new(id).expect("node ids start at one")
}

impl Cluster {
    /// Starts `size` nodes.
    ///
    /// # Panics
    ///
    /// When a node does not start.
    #[must_use]
    pub fn start(size: u64) -> Self {
        Self::start_as(size, |_| {})
    }

    /// As [`start`](Self::start), with configurations that `configure` changes.
    ///
    /// # Panics
    ///
    /// When a node does not start.
    #[must_use]
    pub fn start_as(size: u64, configure: fn(&mut NodeConfig)) -> Self {
        let name = ClusterName::new("test").expect("a valid name");
        let ca = Ca::generate(&name, &CaOptions::default()).expect("a CA in memory");
        let ports = Ports::claim(size as usize);
        let mut cluster = Self {
            ca,
            directory: TempDir::new().expect("a temporary folder"),
            addresses: (1..).map(id).zip(ports.addresses()).collect(),
            _ports: ports,
            nodes: BTreeMap::new(),
            client_thread: IoThread::spawn("client").expect("a thread"),
            configure,
        };
        for node in (1..=size).map(id) {
            cluster.start_node(node);
        }
        cluster
    }

    /// Starts `node` on the files it has, or on new ones.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start_node(&mut self, node: NodeId) {
        self.start_node_around(node, |store| store);
    }

    /// As [`start_node`](Self::start_node), with what `around` makes of its state.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start_node_around<M: StateMachine>(
        &mut self,
        node: NodeId,
        around: impl FnOnce(KvStore) -> M,
    ) {
        let started = self
            .builder(node)
            .start_kv_with(KvOptions::default(), around)
            .expect("the node starts");
        self.nodes.insert(node, started);
    }

    /// As [`start_node`](Self::start_node), with its files on `files`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start_node_on(&mut self, node: NodeId, files: Arc<dyn Files>) {
        let builder = self.builder(node).files(files);
        let started = builder.start_kv().expect("the node starts");
        self.nodes.insert(node, started);
    }

    fn builder(&self, node: NodeId) -> NodeBuilder {
        let mut config = NodeConfig::new(self.addresses[&node], self.data_dir(node));
        config.peers = (self.addresses.iter())
            .map(|(&node, &at)| (node, vec![at]))
            .collect();
        (self.configure)(&mut config);
        let credentials = self.credentials(&Subject::Node(node.into()));
        Node::builder(config, credentials)
    }

    /// Where the files of `node` are.
    #[must_use]
    pub fn data_dir(&self, node: NodeId) -> PathBuf {
        self.directory.path().join(node.to_string())
    }

    /// Where every node listens.
    #[must_use]
    pub fn addresses(&self) -> &BTreeMap<NodeId, SocketAddr> {
        &self.addresses
    }

    /// Credentials of this cluster for `subject`.
    ///
    /// # Panics
    ///
    /// When they cannot be made.
    #[must_use]
    pub fn credentials(&self, subject: &Subject) -> Credentials {
        let issued = self
            .ca
            .issue(subject, &IssueOptions::default())
            .expect("a certificate");
        issued.credentials().expect("credentials")
    }

    /// The running node `node`.
    pub fn node(&self, node: NodeId) -> &Node {
        &self.nodes[&node]
    }

    /// Stops `node` without a hand-over and without a word to its peers. It is no crash: its threads end in order, and its
    /// state is closed. Those are the matter of processes, which are killed, and of simulations.
    pub fn kill(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// Takes `node` out, to be shut down by the caller.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn take(&mut self, node: NodeId) -> Node {
        self.nodes.remove(&node).expect("the node runs")
    }

    /// Those that run.
    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// A client that knows all nodes.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn client(&self, timeout: Duration) -> Client {
        let credentials = self.credentials(&Subject::client("test").expect("a valid name"));
        let endpoints = self
            .addresses
            .iter()
            .map(|(node, address)| (*node, *address))
            .collect();
        let mut config = ClientConfig::new(endpoints, credentials);
        config.request_timeout = timeout;
        Client::connect(config, Arc::clone(&self.client_thread.runtime())).expect("a client")
    }

    /// Waits until exactly one node leads and all running nodes know it.
    pub async fn leader(&self) -> NodeId {
        until("one leader that all know", || async {
            let statuses = self.statuses().await;
            let mut leaders = statuses.iter().filter(|status| status.role == Role::Leader);
            let leader = leaders.next()?;
            let agreed = statuses
                .iter()
                .all(|status| status.leader == Some(leader.node) && status.term == leader.term);
            agreed.then_some(leader.node)
        })
        .await
    }

    /// How the running nodes stand.
    pub async fn statuses(&self) -> Vec<Status> {
        let mut statuses = Vec::new();
        for node in self.nodes.values() {
            statuses.extend(node.status().await.ok());
        }
        statuses
    }

    /// Waits until all running nodes have applied the same, last entry.
    pub async fn converged(&self) -> Status {
        until("all nodes to apply the same entry", || async {
            let statuses = self.statuses().await;
            let first = statuses.first()?;
            statuses
                .iter()
                .all(|status| {
                    status.applied == first.applied && status.applied == status.last.index
                })
                .then(|| first.clone())
        })
        .await
    }
}
