//! From what an older version wrote to what this one reads.

use bytes::Bytes;
use quorate_persist::{OpenedDatabase, StoreFault, StoreIdentity, begin_durable, write_format};
use redb::{Database, ReadableTable, Table, TableDefinition};

use super::KV_FILE;
use super::record::{KV_TABLE, Record, insert};
use super::rows;

/// Where keys stand for a moment, on their way from one place to another.
const MOVING: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("moving");

type Row = (Vec<u8>, Vec<u8>);

/// Brings the file to the present format, in one step.
pub(super) fn to_present(
    opened: &OpenedDatabase,
    identity: &StoreIdentity,
) -> Result<(), StoreFault> {
    if opened.format == KV_FILE.format {
        return Ok(());
    }
    let OpenedDatabase {
        database,
        seal,
        store_id,
        ..
    } = opened;
    tracing::info!(
        from = opened.format,
        to = KV_FILE.format,
        "upgrading the key-value store"
    );
    let transaction = begin_durable(database as &Database)?;
    {
        // Users' keys that begin with a zero byte make room for what the store keeps for itself.
        let mut table = transaction.open_table(KV_TABLE)?;
        let mut moving = transaction.open_table(MOVING)?;
        while let Some((key, record)) = take_first(&mut table)? {
            moving.insert(&key[..], &record[..])?;
        }
        while let Some((key, record)) = moving.pop_first()? {
            let key = Bytes::copy_from_slice(key.value());
            let value = Record::decode(seal, &key, record.value())?.to_value();
            insert(&mut table, seal, &rows::of_user(&key), &value)?;
        }
    }
    transaction.delete_table(MOVING)?;
    write_format(&transaction, KV_FILE, identity, *store_id)?;
    transaction.commit()?;
    Ok(())
}

/// Removes the first key that begins with a zero byte.
fn take_first(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
) -> Result<Option<Row>, StoreFault> {
    let first = match table.range::<&[u8]>(..&[1][..])?.next() {
        Some(row) => row?.0.value().to_vec(),
        None => return Ok(None),
    };
    let record = table
        .remove(&first[..])?
        .map(|record| record.value().to_vec());
    Ok(record.map(|record| (first, record)))
}
