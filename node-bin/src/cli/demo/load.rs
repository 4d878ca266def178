//! What the demonstration writes and reads, many at a time, as a busy service would.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use quorate::kv::{Client, ClientError};

use crate::cli::{Failure, connect, exit};

/// How many operations are under way at once.
const LANES: u32 = 50;

/// Writes `count` keys.
pub(super) async fn write_all(client: &Client, count: u32) -> Result<(), Failure> {
    each(count, async |number| {
        let written = client.put(key(number), value(number)).await;
        written
            .map(|_| ())
            .map_err(|error| connect::failure(&error))
    })
    .await
}

/// Reads `count` keys and compares each with what was written.
pub(super) async fn read_all(client: &Client, count: u32) -> Result<(), Failure> {
    each(count, async |number| {
        let found = client.get(key(number)).await;
        let found = found.map_err(|error| connect::failure(&error))?;
        if found.is_some_and(|found| found.data == value(number)) {
            return Ok(());
        }
        let lost = format!("{} was lost or changed", key(number));
        Err(Failure::new(exit::SOFTWARE, lost))
    })
    .await
}

/// Writes one key until it is acknowledged. Writing the same value twice changes nothing, so a write
/// whose outcome is unknown may be tried again here.
pub(super) async fn write_one(client: &Client, text: &str) -> Result<(), Failure> {
    loop {
        match client.put("status", text.to_owned()).await {
            Ok(_) => return Ok(()),
            Err(ClientError::OutcomeUnknown { .. }) => {}
            Err(error) => return Err(connect::failure(&error)),
        }
    }
}

fn key(number: u32) -> String {
    format!("key-{number:04}")
}

fn value(number: u32) -> String {
    format!("value {number} of the demonstration")
}

type Lane<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

/// Runs `work` on every number below `count`, [`LANES`] at a time, up to the first failure.
async fn each(count: u32, work: impl AsyncFn(u32) -> Result<(), Failure>) -> Result<(), Failure> {
    let work = &work;
    let lane = |first: u32| async move {
        for number in (first..count).step_by(LANES as usize) {
            work(number).await?;
        }
        Ok(())
    };
    let mut lanes: Vec<Lane<'_>> = Vec::new();
    for first in 0..LANES {
        lanes.push(Box::pin(lane(first)));
    }
    poll_fn(move |context| {
        let mut failure = None;
        lanes.retain_mut(|lane| match lane.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(why)) => {
                failure = Some(why);
                false
            }
        });
        match failure {
            Some(failure) => Poll::Ready(Err(failure)),
            None if lanes.is_empty() => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_lite::future::{block_on, yield_now};

    use super::*;

    /// Every number is worked on exactly once, also when their count is no multiple of the lanes.
    #[test]
    fn every_number_once() {
        let done = RefCell::new(Vec::new());
        let result = block_on(each(LANES * 3 + 7, async |number| {
            yield_now().await;
            done.borrow_mut().push(number);
            Ok(())
        }));
        assert_eq!(result, Ok(()));
        let mut done = done.into_inner();
        done.sort_unstable();
        assert_eq!(done, (0..LANES * 3 + 7).collect::<Vec<_>>());
    }

    /// The first failure ends the work and is reported.
    #[test]
    fn a_failure_is_reported() {
        let result = block_on(each(200, async |number| {
            yield_now().await;
            match number {
                77 => Err(Failure::new(exit::SOFTWARE, "77")),
                _ => Ok(()),
            }
        }));
        assert_eq!(result.unwrap_err().message, "77");
    }
}
