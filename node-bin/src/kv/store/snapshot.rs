//! The state on its way to another member, and from one.
//!
//! A snapshot is the pairs of the table in the order of their keys, in pieces. Each piece carries the
//! digest of all pairs up to its end, so that a pair that is missing, twice or of another snapshot is
//! noticed with its piece, and the last piece's digest is that of the whole.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorate_consensus::{
    Chunk, EntryId, MEMBERS_MAX, SnapshotSink, SnapshotSource, StateMachineError,
};
use quorate_persist::{
    CreateError, DatabaseDraft, Files, META_TABLE, Seal, StoreFault, StoreIdentity,
};
use redb::{Database, Durability};
use serde::{Deserialize, Serialize};

use super::KV_FILE;
use super::digest::Digest;
use super::record::{APPLIED, KV_TABLE, KvTable, Record, applied_row, insert};
use super::rows::{ROW_KEY_BYTES_MAX, ROW_VALUE_BYTES_MAX};
use crate::kv::query::Value;
use crate::planted;

/// What redb may keep in memory of a snapshot that is being received: its pairs come in order, so that
/// only the right edge of the tree is touched again.
const CACHE_BYTES: usize = 4 << 20;

/// Behind the name of the state's file, that of a received one which is still to take its place.
const RECEIVED: &str = ".received";

/// How many places a source remembers the digest of: each member goes on from the last one or asks again for
/// it, so two for each of thirty-one. Going on from another place costs a scan up to there.
const DIGESTS_MAX: usize = 2 * MEMBERS_MAX;

/// What a pair counts for besides its bytes.
const PAIR_OVERHEAD_BYTES: usize = 24;

#[derive(Serialize, Deserialize)]
struct Piece {
    pairs: Vec<Pair>,
    /// Of all pairs up to the last one here.
    digest: u64,
}

#[derive(Serialize, Deserialize)]
struct Pair {
    key: Bytes,
    revision: u64,
    value: Bytes,
}

impl Pair {
    fn record(&self) -> Record<'_> {
        Record {
            revision: self.revision,
            data: &self.value,
        }
    }

    fn bytes(&self) -> usize {
        PAIR_OVERHEAD_BYTES + self.key.len() + self.value.len()
    }
}

/// Where the file received for the state at `path` is.
pub(super) fn received_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(RECEIVED);
    path.with_file_name(name)
}

/// The state as it was at a flush.
pub(super) struct KvSource {
    // Dropped before the database.
    table: KvTable,
    _database: Arc<Database>,
    seal: Seal,
    last: EntryId,
    /// The digests up to the ends of the pieces given last, the oldest first.
    digests: VecDeque<(Bytes, Digest)>,
}

impl KvSource {
    pub(super) fn new(table: KvTable, database: Arc<Database>, seal: Seal, last: EntryId) -> Self {
        Self {
            table,
            _database: database,
            seal,
            last,
            digests: VecDeque::new(),
        }
    }

    fn piece(
        &mut self,
        after: &[u8],
        bytes_max: u64,
    ) -> Result<(Piece, Option<Bytes>), StoreFault> {
        let mut digest = self.digest_up_to(after)?;
        let mut pairs: Vec<Pair> = Vec::new();
        let mut bytes = 0;
        let mut next = None;
        let beyond = match after {
            [] => Bound::Unbounded,
            after => Bound::Excluded(after),
        };
        for row in self.table.range::<&[u8]>((beyond, Bound::Unbounded))? {
            let (key, record) = row?;
            let key = key.value();
            let record = Record::decode(&self.seal, key, record.value())?;
            let pair = Pair {
                key: Bytes::copy_from_slice(key),
                revision: record.revision,
                value: Bytes::copy_from_slice(record.data),
            };
            bytes += pair.bytes();
            if bytes as u64 > bytes_max && !pairs.is_empty() {
                next = pairs.last().map(|pair| pair.key.clone());
                break;
            }
            if planted::is("pair-missing-in-snapshot") && pairs.len() == 1 {
                continue;
            }
            digest.add(key, &record);
            pairs.push(pair);
        }
        if let Some(next) = &next {
            self.remember(next.clone(), digest);
        }
        let digest = digest.value();
        Ok((Piece { pairs, digest }, next))
    }

    fn remember(&mut self, place: Bytes, digest: Digest) {
        if self.digests.iter().any(|(known, _)| *known == place) {
            return;
        }
        if self.digests.len() == DIGESTS_MAX {
            self.digests.pop_front();
        }
        self.digests.push_back((place, digest));
    }

    /// The digest of all pairs up to `place`, which the pieces before have left here, unless another
    /// member has given them.
    fn digest_up_to(&self, place: &[u8]) -> Result<Digest, StoreFault> {
        let mut known = self.digests.iter().rev();
        if let Some(&(_, digest)) = known.find(|(known, _)| *known == place) {
            return Ok(digest);
        }
        let mut digest = Digest::default();
        if place.is_empty() {
            return Ok(digest);
        }
        for row in self.table.range::<&[u8]>(..=place)? {
            let (key, record) = row?;
            let key = key.value();
            digest.add(key, &Record::decode(&self.seal, key, record.value())?);
        }
        Ok(digest)
    }
}

impl SnapshotSource for KvSource {
    fn last(&self) -> EntryId {
        self.last
    }

    fn chunk(&mut self, after: &[u8], bytes_max: u64) -> Result<Chunk, StateMachineError> {
        let (piece, next) = self
            .piece(after, bytes_max)
            .map_err(StateMachineError::new)?;
        let data = postcard::to_stdvec(&piece).map_err(StateMachineError::new)?;
        let data = data.into();
        Ok(Chunk { data, next })
    }
}

/// How much of a snapshot is put in without a durable commit: redb keeps account in memory of every page since the
/// last one.
const UNSAVED_BYTES_MAX: usize = 64 << 20;

/// Puts the pairs of a snapshot into a file beside the state's.
pub(super) struct KvSink {
    pub(super) files: Arc<dyn Files>,
    pub(super) path: PathBuf,
    pub(super) identity: StoreIdentity,
    pub(super) draft: Option<Draft>,
}

pub(super) struct Draft {
    file: DatabaseDraft,
    last: EntryId,
    last_key: Bytes,
    digest: Digest,
    /// What was put in since the last durable commit.
    unsaved_bytes: usize,
}

impl KvSink {
    fn begin_checked(&mut self, last: EntryId) -> Result<(), CreateError> {
        // What a former transfer left goes first: there may be no room for both.
        self.draft = None;
        let received = received_path(&self.path);
        // One that was received and is still to be installed is not here: nobody offers another one meanwhile.
        let io = |source| CreateError::Io {
            path: received.clone(),
            source,
        };
        if self.files.exists(&received).map_err(io)? {
            self.files.remove(&received).map_err(io)?;
        }
        let files = Arc::clone(&self.files);
        let file = DatabaseDraft::begin(
            files,
            &received,
            KV_FILE,
            &self.identity,
            CACHE_BYTES,
            |transaction, _| {
                transaction
                    .open_table(KV_TABLE)
                    .map(drop)
                    .map_err(Into::into)
            },
        )?;
        self.draft = Some(Draft {
            file,
            last,
            last_key: Bytes::new(),
            digest: Digest::default(),
            unsaved_bytes: 0,
        });
        Ok(())
    }
}

impl SnapshotSink for KvSink {
    fn begin(&mut self, last: EntryId) -> Result<(), StateMachineError> {
        self.begin_checked(last).map_err(StateMachineError::new)
    }

    fn add(&mut self, data: &[u8]) -> Result<bool, StateMachineError> {
        let Some(draft) = &mut self.draft else {
            return Ok(false);
        };
        let Ok((piece, [])) = postcard::take_from_bytes::<Piece>(data) else {
            return Ok(false);
        };
        let Some((last_key, digest)) = draft.checked(&piece) else {
            return Ok(false);
        };
        draft.insert(&piece).map_err(StateMachineError::new)?;
        (draft.last_key, draft.digest) = (last_key, digest);
        Ok(true)
    }

    fn finish(&mut self) -> Result<bool, StateMachineError> {
        let Some(draft) = self.draft.take() else {
            return Ok(false);
        };
        draft.save().map_err(StateMachineError::new)?;
        draft.file.publish().map_err(StateMachineError::new)?;
        Ok(true)
    }
}

impl Draft {
    /// The last key and the digest after `piece`, if it is what comes next.
    fn checked(&self, piece: &Piece) -> Option<(Bytes, Digest)> {
        let (mut last_key, mut digest) = (&self.last_key, self.digest);
        for pair in &piece.pairs {
            let fits = (1..=ROW_KEY_BYTES_MAX).contains(&pair.key.len())
                && pair.value.len() <= ROW_VALUE_BYTES_MAX
                && pair.key > *last_key;
            if !fits {
                return None;
            }
            digest.add(&pair.key, &pair.record());
            last_key = &pair.key;
        }
        (digest.value() == piece.digest).then(|| (last_key.clone(), digest))
    }

    /// Nothing of it has to survive a crash before all of it is there.
    fn insert(&mut self, piece: &Piece) -> Result<(), StoreFault> {
        self.unsaved_bytes += piece.pairs.iter().map(Pair::bytes).sum::<usize>();
        let mut transaction = self.file.database().begin_write()?;
        if self.unsaved_bytes < UNSAVED_BYTES_MAX {
            transaction.set_durability(Durability::None)?;
        } else {
            self.unsaved_bytes = 0;
        }
        {
            let mut table = transaction.open_table(KV_TABLE)?;
            for pair in &piece.pairs {
                let value = Value {
                    data: pair.value.clone(),
                    revision: pair.revision,
                };
                insert(&mut table, self.file.seal(), &pair.key, &value)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn save(&self) -> Result<(), StoreFault> {
        let transaction = quorate_persist::begin_durable(self.file.database())?;
        let applied = applied_row(self.file.seal(), self.last);
        transaction
            .open_table(META_TABLE)?
            .insert(APPLIED, applied.as_slice())?;
        transaction.commit()?;
        Ok(())
    }
}

impl fmt::Debug for KvSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.draft.as_ref().map(|draft| draft.last);
        f.debug_struct("KvSink")
            .field("last", &last)
            .finish_non_exhaustive()
    }
}
