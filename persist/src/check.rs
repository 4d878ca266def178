//! Looking at a log as a start would, without being its owner and without changing it.

use std::path::Path;

use quorate_consensus::{EntryId, LogStore, Recovered};

use crate::error::OpenError;
use crate::files::Files;
use crate::identity::StoreIdentity;
use crate::store::{Opened, Options, Store};
use crate::unchanged::Unchanged;

/// What a log holds, every page, row, checksum, term and bound of it found in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckedLog {
    /// Whose it is.
    pub identity: StoreIdentity,
    /// Random, drawn when the file was made.
    pub store_id: u128,
    /// How often it has been opened to run a node.
    pub boots: u64,
    /// Hard state, members, terms and the end of the log.
    pub recovered: Recovered,
}

impl CheckedLog {
    /// The last entry.
    #[must_use]
    pub fn last(&self) -> EntryId {
        EntryId::new(self.recovered.last_term(), self.recovered.last)
    }
}

/// Checks the log at `path`, of whichever node, and leaves it as it is.
///
/// # Errors
///
/// [`OpenError`] says what is wrong; a node would not start on it.
pub fn check_log(files: impl Files, path: &Path) -> Result<CheckedLog, OpenError> {
    let files = Unchanged(files);
    let identity = Store::owner(&files, path)?;
    let options = Options {
        background: false,
        ..Options::default()
    };
    let Opened {
        store,
        recovered,
        store_id,
        boot,
        origin: _,
    } = Store::open_in(&files, path, &identity, options)?;
    // Opening has read every entry; this reads them as a member that is behind would be served.
    let mut next = recovered.base().index.next();
    while next <= recovered.last {
        let entries = store.read(next, recovered.last, READ_BYTES);
        let entries = entries.map_err(|error| OpenError::Io {
            path: path.to_owned(),
            source: std::io::Error::other(error),
        })?;
        next = entries.last().map_or(next, |entry| entry.id.index).next();
    }
    Ok(CheckedLog {
        identity,
        store_id,
        boots: boot - 1,
        recovered,
    })
}

/// How much of the log is read at once.
const READ_BYTES: u64 = 4 << 20;
