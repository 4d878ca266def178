//! Inbound connections, from the first packet to the welcome.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use async_channel::Sender;
use quinn::{ConnectionError, Endpoint, Incoming, TransportErrorCode};
use quorate_certs::{Identity, Role};
use tracing::debug;

use crate::{
    close::{CloseCode, HandshakeError, Refused},
    connection,
    credentials::Verdict,
    hello::{Hello, HelloError},
    link::{Established, Installed, Link},
    origins::Running,
    quic,
    rate::Rate,
    shared::{Count, Counted, Shared},
    signal::within,
    tls::{self, Finding},
};

/// How many handshakes and connections there are places for, beyond those for everybody, of those who come from where
/// a node of the address book is: as many as any cluster has members, or strangers could keep them from each other.
const PLACES_OF_NODES: usize = 32;

/// Never waits for a handshake: one slow peer must not keep others out.
pub(crate) async fn run(shared: Arc<Shared>, endpoint: Endpoint) {
    let mut second = Rate::new(Duration::from_secs(1));
    while let Some(incoming) = endpoint.accept().await {
        let begun = second.count(shared.runtime.now());
        let Some(admitted) = admit(&shared, incoming, begun) else {
            continue;
        };
        let task = handshake(Arc::clone(&shared), admitted);
        shared.runtime.spawn(Box::pin(task));
    }
}

struct Admitted {
    incoming: Incoming,
    handshake: (Counted, Running),
    connection: Counted,
}

/// `begun` handshakes came within a second, this one among them.
fn admit(shared: &Shared, incoming: Incoming, begun: usize) -> Option<Admitted> {
    let limits = &shared.config.limits;
    if shared.is_stopping() {
        // Answered, so that the dialer need not wait for its timeout.
        incoming.refuse();
        return None;
    }
    let unproven = !incoming.remote_address_validated() && incoming.may_retry();
    // By rate as well: one that comes to its end in its first packet has cost a key exchange all the same. And the
    // places of nodes are for those who are where they say.
    let many = shared.handshakes.now() >= limits.retry_above.min(limits.handshakes_max)
        || shared.inbound.now() >= limits.connections_max
        || begun > limits.retry_above;
    if many && unproven {
        let _ = incoming.retry();
        return None;
    }
    let from = incoming.remote_address().ip().to_canonical();
    let enter = |count: &Count, max| {
        let of_nodes = || count.enter(max + PLACES_OF_NODES);
        let place = count.enter(max);
        place.or_else(|| shared.has_node_at(from).then(of_nodes).flatten())
    };
    let all = enter(&shared.handshakes, limits.handshakes_max);
    let handshake = all.and_then(|counted| {
        let running = shared
            .origins
            .enter(from, limits.handshakes_per_address_max)?;
        Some((counted, running))
    });
    let Some(handshake) = handshake else {
        // No answer: under a flood every answer is amplification.
        incoming.ignore();
        return None;
    };
    let Some(connection) = enter(&shared.inbound, limits.connections_max) else {
        // Not a warning: strangers could fill the log with it.
        debug!(addr = %incoming.remote_address(), "connection limit reached; a newcomer is refused");
        incoming.refuse();
        return None;
    };
    Some(Admitted {
        incoming,
        handshake,
        connection,
    })
}

async fn handshake(shared: Arc<Shared>, admitted: Admitted) {
    let Admitted {
        incoming,
        handshake,
        connection: counted,
    } = admitted;
    let addr = canonical(incoming.remote_address());
    let timeout = shared.config.timings.handshake_timeout;
    let outcome = within(&*shared.runtime, timeout, welcome(&shared, incoming, addr)).await;
    drop(handshake);
    let outcome = outcome.unwrap_or(Err(HandshakeError::NoAnswer { addr }.into()));
    match outcome {
        Ok(welcomed) => {
            shared.failures.forget(addr.ip());
            let link = Arc::clone(&welcomed.link);
            welcomed.run(Arc::clone(&shared)).await;
            shared.forget_client(&link);
        }
        Err(Unwelcome::Failed(err)) => shared.failures.report(addr, &err, shared.runtime.now()),
        Err(Unwelcome::Left(err)) => debug!(%addr, %err, "the peer left during the handshake"),
    }
    drop(counted);
}

/// Why a handshake came to nothing.
#[derive(Debug)]
enum Unwelcome {
    /// For an operator to look at.
    Failed(HandshakeError),
    /// The peer found nothing wrong, it merely ends: a command that was interrupted, a node that stops.
    Left(HandshakeError),
}

impl Unwelcome {
    /// Before the handshake is complete, an application that closes is not told apart from any other: it
    /// sends APPLICATION_ERROR (RFC 9000 section 10.2.3). A verdict on us would be a TLS alert.
    fn from_quic(addr: SocketAddr, err: &ConnectionError) -> Self {
        let why = HandshakeError::from_quic(addr, err);
        match err {
            ConnectionError::ConnectionClosed(close)
                if close.error_code == TransportErrorCode::APPLICATION_ERROR =>
            {
                Self::Left(why)
            }
            _ => why.into(),
        }
    }
}

impl From<HandshakeError> for Unwelcome {
    fn from(err: HandshakeError) -> Self {
        match err {
            HandshakeError::RefusedByPeer {
                code: CloseCode::SHUTDOWN,
                ..
            } => Self::Left(err),
            err => Self::Failed(err),
        }
    }
}

/// A connection that counts as soon as the peer reads this.
struct Welcomed {
    link: Arc<Link>,
    established: Arc<Established>,
    installed: Installed,
    ended: Sender<Infallible>,
    send: quinn::SendStream,
    welcome: Vec<u8>,
}

impl Welcomed {
    async fn run(mut self, shared: Arc<Shared>) {
        // About 130 bytes on a new stream: written at once, unless the connection is lost, which `run` then sees, or the
        // peer gives no credit, and then it never knows that it is welcome.
        let written = within(
            &*shared.runtime,
            shared.config.timings.handshake_timeout,
            self.send.write_all(&self.welcome),
        );
        match written.await {
            Some(Ok(())) => drop(self.send.finish()),
            Some(Err(_)) => {}
            None => {
                let reason = "the welcome could not be written";
                self.established
                    .close(Refused::new(CloseCode::TOO_SLOW, reason));
            }
        }
        connection::run(
            shared,
            self.link,
            self.established,
            self.installed,
            self.ended,
        )
        .await;
    }
}

async fn welcome(
    shared: &Arc<Shared>,
    incoming: Incoming,
    addr: SocketAddr,
) -> Result<Welcomed, Unwelcome> {
    let failed = |err: &dyn std::fmt::Display| HandshakeError::failed(addr, err);
    let own = shared.own.current();
    let (crypto, findings) =
        tls::server(&own.credentials, &shared.config.environment).map_err(|err| failed(&err))?;
    let config = quic::server_config(&shared.config, crypto, Arc::clone(&shared.accepted));
    let connecting = incoming
        .accept_with(Arc::new(config))
        .map_err(|err| failed(&err))?;
    let quic = connecting.await;
    let (connection, verified) = match (quic, findings.take()) {
        (Ok(connection), Some(Finding::Accepted(verified))) => (connection, verified),
        (_, Some(Finding::Refused(why))) => {
            return Err(HandshakeError::PeerCertificate { addr, why }.into());
        }
        (Err(err), _) => return Err(Unwelcome::from_quic(addr, &err)),
        (Ok(connection), Some(Finding::WrongPeer(_)) | None) => {
            // rustls cannot get here, since nothing is resumed; but who is unverified stays out.
            connection.close(CloseCode::ID_MISMATCH.wire(), b"not verified");
            return Err(failed(&"the handshake completed without a verdict").into());
        }
    };
    let refuse = |refused: Refused| {
        refused.close(&connection);
        HandshakeError::RefusedByUs { addr, refused }
    };
    let (send, mut receive) = connection
        .accept_bi()
        .await
        .map_err(|err| Unwelcome::from_quic(addr, &err))?;
    let hello = match Hello::read(&mut receive, addr).await {
        Ok(hello) => hello,
        Err(HelloError::Refused(refused)) => return Err(refuse(refused).into()),
        Err(HelloError::Lost(err)) => return Err(err.into()),
    };
    let verdict = Verdict::new(shared, &verified, own.generation);
    let verified = verified.identity;
    let up = shared
        .judge(&hello, &verified, addr, false)
        .map_err(refuse)?;
    let version = up.version;
    let link = link_of(shared, &verified).map_err(refuse)?;
    if link.is_node() {
        connection.set_receive_window(quic::CONNECTION_WINDOW_BYTES.into());
        connection.set_send_window(quic::CONNECTION_WINDOW_BYTES.into());
    }
    let (established, ended) = shared.establish(connection.clone(), up, verdict);
    let installed = link
        .install(&established, &hello, &shared.config)
        .map_err(|refused| {
            shared.forget_client(&link);
            refuse(refused)
        })?;
    // Nothing may be awaited after the installation: a timeout would drop the connection without
    // its end being told.
    let welcome = shared.hello(Some(version)).encode();
    Ok(Welcomed {
        link,
        established,
        installed,
        ended,
        send,
        welcome,
    })
}

fn link_of(shared: &Shared, verified: &Identity) -> Result<Arc<Link>, Refused> {
    match verified.role() {
        Role::Node => Ok(shared.node(Arc::new(verified.clone()))),
        Role::Client | Role::Reader | Role::Admin => shared.client(verified),
    }
}

/// An IPv4 peer of a dual-stack socket, as people write it.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use quinn::{ApplicationClose, ConnectionClose};

    use super::*;

    const ADDR: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    fn closed(error_code: TransportErrorCode) -> ConnectionError {
        ConnectionError::ConnectionClosed(ConnectionClose {
            error_code,
            frame_type: None,
            reason: Default::default(),
        })
    }

    fn closed_by_application(code: CloseCode) -> ConnectionError {
        ConnectionError::ApplicationClosed(ApplicationClose {
            error_code: code.wire(),
            reason: Default::default(),
        })
    }

    /// A peer that merely ends during its handshake is no warning; one that refuses us, or vanishes, is.
    #[test]
    fn who_left_and_who_failed() {
        let left = [
            closed(TransportErrorCode::APPLICATION_ERROR),
            closed_by_application(CloseCode::SHUTDOWN),
        ];
        for err in left {
            let judged = Unwelcome::from_quic(ADDR, &err);
            assert!(matches!(judged, Unwelcome::Left(_)), "{judged:?}");
        }
        let unknown_ca = TransportErrorCode::crypto(48);
        let failed = [
            closed(unknown_ca),
            closed(TransportErrorCode::PROTOCOL_VIOLATION),
            closed_by_application(CloseCode::WRONG_CLUSTER),
            ConnectionError::TimedOut,
            ConnectionError::Reset,
        ];
        for err in failed {
            let judged = Unwelcome::from_quic(ADDR, &err);
            assert!(matches!(judged, Unwelcome::Failed(_)), "{judged:?}");
        }
    }
}
