//! Peers that send or hold more than their share: everything has a bound, ends, and disturbs nobody.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod common;

use std::{
    future::Future,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use common::raw::{Hello, Raw, endpoint, frame, tls};
use common::*;
use futures_lite::future;
use quorate_certs::Credentials;
use quorate_quic_transport::{
    Inbound, Lane, Limits, NotSent,
    quinn::{self, Runtime},
};

/// Close codes of `docs/wire.md`, section 6.
const PROTOCOL: u64 = 8;
const TOO_SLOW: u64 = 15;

/// Longer than anything on a loopback that is not blocked, also on a busy machine.
const BLOCKED: Duration = Duration::from_millis(500);

/// Whether `future` is still waiting after a while in which nothing else holds it up.
fn is_blocked<T>(future: impl Future<Output = T>) -> bool {
    let done = async {
        future.await;
        false
    };
    let patience = async {
        async_io::Timer::after(BLOCKED).await;
        true
    };
    async_io::block_on(future::or(done, patience))
}

/// A node with these settings, another one connected to it, and their cluster.
fn scene(
    config: quorate_quic_transport::Config,
    runtime: &Arc<dyn Runtime>,
) -> (Cluster, [Program; 2]) {
    let cluster = Cluster::new();
    let mut victim = Program::start(config, cluster.node(1), Arc::clone(runtime));
    let mut witness = Program::start(common::config(), cluster.node(2), Arc::clone(runtime));
    witness.dials(&victim);
    witness.next_up();
    victim.next_up();
    (cluster, [victim, witness])
}

/// Messages still pass between the two, over the connection they have.
fn assert_undisturbed(victim: &mut Program, witness: &mut Program) {
    let peer = witness.peer(victim);
    peer.try_send(Lane::Append, 0, Number(42)).unwrap();
    assert_eq!(victim.next_message::<Number>(), Number(42));
    assert!(witness.inbox.try_recv().is_none(), "no Down");
}

/// Streams are four for each peer and are not given again: one that is reset ends the connection, and a
/// fifth does not open. Before the hello no more of them are there either.
#[test]
fn i8_a_flood_of_streams_ends_with_the_connection() {
    on_io_thread(|runtime| {
        let (cluster, [mut victim, mut witness]) = scene(config(), runtime);
        let credentials = cluster.node(3);
        let to = victim.transport.local_addr();

        let raw = Raw::connect(to, &credentials, runtime);
        raw.greet(&Hello::of(&credentials).bytes()).unwrap();
        victim.next_up();
        let mut opened = 0;
        while let Ok(mut stream) = block_on(raw.connection.open_uni()) {
            opened += 1;
            let _ = stream.reset(0u32.into());
            assert!(opened < 100, "nobody minds {opened} streams");
        }
        assert_eq!(raw.closed_with(), PROTOCOL);
        assert!(matches!(victim.next(), Inbound::Down { .. }));

        let raw = Raw::connect(to, &credentials, runtime);
        let streams: Vec<_> = (0..4)
            .map(|_| block_on(raw.connection.open_uni()).unwrap())
            .collect();
        assert!(is_blocked(raw.connection.open_uni()));
        drop(streams);
        assert_undisturbed(&mut victim, &mut witness);
        witness.shutdown();
        victim.shutdown();
    });
}

/// What a peer sends while nobody takes it stops at the inbox's bound and the windows of flow control,
/// and goes on when it is taken; others wait with it, and lose nothing.
#[test]
fn i9_data_that_nobody_takes_stops_at_its_bounds() {
    const INBOX: usize = 1 << 20;
    const BODY: usize = 60_000;
    on_io_thread(|runtime| {
        let mut small = config();
        small.limits.inbox_bytes_max = INBOX;
        let (cluster, [mut victim, witness]) = scene(small, runtime);
        let credentials = cluster.node(3);
        let raw = Raw::connect(victim.transport.local_addr(), &credentials, runtime);
        raw.greet(&Hello::of(&credentials).bytes()).unwrap();
        victim.next_up();

        let mut lane = raw.write_lane(&[1]);
        let frame = frame(2, &postcard::to_stdvec(&Blob(vec![7; BODY])).unwrap());
        let mut frames = 0;
        while !is_blocked(lane.write_all(&frame)) {
            frames += 1;
            assert!(frames < 1000, "{frames} frames of {} bytes", frame.len());
        }
        let accepted = frames * frame.len();
        // The inbox, with one message on its way into it, and the window of one stream.
        let most = INBOX + 2 * frame.len() + (2 << 20);
        assert!(
            accepted > 2 << 20 && accepted <= most,
            "{accepted} of {most} bytes"
        );

        // The control: taken, it all arrives. The frame that was given up on is cut off.
        for _ in 0..frames {
            assert_eq!(victim.next_message::<Blob>().0.len(), BODY);
        }
        drop((lane, raw));
        assert!(matches!(victim.next(), Inbound::Down { .. }));
        witness.shutdown();
        victim.shutdown();
    });
}

/// Handshakes that stall, before their hello or in the middle of it, hold a bounded number of places for
/// a bounded time. Whoever is connected notices nothing; a newcomer gets in when they have ended.
#[test]
fn i10_i11_stalled_handshakes_are_few_and_end() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    on_io_thread(|runtime| {
        let mut strict = config();
        strict.limits.handshakes_max = 3;
        strict.timings.handshake_timeout = TIMEOUT;
        let (cluster, [mut victim, mut witness]) = scene(strict, runtime);
        let credentials = cluster.node(3);
        let to = victim.transport.local_addr();

        let began = Instant::now();
        let stalled: Vec<Raw> = (0..3)
            .map(|_| Raw::connect(to, &credentials, runtime))
            .collect();
        let hello = Hello::of(&credentials).bytes();
        let mut half = block_on(stalled[0].connection.open_bi()).unwrap().0;
        block_on(half.write_all(&hello[..20])).unwrap();
        // Full: a newcomer has no answer at all.
        let mut newcomer = Program::start(config(), cluster.node(4), Arc::clone(runtime));
        newcomer.dials(&victim);
        assert_undisturbed(&mut victim, &mut witness);
        newcomer.next_up();
        victim.next_up();
        // It came no sooner than the first of them can have ended, and would come at once if there was a place.
        let waited = began.elapsed();
        assert!(
            waited >= TIMEOUT,
            "three places, and a fourth handshake after {waited:?}"
        );
        for raw in &stalled {
            block_on(raw.connection.closed());
        }
        assert_undisturbed(&mut victim, &mut witness);
        newcomer.shutdown();
        witness.shutdown();
        victim.shutdown();
    });
}

/// Large frames of clients share what room there is for them: who begins one and does not go on, or sees to it that
/// it cannot be taken, has it for a bounded time, and the frame of somebody else arrives then. A node, which has room of its own, may take as long
/// as its link does.
#[test]
fn i11_a_large_frame_that_stalls_gives_its_room_to_others() {
    const BODY: usize = 1 << 20;
    on_io_thread(|runtime| {
        let mut strict = config();
        strict.limits.lane_bytes_max = strict.limits.append_frame_bytes_max;
        strict.limits.frames_bytes_max = strict.limits.lane_bytes_max;
        strict.limits.calls_in_flight_max = 1;
        strict.timings.large_frame_timeout = Duration::from_secs(1);
        assert_eq!(
            strict.limits.frames_bytes_max,
            2 * strict.limits.call_frame_bytes_max
        );
        let largest = strict.limits.call_frame_bytes_max;
        let (cluster, [mut victim, mut witness]) = scene(strict, runtime);
        let to = victim.transport.local_addr();
        let enter = |credentials: &Credentials| {
            let raw = Raw::connect(to, credentials, runtime);
            raw.greet(&Hello::of(credentials).bytes()).unwrap();
            raw
        };

        let node = enter(&cluster.node(3));
        victim.next_up();
        let append = frame(2, &postcard::to_stdvec(&Blob(vec![3; BODY])).unwrap());
        let (some, rest) = append.split_at(append.len() / 2);
        let mut slow = node.write_lane(&[&[1][..], some].concat());

        let began = Instant::now();
        let sized = |body: &[u8]| {
            let length = u32::try_from(body.len()).unwrap().to_le_bytes();
            [&length[..], body].concat()
        };
        let mallory = cluster.client("mallory");
        let [stops, is_not_taken] = [enter(&mallory), enter(&mallory)];
        let length = u32::try_from(largest).unwrap().to_le_bytes();
        let begun = stops.write_lane(&[&[2][..], &length].concat());
        // All the calls it may have are on their way, and then one that is large.
        let request = |bytes| sized(&[&[1, 1, 9, 0, 1][..], &[0; 16], &vec![0; bytes]].concat());
        let whole =
            is_not_taken.write_lane(&[&[2][..], &request(0), &request(largest - 21)].concat());
        let Inbound::Call(unanswered) = victim.next() else {
            panic!("the small one")
        };
        let honest = enter(&cluster.client("app"));
        let body = [&[1, 0, 7, 0, 1][..], &[0; 8], &vec![7; BODY]].concat();
        assert_undisturbed(&mut victim, &mut witness);
        // Blocked until there is room.
        let lane = honest.write_lane(&[&[2][..], &sized(&body)].concat());
        for raw in [&stops, &is_not_taken] {
            assert_eq!(raw.closed_with(), TOO_SLOW);
            let held = began.elapsed();
            assert!(held >= Duration::from_secs(1), "ended after {held:?}");
        }
        let Inbound::Message(message) = victim.next() else {
            panic!("the frame that had to wait");
        };
        assert_eq!((message.kind, message.body().len()), (7, BODY));
        block_on(slow.write_all(rest)).unwrap();
        assert_eq!(victim.next_message::<Blob>().0.len(), BODY);
        drop((slow, node, lane, honest, begun, whole, unanswered));
        witness.shutdown();
        victim.shutdown();
    });
}

/// One address has some of the places for handshakes; another one still gets in.
#[test]
#[cfg(target_os = "linux")] // Elsewhere, 127.0.0.2 is nobody's.
fn i10_one_address_cannot_take_every_place() {
    on_io_thread(|runtime| {
        let mut strict = config();
        strict.limits.handshakes_per_address_max = 3;
        strict.timings.handshake_timeout = Duration::from_secs(60);
        let (cluster, [mut victim, mut witness]) = scene(strict, runtime);
        let credentials = cluster.node(3);
        let to = victim.transport.local_addr();
        let stalled: Vec<Raw> = (0..3)
            .map(|_| Raw::connect(to, &credentials, runtime))
            .collect();
        let mut late = Program::start(config(), cluster.node(4), Arc::clone(runtime));
        late.dials(&victim);
        let mut elsewhere = config();
        elsewhere.listen = "127.0.0.2:0".parse().unwrap();
        let mut other = Program::start(elsewhere, cluster.node(5), Arc::clone(runtime));
        other.dials(&victim);
        other.next_up();
        victim.next_up();
        assert!(!late.peer(&victim).is_connected(), "a fourth handshake");
        assert_undisturbed(&mut victim, &mut witness);
        drop(stalled);
        late.next_up();
        victim.next_up();
        for program in [late, other, witness, victim] {
            program.shutdown();
        }
    });
}

/// Where all places are taken, by handshakes or by connections, those that are dialled themselves still have some:
/// strangers cannot keep a cluster apart. A newcomer from elsewhere has none.
#[test]
#[cfg(target_os = "linux")] // Elsewhere, 127.0.0.2 is nobody's.
fn i10_there_are_places_for_nodes() {
    let full_of_handshakes = |limits: &mut Limits| limits.handshakes_max = 3;
    let full_of_connections = |limits: &mut Limits| limits.connections_max = 4;
    for fill in [full_of_handshakes, full_of_connections] {
        on_io_thread(|runtime| {
            let mut strict = config();
            fill(&mut strict.limits);
            strict.timings.handshake_timeout = Duration::from_secs(60);
            let (cluster, [mut victim, mut witness]) = scene(strict, runtime);
            let to = victim.transport.local_addr();
            let stalled: Vec<Raw> = (0..3)
                .map(|_| Raw::connect(to, &cluster.node(3), runtime))
                .collect();
            let from = |address: &str, id| {
                let mut elsewhere = config();
                elsewhere.listen = address.parse().unwrap();
                Program::start(elsewhere, cluster.node(id), Arc::clone(runtime))
            };
            let stranger = from("127.0.0.3:0", 4);
            stranger.dials(&victim);
            let mut member = from("127.0.0.2:0", 5);
            // Nobody is at that port: only the address counts, for a node may dial from any.
            let nearby = vec!["127.0.0.2:9".parse().unwrap()];
            victim
                .transport
                .set_peer(member.identity(), nearby)
                .unwrap();
            member.dials(&victim);
            member.next_up();
            victim.next_up();
            assert!(!stranger.peer(&victim).is_connected(), "without a place");
            assert_undisturbed(&mut victim, &mut witness);
            drop(stalled);
            for program in [stranger, member, witness, victim] {
                program.shutdown();
            }
        });
    }
}

/// Types of packets with long headers (RFC 9000, section 17.2).
const INITIAL: u8 = 0;
const RETRY: u8 = 3;

/// The type of the packet with which `to` answers the first one of a dialer.
fn first_answer(to: SocketAddr, credentials: &Credentials, runtime: &Arc<dyn Runtime>) -> u8 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls(credentials)).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let nowhere = socket.local_addr().unwrap();
    let dialer = endpoint(None, runtime);
    let dial = dialer.connect_with(config, nowhere, "n1.c1.quorate.invalid");
    let mut datagram = [0; 2000];
    let (length, _) = socket.recv_from(&mut datagram).unwrap();
    socket.send_to(&datagram[..length], to).unwrap();
    // The dialer says its first words again and again.
    while socket.recv_from(&mut datagram).unwrap().1 != to {}
    drop(dial);
    assert_eq!(datagram[0] >> 7, 1, "a long header");
    datagram[0] >> 4 & 0b11
}

/// From the threshold on, whoever comes must prove its address first, and honest peers do.
#[test]
fn i10_above_the_threshold_an_address_must_be_proven() {
    on_io_thread(|runtime| {
        let usual = config().limits.retry_above;
        // The control: below it, the handshake begins.
        for (retry_above, answer) in [(0, RETRY), (usual, INITIAL)] {
            let mut suspicious = config();
            suspicious.limits.retry_above = retry_above;
            let (cluster, [mut victim, mut witness]) = scene(suspicious, runtime);
            let to = victim.transport.local_addr();
            assert_eq!(first_answer(to, &cluster.node(3), runtime), answer);
            assert_undisturbed(&mut victim, &mut witness);
            witness.shutdown();
            victim.shutdown();
        }
    });
}

/// A further stream in both directions leads nowhere.
#[test]
fn i17_what_is_not_spoken_is_not_there() {
    on_io_thread(|runtime| {
        let (cluster, [mut victim, mut witness]) = scene(config(), runtime);
        let credentials = cluster.node(3);
        let raw = Raw::connect(victim.transport.local_addr(), &credentials, runtime);
        raw.greet(&Hello::of(&credentials).bytes()).unwrap();
        victim.next_up();
        // The place of the hello is free again. What takes it is never read, and there is no other.
        let (mut stream, _answer) = block_on(raw.connection.open_bi()).unwrap();
        block_on(stream.write_all(&Hello::of(&credentials).bytes())).unwrap();
        assert!(is_blocked(raw.connection.open_bi()));
        let endless = vec![0; 3 << 20];
        assert!(is_blocked(stream.write_all(&endless)));
        assert!(victim.inbox.try_recv().is_none());
        assert_undisturbed(&mut victim, &mut witness);
        witness.shutdown();
        victim.shutdown();
    });
}

/// For a peer that reads nothing, no more is kept than the queue's bound; what does not fit comes back,
/// and everybody else goes on as if it were not there.
#[test]
fn d10_a_peer_that_never_reads_costs_its_queue() {
    on_io_thread(|runtime| {
        let mut deaf = config();
        deaf.limits.inbox_messages_max = 1;
        let (cluster, [deaf, mut sender]) = scene(deaf, runtime);
        let mut other = Program::start(config(), cluster.node(3), Arc::clone(runtime));
        other.dials(&sender);
        other.next_up();
        sender.next_up();

        let to_deaf = sender.peer(&deaf);
        let full = || {
            let blobs = (0..50).find_map(|_| {
                let blob = Blob(vec![1; 100_000]);
                to_deaf.try_send(Lane::Append, 0, blob).err()
            });
            blobs.map(|error| error.why)
        };
        assert_eq!(wait_for("a full queue", full), NotSent::QueueFull);
        for n in 0..200 {
            sender
                .peer(&other)
                .try_send(Lane::Append, 0, Number(n))
                .unwrap();
            assert_eq!(other.next_message::<Number>(), Number(n));
            assert!(
                to_deaf
                    .try_send(Lane::Append, 0, Blob(vec![1; 100_000]))
                    .is_err()
            );
        }
        let bound = config().limits.lane_bytes_max;
        let peers = sender.transport.peers();
        let queued = |program: &Program| -> usize {
            let status = peers
                .iter()
                .find(|peer| peer.identity == program.identity());
            status.unwrap().queued.iter().map(|queue| queue.bytes).sum()
        };
        assert!(
            (bound / 2..=bound).contains(&queued(&deaf)),
            "{}",
            queued(&deaf)
        );
        assert_eq!(queued(&other), 0);
        assert!(to_deaf.is_connected(), "it answers, only it does not read");
        other.shutdown();
        sender.shutdown();
        let Program { transport, inbox } = deaf;
        drop(inbox);
        block_on(transport.shutdown(Duration::from_millis(200)));
    });
}
