//! A peer with a good certificate and bad intentions, written against `docs/wire.md` with nothing
//! but quinn: it also shows that a second implementation is possible.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::raw::{Hello, Raw, frame};
use common::*;
use quorate_quic_transport::{CloseReason, Inbound, Lane, quinn::Runtime};

struct Scene {
    cluster: Cluster,
    victim: Program,
    witness: Program,
}

/// A node under attack, and another one that must notice nothing.
fn scene(runtime: &Arc<dyn Runtime>) -> Scene {
    let cluster = Cluster::new();
    let mut victim = Program::start(config(), cluster.node(1), Arc::clone(runtime));
    let mut witness = Program::start(config(), cluster.node(2), Arc::clone(runtime));
    witness.dials(&victim);
    witness.next_up();
    victim.next_up();
    Scene {
        cluster,
        victim,
        witness,
    }
}

impl Scene {
    fn attacker(&self, id: u64, runtime: &Arc<dyn Runtime>) -> (Raw, Hello) {
        let credentials = self.cluster.node(id);
        let to = self.victim.transport.local_addr();
        let raw = Raw::connect(to, &credentials, runtime);
        (raw, Hello::of(&credentials))
    }

    /// The witness is still connected, on the same session.
    fn assert_undisturbed(&mut self) {
        self.witness
            .peer(&self.victim)
            .try_send(Lane::Append, 0, Number(42))
            .unwrap();
        assert_eq!(self.victim.next_message::<Number>(), Number(42));
        assert!(self.witness.inbox.try_recv().is_none(), "no Down");
    }

    fn end(self) {
        self.witness.shutdown();
        self.victim.shutdown();
    }
}

#[test]
fn a_second_implementation_is_understood() {
    on_io_thread(|runtime| {
        let mut scene = scene(runtime);
        let (raw, hello) = scene.attacker(3, runtime);
        let welcome = raw.greet(&hello.bytes()).unwrap();
        assert_eq!(&welcome[..6], b"QRTE\x01\x01");
        scene.victim.next_up();
        let lane = raw.write_lane(&[&[0][..], &frame(1, &[42])].concat());
        assert_eq!(scene.victim.next_message::<Number>(), Number(42));
        // A kind nobody knows is delivered: the service decides.
        let other = raw.write_lane(&[&[1][..], &frame(999, b"???")].concat());
        let Inbound::Message(message) = scene.victim.next() else {
            panic!("a message")
        };
        assert_eq!((message.kind, &message.body()[..]), (999, &b"???"[..]));
        drop((lane, other, raw.endpoint));
        scene.end();
    });
}

#[test]
fn i1_i2_i4_broken_frames_close_that_connection_with_their_code_and_nothing_else() {
    Warnings::collect();
    on_io_thread(|runtime| {
        let mut scene = scene(runtime);
        let cases: [(&str, Vec<u8>, u64); 8] = [
            ("oversized", [&[0][..], &u32::MAX.to_le_bytes()].concat(), 9),
            (
                "one beyond the lane",
                [&[0][..], &((64 << 10) + 1u32).to_le_bytes()].concat(),
                9,
            ),
            ("shorter than a header", vec![0, 3, 0, 0, 0, 1, 0, 0], 8),
            ("frame version", vec![0, 13, 0, 0, 0, 77], 7),
            (
                "frame shape",
                [&[0, 13, 0, 0, 0, 1, 9][..], &[0; 11]].concat(),
                8,
            ),
            (
                "request on control",
                [&[0, 21, 0, 0, 0, 1, 1][..], &[0; 19]].concat(),
                8,
            ),
            ("no such lane", vec![250, 1, 2, 3], 8),
            ("message on reply", [&[3][..], &frame(1, &[42])].concat(), 8),
        ];
        for (what, bytes, code) in cases {
            let (raw, hello) = scene.attacker(3, runtime);
            raw.greet(&hello.bytes()).unwrap();
            scene.victim.next_up();
            let lane = raw.write_lane(&bytes);
            assert_eq!(raw.closed_with(), code, "{what}");
            let Inbound::Down { reason, .. } = scene.victim.next() else {
                panic!("Down")
            };
            assert!(
                matches!(reason, CloseReason::ByUs { .. }),
                "{what}: {reason}"
            );
            drop(lane);
            scene.assert_undisturbed();
        }
        Warnings::wait_for(&[
            "broke the protocol",
            "spiffe://c1/node/3",
            "frame too large",
        ]);
        scene.end();
    });
}

#[test]
fn i2_a_lane_opened_twice_or_cut_inside_a_frame_ends_the_connection() {
    on_io_thread(|runtime| {
        let mut scene = scene(runtime);
        let (raw, hello) = scene.attacker(3, runtime);
        raw.greet(&hello.bytes()).unwrap();
        scene.victim.next_up();
        let (first, second) = (raw.write_lane(&[0]), raw.write_lane(&[0]));
        assert_eq!(raw.closed_with(), 8);
        assert!(matches!(scene.victim.next(), Inbound::Down { .. }));
        drop((first, second));

        let (raw, hello) = scene.attacker(3, runtime);
        raw.greet(&hello.bytes()).unwrap();
        scene.victim.next_up();
        // quinn finishes a dropped stream: a cut message must not look complete.
        drop(raw.write_lane(&[0, 13, 0, 0, 0, 1]));
        assert_eq!(raw.closed_with(), 8);
        assert!(matches!(scene.victim.next(), Inbound::Down { .. }));
        scene.assert_undisturbed();
        scene.end();
    });
}

#[test]
fn e7_i5_j6_j22_a_hello_must_agree_with_the_certificate() {
    Warnings::collect();
    on_io_thread(|runtime| {
        let mut scene = scene(runtime);
        let client = scene.cluster.client("app");
        let to = scene.victim.transport.local_addr();
        let raw = Raw::connect(to, &client, runtime);
        let claims_a_node = Hello {
            identity: "spiffe://c1/node/7".into(),
            ..Hello::of(&client)
        };
        assert!(raw.greet(&claims_a_node.bytes()).is_err(), "no welcome");
        assert_eq!(raw.closed_with(), 6);
        Warnings::wait_for(&[
            "we refused",
            "certificate says spiffe://c1/client/app",
            "node/7",
        ]);

        for (hello, code) in [
            (
                Hello {
                    cluster: "c2".into(),
                    ..Hello::of(&client)
                }
                .bytes(),
                5,
            ),
            (
                Hello {
                    cluster: "x\nERROR forged\x1b[2J".into(),
                    ..Hello::of(&client)
                }
                .bytes(),
                5,
            ),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 8),
            (b"QRTE\x05\x09\x00\x00".to_vec(), 7),
            (b"QRTE\x01\x01\xff\xff".to_vec(), 9),
            (b"QRTE\x01\x01\x02\x00\xff\xff".to_vec(), 8),
        ] {
            let raw = Raw::connect(to, &client, runtime);
            assert!(raw.greet(&hello).is_err());
            assert_eq!(raw.closed_with(), code, "{hello:?}");
        }
        // What a peer says of itself writes no lines of its own into the log.
        Warnings::wait_for(&["wrong cluster", "you are x?ERROR forged?[2J"]);
        // Two identities cannot be one: node 1's own certificate at node 1.
        let twin = scene.cluster.node(1);
        let raw = Raw::connect(to, &twin, runtime);
        assert!(raw.greet(&Hello::of(&twin).bytes()).is_err());
        assert_eq!(raw.closed_with(), 6);
        assert!(
            scene.victim.inbox.try_recv().is_none(),
            "nobody of them was Up"
        );
        scene.assert_undisturbed();
        scene.end();
    });
}

#[test]
fn nothing_sent_before_the_welcome_is_delivered() {
    on_io_thread(|runtime| {
        let mut scene = scene(runtime);
        let (raw, hello) = scene.attacker(3, runtime);
        let lane = raw.write_lane(&[&[0][..], &frame(1, &[7])].concat());
        // Its own number is another one.
        scene.assert_undisturbed();
        // Only the hello makes it count, and `Up` still comes first.
        raw.greet(&hello.bytes()).unwrap();
        scene.victim.next_up();
        assert_eq!(scene.victim.next_message::<Number>(), Number(7));
        drop(lane);
        scene.end();
    });
}

#[test]
fn i2_random_bytes_on_every_lane_never_disturb_anyone_else() {
    on_io_thread(|runtime| {
        let mut scene = scene(runtime);
        let mut seed = 3u64;
        for round in 0..40u8 {
            let (raw, hello) = scene.attacker(3, runtime);
            raw.greet(&hello.bytes()).unwrap();
            scene.victim.next_up();
            let mut bytes = vec![round % 4];
            for _ in 0..2000 {
                seed = seed
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                bytes.push((seed >> 56) as u8);
            }
            // Half of the rounds begin like a frame, to reach further.
            if round % 2 == 0 {
                bytes[1..7].copy_from_slice(&[40, 0, 0, 0, 1, round / 4 % 4]);
            }
            let lane = raw.write_lane(&bytes);
            raw.closed_with();
            drop(lane);
            loop {
                match scene.victim.next() {
                    Inbound::Down { .. } => break,
                    Inbound::Message(_) | Inbound::Call(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        scene.assert_undisturbed();
        scene.end();
    });
}
