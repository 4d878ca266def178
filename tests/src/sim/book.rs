//! What nodes have promised, and what must therefore hold. Each promise is a few lines.
//!
//! The book is told of every durable write, every applied batch, every leader and every status, of all
//! nodes, and remembers. The first thing that does not fit is the failure of the run.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate::{Batch, EntryId, LogIndex, NodeId, ORIGIN, Status, Term};
use quorate_consensus::{Entry, HardState, LogWrite};
use quorate_quic_transport::Instance;

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

/// Everything that was promised so far.
pub(super) struct Book {
    quorum: usize,
    leaders: BTreeMap<Term, NodeId>,
    /// Every entry that was ever durable anywhere: the one before it, and what it says.
    entries: BTreeMap<EntryId, (EntryId, u64)>,
    committed: BTreeMap<LogIndex, EntryId>,
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
    seen: BTreeMap<NodeId, Status>,
    failure: Option<Failure>,
    pub(super) elections: u64,
    pub(super) writes: u64,
}

/// What one store was told to keep, durably.
#[derive(Default)]
struct Store {
    boot: u64,
    hard_state: HardState,
    /// The terms of its entries, by index.
    log: BTreeMap<LogIndex, Term>,
    /// A write that has begun and may or may not have got there.
    writing: Option<Vec<LogWrite>>,
}

impl Store {
    fn id_at(&self, index: LogIndex) -> Option<EntryId> {
        match index == ORIGIN.index {
            true => Some(ORIGIN),
            false => self.log.get(&index).map(|term| EntryId::new(*term, index)),
        }
    }

    fn last(&self) -> LogIndex {
        let last = self.log.last_key_value();
        last.map_or(ORIGIN.index, |(index, _)| *index)
    }

    /// Whether `found` is what it was told to keep, with or without a write that was under way.
    fn allows(&self, found: &Found) -> bool {
        let mut later = Self {
            hard_state: self.hard_state,
            log: self.log.clone(),
            ..Self::default()
        };
        later.write(self.writing.as_deref().unwrap_or_default());
        found.is(self) || found.is(&later)
    }

    fn write(&mut self, batch: &[LogWrite]) {
        for write in batch {
            if let Some(first) = write.entries.first() {
                self.log.split_off(&first.id.index);
            }
            let new = write.entries.iter();
            self.log
                .extend(new.map(|entry| (entry.id.index, entry.id.term)));
            self.hard_state = write.hard_state;
        }
    }
}

impl Book {
    fn new(voters: u64) -> Self {
        Self {
            quorum: voters as usize / 2 + 1,
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
        entries: &[Entry],
    ) {
        self.current.insert(node, instance.store_id);
        self.learn(node, ORIGIN, entries);
        let first = !self.stores.contains_key(&instance.store_id);
        let store = self.stores.entry(instance.store_id).or_default();
        let found = Found::new(hard_state, entries);
        let kept = store.allows(&found);
        store.writing = None;
        let boot = store.boot;
        let expected = format!("{} and {:?}", store.last(), store.hard_state);
        (store.boot, store.hard_state, store.log) = (instance.boot, hard_state, found.log);
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
                store.write(std::slice::from_ref(write));
                store.writing = None;
            }
            self.commit(node, store_id, write.hard_state.commit);
        }
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
        let known = *self.committed.entry(id.index).or_insert_with(|| id);
        self.must(known == id, "committed never changes", || {
            format!("{node} takes {id} for committed, others {known}")
        });
        let durable = self
            .current
            .values()
            .filter(|store| {
                self.stores
                    .get(store)
                    .and_then(|store| store.id_at(id.index))
                    == Some(id)
            })
            .count();
        let quorum = self.quorum;
        self.must(
            durable >= quorum,
            "committed on a majority of disks",
            || format!("{id} is committed at {node} and durable on {durable} of {quorum} disks"),
        );
    }

    pub(super) fn state_opened(&mut self, node: NodeId, applied: EntryId) {
        self.applied.insert(node, applied);
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
    pub(super) fn durable_is(&mut self, node: NodeId, hard_state: HardState, entries: &[Entry]) {
        let Some(store) = self.current.get(&node).and_then(|id| self.stores.get(id)) else {
            return;
        };
        let found = Found::new(hard_state, entries);
        let kept = store.allows(&found);
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

struct Found {
    hard_state: HardState,
    log: BTreeMap<LogIndex, Term>,
}

impl Found {
    fn new(hard_state: HardState, entries: &[Entry]) -> Self {
        let ids = entries.iter().map(|entry| (entry.id.index, entry.id.term));
        Self {
            hard_state,
            log: ids.collect(),
        }
    }

    fn is(&self, store: &Store) -> bool {
        self.log == store.log && self.hard_state == store.hard_state
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
mod tests {
    use quorate_consensus::Payload;

    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn entry(term: u64, index: u64, command: &'static str) -> Entry {
        Entry {
            id: EntryId::new(Term::new(term), LogIndex::new(index)),
            payload: Payload::Command(command.into()),
        }
    }

    fn hard(term: u64, vote: u64, commit: u64) -> HardState {
        HardState {
            term: Term::new(term),
            vote: NodeId::new(vote),
            commit: LogIndex::new(commit),
        }
    }

    fn write(hard_state: HardState, entries: &[Entry]) -> LogWrite {
        LogWrite {
            cut: None,
            hard_state,
            entries: entries.to_vec(),
        }
    }

    /// Three nodes, each with a store of its number; nodes 1 and 2 have an entry that node 1 says is
    /// committed.
    fn book() -> Book {
        let mut book = Book::new(3);
        for id in 1..=3 {
            open(&mut book, id, 1, hard(1, 0, 1), &[]);
        }
        tell(&mut book, 2, hard(2, 1, 1), &[entry(2, 2, "a")]);
        tell(&mut book, 1, hard(2, 1, 1), &[entry(2, 2, "a")]);
        tell(&mut book, 1, hard(2, 1, 2), &[]);
        assert_eq!(book.failure(), None);
        book
    }

    fn open(book: &mut Book, id: u64, boot: u64, hard_state: HardState, entries: &[Entry]) {
        let instance = Instance {
            store_id: id.into(),
            boot,
        };
        book.opened(node(id), instance, hard_state, entries);
    }

    fn tell(book: &mut Book, id: u64, hard_state: HardState, entries: &[Entry]) {
        let batch = [write(hard_state, entries)];
        book.writing(id.into(), &batch);
        book.written(node(id), id.into(), &batch);
    }

    fn broken(book: &Book) -> String {
        book.failure()
            .map_or("nothing".into(), |failure| failure.invariant)
    }

    /// Each promise, broken in the simplest way, is the one that is noticed.
    #[test]
    fn every_broken_promise_is_noticed() {
        type Breaks = fn(&mut Book);
        let cases: [(&str, Breaks); 11] = [
            ("one leader per term", |book| {
                book.leads(node(1), Term::new(2));
                book.leads(node(2), Term::new(2));
            }),
            ("leader completeness", |book| {
                book.leads(node(3), Term::new(3));
            }),
            ("log matching", |book| {
                tell(book, 3, hard(2, 1, 1), &[entry(2, 2, "b")]);
            }),
            ("committed never changes", |book| {
                tell(book, 2, hard(3, 3, 1), &[entry(3, 2, "b")]);
            }),
            ("committed on a majority of disks", |book| {
                tell(book, 1, hard(2, 1, 3), &[entry(2, 3, "b")]);
            }),
            ("no gaps", |book| {
                tell(book, 3, hard(2, 1, 1), &[entry(2, 4, "b")]);
            }),
            ("one vote per term", |book| {
                tell(book, 1, hard(2, 2, 2), &[]);
            }),
            ("term is monotone", |book| tell(book, 1, hard(1, 0, 2), &[])),
            ("commit is monotone", |book| {
                tell(book, 1, hard(2, 1, 1), &[]);
            }),
            ("durable writes survive", |book| {
                open(book, 1, 2, hard(2, 1, 2), &[]);
            }),
            ("starts are counted", |book| {
                open(book, 1, 1, hard(2, 1, 2), &[entry(2, 2, "a")]);
            }),
        ];
        for (promise, breaks) in cases {
            let mut book = book();
            breaks(&mut book);
            assert_eq!(broken(&book), promise);
        }
    }

    /// What a write under way left behind is in order: all of it, or none.
    #[test]
    fn a_write_under_way_may_survive() {
        for (survives, hard_state) in [(true, hard(3, 2, 2)), (false, hard(2, 1, 2))] {
            let mut book = book();
            book.writing(1, &[write(hard(3, 2, 2), &[])]);
            book.durable_is(node(1), hard_state, &[entry(2, 2, "a")]);
            open(&mut book, 1, 2, hard_state, &[entry(2, 2, "a")]);
            assert_eq!(broken(&book), "nothing", "survives: {survives}");
        }
    }

    /// Equal entries give equal answers and equal states.
    #[test]
    fn g14_states_that_differ_are_noticed() {
        let mut book = book();
        let at = entry(2, 2, "a").id;
        book.state_is(node(1), at, 7);
        book.state_is(node(2), at, 7);
        assert_eq!(broken(&book), "nothing");
        book.state_is(node(3), at, 8);
        assert_eq!(broken(&book), "equal states");
    }
}
