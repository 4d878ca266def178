//! Keeps a lease while its owner lives.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use futures_lite::future::or;

use super::Client;
use super::error::ClientError;
use super::lock::Lost;

/// How often a lease is kept in its time to live, so that two attempts in a row may fail.
const KEPT_TIMES: u32 = 3;

/// How long after an attempt that failed the next one is made: short against the shortest time to live.
pub(super) const AGAIN: Duration = Duration::from_millis(100);

/// A lease that is kept in the background. Dropped, it is revoked there.
pub(super) struct Keeping {
    /// Told that the lease is no longer to be kept; closed, that nobody will end it either.
    leave: Sender<()>,
    /// Closed when the lease is kept no more.
    over: Receiver<()>,
    lost: Arc<OnceLock<Lost>>,
}

impl Keeping {
    /// Keeps `lease`, which lives for `ttl` and was granted at `begun` or later.
    pub(super) fn begin(client: &Client, lease: u64, ttl: Duration, begun: Instant) -> Self {
        let (leave, left) = async_channel::bounded(1);
        let (kept, over) = async_channel::bounded(1);
        let lost = Arc::new(OnceLock::new());
        let (keeper, losing) = (client.clone(), Arc::clone(&lost));
        client.shared.runtime.spawn(Box::pin(async move {
            let ended = async { End::Lost(until_lost(&keeper, lease, ttl, begun).await) };
            let left = async {
                match left.recv().await {
                    Ok(()) => End::Left,
                    Err(_) => End::Dropped,
                }
            };
            match or(left, ended).await {
                End::Lost(why) => {
                    let _ = losing.set(why); // nobody else does
                }
                End::Left => {}
                End::Dropped => {
                    // It ends by itself if that fails.
                    let _ = keeper.revoke_lease(lease).await;
                }
            }
            drop(kept);
        }));
        Self { leave, over, lost }
    }

    /// Ends without revoking anything.
    pub(super) fn leave(&self) {
        let _ = self.leave.try_send(()); // it has room for one, or is over
    }

    pub(super) fn is_lost(&self) -> Option<Lost> {
        self.lost.get().copied()
    }

    /// Waits until the lease is lost.
    pub(super) async fn lost(&self) -> Lost {
        // Nothing is ever sent.
        let _ = self.over.recv().await;
        // Without a reason, the runtime has ended.
        self.is_lost().unwrap_or(Lost::NotKept)
    }
}

/// Why it is kept no more.
enum End {
    Lost(Lost),
    Left,
    Dropped,
}

/// Keeps `lease` until it has ended, or may have.
async fn until_lost(client: &Client, lease: u64, ttl: Duration, begun: Instant) -> Lost {
    let shared = &client.shared;
    // When the last success was begun, and when the next attempt is.
    let mut kept_at = begun;
    let mut next = begun + ttl / KEPT_TIMES;
    loop {
        let over = async {
            shared.sleep_until(kept_at + ttl).await;
            None
        };
        let attempt = async {
            shared.sleep_until(next).await;
            let asked_at = shared.runtime.now();
            Some((asked_at, client.keep_lease(lease).await))
        };
        // The time first: a process that was paused must not take an answer for one that came in time.
        match or(over, attempt).await {
            None => return Lost::NotKept,
            Some((_, Err(ClientError::LeaseUnknown { .. }))) => return Lost::Ended,
            Some((asked_at, Ok(_))) => {
                kept_at = asked_at;
                next = asked_at + ttl / KEPT_TIMES;
            }
            Some((_, Err(_))) => next = shared.runtime.now() + AGAIN,
        }
    }
}
