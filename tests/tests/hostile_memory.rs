//! What a node's memory comes to while others try to fill it.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::block_on;
use quorate::kv::{Query, Request};
use quorate_certs::{Credentials, Subject};
use quorate_quic_transport::quinn::Runtime;
use quorate_quic_transport::runtime::IoThread;
use quorate_tests::process::Cluster;
use quorate_tests::raw::{CALL, Lane, Raw, first_packets, is_cut_off_with};

/// How many connections each attacker has: nearly as many as a client may.
const CONNECTIONS: usize = 60;

/// What a node may grow by under all of this: what `SECURITY.md` says that waits for two clients who take nothing,
/// twice 16 MiB, and that three times 60 connections have on their way, 512 KiB each; what is one for all; and some
/// for what is not bytes of users.
const GROWN_MAX_MIB: u64 = 2 * 16 + 3 * CONNECTIONS as u64 / 2 + 8 + 28;

/// How long an attacker tries to write more.
const TRY: Duration = Duration::from_millis(50);

struct Attacker<'a> {
    cluster: &'a Cluster,
    runtime: Arc<dyn Runtime>,
}

impl Attacker<'_> {
    fn address(&self) -> SocketAddr {
        self.cluster.address(1)
    }

    fn credentials(&self, name: &str) -> Credentials {
        self.cluster.credentials(&Subject::client(name).unwrap())
    }

    fn connect(&self, credentials: &Credentials) -> Raw {
        Raw::connect(1, self.address(), credentials, &self.runtime)
    }

    fn callers(&self, name: &str) -> Vec<(Raw, Lane)> {
        let credentials = self.credentials(name);
        let caller = |_| {
            let raw = self.connect(&credentials);
            let lane = raw.lane(CALL);
            (raw, lane)
        };
        (0..CONNECTIONS).map(caller).collect()
    }

    /// Asks for a megabyte again and again, and reads no answer (I9).
    fn asks_in_vain(&self) -> Vec<(Raw, Lane)> {
        let mut callers = self.callers("greedy");
        let everything = Request::ReadStale(Query::Range {
            start: Bytes::new(),
            end: None,
            limit: 1000,
        });
        for _ in 0..40 {
            for (raw, lane) in &mut callers {
                raw.ask_in_vain(lane, &everything);
            }
        }
        callers
    }

    /// Begins the largest frames there are, and ends none (I11).
    fn begins_frames(&self) -> Vec<(Raw, Lane)> {
        let mut callers = self.callers("slow");
        for (_, lane) in &mut callers {
            lane.write(&(4u32 << 20).to_le_bytes());
            lane.write(&[1]);
            lane.write_some(&vec![0; (4 << 20) - 100], TRY);
        }
        callers
    }

    /// Ends the largest frames there are, and stays (I9): what they took must not stay with it.
    fn ends_frames(&self) -> Vec<(Raw, Lane)> {
        let mut callers = self.callers("thorough");
        let body = [
            &[1, 1, 255, 255, 1][..],
            &[0; 8],
            &[7; 8],
            &vec![0; (4 << 20) - 21],
        ]
        .concat();
        for (_, lane) in &mut callers {
            lane.write(&(4u32 << 20).to_le_bytes());
            lane.write(&body);
        }
        callers
    }

    /// Streams without end (I8), and certificates that come fifty times (I14).
    fn floods(&self) {
        let credentials = self.credentials("floods");
        let is_cut_off = |certificates| {
            let at = self.address();
            is_cut_off_with(certificates, 1, at, &credentials, &self.runtime)
        };
        assert!(!is_cut_off(1), "it only has nothing to say");
        for _ in 0..20 {
            self.connect(&credentials).flood_with_streams();
            assert!(is_cut_off(50));
        }
    }

    /// Handshakes that nobody goes on with, several times as many as there may be (I10).
    fn stalls(&self) {
        let packets = first_packets(1000, 1, &self.credentials("stalls"), &self.runtime);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for packet in packets {
            socket.send_to(&packet, self.address()).unwrap();
        }
    }
}

/// Clients that take nothing, end nothing, and open everything, all at a time and with every connection they may
/// have, cost a bounded amount of memory, and an honest one is answered all the while.
#[test]
fn i16_floods_of_every_kind_cost_bounded_memory() {
    let mut cluster = Cluster::new();
    cluster.start_with(1, &cluster.start_args_alone());
    let value = "v".repeat(100_000);
    for key in 0..10 {
        let key = key.to_string();
        cluster.run(&["kv", "put", &key, &value]).succeeded();
    }
    let Some(before) = cluster.memory_mib(1) else {
        return; // Only Linux says.
    };
    let io = IoThread::spawn("hostile").unwrap();
    let honest = IoThread::spawn("honest").unwrap();
    let client = cluster.client(honest.runtime());
    let attacker = Attacker {
        cluster: &cluster,
        runtime: io.runtime(),
    };
    thread::scope(|scope| {
        let slow = scope.spawn(|| attacker.begins_frames());
        let greedy = scope.spawn(|| attacker.asks_in_vain());
        let thorough = scope.spawn(|| attacker.ends_frames());
        let floods = scope.spawn(|| attacker.floods());
        let stalls = scope.spawn(|| attacker.stalls());
        let mut done = false;
        while !done {
            done = slow.is_finished() && greedy.is_finished() && thorough.is_finished();
            done &= floods.is_finished() && stalls.is_finished();
            block_on(client.put("honest", "value")).unwrap();
        }
        // All of them are still connected.
        let held = [slow, greedy, thorough].map(|all| all.join().unwrap());
        cluster.takes_writes("meanwhile");
        drop((held, floods.join().unwrap(), stalls.join().unwrap()));
    });
    cluster.takes_writes("after");
    let after = cluster.memory_mib(1).unwrap();
    println!("{before} MiB before, {after} MiB at most");
    assert!(
        after - before <= GROWN_MAX_MIB,
        "from {before} to {after} MiB, by more than {GROWN_MAX_MIB}"
    );
}
