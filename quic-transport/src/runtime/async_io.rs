//! Sockets and timers over async-io.
//!
//! quinn's own async-io socket waits for the reactor before every datagram, in both directions:
//! measured, 32 system calls for each instead of 16 with this one.

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use async_io::{Async, Timer};
use quinn::{
    AsyncTimer, AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};

use super::udp::try_recv;

pub(super) fn timer(at: Instant) -> Pin<Box<dyn AsyncTimer>> {
    Box::pin(IoTimer(Timer::at(at)))
}

#[derive(Debug)]
struct IoTimer(Timer);

impl AsyncTimer for IoTimer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.0.set_at(at);
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(context).map(|_| ())
    }
}

pub(super) fn socket(socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let state = UdpSocketState::new((&socket).into())?;
    let io = Async::new(socket)?;
    Ok(Arc::new(Socket {
        io,
        state,
        blocked: AtomicBool::new(false),
    }))
}

#[derive(Debug)]
struct Socket {
    io: Async<UdpSocket>,
    state: UdpSocketState,
    /// The last send would have blocked.
    blocked: AtomicBool,
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller {
            socket: self,
            writable: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let result = self.state.send((&self.io).into(), transmit);
        if matches!(&result, Err(err) if err.kind() == io::ErrorKind::WouldBlock) {
            self.blocked.store(true, Ordering::Release);
        }
        result
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(received) = try_recv(&self.state, self.io.get_ref(), buffers, meta) {
                return Poll::Ready(received);
            }
            ready!(self.io.poll_readable(context))?;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
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

struct Poller {
    socket: Arc<Socket>,
    writable: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

impl UdpPoller for Poller {
    /// quinn asks before every transmit, so "yes" must cost nothing until a send has blocked.
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.socket.blocked.load(Ordering::Acquire) {
            self.writable = None;
            return Poll::Ready(Ok(()));
        }
        let poller = &mut *self;
        let socket = &poller.socket;
        let writable = poller.writable.get_or_insert_with(|| {
            let socket = Arc::clone(socket);
            Box::pin(async move { socket.io.writable().await })
        });
        let result = ready!(writable.as_mut().poll(context));
        poller.writable = None;
        poller.socket.blocked.store(false, Ordering::Release);
        Poll::Ready(result)
    }
}
