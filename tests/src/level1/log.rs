//! A log in memory with the contract of a disk: a write is there as a whole, or not at all.

use quorate_consensus::{
    Cut, Entry, EntryId, HardState, LogIndex, LogWrite, Membership, ORIGIN, Payload, Recovered,
    StoreError, memberships_of,
};

/// What is durable of one member.
///
/// Of the entries that a cut has removed, a disk has nothing; here they stay, out of reach of the node, so
/// that what it holds can be compared with what others hold.
///
/// Beside each entry stands a digest of the log up to it, so that two logs can be compared, and found
/// different, by one number.
#[derive(Clone, Debug)]
pub struct MemLog {
    hard_state: HardState,
    /// At the base.
    membership: Membership,
    base: EntryId,
    entries: Vec<Entry>,
    digests: Vec<u64>,
    /// The first entry of every term.
    terms: Vec<EntryId>,
}

/// What a write took away.
pub struct Removed {
    /// The entry.
    pub id: EntryId,
    /// The digest of the log up to it.
    pub digest: u64,
}

impl MemLog {
    /// The empty log of a founding member.
    #[must_use]
    pub fn new(membership: Membership) -> Self {
        let founding = Recovered::founding(membership);
        Self {
            hard_state: founding.hard_state,
            membership: founding.membership().clone(),
            base: ORIGIN,
            entries: Vec::new(),
            digests: Vec::new(),
            terms: founding.terms,
        }
    }

    /// The durable term, vote and commit index.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// All entries, in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry at `index`.
    #[must_use]
    pub fn get(&self, index: LogIndex) -> Option<&Entry> {
        self.entries.get(place(index)?)
    }

    /// The digest of the log up to `index`.
    #[must_use]
    pub fn digest(&self, index: LogIndex) -> Option<u64> {
        self.digests.get(place(index)?).copied()
    }

    /// Whether the entry is there.
    #[must_use]
    pub fn holds(&self, id: EntryId) -> bool {
        id == ORIGIN || self.get(id.index).is_some_and(|entry| entry.id == id)
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> EntryId {
        self.entries.last().map_or(ORIGIN, |entry| entry.id)
    }

    /// What a node that starts from this log is given.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        let kept = self.entries.iter();
        let kept = kept.filter(|entry| entry.id.index > self.base.index);
        let later = self.terms.iter();
        let later = later.filter(|first| first.index > self.base.index);
        Recovered {
            hard_state: self.hard_state,
            memberships: memberships_of(self.membership.clone(), kept.clone()),
            terms: [self.base].iter().chain(later).copied().collect(),
            last: self.last().index,
            bytes: kept.map(Entry::bytes).sum(),
        }
    }

    /// The entry before the first one that the node can read.
    #[must_use]
    pub fn base(&self) -> EntryId {
        self.base
    }

    /// As [`LogStore::read`](quorate_consensus::LogStore::read).
    ///
    /// # Errors
    ///
    /// When an entry is missing.
    pub fn read(
        &self,
        first: LogIndex,
        last: LogIndex,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut bytes = 0;
        let mut read = Vec::new();
        for index in first.value()..=last.value() {
            let kept = index > self.base.index.value();
            let Some(entry) = self.get(LogIndex::new(index)).filter(|_| kept) else {
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

    /// Makes `write` durable and returns what it replaced. `snapshot` is the log up to the end of the
    /// snapshot that the node has received.
    ///
    /// # Panics
    ///
    /// When it leaves a gap, or when indexes or terms are out of order: no log can hold that.
    pub fn write(&mut self, write: &LogWrite, snapshot: &[Entry]) -> Vec<Removed> {
        let mut removed = self.cut(write.cut.as_ref(), snapshot);
        if let Some(first) = write.entries.first() {
            removed.extend(self.truncate(first.id.index));
        }
        for entry in &write.entries {
            self.push(entry.clone());
        }
        self.hard_state = write.hard_state;
        removed
    }

    fn cut(&mut self, cut: Option<&Cut>, snapshot: &[Entry]) -> Vec<Removed> {
        match cut {
            Some(Cut::Compact { index, membership }) => {
                let base = self.get(*index).expect("a log is compacted within it");
                self.base = base.id;
                self.membership = membership.clone();
                Vec::new()
            }
            Some(Cut::Restore { base, membership }) => {
                let first = ORIGIN.index.next();
                let removed = self.truncate(first);
                snapshot.iter().for_each(|entry| self.push(entry.clone()));
                assert_eq!(self.last(), *base, "the snapshot that was received");
                (self.base, self.membership) = (*base, membership.clone());
                let replaced = removed.into_iter();
                replaced.filter(|gone| !self.holds(gone.id)).collect()
            }
            None => Vec::new(),
        }
    }

    fn truncate(&mut self, first: LogIndex) -> Vec<Removed> {
        let last = self.last();
        let keep = place(first).filter(|&keep| keep <= self.entries.len());
        let keep = keep.unwrap_or_else(|| panic!("a write at {first} leaves a gap after {last}"));
        let digests = self.digests.drain(keep..);
        let removed = self.entries.drain(keep..).zip(digests);
        let removed: Vec<Removed> = removed
            .map(|(entry, digest)| Removed {
                id: entry.id,
                digest,
            })
            .collect();
        while self.terms.last().is_some_and(|run| run.index >= first) {
            self.terms.pop();
        }
        removed
    }

    fn push(&mut self, entry: Entry) {
        let last = self.last();
        assert_eq!(entry.id.index, last.index.next(), "a gap in a write");
        assert!(entry.id.term >= last.term, "terms decrease at {}", entry.id);
        let before = self.digests.last().copied().unwrap_or_default();
        self.digests.push(digest_of(before, &entry));
        if self.terms.last().is_none_or(|run| run.term < entry.id.term) {
            self.terms.push(entry.id);
        }
        self.entries.push(entry);
    }
}

/// Where the entry of `index` stands.
fn place(index: LogIndex) -> Option<usize> {
    let place = index.value().checked_sub(ORIGIN.index.value() + 1)?;
    usize::try_from(place).ok()
}

fn digest_of(before: u64, entry: &Entry) -> u64 {
    let mut digest = mix(before, entry.id.term.value());
    digest = mix(digest, entry.id.index.value());
    match &entry.payload {
        Payload::Empty => mix(digest, u64::MAX),
        Payload::Command(command) => mix_bytes(digest, command),
        Payload::Compare => mix(digest, u64::MAX - 1),
        Payload::Membership(membership) => mix_bytes(digest, &membership.encode()),
        Payload::Digest { at, digest: found } => mix(mix(digest, at.index.value()), *found),
    }
}

/// Folds `word` into `digest`.
#[must_use]
pub fn mix(digest: u64, word: u64) -> u64 {
    let mixed = (digest ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}

/// Folds `bytes`, and how many they are, into `digest`.
#[must_use]
pub fn mix_bytes(digest: u64, bytes: &[u8]) -> u64 {
    let mut digest = mix(digest, bytes.len() as u64);
    let mut words = bytes.chunks_exact(8);
    for word in words.by_ref() {
        let word = word.try_into().expect("eight bytes each");
        digest = mix(digest, u64::from_le_bytes(word));
    }
    let rest = words.remainder().iter();
    rest.fold(digest, |digest, &byte| mix(digest, u64::from(byte)))
}
