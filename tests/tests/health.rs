//! Whether all is well with a cluster, as a script asks.

use quorate_certs::Subject;
use quorate_tests::process::{Cluster, Ended, eventually, quorate};

const UNAVAILABLE: i32 = 69;
const TRY_LATER: i32 = 75;

fn check(cluster: &Cluster) -> Ended {
    cluster.run(&["status", "--check"])
}

/// Waits until the check says `what` and ends with `code`.
#[track_caller]
fn says(cluster: &Cluster, code: i32, what: &str) {
    let mut last = None;
    let so = eventually(|| {
        let ended = check(cluster);
        let so = ended.code == code && ended.out.contains(what);
        last = Some(ended);
        so
    });
    assert!(so, "not {code} with `{what}`: {last:#?}");
}

/// All is well while all nodes follow one leader, and with every node that is gone there is one reason more why not.
#[test]
fn a_node_that_is_gone_is_noticed() {
    let mut cluster = Cluster::started();
    says(&cluster, 0, "ok: node ");
    let table = cluster.run(&["status"]).succeeded();
    assert_eq!(table.err, "");
    assert_eq!(cluster.signal(1, "KILL"), 137);
    says(&cluster, UNAVAILABLE, "node 1: unreachable");
    assert!(!check(&cluster).out.contains("ok"));
    assert_eq!(cluster.signal(2, "KILL"), 137);
    says(&cluster, UNAVAILABLE, "node 3: knows of no leader");
    assert_eq!(check(&cluster).out.lines().count(), 3);
    cluster.start(1);
    cluster.start(2);
    says(&cluster, 0, "as all 3 nodes say");
}

/// A certificate that ends sooner than is accepted is noticed before it ends.
#[test]
fn a_certificate_that_ends_soon_is_noticed() {
    let cluster = Cluster::started();
    says(&cluster, 0, "as all 3 nodes say");
    let strict = cluster.run(&["status", "--check", "--expires-within=91d"]);
    assert_eq!(strict.code, TRY_LATER, "{strict:#?}");
    for node in 1..=3 {
        // 90 in the second in which it was issued, and 89 after that.
        let said = |days| format!("node {node}: its certificate: {days} d left; renew it");
        let told = [89, 90].map(|days| strict.out.contains(&said(days)));
        assert!(told.contains(&true), "{strict:#?}");
    }
}

/// A node that was removed may stay away, whoever still gives its address.
#[test]
fn a_node_that_was_removed_does_not_count() {
    let mut cluster = Cluster::started();
    says(&cluster, 0, "as all 3 nodes say");
    cluster.issue(&Subject::admin("ops").expect("a name"), "ops");
    let removed = cluster.run_as("ops", &["members", "remove", "1"]);
    removed.succeeded();
    assert_eq!(cluster.ended(1), 78);
    says(&cluster, 0, "as all 2 nodes say");
    let note = "node 1 is not a member (any more): take it out of --node or QUORATE_NODES";
    let well = check(&cluster);
    assert!(
        well.err.contains(note) && !well.out.contains("node 1:"),
        "{well:#?}"
    );
    let table = cluster.run(&["status"]).succeeded();
    assert!(table.err.contains(note), "{table:#?}");
    assert_eq!(cluster.signal(2, "KILL"), 137);
    says(&cluster, UNAVAILABLE, "node 2: unreachable");
}

/// A node that was recovered beside a majority that goes on is another cluster of the same name, and that is said.
#[test]
fn two_clusters_of_one_name_are_noticed() {
    let mut cluster = Cluster::started();
    assert_eq!(cluster.signal(3, "TERM"), 0);
    quorate(["recover", &cluster.text("data3"), "--yes"]).succeeded();
    cluster.start(3);
    says(
        &cluster,
        TRY_LATER,
        "two clusters of one name: nodes 1, 2 with node",
    );
    let table = cluster.run(&["status"]).succeeded();
    assert!(table.err.contains("two clusters of one name"), "{table:#?}");
    assert!(table.err.contains("docs/recovery.md"), "{table:#?}");
}
