//! What can be wrong with a saved state, and what to do about it.

use std::io;
use std::path::PathBuf;

use quorate_consensus::{EntryId, StateMachineError};
use quorate_persist::StoreIdentity;

/// Why a state is not opened, saved or replaced. The node does not start, or stops.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// The file cannot be read.
    #[error("cannot read the state in {}: {source}; check permissions and the disk", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written. Nobody knows whether what was there has been replaced; what is there is whole.
    #[error(
        "cannot save the state in {}: {source}; check its folder, the disk and its free space, then start the \
         node again",
        .path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file belongs to another node or cluster.
    #[error(
        "the state in {} belongs to {} of cluster {:?}, this is {} of cluster {:?}; correct the data folder or the \
         credentials",
        .path.display(), .found.node, .found.cluster, .expected.node, .expected.cluster
    )]
    OtherOwner {
        /// The file.
        path: PathBuf,
        /// Whom the file names.
        found: StoreIdentity,
        /// Who opens it.
        expected: StoreIdentity,
    },
    /// A newer version wrote the file.
    #[error(
        "the state in {} has format {found}, this version reads up to {supported}; start the newer version again",
        .path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format this version reads.
        supported: u32,
    },
    /// The content is not what was written.
    #[error(
        "the state in {} is damaged: {what}. Do not start this node on it: keep a copy, check the disk, and replace \
         the node under a new number",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: Damage,
    },
    /// The file is in order, but not a state of this program.
    #[error(
        "the state in {} cannot be decoded: {source}. The program's state was of another form when it was saved: \
         start the former version, or let this one decode the former form",
        .path.display()
    )]
    Decode {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: postcard::Error,
    },
    /// The state cannot be encoded.
    #[error(
        "the state cannot be encoded for {}: {source}; serialize it by `derive`, or the same way whenever it is the \
         same",
        .path.display()
    )]
    Encode {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: postcard::Error,
    },
    /// What was received is not what is to be installed.
    #[error(
        "the snapshot in {} goes up to {found}, and should to {expected}; replace the node under a new number",
        .path.display()
    )]
    OtherSnapshot {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: EntryId,
        /// What was announced.
        expected: EntryId,
    },
    /// There is no thread to save the state on.
    #[error("cannot start a thread that saves the state: {source}; raise the limit on threads")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
    /// The thread that saved the state panicked, most likely in the state's own code.
    #[error("saving the state panicked; the panic was reported as it happened")]
    Panicked,
    /// An earlier call failed, so nobody knows what is on the disk.
    #[error("saving the state has failed before, and it is not used any more; restart the node")]
    Stopped,
}

/// How a file differs from anything that could have been written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// It does not begin as a state does.
    #[error("it is no state of Quorate, or its beginning is damaged")]
    Beginning,
    /// It is longer or shorter than it says.
    #[error("it has {found} bytes, and should have {expected}")]
    Length {
        /// How long it is.
        found: u64,
        /// How long it says that it is.
        expected: u64,
    },
    /// It says that it is larger than any.
    #[error("it says that it holds {bytes} bytes, and {bytes_max} is the most there can be")]
    TooLarge {
        /// What it says.
        bytes: u64,
        /// [`STATE_BYTES_MAX`](super::STATE_BYTES_MAX).
        bytes_max: u64,
    },
    /// The state in it is not the one that was written.
    #[error("it does not match its checksum")]
    Checksum,
}

impl From<SavedError> for StateMachineError {
    fn from(error: SavedError) -> Self {
        Self::new(error)
    }
}
