//! The few numbers an operator may choose. Safety is not among them.

use std::time::Duration;

use crate::entry::ENTRY_OVERHEAD_BYTES;
use crate::membership::MEMBERSHIP_BYTES_MAX;
use crate::snapshots::STALLED_TICKS;
use crate::types::NodeId;

/// How the core and its driver behave. [`Config::new`] gives values that work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Who this node is.
    pub node: NodeId,
    /// How often this store has been opened; makes read contexts unique across restarts.
    pub boot: u64,
    /// Seeds the election jitter. Nodes must not share it; the default is the node's id. `quorate` mixes in the random
    /// id of the node's store and how often that was opened, so that clusters and starts differ as well.
    pub seed: u64,
    /// How long a follower waits for its leader before it asks for an election; the wait is drawn
    /// between this and twice this, anew for each election (Raft paper, section 5.2).
    ///
    /// Default 250 ms. Too small: a busy machine or a slow link causes elections (keep it at ten
    /// round trips and more). Too large: a dead leader is noticed late. Bounds: 20 ms to 60 s, at
    /// least four heartbeat intervals, and at most an eighth of `disk_hang_timeout` and a
    /// quarter of `apply_stall_timeout`, which is 7.5 s unless they are changed as well, as
    /// [`set_election_timeout`](Self::set_election_timeout) does. Must be the same on all nodes.
    pub election_timeout: Duration,
    /// How often a leader shows that it is alive.
    ///
    /// Default 50 ms. Bounds: 1 ms up to a quarter of the election timeout.
    pub heartbeat_interval: Duration,
    /// How much this node is preferred as the leader, as long as it is a voter, its disk and state machine answer, and it has
    /// everything that is committed: who leads hands over to one that is preferred more. Default 0: it leads as
    /// it happens. It never keeps anybody from leading when the preferred ones are away.
    pub priority: u8,
    /// The largest command a client may propose.
    ///
    /// Default 1 MiB; at most 2 MiB, so that an entry always fits one frame.
    pub command_bytes_max: u64,
    /// How many bytes of entries may wait to be committed before proposals are refused.
    ///
    /// Default 4 MiB. Too small: throughput suffers. Too large: clients wait longer instead of
    /// being told that the node is overloaded. At least `command_bytes_max`.
    pub uncommitted_bytes_max: u64,
    /// The size of one append message, and of one piece of a snapshot.
    ///
    /// Default 256 KiB: far above the bandwidth-delay product of one message on a local network, far
    /// below what would delay a heartbeat.
    pub message_bytes_max: u64,
    /// How many bytes of the newest entries stay in memory. Older ones are read from the store.
    ///
    /// Default 8 MiB. When more than this is not yet durable and applied, new entries are refused. At least
    /// [`log_view_bytes_min`](Self::log_view_bytes_min) of every member: one that leaves more uncommitted than others
    /// have room for could make them refuse the entry that would commit it.
    pub log_view_bytes_max: u64,
    /// How many reads may wait for a majority before further ones are refused. Default 100,000.
    pub reads_max: usize,
    /// After how many applied bytes the state machine is asked to begin to make itself durable.
    ///
    /// Default 36 MiB. Too small: what changes often is written often; the key-value store, with 100,000 keys of
    /// 256 bytes, took a quarter of all CPU for that at 8 MiB, and a seventh of its throughput. Too large: more
    /// memory, more to write at once, and more to apply again after a crash.
    pub checkpoint_bytes: u64,
    /// After what time with unsaved changes the state machine is asked to begin to make itself
    /// durable. Default 5 s.
    pub checkpoint_interval: Duration,
    /// How many bytes of entries stay in the log although the state machine has their effects durably: a
    /// member that was away for less gets the entries it missed, and not a snapshot.
    ///
    /// Default 64 MiB. Too small: a short restart of a member costs the transfer of the whole state. Too
    /// large: disk space, and a longer start. Only state machines with snapshots let the log be compacted.
    pub log_tail_bytes: u64,
    /// How many bytes of entries a leader keeps in its log for members that are on their way to have them.
    /// Beyond, they get a snapshot.
    ///
    /// Default 1 GiB, at least `log_tail_bytes`. Too small: where much is written during a transfer, the
    /// entries after the snapshot are gone when it is there, and the next one begins.
    pub log_bytes_max: u64,
    /// How many bytes of snapshots a node gives away in a second, to all members together.
    ///
    /// Default 64 MiB, at least 64 KiB, and so much that four of the largest commands or messages take no longer
    /// than 120 election timeouts, after which a member gives up. Too small: a member takes long to come back.
    /// Too large: disk and network are busy with it, and writes wait.
    pub snapshot_bytes_per_second: u64,
    /// How often a leader has the members compare their states. Each reads its whole state then, about
    /// [`SCAN_BYTES_PER_TICK`] at a time.
    ///
    /// Default 10 min; at least 1 s. Too small: all members read all the time, and where reading takes many
    /// times longer, nothing is found. Too large: a member whose state differs answers for longer.
    pub compare_interval: Duration,
    /// After what time without an answer from the log's disk the node stops itself, with
    /// [`Fatal::DiskHangs`](crate::Fatal::DiskHangs). A leader gives up leadership long before, after
    /// four election timeouts.
    ///
    /// Default 60 s: a volume that moves to another machine is back within half a minute. Too small: a
    /// disk that pauses costs a restart. Too large: a member that does nothing looks alive. At least
    /// eight election timeouts.
    pub disk_hang_timeout: Duration,
    /// After what time in which the state machine has not come back with what it was given to apply a leader gives
    /// leadership to another voter, and every member says so:
    /// [`Event::StateMachineStalled`](crate::Event::StateMachineStalled). It ends by itself when the state machine
    /// comes back, and never ends a node: the next start would give it the same. Installing a snapshot does not count.
    ///
    /// Default 30 s. What it is given at once is at most some 8 MiB of commands, which takes milliseconds to apply.
    /// What may come in between is a checkpoint or a snapshot that blocks although it should not: to clone or write a state of 1
    /// GiB takes a slow disk 20 s. Too small: leadership changes for work that takes the next leader as long. Too large:
    /// the clients of a leader whose state machine hangs wait as long. At least four election timeouts; without end,
    /// `Duration::MAX`, nobody watches.
    pub apply_stall_timeout: Duration,
}

/// Ticks per shortest election timeout. Finer ticks separate the timeouts of two followers better,
/// so that fewer elections are split; each tick costs about a microsecond.
pub(crate) const ELECTION_TICKS: usize = 25;

/// How much of its state a member reads in a tick to compare it. With the default tick of 10 ms that is 25 MiB
/// in a second, some percent of a core.
pub const SCAN_BYTES_PER_TICK: u64 = 256 << 10;

const ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(20);
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(60);
const COMMAND_BYTES_LIMIT: u64 = 2 << 20;
const COMPARE_INTERVAL_MIN: Duration = Duration::from_secs(1);
const SNAPSHOT_RATE_MIN: u64 = 64 << 10;

/// To how many members at once a snapshot can be given at any valid rate: the three of seven voters that a majority
/// can be without, and one that joins.
const SNAPSHOT_TAKERS: u64 = 4;

/// How far a leader may go beyond `uncommitted_bytes_max`: below that it may add the largest entry of its own; of a
/// command that may be added, the overhead of its entry comes on top.
const BEYOND_UNCOMMITTED_BYTES_MAX: u64 = ENTRY_OVERHEAD_BYTES + MEMBERSHIP_BYTES_MAX as u64;

impl Config {
    /// Values that work for `node` on a local network.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            boot: 0,
            seed: node.value(),
            election_timeout: Duration::from_millis(250),
            heartbeat_interval: Duration::from_millis(50),
            priority: 0,
            command_bytes_max: 1 << 20,
            uncommitted_bytes_max: 4 << 20,
            message_bytes_max: 256 << 10,
            log_view_bytes_max: 8 << 20,
            reads_max: 100_000,
            checkpoint_bytes: 36 << 20,
            checkpoint_interval: Duration::from_secs(5),
            log_tail_bytes: 64 << 20,
            log_bytes_max: 1 << 30,
            snapshot_bytes_per_second: 64 << 20,
            compare_interval: Duration::from_secs(600),
            disk_hang_timeout: Duration::from_secs(60),
            apply_stall_timeout: Duration::from_secs(30),
        }
    }

    /// The least `log_view_bytes_max` that is valid: twice what may be uncommitted, and no less than all that a
    /// leader may have in its log without knowing that it is committed. Where that fills a window, the entry of the
    /// next leader, which would commit it, finds no room, and nothing of it can be forgotten.
    #[must_use]
    pub fn log_view_bytes_min(&self) -> u64 {
        let uncommitted = self.uncommitted_bytes_max;
        uncommitted.saturating_add(uncommitted.max(BEYOND_UNCOMMITTED_BYTES_MAX))
    }

    /// Every mistake in the configuration, in words; empty when it is valid.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let hang_min = self.hang_min();
        let stall_min = self.stall_min();
        let mut check = |ok: bool, mistake: String| {
            if !ok {
                mistakes.push(mistake);
            }
        };
        check(
            (ELECTION_TIMEOUT_MIN..=ELECTION_TIMEOUT_MAX).contains(&self.election_timeout),
            format!(
                "election timeout {:?} is outside {ELECTION_TIMEOUT_MIN:?} to {ELECTION_TIMEOUT_MAX:?}",
                self.election_timeout
            ),
        );
        check(
            self.heartbeat_interval >= Duration::from_millis(1)
                && self.heartbeat_interval <= self.election_timeout / 4,
            format!(
                "heartbeat interval {:?} is outside 1 ms to a quarter of the election timeout ({:?})",
                self.heartbeat_interval,
                self.election_timeout / 4
            ),
        );
        check(
            (1..=COMMAND_BYTES_LIMIT).contains(&self.command_bytes_max),
            format!(
                "the command limit of {} bytes is outside 1 to {COMMAND_BYTES_LIMIT}",
                self.command_bytes_max
            ),
        );
        check(
            self.uncommitted_bytes_max >= self.command_bytes_max,
            format!(
                "{} uncommitted bytes cannot hold one command of {}",
                self.uncommitted_bytes_max, self.command_bytes_max
            ),
        );
        check(
            self.log_view_bytes_max >= self.log_view_bytes_min(),
            format!(
                "a log view of {} bytes is less than the {} that {} uncommitted bytes need",
                self.log_view_bytes_max,
                self.log_view_bytes_min(),
                self.uncommitted_bytes_max
            ),
        );
        check(
            (1..=4 << 20).contains(&self.message_bytes_max),
            format!(
                "message size {} is outside 1 byte to 4 MiB",
                self.message_bytes_max
            ),
        );
        check(
            self.reads_max > 0,
            "at least one read must be allowed to wait".into(),
        );
        check(
            self.checkpoint_bytes > 0 && !self.checkpoint_interval.is_zero(),
            "checkpoints need a size and an interval above zero".into(),
        );
        check(
            (1..=self.log_bytes_max).contains(&self.log_tail_bytes),
            format!(
                "a log tail of {} bytes is outside 1 to the {} bytes that the log may have",
                self.log_tail_bytes, self.log_bytes_max
            ),
        );
        check(
            self.snapshot_bytes_per_second >= self.snapshot_rate_min(),
            format!(
                "{} bytes of snapshots in a second are less than {}, at which pieces of {} bytes come before a \
                 member gives up: allow more, make commands and messages smaller, or the election timeout longer",
                self.snapshot_bytes_per_second,
                self.snapshot_rate_min(),
                self.piece_bytes_max()
            ),
        );
        check(
            self.compare_interval >= COMPARE_INTERVAL_MIN,
            format!(
                "comparing states every {:?} is more often than every {COMPARE_INTERVAL_MIN:?}",
                self.compare_interval
            ),
        );
        check(
            self.disk_hang_timeout >= hang_min,
            format!(
                "a disk is given {:?} to answer, which is less than eight election timeouts of {:?}: make the time \
                 for the disk {hang_min:?} or longer, or the election timeout shorter",
                self.disk_hang_timeout, self.election_timeout
            ),
        );
        check(
            self.apply_stall_timeout >= stall_min,
            format!(
                "a state machine is given {:?} to apply, which is less than four election timeouts of {:?}: make the \
                 time for it {stall_min:?} or longer, or the election timeout shorter",
                self.apply_stall_timeout, self.election_timeout
            ),
        );
        mistakes
    }

    /// What a piece of a snapshot has at most: a message, or one command's effect if that is larger.
    fn piece_bytes_max(&self) -> u64 {
        self.message_bytes_max.max(self.command_bytes_max)
    }

    fn snapshot_rate_min(&self) -> u64 {
        let patience =
            self.election_timeout.as_secs_f64() * STALLED_TICKS as f64 / ELECTION_TICKS as f64;
        let pieces = SNAPSHOT_TAKERS.saturating_mul(self.piece_bytes_max());
        SNAPSHOT_RATE_MIN.max((pieces as f64 / patience).ceil() as u64)
    }

    /// The time of one tick of the core.
    #[must_use]
    pub fn tick_interval(&self) -> Duration {
        self.election_timeout / ELECTION_TICKS as u32
    }

    pub(crate) fn compare_ticks(&self) -> u64 {
        let ticks = self.compare_interval.div_duration_f64(self.tick_interval());
        ticks as u64
    }

    /// Sets [`election_timeout`](Self::election_timeout), and makes what has to be some of it long at least that long.
    pub fn set_election_timeout(&mut self, timeout: Duration) {
        self.election_timeout = timeout;
        self.disk_hang_timeout = self.disk_hang_timeout.max(self.hang_min());
        self.apply_stall_timeout = self.apply_stall_timeout.max(self.stall_min());
    }

    fn hang_min(&self) -> Duration {
        self.election_timeout.saturating_mul(8)
    }

    fn stall_min(&self) -> Duration {
        self.election_timeout.saturating_mul(4)
    }

    pub(crate) fn apply_stall_ticks(&self) -> u64 {
        let ticks = self
            .apply_stall_timeout
            .div_duration_f64(self.tick_interval());
        ticks as u64
    }

    pub(crate) fn heartbeat_ticks(&self) -> usize {
        let ticks = self
            .heartbeat_interval
            .div_duration_f64(self.tick_interval())
            .round();
        (ticks as usize).clamp(1, ELECTION_TICKS / 4)
    }
}
