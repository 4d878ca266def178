//! What a node needs to know besides who it is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use quorate_consensus::{Config, NodeId};
use quorate_quic_transport::{Limits, Timings};

use super::space::DISK_RESERVE_BYTES_DEFAULT;

/// Where a node listens, where it keeps its files, and who the others are.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// UDP address for peers and clients; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Folder for log, state and secret; created when missing. One process at a time.
    pub data_dir: PathBuf,
    /// The other founding members and where they may be, which can also be told [later
    /// on](crate::NodeHandle::set_addresses). The node's own entry is ignored, so that all nodes can share one
    /// list. Empty: a cluster of one.
    ///
    /// The first start writes these members into the data folder; a later start with others is refused,
    /// because two nodes that disagree about the members could both lead. Once members have changed, the data
    /// folder knows better who they are, and this only says where else they may be.
    pub peers: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// Whether the first start joins a cluster that is there, whose members are the `peers`, instead of
    /// founding one. The cluster has to be told by a [change of its
    /// members](crate::NodeHandle::change_membership), before or after.
    pub join: bool,
    /// Timing and bounds of consensus; `node` and `boot` in it are set by the node itself.
    pub raft: Config,
    /// How much of the log's file redb may keep in memory. Default 2 MiB: the newest entries are kept
    /// apart, so that only members far behind make the file read.
    pub log_cache_bytes: usize,
    /// How large each half of the journal in a new log is; see
    /// [`Options::journal_bytes`](quorate_persist::Options::journal_bytes). Default 8 MiB.
    pub log_journal_bytes: u64,
    /// How many bytes of the file system of `data_dir` are kept free: with fewer, a node that leads refuses what makes the
    /// state grow, with [`DiskNearlyFull`](crate::DiskNearlyFull), so that it does not stop for want of room. Default
    /// [`DISK_RESERVE_BYTES_DEFAULT`](crate::DISK_RESERVE_BYTES_DEFAULT). Too small: what is on its way fills the disk. Too
    /// large: room that is not used. Zero: nothing is measured and nothing refused.
    pub disk_reserve_bytes: u64,
    /// Bounds of connections, queues and frames. The defaults suit nine nodes and some thousand clients.
    pub limits: Limits,
    /// Timing of connections. The defaults are for one site: with round trips of some hundred milliseconds, raise
    /// [`initial_rtt`](Timings::initial_rtt), and with an election timeout of seconds `idle_timeout`, or a pause that
    /// consensus forgives costs connections.
    pub timings: Timings,
}

impl NodeConfig {
    /// A cluster of one with values that work; add [`peers`](Self::peers) for more.
    #[must_use]
    pub fn new(listen: SocketAddr, data_dir: impl Into<PathBuf>) -> Self {
        let anybody = NodeId::new(1).expect("one is not zero");
        Self {
            listen,
            data_dir: data_dir.into(),
            peers: BTreeMap::new(),
            join: false,
            raft: Config::new(anybody),
            log_cache_bytes: quorate_persist::CACHE_BYTES_DEFAULT,
            log_journal_bytes: quorate_persist::JOURNAL_BYTES_DEFAULT,
            disk_reserve_bytes: DISK_RESERVE_BYTES_DEFAULT,
            limits: Limits::default(),
            timings: Timings::default(),
        }
    }
}
