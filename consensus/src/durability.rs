//! The order "write, fsync, then tell" as types.
//!
//! The core hands out [`Append`]s. [`persist`] is the only function that turns them into an
//! [`AppendTicket`], and it does so after the store has returned. Only a ticket makes the core
//! release the votes and acknowledgements that depend on the write.

use crate::driver::{LogStore, StoreError};
use crate::entry::{Entry, ORIGIN};
use crate::membership::Membership;
use crate::types::{EntryId, HardState, LogIndex, Term};

/// What one write changes in the durable log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogWrite {
    /// Contiguous entries. Everything at and after the first one's index is replaced by them;
    /// an empty list leaves the log as it is.
    pub entries: Vec<Entry>,
    /// Replaces the durable hard state.
    pub hard_state: HardState,
}

/// A write that the core waits for.
#[derive(Debug)]
#[must_use = "votes and acknowledgements wait until this is persisted"]
pub struct Append {
    pub(crate) number: u64,
    pub(crate) write: LogWrite,
}

impl Append {
    /// What is to be written.
    #[must_use]
    pub fn write(&self) -> &LogWrite {
        &self.write
    }

    /// What the write counts for in byte bounds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.write.entries.iter().map(Entry::bytes).sum()
    }
}

/// Proof that an [`Append`], and all before it, survive a power loss.
#[derive(Debug)]
#[must_use = "the core learns of the write only from the ticket"]
pub struct AppendTicket {
    pub(crate) number: u64,
}

/// Writes `appends` in one durable step and returns the ticket that covers all of them.
///
/// # Errors
///
/// [`StoreError`] as the store reported it; no ticket exists then, and the node must stop.
///
/// # Panics
///
/// When `appends` is empty, or not in the order in which the core handed them out.
pub fn persist(store: &mut dyn LogStore, appends: Vec<Append>) -> Result<AppendTicket, StoreError> {
    assert!(
        appends.is_sorted_by(|a, b| a.number < b.number),
        "appends are persisted in the order in which the core gave them out"
    );
    let number = appends
        .last()
        .expect("at least one append to persist")
        .number;
    let writes: Vec<LogWrite> = appends.into_iter().map(|append| append.write).collect();
    store.append(&writes)?;
    Ok(AppendTicket { number })
}

/// The entries after `applied` up to `last`, for [`RaftNode::new`](crate::RaftNode::new).
///
/// # Errors
///
/// [`StoreError`] when one of them is missing or damaged.
pub fn read_tail(
    store: &dyn LogStore,
    applied: LogIndex,
    last: LogIndex,
) -> Result<Vec<Entry>, StoreError> {
    let mut tail: Vec<Entry> = Vec::new();
    let mut next = applied.next();
    while next <= last {
        let entries = store.read(next, last, TAIL_READ_BYTES)?;
        next = entries.last().map_or(next, |entry| entry.id.index).next();
        tail.extend(entries);
    }
    Ok(tail)
}

/// What [`read_tail`] asks the store for at once.
const TAIL_READ_BYTES: u64 = 4 << 20;

/// What a store found on its disk as it was opened, checked as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The durable hard state.
    pub hard_state: HardState,
    /// Who belonged to the cluster at the last durable point.
    pub membership: Membership,
    /// The first entry of every term in the log, in order. Starts with [`ORIGIN`].
    pub terms: Vec<EntryId>,
    /// The index of the last entry; [`ORIGIN`]'s in an empty log.
    pub last: LogIndex,
}

impl Recovered {
    /// The state in which every founding member of a cluster starts: an empty log after
    /// [`ORIGIN`], and the founding members.
    #[must_use]
    pub fn founding(membership: Membership) -> Self {
        Self {
            hard_state: HardState {
                term: ORIGIN.term,
                vote: None,
                commit: ORIGIN.index,
            },
            membership,
            terms: vec![ORIGIN],
            last: ORIGIN.index,
        }
    }

    /// The term of the last entry.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.terms.last().map_or(ORIGIN.term, |first| first.term)
    }
}
