//! Copies on their way from the connection to the reader of their lane.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::Mutex,
    task::{Poll, Waker},
};

use super::Copy;
use crate::signal::{lock, wake};

/// Bytes of copies that one lane's reader has not taken yet, with what each takes besides; more are dropped. It does
/// not take any while it waits for a place for what it has read.
const ARRIVED_BYTES_MAX: usize = 64 << 10;

/// What a piece takes besides its bytes, rounded up.
const PIECE_BYTES: usize = 64;

/// Those of one lane.
#[derive(Debug, Default)]
pub(crate) struct Arrived(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    copies: VecDeque<Copy>,
    bytes: usize,
    reader: Option<Waker>,
}

impl Arrived {
    pub(crate) fn push(&self, copy: Copy) {
        let reader = {
            let mut queue = lock(&self.0);
            let bytes = queue.bytes + copy.bytes.len() + PIECE_BYTES;
            if bytes > ARRIVED_BYTES_MAX {
                return;
            }
            queue.bytes = bytes;
            queue.copies.push_back(copy);
            queue.reader.take()
        };
        wake(reader);
    }

    /// The next one. Only one may wait for it.
    pub(super) async fn next(&self) -> Copy {
        poll_fn(|context| {
            let mut queue = lock(&self.0);
            let Some(copy) = queue.copies.pop_front() else {
                queue.reader = Some(context.waker().clone());
                return Poll::Pending;
            };
            queue.bytes -= copy.bytes.len() + PIECE_BYTES;
            Poll::Ready(copy)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_lite::future::{block_on, poll_once};

    use super::*;
    use crate::message::WireLane;

    #[test]
    fn the_bound_holds_and_room_comes_back() {
        let arrived = Arrived::default();
        let copy = |offset| Copy {
            lane: WireLane::Append,
            offset,
            bytes: Bytes::from_static(&[0; 1_000]),
        };
        let room = (ARRIVED_BYTES_MAX / (1_000 + PIECE_BYTES)) as u64;
        for _ in 0..2 {
            (0..2 * room).for_each(|offset| arrived.push(copy(offset)));
            for offset in 0..room {
                assert_eq!(block_on(arrived.next()), copy(offset));
            }
            assert!(block_on(poll_once(arrived.next())).is_none());
        }
    }
}
