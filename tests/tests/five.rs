//! Five nodes, three of which are in trouble, each of another kind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use futures_lite::future::block_on;
use quorate::kv::Client;
use quorate_quic_transport::runtime::IoThread;
use quorate_tests::chaos::network::{Network, Rule, USUAL};
use quorate_tests::process::{Cluster, eventually};

/// One megabit a second.
const NARROW: Rule = Rule {
    bytes_per_second: Some(125_000),
    ..USUAL
};

/// What no node may need, in MiB: what it may hold of log, state and messages by default (some 100 in a
/// release build), and as much again.
const MEMORY_MIB_MAX: u64 = 200;

/// How many entries a node is behind that cannot follow: a third of what is written meanwhile.
const BEHIND: u64 = 500;

/// As many as the writers of a busy service.
const WRITERS: u64 = 16;

/// Writers, who go on until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn begin(client: &Client, value_bytes: usize) -> Self {
        let (stop, written) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let writer = |writer: u64| {
            let (client, stop, written) = (client.clone(), Arc::clone(&stop), Arc::clone(&written));
            thread::spawn(move || {
                for n in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("load/{writer}/{}", n % 50);
                    let put = block_on(client.put(key, vec![7; value_bytes]));
                    put.expect("no write fails");
                    written.fetch_add(value_bytes as u64, Ordering::Relaxed);
                }
            })
        };
        Self {
            threads: (0..WRITERS).map(writer).collect(),
            stop,
            written,
        }
    }

    /// Waits until so many bytes more are acknowledged.
    #[track_caller]
    fn goes_on(&self, bytes: u64) {
        let enough = self.written.load(Ordering::Relaxed) + bytes;
        let there = eventually(|| self.written.load(Ordering::Relaxed) >= enough);
        assert!(there, "writes go on");
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.threads {
            writer.join().expect("no write fails");
        }
    }
}

/// Processes and the network between them.
struct Stage {
    cluster: Cluster,
    network: Network,
}

impl Stage {
    fn start(&mut self, node: u64, also: &str) {
        let door = |peer| self.network.door(node, peer);
        let mut args = self.cluster.start_args_reaching(node, door);
        args.push(also.to_owned());
        self.cluster.start_with(node, &args);
    }

    fn status(&self) -> serde_json::Value {
        let status = self.cluster.run(&["status", "--json"]);
        serde_json::from_str(&status.out).expect("JSON")
    }

    /// How far every node is that answers.
    fn applied(&self) -> BTreeMap<u64, u64> {
        let status = self.status();
        let nodes = status["nodes"].as_array().expect("a list").iter();
        let applied = nodes.filter_map(|it| Some((it["node"].as_u64()?, it["applied"].as_u64()?)));
        applied.collect()
    }

    /// Lets all traffic with `node` pass as `rule` says.
    fn link(&self, node: u64, rule: Rule) {
        for other in (1..=6).filter(|other| *other != node) {
            self.network.set(node, other, rule);
            self.network.set(other, node, rule);
        }
    }

    #[track_caller]
    fn memory_is_bounded(&self) {
        for node in 1..=6 {
            let mib = self.cluster.memory_mib(node).unwrap_or_default();
            assert!(mib < MEMORY_MIB_MAX, "n{node} has needed {mib} MiB");
        }
    }
}

/// One is frozen, one is behind a link of 1 Mbit/s, one has lost its disk: the other two and the slow link
/// commit what clients write, with no write failed and no memory filled. The one without its disk is replaced,
/// and then the slow link does not matter any more, though it falls behind without end. When all is well again,
/// all have everything.
#[test]
fn three_of_five_in_trouble() {
    let cluster = Cluster::founded_by(5, 1);
    let addresses = (1..=6).map(|node| (node, cluster.address(node))).collect();
    let mut stage = Stage {
        network: Network::start(&addresses, 5).expect("sockets"),
        cluster,
    };
    // So little that who falls behind needs a snapshot.
    let tail = "--log-tail=1MiB";
    (1..=5).for_each(|node| stage.start(node, tail));
    stage.cluster.takes_writes("started");
    let leader = stage.status()["leader"].as_u64().expect("a leader");
    let mut others = (1..=5).filter(|node| *node != leader);
    let [paused, slow, wiped] = [(); 3].map(|()| others.next().expect("four others"));

    stage.link(slow, NARROW);
    stage.cluster.send(paused, "STOP");
    stage.cluster.signal(wiped, "KILL");
    let data = stage.cluster.path(&format!("data{wiped}"));
    std::fs::remove_dir_all(data).expect("its disk is lost");
    stage.start(wiped, tail);

    let io = IoThread::spawn("load").expect("a thread");
    let client = stage.cluster.client(io.runtime());
    let load = Load::begin(&client, 1_000);
    load.goes_on(1_000_000);
    stage.memory_is_bounded();
    load.end();
    let log = stage.cluster.log(wiped);
    assert!(
        log.contains("lost its data folder"),
        "it is kept out: {log}"
    );

    stage.cluster.signal(wiped, "KILL");
    stage.cluster.join(6);
    let address = stage.network.door(leader, 6).to_string();
    let args = [
        "replace",
        &wiped.to_string(),
        "6",
        "--address",
        &address,
        "--wait",
    ];
    let admin = [&["members"], &args[..]].concat();
    stage.cluster.run_as("admin", &admin).succeeded();
    let load = Load::begin(&client, 16_000);
    load.goes_on(24_000_000);
    stage.memory_is_bounded();
    load.end();
    let traffic = stage.network.traffic();
    assert!(traffic.crowded > 1_000, "the link was full: {traffic:?}");
    let applied = stage.applied();
    let behind = applied[&leader].saturating_sub(applied[&slow]);
    assert!(behind > BEHIND, "the slow one falls behind: {applied:?}");

    stage.link(slow, USUAL);
    stage.cluster.send(paused, "CONT");
    let mut applied = BTreeMap::new();
    let equal = eventually(|| {
        applied = stage.applied();
        applied.len() == 5 && applied.values().all(|one| *one == applied[&leader])
    });
    assert!(equal, "{applied:?}");
    stage.memory_is_bounded();
    stage.cluster.takes_writes("ended");
    block_on(client.close());
}
