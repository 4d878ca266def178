//! How keys, values and the applied position stand in the file: `docs/disk.md`, byte for byte.

use std::iter::Peekable;

use bytes::Bytes;
use quorate_consensus::{EntryId, LogIndex, ORIGIN, Term};
use quorate_persist::{Corruption, META_TABLE, Seal, StoreFault, begin_durable};
use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, Table, TableDefinition,
};

use super::overlay::Overlay;
use crate::kv::query::Value;
use crate::planted;

pub(super) const KV_TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("kv");
pub(super) const APPLIED: &str = "applied";

/// Checksum, revision.
const RECORD_HEADER_BYTES: usize = 4 + 8;

/// Of redb's pages: a row changes one, if no other row has changed it, and those that its own bytes need.
const PAGE_BYTES: usize = 4096;

/// A step may change a third of what redb's cache holds: half of it is for changed pages, and those of
/// branches, and of what redb keeps for itself, come on top.
const CACHE_TO_STEP: usize = 3;

/// The table as it was at the last flush that was known to have ended when it was opened, or later.
pub(super) type KvTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// The table as it is now, and up to where the log is applied in it.
pub(super) fn open_table(
    database: &Database,
    seal: &Seal,
) -> Result<(KvTable, EntryId), StoreFault> {
    let transaction = database.begin_read()?;
    let applied = read_applied(&transaction, seal)?;
    Ok((transaction.open_table(KV_TABLE)?, applied))
}

/// Writes all of `overlay` and the position it reaches, so that the file always holds the effects of a
/// prefix of the log: one durable commit, after steps that are durable only with it.
///
/// redb keeps changed pages in half of its cache and writes what is over that at once, without the
/// checksums that a commit puts into every page: so it would read and write nearly all of them once more.
/// What a step changes fits, and leaves the cache once, complete.
///
/// During the steps there is no row of the position: if anything else than these steps ever made them
/// durable, as the orderly end of a process does whose overlay could not be written to its end, the file
/// would be refused at the next start, and never be taken for the state at the former position.
pub(super) fn write_overlay(
    database: &Database,
    seal: &Seal,
    overlay: &Overlay,
    cache_bytes: usize,
) -> Result<(), StoreFault> {
    let left_out = usize::from(planted::is("state-behind-its-index"));
    let mut rows = overlay.iter().skip(left_out).peekable();
    while rows.peek().is_some() {
        write_step(database, seal, &mut rows, cache_bytes / CACHE_TO_STEP)?;
    }
    let transaction = begin_durable(database)?;
    let applied = applied_row(seal, overlay.applied());
    transaction
        .open_table(META_TABLE)?
        .insert(APPLIED, applied.as_slice())?;
    transaction.commit()?;
    Ok(())
}

/// Takes of `rows` what may change pages of `bytes` bytes, at least one, and writes that.
pub(super) fn write_step<'a>(
    database: &Database,
    seal: &Seal,
    rows: &mut Peekable<impl Iterator<Item = (&'a Bytes, Option<&'a Value>)>>,
    bytes: usize,
) -> Result<(), StoreFault> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::None)?;
    transaction.open_table(META_TABLE)?.remove(APPLIED)?;
    {
        let mut table = transaction.open_table(KV_TABLE)?;
        let mut changed = 0;
        while let Some((key, value)) = rows.next_if(|_| changed < bytes) {
            changed += PAGE_BYTES + key.len();
            match value {
                Some(value) => {
                    changed += value.data.len();
                    insert(&mut table, seal, key, value)?;
                }
                None => drop(table.remove(&key[..])?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

pub(super) fn insert(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    seal: &Seal,
    key: &[u8],
    value: &Value,
) -> Result<(), StoreFault> {
    let data = &value.data;
    let revision = value.revision.to_le_bytes();
    let checksum = record_checksum(seal, key, &revision, data);
    let mut record = table.insert_reserve(key, RECORD_HEADER_BYTES + data.len())?;
    let record = record.as_mut();
    record[..4].copy_from_slice(&checksum.to_le_bytes());
    record[4..RECORD_HEADER_BYTES].copy_from_slice(&revision);
    record[RECORD_HEADER_BYTES..].copy_from_slice(data);
    Ok(())
}

/// What stands under a key, checked but not yet copied.
pub(super) struct Record<'a> {
    pub(super) revision: u64,
    pub(super) data: &'a [u8],
}

impl<'a> Record<'a> {
    pub(super) fn decode(seal: &Seal, key: &[u8], record: &'a [u8]) -> Result<Self, Corruption> {
        let damaged = Corruption::RecordChecksum { table: "kv" };
        let Some((checksum, rest)) = record.split_first_chunk::<4>() else {
            return Err(damaged);
        };
        let Some((revision, data)) = rest.split_first_chunk::<8>() else {
            return Err(damaged);
        };
        if record_checksum(seal, key, revision, data) != u32::from_le_bytes(*checksum) {
            return Err(damaged);
        }
        let revision = u64::from_le_bytes(*revision);
        Ok(Self { revision, data })
    }

    pub(super) fn to_value(&self) -> Value {
        Value {
            data: Bytes::copy_from_slice(self.data),
            revision: self.revision,
        }
    }
}

impl<'a> From<&'a Value> for Record<'a> {
    fn from(value: &'a Value) -> Self {
        Self {
            revision: value.revision,
            data: &value.data,
        }
    }
}

fn record_checksum(seal: &Seal, key: &[u8], revision: &[u8; 8], data: &[u8]) -> u32 {
    // The length keeps a byte from moving between key and revision unnoticed.
    let key_bytes = (key.len() as u32).to_le_bytes();
    seal.checksum(&[b"v", &key_bytes, key, revision, data])
}

pub(super) fn applied_row(seal: &Seal, applied: EntryId) -> Vec<u8> {
    let term = applied.term.value().to_le_bytes();
    let index = applied.index.value().to_le_bytes();
    seal.close_row(APPLIED, [term, index].concat())
}

fn read_applied(transaction: &ReadTransaction, seal: &Seal) -> Result<EntryId, StoreFault> {
    let row: [u8; 16] = seal.open_row(&transaction.open_table(META_TABLE)?, APPLIED)?;
    let number = |at: usize| {
        let bytes = row[at..at + 8].try_into();
        u64::from_le_bytes(bytes.expect("eight bytes of sixteen"))
    };
    let applied = EntryId::new(Term::new(number(0)), LogIndex::new(number(8)));
    if applied.index < ORIGIN.index || applied.term < ORIGIN.term {
        return Err(Corruption::RowContent { row: APPLIED }.into());
    }
    Ok(applied)
}
