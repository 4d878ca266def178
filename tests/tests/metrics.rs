//! What nodes count and measure is what `docs/metrics.md` says, and is so.
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use quorate_tests::process::{Cluster, eventually};

/// What one node counts and measures, in the older format.
fn metrics(cluster: &Cluster, node: u64) -> String {
    cluster.run(&["metrics", &node.to_string()]).succeeded().out
}

/// What node_exporter would refuse, or have without its type: each line that is about a metric is help, or a type that
/// there is, of a metric whose samples have its name.
fn complaints(text: &str) -> Vec<&str> {
    let mut complaints = Vec::new();
    let mut about = ("", "");
    for line in text.lines().filter(|line| !line.starts_with("# HELP ")) {
        let fits = if let Some(metric) = line.strip_prefix("# TYPE ") {
            about = metric.split_once(' ').unwrap();
            ["counter", "gauge", "histogram"].contains(&about.1)
        } else {
            let (name, kind) = about;
            let sample = line.split('{').next().unwrap();
            match (sample.strip_prefix(name), kind) {
                (Some("_bucket" | "_sum" | "_count"), "histogram") | (Some(""), "gauge") => true,
                (Some(""), "counter") => name.ends_with("_total"),
                _ => false,
            }
        };
        if !fits {
            complaints.push(line);
        }
    }
    complaints
}

/// The samples of one node by name and labels, without those that all have.
fn samples(cluster: &Cluster, node: u64) -> BTreeMap<String, f64> {
    let text = metrics(cluster, node);
    let common = format!("cluster=\"c1\",node=\"{node}\"");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.contains(&common), "{line}");
            (name.replace(&common, ""), value.parse().unwrap())
        })
        .collect()
}

/// The names that are documented, each in backticks in the first column.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = fs::read_to_string(path).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let first = rows.map(|row| row.split('|').nth(1).unwrap());
    let names = first.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.map(str::to_owned).collect()
}

/// Every metric is documented and every documented one is there; and they follow what happens.
#[test]
fn metrics_are_documented_and_true() {
    let mut cluster = Cluster::started();
    for n in 0..10 {
        cluster.takes_writes(&format!("{n}"));
    }
    let mut found = BTreeSet::new();
    let mut leaders = Vec::new();
    for node in 1..=3 {
        let text = metrics(&cluster, node);
        assert_eq!(complaints(&text), Vec::<&str>::new());
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        found.extend(types.map(|metric| metric.split(' ').next().unwrap().to_owned()));
        let samples = samples(&cluster, node);
        assert_eq!(samples["quorate_has_leader{}"], 1.0);
        assert_eq!(samples["quorate_voters{}"], 3.0);
        assert!(samples["quorate_last_index{}"] >= 11.0);
        assert!(samples["quorate_disk_free_bytes{}"] > 1e6, "{samples:?}");
        assert_eq!(samples["quorate_disk_nearly_full{}"], 0.0);
        let appends = samples["quorate_log_append_duration_seconds_count{}"];
        let entries = samples["quorate_log_entries_appended_total{}"];
        assert!(appends > 0.0 && entries >= 10.0, "{samples:?}");
        if samples["quorate_is_leader{}"] == 1.0 {
            leaders.push(node);
            assert!(samples["quorate_kv_requests_total{,request=\"write\"}"] >= 10.0);
        }
    }
    assert_eq!(found, documented());
    // The newer format says what it is at its end. Negative control: it is none that the older format's readers take.
    let newer = cluster.run(&["metrics", "1", "--format", "openmetrics"]);
    let newer = newer.succeeded().out;
    assert!(newer.ends_with("\n# EOF\n"), "{newer}");
    assert!(complaints(&newer).contains(&"# TYPE quorate_build info"));
    let [leader] = leaders[..] else {
        panic!("leaders {leaders:?}");
    };

    // One that is away falls behind, as its leader sees it.
    let away = leader % 3 + 1;
    assert_eq!(cluster.signal(away, "KILL"), 137);
    cluster.takes_writes("away");
    let peer = |name: &str| format!("quorate_peer_{name}{{,peer=\"{away}\"}}");
    let gone = || {
        let samples = samples(&cluster, leader);
        samples[&peer("connected")] == 0.0 && samples[&peer("lag_entries")] > 0.0
    };
    assert!(eventually(gone));
}
