//! What one store was told to keep, and what is found of it.

use std::collections::BTreeMap;

use quorate::{EntryId, LogIndex, ORIGIN, Term};
use quorate_consensus::{Cut, Entry, HardState, LogWrite};

/// What is committed, as far as anybody knows.
pub(super) type Committed = BTreeMap<LogIndex, EntryId>;

/// What one store was told to keep, durably.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) boot: u64,
    pub(super) hard_state: HardState,
    /// Where the log begins.
    base: EntryId,
    /// The terms of its entries, by index. Those that are compacted stay here: they were there.
    log: BTreeMap<LogIndex, Term>,
    /// A write that has begun and may or may not have got there.
    pub(super) writing: Option<Vec<LogWrite>>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            boot: 0,
            hard_state: HardState::default(),
            base: ORIGIN,
            log: BTreeMap::new(),
            writing: None,
        }
    }

    pub(super) fn id_at(&self, index: LogIndex) -> Option<EntryId> {
        match index == ORIGIN.index {
            true => Some(ORIGIN),
            false => self.log.get(&index).map(|term| EntryId::new(*term, index)),
        }
    }

    pub(super) fn last(&self) -> LogIndex {
        let last = self.log.last_key_value();
        last.map_or(ORIGIN.index, |(index, _)| *index)
    }

    /// Whether `found` is what it was told to keep, with or without a write that was under way.
    pub(super) fn allows(&self, found: &Found, committed: &Committed) -> bool {
        let mut later = self.clone();
        later.write(self.writing.as_deref().unwrap_or_default(), committed);
        found.is(self) || found.is(&later)
    }

    /// It holds what was found, whatever it was told.
    pub(super) fn take(&mut self, found: Found, committed: &Committed) {
        let base = found.base;
        if base != self.base {
            self.begin_after(base, committed);
        }
        self.log.split_off(&base.index.next());
        self.log.extend(found.log);
        self.hard_state = found.hard_state;
    }

    pub(super) fn write(&mut self, batch: &[LogWrite], committed: &Committed) {
        for write in batch {
            match &write.cut {
                Some(Cut::Compact { index, .. }) => {
                    if let Some(base) = self.id_at(*index) {
                        self.base = base;
                    }
                }
                Some(Cut::Restore { base, .. }) => {
                    self.log.clear();
                    self.begin_after(*base, committed);
                }
                None => {}
            }
            if let Some(first) = write.entries.first() {
                self.log.split_off(&first.id.index);
            }
            let new = write.entries.iter();
            self.log
                .extend(new.map(|entry| (entry.id.index, entry.id.term)));
            self.hard_state = write.hard_state;
        }
    }

    /// The log begins after `base`, and stands for what is committed up to there.
    fn begin_after(&mut self, base: EntryId, committed: &Committed) {
        let before = committed.range(..=base.index);
        let before = before.map(|(index, id)| (*index, id.term));
        self.log
            .extend(before.filter(|(index, _)| *index > ORIGIN.index));
        self.log.insert(base.index, base.term);
        self.base = base;
    }
}

/// What a log holds.
pub(super) struct Found {
    hard_state: HardState,
    base: EntryId,
    pub(super) log: BTreeMap<LogIndex, Term>,
}

impl Found {
    pub(super) fn new(hard_state: HardState, base: EntryId, entries: &[Entry]) -> Self {
        let ids = entries.iter().map(|entry| (entry.id.index, entry.id.term));
        Self {
            hard_state,
            base,
            log: ids.collect(),
        }
    }

    fn is(&self, store: &Store) -> bool {
        let kept = store.log.range(store.base.index.next()..);
        self.base == store.base && self.log.iter().eq(kept) && self.hard_state == store.hard_state
    }
}
