//! The frame: the unit every lane carries. `docs/wire.md` describes the bytes.

use bytes::{Buf, Bytes, BytesMut};
use postcard::ser_flavors::Size;
use serde::Serialize;

use crate::planted;

/// Generation of the frame header. The hello agrees on it; every frame repeats it.
pub(crate) const FRAME_VERSION: u8 = 1;
/// Length field, which counts what follows it.
const LENGTH_BYTES: usize = 4;
/// Frame version, shape, kind, message version, group.
const HEADER_BYTES: usize = 1 + 1 + 2 + 1 + 8;
/// The call id that every shape but `Message` has.
const CALL_BYTES: usize = 8;
const FIXED_BYTES_MAX: usize = LENGTH_BYTES + HEADER_BYTES + CALL_BYTES;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Message,
    Request { call: u64 },
    Response { call: u64 },
    Refusal { call: u64 },
}

impl Shape {
    fn parts(self) -> (u8, Option<u64>) {
        match self {
            Shape::Message => (0, None),
            Shape::Request { call } => (1, Some(call)),
            Shape::Response { call } => (2, Some(call)),
            Shape::Refusal { call } => (3, Some(call)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) shape: Shape,
    pub(crate) kind: u16,
    pub(crate) version: u8,
    pub(crate) group: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) header: Header,
    pub(crate) body: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EncodeError {
    TooLarge,
    /// serde refused the value (a map of unknown length, an error of its own `Serialize`).
    Unencodable,
}

/// Encodes a whole frame. `frame_bytes_max` bounds what follows the length field.
pub(crate) fn encode<T: Serialize + ?Sized>(
    header: Header,
    body: &T,
    frame_bytes_max: usize,
) -> Result<Vec<u8>, EncodeError> {
    let (shape, call) = header.shape.parts();
    let bytes_max = frame_bytes_max.saturating_add(LENGTH_BYTES);
    // Looking twice is less than allocating, and copying, again and again.
    let size = postcard::serialize_with_flavor(body, Size::default());
    let size = FIXED_BYTES_MAX.saturating_add(size.map_err(|_| EncodeError::Unencodable)?);
    let mut out = Vec::with_capacity(size.min(bytes_max));
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    out.push(FRAME_VERSION);
    out.push(shape);
    out.extend_from_slice(&header.kind.to_le_bytes());
    out.push(header.version);
    out.extend_from_slice(&header.group.to_le_bytes());
    if let Some(call) = call {
        out.extend_from_slice(&call.to_le_bytes());
    }
    let bounded = Bounded { out, bytes_max };
    let mut out = postcard::serialize_with_flavor(body, bounded).map_err(|err| match err {
        postcard::Error::SerializeBufferFull => EncodeError::TooLarge,
        _ => EncodeError::Unencodable,
    })?;
    let length = u32::try_from(out.len() - LENGTH_BYTES).map_err(|_| EncodeError::TooLarge)?;
    out[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(out)
}

/// A postcard sink that stops at the limit instead of building what cannot be sent.
struct Bounded {
    out: Vec<u8>,
    bytes_max: usize,
}

impl postcard::ser_flavors::Flavor for Bounded {
    type Output = Vec<u8>;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if self.out.len() + bytes.len() > self.bytes_max {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.out)
    }
}

/// Why bytes from a peer are not a frame. Every case ends the connection: after a wrong length
/// there is no place to go on reading from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("frame of {bytes} bytes exceeds this lane's {bytes_max}")]
    TooLarge { bytes: u64, bytes_max: u64 },
    #[error("frame of {bytes} bytes is shorter than its header")]
    TooShort { bytes: u64 },
    #[error("frame version {0}, we read {FRAME_VERSION}")]
    UnknownVersion(u8),
    #[error("frame shape {0} is unknown")]
    UnknownShape(u8),
}

/// Memory that a lane may keep for the next frame: as much as is read at once.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Cuts a stream of chunks into frames. Holds at most one incomplete frame plus one chunk, and
/// grows as bytes arrive: by what a length field claims only when it is told to. Between frames it keeps no more
/// than some chunks, however large they were.
#[derive(Debug)]
pub(crate) struct Decoder {
    buffer: BytesMut,
    frame_bytes_max: usize,
}

impl Decoder {
    pub(crate) fn new(frame_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            frame_bytes_max,
        }
    }

    pub(crate) fn feed(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// No part of a frame is left over.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// How long the frame is that has begun, once that is known.
    pub(crate) fn begun(&self) -> Option<usize> {
        let (length, _) = self.buffer.split_first_chunk::<LENGTH_BYTES>()?;
        Some(u32::from_le_bytes(*length) as usize)
    }

    /// Makes room for a frame of `bytes`, so that it is not copied each time that it has grown by as much as it was.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        let missing = (LENGTH_BYTES + bytes).saturating_sub(self.buffer.len());
        self.buffer.reserve(missing);
    }

    /// The next whole frame, or `None` until more bytes are fed.
    pub(crate) fn poll_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((length, _)) = self.buffer.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > self.frame_bytes_max && !planted::is("frame-length-unlimited") {
            let bytes_max = self.frame_bytes_max as u64;
            return Err(FrameError::TooLarge {
                bytes: length as u64,
                bytes_max,
            });
        }
        if length < HEADER_BYTES {
            return Err(FrameError::TooShort {
                bytes: length as u64,
            });
        }
        // Checked before the body is here: a wrong version makes waiting for it pointless.
        if let Some(version) = self.buffer.get(LENGTH_BYTES)
            && *version != FRAME_VERSION
        {
            return Err(FrameError::UnknownVersion(*version));
        }
        if self.buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        let frame = self.buffer.split_to(length).freeze();
        if length > KEPT_BYTES_MAX {
            // What is left would keep the memory of the whole frame, for as long as the lane lives.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        parse(frame).map(Some)
    }
}

/// `bytes` is a whole frame without its length field, at least `HEADER_BYTES` long.
fn parse(mut bytes: Bytes) -> Result<Frame, FrameError> {
    let total = bytes.len() as u64;
    let version = bytes.get_u8();
    if version != FRAME_VERSION {
        return Err(FrameError::UnknownVersion(version));
    }
    let shape = bytes.get_u8();
    let kind = bytes.get_u16_le();
    let message_version = bytes.get_u8();
    let group = bytes.get_u64_le();
    let mut call = || {
        if bytes.len() < CALL_BYTES {
            return Err(FrameError::TooShort { bytes: total });
        }
        Ok(bytes.get_u64_le())
    };
    let shape = match shape {
        0 => Shape::Message,
        1 => Shape::Request { call: call()? },
        2 => Shape::Response { call: call()? },
        3 => Shape::Refusal { call: call()? },
        unknown => return Err(FrameError::UnknownShape(unknown)),
    };
    Ok(Frame {
        header: Header {
            shape,
            kind,
            version: message_version,
            group,
        },
        body: bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(shape: Shape) -> Header {
        Header {
            shape,
            kind: 7,
            version: 3,
            group: 9,
        }
    }

    #[test]
    fn bytes_are_as_documented() {
        // Golden bytes: a change here is a change of the wire format.
        let frame = encode(header(Shape::Request { call: 5 }), &1u8, 100).unwrap();
        let mut expected = vec![22, 0, 0, 0, 1, 1, 7, 0, 3];
        expected.extend_from_slice(&9u64.to_le_bytes());
        expected.extend_from_slice(&5u64.to_le_bytes());
        expected.push(1);
        assert_eq!(frame, expected);
    }

    /// Whoever has let go of a large frame has given back its memory, though the lane goes on.
    #[test]
    fn a_large_frame_keeps_no_memory_afterwards() {
        let mut decoder = Decoder::new(4 << 20);
        let large = encode(header(Shape::Message), &vec![7_u8; 3 << 20], 4 << 20).unwrap();
        let (most, last) = large.split_at(large.len() - 10);
        decoder.feed(most);
        decoder.reserve(3 << 20);
        assert!(decoder.poll_frame().unwrap().is_none());
        let next = encode(header(Shape::Message), &1u8, 100).unwrap();
        decoder.feed(&[last, &next[..3]].concat());
        let frame = decoder.poll_frame().unwrap().unwrap();
        assert!(frame.body.len() > 3 << 20);
        assert!(frame.body.is_unique(), "the decoder holds it too");
        decoder.feed(&next[3..]);
        assert_eq!(decoder.poll_frame().unwrap().unwrap().body, &[1][..]);
        assert!(decoder.is_empty() && decoder.buffer.capacity() <= KEPT_BYTES_MAX);
    }

    #[test]
    fn every_split_of_two_frames_decodes_the_same() {
        let first = encode(header(Shape::Message), "hello", 100).unwrap();
        let second = encode(header(Shape::Response { call: 8 }), &42u64, 100).unwrap();
        let both = [first, second].concat();
        for at in 0..=both.len() {
            let mut decoder = Decoder::new(100);
            let mut frames = Vec::new();
            for part in [&both[..at], &both[at..]] {
                decoder.feed(part);
                while let Some(frame) = decoder.poll_frame().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames.len(), 2, "split at {at}");
            assert_eq!(frames[0].header, header(Shape::Message));
            assert_eq!(&frames[0].body[..], b"\x05hello");
            assert_eq!(frames[1].header.shape, Shape::Response { call: 8 });
        }
    }

    #[test]
    fn i1_a_length_beyond_the_limit_is_refused_before_its_bytes_arrive() {
        let mut decoder = Decoder::new(1000);
        decoder.feed(&u32::MAX.to_le_bytes());
        assert!(matches!(
            decoder.poll_frame(),
            Err(FrameError::TooLarge { .. })
        ));
        assert!(
            decoder.buffer.capacity() < 4096,
            "no allocation follows a claimed length"
        );
    }

    #[test]
    fn encoding_stops_at_the_limit() {
        let body = vec![0u8; 200];
        assert_eq!(
            encode(header(Shape::Message), &body, 100),
            Err(EncodeError::TooLarge)
        );
        // The length prefix of a 200-byte vector is two bytes.
        let exact = HEADER_BYTES + 2 + 200;
        assert!(encode(header(Shape::Message), &body, exact).is_ok());
        assert_eq!(
            encode(header(Shape::Message), &body, exact - 1),
            Err(EncodeError::TooLarge)
        );
    }

    #[test]
    fn i2_garbage_is_an_error_and_never_a_panic() {
        // A cheap generator is enough: the decoder has few branches and all are reached.
        let mut seed = 1u64;
        for _ in 0..20_000 {
            let mut bytes = Vec::new();
            for _ in 0..(seed % 64) {
                seed = seed
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                bytes.push((seed >> 56) as u8 & if seed & 64 == 0 { 3 } else { 255 });
            }
            seed = seed.wrapping_add(0x9e37_79b9);
            let mut decoder = Decoder::new(4096);
            decoder.feed(&bytes);
            while let Ok(Some(_)) = decoder.poll_frame() {}
        }
        for (bytes, expected) in [
            (vec![1, 0, 0, 0, 1], FrameError::TooShort { bytes: 1 }),
            (vec![13, 0, 0, 0, 2], FrameError::UnknownVersion(2)),
        ] {
            let mut decoder = Decoder::new(4096);
            decoder.feed(&bytes);
            assert_eq!(decoder.poll_frame(), Err(expected));
        }
        let mut decoder = Decoder::new(4096);
        decoder.feed(&[13, 0, 0, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decoder.poll_frame(), Err(FrameError::UnknownShape(9)));
        let mut decoder = Decoder::new(4096);
        decoder.feed(&[13, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            decoder.poll_frame(),
            Err(FrameError::TooShort { bytes: 13 })
        );
    }
}
