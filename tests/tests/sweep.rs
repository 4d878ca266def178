//! Many keys are deleted at once, and none that was written meanwhile.

use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::block_on;
use quorate::kv::{Client, RANGE_LIMIT_MAX, Step, TRANSACTION_STEPS_MAX, Transaction};
use quorate_quic_transport::runtime::IoThread;
use quorate_tests::cluster::Cluster;
use quorate_tests::process;

const PATIENCE: Duration = Duration::from_secs(20);

/// Writes `count` keys that begin with `prefix`; returns them with their revisions.
async fn fill(client: &Client, prefix: &str, count: usize) -> Vec<(Bytes, u64)> {
    let keys: Vec<Bytes> = (0..count)
        .map(|number| format!("{prefix}{number:05}").into())
        .collect();
    let mut written = Vec::new();
    for keys in keys.chunks(TRANSACTION_STEPS_MAX) {
        let put = |key: &Bytes| Step::Put {
            key: key.clone(),
            value: Bytes::new(),
            lease: None,
        };
        let transaction = Transaction {
            then: keys.iter().map(put).collect(),
            ..Transaction::default()
        };
        let revision = client.transact(transaction).await;
        let revision = revision.expect("a write").revision;
        written.extend(keys.iter().map(|key| (key.clone(), revision)));
    }
    written
}

/// What was written or removed since it was read is not deleted, and not counted.
#[test]
fn what_was_written_since_stays() {
    block_on(async {
        let cluster = Cluster::start(1);
        let client = cluster.client(PATIENCE);
        let keys = fill(&client, "a", 2 * TRANSACTION_STEPS_MAX + 10).await;
        // In the second chunk, where the others go one by one.
        let (written, removed) = (&keys[150].0, &keys[160].0);
        client.put(written.clone(), "new").await.unwrap();
        client.delete(removed.clone()).await.unwrap();
        let deleted = client.delete_unchanged(&keys).await.unwrap();
        assert_eq!(deleted, keys.len() as u64 - 2);
        let left = client.range("", None, 10).await.unwrap().pairs;
        assert_eq!(left.len(), 1);
        assert_eq!((&left[0].key, &*left[0].value.data), (written, &b"new"[..]));
        assert_eq!(client.delete_unchanged(&keys).await.unwrap(), 0);
    });
}

/// More keys than a page holds go, those beside them stay, and all go only where that is said.
#[test]
fn a_prefix_is_deleted() {
    let cluster = process::Cluster::started();
    let thread = IoThread::spawn("client").unwrap();
    let client = cluster.client(thread.runtime());
    let count = RANGE_LIMIT_MAX as usize + 200;
    block_on(fill(&client, "jobs/", count));
    block_on(fill(&client, "jobs0", 2));
    let run = |args: &[&str]| cluster.run(&[&["kv", "del"], args].concat());
    run(&["--prefix", ""]).failed(64, &["--all"]);
    let both = run(&["--prefix", "jobs/", "--all"]);
    assert_eq!(both.code, 64, "{both:#?}");
    let said = run(&["--prefix", "jobs/"]).succeeded().out;
    assert_eq!(said, format!("deleted {count} keys\n"));
    run(&["--prefix", "jobs/"]).failed(1, &["no such keys"]);
    let said = run(&["--all", "--json"]).succeeded().out;
    // Those two, and what the cluster was started with.
    assert_eq!(said, "{\"deleted\":3,\"left\":0}\n");
    block_on(client.close());
}
