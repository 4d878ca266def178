//! One thread's event loop: sockets, timers and tasks with no other thread in between.
//!
//! async-io keeps a thread of its own, which competes with this one for every event; measured with one
//! client writing, most packets then cost two context switches more. Here the thread that runs the tasks
//! is the thread that waits for the sockets. Readiness is edge-triggered, so that a packet costs no
//! system call besides receiving and sending it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    future::Future,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Registry, Token, unix::SourceFd};
use quinn::{
    AsyncTimer, AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use tracing::error;

use super::{
    timers::{Deadline, Timers},
    udp::try_recv,
};
use crate::signal::lock;

/// Events taken from the system at once; there are as many as sockets, which are few.
const EVENTS_MAX: usize = 64;

/// Whether a receive fills as many buffers as there are packets for, so that one left over means that there was no
/// more. quinn takes one packet at a time on some systems, however many buffers it has.
const FILLS_BUFFERS: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// The token of wake-ups from other threads; sockets count up from one.
const WAKE: Token = Token(0);

/// The thread's side: waits and dispatches.
pub(super) struct Reactor {
    poll: mio::Poll,
    events: Events,
    remote: Arc<Remote>,
}

/// The side that tasks and other threads use.
#[derive(Debug)]
pub(super) struct Remote {
    registry: Registry,
    waker: mio::Waker,
    /// Something is to be done; whoever sets it while the thread sleeps also wakes it.
    notified: AtomicBool,
    sleeps: AtomicBool,
    timers: Timers,
    sockets: Mutex<Sockets>,
}

#[derive(Debug, Default)]
struct Sockets {
    by_token: BTreeMap<usize, Arc<Readiness>>,
    last: usize,
}

impl Reactor {
    pub(super) fn new() -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let remote = Remote {
            registry: poll.registry().try_clone()?,
            waker: mio::Waker::new(poll.registry(), WAKE)?,
            notified: AtomicBool::new(true),
            sleeps: AtomicBool::new(false),
            timers: Timers::default(),
            sockets: Mutex::default(),
        };
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            remote: Arc::new(remote),
        })
    }

    pub(super) fn remote(&self) -> Arc<Remote> {
        Arc::clone(&self.remote)
    }

    /// Runs `main` to its end on this thread, and sockets and timers meanwhile.
    pub(super) fn block_on<T>(&mut self, main: impl Future<Output = T>) -> T {
        let waker = Waker::from(Arc::clone(&self.remote));
        let mut context = Context::from_waker(&waker);
        let mut main = pin!(main);
        loop {
            if self.remote.notified.swap(false, Ordering::SeqCst)
                && let Poll::Ready(done) = main.as_mut().poll(&mut context)
            {
                return done;
            }
            self.turn();
        }
    }

    /// Waits until there is something to do, and tells those whom it concerns.
    fn turn(&mut self) {
        let remote = &self.remote;
        // In this order: a wake-up after the store is seen either below or by the system call.
        remote.sleeps.store(true, Ordering::SeqCst);
        let timeout = if remote.notified.load(Ordering::SeqCst) {
            Some(Duration::ZERO)
        } else {
            let next = remote.timers.next();
            next.map(|at| at.saturating_duration_since(Instant::now()))
        };
        let polled = self.poll.poll(&mut self.events, timeout);
        remote.sleeps.store(false, Ordering::SeqCst);
        if let Err(err) = polled
            && err.kind() != io::ErrorKind::Interrupted
        {
            error!(%err, "waiting for events failed");
        }
        for event in &self.events {
            let Token(token) = event.token();
            let readiness = lock(&remote.sockets).by_token.get(&token).map(Arc::clone);
            if let Some(readiness) = readiness {
                readiness.changed(event.is_readable(), event.is_writable());
            }
        }
        remote.timers.wake(Instant::now());
    }
}

impl Remote {
    pub(super) fn timer(self: &Arc<Self>, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let deadline = Deadline::new(&self.timers, at);
        Box::pin(ReactorTimer {
            remote: Arc::clone(self),
            deadline,
        })
    }

    pub(super) fn socket(
        self: &Arc<Self>,
        socket: UdpSocket,
    ) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let state = UdpSocketState::new((&socket).into())?;
        socket.set_nonblocking(true)?;
        let readiness = Arc::<Readiness>::default();
        let token = {
            let mut sockets = lock(&self.sockets);
            sockets.last += 1;
            let token = sockets.last;
            sockets.by_token.insert(token, Arc::clone(&readiness));
            token
        };
        let socket = Socket {
            socket,
            state,
            readiness,
            watches_writable: AtomicBool::new(false),
            token,
            remote: Arc::clone(self),
        };
        let fd = socket.socket.as_raw_fd();
        self.registry
            .register(&mut SourceFd(&fd), Token(token), Interest::READABLE)?;
        Ok(Arc::new(socket))
    }

    fn notify(&self) {
        if !self.notified.swap(true, Ordering::SeqCst)
            && self.sleeps.load(Ordering::SeqCst)
            && let Err(err) = self.waker.wake()
        {
            error!(%err, "waking the I/O thread failed");
        }
    }
}

impl Wake for Remote {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

#[derive(Debug)]
struct ReactorTimer {
    remote: Arc<Remote>,
    deadline: Deadline,
}

impl AsyncTimer for ReactorTimer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        let Self { remote, deadline } = &mut *self;
        deadline.reset(&remote.timers, at);
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Self { remote, deadline } = &mut *self;
        let poll = deadline.poll(&remote.timers, context);
        // From another thread, while this one sleeps towards a later deadline.
        if poll.is_pending()
            && remote.sleeps.load(Ordering::SeqCst)
            && remote.timers.next() == Some(deadline.at)
        {
            remote.notify();
        }
        poll
    }
}

impl Drop for ReactorTimer {
    fn drop(&mut self) {
        self.deadline.stop(&self.remote.timers);
    }
}

/// Who waits for a socket. Readiness comes as an edge: with every packet, whether or not those before it were
/// received.
#[derive(Debug, Default)]
struct Readiness {
    /// The last time all was received that was there, and nothing has been heard since.
    drained: AtomicBool,
    /// The last send would have blocked, and nothing has been heard since.
    blocked: AtomicBool,
    reader: Mutex<Option<Waker>>,
    writers: Mutex<Writers>,
}

/// Connections that share a socket and wait for room in it, each once however often it asks.
#[derive(Debug, Default)]
struct Writers {
    waiting: BTreeMap<u64, Waker>,
    pollers: u64,
}

impl Readiness {
    fn changed(&self, readable: bool, writable: bool) {
        if readable {
            self.drained.store(false, Ordering::Release);
            if let Some(reader) = lock(&self.reader).take() {
                reader.wake();
            }
        }
        if writable {
            self.blocked.store(false, Ordering::Release);
            let writers = std::mem::take(&mut lock(&self.writers).waiting);
            writers.into_values().for_each(Waker::wake);
        }
    }

    fn poll_writable(&self, poller: u64, context: &Context<'_>) -> Poll<()> {
        if !self.blocked.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        match lock(&self.writers).waiting.entry(poller) {
            Entry::Occupied(mut waker) => waker.get_mut().clone_from(context.waker()),
            Entry::Vacant(free) => drop(free.insert(context.waker().clone())),
        }
        // The edge may have come before the waker was there to see it.
        match self.blocked.load(Ordering::Acquire) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }
}

#[derive(Debug)]
struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
    readiness: Arc<Readiness>,
    watches_writable: AtomicBool,
    token: usize,
    remote: Arc<Remote>,
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let readiness = Arc::clone(&self.readiness);
        let number = {
            let mut writers = lock(&readiness.writers);
            writers.pollers += 1;
            writers.pollers
        };
        Box::pin(Poller { readiness, number })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let result = self.state.send((&self.socket).into(), transmit);
        if matches!(&result, Err(err) if err.kind() == io::ErrorKind::WouldBlock) {
            self.readiness.blocked.store(true, Ordering::Release);
        }
        // Writability is watched only while it matters: otherwise every packet that leaves would wake
        // this thread to say so. A send that succeeds does not end the wait of those who found no room: a little
        // room comes long before the event that wakes them, and quinn answers strangers without asking for it.
        let watch = self.readiness.blocked.load(Ordering::Acquire);
        if self.watches_writable.swap(watch, Ordering::Relaxed) != watch {
            let interest = match watch {
                true => Interest::READABLE | Interest::WRITABLE,
                false => Interest::READABLE,
            };
            let fd = self.socket.as_raw_fd();
            self.remote
                .registry
                .reregister(&mut SourceFd(&fd), Token(self.token), interest)?;
        }
        result
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let readiness = &self.readiness;
        // quinn asks until there is nothing more, and whenever a connection has something to say: every second
        // system call would be for nothing.
        if !readiness.drained.load(Ordering::Acquire)
            && let Some(received) = try_recv(&self.state, &self.socket, buffers, meta)
        {
            // One that comes later is another edge, which is dispatched after this, on this same thread.
            let drained = FILLS_BUFFERS && matches!(&received, Ok(count) if *count < buffers.len());
            readiness.drained.store(drained, Ordering::Release);
            return Poll::Ready(received);
        }
        *lock(&readiness.reader) = Some(context.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        lock(&self.remote.sockets).by_token.remove(&self.token);
        // Closing the descriptor would do as well, unless it was duplicated.
        let _ = self
            .remote
            .registry
            .deregister(&mut SourceFd(&self.socket.as_raw_fd()));
    }
}

#[derive(Debug)]
struct Poller {
    readiness: Arc<Readiness>,
    number: u64,
}

impl UdpPoller for Poller {
    /// quinn asks before every transmit, so "yes" must cost nothing until a send has blocked.
    fn poll_writable(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.readiness.poll_writable(self.number, context).map(Ok)
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        let waker = lock(&self.readiness.writers).waiting.remove(&self.number);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{or, poll_fn};

    use super::*;

    const MESSAGE: Transmit<'_> = Transmit {
        destination: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9),
        ecn: None,
        contents: b"x",
        segment_size: None,
        src_ip: None,
    };

    /// A connection that asks again and again waits once, and not at all any more when it has ended.
    #[test]
    fn a_connection_waits_once_for_room() {
        let reactor = Reactor::new().unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let remote = reactor.remote();
        let socket = remote.socket(udp).unwrap();
        let readiness = Arc::clone(lock(&remote.sockets).by_token.values().next().unwrap());
        readiness.blocked.store(true, Ordering::Release);
        let waiting = || lock(&readiness.writers).waiting.len();
        let [mut one, mut two] = [(); 2].map(|()| socket.clone().create_io_poller());
        for waker in [Waker::noop().clone(), Waker::from(Arc::new(Silent))] {
            let mut context = Context::from_waker(&waker);
            for poller in [&mut one, &mut two] {
                assert!(poller.as_mut().poll_writable(&mut context).is_pending());
            }
        }
        assert_eq!(waiting(), 2);
        drop(one);
        assert_eq!(waiting(), 1);
        readiness.changed(false, true);
        assert_eq!(waiting(), 0);
    }

    struct Silent;

    impl Wake for Silent {
        fn wake(self: Arc<Self>) {}
    }

    /// Whoever waits for room is woken, although somebody else finds some before.
    #[test]
    fn a_send_that_succeeds_leaves_nobody_waiting() {
        let mut reactor = Reactor::new().unwrap();
        let remote = reactor.remote();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = remote.socket(udp).unwrap();
        let readiness = Arc::clone(lock(&remote.sockets).by_token.values().next().unwrap());
        // As after a send that would have blocked; the buffer of a real one cannot be filled at will.
        readiness.blocked.store(true, Ordering::Release);
        let mut poller = socket.clone().create_io_poller();
        let mut sent = false;
        let writable = poll_fn(|context| {
            let waits = poller.as_mut().poll_writable(context);
            if waits.is_pending() && !sent {
                sent = true;
                socket.try_send(&MESSAGE).unwrap();
            }
            waits
        });
        let mut timer = remote.timer(Instant::now() + Duration::from_secs(20));
        let late = poll_fn(|context| timer.as_mut().poll(context));
        let woken = reactor.block_on(or(
            async {
                writable.await.unwrap();
                true
            },
            async {
                late.await;
                false
            },
        ));
        assert!(woken && sent);
        // And it is watched no longer than that.
        socket.try_send(&MESSAGE).unwrap();
        assert!(!readiness.blocked.load(Ordering::Acquire));
    }
}
