//! A cluster of child processes of this very executable, in one folder.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use async_io::Timer;
use quorate_certs::{Ca, CaOptions, ClusterName, IssueOptions, Subject};
use quorate_consensus::NodeId;

use super::POLL_INTERVAL;
use crate::cli::{Failure, exit};

const NODES: u64 = 3;

/// Where ports are looked for: below those that systems hand out (Linux from 32,768), since otherwise any socket
/// that anyone opens may get the port of the node that is killed and restarted, or of one that `--keep` keeps.
const PORTS: Range<u16> = 28_100..32_700;

/// How much of a node's log is quoted when it does not start.
const LOG_LINES_SHOWN: usize = 5;

/// Three nodes, running or not. Dropping it kills those that run.
///
/// Invariant: every node has an address of its own, and its files lie in `folder`.
pub(super) struct Cluster {
    folder: PathBuf,
    addresses: BTreeMap<NodeId, SocketAddr>,
    running: BTreeMap<NodeId, Running>,
}

/// A child process. Its standard input is held open: when this process ends, however it ends, the
/// child sees that and stops by itself.
struct Running {
    child: Child,
    /// Its first line of output, which it writes when it is ready; closed without one if it died.
    ready: Receiver<String>,
}

impl Cluster {
    /// Makes a CA, certificates, and a configuration for each node. `folder` must not exist.
    pub(super) fn create(folder: &Path) -> Result<Self, Failure> {
        let cannot = |what: &dyn std::fmt::Display| {
            let folder = folder.display();
            Failure::new(
                exit::CANNOT_CREATE,
                format!("cannot create {folder}: {what}"),
            )
        };
        DirBuilder::new()
            .mode(0o700) // keys lie in it
            .create(folder)
            .map_err(|error| {
                cannot(&error).help("name a folder that does not exist, in one that does")
            })?;
        let folder = folder.canonicalize().map_err(|error| cannot(&error))?;
        let name = ClusterName::new("demo").expect("a valid name");
        let ca = Ca::create(&folder.join("ca"), &name, &CaOptions::default())
            .map_err(|error| cannot(&error))?;
        let cluster = Self {
            addresses: free_addresses().map_err(|error| cannot(&error))?,
            running: BTreeMap::new(),
            folder,
        };
        let client = Subject::client("demo").expect("a valid name");
        let mut holders = vec![(client, cluster.client_folder())];
        for node in cluster.nodes() {
            holders.push((Subject::Node(node.into()), cluster.node_folder(node)));
            fs::write(cluster.config_file(node), cluster.config(node))
                .map_err(|error| cannot(&error))?;
        }
        for (subject, folder) in holders {
            ca.issue(&subject, &IssueOptions::default())
                .map_err(|error| cannot(&error))?
                .write(&folder)
                .map_err(|error| cannot(&error))?;
        }
        Ok(cluster)
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.addresses.keys().copied().collect()
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses.values().copied()
    }

    pub(super) fn client_folder(&self) -> PathBuf {
        self.folder.join("client")
    }

    pub(super) fn config_file(&self, node: NodeId) -> PathBuf {
        self.folder.join(format!("n{}.toml", node.value()))
    }

    fn node_folder(&self, node: NodeId) -> PathBuf {
        self.folder.join(format!("n{}", node.value()))
    }

    fn log_file(&self, node: NodeId) -> PathBuf {
        self.folder.join(format!("n{}.log", node.value()))
    }

    fn config(&self, node: NodeId) -> String {
        let (id, listen) = (node.value(), self.addresses[&node]);
        let mut config = format!(
            "node = {id}\nlisten = \"{listen}\"\ncert = \"n{id}\"\ndata-dir = \"n{id}/data\"\n\n[peers]\n"
        );
        for (peer, address) in self.addresses.iter().filter(|(peer, _)| **peer != node) {
            writeln!(config, "{} = \"{address}\"", peer.value()).expect("a String takes any text");
        }
        config
    }

    /// Starts `node` and does not wait for it.
    pub(super) fn start(&mut self, node: NodeId) -> Result<(), Failure> {
        let cannot = |error: std::io::Error| {
            let id = node.value();
            Failure::new(exit::OS, format!("cannot start node {id}: {error}"))
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file(node))
            .map_err(cannot)?;
        let mut child = Command::new(std::env::current_exe().map_err(cannot)?)
            // Folders for what is temporary may be small, and a thousand keys need no reserve.
            .args([
                "start",
                "--until-stdin-closes",
                "--disk-reserve",
                "0",
                "--config",
            ])
            .arg(self.config_file(node))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0) // Ctrl-C is for the demonstration, which then stops its nodes
            .spawn()
            .map_err(cannot)?;
        let output = child.stdout.take().expect("standard output is piped");
        let (sender, ready) = async_channel::bounded(1);
        self.running.insert(node, Running { child, ready });
        thread::Builder::new()
            .name(format!("demo-n{}", node.value()))
            .spawn(move || {
                let mut lines = BufReader::new(output).lines();
                if let Some(Ok(line)) = lines.next() {
                    let _ = sender.try_send(line);
                }
                // Read on, so that the node never finds its output closed.
                while let Some(Ok(_)) = lines.next() {}
            })
            .map_err(cannot)?;
        Ok(())
    }

    /// Waits until `node` says that it is ready.
    pub(super) async fn ready(&self, node: NodeId, within: Duration) -> Result<(), Failure> {
        let running = self
            .running
            .get(&node)
            .expect("only started nodes are awaited");
        let line = futures_lite::future::or(async { running.ready.recv().await.ok() }, async {
            Timer::after(within).await;
            None
        });
        if line.await.is_some() {
            return Ok(());
        }
        let log = fs::read_to_string(self.log_file(node)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  ");
        let id = node.value();
        Err(Failure::new(
            exit::UNAVAILABLE,
            format!("node {id} did not start:\n  {last}"),
        ))
    }

    /// Ends `node` as a power cut would: with no chance to say or save anything.
    pub(super) fn kill(&mut self, node: NodeId) -> Result<(), Failure> {
        let Some(mut running) = self.running.remove(&node) else {
            return Ok(());
        };
        running.end().map_err(|error| {
            Failure::new(
                exit::OS,
                format!("cannot kill node {}: {error}", node.value()),
            )
        })
    }

    /// Lets every node shut down in order, and kills what has not after `within`.
    pub(super) async fn stop(&mut self, within: Duration) {
        let deadline = Instant::now() + within;
        for running in self.running.values_mut() {
            drop(running.child.stdin.take()); // asks it to stop
        }
        while Instant::now() < deadline {
            self.running
                .retain(|_, running| matches!(running.child.try_wait(), Ok(None)));
            if self.running.is_empty() {
                return;
            }
            Timer::after(POLL_INTERVAL).await;
        }
        self.running.clear(); // dropping one kills it
    }
}

impl Running {
    fn end(&mut self) -> std::io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It fails only for a process that has ended already.
        let _ = self.end();
    }
}

/// A free UDP port for each node. All are held at once, so that they differ.
fn free_addresses() -> std::io::Result<BTreeMap<NodeId, SocketAddr>> {
    // Two demonstrations at a time do not both try the same ones first.
    let first = PORTS.start + (RandomState::new().hash_one(()) % PORTS.len() as u64) as u16;
    let mut held = Vec::new();
    let mut unusable = None;
    for port in (first..PORTS.end).chain(PORTS.start..first) {
        match UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(socket) => held.push(socket),
            Err(error) => unusable = Some(error),
        }
        if held.len() == NODES as usize {
            let nodes = (1..).filter_map(NodeId::new);
            let addresses = held.iter().map(UdpSocket::local_addr);
            return nodes.zip(addresses).map(|(id, at)| Ok((id, at?))).collect();
        }
    }
    Err(unusable.expect("there are more ports than nodes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::Flags;

    /// What is written for a node is a configuration that `quorate start` accepts, and its
    /// certificate is usable.
    #[test]
    fn the_configuration_is_accepted() {
        let temporary = tempfile::tempdir().unwrap();
        let cluster = Cluster::create(&temporary.path().join("demo")).unwrap();
        for node in cluster.nodes() {
            let flags = Flags {
                config: Some(cluster.config_file(node)),
                ..Flags::default()
            };
            let settings = flags.settings().unwrap();
            assert_eq!(settings.node, Some(node));
            assert_eq!(settings.listen.literal(), Some(cluster.addresses[&node]));
            assert_eq!(settings.peers.len(), 2);
            let credentials = crate::cli::credentials(&settings.cert).unwrap();
            assert_eq!(credentials.identity().node_id(), Some(node.into()));
        }
    }

    /// A folder that exists is left alone.
    #[test]
    fn nothing_is_overwritten() {
        let temporary = tempfile::tempdir().unwrap();
        let failure = Cluster::create(temporary.path()).err().unwrap();
        assert_eq!(failure.code, exit::CANNOT_CREATE);
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }
}
