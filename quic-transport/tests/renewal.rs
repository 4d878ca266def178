//! Certificates that end, and credentials that are replaced, while connections are open.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use common::*;
use quorate_certs::{
    Ca, CaOptions, ClusterName, Credentials, IssueOptions, Issued, Subject, inspect,
};
use quorate_quic_transport::{
    Admit, CloseCode, CloseReason, Config, Environment, Inbound, Lane, PeerUp, Refused, System,
    Transport,
    quinn::{AsyncUdpSocket, Runtime},
};
use rustls::{crypto::CryptoProvider, pki_types::UnixTime};

const HOUR: Duration = Duration::from_secs(3600);

fn authority(generation: u32) -> Ca {
    let options = CaOptions {
        generation: generation.try_into().unwrap(),
        ..CaOptions::default()
    };
    Ca::generate(&ClusterName::new("c1").unwrap(), &options).unwrap()
}

fn issue(ca: &Ca, subject: &Subject, life: Duration) -> Issued {
    let options = IssueOptions {
        life: Some(life),
        ..IssueOptions::default()
    };
    ca.issue(subject, &options).unwrap()
}

/// What `ca` issues for node `id`, where `trusted` are believed.
fn node(id: u64, ca: &Ca, trusted: &[&Ca]) -> Credentials {
    let issued = issue(ca, &Subject::node(id).unwrap(), HOUR);
    let roots: String = trusted.iter().map(|ca| ca.certificate_pem()).collect();
    Credentials::from_pem(
        issued.key_pem().as_bytes(),
        issued.certificate_pem().as_bytes(),
        roots.as_bytes(),
        UnixTime::now(),
    )
    .unwrap()
}

fn connected(one: &mut Program, two: &mut Program) {
    one.dials(two);
    one.next_up();
    two.next_up();
}

/// With what the next event, which is an end, was closed; by whom.
fn next_end(program: &mut Program) -> (CloseCode, &'static str) {
    match program.next() {
        Inbound::Down { reason, .. } => match reason {
            CloseReason::ByUs { code, .. } => (code, "us"),
            CloseReason::ByPeer { code, .. } => (code, "peer"),
            other => panic!("{other:?}"),
        },
        other => panic!("expected Down, got {other:?}"),
    }
}

/// A message from one to the other is the next thing that happens there: the connection was never away.
fn still_connected(one: &Program, two: &mut Program, number: u64) {
    let peer = one.peer(two);
    peer.try_send(Lane::Control, 0, Number(number)).unwrap();
    assert_eq!(two.next_message::<Number>(), Number(number));
}

/// How long a short certificate is good.
const SHORT: Duration = Duration::from_secs(60);
/// How much of that is left in a handshake: far more than it takes to see that it has come about.
const LEFT: Duration = Duration::from_secs(1);

/// Whoever dialled, a connection ends when the certificate of the other side does, and not before; a renewed one is
/// welcome at once.
#[test]
fn c9_a_connection_ends_with_its_certificate() {
    on_each_runtime(|runtime| {
        for dialled_by_the_short_one in [true, false] {
            let ca = authority(1);
            let start =
                |config, credentials| Program::start(config, credentials, Arc::clone(runtime));
            let issued = issue(&ca, &Subject::node(2).unwrap(), SHORT);
            let credentials = issued.credentials().unwrap();
            let ends = credentials.not_after();
            let clock = Clock::at(ends - LEFT);
            let mut lasting = start(clock.config(), node(1, &ca, &[&ca]));
            let mut short = start(config(), credentials);
            let began = Instant::now();
            if dialled_by_the_short_one {
                connected(&mut short, &mut lasting);
            } else {
                connected(&mut lasting, &mut short);
            }
            // For whoever comes again.
            clock.set(ends + LEFT);
            assert_eq!(next_end(&mut lasting), (CloseCode::EXPIRED, "us"));
            assert!(began.elapsed() >= LEFT, "after {:?}", began.elapsed());
            assert_eq!(next_end(&mut short), (CloseCode::EXPIRED, "peer"));
            let error = match dialled_by_the_short_one {
                true => short.last_error(&lasting.identity()),
                false => lasting.last_error(&short.identity()),
            };
            assert!(error.contains("expired"), "{error}");
            let renewed = node(2, &ca, &[&ca]);
            short.transport.replace_credentials(renewed).unwrap();
            lasting.next_up();
            short.next_up();
            short.shutdown();
            lasting.shutdown();
        }
    });
}

/// Clients as well, and one that ends does not take others with it.
#[test]
fn c9_a_clients_connection_ends_with_its_certificate() {
    on_io_thread(|runtime| {
        let ca = authority(1);
        let start = |config, credentials| Program::start(config, credentials, Arc::clone(runtime));
        let issued = |name, life| {
            let issued = issue(&ca, &Subject::client(name).unwrap(), life);
            issued.credentials().unwrap()
        };
        let short = issued("short", SHORT);
        let clock = Clock::at(short.not_after() - LEFT);
        let server = start(clock.config(), node(1, &ca, &[&ca]));
        let client = |credentials| {
            let mut client = start(config(), credentials);
            client.dials(&server);
            client.next_up();
            client
        };
        let mut lasting = client(issued("lasting", HOUR));
        assert_eq!(server.transport.client_connections(), 1);
        let ends = short.not_after();
        let mut short = client(short);
        clock.set(ends + LEFT);
        assert_eq!(next_end(&mut short), (CloseCode::EXPIRED, "peer"));
        wait_for("one to be left", || {
            (server.transport.client_connections() == 1).then_some(())
        });
        assert!(lasting.inbox.try_recv().is_none());
    });
}

/// A new CA comes, all get new certificates, and nobody is away for a moment; whoever comes then needs to know the new CA
/// only.
#[test]
fn k7_certificates_are_replaced_without_a_connection_lost() {
    on_each_runtime(|runtime| {
        let (old, new) = (authority(1), authority(2));
        let start = |credentials| Program::start(config(), credentials, Arc::clone(runtime));
        let mut one = start(node(1, &old, &[&old]));
        let mut two = start(node(2, &old, &[&old]));
        connected(&mut one, &mut two);
        for (step, issuer, trusted) in [(0, &old, &[&old, &new][..]), (1, &new, &[&old, &new])] {
            for (id, program) in [(1, &one), (2, &two)] {
                let credentials = node(id, issuer, trusted);
                program.transport.replace_credentials(credentials).unwrap();
            }
            still_connected(&one, &mut two, step);
            still_connected(&two, &mut one, step);
        }
        let mut three = start(node(3, &new, &[&new]));
        connected(&mut three, &mut one);
        let held = one.transport.credentials();
        assert_eq!(held.trust().roots().len(), 2);
    });
}

/// Without its CA, a certificate is worth nothing, also on a connection that is open. With the next one it is let in.
#[test]
fn k7_who_is_not_trusted_any_more_is_not_kept() {
    on_each_runtime(|runtime| {
        let (old, new) = (authority(1), authority(2));
        let start = |credentials| Program::start(config(), credentials, Arc::clone(runtime));
        let mut one = start(node(1, &old, &[&old]));
        let mut two = start(node(2, &old, &[&old, &new]));
        connected(&mut one, &mut two);
        let only_new = node(1, &new, &[&new]);
        one.transport.replace_credentials(only_new).unwrap();
        assert_eq!(next_end(&mut one), (CloseCode::REVOKED, "us"));
        assert_eq!(next_end(&mut two), (CloseCode::REVOKED, "peer"));
        let error = one.last_error(&two.identity());
        assert!(error.contains("not from a CA"), "{error}");
        let renewed = node(2, &new, &[&new]);
        two.transport.replace_credentials(renewed).unwrap();
        one.next_up();
        two.next_up();
    });
}

/// Who is on the list of the CA is not kept either, and everybody else is.
#[test]
fn j15_who_is_revoked_is_not_kept() {
    on_each_runtime(|runtime| {
        let mut ca = authority(1);
        let start = |credentials| Program::start(config(), credentials, Arc::clone(runtime));
        let mut one = start(node(1, &ca, &[&ca]));
        let stolen = issue(&ca, &Subject::node(2).unwrap(), HOUR);
        let mut two = start(stolen.credentials().unwrap());
        let mut three = start(node(3, &ca, &[&ca]));
        connected(&mut one, &mut two);
        connected(&mut one, &mut three);
        let number = inspect(stolen.certificate_pem().as_bytes()).unwrap();
        let number = number[0].serial.parse().unwrap();
        ca.revoke(&[number], SystemTime::now()).unwrap();
        let with_list = issue(&ca, &Subject::node(1).unwrap(), HOUR);
        let with_list = with_list.credentials().unwrap();
        one.transport.replace_credentials(with_list).unwrap();
        assert_eq!(next_end(&mut one), (CloseCode::REVOKED, "us"));
        assert_eq!(next_end(&mut two), (CloseCode::REVOKED, "peer"));
        let error = one.last_error(&two.identity());
        assert!(error.contains("revoked"), "{error}");
        still_connected(&one, &mut three, 1);
        let renewed = node(2, &ca, &[&ca]);
        two.transport.replace_credentials(renewed).unwrap();
        one.next_up();
    });
}

/// Nobody becomes another while it runs.
#[test]
fn j21_credentials_are_replaced_by_those_of_the_same_identity_only() {
    on_io_thread(|runtime| {
        let ca = authority(1);
        let mut one = Program::start(config(), node(1, &ca, &[&ca]), Arc::clone(runtime));
        let mut two = Program::start(config(), node(2, &ca, &[&ca]), Arc::clone(runtime));
        connected(&mut one, &mut two);
        let other = node(3, &ca, &[&ca]);
        let error = one.transport.replace_credentials(other).unwrap_err();
        assert_eq!(error.own, one.identity());
        assert!(error.to_string().contains("node/3"), "{error}");
        assert_eq!(*one.transport.credentials().identity(), one.identity());
        still_connected(&one, &mut two, 1);
    });
}

/// Replaces credentials while a handshake is judged.
struct Meanwhile {
    transport: OnceLock<Transport>,
    credentials: Mutex<Option<Credentials>>,
}

impl Admit for Meanwhile {
    fn admit(&self, _: &PeerUp) -> Result<(), Refused> {
        if let Some(credentials) = self.credentials.lock().unwrap().take() {
            let transport = self.transport.get().unwrap();
            transport.replace_credentials(credentials).unwrap();
        }
        Ok(())
    }
}

/// A handshake that was begun with other roots does not slip through.
#[test]
fn k7_a_handshake_with_the_old_roots_is_judged_by_the_new() {
    on_io_thread(|runtime| {
        let (old, new) = (authority(1), authority(2));
        let only_new = node(1, &new, &[&new]);
        let meanwhile = Arc::new(Meanwhile {
            transport: OnceLock::new(),
            credentials: Mutex::new(Some(only_new)),
        });
        let mut judged = config();
        judged.admit = Some(Arc::<Meanwhile>::clone(&meanwhile));
        let mut one = Program::start(judged, node(1, &old, &[&old]), Arc::clone(runtime));
        meanwhile.transport.set(one.transport.clone()).unwrap();
        let mut two = Program::start(config(), node(2, &old, &[&old]), Arc::clone(runtime));
        connected(&mut two, &mut one);
        assert_eq!(next_end(&mut one), (CloseCode::REVOKED, "us"));
    });
}

/// A clock that stands where it is set.
#[derive(Debug, Clone)]
struct Clock(Arc<Mutex<SystemTime>>);

impl Clock {
    fn at(time: SystemTime) -> Self {
        Self(Arc::new(Mutex::new(time)))
    }

    fn set(&self, time: SystemTime) {
        *self.0.lock().unwrap() = time;
    }

    /// Of a program that goes by it.
    fn config(&self) -> Config {
        Config {
            environment: Arc::new(self.clone()),
            ..config()
        }
    }
}

impl Environment for Clock {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        System.fill(bytes)
    }

    fn crypto(&self) -> Arc<CryptoProvider> {
        System.crypto()
    }

    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }

    fn bind(
        &self,
        addr: SocketAddr,
        buffer_bytes: usize,
        runtime: &dyn Runtime,
    ) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        System.bind(addr, buffer_bytes, runtime)
    }
}

/// A clock that jumps by ten years ends no connection that is open, and keeps none that is not trusted.
#[test]
fn c1_a_clock_that_jumps_ends_no_connection() {
    on_io_thread(|runtime| {
        let (old, new) = (authority(1), authority(2));
        let now = SystemTime::now();
        let clock = Clock::at(now);
        let mut one = Program::start(clock.config(), node(1, &old, &[&old]), Arc::clone(runtime));
        let mut two = Program::start(config(), node(2, &old, &[&old]), Arc::clone(runtime));
        connected(&mut one, &mut two);
        clock.set(now + 24 * 3653 * HOUR);
        for number in 0..3 {
            // Which has every connection looked at again.
            let again = node(1, &old, &[&old, &new]);
            one.transport.replace_credentials(again).unwrap();
            still_connected(&one, &mut two, number);
        }
        let only_new = node(1, &new, &[&new]);
        one.transport.replace_credentials(only_new).unwrap();
        assert_eq!(next_end(&mut one), (CloseCode::REVOKED, "us"));
    });
}
