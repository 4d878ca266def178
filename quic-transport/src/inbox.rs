//! Where everything that arrives waits for the service: one bounded queue, pulled.

use std::{
    collections::{BTreeMap, VecDeque},
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
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
        ITEM_BYTES
            + match self {
                Inbound::Message(message) => message.body.len(),
                Inbound::Call(call) => call.body.len(),
                Inbound::Up(_) | Inbound::Down { .. } => 0,
            }
    }
}

/// What an item counts for besides its body, so that a flood of empty messages counts as well.
const ITEM_BYTES: usize = 128;

#[derive(Debug)]
struct Queue {
    items: VecDeque<Inbound>,
    bytes: usize,
    messages_max: usize,
    bytes_max: usize,
    receiver: Option<Waker>,
    /// Who waits for room, by the number of its wait.
    senders: BTreeMap<u64, Waker>,
    waits: u64,
    closed: bool,
}

impl Queue {
    /// One item always fits into an empty queue, however large its frame.
    fn has_room(&self, bytes: usize) -> bool {
        self.items.is_empty()
            || (self.items.len() < self.messages_max && self.bytes + bytes <= self.bytes_max)
    }

    /// The next item, and who has waited longest for its place.
    fn pop(&mut self) -> Option<(Inbound, Option<Waker>)> {
        let item = self.items.pop_front()?;
        self.bytes -= item.bytes();
        Some((item, self.next_sender()))
    }

    /// Whoever is woken finds room and wakes the next one while there is more, or waits on in its place. To wake all of
    /// them for each item would be ten thousand polls an item, where as many connections wait.
    fn next_sender(&mut self) -> Option<Waker> {
        self.senders.pop_first().map(|(_, sender)| sender)
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
        senders: BTreeMap::new(),
        waits: 0,
        closed: false,
    }));
    (InboxSender(Arc::clone(&queue)), Inbox(queue))
}

impl InboxSender {
    /// Waits for room. After the inbox was dropped or closed, discards.
    pub(crate) fn push(&self, item: Inbound) -> impl Future<Output = ()> + Send + '_ {
        Push {
            queue: &self.0,
            bytes: item.bytes(),
            item: Some(item),
            wait: None,
        }
    }

    /// What is queued can still be received; nothing is added.
    pub(crate) fn close(&self) {
        close(&self.0);
    }
}

struct Push<'a> {
    queue: &'a Mutex<Queue>,
    bytes: usize,
    /// Until it is in the queue, or nobody wants it any more.
    item: Option<Inbound>,
    /// Its number, once it has waited.
    wait: Option<u64>,
}

impl Future for Push<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut queue = lock(self.queue);
        if queue.closed {
            drop(queue);
            self.item = None;
            return Poll::Ready(());
        }
        if !queue.has_room(self.bytes) {
            let wait = self.wait.unwrap_or(queue.waits);
            queue.waits = queue.waits.max(wait + 1);
            queue.senders.insert(wait, context.waker().clone());
            drop(queue);
            self.wait = Some(wait);
            return Poll::Pending;
        }
        queue.items.extend(self.item.take());
        queue.bytes += self.bytes;
        if let Some(wait) = self.wait {
            queue.senders.remove(&wait);
        }
        let next = match queue.has_room(ITEM_BYTES) {
            true => queue.next_sender(),
            false => None,
        };
        let wakers = [queue.receiver.take(), next];
        drop(queue);
        wakers.into_iter().flatten().for_each(Waker::wake);
        Poll::Ready(())
    }
}

impl Drop for Push<'_> {
    fn drop(&mut self) {
        let (Some(wait), Some(_)) = (self.wait, &self.item) else {
            return;
        };
        // Who was woken and does not come leaves the room to the next one.
        let next = {
            let mut queue = lock(self.queue);
            match queue.senders.remove(&wait) {
                Some(_) => None,
                None => queue.next_sender(),
            }
        };
        next.into_iter().for_each(Waker::wake);
    }
}

fn close(queue: &Mutex<Queue>) {
    let wakers = {
        let mut queue = lock(queue);
        queue.closed = true;
        let senders = std::mem::take(&mut queue.senders).into_values();
        let wakers: Vec<Waker> = senders.chain(queue.receiver.take()).collect();
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
            let (item, sender) = poll_fn(|context| {
                let mut queue = lock(queue);
                match queue.pop() {
                    Some((item, sender)) => Poll::Ready((Some(item), sender)),
                    None if queue.closed => Poll::Ready((None, None)),
                    None => {
                        queue.receiver = Some(context.waker().clone());
                        Poll::Pending
                    }
                }
            })
            .await;
            sender.into_iter().for_each(Waker::wake);
            item
        }
    }

    /// The next item if one is there.
    pub fn try_recv(&mut self) -> Option<Inbound> {
        let (item, sender) = lock(&self.0).pop()?;
        sender.into_iter().for_each(Waker::wake);
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
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

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

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Of many who wait for room, one is woken for each place, whoever gives up leaves its place to another, and all get in.
    #[test]
    fn one_sender_is_woken_for_one_place() {
        let limits = Limits {
            inbox_messages_max: 2,
            ..Limits::default()
        };
        let (sender, mut inbox) = inbox(&limits);
        for _ in 0..2 {
            block_on(sender.push(message(1)));
        }
        let mut senders: Vec<_> = (0..500)
            .map(|_| {
                let count = Arc::new(Count(AtomicUsize::new(0)));
                (Box::pin(sender.push(message(1))), count)
            })
            .collect();
        fn poll(push: &mut Pin<Box<impl Future<Output = ()>>>, count: &Arc<Count>) -> bool {
            let waker = Waker::from(Arc::clone(count));
            push.as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready()
        }
        for (push, count) in &mut senders {
            assert!(!poll(push, count) && !poll(push, count));
        }
        let (mut received, mut given_up, mut woken_in_all) = (0, 0, 0);
        while inbox.try_recv().is_some() {
            received += 1;
            loop {
                let woken = |it: &(_, Arc<Count>)| it.1.0.swap(0, Ordering::Relaxed) > 0;
                let Some(at) = senders.iter().position(woken) else {
                    break;
                };
                woken_in_all += 1;
                let (mut push, count) = senders.remove(at);
                match woken_in_all % 7 {
                    0..3 => given_up += 1,
                    _ => assert!(poll(&mut push, &count), "woken, and there is no room"),
                }
            }
        }
        assert!(senders.is_empty(), "{} still wait", senders.len());
        assert_eq!((received + given_up, woken_in_all), (502, 500));
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
