//! Reads the state as it was at one moment, while it goes on, to compare it with other members'.

use std::ops::ControlFlow;
use std::sync::Arc;

use quorate_consensus::{StateMachineError, StateScan};
use quorate_persist::{Seal, StoreFault};
use redb::Database;

use super::digest::Digest;
use super::overlay::Overlay;
use super::record::KvTable;
use super::view::Below;

/// What a pair counts for besides its bytes: finding it costs about what reading so many bytes does.
const PAIR_OVERHEAD_BYTES: usize = 128;

pub(super) struct KvScan {
    // Dropped before the database.
    pub(super) table: KvTable,
    pub(super) _database: Arc<Database>,
    pub(super) seal: Seal,
    /// What was being written then.
    pub(super) frozen: Option<Arc<Overlay>>,
    /// A copy of what had been applied after that.
    pub(super) active: Overlay,
    pub(super) place: Place,
}

/// How far it has read.
#[derive(Default)]
pub(super) struct Place {
    digest: Digest,
    /// The smallest key that may come next.
    next: Vec<u8>,
}

impl KvScan {
    fn read_on_checked(&mut self, bytes_max: u64) -> Result<Option<u64>, StoreFault> {
        let below = Below {
            frozen: self.frozen.as_deref(),
            table: &self.table,
            seal: &self.seal,
        };
        let Place { digest, next } = &mut self.place;
        let start = std::mem::take(next);
        let mut bytes = 0;
        let mut more = false;
        below.scan(&self.active, &start, None, |key, record| {
            digest.add(key, record);
            bytes += key.len() + record.data.len() + PAIR_OVERHEAD_BYTES;
            if (bytes as u64) < bytes_max {
                return ControlFlow::Continue(());
            }
            // The first key that could follow.
            *next = [key, b"\0"].concat();
            more = true;
            ControlFlow::Break(())
        })?;
        Ok((!more).then(|| digest.value()))
    }
}

impl StateScan for KvScan {
    fn read_on(&mut self, bytes_max: u64) -> Result<Option<u64>, StateMachineError> {
        self.read_on_checked(bytes_max)
            .map_err(StateMachineError::new)
    }
}
