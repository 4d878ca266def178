//! Driving the transport on a thread of its own.

use std::{
    any::Any,
    future::Future,
    io,
    net::UdpSocket,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use async_channel::Sender;
use async_executor::Executor;
use futures_lite::FutureExt;
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};
use tracing::{debug, error};

use super::reactor::{Reactor, Remote};

/// One thread, `quorate-io-<name>`, that runs sockets, timers and tasks and nothing else, so that
/// heartbeats go on when the program's own executor is blocked.
///
/// Dropping it, or [`IoThread::stop`], ends the thread and drops its tasks, and transports end with them: calls that wait
/// are of unknown outcome then, and peers hear nothing. Shut transports down before.
#[derive(Debug)]
pub struct IoThread {
    runtime: Arc<ThreadRuntime>,
    executor: Option<Arc<Executor<'static>>>,
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl IoThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(name: &str) -> io::Result<Self> {
        let executor = Arc::new(Executor::new());
        let mut reactor = Reactor::new()?;
        let remote = reactor.remote();
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let runtime = Arc::new(ThreadRuntime {
            executor: Arc::downgrade(&executor),
            panics: Arc::default(),
            remote,
        });
        let runs = Arc::clone(&executor);
        let thread = std::thread::Builder::new()
            .name(format!("quorate-io-{name}"))
            .spawn(move || {
                // Ends when `stop` is dropped.
                let _ = reactor.block_on(runs.run(stopped.recv()));
            })?;
        Ok(Self {
            runtime,
            executor: Some(executor),
            stop,
            thread: Some(thread),
        })
    }

    /// To bind transports with, or to spawn tasks that belong on this thread.
    #[must_use]
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::<ThreadRuntime>::clone(&self.runtime)
    }

    /// How many tasks have panicked. Each was also logged as an error; the others go on, but
    /// after one the program should end.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.runtime.panics.load(Ordering::Relaxed)
    }

    /// Whether the caller is one of its tasks.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let current = std::thread::current().id();
        self.thread
            .as_ref()
            .is_some_and(|thread| thread.thread().id() == current)
    }

    /// Ends the thread and waits for it, unless the caller is one of its tasks. Tasks that have not finished are dropped.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.close();
        let waits = !self.is_current();
        if let Some(thread) = self.thread.take()
            // A thread cannot wait for itself: dropped by one of its own tasks it ends on its own.
            && waits
            && thread.join().is_err()
        {
            error!("the I/O thread panicked");
        }
        // The last owner drops the tasks, and with them their sockets.
        self.executor = None;
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.end();
    }
}

/// Holds the executor weakly: its tasks hold this.
#[derive(Debug)]
struct ThreadRuntime {
    executor: Weak<Executor<'static>>,
    panics: Arc<AtomicU64>,
    remote: Arc<Remote>,
}

impl Runtime for ThreadRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        self.remote.timer(at)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let Some(executor) = self.executor.upgrade() else {
            debug!("a task was given to an I/O thread that has ended; it is dropped");
            return;
        };
        let panics = Arc::clone(&self.panics);
        let guarded = async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                panics.fetch_add(1, Ordering::Relaxed);
                error!(err = %panic_text(panic.as_ref()), "a task on the I/O thread panicked");
            }
        };
        executor.spawn(guarded).detach();
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.remote.socket(socket)
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "no text"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_counted_and_the_thread_goes_on() {
        let io = IoThread::spawn("test").unwrap();
        let (sender, receiver) = async_channel::bounded(1);
        io.runtime()
            .spawn(Box::pin(async { panic!("meant to be seen") }));
        io.runtime().spawn(Box::pin(async move {
            let name = std::thread::current().name().map(str::to_owned);
            sender.send(name).await.unwrap();
        }));
        let name = receiver.recv_blocking().unwrap();
        assert_eq!(name.as_deref(), Some("quorate-io-test"));
        // The second task was queued behind the first on the one thread.
        assert_eq!(io.panics(), 1);
    }

    #[test]
    fn stopping_drops_what_has_not_finished() {
        let io = IoThread::spawn("test").unwrap();
        let (kept, dropped) = async_channel::bounded::<()>(1);
        let runtime = io.runtime();
        runtime.spawn(Box::pin(async move {
            std::future::pending::<()>().await;
            drop(kept);
        }));
        io.stop();
        assert!(
            dropped.recv_blocking().is_err(),
            "the task's sender is gone"
        );
        drop(runtime);
    }
}
