//! The table of entries: rows of one or several, keyed by the index of the first.

use quorate_consensus::{Entry, EntryId, LogIndex};
use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::entry_row::{Row, encode, row_bytes, share};
use crate::error::{Corruption, StoreFault};
use crate::planted;
use crate::schema::Seal;
use crate::shape::LogShape;

const LOG_TABLE: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");

/// The table in a transaction that writes.
pub(crate) struct LogTable<'a> {
    rows: Table<'a, u64, &'static [u8]>,
    seal: Seal,
}

impl<'a> LogTable<'a> {
    pub(crate) fn open(
        transaction: &'a WriteTransaction,
        seal: Seal,
    ) -> Result<Self, redb::TableError> {
        let rows = transaction.open_table(LOG_TABLE)?;
        Ok(Self { rows, seal })
    }

    /// Adds `entries`, which follow each other and everything that is there.
    pub(crate) fn add(&mut self, mut entries: &[&Entry]) -> Result<(), StoreFault> {
        while let Some(first) = entries.first() {
            let (shared, rest) = entries.split_at(share(entries));
            let index = first.id.index.value();
            let mut row = self.rows.insert_reserve(index, row_bytes(shared))?;
            encode(&self.seal, shared, row.as_mut());
            entries = rest;
        }
        Ok(())
    }

    /// Removes every entry after `last`, which is in the log or its base.
    pub(crate) fn remove_after(&mut self, last: EntryId) -> Result<(), StoreFault> {
        if planted::is("log-not-cut") {
            return Ok(());
        }
        let shared = self.shared_across(last)?;
        let from = shared.first().map_or(last.index.next(), |e| e.id.index);
        self.rows.retain_in(from.value().., |_, _| false)?;
        self.put_back(&shared, |entry| entry.id.index <= last.index)
    }

    /// Removes every entry up to `base`, which is in the log.
    pub(crate) fn remove_to(&mut self, base: EntryId) -> Result<(), StoreFault> {
        let shared = self.shared_across(base)?;
        self.rows.retain_in(..=base.index.value(), |_, _| false)?;
        self.put_back(&shared, |entry| entry.id.index > base.index)
    }

    pub(crate) fn clear(&mut self) -> Result<(), StoreFault> {
        Ok(self.rows.retain(|_, _| false)?)
    }

    /// The entries of the row that holds `id` and its successor: nothing if a row ends with `id`.
    fn shared_across(&self, id: EntryId) -> Result<Vec<Entry>, StoreFault> {
        let Some(row) = self.rows.range(..=id.index.value())?.next_back() else {
            return Ok(Vec::new());
        };
        let (index, row) = row?;
        let row = Row::decode(&self.seal, LogIndex::new(index.value()), row.value())?;
        if row.last() <= id.index {
            return Ok(Vec::new());
        }
        // Written again, it would pass for what was written last.
        let (expected, found) = (id.term, row.first().term);
        if expected != found {
            let index = id.index;
            return Err(Corruption::StaleEntry {
                index,
                expected,
                found,
            }
            .into());
        }
        Ok(row.entries().map(|entry| entry.to_entry()).collect())
    }

    fn put_back(
        &mut self,
        shared: &[Entry],
        stays: impl Fn(&Entry) -> bool,
    ) -> Result<(), StoreFault> {
        let staying: Vec<&Entry> = shared.iter().filter(|entry| stays(entry)).collect();
        match planted::is("shared-row-not-kept") {
            true => Ok(()),
            false => self.add(&staying),
        }
    }
}

/// Looks at every row of the log, in order.
pub(crate) fn each_row(
    transaction: &ReadTransaction,
    seal: &Seal,
    mut look: impl FnMut(&Row<'_>) -> Result<(), StoreFault>,
) -> Result<(), StoreFault> {
    for row in transaction.open_table(LOG_TABLE)?.iter()? {
        let (index, row) = row?;
        look(&Row::decode(
            seal,
            LogIndex::new(index.value()),
            row.value(),
        )?)?;
    }
    Ok(())
}

/// The entries from `first` to `last`, as many as fit `bytes_max` but at least one, each with the term that
/// `shape` says.
pub(crate) fn read(
    transaction: &ReadTransaction,
    seal: &Seal,
    shape: &LogShape,
    (first, last): (LogIndex, LogIndex),
    bytes_max: u64,
) -> Result<Vec<Entry>, StoreFault> {
    let log = transaction.open_table(LOG_TABLE)?;
    let before = log.range(..=first.value())?.next_back().transpose()?;
    let begin = before.map_or(first.value(), |(index, _)| index.value());
    let mut entries = Vec::new();
    let (mut expected, mut bytes) = (first, 0);
    for row in log.range(begin..=last.value())? {
        let (index, row) = row?;
        let row = Row::decode(seal, LogIndex::new(index.value()), row.value())?;
        let wanted = |index| (first..=last).contains(&index);
        for entry in row.entries().filter(|entry| wanted(entry.id.index)) {
            let found = entry.id.index;
            if found != expected {
                return Err(Corruption::Gap { expected, found }.into());
            }
            check_term(shape, entry.id)?;
            bytes += entry.bytes();
            if bytes > bytes_max && !entries.is_empty() {
                return Ok(entries);
            }
            entries.push(entry.to_entry());
            expected = expected.next();
        }
    }
    if expected <= last {
        return Err(Corruption::EntryMissing { index: expected }.into());
    }
    Ok(entries)
}

/// An older version of a row is valid in its place; only its term gives it away.
fn check_term(shape: &LogShape, id: EntryId) -> Result<(), Corruption> {
    let (index, found) = (id.index, id.term);
    match shape.term_at(index) {
        Some(expected) if expected == found => Ok(()),
        Some(expected) => Err(Corruption::StaleEntry {
            index,
            expected,
            found,
        }),
        None => Err(Corruption::EntryMissing { index }),
    }
}
