//! Keeping a connection to every peer in the address book.

use std::{net::SocketAddr, sync::Arc};

use futures_lite::future::or;
use tracing::{debug, warn};

use crate::{
    backoff::Backoff,
    close::{CloseCode, HandshakeError, Refused},
    connection,
    credentials::Verdict,
    hello::{Hello, HelloError},
    link::Link,
    shared::Shared,
    signal::{sleep, within},
    tls::{self, Finding},
};

/// Starts a dialer for every peer that has addresses and none yet. One task does this, because
/// `set_peer` may be called where the runtime cannot spawn.
pub(crate) async fn manage(shared: Arc<Shared>) {
    loop {
        let seen = shared.signal.generation();
        if shared.is_stopping() {
            return;
        }
        for link in shared.links() {
            let start = link.change(|state| {
                let start = !state.addrs.is_empty() && !state.dialer_runs;
                state.dialer_runs |= start;
                start
            });
            if start {
                shared
                    .runtime
                    .spawn(Box::pin(dial_for_ever(Arc::clone(&shared), link)));
            }
        }
        shared.signal.changed(seen).await;
    }
}

/// Never gives up on a peer in the address book; `remove_peer` and shutdown end it.
async fn dial_for_ever(shared: Arc<Shared>, link: Arc<Link>) {
    let timings = &shared.config.timings;
    let mut backoff = Backoff::new(timings.backoff_min, timings.backoff_max);
    let mut told = None;
    while wait_for_need(&shared, &link).await || !ends(&shared, &link) {
        let known = link.with(|state| state.dial_generation);
        match dial_each(&shared, &link, known).await {
            Ok(()) => {
                told = None;
                let began = shared.runtime.now();
                until_disconnected(&shared, &link).await;
                if shared.runtime.now() - began >= timings.healthy_after {
                    backoff.reset();
                    continue;
                }
            }
            Err(err) => {
                if is_over(&shared, &link) {
                    debug!(peer = %link.identity, %err, "dial failed, of a peer that is not dialled any more");
                } else if told.as_ref() == Some(&err) {
                    debug!(peer = %link.identity, %err, "dial failed again");
                } else {
                    warn!(peer = %link.identity, %err, "dial failed; it is tried again for ever");
                }
                link.change(|state| state.last_error = Some(err.clone()));
                told = Some(err);
            }
        }
        let pause = sleep(&*shared.runtime, backoff.pause(&shared.rng));
        or(pause, until_news(&shared, &link, known)).await;
        if link.with(|state| state.dial_generation != known) {
            backoff.reset();
        }
    }
}

/// Whether dialling is over still: whoever gives the peer an address from then on starts it anew.
fn ends(shared: &Shared, link: &Link) -> bool {
    let stopping = shared.is_stopping();
    link.change(|state| {
        let over = stopping || state.removed || state.addrs.is_empty();
        state.dialer_runs &= !over;
        over
    })
}

fn is_over(shared: &Shared, link: &Link) -> bool {
    shared.is_stopping() || link.with(|state| state.removed || state.addrs.is_empty())
}

/// False when dialling is over.
async fn wait_for_need(shared: &Shared, link: &Link) -> bool {
    until_disconnected(shared, link).await;
    !is_over(shared, link)
}

async fn until_disconnected(shared: &Shared, link: &Link) {
    loop {
        let seen = link.signal.generation();
        if is_over(shared, link) || link.with(|state| state.current.is_none()) {
            return;
        }
        link.signal.changed(seen).await;
    }
}

/// Until the pause before the next dial makes no sense any more.
async fn until_news(shared: &Shared, link: &Link, known: u64) {
    loop {
        let seen = link.signal.generation();
        let news = link.with(|state| state.current.is_some() || state.dial_generation != known);
        if news || is_over(shared, link) {
            return;
        }
        link.signal.changed(seen).await;
    }
}

/// Until there are other addresses than those of the generation `known`, or other credentials.
async fn until_moved(link: &Link, known: u64) {
    loop {
        let seen = link.signal.generation();
        if link.with(|state| state.dial_generation != known) {
            return;
        }
        link.signal.changed(seen).await;
    }
}

/// Each address once, in order, as long as they are those of the generation `known`; the error of the last.
async fn dial_each(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    known: u64,
) -> Result<(), HandshakeError> {
    let addrs = link.with(|state| state.addrs.clone());
    let mut result = Ok(());
    for addr in addrs {
        let timeout = shared.config.timings.handshake_timeout;
        link.change(|state| state.dials += 1);
        let dialled = within(&*shared.runtime, timeout, dial(shared, link, addr));
        let outcome = or(async { Some(dialled.await) }, async {
            until_moved(link, known).await;
            None
        });
        let Some(outcome) = outcome.await else {
            return result;
        };
        result = outcome.unwrap_or(Err(HandshakeError::NoAnswer { addr }));
        if result.is_ok() || link.with(|state| state.current.is_some()) {
            return Ok(());
        }
    }
    result
}

async fn dial(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    addr: SocketAddr,
) -> Result<(), HandshakeError> {
    let (connection, verdict) = connect(shared, link, addr).await?;
    let refuse = |refused: Refused| {
        refused.close(&connection);
        HandshakeError::RefusedByUs { addr, refused }
    };
    let lost = |err: &quinn::ConnectionError| HandshakeError::from_quic(addr, err);
    let (mut send, mut receive) = connection.open_bi().await.map_err(|err| lost(&err))?;
    if send.write_all(&shared.hello(None).encode()).await.is_ok() {
        let _ = send.finish();
    }
    // A failed write shows its reason in the read.
    let welcome = match Hello::read(&mut receive, addr).await {
        Ok(welcome) => welcome,
        Err(HelloError::Refused(refused)) => return Err(refuse(refused)),
        Err(HelloError::Lost(err)) => return Err(err),
    };
    let up = shared
        .judge(&welcome, &link.identity, addr, true)
        .map_err(refuse)?;
    if is_over(shared, link) {
        let reason = "the dialer does not want this peer any more";
        return Err(refuse(Refused::new(CloseCode::SHUTDOWN, reason)));
    }
    let (established, ended) = shared.establish(connection.clone(), up, verdict);
    let installed = link
        .install(&established, &welcome, &shared.config)
        .map_err(refuse)?;
    let (shared, link) = (Arc::clone(shared), Arc::clone(link));
    let runtime = Arc::clone(&shared.runtime);
    runtime.spawn(Box::pin(connection::run(
        shared,
        link,
        established,
        installed,
        ended,
    )));
    Ok(())
}

/// QUIC and TLS, with the wanted identity checked in the handshake.
async fn connect(
    shared: &Arc<Shared>,
    link: &Link,
    addr: SocketAddr,
) -> Result<(quinn::Connection, Verdict), HandshakeError> {
    let failed = |err: &dyn std::fmt::Display| HandshakeError::failed(addr, err);
    let name = link
        .identity
        .server_name()
        .expect("only nodes are in the address book");
    let own = shared.own.current();
    let (crypto, findings) =
        tls::client(&own.credentials, &shared.config.environment, &link.identity)
            .map_err(|err| failed(&err))?;
    let mut config = quinn::ClientConfig::new(crypto);
    config
        .transport_config(Arc::clone(&shared.dialled))
        .initial_dst_cid_provider(crate::quic::initial_ids(&shared.rng));
    let endpoint = shared
        .endpoint()
        .ok_or_else(|| failed(&"this transport is shut down"))?;
    let connecting = endpoint
        .connect_with(config, addr, &name)
        .map_err(|err| failed(&err))?;
    drop(endpoint);
    match (connecting.await, findings.take()) {
        (Ok(connection), Some(Finding::Accepted(verified))) => {
            let verdict = Verdict::new(shared, &verified, own.generation);
            Ok((connection, verdict))
        }
        (_, Some(Finding::Refused(why))) => Err(HandshakeError::PeerCertificate { addr, why }),
        (_, Some(Finding::WrongPeer(found))) => {
            let wanted = (*link.identity).clone();
            Err(HandshakeError::WrongPeer {
                addr,
                wanted,
                found,
            })
        }
        (Err(err), _) => Err(HandshakeError::from_quic(addr, &err)),
        (Ok(connection), None) => {
            // rustls cannot get here, since nothing is resumed; but who is unverified stays out.
            connection.close(CloseCode::ID_MISMATCH.wire(), b"not verified");
            Err(failed(&"the handshake completed without a verdict"))
        }
    }
}
