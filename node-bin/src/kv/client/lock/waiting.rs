//! Waiting for a lock, through outages.

use std::time::{Duration, Instant};

use super::place::{Place, passes};
use super::{Client, ClientError, Lost};
use crate::kv::client::keeping::AGAIN;

/// Waits until whoever is in `seat` has the lock `name`, whatever passes meanwhile.
///
/// Who only waits has nothing to lose but its place. So a lease that could not be kept in time is kept again, for without a
/// leader it has not ended, and the place is still there; where it has ended, another one has a place behind all others.
pub(super) async fn wait(
    client: &Client,
    name: &[u8],
    ttl: Duration,
    seat: &mut Option<Place>,
) -> Result<(), ClientError> {
    loop {
        let former = seat.as_ref().map(|place| place.lease);
        let (lease, begun) = lease(client, ttl, former).await?;
        let place = seat.insert(Place::new(client.clone(), name, lease, ttl, begun));
        match take(place).await {
            // Without the client's runtime, nothing can be kept any more.
            Err(lost) if client.shared.is_closed() => return Err(lost),
            Err(ClientError::LockLost(Lost::NotKept)) => {}
            Err(ClientError::LockLost(Lost::Ended)) => *seat = None,
            done => return done,
        }
    }
}

async fn take(place: &mut Place) -> Result<(), ClientError> {
    place.enter().await?;
    place.first().await
}

/// The lease `former`, kept, if it lives, or else another one, as soon as there is a leader; and when the call that this came
/// of was begun, because the leader counts from before its answer. One that was granted without our learning of it ends by
/// itself.
async fn lease(
    client: &Client,
    ttl: Duration,
    mut former: Option<u64>,
) -> Result<(u64, Instant), ClientError> {
    let shared = &client.shared;
    loop {
        let begun = shared.runtime.now();
        let lives = match former {
            Some(lease) => client.keep_lease(lease).await.map(|_| lease),
            None => client.grant_lease(ttl).await,
        };
        match lives {
            Ok(lease) => return Ok((lease, begun)),
            Err(ClientError::LeaseUnknown { .. }) => former = None,
            Err(error) if passes(&error) && !shared.is_closed() => {
                shared.sleep_until(shared.runtime.now() + AGAIN).await;
            }
            Err(error) => return Err(error),
        }
    }
}
