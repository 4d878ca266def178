//! What differs from run to run besides the faults.

use quorate_consensus::Config;
use serde::{Deserialize, Serialize};

use crate::level::Level;
use crate::rng::Rng;

/// The cluster, its surroundings and its clients.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Params {
    /// Members that vote: nodes 1 and up.
    pub voters: u64,
    /// Members that do not: the nodes after the voters.
    pub learners: u64,
    /// How long faults are injected.
    pub chaos_ms: u64,
    /// How long the healed cluster may take until all is well.
    pub recovery_max_ms: u64,
    /// As in the node's configuration.
    pub election_timeout_ms: u64,
    /// As in the node's configuration.
    pub heartbeat_interval_ms: u64,
    /// The bounds of the node's configuration: small ones are reached.
    pub bounds: Bounds,
    /// The network when no fault touches it.
    pub network: Network,
    /// How long a durable write takes at most, in microseconds.
    pub write_max_us: u64,
    /// How long the state machine takes at most until it gets to what was committed.
    pub apply_max_us: u64,
    /// Those who write and read.
    pub clients: Clients,
    /// So many of the first voters are preferred as the leader, each more than the one before.
    #[serde(default)]
    pub preferred: u64,
}

/// Bounds in bytes, as in the node's configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bounds {
    /// One command.
    pub command: u64,
    /// What may wait to be committed.
    pub uncommitted: u64,
    /// One append message.
    pub message: u64,
    /// The newest entries in memory.
    pub log_view: u64,
    /// What is applied before the state machine is asked to become durable.
    pub checkpoint: u64,
    /// What stays of the log.
    #[serde(default)]
    pub compaction: Compaction,
}

/// How the log is compacted, in bytes, as in the node's configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Compaction {
    /// What stays in any case.
    pub tail: u64,
    /// What a leader keeps for others.
    pub log_max: u64,
    /// How much of snapshots is given away in a second.
    pub snapshot_rate: u64,
}

/// How messages travel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Network {
    /// The shortest way, in microseconds.
    pub delay_min_us: u64,
    /// The longest way. What is sent later may arrive earlier.
    pub delay_max_us: u64,
    /// Of a thousand messages, how many vanish.
    pub loss_permille: u64,
    /// How many arrive twice.
    pub duplicate_permille: u64,
    /// How many arrive damaged, where there is a way to damage them.
    pub corrupt_permille: u64,
}

/// Who writes and reads, and how hard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Clients {
    /// How many there are; each has one operation at a time.
    pub count: u64,
    /// How long each waits at most between two operations.
    pub think_max_ms: u64,
    /// How long each waits for an answer.
    pub patience_ms: u64,
    /// The keys they share.
    pub keys: u64,
    /// Of a hundred operations, how many are reads.
    pub read_percent: u64,
    /// The longest value.
    pub value_bytes_max: u64,
    /// More clients, who follow what happens to keys, at level 2.
    #[serde(default)]
    pub watchers: u64,
    /// More clients, who hold leases, at level 2.
    #[serde(default)]
    pub holders: u64,
}

impl Params {
    /// Parameters for a run at `level`.
    #[must_use]
    pub fn draw(level: Level, rng: &mut Rng) -> Self {
        let election_timeout_ms = *rng.pick(&[150, 250, 250, 500, 1_000, 2_000]);
        let bounds = Bounds::draw(rng);
        let voters = *rng.pick(&[1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7]);
        let learners = match level {
            Level::Consensus if rng.chance(25) => rng.within(1..3),
            Level::Consensus | Level::Stack => 0,
        };
        let network = Network::draw(rng, election_timeout_ms);
        let write_max_us = *rng.pick(&[10, 1_000, 10_000, 50_000]);
        let apply_max_us = *rng.pick(&[10, 1_000, 20_000]);
        let mut clients = Clients::draw(rng, &bounds);
        let answer_max_us = 4 * network.delay_max_us + 2 * write_max_us + apply_max_us;
        // Who never waits for as long as an answer takes when all is well is never served.
        clients.patience_ms = clients.patience_ms.max(2 * answer_max_us / 1_000);
        let preferred = *rng.pick(&[0, 0, 0, 1, 2]);
        if level == Level::Stack {
            clients.watchers = u64::from(rng.chance(50));
            clients.holders = u64::from(rng.chance(50));
        }
        Self {
            voters,
            learners,
            preferred,
            chaos_ms: match level {
                Level::Consensus => *rng.pick(&[20_000, 40_000, 60_000, 120_000]),
                Level::Stack => *rng.pick(&[15_000, 20_000, 30_000, 40_000]),
            },
            // An election may be split a few times, and each needs up to two timeouts.
            recovery_max_ms: 10_000 + 60 * election_timeout_ms,
            election_timeout_ms,
            heartbeat_interval_ms: election_timeout_ms / *rng.pick(&[4, 5, 8]),
            network,
            write_max_us,
            apply_max_us,
            clients,
            bounds,
        }
    }

    /// How much `node` is preferred as the leader.
    #[must_use]
    pub fn priority(&self, node: u64) -> u8 {
        match node <= self.preferred {
            true => u8::try_from(node).unwrap_or(u8::MAX),
            false => 0,
        }
    }

    /// How many members there are.
    #[must_use]
    pub fn nodes(&self) -> u64 {
        self.voters + self.learners
    }

    /// One of the members.
    pub fn some_node(&self, rng: &mut Rng) -> u64 {
        rng.within(1..self.nodes() + 1)
    }

    /// One side of a partition: often a single node, which most of the catastrophic failures need
    /// (Alquraan and others, OSDI 2018).
    pub fn some_side(&self, rng: &mut Rng) -> Vec<u64> {
        match rng.chance(40) {
            true => vec![self.some_node(rng)],
            false => (1..=self.nodes()).filter(|_| rng.chance(50)).collect(),
        }
    }

    /// Some of the members, at least one.
    pub fn some_voters(&self, rng: &mut Rng) -> Vec<u64> {
        let one = self.some_node(rng);
        let others = *rng.pick(&[10, 50, 80, 100]);
        (1..=self.nodes())
            .filter(|&node| node == one || rng.chance(others))
            .collect()
    }

    /// A direction between two members, which are the same in a cluster of one.
    pub fn some_link(&self, rng: &mut Rng) -> (u64, u64) {
        let from = self.some_node(rng);
        let step = rng.within(0..self.nodes().saturating_sub(1).max(1)) + 1;
        (from, (from - 1 + step) % self.nodes() + 1)
    }
}

impl Bounds {
    fn draw(rng: &mut Rng) -> Self {
        let command = *rng.pick(&[200, 1_000, 10_000, 1 << 20]);
        let uncommitted = command * rng.within(1..5);
        Self {
            command,
            uncommitted,
            message: *rng.pick(&[1, 500, 4_000, 256 << 10]),
            log_view: uncommitted * rng.within(2..5),
            checkpoint: *rng.pick(&[1, 2_000, 100_000, 8 << 20]),
            compaction: Compaction::draw(rng),
        }
    }
}

/// The smallest bound of a log's bytes: some entries.
const LOG_BYTES_MAX_MIN: u64 = 2_000;

impl Compaction {
    fn draw(rng: &mut Rng) -> Self {
        let tail = *rng.pick(&[1, 2_000, 20_000, 100_000, 64 << 20]);
        Self {
            tail,
            // Room for some entries at least: a log that could hold none back for a member that gets a snapshot would
            // always be ahead of the next one.
            log_max: (tail * rng.within(1..20)).max(LOG_BYTES_MAX_MIN),
            // At level 2; level 1 has one of its own.
            snapshot_rate: *rng.pick(&[4 << 20, 64 << 20]),
        }
    }

    /// Has a node keep to it.
    pub fn set(self, config: &mut Config) {
        config.log_tail_bytes = self.tail;
        config.log_bytes_max = self.log_max;
        config.snapshot_bytes_per_second = self.snapshot_rate;
    }
}

/// What plans had before logs were compacted.
impl Default for Compaction {
    fn default() -> Self {
        Self {
            tail: 1 << 40,
            log_max: 1 << 40,
            snapshot_rate: 64 << 20,
        }
    }
}

impl Network {
    fn draw(rng: &mut Rng, election_timeout_ms: u64) -> Self {
        // Ten round trips and more fit an election timeout, as its documentation asks for.
        let delay_max_us = election_timeout_ms * 1_000 / *rng.pick(&[20, 50, 200, 1_000]);
        Self {
            delay_min_us: delay_max_us / rng.within(2..20),
            delay_max_us,
            loss_permille: *rng.pick(&[0, 0, 1, 10, 50]),
            duplicate_permille: *rng.pick(&[0, 0, 10, 50]),
            corrupt_permille: *rng.pick(&[0, 0, 0, 5]),
        }
    }
}

impl Clients {
    fn draw(rng: &mut Rng, bounds: &Bounds) -> Self {
        Self {
            count: rng.within(1..8),
            think_max_ms: *rng.pick(&[100, 500, 2_000]),
            patience_ms: *rng.pick(&[200, 1_000, 5_000]),
            keys: rng.within(1..6),
            read_percent: *rng.pick(&[0, 20, 50, 80]),
            value_bytes_max: *rng.pick(&[8, 100, bounds.command.min(20_000)]),
            watchers: 0,
            holders: 0,
        }
    }

    /// All clients.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.count + self.watchers + self.holders
    }
}
