//! Raft consensus that speaks only authenticated QUIC, keeps its promises on disk, and runs on any async
//! runtime; and a replicated key-value store built on it.
//!
//! Three ways in: run the `quorate` binary; embed a replicated state machine with [`Node`]; or use the
//! crate `quorate-quic-transport` alone.
//!
//! A replicated state machine is a [`StateMachine`] and a [`Node`]; for a state that fits in memory, [`saved`] saves
//! it, so that the log does not grow for ever and members get snapshots, and [`once`] applies each command once. Everything between two nodes is
//! mutually authenticated TLS 1.3; everything acknowledged is fsynced on a majority. There is no switch
//! for either.
//!
//! ```no_run
//! use bytes::Bytes;
//! use quorate::{Batch, Credentials, EntryId, Node, NodeConfig, StateMachine, StateMachineError};
//!
//! /// Adds up numbers.
//! struct Sum(u64);
//!
//! impl StateMachine for Sum {
//!     fn applied(&self) -> EntryId {
//!         quorate::ORIGIN // Kept in memory only: the log brings everything back.
//!     }
//!     fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
//!         let mut answers = Vec::new();
//!         for command in &batch.commands {
//!             self.0 += command.data.len() as u64;
//!             answers.push(self.0.to_string().into());
//!         }
//!         Ok(answers)
//!     }
//!     fn query(&mut self, _query: &[u8]) -> Result<Bytes, StateMachineError> {
//!         Ok(self.0.to_string().into())
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let credentials = Credentials::load("n1".as_ref())?;
//! let config = NodeConfig::new("127.0.0.1:7001".parse()?, "n1/data");
//! let node = Node::builder(config, credentials).start(Sum(0))?;
//! let answer = node.propose("seven b".into()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A client of the key-value store has an I/O thread of its own, which outlives it; its futures can be awaited anywhere:
//!
//! ```no_run
//! use quorate::kv::{Client, ClientConfig, ClientError};
//! use quorate::transport::runtime::IoThread;
//! use quorate::{Credentials, NodeId};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let node = NodeId::new(1).expect("not zero");
//! let nodes = vec![(node, "127.0.0.1:7001".parse()?)]; // it names the others
//! let config = ClientConfig::new(nodes, Credentials::load("alice".as_ref())?);
//! let io = IoThread::spawn("client")?;
//! let client = Client::connect(config, io.runtime())?;
//! match client.put("greeting", "hello").await {
//!     Ok(revision) => println!("written at revision {revision}"),
//!     Err(ClientError::OutcomeUnknown { .. }) => println!("look before you repeat it"),
//!     Err(error) => println!("nothing happened: {error}"),
//! }
//! client.close().await;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

#[cfg(test)]
mod asking;
mod exposition;
pub mod kv;
mod node;
pub mod once;
mod planted;
pub mod saved;

/// Certificates and keys: to make them, to load them, to ask who somebody is.
pub use quorate_certs as certs;
/// Consensus without a transport, a disk or threads.
pub use quorate_consensus as consensus;
/// The log on the disk.
pub use quorate_persist as persist;
/// Messages and calls between identities.
pub use quorate_quic_transport as transport;

pub use exposition::prometheus_text;
pub use node::{
    ADDRESSES_MAX, CommandError, DISK_RESERVE_BYTES_DEFAULT, DiskNearlyFull, DiskSpace, EVENTS_MAX,
    Events, LOG_FILE, Node, NodeBuilder, NodeConfig, NodeHandle, Obstacle, PEERS_FILE, Service,
    StartError, SubmitError,
};
pub use quorate_certs::{Credentials, CredentialsError, Identity, Role as CallerRole};
pub use quorate_consensus::{
    Batch, ChangeRefused, Chunk, Command, EntryId, Event, Fatal, LeaderChange, LogIndex,
    Membership, MembershipChange, MembershipError, NodeId, ORIGIN, PLACE_BYTES_MAX, PeerProgress,
    ProposeError, RaftHandle, ReadError, Role, SnapshotSink, SnapshotSource, Stale, StateMachine,
    StateMachineError, StateScan, Status, Stopped, Term, TransferError,
};
pub use quorate_persist::StoreIdentity;
pub use quorate_quic_transport::OtherIdentity;
