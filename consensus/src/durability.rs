//! The order "write, fsync, then tell" as types.
//!
//! The core hands out [`Append`]s. [`persist`] is the only function that turns them into an
//! [`AppendTicket`], and it does so after the store has returned. Only a ticket makes the core
//! release the votes and acknowledgements that depend on the write.

use crate::driver::{LogStore, StoreError};
use crate::entry::{Entry, ORIGIN, Payload};
use crate::membership::Membership;
use crate::types::{EntryId, HardState, LogIndex, Term};

/// What one write changes in the durable log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogWrite {
    /// Gives the log a new beginning, before anything else.
    pub cut: Option<Cut>,
    /// Contiguous entries. Everything at and after the first one's index is replaced by them;
    /// an empty list leaves the log as it is.
    pub entries: Vec<Entry>,
    /// Replaces the durable hard state.
    pub hard_state: HardState,
}

impl LogWrite {
    /// A write that leaves the beginning of the log where it is.
    #[must_use]
    pub fn new(entries: Vec<Entry>, hard_state: HardState) -> Self {
        Self {
            cut: None,
            entries,
            hard_state,
        }
    }
}

/// How a log gets another beginning. The entry before its first one is its *base*.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Removes the entries up to one that lies in the log and is committed, and makes it the base: log
    /// compaction (Raft paper, section 7).
    Compact {
        /// The new base.
        index: LogIndex,
        /// The members at it.
        membership: Membership,
    },
    /// Removes all entries and goes on after this base, which a snapshot holds the effects of. It is
    /// committed, and above the commit index of the log before.
    Restore {
        /// The last entry in the snapshot.
        base: EntryId,
        /// The members at that entry.
        membership: Membership,
    },
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

/// `base`, the members at a log's base, and then those that its `entries` name: for
/// [`Recovered::memberships`].
pub fn memberships_of<'a>(
    base: Membership,
    entries: impl IntoIterator<Item = &'a Entry>,
) -> Vec<Membership> {
    let later = entries
        .into_iter()
        .filter_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some((**membership).clone()),
            _ => None,
        });
    [base].into_iter().chain(later).collect()
}

/// What [`read_tail`] asks the store for at once.
const TAIL_READ_BYTES: u64 = 4 << 20;

/// What a store found on its disk as it was opened, checked as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The durable hard state.
    pub hard_state: HardState,
    /// Who belonged to the cluster at the base, and after every entry of the log that changed that, in
    /// order.
    pub memberships: Vec<Membership>,
    /// The first entry of every term in the log, in order. Starts with the base, the entry before the
    /// first one in the log: [`ORIGIN`] until the log is compacted.
    pub terms: Vec<EntryId>,
    /// The index of the last entry; the base's in an empty log.
    pub last: LogIndex,
    /// What all entries count for in byte bounds, added up.
    pub bytes: u64,
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
            memberships: vec![membership],
            terms: vec![ORIGIN],
            last: ORIGIN.index,
            bytes: 0,
        }
    }

    /// The entry before the first one in the log.
    ///
    /// # Panics
    ///
    /// When there are no terms, which no store gives out.
    #[must_use]
    pub fn base(&self) -> EntryId {
        *self
            .terms
            .first()
            .expect("the first of the terms is the base")
    }

    /// The members after the last entry of the log, whether or not that is committed.
    ///
    /// # Panics
    ///
    /// When there are none, which no store gives out.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.memberships.last().expect("a log has members")
    }

    /// The members after the entry `index`, which is not before the base.
    #[must_use]
    pub fn membership_at(&self, index: LogIndex) -> &Membership {
        let mut newest = self.memberships.iter().rev();
        let found = newest.find(|membership| membership.index() <= index);
        found.unwrap_or(&self.memberships[0])
    }

    /// The term of the last entry.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.terms
            .last()
            .map_or(self.base().term, |first| first.term)
    }
}
