//! What a reader's certificate is good for, and what it is not, with real processes.
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::block_on;
use quorate::kv::{
    Client, ClientError, Command, Needs, Query, Refusal, Request, Response, Step, Tag, Transaction,
    Watched,
};
use quorate::{CallerRole, EntryId, LogIndex, MembershipChange, NodeId, Term};
use quorate_certs::Subject;
use quorate_quic_transport::quinn::Runtime;
use quorate_quic_transport::runtime::IoThread;
use quorate_tests::process::{Cluster, quorate};
use quorate_tests::raw::{CALL, Raw};
use serde_json::Value;

const USAGE: i32 = 64;
const DATA: i32 = 65;
const NOT_ALLOWED: i32 = 77;
const CONFIG: i32 = 78;

const NODES: [u64; 3] = [1, 2, 3];

fn id(node: u64) -> NodeId {
    NodeId::new(node).unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A cluster that runs, with a reader's certificate from the command line in the folder `reader`.
fn started() -> Cluster {
    let cluster = Cluster::started();
    certs(&cluster, "issue --ca ca --reader dashboard --out reader").succeeded();
    cluster
}

/// Runs `quorate certs` in the cluster's folder, as people type it.
fn certs(cluster: &Cluster, line: &str) -> quorate_tests::process::Ended {
    let mut args = vec!["certs".to_owned()];
    let mut is_path = false;
    for word in line.split(' ') {
        args.push(if is_path {
            cluster.text(word)
        } else {
            word.into()
        });
        is_path = ["--ca", "--out", "--dir", "--from", "--request"].contains(&word);
    }
    quorate(args)
}

/// What nobody but the refused could have changed: all keys with their revisions, the members, and who leads in which term.
fn state(cluster: &Cluster) -> [Value; 3] {
    let keys = cluster.run(&["kv", "range", "--json"]).succeeded();
    let mut keys = json(&keys.out);
    keys.as_object_mut().unwrap().remove("as_of_revision");
    let members = cluster.run(&["members", "list", "--json"]).succeeded();
    let status = json(&cluster.run(&["status", "--json"]).succeeded().out);
    let mut members = json(&members.out);
    for member in members["members"].as_array_mut().unwrap() {
        member.as_object_mut().unwrap().remove("lag");
    }
    [keys, members, status["leader"].clone()]
}

/// For how long a lease will live yet.
fn remaining(cluster: &Cluster, lease: &str) -> u64 {
    let shown = cluster.run(&["kv", "lease", "show", lease, "--json"]);
    json(&shown.succeeded().out)["remaining_ms"]
        .as_u64()
        .unwrap()
}

/// Everything that only looks works with a reader's certificate on the command line; everything else is refused, with the
/// certificate that would be needed, and has changed nothing.
#[test]
fn the_command_line_with_a_readers_certificate() {
    let cluster = started();
    let put = cluster.run(&["kv", "put", "seen", "value", "--json"]);
    let revision = json(&put.succeeded().out)["revision"].as_u64().unwrap();
    let granted = cluster.run(&["kv", "lease", "grant", "1h"]).succeeded();
    let lease = granted.out.trim();
    let bound = ["kv", "put", "bound", "value", "--lease", lease];
    cluster.run(&bound).succeeded();

    let reader = |args: &[&str]| cluster.run_as("reader", args);
    let said = |args: &[&str]| reader(args).succeeded().out;
    assert_eq!(said(&["kv", "get", "seen"]), "value\n");
    assert_eq!(said(&["kv", "get", "seen", "--at", "2"]), "value\n");
    said(&["kv", "get", "seen", "--at", "2", "--stale"]);
    let range = said(&["kv", "range"]);
    assert!(range.contains("seen\tvalue"), "{range}");
    let stale = ["kv", "range", "--at", "2", "--stale", "--keys-only"];
    assert!(said(&stale).lines().any(|key| key == "seen"));
    let after = (revision - 1).to_string();
    let watched = said(&["kv", "watch", "seen", "--after", &after, "--limit", "1"]);
    assert_eq!(watched, format!("{revision}\tput\tseen\tvalue\n"));
    said(&["kv", "lease", "show", lease]);
    assert!(said(&["status"]).contains("leader"));
    assert!(said(&["metrics", "1"]).contains("quorate_has_leader"));
    said(&["members", "list"]);

    let (before, lives) = (state(&cluster), remaining(&cluster, lease));
    let client = [
        "a client's or an admin's",
        "is reader",
        "issue --client NAME",
    ];
    let file = cluster.text("backup");
    for write in [
        &["kv", "put", "seen", "other"][..],
        &["kv", "put", "seen", "other", "--ttl", "1s"],
        &["kv", "put", "new", "value", "--lease", lease],
        &["kv", "del", "seen"],
        &["kv", "cas", "seen", "--expect", "value", "--set", "other"],
        &["kv", "cas", "new", "--absent", "--set", "other"],
        &["kv", "txn", "--then", "del seen"],
        &["kv", "lease", "grant", "1s"],
        &["kv", "lease", "keep", lease],
        &["kv", "lease", "revoke", lease],
        &["bench", "put", "--seconds", "1", "--keys", "1"],
    ] {
        reader(write).failed(NOT_ALLOWED, &client);
    }
    let bench = reader(&["bench", "get", "--seconds", "1", "--keys", "1"]);
    bench.failed(NOT_ALLOWED, &["writes its keys before it reads", client[2]]);
    let address = cluster.address(1).to_string();
    for change in [
        &["transfer-leader", "--any"][..],
        &["members", "add", "4", "--address", &address],
        &["members", "remove", "3"],
        &["members", "promote", "3"],
        &["members", "replace", "3", "4", "--address", &address],
        &["members", "update", "3", "--address", &address],
        &["snapshot", "save", &file],
        &["snapshot", "save", &file, "--at", "2"],
    ] {
        let words = ["an admin's", "is reader", "issue --admin NAME"];
        reader(change).failed(NOT_ALLOWED, &words);
    }
    assert!(!cluster.path("backup").exists());
    assert_eq!(state(&cluster), before);
    assert!(remaining(&cluster, lease) <= lives);

    // Negative control: the state shows what somebody else does.
    cluster.run(&["kv", "put", "seen", "other"]).succeeded();
    assert_ne!(state(&cluster), before);
}

/// No node does anything for a reader but answer, whatever is sent without the client library; what is refused is good for
/// whoever has the certificate that is named.
#[test]
fn j11_no_request_of_a_reader_changes_anything() {
    let cluster = started();
    let io = IoThread::spawn("raw").unwrap();
    let granted = cluster.run(&["kv", "lease", "grant", "1h"]).succeeded();
    let lease: u64 = granted.out.trim().parse().unwrap();
    let (before, lives) = (state(&cluster), remaining(&cluster, &lease.to_string()));
    let leader = before[2].as_u64().unwrap();
    let runtime = io.runtime();
    for node in NODES {
        let mut asks = asking(&cluster, node, &Subject::reader("raw").unwrap(), &runtime);
        for request in reads(lease) {
            let answer = asks(&request);
            let not_the_leader = matches!(answer, Response::Refused(Refusal::NotLeader { .. }));
            let is_answered = !matches!(answer, Response::Refused(_));
            assert!(
                is_answered || (not_the_leader && node != leader),
                "{request:?}: {answer:?}"
            );
        }
        for (request, needs) in changes(lease) {
            let has = CallerRole::Reader;
            let refused = Response::Refused(Refusal::NotAllowed { needs, has });
            assert_eq!(asks(&request), refused, "{request:?}");
        }
    }
    assert_eq!(state(&cluster), before);
    assert!(remaining(&cluster, &lease.to_string()) <= lives);

    // Negative control: others are not refused for their role.
    for (role, subject) in [
        (Needs::Client, Subject::client("raw").unwrap()),
        (Needs::Admin, Subject::admin("raw").unwrap()),
    ] {
        let mut asks = asking(&cluster, leader, &subject, &runtime);
        for (request, _) in changes(lease)
            .into_iter()
            .filter(|(_, needs)| *needs == role)
        {
            let answer = asks(&request);
            let refused = matches!(answer, Response::Refused(Refusal::NotAllowed { .. }));
            assert!(!refused, "{request:?}: {answer:?}");
        }
    }
    assert_ne!(state(&cluster), before);
}

/// A connection of `subject`'s to `node` that nobody's client library stands before.
fn asking(
    cluster: &Cluster,
    node: u64,
    subject: &Subject,
    runtime: &Arc<dyn Runtime>,
) -> impl FnMut(&Request) -> Response + use<> {
    let credentials = cluster.credentials(subject);
    let mut raw = Raw::connect(node, cluster.address(node), &credentials, runtime);
    let mut calls = raw.lane(CALL);
    move |request| raw.ask(&mut calls, request)
}

/// Each request that only looks.
fn reads(lease: u64) -> Vec<Request> {
    let queries = || {
        let (start, end, limit) = (Bytes::new(), None, 10);
        [
            Query::Get {
                key: "started".into(),
            },
            Query::Range { start, end, limit },
            Query::Lease { lease },
        ]
    };
    let watched = Watched {
        start: Bytes::new(),
        end: None,
    };
    let mut requests = vec![
        Request::Status,
        Request::Metrics,
        Request::Leader,
        // Something has happened since, so that the answer comes at once.
        Request::Watch { watched, after: 1 },
    ];
    for read in [Request::Read, Request::ReadHere, Request::ReadStale] {
        requests.extend(queries().map(read));
    }
    requests
}

/// Each request that does more, and what it needs. With the right certificate it does no harm.
fn changes(lease: u64) -> Vec<(Request, Needs)> {
    let commands = vec![
        Command::Put {
            key: "raw".into(),
            value: "value".into(),
        },
        Command::Delete {
            key: "started".into(),
        },
        Command::CompareAndSet {
            key: "raw".into(),
            expected: None,
            value: Some("other".into()),
        },
        Command::Transact(Transaction {
            compare: Vec::new(),
            then: vec![Step::Delete { key: "raw".into() }],
            otherwise: Vec::new(),
        }),
        Command::OpenSession,
        Command::GrantLease { ttl_ms: 60_000 },
        Command::KeepLease { lease },
        Command::RevokeLease { lease },
    ];
    let tag = Tag {
        session: 1,
        slot: 0,
        sequence: 1,
    };
    let once = commands
        .clone()
        .into_iter()
        .map(|command| Request::WriteOnce { tag, command });
    let mut all: Vec<_> = commands
        .into_iter()
        .map(Request::Write)
        .chain(once)
        .collect();
    let of = EntryId::new(Term::new(1), LogIndex::new(1));
    all.extend([
        Request::ChangeMembers {
            change: MembershipChange::Remove { node: id(9) },
            expected: None,
        },
        Request::TransferLeader { to: Some(id(9)) },
    ]);
    for read in [Request::Read, Request::ReadHere, Request::ReadStale] {
        let piece = Query::BackupPiece {
            of,
            after: Bytes::new(),
        };
        all.extend([Query::BeginBackup, piece, Query::EndBackup { of }].map(read));
    }
    let needs = |request: Request| match request {
        Request::Write(_) | Request::WriteOnce { .. } => (request, Needs::Client),
        _ => (request, Needs::Admin),
    };
    all.into_iter().map(needs).collect()
}

/// The client library asks for nothing but answers where a reader reads: no session is opened, which would be a write.
#[test]
fn a_readers_client_opens_no_session() {
    let cluster = started();
    let io = IoThread::spawn("reader").unwrap();
    let client = cluster.client_as(&Subject::reader("inside").unwrap(), io.runtime());
    let asked = |client: &Client| -> u64 {
        let of = |node: u64| writes_in(&block_on(client.metrics(id(node))).unwrap());
        NODES.map(of).iter().sum()
    };
    let before = asked(&client);
    assert!(before > 0, "those of the cluster's start");
    block_on(async {
        assert_eq!(client.get("started").await.unwrap().unwrap().data, "value");
        assert_eq!(client.lease(7).await.unwrap(), None);
        assert!(client.range("", None, 10).await.unwrap().pairs.len() == 1);
        let mut watch = client.watch("", None, Some(1));
        assert!(!watch.next().await.unwrap().is_empty());
        let follower = client.reading_at(id(2));
        assert!(follower.get("started").await.unwrap().is_some());
        let key = "started".into();
        client.query_stale(id(3), Query::Get { key }).await.unwrap();
        client.leader_status().await.unwrap();
        client.leader_status().await.unwrap();
    });
    assert_eq!(asked(&client), before);

    // Negative control, and what a program is told.
    for refused in [
        block_on(client.put("started", "other")).unwrap_err(),
        block_on(client.grant_lease(Duration::from_secs(5))).unwrap_err(),
    ] {
        let ClientError::Refused { refusal, .. } = &refused else {
            panic!("{refused}");
        };
        let (needs, has) = (Needs::Client, CallerRole::Reader);
        assert_eq!(*refusal, Refusal::NotAllowed { needs, has });
    }
    assert_eq!(asked(&client), before + 2);
}

/// The writes that a node has been asked for, by its metrics.
fn writes_in(metrics: &str) -> u64 {
    let is_it = |line: &&str| {
        line.starts_with("quorate_kv_requests_total{") && line.contains("request=\"write\"")
    };
    let found = metrics.lines().find(is_it);
    found.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

/// A reader's certificate is made, asked for, signed, renewed, shown and revoked as a client's, and is not that of a client
/// with the same name.
#[test]
fn a_readers_certificate_from_first_to_last() {
    let cluster = Cluster::new();
    let certs = |line: &str| certs(&cluster, line);
    certs("issue --ca ca --client eve --out eve").succeeded();
    let both = certs("issue --ca ca --reader eve --client eve --out both");
    assert_eq!(both.code, USAGE, "{both:#?}");
    let asked = certs("request --dir r --cluster c1 --reader eve").succeeded();
    assert!(
        asked.out.contains("--reader eve --out signed"),
        "{}",
        asked.out
    );
    certs("sign --ca ca --request r/request.pem --client eve --out other")
        .failed(DATA, &["reader/eve"]);
    certs("sign --ca ca --request r/request.pem --reader eve --out signed").succeeded();
    certs("install --from signed --dir r").succeeded();
    certs("verify --dir r --as spiffe://c1/reader/eve").succeeded();
    certs("renew --ca ca --dir r").succeeded();
    let shown = quorate(["certs", "inspect", &cluster.text("r")]).succeeded();
    assert!(
        shown.out.contains("spiffe://c1/reader/eve"),
        "{}",
        shown.out
    );

    let start = cluster.start_args(1);
    let as_reader = format!("--cert={}", cluster.text("r"));
    let start = start
        .into_iter()
        .map(|arg| match arg.starts_with("--cert=") {
            true => as_reader.clone(),
            false => arg,
        });
    quorate(start).failed(CONFIG, &["spiffe://c1/reader/eve", "node"]);

    let listed = || certs("list --ca ca").succeeded().out;
    let good = listed();
    assert_eq!(
        good.matches("good     spiffe://c1/reader/eve").count(),
        2,
        "{good}"
    );
    certs("revoke --ca ca --reader eve").succeeded();
    let revoked = listed();
    assert_eq!(
        revoked.matches("revoked  spiffe://c1/reader/eve").count(),
        2,
        "{revoked}"
    );
    assert!(
        revoked.contains("good     spiffe://c1/client/eve"),
        "{revoked}"
    );
}
