//! What nodes have promised, and what must therefore hold. Each promise is a few lines.
//!
//! The book is told of every durable write, every applied batch, every leader and every status, of all
//! nodes, and remembers. The first thing that does not fit is the failure of the run.

mod store;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate::{Batch, EntryId, LogIndex, Membership, NodeId, ORIGIN, Status, Term};
use quorate_consensus::{Cut, Entry, HardState, LogWrite, Payload};
use quorate_quic_transport::Instance;

use self::store::{Committed, Found, Store};
use super::watch::content_hash;
use crate::level::Failure;

/// The book, for all who tell it something.
#[derive(Clone)]
pub(super) struct SharedBook(pub(super) Arc<Mutex<Book>>);

impl SharedBook {
    pub(super) fn new(voters: u64) -> Self {
        Self(Arc::new(Mutex::new(Book::new(voters))))
    }

    pub(super) fn with<T>(&self, tell: impl FnOnce(&mut Book) -> T) -> T {
        tell(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn founders(voters: u64) -> Membership {
    let voters = (1..=voters).filter_map(NodeId::new);
    Membership::new(voters, []).expect("a plan has voters")
}

/// Everything that was promised so far.
pub(super) struct Book {
    /// That of the founding, and those of committed entries.
    memberships: Vec<Membership>,
    /// What entries that may be committed one day say of the members.
    changes: BTreeMap<EntryId, Membership>,
    leaders: BTreeMap<Term, NodeId>,
    /// Every entry that was ever durable anywhere: the one before it, and what it says.
    entries: BTreeMap<EntryId, (EntryId, u64)>,
    committed: Committed,
    stores: BTreeMap<u128, Store>,
    /// The store that each node has now.
    current: BTreeMap<NodeId, u128>,
    votes: BTreeMap<(u128, Term), NodeId>,
    answers: BTreeMap<LogIndex, u64>,
    states: BTreeMap<LogIndex, u64>,
    /// The last state of each node that was compared.
    compared: BTreeMap<NodeId, LogIndex>,
    /// Every command that was applied.
    commands: BTreeMap<LogIndex, Bytes>,
    /// Whether every state is compared, and not only some.
    pub(super) compare_all: bool,
    applied: BTreeMap<NodeId, EntryId>,
    /// Up to where the state of each node survives a crash.
    durable: BTreeMap<NodeId, LogIndex>,
    seen: BTreeMap<NodeId, Status>,
    failure: Option<Failure>,
    pub(super) elections: u64,
    pub(super) writes: u64,
}

impl Book {
    fn new(voters: u64) -> Self {
        Self {
            memberships: vec![founders(voters)],
            changes: BTreeMap::new(),
            leaders: BTreeMap::new(),
            entries: BTreeMap::new(),
            committed: BTreeMap::new(),
            stores: BTreeMap::new(),
            current: BTreeMap::new(),
            votes: BTreeMap::new(),
            answers: BTreeMap::new(),
            states: BTreeMap::new(),
            compared: BTreeMap::new(),
            commands: BTreeMap::new(),
            compare_all: false,
            applied: BTreeMap::new(),
            durable: BTreeMap::new(),
            seen: BTreeMap::new(),
            failure: None,
            elections: 0,
            writes: 0,
        }
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure.clone()
    }

    /// The last that each node said of itself.
    pub(super) fn seen(&self) -> &BTreeMap<NodeId, Status> {
        &self.seen
    }

    /// Every command that was applied, by its index.
    pub(super) fn commands(&self) -> &BTreeMap<LogIndex, Bytes> {
        &self.commands
    }

    /// The last state of `node` that was compared with the others'.
    pub(super) fn compared_to(&self, node: NodeId) -> LogIndex {
        self.compared.get(&node).copied().unwrap_or_default()
    }

    pub(super) fn committed_count(&self) -> u64 {
        self.committed.len() as u64
    }

    /// Notes the first promise that was broken.
    pub(super) fn must(&mut self, holds: bool, invariant: &str, detail: impl FnOnce() -> String) {
        if !holds && self.failure.is_none() {
            self.failure = Some(Failure {
                invariant: invariant.into(),
                detail: detail(),
            });
        }
    }

    /// At most one leader in a term, and it has every entry committed before (Raft paper, figure 3:
    /// Election Safety, Leader Completeness).
    pub(super) fn leads(&mut self, node: NodeId, term: Term) {
        let known = self.leaders.get(&term).copied();
        if known == Some(node) {
            return;
        }
        self.must(known.is_none(), "one leader per term", || {
            format!("{node} leads term {term}, and so does {known:?}")
        });
        self.leaders.insert(term, node);
        self.elections += 1;
        let Some(store) = self.current.get(&node).and_then(|id| self.stores.get(id)) else {
            return;
        };
        let missing = self.committed.values().copied().find(|id| {
            id.term < term && id.index > ORIGIN.index && store.id_at(id.index) != Some(*id)
        });
        self.must(missing.is_none(), "leader completeness", || {
            format!("{node} leads term {term} without {missing:?}")
        });
    }

    /// A store was opened: everything it was told to keep must be there, and nothing else but a write
    /// that was under way.
    pub(super) fn opened(
        &mut self,
        node: NodeId,
        instance: Instance,
        hard_state: HardState,
        base: EntryId,
        entries: &[Entry],
    ) {
        self.current.insert(node, instance.store_id);
        self.learn(node, base, entries);
        let first = !self.stores.contains_key(&instance.store_id);
        let store = self.stores.entry(instance.store_id);
        let store = store.or_insert_with(Store::new);
        let found = Found::new(hard_state, base, entries);
        let kept = store.allows(&found, &self.committed);
        store.writing = None;
        let boot = store.boot;
        let expected = format!("{} and {:?}", store.last(), store.hard_state);
        store.boot = instance.boot;
        store.take(found, &self.committed);
        let last = store.last();
        self.must(first || kept, "durable writes survive", || {
            format!(
                "{node} was told to keep the log up to {expected}; it has {last} and {hard_state:?}"
            )
        });
        self.must(first || instance.boot > boot, "starts are counted", || {
            format!("{node} starts as boot {} after {boot}", instance.boot)
        });
        self.seen.remove(&node);
    }

    /// An old image was put back, or a disk damaged: what follows of this store proves nothing.
    pub(super) fn forget_store_of(&mut self, node: NodeId) {
        if let Some(id) = self.current.remove(&node) {
            self.stores.remove(&id);
        }
        self.seen.remove(&node);
    }

    pub(super) fn writing(&mut self, store: u128, batch: &[LogWrite]) {
        if let Some(store) = self.stores.get_mut(&store) {
            store.writing = Some(batch.to_vec());
        }
    }

    /// A write has become durable.
    pub(super) fn written(&mut self, node: NodeId, store_id: u128, batch: &[LogWrite]) {
        self.writes += 1;
        for write in batch {
            self.cuts_rightly(node, store_id, write);
            if let Some(first) = write.entries.first() {
                let before = LogIndex::new(first.id.index.value() - 1);
                let before = self
                    .stores
                    .get(&store_id)
                    .and_then(|store| store.id_at(before));
                self.must(before.is_some(), "no gaps", || {
                    format!("{node} writes {} after a gap", first.id)
                });
                self.keeps_committed(node, store_id, write);
                self.learn(node, before.unwrap_or(ORIGIN), &write.entries);
            }
            self.hard_state_grows(node, store_id, write.hard_state);
            if let Some(store) = self.stores.get_mut(&store_id) {
                store.write(std::slice::from_ref(write), &self.committed);
                store.writing = None;
            }
            self.commit(node, store_id, write.hard_state.commit);
        }
    }

    /// What goes from a log is committed, and its effect is in the node's state, durably; so is what a
    /// snapshot stands for, once it is installed.
    fn cuts_rightly(&mut self, node: NodeId, store_id: u128, write: &LogWrite) {
        let base = match &write.cut {
            Some(Cut::Compact { index, .. }) => {
                let durable = self.durable.get(&node).copied().unwrap_or_default();
                let invariant = "the log is compacted up to the durable state";
                self.must(*index <= durable, invariant, || {
                    format!(
                        "{node} removes entries up to {index}, its state is durable up to {durable}"
                    )
                });
                let store = self.stores.get(&store_id);
                store.and_then(|store| store.id_at(*index))
            }
            Some(Cut::Restore { base, .. }) => Some(*base),
            None => return,
        };
        let committed = base.and_then(|base| self.committed.get(&base.index).copied());
        let holds = base.is_some() && committed == base;
        self.must(holds, "only what is committed is compacted", || {
            format!("{node} begins its log after {base:?}, committed is {committed:?}")
        });
    }

    /// Two logs that have an entry of one index and term have the same entries up to it (Log
    /// Matching).
    fn learn(&mut self, node: NodeId, mut before: EntryId, entries: &[Entry]) {
        for entry in entries {
            let says = (before, content_hash(entry));
            let known = *self.entries.entry(entry.id).or_insert(says);
            self.must(known == says, "log matching", || {
                format!(
                    "{node} has {} after {before}, others after {}",
                    entry.id, known.0
                )
            });
            if let Payload::Membership(members) = &entry.payload {
                self.changes.insert(entry.id, (**members).clone());
            }
            before = entry.id;
        }
    }

    /// What is committed, and there, is never replaced. A leader of the past may still write something
    /// else where it has nothing yet.
    fn keeps_committed(&mut self, node: NodeId, store_id: u128, write: &LogWrite) {
        let store = self.stores.get(&store_id);
        let replaced = write.entries.iter().map(|entry| entry.id).find(|id| {
            let committed = self.committed.get(&id.index).copied();
            let there = store.and_then(|store| store.id_at(id.index));
            committed.is_some() && committed == there && committed != Some(*id)
        });
        self.must(replaced.is_none(), "committed never changes", || {
            format!("{node} replaces a committed entry by {replaced:?}")
        });
    }

    /// Term and commit index never fall, and a term has one vote, for the life of a store.
    fn hard_state_grows(&mut self, node: NodeId, store_id: u128, new: HardState) {
        let old = self.stores.get(&store_id).map(|store| store.hard_state);
        let old = old.unwrap_or_default();
        self.must(new.term >= old.term, "term is monotone", || {
            format!("{node}: {} after {}", new.term, old.term)
        });
        self.must(new.commit >= old.commit, "commit is monotone", || {
            format!("{node}: {} after {}", new.commit, old.commit)
        });
        if let Some(vote) = new.vote {
            let first = *self.votes.entry((store_id, new.term)).or_insert(vote);
            self.must(first == vote, "one vote per term", || {
                format!("{node} votes for {vote} in term {} after {first}", new.term)
            });
        }
    }

    /// Everything of this store up to `to` is committed, it says: then it is so on a majority of disks.
    fn commit(&mut self, node: NodeId, store_id: u128, to: LogIndex) {
        let known = self.committed.last_key_value();
        let mut index = known.map_or(ORIGIN.index, |(index, _)| *index).next();
        while index <= to {
            let id = self
                .stores
                .get(&store_id)
                .and_then(|store| store.id_at(index));
            let Some(id) = id else { return };
            self.is_committed(node, id);
            index = index.next();
        }
    }

    fn is_committed(&mut self, node: NodeId, id: EntryId) {
        let news = !self.committed.contains_key(&id.index);
        let known = *self.committed.entry(id.index).or_insert_with(|| id);
        self.must(known == id, "committed never changes", || {
            format!("{node} takes {id} for committed, others {known}")
        });
        if !news {
            return;
        }
        let holds = |node: NodeId| {
            let store = self
                .current
                .get(&node)
                .and_then(|store| self.stores.get(store));
            store.and_then(|store| store.id_at(id.index)) == Some(id)
        };
        // A leader counts by what it has applied, which may be the members before the last change.
        let mut newest = self.memberships.iter().rev().take(2);
        let quorum = newest.any(|membership| membership.is_quorum(holds));
        let holders: Vec<NodeId> = self
            .current
            .keys()
            .copied()
            .filter(|it| holds(*it))
            .collect();
        self.must(quorum, "committed on a majority of disks", || {
            format!("{id} is committed at {node} and durable at {holders:?}")
        });
        if let Some(membership) = self.changes.remove(&id) {
            self.memberships.push(membership);
        }
    }

    /// How often the members changed.
    pub(super) fn changes(&self) -> u64 {
        self.memberships.len() as u64 - 1
    }

    pub(super) fn state_opened(&mut self, node: NodeId, applied: EntryId) {
        self.applied.insert(node, applied);
        self.durable.insert(node, applied.index);
    }

    /// The state of `node` up to `applied` survives a crash, it says.
    pub(super) fn state_is_durable(&mut self, node: NodeId, applied: EntryId) {
        self.durable.insert(node, applied.index);
    }

    /// A snapshot takes the place of the state: one of what is committed, and newer.
    pub(super) fn installed(&mut self, node: NodeId, last: EntryId) {
        let before = self.applied.insert(node, last);
        let forward = before.is_none_or(|before| before.index < last.index);
        self.must(forward, "applied once each", || {
            format!("{node} installs a snapshot up to {last} after it had applied {before:?}")
        });
        let known = self.committed.get(&last.index).copied();
        self.must(known == Some(last), "committed never changes", || {
            format!("{node} installs a snapshot up to {last}, committed is {known:?}")
        });
        self.durable.insert(node, last.index);
    }

    /// Every node applies the same entries in the same order, with the same answers (State Machine
    /// Safety), and none twice.
    pub(super) fn applied(
        &mut self,
        node: NodeId,
        before: EntryId,
        batch: &Batch,
        answers: &[Bytes],
    ) {
        let last = self.applied.insert(node, batch.last);
        self.must(
            last.is_none_or(|last| last == before),
            "applied once each",
            || format!("{node} applies after {before}, and had applied {last:?}"),
        );
        for (command, answer) in batch.commands.iter().zip(answers) {
            self.first_committed(node, command.id);
            let data = &command.data;
            self.commands
                .entry(command.id.index)
                .or_insert_with(|| data.clone());
            let hash = fold(fold(0, data), answer);
            let known = *self.answers.entry(command.id.index).or_insert(hash);
            self.must(known == hash, "state machine safety", || {
                format!("{node} answers {} otherwise than others", command.id)
            });
        }
        self.first_committed(node, batch.last);
    }

    /// An applied entry is committed. It may be the first that is heard of that.
    fn first_committed(&mut self, node: NodeId, id: EntryId) {
        let known = self.committed.get(&id.index).copied();
        match known {
            Some(known) => self.must(known == id, "committed never changes", || {
                format!("{node} applies {id}, others {known}")
            }),
            None => {
                let store = self.current.get(&node).copied();
                if let Some(store) = store {
                    self.commit(node, store, id.index);
                }
            }
        }
    }

    /// Equal position, equal state.
    pub(super) fn state_is(&mut self, node: NodeId, at: EntryId, digest: u64) {
        self.compared.insert(node, at.index);
        let known = *self.states.entry(at.index).or_insert(digest);
        self.must(known == digest, "equal states", || {
            format!("{node} has another state at {at} than others")
        });
    }

    /// What a running node says of itself is in order, and does not go back while it runs.
    pub(super) fn status(&mut self, status: Status) {
        let node = status.node;
        let ordered = status.applied <= status.commit && status.commit <= status.last.index;
        self.must(ordered, "applied <= commit <= last", || status.to_string());
        let before = self.seen.get(&node);
        let back = before.is_some_and(|before| {
            status.term < before.term
                || status.commit < before.commit
                || status.applied < before.applied
        });
        self.must(!back, "a node does not go back", || {
            format!("{node} went back to {status}")
        });
        self.seen.insert(node, status);
    }

    /// What the disk of `node` would hold after a power failure, against what it was told to keep.
    pub(super) fn durable_is(
        &mut self,
        node: NodeId,
        hard_state: HardState,
        base: EntryId,
        entries: &[Entry],
    ) {
        let Some(store) = self.current.get(&node).and_then(|id| self.stores.get(id)) else {
            return;
        };
        let found = Found::new(hard_state, base, entries);
        let kept = store.allows(&found, &self.committed);
        let expected = format!("{} and {:?}", store.last(), store.hard_state);
        self.must(kept, "durable writes survive", || {
            let last = found.log.last_key_value();
            format!(
                "the disk of {node} would keep {last:?} and {hard_state:?} instead of {expected}"
            )
        });
    }

    pub(super) fn fails(&mut self, invariant: &str, detail: impl Display) {
        self.must(false, invariant, || detail.to_string());
    }
}

/// FNV-1a, continued.
fn fold(hash: u64, bytes: &[u8]) -> u64 {
    let seed = hash ^ 0xcbf2_9ce4_8422_2325 ^ (bytes.len() as u64);
    bytes.iter().fold(seed, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
