//! The receiving side of a connection: lanes are accepted, cut into frames, and delivered.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use futures_lite::future::or;
use quinn::{ReadError, RecvStream};
use tracing::{debug, trace};

use crate::{
    call::{CallError, IncomingCall, Refusal, Reply},
    close::{CloseCode, Refused},
    connection::Lanes,
    copies::{Incoming, InputError, LaneCopy, LaneInput},
    frame::{Decoder, Frame, FrameError, Shape},
    inbox::Inbound,
    large_frames::{Room, SMALL_FRAME_BYTES_MAX},
    message::{Lane, Received, WireLane},
    pending::Permit,
    quic::STREAM_WINDOW_BYTES,
};

/// What is kept of a lane behind a gap, where there may be thousands of connections. Of a node's, a window is.
const CLIENT_HELD_BYTES_MAX: usize = 64 << 10;

/// Reads what the peer sends until the connection ends.
pub(crate) async fn read(lanes: Lanes) {
    or(accept_lanes(&lanes), read_copies(&lanes)).await;
}

async fn accept_lanes(lanes: &Lanes) {
    let claimed = Arc::new(AtomicU8::new(0));
    while let Ok(stream) = lanes.established.connection.accept_uni().await {
        let claimed = Arc::clone(&claimed);
        lanes.spawn(read_lane(lanes.clone(), stream, claimed));
    }
}

async fn read_copies(lanes: &Lanes) {
    while let Ok(datagram) = lanes.established.connection.read_datagram().await {
        match LaneCopy::decode(&datagram) {
            Some(copy) if lanes.link.lanes.contains(&copy.lane) => {
                lanes.established.copies.arrived(copy.lane).push(copy);
            }
            Some(_) | None => {
                let reason = "a datagram is no copy of a lane between us";
                return lanes.close(Refused::new(CloseCode::PROTOCOL, reason));
            }
        }
    }
}

async fn read_lane(lanes: Lanes, mut stream: RecvStream, claimed: Arc<AtomicU8>) {
    match lanes.read_to_end(&mut stream, &claimed).await {
        Ok(()) => lanes
            .established
            .progress
            .update(|state| state.lanes_read += 1),
        Err(ReadEnd::Connection) => {}
        Err(ReadEnd::Fault(refused)) => lanes.close(refused),
    }
}

/// Why a lane is read no further.
pub(crate) enum ReadEnd {
    Connection,
    Fault(Refused),
}

impl From<ReadError> for ReadEnd {
    fn from(err: ReadError) -> Self {
        match err {
            ReadError::ConnectionLost(_) => Self::Connection,
            other => Self::Fault(Refused::new(CloseCode::PROTOCOL, other.to_string())),
        }
    }
}

impl From<InputError> for ReadEnd {
    fn from(err: InputError) -> Self {
        match err {
            InputError::Stream(err) => err.into(),
            InputError::Invented => fault("there were copies of what a lane did not have"),
            InputError::Full => {
                let reason = "what is missing of a lane did not come, and too much came behind it";
                Self::Fault(Refused::new(CloseCode::TOO_SLOW, reason))
            }
        }
    }
}

impl From<FrameError> for ReadEnd {
    fn from(err: FrameError) -> Self {
        let code = match err {
            FrameError::TooLarge { .. } => CloseCode::TOO_LARGE,
            FrameError::UnknownVersion(_) => CloseCode::VERSION,
            FrameError::TooShort { .. } | FrameError::UnknownShape(_) => CloseCode::PROTOCOL,
        };
        Self::Fault(Refused::new(code, err.to_string()))
    }
}

fn fault(reason: &str) -> ReadEnd {
    ReadEnd::Fault(Refused::new(CloseCode::PROTOCOL, reason))
}

impl Lanes {
    /// After what the peer sent that it must not.
    fn close(&self, refused: Refused) {
        let (peer, addr) = (&self.link.identity, self.established.up.addr);
        let (shared, now) = (&self.shared, self.shared.runtime.now());
        shared.failures.breach(peer, addr, &refused, now);
        self.established.close(refused);
    }

    async fn read_to_end(
        &self,
        stream: &mut RecvStream,
        claimed: &AtomicU8,
    ) -> Result<(), ReadEnd> {
        let lane = self.read_name(stream, claimed).await?;
        let mut decoder = Decoder::new(self.shared.config.limits.frame_bytes_max(lane));
        let mut room: Option<Room> = None;
        let mut input = self.input(lane, stream);
        let next = async |input: &mut LaneInput<'_, Incoming<'_>>| Ok(input.next().await?);
        while let Some(bytes) = self.in_time(next(&mut input), room.as_mut()).await? {
            decoder.feed(&bytes);
            while let Some(frame) = decoder.poll_frame()? {
                self.in_time(self.deliver(lane, frame), room.as_mut())
                    .await?;
                room = None;
            }
            if let Some(bytes) = decoder.begun()
                && bytes > SMALL_FRAME_BYTES_MAX
                && room.is_none()
            {
                room = Some(self.room_for_frame(bytes).await?);
                decoder.reserve(bytes);
            }
        }
        if decoder.is_empty() {
            Ok(())
        } else {
            Err(fault("a lane ended inside a frame"))
        }
    }

    fn input<'a>(
        &'a self,
        lane: WireLane,
        stream: &'a mut RecvStream,
    ) -> LaneInput<'a, Incoming<'a>> {
        let held_bytes_max = match self.link.is_node() {
            true => STREAM_WINDOW_BYTES as usize,
            false => CLIENT_HELD_BYTES_MAX,
        };
        let (copies, runtime) = (self.established.copies.arrived(lane), &*self.shared.runtime);
        let connection = &self.established.connection;
        let incoming = Incoming { stream, connection };
        LaneInput::new(incoming, 1, copies, runtime, held_bytes_max)
    }

    /// The first byte names the lane; each exists once.
    async fn read_name(
        &self,
        stream: &mut RecvStream,
        claimed: &AtomicU8,
    ) -> Result<WireLane, ReadEnd> {
        let mut name = [0];
        stream
            .read_exact(&mut name)
            .await
            .map_err(|err| match err {
                quinn::ReadExactError::ReadError(err) => err.into(),
                quinn::ReadExactError::FinishedEarly(_) => fault("a lane ended before its name"),
            })?;
        let lane = WireLane::from_byte(name[0])
            .filter(|lane| self.link.lanes.contains(lane))
            .ok_or_else(|| fault("no such lane between us"))?;
        let bit = 1 << lane as u8;
        if claimed.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return Err(fault("a lane was opened twice"));
        }
        Ok(lane)
    }

    async fn deliver(&self, wire: WireLane, frame: Frame) -> Result<(), ReadEnd> {
        let lane = match wire {
            WireLane::Control => Lane::Control,
            WireLane::Append => Lane::Append,
            WireLane::Call => Lane::Call,
            WireLane::Reply => return self.deliver_answer(frame),
        };
        let Frame { header, body } = frame;
        trace!(
            peer = %self.link.identity, lane = wire.name(), msg = header.kind, bytes = body.len(),
            "frame received"
        );
        let from = Arc::clone(&self.link.identity);
        let inbound = match header.shape {
            Shape::Message => Inbound::Message(Received {
                from,
                lane,
                group: header.group,
                kind: header.kind,
                version: header.version,
                body,
            }),
            Shape::Request { call } if lane == Lane::Call => {
                let permit = Some(self.place_for_call().await?);
                let (link, session) = (Arc::clone(&self.link), self.session);
                let reply = Reply {
                    link,
                    session,
                    call,
                    group: header.group,
                    permit,
                };
                Inbound::Call(IncomingCall {
                    from,
                    group: header.group,
                    kind: header.kind,
                    version: header.version,
                    reply,
                    body,
                })
            }
            Shape::Request { .. } | Shape::Response { .. } | Shape::Refusal { .. } => {
                return Err(fault("a frame came on a lane it does not belong to"));
            }
        };
        self.shared.inbox.push(inbound).await;
        Ok(())
    }

    /// Waiting here stops reading the stream, and QUIC then stops the peer.
    async fn place_for_call(&self) -> Result<Permit, ReadEnd> {
        let in_flight = &self.established.in_flight;
        if let Some(permit) = in_flight.try_acquire() {
            return Ok(permit);
        }
        // The service may hold the calls for long; the end of the connection must be seen.
        or(async { Ok(in_flight.acquire().await) }, async {
            self.established.connection.closed().await;
            Err(ReadEnd::Connection)
        })
        .await
    }

    fn deliver_answer(&self, frame: Frame) -> Result<(), ReadEnd> {
        match frame.header.shape {
            Shape::Response { call } => self.link.pending.finish(call, Ok(frame)),
            Shape::Refusal { call } => {
                let code = frame.body.first().copied();
                let why = Refusal::from_code(code.ok_or_else(|| fault("a refusal without code"))?);
                debug!(peer = %self.link.identity, err = %why, "call refused");
                self.link.pending.finish(call, Err(CallError::Remote(why)));
            }
            Shape::Message | Shape::Request { .. } => {
                return Err(fault("a frame came on a lane it does not belong to"));
            }
        }
        Ok(())
    }
}
