//! What the log says of peers that fail or misbehave: enough, and not more than is good.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Mutex,
    time::{Duration, Instant},
};

use quorate_certs::Identity;
use tracing::{debug, warn};

use crate::{
    close::{CloseCode, HandshakeError, Refused},
    rate::Rate,
    signal::lock,
};

/// Addresses whose last failure is remembered, so that a peer which keeps failing for one reason
/// is one line in the log. Beyond it all are forgotten.
const FAILURES_MAX: usize = 256;

/// How many warnings there are in a minute; others go to `debug` and are counted. Whoever has no certificate can make
/// handshakes fail, with words of its own, and whoever has one can break the protocol over and over again.
const WARNINGS_PER_MINUTE: usize = 60;

/// What is said of handshakes that failed and of connections that were ended for what came over them: each reason of
/// an address once, until it is another.
#[derive(Debug)]
pub(crate) struct Failures(Mutex<Said>);

#[derive(Debug)]
struct Said {
    last: BTreeMap<IpAddr, String>,
    minute: Rate,
    /// How many were not said because there were too many.
    unsaid: u64,
}

impl Default for Failures {
    fn default() -> Self {
        Self(Mutex::new(Said {
            last: BTreeMap::new(),
            minute: Rate::new(Duration::from_secs(60)),
            unsaid: 0,
        }))
    }
}

impl Failures {
    /// A handshake has failed.
    pub(crate) fn report(&self, addr: SocketAddr, err: &HandshakeError, now: Instant) {
        if let HandshakeError::RefusedByUs { refused, .. } = err
            && refused.code == CloseCode::DUPLICATE
        {
            // Two dials at once, decided as they should be.
            debug!(%addr, %err, "a duplicate was refused");
            return;
        }
        // Without the address, whose port changes with every attempt.
        let reason = match err {
            HandshakeError::NoAnswer { .. } => "no answer".to_owned(),
            other => other.to_string().replace(&addr.to_string(), ""),
        };
        match self.is_news(addr, reason, now) {
            Some(0) => warn!(%addr, %err, "inbound handshake failed"),
            Some(unsaid) => warn!(%addr, %err, unsaid, "inbound handshakes failed"),
            None => debug!(%addr, %err, "inbound handshake failed again"),
        }
    }

    /// The connection with `peer` was ended for what came over it.
    pub(crate) fn breach(
        &self,
        peer: &Identity,
        addr: SocketAddr,
        refused: &Refused,
        now: Instant,
    ) {
        let news = self.is_news(addr, format!("{peer}: {refused}"), now);
        let err = refused;
        match news {
            Some(unsaid) => warn!(
                %peer, %addr, %err, unsaid, "the peer broke the protocol; its connection is closed"
            ),
            None => debug!(%peer, %addr, %err, "the peer broke the protocol again"),
        }
    }

    /// Whether it is worth a warning, and how many others were not said before it.
    fn is_news(&self, addr: SocketAddr, reason: String, now: Instant) -> Option<u64> {
        let mut said = lock(&self.0);
        if said.last.get(&addr.ip()) == Some(&reason) {
            return None;
        }
        if said.last.len() >= FAILURES_MAX {
            said.last.clear();
        }
        said.last.insert(addr.ip(), reason);
        if said.minute.count(now) > WARNINGS_PER_MINUTE {
            said.unsaid += 1;
            return None;
        }
        Some(std::mem::take(&mut said.unsaid))
    }

    /// Somebody there has succeeded.
    pub(crate) fn forget(&self, ip: IpAddr) {
        lock(&self.0).last.remove(&ip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    /// A stranger who fails in ever new words fills no log, and what it kept from being said is counted.
    #[test]
    fn warnings_are_bounded() {
        let failures = Failures::default();
        let began = Instant::now();
        let said = |n: u64| failures.is_news(ADDR, n.to_string(), began).is_some();
        assert!(said(0) && !said(0), "the same again is no news");
        assert_eq!(
            (1..1000).filter(|n| said(*n)).count(),
            WARNINGS_PER_MINUTE - 1
        );
        let later = began + Duration::from_secs(60);
        let unsaid = 1000 - WARNINGS_PER_MINUTE as u64;
        assert_eq!(failures.is_news(ADDR, "0".into(), later), Some(unsaid));
        assert_eq!(failures.is_news(ADDR, "1".into(), later), Some(0));
    }
}
