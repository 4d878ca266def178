//! A socket that tells when it is let go: quinn drops it some time after the last connection, and
//! only then is the port free.

use std::{
    convert::Infallible,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_channel::{Receiver, Sender};
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

/// Passes everything on. Fields are dropped in order: first the socket, then the sender.
#[derive(Debug)]
pub(crate) struct Watched {
    socket: Arc<dyn AsyncUdpSocket>,
    _free: Sender<Infallible>,
}

impl Watched {
    /// The receiver is closed when nothing holds the socket any more.
    pub(crate) fn new(socket: Arc<dyn AsyncUdpSocket>) -> (Arc<Self>, Receiver<Infallible>) {
        let (free, watcher) = async_channel::bounded(1);
        (
            Arc::new(Self {
                socket,
                _free: free,
            }),
            watcher,
        )
    }
}

/// Keeps the watched socket alive as long as the poller, which holds the inner one.
#[derive(Debug)]
struct Poller {
    poller: Pin<Box<dyn UdpPoller>>,
    _socket: Arc<Watched>,
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poller.as_mut().poll_writable(context)
    }
}

impl AsyncUdpSocket for Watched {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let poller = Arc::clone(&self.socket).create_io_poller();
        Box::pin(Poller {
            poller,
            _socket: self,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
