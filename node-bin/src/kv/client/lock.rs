//! Locks: one of all who want it has it, in the order in which they came, for as long as its lease lives.
//!
//! Everybody who wants the lock `NAME` writes a key of its own, `NAME/` and the number of its lease in 20 digits, bound to
//! that lease. Whoever has the one with the lowest revision has the lock; everybody else watches the one right before its
//! own, so that a lock which is given back wakes nobody but the next (as in the recipes of ZooKeeper and etcd). The
//! revision is the fencing number: every holder's is higher than those of all before it.

mod place;
mod waiting;

use std::fmt;
use std::future::{Future, pending};
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::or;

use self::place::{Place, key_of};
use super::Client;
use super::error::ClientError;
use crate::kv::command::validate_key;
use crate::kv::invalid::Invalid;

/// A lock that is held until it is [released](Self::release), or dropped, or [lost](Self::lost).
///
/// Its lease is kept in the background, on the runtime that the client was given. A process that was paused, or whose
/// clock runs slower than the leader's, may hold itself for the holder when somebody else is: what two must
/// not touch has to check the [revision](Self::revision) itself.
pub struct Lock {
    place: Place,
}

/// Why a lock, a place among those who wait for it, or a lease that is kept, is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// Its lease has ended.
    #[error("its lease has ended: it was revoked, or kept too late")]
    Ended,
    /// Nothing was heard of a leader for as long as its lease lives, so that it may have ended.
    #[error("its lease could not be kept in time, so that it may have ended")]
    NotKept,
    /// Somebody else removed its key, or wrote it.
    #[error("its key was removed or overwritten")]
    KeyGone,
}

impl Client {
    /// Waits for the lock `name`, behind all who came before, and keeps it until it is given back. Its lease lives for
    /// `ttl`: when this process dies, that long others wait for it. Dropping this future gives up the place among those who
    /// wait.
    ///
    /// It waits for as long as it takes, also while no leader can be reached. The place among those who wait is lost when its
    /// lease ends meanwhile, as it may where that takes longer than `ttl`: then it goes on behind all others.
    ///
    /// # Errors
    ///
    /// [`ClientError::LockLost`] with [`Lost::KeyGone`] when somebody removed its key while it waited; else what waiting does
    /// not remove, as of [`grant_lease`](Self::grant_lease) and [`put_with_lease`](Self::put_with_lease). The lock is not
    /// held then.
    pub async fn lock(&self, name: impl AsRef<[u8]>, ttl: Duration) -> Result<Lock, ClientError> {
        let lock = self.lock_unless(name, ttl, pending()).await?;
        Ok(lock.expect("only something that happens ends the waiting"))
    }

    /// As [`lock`](Self::lock), unless `over` happens before the lock is there: then the place among those who wait has been
    /// given up, and this returns `None`.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub async fn lock_unless(
        &self,
        name: impl AsRef<[u8]>,
        ttl: Duration,
        over: impl Future<Output = ()>,
    ) -> Result<Option<Lock>, ClientError> {
        let name = name.as_ref();
        if name.is_empty() {
            return Err(Invalid::KeyEmpty.into());
        }
        validate_key(&key_of(name, 0))?;
        let mut seat = None;
        let held = async {
            waiting::wait(self, name, ttl, &mut seat).await?;
            Ok(true)
        };
        let over = async {
            over.await;
            Ok(false)
        };
        match (or(held, over).await, seat) {
            (Ok(true), Some(place)) => Ok(Some(Lock { place })),
            (Ok(true), None) => unreachable!("who has the lock has a place"),
            (Ok(false), Some(place)) => place.leave().await.map(|_| None),
            (Ok(false), None) => Ok(None),
            (Err(error), place) => {
                // The lease ends by itself if that fails.
                if let Some(place) = place {
                    let _ = place.leave().await;
                }
                Err(error)
            }
        }
    }
}

impl Lock {
    /// The fencing number: higher than those of all who held this lock before. It is the revision of the
    /// [key](Self::key), so that a transaction can compare it.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.place.revision
    }

    /// The key that is there while the lock is held.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.place.key
    }

    /// The lease that the lock lives by. Other keys may be bound to it, and go with the lock.
    #[must_use]
    pub fn lease(&self) -> u64 {
        self.place.lease
    }

    /// Waits until the lock is lost, which it may never be: until its lease has ended, as far as a leader says, or may have, as
    /// far as the clock here says.
    pub async fn lost(&self) -> Lost {
        self.place.keeping.lost().await
    }

    /// Gives the lock back: when this returns, the next one has it. With `Ok`, nobody else had it until then.
    ///
    /// # Errors
    ///
    /// [`ClientError::LockLost`] if it was lost before, of which this may be the first to tell: its lease was revoked or had
    /// ended, or its key was removed. After any other, it goes within its time to live, and whether it was
    /// held until now is not known.
    pub async fn release(self) -> Result<(), ClientError> {
        // Before the lease is revoked, after which its key says nothing. And not by a transaction that removes the key: what
        // else is bound to the lease is to go in the same moment.
        let lost = match self.place.keeping.is_lost() {
            None if !self.place.is_there().await? => Some(Lost::KeyGone),
            lost => lost,
        };
        let lived = self.place.leave().await;
        match (lost, lived) {
            (None, Ok(true)) => Ok(()),
            (None | Some(Lost::KeyGone), Ok(false)) => Err(ClientError::LockLost(Lost::Ended)),
            (Some(lost), _) => Err(ClientError::LockLost(lost)),
            (None, Err(error)) => Err(error),
        }
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the name, which is a user's key.
        write!(f, "Lock({}, lease {})", self.revision(), self.lease())
    }
}
