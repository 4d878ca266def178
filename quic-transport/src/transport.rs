//! The public handle: binding, the address book, shutdown.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_channel::{Receiver, Sender};
use quinn::{AsyncUdpSocket, Endpoint, Runtime, Side};
use quorate_certs::{Credentials, Identity, Role};
use tracing::{debug, info};

use crate::{
    accept,
    close::{CloseCode, Refused},
    config::{Config, ConfigError},
    credentials::{self, OtherIdentity},
    dial,
    inbox::{Inbox, inbox},
    link::Link,
    peer::{Peer, PeerStatus, sweep},
    quic,
    rng::Rng,
    shared::Shared,
    signal::{lock, sleep, within},
    socket::Watched,
    tls,
};

/// How often shutdown looks whether everything is delivered. It has no other way to know.
const DRAIN_POLL: Duration = Duration::from_millis(5);
/// What closing connections may take at least: CLOSE packets must leave even when the drain used
/// up all the time given.
const CLOSE_MIN: Duration = Duration::from_millis(500);

/// Why a transport could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The socket could not be made or bound.
    #[error("cannot listen on {addr}: {err}{}", advice(err))]
    Socket {
        /// The address asked for.
        addr: SocketAddr,
        /// The system's reason.
        #[source]
        err: io::Error,
    },
    /// The credentials cannot be used for QUIC.
    #[error("TLS cannot be set up: {err}; issue the credentials again with `quorate certs issue`")]
    Tls {
        /// rustls' reason.
        #[source]
        err: rustls::Error,
    },
}

/// Who cannot be in the address book of a node, client, reader or admin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{identity} is not another node of our cluster; only such can be dialled")]
pub struct NotAPeer {
    /// Who was to be.
    pub identity: Identity,
}

/// What is to be done, where the system's words do not say it.
fn advice(err: &io::Error) -> &'static str {
    match err.kind() {
        io::ErrorKind::AddrInUse => "; another process uses the port",
        io::ErrorKind::AddrNotAvailable => "; give an address of this machine",
        io::ErrorKind::PermissionDenied => "; give a port from 1024 on",
        _ => "",
    }
}

/// Typed messages between verified identities over QUIC. Cheap to clone; when the last clone is
/// dropped without [`Transport::shutdown`], connections are closed at once.
#[derive(Debug, Clone)]
pub struct Transport {
    handle: Arc<Handle>,
}

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tells the end of the last `Transport` from that of the tasks, which hold `Shared` as well.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    /// Work to be spawned inside the runtime, asked for from anywhere.
    jobs: Sender<Job>,
    /// Closed when quinn has let go of the socket.
    socket_free: Mutex<Receiver<Infallible>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.abort();
    }
}

impl Transport {
    /// Binds a UDP socket and starts to serve. With tokio's runtime, call it inside tokio.
    ///
    /// # Errors
    /// A wrong configuration, an address in use, unusable credentials.
    pub fn bind(
        config: Config,
        credentials: Credentials,
        runtime: Arc<dyn Runtime>,
    ) -> Result<(Self, Inbox), BindError> {
        config.validate()?;
        let addr = config.listen;
        let failed = |err| BindError::Socket { addr, err };
        let socket = config
            .environment
            .bind(addr, config.socket_buffer_bytes, &*runtime)
            .map_err(failed)?;
        Self::bind_with_socket(config, credentials, runtime, socket)
    }

    /// As [`Transport::bind`], over a socket of the caller's, for simulated networks.
    /// `config.listen` has no effect.
    ///
    /// # Errors
    /// As [`Transport::bind`].
    pub fn bind_with_socket(
        config: Config,
        credentials: Credentials,
        runtime: Arc<dyn Runtime>,
        socket: Arc<dyn AsyncUdpSocket>,
    ) -> Result<(Self, Inbox), BindError> {
        config.validate()?;
        let addr = config.listen;
        let failed = |err| BindError::Socket { addr, err };
        let (socket, socket_free) = Watched::new(socket);
        let local_addr = socket.local_addr().map_err(failed)?;
        let rng = Arc::new(Rng::new(config.seed));
        let [dialled, accepted] =
            [Side::Client, Side::Server].map(|side| quic::transport_config(&config.timings, side));
        let (crypto, _) =
            tls::server(&credentials, &config.environment).map_err(|err| BindError::Tls { err })?;
        let accepts = config.accept && credentials.identity().role() == Role::Node;
        // Handshakes bring their own copy with their own verifier; this one lets them begin.
        let server = accepts.then(|| quic::server_config(&config, crypto, Arc::clone(&accepted)));
        let endpoint = Endpoint::new_with_abstract_socket(
            quic::endpoint_config(&config, &rng),
            server,
            socket,
            Arc::clone(&runtime),
        )
        .map_err(failed)?;
        let (sender, inbox) = inbox(&config.limits);
        let shared = Shared::new(
            config,
            credentials,
            runtime,
            rng,
            sender,
            [dialled, accepted],
            endpoint.clone(),
            local_addr,
        );
        let jobs = start(&shared, endpoint, accepts);
        info!(node = %shared.identity, addr = %local_addr, accepts, "transport is up");
        let handle = Handle {
            shared,
            jobs,
            socket_free: Mutex::new(socket_free),
        };
        Ok((
            Self {
                handle: Arc::new(handle),
            },
            inbox,
        ))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// The address of the socket, with the port the system chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.shared().local_addr
    }

    /// Who we are.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.shared().identity
    }

    /// The key, certificate and roots that new connections are made with.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.shared().own.current().credentials
    }

    /// Takes other credentials of the same identity from now on: a renewed certificate, other roots.
    ///
    /// Connections that are open stay, unless their peer's certificate is not good by the new roots: they
    /// are closed with [`CloseCode::REVOKED`]. What a peer has seen of our own certificate counts there
    /// until it ends; then the peer closes with [`CloseCode::EXPIRED`], and the next connection brings the
    /// new one.
    ///
    /// # Errors
    /// [`OtherIdentity`]; nothing has changed then.
    pub fn replace_credentials(&self, new: Credentials) -> Result<(), OtherIdentity> {
        self.shared().own.replace(new)?;
        for link in self.shared().links() {
            // Whoever was refused with the old ones need not wait to try the new.
            link.change(|state| state.dial_generation += 1);
        }
        info!(node = %self.identity(), "credentials replaced");
        Ok(())
    }

    /// Enters a node into the address book: it is dialled until connected, for ever, with
    /// jittered backoff, its addresses tried in turn. Setting other addresses replaces the old
    /// ones and dials at once; a connection that is up stays. No addresses: it is known but not
    /// dialled.
    ///
    /// # Errors
    /// Only other nodes of our cluster can be dialled; nothing has changed then.
    pub fn set_peer(&self, identity: Identity, addrs: Vec<SocketAddr>) -> Result<(), NotAPeer> {
        let own = self.identity();
        if identity.role() != Role::Node || identity.cluster != own.cluster || identity == *own {
            return Err(NotAPeer { identity });
        }
        self.shared().node(Arc::new(identity)).change(|state| {
            if state.addrs != addrs {
                state.addrs = addrs;
                state.dial_generation += 1;
            }
        });
        self.shared().signal.notify();
        Ok(())
    }

    /// Takes a node out of the address book and closes its connection with
    /// [`CloseCode::REMOVED`]. It may dial us again; [`Admit`](crate::Admit) decides about that.
    pub fn remove_peer(&self, identity: &Identity) {
        let Some(link) = lock(&self.shared().nodes).remove(identity) else {
            return;
        };
        let current = link.change(|state| {
            state.removed = true;
            state.addrs.clear();
            state.current.clone()
        });
        if let Some(current) = current {
            current.close(Refused::new(
                CloseCode::REMOVED,
                "removed from the address book",
            ));
        }
    }

    /// A handle to a node that was set, or that has connected to us. Never dials.
    #[must_use]
    pub fn peer(&self, identity: &Identity) -> Option<Peer> {
        let link = lock(&self.shared().nodes).get(identity).map(Arc::clone)?;
        Some(Peer::new(Arc::clone(self.shared()), link))
    }

    /// The state of every known node, by identity.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let links: Vec<_> = lock(&self.shared().nodes)
            .values()
            .map(Arc::clone)
            .collect();
        links.iter().map(PeerStatus::of).collect()
    }

    /// A handle for every connection of a client, a reader or an admin, for what they are told unasked.
    #[must_use]
    pub fn clients(&self) -> Vec<Peer> {
        let links = self.shared().links();
        let clients = links.into_iter().filter(|link| !link.is_node());
        clients
            .map(|link| Peer::new(Arc::clone(self.shared()), link))
            .collect()
    }

    /// Connections of clients, readers and admins.
    #[must_use]
    pub fn client_connections(&self) -> usize {
        self.shared()
            .links()
            .iter()
            .filter(|link| !link.is_node())
            .count()
    }

    /// Orderly end: refuses newcomers and new messages, delivers what is queued and answers what
    /// was asked as long as `within` allows, closes every connection with
    /// [`CloseCode::SHUTDOWN`], and waits until the port is free. Must be awaited while the
    /// runtime runs. Afterwards the [`Inbox`] gives what it still has and then ends.
    pub async fn shutdown(&self, within: Duration) {
        let shared = Arc::clone(self.shared());
        let (done, finished) = async_channel::bounded::<Infallible>(1);
        let socket_free = lock(&self.handle.socket_free).clone();
        // Timers may be made on the runtime only, and this may be awaited anywhere.
        let job = Box::pin(wind_up(shared, within, socket_free, done));
        let _ = self.handle.jobs.send(job).await;
        let _ = finished.recv().await;
    }

    /// Ends at once, as if the last clone were dropped: connections are closed, and what is queued is lost. The
    /// port is free when the runtime has come to it, or has ended.
    pub fn abort(&self) {
        self.shared().abort();
    }
}

/// The root tasks. Everything else is spawned by one of them, inside the runtime.
fn start(shared: &Arc<Shared>, endpoint: Endpoint, accepts: bool) -> Sender<Job> {
    if accepts {
        shared
            .runtime
            .spawn(Box::pin(accept::run(Arc::clone(shared), endpoint)));
    }
    shared
        .runtime
        .spawn(Box::pin(dial::manage(Arc::clone(shared))));
    shared.runtime.spawn(Box::pin(sweep(Arc::clone(shared))));
    let recheck = credentials::recheck_for_ever(Arc::clone(shared));
    shared.runtime.spawn(Box::pin(recheck));
    let (jobs, wanted) = async_channel::bounded::<Job>(1);
    let runtime = Arc::clone(&shared.runtime);
    shared.runtime.spawn(Box::pin(async move {
        while let Ok(job) = wanted.recv().await {
            runtime.spawn(job);
        }
    }));
    jobs
}

async fn wind_up(
    shared: Arc<Shared>,
    time: Duration,
    socket_free: Receiver<Infallible>,
    done: Sender<Infallible>,
) {
    let runtime = Arc::clone(&shared.runtime);
    let began = runtime.now();
    shared.stop();
    let drained = within(&*runtime, time, deliver_everything(&shared))
        .await
        .is_some();
    for link in shared.links() {
        if let Some(current) = link.with(|state| state.current.clone()) {
            current.close(Refused::new(CloseCode::SHUTDOWN, "shutting down"));
        }
    }
    let left = time.saturating_sub(runtime.now() - began).max(CLOSE_MIN);
    let endpoint = lock(&shared.endpoint).take();
    if let Some(endpoint) = endpoint {
        endpoint.close(CloseCode::SHUTDOWN.wire(), b"shutting down");
        within(&*runtime, left, endpoint.wait_idle()).await;
    }
    within(&*runtime, left, async { socket_free.recv().await.is_err() }).await;
    shared.finish();
    debug!(node = %shared.identity, drained, "transport is down");
    drop(done);
}

/// Queues empty, calls answered in both directions, lanes finished and acknowledged.
async fn deliver_everything(shared: &Shared) {
    let runtime = &*shared.runtime;
    while !shared.links().iter().all(|link| is_quiet(link)) {
        sleep(runtime, DRAIN_POLL).await;
    }
    for link in shared.links() {
        link.outbox.detach();
    }
    while !shared.links().iter().all(|link| is_delivered(link)) {
        sleep(runtime, DRAIN_POLL).await;
    }
}

fn is_quiet(link: &Link) -> bool {
    match link.with(|state| state.current.clone()) {
        Some(current) => {
            link.outbox.is_empty() && link.pending.is_empty() && current.in_flight.count() == 0
        }
        None => true,
    }
}

fn is_delivered(link: &Link) -> bool {
    match link.with(|state| state.current.clone()) {
        Some(current) => current.progress.state().lanes_written == link.lanes.len(),
        None => true,
    }
}
