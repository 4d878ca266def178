//! Backups as a program makes them, of a node that it runs itself.
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::path::Path;
use std::time::Duration;

use futures_lite::future::block_on;
use quorate::consensus::LogStore;
use quorate::kv::{
    BackupReader, BackupWriter, Client, ClientConfig, ClientError, Refusal, restore,
};
use quorate::persist::{Options, Store, seconds_now};
use quorate::{Credentials, LOG_FILE, Node, NodeConfig, NodeId, StoreIdentity};
use quorate_certs::{Ca, CaOptions, ClusterName, IssueOptions, Subject};
use quorate_quic_transport::runtime::IoThread;

/// As many revisions may have been lost, at least, and none is given again.
const NUMBERS_LOST: u64 = 500_000_000;

const PATIENCE: Duration = Duration::from_secs(20);

fn ca() -> Ca {
    Ca::generate(&ClusterName::new("test").unwrap(), &CaOptions::default()).unwrap()
}

fn credentials(ca: &Ca, subject: &Subject) -> Credentials {
    let issued = ca.issue(subject, &IssueOptions::default()).unwrap();
    issued.credentials().unwrap()
}

fn id(node: u64) -> NodeId {
    NodeId::new(node).unwrap()
}

/// A cluster of one.
fn start(ca: &Ca, data: &Path) -> Node {
    let config = NodeConfig::new("127.0.0.1:0".parse().unwrap(), data);
    let credentials = credentials(ca, &Subject::node(1).unwrap());
    Node::builder(config, credentials).start_kv().unwrap()
}

fn client(ca: &Ca, subject: &Subject, node: &Node, io: &IoThread) -> Client {
    let endpoints = vec![(id(1), node.local_addr())];
    let mut config = ClientConfig::new(endpoints, credentials(ca, subject));
    config.request_timeout = PATIENCE;
    Client::connect(config, io.runtime()).unwrap()
}

fn stop(node: Node) {
    block_on(node.shutdown(Duration::from_secs(1))).unwrap();
}

/// The whole state of the cluster, as a file would have it.
async fn saved(client: &Client) -> Vec<u8> {
    let mut backup = client.backup().await.unwrap();
    let mut writer = BackupWriter::new(Vec::new(), &backup.header()).unwrap();
    while let Some(piece) = backup.next_piece().await.unwrap() {
        writer.add(piece).unwrap();
    }
    writer.finish().unwrap().0
}

/// What was acknowledged a moment ago, and is in memory only, is in the backup; and what comes after it in the new cluster
/// has higher revisions than anything that the old one could have had.
#[test]
fn a_backup_has_what_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let ca = ca();
    let io = IoThread::spawn("backup").unwrap();
    let admin = Subject::admin("ops").unwrap();
    let node = start(&ca, &path("old"));
    let old = client(&ca, &admin, &node, &io);
    let (bytes, lost) = block_on(async {
        for n in 0..20 {
            old.put(format!("key/{n}"), "value").await.unwrap();
        }
        let bytes = saved(&old).await;
        (bytes, old.put("lost", "value").await.unwrap())
    });
    let whoever = client(&ca, &Subject::client("alice").unwrap(), &node, &io);
    let refused = block_on(whoever.backup()).unwrap_err();
    assert!(
        matches!(
            refused,
            ClientError::Refused {
                refusal: Refusal::NotAllowed { .. },
                ..
            }
        ),
        "{refused}"
    );
    stop(node);
    // Nothing of the backup holds on to the files.
    let node = start(&ca, &path("old"));
    stop(node);

    let identity = StoreIdentity {
        cluster: "test".into(),
        node: id(1),
    };
    let mut reader = BackupReader::new(&bytes[..]).unwrap();
    assert_eq!(reader.header().cluster, "test");
    let restored = restore(&mut reader, &identity, &path("new")).unwrap();
    assert_eq!(restored.summary.keys, 20);
    let node = start(&ca, &path("new"));
    let new = client(&ca, &admin, &node, &io);
    block_on(async {
        for n in 0..20 {
            let found = new.get(format!("key/{n}")).await.unwrap();
            assert_eq!(found.unwrap().data, "value");
        }
        assert!(new.get("lost").await.unwrap().is_none());
        let revision = new.put("new", "value").await.unwrap();
        assert!(revision > lost + NUMBERS_LOST, "{revision}");
    });
    stop(node);
}

/// A member that goes on alone gives no revision again that only lost members had.
#[test]
fn who_goes_on_alone_repeats_no_number() {
    let ca = ca();
    let folder = tempfile::tempdir().unwrap();
    let io = IoThread::spawn("test").unwrap();
    let node = start(&ca, folder.path());
    let put = |node: &Node| {
        let client = client(&ca, &Subject::client("app").unwrap(), node, &io);
        block_on(client.put("key", "value")).unwrap()
    };
    let before = put(&node);
    stop(node);

    let identity = StoreIdentity {
        cluster: "test".into(),
        node: id(1),
    };
    let log = folder.path().join(LOG_FILE);
    for _ in 0..2 {
        let opened = Store::open(&log, &identity, Options::default()).unwrap();
        let alone = opened.recovered.alone(id(1), seconds_now()).unwrap();
        let mut store = opened.store;
        store.append(&[alone]).unwrap();
    }
    let node = start(&ca, folder.path());
    let after = put(&node);
    assert!(after > before + NUMBERS_LOST, "{before}, {after}");
    stop(node);
}
