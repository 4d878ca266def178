//! What an operator or embedder may set, and what is checked before anything is bound.

use std::{fmt, net::SocketAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use crate::{
    environment::{Environment, System},
    hello::Admit,
    message::{Lane, WireLane},
};

/// Which store, started how often, stands behind an identity.
///
/// A peer that comes back with the same store and a lower boot runs from an older copy of its
/// disk: it is refused, because it may have forgotten promises it made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instance {
    /// Random number written when the store was created. Programs without a store use a random
    /// one per start.
    pub store_id: u128,
    /// Counts the starts of that store; rises with every start.
    pub boot: u64,
}

/// Bounds of every queue, buffer and count. The defaults suit a cluster of up to nine nodes and
/// some thousand clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Messages waiting in the [`Inbox`](crate::Inbox). Beyond it, streams are no longer read and
    /// QUIC flow control stops the senders. Default 4096.
    pub inbox_messages_max: usize,
    /// Bytes waiting in the inbox, since the count alone does not bound memory. Default 64 MiB.
    pub inbox_bytes_max: usize,
    /// Queued messages per peer on [`Lane::Control`]. Default 256: heartbeats and votes replace
    /// each other, so more than this means a fault.
    pub control_messages_max: usize,
    /// Queued messages per peer on [`Lane::Append`] and on [`Lane::Call`]. Default 4096.
    pub lane_messages_max: usize,
    /// Queued bytes per peer and lane. Default 16 MiB: two of the largest append frames.
    pub lane_bytes_max: usize,
    /// Bytes of responses, to all callers, that wait for their callers to take them. What finds no room is
    /// refused ([`Refusal::NoRoom`](crate::Refusal::NoRoom)). Of one identity, however many connections it has,
    /// no more than `lane_bytes_max` wait. Default 64 MiB.
    pub replies_bytes_max: usize,
    /// Bytes of frames larger than 64 KiB that all clients, readers and admins together have begun to send, each for
    /// [`Timings::large_frame_timeout`] at most; who wants to send more waits. Of one identity, however many connections it has, no more than `lane_bytes_max`. Default
    /// 64 MiB.
    pub frames_bytes_max: usize,
    /// Largest frame on [`Lane::Control`]. Default 64 KiB.
    pub control_frame_bytes_max: usize,
    /// Largest frame on [`Lane::Append`]. Default 8 MiB.
    pub append_frame_bytes_max: usize,
    /// Largest frame on [`Lane::Call`], requests and replies. Default 4 MiB.
    pub call_frame_bytes_max: usize,
    /// Calls without an answer, per connection and direction. Our own calls beyond it are
    /// rejected; a peer that exceeds it is no longer read. Default 4096.
    pub calls_in_flight_max: usize,
    /// Inbound connections, handshakes included. Default 12,000. For those who come from where a node of the address
    /// book is, there are 32 more places, as there are for handshakes.
    pub connections_max: usize,
    /// Inbound connections of one client, reader or admin identity. Default 64: one credential may be
    /// used by several processes, but not by one runaway loop.
    pub connections_per_client_max: usize,
    /// Inbound handshakes running at once; further ones are ignored. Default 256.
    pub handshakes_max: usize,
    /// The same from one IPv4 address or one /64 of IPv6, so that nobody can keep everybody else out. Default 128;
    /// more than `retry_above`, or somebody who only claims to be there could keep it out.
    pub handshakes_per_address_max: usize,
    /// From this many running handshakes on, a newcomer must first prove its address (QUIC
    /// Retry). Default 64.
    pub retry_above: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            inbox_messages_max: 4096,
            inbox_bytes_max: 64 << 20,
            control_messages_max: 256,
            lane_messages_max: 4096,
            lane_bytes_max: 16 << 20,
            replies_bytes_max: 64 << 20,
            frames_bytes_max: 64 << 20,
            control_frame_bytes_max: 64 << 10,
            append_frame_bytes_max: 8 << 20,
            call_frame_bytes_max: 4 << 20,
            calls_in_flight_max: 4096,
            connections_max: 12_000,
            connections_per_client_max: 64,
            handshakes_max: 256,
            handshakes_per_address_max: 128,
            retry_above: 64,
        }
    }
}

impl Limits {
    pub(crate) fn frame_bytes_max(&self, lane: WireLane) -> usize {
        match lane {
            WireLane::Control => self.control_frame_bytes_max,
            WireLane::Append => self.append_frame_bytes_max,
            WireLane::Call | WireLane::Reply => self.call_frame_bytes_max,
        }
    }

    pub(crate) fn messages_max(&self, lane: WireLane) -> usize {
        match lane {
            WireLane::Control => self.control_messages_max,
            WireLane::Append | WireLane::Call => self.lane_messages_max,
            // An answer takes the place its request held.
            WireLane::Reply => self.calls_in_flight_max,
        }
    }
}

/// Timing of connections. The defaults are for one site (round trips of a few milliseconds).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings {
    /// Silence after which a connection that we dialled counts as dead, at both ends. Default 5 s. Too small:
    /// a pause of the machine costs a reconnect. Too large: messages vanish into a dead connection for
    /// longer.
    pub idle_timeout: Duration,
    /// The same for one that we accepted, where whoever dialled allows so much: of two ends, the more
    /// impatient one counts (RFC 9000 section 10.1). Default 30 s. Larger: who is gone without a word holds
    /// its place among the connections for longer. Smaller: clients, of which there may be many, have to
    /// ping more often.
    pub accepted_idle_timeout: Duration,
    /// A ping is sent after this much silence on a connection that we dialled; at most a third of
    /// `idle_timeout`. Default 1 s.
    pub keep_alive: Duration,
    /// A handshake, hello included, may take this long. Default 3 s.
    pub handshake_timeout: Duration,
    /// First guess of the round trip; a lost first packet costs three times this. Default 20 ms.
    pub initial_rtt: Duration,
    /// How long a receiver may hold back an acknowledgement. Default 5 ms.
    pub ack_delay_max: Duration,
    /// Ceiling of the first pause between dials; the actual pause is random below it.
    /// Default 50 ms.
    pub backoff_min: Duration,
    /// Ceiling of every later pause. Default 2 s.
    pub backoff_max: Duration,
    /// A connection that lived this long was healthy: the next dial is immediate and the backoff
    /// starts anew. Default 10 s.
    pub healthy_after: Duration,
    /// How long a superseded connection may take to deliver what it already took; the session ends with it if it
    /// has not by then. Default 5 s: nearly 600 KiB at 1 Mbit/s.
    pub drain_timeout: Duration,
    /// How long a client, reader or admin may take to send the rest of a frame larger than 64 KiB, from when it was given
    /// room among [`Limits::frames_bytes_max`]: whoever takes longer is disconnected, for others may wait for that
    /// room. Default 60 s: the largest call (4 MiB) at 0.6 Mbit/s.
    pub large_frame_timeout: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(5),
            accepted_idle_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(3),
            initial_rtt: Duration::from_millis(20),
            ack_delay_max: Duration::from_millis(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            healthy_after: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(5),
            large_frame_timeout: Duration::from_secs(60),
        }
    }
}

/// Everything [`Transport::bind`](crate::Transport::bind) needs besides credentials and a runtime.
#[derive(Clone)]
pub struct Config {
    /// Address of the UDP socket; port 0 lets the system choose. `[::]` serves IPv4 as well.
    pub listen: SocketAddr,
    /// Whether connections are accepted. Only nodes can: for others it has no effect.
    /// Default true.
    pub accept: bool,
    /// Name of the protocol spoken on top; both ends must say the same, so that one certificate may serve
    /// several. At most 64 bytes.
    pub service: String,
    /// Versions of that protocol this program speaks; the highest common one is chosen.
    pub service_versions: RangeInclusive<u16>,
    /// See [`Instance`]. Default: random store, boot 1, right for programs without a store.
    pub instance: Instance,
    /// How far the store had come when this start of it began, for services that remember more of it than
    /// it may have forgotten: it is told to their own rule, [`Admit`]. Default 0.
    pub progress: u128,
    /// What the store was made with, for services that have to agree about that: it is told to their own rule,
    /// [`Admit`]. Default 0.
    pub origin: u64,
    /// Tells two processes apart that run on copies of one store: it is told to the service's own rule,
    /// [`Admit`]. Default: random.
    pub process: u64,
    /// Key for stateless resets and connection ids. **Keep it in a private file and pass the same
    /// one at every start**: only then do peers notice a restart in a round trip instead of an
    /// idle timeout (measured: 2.3 ms against 5 s). Default: random.
    pub secret: [u8; 32],
    /// Seed of jitter and connection ids; a simulation sets it, others leave it random. Must not
    /// be the same at two starts with one `secret`.
    pub seed: u64,
    /// Bounds of queues and counts.
    pub limits: Limits,
    /// Timeouts and backoff.
    pub timings: Timings,
    /// A last word on peers whose certificate is good: membership, memory of store ids.
    /// Default: everyone of the cluster is admitted.
    pub admit: Option<Arc<dyn Admit>>,
    /// Ask the kernel for socket buffers of this size. Default 4 MiB; one warning when the kernel
    /// grants less.
    pub socket_buffer_bytes: usize,
    /// Where randomness, cryptography, the time of day and sockets come from. Default: [`System`].
    pub environment: Arc<dyn Environment>,
}

/// Longest service name that fits a hello comfortably.
pub(crate) const SERVICE_BYTES_MAX: usize = 64;

impl Config {
    /// Values that work for the protocol `service`, spoken at `listen`.
    ///
    /// # Panics
    /// When the system has no randomness to give, since no secret could then be made.
    #[must_use]
    pub fn new(service: impl Into<String>, listen: SocketAddr) -> Self {
        Self::new_in(Arc::new(System), service, listen)
    }

    /// As [`Config::new`], elsewhere than on the operating system.
    ///
    /// # Panics
    /// When `environment` has no randomness to give.
    #[must_use]
    pub fn new_in(
        environment: Arc<dyn Environment>,
        service: impl Into<String>,
        listen: SocketAddr,
    ) -> Self {
        let mut random = [0u8; 64];
        let filled = environment.fill(&mut random);
        filled.expect("the environment provides randomness");
        let (secret, rest) = random.split_first_chunk::<32>().expect("64 bytes hold 32");
        let (store_id, rest) = rest.split_first_chunk::<16>().expect("32 bytes hold 16");
        let (seed, rest) = rest.split_first_chunk::<8>().expect("16 bytes hold 8");
        let process = rest.first_chunk::<8>().expect("8 bytes are left");
        Self {
            listen,
            accept: true,
            service: service.into(),
            service_versions: 1..=1,
            instance: Instance {
                store_id: u128::from_le_bytes(*store_id),
                boot: 1,
            },
            progress: 0,
            origin: 0,
            process: u64::from_le_bytes(*process),
            secret: *secret,
            seed: u64::from_le_bytes(*seed),
            limits: Limits::default(),
            timings: Timings::default(),
            admit: None,
            socket_buffer_bytes: 4 << 20,
            environment,
        }
    }

    /// For programs that only dial: a free port on every interface, nothing accepted.
    ///
    /// # Panics
    /// As [`Config::new`].
    #[must_use]
    pub fn dial_only(service: impl Into<String>) -> Self {
        Self {
            accept: false,
            ..Self::new(service, SocketAddr::from(([0, 0, 0, 0], 0)))
        }
    }

    /// Looks for every mistake at once.
    ///
    /// # Errors
    /// The list of what is wrong, each with what to do.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut mistakes = Vec::new();
        self.check_service(&mut mistakes);
        self.check_limits(&mut mistakes);
        self.check_timings(&mut mistakes);
        if mistakes.is_empty() {
            Ok(())
        } else {
            Err(ConfigError { mistakes })
        }
    }

    fn check_service(&self, mistakes: &mut Vec<String>) {
        if self.service.is_empty() || self.service.len() > SERVICE_BYTES_MAX {
            mistakes.push(format!(
                "service has {} bytes; give it a name of 1 to {SERVICE_BYTES_MAX}",
                self.service.len()
            ));
        }
        if self.service_versions.is_empty() {
            mistakes.push("service_versions is empty; name at least one version".into());
        }
    }

    fn check_limits(&self, mistakes: &mut Vec<String>) {
        let limits = &self.limits;
        for (name, value) in [
            ("inbox_messages_max", limits.inbox_messages_max),
            ("inbox_bytes_max", limits.inbox_bytes_max),
            ("control_messages_max", limits.control_messages_max),
            ("lane_messages_max", limits.lane_messages_max),
            ("calls_in_flight_max", limits.calls_in_flight_max),
            ("connections_max", limits.connections_max),
            (
                "connections_per_client_max",
                limits.connections_per_client_max,
            ),
            ("handshakes_max", limits.handshakes_max),
            (
                "handshakes_per_address_max",
                limits.handshakes_per_address_max,
            ),
        ] {
            if value == 0 {
                mistakes.push(format!("limits.{name} is 0; at least 1 is needed"));
            }
        }
        for lane in Lane::ALL {
            let bytes = limits.frame_bytes_max(lane.wire());
            if !(256..=FRAME_BYTES_CEILING).contains(&bytes) {
                mistakes.push(format!(
                    "the largest {} frame is {bytes} bytes; choose 256 to {FRAME_BYTES_CEILING}",
                    lane.wire().name()
                ));
            }
            if limits.lane_bytes_max < bytes {
                mistakes.push(format!(
                    "limits.lane_bytes_max is {}, less than one {} frame ({bytes}); raise it",
                    limits.lane_bytes_max,
                    lane.wire().name()
                ));
            }
        }
        for (name, bytes) in [
            ("replies_bytes_max", limits.replies_bytes_max),
            ("frames_bytes_max", limits.frames_bytes_max),
        ] {
            if bytes < limits.lane_bytes_max {
                mistakes.push(format!(
                    "limits.{name} is {bytes}, less than the {} that one peer may have; raise it",
                    limits.lane_bytes_max
                ));
            }
        }
    }

    fn check_timings(&self, mistakes: &mut Vec<String>) {
        let timings = &self.timings;
        for (name, value) in [
            ("idle_timeout", timings.idle_timeout),
            ("accepted_idle_timeout", timings.accepted_idle_timeout),
            ("keep_alive", timings.keep_alive),
            ("handshake_timeout", timings.handshake_timeout),
            ("initial_rtt", timings.initial_rtt),
            ("backoff_min", timings.backoff_min),
            ("drain_timeout", timings.drain_timeout),
            ("large_frame_timeout", timings.large_frame_timeout),
        ] {
            if value.is_zero() || value > TIME_CEILING {
                mistakes.push(format!(
                    "timings.{name} is {value:?}; choose more than 0 and at most {TIME_CEILING:?}"
                ));
            }
        }
        if timings.keep_alive > timings.idle_timeout / 3 {
            mistakes.push(format!(
                "timings.keep_alive is {:?}; at most a third of idle_timeout ({:?}), or two lost \
                 pings end a connection",
                timings.keep_alive, timings.idle_timeout
            ));
        }
        if timings.accepted_idle_timeout < timings.idle_timeout {
            mistakes.push(format!(
                "timings.accepted_idle_timeout ({:?}) is below idle_timeout ({:?}); raise it, or pings that are \
                 meant for that come too late",
                timings.accepted_idle_timeout, timings.idle_timeout
            ));
        }
        if timings.backoff_max < timings.backoff_min {
            mistakes.push(format!(
                "timings.backoff_max ({:?}) is below backoff_min ({:?}); swap them",
                timings.backoff_max, timings.backoff_min
            ));
        }
    }
}

/// No frame may be larger, whatever the configuration: it would have to fit in memory at once.
const FRAME_BYTES_CEILING: usize = 64 << 20;
/// No timeout may be longer: beyond it the value is a mistake of units.
const TIME_CEILING: Duration = Duration::from_secs(600);

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("accept", &self.accept)
            .field("service", &self.service)
            .field("service_versions", &self.service_versions)
            .field("instance", &self.instance)
            .field("progress", &self.progress)
            .field("origin", &self.origin)
            .field("limits", &self.limits)
            .field("timings", &self.timings)
            .finish_non_exhaustive()
    }
}

/// Everything that is wrong with a [`Config`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// One sentence each: what, and what to do.
    pub mistakes: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the transport's configuration is wrong: {}",
            self.mistakes.join("; ")
        )
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_every_mistake_is_reported_at_once() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config::new("test", listen);
        assert_eq!(config.validate(), Ok(()));
        config.service.clear();
        config.limits.handshakes_max = 0;
        config.timings.keep_alive = Duration::from_secs(4);
        config.timings.accepted_idle_timeout = Duration::from_secs(4);
        let mistakes = config.validate().unwrap_err().mistakes;
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
    }

    #[test]
    fn i15_secrets_are_not_printed() {
        let mut config = Config::new("test", SocketAddr::from(([127, 0, 0, 1], 0)));
        config.secret = [0xab; 32];
        assert!(!format!("{config:?}").contains("171, 171"));
    }
}
