//! A network between real processes that loses, repeats, delays and reorders packets, and can be cut:
//! a UDP proxy in this process, with a socket for every pair of who dials and who is dialled.
//!
//! The rules hold for one direction of a pair, whoever of the two dialled.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use smol::{Async, LocalExecutor, Timer};

use crate::rng::Rng;

/// Stands among the nodes, which count from one, for all clients.
pub const CLIENTS: u64 = 0;

/// The longest packet of QUIC on a path with the largest packets of IPv6.
const PACKET_BYTES_MAX: usize = 1 << 16;

/// How many packets are held back at once: a second of heavy traffic. More are lost, as in a router.
const HELD_MAX: usize = 20_000;

/// How many addresses may dial through one socket: those of all clients, several times over.
const DIALLERS_MAX: usize = 64;

/// What becomes of packets in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Nothing passes.
    pub cut: bool,
    /// Of a thousand packets, how many are lost.
    pub loss_permille: u64,
    /// How many arrive twice.
    pub duplicate_permille: u64,
    /// How many are held back, and so are overtaken by others.
    pub late_permille: u64,
    /// For how long at most.
    pub late_max: Duration,
    /// How many bytes a second get through; as many as there are if this is none.
    pub bytes_per_second: Option<u64>,
}

/// When no fault touches it: as a network is, not as one wishes it.
pub const USUAL: Rule = Rule {
    cut: false,
    loss_permille: 2,
    duplicate_permille: 2,
    late_permille: 10,
    late_max: Duration::from_millis(3),
    bytes_per_second: None,
};

/// How long packets wait before a narrow link before it loses the next ones, as a router's buffer does.
const QUEUE_MAX: Duration = Duration::from_millis(200);

/// What became of all packets.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Traffic {
    /// Sent by a node or a client.
    pub sent: u64,
    /// Stopped by a cut.
    pub cut: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Sent on twice.
    pub duplicated: u64,
    /// Held back by chance.
    pub late: u64,
    /// Had to wait for a narrow link, or were lost before it.
    pub crowded: u64,
}

/// The network. Dropping it ends it.
pub struct Network {
    rules: Arc<Rules>,
    doors: BTreeMap<(u64, u64), SocketAddr>,
    stop: smol::channel::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

struct Rules(Mutex<State>);

struct State {
    rules: BTreeMap<(u64, u64), Rule>,
    rng: Rng,
    traffic: Traffic,
    held: usize,
    /// When a narrow link will have carried what waits for it.
    busy_until: BTreeMap<(u64, u64), Instant>,
}

impl Network {
    /// Stands before `nodes`, which listen at these addresses.
    ///
    /// # Errors
    ///
    /// When there are no sockets or threads.
    pub fn start(nodes: &BTreeMap<u64, SocketAddr>, seed: u64) -> io::Result<Self> {
        let rules = Arc::new(Rules(Mutex::new(State {
            rules: BTreeMap::new(),
            rng: Rng::stream(seed, "network"),
            traffic: Traffic::default(),
            held: 0,
            busy_until: BTreeMap::new(),
        })));
        let mut doors = BTreeMap::new();
        let mut sockets = Vec::new();
        for &from in nodes.keys().chain([&CLIENTS]) {
            for (&to, &address) in nodes.iter().filter(|(to, _)| **to != from) {
                let socket = UdpSocket::bind("127.0.0.1:0")?;
                doors.insert((from, to), socket.local_addr()?);
                sockets.push(((from, to), socket, address));
            }
        }
        let (stop, stopped) = smol::channel::bounded::<()>(1);
        let of_thread = Arc::clone(&rules);
        let thread = std::thread::Builder::new()
            .name("chaos-network".into())
            .spawn(move || carry(&of_thread, sockets, &stopped))?;
        Ok(Self {
            rules,
            doors,
            stop,
            thread: Some(thread),
        })
    }

    /// Where `from` reaches `to`.
    ///
    /// # Panics
    ///
    /// When the two are not different nodes, or clients and a node.
    #[must_use]
    pub fn door(&self, from: u64, to: u64) -> SocketAddr {
        self.doors[&(from, to)]
    }

    /// Sets what becomes of packets from `from` to `to`.
    pub fn set(&self, from: u64, to: u64, rule: Rule) {
        self.rules.state().rules.insert((from, to), rule);
    }

    /// Lets everything be as [`USUAL`].
    pub fn heal(&self) {
        self.rules.state().rules.clear();
    }

    /// What became of all packets until now.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.rules.state().traffic
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop.close();
        if let Some(thread) = self.thread.take() {
            // It has no result, and a panic of its own was printed.
            let _ = thread.join();
        }
    }
}

impl Rules {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before its lines could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After which times a packet is sent on; not at all when it is lost.
    fn fate(&self, (from, to): Pair, bytes: usize) -> Vec<Duration> {
        let mut state = self.state();
        let rule = state.rules.get(&(from, to)).copied().unwrap_or(USUAL);
        state.traffic.sent += 1;
        if rule.cut {
            state.traffic.cut += 1;
            return Vec::new();
        }
        if state.rng.permille(rule.loss_permille) {
            state.traffic.lost += 1;
            return Vec::new();
        }
        let copies = 1 + usize::from(state.rng.permille(rule.duplicate_permille));
        state.traffic.duplicated += copies as u64 - 1;
        let sent = (0..copies).filter_map(|_| {
            let queued = state.queue(&rule, (from, to), bytes)?;
            Some(queued + state.delay(&rule))
        });
        sent.collect()
    }

    /// Whether one more packet may be held back.
    fn hold(&self) -> bool {
        let mut state = self.state();
        let fits = state.held < HELD_MAX;
        state.held += usize::from(fits);
        fits
    }
}

impl State {
    /// How long a packet takes through a narrow link; `None` when it is full.
    fn queue(&mut self, rule: &Rule, pair: Pair, bytes: usize) -> Option<Duration> {
        let Some(rate) = rule.bytes_per_second else {
            return Some(Duration::ZERO);
        };
        let now = Instant::now();
        let busy_until = self.busy_until.entry(pair).or_insert(now);
        let starts = (*busy_until).max(now);
        let wait = starts - now;
        self.traffic.crowded += u64::from(!wait.is_zero());
        if wait > QUEUE_MAX {
            return None;
        }
        *busy_until = starts + Duration::from_secs_f64(bytes as f64 / rate as f64);
        Some(*busy_until - now)
    }

    fn delay(&mut self, rule: &Rule) -> Duration {
        if rule.late_max.is_zero() || !self.rng.permille(rule.late_permille) {
            return Duration::ZERO;
        }
        self.traffic.late += 1;
        let max = u64::try_from(rule.late_max.as_micros()).expect("rules speak of seconds");
        Duration::from_micros(self.rng.within(0..max) + 1)
    }
}

type Pair = (u64, u64);

fn carry(
    rules: &Arc<Rules>,
    sockets: Vec<(Pair, UdpSocket, SocketAddr)>,
    stopped: &smol::channel::Receiver<()>,
) {
    let executor = Rc::new(LocalExecutor::new());
    for (pair, socket, address) in sockets {
        let door = Door {
            executor: Rc::clone(&executor),
            rules: Arc::clone(rules),
            pair,
            socket: Rc::new(Async::new(socket).expect("a socket can be polled")),
            node: address,
            diallers: RefCell::default(),
        };
        executor.spawn(door.forward()).detach();
    }
    // Ends when the sender is closed.
    let _ = smol::block_on(executor.run(stopped.recv()));
}

/// Where one side dials the other.
struct Door {
    executor: Rc<LocalExecutor<'static>>,
    rules: Arc<Rules>,
    pair: Pair,
    socket: Rc<Async<UdpSocket>>,
    node: SocketAddr,
    /// Each address that dials has a socket towards the node, as behind a router.
    diallers: RefCell<BTreeMap<SocketAddr, Rc<Async<UdpSocket>>>>,
}

impl Door {
    async fn forward(self) {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        loop {
            // An error is that of an earlier packet, which nobody took.
            let Ok((length, dialler)) = self.socket.recv_from(&mut packet).await else {
                continue;
            };
            let Some(towards) = self.towards(dialler) else {
                continue;
            };
            for delay in self.rules.fate(self.pair, length) {
                let (socket, node) = (Rc::clone(&towards), self.node);
                self.pass(socket, node, &packet[..length], delay);
            }
        }
    }

    /// The socket towards the node for what comes from `dialler`.
    fn towards(&self, dialler: SocketAddr) -> Option<Rc<Async<UdpSocket>>> {
        let mut diallers = self.diallers.borrow_mut();
        if let Some(towards) = diallers.get(&dialler) {
            return Some(Rc::clone(towards));
        }
        if diallers.len() == DIALLERS_MAX {
            return None;
        }
        let towards = UdpSocket::bind("127.0.0.1:0").and_then(Async::new).ok()?;
        let towards = Rc::new(towards);
        diallers.insert(dialler, Rc::clone(&towards));
        let back = Back {
            executor: Rc::clone(&self.executor),
            rules: Arc::clone(&self.rules),
            pair: self.pair,
            socket: Rc::clone(&self.socket),
            towards: Rc::clone(&towards),
            dialler,
        };
        self.executor.spawn(back.forward()).detach();
        Some(towards)
    }

    fn pass(&self, through: Rc<Async<UdpSocket>>, to: SocketAddr, packet: &[u8], delay: Duration) {
        pass(&self.executor, &self.rules, through, to, packet, delay);
    }
}

/// The way back to one who dialled.
struct Back {
    executor: Rc<LocalExecutor<'static>>,
    rules: Arc<Rules>,
    pair: Pair,
    socket: Rc<Async<UdpSocket>>,
    towards: Rc<Async<UdpSocket>>,
    dialler: SocketAddr,
}

impl Back {
    async fn forward(self) {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        loop {
            let Ok((length, _)) = self.towards.recv_from(&mut packet).await else {
                continue;
            };
            let (dialled_from, dialled_to) = self.pair;
            for delay in self.rules.fate((dialled_to, dialled_from), length) {
                let socket = Rc::clone(&self.socket);
                let packet = &packet[..length];
                pass(
                    &self.executor,
                    &self.rules,
                    socket,
                    self.dialler,
                    packet,
                    delay,
                );
            }
        }
    }
}

/// Sends a packet now or later. What the system does not take at once is lost: this is UDP.
fn pass(
    executor: &LocalExecutor<'static>,
    rules: &Arc<Rules>,
    through: Rc<Async<UdpSocket>>,
    to: SocketAddr,
    packet: &[u8],
    delay: Duration,
) {
    if delay.is_zero() {
        let _ = through.get_ref().send_to(packet, to);
        return;
    }
    if !rules.hold() {
        return;
    }
    let (packet, rules) = (packet.to_vec(), Arc::clone(rules));
    let later = async move {
        Timer::after(delay).await;
        rules.state().held -= 1;
        let _ = through.get_ref().send_to(&packet, to);
    };
    executor.spawn(later).detach();
}
