//! Effects of applied commands that are not yet in the file.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;
use quorate_consensus::EntryId;

use crate::kv::query::Value;

/// What a key costs besides its bytes and those of its value, rounded up: 88 bytes in a tree that is
/// two thirds full, and two allocations. Counting it keeps a million tiny keys from passing as
/// nothing.
const ENTRY_OVERHEAD_BYTES: usize = 184;

/// A user's key, its first bytes in the tree itself: most keys differ there, and then a search need not
/// follow a pointer, into memory that nobody has looked at for long, at every step.
///
/// Invariant: `head` is the first bytes of `row` as a number, with zeros behind a short one, so that where two
/// differ, they are in the order of the keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Headed {
    head: [u64; 2],
    row: Bytes,
}

impl Headed {
    fn new(row: Bytes) -> Self {
        let mut first = [[0; 8]; 2];
        for (byte, first) in row.iter().zip(first.as_flattened_mut()) {
            *first = *byte;
        }
        Self {
            head: first.map(u64::from_be_bytes),
            row,
        }
    }

    fn bound(bound: Bound<&[u8]>) -> Bound<Self> {
        bound.map(|row| Self::new(Bytes::copy_from_slice(row)))
    }
}

/// The effects of the entries after `since` up to `applied`: the last state of every key they
/// touched.
///
/// Invariants:
/// - `bytes` is the sum over the keys of key, value and [`ENTRY_OVERHEAD_BYTES`]. A user's key and its value are parts
///   of entries of the log, which are in memory as long as they are: of the same one, or the key of another whose
///   value was no longer, or no longer than that overhead. So what is in memory is a few times as much at most;
/// - between batches, the state at `since` with these effects is the state at `applied`.
#[derive(Clone)]
pub(super) struct Overlay {
    /// Users' keys; `None` for one that is absent, whatever lies below.
    slots: BTreeMap<Headed, Option<Value>>,
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

    /// What it says of the row of a user's key: nothing, that it is absent, or its value.
    pub(super) fn find(&self, row: &Bytes) -> Option<Option<&Value>> {
        self.slots
            .get(&Headed::new(row.clone()))
            .map(Option::as_ref)
    }

    /// The same of a row of the store's own.
    pub(super) fn find_own(&self, row: &[u8]) -> Option<Option<&Value>> {
        self.own.get(row).map(Option::as_ref)
    }

    /// Sets the row of a user's key, or removes it.
    pub(super) fn set(&mut self, row: Bytes, value: Option<Value>) {
        self.bytes += value_bytes(&value);
        let key = Headed::new(row);
        match self.slots.entry(key.clone()) {
            btree_map::Entry::Vacant(slot) => {
                self.bytes += key.row.len() + ENTRY_OVERHEAD_BYTES;
                slot.insert(value);
            }
            btree_map::Entry::Occupied(mut slot) => {
                let before = value_bytes(slot.get());
                self.bytes -= before;
                // The former key may keep the former value in memory: it goes where that costs more than another search.
                if before > value_bytes(&value).max(ENTRY_OVERHEAD_BYTES) {
                    slot.remove();
                    self.slots.insert(key, value);
                } else {
                    slot.insert(value);
                }
            }
        }
    }

    /// Sets a row of the store's own, or removes it.
    pub(super) fn set_own(&mut self, row: &[u8], value: Option<Value>) {
        self.bytes += value_bytes(&value);
        if let Some(known) = self.own.get_mut(row) {
            self.bytes -= value_bytes(known);
            *known = value;
            return;
        }
        self.bytes += row.len() + ENTRY_OVERHEAD_BYTES;
        self.own.insert(Bytes::copy_from_slice(row), value);
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
        let slots = self.slots.iter().map(|(key, slot)| (&key.row, slot));
        let all = self.own.iter().chain(slots);
        all.map(|(row, slot)| (row, slot.as_ref()))
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
        let bounds = (Headed::bound(bounds.0), Headed::bound(bounds.1));
        let slots = self.slots.range(bounds);
        let all = own.chain(slots.map(|(key, slot)| (&key.row, slot)));
        all.map(|(row, slot)| (row, slot.as_ref()))
    }
}

fn value_bytes(value: &Option<Value>) -> usize {
    value.as_ref().map_or(0, |value| value.data.len())
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

    /// A key does not keep an entry in memory that is longer than the one its value is in.
    #[test]
    fn long_entries_do_not_stay() {
        let mut overlay = Overlay::new(ORIGIN);
        let mut set = |bytes: Option<usize>| {
            let entry = Bytes::from(vec![b'k'; 3 + bytes.unwrap_or(0)]);
            let value = bytes.map(|_| Value {
                data: entry.slice(3..),
                revision: 2,
            });
            overlay.set(entry.slice(..3), value);
            let (key, _) = overlay.iter().next().unwrap();
            (entry.as_ptr() == key.as_ptr(), overlay.bytes())
        };
        let one = ENTRY_OVERHEAD_BYTES + 3;
        assert_eq!(set(Some(1 << 20)), (true, one + (1 << 20)));
        assert_eq!(set(None), (true, one));
        assert_eq!(set(Some(1 << 20)), (false, one + (1 << 20)));
        assert_eq!(set(Some(1_000)), (true, one + 1_000));
        assert_eq!(set(Some(999)), (true, one + 999));
        assert_eq!(set(Some(999)), (false, one + 999));
        assert_eq!(set(Some(10)), (true, one + 10));
        assert_eq!(set(Some(9)), (false, one + 9));
    }

    /// Keys are in their order, whether they differ in their first bytes, behind those, or in length only.
    #[test]
    fn keys_are_in_their_order() {
        let long = |end: &str| format!("a key that is longer than its head{end}");
        let mut keys: Vec<Bytes> = ["a", "a\0", "a\0\0", "a\u{1}", "b", "ab", "sixteen bytes !!"]
            .map(String::from)
            .into_iter()
            .chain(["", "\0", "1", "12"].map(long))
            .chain(["sixteen bytes !!\0".into(), "sixteen bytes !\0".into()])
            .map(Bytes::from)
            .collect();
        let mut overlay = Overlay::new(ORIGIN);
        for key in &keys {
            overlay.set(key.clone(), None);
        }
        keys.sort_unstable();
        let found: Vec<&Bytes> = overlay.iter().map(|(key, _)| key).collect();
        assert_eq!(found, keys.iter().collect::<Vec<_>>());
        for (first, start) in keys.iter().enumerate() {
            assert_eq!(overlay.find(start), Some(None));
            for (end, before) in keys.iter().enumerate().skip(first) {
                let range = overlay.range(start, Some(before)).map(|(key, _)| key);
                assert!(range.eq(&keys[first..end]), "{start:?} to {before:?}");
            }
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
