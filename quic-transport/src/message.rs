//! Messages, lanes, and what arrives.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use quorate_certs::Identity;
use serde::{Serialize, de::DeserializeOwned};

/// A named delivery contract. Each lane is one ordered stream per direction of a connection, so
/// messages of one lane stay in order and lanes do not wait for each other. When both sides dial at once, messages of
/// the connection that is given up are delivered, perhaps after later ones of the connection that stays.
///
/// Between nodes all three exist. When either end is a client, a reader or an admin only [`Lane::Call`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Small and urgent: sent before everything else; a newer message may replace a queued older
    /// one (see [`Message::replaces`]).
    Control,
    /// Ordered and bulky; nothing is ever replaced or dropped while the connection lives.
    Append,
    /// Requests, and messages that may wait behind the other two lanes.
    Call,
}

impl Lane {
    /// All lanes, most urgent first.
    pub const ALL: [Lane; 3] = [Lane::Control, Lane::Append, Lane::Call];

    pub(crate) fn wire(self) -> WireLane {
        match self {
            Lane::Control => WireLane::Control,
            Lane::Append => WireLane::Append,
            Lane::Call => WireLane::Call,
        }
    }
}

/// The streams that exist on the wire. `Reply` is apart from `Call` so that a side which has
/// stopped reading requests (too many in flight) still reads the answers to its own: with one
/// stream for both, two busy peers calling each other could wait for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum WireLane {
    Control = 0,
    Append = 1,
    Call = 2,
    Reply = 3,
}

impl WireLane {
    pub(crate) const COUNT: usize = 4;
    pub(crate) const ALL: [WireLane; Self::COUNT] = [
        WireLane::Control,
        WireLane::Append,
        WireLane::Call,
        WireLane::Reply,
    ];
    /// What a connection with a client, a reader or an admin carries.
    pub(crate) const CALLS_ONLY: [WireLane; 2] = [WireLane::Call, WireLane::Reply];

    pub(crate) fn from_byte(byte: u8) -> Option<WireLane> {
        Self::ALL.into_iter().find(|lane| *lane as u8 == byte)
    }

    /// Strict priority on the connection, greater first.
    pub(crate) fn priority(self) -> i32 {
        match self {
            WireLane::Control => 100,
            WireLane::Append => 50,
            WireLane::Call | WireLane::Reply => 10,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            WireLane::Control => "control",
            WireLane::Append => "append",
            WireLane::Call => "call",
            WireLane::Reply => "reply",
        }
    }
}

/// A value that can travel between peers.
///
/// The body is postcard, which cannot evolve by itself: whoever changes the fields raises
/// [`Message::VERSION`] and decodes both by looking at [`Received::version`].
pub trait Message: Serialize + DeserializeOwned + Send + 'static {
    /// Stable number of this type on the wire, unique within the service. In a node of the `quorate` crate, 0x0001 is
    /// Raft's, and 0x0100 to 0x0102 the key-value store's where that is served.
    const KIND: u16;
    /// Version of the body's layout.
    const VERSION: u8 = 1;

    /// On [`Lane::Control`], a newer message of the same kind, group and key takes the place of a
    /// queued older one. `None` (the default) is never replaced.
    fn replaces(&self) -> Option<u64> {
        None
    }
}

/// Why a body is not the message it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Another kind of message was received.
    #[error("this is a message of kind {received}, not {expected}; look at `kind` before decoding")]
    Kind {
        /// The kind asked for.
        expected: u16,
        /// The kind on the wire.
        received: u16,
    },
    /// The sender uses another layout of the body.
    #[error(
        "message kind {kind} has version {received}, we read {expected}; upgrade the older side"
    )]
    Version {
        /// Kind of the message.
        kind: u16,
        /// The version asked for.
        expected: u8,
        /// The version on the wire.
        received: u8,
    },
    /// The bytes are not a valid body.
    #[error(
        "message kind {kind} of {bytes} bytes is malformed: {err}; the sender has a fault or is hostile"
    )]
    Malformed {
        /// Kind of the message.
        kind: u16,
        /// Length of the body.
        bytes: usize,
        /// What the decoder said.
        #[source]
        err: postcard::Error,
    },
}

pub(crate) fn decode<M: Message>(kind: u16, version: u8, body: &[u8]) -> Result<M, DecodeError> {
    if kind != M::KIND {
        return Err(DecodeError::Kind {
            expected: M::KIND,
            received: kind,
        });
    }
    if version != M::VERSION {
        return Err(DecodeError::Version {
            kind,
            expected: M::VERSION,
            received: version,
        });
    }
    let malformed = |err| DecodeError::Malformed {
        kind,
        bytes: body.len(),
        err,
    };
    let (message, rest) = postcard::take_from_bytes(body).map_err(malformed)?;
    if rest.is_empty() {
        Ok(message)
    } else {
        // Bytes after the end would be a second meaning nobody checks.
        Err(malformed(postcard::Error::SerdeDeCustom))
    }
}

/// A one-way message, with the sender's verified identity.
#[derive(Clone)]
pub struct Received {
    /// Who sent it, as proved by its certificate; nothing in the message can change it.
    pub from: Arc<Identity>,
    /// The lane it came on.
    pub lane: Lane,
    /// Group number chosen by the sender; services that have no groups use 0.
    pub group: u64,
    /// [`Message::KIND`] of the sender's type. May be unknown here: the service decides.
    pub kind: u16,
    /// [`Message::VERSION`] of the sender's type.
    pub version: u8,
    pub(crate) body: Bytes,
}

// What travels is the users' secret: the debug form, which may end in a log, shows its size only.

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("from", &self.from)
            .field("lane", &self.lane)
            .field("group", &self.group)
            .field("kind", &self.kind)
            .field("version", &self.version)
            .field("bytes", &self.body.len())
            .finish()
    }
}

impl Received {
    /// Decodes the body.
    ///
    /// # Errors
    /// When kind or version are not `M`'s, or the bytes are not an `M`.
    pub fn decode<M: Message>(&self) -> Result<M, DecodeError> {
        decode(self.kind, self.version, &self.body)
    }

    /// The undecoded body, for kinds or versions this program reads in its own way.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use quorate_certs::{ClusterName, Subject};

    use super::*;

    /// Who sent what kind of message may be seen, and how long it is; what is in it not.
    #[test]
    fn debug_forms_show_no_content() {
        let cluster = ClusterName::new("c1").unwrap();
        let received = Received {
            from: Arc::new(Identity::new(cluster, Subject::node(1).unwrap())),
            lane: Lane::Append,
            group: 0,
            kind: 1,
            version: 1,
            body: Bytes::from_static(&[115; 7]),
        };
        let shown = format!("{received:?}");
        assert!(shown.contains("bytes: 7"), "{shown}");
        for content in ["sss", "115"] {
            assert!(!shown.contains(content), "{shown}");
        }
    }
}
