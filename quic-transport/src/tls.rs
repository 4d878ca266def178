//! Mutual TLS 1.3 in which `quorate_certs::Trust` decides, in both directions.

use std::sync::{Arc, Mutex};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quorate_certs::{Credentials, Identity, Verified, VerifyError};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

use crate::{
    environment::{Environment, TimeOfDay},
    planted,
    signal::lock,
};

/// Generation of the framing. Versions of messages are agreed in the hello instead.
pub(crate) const ALPN: &[u8] = b"quorate/1";

/// What our verifier found out in one handshake. rustls reduces it to an alert.
#[derive(Debug, Clone)]
pub(crate) enum Finding {
    Accepted(Verified),
    Refused(VerifyError),
    /// A good certificate of somebody else.
    WrongPeer(Identity),
}

/// Verifier and resolver of one handshake: made for each, so that its finding is its own.
#[derive(Debug)]
struct Handshake {
    credentials: Credentials,
    /// Whom the dialer wants.
    wanted: Option<Identity>,
    finding: Arc<Mutex<Option<Finding>>>,
}

/// Where the finding of a handshake appears.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings(Arc<Mutex<Option<Finding>>>);

impl Findings {
    pub(crate) fn take(&self) -> Option<Finding> {
        lock(&self.0).take()
    }
}

impl Handshake {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf)
            .chain(issuers)
            .map(|certificate| certificate.as_ref().into())
            .collect();
        let (finding, result) = match self.credentials.trust().verify(&chain, now) {
            Err(why) => (Finding::Refused(why.clone()), Err(why.into())),
            Ok(found) => match &self.wanted {
                Some(wanted)
                    if *wanted != found.identity && !planted::is("peer-name-not-checked") =>
                {
                    let refused = CertificateError::NotValidForName.into();
                    (Finding::WrongPeer(found.identity), Err(refused))
                }
                Some(_) | None => (Finding::Accepted(found), Ok(())),
            },
        };
        *lock(&self.finding) = Some(finding);
        result
    }
}

impl ClientCertVerifier for Handshake {
    fn client_auth_mandatory(&self) -> bool {
        !planted::is("client-certificate-optional")
    }

    /// No hints: the list of our CAs is nobody's business before the handshake.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, issuers, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.credentials.trust().verify_tls12_signature()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.credentials
            .trust()
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.credentials.trust().supported_verify_schemes()
    }
}

impl ServerCertVerifier for Handshake {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, issuers, now)?;
        // `Trust` has made sure that the DNS name says the same as the URI, and `verify` that the
        // URI is the wanted one; this ties both to the name the dial was made with.
        let wanted = self.wanted.as_ref().and_then(Identity::server_name);
        if wanted.as_deref() != Some(&*server_name.to_str()) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.credentials.trust().verify_tls12_signature()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.credentials
            .trust()
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.credentials.trust().supported_verify_schemes()
    }
}

impl ResolvesServerCert for Handshake {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.credentials.certified_key())
    }
}

impl ResolvesClientCert for Handshake {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.credentials.certified_key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn handshake(credentials: &Credentials, wanted: Option<Identity>) -> (Arc<Handshake>, Findings) {
    let findings = Findings::default();
    let finding = Arc::clone(&findings.0);
    (
        Arc::new(Handshake {
            credentials: credentials.clone(),
            wanted,
            finding,
        }),
        findings,
    )
}

/// For one inbound handshake. Tickets, stored sessions and early data are off: a resumed session
/// would copy the client's chain from the ticket and skip the verifier (rustls server/tls13.rs).
pub(crate) fn server(
    credentials: &Credentials,
    environment: &Arc<dyn Environment>,
) -> Result<(Arc<QuicServerConfig>, Findings), rustls::Error> {
    let (handshake, findings) = handshake(credentials, None);
    let verifier: Arc<dyn ClientCertVerifier> = Arc::<Handshake>::clone(&handshake);
    let time = Arc::new(TimeOfDay(Arc::clone(environment)));
    let mut config = rustls::ServerConfig::builder_with_details(environment.crypto(), time)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(handshake);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.max_early_data_size = 0;
    if !planted::is("tickets-given") {
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    let quic = QuicServerConfig::try_from(config).map_err(|err| no_initial_suite(&err))?;
    Ok((Arc::new(quic), findings))
}

/// For one dial to `wanted`.
pub(crate) fn client(
    credentials: &Credentials,
    environment: &Arc<dyn Environment>,
    wanted: &Identity,
) -> Result<(Arc<QuicClientConfig>, Findings), rustls::Error> {
    let (handshake, findings) = handshake(credentials, Some(wanted.clone()));
    let verifier: Arc<dyn ServerCertVerifier> = Arc::<Handshake>::clone(&handshake);
    let time = Arc::new(TimeOfDay(Arc::clone(environment)));
    let mut config = rustls::ClientConfig::builder_with_details(environment.crypto(), time)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(handshake);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_early_data = false;
    config.resumption = Resumption::disabled();
    // Node names stay out of the clear-text ClientHello; the name is checked all the same.
    config.enable_sni = false;
    let quic = QuicClientConfig::try_from(config).map_err(|err| no_initial_suite(&err))?;
    Ok((Arc::new(quic), findings))
}

fn no_initial_suite(err: &quinn::crypto::rustls::NoInitialCipherSuite) -> rustls::Error {
    rustls::Error::General(err.to_string())
}
