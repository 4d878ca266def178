//! What clients are promised beyond single operations: once, in order, and for a while; while leaders are killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::{block_on, or, zip};
use quorate::kv::{
    Change, Client, Command, Compare, Condition, Outcome, Request, Response, Step, StepOutcome,
    Tag, Transaction,
};
use quorate_certs::Subject;
use quorate_quic_transport::runtime::IoThread;
use quorate_tests::cluster::Cluster;
use quorate_tests::process;
use quorate_tests::raw::{CALL, Raw};
use quorate_tests::wait::until;
use serde_json::{Value, json};

/// Longer than all elections of a test.
const PATIENCE: Duration = Duration::from_secs(20);

/// Kills the leader and starts it again, so many times, each time after some more writes.
async fn kill_leaders(cluster: &mut Cluster, times: u64, written: &AtomicU64) {
    for _ in 0..times {
        let before = written.load(Ordering::Relaxed);
        let more = || async { (written.load(Ordering::Relaxed) > before + 20).then_some(()) };
        until("more writes", more).await;
        let leader = cluster.leader().await;
        cluster.kill(leader);
        cluster.leader().await;
        cluster.start_node(leader);
    }
}

/// Puts and removes a key of its own, again and again. Removing finds the key, unless it was done before.
async fn put_and_remove(
    client: Client,
    key: String,
    written: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) {
    while !over.load(Ordering::Relaxed) {
        client.put(key.clone(), "here").await.expect("a write");
        let removed = client.delete(key.clone()).await.expect("a write");
        assert!(removed, "{key} was removed twice");
        written.fetch_add(2, Ordering::Relaxed);
    }
}

/// While leaders are killed, no write fails, and none is applied twice.
#[test]
fn h1_every_write_happens_once_while_leaders_are_killed() {
    let mut cluster = Cluster::start(3);
    let client = cluster.client(PATIENCE);
    let (written, over) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let writers: Vec<_> = (0..8)
        .map(|number| {
            let key = format!("key {number}");
            let writer =
                put_and_remove(client.clone(), key, Arc::clone(&written), Arc::clone(&over));
            std::thread::spawn(|| block_on(writer))
        })
        .collect();
    block_on(kill_leaders(&mut cluster, 4, &written));
    over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("every write is acknowledged");
    }
    let left = block_on(client.range("", None, 10)).unwrap();
    assert!(left.pairs.is_empty(), "{left:?}");
}

/// Follows all changes until that of `last`.
async fn follow(client: &Client, last: &str) -> Vec<Change> {
    let mut watch = client.watch("", None, Some(1));
    let mut seen = Vec::new();
    loop {
        seen.extend(watch.next().await.expect("it goes on"));
        if seen.last().is_some_and(|change| change.key == last) {
            return seen;
        }
    }
}

/// Whoever reads a page and watches from its revision on sees exactly what came later: in a program, and as commands.
#[test]
fn a_watch_goes_on_where_a_page_ends() {
    let cluster = process::Cluster::started();
    let run = |args: &[&str]| cluster.run(&[&["kv"], args].concat()).succeeded().out;
    let fields = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    run(&["put", "a", "1"]);
    let range = fields(&run(&["range", "--prefix", "a", "--json"]));
    let get = fields(&run(&["get", "a", "--json"]));
    let absent = ["kv", "get", "ab", "--json"];
    let absent = fields(&cluster.run(&absent).out);
    let thread = IoThread::spawn("client").unwrap();
    let client = cluster.client(thread.runtime());
    let page = block_on(client.range("a", Some("b".into()), 10)).expect("a page");
    assert_eq!(page.pairs.len(), 1);
    let put = fields(&run(&["put", "ab", "2", "--json"]));
    run(&["put", "ac", "3"]);

    let mut watch = client.watch("a", Some("b".into()), Some(page.revision));
    let changes = block_on(async {
        let mut changes = Vec::new();
        while changes.len() < 2 {
            changes.extend(watch.next().await.expect("it goes on"));
        }
        changes
    });
    let keys = changes.iter().map(|change| &*change.key);
    assert_eq!(keys.collect::<Vec<_>>(), [b"ab", b"ac"]);

    for read in [range, get, absent] {
        let after = read["as_of_revision"].to_string();
        let watched = [
            "watch", "--prefix", "a", "--after", &after, "--limit", "1", "--json",
        ];
        let lines: Vec<Value> = run(&watched).lines().map(fields).collect();
        let begun = json!({ "watching_after": read["as_of_revision"] });
        let change = json!({ "revision": put["revision"], "key": "ab", "value": "2" });
        assert_eq!(lines, [begun, change]);
    }
    block_on(client.close());
}

/// A watch on the command line goes on after an outage that is longer than it waits for an answer; one that never had an
/// answer does not. A signal ends it, and it says where to go on.
#[test]
fn a_watch_outlasts_an_outage() {
    let cluster = process::Cluster::started();
    let put = |key| {
        let put = cluster.run(&["kv", "put", key, "1", "--json"]);
        let put: Value = serde_json::from_str(&put.succeeded().out).unwrap();
        put["revision"].as_u64().unwrap()
    };
    let first = put("wa");
    let after = (first - 1).to_string();
    let watch = |limit| {
        [
            "kv",
            "watch",
            "--prefix",
            "w",
            "--after",
            &after,
            "--timeout",
            "500ms",
            "--limit",
            limit,
        ]
    };
    let watchers = || -> usize {
        let waits = |node| {
            let metrics = cluster.run(&["metrics", node]).out;
            let mut lines = metrics.lines();
            let line = lines.find(|line| line.starts_with("quorate_kv_watchers{"));
            let line = line.and_then(|line| line.rsplit(' ').next());
            line.and_then(|count| count.parse().ok()).unwrap_or(0)
        };
        ["1", "2", "3"].map(waits).iter().sum()
    };
    let [outlasting, interrupted] = [watch("2"), watch("9")].map(|watch| cluster.begin(&watch));
    assert!(process::eventually(|| watchers() == 2));
    // Not SIGINT, which whoever runs the tests in the background has ignored, and `kv watch` with them.
    interrupted.send("TERM");
    let ended = interrupted.ended();
    assert_eq!(ended.code, 143, "{ended:#?}");
    let (_, go_on) = ended
        .err
        .split_once("go on with --after ")
        .expect("it is said");
    assert!(go_on.trim().parse::<u64>().unwrap() >= first, "{ended:#?}");

    for node in 1..=3 {
        cluster.send(node, "STOP");
    }
    // It asks later than the other one, as long.
    cluster.run(&watch("1")).failed(69, &["no leader"]);
    for node in 1..=3 {
        cluster.send(node, "CONT");
    }
    let second = put("wb");
    let ended = outlasting.ended().succeeded();
    assert_eq!(
        ended.out,
        format!("{first}\tput\twa\t1\n{second}\tput\twb\t1\n")
    );
    for words in ["waiting for an answer: ", "watching again"] {
        assert_eq!(ended.err.matches(words).count(), 1, "{ended:#?}");
    }
    assert!(ended.err.contains("; go on with --after "), "{ended:#?}");
}

/// A watch sees every change once and in order, although the node that is asked is killed meanwhile, and what a
/// transaction does as a whole.
#[test]
fn a_watch_goes_on_after_a_change_of_leader() {
    block_on(async {
        let mut cluster = Cluster::start(3);
        let (client, watcher) = (cluster.client(PATIENCE), cluster.client(PATIENCE));
        let writes = async {
            let mut expected: Vec<(String, u64)> = Vec::new();
            for number in 0..60 {
                let key = format!("key {number}");
                let revision = client.put(key.clone(), "v").await.unwrap();
                expected.push((key, revision));
                if number % 20 == 10 {
                    let leader = cluster.leader().await;
                    cluster.kill(leader);
                    cluster.leader().await;
                    cluster.start_node(leader);
                }
            }
            let step = |key: &'static str| Step::Put {
                key: key.into(),
                value: Bytes::new(),
                lease: None,
            };
            let both = Transaction {
                then: vec![step("y"), step("z")],
                ..Transaction::default()
            };
            let revision = client.transact(both).await.unwrap().revision;
            expected.extend(["y", "z"].map(|key| (key.into(), revision)));
            expected
        };
        let (expected, seen) = zip(writes, follow(&watcher, "z")).await;
        let told = |change: &Change| {
            let key = String::from_utf8(change.key.to_vec()).unwrap();
            (key, change.revision)
        };
        assert_eq!(seen.iter().map(told).collect::<Vec<_>>(), expected);
        // From the middle, and at another node.
        let (_, middle) = expected[30].clone();
        for node in cluster.running() {
            let mut watch = watcher.reading_at(node.id()).watch("", None, Some(middle));
            match watch.next().await {
                Ok(changes) => assert_eq!(told(&changes[0]), expected[31]),
                // One that was started again has forgotten what its state had already.
                Err(error) => assert!(error.to_string().contains("since revision"), "{error}"),
            }
        }
    });
}

/// A key that is bound to a lease is there while the lease is kept, also by another leader, and goes when it is
/// not; and whoever watches sees it go.
#[test]
fn a_lease_outlives_leaders_and_ends() {
    block_on(async {
        // So many that two can go: to start a node again may take as long as the lease lives.
        let mut cluster = Cluster::start(5);
        let client = cluster.client(PATIENCE);
        cluster.leader().await;
        let lease = client.grant_lease(Duration::from_secs(1)).await.unwrap();
        client.put_with_lease("lamp", "on", lease).await.unwrap();
        client.put_with_lease("kept", "on", lease).await.unwrap();
        let written = client.put("kept", "on").await.unwrap();
        for _ in 0..2 {
            let leader = cluster.leader().await;
            cluster.kill(leader);
            client.keep_lease(lease).await.unwrap();
            assert!(client.get("lamp").await.unwrap().is_some());
        }
        let removed = removal(&client, written).await;
        assert_eq!(removed.key, "lamp");
        assert_eq!(client.get("lamp").await.unwrap(), None);
        assert_eq!(client.lease(lease).await.unwrap(), None);
        assert!(client.keep_lease(lease).await.is_err());
        assert!(client.get("kept").await.unwrap().is_some());
    });
}

/// The first removal after the revision `after`.
async fn removal(client: &Client, after: u64) -> Change {
    let mut watch = client.watch("", None, Some(after));
    let seen = async {
        loop {
            let mut changes = watch.next().await.expect("it goes on").into_iter();
            if let Some(change) = changes.find(|change| change.value.is_none()) {
                return change;
            }
        }
    };
    let too_long = async {
        async_io::Timer::after(PATIENCE).await;
        panic!("nothing was removed within {PATIENCE:?}");
    };
    or(seen, too_long).await
}

/// Two who want the same key: a transaction lets one of them have it, and tells the other who has.
#[test]
fn a_transaction_decides_between_two() {
    block_on(async {
        let cluster = Cluster::start(3);
        let clients = [cluster.client(PATIENCE), cluster.client(PATIENCE)];
        let take = |client: Client, name: &'static str| async move {
            let transaction = Transaction {
                compare: vec![Compare {
                    key: "owner".into(),
                    condition: Condition::Absent,
                }],
                then: vec![Step::Put {
                    key: "owner".into(),
                    value: name.into(),
                    lease: None,
                }],
                otherwise: vec![Step::Get {
                    key: "owner".into(),
                }],
            };
            client.transact(transaction).await.unwrap()
        };
        let [one, two] = clients;
        let (one, two) = zip(take(one, "one"), take(two, "two")).await;
        assert_ne!(one.succeeded, two.succeeded);
        let (name, loser) = match one.succeeded {
            true => ("one", two),
            false => ("two", one),
        };
        let [StepOutcome::Value(Some(owner))] = &loser.steps[..] else {
            panic!("{loser:?}");
        };
        assert_eq!(owner.data, name);
    });
}

/// The number of a session is easily guessed. All the same, nobody speaks in that of somebody else: such a command is not
/// applied, and the owner's next one is not taken for one that was.
#[test]
fn a_session_is_its_owners() {
    let cluster = Cluster::start(1);
    let node = block_on(cluster.leader());
    let io = IoThread::spawn("raw").expect("a thread");
    let ask_as = |name: &str| {
        let credentials = cluster.credentials(&Subject::client(name).expect("a name"));
        let address = cluster.addresses()[&node];
        let mut raw = Raw::connect(node.value(), address, &credentials, &io.runtime());
        let mut calls = raw.lane(CALL);
        move |request: &Request| raw.ask(&mut calls, request)
    };
    let (mut alice, mut mallory) = (ask_as("alice"), ask_as("mallory"));
    let opened = alice(&Request::Write(Command::OpenSession));
    let Response::Written(Outcome::SessionOpened { session }) = opened else {
        panic!("{opened:?}");
    };
    let put = |sequence, value: &'static str| Request::WriteOnce {
        tag: Tag {
            session,
            slot: 0,
            sequence,
        },
        command: Command::Put {
            key: "key".into(),
            value: value.into(),
        },
    };
    for sequence in [1, u64::MAX] {
        let stolen = mallory(&put(sequence, "stolen"));
        assert_eq!(stolen, Response::Written(Outcome::SessionExpired));
    }
    let own = alice(&put(1, "own"));
    assert!(
        matches!(own, Response::Written(Outcome::Written { .. })),
        "{own:?}"
    );
    let found = block_on(cluster.client(PATIENCE).get("key")).expect("a read");
    assert_eq!(found.expect("it was written").data, "own");
}
