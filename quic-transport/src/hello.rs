//! The first words on a connection. TLS has proved both certificates by then, but a TLS 1.3 dialer
//! finishes before the acceptor has judged its certificate (RFC 8446 section 4.4.4 and 2); only the
//! welcome says that both are agreed, and nothing counts before it.

use std::{net::SocketAddr, ops::RangeInclusive, sync::Arc};

use quorate_certs::Identity;
use serde::{Deserialize, Serialize};

use crate::{
    close::{CloseCode, HandshakeError, Refused},
    config::{Config, Instance},
    frame::FRAME_VERSION,
    message::WireLane,
    planted,
};

const MAGIC: [u8; 4] = *b"QRTE";
/// Magic, frame version range, body length.
const PREFIX_BYTES: usize = 4 + 2 + 2;
/// Names are short; a hello is about 120 bytes.
const HELLO_BYTES_MAX: usize = 1024;

/// A peer as it introduced itself, every claim checked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerUp {
    /// Proved by its certificate.
    pub identity: Arc<Identity>,
    /// Its store and start count.
    pub instance: Instance,
    /// How far that store had come when this start of it began, by its own word.
    pub progress: u128,
    /// What that store was made with, by its own word.
    pub origin: u64,
    /// Which process it is, among those that run on copies of that store.
    pub process: u64,
    /// Where it is now. A hint, not a name.
    pub addr: SocketAddr,
    /// The agreed version of the service.
    pub version: u16,
    /// True when we dialled it.
    pub dialled: bool,
}

/// A service's own rule about who may connect, asked on both sides after every other check.
/// Any `Fn(&PeerUp) -> Result<(), Refused>` is one.
pub trait Admit: Send + Sync {
    /// Called on the I/O thread: answer at once from memory.
    ///
    /// # Errors
    /// The code and words to close with.
    fn admit(&self, peer: &PeerUp) -> Result<(), Refused>;
}

impl<F: Fn(&PeerUp) -> Result<(), Refused> + Send + Sync> Admit for F {
    fn admit(&self, peer: &PeerUp) -> Result<(), Refused> {
        self(peer)
    }
}

/// Both the hello and the welcome. In a welcome the version range holds the one version chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    cluster: String,
    identity: String,
    service: String,
    service_min: u16,
    service_max: u16,
    store_id: u128,
    boot: u64,
    pub(crate) progress: u128,
    pub(crate) origin: u64,
    pub(crate) process: u64,
    /// What the sender of this hello reads, by wire lane.
    pub(crate) frame_bytes_max: [u32; WireLane::COUNT],
    pub(crate) calls_in_flight_max: u32,
}

impl Hello {
    pub(crate) fn new(config: &Config, identity: &Identity, versions: RangeInclusive<u16>) -> Self {
        let limits = &config.limits;
        let bounded = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Self {
            cluster: identity.cluster.as_str().to_owned(),
            identity: identity.uri(),
            service: config.service.clone(),
            service_min: *versions.start(),
            service_max: *versions.end(),
            store_id: config.instance.store_id,
            boot: config.instance.boot,
            progress: config.progress,
            origin: config.origin,
            process: config.process,
            frame_bytes_max: WireLane::ALL.map(|lane| bounded(limits.frame_bytes_max(lane))),
            calls_in_flight_max: bounded(limits.calls_in_flight_max),
        }
    }

    pub(crate) fn instance(&self) -> Instance {
        Instance {
            store_id: self.store_id,
            boot: self.boot,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("strings and integers always encode");
        assert!(
            body.len() <= HELLO_BYTES_MAX,
            "hello of {} bytes",
            body.len()
        );
        let mut out = Vec::with_capacity(PREFIX_BYTES + body.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[FRAME_VERSION, FRAME_VERSION]);
        out.extend_from_slice(&(body.len() as u16).to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// Reads what `encode` wrote, from a peer that may send anything.
    pub(crate) async fn read(
        stream: &mut quinn::RecvStream,
        addr: SocketAddr,
    ) -> Result<Self, HelloError> {
        let mut prefix = [0; PREFIX_BYTES];
        read_exact(stream, &mut prefix, addr).await?;
        let length = body_length(prefix)?;
        let mut body = vec![0; length];
        read_exact(stream, &mut body, addr).await?;
        match postcard::take_from_bytes(&body) {
            // Bytes after the known fields are allowed: a later version may say more.
            Ok((hello, _later_fields)) => Ok(hello),
            Err(_) => Err(HelloError::Refused(Refused::new(
                CloseCode::PROTOCOL,
                "the hello cannot be read",
            ))),
        }
    }

    /// Everything the two sides must agree on; returns the service version to speak.
    pub(crate) fn judge(
        &self,
        config: &Config,
        own: &Identity,
        verified: &Identity,
    ) -> Result<u16, Refused> {
        if self.cluster != own.cluster.as_str() {
            let cluster = &own.cluster;
            return Err(Refused::new(
                CloseCode::WRONG_CLUSTER,
                format!("wrong cluster: we are {cluster}, you are {}", self.cluster),
            ));
        }
        if self.identity != verified.uri() && !planted::is("sender-not-checked") {
            return Err(Refused::new(
                CloseCode::ID_MISMATCH,
                format!(
                    "your certificate says {verified}, your hello says {}",
                    self.identity
                ),
            ));
        }
        if verified == own {
            return Err(Refused::new(
                CloseCode::ID_MISMATCH,
                format!("we are {own} too; two processes use one identity"),
            ));
        }
        if self.service != config.service {
            return Err(Refused::new(
                CloseCode::WRONG_SERVICE,
                format!("we speak {}, you speak {}", config.service, self.service),
            ));
        }
        let lowest = self.service_min.max(*config.service_versions.start());
        let highest = self.service_max.min(*config.service_versions.end());
        if lowest > highest {
            return Err(Refused::new(
                CloseCode::VERSION,
                format!(
                    "no common version of {}: we speak {} to {}, you speak {} to {}; upgrade the \
                     older side",
                    config.service,
                    config.service_versions.start(),
                    config.service_versions.end(),
                    self.service_min,
                    self.service_max
                ),
            ));
        }
        Ok(highest)
    }
}

fn body_length(prefix: [u8; PREFIX_BYTES]) -> Result<usize, Refused> {
    let [m0, m1, m2, m3, frame_min, frame_max, l0, l1] = prefix;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(Refused::new(
            CloseCode::PROTOCOL,
            "this does not begin like a hello",
        ));
    }
    if !(frame_min..=frame_max).contains(&FRAME_VERSION) {
        return Err(Refused::new(
            CloseCode::VERSION,
            format!(
                "no common frame version: we speak {FRAME_VERSION}, you speak {frame_min} to \
                 {frame_max}; upgrade the older side"
            ),
        ));
    }
    let length = usize::from(u16::from_le_bytes([l0, l1]));
    if length > HELLO_BYTES_MAX {
        return Err(Refused::new(
            CloseCode::TOO_LARGE,
            format!("hello of {length} bytes exceeds {HELLO_BYTES_MAX}"),
        ));
    }
    Ok(length)
}

/// A hello that did not come to pass.
#[derive(Debug)]
pub(crate) enum HelloError {
    /// We must close with this.
    Refused(Refused),
    /// The connection or the stream ended before.
    Lost(HandshakeError),
}

impl From<Refused> for HelloError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

async fn read_exact(
    stream: &mut quinn::RecvStream,
    buffer: &mut [u8],
    addr: SocketAddr,
) -> Result<(), HelloError> {
    stream.read_exact(buffer).await.map_err(|err| match err {
        quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(lost)) => {
            HelloError::Lost(HandshakeError::from_quic(addr, &lost))
        }
        other => HelloError::Refused(Refused::new(
            CloseCode::PROTOCOL,
            format!("the hello ended early: {other}"),
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            service_versions: 2..=4,
            ..Config::dial_only("test")
        }
    }

    fn node(id: u64) -> Identity {
        Identity::from_uri(&format!("spiffe://c1/node/{id}")).unwrap()
    }

    #[test]
    fn every_disagreement_has_its_own_code() {
        let (config, own, peer) = (config(), node(1), node(2));
        let good = Hello::new(&config, &peer, 3..=9);
        assert_eq!(
            good.judge(&config, &own, &peer),
            Ok(4),
            "highest common version"
        );
        let code = |hello: Hello| hello.judge(&config, &own, &peer).unwrap_err().code;
        let other = Hello {
            cluster: "c2".into(),
            ..good.clone()
        };
        assert_eq!(code(other), CloseCode::WRONG_CLUSTER);
        let other = Hello {
            identity: node(3).uri(),
            ..good.clone()
        };
        assert_eq!(code(other), CloseCode::ID_MISMATCH);
        let other = Hello {
            service: "orders".into(),
            ..good.clone()
        };
        assert_eq!(code(other), CloseCode::WRONG_SERVICE);
        let other = Hello {
            service_min: 5,
            ..good.clone()
        };
        assert_eq!(code(other), CloseCode::VERSION);
        let twin = Hello::new(&config, &own, 3..=9);
        let refused = twin.judge(&config, &own, &own).unwrap_err();
        assert_eq!(refused.code, CloseCode::ID_MISMATCH, "{refused}");
    }

    #[test]
    fn i1_a_prefix_is_checked_before_its_length_is_believed() {
        let good = [b'Q', b'R', b'T', b'E', 1, 1, 10, 0];
        assert_eq!(body_length(good), Ok(10));
        let mut bad = good;
        bad[0] = b'X';
        assert_eq!(body_length(bad).unwrap_err().code, CloseCode::PROTOCOL);
        let mut bad = good;
        (bad[4], bad[5]) = (2, 9);
        assert_eq!(body_length(bad).unwrap_err().code, CloseCode::VERSION);
        let mut bad = good;
        bad[7] = 255;
        assert_eq!(body_length(bad).unwrap_err().code, CloseCode::TOO_LARGE);
    }
}
