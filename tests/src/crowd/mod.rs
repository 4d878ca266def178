//! Many clients who are connected, few of whom do anything: what the others cost.

mod watching;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate::NodeId;
use quorate::kv::{Client, ClientConfig};
use quorate_certs::{Credentials, Subject};
use quorate_quic_transport::runtime::IoThread;
use smol::future::block_on;
use smol::{LocalExecutor, Timer};

use crate::process::Cluster;
use watching::Told;

/// How many clients one certificate is for: half of what nodes let one caller have.
const CLIENTS_OF_ONE: u64 = 32;

/// How many connect at the same time.
const CONNECTING_MAX: usize = 64;

/// The founders of the cluster.
const NODES: u64 = 3;

/// Bytes of a value, as `quorate bench` has them.
const VALUE_BYTES: usize = 256;

/// How many keys are written.
const KEYS: u64 = 10_000;

/// How long everything may take until everybody is connected.
const CONNECTED_WITHIN: Duration = Duration::from_secs(300);

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// How many are connected to every node.
    pub clients: u64,
    /// How many of them write, each one value after the other.
    pub active: u64,
    /// How many of them watch: half a key of their own each, half one and the same.
    pub watchers: u64,
    /// For how long.
    pub seconds: u64,
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    crowd: Crowd,
    connected: Duration,
    failed: u64,
    latencies: Vec<Duration>,
    memory: Vec<u64>,
    told: Option<Told>,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Crowd {
            clients,
            active,
            watchers,
            seconds,
        } = self.crowd;
        let at = |part: f64| {
            let last = self.latencies.len().saturating_sub(1);
            let at = (last as f64 * part) as usize;
            self.latencies
                .get(at)
                .map_or(f64::NAN, |it| it.as_secs_f64() * 1e3)
        };
        writeln!(
            f,
            "{clients} clients connected to {NODES} nodes within {:.1} s; {active} of them put \
             {VALUE_BYTES}-byte values, {watchers} watch",
            self.connected.as_secs_f64()
        )?;
        writeln!(
            f,
            "{:.0} op/s, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms, {} failed",
            self.latencies.len() as f64 / seconds as f64,
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
            self.failed
        )?;
        write!(f, "at most {:?} MiB resident", self.memory)?;
        match &self.told {
            Some(told) => write!(f, "\n{told}"),
            None => Ok(()),
        }
    }
}

/// Starts a cluster of processes, connects everybody, lets some write, and looks at the nodes' memory.
///
/// # Panics
///
/// When a node does not start or somebody cannot connect.
#[must_use]
pub fn measure(crowd: Crowd) -> Measured {
    let cluster = Cluster::started();
    let io = IoThread::spawn("crowd").expect("a thread");
    let begun = Instant::now();
    let clients = block_on(connect(&cluster, &io, crowd.clients));
    let connected = begun.elapsed();
    let executor = LocalExecutor::new();
    let ((latencies, failed), told) = block_on(executor.run(work(&executor, &clients, crowd)));
    let memory = (1..=NODES).filter_map(|node| cluster.memory_mib(node));
    Measured {
        crowd,
        connected,
        failed,
        latencies,
        memory: memory.collect(),
        told,
    }
}

/// Lets some watch, some write, and tells those who watch.
async fn work(
    executor: &LocalExecutor<'_>,
    clients: &[Client],
    crowd: Crowd,
) -> (Written, Option<Told>) {
    let watchers = &clients[..clients.len().min(crowd.watchers as usize)];
    let seen = watching::begin(executor, watchers).await;
    let written = write(executor, clients, crowd).await;
    let told = match watchers.first() {
        Some(client) => Some(watching::tell(client, &seen, watchers.len()).await),
        None => None,
    };
    (written, told)
}

async fn connect(cluster: &Cluster, io: &IoThread, count: u64) -> Vec<Client> {
    let nodes: Vec<NodeId> = (1..=NODES).filter_map(NodeId::new).collect();
    let identities: Vec<Credentials> = (0..count.div_ceil(CLIENTS_OF_ONE))
        .map(|number| {
            let subject = Subject::client(&format!("crowd{number}")).expect("a name");
            cluster.credentials(&subject)
        })
        .collect();
    let connect = |number: u64| {
        let address = |node: &NodeId| (*node, cluster.address(node.value()));
        let credentials = identities[(number / CLIENTS_OF_ONE) as usize].clone();
        let mut config = ClientConfig::new(nodes.iter().map(address).collect(), credentials);
        config.request_timeout = CONNECTED_WITHIN;
        Client::connect(config, Arc::clone(&io.runtime())).expect("a client")
    };
    let (todo, numbers) = smol::channel::unbounded();
    let executor = LocalExecutor::new();
    for number in 0..count {
        todo.try_send(number).expect("it is unbounded");
    }
    todo.close();
    let connecting = || async {
        let mut clients = Vec::new();
        while let Ok(number) = numbers.recv().await {
            let client = connect(number);
            for node in &nodes {
                client.status(*node).await.expect("it is connected");
            }
            clients.push(client);
        }
        clients
    };
    let all: Vec<_> = (0..CONNECTING_MAX)
        .map(|_| executor.spawn(connecting()))
        .collect();
    let gather = async {
        let mut clients = Vec::new();
        for some in all {
            clients.extend(some.await);
        }
        clients
    };
    executor.run(gather).await
}

/// How long each write took, sorted, and how many failed.
type Written = (Vec<Duration>, u64);

async fn write(executor: &LocalExecutor<'_>, clients: &[Client], crowd: Crowd) -> Written {
    let until = Instant::now() + Duration::from_secs(crowd.seconds);
    let apart = clients.len() / crowd.active.max(1) as usize;
    let active = clients.iter().step_by(apart.max(1));
    let writer = |(number, client): (usize, &Client)| {
        let (client, mut key) = (client.clone(), number as u64);
        async move {
            let (mut latencies, mut failed) = (Vec::new(), 0);
            while Instant::now() < until {
                // A stride that is prime to the number of keys comes by all of them.
                key = (key + 7_919) % KEYS;
                let begun = Instant::now();
                match client
                    .put(format!("crowd/{key}"), vec![7; VALUE_BYTES])
                    .await
                {
                    Ok(_) => latencies.push(begun.elapsed()),
                    Err(_) => failed += 1,
                }
            }
            (latencies, failed)
        }
    };
    let writers = active.take(crowd.active as usize).enumerate();
    let writers: Vec<_> = writers.map(|it| executor.spawn(writer(it))).collect();
    let (mut latencies, mut failed) = (Vec::new(), 0);
    for written in writers {
        let (more, not) = written.await;
        latencies.extend(more);
        failed += not;
    }
    latencies.sort_unstable();
    // Who is connected stays so.
    Timer::after(Duration::from_secs(1)).await;
    (latencies, failed)
}
