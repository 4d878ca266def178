//! Driving the transport on somebody else's executor.

use std::{fmt, future::Future, io, net::UdpSocket, pin::Pin, sync::Arc, time::Instant};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};

use super::async_io;

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs on a given spawner, for executors that go with async-io (async-std, smol).
///
/// Heartbeats then depend on that executor: when it is blocked, peers see silence. Prefer
/// [`IoThread`](super::IoThread) unless the executor is yours alone.
///
/// ```
/// # use std::sync::Arc;
/// use quorate_quic_transport::runtime::Inline;
/// # let executor: Arc<async_executor::Executor<'static>> = Arc::default();
/// let runtime = Inline::runtime(move |task| executor.spawn(task).detach());
/// # drop(runtime);
/// ```
pub struct Inline {
    spawn: Box<dyn Fn(BoxFuture) + Send + Sync>,
}

impl Inline {
    /// A runtime whose tasks go to `spawn`, which must run each to its end in the background.
    pub fn runtime(spawn: impl Fn(BoxFuture) + Send + Sync + 'static) -> Arc<dyn Runtime> {
        Arc::new(Self {
            spawn: Box::new(spawn),
        })
    }
}

impl fmt::Debug for Inline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inline").finish_non_exhaustive()
    }
}

impl Runtime for Inline {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        async_io::timer(at)
    }

    fn spawn(&self, task: BoxFuture) {
        (self.spawn)(task);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        async_io::socket(socket)
    }
}
