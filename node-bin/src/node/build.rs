//! Opens the files of a node and starts its threads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;

use quinn::Runtime;
use quorate_certs::Credentials;
use quorate_consensus::{
    Clock, EntryId, Event, LogStore, Membership, NodeId, ORIGIN, Parts, RaftNode, Recovered,
    Running, StateMachine, assemble, read_tail,
};
use quorate_persist::{Files, Opened, Options, OsFiles, Store, StoreIdentity};
use quorate_quic_transport::{
    BindError, Config as TransportConfig, Environment, Inbox, Instance, System, Transport,
    runtime::IoThread,
};
use tracing::{info, warn};

use super::admission::Admission;
use super::config::NodeConfig;
use super::error::StartError;
use super::events::Subscribers;
use super::members::{AddressBook, Members, PeerTransport};
use super::metrics::{Measured, Metrics};
use super::peers::{PEERS_FILE, PeerMemory, Progress};
use super::run::{self, Threads};
use super::seams::{NUMBERED_SERVICE, RuntimeClock, SERVICE};
use super::service::{NoService, Service};
use super::space::{self, Shrinks, Space};
use super::{Facts, Node, NodeHandle, Outcome, secret};
use crate::once::Slots;

/// The name of the log in a node's data folder.
pub const LOG_FILE: &str = "log.redb";

/// Puts a node together. Made by [`Node::builder`].
pub struct NodeBuilder {
    config: NodeConfig,
    credentials: Credentials,
    service: Box<dyn Service>,
    runtime: Option<Arc<dyn Runtime>>,
    environment: Arc<dyn Environment>,
    files: Arc<dyn Files>,
    around_log: Box<AroundLog>,
    shrinks: Box<Shrinks>,
    numbers: bool,
    takes_forwarded: bool,
}

/// Puts something around the log of a node that starts.
type AroundLog = dyn FnOnce(Instance, &Recovered, Box<dyn LogStore>) -> Box<dyn LogStore> + Send;

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("config", &self.config)
            .field("identity", self.credentials.identity())
            .finish_non_exhaustive()
    }
}

impl NodeBuilder {
    pub(super) fn new(config: NodeConfig, credentials: Credentials) -> Self {
        Self {
            config,
            credentials,
            service: Box::new(NoService),
            runtime: None,
            environment: Arc::new(System),
            files: Arc::new(OsFiles),
            around_log: Box::new(|_, _, log| log),
            shrinks: Box::new(|_| false),
            numbers: false,
            takes_forwarded: true,
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

    /// Takes randomness, cryptography, the time of day and sockets from `environment` instead of from
    /// the operating system. For simulations.
    #[must_use]
    pub fn environment(mut self, environment: Arc<dyn Environment>) -> Self {
        self.environment = environment;
        self
    }

    /// Keeps every file on `files` instead of on the operating system's. For simulations.
    #[must_use]
    pub fn files(mut self, files: Arc<dyn Files>) -> Self {
        self.files = files;
        self
    }

    /// Puts what `around` makes between consensus and the durable log, once the log has been opened:
    /// to watch what is made durable, or to fail. It gets to know which start of which store this is,
    /// and what the store held.
    #[must_use]
    pub fn around_log(
        mut self,
        around: impl FnOnce(Instance, &Recovered, Box<dyn LogStore>) -> Box<dyn LogStore>
        + Send
        + 'static,
    ) -> Self {
        self.around_log = Box::new(around);
        self
    }

    /// Which commands [`NodeHandle::propose`] takes although the disk is nearly full: those that `shrinks` says make the
    /// state smaller, or no larger. Without it, none.
    #[must_use]
    pub fn shrinks(mut self, shrinks: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        self.shrinks = Box::new(shrinks);
        self
    }

    /// Numbers the commands, for a state that is an [`Once`](crate::once::Once).
    pub(crate) fn numbering(mut self) -> Self {
        self.numbers = true;
        self
    }

    /// Takes no commands from other members.
    pub(crate) fn without_forwarded(mut self) -> Self {
        self.takes_forwarded = false;
        self
    }

    pub(crate) fn kept_on(&self) -> Arc<dyn Files> {
        Arc::clone(&self.files)
    }

    /// Whether everything happens on the threads of the runtime that was brought.
    pub(crate) fn is_inline(&self) -> bool {
        self.runtime.is_some()
    }

    /// The folder of the node's files, made if missing, with no access for others.
    ///
    /// # Errors
    ///
    /// [`StartError::DataDir`].
    pub fn prepare_data_dir(&self) -> Result<&Path, StartError> {
        let path = &self.config.data_dir;
        let made = quorate_persist::make_directory(&*self.files, path);
        made.map_err(|error| StartError::DataDir {
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
    pub fn start(self, mut state_machine: impl StateMachine) -> Result<Node, StartError> {
        let owner = self.store_identity()?;
        self.check_port()?;
        let directory = self.prepare_data_dir()?.to_path_buf();
        let secret = secret::load_or_create(&*self.files, &directory);
        let secret = secret.map_err(|error| StartError::DataDir {
            path: directory.clone(),
            error,
        })?;
        let applied = state_machine.applied();
        let opened = self.open_log(&directory, &owner, applied)?;
        quorate_persist::remove_drafts(&*self.files, &directory).map_err(|error| {
            StartError::DataDir {
                path: directory.clone(),
                error,
            }
        })?;
        let applied = finish_install(&mut state_machine, opened.recovered.base())?;
        let core = self.core(&owner, &opened, applied)?;
        let membership = core.membership().clone();
        let members = Members::new(membership);

        let memory = PeerMemory::open(
            Arc::clone(&self.files),
            directory.join(PEERS_FILE),
            owner.clone(),
            self.runtime.is_none(),
        )?;
        let (runtime, io_thread) = self.io(owner.node)?;
        let (transport, inbox) =
            self.bind(&runtime, &opened, secret, members.clone(), memory.clone())?;
        let book = AddressBook::new(
            owner.node,
            self.credentials.identity().cluster.clone(),
            transport.clone(),
            members.clone(),
            self.config.peers.clone(),
        );
        let peers = PeerTransport {
            own: owner.node,
            book: book.clone(),
            members,
            memory: memory.clone(),
            peers: BTreeMap::new(),
            runtime: Arc::clone(&runtime),
        };
        let clock: Arc<dyn Clock> = Arc::new(RuntimeClock(Arc::clone(&runtime)));
        let instance = instance(&opened);
        let log = (self.around_log)(instance, &opened.recovered, Box::new(opened.store));
        let metrics = Arc::new(Metrics::new(&owner.cluster, owner.node));
        let log = Box::new(Measured {
            log,
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
        });
        // Changes of leader are rare, and the service takes them at once.
        let (changes_sender, changes) = async_channel::unbounded();
        let subscribers = Subscribers::default();
        let observed = subscribers.clone();
        let counted = Arc::clone(&metrics);
        let Running {
            handle: raft,
            control,
            driver,
            writer,
            applier,
            courier,
        } = assemble(
            core,
            Parts {
                transport: Box::new(peers),
                store: log,
                state_machine: Box::new(state_machine),
                clock: Arc::clone(&clock),
                observer: Box::new(move |event| {
                    if let Event::Leader(change) = event {
                        let _ = changes_sender.try_send(*change);
                    }
                    counted.note(event);
                    observed.tell(event);
                }),
            },
        );
        let space = Arc::new(Space::new(owner.node, self.config.disk_reserve_bytes));
        let files = Arc::clone(&self.files);
        let handle = NodeHandle {
            raft,
            control,
            facts: Arc::new(Facts {
                node: owner.node,
                identity: self.credentials.identity().clone(),
                listen: transport.local_addr(),
                data_dir: directory.clone(),
                started: clock.now(),
                runtime: Arc::clone(&runtime),
                files: self.files,
                book,
                subscribers,
                metrics,
                space: Arc::clone(&space),
                shrinks: self.shrinks,
                slots: self.numbers.then(|| {
                    Slots::new(
                        owner.node,
                        instance.boot,
                        self.config.raft.command_bytes_max,
                    )
                }),
                takes_forwarded: self.takes_forwarded,
            }),
            transport,
        };
        let outcome = Arc::new(Outcome::default());
        let (end, ended) = async_channel::bounded(1);
        let mut threads = Threads::new(io_thread);
        let thread = |what: &str| format!("quorate-{what}-{}", owner.node);
        threads.spawn(&runtime, thread("log"), &end, writer.run())?;
        let applied = run::apply(applier, Arc::clone(&outcome));
        threads.spawn(&runtime, thread("state"), &end, applied)?;
        threads.spawn(&runtime, thread("snap"), &end, courier.run())?;
        if space.is_measured() {
            let (due, looks) = async_channel::bounded(1);
            let watch = space::watch(space, files, directory, looks);
            threads.spawn(&runtime, thread("space"), &end, watch)?;
            runtime.spawn(Box::pin(space::ask(handle.clone(), due)));
        }
        let drive = run::drive(handle.clone(), driver, Arc::clone(&outcome), end);
        runtime.spawn(Box::pin(drive));
        let serve = run::serve(
            handle.clone(),
            inbox,
            changes,
            self.service,
            memory,
            Arc::clone(&outcome),
        );
        runtime.spawn(Box::pin(serve));
        info!(
            node = %owner.node, cluster = owner.cluster, boot = instance.boot,
            listen = %handle.local_addr(), "started"
        );
        Ok(Node {
            handle,
            outcome,
            ended,
            threads,
        })
    }

    /// Tries the port before any file is made: a first start that fails for it leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`StartError::Bind`].
    pub(crate) fn check_port(&self) -> Result<(), StartError> {
        let addr = self.config.listen;
        if self.runtime.is_some() || addr.port() == 0 {
            return Ok(());
        }
        UdpSocket::bind(addr)
            .map(drop)
            .map_err(|err| BindError::Socket { addr, err }.into())
    }

    fn core(
        &self,
        owner: &StoreIdentity,
        opened: &Opened,
        applied: EntryId,
    ) -> Result<RaftNode, StartError> {
        let recovered = &opened.recovered;
        let tail = match applied.index < recovered.base().index {
            // Refused below, with what to do.
            true => Vec::new(),
            false => read_tail(&opened.store, applied.index, recovered.last)?,
        };
        let mut raft = self.config.raft.clone();
        raft.node = owner.node;
        raft.boot = opened.boot;
        // Nodes, their starts and clusters differ, so that their timeouts do: a store's id is random.
        let store = opened.store_id as u64;
        raft.seed = raft.seed.rotate_left(32) ^ store ^ (opened.boot << 16);
        Ok(RaftNode::new(raft, recovered, applied, tail)?)
    }

    fn bind(
        &self,
        runtime: &Arc<dyn Runtime>,
        opened: &Opened,
        secret: [u8; 32],
        members: Members,
        memory: PeerMemory,
    ) -> Result<(Transport, Inbox), StartError> {
        let environment = Arc::clone(&self.environment);
        let service = match self.numbers {
            true => NUMBERED_SERVICE,
            false => SERVICE,
        };
        let mut config = TransportConfig::new_in(environment, service, self.config.listen);
        config.instance = instance(opened);
        config.progress = Progress {
            term: opened.recovered.hard_state.term,
            last: opened.recovered.last,
        }
        .to_number();
        config.secret = secret;
        config.limits = self.config.limits.clone();
        config.timings = self.config.timings.clone();
        config.origin = match opened.origin {
            0 => memory.origin(),
            founder => founder,
        };
        config.admit = Some(Arc::new(Admission::new(members, memory, opened.origin)));
        Ok(Transport::bind(
            config,
            self.credentials.clone(),
            Arc::clone(runtime),
        )?)
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
        let options = Options {
            cache_bytes: self.config.log_cache_bytes,
            journal_bytes: self.config.log_journal_bytes,
            background: self.runtime.is_none(),
        };
        if !self.files.exists(&path).map_err(data_dir)? {
            if applied > ORIGIN {
                return Err(StartError::LogLost {
                    path: directory.to_path_buf(),
                });
            }
            let members = self.first_members(owner.node)?;
            Store::create_in(&*self.files, &path, owner, &members, options)?;
            info!(
                node = %owner.node, cluster = owner.cluster, %members, join = self.config.join,
                "made a new log"
            );
            if members.members().count() == 1 {
                warn!(node = %owner.node, "founded a cluster of one: no peers are configured");
            }
        }
        let opened = Store::open_in(&*self.files, &path, owner, options)?;
        if self.config.join && opened.origin != 0 {
            self.check_join(directory, &opened)?;
            warn!(node = %owner.node, "this node was founded, restored or recovered: it does not join anybody");
        }
        self.check_members(directory, owner.node, &opened)?;
        Ok(opened)
    }

    /// Whom a new log begins with.
    fn first_members(&self, own: NodeId) -> Result<Membership, StartError> {
        if !self.config.join {
            return Ok(Membership::new(self.configured(own), [])?);
        }
        let others: BTreeSet<NodeId> = self.config.peers.keys().copied().collect();
        let others = others.into_iter().filter(|&node| node != own);
        Membership::joining(own, others).map_err(|_| StartError::NobodyToJoin)
    }

    /// A node that was founded and has met no other members since would wait for them for ever, and those that it is
    /// told to join refuse it. One that was restored or recovered, or whose members have changed, has a cluster.
    fn check_join(&self, directory: &Path, opened: &Opened) -> Result<(), StartError> {
        let membership = opened.recovered.membership();
        if membership.index() != ORIGIN.index {
            return Ok(());
        }
        Err(StartError::NotJoining {
            path: directory.to_path_buf(),
            founders: membership.members().collect(),
        })
    }

    /// The members that the configuration names.
    fn configured(&self, own: NodeId) -> BTreeSet<NodeId> {
        self.config.peers.keys().copied().chain([own]).collect()
    }

    /// Two nodes that disagree about who belongs to the cluster could both lead one.
    fn check_members(
        &self,
        directory: &Path,
        own: NodeId,
        opened: &Opened,
    ) -> Result<(), StartError> {
        let membership = opened.recovered.membership();
        // Later ones are known to the log alone.
        if opened.origin == 0 || membership.index() != ORIGIN.index {
            return Ok(());
        }
        let recorded: BTreeSet<NodeId> = membership.members().collect();
        let configured = self.configured(own);
        if recorded == configured {
            return Ok(());
        }
        Err(StartError::OtherMembers {
            path: directory.to_path_buf(),
            recorded,
            configured,
        })
    }
}

/// A crash may have come between the log's new beginning, after a snapshot, and the state's: the snapshot
/// is complete then, and is installed now. Returns up to where the state machine has applied the log.
fn finish_install(
    state_machine: &mut impl StateMachine,
    base: EntryId,
) -> Result<EntryId, StartError> {
    let applied = state_machine.applied();
    if applied.index < base.index && state_machine.received()? == Some(base) {
        state_machine.install(base)?;
        return Ok(base);
    }
    Ok(applied)
}

fn instance(opened: &Opened) -> Instance {
    Instance {
        store_id: opened.store_id,
        boot: opened.boot,
    }
}
