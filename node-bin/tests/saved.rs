//! A state that is saved, on real nodes: it is found again, the log is compacted, and members get snapshots.
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::future::block_on;
use quorate::saved::{STATE_FILE, SavedError, State};
use quorate::{
    Batch, Command, CommandError, EntryId, Fatal, LOG_FILE, MembershipChange, Node, NodeConfig,
    NodeId, ORIGIN, ProposeError, StartError, StateMachine, StateMachineError,
};
use quorate_certs::{Ca, CaOptions, ClusterName, IssueOptions, Subject};
use quorate_persist::{OsFiles, check_log};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The last value of each of some keys, so that the state stays small.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Values {
    values: BTreeMap<u8, Vec<u8>>,
    /// How many commands were applied ever.
    applied: u64,
    /// How many were applied in this life.
    #[serde(skip)]
    applied_now: u64,
}

impl State for Values {
    fn apply(&mut self, command: &Command) -> Bytes {
        self.applied += 1;
        self.applied_now += 1;
        let key = command.data.first().copied().unwrap_or_default();
        self.values.insert(key, command.data.to_vec());
        self.applied.to_string().into()
    }

    fn query(&self, query: &[u8]) -> Bytes {
        match query {
            b"applied" => self.applied.to_string().into(),
            b"applied now" => self.applied_now.to_string().into(),
            // The thread that applies is gone, and closes nothing.
            b"crash" => panic!("meant to be seen"),
            _ => postcard::to_stdvec(&self.values).unwrap().into(),
        }
    }
}

/// The same without anything saved.
struct Unsaved(Values);

impl StateMachine for Unsaved {
    fn applied(&self) -> EntryId {
        ORIGIN
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
        let answers = batch.commands.iter().map(|command| self.0.apply(command));
        Ok(answers.collect())
    }

    fn query(&mut self, query: &[u8]) -> Result<Bytes, StateMachineError> {
        Ok(self.0.query(query))
    }
}

/// Nodes on ports that the system chooses, so that each has to be told where the others are.
struct Cluster {
    ca: Ca,
    directory: TempDir,
    nodes: BTreeMap<u64, Node>,
    size: u64,
    checkpoint_interval: Duration,
}

fn id(node: u64) -> NodeId {
    NodeId::new(node).unwrap()
}

impl Cluster {
    fn start(size: u64) -> Self {
        let name = ClusterName::new("test").unwrap();
        let mut cluster = Self {
            ca: Ca::generate(&name, &CaOptions::default()).unwrap(),
            directory: TempDir::new().unwrap(),
            nodes: BTreeMap::new(),
            size,
            checkpoint_interval: Duration::from_millis(50),
        };
        for node in 1..=size {
            cluster.start_node(node);
        }
        cluster
    }

    fn data_dir(&self, node: u64) -> PathBuf {
        self.directory.path().join(node.to_string())
    }

    /// Starts one, without waiting for what it does.
    fn try_start<T>(
        &self,
        node: u64,
        start: impl FnOnce(quorate::NodeBuilder) -> Result<T, StartError>,
    ) -> Result<T, StartError> {
        let mut config = NodeConfig::new("127.0.0.1:0".parse().unwrap(), self.data_dir(node));
        config.peers = (1..=self.size).map(|peer| (id(peer), Vec::new())).collect();
        config.join = node > self.size;
        config.raft.log_tail_bytes = 16 << 10;
        config.raft.message_bytes_max = 4 << 10;
        config.raft.checkpoint_bytes = 16 << 10;
        config.raft.checkpoint_interval = self.checkpoint_interval;
        let issued = self
            .ca
            .issue(&Subject::node(node).unwrap(), &IssueOptions::default());
        start(Node::builder(
            config,
            issued.unwrap().credentials().unwrap(),
        ))
    }

    fn start_node(&mut self, node: u64) {
        let start = |builder: quorate::NodeBuilder| builder.start_saved(Values::default());
        let started = self.try_start(node, start).unwrap();
        for (&other, running) in &self.nodes {
            running.set_addresses(id(node), vec![started.local_addr()]);
            started.set_addresses(id(other), vec![running.local_addr()]);
        }
        self.nodes.insert(node, started);
    }

    /// Stops `node` in order.
    async fn stop(&mut self, node: u64) {
        let node = self.nodes.remove(&node).unwrap();
        node.shutdown(Duration::from_secs(1)).await.unwrap();
    }

    /// What a crash leaves: `node` has no time to close its state. What was written to the log is on its disk in any
    /// case.
    async fn crash(&mut self, node: u64) {
        let node = self.nodes.remove(&node).unwrap();
        let asked = node.query_stale("crash".into()).await;
        assert!(asked.is_err(), "{asked:?}");
        let fatal = node.stopped().await.expect_err("it panicked");
        let crashed = matches!(*fatal, Fatal::WorkerGone { worker: "applier" });
        assert!(crashed, "{fatal}");
    }

    /// Writes `count` commands of 200 bytes to twenty keys, one after the other.
    async fn write(&self, count: u64) {
        for number in 0..count {
            let mut command = vec![number as u8 % 20; 200];
            command[1..9].copy_from_slice(&number.to_le_bytes());
            until("a write", async || {
                self.write_once(command.clone().into()).await
            })
            .await;
        }
    }

    async fn write_once(&self, command: Bytes) -> Option<()> {
        for node in self.nodes.values() {
            match node.propose(command.clone()).await {
                Ok(_) => return Some(()),
                // Twice does no harm.
                Err(CommandError::Propose(ProposeError::OutcomeUnknown { .. })) => {}
                Err(CommandError::Propose(
                    ProposeError::NotLeader { .. } | ProposeError::Overloaded,
                )) => {}
                Err(error) => panic!("{error}"),
            }
        }
        None
    }

    /// Waits until all running nodes have applied everything, and compares their states.
    async fn converged(&self) -> Bytes {
        until("all nodes to have applied the same", async || {
            let mut ends = Vec::new();
            for node in self.nodes.values() {
                let status = node.status().await.unwrap();
                ends.push((status.applied, status.last.index));
            }
            let (first, last) = ends[0];
            (first == last && ends.iter().all(|end| *end == ends[0])).then_some(())
        })
        .await;
        let mut states = Vec::new();
        for &node in self.nodes.keys() {
            states.push(self.ask(node, "state").await);
        }
        assert!(states.iter().all(|state| *state == states[0]));
        states.swap_remove(0)
    }

    /// What the state of `node` answers as it is.
    async fn ask(&self, node: u64, question: &'static str) -> Bytes {
        let asked = self.nodes[&node].query_stale(question.into()).await;
        asked.unwrap().answer
    }

    async fn number(&self, node: u64, question: &'static str) -> u64 {
        let answer = self.ask(node, question).await;
        std::str::from_utf8(&answer).unwrap().parse().unwrap()
    }

    /// The entry before the first one in the log of `node`, which does not run.
    fn log_base(&self, node: u64) -> u64 {
        let log = check_log(OsFiles, &self.data_dir(node).join(LOG_FILE)).unwrap();
        log.recovered.base().index.value()
    }
}

/// Asks until there is an answer.
async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        async_io::Timer::after(Duration::from_millis(5)).await;
    }
}

/// After a stop in order nothing is applied again, after a crash only what came after the last checkpoint; and the
/// log has lost what the state has.
#[test]
fn a_restart_finds_the_state_without_the_log() {
    block_on(async {
        let mut cluster = Cluster::start(1);
        cluster.write(500).await;
        let state = cluster.converged().await;
        cluster.stop(1).await;
        let base = cluster.log_base(1);
        assert!(base > 300, "{base}");

        // From here on, only after so many bytes.
        cluster.checkpoint_interval = Duration::from_secs(3600);
        cluster.start_node(1);
        assert_eq!(cluster.number(1, "applied").await, 500);
        assert_eq!(cluster.number(1, "applied now").await, 0);
        assert_eq!(cluster.converged().await, state);

        let path = cluster.data_dir(1).join(STATE_FILE);
        let before = fs::read(&path).unwrap();
        cluster.write(200).await;
        until("a checkpoint", async || {
            (fs::read(&path).unwrap() != before).then_some(())
        })
        .await;
        cluster.crash(1).await;
        cluster.start_node(1);
        let state = cluster.converged().await;
        assert_eq!(cluster.number(1, "applied").await, 700);
        let again = cluster.number(1, "applied now").await;
        assert!(0 < again && again < 200, "{again}");
        cluster.stop(1).await;
        assert!(cluster.log_base(1) > base);

        // Without the state the node does not start; with it, it does.
        let saved = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let start = |builder: quorate::NodeBuilder| builder.start_saved(Values::default());
        let error = cluster.try_start(1, start).expect_err("the state is lost");
        assert!(error.to_string().contains("the state was lost"), "{error}");
        fs::write(&path, &saved[..saved.len() - 1]).unwrap();
        let error = cluster.try_start(1, start).expect_err("it is damaged");
        assert!(
            matches!(error, StartError::Saved(SavedError::Damaged { .. })),
            "{error}"
        );
        fs::write(&path, &saved).unwrap();
        cluster.start_node(1);
        assert_eq!(cluster.converged().await, state);
    });
}

/// Negative control: with the default methods the same load leaves the whole log, and a start applies all of it.
#[test]
fn control_what_is_not_saved_is_applied_again() {
    block_on(async {
        let mut cluster = Cluster::start(1);
        drop(cluster.nodes.remove(&1));
        fs::remove_dir_all(cluster.data_dir(1)).unwrap();
        let start = |builder: quorate::NodeBuilder| builder.start(Unsaved(Values::default()));
        cluster
            .nodes
            .insert(1, cluster.try_start(1, start).unwrap());
        cluster.write(500).await;
        cluster.stop(1).await;
        assert_eq!(cluster.log_base(1), ORIGIN.index.value());
        cluster
            .nodes
            .insert(1, cluster.try_start(1, start).unwrap());
        cluster.converged().await;
        assert_eq!(cluster.number(1, "applied now").await, 500);
    });
}

/// A member that was away for longer than the log reaches back, and one that is new, get the state in a snapshot
/// and the rest from the log; the snapshot survives their own crash.
#[test]
fn members_that_lack_what_was_removed_get_a_snapshot() {
    block_on(async {
        let mut cluster = Cluster::start(3);
        cluster.write(20).await;
        cluster.converged().await;
        drop(cluster.nodes.remove(&3));
        cluster.write(600).await;
        cluster.start_node(3);
        cluster.write(20).await;
        let state = cluster.converged().await;
        let now = cluster.number(3, "applied now").await;
        assert!(now < 600, "{now}: most of it came in a snapshot");
        let applied = cluster.number(1, "applied").await;
        assert_eq!(cluster.number(3, "applied").await, applied);

        cluster.crash(3).await;
        cluster.start_node(3);
        assert_eq!(cluster.converged().await, state);

        cluster.start_node(4);
        let address = cluster.nodes[&4].local_addr();
        let add = MembershipChange::Add {
            node: id(4),
            address,
            promote: false,
            replaces: None,
        };
        until("a new member", async || {
            let leader = cluster.nodes[&1].raft().leader().leader?;
            let leader = cluster.nodes.get(&leader.value())?;
            let _ = leader.change_membership(add.clone(), None).await;
            let members = leader.status().await.ok()?.membership;
            members.contains(id(4)).then_some(())
        })
        .await;
        until("the new member's snapshot", async || {
            (cluster.number(4, "applied").await >= applied).then_some(())
        })
        .await;
        assert_eq!(cluster.converged().await, state);
        let now = cluster.number(4, "applied now").await;
        assert!(now < 600, "{now}: most of it came in a snapshot");
        cluster.stop(4).await;
        assert!(cluster.log_base(4) > 300);
    });
}

/// A checkpoint that fails stops the node, which says why; what was saved before is found again.
#[test]
fn a_disk_that_fails_stops_the_node() {
    block_on(async {
        let mut cluster = Cluster::start(1);
        cluster.write(50).await;
        let path = cluster.data_dir(1).join(STATE_FILE);
        let aside = cluster.data_dir(1).join("aside");
        // A folder in its place, which no file takes from it: between two checkpoints.
        until("a folder in the place of the state", async || {
            fs::rename(&path, &aside).ok()?;
            fs::create_dir(&path).ok()
        })
        .await;
        let node = cluster.nodes.remove(&1).unwrap();
        let _ = node.propose("one more".into()).await;
        let fatal = node.stopped().await.expect_err("it cannot save");
        assert!(matches!(*fatal, Fatal::StateMachine(_)), "{fatal}");
        let text = fatal.to_string();
        assert!(text.contains("cannot save the state in"), "{text}");
        assert!(text.contains(&*path.to_string_lossy()), "{text}");
        drop(node);
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        cluster.start_node(1);
        cluster.converged().await;
        assert!(cluster.number(1, "applied").await >= 50);
    });
}

/// Nor is all well where that fails as it stops.
#[test]
fn a_state_that_cannot_be_saved_at_the_end_is_told() {
    block_on(async {
        let mut cluster = Cluster::start(1);
        cluster.write(5).await;
        let directory = cluster.data_dir(1);
        let node = cluster.nodes.remove(&1).unwrap();
        // Nothing can be created there any more.
        let aside = directory.with_extension("aside");
        fs::rename(&directory, &aside).unwrap();
        let fatal = node.shutdown(Duration::from_millis(100)).await;
        let fatal = fatal.expect_err("it cannot save");
        assert!(matches!(*fatal, Fatal::StateMachine(_)), "{fatal}");
        fs::rename(&aside, &directory).unwrap();
        cluster.start_node(1);
        cluster.converged().await;
        assert_eq!(cluster.number(1, "applied").await, 5);
    });
}

/// The files of one node are not another's.
#[test]
fn the_state_of_another_node_is_refused() {
    block_on(async {
        let mut cluster = Cluster::start(1);
        cluster.write(5).await;
        cluster.stop(1).await;
        fs::rename(cluster.data_dir(1), cluster.data_dir(2)).unwrap();
        let start = |builder: quorate::NodeBuilder| builder.start_saved(Values::default());
        let error = cluster.try_start(2, start).expect_err("it is node 1's");
        let other = matches!(error, StartError::Saved(SavedError::OtherOwner { .. }));
        assert!(other, "{error}");
    });
}
