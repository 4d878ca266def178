//! Sending to one peer, and what is known about it.

use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_lite::future::or;
use quorate_certs::Identity;

use crate::{
    call::{CallError, NotSent},
    close::{CloseReason, HandshakeError},
    frame::{EncodeError, Header, Shape, encode},
    hello::PeerUp,
    link::Link,
    message::{Lane, Message, WireLane, decode},
    outbox::{PushError, Queued},
    pending::Waiter,
    shared::Shared,
    signal::{after, lock, sleep},
};

/// Deadlines are kept to about this: closer ones are gathered into one look.
const SWEEP_MIN: Duration = Duration::from_millis(5);

/// A message that was not taken, given back.
#[derive(Debug, thiserror::Error)]
#[error("not sent: {why}")]
pub struct Rejected<M> {
    /// What was to be sent.
    pub message: M,
    /// Why not.
    pub why: NotSent,
}

/// A cheap handle to one peer. Holding it keeps nothing open.
#[derive(Debug, Clone)]
pub struct Peer {
    shared: Arc<Shared>,
    link: Arc<Link>,
}

impl Peer {
    pub(crate) fn new(shared: Arc<Shared>, link: Arc<Link>) -> Self {
        Self { shared, link }
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.link.identity
    }

    /// True between `Up` and `Down`.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.outbox.is_open(WireLane::Call)
    }

    /// Queues a one-way message; never waits. `Ok` says that it is queued, not that it arrives:
    /// `Down` tells when messages may have been lost.
    ///
    /// # Errors
    /// The message back, with the reason. Nothing was sent then.
    pub fn try_send<M: Message>(
        &self,
        lane: Lane,
        group: u64,
        message: M,
    ) -> Result<(), Rejected<M>> {
        let header = Header {
            shape: Shape::Message,
            kind: M::KIND,
            version: M::VERSION,
            group,
        };
        let key = if lane == Lane::Control {
            message.replaces()
        } else {
            None
        };
        let replaces = key.map(|key| (M::KIND, group, key));
        match self.push(lane, header, &message, replaces, None) {
            Ok(()) => Ok(()),
            Err(why) => Err(Rejected { message, why }),
        }
    }

    /// Asks, and waits for the answer until `deadline` from now. The request is queued at once,
    /// not when the future is first polled. Dropping the future forgets the call; the peer may
    /// still run it.
    ///
    /// The future needs no runtime of its own and can be awaited anywhere.
    pub fn call<Q: Message, R: Message>(
        &self,
        request: Q,
        deadline: Duration,
    ) -> impl Future<Output = Result<R, CallError>> + Send + use<Q, R> {
        let begun = self.begin_call(&request, deadline);
        drop(request);
        async move {
            let waiter = begun.map_err(CallError::NotSent)?;
            let frame = waiter.await?;
            let header = frame.header;
            decode(header.kind, header.version, &frame.body).map_err(CallError::Decode)
        }
    }

    fn begin_call<Q: Message>(&self, request: &Q, deadline: Duration) -> Result<Waiter, NotSent> {
        let at = after(&*self.shared.runtime, deadline);
        let begun = self.link.pending.begin(at, self.link.calls_max());
        let (call, waiter) = begun.ok_or(NotSent::QueueFull)?;
        let shape = Shape::Request { call };
        let header = Header {
            shape,
            kind: Q::KIND,
            version: Q::VERSION,
            group: 0,
        };
        self.push(Lane::Call, header, request, None, Some(call))?;
        note_deadline(&self.shared, at);
        Ok(waiter)
    }

    fn push<M: Message>(
        &self,
        lane: Lane,
        header: Header,
        message: &M,
        replaces: Option<(u16, u64, u64)>,
        call: Option<u64>,
    ) -> Result<(), NotSent> {
        let wire = lane.wire();
        if !self.link.lanes.contains(&wire) {
            return Err(NotSent::NoSuchLane);
        }
        if self.shared.is_stopping() {
            return Err(NotSent::ShuttingDown);
        }
        // Before encoding, which is the expensive part.
        if !self.link.outbox.is_open(wire) {
            return Err(NotSent::NotConnected);
        }
        let bytes_max = self.link.frame_bytes_max(wire);
        let frame = encode(header, message, bytes_max).map_err(|err| match err {
            EncodeError::TooLarge => NotSent::TooLarge { bytes_max },
            EncodeError::Unencodable => NotSent::Unencodable,
        })?;
        let queued = Queued {
            frame,
            replaces,
            call,
            permit: None,
            share: None,
        };
        self.link
            .outbox
            .push(wire, queued)
            .map_err(|(err, _)| match err {
                PushError::Closed => NotSent::NotConnected,
                PushError::Full => NotSent::QueueFull,
            })
    }
}

fn note_deadline(shared: &Shared, at: Instant) {
    let mut next = lock(&shared.next_deadline);
    if next.is_none_or(|next| at < next) {
        *next = Some(at);
        drop(next);
        shared.deadlines.notify();
    }
}

/// Ends the transport with its tasks: whoever waits for an answer, or for what arrives, would wait for ever.
struct LastSweep(Arc<Shared>);

impl Drop for LastSweep {
    fn drop(&mut self) {
        self.0.stop();
        self.0.finish();
        for link in self.0.links() {
            link.abandon_calls();
        }
    }
}

/// Ends calls at their deadlines: one task for all, so that a call needs no timer of its own. Where it is dropped, the
/// executor of the transport has ended.
pub(crate) async fn sweep(shared: Arc<Shared>) {
    let _last = LastSweep(Arc::clone(&shared));
    let runtime = &*shared.runtime;
    loop {
        let seen = shared.deadlines.generation();
        if shared.is_finished() {
            return;
        }
        // Forgotten first: a call that begins during the look below notes itself again.
        *lock(&shared.next_deadline) = None;
        let now = runtime.now();
        let links = shared.links();
        let earliest = links
            .iter()
            .filter_map(|link| link.pending.expire(now))
            .min();
        drop(links);
        let next = {
            let mut next = lock(&shared.next_deadline);
            *next = [*next, earliest].into_iter().flatten().min();
            *next
        };
        let news = shared.deadlines.changed(seen);
        match next {
            None => news.await,
            Some(at) => {
                let time = at.saturating_duration_since(now).max(SWEEP_MIN);
                or(sleep(runtime, time), news).await;
            }
        }
    }
}

/// Whether, and how, a peer can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// Connected since, over this address; `dialled` by us or not.
    Connected {
        /// What it said in its hello.
        up: PeerUp,
        /// When its connection was agreed.
        since: Instant,
    },
    /// In the address book, and being dialled.
    Dialling {
        /// The addresses tried in turn.
        addrs: Vec<SocketAddr>,
    },
    /// Known, not connected, and without an address.
    Unreachable,
}

/// Messages and bytes waiting on a lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Messages not yet taken by the writer.
    pub messages: usize,
    /// Their bytes, headers included.
    pub bytes: usize,
}

/// What is known about a node, for operators.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Who.
    pub identity: Identity,
    /// Connected or not.
    pub state: PeerState,
    /// Smoothed round trip of the present connection.
    pub rtt: Option<Duration>,
    /// Packets lost on all connections since this peer was first known.
    pub lost_packets: u64,
    /// Bytes sent a second time on all connections, before it was known whether they were lost: where packets are.
    pub copied_bytes: u64,
    /// Queues of control, append and call, in the order of [`Lane::ALL`].
    pub queued: [QueueDepth; 3],
    /// Attempts to connect since this peer was first known.
    pub dials: u64,
    /// Why the last dial failed, if none has succeeded since.
    pub last_error: Option<HandshakeError>,
    /// Why the last session ended.
    pub last_close: Option<CloseReason>,
}

impl PeerStatus {
    pub(crate) fn of(link: &Arc<Link>) -> Self {
        let queued = Lane::ALL.map(|lane| {
            let (messages, bytes) = link.outbox.depth(lane.wire());
            QueueDepth { messages, bytes }
        });
        link.with(|state| {
            let current = state.current.as_ref();
            let path = current.map(|current| current.connection.stats().path);
            let peer_state = match current {
                Some(current) => PeerState::Connected {
                    up: current.up.clone(),
                    since: current.since,
                },
                None if state.addrs.is_empty() => PeerState::Unreachable,
                None => PeerState::Dialling {
                    addrs: state.addrs.clone(),
                },
            };
            Self {
                identity: (*link.identity).clone(),
                state: peer_state,
                rtt: path.as_ref().map(|path| path.rtt),
                lost_packets: state.lost_packets + path.map_or(0, |path| path.lost_packets),
                copied_bytes: state.copied_bytes
                    + current.map_or(0, |current| current.copies.sent_bytes()),
                queued,
                dials: state.dials,
                last_error: state.last_error.clone(),
                last_close: state.last_close.clone(),
            }
        })
    }
}
