//! UDP between hosts, with everything that can happen to a datagram on the way.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use quorate_quic_transport::quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quorate_quic_transport::quinn::{AsyncUdpSocket, UdpPoller};

use super::engine::{Engine, HostId};
use crate::params;
use crate::rng::Rng;

/// What a socket holds for a process that does not read, as the kernel's buffer does.
const SOCKET_BYTES_MAX: usize = 4 << 20;
/// The longest UDP payload of an Ethernet frame.
pub(super) const DATAGRAM_BYTES_MAX: usize = 1_500 - 28;
/// How long a datagram waits for a narrow link at most: a router's queue is no longer than that.
const LINK_QUEUE_NS_MAX: u64 = 1_000_000_000;
/// The first port that a socket gets which asked for none.
const PORT_FIRST: u16 = 40_000;

/// Where a host can be reached.
pub(super) fn address(host: HostId, port: u16) -> SocketAddr {
    let [high, low] = host.0.to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)), port)
}

fn host_at(address: SocketAddr) -> Option<HostId> {
    match address.ip() {
        IpAddr::V4(ip) => match ip.octets() {
            [10, 0, high, low] => Some(HostId(u16::from_be_bytes([high, low]))),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

/// What one direction between two hosts does to datagrams, besides what all of them do.
#[derive(Clone, Debug)]
pub struct Link {
    /// How many faults cut it at the moment.
    pub cuts: u32,
    /// Of a thousand datagrams, how many more are lost.
    pub loss_permille: u64,
    /// How much longer the others take at most, in microseconds.
    pub delay_us: u64,
    /// Nothing arrives before this true time, in nanoseconds; then all of it does.
    pub clogged_until: u64,
    /// What passes in a second, if there is a bound.
    pub bytes_per_second: Option<u64>,
    /// Longer datagrams vanish.
    pub datagram_bytes_max: usize,
    /// When the last datagram has passed, in true nanoseconds.
    free_at: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            cuts: 0,
            loss_permille: 0,
            delay_us: 0,
            clogged_until: 0,
            bytes_per_second: None,
            datagram_bytes_max: DATAGRAM_BYTES_MAX,
            free_at: 0,
        }
    }
}

/// All sockets and links. Clones are the same network.
#[derive(Clone)]
pub(super) struct Network {
    engine: Engine,
    state: Arc<Mutex<State>>,
}

struct State {
    usual: params::Network,
    /// Whether datagrams are lost, doubled and damaged without a fault of the plan.
    noisy: bool,
    links: BTreeMap<(HostId, HostId), Link>,
    sockets: BTreeMap<SocketAddr, Weak<Socket>>,
    /// Where others see a socket that is not seen at its own address: a router is in between.
    seen_at: BTreeMap<SocketAddr, SocketAddr>,
    next_port: u16,
    rng: Rng,
    datagrams: u64,
    bytes: u64,
}

impl Network {
    pub(super) fn new(engine: Engine, seed: u64, usual: params::Network) -> Self {
        let state = State {
            usual,
            noisy: true,
            links: BTreeMap::new(),
            sockets: BTreeMap::new(),
            seen_at: BTreeMap::new(),
            next_port: PORT_FIRST,
            rng: Rng::stream(seed, "network"),
            datagrams: 0,
            bytes: 0,
        };
        Self {
            engine,
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bind(&self, host: HostId, port: u16) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let mut state = self.state();
        let port = match port {
            0 => {
                state.next_port += 1;
                state.next_port
            }
            port => port,
        };
        let address = address(host, port);
        if state
            .sockets
            .get(&address)
            .is_some_and(|socket| socket.strong_count() > 0)
        {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let socket = Arc::new(Socket {
            network: self.clone(),
            life: self.engine.life(host),
            host,
            address,
            queue: Mutex::default(),
        });
        state.sockets.insert(address, Arc::downgrade(&socket));
        Ok(socket)
    }

    /// The sockets of `host` are seen at other ports from now on.
    pub(super) fn rebind(&self, host: HostId) {
        let mut state = self.state();
        let state = &mut *state;
        let sockets = state.sockets.keys();
        for socket in sockets.filter(|socket| host_at(**socket) == Some(host)) {
            state.next_port += 1;
            let seen_at = address(host, state.next_port);
            state.seen_at.insert(*socket, seen_at);
        }
    }

    /// `data` arrives at `to` as if `source` had sent it.
    pub(super) fn forge(&self, source: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        let ecn = None;
        self.deliver(to, Packet { source, data, ecn });
    }

    /// How many datagrams were sent, and their bytes.
    pub(super) fn sent(&self) -> (u64, u64) {
        let state = self.state();
        (state.datagrams, state.bytes)
    }

    pub(super) fn change(&self, from: HostId, to: HostId, change: impl FnOnce(&mut Link)) {
        change(self.state().links.entry((from, to)).or_default());
    }

    /// Every link is as good as it gets.
    pub(super) fn heal(&self) {
        let mut state = self.state();
        state.links.clear();
        state.noisy = false;
    }

    /// The sockets of `host` are gone, whoever still holds them.
    pub(super) fn close(&self, host: HostId) {
        let mut state = self.state();
        state
            .sockets
            .retain(|address, _| host_at(*address) != Some(host));
    }

    fn send(&self, from: HostId, source: SocketAddr, transmit: &Transmit<'_>) {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        for datagram in transmit.contents.chunks(size.max(1)) {
            self.send_one(from, source, transmit, datagram);
        }
    }

    fn send_one(&self, from: HostId, source: SocketAddr, how: &Transmit<'_>, datagram: &[u8]) {
        let now = self.engine.now();
        self.engine.hash(&[
            &now.to_le_bytes(),
            &source.port().to_le_bytes(),
            &from.0.to_le_bytes(),
            &how.destination.port().to_le_bytes(),
            datagram,
        ]);
        let Some(to) = host_at(how.destination) else {
            return;
        };
        let mut state = self.state();
        let source = state.seen_at.get(&source).copied().unwrap_or(source);
        state.datagrams += 1;
        state.bytes += datagram.len() as u64;
        let arrivals = state.travel(from, to, now, datagram);
        drop(state);
        for (at, data) in arrivals {
            let (network, destination, ecn) = (self.clone(), how.destination, how.ecn);
            let packet = Packet { source, data, ecn };
            self.engine
                .call_at(at, move || network.deliver(destination, packet));
        }
    }

    fn deliver(&self, destination: SocketAddr, packet: Packet) {
        let socket = self.state().socket_behind(destination);
        if let Some(socket) = socket {
            socket.take_in(packet);
        }
    }
}

impl State {
    /// The socket that is seen at `address`.
    fn socket_behind(&self, address: SocketAddr) -> Option<Arc<Socket>> {
        let mut moved = self.seen_at.iter();
        let own = moved.find(|(_, seen_at)| **seen_at == address);
        let own = own.map_or(address, |(own, _)| *own);
        self.sockets.get(&own).and_then(Weak::upgrade)
    }

    /// When copies of `datagram` arrive, and what is left of them.
    fn travel(
        &mut self,
        from: HostId,
        to: HostId,
        now: u64,
        datagram: &[u8],
    ) -> Vec<(u64, Vec<u8>)> {
        let (rng, usual) = (&mut self.rng, &self.usual);
        let noise = u64::from(self.noisy);
        let link = self.links.entry((from, to)).or_default();
        let lost = link.cuts > 0
            || datagram.len() > link.datagram_bytes_max
            || rng.permille(usual.loss_permille * noise)
            || rng.permille(link.loss_permille);
        if lost {
            return Vec::new();
        }
        let mut leaves = now;
        if let Some(bytes_per_second) = link.bytes_per_second {
            if link.free_at > now + LINK_QUEUE_NS_MAX {
                return Vec::new();
            }
            let takes = datagram.len() as u64 * 1_000_000_000 / bytes_per_second.max(1);
            link.free_at = link.free_at.max(now) + takes;
            leaves = link.free_at;
        }
        let copies = 1 + usize::from(rng.permille(usual.duplicate_permille * noise));
        let mut arrivals = Vec::with_capacity(copies);
        for _ in 0..copies {
            let mut data = datagram.to_vec();
            if rng.permille(usual.corrupt_permille * noise) {
                let byte = rng.within(0..data.len() as u64) as usize;
                data[byte] ^= 1 << rng.within(0..8);
            }
            let delay_us = rng.within(usual.delay_min_us..usual.delay_max_us + 1)
                + rng.within(0..link.delay_us + 1);
            let at = (leaves + delay_us * 1_000).max(link.clogged_until);
            arrivals.push((at, data));
        }
        arrivals
    }
}

struct Packet {
    source: SocketAddr,
    data: Vec<u8>,
    ecn: Option<EcnCodepoint>,
}

struct Socket {
    network: Network,
    host: HostId,
    life: u64,
    address: SocketAddr,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    packets: VecDeque<Packet>,
    bytes: usize,
    waker: Option<Waker>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.address)
    }
}

impl Socket {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_in(&self, packet: Packet) {
        let mut queue = self.queue();
        if queue.bytes + packet.data.len() > SOCKET_BYTES_MAX {
            return;
        }
        queue.bytes += packet.data.len();
        queue.packets.push_back(packet);
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Sending never waits: what is too much is lost, as on a real network.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // What a dying process still says in its destructors never leaves.
        if self.network.engine.life(self.host) == self.life {
            self.network.send(self.host, self.address, transmit);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut queue = self.queue();
        let room = buffers.len().min(meta.len());
        let mut count = 0;
        while count < room {
            let Some(packet) = queue.packets.pop_front() else {
                break;
            };
            queue.bytes -= packet.data.len();
            let length = packet.data.len().min(buffers[count].len());
            buffers[count][..length].copy_from_slice(&packet.data[..length]);
            meta[count] = RecvMeta {
                addr: packet.source,
                len: length,
                stride: length,
                ecn: packet.ecn,
                dst_ip: None,
            };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        queue.waker = Some(context.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
