//! Everyone who must not come in, and what each side is told.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use common::*;
use quorate_certs::{Credentials, IssueOptions, Subject};
use quorate_quic_transport::{
    CloseCode, CloseReason, Config, HandshakeError, Inbound, Instance, PeerUp, Refused,
    quinn::Runtime,
};

/// Dials `acceptor` as `credentials`; returns what the dialer is told.
fn dial(
    acceptor: &Program,
    config: Config,
    credentials: Credentials,
    runtime: &Arc<dyn Runtime>,
) -> (Program, String) {
    let dialer = Program::start(config, credentials, Arc::clone(runtime));
    dialer.dials(acceptor);
    let told = dialer.last_error(&acceptor.identity());
    assert!(!dialer.peer(acceptor).is_connected());
    (dialer, told)
}

fn assert_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[test]
fn j3_a_certificate_of_another_ca_is_refused_with_a_reason_on_both_ends() {
    Warnings::collect();
    on_io_thread(|runtime| {
        // Two CAs of one name: the classic accident.
        let (ours, theirs) = (Cluster::new(), Cluster::new());
        let mut acceptor = Program::start(config(), ours.node(1), Arc::clone(runtime));
        let (dialer, told) = dial(&acceptor, config(), theirs.node(2), runtime);
        // The dialer judges first, and says what it found.
        assert_words(
            &told,
            &["we refused the certificate", "not signed by its key"],
        );
        Warnings::wait_for(&[
            "inbound handshake failed",
            "refused us",
            "alert 48",
            "ca.pem",
        ]);
        assert!(
            acceptor.inbox.try_recv().is_none(),
            "nothing counts before the welcome"
        );
        dialer.shutdown();
        acceptor.shutdown();
    });
}

#[test]
fn e7_j8_another_cluster_of_the_same_ca_files_is_refused() {
    Warnings::collect();
    on_io_thread(|runtime| {
        let (ours, theirs) = (Cluster::new(), Cluster::named("c2"));
        let acceptor = Program::start(config(), theirs.node(1), Arc::clone(runtime));
        let dialer = Program::start(config(), ours.node(2), Arc::clone(runtime));
        // The address book says c1's node 1, but c2's node 1 lives there.
        let wanted = ours.node(1).identity().clone();
        dialer
            .transport
            .set_peer(wanted.clone(), vec![acceptor.transport.local_addr()])
            .unwrap();
        assert_words(
            &dialer.last_error(&wanted),
            &["we refused the certificate", "cluster c1"],
        );
        Warnings::wait_for(&[
            "inbound handshake failed",
            "unknown CA (alert 48)",
            "ca.pem",
        ]);
        // And an identity of another cluster does not get into the address book at all.
        let (other, addr) = (acceptor.identity(), acceptor.transport.local_addr());
        let refused = dialer.transport.set_peer(other.clone(), vec![addr]);
        let words = &["not another node of our cluster", "spiffe://c2/node/1"];
        assert_words(&refused.unwrap_err().to_string(), words);
        assert!(dialer.transport.peer(&other).is_none());
        dialer.shutdown();
        acceptor.shutdown();
    });
}

#[test]
fn j4_an_expired_certificate_is_refused_with_a_reason_on_both_ends() {
    Warnings::collect();
    on_io_thread(|runtime| {
        let cluster = Cluster::new();
        let acceptor = Program::start(config(), cluster.node(1), Arc::clone(runtime));
        // Good for two more seconds, so that it can be loaded, and then no more.
        let now = SystemTime::now() - Duration::from_secs(58);
        let options = IssueOptions {
            now,
            life: Some(Duration::from_secs(60)),
        };
        let issued = cluster
            .ca
            .issue(&Subject::node(2).unwrap(), &options)
            .unwrap();
        let credentials = issued.credentials().unwrap();
        let expired = credentials.not_after() + Duration::from_secs(1);
        wait_for("expiry", || (SystemTime::now() > expired).then_some(()));
        let (dialer, told) = dial(&acceptor, config(), credentials, runtime);
        assert_words(&told, &["refused us", "expired", "alert 45", "clocks"]);
        Warnings::wait_for(&["inbound handshake failed", "expired", "quorate certs issue"]);
        dialer.shutdown();
        acceptor.shutdown();
    });
}

#[test]
fn d15_j6_another_node_at_the_address_is_named() {
    Warnings::collect();
    on_io_thread(|runtime| {
        let cluster = Cluster::new();
        let third = Program::start(config(), cluster.node(3), Arc::clone(runtime));
        let dialer = Program::start(config(), cluster.node(1), Arc::clone(runtime));
        let wanted = cluster.node(2).identity().clone();
        dialer
            .transport
            .set_peer(wanted.clone(), vec![third.transport.local_addr()])
            .unwrap();
        let told = dialer.last_error(&wanted);
        assert_words(
            &told,
            &[
                "is spiffe://c1/node/3, not spiffe://c1/node/2",
                "address book",
            ],
        );
        Warnings::wait_for(&[
            "inbound handshake failed",
            "alert 42",
            "another node at our",
        ]);
        dialer.shutdown();
        third.shutdown();
    });
}

#[test]
fn nobody_dials_themselves() {
    on_io_thread(|runtime| {
        let cluster = Cluster::new();
        let one = Program::start(config(), cluster.node(1), Arc::clone(runtime));
        one.transport
            .set_peer(one.identity(), vec![one.transport.local_addr()])
            .unwrap_err();
        assert!(one.transport.peer(&one.identity()).is_none());
        one.shutdown();
    });
}

/// Two processes with one identity have each a number of their own, also on copies of one store; the later one takes
/// the place of the earlier one, which is told what came.
#[test]
fn two_processes_with_one_identity_are_told_apart() {
    on_io_thread(|runtime| {
        let cluster = Cluster::new();
        let process = |store_id| {
            let instance = Instance { store_id, boot: 1 };
            let config = Config {
                instance,
                ..config()
            };
            Program::start(config, cluster.node(2), Arc::clone(runtime))
        };
        for (store_of_the_second, words) in [
            (77, "the peer connected again"),
            (78, "another incarnation of the peer connected"),
        ] {
            let mut acceptor = Program::start(config(), cluster.node(1), Arc::clone(runtime));
            let up = |acceptor: &mut Program| match acceptor.next() {
                Inbound::Up(up) => (up.identity, up.process),
                other => panic!("expected Up, got {other:?}"),
            };
            let mut first = process(77);
            first.dials(&acceptor);
            first.next_up();
            let (who, one) = up(&mut acceptor);
            let second = process(store_of_the_second);
            second.dials(&acceptor);
            let Inbound::Down { reason, .. } = first.next() else {
                panic!("the place is taken");
            };
            let CloseReason::ByPeer { code, reason } = reason else {
                panic!("{reason:?}");
            };
            assert_eq!((code, &*reason), (CloseCode::DUPLICATE, words));
            assert!(matches!(acceptor.next(), Inbound::Down { .. }));
            let (same, other) = up(&mut acceptor);
            assert_eq!(same, who);
            assert_ne!(other, one);
            for program in [first, second, acceptor] {
                program.shutdown();
            }
        }
    });
}

#[test]
fn k3_another_service_or_version_is_refused_with_both_sides_named() {
    Warnings::collect();
    on_io_thread(|runtime| {
        let cluster = Cluster::new();
        let ours = || Config {
            service_versions: 2..=3,
            ..config()
        };
        let acceptor = Program::start(ours(), cluster.node(1), Arc::clone(runtime));
        let other = Config {
            service: "orders".into(),
            ..ours()
        };
        let (dialer, told) = dial(&acceptor, other, cluster.node(2), runtime);
        assert_words(
            &told,
            &["wrong service (code 12)", "we speak test, you speak orders"],
        );
        Warnings::wait_for(&["we refused", "you speak orders"]);
        dialer.shutdown();

        let older = Config {
            service_versions: 1..=1,
            ..config()
        };
        let (dialer, told) = dial(&acceptor, older, cluster.node(2), runtime);
        assert_words(
            &told,
            &["no common version (code 7)", "2 to 3", "1 to 1", "upgrade"],
        );
        Warnings::wait_for(&["we refused", "no common version of test"]);
        dialer.shutdown();

        // Negative control: the same node with an overlapping range is welcome.
        let newer = Config {
            service_versions: 3..=9,
            ..config()
        };
        let mut dialer = Program::start(newer, cluster.node(2), Arc::clone(runtime));
        dialer.dials(&acceptor);
        dialer.next_up();
        dialer.shutdown();
        acceptor.shutdown();
    });
}

#[test]
fn b11_e4_an_older_copy_of_a_store_is_refused() {
    Warnings::collect();
    on_io_thread(|runtime| {
        let cluster = Cluster::new();
        let mut acceptor = Program::start(config(), cluster.node(1), Arc::clone(runtime));
        let at_boot = |boot| Config {
            instance: Instance { store_id: 77, boot },
            ..config()
        };
        for boot in [5, 6] {
            let mut dialer = Program::start(at_boot(boot), cluster.node(2), Arc::clone(runtime));
            dialer.dials(&acceptor);
            dialer.next_up();
            assert_eq!(acceptor.next_up().boot, boot);
            dialer.shutdown();
            let down = acceptor.next();
            assert!(matches!(down, Inbound::Down { .. }), "{down:?}");
        }
        let (dialer, told) = dial(&acceptor, at_boot(4), cluster.node(2), runtime);
        assert_words(
            &told,
            &["stale incarnation (code 11)", "at boot 6", "at 4 now"],
        );
        Warnings::wait_for(&["we refused", "older copy"]);
        dialer.shutdown();
        acceptor.shutdown();
    });
}

#[test]
fn f5_j7_the_service_has_the_last_word() {
    on_io_thread(|runtime| {
        let cluster = Cluster::new();
        let members_only = |peer: &PeerUp| match peer.identity.node_id() {
            Some(id) if id.get() < 3 => Ok(()),
            _ => Err(Refused::new(
                CloseCode::REMOVED,
                "you are not a member any more",
            )),
        };
        let strict = Config {
            admit: Some(Arc::new(members_only)),
            ..config()
        };
        let acceptor = Program::start(strict, cluster.node(1), Arc::clone(runtime));
        let (dialer, told) = dial(&acceptor, config(), cluster.node(3), runtime);
        assert_words(
            &told,
            &["removed from the cluster (code 2)", "not a member any more"],
        );
        let status = &dialer.transport.peers()[0];
        assert!(matches!(
            status.last_error,
            Some(HandshakeError::RefusedByPeer {
                code: CloseCode::REMOVED,
                ..
            })
        ));
        dialer.shutdown();
        // Negative control.
        let mut member = Program::start(config(), cluster.node(2), Arc::clone(runtime));
        member.dials(&acceptor);
        member.next_up();
        member.shutdown();
        acceptor.shutdown();
    });
}

#[test]
fn one_client_identity_has_a_bounded_number_of_connections() {
    on_io_thread(|runtime| {
        let cluster = Cluster::new();
        let mut strict = config();
        strict.limits.connections_per_client_max = 2;
        let node = Program::start(strict, cluster.node(1), Arc::clone(runtime));
        let start = || {
            Program::start(
                Config::dial_only("test"),
                cluster.client("app"),
                Arc::clone(runtime),
            )
        };
        let mut kept = Vec::new();
        for _ in 0..2 {
            let mut client = start();
            client.dials(&node);
            client.next_up();
            kept.push(client);
        }
        let third = start();
        third.dials(&node);
        let told = third.last_error(&node.identity());
        assert_words(&told, &["overloaded (code 10)", "2 connections"]);
        // A place that becomes free is given away again: the third never stopped dialling.
        kept.pop().unwrap().shutdown();
        wait_for("the freed place", || {
            third.peer(&node).is_connected().then_some(())
        });
        third.shutdown();
        kept.pop().unwrap().shutdown();
        node.shutdown();
    });
}

/// Silence and a port where nobody is look alike from afar; a node that takes nobody in says so.
#[test]
fn silence_and_closed_doors_are_told_apart() {
    on_io_thread(|runtime| {
        let cluster = Cluster::new();
        let mut full = config();
        full.limits.connections_max = 1;
        let acceptor = Program::start(full, cluster.node(2), Arc::clone(runtime));
        let mut inside = Program::start(config(), cluster.node(3), Arc::clone(runtime));
        inside.dials(&acceptor);
        inside.next_up();

        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        // A port that nobody is given who does not ask for it; who has it, discards (RFC 863).
        let closed = "127.0.0.1:9".parse().unwrap();
        let no_answer = &["no answer", "firewall (UDP)"][..];
        let short = Duration::from_millis(100);
        for (addr, patience, words) in [
            (silent.local_addr().unwrap(), short, no_answer),
            (closed, short, no_answer),
            (
                acceptor.transport.local_addr(),
                PATIENCE,
                &["accepts no connections now", "at its limit"],
            ),
        ] {
            let mut config = config();
            config.timings.handshake_timeout = patience;
            let dialer = Program::start(config, cluster.node(1), Arc::clone(runtime));
            let wanted = acceptor.identity();
            dialer
                .transport
                .set_peer(wanted.clone(), vec![addr])
                .unwrap();
            assert_words(&dialer.last_error(&wanted), words);
            dialer.shutdown();
        }
        inside.shutdown();
        acceptor.shutdown();
    });
}

/// A dial that leads nowhere is given up as soon as it is known where the peer is.
#[test]
fn other_addresses_are_dialled_at_once() {
    on_io_thread(|runtime| {
        let cluster = Cluster::new();
        let mut patient = config();
        patient.timings.handshake_timeout = PATIENCE;
        let dialer = Program::start(patient, cluster.node(1), Arc::clone(runtime));
        let acceptor = Program::start(config(), cluster.node(2), Arc::clone(runtime));
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let nowhere = silent.local_addr().unwrap();
        let wanted = acceptor.identity();
        let dial = |addr| {
            dialer
                .transport
                .set_peer(wanted.clone(), vec![addr])
                .unwrap();
        };
        dial(nowhere);
        // It has been dialled there.
        silent.set_read_timeout(Some(PATIENCE)).unwrap();
        silent.recv(&mut [0; 2000]).unwrap();
        let began = Instant::now();
        dial(acceptor.transport.local_addr());
        wait_for("a connection", || {
            dialer.peer(&acceptor).is_connected().then_some(())
        });
        assert!(
            began.elapsed() < PATIENCE / 2,
            "after {:?}",
            began.elapsed()
        );
        dialer.shutdown();
        acceptor.shutdown();
    });
}
