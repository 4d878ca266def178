//! The state as it was at one moment, read while it goes on.

use std::ops::ControlFlow;
use std::sync::Arc;

use quorate_consensus::EntryId;
use quorate_persist::{Seal, StoreFault};
use redb::Database;

use super::overlay::Overlay;
use super::record::{KvTable, Record};
use super::view::Below;

/// Holds on to the pages of the file as they were, which are not used again meanwhile, and to what was in memory.
pub(super) struct Picture {
    // Dropped before the database.
    pub(super) table: Arc<KvTable>,
    pub(super) _database: Arc<Database>,
    pub(super) seal: Seal,
    /// What was being written then.
    pub(super) frozen: Option<Arc<Overlay>>,
    /// A copy of what had been applied after that.
    pub(super) active: Overlay,
}

impl Picture {
    /// The last entry whose effect is in it.
    pub(super) fn last(&self) -> EntryId {
        self.active.applied()
    }

    /// Shows `visit` all rows from `start` on and before `end`, in the order of their keys, until it breaks off.
    pub(super) fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        visit: impl FnMut(&[u8], &Record<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreFault> {
        let below = Below {
            frozen: self.frozen.as_deref(),
            table: &self.table,
            seal: &self.seal,
        };
        below.scan(&self.active, start, end, visit)
    }
}

/// The first key that could follow `key`.
pub(super) fn after(key: &[u8]) -> Vec<u8> {
    [key, b"\0"].concat()
}
