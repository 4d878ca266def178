//! What the log is made of.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::membership::Membership;
use crate::size::Size;
use crate::types::{EntryId, LogIndex, Term};

/// The index just before the first entry of every log.
///
/// All members start from the same imaginary entry, 1@1, whose effect is the initial membership. A
/// node that starts with nothing at all has index 0 and so cannot be mistaken for one of them.
pub const ORIGIN: EntryId = EntryId::new(Term::new(1), LogIndex::new(1));

/// Where the log of every cluster begins: the first index after [`ORIGIN`].
pub const FIRST_INDEX: LogIndex = LogIndex::new(2);

/// One entry of the replicated log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its term and index.
    pub id: EntryId,
    /// What it does once committed.
    pub payload: Payload,
}

impl Entry {
    /// An entry that holds a client's command.
    #[must_use]
    pub fn command(id: EntryId, command: Bytes) -> Self {
        Self {
            id,
            payload: Payload::Command(command),
        }
    }

    /// An entry without effect.
    #[must_use]
    pub fn empty(id: EntryId) -> Self {
        Self {
            id,
            payload: Payload::Empty,
        }
    }

    /// What the entry counts for in every byte bound: its payload and [`ENTRY_OVERHEAD_BYTES`].
    #[must_use]
    pub fn bytes(&self) -> u64 {
        ENTRY_OVERHEAD_BYTES
            + match &self.payload {
                Payload::Empty | Payload::Compare => 0,
                Payload::Command(command) => command.len() as u64,
                Payload::Digest { .. } => DIGEST_BYTES,
                Payload::Membership(membership) => membership.encode().len() as u64,
            }
    }
}

/// What an entry costs in memory and on the wire besides its payload, rounded up. Counting it keeps
/// a million empty entries from passing as zero bytes.
pub const ENTRY_OVERHEAD_BYTES: u64 = 96;

/// What a digest and the place it belongs to take.
const DIGEST_BYTES: u64 = 24;

/// What an entry does.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// Nothing. A new leader writes one to commit what came before it (Raft paper, section 8).
    Empty,
    /// A command for the state machine, opaque to consensus. Never empty.
    Command(Bytes),
    /// Every member takes the digest of its state as it is after this entry.
    Compare,
    /// What a majority of the voters found. A member that found something else stops itself.
    Digest {
        /// The entry after which the digest was taken.
        at: EntryId,
        /// As the state machine computed it.
        digest: u64,
    },
    /// The members from now on. Whole, so that nobody has to know what came before.
    Membership(Box<Membership>),
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "Empty"),
            Self::Command(command) => f.debug_tuple("Command").field(&Size(command)).finish(),
            Self::Compare => write!(f, "Compare"),
            Self::Digest { at, digest } => f
                .debug_struct("Digest")
                .field("at", at)
                .field("digest", digest)
                .finish(),
            Self::Membership(members) => f.debug_tuple("Membership").field(members).finish(),
        }
    }
}
