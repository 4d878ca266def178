//! Effects of applied commands that are not yet in the file.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;
use quorate_consensus::EntryId;

use super::rows;
use crate::kv::query::Value;

/// What a key costs besides its bytes and those of its value, rounded up: 72 bytes in a tree that is
/// two thirds full, and two allocations. Counting it keeps a million tiny keys from passing as
/// nothing.
const ENTRY_OVERHEAD_BYTES: usize = 160;

/// The effects of the entries after `since` up to `applied`: the last state of every key they
/// touched.
///
/// Invariants:
/// - `bytes` is the sum over the keys of key, value and [`ENTRY_OVERHEAD_BYTES`];
/// - between batches, the state at `since` with these effects is the state at `applied`.
#[derive(Clone)]
pub(super) struct Overlay {
    /// Users' keys; `None` for one that is absent, whatever lies below.
    slots: BTreeMap<Bytes, Option<Value>>,
    /// What the store keeps for itself: few keys that are written with almost every command, and would be far
    /// apart in memory among the others. They come before all of them.
    own: BTreeMap<Bytes, Option<Value>>,
    bytes: usize,
    since: EntryId,
    applied: EntryId,
}

impl Overlay {
    /// Nothing happened yet after `since`.
    pub(super) fn new(since: EntryId) -> Self {
        Self {
            slots: BTreeMap::new(),
            own: BTreeMap::new(),
            bytes: 0,
            since,
            applied: since,
        }
    }

    pub(super) fn applied(&self) -> EntryId {
        self.applied
    }

    /// Whether entries were applied, with or without an effect on a key.
    pub(super) fn is_news(&self) -> bool {
        self.applied != self.since
    }

    /// How much memory it takes, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it says of `key`: nothing, that it is absent, or its value.
    pub(super) fn find(&self, key: &[u8]) -> Option<Option<&Value>> {
        let place = match rows::is_own(key) {
            true => &self.own,
            false => &self.slots,
        };
        place.get(key).map(Option::as_ref)
    }

    /// Sets `key`, or removes it.
    pub(super) fn set(&mut self, key: Bytes, value: Option<Value>) {
        let value_bytes = |value: &Option<Value>| value.as_ref().map_or(0, |v| v.data.len());
        self.bytes += value_bytes(&value);
        let place = match rows::is_own(&key) {
            true => &mut self.own,
            false => &mut self.slots,
        };
        match place.entry(key) {
            btree_map::Entry::Vacant(slot) => {
                self.bytes += slot.key().len() + ENTRY_OVERHEAD_BYTES;
                slot.insert(value);
            }
            btree_map::Entry::Occupied(mut slot) => {
                self.bytes -= value_bytes(&slot.insert(value));
            }
        }
    }

    /// All effects up to `last` are in.
    pub(super) fn reach(&mut self, last: EntryId) {
        assert!(
            last.index > self.applied.index,
            "{last} after {}",
            self.applied
        );
        self.applied = last;
    }

    /// All keys, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, Option<&Value>)> {
        let all = self.own.iter().chain(&self.slots);
        all.map(|(key, slot)| (key, slot.as_ref()))
    }

    /// The keys from `start` on and before `end`, in order. The range must not be backwards.
    pub(super) fn range(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = (&Bytes, Option<&Value>)> {
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let bounds = (Bound::Included(start), end);
        let own = self.own.range::<[u8], _>(bounds);
        let all = own.chain(self.slots.range::<[u8], _>(bounds));
        all.map(|(key, slot)| (key, slot.as_ref()))
    }
}

/// Keys and values are the user's secrets: sizes only.
impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            slots,
            own,
            bytes,
            since,
            applied,
        } = self;
        write!(
            f,
            "{} keys, {bytes} bytes, after {since} up to {applied}",
            slots.len() + own.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use quorate_consensus::{ORIGIN, Term};

    use super::*;

    /// The bytes are those of the keys and of their last values, with the overhead of each key.
    #[test]
    fn bytes_follow_the_content() {
        let value = |bytes: usize| {
            Some(Value {
                data: Bytes::from(vec![0; bytes]),
                revision: 2,
            })
        };
        let mut overlay = Overlay::new(ORIGIN);
        let one = ENTRY_OVERHEAD_BYTES + 1;
        for (key, bytes, sum) in [
            ("a", Some(10), one + 10),
            ("b", Some(5), 2 * one + 15),
            ("a", Some(3), 2 * one + 8),
            ("b", None, 2 * one + 3),
            ("b", None, 2 * one + 3),
            ("b", Some(1), 2 * one + 4),
        ] {
            overlay.set(Bytes::from(key), bytes.and_then(value));
            assert_eq!(overlay.bytes(), sum, "{key} {bytes:?}");
        }
    }

    /// An entry without effects is news as well: the file must say that it was applied.
    #[test]
    fn an_empty_batch_is_news() {
        let mut overlay = Overlay::new(ORIGIN);
        assert!(!overlay.is_news());
        overlay.reach(EntryId::new(Term::new(2), ORIGIN.index.next()));
        assert!(overlay.is_news());
    }
}
