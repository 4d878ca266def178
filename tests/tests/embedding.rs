//! The example of a service that embeds a node, as an operator runs it: three processes of it, with certificates of
//! `quorate certs`.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by failing")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use quorate_tests::ports::Ports;
use quorate_tests::process::{DEADLINE, eventually, example, quorate};

/// One process of the service. Dropped, it is killed.
struct Replica {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
}

impl Replica {
    /// Starts node `node` of those at `addresses`, and waits until it says that it listens.
    fn start(program: &Path, folder: &Path, node: usize, addresses: &[SocketAddr]) -> Self {
        let peers = (1..).zip(addresses).filter(|(peer, _)| *peer != node);
        let mut child = Command::new(program)
            .arg(folder.join(format!("n{node}")))
            .arg(addresses[node - 1].to_string())
            .args(peers.map(|(peer, address)| format!("{peer}={address}")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, output) = channel();
        thread::spawn(move || {
            for line in said.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let replica = Self {
            child,
            input,
            output,
        };
        let said = replica.line();
        assert_eq!(
            said,
            format!("node {node} listens on {}", addresses[node - 1])
        );
        replica
    }

    fn line(&self) -> String {
        let line = self.output.recv_timeout(DEADLINE);
        line.expect("it says something")
    }

    /// Types `line` and returns the answer.
    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        self.line()
    }

    /// Sends it a signal, and expects an orderly end.
    fn stop(mut self, signal: &str) {
        let sent = Command::new("kill")
            .args([format!("-{signal}"), self.child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        assert_eq!(self.line(), "stopped");
        let mut status = None;
        eventually(|| {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.expect("it ends").success());
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // It fails only for a process that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Three processes find each other, and each takes numbers, of which every one is added once: also while one of them has
/// been stopped with Ctrl-C, which ends in order, or killed. It comes back with all that was added.
#[test]
fn a_service_of_three_processes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    quorate(["certs", "init", "--cluster", "c1", "--out", &path("ca")]).succeeded();
    for node in ["1", "2", "3"] {
        let (ca, out) = (path("ca"), path(&format!("n{node}")));
        quorate(["certs", "issue", "--node", node, "--ca", &ca, "--out", &out]).succeeded();
    }
    let ports = Ports::claim(3);
    let addresses: Vec<SocketAddr> = ports.addresses().collect();
    let program = example("replicated-counter");
    let start = |node| Replica::start(&program, folder.path(), node, &addresses);
    let mut replicas: BTreeMap<usize, Replica> = (1..=3).map(|node| (node, start(node))).collect();

    let mut sum = 0;
    let mut add_everywhere = |replicas: &mut BTreeMap<usize, Replica>| {
        for (node, replica) in replicas {
            sum += 1;
            assert_eq!(replica.ask("1"), sum.to_string(), "at node {node}");
        }
        sum.to_string()
    };
    add_everywhere(&mut replicas);
    for node in 1..=3 {
        let gone = replicas.remove(&node).unwrap();
        match node {
            2 => drop(gone),
            _ => gone.stop("INT"),
        }
        let sum = add_everywhere(&mut replicas);
        let mut back = start(node);
        assert!(eventually(|| back.ask("") == sum), "node {node} is back");
        replicas.insert(node, back);
    }
    let sum = add_everywhere(&mut replicas);
    for replica in replicas.values_mut() {
        assert_eq!(replica.ask(""), sum);
    }
    for replica in replicas.into_values() {
        replica.stop("TERM");
    }
}
