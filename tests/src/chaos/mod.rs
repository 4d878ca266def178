//! Level 3: real processes of the real executable, a network that is not kind to them, signals, and
//! clients whose histories are checked. It sees what a simulation models away: the system's sockets and
//! clocks, fsync, files, signals, threads and async runtimes. In turn it can be repeated in outline only,
//! and a kill loses nothing that the system has in memory.

mod logs;
mod nemesis;
pub mod network;
mod runtime;
mod workload;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use quorate::kv::{Client, ClientConfig, NodeStatus};
use quorate::{LogIndex, NodeId};
use quorate_certs::Subject;
use quorate_quic_transport::runtime::IoThread;

use self::nemesis::{NODES, Nemesis};
use self::network::{CLIENTS, Network, Traffic};
use self::workload::{ROUND_OPERATIONS, Round};
use crate::check::calls::{Call, calls};
use crate::check::history::History;
use crate::check::{self, Report};
use crate::process::{Cluster, DEADLINE, eventually};
use crate::rng::Rng;

pub use nemesis::Faults;
pub use runtime::Runtime;

/// How long one operation of a client may take: longer than an election, shorter than most faults, so
/// that many outcomes are unknown.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// How many connections the clients share.
const CONNECTIONS: usize = 3;

/// How many lines of each node's log are shown when the cluster does not recover.
const LAST_LINES: usize = 12;

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct ChaosOptions {
    /// Where nodes and clients are awaited.
    pub runtime: Runtime,
    /// After how many operations it ends.
    pub operations: u64,
    /// After how many seconds it ends all the same.
    pub seconds: u64,
    /// Decides the faults and what clients ask for, but not when the system does what.
    pub seed: u64,
    /// Nothing but SIGKILL, several a second: what a crash at any moment leaves is started again and again.
    pub kills_only: bool,
    /// What stays of the log, as `quorate start --log-tail` has it; all of it unless said.
    pub log_tail: Option<String>,
    /// Plants the fault that clients sometimes get an old answer: then the run has to fail.
    pub stale_reads: bool,
}

/// What a run without a failure was.
#[derive(Clone, Debug)]
pub struct ChaosReport {
    /// How it was asked for.
    pub options: ChaosOptions,
    /// What was checked by searching for an order.
    pub checked: Report,
    /// In how many histories.
    pub rounds: u64,
    /// How many operations were held against the log on the disks, too.
    pub witnessed: u64,
    /// What was done to nodes and network.
    pub faults: Faults,
    /// What became of packets.
    pub traffic: Traffic,
    /// How long clients worked.
    pub elapsed: Duration,
}

impl fmt::Display for ChaosReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ChaosOptions { runtime, seed, .. } = &self.options;
        writeln!(f, "{runtime}, seed {seed}: {}", self.checked)?;
        let (rounds, witnessed, seconds) =
            (self.rounds, self.witnessed, self.elapsed.as_secs_f64());
        writeln!(
            f,
            "in {rounds} histories and {seconds:.1} s; {witnessed} held against the log on the disks"
        )?;
        let faults: Vec<String> = self
            .faults
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        writeln!(f, "faults: {}", faults.join(", "))?;
        let Traffic {
            sent,
            cut,
            lost,
            duplicated,
            late,
            crowded: _,
        } = self.traffic;
        write!(
            f,
            "packets: {sent} sent, {cut} cut off, {lost} lost, {duplicated} duplicated, {late} late"
        )
    }
}

/// Why a run failed.
#[derive(Debug)]
pub enum ChaosError {
    /// Something outside: sockets, threads, files.
    Io(std::io::Error),
    /// What clients saw cannot have been, or it is not known whether it can.
    Answers {
        /// What was found.
        report: Report,
        /// Where the history is now, for `check`.
        history: PathBuf,
    },
    /// Logs or answers do not fit what is on the disks.
    Logs(String),
    /// The cluster was healed, and did not recover.
    NotRecovered(String),
    /// A node did what no node should.
    Node(Vec<String>),
}

impl fmt::Display for ChaosError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Answers { report, history } => {
                write!(f, "{report}\nthe history is in {}", history.display())
            }
            Self::Logs(what) => write!(f, "{what}"),
            Self::NotRecovered(what) => write!(f, "did not recover: {what}"),
            Self::Node(troubles) => write!(f, "{}", troubles.join("\n")),
        }
    }
}

impl std::error::Error for ChaosError {}

impl From<std::io::Error> for ChaosError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Runs a cluster of processes and clients under chaos, and checks everything.
///
/// # Errors
///
/// [`ChaosError`] for whatever is not as promised.
///
/// # Panics
///
/// When the executable does not build, or a node does not start.
pub fn run(options: &ChaosOptions) -> Result<ChaosReport, ChaosError> {
    let cluster = Cluster::new();
    let addresses = (1..=NODES).map(|node| (node, cluster.address(node)));
    let network = Arc::new(Network::start(&addresses.collect(), options.seed)?);
    let io = IoThread::spawn("chaos")?;
    let client = |subject: &Subject| connect(&cluster, &network, &io, subject);
    let subject = Subject::client("chaos").expect("a name");
    let clients: Vec<Client> = (0..CONNECTIONS).map(|_| client(&subject)).collect();
    let admin = client(&Subject::admin("chaos").expect("a name"));
    let mut nemesis = Nemesis {
        cluster,
        network: Arc::clone(&network),
        runtime: options.runtime,
        kills_only: options.kills_only,
        log_tail: options.log_tail.clone(),
        admin,
        rng: Rng::stream(options.seed, "nemesis"),
        faults: Faults::new(),
        troubles: Vec::new(),
    };
    (1..=NODES).for_each(|node| nemesis.start(node));
    recovered(&clients)?;

    let (stop, stopped) = channel();
    let raging = std::thread::Builder::new()
        .name("chaos-nemesis".into())
        .spawn(move || {
            nemesis.rage(&stopped);
            nemesis
        })?;
    let worked = work(options, &clients);
    drop(stop);
    let nemesis = raging.join().expect("a nemesis says why it panics");
    let Work {
        checked,
        rounds,
        elapsed,
    } = worked?;

    let last = recovered(&clients).map_err(|error| with_logs(error, &nemesis.cluster))?;
    let traffic = network.traffic();
    let (cluster, faults) = lay_to_rest(nemesis)?;
    let log = logs::common_log(&cluster, last).map_err(ChaosError::Logs)?;
    logs::equal_states(&cluster).map_err(ChaosError::Logs)?;
    let witnessed = match log {
        Some(log) => logs::witness(&log, &rounds).map_err(ChaosError::Logs)?,
        None => 0,
    };
    Ok(ChaosReport {
        options: options.clone(),
        checked,
        rounds: rounds.len() as u64,
        witnessed,
        faults,
        traffic,
        elapsed,
    })
}

/// What the nodes said last, beside what clients see of them.
fn with_logs(error: ChaosError, cluster: &Cluster) -> ChaosError {
    let ChaosError::NotRecovered(mut what) = error else {
        return error;
    };
    for node in 1..=NODES {
        let log = cluster.log(node);
        let lines: Vec<&str> = log.lines().rev().take(LAST_LINES).collect();
        what.push_str(&format!("\nnode {node} said last:"));
        for line in lines.iter().rev() {
            what.push_str(&format!("\n  {line}"));
        }
    }
    ChaosError::NotRecovered(what)
}

fn connect(cluster: &Cluster, network: &Network, io: &IoThread, subject: &Subject) -> Client {
    let endpoint = |node| {
        let id = NodeId::new(node).expect("nodes count from one");
        (id, network.door(CLIENTS, node))
    };
    let endpoints = (1..=NODES).map(endpoint).collect();
    let mut config = ClientConfig::new(endpoints, cluster.credentials(subject));
    config.request_timeout = REQUEST_TIMEOUT;
    // The nodes reach each other by other ways, on which nothing is broken.
    config.follow_members = false;
    Client::connect(config, Arc::clone(&io.runtime())).expect("a client")
}

/// What clients did and saw.
struct Work {
    checked: Report,
    rounds: BTreeMap<u64, Vec<Call>>,
    elapsed: Duration,
}

/// Histories one after the other, each checked before the next one begins.
fn work(options: &ChaosOptions, clients: &[Client]) -> Result<Work, ChaosError> {
    let begun = Instant::now();
    let until = begun + Duration::from_secs(options.seconds);
    let mut checked = Report::default();
    let mut rounds = BTreeMap::new();
    while checked.operations < options.operations && Instant::now() < until {
        let round = Round {
            number: rounds.len() as u64 + 1,
            operations: ROUND_OPERATIONS.min(options.operations - checked.operations),
            until,
            seed: options.seed,
            stale_reads: options.stale_reads,
        };
        let history = workload::run(options.runtime, clients, &round);
        let history = history
            .ok_or_else(|| ChaosError::NotRecovered("no scan succeeded after a round".into()))?;
        let report = check::check(&history).expect("the recorder keeps the rules");
        if !report.is_good() {
            let history = keep(&history, options, round.number)?;
            return Err(ChaosError::Answers { report, history });
        }
        checked.add(report);
        let calls = calls(&history).expect("it has been checked");
        rounds.insert(round.number, calls);
    }
    Ok(Work {
        checked,
        rounds,
        elapsed: begun.elapsed(),
    })
}

fn keep(history: &History, options: &ChaosOptions, round: u64) -> std::io::Result<PathBuf> {
    let ChaosOptions { runtime, seed, .. } = options;
    // Its own: another run of this seed may keep one, too.
    let process = std::process::id();
    let name = format!("quorate-chaos-{process}-{runtime}-seed-{seed}-round-{round}.jsonl");
    let path = std::env::temp_dir().join(name);
    history.save(&path)?;
    Ok(path)
}

/// Waits until every client can write and all nodes have applied the same, last entry; returns its index.
fn recovered(clients: &[Client]) -> Result<LogIndex, ChaosError> {
    for client in clients {
        let writes = || smol::block_on(client.put("recovered", "yes")).is_ok();
        if !eventually(writes) {
            return Err(ChaosError::NotRecovered(format!(
                "no write within {DEADLINE:?}"
            )));
        }
    }
    let mut statuses = Vec::new();
    let agree = eventually(|| {
        let each = clients[0].nodes();
        let each = each.map(|node| smol::block_on(clients[0].status(node)));
        statuses = each.filter_map(Result::ok).collect();
        statuses.len() as u64 == NODES && statuses.iter().all(|one| is_level(one, &statuses[0]))
    });
    if !agree {
        let what = format!("the nodes do not agree within {DEADLINE:?}: {statuses:#?}");
        return Err(ChaosError::NotRecovered(what));
    }
    Ok(statuses[0].applied)
}

fn is_level(one: &NodeStatus, other: &NodeStatus) -> bool {
    one.applied == other.applied && one.applied == one.last.index && one.leader == other.leader
}

/// Stops every node in order, and looks for what no node should have done.
fn lay_to_rest(nemesis: Nemesis) -> Result<(Cluster, Faults), ChaosError> {
    let Nemesis {
        mut cluster,
        faults,
        mut troubles,
        ..
    } = nemesis;
    for node in 1..=NODES {
        let code = cluster.signal(node, "TERM");
        if code != 0 {
            troubles.push(format!(
                "node {node}, told to stop at the end, ended with {code}"
            ));
        }
        let log = cluster.log(node);
        let panics = log.lines().filter(|line| line.contains("panicked"));
        troubles.extend(panics.map(|line| format!("node {node}: {line}")));
    }
    if troubles.is_empty() {
        Ok((cluster, faults))
    } else {
        Err(ChaosError::Node(troubles))
    }
}
