//! A peer with a good certificate and intentions of its own, written against `docs/wire.md` with
//! nothing but quinn: no check of the product's own sending side stands before what it sends.

use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use async_io::Timer;
use futures_lite::future;
use quorate::kv::{Request, Response};
use quorate_certs::{Credentials, Identity, Subject, provider};
use quorate_quic_transport::Message;
use quorate_quic_transport::quinn::{self, Runtime, rustls};
use serde::Serialize;

use crate::wait::PATIENCE;

/// The lanes by their numbers on the wire (`docs/wire.md`, section 3).
pub const CONTROL: u8 = 0;
/// See [`CONTROL`].
pub const APPEND: u8 = 1;
/// See [`CONTROL`].
pub const CALL: u8 = 2;
/// See [`CONTROL`].
pub const REPLY: u8 = 3;

/// The kind of Raft's messages between nodes.
pub const RAFT: u16 = 0x0001;

/// The hello's body, in the order `docs/wire.md` gives.
#[derive(Serialize)]
struct Hello {
    cluster: String,
    identity: String,
    service: &'static str,
    service_min: u16,
    service_max: u16,
    store_id: u128,
    boot: u64,
    progress: u128,
    origin: u64,
    process: u64,
    frame_bytes_max: [u32; 4],
    calls_in_flight_max: u32,
}

/// A connection that has been welcomed. Dropping it closes it.
pub struct Raw {
    connection: quinn::Connection,
    /// Those of the peer that are not read. Dropping them would tell it so.
    unread: Vec<quinn::RecvStream>,
    replies: Option<quinn::RecvStream>,
    calls: u64,
    /// Last: it has to outlive the connection.
    _endpoint: quinn::Endpoint,
}

/// A lane opened by us.
pub struct Lane(quinn::SendStream);

impl Raw {
    /// Connects to node `to` at `address` with the certificate in `credentials`.
    ///
    /// # Panics
    ///
    /// When the node does not welcome it.
    #[must_use]
    pub fn connect(
        to: u64,
        address: SocketAddr,
        credentials: &Credentials,
        runtime: &Arc<dyn Runtime>,
    ) -> Self {
        let (endpoint, connecting) = dial(1, to, address, credentials, runtime);
        let connection = block_on(connecting).expect("TLS succeeds");
        let raw = Self {
            connection,
            unread: Vec::new(),
            replies: None,
            calls: 0,
            _endpoint: endpoint,
        };
        raw.greet(credentials);
        raw
    }

    fn greet(&self, credentials: &Credentials) {
        let identity = credentials.identity();
        let hello = Hello {
            cluster: identity.cluster.to_string(),
            identity: identity.uri(),
            service: "quorate",
            service_min: 1,
            service_max: 1,
            store_id: 1,
            boot: 1,
            progress: 0,
            origin: 0,
            process: 0,
            frame_bytes_max: [1 << 20; 4],
            calls_in_flight_max: 10,
        };
        let body = postcard::to_stdvec(&hello).expect("a hello");
        let length = u16::try_from(body.len()).expect("a short one");
        let hello = [&b"QRTE\x01\x01"[..], &length.to_le_bytes(), &body].concat();
        let welcome = block_on(async {
            let (mut send, mut receive) = self.connection.open_bi().await.expect("a stream");
            send.write_all(&hello).await.expect("a hello is read");
            let _ = send.finish();
            receive.read_to_end(2_000).await.expect("a welcome")
        });
        assert_eq!(&welcome[..4], b"QRTE");
    }

    /// Opens a lane; `number` may be any.
    #[must_use]
    pub fn lane(&self, number: u8) -> Lane {
        let stream = block_on(self.connection.open_uni()).expect("a stream");
        let mut lane = Lane(stream);
        lane.write(&[number]);
        lane
    }

    /// Asks on `calls`, which is the call lane, and waits for the answer.
    ///
    /// # Panics
    ///
    /// When the answer is not a [`Response`].
    pub fn ask(&mut self, calls: &mut Lane, request: &Request) -> Response {
        let body = postcard::to_stdvec(request).expect("encodable");
        self.ask_bytes(calls, Request::KIND, &body)
    }

    /// The same with any kind and body.
    ///
    /// # Panics
    ///
    /// When the answer is not a [`Response`].
    pub fn ask_bytes(&mut self, calls: &mut Lane, kind: u16, body: &[u8]) -> Response {
        self.calls += 1;
        let call = self.calls;
        calls.write(&frame(1, kind, Some(call), body));
        let answer = block_on(self.next_reply());
        // Version, shape, kind, version of the kind, group, call id (section 4).
        let (header, body) = answer.split_at(21);
        assert_eq!(header[1], 2, "a response");
        assert_eq!(header[2..4], Response::KIND.to_le_bytes());
        assert_eq!(header[13..], call.to_le_bytes());
        postcard::from_bytes(body).expect("a response")
    }

    /// Asks on `calls` and does not wait for the answer, nor read it.
    pub fn ask_in_vain(&mut self, calls: &mut Lane, request: &Request) {
        let body = postcard::to_stdvec(request).expect("encodable");
        self.calls += 1;
        calls.write(&frame(1, Request::KIND, Some(self.calls), &body));
    }

    async fn next_reply(&mut self) -> Vec<u8> {
        let mut replies = match self.replies.take() {
            Some(replies) => replies,
            None => self.find_replies().await,
        };
        let mut length = [0; 4];
        replies.read_exact(&mut length).await.expect("a length");
        let mut frame = vec![0; u32::from_le_bytes(length) as usize];
        replies.read_exact(&mut frame).await.expect("a frame");
        self.replies = Some(replies);
        frame
    }

    async fn find_replies(&mut self) -> quinn::RecvStream {
        loop {
            let mut stream = self.connection.accept_uni().await.expect("a lane");
            let mut number = [0];
            stream.read_exact(&mut number).await.expect("its number");
            if number == [REPLY] {
                return stream;
            }
            self.unread.push(stream);
        }
    }

    /// Opens and resets streams until the peer closes the connection.
    pub fn flood_with_streams(&self) {
        while let Ok(mut stream) = block_on(self.connection.open_uni()) {
            let _ = stream.reset(0u32.into());
        }
    }

    /// The application code with which the peer closes the connection.
    ///
    /// # Panics
    ///
    /// When it ends otherwise, or not at all.
    #[must_use]
    pub fn closed_with(&self) -> u64 {
        match block_on(self.connection.closed()) {
            quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
            other => panic!("closed otherwise: {other}"),
        }
    }

    /// Whether the connection still is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.connection.close_reason().is_none()
    }
}

impl Lane {
    /// Writes of `bytes` what the peer takes within `time`.
    pub fn write_some(&mut self, bytes: &[u8], time: Duration) {
        let write = async {
            let _ = self.0.write_all(bytes).await;
        };
        let late = async {
            Timer::after(time).await;
        };
        async_io::block_on(future::or(write, late));
    }

    /// Writes `bytes`; that the peer closed the connection meanwhile is no error.
    pub fn write(&mut self, bytes: &[u8]) {
        let _ = block_on(self.0.write_all(bytes));
    }
}

/// Whether node `to` ends the connection of somebody whose certificate comes `copies` times, and who says nothing,
/// for its handshake, and not for the silence.
#[must_use]
pub fn is_cut_off_with(
    copies: usize,
    to: u64,
    address: SocketAddr,
    credentials: &Credentials,
    runtime: &Arc<dyn Runtime>,
) -> bool {
    let (_endpoint, connecting) = dial(copies, to, address, credentials, runtime);
    // TLS 1.3: the dialer is done before the acceptor has seen its certificate.
    let end = block_on(async {
        match connecting.await {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        }
    });
    matches!(end, quinn::ConnectionError::ConnectionClosed(_))
}

fn dial(
    copies: usize,
    to: u64,
    address: SocketAddr,
    credentials: &Credentials,
    runtime: &Arc<dyn Runtime>,
) -> (quinn::Endpoint, quinn::Connecting) {
    let endpoint = endpoint(runtime);
    let config = tls(credentials, copies);
    let connecting = endpoint.connect_with(config, address, &server_name(to, credentials));
    let connecting = connecting.expect("it is configured");
    (endpoint, connecting)
}

/// The first packets of `count` handshakes with node `to`, which nobody goes on with.
#[must_use]
pub fn first_packets(
    count: usize,
    to: u64,
    credentials: &Credentials,
    runtime: &Arc<dyn Runtime>,
) -> Vec<Vec<u8>> {
    let decoy = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    decoy.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let at = decoy.local_addr().expect("it is bound");
    let endpoint = endpoint(runtime);
    let name = server_name(to, credentials);
    let packets = (0..count).map(|_| {
        let connecting = endpoint.connect_with(tls(credentials, 1), at, &name);
        let mut packet = vec![0; 2_000];
        let length = decoy.recv(&mut packet).expect("a packet");
        packet.truncate(length);
        drop(connecting);
        packet
    });
    packets.collect()
}

fn endpoint(runtime: &Arc<dyn Runtime>) -> quinn::Endpoint {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let socket = runtime.wrap_udp_socket(socket).expect("a socket");
    quinn::Endpoint::new_with_abstract_socket(
        quinn::EndpointConfig::default(),
        None,
        socket,
        Arc::clone(runtime),
    )
    .expect("an endpoint")
}

fn server_name(node: u64, credentials: &Credentials) -> String {
    let subject = Subject::node(node).expect("not zero");
    let wanted = Identity::new(credentials.identity().cluster.clone(), subject);
    wanted.server_name().expect("nodes have one")
}

/// A message of one way.
#[must_use]
pub fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    frame(0, kind, None, body)
}

fn frame(shape: u8, kind: u16, call: Option<u64>, body: &[u8]) -> Vec<u8> {
    let call = call.map(u64::to_le_bytes);
    let call = call.as_ref().map_or(&[][..], |call| &call[..]);
    let length = u32::try_from(13 + call.len() + body.len()).expect("no test sends 4 GiB");
    let head = [&length.to_le_bytes()[..], &[1, shape], &kind.to_le_bytes()].concat();
    [&head[..], &[1], &[0; 8], call, body].concat()
}

fn tls(credentials: &Credentials, copies: usize) -> quinn::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    for root in credentials.trust().roots() {
        roots.add(root.clone()).expect("a root");
    }
    let mut key = (*credentials.certified_key()).clone();
    key.cert = vec![key.cert; copies].concat();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
    tls.alpn_protocols = vec![b"quorate/1".to_vec()];
    let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("QUIC's cipher");
    quinn::ClientConfig::new(Arc::new(quic))
}

/// With a limit, so that a fault is a failure and not a hang.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let late = async {
        Timer::after(PATIENCE).await;
        panic!("nothing happened for {PATIENCE:?}")
    };
    async_io::block_on(future::or(future, late))
}
