//! Lists the leases that there are.

use std::ops::ControlFlow;

use quorate_persist::StoreFault;

use super::{KvStore, rows};
use crate::kv::query::{Answer, LEASE_KEYS_COUNTED_MAX, ListedLease};

impl KvStore {
    /// The leases from the number `from` on, at most `limit` of them.
    pub(super) fn leases(&self, from: u64, limit: u32) -> Result<Answer, StoreFault> {
        let mut leases: Vec<ListedLease> = Vec::new();
        let mut more = false;
        let mut left = LEASE_KEYS_COUNTED_MAX;
        for (number, lease) in self.timed.leases_from(from) {
            if leases.len() == limit as usize {
                more = true;
                break;
            }
            let (keys, more_keys) = self.count_keys(number, left)?;
            // The first is in the page whatever it has, or a reader would never get past it.
            if more_keys && !leases.is_empty() {
                more = true;
                break;
            }
            left -= keys;
            leases.push(ListedLease {
                number,
                lease,
                keys,
                more_keys,
            });
        }
        let revision = self.revision();
        Ok(Answer::Leases {
            leases,
            more,
            revision,
        })
    }

    /// How many keys are bound to a lease, up to `most`, and whether there are more.
    fn count_keys(&self, lease: u64, most: u32) -> Result<(u32, bool), StoreFault> {
        let prefix = rows::bound_keys(lease);
        let end = rows::after(&prefix);
        let mut keys = 0;
        let mut more = false;
        self.below()
            .scan(&self.active, &prefix, Some(&end), |_, _| {
                more = keys == most;
                if more {
                    return ControlFlow::Break(());
                }
                keys += 1;
                ControlFlow::Continue(())
            })?;
        Ok((keys, more))
    }
}
