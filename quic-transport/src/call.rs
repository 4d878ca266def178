//! The request/response side seen by a service.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use quorate_certs::Identity;

use crate::{
    close::CloseReason,
    frame::{EncodeError, Header, Shape, encode},
    link::Link,
    message::{DecodeError, Message, WireLane, decode},
    outbox::{PushError, Queued},
    pending::Permit,
};

/// Why the other side gave no response to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The service dropped the call without an answer; it may have run.
    #[error("the service gave no answer; whether it ran is unknown")]
    NoReply,
    /// The service has no such call.
    #[error("the service does not know this kind of call; upgrade the older side")]
    UnknownKind,
    /// The service could not decode the request.
    #[error("the service could not decode the request; check both sides' versions")]
    Malformed,
    /// The service has no room; nothing happened.
    #[error("the service is overloaded, nothing happened; retry after a pause")]
    Overloaded,
    /// The answer did not fit a frame or could not be encoded; the call ran.
    #[error("the call ran but its answer could not be sent; ask for less at once")]
    Unsendable,
    /// The answers before it have not been taken yet, and it found no room behind them; the call ran.
    #[error("the call ran but there was no room for its answer behind others; retry after a pause")]
    NoRoom,
    /// A refusal this version does not know.
    #[error("the service refused with code {0}, unknown here; upgrade the older side")]
    Other(u8),
}

impl Refusal {
    pub(crate) fn code(self) -> u8 {
        match self {
            Refusal::NoReply => 0,
            Refusal::UnknownKind => 1,
            Refusal::Malformed => 2,
            Refusal::Overloaded => 3,
            Refusal::Unsendable => 4,
            Refusal::NoRoom => 5,
            Refusal::Other(code) => code,
        }
    }

    pub(crate) fn from_code(code: u8) -> Self {
        match code {
            0 => Refusal::NoReply,
            1 => Refusal::UnknownKind,
            2 => Refusal::Malformed,
            3 => Refusal::Overloaded,
            4 => Refusal::Unsendable,
            5 => Refusal::NoRoom,
            other => Refusal::Other(other),
        }
    }
}

/// Why a request never left: repeating it, here or elsewhere, is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum NotSent {
    /// No connection with that peer.
    #[error("not connected to that peer; see its last error in `Transport::peers`")]
    NotConnected,
    /// The lane's queue, or the number of calls in flight, is at its maximum.
    #[error("too much is queued for that peer; retry after a pause")]
    QueueFull,
    /// Larger than a frame of the lane may be, here or at the peer.
    #[error("larger than {bytes_max} bytes; send less at once")]
    TooLarge {
        /// The limit that was met.
        bytes_max: usize,
    },
    /// serde could not encode the value.
    #[error("the message's own `Serialize` failed; this is a fault of the message type")]
    Unencodable,
    /// The lane does not exist with this peer: clients, readers and admins have only `Lane::Call`.
    #[error("no such lane with a client, reader or admin; use Lane::Call")]
    NoSuchLane,
    /// This transport is closing.
    #[error("this transport is shutting down")]
    ShuttingDown,
}

/// Why a call gave no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The request never left: nothing happened.
    #[error("the request was not sent: {0}")]
    NotSent(#[source] NotSent),
    /// The connection ended after the request was handed to it: it may have run.
    #[error("the connection ended before the answer, whether it ran is unknown: {0}")]
    Unknown(#[source] CloseReason),
    /// No answer in time: it may have run, or may still.
    #[error("no answer before the deadline; whether it ran is unknown")]
    Deadline,
    /// The other side answered that there is no response.
    #[error("the peer answered with a refusal: {0}")]
    Remote(#[source] Refusal),
    /// The response arrived but is not what was expected; the call ran.
    #[error("the answer cannot be read: {0}")]
    Decode(#[source] DecodeError),
}

/// Whether a call ran at the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ran {
    /// It did not and never will: repeating it, here or elsewhere, is safe.
    No,
    /// It did.
    Yes,
    /// It may have, or may yet.
    Unknown,
}

impl CallError {
    /// Whether the call ran, as far as is known. What a service does before it refuses a call it does not know, or
    /// cannot decode, is its own affair; here it counts as nothing.
    #[must_use]
    pub fn ran(&self) -> Ran {
        match self {
            Self::NotSent(_)
            | Self::Remote(Refusal::UnknownKind | Refusal::Malformed | Refusal::Overloaded) => {
                Ran::No
            }
            Self::Decode(_) | Self::Remote(Refusal::Unsendable | Refusal::NoRoom) => Ran::Yes,
            Self::Unknown(_)
            | Self::Deadline
            | Self::Remote(Refusal::NoReply | Refusal::Other(_)) => Ran::Unknown,
        }
    }
}

/// A request from a peer, with its verified identity.
pub struct IncomingCall {
    /// Who asks, as proved by its certificate.
    pub from: Arc<Identity>,
    /// Group number chosen by the caller; 0 from [`Peer::call`](crate::Peer::call).
    pub group: u64,
    /// [`Message::KIND`] of the request.
    pub kind: u16,
    /// [`Message::VERSION`] of the request.
    pub version: u8,
    /// The one chance to answer.
    pub reply: Reply,
    pub(crate) body: Bytes,
}

// What travels is the users' secret: the debug form, which may end in a log, shows its size only.

impl fmt::Debug for IncomingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingCall")
            .field("from", &self.from)
            .field("group", &self.group)
            .field("kind", &self.kind)
            .field("version", &self.version)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl IncomingCall {
    /// Decodes the request.
    ///
    /// # Errors
    /// When kind or version are not `M`'s, or the bytes are not an `M`.
    pub fn decode<M: Message>(&self) -> Result<M, DecodeError> {
        decode(self.kind, self.version, &self.body)
    }

    /// The undecoded request.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

/// Answers one call, from any thread, without blocking. Dropped unanswered, it tells the caller
/// [`Refusal::NoReply`]. When the session with the caller has ended, answers go nowhere.
#[derive(Debug)]
pub struct Reply {
    pub(crate) link: Arc<Link>,
    pub(crate) session: u64,
    pub(crate) call: u64,
    pub(crate) group: u64,
    /// `None` once answered.
    pub(crate) permit: Option<Permit>,
}

impl Reply {
    /// Sends the response. When it cannot be sent the caller is told so.
    pub fn send<R: Message>(mut self, response: &R) {
        let permit = self.permit.take();
        let shape = Shape::Response { call: self.call };
        let header = Header {
            shape,
            kind: R::KIND,
            version: R::VERSION,
            group: self.group,
        };
        let bytes_max = self.link.frame_bytes_max(WireLane::Reply);
        match encode(header, response, bytes_max) {
            Ok(frame) => self.push(frame, permit),
            Err(EncodeError::TooLarge | EncodeError::Unencodable) => {
                self.push_refusal(Refusal::Unsendable, permit);
            }
        }
    }

    /// Sends a refusal instead of a response.
    pub fn refuse(mut self, why: Refusal) {
        let permit = self.permit.take();
        self.push_refusal(why, permit);
    }

    fn push(&self, frame: Vec<u8>, permit: Option<Permit>) {
        let queued = Queued {
            frame,
            replaces: None,
            call: None,
            permit,
            share: None,
        };
        match self.link.outbox.push_reply(self.session, queued) {
            Ok(()) | Err((PushError::Closed, _)) => {}
            Err((PushError::Full, queued)) => {
                self.push_refusal(Refusal::NoRoom, queued.permit);
            }
        }
    }

    fn push_refusal(&self, why: Refusal, permit: Option<Permit>) {
        let shape = Shape::Refusal { call: self.call };
        let header = Header {
            shape,
            kind: 0,
            version: 1,
            group: self.group,
        };
        let frame = encode(header, &why.code(), 64).expect("a refusal has 22 bytes");
        let queued = Queued {
            frame,
            replaces: None,
            call: None,
            permit,
            share: None,
        };
        self.link.outbox.push_refusal(self.session, queued);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.push_refusal(Refusal::NoReply, Some(permit));
        }
    }
}
