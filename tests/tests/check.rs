//! `quorate check` of a real node's data folder: what it says, and that it changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use quorate_tests::process::{Cluster, quorate};

const USAGE: i32 = 64;
const DATA: i32 = 65;
const NO_INPUT: i32 = 66;
const UNAVAILABLE: i32 = 69;

/// The files in a folder, with their content.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry?.path();
        let bytes = fs::read(&path)?;
        Ok((path, bytes))
    };
    let files: std::io::Result<_> =
        fs::read_dir(folder).and_then(|entries| entries.map(read).collect());
    files.expect("the folder is readable")
}

/// A node that was killed is in order, and its files are afterwards what they were; one that runs is left
/// alone; damage, a missing log and a log that is not there any more are named, with what to do.
#[test]
fn a_stopped_nodes_files_are_checked_and_left_alone() {
    let mut cluster = Cluster::started();
    cluster.takes_writes("before");
    let data = cluster.text("data1");
    quorate(["check", &data]).failed(UNAVAILABLE, &["a node is running on", "stop it first"]);

    assert_eq!(cluster.signal(1, "KILL"), 137);
    let before = content(Path::new(&data));
    let checked = quorate(["check", &data]).succeeded();
    for named in ["node 1 of cluster \"c1\"", "started 1 times", "kv.redb"] {
        assert!(checked.out.contains(named), "{checked:#?}");
    }
    let json = quorate(["check", &data, "--json"]).succeeded();
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["ok"], true);
    assert_eq!(json["log"]["starts"], 1);
    assert!(json["log"]["last"]["index"].as_u64().unwrap() > 2);
    assert_eq!(content(Path::new(&data)), before, "nothing was written");

    cluster.start(1);
    cluster.takes_writes("between");
    assert_eq!(cluster.signal(1, "TERM"), 0);

    let log = cluster.path("data1").join("log.redb");
    let state = cluster.path("data1").join("kv.redb");
    let (whole_log, whole_state) = (fs::read(&log).unwrap(), fs::read(&state).unwrap());
    let damaged = |whole: &[u8]| {
        let mut damaged = whole.to_vec();
        let key = damaged.windows(7).rposition(|bytes| bytes == b"between");
        damaged[key.unwrap()] ^= 1;
        damaged
    };
    fs::write(&log, damaged(&whole_log)).unwrap();
    quorate(["check", &data]).failed(DATA, &["log.redb", "damaged"]);
    let json = quorate(["check", &data, "--json"]).failed(DATA, &["damaged"]);
    assert!(json.out.contains("\"ok\":false"), "{json:#?}");
    fs::write(&log, &whole_log).unwrap();

    fs::write(&state, damaged(&whole_state)).unwrap();
    quorate(["check", &data]).failed(DATA, &["kv.redb", "log is in order", "move the file away"]);
    fs::remove_file(&state).unwrap();
    let rebuilt = quorate(["check", &data]).succeeded();
    assert!(
        rebuilt.out.contains("makes it from the log"),
        "{rebuilt:#?}"
    );

    fs::remove_file(&log).unwrap();
    quorate(["check", &data]).failed(NO_INPUT, &["no data folder", "log.redb"]);
    assert_eq!(quorate(["check"]).code, USAGE);
}

/// A stopped node's state takes less room after many deletes, and the node goes on from it; one that runs is left alone.
#[test]
fn a_stopped_nodes_state_is_compacted() {
    let mut cluster = Cluster::started();
    let data = cluster.text("data1");
    let bench = ["bench", "put", "--seconds=2", "--keys=400", "--value=8192"];
    cluster.run(&bench).succeeded();
    quorate(["compact", &data]).failed(UNAVAILABLE, &["a node is running on", "stop it first"]);
    assert_eq!(cluster.signal(1, "TERM"), 0);
    cluster.start(1);
    cluster.run(&["kv", "del", "--prefix=bench/"]).succeeded();
    cluster.takes_writes("after");
    assert_eq!(cluster.signal(1, "TERM"), 0);

    let state = Path::new(&data).join("kv.redb");
    let length = || fs::metadata(&state).unwrap().len();
    let before = length();
    assert!(before > 4 << 20, "{before}");
    let compacted = quorate(["compact", &data]).succeeded();
    assert!(compacted.out.contains("kv.redb: "), "{compacted:#?}");
    assert!(length() < before / 2, "{before} to {}", length());
    quorate(["check", &data]).succeeded();
    cluster.start(1);
    cluster.takes_writes("afterwards");
    assert_eq!(cluster.signal(1, "TERM"), 0);
    let nothing = cluster.text("nothing");
    quorate(["compact", &nothing]).failed(NO_INPUT, &["is no data folder"]);
}
