//! What members say to each other.
//!
//! Own types, converted to the `raft` crate's after the checks of [`sanitize`](crate::sanitize):
//! no byte from the network reaches protobuf (RUSTSEC-2024-0437). Sender and receiver are not part of
//! a message; they are the two verified ends of the connection that carried it.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::entry::Entry;
use crate::membership::Membership;
use crate::size::Size;
use crate::types::{EntryId, LogIndex, Term};

/// One message between members.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Message {
    /// The sender's term; in a pre-vote request and its grant, the term asked for.
    pub term: Term,
    /// What is said.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Body {
    /// AppendEntries (Raft paper, section 5.3).
    Append {
        /// The entry just before `entries`.
        previous: EntryId,
        /// The leader's commit index.
        commit: LogIndex,
        /// New entries, contiguous. None when only the commit index is news.
        entries: Vec<Entry>,
    },
    /// All entries up to `last` are durable here and equal to the leader's.
    AppendAccepted {
        /// The last index that matches.
        last: LogIndex,
        /// The commit index of the sender.
        commit: LogIndex,
    },
    /// The entry before the new ones is missing or different here.
    AppendRejected {
        /// The index of the `previous` that did not match.
        previous: LogIndex,
        /// The last entry here that may match (Raft paper, end of section 5.3).
        hint: EntryId,
        /// The commit index of the sender.
        commit: LogIndex,
    },
    /// RequestVote, or its rehearsal PreVote (thesis, section 9.6).
    RequestVote {
        /// Whether it is the rehearsal, which changes nobody's term.
        pre: bool,
        /// The candidate's last entry.
        last: EntryId,
        /// The last entry the candidate knows to be committed.
        commit: EntryId,
        /// Whether the leader asked for this election (thesis, section 3.10), so that the voter need
        /// not wait until it misses its leader.
        transfer: bool,
    },
    /// The answer to `RequestVote`.
    Vote {
        /// Whether it answers the rehearsal.
        pre: bool,
        /// Whether the vote is given.
        granted: bool,
        /// With a refusal, the last entry the voter knows to be committed.
        commit: EntryId,
    },
    /// The leader is alive.
    Heartbeat {
        /// What the receiver is known to hold and may commit.
        commit: LogIndex,
        /// A read that waits for a majority to confirm the leader.
        read: Option<ReadContext>,
    },
    /// The answer to `Heartbeat`.
    HeartbeatResponse {
        /// The commit index of the sender.
        commit: LogIndex,
        /// Echoed from the heartbeat.
        read: Option<ReadContext>,
    },
    /// Start an election now (thesis, section 3.10).
    TimeoutNow,
    /// InstallSnapshot (Raft paper, section 7) without the content: the entries that the receiver needs
    /// are no longer in the log, and their effects are in a snapshot that it may have, piece by piece.
    Snapshot {
        /// The last entry whose effect is in the snapshot.
        last: EntryId,
        /// The members at that entry.
        membership: Membership,
    },
    /// The content of a snapshot on its way.
    Transfer(Transfer),
    /// A member that follows asks up to where its state has to be for what is read there now (ReadIndex,
    /// thesis, section 6.4).
    ReadIndex {
        /// Names the question.
        context: ReadContext,
    },
    /// The leader's answer, once a majority has confirmed that it leads.
    ReadIndexAnswer {
        /// As in the question.
        context: ReadContext,
        /// Up to where.
        index: LogIndex,
    },
    /// The sender's state after an entry that asked for a comparison.
    Digest {
        /// The entry.
        at: EntryId,
        /// As the state machine computed it.
        digest: u64,
    },
    /// A voter that is preferred asks its leader to hand over.
    LeadershipWanted {
        /// How much it is preferred.
        priority: u8,
    },
}

/// How the content of a snapshot comes to a member, whatever term it is: it asks for each piece, when it has the one before.
/// So nothing is sent that is not wanted, and a transfer goes on where it was broken off.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transfer {
    /// Give me a piece.
    Request {
        /// The last entry in the snapshot, which names it.
        last: EntryId,
        /// The place after which the piece begins; empty for the first one.
        after: Bytes,
    },
    /// The piece that was asked for.
    Chunk {
        /// As in the request.
        last: EntryId,
        /// As in the request.
        after: Bytes,
        /// Understood by the state machine.
        data: Bytes,
        /// The place after which the next piece begins; `None` after the last one.
        next: Option<Bytes>,
    },
    /// The snapshot is not here, or not any more.
    Gone {
        /// As in the request.
        last: EntryId,
    },
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { last, after } => f
                .debug_struct("Request")
                .field("last", last)
                .field("after", &Size(after))
                .finish(),
            Self::Chunk {
                last,
                after,
                data,
                next,
            } => f
                .debug_struct("Chunk")
                .field("last", last)
                .field("after", &Size(after))
                .field("data", &Size(data))
                .field("next", &next.as_deref().map(Size))
                .finish(),
            Self::Gone { last } => f.debug_struct("Gone").field("last", last).finish(),
        }
    }
}

/// Names one round of reads (ReadIndex, thesis, section 6.4).
///
/// Unique in the whole cluster and for every attempt: if a context were used twice, an old
/// acknowledgement could confirm a new read, and the read could be stale.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ReadContext {
    /// The node that asks.
    pub node: u64,
    /// Its boot counter, so that contexts differ after a restart.
    pub boot: u64,
    /// Counts the rounds since the start.
    pub round: u64,
}

impl ReadContext {
    pub(crate) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.node.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.boot.to_le_bytes());
        bytes[16..].copy_from_slice(&self.round.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            bytes
                .get(at..at + 8)?
                .try_into()
                .ok()
                .map(u64::from_le_bytes)
        };
        (bytes.len() == 24).then_some(())?;
        Some(Self {
            node: word(0)?,
            boot: word(8)?,
            round: word(16)?,
        })
    }
}
