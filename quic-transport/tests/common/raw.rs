//! A peer written by hand against `docs/wire.md`, with nothing but quinn.

use std::{net::SocketAddr, sync::Arc};

use quorate_certs::{Credentials, provider};
use quorate_quic_transport::quinn::{self, Runtime};
use serde::Serialize;

use super::block_on;

/// The hello's body, in the order `docs/wire.md` gives.
#[derive(Clone, Serialize)]
pub struct Hello {
    pub cluster: String,
    pub identity: String,
    pub service: String,
    pub service_min: u16,
    pub service_max: u16,
    pub store_id: u128,
    pub boot: u64,
    pub progress: u128,
    pub origin: u64,
    pub process: u64,
    pub frame_bytes_max: [u32; 4],
    pub calls_in_flight_max: u32,
}

impl Hello {
    pub fn of(credentials: &Credentials) -> Self {
        Self {
            cluster: "c1".into(),
            identity: credentials.identity().uri(),
            service: "test".into(),
            service_min: 1,
            service_max: 1,
            store_id: 1,
            boot: 1,
            progress: 0,
            origin: 0,
            process: 0,
            frame_bytes_max: [1 << 16; 4],
            calls_in_flight_max: 10,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).unwrap();
        let length = (body.len() as u16).to_le_bytes();
        [&b"QRTE\x01\x01"[..], &length, &body].concat()
    }
}

/// A connection without our transport on this side.
pub struct Raw {
    pub endpoint: quinn::Endpoint,
    pub connection: quinn::Connection,
}

impl Raw {
    /// TLS only; nothing is said yet.
    pub fn connect(to: SocketAddr, credentials: &Credentials, runtime: &Arc<dyn Runtime>) -> Self {
        Self::dial(to, tls(credentials), runtime).unwrap()
    }

    /// As far as TLS comes with `tls`. A dialer has finished before the acceptor has judged it.
    pub fn dial(
        to: SocketAddr,
        tls: rustls::ClientConfig,
        runtime: &Arc<dyn Runtime>,
    ) -> Result<Self, quinn::ConnectionError> {
        let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(quic));
        let endpoint = endpoint(None, runtime);
        let connecting = endpoint.connect_with(config, to, "n1.c1.quorate.invalid");
        let connection = block_on(connecting.unwrap())?;
        Ok(Self {
            endpoint,
            connection,
        })
    }

    /// Hello and welcome; returns the welcome's bytes.
    pub fn greet(&self, hello: &[u8]) -> Result<Vec<u8>, quinn::ReadToEndError> {
        block_on(async {
            let lost = |error| quinn::ReadError::ConnectionLost(error);
            let (mut send, mut receive) = self.connection.open_bi().await.map_err(lost)?;
            // Whoever does not want to hear it says so in what is read.
            let _ = send.write_all(hello).await;
            let _ = send.finish();
            receive.read_to_end(2000).await
        })
    }

    pub fn write_lane(&self, bytes: &[u8]) -> quinn::SendStream {
        block_on(async {
            let mut lane = self.connection.open_uni().await.unwrap();
            lane.write_all(bytes).await.unwrap();
            lane
        })
    }

    /// The TLS alert it was closed with.
    pub fn alert(&self) -> u8 {
        alert(&block_on(self.connection.closed()))
    }

    /// The application code it was closed with.
    pub fn closed_with(&self) -> u64 {
        match block_on(self.connection.closed()) {
            quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
            other => panic!("closed otherwise: {other}"),
        }
    }
}

/// What an honest peer of these credentials brings to a handshake.
pub fn tls(credentials: &Credentials) -> rustls::ClientConfig {
    let key = (*credentials.certified_key()).clone();
    let resolver = rustls::sign::SingleCertAndKey::from(key);
    let mut tls = verifying(credentials).with_client_cert_resolver(Arc::new(resolver));
    tls.alpn_protocols = vec![b"quorate/1".to_vec()];
    tls
}

/// TLS that trusts whom `credentials` trust, and does not yet say who it is itself.
pub fn verifying(
    credentials: &Credentials,
) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = rustls::RootCertStore::empty();
    for root in credentials.trust().roots() {
        roots.add(root.clone()).unwrap();
    }
    rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
}

/// A socket of its own, which accepts when `server` is given.
pub fn endpoint(
    server: Option<quinn::ServerConfig>,
    runtime: &Arc<dyn Runtime>,
) -> quinn::Endpoint {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = runtime.wrap_udp_socket(socket).unwrap();
    let config = quinn::EndpointConfig::default();
    quinn::Endpoint::new_with_abstract_socket(config, server, socket, Arc::clone(runtime)).unwrap()
}

/// The TLS alert that ended a connection.
pub fn alert(error: &quinn::ConnectionError) -> u8 {
    let code = match error {
        quinn::ConnectionError::ConnectionClosed(close) => close.error_code,
        quinn::ConnectionError::TransportError(error) => error.code,
        other => panic!("no alert: {other}"),
    };
    u8::try_from(u64::from(code) - 0x100).unwrap()
}

/// A frame on the control lane, by hand.
pub fn frame(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = (13 + body.len() as u32).to_le_bytes();
    let kind = kind.to_le_bytes();
    [&length[..], &[1, 0], &kind, &[1], &[0; 8], body].concat()
}
