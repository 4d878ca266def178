//! Reads through what is in memory to what is in the file.

use std::iter;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use quorate_persist::{Seal, StoreFault};

use super::overlay::Overlay;
use super::record::{KvTable, Record};
use crate::kv::query::Value;

/// What lies below the active overlay: the overlay that is being written, and the table.
///
/// The table may be from before, amid or after that write: what is being written hides it in any case.
pub(super) struct Below<'a> {
    pub(super) frozen: Option<&'a Overlay>,
    pub(super) table: &'a KvTable,
    pub(super) seal: &'a Seal,
}

impl Below<'_> {
    /// What stands under the row of a user's key, seen from `active`.
    pub(super) fn find(&self, active: &Overlay, row: &Bytes) -> Result<Option<Value>, StoreFault> {
        let frozen = || self.frozen.and_then(|frozen| frozen.find(row));
        match active.find(row).or_else(frozen) {
            Some(value) => Ok(value.cloned()),
            None => self.find_in_table(row),
        }
    }

    /// What stands under a row of the store's own, seen from `active`.
    pub(super) fn find_own(
        &self,
        active: &Overlay,
        row: &[u8],
    ) -> Result<Option<Value>, StoreFault> {
        let frozen = || self.frozen.and_then(|frozen| frozen.find_own(row));
        match active.find_own(row).or_else(frozen) {
            Some(value) => Ok(value.cloned()),
            None => self.find_in_table(row),
        }
    }

    fn find_in_table(&self, row: &[u8]) -> Result<Option<Value>, StoreFault> {
        match self.table.get(row)? {
            Some(record) => {
                let record = Record::decode(self.seal, row, record.value())?;
                Ok(Some(record.to_value()))
            }
            None => Ok(None),
        }
    }

    /// Shows `visit` all that is there, seen from `active`, from `start` on and before `end`, in the
    /// order of the keys, until it breaks off. A range that is backwards is empty.
    pub(super) fn scan(
        &self,
        active: &Overlay,
        start: &[u8],
        end: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], &Record<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreFault> {
        // The maps and the database would panic, or not, each in its own way.
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let frozen = self.frozen.map(|frozen| frozen.range(start, end));
        let memory = newest(active.range(start, end), frozen.into_iter().flatten());
        let mut memory = memory.peekable();
        let bounds = (
            Bound::Included(start),
            end.map_or(Bound::Unbounded, Bound::Excluded),
        );
        for row in self.table.range::<&[u8]>(bounds)? {
            let (key, record) = row?;
            let key = key.value();
            while let Some((newer, value)) = memory.next_if(|(newer, _)| newer[..] < *key) {
                if show(&mut visit, (newer, value)).is_break() {
                    return Ok(());
                }
            }
            let flow = match memory.next_if(|(newer, _)| newer[..] == *key) {
                Some(slot) => show(&mut visit, slot),
                None => visit(key, &Record::decode(self.seal, key, record.value())?),
            };
            if flow.is_break() {
                return Ok(());
            }
        }
        let _ = memory.try_for_each(|slot| show(&mut visit, slot));
        Ok(())
    }
}

type Slot<'a> = (&'a Bytes, Option<&'a Value>);

fn show(
    visit: &mut impl FnMut(&[u8], &Record<'_>) -> ControlFlow<()>,
    (key, value): Slot<'_>,
) -> ControlFlow<()> {
    match value {
        Some(value) => visit(key, &value.into()),
        None => ControlFlow::Continue(()),
    }
}

/// Both in the order of the keys; where both know a key, what `newer` says.
fn newest<'a>(
    newer: impl Iterator<Item = Slot<'a>>,
    older: impl Iterator<Item = Slot<'a>>,
) -> impl Iterator<Item = Slot<'a>> {
    let (mut newer, mut older) = (newer.peekable(), older.peekable());
    iter::from_fn(move || {
        let Some((key, _)) = newer.peek() else {
            return older.next();
        };
        if let Some(before) = older.next_if(|(other, _)| other < key) {
            return Some(before);
        }
        older.next_if(|(other, _)| other == key);
        newer.next()
    })
}
