//! Reads the state as it was at one moment, while it goes on, to compare it with other members'.

use std::ops::ControlFlow;

use quorate_consensus::{StateMachineError, StateScan};
use quorate_persist::StoreFault;

use super::digest::Digest;
use super::picture::{self, Picture};

/// What a pair counts for besides its bytes: finding it costs about what reading so many bytes does.
const PAIR_OVERHEAD_BYTES: usize = 128;

pub(super) struct KvScan {
    picture: Picture,
    digest: Digest,
    /// The smallest key that may come next.
    next: Vec<u8>,
}

impl KvScan {
    pub(super) fn new(picture: Picture) -> Self {
        Self {
            picture,
            digest: Digest::default(),
            next: Vec::new(),
        }
    }

    fn read_on_checked(&mut self, bytes_max: u64) -> Result<Option<u64>, StoreFault> {
        let Self {
            picture,
            digest,
            next,
        } = self;
        let start = std::mem::take(next);
        let mut bytes = 0;
        let mut more = false;
        picture.scan(&start, None, |key, record| {
            digest.add(key, record);
            bytes += key.len() + record.data.len() + PAIR_OVERHEAD_BYTES;
            if (bytes as u64) < bytes_max {
                return ControlFlow::Continue(());
            }
            *next = picture::after(key);
            more = true;
            ControlFlow::Break(())
        })?;
        Ok((!more).then(|| digest.value()))
    }
}

impl StateScan for KvScan {
    fn read_on(&mut self, bytes_max: u64) -> Result<Option<u64>, StateMachineError> {
        Ok(self.read_on_checked(bytes_max)?)
    }
}
