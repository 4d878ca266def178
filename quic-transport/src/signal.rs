//! Small waiting tools that need no runtime: a change signal, and time through `quinn::Runtime`.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use quinn::Runtime;

use crate::runtime::sleep_until;

/// Locks a mutex whose data stays valid at every point where its holder could panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// "Something changed; look again." Waiters read the generation, check their condition, then wait
/// for the generation to move, so that no change between check and wait is missed.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: Mutex<SignalState>,
}

#[derive(Debug, Default)]
struct SignalState {
    generation: u64,
    /// Whoever waits, by the number of its wait.
    wakers: BTreeMap<u64, Waker>,
    waits: u64,
}

impl Signal {
    pub(crate) fn generation(&self) -> u64 {
        lock(&self.state).generation
    }

    pub(crate) fn notify(&self) {
        let wakers = {
            let mut state = lock(&self.state);
            state.generation += 1;
            std::mem::take(&mut state.wakers)
        };
        for waker in wakers.into_values() {
            waker.wake();
        }
    }

    /// Ready when the generation is no longer `seen`. Dropped before, it leaves nothing behind.
    pub(crate) fn changed(&self, seen: u64) -> Changed<'_> {
        Changed {
            signal: self,
            seen,
            wait: None,
        }
    }
}

pub(crate) struct Changed<'a> {
    signal: &'a Signal,
    seen: u64,
    /// Its number, once it has waited.
    wait: Option<u64>,
}

impl Future for Changed<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.signal.state);
        if state.generation != self.seen {
            return Poll::Ready(());
        }
        let wait = self.wait.unwrap_or(state.waits);
        if self.wait.is_none() {
            state.waits += 1;
        }
        match state.wakers.get_mut(&wait) {
            Some(waker) => waker.clone_from(context.waker()),
            None => drop(state.wakers.insert(wait, context.waker().clone())),
        }
        drop(state);
        self.wait = Some(wait);
        Poll::Pending
    }
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        if let Some(wait) = self.wait {
            lock(&self.signal.state).wakers.remove(&wait);
        }
    }
}

/// Longer than any process runs, and short enough to be added to any time: callers may ask for as long as they like.
const WAIT_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// When `time` will have passed: any, up to [`WAIT_MAX`].
pub(crate) fn after(runtime: &dyn Runtime, time: Duration) -> Instant {
    runtime.now() + time.min(WAIT_MAX)
}

/// Must be polled inside the runtime: see [`sleep_until`].
pub(crate) async fn sleep(runtime: &dyn Runtime, time: Duration) {
    sleep_until(runtime, after(runtime, time)).await;
}

/// The future's output, or `None` when `time` passed first.
pub(crate) async fn within<T>(
    runtime: &dyn Runtime,
    time: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    futures_lite::future::or(async { Some(future.await) }, async {
        sleep(runtime, time).await;
        None
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    /// Whoever no longer waits is forgotten, or a peer that makes somebody wait again and again would fill memory.
    #[test]
    fn dropped_waits_leave_nothing_behind() {
        let signal = Signal::default();
        let seen = signal.generation();
        let mut waits = pin!(signal.changed(seen));
        for _ in 0..1000 {
            assert!(block_on(poll_once(waits.as_mut())).is_none());
            assert!(block_on(poll_once(signal.changed(seen))).is_none());
            assert_eq!(lock(&signal.state).wakers.len(), 1);
        }
        signal.notify();
        block_on(waits);
        assert!(lock(&signal.state).wakers.is_empty());
    }
}
