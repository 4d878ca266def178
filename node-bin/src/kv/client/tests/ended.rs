//! A client whose runtime has ended, or that was closed, while somebody waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use quorate_quic_transport::runtime::Inline;

use super::nodes::until;
use super::*;

/// Far longer than a failure takes, and far shorter than the timeout of the client.
const AT_ONCE: Duration = Duration::from_secs(10);

type Operation = fn(&Client) -> Result<(), ClientError>;

/// Why `operation` fails, on a thread of its own: one that never pauses could not be ended here.
fn failure(client: &Client, operation: Operation, meanwhile: impl FnOnce()) -> String {
    let (result, results) = mpsc::channel();
    let client = client.clone();
    thread::spawn(move || result.send(operation(&client)));
    meanwhile();
    let result = results.recv_timeout(AT_ONCE);
    let error = result.expect("it is told at once").unwrap_err();
    error.to_string()
}

/// Whoever waits for an answer when the runtime ends is told at once, and so is whoever asks later.
#[test]
fn nobody_waits_without_a_runtime() {
    let operations: [Operation; 6] = [
        |client| block_on(client.get("k")).map(drop),
        |client| block_on(client.put("k", "v")).map(drop),
        |client| block_on(client.reading_at(node(1)).get("k")).map(drop),
        |client| block_on(client.reading_at(node(1)).watch("k", None, Some(1)).next()).map(drop),
        |client| block_on(client.query_stale(node(1), Query::Get { key: "k".into() })).map(drop),
        |client| block_on(client.status(node(1))).map(drop),
    ];
    let (stage, nodes) = Stage::three();
    let leader = &nodes[0];
    for operation in operations {
        let io = IoThread::spawn("ends").unwrap();
        let client = stage.client_on(&nodes, 10 * AT_ONCE, io.runtime());
        patiently(client.put("k", "v")).unwrap();
        leader.part().silent = true;
        failure(&client, operation, || {
            patiently(until(|| !leader.part().held.is_empty()));
            drop(io);
        });
        let why = failure(&client, operation, || {});
        assert!(why.contains("its runtime has ended"), "{why}");
        leader.part().silent = false;
        leader.part().held.clear();
    }
}

/// Whoever waits for a lock learns that the client was closed from that alone: the task that keeps the lease may take its
/// time to say so.
#[test]
fn nobody_waits_for_a_lock_of_a_closed_client() {
    let (stage, nodes) = Stage::three();
    let io = stage.io.runtime();
    let begun = Arc::new(AtomicBool::new(false));
    let (keep, _kept) = async_channel::unbounded();
    let keeps = Arc::clone(&begun);
    // What is spawned elsewhere than on its thread, once there is a client: the task that keeps the lease.
    let runtime = Inline::runtime(move |task| {
        let elsewhere = thread::current().name() != Some("quorate-io-stage");
        match keeps.load(Ordering::SeqCst) && elsewhere {
            true => keep.try_send(task).unwrap(),
            false => io.spawn(task),
        }
    });
    let client = stage.client_on(&nodes, 10 * AT_ONCE, runtime);
    patiently(client.put("k", "v")).unwrap();
    begun.store(true, Ordering::SeqCst);
    let lock: Operation = |client| block_on(client.lock("lock", 10 * AT_ONCE)).map(drop);
    failure(&client, lock, || {
        // The lease is granted, and what is to be its key not understood, again and again.
        patiently(until(|| nodes[0].part().writes > 3));
        patiently(client.clone().close());
    });
    let why = failure(&client, lock, || {});
    assert!(why.contains("this client was closed"), "{why}");
}
