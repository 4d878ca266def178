//! The replicated state: keys and values in a redb file of their own.

use std::path::Path;

use bytes::Bytes;
use quorate_consensus::{
    Batch, Command as LogCommand, EntryId, LogIndex, ORIGIN, StateMachine, StateMachineError, Term,
};
use quorate_persist::{
    Corruption, CreateError, FileKind, META_TABLE, OpenError, Seal, StoreFault, StoreIdentity,
    begin_durable, create_database, open_database,
};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition};

use super::command::{Answer, Command, Invalid, Outcome, Pair, Query, RANGE_BYTES_MAX, Value};

/// What redb keeps of the state in memory unless told otherwise: enough for the hot part of a small
/// machine's data, whatever the size of the file.
pub const KV_CACHE_BYTES_DEFAULT: usize = 32 << 20;

const KV_FILE: FileKind = FileKind {
    magic: *b"QRMKV\0\0\0",
    format: 1,
};

const KV_TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("kv");
const APPLIED: &str = "applied";

/// Checksum, revision.
const RECORD_HEADER_BYTES: usize = 4 + 8;

/// How the key-value store uses the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvOptions {
    /// How many bytes of the file redb keeps in memory. Default [`KV_CACHE_BYTES_DEFAULT`]. Too
    /// small: reads and writes go to the disk. Too large: memory others could use.
    pub cache_bytes: usize,
}

impl Default for KvOptions {
    fn default() -> Self {
        Self {
            cache_bytes: KV_CACHE_BYTES_DEFAULT,
        }
    }
}

/// The key-value state machine.
///
/// It is applied without waiting for the disk; [`checkpoint`](StateMachine::checkpoint) makes it
/// durable. After a crash it is as at the last checkpoint, or somewhat later, and the log is applied
/// again from there, with the same result.
#[derive(Debug)]
pub struct KvStore {
    database: Database,
    seal: Seal,
    applied: EntryId,
    /// Whether something was applied since the last checkpoint.
    unsaved: bool,
}

impl KvStore {
    /// Makes an empty store at `path`. Durable when this returns.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; an existing file is never touched.
    pub fn create(path: &Path, identity: &StoreIdentity) -> Result<(), CreateError> {
        create_database(path, KV_FILE, identity, |transaction, seal| {
            transaction.open_table(KV_TABLE)?;
            let mut meta = transaction.open_table(META_TABLE)?;
            meta.insert(APPLIED, applied_row(seal, ORIGIN).as_slice())?;
            Ok(())
        })?;
        Ok(())
    }

    /// Opens the store at `path` and checks every page of it.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the node must not run on such a file. Where the whole log is still there, a lost
    /// or damaged store can be created anew: it is rebuilt from the log.
    pub fn open(
        path: &Path,
        identity: &StoreIdentity,
        options: KvOptions,
    ) -> Result<Self, OpenError> {
        let opened = open_database(path, KV_FILE, identity, options.cache_bytes)?;
        let applied =
            read_applied(&opened.database, &opened.seal).map_err(|fault| fault.at_open(path))?;
        tracing::info!(path = %path.display(), applied = %applied, "key-value store opened");
        Ok(Self {
            database: opened.database,
            seal: opened.seal,
            applied,
            unsaved: false,
        })
    }

    /// A number that is the same for the same keys, values and revisions, and most likely differs
    /// otherwise. Reads the whole store.
    ///
    /// # Errors
    ///
    /// [`StateMachineError`] when a record is damaged or the disk fails.
    pub fn digest(&self) -> Result<u64, StateMachineError> {
        self.digest_checked().map_err(StateMachineError::new)
    }

    fn digest_checked(&self) -> Result<u64, StoreFault> {
        let mut digest = Fnv::default();
        let table = self.database.begin_read()?.open_table(KV_TABLE)?;
        for record in table.iter()? {
            let (key, record) = record?;
            let record = Record::decode(&self.seal, key.value(), record.value())?;
            digest.add(key.value());
            digest.add(&record.revision.to_le_bytes());
            digest.add(record.data);
        }
        Ok(digest.0)
    }

    fn apply_checked(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StoreFault> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::None)?;
        let outcomes = {
            let mut table = transaction.open_table(KV_TABLE)?;
            let mut apply = |command| apply_command(&mut table, &self.seal, command);
            batch
                .commands
                .iter()
                .map(|command| Ok(apply(command)?.encode()))
                .collect::<Result<Vec<Bytes>, StoreFault>>()?
        };
        let applied = applied_row(&self.seal, batch.last);
        transaction
            .open_table(META_TABLE)?
            .insert(APPLIED, applied.as_slice())?;
        transaction.commit()?;
        self.applied = batch.last;
        self.unsaved = true;
        Ok(outcomes)
    }

    fn answer(&self, query: &[u8]) -> Result<Answer, StoreFault> {
        let query = Query::decode(query).and_then(|query| query.validate().map(|()| query));
        match query {
            Ok(Query::Get { key }) => {
                let table = self.database.begin_read()?.open_table(KV_TABLE)?;
                Ok(Answer::Value(find(&table, &self.seal, &key)?))
            }
            Ok(Query::Range { start, end, limit }) => self.page(&start, end.as_deref(), limit),
            Err(invalid) => Ok(Answer::Refused(invalid)),
        }
    }

    fn page(&self, start: &[u8], end: Option<&[u8]>, limit: u32) -> Result<Answer, StoreFault> {
        let mut pairs = Vec::new();
        let table = self.database.begin_read()?.open_table(KV_TABLE)?;
        let records = match end {
            // Backwards ranges are empty, and no concern of the database.
            Some(end) if end <= start => return Ok(Answer::Page { pairs, more: false }),
            Some(end) => table.range(start..end)?,
            None => table.range(start..)?,
        };
        let mut bytes = 0;
        for record in records {
            let (key, record) = record?;
            let record = Record::decode(&self.seal, key.value(), record.value())?;
            bytes += key.value().len() + record.data.len();
            // The first pair always fits: see the assertion below.
            if pairs.len() == limit as usize || bytes > RANGE_BYTES_MAX {
                return Ok(Answer::Page { pairs, more: true });
            }
            pairs.push(Pair {
                key: Bytes::copy_from_slice(key.value()),
                value: record.to_value(),
            });
        }
        Ok(Answer::Page { pairs, more: false })
    }

    fn checkpoint_checked(&mut self) -> Result<(), StoreFault> {
        if self.unsaved {
            // An empty durable commit takes all earlier ones along.
            begin_durable(&self.database)?.commit()?;
            self.unsaved = false;
        }
        Ok(())
    }
}

const _: () = assert!(
    super::command::KEY_BYTES_MAX + super::command::VALUE_BYTES_MAX <= RANGE_BYTES_MAX,
    "a page holds at least one pair, or a reader would never get past it"
);

impl StateMachine for KvStore {
    fn applied(&self) -> EntryId {
        self.applied
    }

    /// # Panics
    ///
    /// When `batch` does not come after everything applied before it, in order.
    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
        check_order(self.applied, batch);
        self.apply_checked(batch).map_err(StateMachineError::new)
    }

    fn query(&mut self, query: &[u8]) -> Result<Bytes, StateMachineError> {
        match self.answer(query) {
            Ok(answer) => Ok(answer.encode()),
            Err(fault) => Err(StateMachineError::new(fault)),
        }
    }

    fn checkpoint(&mut self) -> Result<(), StateMachineError> {
        self.checkpoint_checked().map_err(StateMachineError::new)
    }
}

/// Commands are applied once each, in the order of the log; anything else would make this member
/// differ from the others (State Machine Safety, Raft paper, figure 3).
fn check_order(applied: EntryId, batch: &Batch) {
    let mut previous = applied;
    for command in &batch.commands {
        let id = command.id;
        assert!(
            id.index > previous.index && id.term >= previous.term,
            "command {id} after {previous}"
        );
        previous = id;
    }
    let last = batch.last;
    assert!(
        last.index > applied.index && last.index >= previous.index && last.term >= previous.term,
        "a batch that ends in {last} after {previous}, with {applied} applied"
    );
}

fn apply_command(
    table: &mut KvTable<'_>,
    seal: &Seal,
    entry: &LogCommand,
) -> Result<Outcome, StoreFault> {
    // Sizes again: what is in the log may have come from a member that did not check.
    let command = Command::decode(&entry.data).and_then(|command| {
        command.validate()?;
        Ok(command)
    });
    let revision = entry.id.index.value();
    match command {
        Ok(Command::Put { key, value }) => {
            insert(table, seal, &key, revision, &value)?;
            Ok(Outcome::Written { revision })
        }
        Ok(Command::Delete { key }) => {
            let existed = table.remove(&key[..])?.is_some();
            Ok(Outcome::Deleted { existed, revision })
        }
        Ok(Command::CompareAndSet {
            key,
            expected,
            value,
        }) => {
            let current = find(&*table, seal, &key)?.map(|value| value.data);
            if current != expected {
                return Ok(Outcome::NotSwapped { current });
            }
            match value {
                Some(value) => insert(table, seal, &key, revision, &value)?,
                None => drop(table.remove(&key[..])?),
            }
            Ok(Outcome::Swapped { revision })
        }
        Err(invalid) => Ok(refuse(invalid)),
    }
}

fn refuse(invalid: Invalid) -> Outcome {
    tracing::warn!(err = %invalid, "a command in the log was refused");
    Outcome::Refused(invalid)
}

type KvTable<'a> = Table<'a, &'static [u8], &'static [u8]>;

fn insert(
    table: &mut KvTable<'_>,
    seal: &Seal,
    key: &[u8],
    revision: u64,
    data: &[u8],
) -> Result<(), StoreFault> {
    let revision = revision.to_le_bytes();
    let checksum = record_checksum(seal, key, &revision, data);
    let mut record = table.insert_reserve(key, RECORD_HEADER_BYTES + data.len())?;
    let record = record.as_mut();
    record[..4].copy_from_slice(&checksum.to_le_bytes());
    record[4..RECORD_HEADER_BYTES].copy_from_slice(&revision);
    record[RECORD_HEADER_BYTES..].copy_from_slice(data);
    Ok(())
}

fn find(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    seal: &Seal,
    key: &[u8],
) -> Result<Option<Value>, StoreFault> {
    match table.get(key)? {
        Some(record) => Ok(Some(Record::decode(seal, key, record.value())?.to_value())),
        None => Ok(None),
    }
}

/// What stands under a key, checked but not yet copied.
struct Record<'a> {
    revision: u64,
    data: &'a [u8],
}

impl<'a> Record<'a> {
    fn decode(seal: &Seal, key: &[u8], record: &'a [u8]) -> Result<Self, Corruption> {
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

    fn to_value(&self) -> Value {
        Value {
            data: Bytes::copy_from_slice(self.data),
            revision: self.revision,
        }
    }
}

fn record_checksum(seal: &Seal, key: &[u8], revision: &[u8; 8], data: &[u8]) -> u32 {
    // The length keeps a byte from moving between key and revision unnoticed.
    let key_bytes = (key.len() as u32).to_le_bytes();
    seal.checksum(&[b"v", &key_bytes, key, revision, data])
}

fn applied_row(seal: &Seal, applied: EntryId) -> Vec<u8> {
    let term = applied.term.value().to_le_bytes();
    let index = applied.index.value().to_le_bytes();
    seal.close_row(APPLIED, [term, index].concat())
}

fn read_applied(database: &Database, seal: &Seal) -> Result<EntryId, StoreFault> {
    let transaction = database.begin_read()?;
    let row: [u8; 16] = seal.open_row(&transaction.open_table(META_TABLE)?, APPLIED)?;
    // So that a store without its table is refused now and not at the first command.
    transaction.open_table(KV_TABLE)?;
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

/// FNV-1a over parts, each with its length. It compares members with each other; it does not resist
/// anyone who looks for collisions.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, part: &[u8]) {
        let length = (part.len() as u64).to_le_bytes();
        for byte in length.iter().chain(part) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests;
