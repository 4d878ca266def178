//! The part of the log that `raft` reads, held in memory.
//!
//! `raft` calls its storage synchronously and treats most errors as fatal, so no disk stands behind
//! these calls: the newest entries are here, and older ones are asked for and answered later.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use raft::eraftpb::{Entry as PbEntry, HardState as PbHardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

use crate::convert;
use crate::durability::Recovered;
use crate::entry::{ENTRY_OVERHEAD_BYTES, Entry};
use crate::membership::{Membership, Memberships};
use crate::planted;
use crate::types::{EntryId, LogIndex, Term};

/// How many reads of older entries may be outstanding. One per lagging member is enough; when there
/// are more, `raft` asks again at the next heartbeat.
const FETCHES_MAX: usize = 32;

/// How many terms may begin without a commit before a full window takes no more. Each adds one empty
/// entry, so this is about a megabyte, and at least half an hour of one failed leader after the other;
/// for a member that makes them up, it is a bound.
const UNDECIDED_TERMS_MAX: usize = 1 << 13;

/// Window of the log kept in memory, and the terms of the whole log after its base, the last entry that
/// was compacted.
///
/// Invariants:
/// - indexes are contiguous from `window_first`, which comes after the base, to `last`;
/// - terms never decrease;
/// - every entry that is not yet durable, or not yet applied, is in the window;
/// - the window's bytes are the sum over its entries, and evicting keeps them at or below
///   `bytes_max` where the invariant above allows it.
pub(crate) struct LogView {
    state: RaftState,
    terms: TermRuns,
    window_first: u64,
    window: VecDeque<PbEntry>,
    window_bytes: u64,
    bytes_max: u64,
    /// `Storage` has `&self` methods only, and a request for older entries must be remembered.
    fetches: RefCell<Fetches>,
    /// What members get that need entries from before the log.
    snapshot: Option<Snapshot>,
    /// Whether one got none, for the same reason as `fetches`.
    snapshot_wanted: Cell<bool>,
}

#[derive(Default)]
struct Fetches {
    wanted: Vec<Wanted>,
    in_flight: Vec<u64>,
    arrived: Vec<PbEntry>,
}

struct Wanted {
    first: u64,
    last: u64,
    context: GetEntriesContext,
}

/// Older entries that `raft` needs for a member that is behind: to be read from the store and given
/// back through [`RaftNode::handle_fetched`](crate::RaftNode::handle_fetched).
#[derive(Debug)]
#[must_use = "the member that is behind waits for these entries"]
pub struct Fetch {
    pub(crate) first: LogIndex,
    pub(crate) last: LogIndex,
    context: GetEntriesContext,
}

impl Fetch {
    #[cfg(test)]
    pub(crate) fn of(first: u64, last: u64) -> Self {
        Self {
            first: LogIndex::new(first),
            last: LogIndex::new(last),
            context: GetEntriesContext::empty(true),
        }
    }

    /// The first index wanted.
    #[must_use]
    pub fn first(&self) -> LogIndex {
        self.first
    }

    /// The last index wanted; fewer entries are fine, as long as there is one.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        self.last
    }
}

impl LogView {
    /// A view of the recovered log whose window holds `tail`, the entries after the applied one.
    pub(crate) fn new(
        recovered: &Recovered,
        hard_state: PbHardState,
        applied: LogIndex,
        tail: Vec<Entry>,
        bytes_max: u64,
    ) -> Self {
        let window_first = applied.value() + 1;
        let mut conf_state = convert::conf_state(Memberships::new(recovered, applied).current());
        if planted::is("learner-counts-as-voter") {
            conf_state.voters.append(&mut conf_state.learners);
        }
        let mut view = Self {
            state: RaftState::new(hard_state, conf_state),
            terms: TermRuns::new(&recovered.terms, applied),
            window_first,
            window: VecDeque::new(),
            window_bytes: 0,
            bytes_max,
            fetches: RefCell::default(),
            snapshot: None,
            snapshot_wanted: Cell::new(false),
        };
        for entry in tail {
            view.push(convert::entry_to_pb(entry));
        }
        assert_eq!(
            view.last(),
            recovered.last,
            "the tail must reach from the applied entry to the end of the log"
        );
        view
    }

    /// The last index of the log.
    pub(crate) fn last(&self) -> LogIndex {
        LogIndex::new(self.window_first + self.window.len() as u64 - 1)
    }

    /// The entry before the first one of the log.
    pub(crate) fn base(&self) -> EntryId {
        self.terms.0[0]
    }

    /// The term of the entry at `index`, if the log has it, or of the base.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        (index >= self.base().index && index <= self.last()).then(|| self.terms.at(index))
    }

    /// Removes the entries up to `index`, which is in the log, applied and durable.
    pub(crate) fn compact(&mut self, index: LogIndex) {
        assert!(
            index > self.base().index && index <= self.last(),
            "compaction up to {index} of the log from {} to {}",
            self.base(),
            self.last()
        );
        self.terms.compact(index);
        while self.window_first <= index.value() {
            match self.window.pop_front() {
                Some(entry) => self.window_bytes -= entry_bytes(&entry),
                None => break,
            }
            self.window_first += 1;
        }
    }

    /// Removes all entries; the log goes on after `base`, which a snapshot has the effects of.
    pub(crate) fn restore(&mut self, base: EntryId) {
        self.terms = TermRuns(vec![base]);
        self.window.clear();
        self.window_bytes = 0;
        self.window_first = base.index.value() + 1;
        self.forget_wanted();
        self.snapshot = None;
    }

    /// The first of the older entries that are being read.
    pub(crate) fn first_fetched(&self) -> Option<LogIndex> {
        let fetches = self.fetches.borrow();
        fetches.in_flight.iter().min().copied().map(LogIndex::new)
    }

    /// What is given to members that need entries from before the log from now on.
    pub(crate) fn offer_snapshot(&mut self, snapshot: Option<(EntryId, &Membership)>) {
        self.snapshot =
            snapshot.map(|(last, membership)| convert::snapshot_to_pb(last, membership));
    }

    /// Whether a member needed a snapshot since the last call, and there was none.
    pub(crate) fn take_snapshot_wanted(&mut self) -> bool {
        self.snapshot_wanted.take()
    }

    /// Replaces everything from the first of `entries` on by `entries`.
    pub(crate) fn append(&mut self, entries: &[PbEntry]) {
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return;
        };
        assert!(
            first >= self.window_first && first <= self.last().value() + 1,
            "append at {first} outside the window {}..={}",
            self.window_first,
            self.last()
        );
        self.truncate(first);
        for entry in entries {
            self.push(entry.clone());
        }
    }

    /// Forgets entries that are both durable and applied, oldest first, until the window fits.
    pub(crate) fn evict(&mut self, settled: LogIndex) {
        while self.window_bytes > self.bytes_max && self.window_first <= settled.value() {
            let Some(entry) = self.window.pop_front() else {
                break;
            };
            self.window_bytes -= entry_bytes(&entry);
            self.window_first += 1;
        }
    }

    /// Whether entries that cannot be forgotten yet already fill the window.
    pub(crate) fn is_full(&self) -> bool {
        self.window_bytes > self.bytes_max
    }

    /// The bytes of the entries after `index`, as far as they are in memory.
    pub(crate) fn bytes_after(&self, index: LogIndex) -> u64 {
        let after = (index.value() + 1).saturating_sub(self.window_first) as usize;
        self.window.iter().skip(after).map(entry_bytes).sum()
    }

    /// Whether the entries after `index` fill the window even without the empty first ones of their
    /// terms, which leaders add whether or not there is room, or whether there are too many of those.
    pub(crate) fn is_full_of_proposals(&self, index: LogIndex) -> bool {
        let after = (index.value() + 1).saturating_sub(self.window_first) as usize;
        let (mut term, mut firsts, mut proposed_bytes) = (0, 0, 0);
        for entry in self.window.range(after.min(self.window.len())..) {
            let begins_term = std::mem::replace(&mut term, entry.term) != entry.term;
            if begins_term && entry.data.is_empty() {
                firsts += 1;
            } else {
                proposed_bytes += entry_bytes(entry);
            }
        }
        proposed_bytes > self.bytes_max || firsts > UNDECIDED_TERMS_MAX
    }

    /// The reads of older entries that `raft` asked for since the last call.
    pub(crate) fn take_fetches(&mut self) -> Vec<Fetch> {
        let fetches = self.fetches.get_mut();
        fetches
            .wanted
            .drain(..)
            .map(
                |Wanted {
                     first,
                     last,
                     context,
                 }| Fetch {
                    first: LogIndex::new(first),
                    last: LogIndex::new(last),
                    context,
                },
            )
            .collect()
    }

    /// Makes fetched entries readable, until [`LogView::forget_fetched`].
    pub(crate) fn offer_fetched(&mut self, fetch: Fetch, entries: Vec<Entry>) -> GetEntriesContext {
        let fetches = self.fetches.get_mut();
        fetches
            .in_flight
            .retain(|&first| first != fetch.first.value());
        fetches.arrived = entries.into_iter().map(convert::entry_to_pb).collect();
        fetch.context
    }

    /// Drops what [`LogView::offer_fetched`] brought.
    pub(crate) fn forget_fetched(&mut self) {
        self.fetches.get_mut().arrived = Vec::new();
    }

    /// Reads that were not asked for yet will not be answered either.
    fn forget_wanted(&mut self) {
        let Fetches {
            wanted, in_flight, ..
        } = self.fetches.get_mut();
        for wanted in wanted.drain(..) {
            in_flight.retain(|&first| first != wanted.first);
        }
    }

    fn push(&mut self, entry: PbEntry) {
        assert_eq!(entry.index, self.last().value() + 1, "the log has no gaps");
        self.terms.push(EntryId::new(
            Term::new(entry.term),
            LogIndex::new(entry.index),
        ));
        self.window_bytes += entry_bytes(&entry);
        self.window.push_back(entry);
    }

    fn truncate(&mut self, first: u64) {
        while self.last().value() >= first {
            let entry = self
                .window
                .pop_back()
                .expect("the window reaches back to `first`");
            self.window_bytes -= entry_bytes(&entry);
        }
        self.terms.truncate(LogIndex::new(first));
    }

    fn older_entries(
        &self,
        low: u64,
        high: u64,
        bytes_max: u64,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<PbEntry>> {
        let mut fetches = self.fetches.borrow_mut();
        if let Some(at) = fetches.arrived.iter().position(|entry| entry.index == low) {
            let arrived = fetches.arrived[at..]
                .iter()
                .take_while(|entry| entry.index < high);
            return Ok(fitting(arrived, bytes_max));
        }
        assert!(
            context.can_async(),
            "entry {low} is needed at once but was forgotten; the window starts at {}",
            self.window_first
        );
        if !fetches.in_flight.contains(&low) && fetches.in_flight.len() < FETCHES_MAX {
            fetches.in_flight.push(low);
            let last = high.min(self.window_first) - 1;
            fetches.wanted.push(Wanted {
                first: low,
                last,
                context,
            });
        }
        Err(Error::Store(StorageError::LogTemporarilyUnavailable))
    }
}

impl Storage for LogView {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.state.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<PbEntry>> {
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        if low <= self.base().index.value() {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(
            high <= self.last().value() + 1,
            "entries up to {high} beyond last {}",
            self.last()
        );
        if low < self.window_first {
            return self.older_entries(low, high, bytes_max, context);
        }
        let from = (low - self.window_first) as usize;
        let to = (high - self.window_first) as usize;
        Ok(fitting(self.window.range(from..to), bytes_max))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.base().index.value() {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.term_at(LogIndex::new(index))
            .map(Term::value)
            .ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base().index.next().value())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().value())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let useful = |snapshot: &&Snapshot| {
            let last = snapshot.get_metadata().index;
            let members = snapshot.get_metadata().get_conf_state();
            let sets = [
                members.get_voters(),
                members.get_voters_outgoing(),
                members.get_learners(),
            ];
            // Its receiver would ignore one from before it was a member, and where the log does not go on
            // after it, need another one at once.
            last >= request_index
                && last >= self.base().index.value()
                && sets.iter().any(|ids| ids.contains(&to))
        };
        self.snapshot
            .as_ref()
            .filter(useful)
            .cloned()
            .ok_or_else(|| {
                self.snapshot_wanted.set(true);
                Error::Store(StorageError::SnapshotTemporarilyUnavailable)
            })
    }
}

fn entry_bytes(entry: &PbEntry) -> u64 {
    ENTRY_OVERHEAD_BYTES + (entry.data.len() + entry.context.len()) as u64
}

/// The longest prefix that fits `bytes_max`, but at least one entry.
fn fitting<'a>(entries: impl Iterator<Item = &'a PbEntry>, bytes_max: u64) -> Vec<PbEntry> {
    let mut bytes = 0;
    let mut fitting = Vec::new();
    for entry in entries {
        bytes += entry_bytes(entry);
        if bytes > bytes_max && !fitting.is_empty() {
            break;
        }
        fitting.push(entry.clone());
    }
    fitting
}

/// The term of every entry, as the first entry of each term: a few bytes for any length of log. The first
/// run begins with the base.
struct TermRuns(Vec<EntryId>);

impl TermRuns {
    /// The runs up to `last`; the entries after it are pushed one by one.
    fn new(firsts: &[EntryId], last: LogIndex) -> Self {
        let mut runs = Self(firsts.to_vec());
        assert!(!runs.0.is_empty(), "every log starts after some entry");
        assert!(
            runs.0
                .is_sorted_by(|a, b| a.index < b.index && a.term < b.term),
            "terms never decrease: {:?}",
            runs.0
        );
        runs.truncate(last.next());
        runs
    }

    fn at(&self, index: LogIndex) -> Term {
        let after = self.0.partition_point(|first| first.index <= index);
        self.0[after - 1].term
    }

    fn push(&mut self, id: EntryId) {
        let last = self.0.last().expect("the first run is never removed").term;
        assert!(id.term >= last, "entry {id} after term {last}");
        if id.term > last {
            self.0.push(id);
        }
    }

    /// Makes the entry at `index` the base.
    fn compact(&mut self, index: LogIndex) {
        let base = EntryId::new(self.at(index), index);
        self.0.retain(|run| run.index > index);
        self.0.insert(0, base);
    }

    fn truncate(&mut self, first: LogIndex) {
        assert!(first > self.0[0].index, "the base cannot be truncated");
        self.0.retain(|run| run.index < first);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::entry::{ORIGIN, Payload};
    use crate::types::NodeId;

    fn entry(index: u64, term: u64) -> PbEntry {
        convert::entry_to_pb(Entry::command(
            EntryId::new(Term::new(term), LogIndex::new(index)),
            Bytes::from(vec![0; 1000 - ENTRY_OVERHEAD_BYTES as usize]),
        ))
    }

    fn view(bytes_max: u64) -> LogView {
        let membership = Membership::new([NodeId::new(1).unwrap()], []).unwrap();
        let recovered = Recovered::founding(membership);
        LogView::new(
            &recovered,
            PbHardState::default(),
            ORIGIN.index,
            vec![],
            bytes_max,
        )
    }

    fn first_of_term(index: u64, term: u64) -> PbEntry {
        convert::entry_to_pb(Entry {
            id: EntryId::new(Term::new(term), LogIndex::new(index)),
            payload: Payload::Empty,
        })
    }

    /// Empty first entries of terms do not make the window full, until there are too many; an entry that
    /// a client proposed counts whether or not it begins a term.
    #[test]
    fn only_empty_first_entries_find_room_and_not_without_end() {
        let index = |entry: u64| ORIGIN.index.value() + entry;
        let mut proposals = view(10_000);
        for at in 1..=10 {
            proposals.append(&[entry(index(at), at)]);
        }
        assert!(!proposals.is_full_of_proposals(ORIGIN.index));
        proposals.append(&[first_of_term(index(11), 11)]);
        assert!(proposals.is_full());
        assert!(!proposals.is_full_of_proposals(ORIGIN.index));
        proposals.append(&[entry(index(12), 12)]);
        assert!(proposals.is_full_of_proposals(ORIGIN.index));

        let mut firsts = view(10_000);
        let last = UNDECIDED_TERMS_MAX as u64;
        for at in 1..=last {
            firsts.append(&[first_of_term(index(at), at)]);
        }
        assert!(firsts.is_full() && !firsts.is_full_of_proposals(ORIGIN.index));
        firsts.append(&[first_of_term(index(last + 1), last + 1)]);
        assert!(firsts.is_full_of_proposals(ORIGIN.index));
    }

    /// A compacted log knows the term of its base and of what follows, and offers a snapshot for the rest;
    /// one that the log has left behind is not offered.
    #[test]
    fn what_is_compacted_is_in_a_snapshot() {
        let mut view = view(u64::MAX);
        view.append(&[entry(2, 1), entry(3, 1), entry(4, 2), entry(5, 3)]);
        view.compact(LogIndex::new(4));
        assert_eq!(view.base(), EntryId::new(Term::new(2), LogIndex::new(4)));
        assert_eq!(view.first_index(), Ok(5));
        let terms: Vec<_> = (3..=6).map(|index| view.term(index)).collect();
        let compacted = || Error::Store(StorageError::Compacted);
        let unavailable = Error::Store(StorageError::Unavailable);
        assert_eq!(terms, [Err(compacted()), Ok(2), Ok(3), Err(unavailable)]);
        let read = |low| view.entries(low, 6, None, GetEntriesContext::empty(true));
        assert_eq!(read(4), Err(compacted()));
        assert_eq!(indexes(&read(5).unwrap()), [5]);
        assert_eq!(view.window_bytes, 1000);

        assert!(view.snapshot(0, 2).is_err());
        assert!(view.take_snapshot_wanted() && !view.take_snapshot_wanted());
        let members = [1, 2].map(|id| NodeId::new(id).unwrap());
        let membership = Membership::new(members, []).unwrap();
        view.offer_snapshot(Some((view.base(), &membership)));
        assert_eq!(view.snapshot(0, 2).unwrap().get_metadata().index, 4);
        let stranger = view.snapshot(0, 3);
        assert!(
            stranger.is_err() && view.take_snapshot_wanted(),
            "F7: not a member then"
        );
        view.compact(LogIndex::new(5));
        assert!(view.snapshot(0, 2).is_err() && view.take_snapshot_wanted());

        let base = EntryId::new(Term::new(7), LogIndex::new(90));
        view.restore(base);
        assert_eq!((view.base(), view.last()), (base, base.index));
        view.append(&[entry(91, 8)]);
        assert_eq!(view.term(90), Ok(7));
    }

    fn indexes(entries: &[PbEntry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn a_conflicting_suffix_is_replaced_and_its_terms_with_it() {
        let mut view = view(u64::MAX);
        view.append(&[entry(2, 1), entry(3, 2), entry(4, 2), entry(5, 3)]);
        view.append(&[entry(4, 4)]);
        assert_eq!(view.last(), LogIndex::new(4));
        let terms: Vec<u64> = (1..=4).map(|index| view.term(index).unwrap()).collect();
        assert_eq!(terms, [1, 1, 2, 4]);
        assert_eq!(view.term(5), Err(Error::Store(StorageError::Unavailable)));
    }

    #[test]
    fn entries_are_limited_by_bytes_but_there_is_always_one() {
        let mut view = view(u64::MAX);
        view.append(&[entry(2, 1), entry(3, 1), entry(4, 1)]);
        let read = |max: u64| {
            indexes(
                &view
                    .entries(2, 5, max, GetEntriesContext::empty(false))
                    .unwrap(),
            )
        };
        assert_eq!(read(1), [2]);
        assert_eq!(read(2000), [2, 3]);
        assert_eq!(read(u64::MAX), [2, 3, 4]);
    }

    #[test]
    fn only_settled_entries_are_forgotten_and_then_fetched_from_the_store() {
        let mut view = view(1500);
        view.append(&[entry(2, 1), entry(3, 1), entry(4, 1), entry(5, 1)]);
        view.evict(LogIndex::new(3));
        assert!(view.is_full(), "4 and 5 are not settled and stay");
        view.evict(LogIndex::new(5));
        assert!(!view.is_full());
        assert_eq!(view.last(), LogIndex::new(5));
        assert_eq!(
            view.term(2).unwrap(),
            1,
            "terms of forgotten entries are still known"
        );

        let missing = view.entries(3, 6, None, GetEntriesContext::empty(true));
        assert_eq!(
            missing,
            Err(Error::Store(StorageError::LogTemporarilyUnavailable))
        );
        let again = view.entries(3, 6, None, GetEntriesContext::empty(true));
        assert!(again.is_err());
        let mut fetches = view.take_fetches();
        assert_eq!(fetches.len(), 1, "the same read is not asked for twice");
        let fetch = fetches.remove(0);
        assert_eq!((fetch.first().value(), fetch.last().value()), (3, 4));

        let stored = [3, 4].map(|index| convert::entry_from_pb(entry(index, 1)).unwrap());
        let context = view.offer_fetched(fetch, stored.to_vec());
        assert!(context.can_async());
        let arrived = view
            .entries(3, 6, None, GetEntriesContext::empty(true))
            .unwrap();
        assert_eq!(indexes(&arrived), [3, 4]);
        view.forget_fetched();
        assert!(
            view.entries(3, 6, None, GetEntriesContext::empty(true))
                .is_err()
        );
    }
}
