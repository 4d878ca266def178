//! What a transport takes from the machine it runs on, besides a runtime.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quinn::{AsyncUdpSocket, Runtime};
use rustls::{crypto::CryptoProvider, pki_types::UnixTime, time_provider::TimeProvider};

use crate::quic;

/// Randomness, cryptography, the time of day, and sockets.
///
/// [`System`] is right for every program that talks to others. A simulation brings one of its own, in
/// which everything follows from a seed, and passes it in [`Config::environment`](crate::Config).
pub trait Environment: fmt::Debug + Send + Sync + 'static {
    /// Fills `bytes` with what nobody can predict: secrets are made of it.
    ///
    /// # Errors
    /// When there is no randomness.
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()>;

    /// What TLS is made with. Key shares and nonces of handshakes come from it.
    fn crypto(&self) -> Arc<CryptoProvider>;

    /// The time of day, which certificates are judged by.
    fn now(&self) -> SystemTime;

    /// A socket bound to `addr` that `runtime` drives, with buffers of about `buffer_bytes`.
    ///
    /// # Errors
    /// When the address cannot be had.
    fn bind(
        &self,
        addr: SocketAddr,
        buffer_bytes: usize,
        runtime: &dyn Runtime,
    ) -> io::Result<Arc<dyn AsyncUdpSocket>>;
}

/// The operating system's randomness, clock and sockets, and ring's cryptography.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

impl Environment for System {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::other)
    }

    fn crypto(&self) -> Arc<CryptoProvider> {
        quorate_certs::provider()
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn bind(
        &self,
        addr: SocketAddr,
        buffer_bytes: usize,
        runtime: &dyn Runtime,
    ) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        runtime.wrap_udp_socket(quic::bind(addr, buffer_bytes)?)
    }
}

/// The environment's time of day, as rustls and quinn ask for it.
#[derive(Debug)]
pub(crate) struct TimeOfDay(pub(crate) Arc<dyn Environment>);

impl TimeProvider for TimeOfDay {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.now().duration_since(UNIX_EPOCH);
        // A clock before 1970 is as wrong as one can be: no certificate is valid then.
        Some(UnixTime::since_unix_epoch(since.unwrap_or(Duration::ZERO)))
    }
}

impl quinn::TimeSource for TimeOfDay {
    fn now(&self) -> SystemTime {
        self.0.now()
    }
}
