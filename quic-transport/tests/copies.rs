//! Copies, written by hand against `docs/wire.md`: what they are good for, and what they cannot do.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::raw::{Hello, Raw, frame};
use common::*;
use quorate_certs::Credentials;
use quorate_quic_transport::{
    Inbound, Lane,
    quinn::{Runtime, SendStream},
};

const CONTROL: u8 = 0;
const APPEND: u8 = 1;

/// A node, and somebody connected to it who writes by hand.
struct Scene {
    victim: Program,
    raw: Raw,
}

fn scene(
    runtime: &Arc<dyn Runtime>,
    who: impl FnOnce(&Cluster) -> Credentials,
) -> (Cluster, Scene) {
    let cluster = Cluster::new();
    let victim = Program::start(config(), cluster.node(1), Arc::clone(runtime));
    let raw = connect(&victim, &who(&cluster), runtime);
    (cluster, Scene { victim, raw })
}

fn connect(victim: &Program, credentials: &Credentials, runtime: &Arc<dyn Runtime>) -> Raw {
    let raw = Raw::connect(victim.transport.local_addr(), credentials, runtime);
    raw.greet(&Hello::of(credentials).bytes()).unwrap();
    raw
}

impl Scene {
    /// Sends a copy of `bytes`, which stand at `offset` in the stream of `lane`.
    fn copy(&self, lane: u8, offset: u64, bytes: &[u8]) {
        let datagram = [&[lane][..], &offset.to_le_bytes(), bytes].concat();
        self.raw.connection.send_datagram(datagram.into()).unwrap();
    }

    fn next(&mut self) -> Number {
        self.victim.next_message()
    }
}

fn write(lane: &mut SendStream, bytes: &[u8]) {
    block_on(lane.write_all(bytes)).unwrap();
}

fn number(number: u8) -> Vec<u8> {
    frame(1, &[number])
}

/// What is in a copy counts before the stream has it, and not again when that has it too, wherever the one and the
/// other begin and end.
#[test]
fn what_comes_twice_counts_once() {
    on_io_thread(|runtime| {
        let (_cluster, mut scene) = scene(runtime, |cluster| cluster.node(3));
        scene.victim.next_up();
        let mut lane = scene.raw.write_lane(&[&[APPEND][..], &number(1)].concat());
        assert_eq!(scene.next(), Number(1));
        let bytes: Vec<u8> = (1..=4).flat_map(number).collect();
        let one = number(1).len();
        // The second, and a part of the third.
        scene.copy(APPEND, 1, &bytes[..2 * one + 3]);
        assert_eq!(scene.next(), Number(2));
        // The stream has all of the third.
        write(&mut lane, &bytes[one..3 * one]);
        assert_eq!(scene.next(), Number(3));
        // Late, and of no use.
        scene.copy(APPEND, 1, &bytes[..3 * one]);
        // Of the fourth, the end before the beginning.
        scene.copy(APPEND, 1 + 3 * one as u64 + 5, &bytes[3 * one + 5..]);
        scene.copy(APPEND, 1 + 3 * one as u64, &bytes[3 * one..][..5]);
        assert_eq!(scene.next(), Number(4));
        write(&mut lane, &[&bytes[3 * one..], &number(5)[..]].concat());
        assert_eq!(scene.next(), Number(5));
        // Lanes have nothing to do with each other.
        scene.copy(CONTROL, 1, &number(6));
        let control = scene.raw.write_lane(&[CONTROL]);
        assert_eq!(scene.next(), Number(6));
        assert!(scene.victim.inbox.try_recv().is_none());
        drop((lane, control));
        scene.victim.shutdown();
    });
}

/// A datagram that is no copy, or one of a lane that is not there, ends the connection, and nothing else.
#[test]
fn i17_what_is_no_copy_ends_the_connection() {
    on_io_thread(|runtime| {
        let (cluster, mut scene) = scene(runtime, |cluster| cluster.node(2));
        scene.victim.next_up();
        let mut lane = scene.raw.write_lane(&[APPEND]);
        let of_lane = |lane: u8, offset: u64| [&[lane][..], &offset.to_le_bytes(), b"x"].concat();
        let (node, client) = (cluster.node(3), cluster.client("reporting"));
        for (what, who, datagram) in [
            ("nothing", &node, vec![]),
            ("no bytes", &node, of_lane(APPEND, 1)[..9].to_vec()),
            ("no such lane", &node, of_lane(4, 1)),
            ("no such offset", &node, of_lane(APPEND, u64::MAX)),
            ("a node's lane", &client, of_lane(APPEND, 1)),
        ] {
            let raw = connect(&scene.victim, who, runtime);
            raw.connection.send_datagram(datagram.into()).unwrap();
            assert_eq!(raw.closed_with(), 8, "{what}");
            if who.identity() == node.identity() {
                scene.victim.next_up();
                assert!(matches!(scene.victim.next(), Inbound::Down { .. }));
            }
            write(&mut lane, &number(7));
            assert_eq!(scene.next(), Number(7), "{what}");
        }
        scene.victim.shutdown();
    });
}

/// A copy of what the lane never had is noticed when it ends.
#[test]
fn i17_invented_copies_end_the_connection() {
    on_io_thread(|runtime| {
        let (_cluster, mut scene) = scene(runtime, |cluster| cluster.node(3));
        scene.victim.next_up();
        let mut lane = scene.raw.write_lane(&[APPEND]);
        scene.copy(APPEND, 1, &number(1));
        assert_eq!(scene.next(), Number(1));
        lane.finish().unwrap();
        assert_eq!(scene.raw.closed_with(), 8);
        assert!(matches!(scene.victim.next(), Inbound::Down { .. }));
        scene.victim.shutdown();
    });
}

/// A flood of copies that close no gap is dropped, and disturbs nobody.
#[test]
fn i9_copies_of_nothing_are_dropped() {
    on_io_thread(|runtime| {
        let (cluster, mut scene) = scene(runtime, |cluster| cluster.node(3));
        scene.victim.next_up();
        let mut witness = Program::start(config(), cluster.node(2), Arc::clone(runtime));
        witness.dials(&scene.victim);
        witness.next_up();
        scene.victim.next_up();
        let mut lane = scene.raw.write_lane(&[APPEND]);
        for far in 0..20_000 {
            scene.copy(APPEND, 1_000_000 + far * 2_000, &[0; 1_000]);
            scene.copy(CONTROL, 1_000_000 + far * 2_000, &[0; 1_000]);
        }
        write(&mut lane, &number(1));
        assert_eq!(scene.next(), Number(1));
        let peer = witness.peer(&scene.victim);
        peer.try_send(Lane::Append, 0, Number(2)).unwrap();
        assert_eq!(scene.next(), Number(2));
        drop(lane);
        witness.shutdown();
        scene.victim.shutdown();
    });
}
