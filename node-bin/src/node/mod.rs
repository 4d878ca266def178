//! A running member of a cluster: log, consensus, transport and state machine wired together.

mod admission;
mod build;
mod config;
mod error;
mod events;
mod forward;
mod members;
mod metrics;
mod peers;
mod run;
mod seams;
mod secret;
mod service;
mod space;
mod submit;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_channel::Receiver;
use bytes::Bytes;
use prometheus_client::registry::Registry;
use quinn::Runtime;
use quorate_certs::Identity;
use quorate_consensus::{
    Clock, DriverControl, Fatal, LeaderChange, LogIndex, Membership, MembershipChange,
    MembershipError, NodeId, ProposeError, RaftHandle, ReadError, Role, Stale, Status, Stopped,
    TransferError,
};
use quorate_quic_transport::{OtherIdentity, Peer, PeerStatus, Transport};
use tracing::{info, warn};

use crate::once::{Said, Slots, split};

pub use build::{LOG_FILE, NodeBuilder};
pub use config::NodeConfig;
pub use error::StartError;
pub use events::{EVENTS_MAX, Events};
pub use members::ADDRESSES_MAX;
pub use peers::PEERS_FILE;
pub(crate) use seams::{GROUP, SERVICE};
pub use service::Service;
pub(crate) use space::mib;
pub use space::{CommandError, DISK_RESERVE_BYTES_DEFAULT, DiskNearlyFull, DiskSpace};
pub use submit::{Obstacle, SubmitError};

/// How long an orderly shutdown waits for another voter to take over before it stops all the same. A
/// hand-over takes a round trip and an fsync; twice an election timeout means that nobody is there.
const HANDOVER_MAX: Duration = Duration::from_secs(1);

/// Where a snapshot that was received for the state at `path` waits to take its place.
pub(crate) fn received_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".received");
    path.with_file_name(name)
}

/// Talks to a running node: cheap to clone, usable from any thread and any async runtime.
#[derive(Clone)]
pub struct NodeHandle {
    raft: RaftHandle,
    /// Kept from whoever embeds the node: what peers say comes from them, and the node stops in its order.
    control: DriverControl,
    transport: Transport,
    facts: Arc<Facts>,
}

/// What does not change while a node runs.
struct Facts {
    node: NodeId,
    identity: Identity,
    listen: SocketAddr,
    data_dir: PathBuf,
    started: Instant,
    runtime: Arc<dyn Runtime>,
    files: Arc<dyn quorate_persist::Files>,
    book: members::AddressBook,
    subscribers: events::Subscribers,
    metrics: Arc<metrics::Metrics>,
    space: Arc<space::Space>,
    shrinks: Box<space::Shrinks>,
    /// Where commands are numbered.
    slots: Option<Slots>,
    /// Whether other members may have this one propose.
    takes_forwarded: bool,
}

impl fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeHandle")
            .field("identity", &self.facts.identity)
            .field("listen", &self.facts.listen)
            .field("raft", &self.raft)
            .finish_non_exhaustive()
    }
}

impl NodeHandle {
    /// The node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.facts.node
    }

    /// Who the node is, as its certificate says.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.facts.identity
    }

    /// The certificate and key the node runs with.
    #[must_use]
    pub fn credentials(&self) -> quorate_certs::Credentials {
        self.transport.credentials()
    }

    /// Runs with other credentials of the same identity from now on: a renewed certificate, other roots.
    ///
    /// Connections that are open stay, unless their peer is not trusted by the new roots. See
    /// [`Transport::replace_credentials`].
    ///
    /// # Errors
    /// Credentials of somebody else; nothing has changed then.
    pub fn replace_credentials(
        &self,
        new: quorate_certs::Credentials,
    ) -> Result<(), OtherIdentity> {
        self.transport.replace_credentials(new)
    }

    /// Says where `node` may be found, besides the address that the membership has for it: for those who know
    /// members by name.
    ///
    /// It takes the place of what was said before, in [`NodeConfig::peers`] or here, is kept for a node that is
    /// not a member yet, and is forgotten when this node ends. Addresses are tried in their order, that of the
    /// membership first, and [`ADDRESSES_MAX`] at most; whoever answers has to prove that it is that node. A
    /// connection that is open stays.
    pub fn set_addresses(&self, node: NodeId, addresses: Vec<SocketAddr>) {
        self.facts.book.give(node, addresses);
    }

    /// Where the node listens; the port is the real one even when 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.facts.listen
    }

    /// The folder of the node's files.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.facts.data_dir
    }

    /// How many bytes the file `name` in that folder has, when that can be told.
    #[must_use]
    pub(crate) fn file_bytes(&self, name: &str) -> Option<u64> {
        self.facts
            .files
            .length(&self.facts.data_dir.join(name))
            .ok()
    }

    /// How much room the file system of that folder has, as of about a second ago; `None` where it cannot be measured, or is
    /// not to be ([`NodeConfig::disk_reserve_bytes`]).
    #[must_use]
    pub fn disk_space(&self) -> Option<DiskSpace> {
        self.facts.space.known()
    }

    /// Whether this node takes what makes the state grow. Only who leads refuses it: the others say who does.
    pub(crate) fn check_room(&self) -> Result<(), DiskNearlyFull> {
        match self.disk_space() {
            Some(space) if space.nearly_full && self.raft.leader().role == Role::Leader => {
                Err(DiskNearlyFull {
                    node: self.facts.node,
                    free_bytes: space.free_bytes,
                    reserve_bytes: space.reserve_bytes,
                })
            }
            _ => Ok(()),
        }
    }

    /// Runs `task` on the node's I/O thread. It must not block.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.facts.runtime.spawn(Box::pin(task));
    }

    /// What time it is on the node's clock.
    pub(crate) fn now(&self) -> Instant {
        self.facts.runtime.now()
    }

    /// Sleeps on the node's clock. Only in its own tasks.
    pub(crate) async fn sleep(&self, duration: Duration) {
        seams::RuntimeClock(Arc::clone(&self.facts.runtime))
            .sleep(duration)
            .await;
    }

    /// For how long the node has been running.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        let now = self.facts.runtime.now();
        now.saturating_duration_since(self.facts.started)
    }

    /// Consensus: propose, query, transfer, with callbacks besides futures. What is proposed here is not numbered: a state
    /// that was started by [`start_saved_once`](crate::NodeBuilder::start_saved_once) does not carry it out. It cannot be stopped by that:
    /// [`Node::shutdown`] does it.
    #[must_use]
    pub fn raft(&self) -> &RaftHandle {
        &self.raft
    }

    /// Another node, for calls of one's own, which its [`Service`] answers; `None` where this node neither knows an address
    /// of it nor has heard of it. One-way messages are Raft's alone: nodes ignore others.
    #[must_use]
    pub fn peer(&self, node: NodeId) -> Option<Peer> {
        self.facts.book.peer(node)
    }

    /// How the connections with all the other nodes are that this one knows.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.transport.peers()
    }

    /// Every connection of a client, a reader or an admin, for what they are told unasked.
    #[must_use]
    pub fn clients(&self) -> Vec<Peer> {
        self.transport.clients()
    }

    /// How many those are.
    pub(crate) fn client_connections(&self) -> usize {
        self.transport.client_connections()
    }

    /// Who leads, as this node last knew. [`events`](Self::events) tells of changes.
    #[must_use]
    pub fn leader(&self) -> LeaderChange {
        self.raft.leader()
    }

    /// Replicates `command` and resolves to the state machine's answer. Works at the leader only: elsewhere
    /// [`ProposeError::NotLeader`](crate::ProposeError::NotLeader) names it, if it is known. [`submit`](Self::submit) works at every
    /// member.
    ///
    /// Where commands are numbered ([`start_saved_once`](crate::NodeBuilder::start_saved_once)), one is 34 bytes shorter at most, and
    /// while [`SLOTS_MAX`](crate::once::SLOTS_MAX) are under way, another is [`Overloaded`](ProposeError::Overloaded).
    ///
    /// A command has at least one byte, and at most
    /// [`Config::command_bytes_max`](crate::consensus::Config::command_bytes_max): 1 MiB unless set, and never more than 2 MiB.
    /// Others are refused.
    ///
    /// Nothing is proposed before the future is first polled. Dropping it after that takes nothing back: the command may have
    /// been applied, or may yet be, as with [`ProposeError::OutcomeUnknown`](crate::ProposeError::OutcomeUnknown).
    ///
    /// A leader whose disk is nearly full takes only what [`NodeBuilder::shrinks`] names;
    /// [`raft`](Self::raft) knows nothing of disks, and takes everything.
    ///
    /// # Errors
    ///
    /// [`CommandError`], each of whose variants says whether anything happened.
    pub fn propose(
        &self,
        command: Bytes,
    ) -> impl Future<Output = Result<Bytes, CommandError>> + Send + use<> {
        let node = self.clone();
        async move {
            let Some(slots) = &node.facts.slots else {
                return node.propose_as_it_is(command).await;
            };
            slots.check(&command)?;
            // Who cannot propose is not kept waiting for a slot, nor is anybody else: others have to go first.
            let known = node.raft.leader();
            if node.raft.has_stopped() {
                return Err(ProposeError::Stopped.into());
            }
            if known.role != Role::Leader {
                let leader = known.leader;
                return Err(ProposeError::NotLeader { leader }.into());
            }
            let number = slots.try_take().ok_or(ProposeError::Overloaded)?;
            let answer = node.propose_as_it_is(number.join(&command)).await?;
            match Said::decode(&answer) {
                Some(Said::Answer(answer)) => Ok(answer),
                // Sent once, it is unheard of, unless somebody else runs as this very node.
                _ => Err(ProposeError::OutcomeUnknown { at: None }.into()),
            }
        }
    }

    /// As [`propose`](Self::propose), with its number if it is to have one.
    fn propose_as_it_is(
        &self,
        command: Bytes,
    ) -> impl Future<Output = Result<Bytes, CommandError>> + Send + use<> {
        let room = self.check_room().or_else(|full| {
            let inner = self.facts.slots.as_ref().and_then(|_| split(&command));
            let shrinks = match &inner {
                Some((_, inner)) => (self.facts.shrinks)(inner),
                None => (self.facts.shrinks)(&command),
            };
            if shrinks { Ok(()) } else { Err(full) }
        });
        let raft = self.raft.clone();
        async move {
            room?;
            Ok(raft.propose(command).await?)
        }
    }

    /// Answers `query` from the state as it is here, however old, and says how old at most.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; reading again is always safe.
    pub fn query_stale(
        &self,
        query: Bytes,
    ) -> impl Future<Output = Result<Stale, ReadError>> + Send + use<> {
        let raft = self.raft.clone();
        async move { raft.query_stale(query).await }
    }

    /// Answers `query` from a state that includes every write acknowledged before the call. Works at every
    /// member: one that follows asks the leader up to where its own state has to be.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; reading again is always safe.
    pub fn query(
        &self,
        query: Bytes,
    ) -> impl Future<Output = Result<Bytes, ReadError>> + Send + use<> {
        let raft = self.raft.clone();
        async move { raft.query(query).await }
    }

    /// What happens to this node from now on: changes of leader and members, snapshots, a disk that stalls.
    #[must_use]
    pub fn events(&self) -> Events {
        self.facts.subscribers.add()
    }

    /// How consensus stands at this node.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node no longer runs.
    pub async fn status(&self) -> Result<Status, Stopped> {
        self.raft.status().await
    }

    /// What the node counts and measures, as lines of the text format of OpenMetrics, which Prometheus reads: for a program
    /// that serves metrics of its own. The line `# EOF` at the end is left to that. `docs/metrics.md` has the names.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the node no longer runs.
    pub async fn metrics(&self) -> Result<String, Stopped> {
        let status = self.raft.status().await?;
        let mut text = String::new();
        self.facts.metrics.encode(self, &status, &mut text);
        Ok(text)
    }

    /// A registry for more of them, of the service.
    pub(crate) fn metrics_registry(&self) -> Registry {
        metrics::registry(self.facts.identity.cluster.as_str(), self.facts.node)
    }

    /// Changes the members; resolves to them once the change is complete. Only if they are still those of the
    /// entry `expected`, if one is given.
    ///
    /// # Errors
    ///
    /// [`MembershipError`], each of whose variants says what to do.
    pub async fn change_membership(
        &self,
        change: MembershipChange,
        expected: Option<LogIndex>,
    ) -> Result<Membership, MembershipError> {
        self.raft.change_membership(change, expected).await
    }

    /// Hands leadership to `target`, or to the most advanced voter; resolves to the new leader.
    ///
    /// # Errors
    ///
    /// [`TransferError`]; with all but `Stopped` and `OutcomeUnknown`, this node goes on as before.
    pub async fn transfer_leader(&self, target: Option<NodeId>) -> Result<NodeId, TransferError> {
        self.raft.transfer_leader(target).await
    }
}

/// A running member of a cluster. Dropping it stops the node at once, as a crash would, but with its
/// threads ended, its files closed and its port free, whatever handles there still are: that blocks for as long as the
/// writes take that are on their way. [`Node::shutdown`] hands leadership over first. Dropped on a thread of its own,
/// as in a callback of [`RaftHandle::propose_then`], it waits for nothing.
#[must_use = "a node stops when it is dropped"]
pub struct Node {
    handle: NodeHandle,
    outcome: Arc<Outcome>,
    /// Closed when the driver, the writer and the applier have ended.
    ended: Receiver<()>,
    /// Last, so that everything above still has its executor while it is dropped.
    threads: run::Threads,
}

/// How the node ended, once it has.
#[derive(Default)]
struct Outcome(Mutex<Option<Arc<Fatal>>>);

impl Outcome {
    fn set(&self, fatal: Fatal) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(fatal));
    }

    /// Unless there is one already, which came first.
    fn set_if_well(&self, fatal: Fatal) {
        let mut outcome = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.get_or_insert(Arc::new(fatal));
    }

    fn take(&self) -> Result<(), Arc<Fatal>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .map_or(Ok(()), Err)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Prepares a node that is who `credentials` say it is.
    #[must_use]
    pub fn builder(config: NodeConfig, credentials: quorate_certs::Credentials) -> NodeBuilder {
        NodeBuilder::new(config, credentials)
    }

    /// A handle that outlives nothing: cheap, for other threads and tasks.
    #[must_use]
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// Completes when the node has ended: by [`Node::shutdown`], or by itself.
    ///
    /// # Errors
    ///
    /// [`Fatal`] when the node stopped by itself.
    pub fn stopped(&self) -> impl Future<Output = Result<(), Arc<Fatal>>> + Send + use<> {
        let (ended, outcome) = (self.ended.clone(), Arc::clone(&self.outcome));
        async move {
            // Nothing is ever sent; the channel closes with its last sender.
            let _ = ended.recv().await;
            outcome.take()
        }
    }

    /// Stops in good order: hands leadership to another voter, saves the state, tells the peers, and ends
    /// every thread. Takes at most about `within` and a second, and what the disk takes for the writes that
    /// are on their way, and the state machine for what it was given; where they have not answered for long already, they
    /// are not waited for.
    ///
    /// # Errors
    ///
    /// [`Fatal`] when the node had stopped by itself, or could not save its state.
    pub async fn shutdown(mut self, within: Duration) -> Result<(), Arc<Fatal>> {
        self.hand_over().await;
        self.handle.control.stop();
        let _ = self.ended.recv().await;
        self.handle.transport.shutdown(within).await;
        self.end_threads();
        info!(node = %self.handle.id(), "stopped");
        self.outcome.take()
    }

    fn end_threads(&mut self) {
        if let Err(fatal) = self.outcome.take()
            && fatal.leaves_a_thread()
        {
            self.threads.abandon_workers();
        }
        self.threads.join();
    }

    async fn hand_over(&self) {
        if self.handle.raft.leader().role != Role::Leader {
            return;
        }
        let transfer = async { Some(self.handle.raft.transfer_leader(None).await) };
        let patience = async {
            // Without an executor there is nobody to hand over to, either.
            let _ = self.handle.rest(HANDOVER_MAX).await;
            None
        };
        match futures_lite::future::or(transfer, patience).await {
            Some(Ok(leader)) => info!(node = %self.handle.id(), peer = %leader, "handed over"),
            Some(Err(TransferError::NoTarget)) => {}
            Some(Err(err)) => warn!(node = %self.handle.id(), %err, "stopping without a hand-over"),
            None => {
                warn!(node = %self.handle.id(), "stopping without a hand-over: nobody took over");
            }
        }
    }
}

impl std::ops::Deref for Node {
    type Target = NodeHandle;

    fn deref(&self) -> &NodeHandle {
        &self.handle
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handle.control.stop();
        self.end_threads();
        // Handles may live on, and must not keep the port.
        self.handle.transport.abort();
    }
}
