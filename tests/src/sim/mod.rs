//! Level 2: the whole stack, from the client to the disk, in a world where everything follows from a seed.
//!
//! What runs is the product: the key-value store and its client, or a state that is saved; the node, Raft,
//! QUIC, TLS, redb. What is simulated is what lies outside of it: time, the schedule, the network, the disk,
//! and chance. One thread runs it all, so that a seed gives the same bytes on the wire in every process.
//!
//! Modelled away: the kernel's UDP and file system, real threads (each node's tasks take turns, and a
//! write is one step, whose time passes before it), and several packets in one system call.
//!
//! To add a fault: an arm in `inject`; a promise: a few lines in `book`; something to do: `workload`.

mod book;
mod chance;
mod clock;
mod disk;
mod engine;
mod inject;
mod network;
mod notes;
mod pki;
mod run;
mod runtime;
mod trace;
mod watch;
mod workload;
mod world;

pub use disk::Failure as DiskFailure;
pub use engine::HostId;
pub use network::Link;
pub use run::{Report, report, run};
pub use world::{CLIENTS_MAX, Image, NODES_MAX, Submitted, World, client_host, node_host};
