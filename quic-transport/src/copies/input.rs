//! The bytes of a lane, from its stream or from copies.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::future::or;
use quinn::{Connection, ConnectionError, ReadError, RecvStream, Runtime};

use super::{Arrived, LaneCopy, held::Held};
use crate::{planted, runtime::sleep_until};

/// Asked of a stream at once: a compromise between calls and memory.
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// How often somebody looks whether a gap is closed where no more is kept that lies behind it. Larger: that is seen later.
/// Smaller: more is kept, a byte each time.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);

/// How long a lane may be full of what lies behind gaps. A gap is closed within some round trips, and then there is room;
/// a peer that never closes it adds a byte with each probe. Larger: it adds more, 130 KiB in this time. Smaller: a path
/// of long outages loses its connection.
const FULL_MAX: Duration = Duration::from_secs(10);

/// A stream of a lane: quinn's.
pub(crate) trait Stream: Send {
    /// At most so many bytes, and their offset; `None` when all have been read. Those with the lowest offset come
    /// first, and only if none are missing before them where it is to be `in_order`, which it must not be again after
    /// it was not. Dropped before, it has read nothing.
    fn read(
        &mut self,
        bytes_max: usize,
        in_order: bool,
    ) -> impl Future<Output = Result<Option<(u64, Bytes)>, ReadError>> + Send;

    /// Ready when the connection is over. What had arrived before can still be read.
    fn closed(&self) -> impl Future<Output = ConnectionError> + Send;
}

/// A lane's stream and the connection that it is of.
pub(crate) struct Incoming<'a> {
    pub(crate) stream: &'a mut RecvStream,
    pub(crate) connection: &'a Connection,
}

impl Stream for Incoming<'_> {
    async fn read(
        &mut self,
        bytes_max: usize,
        in_order: bool,
    ) -> Result<Option<(u64, Bytes)>, ReadError> {
        let chunk = self.stream.read_chunk(bytes_max, in_order).await?;
        Ok(chunk.map(|chunk| (chunk.offset, chunk.bytes)))
    }

    fn closed(&self) -> impl Future<Output = ConnectionError> + Send {
        self.connection.closed()
    }
}

/// Reads one lane.
///
/// In order, until the first copy is of use: then some packet is missing, and from then on what lies behind it is read
/// as it comes, for the copy closes the gap only.
pub(crate) struct LaneInput<'a, S> {
    stream: S,
    copies: &'a Arrived,
    runtime: &'a dyn Runtime,
    held: Held,
    held_bytes_max: usize,
    /// How many bytes the stream has given.
    streamed: u64,
    in_order: bool,
    /// Whether what the stream gave last lies behind a gap.
    is_behind_gap: bool,
    /// When somebody looks whether the gap is closed.
    probe_at: Option<Instant>,
    /// Since when what is kept has been as much as may be, as far as is known.
    full_since: Option<Instant>,
}

/// Why a lane has no more bytes.
#[derive(Debug)]
pub(crate) enum InputError {
    Stream(ReadError),
    /// There were copies of bytes that the stream did not have.
    Invented,
    /// What lay behind gaps was as much as may be kept, for longer than that may be so.
    Full,
}

/// What came first: from the stream, or in a copy.
enum Given {
    ByStream(Option<(u64, Bytes)>),
    ByCopy(LaneCopy),
}

impl<'a, S: Stream> LaneInput<'a, S> {
    /// Of a `stream` of which `streamed` bytes were read. What is kept behind gaps is no more than `held_bytes_max`, a
    /// chunk, and a byte for each probe within [`FULL_MAX`].
    pub(crate) fn new(
        stream: S,
        streamed: u64,
        copies: &'a Arrived,
        runtime: &'a dyn Runtime,
        held_bytes_max: usize,
    ) -> Self {
        Self {
            stream,
            copies,
            runtime,
            held: Held::new(streamed),
            held_bytes_max,
            streamed,
            in_order: true,
            is_behind_gap: false,
            probe_at: None,
            full_since: None,
        }
    }

    /// The bytes that come next; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, InputError> {
        loop {
            if let Some(bytes) = self.held.take() {
                return Ok(Some(bytes));
            }
            if !self.is_full() {
                self.full_since = None;
            }
            let copies = self.copies;
            let copy = async { Ok(Given::ByCopy(copies.next().await)) };
            let news = match or(self.read(), copy).await? {
                Given::ByStream(None) => return self.end(),
                Given::ByStream(Some((offset, bytes))) => {
                    self.streamed += bytes.len() as u64;
                    self.is_behind_gap = offset > self.held.next();
                    self.held.put(offset, bytes)
                }
                Given::ByCopy(copy) => self.put(copy),
            };
            if news.is_some() {
                return Ok(news);
            }
        }
    }

    async fn read(&mut self) -> Result<Given, InputError> {
        let mut bytes_max = CHUNK_BYTES_MAX;
        if self.is_behind_gap && self.is_full() {
            self.wait_to_probe().await?;
            bytes_max = 1;
        }
        let read = self.stream.read(bytes_max, self.in_order).await;
        Ok(Given::ByStream(read.map_err(InputError::Stream)?))
    }

    /// Whatever is read lets the peer send as much again. One byte now and then, of those with the lowest offset, tells
    /// whether the gap is closed. Copies that come meanwhile do not put that off.
    async fn wait_to_probe(&mut self) -> Result<(), InputError> {
        let now = self.runtime.now();
        if now.duration_since(*self.full_since.get_or_insert(now)) > FULL_MAX {
            return Err(InputError::Full);
        }
        let at = *self.probe_at.get_or_insert(now + PROBE_INTERVAL);
        let is_time = async {
            sleep_until(self.runtime, at).await;
            Ok(())
        };
        // Nothing closes the gap any more, and quinn would go on to give what lies behind it, byte after byte.
        let is_over = async {
            let lost = self.stream.closed().await;
            Err(InputError::Stream(ReadError::ConnectionLost(lost)))
        };
        or(is_time, is_over).await?;
        self.probe_at = None;
        Ok(())
    }

    fn put(&mut self, copy: LaneCopy) -> Option<Bytes> {
        let end = copy.offset + copy.bytes.len() as u64;
        if end <= self.held.next() {
            return None;
        }
        self.in_order = false;
        let is_next = copy.offset <= self.held.next();
        match is_next || !self.is_full() {
            true => self.held.put(copy.offset, copy.bytes),
            false => None,
        }
    }

    fn is_full(&self) -> bool {
        self.held.bytes() >= self.held_bytes_max && !planted::is("gap-without-bound")
    }

    fn end(&self) -> Result<Option<Bytes>, InputError> {
        match self.held.bytes() == 0 && self.held.next() == self.streamed {
            true => Ok(None),
            false => Err(InputError::Invented),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        future::pending,
        io,
        net::UdpSocket,
        pin::Pin,
        sync::{Arc, Mutex},
    };

    use futures_lite::future::{block_on, poll_once};
    use quinn::{AsyncTimer, AsyncUdpSocket};

    use super::*;
    use crate::{
        message::WireLane,
        runtime::Inline,
        signal::{lock, sleep},
    };

    /// What quinn's streams do, with pieces that arrive when a test says so.
    #[derive(Default)]
    struct Script {
        /// Not read yet.
        pieces: VecDeque<(u64, Bytes)>,
        next: u64,
        is_finished: bool,
        is_lost: bool,
        was_unordered: bool,
        reads: usize,
    }

    impl Script {
        fn arrives(&mut self, offset: u64, text: &'static [u8]) {
            self.pieces.push_back((offset, Bytes::from_static(text)));
            self.pieces.make_contiguous().sort_by_key(|piece| piece.0);
        }
    }

    impl Stream for &mut Script {
        async fn read(
            &mut self,
            bytes_max: usize,
            in_order: bool,
        ) -> Result<Option<(u64, Bytes)>, ReadError> {
            assert!(!(self.was_unordered && in_order), "quinn refuses that");
            self.was_unordered = !in_order;
            self.reads += 1;
            let is_there = |(offset, _): &(u64, Bytes)| !in_order || *offset == self.next;
            if !self.pieces.front().is_some_and(is_there) {
                if self.pieces.is_empty() && self.is_finished {
                    return Ok(None);
                }
                return Err(self.closed().await.into());
            }
            let (offset, mut bytes) = self.pieces.pop_front().unwrap();
            let read = bytes.split_to(bytes.len().min(bytes_max));
            let behind = offset + read.len() as u64;
            if !bytes.is_empty() {
                self.pieces.push_front((behind, bytes));
            }
            self.next = self.next.max(behind);
            Ok(Some((offset, read)))
        }

        async fn closed(&self) -> ConnectionError {
            match self.is_lost {
                true => ConnectionError::TimedOut,
                false => pending().await,
            }
        }
    }

    /// A runtime whose clock can be set forward.
    #[derive(Debug)]
    struct Forward {
        inner: Arc<dyn Runtime>,
        by: Mutex<Duration>,
    }

    impl Runtime for Forward {
        fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
            self.inner.new_timer(at - *lock(&self.by))
        }

        fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
            self.inner.spawn(task);
        }

        fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
            self.inner.wrap_udp_socket(socket)
        }

        fn now(&self) -> Instant {
            self.inner.now() + *lock(&self.by)
        }
    }

    fn copy(offset: u64, text: &'static [u8]) -> LaneCopy {
        LaneCopy {
            lane: WireLane::Append,
            offset,
            bytes: Bytes::from_static(text),
        }
    }

    struct Lane {
        stream: Script,
        copies: Arrived,
        runtime: Arc<Forward>,
    }

    impl Lane {
        fn new() -> Self {
            Self {
                stream: Script::default(),
                copies: Arrived::default(),
                runtime: Arc::new(Forward {
                    inner: Inline::runtime(|_| panic!("nothing is spawned")),
                    by: Mutex::default(),
                }),
            }
        }

        fn input(&mut self, held_bytes_max: usize) -> LaneInput<'_, &mut Script> {
            let (stream, copies, runtime) = (&mut self.stream, &self.copies, &*self.runtime);
            LaneInput::new(stream, 0, copies, runtime, held_bytes_max)
        }
    }

    /// A lane with much behind a gap.
    fn full_lane() -> Lane {
        let mut lane = Lane::new();
        for offset in 1..1_000 {
            lane.stream.arrives(offset * 10, b"0123456789");
        }
        lane
    }

    /// What can be read now.
    fn now(input: &mut LaneInput<'_, &mut Script>) -> Vec<u8> {
        let mut read = Vec::new();
        while let Some(next) = block_on(poll_once(input.next())) {
            match next.unwrap() {
                Some(bytes) => read.extend_from_slice(&bytes),
                None => break,
            }
        }
        read
    }

    /// A copy closes the gap, what lies behind it is there at once, and what was missing counts once when it
    /// comes after all.
    #[test]
    fn a_copy_closes_a_gap() {
        let mut lane = Lane::new();
        let mut input = lane.input(1_000);
        input.stream.arrives(0, b"ab");
        input.stream.arrives(4, b"ef");
        assert_eq!(now(&mut input), b"ab");
        assert!(input.in_order, "nothing is kept here without need");
        input.copies.push(copy(1, b"bcd"));
        assert_eq!(now(&mut input), b"cdef");
        input.stream.arrives(2, b"cd");
        input.stream.arrives(6, b"g");
        assert_eq!(now(&mut input), b"g");
        input.copies.push(copy(0, b"abcdefg"));
        assert_eq!(now(&mut input), b"");
    }

    /// Also one that comes before what it is a copy of, and one of what lies behind a gap.
    #[test]
    fn copies_may_come_first() {
        let mut lane = Lane::new();
        let mut input = lane.input(1_000);
        input.copies.push(copy(0, b"ab"));
        input.copies.push(copy(3, b"d"));
        assert_eq!(now(&mut input), b"ab");
        input.stream.arrives(0, b"abc");
        assert_eq!(now(&mut input), b"cd");
        input.stream.arrives(3, b"d");
        input.stream.is_finished = true;
        assert!(matches!(block_on(input.next()), Ok(None)));
    }

    /// What the stream did not have is a fault, if it was taken or is still kept.
    #[test]
    fn invented_copies_are_noticed_at_the_end() {
        for offset in [2, 3] {
            let mut lane = Lane::new();
            let mut input = lane.input(1_000);
            input.stream.arrives(0, b"ab");
            assert_eq!(now(&mut input), b"ab");
            input.copies.push(copy(offset, b"x"));
            now(&mut input);
            input.stream.is_finished = true;
            let end = block_on(input.next());
            assert!(matches!(end, Err(InputError::Invented)), "{offset}");
        }
    }

    /// Behind a gap, no more is read than is kept, but for a byte from time to time; when the gap is closed, all goes
    /// on.
    #[test]
    fn little_is_kept_behind_a_gap() {
        let mut lane = full_lane();
        let mut input = lane.input(100);
        input.in_order = false;
        assert_eq!(now(&mut input), b"");
        let kept = input.held.bytes();
        assert!((100..110).contains(&kept), "{kept}");
        let reads = input.stream.reads;
        // Copies of what comes later are not kept either, and do not put off the next look.
        let copies = input.copies;
        let runtime = input.runtime;
        let long = async {
            for _ in 0..20 {
                copies.push(copy(90_000, b"x"));
                sleep(runtime, PROBE_INTERVAL / 2).await;
            }
        };
        block_on(or(async { drop(input.next().await) }, long));
        let probes = input.stream.reads - reads;
        assert!((2..=11).contains(&probes), "{probes}");
        assert!(input.held.bytes() <= kept + probes);
        input.stream.arrives(0, b"0123456789");
        let mut read = Vec::new();
        while read.len() < 10_000 {
            read.extend_from_slice(&block_on(input.next()).unwrap().unwrap());
        }
        assert!(read.chunks(10).all(|ten| ten == b"0123456789"));
        assert_eq!(input.held.bytes(), 0);
    }

    /// When a connection is over, what lies behind a gap is of no use: what comes after the connection does not wait until
    /// all of it has been read, a byte at a time.
    #[test]
    fn a_lost_connection_ends_a_full_lane_at_once() {
        let mut lane = full_lane();
        let mut input = lane.input(100);
        input.in_order = false;
        assert_eq!(now(&mut input), b"");
        input.stream.is_lost = true;
        let reads = input.stream.reads;
        let end = block_on(input.next());
        assert!(matches!(
            end,
            Err(InputError::Stream(ReadError::ConnectionLost(_)))
        ));
        assert!(input.stream.reads - reads <= 1);
    }

    /// A peer that closes no gap is told to go; to one that does there is as much time for the next.
    #[test]
    fn a_lane_is_not_full_for_ever() {
        let mut lane = full_lane();
        lane.stream.pieces.retain(|(offset, _)| *offset != 100);
        let runtime = Arc::clone(&lane.runtime);
        let mut input = lane.input(100);
        input.in_order = false;
        for closed in [0, 100] {
            now(&mut input);
            assert_eq!(input.held.next(), closed, "there is a gap");
            *lock(&runtime.by) += FULL_MAX - Duration::from_secs(1);
            assert_eq!(now(&mut input), b"");
            input.stream.arrives(closed, b"0123456789");
            while input.held.next() < closed + 10 {
                block_on(input.next()).unwrap();
            }
        }
        let mut lane = full_lane();
        let runtime = Arc::clone(&lane.runtime);
        let mut input = lane.input(100);
        input.in_order = false;
        assert_eq!(now(&mut input), b"");
        *lock(&runtime.by) += FULL_MAX + Duration::from_secs(1);
        assert!(matches!(block_on(input.next()), Err(InputError::Full)));
    }
}
