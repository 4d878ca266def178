//! Runs futures when the world says so, and tells it which want to run.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Locks what only one thread ever uses.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The futures of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Driver,
    Writer,
    Applier,
    Courier,
}

/// One future of one life of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TaskId {
    pub(super) node: u64,
    pub(super) life: u64,
    pub(super) part: Part,
}

/// Those that were woken and not yet run, in the order in which they were woken.
pub(super) type Woken = Arc<Mutex<Vec<TaskId>>>;

/// A future and its waker.
pub(super) struct Task {
    /// `None` once it has ended.
    future: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    alarm: Arc<Alarm>,
}

struct Alarm {
    id: TaskId,
    rung: AtomicBool,
    woken: Woken,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::Relaxed) {
            lock(&self.woken).push(self.id);
        }
    }
}

impl Task {
    /// A task that wants to run.
    pub(super) fn new(
        id: TaskId,
        woken: &Woken,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let alarm = Arc::new(Alarm {
            id,
            rung: AtomicBool::new(false),
            woken: Arc::clone(woken),
        });
        alarm.wake_by_ref();
        Self {
            future: Some(Box::pin(future)),
            alarm,
        }
    }

    /// Lets it run until it waits.
    pub(super) fn run(&mut self) {
        let Some(future) = &mut self.future else {
            return;
        };
        self.alarm.rung.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.alarm));
        if let Poll::Ready(()) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            self.future = None;
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.future.is_none()
    }
}
