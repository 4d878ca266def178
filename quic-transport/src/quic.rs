//! quinn's settings, and the parts of it that must be reproducible or survive a restart.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{
    AckFrequencyConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, Side, TransportConfig,
    VarInt,
};
use ring::{hkdf, hmac};
use tracing::{debug, warn};

use crate::{
    config::{Config, Timings},
    congestion, copies,
    environment::{Environment, TimeOfDay},
    message::WireLane,
    rng::Rng,
};

/// Reassembly memory of one stream. Not larger: it multiplies by streams and connections.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Reassembly memory of one connection, and what may be unacknowledged on it. Room for a full
/// window of every lane: quinn's send limit is per connection and blind to priority, so with less
/// a backlog of appends would block a heartbeat's write.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = WireLane::COUNT as u32 * STREAM_WINDOW_BYTES;
/// The same of a connection whose dialer is nobody yet, or a client: there may be thousands, any of which takes and
/// acknowledges nothing. A client has no lane whose messages are urgent, and with 100 ms to go there and back this
/// is 5 MB a second.
const NEWCOMER_WINDOW_BYTES: u32 = 512 << 10;
/// The hello.
const BIDI_STREAMS_MAX: u32 = 1;
/// Memory for first packets of handshakes not yet accepted, for one and for all.
const INCOMING_BYTES_MAX: u64 = 64 << 10;
const INCOMING_BYTES_TOTAL_MAX: u64 = 8 << 20;

/// For connections that we dial, or that we accept. Whoever dials decides when silence means the end, within
/// what the other end allows (RFC 9000 section 10.1), and breaks it: one end is enough. Windows grow once the dialer
/// is known to be a node.
pub(crate) fn transport_config(timings: &Timings, side: Side) -> Arc<TransportConfig> {
    let (idle_timeout, keep_alive, window) = match side {
        Side::Client => (
            timings.idle_timeout,
            Some(timings.keep_alive),
            CONNECTION_WINDOW_BYTES,
        ),
        Side::Server => (timings.accepted_idle_timeout, None, NEWCOMER_WINDOW_BYTES),
    };
    let mut ack_frequency = AckFrequencyConfig::default();
    ack_frequency.max_ack_delay(Some(timings.ack_delay_max));
    let idle = u64::try_from(idle_timeout.as_millis()).unwrap_or(u64::MAX);
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(VarInt::from_u64(idle).ok().map(Into::into))
        .keep_alive_interval(keep_alive)
        .initial_rtt(timings.initial_rtt)
        .ack_frequency_config(Some(ack_frequency))
        .congestion_controller_factory(congestion::factory())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(window.into())
        .send_window(window.into())
        .max_concurrent_bidi_streams(BIDI_STREAMS_MAX.into())
        .max_concurrent_uni_streams((WireLane::COUNT as u32).into())
        // With `false` a partly written stream keeps the connection until it is done, whatever
        // waits with a higher priority (quinn#2002).
        .send_fairness(true)
        .datagram_receive_buffer_size(Some(copies::DATAGRAMS_BYTES_MAX))
        .datagram_send_buffer_size(copies::DATAGRAMS_BYTES_MAX);
    Arc::new(config)
}

pub(crate) fn server_config(
    config: &Config,
    crypto: Arc<dyn quinn::crypto::ServerConfig>,
    transport: Arc<TransportConfig>,
) -> quinn::ServerConfig {
    let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
        .extract(&derive(&config.secret, b"quorate retry token"));
    let mut server = quinn::ServerConfig::new(crypto, Arc::new(token_key));
    let mut tokens = quinn::ValidationTokenConfig::default();
    // Few, known peers: tokens for later visits would only be a way to skip Retry.
    tokens.sent(0).log(Arc::new(quinn::NoneTokenLog));
    server
        .time_source(Arc::new(TimeOfDay(Arc::clone(&config.environment))))
        .transport_config(transport)
        .migration(false)
        .max_incoming(config.limits.handshakes_max)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL_MAX)
        .retry_token_lifetime(Duration::from_secs(15))
        .validation_token_config(tokens);
    server
}

/// A restarted process must recognise the connection ids of the former one and be able to reset
/// them; both keys come from the secret, hence from a file. With quinn's random keys a peer would
/// notice the restart only by its idle timeout.
pub(crate) fn endpoint_config(config: &Config, rng: &Arc<Rng>) -> EndpointConfig {
    let reset = hmac::Key::new(hmac::HMAC_SHA256, &derive(&config.secret, b"quorate reset"));
    let ids = hmac::Key::new(
        hmac::HMAC_SHA256,
        &derive(&config.secret, b"quorate connection id"),
    );
    let random = Random {
        environment: Arc::clone(&config.environment),
        rng: Arc::clone(rng),
    };
    let mut endpoint = EndpointConfig::new(Arc::new(reset));
    endpoint
        .rng_seed(Some(random.bytes()))
        .cid_generator(move || {
            Box::new(SignedIds {
                key: ids.clone(),
                random: random.clone(),
            })
        });
    endpoint
}

/// What nobody should be able to predict.
#[derive(Clone)]
struct Random {
    environment: Arc<dyn Environment>,
    /// For when the system has no randomness any more: handshakes then fail, but not with a panic.
    rng: Arc<Rng>,
}

impl Random {
    fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        if self.environment.fill(&mut bytes).is_err() {
            for part in bytes.chunks_mut(8) {
                part.copy_from_slice(&self.rng.next().to_le_bytes()[..part.len()]);
            }
        }
        bytes
    }
}

fn derive(secret: &[u8; 32], label: &[u8]) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, label);
    tag.as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
}

/// Connection ids of 4 random and 4 signed bytes, so that packets of a former process are told
/// from garbage. Nobody can predict one: the keys of a connection's first packets follow from it (RFC 9000,
/// section 7.2).
struct SignedIds {
    key: hmac::Key,
    random: Random,
}

const ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 4;

impl SignedIds {
    fn sign(&self, nonce: &[u8]) -> [u8; ID_BYTES - NONCE_BYTES] {
        let tag = hmac::sign(&self.key, nonce);
        *tag.as_ref()
            .first_chunk()
            .expect("HMAC-SHA-256 is longer than 4 bytes")
    }
}

impl ConnectionIdGenerator for SignedIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let nonce: [u8; NONCE_BYTES] = self.random.bytes();
        let mut id = [0; ID_BYTES];
        id[..NONCE_BYTES].copy_from_slice(&nonce);
        id[NONCE_BYTES..].copy_from_slice(&self.sign(&nonce));
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), quinn_proto::InvalidCid> {
        match id.split_first_chunk::<NONCE_BYTES>() {
            Some((nonce, tag)) if *tag == self.sign(nonce) => Ok(()),
            Some(_) | None => Err(quinn_proto::InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The first id a dialer invents for the acceptor, from the seed as well.
pub(crate) fn initial_ids(rng: &Arc<Rng>) -> Arc<dyn Fn() -> ConnectionId + Send + Sync + 'static> {
    let rng = Arc::clone(rng);
    Arc::new(move || {
        let (high, low) = (rng.next().to_le_bytes(), rng.next().to_le_bytes());
        ConnectionId::new(&[high, low].concat())
    })
}

/// A UDP socket with large buffers: the kernel's default (208 KiB on Linux) loses packets when
/// several peers send a window at once.
pub(crate) fn bind(addr: SocketAddr, buffer_bytes: usize) -> std::io::Result<std::net::UdpSocket> {
    let domain = socket2::Domain::for_address(addr);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    // Best effort: a smaller buffer is slower, not wrong.
    let _ = socket.set_recv_buffer_size(buffer_bytes);
    let _ = socket.set_send_buffer_size(buffer_bytes);
    report_buffers(&socket, buffer_bytes);
    Ok(socket.into())
}

fn report_buffers(socket: &socket2::Socket, wanted: usize) {
    static WARNED: std::sync::Once = std::sync::Once::new();
    let granted = socket
        .recv_buffer_size()
        .unwrap_or(0)
        .min(socket.send_buffer_size().unwrap_or(0));
    if granted >= wanted {
        return;
    }
    debug!(
        bytes = granted,
        wanted, "socket buffers are smaller than asked for"
    );
    WARNED.call_once(|| {
        warn!(
            bytes = granted,
            wanted,
            "the kernel granted small socket buffers; raise sysctl net.core.rmem_max and \
             net.core.wmem_max"
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::System;

    fn generator(secret: u8) -> SignedIds {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[secret; 32]);
        SignedIds {
            key,
            random: Random {
                environment: Arc::new(System),
                rng: Arc::new(Rng::new(1)),
            },
        }
    }

    #[test]
    fn ids_of_a_former_process_are_recognised_and_foreign_ones_are_not() {
        let id = generator(1).generate_cid();
        assert!(generator(1).validate(&id).is_ok());
        assert!(generator(2).validate(&id).is_err());
        assert!(generator(1).validate(&ConnectionId::new(&[1, 2])).is_err());
    }
}
