//! A backup as a file: `docs/disk.md`, byte for byte.

use std::fmt;
use std::io::{self, Read, Write};

use bytes::Bytes;
use quorate_consensus::{EntryId, NodeId, ORIGIN};
use quorate_persist::seconds_now;
use serde::{Deserialize, Serialize};

use crate::kv::query::RANGE_BYTES_MAX;
use crate::kv::store::Progress;

const MAGIC: [u8; 8] = *b"QRMBAK\0\0";

/// The format of backups that this version writes and reads.
pub const BACKUP_FORMAT: u32 = 1;

/// The most bytes of one frame: a piece whose last row is as large as rows can be, and room for its form.
const FRAME_BYTES_MAX: usize = 4 * RANGE_BYTES_MAX;

/// Where a backup comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupHeader {
    /// The cluster.
    pub cluster: String,
    /// The node that was asked.
    pub node: NodeId,
    /// The last entry whose effect is in it.
    pub last: EntryId,
    /// When it was begun, by the clock of whoever saved it, in seconds since 1970.
    pub begun: u64,
    /// The version of the program that saved it.
    pub version: String,
}

impl BackupHeader {
    /// A backup of the state after `last`, that begins now.
    #[must_use]
    pub fn new(cluster: String, node: NodeId, last: EntryId) -> Self {
        Self {
            cluster,
            node,
            last,
            begun: seconds_now(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

/// What a complete backup has in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupSummary {
    /// How many keys.
    pub keys: u64,
    /// How many bytes these and their values have.
    pub bytes: u64,
    /// The digest of the whole state: that of [`KvStore::digest`](crate::kv::KvStore::digest).
    pub digest: u64,
}

/// One part of the file, behind its length and its checksum.
#[derive(Serialize, Deserialize)]
enum Frame {
    /// The first one.
    Header(BackupHeader),
    /// Of the state, in order.
    Piece(Bytes),
    /// The last one. Without it, the backup is not complete.
    End(BackupSummary),
}

/// Why a backup cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not begin like one.
    #[error("it is no backup of Quorate")]
    NotABackup,
    /// A newer version wrote it.
    #[error("it has format {found}, and this version reads {BACKUP_FORMAT}; use a newer version")]
    NewerFormat {
        /// Its format.
        found: u32,
    },
    /// It ends before all of it is there.
    #[error("it is not complete: the copy or the saving was broken off; take another backup")]
    Incomplete,
    /// It is not what was written.
    #[error("it is damaged at byte {at}; take another backup")]
    Damaged {
        /// About where.
        at: u64,
    },
    /// A node gave a piece that does not follow those before it.
    #[error(
        "the node gave a piece that does not follow those before it; check its disk, and use matching versions"
    )]
    Misfit,
}

/// Writes a backup, piece by piece.
pub struct BackupWriter<W> {
    out: W,
    progress: Progress,
}

impl<W: Write> BackupWriter<W> {
    /// Begins to write to `out`, which should buffer and be made durable after [`finish`](Self::finish).
    ///
    /// # Errors
    ///
    /// [`BackupError::Io`].
    pub fn new(mut out: W, header: &BackupHeader) -> Result<Self, BackupError> {
        out.write_all(&MAGIC)?;
        out.write_all(&BACKUP_FORMAT.to_le_bytes())?;
        write_frame(&mut out, &Frame::Header(header.clone()))?;
        let progress = Progress::default();
        Ok(Self { out, progress })
    }

    /// Writes the next piece.
    ///
    /// # Errors
    ///
    /// [`BackupError::Misfit`] when it is not the next one, and [`BackupError::Io`].
    pub fn add(&mut self, piece: Bytes) -> Result<(), BackupError> {
        if !self.progress.check(&piece) {
            return Err(BackupError::Misfit);
        }
        Ok(write_frame(&mut self.out, &Frame::Piece(piece))?)
    }

    /// What has been written so far.
    #[must_use]
    pub fn summary(&self) -> BackupSummary {
        summary(&self.progress)
    }

    /// There are no more pieces: makes it complete.
    ///
    /// # Errors
    ///
    /// [`BackupError::Io`].
    pub fn finish(mut self) -> Result<(W, BackupSummary), BackupError> {
        let summary = self.summary();
        write_frame(&mut self.out, &Frame::End(summary))?;
        self.out.flush()?;
        Ok((self.out, summary))
    }
}

impl<W> fmt::Debug for BackupWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackupWriter({:?})", summary(&self.progress))
    }
}

/// Reads a backup, which may be anything, and checks all of it on the way.
pub struct BackupReader<R> {
    input: R,
    /// How many bytes were read.
    at: u64,
    header: BackupHeader,
    progress: Progress,
    ended: bool,
}

impl<R: Read> BackupReader<R> {
    /// Begins to read `input`, which should buffer.
    ///
    /// # Errors
    ///
    /// [`BackupError`].
    pub fn new(mut input: R) -> Result<Self, BackupError> {
        let mut magic = [0; MAGIC.len()];
        let mut format = [0; 4];
        let mut fill = |bytes: &mut [u8]| match input.read_exact(bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(BackupError::NotABackup)
            }
            read => Ok(read?),
        };
        fill(&mut magic)?;
        if magic != MAGIC {
            return Err(BackupError::NotABackup);
        }
        fill(&mut format)?;
        let found = u32::from_le_bytes(format);
        if found != BACKUP_FORMAT {
            return Err(BackupError::NewerFormat { found });
        }
        let mut at = (magic.len() + format.len()) as u64;
        match read_frame(&mut input, &mut at)? {
            Frame::Header(header) if header.last >= ORIGIN => Ok(Self {
                input,
                at,
                header,
                progress: Progress::default(),
                ended: false,
            }),
            _ => Err(BackupError::Damaged { at }),
        }
    }

    /// Where it comes from.
    #[must_use]
    pub fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// What was read so far: all that it has in it, once [`next_piece`](Self::next_piece) has returned `None`.
    #[must_use]
    pub fn so_far(&self) -> BackupSummary {
        summary(&self.progress)
    }

    /// The next piece; `None` after the last one, when all of it has been found in order.
    ///
    /// # Errors
    ///
    /// [`BackupError`].
    pub fn next_piece(&mut self) -> Result<Option<Bytes>, BackupError> {
        if self.ended {
            return Ok(None);
        }
        let damaged = BackupError::Damaged { at: self.at };
        match read_frame(&mut self.input, &mut self.at)? {
            Frame::Piece(piece) if self.progress.check(&piece) => Ok(Some(piece)),
            Frame::End(said) if said == summary(&self.progress) => {
                if self.input.read(&mut [0])? != 0 {
                    return Err(BackupError::Damaged { at: self.at });
                }
                self.ended = true;
                Ok(None)
            }
            _ => Err(damaged),
        }
    }
}

impl<R> fmt::Debug for BackupReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupReader")
            .field("header", &self.header)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

fn summary(progress: &Progress) -> BackupSummary {
    BackupSummary {
        keys: progress.keys(),
        bytes: progress.bytes(),
        digest: progress.digest(),
    }
}

fn write_frame(out: &mut impl Write, frame: &Frame) -> io::Result<()> {
    let body = postcard::to_stdvec(frame).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&crc32c::crc32c(&body).to_le_bytes())?;
    out.write_all(&body)
}

fn read_frame(input: &mut impl Read, at: &mut u64) -> Result<Frame, BackupError> {
    let damaged = BackupError::Damaged { at: *at };
    let mut fill = |bytes: &mut [u8]| match input.read_exact(bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(BackupError::Incomplete),
        read => Ok(read?),
    };
    let mut word = [0; 4];
    fill(&mut word)?;
    let length = u32::from_le_bytes(word) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(damaged);
    }
    fill(&mut word)?;
    let mut body = vec![0; length];
    fill(&mut body)?;
    *at += (2 * word.len() + length) as u64;
    if crc32c::crc32c(&body) != u32::from_le_bytes(word) {
        return Err(damaged);
    }
    match postcard::take_from_bytes(&body) {
        Ok((frame, [])) => Ok(frame),
        _ => Err(damaged),
    }
}
