//! A program that embeds a node with a saved state loses its majority: `quorate check` and `quorate recover` know its
//! folder (reliability scenario K10).
#![allow(clippy::unwrap_used, reason = "tests say what they expect by failing")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::block_on;
use quorate::saved::{STATE_FILE, State};
use quorate::{Command, LOG_FILE, Node, NodeConfig, NodeId};
use quorate_certs::{Ca, Subject};
use quorate_persist::{OsFiles, check_log};
use quorate_tests::ports::Ports;
use quorate_tests::process::{ca, eventually, issue, quorate};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const DATA: i32 = 65;

/// How many commands there were, so that each one counts.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Count(u64);

impl State for Count {
    fn apply(&mut self, _command: &Command) -> Bytes {
        self.0 += 1;
        self.0.to_string().into()
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        self.0.to_string().into()
    }
}

fn start(ca: &Ca, folder: &Path, node: u64, addresses: &[SocketAddr]) -> Node {
    let at = |node: u64| addresses[node as usize - 1];
    let mut config = NodeConfig::new(at(node), folder.join(node.to_string()));
    let peers = (1..=3).filter(|peer| *peer != node);
    config.peers = peers
        .map(|peer| (NodeId::new(peer).unwrap(), vec![at(peer)]))
        .collect::<BTreeMap<_, _>>();
    config.raft.log_tail_bytes = 16 << 10;
    config.raft.message_bytes_max = 4 << 10;
    config.raft.checkpoint_bytes = 16 << 10;
    config.raft.checkpoint_interval = Duration::from_millis(50);
    let credentials = issue(ca, &Subject::node(node).unwrap()).credentials();
    Node::builder(config, credentials.unwrap())
        .start_saved(Count::default())
        .unwrap()
}

/// One command at whoever leads. It counts once: nobody loses leadership here while a command is under way.
fn write(nodes: &[Node]) {
    let command = Bytes::from(vec![7; 400]);
    let written = eventually(|| {
        let mut nodes = nodes.iter();
        nodes.any(|node| block_on(node.propose(command.clone())).is_ok())
    });
    assert!(written, "nobody takes writes");
}

fn stop(nodes: Vec<Node>) {
    for node in nodes {
        block_on(node.shutdown(Duration::from_secs(1))).unwrap();
    }
}

fn base(folder: &Path) -> u64 {
    let log = check_log(OsFiles, &folder.join(LOG_FILE)).unwrap();
    log.recovered.base().index.value()
}

/// The log was compacted into the saved state: its folder is in order, and becomes the cluster with all that was in it.
/// Damage and the loss of the state are told of, without advice that only fits `quorate start`.
#[test]
fn k10_a_saved_state_goes_on_alone() {
    let folder = tempfile::tempdir().unwrap();
    let ports = Ports::claim(3);
    let addresses: Vec<SocketAddr> = ports.addresses().collect();
    let ca = ca("c1");
    let nodes: Vec<Node> = (1..=3)
        .map(|node| start(&ca, folder.path(), node, &addresses))
        .collect();
    for _ in 0..300 {
        write(&nodes);
    }
    let last = &nodes[2];
    assert_eq!(block_on(last.query(Bytes::new())).unwrap(), "300");
    stop(nodes);

    let left = folder.path().join("3");
    let data = left.to_str().unwrap();
    assert!(base(&left) > 0, "the log has to be compacted");
    let state = left.join(STATE_FILE);
    let whole = fs::read(&state).unwrap();
    let checked = quorate(["check", data]).succeeded();
    assert!(checked.out.contains("state     in order"), "{checked:#?}");
    let checked = quorate(["check", data, "--json"]).succeeded();
    let checked: Value = serde_json::from_str(&checked.out).unwrap();
    assert_eq!(checked["state"]["file"], STATE_FILE);
    let applied = checked["state"]["applied"]["index"].as_u64();
    assert!(applied.unwrap() >= 300, "{checked}");

    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&state, &damaged).unwrap();
    let said = ["is damaged", "do not start this node on it"];
    quorate(["check", data]).failed(DATA, &said);
    quorate(["recover", data]).failed(DATA, &said);
    fs::remove_file(&state).unwrap();
    let said = [
        "the log in",
        "is in order",
        "no state that this program knows",
        "--log-only",
    ];
    quorate(["check", data]).failed(DATA, &said);
    quorate(["recover", data, "--yes"]).failed(DATA, &said);
    let alone = quorate(["check", data, "--log-only"]).succeeded();
    assert!(alone.out.contains("was not looked at"), "{alone:#?}");
    quorate(["recover", data, "--log-only"]).succeeded();
    fs::write(&state, &whole).unwrap();

    let done = quorate(["recover", data, "--yes"]).succeeded();
    assert!(done.out.contains("node 3 is the only member"), "{done:#?}");
    let alone = [start(&ca, folder.path(), 3, &addresses)];
    write(&alone);
    assert_eq!(block_on(alone[0].query(Bytes::new())).unwrap(), "301");
    stop(alone.into());
}
