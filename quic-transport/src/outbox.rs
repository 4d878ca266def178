//! What waits to be sent to one peer. It belongs to the peer, not to a connection, so that
//! messages survive the moment when two connections become one.

use std::{
    collections::{BTreeSet, VecDeque},
    future::poll_fn,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
};

use bytes::{Bytes, BytesMut};

use crate::{
    budget::{Budget, Share},
    config::Limits,
    message::WireLane,
    pending::Permit,
    planted,
    signal::{lock, wake},
};

/// One write carries at most this many messages ..
const BATCH_MESSAGES_MAX: usize = 256;
/// .. and stops growing here: about what a congestion window of a LAN takes at once, and small
/// enough that a control message never waits long behind bytes already written.
const BATCH_BYTES_MAX: usize = 64 << 10;
/// Larger frames are handed to QUIC as they are; smaller ones are copied together.
const COALESCE_BELOW_BYTES: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PushError {
    Closed,
    Full,
}

/// A frame ready to be written.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) frame: Vec<u8>,
    /// Kind, group and the message's own key.
    pub(crate) replaces: Option<(u16, u64, u64)>,
    /// Id, when this is a request: tells "never sent" from "may have run" later.
    pub(crate) call: Option<u64>,
    /// A reply holds its request's place in the in-flight count until it is written: otherwise a
    /// peer that reads nothing could make the queue grow without end.
    pub(crate) permit: Option<Permit>,
    /// What a reply takes of the room for replies.
    pub(crate) share: Option<Share>,
}

/// Frames on their way into a stream.
#[derive(Debug)]
pub(crate) struct Batch {
    /// To be written, in order.
    pub(crate) chunks: Vec<Bytes>,
    /// Given back when they are.
    _shares: Vec<Share>,
}

#[derive(Debug)]
struct LaneQueue {
    /// The session with the peer, between `open` and `close`.
    session: Option<u64>,
    /// The connection that may take; a writer of any other one ends.
    owner: u64,
    frames: VecDeque<Queued>,
    bytes: usize,
    messages_max: usize,
    bytes_max: usize,
    /// Set while the writer has nothing to do; a push to a non-empty queue wakes nobody.
    writer: Option<Waker>,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    /// For replies: a caller that takes none must not cost what all others share.
    replies: Arc<Budget>,
    lanes: [Mutex<LaneQueue>; WireLane::COUNT],
}

/// Owner of a lane nobody may take from.
const NOBODY: u64 = 0;

impl Outbox {
    pub(crate) fn new(limits: &Limits, replies: Arc<Budget>) -> Self {
        Self {
            replies,
            lanes: WireLane::ALL.map(|lane| {
                Mutex::new(LaneQueue {
                    session: None,
                    owner: NOBODY,
                    frames: VecDeque::new(),
                    bytes: 0,
                    messages_max: limits.messages_max(lane),
                    bytes_max: limits.lane_bytes_max,
                    writer: None,
                })
            }),
        }
    }

    fn lane(&self, lane: WireLane) -> &Mutex<LaneQueue> {
        &self.lanes[lane as usize]
    }

    /// Begins a session: `lanes` accept pushes, and connection `owner` may take from them.
    pub(crate) fn open(&self, lanes: &[WireLane], session: u64, owner: u64) {
        for lane in lanes {
            lock(self.lane(*lane)).session = Some(session);
        }
        self.assign(owner);
    }

    /// Hands the queues to another connection; the former one's writers finish what they took.
    pub(crate) fn assign(&self, owner: u64) {
        for lane in &self.lanes {
            let writer = {
                let mut lane = lock(lane);
                lane.owner = owner;
                lane.writer.take()
            };
            wake(writer);
        }
    }

    /// The writers of connection `owner` end, unless another one has taken over already.
    pub(crate) fn release(&self, owner: u64) {
        for lane in &self.lanes {
            let writer = {
                let mut lane = lock(lane);
                if lane.owner != owner {
                    continue;
                }
                lane.owner = NOBODY;
                lane.writer.take()
            };
            wake(writer);
        }
    }

    /// No connection takes any more; what is queued stays until [`Outbox::close`].
    pub(crate) fn detach(&self) {
        self.assign(NOBODY);
    }

    /// Ends the session and returns the ids of the requests that were never taken by a writer.
    pub(crate) fn close(&self) -> BTreeSet<u64> {
        let mut unsent = BTreeSet::new();
        for lane in &self.lanes {
            let frames = {
                let mut lane = lock(lane);
                lane.session = None;
                lane.bytes = 0;
                std::mem::take(&mut lane.frames)
            };
            unsent.extend(frames.iter().filter_map(|queued| queued.call));
        }
        self.assign(NOBODY);
        unsent
    }

    /// Never waits. On an error the frame comes back.
    pub(crate) fn push(&self, lane: WireLane, queued: Queued) -> Result<(), (PushError, Queued)> {
        let writer = {
            let mut queue = lock(self.lane(lane));
            if queue.session.is_none() {
                return Err((PushError::Closed, queued));
            }
            if queue.replace(&queued) {
                return Ok(());
            }
            if queue.is_full(&queued) {
                return Err((PushError::Full, queued));
            }
            queue.append(queued)
        };
        wake(writer);
        Ok(())
    }

    /// An answer to a request of `session`; in any later session it must not be sent, since the
    /// peer's next incarnation never asked.
    pub(crate) fn push_reply(
        &self,
        session: u64,
        mut queued: Queued,
    ) -> Result<(), (PushError, Queued)> {
        let writer = {
            let mut queue = lock(self.lane(WireLane::Reply));
            if queue.session != Some(session) {
                return Err((PushError::Closed, queued));
            }
            queued.share = self.replies.take(queued.frame.len());
            if queued.share.is_none() || queue.is_full(&queued) {
                return Err((PushError::Full, queued));
            }
            queue.append(queued)
        };
        wake(writer);
        Ok(())
    }

    /// A refusal of a few bytes is taken even when the lane is full: the permits bound it.
    pub(crate) fn push_refusal(&self, session: u64, queued: Queued) {
        let writer = {
            let mut queue = lock(self.lane(WireLane::Reply));
            if queue.session != Some(session) {
                return;
            }
            queue.append(queued)
        };
        wake(writer);
    }

    pub(crate) fn is_open(&self, lane: WireLane) -> bool {
        lock(self.lane(lane)).session.is_some()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lock(lane).frames.is_empty())
    }

    /// Queued messages and bytes.
    pub(crate) fn depth(&self, lane: WireLane) -> (usize, usize) {
        let queue = lock(self.lane(lane));
        (queue.frames.len(), queue.bytes)
    }

    /// Everything queued, up to one batch, as chunks to write; `None` once `owner` has lost the
    /// lane. Never waits for a batch to fill.
    pub(crate) async fn next_batch(&self, lane: WireLane, owner: u64) -> Option<Batch> {
        let (frames, shares) = poll_fn(|context| {
            let mut queue = lock(self.lane(lane));
            if queue.owner != owner {
                return Poll::Ready(None);
            }
            if queue.frames.is_empty() {
                queue.writer = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Some(queue.take_batch()))
        })
        .await?;
        Some(Batch {
            chunks: coalesce(frames),
            _shares: shares,
        })
    }
}

impl LaneQueue {
    fn is_full(&self, queued: &Queued) -> bool {
        let full = self.frames.len() >= self.messages_max
            || self.bytes + queued.frame.len() > self.bytes_max;
        full && !planted::is("send-queue-unbounded")
    }

    /// Returns the writer to wake, if it waits.
    fn append(&mut self, queued: Queued) -> Option<Waker> {
        self.bytes += queued.frame.len();
        self.frames.push_back(queued);
        self.writer.take()
    }

    /// Puts `queued` in the place of an older message with its key, if there is one.
    fn replace(&mut self, queued: &Queued) -> bool {
        let Some(key) = queued.replaces else {
            return false;
        };
        let Some(older) = self
            .frames
            .iter_mut()
            .rev()
            .find(|older| older.replaces == Some(key))
        else {
            return false;
        };
        self.bytes = self.bytes - older.frame.len() + queued.frame.len();
        older.frame.clone_from(&queued.frame);
        true
    }

    fn take_batch(&mut self) -> (Vec<Vec<u8>>, Vec<Share>) {
        let mut batch = Vec::with_capacity(self.frames.len().min(BATCH_MESSAGES_MAX));
        let mut shares = Vec::new();
        let mut bytes = 0;
        while batch.len() < BATCH_MESSAGES_MAX && bytes < BATCH_BYTES_MAX {
            let Some(queued) = self.frames.pop_front() else {
                break;
            };
            bytes += queued.frame.len();
            batch.push(queued.frame);
            shares.extend(queued.share);
        }
        self.bytes -= bytes;
        (batch, shares)
    }
}

/// Hundreds of small frames become one chunk, hence one write and few packets.
fn coalesce(batch: Vec<Vec<u8>>) -> Vec<Bytes> {
    if batch.len() == 1 {
        return batch.into_iter().map(Bytes::from).collect();
    }
    let is_small = |frame: &Vec<u8>| frame.len() < COALESCE_BELOW_BYTES;
    let together = batch.iter().filter(|frame| is_small(frame));
    let mut chunks = Vec::new();
    let mut small = BytesMut::with_capacity(together.map(Vec::len).sum());
    for frame in batch {
        if is_small(&frame) {
            small.extend_from_slice(&frame);
        } else {
            if !small.is_empty() {
                chunks.push(small.split().freeze());
            }
            chunks.push(Bytes::from(frame));
        }
    }
    if !small.is_empty() {
        chunks.push(small.freeze());
    }
    chunks
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    fn queued(frame: &[u8], key: Option<u64>) -> Queued {
        let replaces = key.map(|key| (1, 0, key));
        Queued {
            frame: frame.to_vec(),
            replaces,
            call: None,
            permit: None,
            share: None,
        }
    }

    fn open_outbox(limits: &Limits) -> Outbox {
        let outbox = Outbox::new(limits, Budget::new(limits.replies_bytes_max));
        outbox.open(&WireLane::ALL, 1, 1);
        outbox
    }

    #[test]
    fn a_newer_control_message_takes_the_place_of_the_older() {
        let outbox = open_outbox(&Limits::default());
        for (frame, key) in [
            (b"a1", Some(1)),
            (b"b1", None),
            (b"a2", Some(1)),
            (b"b2", None),
        ] {
            outbox.push(WireLane::Control, queued(frame, key)).unwrap();
        }
        let batch = block_on(outbox.next_batch(WireLane::Control, 1)).unwrap();
        assert_eq!(batch.chunks, [Bytes::from_static(b"a2b1b2")]);
    }

    #[test]
    fn both_bounds_hold_and_a_closed_outbox_takes_nothing() {
        let limits = Limits {
            control_messages_max: 2,
            lane_bytes_max: 10,
            ..Limits::default()
        };
        let outbox = open_outbox(&limits);
        outbox.push(WireLane::Control, queued(b"x", None)).unwrap();
        outbox.push(WireLane::Control, queued(b"x", None)).unwrap();
        let full = outbox
            .push(WireLane::Control, queued(b"x", None))
            .unwrap_err();
        assert_eq!(full.0, PushError::Full, "messages");
        outbox
            .push(WireLane::Append, queued(b"0123456789", None))
            .unwrap();
        let full = outbox
            .push(WireLane::Append, queued(b"x", None))
            .unwrap_err();
        assert_eq!(full.0, PushError::Full, "bytes");
        outbox.close();
        let closed = outbox
            .push(WireLane::Control, queued(b"x", None))
            .unwrap_err();
        assert_eq!(closed.0, PushError::Closed);
        assert!(outbox.is_empty());
    }

    #[test]
    fn queued_messages_survive_a_change_of_connection() {
        let outbox = open_outbox(&Limits::default());
        outbox.push(WireLane::Append, queued(b"x", None)).unwrap();
        outbox.assign(2);
        let former = block_on(outbox.next_batch(WireLane::Append, 1));
        assert!(former.is_none(), "the former is out");
        assert!(block_on(outbox.next_batch(WireLane::Append, 2)).is_some());
        let idle = block_on(poll_once(outbox.next_batch(WireLane::Append, 2)));
        assert!(idle.is_none(), "nothing left");
    }

    #[test]
    fn an_answer_never_crosses_into_the_next_session() {
        let outbox = open_outbox(&Limits::default());
        outbox.close();
        outbox.open(&WireLane::ALL, 2, 2);
        let stale = outbox.push_reply(1, queued(b"x", None)).unwrap_err();
        assert_eq!(stale.0, PushError::Closed);
        assert!(outbox.push_reply(2, queued(b"x", None)).is_ok());
    }

    /// What replies take is given back when they are written, and when nobody will take them.
    #[test]
    fn replies_hold_their_room_until_they_are_written() {
        let limits = Limits::default();
        let room = Budget::new(10);
        let [one, other] = [(); 2].map(|()| {
            let outbox = Outbox::new(&limits, Arc::clone(&room));
            outbox.open(&WireLane::ALL, 1, 1);
            outbox
        });
        one.push_reply(1, queued(b"0123456", None)).unwrap();
        let full = || other.push_reply(1, queued(b"0123", None)).unwrap_err().0;
        assert_eq!(full(), PushError::Full);
        let batch = block_on(one.next_batch(WireLane::Reply, 1));
        assert_eq!(full(), PushError::Full, "it is being written");
        drop(batch);
        other.push_reply(1, queued(b"0123", None)).unwrap();
        other.close();
        one.push_reply(1, queued(b"0123456789", None)).unwrap();
    }

    #[test]
    fn unsent_requests_are_named_when_the_session_ends() {
        let outbox = open_outbox(&Limits::default());
        for call in 1..=BATCH_MESSAGES_MAX as u64 + 1 {
            outbox
                .push(
                    WireLane::Call,
                    Queued {
                        call: Some(call),
                        ..queued(b"x", None)
                    },
                )
                .unwrap();
        }
        block_on(outbox.next_batch(WireLane::Call, 1)).unwrap();
        assert_eq!(
            outbox.close(),
            BTreeSet::from([BATCH_MESSAGES_MAX as u64 + 1]),
            "the batch was taken"
        );
    }

    #[test]
    fn large_frames_are_not_copied_and_order_is_kept() {
        let large = vec![7; COALESCE_BELOW_BYTES];
        let chunks = coalesce(vec![vec![1], vec![2], large.clone(), vec![3]]);
        assert_eq!(
            chunks,
            [
                Bytes::from(vec![1, 2]),
                Bytes::from(large),
                Bytes::from(vec![3])
            ]
        );
    }
}
