//! Certificates that change while nodes run: a whole CA is replaced under load, by the commands an operator has.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use quorate::kv::{Client, ClientError};
use quorate_certs::{Credentials, Subject};
use quorate_quic_transport::runtime::IoThread;
use quorate_tests::process::{Cluster, eventually, quorate};

/// Everybody who has a certificate.
const FOLDERS: [&str; 6] = ["n1", "n2", "n3", "client", "admin", "inside"];

/// The exit code of a command that asked for a key that is not there.
const NOT_FOUND: i32 = 1;

/// Clients that write one after the other.
const WRITERS: usize = 4;

/// A certs command that must work.
fn certs(cluster: &Cluster, args: &[&str], folders: &[(&str, &str)]) {
    let mut all: Vec<String> = vec!["certs".into()];
    all.extend(args.iter().map(ToString::to_string));
    all.extend(
        folders
            .iter()
            .map(|(flag, name)| format!("--{flag}={}", cluster.text(name))),
    );
    quorate(all).succeeded();
}

/// A new certificate for node 1 from `ca`, to which its key does not go.
fn renew_by_request(cluster: &Cluster, ca: &str) {
    certs(cluster, &["request"], &[("dir", "n1")]);
    let asked = [("request", "n1/request.pem"), ("ca", ca), ("out", "signed")];
    certs(cluster, &["sign", "--node=1"], &asked);
    assert!(!cluster.path("signed/key.pem").exists());
    let installed = [("from", "signed"), ("dir", "n1")];
    certs(cluster, &["install"], &installed);
}

/// Has every node load its folder, and waits until each has done so `times` times in all.
fn reload(cluster: &Cluster, times: usize) {
    for node in 1..=3 {
        cluster.send(node, "HUP");
    }
    for node in 1..=3 {
        let loaded = || {
            cluster
                .log(node)
                .matches("certificate loaded again")
                .count()
                == times
        };
        assert!(eventually(loaded), "node {node}: {}", cluster.log(node));
    }
}

/// Writers, how much they wrote, and whether they are to stop.
#[derive(Default)]
struct Load {
    written: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    /// Every write must work.
    fn write(&self, client: &Client, writer: usize) {
        for number in 0_u64.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let key = format!("{writer}/{}", number % 100);
            async_io::block_on(client.put(key, number.to_string())).unwrap();
            self.written.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn goes_on(&self) {
        let before = self.written.load(Ordering::Relaxed);
        let more = || self.written.load(Ordering::Relaxed) > before + 2 * WRITERS as u64;
        assert!(eventually(more), "nothing is written any more");
    }
}

/// The CA of a running cluster is followed by the next: no write fails, and in the end the old one opens no door.
#[test]
fn k7_a_ca_is_followed_by_the_next_under_load() {
    let cluster = Cluster::started();
    let subject = Subject::client("inside").unwrap();
    cluster.issue(&subject, "inside");
    cluster.issue(&subject, "outdated");
    certs(&cluster, &["init"], &[("after", "ca"), ("out", "next")]);

    let io = IoThread::spawn("inside").unwrap();
    let client = cluster.client(io.runtime());
    let load = Load::default();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (load, client) = (&load, client.clone());
            scope.spawn(move || load.write(&client, writer));
        }
        let steps = [("trust", "next"), ("renew", "next"), ("distrust", "ca")];
        for (done, (step, ca)) in steps.into_iter().enumerate() {
            for folder in FOLDERS {
                match (step, folder) {
                    ("renew", "n1") => renew_by_request(&cluster, ca),
                    _ => certs(&cluster, &[step], &[("dir", folder), ("ca", ca)]),
                }
            }
            let renewed = Credentials::load(&cluster.path("inside")).unwrap();
            client.replace_credentials(renewed).unwrap();
            reload(&cluster, done + 1);
            load.goes_on();
        }
        load.stop.store(true, Ordering::Relaxed);
    });
    cluster.takes_writes("after");
    // It trusts the nodes, and they do not trust it.
    certs(&cluster, &["trust"], &[("dir", "outdated"), ("ca", "next")]);
    let put = ["kv", "put", "key", "value"];
    cluster.run_as("outdated", &put).failed(77, &["unknown CA"]);
}

/// What cannot be used is said, and the node goes on with what it has.
#[test]
fn k7_a_folder_that_is_no_good_changes_nothing() {
    let cluster = Cluster::started();
    let whole = std::fs::read(cluster.path("n1/cert.pem")).unwrap();
    std::fs::write(cluster.path("n1/cert.pem"), &whole[..whole.len() / 2]).unwrap();
    cluster.send(1, "HUP");
    let says = |words: &str| cluster.log(1).contains(words);
    assert!(eventually(|| says("cannot be loaded again")));
    let other = std::fs::read(cluster.path("n2/cert.pem")).unwrap();
    let key = std::fs::read(cluster.path("n2/key.pem")).unwrap();
    std::fs::write(cluster.path("n1/cert.pem"), other).unwrap();
    std::fs::write(cluster.path("n1/key.pem"), key).unwrap();
    cluster.send(1, "HUP");
    assert!(eventually(|| says("the certificate is not taken")));
    cluster.takes_writes("still");
}

/// How many connections of clients and admins `node` has, that of the question included.
fn client_connections(cluster: &Cluster, node: u64) -> u64 {
    let text = cluster.run(&["metrics", &node.to_string()]).succeeded().out;
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with("quorate_client_connections{"));
    let (_, count) = line.unwrap().rsplit_once(' ').unwrap();
    count.parse().unwrap()
}

/// Whoever is revoked is disconnected by every node that has the list, at once, and is not let in again; nobody else notices.
#[test]
fn j15_who_is_revoked_while_connected_is_out() {
    let cluster = Cluster::started();
    let io = IoThread::spawn("inside").unwrap();
    let client = cluster.client(io.runtime());
    async_io::block_on(client.put("key", "before")).unwrap();
    let revoke = ["revoke", "--client", "inside"];
    certs(&cluster, &revoke, &[("ca", "ca")]);
    for node in ["n1", "n2", "n3"] {
        certs(&cluster, &["trust"], &[("dir", node), ("ca", "ca/ca.crl")]);
    }
    reload(&cluster, 1);
    // What is sent from then on counts nowhere, whether or not the client has heard of the end of its connections.
    for node in 1..=3 {
        let is_out = || client_connections(&cluster, node) == 1;
        assert!(eventually(is_out), "node {node} has more than who asks it");
    }
    let put = || async_io::block_on(client.put("late", "after")).unwrap_err();
    let mut refused = put();
    if matches!(refused, ClientError::OutcomeUnknown { .. }) {
        refused = put();
    }
    assert!(refused.to_string().contains("revoked"), "{refused}");
    cluster.run(&["kv", "get", "late"]).failed(NOT_FOUND, &[]);
    let found = cluster.run(&["kv", "get", "key"]).succeeded();
    assert_eq!(found.out, "before\n");
    cluster.takes_writes("others");
}
