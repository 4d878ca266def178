//! A lease that is kept for as long as its owner lives.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use super::Client;
use super::error::ClientError;
use super::keeping::Keeping;
use super::lock::Lost;

/// A lease that is kept in the background, on the runtime that the client was given, until it is
/// [revoked](Self::revoke), or dropped, or [lost](Self::lost).
///
/// Keys that are bound to it ([`Client::put_with_lease`]) say to others that this process lives: they go when it ends this,
/// and within the lease's time to live when it dies.
pub struct KeptLease {
    client: Client,
    id: u64,
    keeping: Keeping,
}

impl Client {
    /// Makes a lease that lives for `ttl` after it was last kept, and keeps it three times in that time. Dropping this
    /// future may leave a lease that ends by itself.
    ///
    /// # Errors
    ///
    /// As of [`grant_lease`](Self::grant_lease); nothing is kept then.
    pub async fn keep_new_lease(&self, ttl: Duration) -> Result<KeptLease, ClientError> {
        // Before the call: the leader may count from then on.
        let begun = self.shared.runtime.now();
        let id = self.grant_lease(ttl).await?;
        Ok(KeptLease {
            client: self.clone(),
            id,
            keeping: Keeping::begin(self, id, ttl, begun),
        })
    }
}

impl KeptLease {
    /// Its number, to bind keys to.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is known to be lost, and why: [`Lost::Ended`] or [`Lost::NotKept`]. Its keys are gone then, or may be.
    #[must_use]
    pub fn is_lost(&self) -> Option<Lost> {
        self.keeping.is_lost()
    }

    /// Waits until it is lost, for ever if it never is. May be dropped and called again.
    pub fn lost(&self) -> impl Future<Output = Lost> + Send + '_ {
        self.keeping.lost()
    }

    /// Ends it, and removes its keys, as [`Client::revoke_lease`] does.
    ///
    /// # Errors
    ///
    /// [`ClientError::LeaseUnknown`] where it had ended before; else as of [`put`](Client::put), and then it ends by itself.
    pub async fn revoke(self) -> Result<(), ClientError> {
        self.keeping.leave();
        self.client.revoke_lease(self.id).await
    }
}

impl fmt::Debug for KeptLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptLease")
            .field("id", &self.id)
            .field("lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}
