//! What waits to be sent again.

use std::{collections::VecDeque, sync::atomic::Ordering, time::Instant};

use bytes::Bytes;
use quinn::Connection;

use super::{HEADER_BYTES, LaneCopy};
use crate::{connection::Lanes, message::WireLane, runtime::sleep_until, signal::lock};

/// More than that is not remembered for the few milliseconds until it is sent: some round trips of a busy leader's.
const WAITING_BYTES_MAX: usize = 256 << 10;

/// The same of chunks: of 30 bytes each, which answers have.
const WAITING_CHUNKS_MAX: usize = 4_096;

/// Whoever takes no datagrams of this size gets none. Every QUIC path carries more (RFC 9000, section 14), so a peer that
/// says less wants work to be made for it: a datagram for every byte.
const DATAGRAM_BYTES_MIN: usize = 512;

/// Whether the peer takes datagrams that are worth sending.
pub(crate) fn takes_copies(connection: &Connection) -> bool {
    is_worth_it(connection.max_datagram_size())
}

fn is_worth_it(bytes_max: Option<usize>) -> bool {
    bytes_max.is_some_and(|bytes_max| bytes_max >= DATAGRAM_BYTES_MIN)
}

#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: VecDeque<Due>,
    bytes: usize,
    /// Whether a task sends them.
    is_sent: bool,
}

/// A chunk of a lane, and when it is sent again.
#[derive(Debug)]
struct Due {
    at: Instant,
    lane: WireLane,
    offset: u64,
    bytes: Bytes,
}

impl Waiting {
    /// Adds what was written to `lane` from `offset` on. Returns whether a task has to be started that sends it.
    pub(super) fn add(
        &mut self,
        at: Instant,
        lane: WireLane,
        mut offset: u64,
        chunks: Vec<Bytes>,
    ) -> bool {
        let bytes: usize = chunks.iter().map(Bytes::len).sum();
        let is_full = self.bytes + bytes > WAITING_BYTES_MAX
            || self.queue.len() + chunks.len() > WAITING_CHUNKS_MAX;
        if is_full || bytes == 0 {
            return false;
        }
        self.bytes += bytes;
        for bytes in chunks {
            let length = bytes.len() as u64;
            self.queue.push_back(Due {
                at,
                lane,
                offset,
                bytes,
            });
            offset += length;
        }
        !std::mem::replace(&mut self.is_sent, true)
    }

    /// When the next chunk is to be sent; with none, the task that asks must end.
    fn next_at(&mut self) -> Option<Instant> {
        let at = self.queue.front().map(|due| due.at);
        self.is_sent = at.is_some();
        at
    }

    /// The datagrams to send at `now`, of at most `bytes_max` each: what belongs together shares one.
    fn take(&mut self, now: Instant, bytes_max: usize) -> Vec<Bytes> {
        let mut parts: Vec<(WireLane, u64, Vec<u8>)> = Vec::new();
        while self.queue.front().is_some_and(|due| due.at <= now) {
            let Some(due) = self.queue.pop_front() else {
                break;
            };
            self.bytes -= due.bytes.len();
            let last = parts.iter_mut().rev().find(|part| part.0 == due.lane);
            match last {
                Some((_, offset, bytes)) if *offset + bytes.len() as u64 == due.offset => {
                    bytes.extend_from_slice(&due.bytes);
                }
                Some(_) | None => parts.push((due.lane, due.offset, due.bytes.to_vec())),
            }
        }
        let mut datagrams = Vec::new();
        for (lane, mut offset, bytes) in parts {
            for part in bytes.chunks(bytes_max - HEADER_BYTES) {
                datagrams.push(LaneCopy::encode(lane, offset, part));
                offset += part.len() as u64;
            }
        }
        datagrams
    }
}

/// Sends what waits, until nothing does.
pub(crate) async fn send_waiting(lanes: Lanes) {
    let (runtime, connection) = (&*lanes.shared.runtime, &lanes.established.connection);
    let copies = &lanes.established.copies;
    loop {
        let next = lock(&copies.waiting).next_at();
        let Some(at) = next else {
            return;
        };
        sleep_until(runtime, at).await;
        let bytes_max = connection.max_datagram_size().unwrap_or(DATAGRAM_BYTES_MIN);
        let datagrams = lock(&copies.waiting).take(runtime.now(), bytes_max);
        for datagram in datagrams {
            let bytes = datagram.len() as u64;
            // Lost here or on the way: the stream has it too.
            if connection.send_datagram(datagram).is_ok() {
                copies.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LANE: WireLane = WireLane::Append;

    fn copies(
        waiting: &mut Waiting,
        now: Instant,
        bytes_max: usize,
    ) -> Vec<(WireLane, u64, Bytes)> {
        let datagrams = waiting.take(now, bytes_max);
        assert!(datagrams.iter().all(|datagram| datagram.len() <= bytes_max));
        let copies = datagrams.iter().map(|it| LaneCopy::decode(it).unwrap());
        copies.map(|it| (it.lane, it.offset, it.bytes)).collect()
    }

    /// Neighbours share datagrams, whatever other lanes have between them, and what is long has several.
    #[test]
    fn what_belongs_together_shares_a_datagram() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        let chunk = |text: &'static str| Bytes::from_static(text.as_bytes());
        assert!(waiting.add(now, LANE, 1, vec![chunk("abc"), chunk("de")]));
        assert!(!waiting.add(now, WireLane::Control, 7, vec![chunk("x")]));
        assert!(!waiting.add(now, LANE, 6, vec![chunk("fg")]));
        assert!(!waiting.add(now, LANE, 20, vec![chunk("far")]));
        let found = copies(&mut waiting, now, HEADER_BYTES + 4);
        let expected = [
            (LANE, 1, chunk("abcd")),
            (LANE, 5, chunk("efg")),
            (WireLane::Control, 7, chunk("x")),
            (LANE, 20, chunk("far")),
        ];
        assert_eq!(found, expected);
        assert_eq!(waiting.bytes, 0);
    }

    /// Nothing is sent before its time, and the task ends when nothing waits.
    #[test]
    fn nothing_is_sent_before_its_time() {
        let now = Instant::now();
        let later = now + Duration::from_millis(1);
        let mut waiting = Waiting::default();
        let one = || vec![Bytes::from_static(b"x")];
        assert!(waiting.add(now, LANE, 1, one()));
        assert!(!waiting.add(later, LANE, 2, one()), "it is being sent");
        assert_eq!(waiting.next_at(), Some(now));
        assert_eq!(copies(&mut waiting, now, 100).len(), 1);
        assert_eq!(waiting.next_at(), Some(later));
        assert_eq!(copies(&mut waiting, later, 100).len(), 1);
        assert_eq!(waiting.next_at(), None);
        assert!(waiting.add(later, LANE, 3, one()), "begins anew");
    }

    #[test]
    fn both_bounds_hold() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        for at in 0..2 * WAITING_CHUNKS_MAX as u64 {
            let _ = waiting.add(now, LANE, at, vec![Bytes::from_static(b"x")]);
        }
        assert_eq!(waiting.queue.len(), WAITING_CHUNKS_MAX);
        let mut waiting = Waiting::default();
        let long = vec![Bytes::from(vec![0; WAITING_BYTES_MAX / 2 + 1])];
        assert!(waiting.add(now, LANE, 0, long.clone()));
        let _ = waiting.add(now, LANE, 0, long);
        assert_eq!(waiting.queue.len(), 1);
    }

    /// A peer that takes no datagrams, or only tiny ones, gets none.
    #[test]
    fn tiny_datagrams_are_not_worth_it() {
        let worth = [None, Some(0), Some(HEADER_BYTES + 1), Some(511), Some(512)];
        assert_eq!(worth.map(is_worth_it), [false, false, false, false, true]);
    }
}
