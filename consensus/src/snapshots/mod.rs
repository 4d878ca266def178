//! Snapshots on their way from one member to another.
//!
//! `raft` decides that a member needs one and knows its last entry; the content goes past it, in pieces
//! that the receiver asks for. [`Giving`] is the side that has the snapshot, [`Taking`] the one that gets
//! it. What a node does with a snapshot is decided in `node/snapshots.rs`.

mod giving;
mod taking;

use bytes::Bytes;

pub(crate) use giving::Giving;
pub(crate) use taking::{Next, Taking};

use crate::config::ELECTION_TICKS;
use crate::types::{EntryId, NodeId};

/// After how many ticks without a piece a transfer is given up: 30 s by default, in which a link of
/// 64 kbit/s carries the largest message of default size.
pub(crate) const STALLED_TICKS: u64 = 120 * ELECTION_TICKS as u64;

/// A piece of a snapshot that a member asked for: to be read from the source and brought back through
/// [`RaftNode::handle_chunk`](crate::RaftNode::handle_chunk).
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "the member waits for the piece"]
pub struct ChunkWanted {
    /// Who asked.
    pub to: NodeId,
    /// The last entry in the snapshot.
    pub last: EntryId,
    /// The place after which the piece begins.
    pub after: Bytes,
}

/// What to do with the sink of snapshots. Whoever carries it out reports with the same number through
/// [`RaftNode::handle_taken`](crate::RaftNode::handle_taken).
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "the transfer goes on once this is done"]
pub struct Take {
    /// Names the transfer.
    pub number: u64,
    /// What to do.
    pub step: TakeStep,
}

/// One step of taking a snapshot in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TakeStep {
    /// Begin with the snapshot up to this entry.
    Begin(EntryId),
    /// Add this piece.
    Add(Bytes),
    /// All pieces are there.
    Finish,
}
