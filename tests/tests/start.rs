//! What `quorate start` offers besides a node: a choice of runtime, and a log that machines can read.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::thread;

use quorate_tests::process::{Cluster, eventually, executable, quorate, start_logging_to};
use serde_json::{Map, Value};

/// A node starts, writes, reads and stops in order under every runtime that can be chosen, and a
/// runtime that does not exist is refused with the names of those that do.
#[test]
fn k12_under_every_runtime() {
    let mut cluster = Cluster::new();
    for runtime in ["async-std", "smol", "tokio", "bare"] {
        let mut args = cluster.start_args_alone();
        args.push(format!("--runtime={runtime}"));
        cluster.start_with(1, &args);
        cluster.takes_writes(runtime);
        assert_eq!(
            cluster.signal(1, "TERM"),
            0,
            "{runtime}: {}",
            cluster.log(1)
        );
    }
    // One data folder, one node after the other: what the first has written, the last one has read.
    assert_eq!(cluster.log(1).matches("made a new log").count(), 1);

    let mut args = cluster.start_args_alone();
    args.push("--runtime=async-str".into());
    quorate(args).failed(64, &["async-str", "async-std", "smol", "tokio", "bare"]);
}

/// A node that logs to `log`, and where it says that it is ready.
fn logging_to(cluster: &Cluster, log: impl Into<Stdio>) -> Child {
    let mut args = cluster.start_args_alone();
    args.push("--log=debug".into());
    let (node, said) = start_logging_to(&args, log);
    assert!(said.contains("listening on"), "{said}");
    node
}

fn ends_in_order(mut node: Child) {
    drop(node.stdin.take());
    assert_eq!(node.wait().expect("it ends").code(), Some(0));
}

/// A node whose log cannot be written any more, because its reader is gone (journald that is restarted) or the disk is
/// full, serves on, and ends in order.
#[test]
fn k11_a_log_that_cannot_be_written_stops_no_node() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for log in [Stdio::piped(), full().into()] {
        let cluster = Cluster::new();
        let mut node = logging_to(&cluster, log);
        drop(node.stderr.take());
        cluster.run(&["kv", "put", "key", "value"]).succeeded();
        ends_in_order(node);
    }
}

/// The same where its reader is there and does not read: a pipe takes 64 KiB.
#[test]
fn k11_a_log_that_nobody_reads_stops_no_node() {
    let cluster = Cluster::new();
    let mut node = logging_to(&cluster, Stdio::piped());
    let mut pipe = node.stderr.take().unwrap();
    let args = ["bench", "put", "--clients=8", "--seconds=1"];
    let load = cluster.run(&args).succeeded();
    assert!(load.out.contains("errors       none"), "{load:#?}");
    cluster.run(&["kv", "put", "key", "value"]).succeeded();
    let log = thread::spawn(move || {
        let mut log = String::new();
        pipe.read_to_string(&mut log).unwrap();
        log
    });
    ends_in_order(node);
    assert!(log.join().unwrap().len() > 64 << 10, "it never was full");
}

/// A file that may not grow any more (`ulimit -f`) is told of as a full disk is, and costs nothing that was
/// acknowledged.
#[test]
fn a_limit_of_the_size_of_files_is_told_of() {
    let mut cluster = Cluster::new();
    // In units of 512 bytes: a log and a state fit, and some 20 MiB of entries.
    let mut node = limited(&cluster, "-f 80000");
    let value = vec![b'v'; 1_000_000];
    let put = |key: &String| {
        let args = ["kv", "put", key, "-", "--timeout=2s"];
        cluster.run_reading(&args, value.clone()).code == 0
    };
    let mut keys = (1..100).map(|key| key.to_string()).collect::<Vec<_>>();
    let written = keys.iter().take_while(|key| put(key)).count();
    keys.truncate(written);
    let mut ended = None;
    let ends = eventually(|| {
        ended = node.try_wait().unwrap();
        ended.is_some()
    });
    let told = cluster.log(1);
    assert!(ends, "{told}");
    assert_eq!(ended.unwrap().code(), Some(74), "{told}");
    assert!(
        told.contains("quorate: node 1 stopped: ") && told.contains("File too large"),
        "{told}"
    );
    assert!(written > 5, "{told}");

    cluster.start_with(1, &cluster.start_args_alone());
    for key in [&keys[0], &keys[written - 1]] {
        let found = cluster.run(&["kv", "get", key]).succeeded();
        assert_eq!(found.out.trim_end().len(), value.len());
    }
}

/// With too few file descriptors a node does not begin, and says what it needs; with as many as it says it works.
#[test]
fn k9_a_limit_of_descriptors_is_told_of() {
    let outcome = |limit| {
        let cluster = Cluster::new();
        let mut node = limited(&cluster, limit);
        let mut ready = String::new();
        let mut out = BufReader::new(node.stdout.take().unwrap());
        out.read_line(&mut ready).unwrap();
        if ready.contains("listening on") {
            cluster.takes_writes("key");
            ends_in_order(node);
            return None;
        }
        let code = node.wait().unwrap().code();
        let told = cluster.log(1);
        assert!(!told.contains("panicked"), "{limit}: {told}");
        Some((code, told))
    };
    for (limit, files) in [("-n 5", "5 files"), ("-n 63", "63 files")] {
        let (code, told) = outcome(limit).expect("it does not start");
        assert_eq!(code, Some(71), "{limit}: {told}");
        assert!(told.contains(files) && told.contains("ulimit -n"), "{told}");
    }
    assert_eq!(outcome("-n 64"), None);
}

/// A structured log is one JSON object a line, and says by name at which term and index what was
/// committed and how far the node is.
#[test]
fn structured_logs_carry_the_numbers_of_raft() {
    let mut cluster = Cluster::new();
    let mut args = cluster.start_args_alone();
    args.push("--log=debug".into());
    args.push("--log-format=json".into());
    cluster.start_with(1, &args);
    // With its answer, all before it is committed: the next write is committed alone.
    cluster.run(&["kv", "put", "a", "a"]).succeeded();
    let put = cluster.run(&["kv", "put", "a", "b", "--json"]).succeeded();
    let put: Value = serde_json::from_str(&put.out).unwrap();
    let revision = put["revision"].as_u64().unwrap();
    // The event is written before the answer, but by another thread than the one that answers.
    let mut committed = None;
    assert!(
        eventually(|| {
            let mut events = events(&cluster.log(1)).into_iter();
            committed =
                events.find(|event| says(event, "committed") && number(event, "index") == revision);
            committed.is_some()
        }),
        "no event for index {revision}: {}",
        cluster.log(1)
    );
    let committed = committed.unwrap();
    assert_eq!(committed["level"], "DEBUG");
    assert_eq!(number(&committed, "commit"), revision);
    assert_eq!(number(&committed, "first"), revision);
    assert_eq!(number(&committed, "entries"), 1);
    assert!(number(&committed, "applied") < revision);

    assert_eq!(cluster.signal(1, "TERM"), 0);
    let events = events(&cluster.log(1));
    let led: Vec<_> = events
        .iter()
        .filter(|event| says(event, "leader changed"))
        .collect();
    let [led] = led[..] else {
        panic!("not one change of leader: {led:#?}");
    };
    assert_eq!(led["level"], "INFO");
    assert_eq!(number(led, "term"), number(&committed, "term"));
    assert_eq!(number(led, "leader"), 1);
    assert_eq!(led["role"], "leader");
    assert!(number(led, "applied") <= number(led, "commit"));
    assert!(number(led, "commit") < revision);

    // Whatever is committed is committed once, in order, and from start to end without a gap.
    let mut indexes = BTreeSet::new();
    for event in events.iter().filter(|event| says(event, "committed")) {
        for index in number(event, "first")..=number(event, "index") {
            assert!(indexes.insert(index), "index {index} was committed twice");
        }
    }
    let (first, last) = (indexes.first().unwrap(), indexes.last().unwrap());
    assert_eq!(last - first + 1, indexes.len() as u64);
}

/// Node 1 as a cluster of one, under a limit as `ulimit` takes it.
fn limited(cluster: &Cluster, limit: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("ulimit {limit}; exec \"$@\""), "sh"])
        .arg(executable())
        .args(cluster.start_args_alone())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(cluster.path("log1")).expect("a log can be written"))
        .spawn()
        .expect("there is a shell")
}

/// Every line of `log` as an object. The last line may still be half written, and then is left out.
fn events(log: &str) -> Vec<Map<String, Value>> {
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    whole
        .lines()
        .map(|line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in `{line}`"))
        })
        .collect()
}

fn says(event: &Map<String, Value>, message: &str) -> bool {
    event.get("message").and_then(Value::as_str) == Some(message)
}

/// A field that is a number, or a number as text: types of Raft are displayed.
#[track_caller]
fn number(event: &Map<String, Value>, field: &str) -> u64 {
    match event.get(field) {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    }
    .unwrap_or_else(|| panic!("`{field}` is no number in {event:?}"))
}

/// A node that finds no data and knows of no peers founds nothing unless it is told to: its folder may be somewhere
/// else, and clients would write to a cluster that the others know nothing of. With its data it starts either way.
#[test]
fn e9_a_node_does_not_found_a_cluster_by_mistake() {
    let mut cluster = Cluster::new();
    let alone = cluster.start_args_alone();
    let unsaid: Vec<String> = alone
        .iter()
        .filter(|arg| *arg != "--alone")
        .cloned()
        .collect();
    quorate(&unsaid).failed(78, &["no data of a node", "--alone", "--peer"]);
    assert!(!cluster.path("data1").exists(), "nothing is left behind");
    for args in [&alone, &unsaid] {
        cluster.start_with(1, args);
        cluster.takes_writes("key");
        assert_eq!(cluster.signal(1, "TERM"), 0, "{}", cluster.log(1));
    }
    let joins = [&alone[..], &["--join".to_owned()]].concat();
    assert_eq!(quorate(joins).code, 64);
    // Nobody is founded by who wants to join, nor told so.
    fs::remove_dir_all(cluster.path("data1")).unwrap();
    let joins = [&unsaid[..], &["--join".to_owned()]].concat();
    let told = quorate(joins).failed(78, &["nobody to join", "--peer"]);
    assert!(!told.err.contains("found"), "{told:#?}");
    assert!(!cluster.path("data1").exists(), "nothing is left behind");
}
