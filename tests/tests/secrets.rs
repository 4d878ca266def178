//! Logs show neither keys nor values nor the key of a certificate (SECURITY.md), however much is logged.
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::fs;
use std::process::Command;

use bytes::Bytes;
use quorate::kv::{self, KEY_BYTES_MAX, Request, Response};
use quorate_certs::Subject;
use quorate_quic_transport::quinn::rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use quorate_quic_transport::runtime::IoThread;
use quorate_tests::process::{Cluster, Ended, eventually, executable};
use quorate_tests::raw::{CALL, Raw};
use serde_json::Value;

const KEY: &str = "PatientMarionAdler";
const VALUE: &str = "AllergicToOrchids";
const OTHER_VALUE: &str = "CuredOfOrchids";

/// What `text` must not show, by name.
struct Secrets(Vec<(String, Vec<u8>)>);

impl Secrets {
    /// Keys, values, and the private keys of the certificates in `folders`.
    fn of(cluster: &Cluster, folders: &[&str]) -> Self {
        let mut secrets = Self(Vec::new());
        for (name, secret) in [("key", KEY), ("value", VALUE), ("other value", OTHER_VALUE)] {
            secrets.0.push((name.into(), secret.into()));
        }
        for folder in folders {
            let pem = fs::read_to_string(cluster.path(folder).join("key.pem")).unwrap();
            let body = pem.lines().filter(|line| !line.starts_with('-'));
            secrets
                .0
                .extend(body.map(|line| (format!("{folder}/key.pem"), line.into())));
            let number = (format!("the number in {folder}/key.pem"), private(&pem));
            secrets.0.push(number);
        }
        secrets
    }

    /// Asserts that `log` shows none of them, as bytes are written anywhere.
    #[track_caller]
    fn are_not_in(&self, whose: &str, log: &str) {
        for (name, secret) in &self.0 {
            if let Some(line) = shown(log, secret) {
                panic!("the log of {whose} shows the {name}: {line}");
            }
        }
    }
}

/// What must stay secret of an Ed25519 key (RFC 8410): what else is in the file is in the certificate, too.
fn private(pem: &str) -> Vec<u8> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let der = key.secret_der();
    // An octet string of 32 in another one.
    let before = [0x04, 0x22, 0x04, 0x20];
    let at = der.windows(before.len()).position(|at| at == before);
    let number = &der[at.expect("an Ed25519 key") + before.len()..];
    number[..32].into()
}

/// The line that shows `secret`: as text, in hexadecimal digits, or as numbers.
fn shown<'a>(log: &'a str, secret: &[u8]) -> Option<&'a str> {
    let listed: Vec<String> = secret.iter().map(u8::to_string).collect();
    let escaped = format!("{:?}", Bytes::copy_from_slice(secret));
    let forms = [
        String::from_utf8_lossy(secret).into_owned(),
        escaped.trim_start_matches('b').trim_matches('"').into(),
        secret.iter().map(|byte| format!("{byte:02x}")).collect(),
        listed.join(", "),
    ];
    let shows = |line: &&str| forms.iter().any(|form| line.contains(form));
    log.lines().find(shows)
}

/// Runs a command that logs everything, and asserts that it showed nothing.
fn run(cluster: &Cluster, secrets: &Secrets, cert: &str, args: &[&str]) -> Ended {
    let nodes = (1..=3).map(|node| format!("{node}={}", cluster.address(node)));
    let output = Command::new(executable())
        .args(args)
        .env("QUORATE_LOG", "trace")
        .env("QUORATE_CERT", cluster.path(cert))
        .env("QUORATE_NODES", nodes.collect::<Vec<_>>().join(","))
        .output();
    let output = output.expect("the executable runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let ended = Ended {
        code: output.status.code().expect("it ends by itself"),
        out: text(output.stdout),
        err: text(output.stderr),
    };
    assert!(ended.err.contains("TRACE"), "{args:?}: {ended:#?}");
    // What it says itself is an answer to whoever asked.
    let logged = |line: &&str| !line.starts_with("quorate: ");
    let log: Vec<&str> = ended.err.lines().filter(logged).collect();
    secrets.are_not_in(&format!("{args:?}"), &log.join("\n"));
    ended
}

/// A request of a client that does not keep the limits, which the node refuses.
fn is_refused(cluster: &Cluster) {
    let io = IoThread::spawn("careless").unwrap();
    let credentials = cluster.credentials(&Subject::client("careless").unwrap());
    let mut raw = Raw::connect(1, cluster.address(1), &credentials, &io.runtime());
    let mut calls = raw.lane(CALL);
    let put = Request::Write(kv::Command::Put {
        key: Bytes::from(KEY.repeat(KEY_BYTES_MAX / KEY.len() + 1)),
        value: Bytes::from(VALUE),
    });
    let answer = raw.ask(&mut calls, &put);
    assert!(matches!(answer, Response::Refused(_)), "{answer:?}");
}

/// Keys and values pass through three nodes that log everything, by every kind of request, a backup, a request that is
/// refused, a reload and a start that reads them from the disk; no log shows one, nor what is in a `key.pem`, and
/// neither does what the commands log.
#[test]
fn logs_show_no_keys_and_no_values() {
    let mut cluster = Cluster::new();
    let traced = |cluster: &Cluster, node| [cluster.start_args(node), vec!["--log=trace".into()]];
    for node in 1..=3 {
        cluster.start_with(node, &traced(&cluster, node).concat());
    }
    let secrets = Secrets::of(&cluster, &["n1", "n2", "n3", "client", "admin"]);
    let kv = |args: &[&str]| run(&cluster, &secrets, "client", &[&["kv"], args].concat());
    let put = kv(&["put", KEY, VALUE, "--json"]).succeeded();
    let put: Value = serde_json::from_str(&put.out).unwrap();
    let before = (put["revision"].as_u64().unwrap() - 1).to_string();
    assert!(kv(&["get", KEY]).succeeded().out.contains(VALUE));
    let swap = ["cas", KEY, "--expect", VALUE, "--set", OTHER_VALUE];
    kv(&swap).succeeded();
    assert_ne!(kv(&swap).code, 0);
    let condition = format!("value {KEY} {OTHER_VALUE}");
    let then = format!("put {KEY} {VALUE}");
    kv(&["txn", "--if", &condition, "--then", &then]).succeeded();
    assert!(
        kv(&["range", "--prefix", KEY])
            .succeeded()
            .out
            .contains(KEY)
    );
    kv(&["put", KEY, VALUE, "--ttl=1h"]).succeeded();
    let watch = ["watch", "--prefix", KEY, "--after", &before, "--limit=3"];
    assert!(kv(&watch).succeeded().out.contains(OTHER_VALUE));
    let backup = cluster.text("backup");
    let save = ["snapshot", "save", &backup];
    run(&cluster, &secrets, "admin", &save).succeeded();
    let refused = ["snapshot", "save", &cluster.text("another")];
    assert_ne!(run(&cluster, &secrets, "client", &refused).code, 0);
    is_refused(&cluster);
    cluster.send(1, "HUP");
    let loaded = || cluster.log(1).contains("certificate loaded again");
    assert!(eventually(loaded), "{}", cluster.log(1));
    for node in 1..=3 {
        assert_eq!(cluster.signal(node, "KILL"), 137);
    }
    for node in 1..=3 {
        cluster.start_with(node, &traced(&cluster, node).concat());
    }
    let read = run(&cluster, &secrets, "client", &["kv", "get", KEY]).succeeded();
    assert!(read.out.contains(VALUE));

    for node in 1..=3 {
        assert_eq!(cluster.signal(node, "TERM"), 0);
        let log = cluster.log(node);
        for said in ["TRACE", "committed", "made a new log", "leader changed"] {
            assert!(log.contains(said), "node {node} did not log `{said}`");
        }
        secrets.are_not_in(&format!("node {node}"), &log);
    }
}

/// Negative control: what is shown is found in every form, and what is not is not.
#[test]
fn control_forms() {
    for line in [
        "put PatientMarionAdler".to_owned(),
        format!("key={:?}", Bytes::from(KEY)),
        format!("key={:?}", KEY.as_bytes()),
        "key=50617469656e744d6172696f6e41646c6572".to_owned(),
    ] {
        let log = format!("first\n{line}\nlast");
        assert_eq!(shown(&log, KEY.as_bytes()), Some(&*line));
        assert_eq!(shown(&log, VALUE.as_bytes()), None);
    }
    let number = [0, 200, b'"', 7];
    let log = format!("key={:?}", Bytes::copy_from_slice(&number));
    assert!(shown(&log, &number).is_some());
}
