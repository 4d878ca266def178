//! Members that come and go while clients write, as an operator does it (reliability scenario F1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use futures_lite::future::block_on;
use quorate::NodeId;
use quorate::kv::Client;
use quorate_quic_transport::runtime::IoThread;
use quorate_tests::cluster::id;
use quorate_tests::process::{Cluster, eventually};

/// Writes the whole time, one key after the other.
struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Written>,
}

/// What was acknowledged last, by key.
type Written = BTreeMap<String, String>;

impl Load {
    fn begin(client: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut written = Written::default();
            for n in 0_u64.. {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                let (key, value) = (format!("load/{}", n % 500), n.to_string());
                if let Err(error) = block_on(client.put(key.clone(), value.clone())) {
                    panic!("write {n} failed: {error}");
                }
                written.insert(key, value);
            }
            written
        });
        Self { stop, thread }
    }

    fn end(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer goes on")
    }
}

fn members(cluster: &Cluster, args: &[&str]) -> serde_json::Value {
    let all = [&["members"], args].concat();
    cluster.run_as("admin", &all).succeeded();
    let listed = cluster.run(&["members", "list", "--json"]).succeeded();
    serde_json::from_str(&listed.out).expect("JSON")
}

fn nodes(listed: &serde_json::Value) -> Vec<u64> {
    let members = listed["members"].as_array().expect("a list");
    let voters = members.iter().filter(|member| member["kind"] == "voter");
    voters
        .filter_map(|member| member["node"].as_u64())
        .collect()
}

fn leader(cluster: &Cluster) -> u64 {
    let status = cluster.run(&["status", "--json"]).succeeded();
    let status: serde_json::Value = serde_json::from_str(&status.out).expect("JSON");
    status["leader"].as_u64().expect("a leader")
}

fn add(cluster: &mut Cluster, node: u64) -> Vec<u64> {
    cluster.join(node);
    let (node, address) = (node.to_string(), cluster.address(node).to_string());
    let args = ["add", &node, "--address", &address, "--wait"];
    nodes(&members(cluster, &args))
}

/// Waits until a client that was given node 1 knows these members as well, and no others.
#[track_caller]
fn knows(client: &Client, members: &[u64]) {
    let expected: BTreeSet<u64> = members.iter().copied().chain([1]).collect();
    let known = || client.nodes().map(NodeId::value).collect::<BTreeSet<_>>();
    let learned = eventually(|| known() == expected);
    assert!(learned, "knows {:?}, not {expected:?}", known());
}

/// Three nodes become five, one of them dies and is replaced, and it goes back to three, the leader among
/// those that go. Nothing that was acknowledged is lost, and every write is, of a client that was given one of the three
/// and hears the rest from them.
#[test]
fn f1_three_to_five_to_three_under_load() {
    let mut cluster = Cluster::with_newcomers(4);
    for node in 1..=3 {
        cluster.start(node);
    }
    cluster.takes_writes("started");
    let io = IoThread::spawn("load").expect("a thread");
    let client = cluster.client(io.runtime());
    (2..=7).for_each(|other| client.forget(id(other)));
    let load = Load::begin(client.clone());
    knows(&client, &[1, 2, 3]);

    assert_eq!(add(&mut cluster, 4), [1, 2, 3, 4]);
    assert_eq!(add(&mut cluster, 5), [1, 2, 3, 4, 5]);
    knows(&client, &[1, 2, 3, 4, 5]);

    let dead = if leader(&cluster) == 2 { 3 } else { 2 };
    cluster.signal(dead, "KILL");
    cluster.join(6);
    let (old, address) = (dead.to_string(), cluster.address(6).to_string());
    let listed = members(
        &cluster,
        &["replace", &old, "6", "--address", &address, "--wait"],
    );
    let mut expected: Vec<u64> = (1..=6).filter(|node| *node != dead).collect();
    assert_eq!(nodes(&listed), expected);
    knows(&client, &expected);

    for _ in 0..2 {
        let gone = leader(&cluster);
        let listed = members(&cluster, &["remove", &gone.to_string()]);
        expected.retain(|node| *node != gone);
        assert_eq!(nodes(&listed), expected);
        assert_eq!(cluster.ended(gone), 78, "{}", cluster.log(gone));
        let log = cluster.log(gone);
        assert!(log.contains("was removed from the cluster"), "{log}");
        assert!(
            !log.contains("the node stops itself"),
            "it was wanted: {log}"
        );
        // Who removed it does not dial it again, and does not say that this fails.
        let log = cluster.log(leader(&cluster));
        let parted = format!("peer=spiffe://c1/node/{gone} ");
        let failed = |line: &&str| line.contains("dial failed") && line.contains(&parted);
        let failed = log
            .lines()
            .filter(|line| line.contains("shutting down"))
            .find(failed);
        assert_eq!(failed, None);
        knows(&client, &expected);
    }

    let written = load.end();
    assert!(written.len() > 50, "{}", written.len());
    for (key, value) in &written {
        let found = block_on(client.get(key.clone())).expect("a read");
        assert_eq!(
            found.expect("it was acknowledged").data,
            value.as_bytes(),
            "{key}"
        );
    }
    // Who is started again is told by the others, and by itself.
    let refused = cluster.start_args(dead);
    cluster.start_with(dead, &refused);
    let told = eventually(|| cluster.log(dead).contains("not a member of this cluster"));
    assert!(told, "{}", cluster.log(dead));
    cluster.takes_writes("ended");
    block_on(client.close());
}

/// Who leads already is no mistake, so that a script need not ask first; who cannot lead is named.
#[test]
fn leadership_stays_where_it_is_to_be() {
    let cluster = Cluster::started();
    cluster.takes_writes("first");
    let status = cluster.run(&["status", "--json"]).succeeded();
    let status: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    let leader = status["leader"].to_string();
    let transfer = |to: &str| cluster.run_as("admin", &["transfer-leader", to]);
    let stayed = transfer(&leader).succeeded();
    assert_eq!(stayed.out, format!("node {leader} leads already\n"));
    transfer("9").failed(65, &["no such voter", "node 9"]);
    cluster
        .run(&["transfer-leader", &leader])
        .failed(77, &["admin"]);
}

/// What cannot be done is said, and nothing happens.
#[test]
fn changes_that_make_no_sense_are_refused() {
    let cluster = Cluster::started();
    let admin = |args: &[&str]| cluster.run_as("admin", args);
    let at = "127.0.0.1:9";
    admin(&["members", "add", "3", "--address", at]).failed(65, &["node 3 is a member already"]);
    admin(&["members", "remove", "9"]).failed(65, &["node 9 is not a member"]);
    admin(&["members", "promote", "2"]).failed(65, &["node 2 is a voter already"]);
    admin(&["members", "replace", "9", "10", "--address", at]).failed(65, &["node 9"]);
    let missing = admin(&["members", "add", "4"]);
    assert_eq!(
        (missing.code, missing.err.contains("--address")),
        (64, true)
    );
    let nowhere = admin(&["members", "add", "4", "--address", "nowhere"]);
    assert_eq!(
        (nowhere.code, nowhere.err.contains("`nowhere`")),
        (64, true),
        "{nowhere:?}"
    );
    let stale = ["members", "update", "2", "--address", at, "--if-index", "7"];
    admin(&stale).failed(65, &["entry 1", "look again"]);
    cluster
        .run(&["members", "remove", "3"])
        .failed(77, &["admin"]);
    let listed = cluster.run(&["members", "list"]).succeeded();
    assert!(
        listed
            .out
            .contains("index 1; the next new node's number is 4"),
        "{}",
        listed.out
    );
    // A learner that is nowhere is a member all the same, and never votes.
    let added = admin(&["members", "add", "9", "--address", at]).succeeded();
    assert!(
        added.out.contains("becomes a voter once it has caught up"),
        "{}",
        added.out
    );
    admin(&["members", "promote", "9"]).failed(75, &["node 9 has not caught up"]);
    admin(&["members", "add", "4", "--address", at]).failed(65, &["above 9"]);
    let removed = admin(&["members", "remove", "9"]).succeeded();
    assert!(removed.out.contains("number is 10"), "{}", removed.out);
    cluster.takes_writes("still");
}
