//! Somebody on the path, who can record, repeat and forge packets, and read none of them.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod common;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use common::*;
use quorate_quic_transport::{Inbound, Lane, quinn::Runtime};

/// How long the path waits for a packet before it looks whether it is still wanted.
const WAIT: Duration = Duration::from_millis(20);

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// A way through which packets go, and which keeps a copy of each from the dialer.
struct Path {
    addr: SocketAddr,
    recorded: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Where the acceptor sees the dialer.
    outer: UdpSocket,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Path {
    /// To `acceptor`. Each packet of the dialer is sent again `extra` times, and every tenth with it all
    /// that came before.
    fn to(acceptor: SocketAddr, extra: usize) -> Self {
        let inner = UdpSocket::bind("127.0.0.1:0").unwrap();
        let outer = UdpSocket::bind("127.0.0.1:0").unwrap();
        for socket in [&inner, &outer] {
            socket.set_read_timeout(Some(WAIT)).unwrap();
        }
        let addr = inner.local_addr().unwrap();
        let recorded: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let (stop, dialer) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let there = {
            let (inner, outer) = (inner.try_clone().unwrap(), outer.try_clone().unwrap());
            let (recorded, dialer) = (Arc::clone(&recorded), Arc::clone(&dialer));
            forward(&stop, inner, move |packet, from| {
                *dialer.lock().unwrap() = Some(from);
                let mut recorded = recorded.lock().unwrap();
                recorded.push(packet.to_vec());
                for _ in 0..=extra {
                    let _ = outer.send_to(packet, acceptor);
                }
                if extra > 0 && recorded.len().is_multiple_of(10) {
                    for packet in recorded.iter() {
                        let _ = outer.send_to(packet, acceptor);
                    }
                }
            })
        };
        let back = forward(&stop, outer.try_clone().unwrap(), move |packet, _| {
            if let Some(dialer) = *dialer.lock().unwrap() {
                let _ = inner.send_to(packet, dialer);
            }
        });
        Self {
            addr,
            recorded,
            outer,
            stop,
            threads: vec![there, back],
        }
    }

    fn recorded(&self) -> Vec<Vec<u8>> {
        self.recorded.lock().unwrap().clone()
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn forward(
    stop: &Arc<AtomicBool>,
    socket: UdpSocket,
    mut each: impl FnMut(&[u8], SocketAddr) + Send + 'static,
) -> JoinHandle<()> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut packet = [0; 65536];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut packet) {
                each(&packet[..length], from);
            }
        }
    })
}

/// A node, one that dials it through `Path`, and one that dials it straight.
struct Scene {
    acceptor: Program,
    dialer: Program,
    witness: Program,
    path: Path,
}

fn scene(extra: usize, retry_above: usize, runtime: &Arc<dyn Runtime>) -> Scene {
    let cluster = Cluster::new();
    let mut hasty = config();
    hasty.timings.handshake_timeout = HANDSHAKE_TIMEOUT;
    hasty.limits.retry_above = retry_above;
    let mut acceptor = Program::start(hasty, cluster.node(1), Arc::clone(runtime));
    let mut witness = Program::start(config(), cluster.node(2), Arc::clone(runtime));
    witness.dials(&acceptor);
    witness.next_up();
    acceptor.next_up();
    let path = Path::to(acceptor.transport.local_addr(), extra);
    let mut dialer = Program::start(config(), cluster.node(3), Arc::clone(runtime));
    dialer
        .transport
        .set_peer(acceptor.identity(), vec![path.addr])
        .unwrap();
    dialer.next_up();
    acceptor.next_up();
    Scene {
        acceptor,
        dialer,
        witness,
        path,
    }
}

impl Scene {
    fn send(&self, from: u64, to: u64) {
        let peer = self.dialer.peer(&self.acceptor);
        for n in from..to {
            peer.try_send(Lane::Append, 0, Number(n)).unwrap();
        }
    }

    /// What the witness says still arrives, and nothing else before it.
    fn assert_undisturbed(&mut self) {
        let peer = self.witness.peer(&self.acceptor);
        peer.try_send(Lane::Append, 0, Number(77)).unwrap();
        assert_eq!(self.acceptor.next_message::<Number>(), Number(77));
    }

    fn end(self) {
        self.witness.shutdown();
        self.acceptor.shutdown();
    }
}

/// Packets repeated while the connection is up deliver nothing twice; all of them repeated after its end,
/// from the same address and from another, deliver nothing, open nothing and close nothing.
#[test]
fn i12_replayed_packets_have_no_effect() {
    on_io_thread(|runtime| {
        let mut scene = scene(2, 64, runtime);
        for round in 0..20 {
            scene.send(round * 10, round * 10 + 10);
            for n in round * 10..round * 10 + 10 {
                assert_eq!(scene.acceptor.next_message::<Number>(), Number(n));
            }
        }
        block_on(scene.dialer.transport.shutdown(Duration::from_secs(2)));
        assert!(matches!(scene.acceptor.next(), Inbound::Down { .. }));

        let recorded = scene.path.recorded();
        assert!(recorded.len() > 30, "{} packets", recorded.len());
        let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = scene.acceptor.transport.local_addr();
        let outer = scene.path.outer.try_clone().unwrap();
        for socket in [&outer, &elsewhere] {
            for packet in &recorded {
                socket.send_to(packet, to).unwrap();
            }
            scene.assert_undisturbed();
        }
        assert!(scene.witness.inbox.try_recv().is_none());
        scene.end();
    });
}

/// What a node sends to an address that has sent one first packet, and no more, for longer than a
/// handshake may take; and how long that packet was.
fn drawn_by_one_packet(retry_above: usize, runtime: &Arc<dyn Runtime>) -> (usize, usize) {
    let mut scene = scene(0, retry_above, runtime);
    // A first packet that the node has not seen: a dialer is led to the forger instead.
    let forger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let led_away = Program::start(config(), Cluster::new().node(4), Arc::clone(runtime));
    let wanted = Cluster::new().node(1).identity().clone();
    let forged = forger.local_addr().unwrap();
    led_away.transport.set_peer(wanted, vec![forged]).unwrap();
    let mut packet = [0; 65536];
    let first = forger.recv(&mut packet).unwrap();
    led_away.shutdown();

    let to = scene.acceptor.transport.local_addr();
    let patience = 2 * HANDSHAKE_TIMEOUT;
    forger.set_read_timeout(Some(patience)).unwrap();
    forger.send_to(&packet[..first], to).unwrap();
    let mut drawn = 0;
    while let Ok((length, from)) = forger.recv_from(&mut packet) {
        drawn += if from == to { length } else { 0 };
    }
    scene.assert_undisturbed();
    scene.end();
    (drawn, first)
}

/// Whoever sends the first packet of a handshake in another's name draws about three times its bytes on
/// the other (RFC 9000, section 8.1), and above the threshold of handshakes less than its bytes.
#[test]
fn i13_an_unproven_address_draws_little() {
    on_io_thread(|runtime| {
        let (drawn, first) = drawn_by_one_packet(64, runtime);
        assert!(drawn > first, "the packet is no first packet: {drawn}");
        // quinn begins a packet while anything is left of the three times (quinn#1082).
        let most = 3 * first + 1200;
        assert!(drawn < most, "{drawn} for {first}");

        let (drawn, first) = drawn_by_one_packet(0, runtime);
        assert!(drawn > 0 && drawn < first / 2, "{drawn} for {first}");
    });
}
