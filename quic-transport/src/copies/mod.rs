//! Copies: where a path loses packets, what was written to a lane is sent again a moment later, in datagrams
//! (RFC 9221), before anybody can know whether it was lost.
//!
//! To find out that a packet was lost takes a round trip, and so does everything behind it on its lane. On a path that
//! loses one packet in a hundred, that is what the slowest one in a hundred of all operations wait for; a packet and
//! its copy are lost together once in ten thousand. What is sent before it is known to be needed costs no more than
//! room on the path, so it is only done where there is some: see [`PathLoss`]. Others have measured the same on the web
//! ("Proactive" in Flach et al., Reducing Web Latency, SIGCOMM 2013).
//!
//! A lane is a string of bytes, and its stream and the copies are two ways to learn them: [`LaneInput`] takes each
//! byte from whichever comes first.

mod arrived;
mod held;
mod input;
mod path_loss;
mod sending;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use quinn::PathStats;

use self::{arrived::Arrived, path_loss::PathLoss, sending::Waiting};
pub(crate) use self::{
    input::{Incoming, InputError, LaneInput},
    sending::{send_waiting, takes_copies},
};
use crate::{message::WireLane, signal::lock};

/// Bytes of datagrams that wait to be taken from a connection, or to be sent on it; quinn drops the oldest beyond
/// that. What arrives while a thread is busy for a few milliseconds on a fast link has room, and it multiplies by
/// connections, any of which may be hostile.
pub(crate) const DATAGRAMS_BYTES_MAX: usize = 128 << 10;

/// What a copy that waits, or a piece that is held, takes in memory besides its bytes, rounded up.
const OVERHEAD_BYTES: usize = 64;

/// Lane, offset.
const HEADER_BYTES: usize = 1 + 8;

/// No stream has more bytes (RFC 9000, section 4.5).
const OFFSET_MAX: u64 = (1 << 62) - 1;

/// Part of a lane, as it stands in a datagram. `docs/wire.md` describes the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LaneCopy {
    pub(crate) lane: WireLane,
    /// Where it begins in the lane's stream.
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
}

impl LaneCopy {
    /// `None` when a datagram is no copy.
    pub(crate) fn decode(datagram: &Bytes) -> Option<Self> {
        let (header, bytes) = datagram.split_first_chunk::<HEADER_BYTES>()?;
        let [lane, offset @ ..] = *header;
        let offset = u64::from_le_bytes(offset);
        let end = offset.checked_add(bytes.len() as u64)?;
        if bytes.is_empty() || end > OFFSET_MAX {
            return None;
        }
        Some(Self {
            lane: WireLane::from_byte(lane)?,
            offset,
            bytes: datagram.slice(HEADER_BYTES..),
        })
    }

    fn encode(lane: WireLane, offset: u64, bytes: &[u8]) -> Bytes {
        let mut datagram = BytesMut::with_capacity(HEADER_BYTES + bytes.len());
        datagram.put_u8(lane as u8);
        datagram.put_u64_le(offset);
        datagram.put_slice(bytes);
        datagram.freeze()
    }
}

/// The copies of one connection, in both directions.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    path: Mutex<PathLoss>,
    waiting: Mutex<Waiting>,
    arrived: [Arrived; WireLane::COUNT],
    sent_bytes: AtomicU64,
}

impl Copies {
    /// How long to wait until `bytes` that are written now are sent again; `None` when they should not be. `look`
    /// tells what quinn knows of the path.
    pub(crate) fn delay(
        &self,
        now: Instant,
        bytes: usize,
        look: impl FnOnce() -> PathStats,
    ) -> Option<Duration> {
        let mut path = lock(&self.path);
        path.look(now, look);
        path.delay(now, bytes)
    }

    /// Takes what was written to `lane` from `offset` on, and is to be sent again at `at`. Returns whether somebody has to
    /// begin to [`send_waiting`].
    #[must_use]
    pub(crate) fn send_at(
        &self,
        at: Instant,
        lane: WireLane,
        offset: u64,
        chunks: Vec<Bytes>,
    ) -> bool {
        lock(&self.waiting).add(at, lane, offset, chunks)
    }

    /// Of all that were sent.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn arrived(&self, lane: WireLane) -> &Arrived {
        &self.arrived[lane as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_comes_back_and_other_datagrams_are_none() {
        let copy = LaneCopy {
            lane: WireLane::Reply,
            offset: 1 << 40,
            bytes: Bytes::from_static(b"xyz"),
        };
        let datagram = LaneCopy::encode(copy.lane, copy.offset, &copy.bytes);
        assert_eq!(LaneCopy::decode(&datagram), Some(copy));
        for length in 0..=HEADER_BYTES {
            assert_eq!(
                LaneCopy::decode(&datagram.slice(..length)),
                None,
                "{length}"
            );
        }
        for (lane, offset) in [(4, 0), (0, OFFSET_MAX), (0, u64::MAX)] {
            let mut wrong = datagram.to_vec();
            wrong[0] = lane;
            wrong[1..HEADER_BYTES].copy_from_slice(&u64::to_le_bytes(offset));
            assert_eq!(LaneCopy::decode(&wrong.into()), None, "{lane} {offset}");
        }
    }
}
