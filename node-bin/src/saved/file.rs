//! The file of a state: `docs/disk.md`, byte for byte.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use quorate_consensus::{EntryId, LogIndex, NodeId, Term};
use quorate_persist::{
    CLUSTER_BYTES_MAX, FileDraft, Files, Storage, StoreIdentity, directory, replace_file,
};

use super::State;
use super::error::{Damage, SavedError};
use crate::node::received_path;

const MAGIC: [u8; 8] = *b"QRMSTATE";
pub(super) const FORMAT: u32 = 1;

/// What comes before the cluster's name, and the checksum behind it.
const FIXED_BYTES: usize = 8 + 4 + 8 + 8 + 8 + 8 + 4 + 2;
const CHECKSUM_BYTES: usize = 4;
const HEADER_BYTES_MAX: u64 = (FIXED_BYTES + CLUSTER_BYTES_MAX + CHECKSUM_BYTES) as u64;

/// How much is encoded before it is written, and read at once to be checked: enough that the calls do not count.
const BUFFER_BYTES: usize = 256 << 10;

/// Where a state is, and whose it is.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) files: Arc<dyn Files>,
    pub(super) path: PathBuf,
    pub(super) owner: StoreIdentity,
    /// How large a state may be, encoded.
    pub(super) bytes_max: u64,
}

/// What a state is, without what is in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Whole {
    /// The last entry whose effect is in it.
    pub(super) last: EntryId,
    pub(super) bytes: u64,
    pub(super) checksum: u32,
}

impl Place {
    /// The place of a received state that is still to come here.
    pub(super) fn received(&self) -> Self {
        Self {
            path: received_path(&self.path),
            ..self.clone()
        }
    }

    /// Whether there is a file. Its name survives a power loss when this returns.
    pub(super) fn is_taken(&self) -> Result<bool, SavedError> {
        // A crash just before this may have left a name that is not durable yet, and the log is compacted by what
        // the file holds.
        let synced = self.files.sync_directory(directory(&self.path));
        synced
            .and_then(|()| self.files.exists(&self.path))
            .map_err(|source| self.cannot_read(source))
    }

    /// Removes the file, if there is one.
    pub(super) fn clear(&self) -> Result<(), SavedError> {
        let there = self.files.exists(&self.path);
        let cleared = there.and_then(|there| match there {
            true => self.files.remove(&self.path),
            false => Ok(()),
        });
        cleared.map_err(|source| self.cannot_write(source))
    }

    /// Opens the file and reads what it says about itself.
    pub(super) fn open(&self) -> Result<StateFile, SavedError> {
        let storage = self.files.open(&self.path);
        let storage = storage.map_err(|source| self.cannot_read(source))?;
        let length = storage
            .length()
            .map_err(|source| self.cannot_read(source))?;
        let mut header = vec![0; length.min(HEADER_BYTES_MAX) as usize];
        let read = storage.read(0, &mut header);
        read.map_err(|source| self.cannot_read(source))?;
        let (whole, header_bytes) = self.decode_header(&header)?;
        let (bytes, bytes_max) = (whole.bytes, self.bytes_max);
        if bytes > bytes_max {
            return Err(self.damaged(Damage::TooLarge { bytes, bytes_max }));
        }
        let expected = header_bytes + bytes;
        if length != expected {
            let found = length;
            return Err(self.damaged(Damage::Length { found, expected }));
        }
        Ok(StateFile {
            place: self.clone(),
            storage,
            whole,
            header_bytes,
        })
    }

    /// Gives the file at `from`, which is durable, this place.
    pub(super) fn replace_by(&self, from: &Self) -> Result<(), SavedError> {
        replace_file(&*self.files, &from.path, &self.path)
            .map_err(|source| self.cannot_write(source))
    }

    pub(super) fn cannot_read(&self, source: io::Error) -> SavedError {
        let path = self.path.clone();
        SavedError::Read { path, source }
    }

    pub(super) fn cannot_write(&self, source: io::Error) -> SavedError {
        let path = self.path.clone();
        SavedError::Write { path, source }
    }

    fn damaged(&self, what: Damage) -> SavedError {
        let path = self.path.clone();
        SavedError::Damaged { path, what }
    }

    fn header_bytes(&self) -> u64 {
        (FIXED_BYTES + self.owner.cluster.len() + CHECKSUM_BYTES) as u64
    }

    fn encode_header(&self, whole: &Whole) -> Vec<u8> {
        let cluster = self.owner.cluster.as_bytes();
        let length = u16::try_from(cluster.len()).expect("the name of a cluster is short");
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&FORMAT.to_le_bytes());
        header.extend_from_slice(&self.owner.node.value().to_le_bytes());
        header.extend_from_slice(&whole.last.term.value().to_le_bytes());
        header.extend_from_slice(&whole.last.index.value().to_le_bytes());
        header.extend_from_slice(&whole.bytes.to_le_bytes());
        header.extend_from_slice(&whole.checksum.to_le_bytes());
        header.extend_from_slice(&length.to_le_bytes());
        header.extend_from_slice(cluster);
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        header
    }

    /// What the file says that begins with `begins`, and how long its header is.
    fn decode_header(&self, begins: &[u8]) -> Result<(Whole, u64), SavedError> {
        let damaged = || self.damaged(Damage::Beginning);
        let (format, owner, whole, bytes) = split_header(begins).ok_or_else(damaged)?;
        if format > FORMAT {
            return Err(SavedError::NewerFormat {
                path: self.path.clone(),
                found: format,
                supported: FORMAT,
            });
        }
        if owner != self.owner {
            return Err(SavedError::OtherOwner {
                path: self.path.clone(),
                found: owner,
                expected: self.owner.clone(),
            });
        }
        Ok((whole, bytes))
    }
}

/// Takes the header apart, whose checksum has to be right.
fn split_header(begins: &[u8]) -> Option<(u32, StoreIdentity, Whole, u64)> {
    let (fixed, _) = begins.split_at_checked(FIXED_BYTES)?;
    let (_, length) = fixed.split_last_chunk()?;
    let cluster_bytes = usize::from(u16::from_le_bytes(*length));
    let (body, rest) = begins.split_at_checked(FIXED_BYTES + cluster_bytes)?;
    let (checksum, _) = rest.split_first_chunk()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (magic, mut rest) = body.split_first_chunk()?;
    if *magic != MAGIC {
        return None;
    }
    let format = u32::from_le_bytes(take(&mut rest)?);
    let node = NodeId::new(u64::from_le_bytes(take(&mut rest)?))?;
    let term = Term::new(u64::from_le_bytes(take(&mut rest)?));
    let index = LogIndex::new(u64::from_le_bytes(take(&mut rest)?));
    let bytes = u64::from_le_bytes(take(&mut rest)?);
    let checksum = u32::from_le_bytes(take(&mut rest)?);
    let _length: [u8; 2] = take(&mut rest)?;
    let cluster = std::str::from_utf8(rest).ok()?.to_owned();
    let last = EntryId::new(term, index);
    let whole = Whole {
        last,
        bytes,
        checksum,
    };
    let header_bytes = (body.len() + CHECKSUM_BYTES) as u64;
    Some((format, StoreIdentity { cluster, node }, whole, header_bytes))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*first)
}

/// A file that is open, and as long as it says. It stays the same when another one takes its place.
pub(super) struct StateFile {
    place: Place,
    storage: Box<dyn Storage>,
    pub(super) whole: Whole,
    header_bytes: u64,
}

impl StateFile {
    /// Reads a part of the encoded state.
    pub(super) fn read(&self, at: u64, out: &mut [u8]) -> Result<(), SavedError> {
        let read = self.storage.read(self.header_bytes + at, out);
        read.map_err(|source| self.place.cannot_read(source))
    }

    /// Reads all of it, a part at a time, and compares the checksum.
    pub(super) fn check(&self) -> Result<(), SavedError> {
        let (mut at, mut checksum) = (0, 0);
        let mut buffer = vec![0; BUFFER_BYTES];
        while at < self.whole.bytes {
            let bytes = (self.whole.bytes - at).min(BUFFER_BYTES as u64);
            let part = &mut buffer[..bytes as usize];
            self.read(at, part)?;
            checksum = crc32c::crc32c_append(checksum, part);
            at += bytes;
        }
        match checksum == self.whole.checksum {
            true => Ok(()),
            false => Err(self.place.damaged(Damage::Checksum)),
        }
    }

    /// The state.
    pub(super) fn decode<S: State>(&self) -> Result<S, SavedError> {
        // As much as the file has: that was compared.
        let mut encoded = vec![0; self.whole.bytes as usize];
        self.read(0, &mut encoded)?;
        decode(&self.place, &encoded, self.whole.checksum)
    }
}

fn decode<S: State>(place: &Place, encoded: &[u8], checksum: u32) -> Result<S, SavedError> {
    if crc32c::crc32c(encoded) != checksum {
        return Err(place.damaged(Damage::Checksum));
    }
    let decoded = postcard::take_from_bytes(encoded).and_then(|decoded| match decoded {
        (state, []) => Ok(state),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    });
    decoded.map_err(|source| SavedError::Decode {
        path: place.path.clone(),
        source,
    })
}

/// A state that is being written, from its beginning to its end. Dropped, or lost in a crash, it leaves nothing that
/// would be taken for a state.
pub(super) struct StateDraft {
    place: Place,
    draft: FileDraft,
    /// What is to be written next.
    buffer: Vec<u8>,
    bytes: u64,
    bytes_max: u64,
    checksum: u32,
    /// What the encoder does not pass on.
    failed: Option<io::Error>,
}

impl StateDraft {
    /// Of a state that will be at `place` and has `bytes`.
    pub(super) fn begin(place: &Place, bytes: u64) -> Result<Self, SavedError> {
        let length = place.header_bytes() + bytes;
        let draft = FileDraft::begin(Arc::clone(&place.files), &place.path, length);
        Ok(Self {
            place: place.clone(),
            draft: draft.map_err(|source| place.cannot_write(source))?,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            bytes: 0,
            checksum: 0,
            bytes_max: bytes,
            failed: None,
        })
    }

    /// How much of it is there.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much there will be.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// The checksum of what is there.
    pub(super) fn checksum(&self) -> u32 {
        self.checksum
    }

    /// Adds the next part.
    ///
    /// # Panics
    ///
    /// When it is more than the state has.
    pub(super) fn add(&mut self, part: &[u8]) -> Result<(), SavedError> {
        let added = self.push(part);
        added.map_err(|source| self.place.cannot_write(source))
    }

    /// Encodes all of `state` into it.
    pub(super) fn encode(&mut self, state: &impl State) -> Result<(), SavedError> {
        let encoded = postcard::to_io(state, &mut *self).map(drop);
        if let Some(source) = self.failed.take() {
            return Err(self.place.cannot_write(source));
        }
        // A state that is of another size each time does not fit, or leaves room.
        let encoded = encoded.and(match self.bytes == self.bytes_max {
            true => Ok(()),
            false => Err(postcard::Error::SerializeSeqLengthUnknown),
        });
        encoded.map_err(|source| SavedError::Encode {
            path: self.place.path.clone(),
            source,
        })
    }

    /// All of it is there, and is the state up to `last`.
    ///
    /// # Panics
    ///
    /// When it is not all there.
    pub(super) fn finish(mut self, last: EntryId) -> Result<Finished, SavedError> {
        let (bytes, bytes_max) = (self.bytes, self.bytes_max);
        assert_eq!(bytes, bytes_max, "a state is finished once it is whole");
        let whole = Whole {
            last,
            bytes,
            checksum: self.checksum,
        };
        let header = self.place.encode_header(&whole);
        let written = self.write_out().and_then(|()| self.draft.write(0, &header));
        written.map_err(|source| self.place.cannot_write(source))?;
        Ok(Finished {
            place: self.place,
            draft: self.draft,
            whole,
        })
    }

    fn push(&mut self, part: &[u8]) -> io::Result<()> {
        self.bytes += part.len() as u64;
        let (bytes, bytes_max) = (self.bytes, self.bytes_max);
        assert!(bytes <= bytes_max, "{bytes} of {bytes_max} bytes");
        self.checksum = crc32c::crc32c_append(self.checksum, part);
        self.buffer.extend_from_slice(part);
        match self.buffer.len() >= BUFFER_BYTES {
            true => self.write_out(),
            false => Ok(()),
        }
    }

    fn write_out(&mut self) -> io::Result<()> {
        let at = self.place.header_bytes() + self.bytes - self.buffer.len() as u64;
        self.draft.write(at, &self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl Write for StateDraft {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.bytes + part.len() as u64 > self.bytes_max {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.push(part).map_err(|error| {
            self.failed = Some(error);
            io::Error::from(io::ErrorKind::Other)
        })?;
        Ok(part.len())
    }

    /// Does nothing: all of it is written in [`finish`](StateDraft::finish).
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A state that is written and has no name yet.
pub(super) struct Finished {
    place: Place,
    draft: FileDraft,
    whole: Whole,
}

impl Finished {
    /// Reads it back.
    pub(super) fn decode<S: State>(&self) -> Result<S, SavedError> {
        let mut encoded = vec![0; self.whole.bytes as usize];
        let read = self.draft.read(self.place.header_bytes(), &mut encoded);
        read.map_err(|source| self.place.cannot_read(source))?;
        decode(&self.place, &encoded, self.whole.checksum)
    }

    /// Gives it its place. Durable when this returns.
    pub(super) fn publish(self) -> Result<(), SavedError> {
        let published = self.draft.publish();
        published.map_err(|source| self.place.cannot_write(source))
    }
}
