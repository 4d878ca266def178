//! Opens the files of a node and starts its threads.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use async_channel::{Receiver, Sender};
use futures_lite::future;
use quinn::Runtime;
use quorate_certs::{Credentials, Identity, Subject};
use quorate_consensus::{
    EntryId, LeaderChange, Membership, NodeId, ORIGIN, Parts, RaftNode, Running, StateMachine,
    assemble, read_tail,
};
use quorate_persist::{Opened, Options, Store, StoreIdentity};
use quorate_quic_transport::{
    Config as TransportConfig, Inbound, Inbox, Instance, Transport, runtime::IoThread,
};
use tracing::{debug, error, info};

use super::admission::Admission;
use super::config::NodeConfig;
use super::error::StartError;
use super::seams::{PeerTransport, RaftMessage, RuntimeClock};
use super::service::{NoService, Service};
use super::{Facts, Node, NodeHandle, Outcome, secret};

/// The name of the log in a node's data folder.
pub const LOG_FILE: &str = "log.redb";

/// Puts a node together. Made by [`Node::builder`].
pub struct NodeBuilder {
    config: NodeConfig,
    credentials: Credentials,
    service: Box<dyn Service>,
    runtime: Option<Arc<dyn Runtime>>,
}

impl NodeBuilder {
    pub(super) fn new(config: NodeConfig, credentials: Credentials) -> Self {
        Self {
            config,
            credentials,
            service: Box::new(NoService),
            runtime: None,
        }
    }

    /// Serves `service` to clients. Without it, their calls are refused.
    #[must_use]
    pub fn service(mut self, service: impl Service) -> Self {
        self.service = Box::new(service);
        self
    }

    /// Runs everything, disk and state machine included, as tasks of `runtime` instead of on threads of
    /// its own. For simulations: a blocked disk then blocks the runtime.
    #[must_use]
    pub fn inline(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The folder of the node's files, made if missing, with no access for others.
    ///
    /// # Errors
    ///
    /// [`StartError::DataDir`].
    pub fn prepare_data_dir(&self) -> Result<&Path, StartError> {
        let path = &self.config.data_dir;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| StartError::DataDir {
                path: path.clone(),
                error,
            })?;
        Ok(path)
    }

    /// Who the files of this node belong to.
    ///
    /// # Errors
    ///
    /// [`StartError::NotANode`] when the certificate is not a node's.
    pub fn store_identity(&self) -> Result<StoreIdentity, StartError> {
        let identity = self.credentials.identity();
        let node = identity
            .node_id()
            .map(NodeId::from)
            .ok_or_else(|| StartError::NotANode {
                identity: identity.clone(),
            })?;
        Ok(StoreIdentity {
            cluster: identity.cluster.to_string(),
            node,
        })
    }

    /// Opens or makes the files, joins the cluster, and serves until it is stopped.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing is left running then.
    pub fn start(self, state_machine: impl StateMachine) -> Result<Node, StartError> {
        let owner = self.store_identity()?;
        let directory = self.prepare_data_dir()?.to_path_buf();
        let secret = secret::load_or_create(&directory).map_err(|error| StartError::DataDir {
            path: directory.clone(),
            error,
        })?;
        let Opened {
            store,
            recovered,
            store_id,
            boot,
            ..
        } = self.open_log(&directory, &owner, state_machine.applied())?;
        let applied = state_machine.applied();
        let tail = read_tail(&store, applied.index, recovered.last)?;
        let mut raft = self.config.raft.clone();
        raft.node = owner.node;
        raft.boot = boot;
        // Nodes and their starts differ, so that their timeouts do.
        raft.seed = raft.seed.rotate_left(32) ^ owner.node.value() ^ (boot << 16);
        let addresses = self.addresses(owner.node, &recovered.membership)?;
        let core = RaftNode::new(raft, &recovered, applied, tail)?;

        let (runtime, io_thread) = self.io(owner.node)?;
        let mut transport_config = TransportConfig::new(self.config.listen);
        transport_config.service = "quorate".into();
        transport_config.instance = Instance { store_id, boot };
        transport_config.secret = secret;
        transport_config.admit = Some(Arc::new(Admission::new(recovered.membership.clone())));
        let (transport, inbox) = Transport::bind(
            transport_config,
            self.credentials.clone(),
            Arc::clone(&runtime),
        )?;
        let peers = connect(&transport, self.credentials.identity(), &addresses);

        let clock = Arc::new(RuntimeClock(Arc::clone(&runtime)));
        // Changes of leader are rare, and the service takes them at once.
        let (changes_sender, changes) = async_channel::unbounded();
        let Running {
            handle,
            driver,
            writer,
            applier,
        } = assemble(
            core,
            Parts {
                transport: Box::new(PeerTransport(peers)),
                store: Box::new(store),
                state_machine: Box::new(state_machine),
                clock: clock.clone(),
                observer: Box::new(move |change| {
                    let _ = changes_sender.try_send(*change);
                }),
            },
        );
        let alone = recovered.membership.voters().len() == 1;
        let handle = NodeHandle {
            raft: handle,
            facts: Arc::new(Facts {
                node: owner.node,
                identity: self.credentials.identity().clone(),
                credentials: self.credentials.clone(),
                listen: transport.local_addr(),
                data_dir: directory,
                started: clock.0.now(),
                runtime: Arc::clone(&runtime),
            }),
            transport,
        };
        let outcome = Arc::new(Outcome::default());
        let (end, ended) = async_channel::bounded(1);
        let mut threads = Threads {
            io: io_thread,
            workers: Vec::new(),
        };
        threads.spawn(
            &runtime,
            format!("quorate-log-{}", owner.node),
            &end,
            writer.run(),
        )?;
        threads.spawn(
            &runtime,
            format!("quorate-state-{}", owner.node),
            &end,
            applier.run(),
        )?;
        runtime.spawn(Box::pin({
            let (outcome, node) = (Arc::clone(&outcome), owner.node);
            async move {
                if let Err(fatal) = driver.run().await {
                    error!(%node, err = %fatal, "the node stops itself");
                    outcome.set(fatal);
                }
                drop(end);
            }
        }));
        runtime.spawn(Box::pin(serve(
            handle.clone(),
            inbox,
            changes,
            self.service,
        )));
        if alone {
            handle.raft.campaign();
        }
        info!(node = %owner.node, cluster = owner.cluster, boot, listen = %handle.local_addr(), "started");
        Ok(Node {
            handle,
            outcome,
            ended,
            clock,
            threads,
        })
    }

    fn io(&self, node: NodeId) -> Result<(Arc<dyn Runtime>, Option<IoThread>), StartError> {
        if let Some(runtime) = &self.runtime {
            return Ok((Arc::clone(runtime), None));
        }
        let thread = IoThread::spawn(&node.to_string()).map_err(StartError::Thread)?;
        Ok((thread.runtime(), Some(thread)))
    }

    fn open_log(
        &self,
        directory: &Path,
        owner: &StoreIdentity,
        applied: EntryId,
    ) -> Result<Opened, StartError> {
        let path = directory.join(LOG_FILE);
        let data_dir = |error| StartError::DataDir {
            path: directory.to_path_buf(),
            error,
        };
        if !quorate_persist::exists(&path).map_err(data_dir)? {
            if applied > ORIGIN {
                return Err(StartError::LogLost {
                    path: directory.to_path_buf(),
                });
            }
            let others = self.config.peers.keys().copied();
            let members = Membership::new(others.chain([owner.node]), [])?;
            Store::create(&path, owner, &members)?;
            info!(node = %owner.node, cluster = owner.cluster, %members, "made a new log");
        }
        let options = Options {
            cache_bytes: self.config.log_cache_bytes,
        };
        Ok(Store::open(&path, owner, options)?)
    }

    /// Where each other member is.
    fn addresses(
        &self,
        own: NodeId,
        membership: &Membership,
    ) -> Result<BTreeMap<NodeId, std::net::SocketAddr>, StartError> {
        let members = membership
            .voters()
            .chain(membership.learners())
            .filter(|id| *id != own);
        let (mut addresses, mut nodes) = (BTreeMap::new(), Vec::new());
        for node in members {
            match self.config.peers.get(&node) {
                Some(address) => drop(addresses.insert(node, *address)),
                None => nodes.push(node),
            }
        }
        if nodes.is_empty() {
            Ok(addresses)
        } else {
            Err(StartError::NoAddress { nodes })
        }
    }
}

fn connect(
    transport: &Transport,
    own: &Identity,
    addresses: &BTreeMap<NodeId, std::net::SocketAddr>,
) -> BTreeMap<NodeId, quorate_quic_transport::Peer> {
    let dial = |(node, address): (&NodeId, &std::net::SocketAddr)| {
        let identity = Identity::new(own.cluster.clone(), Subject::Node((*node).into()));
        transport.set_peer(identity.clone(), vec![*address]);
        (
            *node,
            transport.peer(&identity).expect("it was set just now"),
        )
    };
    addresses.iter().map(dial).collect()
}

/// Takes what arrives to consensus or to the service, until the transport ends.
async fn serve(
    node: NodeHandle,
    mut inbox: Inbox,
    changes: Receiver<LeaderChange>,
    mut service: Box<dyn Service>,
) {
    loop {
        let arrived = async { inbox.recv().await.map(Event::Inbound) };
        let changed = async { changes.recv().await.ok().map(Event::Change) };
        match future::or(changed, arrived).await {
            Some(Event::Change(change)) => service.leader_changed(&node, &change),
            Some(Event::Inbound(inbound)) => take(&node, &mut *service, inbound),
            None => break,
        }
    }
}

enum Event {
    Inbound(Inbound),
    Change(LeaderChange),
}

fn take(node: &NodeHandle, service: &mut dyn Service, inbound: Inbound) {
    match inbound {
        Inbound::Message(received) => {
            let Some(from) = received.from.node_id() else {
                return;
            };
            match received.decode::<RaftMessage>() {
                Ok(RaftMessage(message)) => {
                    if !node.raft.deliver(from.into(), message) {
                        debug!(node = %node.id(), peer = from, "message dropped: the driver is behind");
                    }
                }
                Err(err) => {
                    debug!(node = %node.id(), peer = from, kind = received.kind, %err, "message ignored");
                }
            }
        }
        Inbound::Call(call) => service.call(node, call),
        // Raft finds out by itself: its next heartbeat arrives.
        Inbound::Up(_) => {}
        Inbound::Down { identity, .. } => {
            if let Some(peer) = identity.node_id() {
                node.raft.report_unreachable(peer.into());
            }
        }
        _ => {}
    }
}

/// The threads of a node, or none when it runs inline.
pub(super) struct Threads {
    workers: Vec<JoinHandle<()>>,
    io: Option<IoThread>,
}

impl Threads {
    /// Runs `worker` on a thread of its own, or on `runtime` when the node runs inline.
    fn spawn(
        &mut self,
        runtime: &Arc<dyn Runtime>,
        name: String,
        end: &Sender<()>,
        worker: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), StartError> {
        let end = end.clone();
        let work = async move {
            worker.await;
            drop(end);
        };
        if self.io.is_none() {
            runtime.spawn(Box::pin(work));
            return Ok(());
        }
        let thread = thread::Builder::new()
            .name(name)
            .spawn(|| future::block_on(work));
        self.workers.push(thread.map_err(StartError::Thread)?);
        Ok(())
    }

    /// Waits until the workers have ended, which they do once the driver has, then ends the I/O thread.
    pub(super) fn join(&mut self) {
        // The driver needs the I/O thread to end, so the workers come first.
        for worker in self.workers.drain(..) {
            // A worker that panicked has already been reported.
            let _ = worker.join();
        }
        if let Some(io) = self.io.take() {
            io.stop();
        }
    }
}
