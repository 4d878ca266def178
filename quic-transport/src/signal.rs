//! Small waiting tools that need no runtime: a change signal, and time through `quinn::Runtime`.

use std::{
    future::{Future, poll_fn},
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use quinn::Runtime;

/// Locks a mutex whose data stays valid at every point where its holder could panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    wakers: Vec<Waker>,
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
        for waker in wakers {
            waker.wake();
        }
    }

    /// Ready when the generation is no longer `seen`.
    pub(crate) fn changed(&self, seen: u64) -> impl Future<Output = ()> + Send + '_ {
        poll_fn(move |context| {
            let mut state = lock(&self.state);
            if state.generation != seen {
                return Poll::Ready(());
            }
            if !state
                .wakers
                .iter()
                .any(|waker| waker.will_wake(context.waker()))
            {
                state.wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
    }
}

/// Must be polled inside the runtime (tokio's timers need its context).
pub(crate) async fn sleep(runtime: &dyn Runtime, time: Duration) {
    let mut timer = runtime.new_timer(runtime.now() + time);
    poll_fn(|context| timer.as_mut().poll(context)).await;
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
