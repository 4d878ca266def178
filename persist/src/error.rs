//! What can be wrong with a file, and what an operator does about it.

use std::io;
use std::path::{Path, PathBuf};

use quorate_consensus::{LogIndex, NodeId, StateMachineError, StoreError, Term};

/// Why a file was not created. Nothing remains at the path that was not there before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// Something is already there.
    #[error("{} already exists and is left alone; open it, or choose another path", .path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// The cluster's name does not fit.
    #[error(
        "a cluster name of {bytes} bytes cannot be stored; choose one of 1 to {} bytes",
        crate::CLUSTER_BYTES_MAX
    )]
    ClusterName {
        /// How long it is.
        bytes: usize,
    },
    /// The operating system refused.
    #[error("cannot create {}: {source}; check that the directory exists, is writable and has space", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The database refused.
    #[error("cannot create {}: {source}; check the disk and try again", .path.display())]
    Database {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: Box<redb::Error>,
    },
}

/// Why a file was not opened. The file is as it was, apart from redb's own repair after a crash.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such file.
    #[error(
        "{} does not exist. A node that never ran needs it created first; a node that lost it must \
         not start empty under its old id: remove that member and add a new one",
        .path.display()
    )]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// Another process, or another part of this one, has it open.
    #[error("{} is already open; stop the other process, or use another data directory", .path.display())]
    Locked {
        /// The path.
        path: PathBuf,
    },
    /// The file belongs to another cluster.
    #[error(
        "{} belongs to cluster {found:?}, this node to {expected:?}; correct the data directory or \
         the cluster name",
        .path.display()
    )]
    WrongCluster {
        /// The path.
        path: PathBuf,
        /// The cluster named in the file.
        found: String,
        /// The cluster asked for.
        expected: String,
    },
    /// The file belongs to another node.
    #[error(
        "{} belongs to node {found}, this is node {expected}; correct the data directory or the node id",
        .path.display()
    )]
    WrongNode {
        /// The path.
        path: PathBuf,
        /// The node named in the file.
        found: NodeId,
        /// The node asked for.
        expected: NodeId,
    },
    /// A newer version wrote the file.
    #[error(
        "{} has format {found}, this version reads up to {supported}; start the newer version again",
        .path.display()
    )]
    NewerFormat {
        /// The path.
        path: PathBuf,
        /// The format of the file.
        found: u32,
        /// The newest format this version reads.
        supported: u32,
    },
    /// The content is not what was written.
    #[error(
        "{} is damaged: {what}. Do not start this node on it: keep a copy, check the disk, remove \
         the member and add a new one",
        .path.display()
    )]
    Corrupt {
        /// The path.
        path: PathBuf,
        /// What is wrong, and where.
        what: Corruption,
    },
    /// The operating system refused.
    #[error("cannot open {}: {source}; check permissions, the disk and its free space", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The database refused for a reason that is neither damage nor the operating system's.
    #[error("cannot open {}: {source}; check the disk and try again", .path.display())]
    Database {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: Box<redb::Error>,
    },
}

/// How a file differs from anything that could have been written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Corruption {
    /// No redb database, or one cut short.
    #[error("it is not a complete database")]
    NotADatabase,
    /// What a node keeps of its peers is damaged.
    #[error(
        "what this node knows of its peers' stores is damaged; move the file away only if no peer has \
         lost its data folder since"
    )]
    PeersFile,
    /// The file does not begin as a log does.
    #[error("it is not a log of Quorate, or its beginning is damaged")]
    NotALog,
    /// Both copies of the journal's header are damaged.
    #[error("both copies of the journal's header are damaged")]
    JournalHeader,
    /// A record of the journal was durable and is not there any more.
    #[error("record {number} of the journal is missing or damaged")]
    JournalRecord {
        /// Its sequence number.
        number: u64,
    },
    /// The database begins otherwise than it did when it was last written.
    #[error("the beginning of the database is not what was written there last")]
    ImageHead,
    /// redb found damage.
    #[error("the database reports: {message}")]
    Database {
        /// In redb's words.
        message: String,
    },
    /// A database, but not the expected kind of file.
    #[error("it is a {found:?} file where {expected:?} was expected")]
    WrongKind {
        /// The first eight bytes of the identity row, as text.
        found: String,
        /// What they should be.
        expected: String,
    },
    /// A row that is always there is not.
    #[error("row {row:?} is missing")]
    RowMissing {
        /// Its key.
        row: &'static str,
    },
    /// A row does not pass its checksum.
    #[error("row {row:?} does not match its checksum")]
    RowChecksum {
        /// Its key.
        row: &'static str,
    },
    /// A row passes its checksum, but its content makes no sense.
    #[error("row {row:?} has impossible content")]
    RowContent {
        /// Its key.
        row: &'static str,
    },
    /// A row of entries does not pass its checksum, or was written for another place.
    #[error("the row of entry {index} does not match its checksum")]
    EntryChecksum {
        /// The first entry of the row.
        index: LogIndex,
    },
    /// A record of some other table does not pass its checksum, or was written for another key.
    #[error("a record in table {table:?} does not match its checksum")]
    RecordChecksum {
        /// The table. The key is not named, because it is the user's data.
        table: &'static str,
    },
    /// A row of entries passes its checksum, but a kind or length in it is unknown.
    #[error("the row of entry {index} has impossible content")]
    EntryContent {
        /// The first entry of the row.
        index: LogIndex,
    },
    /// An entry is missing.
    #[error("entry {expected} is missing; the next one is {found}")]
    Gap {
        /// The index that should come next.
        expected: LogIndex,
        /// The one that does.
        found: LogIndex,
    },
    /// The last entries are missing.
    #[error("entry {index} is missing")]
    EntryMissing {
        /// Where it should stand.
        index: LogIndex,
    },
    /// Terms go down in the log.
    #[error("entry {index} has term {found} after term {previous}")]
    TermDecreases {
        /// Where.
        index: LogIndex,
        /// The term before it.
        previous: Term,
        /// Its own term.
        found: Term,
    },
    /// An entry is valid for its place, but is not the one that was last written there.
    #[error("entry {index} has term {found}, but {expected} was written last")]
    StaleEntry {
        /// Where.
        index: LogIndex,
        /// The term written last.
        expected: Term,
        /// The term found.
        found: Term,
    },
    /// The log holds a term that the node never reached.
    #[error("the hard state's term {term} is below the log's last term {last_term}")]
    TermBehindLog {
        /// The hard state's.
        term: Term,
        /// The log's.
        last_term: Term,
    },
    /// More is committed than is there.
    #[error("the commit index {commit} is outside the log, which ends at {last}")]
    CommitOutsideLog {
        /// The hard state's.
        commit: LogIndex,
        /// The log's end.
        last: LogIndex,
    },
}

/// Why a running store stopped. It is inside the [`StoreError`] that the driver sees.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreFault {
    /// What was read is not what was written.
    #[error("{0}; stop this node and check its disk")]
    Corrupt(Corruption),
    /// The database or the disk failed.
    #[error("{0}; stop this node, check its disk and free space, then start it again")]
    Database(Box<redb::Error>),
    /// An earlier write failed, so nobody knows what is on the disk.
    #[error("an earlier write failed and the store refuses all further use; restart the node")]
    Stopped,
}

impl From<Corruption> for StoreFault {
    fn from(what: Corruption) -> Self {
        Self::Corrupt(what)
    }
}

impl From<StoreFault> for StoreError {
    fn from(fault: StoreFault) -> Self {
        Self::new(fault)
    }
}

impl From<StoreFault> for StateMachineError {
    fn from(fault: StoreFault) -> Self {
        Self::new(fault)
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreFault {
            fn from(error: $error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        }
    )*};
}

from_redb!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::SetDurabilityError
);

impl StoreFault {
    /// The same fault, found while the file at `path` was being opened.
    #[must_use]
    pub fn at_open(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        match self {
            Self::Corrupt(what) => OpenError::Corrupt { path, what },
            Self::Database(error) => OpenError::from_redb(path, *error),
            Self::Stopped => unreachable!("a store that is being opened has not stopped"),
        }
    }
}

impl OpenError {
    pub(crate) fn from_redb(path: PathBuf, error: redb::Error) -> Self {
        use redb::Error;
        let corrupt = |path, message| Self::Corrupt {
            path,
            what: Corruption::Database { message },
        };
        match error {
            Error::DatabaseAlreadyOpen => Self::Locked { path },
            Error::Io(source) => match source.kind() {
                io::ErrorKind::NotFound => Self::Missing { path },
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::Corrupt {
                    path,
                    what: Corruption::NotADatabase,
                },
                _ => Self::Io { path, source },
            },
            Error::Corrupted(message) => corrupt(path, message),
            error @ (Error::TableDoesNotExist(_)
            | Error::TableTypeMismatch { .. }
            | Error::TableIsMultimap(_)
            | Error::TableIsNotMultimap(_)
            | Error::TypeDefinitionChanged { .. }
            | Error::UpgradeRequired(_)
            // A length that no file can have: redb meets it only where a length was damaged.
            | Error::ValueTooLarge(_)) => corrupt(path, error.to_string()),
            error => Self::Database {
                path,
                source: Box::new(error),
            },
        }
    }
}
