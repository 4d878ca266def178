//! What a store promises, on real files and on a disk that crashes.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod check;
mod crash;
mod damage;
mod disk;
mod faults;
mod fixtures;
mod founding;
mod log;
mod media;
mod ownership;

use bytes::Bytes;
use quorate_consensus::{
    Cut, Entry, EntryId, HardState, LogIndex, LogStore, LogWrite, Membership, NodeId, ORIGIN, Term,
    memberships_of,
};
use quorate_persist::{Opened, Options, StoreIdentity};

/// How many times as much is tried as with every `cargo test`: `scripts/disk.sh` sets it.
fn times() -> u64 {
    let set = std::env::var("QUORATE_TIMES");
    set.map_or(1, |times| times.parse().expect("a number"))
}

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn identity() -> StoreIdentity {
    StoreIdentity {
        cluster: "test".into(),
        node: node(2),
    }
}

fn membership() -> Membership {
    Membership::new([node(1), node(2), node(3)], [node(9)]).unwrap()
}

/// The smallest journal, so that scripts go through all of it, and no thread.
fn small() -> Options {
    Options {
        journal_bytes: 0,
        background: false,
        ..Options::default()
    }
}

fn index(index: u64) -> LogIndex {
    LogIndex::new(index)
}

/// The entry `index`@`term`, whose command names it.
fn entry(term: u64, index: u64) -> Entry {
    let id = EntryId::new(Term::new(term), LogIndex::new(index));
    Entry::command(id, Bytes::from(format!("command {id}")))
}

fn hard_state(term: u64, vote: Option<u64>, commit: u64) -> HardState {
    HardState {
        term: Term::new(term),
        vote: vote.map(node),
        commit: LogIndex::new(commit),
    }
}

/// A write of entries in `term` at `indexes`.
fn write(term: u64, indexes: std::ops::RangeInclusive<u64>, commit: u64) -> LogWrite {
    LogWrite {
        cut: None,
        entries: indexes.map(|index| entry(term, index)).collect(),
        hard_state: hard_state(term, Some(3), commit),
    }
}

/// The log up to `at` goes; the members have not changed so far.
fn compact_to(at: u64) -> Cut {
    Cut::Compact {
        index: index(at),
        membership: membership(),
    }
}

/// The members as the entry `at` names them: one more.
fn changed(at: u64) -> Membership {
    let nodes = [node(1), node(2), node(3), node(10)];
    let mut bytes = Membership::new(nodes, [node(9)]).unwrap().encode();
    bytes[14..22].copy_from_slice(&at.to_le_bytes());
    Membership::decode(&bytes).unwrap()
}

/// All that a store holds.
#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    base: EntryId,
    membership: Membership,
    hard_state: HardState,
    entries: Vec<Entry>,
}

impl State {
    fn founding() -> Self {
        Self {
            base: ORIGIN,
            membership: membership(),
            hard_state: hard_state(1, None, 1),
            entries: Vec::new(),
        }
    }

    fn last(&self) -> LogIndex {
        let last = self.entries.last().map_or(self.base, |entry| entry.id);
        last.index
    }

    fn apply(&mut self, batch: &[LogWrite]) {
        for write in batch {
            match &write.cut {
                Some(Cut::Compact { index, membership }) => {
                    self.membership = membership.clone();
                    let compacted = self
                        .entries
                        .iter()
                        .take_while(|entry| entry.id.index <= *index);
                    self.base = compacted.last().map_or(self.base, |entry| entry.id);
                    self.entries.retain(|entry| entry.id.index > *index);
                }
                Some(Cut::Restore { base, membership }) => {
                    self.base = *base;
                    self.membership = membership.clone();
                    self.entries.clear();
                }
                None => {}
            }
            if let Some(first) = write.entries.first() {
                self.entries.retain(|entry| entry.id.index < first.id.index);
            }
            self.entries.extend(write.entries.iter().cloned());
            self.hard_state = write.hard_state;
        }
    }

    /// What `opened` holds, read back entry by entry.
    fn of(opened: &Opened) -> Result<Self, quorate_consensus::StoreError> {
        let recovered = &opened.recovered;
        let first = recovered.base().index.next();
        let entries = match recovered.last < first {
            true => Vec::new(),
            false => opened.store.read(first, recovered.last, u64::MAX)?,
        };
        let all = memberships_of(recovered.memberships[0].clone(), &entries);
        assert_eq!(recovered.memberships, all);
        Ok(Self {
            base: recovered.base(),
            membership: recovered.memberships[0].clone(),
            hard_state: recovered.hard_state,
            entries,
        })
    }
}
