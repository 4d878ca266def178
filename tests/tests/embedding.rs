//! The example of a service that embeds a node, as an operator runs it: three processes of it, with certificates of
//! `quorate certs`.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by failing")]

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

/// Adds `step` to `before` at whoever leads, and returns who that is.
fn add(replicas: &mut [Replica], before: i64, step: i64) -> usize {
    let mut leader = None;
    let added = eventually(|| {
        leader = replicas.iter_mut().position(|replica| {
            // Where the outcome is unknown, a read knows it.
            let mut lines = [step.to_string(), String::new()].into_iter();
            let sum = lines.find_map(|line| replica.ask(&line).parse::<i64>().ok());
            sum == Some(before + step)
        });
        leader.is_some()
    });
    assert!(added, "nobody adds");
    leader.unwrap()
}

/// Three processes find each other, add at their leader and read everywhere; a leader that is stopped with Ctrl-C
/// ends in order, the others go on, and it comes back with all that was added.
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
    let mut replicas: Vec<Replica> = (1..=3).map(start).collect();

    add(&mut replicas, 0, 40);
    let leader = add(&mut replicas, 40, 2);
    for replica in &mut replicas {
        assert_eq!(replica.ask(""), "42");
    }
    replicas.remove(leader).stop("INT");
    add(&mut replicas, 42, 100);
    let mut back = start(leader + 1);
    assert!(eventually(|| back.ask("") == "142"), "it is back");
    replicas.push(back);
    for replica in replicas {
        replica.stop("TERM");
    }
}
