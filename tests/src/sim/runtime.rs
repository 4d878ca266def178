//! A host's process as quinn and the node see it: a runtime, sockets, the time of day, randomness.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use quorate_quic_transport::Environment;
use quorate_quic_transport::quinn::{AsyncTimer, AsyncUdpSocket, Runtime};
use quorate_quic_transport::runtime::sleep_until;
use quorate_quic_transport::rustls::crypto::CryptoProvider;

use super::chance;
use super::engine::{Engine, EventKey, HostId, Task};
use super::network::Network;
use super::pki::epoch;

/// One life of a host: what it is told and what it may do. Of an earlier life, it does nothing.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) engine: Engine,
    pub(super) network: Network,
    pub(super) host: HostId,
    pub(super) life: u64,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Process({:?}, life {})", self.host, self.life)
    }
}

impl Process {
    /// Completes after `duration` by the host's clock.
    pub(super) async fn sleep(&self, duration: Duration) {
        sleep_until(self, Runtime::now(self) + duration).await;
    }
}

impl Runtime for Process {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Timer {
            engine: self.engine.clone(),
            host: self.host,
            at,
            armed: None,
        })
    }

    fn spawn(&self, task: Task) {
        self.engine.spawn(self.host, self.life, task);
    }

    fn wrap_udp_socket(&self, _: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::Error::other("a simulated world has no real sockets"))
    }

    fn now(&self) -> Instant {
        self.engine.host_now(self.host)
    }
}

impl Environment for Process {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        chance::fill(bytes);
        Ok(())
    }

    fn crypto(&self) -> Arc<CryptoProvider> {
        chance::provider()
    }

    fn now(&self) -> SystemTime {
        let (now, wrong_by) = self.engine.wall_clock(self.host);
        let now = epoch() + Duration::from_nanos(now);
        let wrong = Duration::from_secs(wrong_by.unsigned_abs());
        match wrong_by < 0 {
            true => now - wrong,
            false => now + wrong,
        }
    }

    fn bind(
        &self,
        addr: SocketAddr,
        _buffer_bytes: usize,
        _runtime: &dyn Runtime,
    ) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.network.bind(self.host, addr.port())
    }
}

struct Timer {
    engine: Engine,
    host: HostId,
    at: Instant,
    armed: Option<EventKey>,
}

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Timer({:?}, {:?})", self.host, self.at)
    }
}

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.at = at;
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.engine.host_now(this.host) >= this.at {
            this.engine.disarm(&mut this.armed);
            return Poll::Ready(());
        }
        let due = this.engine.due(this.host, this.at);
        this.engine
            .arm(&mut this.armed, due, this.host, context.waker());
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.engine.disarm(&mut self.armed);
    }
}
