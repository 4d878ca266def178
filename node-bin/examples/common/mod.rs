//! Three nodes in one process, each with a certificate, a socket and a folder of its own, as they would have
//! on three machines. A service starts one node, as the example `replicated-counter` does; everything here but that is
//! the example's.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;

use quorate::{Credentials, NodeConfig, NodeId};
use quorate_certs::{Ca, CaOptions, ClusterName, IssueOptions, Subject};
use tempfile::TempDir;

/// What a node is started with.
pub(crate) type Seat = (NodeConfig, Credentials);

/// A CA, and where three nodes live.
pub(crate) struct Cluster {
    ca: Ca,
    folder: TempDir,
    addresses: BTreeMap<NodeId, SocketAddr>,
}

impl Cluster {
    /// Makes the CA in memory and finds three free ports.
    pub(crate) fn new(name: &str) -> Result<Self, Box<dyn Error>> {
        // All three are held at once, so that they differ.
        let sockets: Vec<UdpSocket> = (0..3)
            .map(|_| UdpSocket::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()?;
        let mut addresses = BTreeMap::new();
        for (socket, node) in sockets.iter().zip(1..) {
            let node = NodeId::new(node).ok_or("nodes are counted from one")?;
            addresses.insert(node, socket.local_addr()?);
        }
        Ok(Self {
            ca: Ca::generate(&ClusterName::new(name)?, &CaOptions::default())?,
            folder: tempfile::tempdir()?,
            addresses,
        })
    }

    /// The nodes, each with what it is started with.
    pub(crate) fn seats(&self) -> Result<Vec<Seat>, Box<dyn Error>> {
        self.addresses.keys().map(|&node| self.seat(node)).collect()
    }

    fn seat(&self, node: NodeId) -> Result<Seat, Box<dyn Error>> {
        let folder: PathBuf = self.folder.path().join(node.to_string());
        let mut config = NodeConfig::new(self.addresses[&node], folder);
        config.peers = (self.addresses.iter())
            .map(|(&node, &at)| (node, vec![at]))
            .collect();
        Ok((config, self.credentials(&Subject::Node(node.into()))?))
    }

    /// Where the nodes are, for a client.
    #[allow(dead_code, reason = "not every example has clients")]
    pub(crate) fn endpoints(&self) -> Vec<(NodeId, SocketAddr)> {
        self.addresses
            .iter()
            .map(|(&node, &at)| (node, at))
            .collect()
    }

    /// A certificate of this cluster with its key, in memory.
    pub(crate) fn credentials(&self, subject: &Subject) -> Result<Credentials, Box<dyn Error>> {
        let issued = self.ca.issue(subject, &IssueOptions::default())?;
        Ok(issued.credentials()?)
    }
}
