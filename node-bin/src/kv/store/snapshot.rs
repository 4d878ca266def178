//! The state on its way to another member or into a backup, and from one.

use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorate_consensus::{
    Chunk, EntryId, MEMBERS_MAX, SnapshotSink, SnapshotSource, StateMachineError,
};
use quorate_persist::{CreateError, DatabaseDraft, Files, META_TABLE, StoreFault, StoreIdentity};
use redb::Durability;

use super::KV_FILE;
use super::digest::Digest;
use super::picture::{self, Picture};
use super::piece::{Pair, Piece, Progress};
use super::record::{APPLIED, KV_TABLE, applied_row, insert};
use crate::kv::query::Value;
use crate::planted;

/// What redb may keep in memory of a snapshot that is being received: its pairs come in order, so that
/// only the right edge of the tree is touched again.
const CACHE_BYTES: usize = 4 << 20;

/// How many places a source remembers the digest of: each member goes on from the last one or asks again for
/// it, so two for each of thirty-one. Going on from another place costs a scan up to there.
const DIGESTS_MAX: usize = 2 * MEMBERS_MAX;

/// A picture of the state in pieces.
pub(super) struct KvSource {
    picture: Picture,
    /// The digests up to the ends of the pieces given last, the oldest first.
    digests: VecDeque<(Bytes, Digest)>,
}

impl KvSource {
    pub(super) fn new(picture: Picture) -> Self {
        Self {
            picture,
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
        let mut more = false;
        let start = match after {
            [] => Vec::new(),
            after => picture::after(after),
        };
        self.picture.scan(&start, None, |key, record| {
            let pair = Pair {
                key: Bytes::copy_from_slice(key),
                revision: record.revision,
                value: Bytes::copy_from_slice(record.data),
            };
            bytes += pair.bytes();
            more = bytes as u64 > bytes_max && !pairs.is_empty();
            if more {
                return ControlFlow::Break(());
            }
            if planted::is("pair-missing-in-snapshot") && pairs.len() == 1 {
                return ControlFlow::Continue(());
            }
            digest.add(key, record);
            pairs.push(pair);
            ControlFlow::Continue(())
        })?;
        let next = pairs.last().filter(|_| more).map(|pair| pair.key.clone());
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
        let end = picture::after(place);
        self.picture.scan(&[], Some(&end), |key, record| {
            digest.add(key, record);
            ControlFlow::Continue(())
        })?;
        Ok(digest)
    }
}

impl SnapshotSource for KvSource {
    fn last(&self) -> EntryId {
        self.picture.last()
    }

    fn chunk(&mut self, after: &[u8], bytes_max: u64) -> Result<Chunk, StateMachineError> {
        let (piece, next) = self.piece(after, bytes_max)?;
        let data = postcard::to_stdvec(&piece).map_err(StateMachineError::new)?;
        let data = data.into();
        Ok(Chunk { data, next })
    }
}

/// How much of a snapshot is put in without a durable commit: redb keeps account in memory of every page since the
/// last one.
const UNSAVED_BYTES_MAX: usize = 64 << 20;

/// Makes a file of a state at `path`, owned by `identity`, of the pieces that it gets. A file that is there goes
/// when it begins.
pub(crate) fn sink_to(
    files: Arc<dyn Files>,
    path: &Path,
    identity: &StoreIdentity,
) -> Box<dyn SnapshotSink> {
    Box::new(KvSink {
        files,
        path: path.to_owned(),
        identity: identity.clone(),
        draft: None,
    })
}

struct KvSink {
    files: Arc<dyn Files>,
    path: PathBuf,
    identity: StoreIdentity,
    draft: Option<Draft>,
}

struct Draft {
    file: DatabaseDraft,
    last: EntryId,
    progress: Progress,
    /// What was put in since the last durable commit.
    unsaved_bytes: usize,
}

impl KvSink {
    fn begin_checked(&mut self, last: EntryId) -> Result<(), CreateError> {
        // What a former transfer left goes first: there may be no room for both.
        self.draft = None;
        // One that was received and is still to be installed is not here: nobody offers another one meanwhile.
        let io = |source| CreateError::Io {
            path: self.path.clone(),
            source,
        };
        if self.files.exists(&self.path).map_err(io)? {
            self.files.remove(&self.path).map_err(io)?;
        }
        let files = Arc::clone(&self.files);
        let file = DatabaseDraft::begin(
            files,
            &self.path,
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
            progress: Progress::default(),
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
        let Some(piece) = draft.progress.take(data) else {
            return Ok(false);
        };
        draft.insert(&piece)?;
        Ok(true)
    }

    fn finish(&mut self) -> Result<bool, StateMachineError> {
        let Some(draft) = self.draft.take() else {
            return Ok(false);
        };
        draft.save()?;
        draft.file.publish().map_err(StateMachineError::new)?;
        Ok(true)
    }
}

impl Draft {
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
