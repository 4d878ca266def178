//! Where everything that arrives waits for the service: one bounded queue, pulled.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    sync::{Arc, Mutex},
    task::{Poll, Waker},
};

use quorate_certs::Identity;

use crate::{
    call::IncomingCall, close::CloseReason, config::Limits, hello::PeerUp, message::Received,
    signal::lock,
};

/// Something a peer did. Order is kept per connection: `Up`, its messages, `Down`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Inbound {
    /// A one-way message.
    Message(Received),
    /// A request that waits for [`Reply`](crate::Reply).
    Call(IncomingCall),
    /// A session with a node began. Clients, readers and admins come and go without notice.
    Up(PeerUp),
    /// The session ended. What was sent and not acknowledged by the service may be lost.
    Down {
        /// Whose session.
        identity: Arc<Identity>,
        /// Why it ended.
        reason: CloseReason,
    },
}

impl Inbound {
    /// Memory it holds, for the byte bound.
    fn bytes(&self) -> usize {
        // A fixed part so that a flood of empty messages counts as well.
        128 + match self {
            Inbound::Message(message) => message.body.len(),
            Inbound::Call(call) => call.body.len(),
            Inbound::Up(_) | Inbound::Down { .. } => 0,
        }
    }
}

#[derive(Debug)]
struct Queue {
    items: VecDeque<Inbound>,
    bytes: usize,
    messages_max: usize,
    bytes_max: usize,
    receiver: Option<Waker>,
    senders: Vec<Waker>,
    closed: bool,
}

impl Queue {
    /// One item always fits into an empty queue, however large its frame.
    fn has_room(&self, bytes: usize) -> bool {
        self.items.is_empty()
            || (self.items.len() < self.messages_max && self.bytes + bytes <= self.bytes_max)
    }

    fn pop(&mut self) -> Option<(Inbound, Vec<Waker>)> {
        let item = self.items.pop_front()?;
        self.bytes -= item.bytes();
        Some((item, std::mem::take(&mut self.senders)))
    }
}

/// The sending half, shared by all connections.
#[derive(Debug, Clone)]
pub(crate) struct InboxSender(Arc<Mutex<Queue>>);

/// The one place from which a service takes what its peers sent.
///
/// When it is not pulled the connections stop reading, and QUIC flow control stops the peers.
/// Dropping it discards what arrives.
#[derive(Debug)]
pub struct Inbox(Arc<Mutex<Queue>>);

pub(crate) fn inbox(limits: &Limits) -> (InboxSender, Inbox) {
    let queue = Arc::new(Mutex::new(Queue {
        items: VecDeque::new(),
        bytes: 0,
        messages_max: limits.inbox_messages_max,
        bytes_max: limits.inbox_bytes_max,
        receiver: None,
        senders: Vec::new(),
        closed: false,
    }));
    (InboxSender(Arc::clone(&queue)), Inbox(queue))
}

impl InboxSender {
    /// Waits for room. After the inbox was dropped or closed, discards.
    pub(crate) async fn push(&self, item: Inbound) {
        let bytes = item.bytes();
        let mut item = Some(item);
        let receiver = poll_fn(|context| {
            let mut queue = lock(&self.0);
            if queue.closed {
                return Poll::Ready(None);
            }
            if !queue.has_room(bytes) {
                if !queue
                    .senders
                    .iter()
                    .any(|sender| sender.will_wake(context.waker()))
                {
                    queue.senders.push(context.waker().clone());
                }
                return Poll::Pending;
            }
            queue.items.extend(item.take());
            queue.bytes += bytes;
            Poll::Ready(queue.receiver.take())
        })
        .await;
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }

    /// What is queued can still be received; nothing is added.
    pub(crate) fn close(&self) {
        close(&self.0);
    }
}

fn close(queue: &Mutex<Queue>) {
    let wakers = {
        let mut queue = lock(queue);
        queue.closed = true;
        let mut wakers = std::mem::take(&mut queue.senders);
        wakers.extend(queue.receiver.take());
        wakers
    };
    for waker in wakers {
        waker.wake();
    }
}

impl Inbox {
    /// The next item; `None` once the transport is shut down and everything was received.
    /// Safe to drop at any time: an item is taken only when it is returned.
    pub fn recv(&mut self) -> impl Future<Output = Option<Inbound>> + Send + '_ {
        let queue = &self.0;
        async move {
            let (item, senders) = poll_fn(|context| {
                let mut queue = lock(queue);
                match queue.pop() {
                    Some((item, senders)) => Poll::Ready((Some(item), senders)),
                    None if queue.closed => Poll::Ready((None, Vec::new())),
                    None => {
                        queue.receiver = Some(context.waker().clone());
                        Poll::Pending
                    }
                }
            })
            .await;
            for sender in senders {
                sender.wake();
            }
            item
        }
    }

    /// The next item if one is there.
    pub fn try_recv(&mut self) -> Option<Inbound> {
        let (item, senders) = lock(&self.0).pop()?;
        for sender in senders {
            sender.wake();
        }
        Some(item)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        close(&self.0);
        // Queued calls answer "no reply" when dropped, outside the lock.
        let items = std::mem::take(&mut lock(&self.0).items);
        drop(items);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_lite::future::{block_on, poll_once};

    use super::*;
    use crate::message::Lane;

    fn message(bytes: usize) -> Inbound {
        Inbound::Message(Received {
            from: Arc::new(Identity::from_uri("spiffe://c1/node/1").unwrap()),
            lane: Lane::Append,
            group: 0,
            kind: 1,
            version: 1,
            body: Bytes::from(vec![0; bytes]),
        })
    }

    #[test]
    fn a_full_inbox_stops_the_sender_until_something_is_taken() {
        let limits = Limits {
            inbox_messages_max: 9,
            inbox_bytes_max: 2000,
            ..Limits::default()
        };
        let (sender, mut inbox) = inbox(&limits);
        block_on(sender.push(message(5000)));
        let mut second = std::pin::pin!(sender.push(message(1)));
        assert!(
            block_on(poll_once(&mut second)).is_none(),
            "over the byte bound"
        );
        assert!(inbox.try_recv().is_some());
        assert!(block_on(poll_once(&mut second)).is_some());
    }

    #[test]
    fn a_closed_inbox_gives_what_it_has_and_then_ends() {
        let (sender, mut inbox) = inbox(&Limits::default());
        block_on(sender.push(message(1)));
        sender.close();
        block_on(sender.push(message(1)));
        assert!(block_on(inbox.recv()).is_some());
        assert!(block_on(inbox.recv()).is_none());
    }
}
