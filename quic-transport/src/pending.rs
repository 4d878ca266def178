//! Calls waiting for an answer: ours (`Pending`) and the peer's (`InFlight`).

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Instant,
};

use crate::{call::CallError, frame::Frame, signal::lock};

pub(crate) type Outcome = Result<Frame, CallError>;

/// Where one call's outcome is put and waited for.
#[derive(Debug, Default)]
struct Slot(Mutex<SlotState>);

#[derive(Debug, Default)]
struct SlotState {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

impl Slot {
    fn put(&self, outcome: Outcome) {
        let waker = {
            let mut state = lock(&self.0);
            state.outcome = Some(outcome);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[derive(Debug)]
struct Waiting {
    slot: Arc<Slot>,
    deadline: Instant,
}

#[derive(Debug)]
struct PendingState {
    calls: BTreeMap<u64, Waiting>,
    /// Never used twice in the life of the peer object, so that an answer that arrives late, or
    /// over another connection, cannot be taken for the answer to another question.
    last_call: u64,
}

/// Our calls to one peer.
#[derive(Debug)]
pub(crate) struct Pending {
    state: Mutex<PendingState>,
}

impl Pending {
    /// `first` is random, so that two processes of one peer do not number alike.
    pub(crate) fn new(first: u64) -> Self {
        let calls = BTreeMap::new();
        Self {
            state: Mutex::new(PendingState {
                calls,
                last_call: first >> 1,
            }),
        }
    }

    /// Reserves an id, or `None` at `calls_max`.
    pub(crate) fn begin(
        self: &Arc<Self>,
        deadline: Instant,
        calls_max: usize,
    ) -> Option<(u64, Waiter)> {
        let mut state = lock(&self.state);
        if state.calls.len() >= calls_max {
            return None;
        }
        state.last_call += 1;
        let call = state.last_call;
        let slot = Arc::new(Slot::default());
        state.calls.insert(
            call,
            Waiting {
                slot: Arc::clone(&slot),
                deadline,
            },
        );
        Some((
            call,
            Waiter {
                slot,
                pending: Arc::clone(self),
                call,
            },
        ))
    }

    /// Ends a call, if someone still waits for it.
    pub(crate) fn finish(&self, call: u64, outcome: Outcome) {
        let waiting = lock(&self.state).calls.remove(&call);
        if let Some(waiting) = waiting {
            waiting.slot.put(outcome);
        }
    }

    /// Ends every call: those in `unsent` with `not_sent`, the others with `unknown`.
    pub(crate) fn fail_all(
        &self,
        unsent: &BTreeSet<u64>,
        not_sent: &CallError,
        unknown: &CallError,
    ) {
        let calls = std::mem::take(&mut lock(&self.state).calls);
        for (call, waiting) in calls {
            let err = if unsent.contains(&call) {
                not_sent
            } else {
                unknown
            };
            waiting.slot.put(Err(err.clone()));
        }
    }

    /// Ends the calls whose deadline has come; returns the next deadline.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        let (expired, next) = {
            let mut state = lock(&self.state);
            let due: Vec<u64> = state
                .calls
                .iter()
                .filter(|(_, waiting)| waiting.deadline <= now)
                .map(|(call, _)| *call)
                .collect();
            let expired: Vec<_> = due
                .iter()
                .filter_map(|call| state.calls.remove(call))
                .collect();
            (
                expired,
                state.calls.values().map(|waiting| waiting.deadline).min(),
            )
        };
        for waiting in expired {
            waiting.slot.put(Err(CallError::Deadline));
        }
        next
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.state).calls.is_empty()
    }
}

/// The caller's end. Dropping it forgets the call; the peer may still run it.
#[derive(Debug)]
pub(crate) struct Waiter {
    slot: Arc<Slot>,
    pending: Arc<Pending>,
    call: u64,
}

impl Future for Waiter {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = lock(&self.slot.0);
        match state.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        lock(&self.pending.state).calls.remove(&self.call);
    }
}

/// Counts the peer's calls that we have not answered. When it is full its one reader waits, the
/// stream is not read, and QUIC flow control stops the peer.
#[derive(Debug)]
pub(crate) struct InFlight {
    state: Mutex<InFlightState>,
    calls_max: usize,
}

#[derive(Debug, Default)]
struct InFlightState {
    count: usize,
    reader: Option<Waker>,
}

impl InFlight {
    pub(crate) fn new(calls_max: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            calls_max,
        })
    }

    /// A free place, if there is one now.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let mut state = lock(&self.state);
        if state.count >= self.calls_max {
            return None;
        }
        state.count += 1;
        Some(Permit(Arc::clone(self)))
    }

    /// Waits for a free place.
    pub(crate) fn acquire(self: &Arc<Self>) -> impl Future<Output = Permit> + Send + '_ {
        std::future::poll_fn(|context| {
            let mut state = lock(&self.state);
            if state.count >= self.calls_max {
                state.reader = Some(context.waker().clone());
                return Poll::Pending;
            }
            state.count += 1;
            Poll::Ready(Permit(Arc::clone(self)))
        })
    }

    pub(crate) fn count(&self) -> usize {
        lock(&self.state).count
    }
}

/// One place in [`InFlight`]; free again on drop.
#[derive(Debug)]
pub(crate) struct Permit(Arc<InFlight>);

impl Drop for Permit {
    fn drop(&mut self) {
        let reader = {
            let mut state = lock(&self.0.state);
            state.count -= 1;
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn calls_are_bounded_and_a_dropped_waiter_frees_its_place() {
        let pending = Arc::new(Pending::new(0));
        let now = Instant::now();
        let (_, first) = pending.begin(now, 1).unwrap();
        assert!(pending.begin(now, 1).is_none());
        drop(first);
        assert!(pending.begin(now, 1).is_some());
    }

    #[test]
    fn only_calls_past_their_deadline_expire() {
        let pending = Arc::new(Pending::new(0));
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(9));
        let (_, due) = pending.begin(now, 9).unwrap();
        let (_, mut waits) = pending.begin(later, 9).unwrap();
        assert_eq!(pending.expire(now), Some(later));
        assert!(matches!(block_on(due), Err(CallError::Deadline)));
        assert!(block_on(poll_once(&mut waits)).is_none());
    }

    #[test]
    fn permits_stop_the_reader_until_one_is_dropped() {
        let in_flight = InFlight::new(1);
        let permit = block_on(in_flight.acquire());
        assert!(block_on(poll_once(in_flight.acquire())).is_none());
        drop(permit);
        assert!(block_on(poll_once(in_flight.acquire())).is_some());
    }
}
