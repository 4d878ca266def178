//! Copies on their way from the connection to the reader of their lane.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::Mutex,
    task::{Poll, Waker},
};

use bytes::Bytes;

use super::{LaneCopy, OVERHEAD_BYTES};
use crate::signal::{lock, wake};

/// Bytes of copies that one lane's reader has not taken yet, with what each takes besides; more are dropped. It does
/// not take any while it waits for a place for what it has read.
const ARRIVED_BYTES_MAX: usize = 64 << 10;

/// Those of one lane.
#[derive(Debug, Default)]
pub(crate) struct Arrived(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    copies: VecDeque<LaneCopy>,
    bytes: usize,
    reader: Option<Waker>,
}

impl Arrived {
    pub(crate) fn push(&self, mut copy: LaneCopy) {
        let reader = {
            let mut queue = lock(&self.0);
            let bytes = queue.bytes + copy.bytes.len() + OVERHEAD_BYTES;
            if bytes > ARRIVED_BYTES_MAX {
                return;
            }
            queue.bytes = bytes;
            // The datagram shares its memory with all packets that the system gave at once, 64 KiB of them.
            copy.bytes = Bytes::copy_from_slice(&copy.bytes);
            queue.copies.push_back(copy);
            queue.reader.take()
        };
        wake(reader);
    }

    /// The next one. Only one may wait for it.
    pub(super) async fn next(&self) -> LaneCopy {
        poll_fn(|context| {
            let mut queue = lock(&self.0);
            let Some(copy) = queue.copies.pop_front() else {
                queue.reader = Some(context.waker().clone());
                return Poll::Pending;
            };
            queue.bytes -= copy.bytes.len() + OVERHEAD_BYTES;
            Poll::Ready(copy)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;
    use crate::message::WireLane;

    #[test]
    fn the_bound_holds_and_room_comes_back() {
        let arrived = Arrived::default();
        let copy = |offset| LaneCopy {
            lane: WireLane::Append,
            offset,
            bytes: Bytes::from_static(&[0; 1_000]),
        };
        let room = (ARRIVED_BYTES_MAX / (1_000 + OVERHEAD_BYTES)) as u64;
        for _ in 0..2 {
            (0..2 * room).for_each(|offset| arrived.push(copy(offset)));
            for offset in 0..room {
                assert_eq!(block_on(arrived.next()), copy(offset));
            }
            assert!(block_on(poll_once(arrived.next())).is_none());
        }
    }

    /// What waits takes no more than what is counted, whatever it came with.
    #[test]
    fn what_waits_does_not_keep_the_packet() {
        let arrived = Arrived::default();
        let packets = Bytes::from(vec![7; 64 << 10]);
        arrived.push(LaneCopy {
            lane: WireLane::Append,
            offset: 1,
            bytes: packets.slice(..1),
        });
        assert!(packets.is_unique(), "somebody else holds it");
        assert_eq!(block_on(arrived.next()).bytes, packets.slice(..1));
    }
}
