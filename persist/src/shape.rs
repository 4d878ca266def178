//! Where the log begins and ends, and which term each index has, without the entries.

use quorate_consensus::{EntryId, LogIndex, Term};

use crate::error::Corruption;

/// The outline of a log.
///
/// Invariants:
/// - `terms` holds the first entry of every term, in order, and starts with the base, the entry
///   before the first one stored;
/// - both indexes and terms in it rise strictly, and no index is above `last`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LogShape {
    terms: Vec<EntryId>,
    last: LogIndex,
}

impl LogShape {
    /// An empty log after `base`.
    pub(crate) fn new(base: EntryId) -> Self {
        Self {
            terms: vec![base],
            last: base.index,
        }
    }

    pub(crate) fn terms(&self) -> &[EntryId] {
        &self.terms
    }

    pub(crate) fn base(&self) -> EntryId {
        self.terms[0]
    }

    pub(crate) fn last(&self) -> EntryId {
        let term = self.terms[self.terms.len() - 1].term;
        EntryId::new(term, self.last)
    }

    /// The term of the entry at `index`; `None` outside of the log.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index > self.last {
            return None;
        }
        let after = self.terms.partition_point(|first| first.index <= index);
        Some(self.terms.get(after.checked_sub(1)?)?.term)
    }

    /// Adds one entry at the end, which must be the next one and not from an older term.
    pub(crate) fn push(&mut self, id: EntryId) -> Result<(), Corruption> {
        let last = self.last();
        if id.index != last.index.next() {
            return Err(Corruption::Gap {
                expected: last.index.next(),
                found: id.index,
            });
        }
        if id.term < last.term {
            return Err(Corruption::TermDecreases {
                index: id.index,
                previous: last.term,
                found: id.term,
            });
        }
        if id.term > last.term {
            self.terms.push(id);
        }
        self.last = id.index;
        Ok(())
    }

    /// Makes the entry at `index`, which lies in the log, the base, and forgets what is before it.
    pub(crate) fn compact_to(&mut self, index: LogIndex) {
        let term = self.term_at(index).expect("the new base lies in the log");
        self.terms.retain(|start| start.index > index);
        self.terms.insert(0, EntryId::new(term, index));
    }

    /// Removes everything at and after `first`, which lies inside of the log.
    pub(crate) fn truncate_from(&mut self, first: LogIndex) {
        let base = self.base();
        assert!(
            base.index < first && first <= self.last,
            "cut at {first} outside of the log from {} to {}",
            base.index.next(),
            self.last
        );
        self.terms.retain(|start| start.index < first);
        self.last = LogIndex::new(first.value() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId::new(Term::new(term), LogIndex::new(index))
    }

    fn shape(ids: &[(u64, u64)]) -> LogShape {
        let mut shape = LogShape::new(id(1, 1));
        for &(term, index) in ids {
            shape.push(id(term, index)).unwrap();
        }
        shape
    }

    /// The outline knows the term of every index, and of none outside of the log.
    #[test]
    fn every_index_has_its_term() {
        let shape = shape(&[(1, 2), (3, 3), (3, 4), (7, 5)]);
        let terms: Vec<_> = (0..=6)
            .map(|index| shape.term_at(LogIndex::new(index)).map(Term::value))
            .collect();
        assert_eq!(
            terms,
            [None, Some(1), Some(1), Some(3), Some(3), Some(7), None]
        );
        assert_eq!(shape.terms(), [id(1, 1), id(3, 3), id(7, 5)]);
    }

    /// Cutting a suffix off and writing it again gives the outline of the result.
    #[test]
    fn a_cut_forgets_the_terms_behind_it() {
        let mut cut = shape(&[(1, 2), (3, 3), (3, 4), (7, 5)]);
        cut.truncate_from(LogIndex::new(4));
        assert_eq!(cut, shape(&[(1, 2), (3, 3)]));
        cut.truncate_from(LogIndex::new(2));
        assert_eq!(cut, shape(&[]));
    }

    /// A compacted log knows the term of its base and of what follows, and nothing before.
    #[test]
    fn a_compacted_log_begins_after_its_base() {
        let mut compacted = shape(&[(1, 2), (3, 3), (3, 4), (7, 5)]);
        compacted.compact_to(LogIndex::new(3));
        assert_eq!(compacted.terms(), [id(3, 3), id(7, 5)]);
        assert_eq!(compacted.term_at(LogIndex::new(2)), None);
        compacted.truncate_from(LogIndex::new(4));
        assert_eq!(compacted, LogShape::new(id(3, 3)));
        compacted.push(id(4, 4)).unwrap();
        compacted.compact_to(LogIndex::new(4));
        assert_eq!(compacted, LogShape::new(id(4, 4)));
    }

    /// A gap, a repeated index and a falling term are refused.
    #[test]
    fn an_entry_out_of_order_is_refused() {
        let mut shape = shape(&[(3, 2)]);
        for wrong in [id(3, 4), id(3, 2), id(2, 3)] {
            assert!(shape.push(wrong).is_err(), "{wrong}");
        }
        assert!(shape.push(id(3, 3)).is_ok());
    }
}
