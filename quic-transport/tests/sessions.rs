//! Which connection counts: dials at once, restarts, shutdown.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use common::*;
use quorate_quic_transport::{
    CloseReason, Config, Inbound, Instance, Lane, NotSent, PeerState, Transport, quinn::Runtime,
};

/// Both dial; each sends from its `Up` on until told to stop. Every message taken by `try_send`
/// must arrive, and nobody may see `Down`.
fn dial_at_once(seed: u64, runtime: &Arc<dyn Runtime>) {
    const MESSAGES: u64 = 60;
    let cluster = Cluster::new();
    let start = |id| Program::start(config(), cluster.node(id), Arc::clone(runtime));
    let (one, two) = (start(1), start(2));
    let (a, b) = (one.identity(), two.identity());
    let (a_addr, b_addr) = (one.transport.local_addr(), two.transport.local_addr());
    let micros =
        |shift: u32| Duration::from_micros((seed.wrapping_mul(0x9e37_79b9) >> shift) % 3000);
    let run = |mut program: Program, other, addr, delay: Duration| {
        std::thread::spawn(move || {
            let began = Instant::now();
            while began.elapsed() < delay {
                std::hint::spin_loop();
            }
            program.transport.set_peer(other, vec![addr]).unwrap();
            let Inbound::Up(up) = program.next() else {
                panic!("Up comes first")
            };
            let peer = program.transport.peer(&up.identity).unwrap();
            let mut received = BTreeSet::new();
            let mut sent = 0;
            while sent < MESSAGES || received.len() < MESSAGES as usize {
                if sent < MESSAGES {
                    peer.try_send(Lane::Append, 0, Number(sent)).unwrap();
                    sent += 1;
                }
                let inbound = if sent < MESSAGES {
                    std::thread::sleep(Duration::from_micros(50));
                    program.inbox.try_recv()
                } else {
                    Some(program.next())
                };
                match inbound {
                    Some(Inbound::Message(message)) => {
                        let Number(n) = message.decode().unwrap();
                        assert!(received.insert(n), "message {n} arrived twice");
                    }
                    Some(other) => panic!("flapping: {other:?}"),
                    None => {}
                }
            }
            program
        })
    };
    let one = run(one, b, b_addr, micros(3));
    let two = run(two, a, a_addr, micros(17));
    let (one, two) = (one.join().unwrap(), two.join().unwrap());
    // Exactly one connection is left, and both sides mean the same one.
    let dialled = |program: &Program| match program.transport.peers()[0].state.clone() {
        PeerState::Connected { up, .. } => Some(up.dialled),
        _ => None,
    };
    wait_for("one connection", || {
        let (one, two) = (dialled(&one)?, dialled(&two)?);
        (one != two).then_some(())
    });
    one.shutdown();
    two.shutdown();
}

#[test]
fn d12_two_dials_at_once_end_with_one_connection_and_lose_nothing() {
    on_each_runtime(|runtime| {
        for seed in 1..=25 {
            dial_at_once(seed, runtime);
        }
    });
}

/// Both dial, and a connection that is superseded has no time to deliver what it took. Each sends from every `Up` on, and
/// anew after `Down`. Returns how many sessions were lost, once each has got all of the other's messages of one session.
fn dial_at_once_without_winding_up(seed: u64, runtime: &Arc<dyn Runtime>) -> usize {
    const MESSAGES: u64 = 60;
    let cluster = Cluster::new();
    let start = |id| {
        let mut config = config();
        config.timings.drain_timeout = Duration::from_nanos(1);
        Program::start(config, cluster.node(id), Arc::clone(runtime))
    };
    let programs = [start(1), start(2)];
    let identities = [programs[0].identity(), programs[1].identity()];
    let addrs = [&programs[0], &programs[1]].map(|program| program.transport.local_addr());
    let complete = [AtomicBool::new(false), AtomicBool::new(false)];
    let run = |me: usize, mut program: Program| {
        std::thread::sleep(Duration::from_micros(
            (seed.wrapping_mul(0x9e37_79b9) >> (3 + 14 * me)) % 3000,
        ));
        program
            .transport
            .set_peer(identities[1 - me].clone(), vec![addrs[1 - me]])
            .unwrap();
        let (mut peer, mut sent, mut received, mut lost) = (None, 0, BTreeSet::new(), 0);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !complete.iter().all(|side| side.load(Ordering::SeqCst)) {
            assert!(
                Instant::now() < deadline,
                "{} of {MESSAGES} arrived, and nobody was told",
                received.len()
            );
            match program.inbox.try_recv() {
                Some(Inbound::Up(up)) => peer = program.transport.peer(&up.identity),
                Some(Inbound::Down { .. }) => {
                    (peer, sent, received) = (None, 0, BTreeSet::new());
                    lost += 1;
                }
                Some(Inbound::Message(message)) => {
                    // Again, if the other has been told first, and sends anew.
                    let Number(n) = message.decode().unwrap();
                    received.insert(n);
                }
                Some(other) => panic!("{other:?}"),
                None => std::thread::sleep(Duration::from_micros(50)),
            }
            if let Some(peer) = &peer
                && sent < MESSAGES
                && peer.try_send(Lane::Append, 0, Number(sent)).is_ok()
            {
                sent += 1;
            }
            complete[me].store(received.len() == MESSAGES as usize, Ordering::SeqCst);
        }
        (program, lost)
    };
    let [one, two] = programs;
    let (one, two) = std::thread::scope(|scope| {
        let two = scope.spawn(|| run(1, two));
        (run(0, one), two.join().unwrap())
    });
    one.0.shutdown();
    two.0.shutdown();
    one.1 + two.1
}

/// A message that a superseded connection took and lost is told of, by the end of the session.
#[test]
fn d12_what_a_superseded_connection_loses_is_told() {
    on_each_runtime(|runtime| {
        // Whether two dials meet is a matter of chance.
        let lost = (1..=200).map(|seed| dial_at_once_without_winding_up(seed, runtime));
        let met = lost.filter(|lost| *lost > 0).take(3).count();
        assert_eq!(met, 3, "two dials hardly ever meet");
    });
}

#[test]
fn a_restart_with_the_same_secret_is_noticed_at_once() {
    on_io_thread(|runtime| {
        let cluster = Cluster::new();
        let with = |boot| {
            let instance = Instance { store_id: 9, boot };
            Config {
                secret: [5; 32],
                instance,
                ..config()
            }
        };
        let mut one = Program::start(config(), cluster.node(1), Arc::clone(runtime));
        // A process of its own thread: ending the thread is the crash, nothing says goodbye.
        let crashing = quorate_quic_transport::runtime::IoThread::spawn("crash").unwrap();
        let two = Program::start(with(1), cluster.node(2), crashing.runtime());
        let addr = two.transport.local_addr();
        one.dials(&two);
        one.next_up();
        // In this order: with its thread gone, dropping it cannot say goodbye.
        crashing.stop();
        drop(two);

        let began = Instant::now();
        let again = Config {
            listen: addr,
            ..with(2)
        };
        let two = Program::start(again, cluster.node(2), Arc::clone(runtime));
        // Something must be sent for the restarted peer to answer with a reset.
        let _ = one.peer(&two).try_send(Lane::Append, 0, Number(1));
        let Inbound::Down { reason, .. } = one.next() else {
            panic!("Down comes first")
        };
        assert_eq!(reason, CloseReason::Restarted);
        assert_eq!(one.next_up().boot, 2);
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(2),
            "took {took:?}; the idle timeout is 5 s"
        );
        one.shutdown();
        two.shutdown();
    });
}

#[test]
fn a_peer_that_comes_later_is_connected_and_one_that_leaves_is_dialled_again() {
    on_io_thread(|runtime| {
        let cluster = Cluster::new();
        let mut one = Program::start(config(), cluster.node(1), Arc::clone(runtime));
        let place = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = place.local_addr().unwrap();
        drop(place);
        let wanted = cluster.node(2).identity().clone();
        one.transport.set_peer(wanted.clone(), vec![addr]).unwrap();
        let peer = one.transport.peer(&wanted).unwrap();
        let why = peer.try_send(Lane::Append, 0, Number(1)).unwrap_err().why;
        assert_eq!(why, NotSent::NotConnected, "nothing queues for a dead peer");
        for _ in 0..2 {
            let listen = Config {
                listen: addr,
                ..config()
            };
            let two = Program::start(listen, cluster.node(2), Arc::clone(runtime));
            one.next_up();
            // The port must be free again for the next round.
            two.shutdown();
            assert!(matches!(one.next(), Inbound::Down { .. }));
        }
        assert!(one.transport.peers()[0].dials >= 2);
        one.shutdown();
    });
}

#[test]
fn shutdown_delivers_what_is_queued_and_frees_the_port() {
    on_each_runtime(|runtime| {
        let (one, mut two) = pair(runtime);
        let addr = one.transport.local_addr();
        let peer = one.peer(&two);
        for i in 0..1000 {
            peer.try_send(Lane::Append, 0, Number(i)).unwrap();
        }
        let transport = one.transport.clone();
        let began = Instant::now();
        block_on(transport.shutdown(Duration::from_secs(5)));
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "took {:?}",
            began.elapsed()
        );
        std::net::UdpSocket::bind(addr).expect("the port is free");
        for i in 0..1000 {
            assert_eq!(two.next_message::<Number>(), Number(i));
        }
        let Inbound::Down { reason, .. } = two.next() else {
            panic!("Down is last")
        };
        assert!(reason.to_string().contains("shutdown (code 0)"), "{reason}");
        let why = peer.try_send(Lane::Append, 0, Number(1)).unwrap_err().why;
        assert_eq!(why, NotSent::ShuttingDown);
        drop(one);
        two.shutdown();
    });
}

#[test]
fn shutdown_ends_in_time_when_a_peer_reads_nothing() {
    on_io_thread(|runtime| {
        let mut stuck = config();
        stuck.limits.inbox_messages_max = 1;
        let (one, two) = pair_with(runtime, config(), stuck);
        let peer = one.peer(&two);
        wait_for("full queue", || {
            (0..100).find_map(|_| peer.try_send(Lane::Append, 0, Blob(vec![1; 100_000])).err())
        });
        let began = Instant::now();
        block_on(one.transport.shutdown(Duration::from_millis(200)));
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "took {:?}",
            began.elapsed()
        );
        let Program { transport, inbox } = two;
        drop(inbox);
        block_on(transport.shutdown(Duration::from_millis(200)));
    });
}

#[test]
fn a_transport_that_is_dropped_closes_its_connections() {
    on_io_thread(|runtime| {
        let (one, mut two) = pair(runtime);
        let addr = one.transport.local_addr();
        let Program {
            transport,
            mut inbox,
        } = one;
        let clone: Transport = transport.clone();
        drop(transport);
        assert!(
            two.inbox.try_recv().is_none(),
            "negative control: a clone keeps it"
        );
        drop(clone);
        let Inbound::Down { .. } = two.next() else {
            panic!("Down")
        };
        while let Some(inbound) = block_on(inbox.recv()) {
            assert!(matches!(inbound, Inbound::Down { .. }));
        }
        wait_for("a free port", || std::net::UdpSocket::bind(addr).ok());
        two.shutdown();
    });
}
