//! Everything an operator, a client or a stranger can get wrong: each gives a message that names what was
//! wrong and what to do, the right exit code, no panic, and no harm to the rest of the cluster.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use quorate::kv::VALUE_BYTES_MAX;
use quorate_certs::{IssueOptions, Subject};
use quorate_tests::process::{Cluster, ca, eventually, issue, quorate};

const NEGATIVE: i32 = 1;
const USAGE: i32 = 64;
const DATA: i32 = 65;
const NO_INPUT: i32 = 66;
const UNAVAILABLE: i32 = 69;
const NOT_ALLOWED: i32 = 77;
const CONFIG: i32 = 78;

/// Mistakes on the command line are usage errors that name the flag.
#[test]
fn wrong_command_lines() {
    for (args, named) in [
        (vec!["start", "--colour", "red"], "--colour"),
        (vec!["frobnicate"], "frobnicate"),
        (vec!["kv", "put", "only-a-key"], "<VALUE>"),
        (vec![], "Usage"),
    ] {
        let ended = quorate(&args);
        assert_eq!(ended.code, USAGE, "{ended:#?}");
        assert!(ended.err.contains(named), "{ended:#?}");
    }
    for nobody in ["0.0.0.0:7002", "[::]:7002", "127.0.0.1:0"] {
        let place = format!("2={nobody}");
        for args in [
            &[
                "start",
                "--listen=127.0.0.1:7001",
                "--data-dir=data",
                "--cert=n1",
                "--peer",
                &place,
            ][..],
            &["members", "add", "4", "--address", nobody],
            &["kv", "get", "a", "--cert=client", "--node", &place],
        ] {
            let told = quorate(args);
            assert_eq!(told.code, USAGE, "{told:#?}");
            let nobody = format!("nobody can be reached at `{nobody}`");
            assert!(told.err.contains(&nobody), "{told:#?}");
        }
    }
    quorate(["start"]).failed(USAGE, &["--listen", "--data-dir", "--cert", "help:"]);
    quorate(["kv", "get", "a"]).failed(USAGE, &["--cert"]);
}

/// Files that are missing, no TOML, or contradict the certificate are named, with the line.
#[test]
fn k6_wrong_configurations() {
    let cluster = Cluster::new();
    let start = |config: &str| quorate(["start", "--config", &cluster.text(config)]);
    start("nowhere.toml").failed(NO_INPUT, &["nowhere.toml", "--config"]);

    fs::write(cluster.path("broken.toml"), "node = 1\nlisten = = 5\n").unwrap();
    start("broken.toml").failed(CONFIG, &["broken.toml:2", "not TOML"]);

    fs::write(
        cluster.path("wrong.toml"),
        "node = 1\nlisten = 7\ncolour = \"red\"\n",
    )
    .unwrap();
    start("wrong.toml").failed(
        CONFIG,
        &[
            "wrong.toml:2: listen",
            "wrong.toml:3: colour",
            "data-dir",
            "cert",
        ],
    );

    let mut other_node = cluster.start_args(1);
    other_node.push("--node=2".into());
    quorate(other_node).failed(CONFIG, &["node 2", "spiffe://c1/node/1", "help:"]);
}

/// Credentials that are missing, exposed, expired, or not a node's do not start a node.
#[test]
fn j23_wrong_credentials_to_start_with() {
    let cluster = Cluster::new();
    let start_as = |folder: &str| quorate(with(&cluster, 1, "--cert", &cluster.text(folder)));
    start_as("nowhere").failed(NO_INPUT, &["nowhere", "quorate certs issue"]);
    start_as("client").failed(CONFIG, &["spiffe://c1/client/tester", "node"]);

    let key = cluster.path("n1/key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    start_as("n1").failed(NOT_ALLOWED, &["key.pem", "chmod 600"]);

    expired(&cluster, &Subject::node(1).unwrap(), "old");
    start_as("old").failed(DATA, &["expired", "quorate certs issue"]);

    let mixed = cluster.path("n2/cert.pem");
    fs::copy(cluster.path("n3/cert.pem"), mixed).unwrap();
    start_as("n2").failed(DATA, &["key.pem", "cert.pem"]);
}

/// A port or a data directory that is taken, and the data of another node or cluster, stop a node
/// before it says anything to anyone.
#[test]
fn b17_e8_what_belongs_to_others() {
    let mut cluster = Cluster::started();
    let address = cluster.address(1).to_string();

    let taken_port = with(&cluster, 1, "--data-dir", &cluster.text("fresh"));
    quorate(taken_port).failed(UNAVAILABLE, &[&address, "in use"]);

    let taken_data = with(&cluster, 1, "--listen", "127.0.0.1:0");
    quorate(taken_data).failed(UNAVAILABLE, &["data1", "another"]);

    assert_eq!(cluster.signal(1, "TERM"), 0);
    let data_of_1 = with(&cluster, 2, "--data-dir", &cluster.text("data1"));
    // Node 2 itself still runs on its own address.
    let data_of_1 = replaced(data_of_1, "--listen", &address);
    quorate(data_of_1).failed(CONFIG, &["data1", "node"]);

    let other = ca("c2");
    let folder = cluster.path("other");
    issue(&other, &Subject::node(1).unwrap())
        .write(&folder)
        .unwrap();
    let other_cluster = with(&cluster, 1, "--cert", folder.to_str().unwrap());
    quorate(other_cluster).failed(CONFIG, &["data1", "c1", "c2"]);

    cluster.start(1);
    cluster.takes_writes("after");
}

/// Strangers and impostors are refused with a reason, and the cluster goes on.
#[test]
fn j3_j4_j8_j10_j11_wrong_peers() {
    let mut cluster = Cluster::started();
    assert_eq!(cluster.signal(3, "KILL"), 137);

    // The same names from another CA: a client gets told, and so does whoever reads the logs.
    let impostor = ca("c1");
    let client = Subject::client("tester").unwrap();
    issue(&impostor, &client)
        .write(&cluster.path("impostor"))
        .unwrap();
    let ended = cluster.run_as("impostor", &["kv", "get", "a", "--timeout", "2s"]);
    ended.failed(UNAVAILABLE, &["CA"]);
    issue(&impostor, &Subject::node(3).unwrap())
        .write(&cluster.path("impostor3"))
        .unwrap();
    let args = with(&cluster, 3, "--cert", &cluster.text("impostor3"));
    let args = replaced(args, "--data-dir", &cluster.text("impostor-data"));
    cluster.start_with(3, &args);
    assert!(
        eventually(|| cluster.log(3).contains("CA")),
        "the impostor is not told why it is refused: {}",
        cluster.log(3)
    );
    cluster.takes_writes("with an impostor around");
    assert_eq!(cluster.signal(3, "KILL"), 137);

    // Another cluster, and one that has expired.
    issue(&ca("c2"), &client)
        .write(&cluster.path("c2"))
        .unwrap();
    let ended = cluster.run_as("c2", &["kv", "get", "a", "--timeout", "2s"]);
    ended.failed(
        UNAVAILABLE,
        &[
            "node 1",
            "not from a CA of cluster c2",
            "nothing was changed",
        ],
    );
    expired(&cluster, &client, "old");
    cluster
        .run_as("old", &["kv", "get", "a"])
        .failed(DATA, &["expired"]);

    // A client may not do what an admin may, and a node's certificate is not a user's.
    let ended = cluster.run(&["transfer-leader", "--any"]);
    ended.failed(NOT_ALLOWED, &["admin"]);
    let ended = cluster.run_as("n3", &["kv", "put", "a", "b", "--timeout", "2s"]);
    ended.failed(NOT_ALLOWED, &["node 3", "quorate certs issue --client"]);

    cluster.start(3);
    cluster.takes_writes("after all");
}

/// Data over a limit is refused with the limit, and datagrams that mean nothing are no reason to stop.
#[test]
fn wrong_data() {
    let cluster = Cluster::started();
    let key = "k".repeat(2_000);
    cluster
        .run(&["kv", "put", &key, "v"])
        .failed(DATA, &["1024"]);
    let limit = VALUE_BYTES_MAX.to_string();
    cluster
        .run_reading(
            &["kv", "put", "large", "-"],
            vec![b'v'; VALUE_BYTES_MAX + 1],
        )
        .failed(DATA, &["standard input", &limit]);
    let absent = cluster.run(&["kv", "get", "large"]);
    assert_eq!(absent.code, NEGATIVE, "{absent:#?}");
    cluster
        .run_reading(&["kv", "put", "large", "-"], vec![b'v'; VALUE_BYTES_MAX])
        .succeeded();
    let found = cluster.run(&["kv", "get", "large", "--raw"]).succeeded();
    assert!(
        found.out == "v".repeat(VALUE_BYTES_MAX),
        "{}",
        found.out.len()
    );

    // Of what is not there, scripts hear in the form that they have asked for.
    for (what, said) in [
        ("keep", "null\n"),
        ("revoke", "{\"revoked\":false}\n"),
        ("show", "null\n"),
    ] {
        let gone = cluster.run(&["kv", "lease", what, "7", "--json"]);
        assert_eq!((gone.code, &*gone.out), (NEGATIVE, said), "{gone:#?}");
        cluster
            .run(&["kv", "lease", what, "7"])
            .failed(NEGATIVE, &["no such lease"]);
    }

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut noise: u64 = 0x9E37_79B9_7F4A_7C15;
    for round in 0..3_000_usize {
        let datagram: Vec<u8> = (0..round % 1_400)
            .map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                noise.to_le_bytes()[0]
            })
            .collect();
        for node in 1..=3 {
            socket.send_to(&datagram, cluster.address(node)).unwrap();
        }
    }
    cluster.takes_writes("after noise");
}

/// The arguments that start `node`, but with `flag` as `value`.
fn with(cluster: &Cluster, node: u64, flag: &str, value: &str) -> Vec<String> {
    replaced(cluster.start_args(node), flag, value)
}

fn replaced(mut args: Vec<String>, flag: &str, value: &str) -> Vec<String> {
    let prefix = format!("{flag}=");
    let place = args.iter_mut().find(|arg| arg.starts_with(&prefix));
    *place.expect("the flag is among the arguments") = prefix + value;
    args
}

/// A certificate that expired an hour ago.
fn expired(cluster: &Cluster, subject: &Subject, folder: &str) {
    let hour = Duration::from_secs(3_600);
    let options = IssueOptions {
        now: SystemTime::now() - 3 * hour,
        life: Some(hour),
    };
    let issued = cluster.ca().issue(subject, &options).expect("issued");
    issued.write(&cluster.path(folder)).expect("written");
}
