//! A disk in memory: what it holds survives a crash, what is only queued for it does not.

use std::collections::{BTreeMap, VecDeque};

use quorate_consensus::{
    Append, Cut, Entry, EntryId, HardState, LogIndex, LogStore, LogWrite, Membership, ORIGIN,
    Recovered, StoreError, memberships_of,
};

pub(crate) struct Disk {
    durable: MemLog,
    /// Writes the node asked for, each with the tick at which the disk gets to it.
    pub(crate) queue: VecDeque<(u64, Append)>,
    /// While set, nothing queued becomes durable.
    pub(crate) stalled: bool,
    /// A disk that reports success and keeps nothing: the control for the checker.
    pub(crate) lies: bool,
    /// The snapshots that were received: the entries up to their last one.
    pub(crate) received: Snapshots,
}

/// Snapshots by their last entries.
pub(crate) type Snapshots = BTreeMap<EntryId, Vec<Entry>>;

/// What is durable. Of the entries that a cut has removed, a real log has nothing; here they stay, out of
/// reach of the node, so that what it holds can be compared with what others hold.

#[derive(Clone)]
pub(crate) struct MemLog {
    pub(crate) hard_state: HardState,
    base: EntryId,
    entries: Vec<Entry>,
    /// At the base.
    membership: Membership,
}

impl Disk {
    pub(crate) fn new(membership: Membership) -> Self {
        let founding = Recovered::founding(membership);
        Self {
            durable: MemLog {
                hard_state: founding.hard_state,
                base: ORIGIN,
                entries: Vec::new(),
                membership: founding.membership().clone(),
            },
            queue: VecDeque::new(),
            stalled: false,
            lies: false,
            received: Snapshots::new(),
        }
    }

    /// What would be there after a power loss now.
    pub(crate) fn durable(&self) -> &MemLog {
        &self.durable
    }

    /// The log as its node sees it: what is durable, and then what is queued.
    pub(crate) fn with_queue(&self) -> MemLog {
        let mut log = self.durable.clone();
        for (_, append) in &self.queue {
            log.write(append.write(), &self.received);
        }
        log
    }

    /// A crash: of the queue, the first `kept` writes had reached the disk.
    pub(crate) fn lose_queue(&mut self, kept: usize) {
        for (at, (_, append)) in self.queue.drain(..).enumerate() {
            if at < kept && !self.lies {
                self.durable.write(append.write(), &self.received);
            }
        }
    }

    /// Somebody replaced the disk, or an old image was restored: `log` is what is there now.
    pub(crate) fn replace(&mut self, log: MemLog) {
        self.durable = log;
    }
}

impl LogStore for Disk {
    fn append(&mut self, batch: &[LogWrite]) -> Result<(), StoreError> {
        if !self.lies {
            for write in batch {
                self.durable.write(write, &self.received);
            }
        }
        Ok(())
    }

    fn read(
        &self,
        first: LogIndex,
        last: LogIndex,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut bytes = 0;
        let mut read = Vec::new();
        for index in first.value()..=last.value() {
            let kept = index > self.durable.base.index.value();
            let entry = self.durable.get(LogIndex::new(index));
            let Some(entry) = entry.filter(|_| kept) else {
                return Err(StoreError::new(format!("entry {index} is missing")));
            };
            bytes += entry.bytes();
            if bytes > bytes_max && !read.is_empty() {
                break;
            }
            read.push(entry.clone());
        }
        Ok(read)
    }
}

impl MemLog {
    pub(crate) fn get(&self, index: LogIndex) -> Option<&Entry> {
        let at = index.value().checked_sub(ORIGIN.index.value() + 1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    pub(crate) fn holds(&self, id: EntryId) -> bool {
        id == ORIGIN || self.get(id.index).is_some_and(|entry| entry.id == id)
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn last(&self) -> EntryId {
        self.entries.last().map_or(ORIGIN, |entry| entry.id)
    }

    pub(crate) fn recovered(&self) -> Recovered {
        let mut terms = vec![self.base];
        for entry in self.kept() {
            if entry.id.term > terms.last().unwrap().term {
                terms.push(entry.id);
            }
        }
        Recovered {
            hard_state: self.hard_state,
            memberships: memberships_of(self.membership.clone(), self.kept()),
            terms,
            last: self.last().index,
            bytes: self.kept().map(Entry::bytes).sum(),
        }
    }

    /// The entry before the first one that its node can read.
    pub(crate) fn base(&self) -> EntryId {
        self.base
    }

    fn kept(&self) -> impl Iterator<Item = &Entry> {
        let base = self.base.index;
        self.entries
            .iter()
            .filter(move |entry| entry.id.index > base)
    }

    fn write(&mut self, write: &LogWrite, received: &Snapshots) {
        match &write.cut {
            Some(Cut::Compact { index, membership }) => {
                assert!(*index > self.base.index && *index <= write.hard_state.commit);
                assert_eq!(self.recovered().membership_at(*index), membership);
                self.membership = membership.clone();
                self.base = self.get(*index).expect("a log is compacted within it").id;
            }
            Some(Cut::Restore { base, membership }) => {
                assert!(base.index > self.hard_state.commit);
                self.entries = received[base].clone();
                assert_eq!(self.last(), *base);
                (self.base, self.membership) = (*base, membership.clone());
            }
            None => {}
        }
        if let Some(first) = write.entries.first() {
            let keep = first.id.index.value() - ORIGIN.index.value() - 1;
            assert!(
                keep <= self.entries.len() as u64,
                "a write at {} leaves a gap after {}",
                first.id,
                self.last()
            );
            self.entries.truncate(keep as usize);
        }
        for entry in &write.entries {
            assert_eq!(entry.id.index, self.last().index.next(), "a gap in a write");
            assert!(
                entry.id.term >= self.last().term,
                "terms decrease at {}",
                entry.id
            );
            self.entries.push(entry.clone());
        }
        assert!(
            write.hard_state.term >= self.hard_state.term,
            "the durable term goes back from {} to {}",
            self.hard_state.term,
            write.hard_state.term
        );
        self.hard_state = write.hard_state;
    }
}
