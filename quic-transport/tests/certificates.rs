//! The matrix of certificates that are not good enough, presented by whoever dials and by whoever is
//! dialled, in a handshake by hand; and what TLS must not offer to anyone.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod common;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use common::raw::{Hello, Raw, alert, endpoint, tls, verifying};
use common::*;
use quorate_certs::{
    Ca, CaOptions, ClusterName, Credentials, IssueOptions, Issued, Subject, provider,
};
use quorate_quic_transport::{
    Config, Inbound, Instance,
    quinn::{self, Runtime},
};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose as Usage, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::sign::CertifiedKey;

const HOUR: Duration = Duration::from_secs(3600);

/// TLS alerts (RFC 8446, section 6).
const NO_APPLICATION_PROTOCOL: u8 = 120;
const CERTIFICATE_REQUIRED: u8 = 116;
const DECRYPT_ERROR: u8 = 51;

/// A CA of cluster c1 whose key a test can use behind its back.
struct Forger {
    ca: Ca,
    key: String,
    /// Where the CA notes what it issues.
    _folder: tempfile::TempDir,
}

impl Forger {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("ca");
        let name = ClusterName::new("c1").unwrap();
        let ca = Ca::create(&folder, &name, &CaOptions::default()).unwrap();
        let key = std::fs::read_to_string(folder.join("ca.key")).unwrap();
        Self {
            ca,
            key,
            _folder: directory,
        }
    }

    fn issue(&self, node: u64, options: &IssueOptions) -> Issued {
        self.ca
            .issue(&Subject::node(node).unwrap(), options)
            .unwrap()
    }

    fn credentials(&self, node: u64) -> Credentials {
        let issued = self.issue(node, &IssueOptions::default());
        issued.credentials().unwrap()
    }

    /// The certificate of node 2, changed by `edit`.
    fn forge(&self, edit: impl FnOnce(&mut CertificateParams)) -> CertifiedKey {
        let key = KeyPair::from_pem(&self.key).unwrap();
        let issuer = Issuer::from_ca_cert_der(self.ca.certificate(), key).unwrap();
        let (mut params, key) = (node_2(), KeyPair::generate().unwrap());
        edit(&mut params);
        let leaf = params.signed_by(&key, &issuer).unwrap();
        certified(vec![leaf.into()], &key.serialize_pem())
    }
}

fn node_2() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![
        SanType::URI("spiffe://c1/node/2".try_into().unwrap()),
        SanType::DnsName("n2.c1.quorate.invalid".try_into().unwrap()),
    ];
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![Usage::ServerAuth, Usage::ClientAuth];
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + HOUR).into();
    params
}

fn certified(chain: Vec<CertificateDer<'static>>, key_pem: &str) -> CertifiedKey {
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
    let key = provider().key_provider.load_private_key(key).unwrap();
    CertifiedKey::new(chain, key)
}

fn issued(issued: &Issued) -> CertifiedKey {
    let chain = CertificateDer::pem_slice_iter(issued.certificate_pem().as_bytes());
    certified(chain.collect::<Result<_, _>>().unwrap(), issued.key_pem())
}

/// Every certificate that must not pass for node 2 of c1, with what is wrong in a word that the refusal
/// says.
fn bad_certificates(forger: &Forger) -> Vec<(&'static str, CertifiedKey, &'static str)> {
    let at = |now| IssueOptions {
        now,
        life: Some(HOUR),
    };
    let self_signed = {
        let key = KeyPair::generate().unwrap();
        let leaf = node_2().self_signed(&key).unwrap();
        certified(vec![leaf.into()], &key.serialize_pem())
    };
    let by_a_leaf = {
        let signer = forger.issue(3, &IssueOptions::default());
        let key = KeyPair::from_pem(signer.key_pem()).unwrap();
        let chain = issued(&signer).cert;
        let issuer = Issuer::from_ca_cert_der(&chain[0], key).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = node_2().signed_by(&key, &issuer).unwrap();
        certified(vec![leaf.into(), chain[0].clone()], &key.serialize_pem())
    };
    let long = {
        let good = forger.forge(|_| {});
        let chain = vec![good.cert[0].clone(); 50];
        CertifiedKey::new(chain, good.key)
    };
    let ca = certified(vec![forger.ca.certificate().clone()], &forger.key);
    let (namesake, other) = (Cluster::new(), Cluster::named("c2"));
    let node = |cluster: &Cluster| {
        let subject = Subject::node(2).unwrap();
        issued(
            &cluster
                .ca
                .issue(&subject, &IssueOptions::default())
                .unwrap(),
        )
    };
    let with_usages = |usages: &[Usage]| {
        let usages = usages.to_vec();
        forger.forge(|params| params.extended_key_usages = usages)
    };
    vec![
        ("j2 self-signed", self_signed, ""),
        (
            "j3 another CA of the name",
            node(&namesake),
            "not signed by its key",
        ),
        (
            "j4 expired",
            issued(&forger.issue(2, &at(SystemTime::now() - 2 * HOUR))),
            "expired",
        ),
        (
            "j5 not yet valid",
            issued(&forger.issue(2, &at(SystemTime::now() + HOUR))),
            "valid only from",
        ),
        ("j8 another cluster", node(&other), "c1"),
        (
            "j12 for servers only",
            with_usages(&[Usage::ServerAuth]),
            "clientAuth",
        ),
        (
            "j12 for clients only",
            with_usages(&[Usage::ClientAuth]),
            "serverAuth",
        ),
        ("j12 for nothing", with_usages(&[]), "clientAuth"),
        ("j13 the CA itself", ca, "CA"),
        ("j14 signed by a leaf", by_a_leaf, ""),
        (
            "j20 a wildcard",
            forger.forge(wildcard),
            "c1.quorate.invalid",
        ),
        ("i14 fifty certificates", long, "certificates"),
        ("i14 two thousand names", forger.forge(many_names), ""),
    ]
}

fn wildcard(params: &mut CertificateParams) {
    params.subject_alt_names[1] = SanType::DnsName("*.c1.quorate.invalid".try_into().unwrap());
}

fn many_names(params: &mut CertificateParams) {
    for n in 0..2_000 {
        let name = format!("n{n}.c1.quorate.invalid");
        params
            .subject_alt_names
            .push(SanType::DnsName(name.try_into().unwrap()));
    }
}

/// TLS of a dialer that presents `key`.
fn presenting(key: CertifiedKey, trusted: &Credentials) -> rustls::ClientConfig {
    let resolver = rustls::sign::SingleCertAndKey::from(key);
    let mut tls = verifying(trusted).with_client_cert_resolver(Arc::new(resolver));
    tls.alpn_protocols = vec![b"quorate/1".to_vec()];
    tls
}

/// A node that is dialled with a bad certificate says no with a TLS alert, and nobody was ever there.
#[test]
fn j2_j3_j4_j5_j8_j12_j13_j14_j20_i14_bad_dialers_are_refused() {
    Warnings::collect();
    on_io_thread(|runtime| {
        let forger = Forger::new();
        let (own, node_2) = (forger.credentials(1), forger.credentials(2));
        let mut acceptor = Program::start(config(), own.clone(), Arc::clone(runtime));
        let to = acceptor.transport.local_addr();
        for (case, key, _) in bad_certificates(&forger) {
            let ended = match Raw::dial(to, presenting(key, &own), runtime) {
                Ok(raw) => {
                    // The hello is true, so that only the certificate is wrong.
                    let greeted = raw.greet(&Hello::of(&node_2).bytes());
                    assert!(greeted.is_err(), "{case}: welcomed");
                    block_on(raw.connection.closed())
                }
                Err(error) => error,
            };
            // Any of TLS, and none of ours: it was not heard.
            let alert = alert(&ended);
            assert!((42..=50).contains(&alert), "{case}: alert {alert}");
            assert!(acceptor.inbox.try_recv().is_none(), "{case}: Up");
        }
        Warnings::wait_for(&["inbound handshake failed", "certificate"]);

        // The control: the forgery that all of them are made of passes, unchanged.
        let good = presenting(forger.forge(|_| {}), &own);
        let raw = Raw::dial(to, good, runtime).unwrap();
        raw.greet(&Hello::of(&node_2).bytes()).unwrap();
        acceptor.next_up();
        drop(raw);
        acceptor.shutdown();
    });
}

/// A node refuses whoever presents a bad certificate at the address that it dials, says why, and says
/// nothing else.
#[test]
fn j2_j3_j4_j5_j8_j12_j13_j14_j20_i14_bad_listeners_are_refused() {
    on_io_thread(|runtime| {
        let forger = Forger::new();
        let wanted = forger.credentials(2).identity().clone();
        for (case, key, words) in bad_certificates(&forger) {
            let (listener, addr) = listener(key, runtime);
            let mut dialer = Program::start(config(), forger.credentials(1), Arc::clone(runtime));
            dialer
                .transport
                .set_peer(wanted.clone(), vec![addr])
                .unwrap();
            let incoming = block_on(listener.accept()).unwrap();
            let ended = match block_on(async { incoming.accept().unwrap().await }) {
                Ok(connection) => {
                    assert!(block_on(connection.accept_bi()).is_err(), "{case}: a hello");
                    block_on(connection.closed())
                }
                Err(error) => error,
            };
            let alert = alert(&ended);
            assert!((42..=50).contains(&alert), "{case}: alert {alert}");
            let told = dialer.last_error(&wanted);
            assert!(
                told.contains("we refused the certificate"),
                "{case}: {told}"
            );
            assert!(told.contains(words), "{case}: {words:?} is not in {told}");
            assert!(dialer.inbox.try_recv().is_none(), "{case}: Up");
            dialer.shutdown();
        }

        // The control: with the unchanged forgery, the hello comes.
        let (listener, addr) = listener(forger.forge(|_| {}), runtime);
        let dialer = Program::start(config(), forger.credentials(1), Arc::clone(runtime));
        dialer.transport.set_peer(wanted, vec![addr]).unwrap();
        let hello = block_on(async {
            let incoming = listener.accept().await.unwrap();
            let connection = incoming.accept().unwrap().await.unwrap();
            let mut hello = connection.accept_bi().await.unwrap().1;
            let mut magic = [0; 4];
            hello.read_exact(&mut magic).await.unwrap();
            magic
        });
        assert_eq!(&hello, b"QRTE");
        dialer.shutdown();
    });
}

/// The good certificate of node 2, which is no secret, with a key of whoever has copied it; and, as the
/// control, with its own.
fn copied_and_true(forger: &Forger) -> [CertifiedKey; 2] {
    let (own, other) = (forger.forge(|_| {}), forger.forge(|_| {}));
    // rustls does not compare the two.
    [CertifiedKey::new(own.cert.clone(), other.key), own]
}

/// Whoever dials with a certificate must have its key: everybody who ever met node 2 has the certificate.
#[test]
fn a_dialer_without_the_key_of_its_certificate_is_refused() {
    on_io_thread(|runtime| {
        let forger = Forger::new();
        let (own, node_2) = (forger.credentials(1), forger.credentials(2));
        let hello = Hello::of(&node_2).bytes();
        let mut acceptor = Program::start(config(), own.clone(), Arc::clone(runtime));
        let to = acceptor.transport.local_addr();
        let [copied, good] = copied_and_true(&forger);
        // A dialer has finished before it is judged.
        let raw = Raw::dial(to, presenting(copied, &own), runtime).unwrap();
        assert!(raw.greet(&hello).is_err(), "welcomed");
        assert_eq!(raw.alert(), DECRYPT_ERROR);
        assert!(acceptor.inbox.try_recv().is_none(), "Up");

        let raw = Raw::dial(to, presenting(good, &own), runtime).unwrap();
        raw.greet(&hello).unwrap();
        acceptor.next_up();
        drop(raw);
        acceptor.shutdown();
    });
}

/// Whoever is dialled must have the key of its certificate, too, and is told nothing otherwise.
#[test]
fn a_listener_without_the_key_of_its_certificate_is_refused() {
    on_io_thread(|runtime| {
        let forger = Forger::new();
        let wanted = forger.credentials(2).identity().clone();
        let [copied, good] = copied_and_true(&forger);
        for (key, is_true) in [(copied, false), (good, true)] {
            let (listener, addr) = listener(key, runtime);
            let dialer = Program::start(config(), forger.credentials(1), Arc::clone(runtime));
            dialer
                .transport
                .set_peer(wanted.clone(), vec![addr])
                .unwrap();
            let incoming = block_on(listener.accept()).unwrap();
            let heard = block_on(async {
                let connection = incoming.accept().unwrap().await?;
                connection.accept_bi().await.map(drop)
            });
            match heard {
                Ok(()) => assert!(is_true, "a hello"),
                Err(ended) => {
                    assert!(!is_true, "{ended}");
                    assert_eq!(alert(&ended), DECRYPT_ERROR);
                    let told = dialer.last_error(&wanted);
                    assert!(told.contains("BadSignature"), "{told}");
                }
            }
            dialer.shutdown();
        }
    });
}

/// A listener that presents `key`, asks for no certificate, and is otherwise as it should be.
fn listener(key: CertifiedKey, runtime: &Arc<dyn Runtime>) -> (quinn::Endpoint, SocketAddr) {
    let resolver = rustls::sign::SingleCertAndKey::from(key);
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    tls.alpn_protocols = vec![b"quorate/1".to_vec()];
    let quic = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let endpoint = endpoint(
        Some(quinn::ServerConfig::with_crypto(Arc::new(quic))),
        runtime,
    );
    let addr = endpoint.local_addr().unwrap();
    (endpoint, addr)
}

/// Whoever presents no certificate at all gets no further than TLS.
#[test]
fn j1_no_certificate_is_refused() {
    on_io_thread(|runtime| {
        let forger = Forger::new();
        let own = forger.credentials(1);
        let mut acceptor = Program::start(config(), own.clone(), Arc::clone(runtime));
        let mut tls = verifying(&own).with_no_client_auth();
        tls.alpn_protocols = vec![b"quorate/1".to_vec()];
        let raw = Raw::dial(acceptor.transport.local_addr(), tls, runtime).unwrap();
        assert!(raw.greet(&Hello::of(&own).bytes()).is_err());
        assert_eq!(raw.alert(), CERTIFICATE_REQUIRED);
        assert!(acceptor.inbox.try_recv().is_none());
        acceptor.shutdown();
    });
}

/// Another protocol, another version of ours, or none: refused by name. QUIC has no TLS before 1.3.
#[test]
fn j19_i17_unknown_protocols_are_refused() {
    on_io_thread(|runtime| {
        let forger = Forger::new();
        let acceptor = Program::start(config(), forger.credentials(1), Arc::clone(runtime));
        let to = acceptor.transport.local_addr();
        for protocols in [&[&b"h3"[..]][..], &[b"quorate/2"], &[b"quorate"], &[]] {
            let mut tls = tls(&forger.credentials(2));
            tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            let refused = Raw::dial(to, tls, runtime).err().expect("refused");
            assert_eq!(alert(&refused), NO_APPLICATION_PROTOCOL, "{protocols:?}");
        }
        // The control: among others, ours is found.
        let mut tls = tls(&forger.credentials(2));
        tls.alpn_protocols = vec![b"h3".to_vec(), b"quorate/1".to_vec()];
        assert!(Raw::dial(to, tls, runtime).is_ok());
        acceptor.shutdown();
    });
}

/// Keeps what a server offers for a later, shorter handshake.
#[derive(Debug, Default)]
struct Tickets(Mutex<usize>);

impl rustls::client::ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: rustls::pki_types::ServerName<'static>, _: rustls::NamedGroup) {}

    fn kx_hint(&self, _: &rustls::pki_types::ServerName<'_>) -> Option<rustls::NamedGroup> {
        None
    }

    fn set_tls12_session(
        &self,
        _: rustls::pki_types::ServerName<'static>,
        _: rustls::client::Tls12ClientSessionValue,
    ) {
    }

    fn tls12_session(
        &self,
        _: &rustls::pki_types::ServerName<'_>,
    ) -> Option<rustls::client::Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &rustls::pki_types::ServerName<'static>) {}

    fn insert_tls13_ticket(
        &self,
        _: rustls::pki_types::ServerName<'static>,
        _: rustls::client::Tls13ClientSessionValue,
    ) {
        *self.0.lock().unwrap() += 1;
    }

    fn take_tls13_ticket(
        &self,
        _: &rustls::pki_types::ServerName<'static>,
    ) -> Option<rustls::client::Tls13ClientSessionValue> {
        None
    }
}

/// How many tickets a dialer that wants them has been given once it has a welcome, or a first stream.
fn tickets(to: SocketAddr, credentials: &Credentials, runtime: &Arc<dyn Runtime>) -> usize {
    let store = Arc::new(Tickets::default());
    let mut tls = tls(credentials);
    tls.enable_early_data = true;
    tls.resumption = rustls::client::Resumption::store(Arc::<Tickets>::clone(&store));
    let raw = Raw::dial(to, tls, runtime).unwrap();
    let _ = raw.greet(&Hello::of(credentials).bytes());
    *store.0.lock().unwrap()
}

/// A node gives no tickets, so that every handshake is a full one in which the certificate is judged:
/// what was resumed would outlive its expiry (as CVE-2025-23419 did elsewhere).
#[test]
fn j18_nothing_can_be_resumed() {
    on_io_thread(|runtime| {
        let forger = Forger::new();
        let mut acceptor = Program::start(config(), forger.credentials(1), Arc::clone(runtime));
        let to = acceptor.transport.local_addr();
        for _ in 0..2 {
            assert_eq!(tickets(to, &forger.credentials(2), runtime), 0);
            acceptor.next_up();
            assert!(matches!(acceptor.next(), Inbound::Down { .. }));
        }
        acceptor.shutdown();

        // The control: rustls as it comes gives tickets, before the first answer of ours would come.
        let (listener, addr) =
            listener(issued(&forger.issue(1, &IssueOptions::default())), runtime);
        let (done, wait) = async_channel::bounded::<()>(1);
        let serving = listener.clone();
        runtime.spawn(Box::pin(async move {
            let incoming = serving.accept().await.unwrap();
            let connection = incoming.accept().unwrap().await.unwrap();
            let (mut send, _receive) = connection.accept_bi().await.unwrap();
            send.write_all(b"?").await.unwrap();
            let _ = send.finish();
            let _ = wait.recv().await;
        }));
        assert!(tickets(addr, &forger.credentials(2), runtime) > 0);
        drop(done);
    });
}

/// A new key for the same identity is welcome at the next connection; a new identity in the same place
/// is not, whatever store it brings.
#[test]
fn j21_a_new_key_is_welcome_and_a_new_identity_is_not() {
    on_io_thread(|runtime| {
        let forger = Forger::new();
        let mut one = Program::start(config(), forger.credentials(1), Arc::clone(runtime));
        let two = |credentials: Credentials, listen: SocketAddr, boot: u64| {
            let config = Config {
                listen,
                instance: Instance { store_id: 7, boot },
                ..config()
            };
            Program::start(config, credentials, Arc::clone(runtime))
        };
        let mut addr = SocketAddr::from(([127, 0, 0, 1], 0));
        for boot in 1..=2 {
            let two = two(forger.credentials(2), addr, boot);
            addr = two.transport.local_addr();
            one.dials(&two);
            assert_eq!(one.next_up().boot, boot);
            two.shutdown();
            one.next();
        }
        let wanted = forger.credentials(2).identity().clone();
        let three = two(forger.credentials(3), addr, 3);
        let told = wait_for("the refusal", || {
            let told = one.last_error(&wanted);
            told.contains("node/3").then_some(told)
        });
        assert!(told.contains("not spiffe://c1/node/2"), "{told}");
        assert!(one.inbox.try_recv().is_none());
        three.shutdown();
        one.shutdown();
    });
}
