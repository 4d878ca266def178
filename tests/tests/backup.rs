//! Backups of clusters that run, and clusters from backups, with real processes.
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use futures_lite::future::block_on;
use quorate::NodeId;
use quorate::kv::{Client, ClientError};
use quorate_certs::Subject;
use quorate_quic_transport::runtime::IoThread;
use quorate_tests::process::{Cluster, eventually, executable, quorate};
use serde_json::Value;

const DATA: i32 = 65;
const NO_INPUT: i32 = 66;
const NOT_FOUND: i32 = 1;
const CANNOT_CREATE: i32 = 73;
const INTERRUPTED: i32 = 130;
const USAGE: i32 = 64;
const NOT_ALLOWED: i32 = 77;

/// Above all revisions of a restored cluster's past.
const RESTORED: u64 = 1_700_000_000_000_000_000;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Puts one number after the other under one key, until it is told to stop; `acknowledged` is the last one that was.
fn count(client: &Client, acknowledged: &AtomicU64, stop: &AtomicBool) {
    for n in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        block_on(client.put("counter", n.to_string())).unwrap();
        acknowledged.store(n, Ordering::Relaxed);
    }
}

/// A backup that is taken at a follower while writes go on has every write that was acknowledged before it began, and
/// none that was begun after it had ended. When all is lost, a node makes a new cluster of it, takes writes and members,
/// and lets nobody of the old one in; what clients knew of the lost time is not mistaken for anything of the new one.
#[test]
fn a_backup_becomes_a_cluster() {
    let mut cluster = Cluster::with_newcomers(1);
    for node in 1..=3 {
        cluster.start(node);
    }
    for n in 0..20 {
        cluster.takes_writes(&format!("before/{n}"));
    }
    let file = cluster.text("backup");
    let io = IoThread::spawn("backup").unwrap();
    let client = cluster.client(io.runtime());
    let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (least, most) = thread::scope(|scope| {
        scope.spawn(|| count(&client, &acknowledged, &stop));
        assert!(eventually(|| acknowledged.load(Ordering::Relaxed) > 10));
        let least = acknowledged.load(Ordering::Relaxed);
        let saved = cluster.run_as("admin", &["snapshot", "save", &file, "--at", "2"]);
        // One may be on its way.
        let most = acknowledged.load(Ordering::Relaxed) + 1;
        assert!(saved.succeeded().out.starts_with("saved 21 keys, "));
        stop.store(true, Ordering::Relaxed);
        (least, most)
    });
    cluster.takes_writes("lost");
    let lost = cluster.run(&["kv", "get", "lost", "--json"]).succeeded();
    let lost = json(&lost.out)["revision"].as_u64().unwrap();

    let inspected = quorate(["snapshot", "inspect", &file, "--json"]).succeeded();
    let inspected = json(&inspected.out);
    assert_eq!(
        (&inspected["keys"], &inspected["node"]),
        (&21.into(), &2.into())
    );
    for node in [1, 2, 3] {
        assert_eq!(cluster.signal(node, "KILL"), 137);
    }
    let first_state = cluster.path("first-state");
    fs::rename(cluster.path("data1/kv.redb"), &first_state).unwrap();
    fs::remove_dir_all(cluster.path("data1")).unwrap();
    let (cert, data) = (cluster.text("n1"), cluster.text("data1"));
    let restore = [
        "snapshot",
        "restore",
        &file,
        "--cert",
        &cert,
        "--data-dir",
        &data,
    ];
    let told = quorate(restore.into_iter().chain(["--json"])).succeeded();
    let told = json(&told.out);
    for fact in ["keys", "bytes", "digest"] {
        assert_eq!(told[fact], inspected[fact], "{fact}");
    }
    assert_eq!(told["node"], 1);
    let checked = quorate(["check", &data, "--json"]).succeeded();
    assert_eq!(told["last"], json(&checked.out)["log"]["last"]);
    fs::remove_dir_all(&data).unwrap();
    let restored = quorate(restore).succeeded();
    assert!(restored.out.contains("only member"), "{restored:#?}");
    let checked = quorate(["check", &data]).succeeded();
    assert!(checked.out.contains("no entries after "), "{checked:#?}");
    let checked = quorate(["check", &data, "--json"]).succeeded();
    assert_eq!(json(&checked.out)["state"]["digest"], inspected["digest"]);

    // Without the state, of which the log lacks the beginning, it does not start, and leaves no empty one behind.
    let (state, aside) = (cluster.path("data1/kv.redb"), cluster.path("aside"));
    fs::rename(&state, &aside).unwrap();
    quorate(cluster.start_args(1)).failed(78, &["the state was lost"]);
    assert!(!state.exists());
    quorate(["check", &data]).failed(
        DATA,
        &["kv.redb is not there", "its beginning was compacted"],
    );
    // Nor does an older one, as of before the restoration, say that the log was lost.
    fs::copy(&first_state, &state).unwrap();
    quorate(["check", &data]).failed(
        DATA,
        &["the state was lost or rolled back", "the log is in order"],
    );
    fs::rename(&aside, &state).unwrap();

    cluster.start(1);
    for n in 0..20 {
        let found = cluster.run(&["kv", "get", &format!("before/{n}")]);
        assert_eq!(found.succeeded().out, "value\n");
    }
    let counter = cluster.run(&["kv", "get", "counter"]).succeeded();
    let counter: u64 = counter.out.trim().parse().unwrap();
    assert!(
        (least..=most).contains(&counter),
        "{least} <= {counter} <= {most}"
    );
    cluster.run(&["kv", "get", "lost"]).failed(NOT_FOUND, &[]);
    cluster.takes_writes("new");
    let new = cluster.run(&["kv", "get", "new", "--json"]).succeeded();
    assert!(json(&new.out)["revision"].as_u64().unwrap() > RESTORED);
    // Whoever watched and has missed what is lost is told so, and does not wait for ever.
    let after = lost.to_string();
    let watch = ["kv", "watch", "--after", &after, "--limit", "1"];
    cluster.run(&watch).failed(DATA, &["read the keys"]);

    cluster.start(2);
    let refused = || {
        cluster
            .log(2)
            .contains("were founded with different members")
    };
    assert!(eventually(refused), "{}", cluster.log(2));
    cluster.join(4);
    let address = cluster.address(4).to_string();
    let add = ["members", "add", "4", "--address", &address, "--wait"];
    cluster.run_as("admin", &add).succeeded();
    let joined = cluster.run(&["kv", "get", "before/7", "--at", "4"]);
    assert_eq!(joined.succeeded().out, "value\n");
}

/// What cannot be saved or restored says why, and leaves everything as it was.
#[test]
fn a_backup_overwrites_nothing() {
    let mut cluster = Cluster::new();
    cluster.start_with(1, &cluster.start_args_alone());
    cluster.takes_writes("key");
    let (file, cert) = (cluster.text("backup"), cluster.text("n1"));
    cluster
        .run(&["snapshot", "save", &file])
        .failed(NOT_ALLOWED, &["admin"]);
    let nowhere = cluster.text("nowhere/backup");
    let save = |file: &str| cluster.run_as("admin", &["snapshot", "save", file]);
    save(&nowhere).failed(CANNOT_CREATE, &["nowhere/backup"]);
    save("-").failed(USAGE, &["standard output", "./-"]);
    save(&file).succeeded();
    let saved = fs::read(&file).unwrap();
    save(&file).failed(CANNOT_CREATE, &["not overwritten"]);
    assert_eq!(fs::read(&file).unwrap(), saved);

    let data = cluster.text("data1");
    let restore = |file: &str, cert: &str, data: &str| {
        quorate([
            "snapshot",
            "restore",
            file,
            "--cert",
            cert,
            "--data-dir",
            data,
        ])
    };
    restore(&file, &cert, &data).failed(CANNOT_CREATE, &["not empty", "data1"]);
    let fresh = cluster.text("fresh");
    restore(&nowhere, &cert, &fresh).failed(NO_INPUT, &["nowhere/backup"]);
    restore(&file, &cluster.text("admin"), &fresh).failed(NOT_ALLOWED, &["--node ID"]);
    let part = cluster.text("part");
    fs::write(&part, &saved[..saved.len() - 1]).unwrap();
    for done in [
        restore(&part, &cert, &fresh),
        quorate(["snapshot", "inspect", &part]),
    ] {
        done.failed(DATA, &["part", "not complete"]);
    }
    quorate(["snapshot", "inspect", &cluster.text("n1/cert.pem")]).failed(DATA, &["no backup"]);
    assert!(!cluster.path("fresh").exists());
    cluster.takes_writes("still");
}

/// Whoever interrupts it gets no file, and no part of one either.
#[test]
fn an_interrupted_backup_leaves_nothing() {
    let cluster = Cluster::new();
    let folder = cluster.path("backups");
    fs::create_dir(&folder).unwrap();
    let mut command = Command::new(executable());
    command
        .args(["snapshot", "save"])
        .arg(folder.join("backup"))
        .args(["--cert", &cluster.text("admin"), "--timeout", "5m"])
        // Nobody answers there.
        .args(["--node", &format!("1={}", cluster.address(1))]);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let names = || fs::read_dir(&folder).unwrap().count();
    assert!(eventually(|| names() == 1), "it has begun");
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status();
    assert!(sent.unwrap().success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(INTERRUPTED), "{ended:?}");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("nothing was saved: SIGINT"), "{said}");
    assert_eq!(names(), 0);
}

/// A node that was started anew does not have the state any more, and says so: nothing of another moment is mixed in.
#[test]
fn a_backup_is_of_one_moment_or_none() {
    let mut cluster = Cluster::new();
    let alone = cluster.start_args_alone();
    cluster.start_with(1, &alone);
    cluster.takes_writes("key");
    let io = IoThread::spawn("backup").unwrap();
    let admin = cluster.client_as(&Subject::admin("inside").unwrap(), io.runtime());
    let client = admin.reading_at(NodeId::new(1).unwrap());
    let mut backup = block_on(client.backup()).unwrap();
    // One that is through takes nothing from another one of the same state.
    let mut other = block_on(client.backup_stale(backup.node())).unwrap();
    assert_eq!(other.last(), backup.last());
    assert!(block_on(other.next_piece()).unwrap().is_some());
    assert!(block_on(other.next_piece()).unwrap().is_none());
    assert_eq!(cluster.signal(1, "TERM"), 0);
    cluster.start_with(1, &alone);
    cluster.takes_writes("other");
    let gone = block_on(backup.next_piece()).unwrap_err();
    assert!(matches!(gone, ClientError::BackupGone { .. }), "{gone}");
    assert!(
        gone.to_string().contains("begin the backup again"),
        "{gone}"
    );
}
