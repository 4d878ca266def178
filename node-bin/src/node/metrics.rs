//! What a node counts and measures, for monitoring: the names are in `docs/metrics.md`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, UNIX_EPOCH};

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use quorate_consensus::{
    Clock, Entry, Event, LogIndex, LogStore, LogWrite, NodeId, Role, Status, StoreError,
};
use quorate_quic_transport::{PeerState, PeerStatus};

use super::{DiskSpace, LOG_FILE, NodeHandle};

/// Bounds of the histogram of appends: 100 us, what a good disk takes, to 26 s, in steps of a factor of two.
const APPEND_SECONDS_MIN: f64 = 0.000_1;
const APPEND_BUCKETS: u16 = 19;

type Number = Gauge<u64, AtomicU64>;
type Seconds = Gauge<f64, AtomicU64>;
type OfNode<M> = Family<Vec<(&'static str, String)>, M>;
type OfPeer<M> = Family<Vec<(&'static str, String)>, M>;

/// Counted while the node runs; gauges are set when somebody wants to know.
pub(super) struct Metrics {
    registry: Registry,
    append_seconds: Histogram,
    entries: Counter,
    leader_changes: Counter,
    disk_stalls: Counter,
    state_machine_stalls: Counter,
    snapshots_offered: Counter,
    snapshots_received: Counter,
    gauges: Gauges,
}

/// How things are at the moment.
#[derive(Default)]
struct Gauges {
    term: Number,
    leads: Number,
    has_leader: Number,
    last: Number,
    commit: Number,
    applied: Number,
    voters: Number,
    learners: Number,
    log_bytes: Number,
    uptime: Seconds,
    certificate_end: Number,
    /// Without a sample where it is not measured: zero would say that the disk is full.
    disk_free: OfNode<Number>,
    disk_nearly_full: OfNode<Number>,
    clients: Number,
    peer_connected: OfPeer<Number>,
    peer_rtt: OfPeer<Seconds>,
    peer_lost: OfPeer<Number>,
    peer_copied: OfPeer<Number>,
    peer_queued: OfPeer<Number>,
    peer_lag: OfPeer<Number>,
}

impl Metrics {
    pub(super) fn new(cluster: &str, node: NodeId) -> Self {
        let buckets = exponential_buckets(APPEND_SECONDS_MIN, 2.0, APPEND_BUCKETS);
        let mut metrics = Self {
            registry: registry(cluster, node),
            append_seconds: Histogram::new(buckets),
            entries: Counter::default(),
            leader_changes: Counter::default(),
            disk_stalls: Counter::default(),
            state_machine_stalls: Counter::default(),
            snapshots_offered: Counter::default(),
            snapshots_received: Counter::default(),
            gauges: Gauges::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register_with_unit(
            "log_append_duration",
            "How long it took to make a batch of entries durable: to encode, write and sync it",
            Unit::Seconds,
            self.append_seconds.clone(),
        );
        for (name, help, counter) in [
            (
                "log_entries_appended",
                "Entries made durable in the log",
                &self.entries,
            ),
            (
                "leader_changes",
                "Changes of leader, or of term, that the node has seen",
                &self.leader_changes,
            ),
            (
                "disk_stalls",
                "How often the disk did not answer in time",
                &self.disk_stalls,
            ),
            (
                "state_machine_stalls",
                "How often the state machine did not come back in time",
                &self.state_machine_stalls,
            ),
            (
                "snapshots_offered",
                "Snapshots offered to members that lack entries of the log",
                &self.snapshots_offered,
            ),
            (
                "snapshots_received",
                "Snapshots received and about to be installed",
                &self.snapshots_received,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        self.gauges.register(registry);
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of the program", version);
    }

    /// Notes what happens.
    pub(super) fn note(&self, event: &Event) {
        let counter = match event {
            Event::Leader(_) => &self.leader_changes,
            Event::DiskStalled { .. } => &self.disk_stalls,
            Event::StateMachineStalled { .. } => &self.state_machine_stalls,
            Event::SnapshotOffered { .. } => &self.snapshots_offered,
            Event::SnapshotReceived { .. } => &self.snapshots_received,
            _ => return,
        };
        counter.inc();
    }

    /// Writes everything to `out` as it is now, in the text format of OpenMetrics, without the line at its end.
    pub(super) fn encode(&self, node: &NodeHandle, status: &Status, out: &mut String) {
        self.gauges.set(node, status);
        text::encode_registry(out, &self.registry).expect("a string takes everything");
    }
}

impl Gauges {
    fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            ("term", "The current term", &self.term),
            ("is_leader", "Whether the node leads: 0 or 1", &self.leads),
            (
                "has_leader",
                "Whether the node knows of a leader: 0 or 1",
                &self.has_leader,
            ),
            ("last_index", "The last entry of the log", &self.last),
            (
                "commit_index",
                "The last entry known to be committed",
                &self.commit,
            ),
            (
                "applied_index",
                "The last entry that the state machine holds",
                &self.applied,
            ),
            ("voters", "Members that elect and commit", &self.voters),
            ("learners", "Members that only follow", &self.learners),
            (
                "client_connections",
                "Open connections of clients, readers and admins",
                &self.clients,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        let log = "The size of the log's file";
        registry.register_with_unit("log", log, Unit::Bytes, self.log_bytes.clone());
        let uptime = "For how long the node has been running";
        registry.register_with_unit("uptime", uptime, Unit::Seconds, self.uptime.clone());
        registry.register_with_unit(
            "certificate_not_after",
            "When the node's certificate expires, since 1970",
            Unit::Seconds,
            self.certificate_end.clone(),
        );
        for (name, help, family) in [
            (
                "peer_connected",
                "Whether there is a connection to the member: 0 or 1",
                &self.peer_connected,
            ),
            (
                "peer_lost_packets",
                "Packets lost on all connections with the peer",
                &self.peer_lost,
            ),
            (
                "peer_copied_bytes",
                "Bytes sent a second time before it was known whether they were lost",
                &self.peer_copied,
            ),
            (
                "peer_queued_messages",
                "Messages that wait to be sent to the member",
                &self.peer_queued,
            ),
            (
                "peer_lag_entries",
                "Entries that the member is not known to hold; a leader knows",
                &self.peer_lag,
            ),
        ] {
            registry.register(name, help, family.clone());
        }
        registry.register_with_unit(
            "disk_free",
            "How much an ordinary user may still write to the data folder's file system",
            Unit::Bytes,
            self.disk_free.clone(),
        );
        registry.register(
            "disk_nearly_full",
            "Whether so little is free that a leader refuses what makes the state grow: 0 or 1",
            self.disk_nearly_full.clone(),
        );
        registry.register_with_unit(
            "peer_round_trip",
            "The smoothed round-trip time to the member",
            Unit::Seconds,
            self.peer_rtt.clone(),
        );
    }

    fn set(&self, node: &NodeHandle, status: &Status) {
        self.term.set(status.term.value());
        self.leads.set((status.role == Role::Leader).into());
        self.has_leader.set(status.leader.is_some().into());
        self.last.set(status.last.index.value());
        self.commit.set(status.commit.value());
        self.applied.set(status.applied.value());
        self.voters.set(status.membership.voters().len() as u64);
        self.learners.set(status.membership.learners().len() as u64);
        self.log_bytes.set(node.file_bytes(LOG_FILE).unwrap_or(0));
        self.uptime.set(node.uptime().as_secs_f64());
        let end = node.credentials().not_after().duration_since(UNIX_EPOCH);
        self.certificate_end
            .set(end.unwrap_or(Duration::ZERO).as_secs());
        self.set_disk(node.disk_space());
        self.clients.set(node.client_connections() as u64);
        self.forget_peers();
        for link in node.peers() {
            if let Some(peer) = link.identity.node_id().map(NodeId::from) {
                let progress = status.peers.iter().find(|progress| progress.node == peer);
                let matched = progress.map(|progress| progress.matched);
                self.set_peer(peer, &link, matched, status);
            }
        }
    }

    fn set_disk(&self, space: Option<DiskSpace>) {
        self.disk_free.clear();
        self.disk_nearly_full.clear();
        if let Some(space) = space {
            let none = Vec::new();
            self.disk_free.get_or_create(&none).set(space.free_bytes);
            let nearly_full = space.nearly_full.into();
            self.disk_nearly_full.get_or_create(&none).set(nearly_full);
        }
    }

    /// Members may have gone.
    fn forget_peers(&self) {
        self.peer_rtt.clear();
        let families = [
            &self.peer_connected,
            &self.peer_lost,
            &self.peer_copied,
            &self.peer_queued,
            &self.peer_lag,
        ];
        families.into_iter().for_each(Family::clear);
    }

    fn set_peer(&self, peer: NodeId, link: &PeerStatus, matched: Option<LogIndex>, own: &Status) {
        let labels = vec![label("peer", peer)];
        let set = |family: &OfPeer<Number>, number: u64| {
            family.get_or_create(&labels).set(number);
        };
        let connected = matches!(link.state, PeerState::Connected { .. });
        set(&self.peer_connected, connected.into());
        set(&self.peer_lost, link.lost_packets);
        set(&self.peer_copied, link.copied_bytes);
        let queued = link.queued.iter().map(|queue| queue.messages as u64);
        set(&self.peer_queued, queued.sum());
        if let Some(rtt) = link.rtt {
            let rtt = rtt.as_secs_f64();
            self.peer_rtt.get_or_create(&labels).set(rtt);
        }
        if let Some(matched) = matched {
            let last = own.last.index.value();
            set(&self.peer_lag, last.saturating_sub(matched.value()));
        }
    }
}

/// An empty registry, for metrics of the node `node`.
pub(super) fn registry(cluster: &str, node: NodeId) -> Registry {
    let labels = [("cluster", cluster.to_owned()), label("node", node)];
    let labels = labels.map(|(name, value)| (name.into(), value.into()));
    Registry::with_prefix_and_labels("quorate", labels.into_iter())
}

fn label(name: &'static str, node: NodeId) -> (&'static str, String) {
    (name, node.value().to_string())
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// A log whose appends are measured.
pub(super) struct Measured {
    pub(super) log: Box<dyn LogStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
}

impl LogStore for Measured {
    fn append(&mut self, batch: &[LogWrite]) -> Result<(), StoreError> {
        let begun = self.clock.now();
        self.log.append(batch)?;
        let took = self.clock.now().saturating_duration_since(begun);
        self.metrics.append_seconds.observe(took.as_secs_f64());
        let entries = batch.iter().map(|write| write.entries.len() as u64);
        self.metrics.entries.inc_by(entries.sum());
        Ok(())
    }

    fn read(
        &self,
        first: LogIndex,
        last: LogIndex,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, StoreError> {
        self.log.read(first, last, bytes_max)
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        self.log.settle()
    }
}
