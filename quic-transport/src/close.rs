//! Why connections end, in codes for the wire and in words for people.

use std::{fmt, net::SocketAddr};

use quinn::{ConnectionError, VarInt};
use quorate_certs::{Identity, VerifyError};

/// Longest text sent with, or believed from, a close: it ends up in logs.
const REASON_BYTES_MAX: usize = 200;

/// Application error code of a connection close. The registry stands in `docs/wire.md`; numbers
/// are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u32);

impl CloseCode {
    /// Orderly end of the program.
    pub const SHUTDOWN: Self = Self(0);
    /// Another connection between the same two nodes is kept instead.
    pub const DUPLICATE: Self = Self(1);
    /// The peer is no longer a member.
    pub const REMOVED: Self = Self(2);
    /// The peer's certificate was revoked, or its CA is not trusted any more.
    pub const REVOKED: Self = Self(3);
    /// The peer's certificate expired while the connection lived.
    pub const EXPIRED: Self = Self(4);
    /// The peer belongs to another cluster.
    pub const WRONG_CLUSTER: Self = Self(5);
    /// Certificate and hello, or hello and expectation, name different identities.
    pub const ID_MISMATCH: Self = Self(6);
    /// No common version of the frames or of the service.
    pub const VERSION: Self = Self(7);
    /// The peer broke the protocol.
    pub const PROTOCOL: Self = Self(8);
    /// A frame was larger than its lane allows.
    pub const TOO_LARGE: Self = Self(9);
    /// No room for another connection.
    pub const OVERLOAD: Self = Self(10);
    /// The peer runs from an older copy of its store.
    pub const STALE_INCARNATION: Self = Self(11);
    /// Another service is spoken there.
    pub const WRONG_SERVICE: Self = Self(12);
    /// Refused by the service's own rule.
    pub const NOT_ADMITTED: Self = Self(13);
    /// Another connection between the same two nodes is kept instead, and everything of this one has arrived.
    pub const DELIVERED: Self = Self(14);
    /// A large frame of a client took too long to arrive.
    pub const TOO_SLOW: Self = Self(15);

    fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::SHUTDOWN => "shutdown",
            Self::DUPLICATE => "duplicate connection",
            Self::REMOVED => "removed from the cluster",
            Self::REVOKED => "certificate not trusted any more",
            Self::EXPIRED => "certificate expired",
            Self::WRONG_CLUSTER => "wrong cluster",
            Self::ID_MISMATCH => "identity mismatch",
            Self::VERSION => "no common version",
            Self::PROTOCOL => "protocol violation",
            Self::TOO_LARGE => "frame too large",
            Self::OVERLOAD => "overloaded",
            Self::STALE_INCARNATION => "stale incarnation",
            Self::WRONG_SERVICE => "wrong service",
            Self::NOT_ADMITTED => "not admitted",
            Self::DELIVERED => "everything is delivered",
            Self::TOO_SLOW => "too slow",
            _ => return None,
        })
    }

    pub(crate) fn wire(self) -> VarInt {
        VarInt::from_u32(self.0)
    }

    /// Codes beyond the registry's width are foreign; they keep their low end as "unknown".
    fn from_wire(code: VarInt) -> Self {
        Self(u32::try_from(code.into_inner()).unwrap_or(u32::MAX))
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} (code {})", self.0),
            None => write!(f, "code {}", self.0),
        }
    }
}

/// A peer that is not let in, or not kept: the code it reads and a sentence for its operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct Refused {
    /// What the peer's program sees.
    pub code: CloseCode,
    /// What the peer's operator reads; cut to 200 bytes on the wire. No secrets.
    pub reason: String,
}

impl Refused {
    /// A refusal with its reason. Control characters in it become question marks: it may quote the peer, and ends
    /// up in logs.
    #[must_use]
    pub fn new(code: CloseCode, reason: impl Into<String>) -> Self {
        let reason = without_controls(&reason.into());
        Self { code, reason }
    }

    pub(crate) fn close(&self, connection: &quinn::Connection) {
        let mut end = self.reason.len().min(REASON_BYTES_MAX);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        connection.close(self.code.wire(), &self.reason.as_bytes()[..end]);
    }
}

/// Text from the other side, made safe for a log line.
fn printable(bytes: &[u8]) -> String {
    without_controls(&String::from_utf8_lossy(
        &bytes[..bytes.len().min(REASON_BYTES_MAX)],
    ))
}

fn without_controls(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// Why a connection that was up is no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer closed it.
    #[error("closed by the peer: {code}: {reason}")]
    ByPeer {
        /// The peer's code.
        code: CloseCode,
        /// The peer's words, made printable.
        reason: String,
    },
    /// We closed it.
    #[error("closed by us: {code}: {reason}")]
    ByUs {
        /// Our code.
        code: CloseCode,
        /// Our words.
        reason: String,
    },
    /// Nothing was heard for the idle timeout: machine, network or process is gone.
    #[error("nothing heard for the idle timeout; check that the peer runs and is reachable")]
    TimedOut,
    /// The peer's endpoint does not know the connection: its process restarted.
    #[error("the peer restarted (stateless reset)")]
    Restarted,
    /// The peer's TLS ended it.
    #[error("the peer's TLS closed it: {}", alert_words(*alert))]
    Alert {
        /// TLS alert number (RFC 8446 section 6).
        alert: u8,
    },
    /// Anything else QUIC reports.
    #[error("connection failed: {detail}")]
    Failed {
        /// QUIC's words.
        detail: String,
    },
}

impl CloseReason {
    /// Whether the connection had been wound up, so that nothing of it is lost.
    pub(crate) fn is_wound_up(&self) -> bool {
        matches!(self, Self::ByPeer { code, .. } | Self::ByUs { code, .. } if *code == CloseCode::DELIVERED)
    }

    /// `ours` is what we closed with, if we did.
    pub(crate) fn from_quic(error: &ConnectionError, ours: Option<&Refused>) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::ByPeer {
                code: CloseCode::from_wire(close.error_code),
                reason: printable(&close.reason),
            },
            ConnectionError::ConnectionClosed(close) => match alert_of(close.error_code.into()) {
                Some(alert) => Self::Alert { alert },
                None => Self::Failed {
                    detail: printable(error.to_string().as_bytes()),
                },
            },
            ConnectionError::LocallyClosed => match ours {
                Some(refused) => Self::ByUs {
                    code: refused.code,
                    reason: refused.reason.clone(),
                },
                None => Self::ByUs {
                    code: CloseCode::SHUTDOWN,
                    reason: "shutting down".into(),
                },
            },
            ConnectionError::Reset => Self::Restarted,
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::CidsExhausted => Self::Failed {
                detail: printable(error.to_string().as_bytes()),
            },
        }
    }
}

/// Why a dial, or a handshake somebody began with us, came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Silence until the handshake timeout.
    #[error("no answer from {addr}; check the address, that the peer runs, and the firewall (UDP)")]
    NoAnswer {
        /// Where we tried.
        addr: SocketAddr,
    },
    /// We refused the other side's certificate.
    #[error("we refused the certificate of {addr}: {why}")]
    PeerCertificate {
        /// Whose certificate.
        addr: SocketAddr,
        /// What is wrong with it.
        why: VerifyError,
    },
    /// A good certificate, but of somebody else.
    #[error("{addr} is {found}, not {wanted}; correct the address book")]
    WrongPeer {
        /// Where we tried.
        addr: SocketAddr,
        /// Whom we wanted.
        wanted: Identity,
        /// Who answered.
        found: Identity,
    },
    /// The other side's TLS refused us.
    #[error("{addr} refused us: {}", alert_words(*alert))]
    OurCertificate {
        /// Who refused.
        addr: SocketAddr,
        /// TLS alert number (RFC 8446 section 6).
        alert: u8,
    },
    /// The hello was answered with a close.
    #[error("{addr} refused us: {code}: {reason}")]
    RefusedByPeer {
        /// Who refused.
        addr: SocketAddr,
        /// Its code.
        code: CloseCode,
        /// Its words, made printable.
        reason: String,
    },
    /// We refused what the other side said in its hello.
    #[error("we refused {addr}: {refused}")]
    RefusedByUs {
        /// Whom we refused.
        addr: SocketAddr,
        /// What we closed with.
        refused: Refused,
    },
    /// The endpoint accepts nobody now.
    #[error("{addr} accepts no connections now: it is shutting down, at its limit, or dials only")]
    NotAccepting {
        /// Who refused.
        addr: SocketAddr,
    },
    /// Anything else.
    #[error("handshake with {addr} failed: {detail}")]
    Failed {
        /// With whom.
        addr: SocketAddr,
        /// QUIC's or TLS's words.
        detail: String,
    },
}

/// QUIC's CONNECTION_REFUSED (RFC 9000 section 20.1).
const CONNECTION_REFUSED: u64 = 0x02;

impl HandshakeError {
    /// What QUIC's error means, unless our own verifier knows better.
    pub(crate) fn from_quic(addr: SocketAddr, error: &ConnectionError) -> Self {
        match error {
            ConnectionError::TimedOut => Self::NoAnswer { addr },
            ConnectionError::ConnectionClosed(close) => {
                let code = u64::from(close.error_code);
                match alert_of(code) {
                    Some(alert) => Self::OurCertificate { addr, alert },
                    None if code == CONNECTION_REFUSED => Self::NotAccepting { addr },
                    None => Self::failed(addr, error),
                }
            }
            ConnectionError::ApplicationClosed(close) => Self::RefusedByPeer {
                addr,
                code: CloseCode::from_wire(close.error_code),
                reason: printable(&close.reason),
            },
            ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::Reset
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => Self::failed(addr, error),
        }
    }

    pub(crate) fn failed(addr: SocketAddr, detail: &dyn fmt::Display) -> Self {
        Self::Failed {
            addr,
            detail: printable(detail.to_string().as_bytes()),
        }
    }
}

/// TLS alerts travel as QUIC codes 0x100 to 0x1ff (RFC 9001 section 4.8).
fn alert_of(code: u64) -> Option<u8> {
    (0x100..=0x1ff)
        .contains(&code)
        .then_some((code & 0xff) as u8)
}

/// What an alert from the other side says about us, and what to do about it.
fn alert_words(alert: u8) -> String {
    let words = match alert {
        40 => "handshake failure (alert 40): no common cipher or signature; upgrade the older side",
        42 => {
            "it does not accept our certificate's name (alert 42): it wanted another node at our \
             address, or cannot read the certificate"
        }
        43 => "our certificate lacks a needed key usage (alert 43): issue it again",
        44 => "our certificate was revoked (alert 44): issue a new one",
        45 => {
            "our certificate expired or is not yet valid (alert 45): renew it, or compare the \
             clocks of both machines"
        }
        46 => "it does not accept our certificate (alert 46): see the peer's log for the reason",
        48 => {
            "unknown CA (alert 48), or its revocation list has ended: the peer's log says which; check \
             that both sides use the same ca.pem, or give the peer a newer list with `quorate certs trust`"
        }
        49 => {
            "our identity is not acceptable (alert 49): another cluster, or not an identity; check \
             the certificate with `quorate certs inspect`"
        }
        51 => {
            "a signature does not verify (alert 51): the CA of that name has another key, or our own key is \
             not that of our certificate; check that both sides use the same ca.pem"
        }
        116 => "it wants a certificate and got none (alert 116)",
        120 => "another protocol is spoken there (alert 120): that port is not a quorate transport",
        other => return format!("TLS alert {other}; see the peer's log for the reason"),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i15_words_from_a_peer_cannot_forge_log_lines() {
        assert_eq!(printable(b"a\nERROR \x1b[2J\xff"), "a?ERROR ?[2J\u{fffd}");
        assert!(printable(&[b'x'; 5000]).len() <= REASON_BYTES_MAX);
    }

    #[test]
    fn alerts_are_explained_with_what_to_do() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let error = HandshakeError::OurCertificate { addr, alert: 48 };
        let words = error.to_string();
        assert!(
            words.contains("unknown CA") && words.contains("ca.pem"),
            "{words}"
        );
        // The same alert says that a list has ended; then roots that are the same change nothing.
        assert!(
            words.contains("revocation list") && words.contains("certs trust"),
            "{words}"
        );
        assert_eq!(alert_of(0x130), Some(48));
        assert_eq!(
            alert_of(2),
            None,
            "negative control: a transport code is no alert"
        );
    }
}
