//! Decides what is committed: a Raft core without clock, thread, entropy or I/O, and one thin async
//! driver around it.
//!
//! The core, [`RaftNode`], wraps the `raft` crate. It takes inputs (`handle_*`, `propose`, `read`) and
//! says through [`RaftNode::poll_ready`] what is to be sent, written, applied and answered. What depends
//! on a write leaves it only for the ticket that [`persist`] gives after the write.
//!
//! The driver, from [`assemble`], carries these to the four seams that an embedder implements:
//! [`Transport`], [`LogStore`], [`StateMachine`] and [`Clock`]. It knows no async runtime; its futures run
//! on any.
//!
//! This crate never touches the network, a disk, TLS or a wire encoding.
#![forbid(unsafe_code)]

mod alone;
mod compaction;
mod comparison;
mod config;
mod convert;
mod driver;
mod durability;
mod entry;
mod error;
mod founding;
mod gate;
mod jitter;
mod log_view;
mod membership;
mod message;
mod node;
mod planted;
mod proposals;
mod reads;
mod ready;
mod repeats;
mod sanitize;
mod size;
mod slog_bridge;
mod snapshots;
mod stall_watch;
mod start;
mod status;
mod types;

pub use config::{Config, SCAN_BYTES_PER_TICK};
pub use driver::{
    Applier, Batch, Chunk, Clock, Command, Courier, Driver, DriverControl, INBOX_BYTES_MAX,
    INBOX_REQUESTS_MAX, LogStore, MESSAGES_BYTES_MAX, MESSAGES_MAX, PLACE_BYTES_MAX, Parts,
    READS_BYTES_MAX, READS_MAX, RaftHandle, Running, SnapshotSink, SnapshotSource, Stale,
    StateMachine, StateMachineError, StateScan, Stopped, StoreError, Transport, Undelivered,
    Writer, assemble,
};
pub use durability::{
    Append, AppendTicket, Cut, LogWrite, Recovered, memberships_of, persist, read_tail,
};
pub use entry::{ENTRY_OVERHEAD_BYTES, Entry, FIRST_INDEX, ORIGIN, Payload};
pub use error::{Fatal, MembershipError, ProposeError, ReadError, StartError, TransferError};
pub use log_view::Fetch;
pub use membership::{
    ChangeRefused, InvalidMembership, MEMBERS_MAX, MEMBERSHIP_BYTES_MAX, Membership,
    MembershipChange, NODE_ID_STEP_MAX, Standing,
};
pub use message::{Body, Message, ReadContext, Transfer};
pub use node::RaftNode;
pub use proposals::ProposalToken;
pub use reads::ReadToken;
pub use ready::{Committed, Event, LeaderChange, Ready};
pub use sanitize::Refused;
pub use snapshots::{ChunkWanted, Take, TakeStep};
pub use status::{PeerProgress, Status};
pub use types::{EntryId, HardState, LogIndex, NodeId, Role, Term};
