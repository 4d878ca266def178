//! A disk that is nearly full: what grows is refused, before anything happens, and everything else goes on.
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::block_on;
use quorate::kv::{Client, ClientError, Compare, Condition, Refusal, Step, Swap, Transaction};
use quorate::{
    Batch, CommandError, DISK_RESERVE_BYTES_DEFAULT, EntryId, Node, NodeConfig, NodeId, ORIGIN,
    ProposeError, StateMachine, StateMachineError,
};
use quorate_certs::Subject;
use quorate_persist::{Files, OsFiles, Storage};
use quorate_tests::cluster::{Cluster, id};
use quorate_tests::process;
use quorate_tests::process::eventually;
use quorate_tests::wait::until;

/// How much is free where nobody says so.
const PLENTY: u64 = 1 << 40;
const LITTLE: u64 = 100 << 20;
/// Stands for a measurement that fails.
const UNKNOWN: u64 = u64::MAX;

/// The files of the system, on a disk with as much room as the test says.
#[derive(Clone, Debug)]
struct Gauged(Arc<AtomicU64>);

impl Gauged {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(PLENTY)))
    }

    fn set(&self, free: u64) {
        self.0.store(free, Ordering::Relaxed);
    }
}

impl Files for Gauged {
    fn free_bytes(&self, _directory: &Path) -> io::Result<u64> {
        match self.0.load(Ordering::Relaxed) {
            UNKNOWN => Err(io::ErrorKind::Unsupported.into()),
            free => Ok(free),
        }
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        OsFiles.make_directory(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        OsFiles.exists(path)
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        OsFiles.length(path)
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        OsFiles.names(directory)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Storage>> {
        OsFiles.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Storage>> {
        OsFiles.open(path)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        OsFiles.sync(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsFiles.link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsFiles.remove(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        OsFiles.sync_directory(directory)
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        OsFiles.random(bytes)
    }
}

fn key(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn put(client: &Client, name: &'static str) -> Result<u64, ClientError> {
    client.put(key(name), key("value")).await
}

/// Waits until `node` has seen that its disk is nearly full, or is not.
async fn seen(node: &Node, nearly_full: bool) {
    until("the disk to be measured", async || {
        let known = node.disk_space()?;
        (known.nearly_full == nearly_full).then_some(())
    })
    .await;
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: &Result<T, ClientError>) {
    let refused = matches!(
        outcome,
        Err(ClientError::Refused {
            refusal: Refusal::DiskNearlyFull {
                free_bytes: LITTLE,
                reserve_bytes: DISK_RESERVE_BYTES_DEFAULT,
            },
            ..
        })
    );
    assert!(refused, "{outcome:?}");
}

fn put_if_absent() -> Transaction {
    Transaction {
        compare: vec![Compare {
            key: key("new"),
            condition: Condition::Absent,
        }],
        then: vec![Step::Put {
            key: key("new"),
            value: key("value"),
            lease: None,
        }],
        otherwise: Vec::new(),
    }
}

fn delete_both() -> Transaction {
    let delete = |key| Step::Delete { key };
    Transaction {
        compare: Vec::new(),
        then: vec![delete(key("third")), delete(key("fourth"))],
        otherwise: vec![Step::Get { key: key("third") }],
    }
}

/// Three nodes, each on a disk of which the test says how much is free.
fn cluster() -> (Cluster, [(NodeId, Gauged); 3]) {
    let mut cluster = Cluster::start(3);
    let disks = [1, 2, 3].map(|node| (id(node), Gauged::new()));
    for (node, disk) in &disks {
        cluster.kill(*node);
        cluster.start_node_on(*node, Arc::new(disk.clone()));
    }
    (cluster, disks)
}

/// With little room at the leader, what grows is refused and has not happened; reads, deletes, leases, sessions and the
/// transfer of leadership go on; and with room, without a restart, so does everything.
#[test]
fn what_grows_is_refused_until_there_is_room() {
    block_on(async {
        let (cluster, disks) = cluster();
        cluster.leader().await;
        let client = cluster.client(Duration::from_secs(20));
        for name in ["first", "second", "third", "fourth"] {
            put(&client, name).await.unwrap();
        }
        let lease = client.grant_lease(Duration::from_secs(60)).await.unwrap();
        for (node, disk) in &disks {
            disk.set(LITTLE);
            seen(cluster.node(*node), true).await;
        }

        refused(&put(&client, "new").await);
        let expected = Some(key("value"));
        let swapped = client.compare_and_set(key("first"), expected.clone(), expected.clone());
        refused(&swapped.await);
        refused(&client.transact(put_if_absent()).await);
        refused(&client.grant_lease(Duration::from_secs(60)).await);
        assert_eq!(client.get(key("new")).await.unwrap(), None);

        // One that has no session yet opens one for it.
        let another = cluster.client(Duration::from_secs(20));
        assert!(another.delete(key("first")).await.unwrap());
        let removed = client.compare_and_set(key("second"), expected, None).await;
        assert!(matches!(removed.unwrap(), Swap::Swapped { .. }));
        client.transact(delete_both()).await.unwrap();
        for name in ["first", "second", "third", "fourth"] {
            assert_eq!(client.get(key(name)).await.unwrap(), None, "{name}");
        }
        client.keep_lease(lease).await.unwrap();
        client.revoke_lease(lease).await.unwrap();
        let leader = cluster.leader().await;
        let next = id(leader.value() % 3 + 1);
        until("leadership to move", async || {
            cluster.node(leader).transfer_leader(Some(next)).await.ok()
        })
        .await;
        refused(&put(&client, "new").await);

        for (node, disk) in &disks {
            disk.set(PLENTY);
            seen(cluster.node(*node), false).await;
        }
        put(&client, "new").await.unwrap();
    });
}

/// Only the leader's disk counts: followers with little room refuse nothing, and still say who leads.
#[test]
fn followers_with_little_room_refuse_nothing() {
    block_on(async {
        let (cluster, disks) = cluster();
        let client = cluster.client(Duration::from_secs(20));
        until("a write while only the leader has room", async || {
            let leader = cluster.leader().await;
            for (node, disk) in &disks {
                disk.set(if *node == leader { PLENTY } else { LITTLE });
                seen(cluster.node(*node), *node != leader).await;
            }
            // Another may lead by now.
            for (node, _) in disks.iter().filter(|(node, _)| *node != leader) {
                let told = cluster.node(*node).propose(key("?")).await.unwrap_err();
                let CommandError::Propose(ProposeError::NotLeader { .. }) = told else {
                    return None;
                };
            }
            put(&client, "key").await.ok()
        })
        .await;
    });
}

/// Adds up the lengths of commands.
struct Sum(u64);

impl StateMachine for Sum {
    fn applied(&self) -> EntryId {
        ORIGIN
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
        let answer = |command: &quorate::Command| {
            self.0 += command.data.len() as u64;
            Bytes::from(self.0.to_string())
        };
        Ok(batch.commands.iter().map(answer).collect())
    }

    fn query(&mut self, _query: &[u8]) -> Result<Bytes, StateMachineError> {
        Ok(self.0.to_string().into())
    }
}

/// A program that embeds a node says which of its commands shrink its state; consensus itself knows nothing of disks. What
/// cannot be measured refuses nothing.
#[test]
fn an_embedding_program_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = process::Cluster::new();
    let node = Subject::Node(id(1).into());
    let listen = "127.0.0.1:0".parse().unwrap();
    let config = NodeConfig::new(listen, folder.path().join("data"));
    let disk = Gauged::new();
    let node = Node::builder(config, issuer.credentials(&node))
        .files(Arc::new(disk.clone()))
        .shrinks(|command| command.starts_with(b"-"))
        .start(Sum(0))
        .unwrap();
    block_on(async {
        until("it to lead", async || node.propose(key("+")).await.ok()).await;
        disk.set(LITTLE);
        seen(&node, true).await;
        let refused = node.propose(key("+")).await.unwrap_err();
        assert!(refused.nothing_happened());
        let CommandError::DiskNearlyFull(full) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((full.node, full.free_bytes), (id(1), LITTLE));
        assert_eq!(node.propose(key("-")).await.unwrap(), "2");
        assert_eq!(node.raft().propose(key("+")).await.unwrap(), "3");

        disk.set(UNKNOWN);
        until("it to fail", async || {
            node.disk_space().is_none().then_some(())
        })
        .await;
        assert_eq!(node.propose(key("+")).await.unwrap(), "4");
        disk.set(DISK_RESERVE_BYTES_DEFAULT);
        seen(&node, false).await;
        assert_eq!(node.propose(key("+")).await.unwrap(), "5");
        node.shutdown(Duration::from_secs(1)).await.unwrap();
    });
}

/// What an operator sees, with a reserve that no disk has: each command says so and what to do, the log says it once, and
/// without a reserve it is over.
#[test]
fn an_operator_sees_it() {
    const TRY_LATER: i32 = 75;
    let mut cluster = process::Cluster::new();
    let mut args = cluster.start_args_alone();
    args.push("--disk-reserve=1000000GiB".into());
    cluster.start_with(1, &args);
    assert!(eventually(|| cluster.log(1).contains("nearly full")));
    let refused = |cluster: &process::Cluster| cluster.run(&["kv", "put", "key", "value"]);
    assert!(eventually(|| refused(&cluster).code == TRY_LATER));
    let told = [
        "nothing was changed",
        "its disk is nearly full",
        "free space there",
    ];
    refused(&cluster).failed(TRY_LATER, &told);
    cluster
        .run(&["kv", "del", "key"])
        .failed(1, &["no such key"]);

    let check = cluster.run(&["status", "--check"]);
    assert_eq!(
        check.code, TRY_LATER,
        "the others are no members: {check:#?}"
    );
    assert!(check.out.contains("node 1: its disk is nearly full"));
    let table = cluster.run(&["status"]).succeeded().out;
    assert!(table.contains("NEARLY FULL: "), "{table}");
    let json = cluster.run(&["status", "--json"]).succeeded().out;
    assert!(json.contains("\"nearly_full\":true"), "{json}");
    let metrics = cluster.run(&["metrics", "1"]).succeeded().out;
    let says_so =
        |line: &str| line.starts_with("quorate_disk_nearly_full{") && line.ends_with(" 1");
    assert!(metrics.lines().any(says_so), "{metrics}");
    assert_eq!(cluster.log(1).matches("nearly full").count(), 1);

    assert_eq!(cluster.signal(1, "TERM"), 0);
    *args.last_mut().unwrap() = "--disk-reserve=0".into();
    cluster.start_with(1, &args);
    assert!(eventually(|| refused(&cluster).code == 0));
    let table = cluster.run(&["status"]).succeeded().out;
    assert!(!table.contains("NEARLY FULL"), "{table}");
    let metrics = cluster.run(&["metrics", "1"]).succeeded().out;
    let measured = |line: &str| line.starts_with("quorate_disk_free_bytes");
    assert!(!metrics.lines().any(measured), "{metrics}");
}
