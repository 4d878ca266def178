//! Many keys removed, unless somebody has written them since they were read.

use bytes::Bytes;

use super::Client;
use super::error::ClientError;
use crate::kv::transaction::{Compare, Condition, Step, TRANSACTION_STEPS_MAX, Transaction};

impl Client {
    /// Removes those of `keys` that still have the revision given with each; returns how many these were. As many at
    /// a time as a [transaction](Self::transact) takes: it is not one moment for more than that, nor where one of them has
    /// another revision.
    ///
    /// # Errors
    ///
    /// [`SweepError`], which says how many are gone.
    pub async fn delete_unchanged(&self, keys: &[(Bytes, u64)]) -> Result<u64, SweepError> {
        let mut deleted = 0;
        match self.sweep(keys, &mut deleted).await {
            Ok(()) => Ok(deleted),
            Err(error) => Err(SweepError { deleted, error }),
        }
    }

    /// Counts in `deleted`, also where it fails.
    async fn sweep(&self, keys: &[(Bytes, u64)], deleted: &mut u64) -> Result<(), ClientError> {
        for keys in keys.chunks(TRANSACTION_STEPS_MAX) {
            if self.transact(deletion(keys)).await?.succeeded {
                *deleted += keys.len() as u64;
                continue;
            }
            // One of them was written: each for itself.
            for key in keys.chunks(1) {
                *deleted += u64::from(self.transact(deletion(key)).await?.succeeded);
            }
        }
        Ok(())
    }
}

/// Why not all of many keys were deleted, and how many were.
#[derive(Debug, thiserror::Error)]
#[error("{}{deleted} of the keys are deleted, and then: {error}", self.at_least())]
pub struct SweepError {
    /// So many are gone. After [`ClientError::OutcomeUnknown`], up to [`TRANSACTION_STEPS_MAX`] more may be.
    pub deleted: u64,
    /// What it ended with.
    #[source]
    pub error: ClientError,
}

impl SweepError {
    /// "At least ", where more may be gone than were counted.
    fn at_least(&self) -> &'static str {
        match self.error {
            ClientError::OutcomeUnknown { .. } => "at least ",
            _ => "",
        }
    }
}

/// Removes all of `keys`, if each has its revision.
fn deletion(keys: &[(Bytes, u64)]) -> Transaction {
    let compare = keys.iter().map(|(key, revision)| Compare {
        key: key.clone(),
        condition: Condition::Revision(*revision),
    });
    let then = keys
        .iter()
        .map(|(key, _)| Step::Delete { key: key.clone() });
    Transaction {
        compare: compare.collect(),
        then: then.collect(),
        otherwise: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::command::KEY_BYTES_MAX;

    /// As many of the longest keys as a transaction takes fit into one.
    #[test]
    fn the_largest_deletion_is_valid() {
        let keys = vec![(Bytes::from(vec![1; KEY_BYTES_MAX]), u64::MAX); TRANSACTION_STEPS_MAX];
        assert_eq!(deletion(&keys).validate(), Ok(()));
    }
}
