//! The majority is lost for ever, and one node that is left becomes the cluster (reliability scenario K10).

use std::fs;

use quorate_tests::process::{Cluster, eventually, quorate};
use serde_json::{Value, json};

const UNAVAILABLE: i32 = 69;
const NOT_FOUND: i32 = 1;

/// What a command that succeeds tells in JSON.
fn told(args: &[&str]) -> Value {
    serde_json::from_str(&quorate(args).succeeded().out).expect("JSON")
}

fn members(cluster: &Cluster) -> Vec<u64> {
    let listed = cluster.run(&["members", "list", "--json"]).succeeded();
    let listed: Value = serde_json::from_str(&listed.out).expect("JSON");
    let members = listed["members"].as_array().expect("a list");
    let ids = members.iter().filter_map(|member| member["node"].as_u64());
    ids.collect()
}

/// Two of three are gone. The third has all that it had, becomes the cluster, takes writes and new members; and one of
/// the two that comes back after all is not let in, and disturbs nobody.
#[test]
fn k10_one_of_three_goes_on() {
    let mut cluster = Cluster::with_newcomers(2);
    for node in 1..=3 {
        cluster.start(node);
    }
    for n in 0..20 {
        cluster.takes_writes(&format!("before/{n}"));
    }
    // A linearizable read there: it has applied all of them.
    cluster
        .run(&["kv", "get", "before/19", "--at", "3"])
        .succeeded();
    let data = cluster.text("data3");
    quorate(["recover", &data]).failed(UNAVAILABLE, &["a node is running on", "stop it first"]);
    for node in [1, 2, 3] {
        assert_eq!(cluster.signal(node, "KILL"), 137);
    }

    let log = cluster.path("data3").join("log.redb");
    let before = fs::read(&log).unwrap();
    let asked = quorate(["recover", &data]).succeeded();
    for said in ["They are: 1, 2.", "Nothing was changed", "--yes"] {
        assert!(asked.out.contains(said), "{asked:#?}");
    }
    let planned = told(&["recover", &data, "--json"]);
    let last = planned["last"]["index"].as_u64().unwrap();
    let facts = |told: &Value| (told["node"].clone(), told["others"].clone());
    assert_eq!(facts(&planned), (json!(3), json!([1, 2])), "{planned}");
    assert_eq!(planned["done"], false);
    assert!(asked.out.contains(&format!("up to {last}@")), "{planned}");
    assert_eq!(fs::read(&log).unwrap(), before);
    let done = quorate(["recover", &data, "--yes"]).succeeded();
    assert!(done.out.contains("node 3 is the only member"), "{done:#?}");
    let as_of = format!("as of entry {}.", planned["as_of"]);
    assert!(done.out.contains(&as_of), "{planned}: {done:#?}");
    let again = told(&["recover", &data, "--json", "--yes"]);
    assert_eq!(facts(&again), (json!(3), json!([])), "{again}");
    assert_eq!(again["done"], true);
    quorate(["check", &data]).succeeded();
    let again = quorate(["recover", &data]).succeeded();
    for said in ["the only member already", "nothing to do"] {
        assert!(again.out.contains(said), "{again:#?}");
    }

    cluster.start(3);
    for n in 0..20 {
        let key = format!("before/{n}");
        let found = cluster.run(&["kv", "get", &key]).succeeded();
        assert_eq!(found.out, "value\n");
    }
    cluster.takes_writes("alone");
    assert_eq!(members(&cluster), [3]);
    for node in [4, 5] {
        cluster.join(node);
        let (node, address) = (node.to_string(), cluster.address(node).to_string());
        let add = ["members", "add", &node, "--address", &address, "--wait"];
        cluster.run_as("admin", &add).succeeded();
    }
    assert_eq!(members(&cluster), [3, 4, 5]);

    cluster.start(1);
    let refused = || {
        cluster
            .log(1)
            .contains("were founded with different members")
    };
    assert!(eventually(refused), "{}", cluster.log(1));
    cluster.takes_writes("with the ghost");
    assert_eq!(members(&cluster), [3, 4, 5]);
    assert_eq!(cluster.signal(3, "KILL"), 137);
    cluster.takes_writes("with two of the three");
}

/// A copy of a stopped node's folder is a backup: when all is lost, a cluster begins with it, and has what was written
/// before it was made.
#[test]
fn a_copied_folder_is_a_backup() {
    let mut cluster = Cluster::started();
    cluster.takes_writes("kept");
    cluster.run(&["kv", "get", "kept", "--at", "2"]).succeeded();
    assert_eq!(cluster.signal(2, "TERM"), 0);
    let (data, backup) = (cluster.path("data2"), cluster.path("backup"));
    fs::create_dir(&backup).unwrap();
    for file in fs::read_dir(&data).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), backup.join(file.file_name())).unwrap();
    }
    cluster.start(2);
    cluster.takes_writes("lost");
    for node in [1, 2, 3] {
        assert_eq!(cluster.signal(node, "KILL"), 137);
        fs::remove_dir_all(cluster.path(&format!("data{node}"))).unwrap();
    }
    fs::rename(&backup, &data).unwrap();
    quorate(["recover", &cluster.text("data2"), "--yes"]).succeeded();
    cluster.start(2);
    cluster.takes_writes("new");
    let kept = cluster.run(&["kv", "get", "kept"]).succeeded();
    assert_eq!(kept.out, "value\n");
    cluster.run(&["kv", "get", "lost"]).failed(NOT_FOUND, &[]);
}
