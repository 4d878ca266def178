//! Packets that are lost, late, damaged, too long, forged; links that are narrow or come and go.

use std::time::Duration;

use futures_lite::future::zip;
use quorate_tests::params::Params;
use quorate_tests::plan::Fault;
use quorate_tests::sim::{World, node_host};

use crate::stage::{
    LONG, PATIENCE, ask, fault, get, leader, others, params, put, settle, survives, term, world,
    world_as,
};

/// A fifth of all packets lost, half of them doubled, one in a hundred damaged, all out of order: clients
/// are served, and what they see holds.
#[test]
fn d1_a_bad_network_only_delays() {
    let mut params = params(3);
    params.election_timeout_ms = 1_000;
    params.heartbeat_interval_ms = 125;
    params.network.delay_max_us = 20_000;
    params.network.loss_permille = 200;
    params.network.duplicate_permille = 500;
    params.network.corrupt_permille = 10;
    let slow = |(from, to)| {
        let degrade = Fault::Degrade {
            from,
            to,
            loss_permille: 300,
            delay_ms: 500,
        };
        fault(5_000, 3_000, degrade)
    };
    let counts = survives(params, 10, vec![slow((1, 2)), slow((2, 3)), slow((3, 1))]);
    assert!(counts.acknowledged > 20, "{counts:?}");
}

/// Five nodes, of which one is paused, one lost its disk, and one is behind a link of a megabit a second: the
/// three that are left take writes, the slow one among them, and nobody's log runs away.
#[test]
fn one_paused_one_slow_and_one_wiped() {
    let mut world = world(5, 1);
    put(&mut world, "before");
    let leads = leader(&world);
    let [paused, wiped, slow, quick] = others(5, leads)[..] else {
        panic!("four others");
    };
    world.kill(wiped, true);
    world.wipe(wiped);
    world.start(wiped).unwrap();
    world.pause(paused, true);
    for other in (1..=5).filter(|other| *other != slow) {
        for (from, to) in [(slow, other), (other, slow)] {
            world.link(node_host(from), node_host(to), |link| {
                link.bytes_per_second = Some(125_000);
            });
        }
    }
    let began = world.now();
    for _ in 0..50 {
        put(&mut world, "meanwhile");
    }
    let took = world.now() - began;
    assert!(took < Duration::from_secs(10), "50 writes took {took:?}");
    assert_eq!(world.failure(), None);
    let index = |world: &World, node| world.status(node).unwrap().last.index.value();
    let (here, there) = (index(&world, quick), index(&world, slow));
    assert!(here.abs_diff(there) < 10, "{here} and {there}");
    assert_eq!(world.status(wiped).unwrap().last, quorate::ORIGIN);
    world.pause(paused, false);
    world.run_for(Duration::from_secs(5));
    put(&mut world, "after");
    assert!(index(&world, paused) > 50);
    assert_eq!(world.failure(), None);
}

/// A link that comes and goes every 100 ms for a minute moves the term at most once, and costs no more than a
/// few times what the same minute costs without.
#[test]
fn d8_a_flapping_link_makes_no_storm() {
    let minute = |flaps: bool| {
        let mut world = world(3, 1);
        let leads = leader(&world);
        let follows = others(3, leads)[0];
        let before = (term(&world, leads), world.datagrams());
        for half in 0..600 {
            if flaps {
                world.cut(leads, follows, half % 2 == 0);
                world.cut(follows, leads, half % 2 == 0);
            }
            world.run_for(Duration::from_millis(100));
        }
        put(&mut world, "a");
        assert_eq!(world.failure(), None);
        let terms = term(&world, leader(&world)) - before.0;
        (terms, world.datagrams() - before.1)
    };
    let (calm, flapping) = (minute(false), minute(true));
    assert!(flapping.0 <= 1, "{flapping:?}");
    assert!(flapping.1 < 3 * calm.1, "{flapping:?} against {calm:?}");
}

/// Writes `count` times, and says how long that took.
fn writes(world: &mut World, count: usize) -> Duration {
    let began = world.now();
    let client = world.client(1, PATIENCE);
    let work = async move {
        for key in 0..count {
            client.put(format!("{key}"), vec![7; 10_000]).await.unwrap();
        }
    };
    ask(world, LONG, work).expect("they are written");
    world.now() - began
}

/// 64 kbit/s to one follower: writes take as long as without, the leader stays, and the follower has all of it
/// in the end.
#[test]
fn d9_one_narrow_link_slows_nobody_else() {
    let mut world = world(3, 1);
    let leads = leader(&world);
    let narrow = others(3, leads)[0];
    let usual = writes(&mut world, 50);
    let before = term(&world, leads);
    world.link(node_host(leads), node_host(narrow), |link| {
        link.bytes_per_second = Some(8_000);
    });
    let took = writes(&mut world, 50);
    assert!(took < 2 * usual, "{took:?}, and {usual:?} without");
    assert_eq!((leader(&world), term(&world, leads)), (leads, before));
    world.link(node_host(leads), node_host(narrow), |link| {
        link.bytes_per_second = None;
    });
    let last = world.status(leads).unwrap().commit;
    let deadline = world.now() + LONG;
    let caught_up = world.run_until(deadline, |world| {
        world
            .status(narrow)
            .is_some_and(|status| status.applied >= last)
    });
    assert!(caught_up, "{}", world.status(narrow).unwrap());
    assert_eq!(world.failure(), None);
}

/// The path swallows what is longer than 1,200 bytes, after connections have found out that more fits: they
/// survive or are made anew, and values of many packets arrive.
#[test]
fn d11_a_path_that_swallows_long_datagrams_is_survived() {
    let mut world = world(3, 1);
    writes(&mut world, 20);
    for from in 1..=3 {
        for to in others(3, from) {
            world.link(node_host(from), node_host(to), |link| {
                link.datagram_bytes_max = 1_200;
            });
        }
    }
    put(&mut world, "a");
    writes(&mut world, 20);
    settle(&mut world, 3);
    assert_eq!(world.failure(), None);
}

/// A router gives a node another port under its connections: it is back, and with it nobody else's name.
#[test]
fn d13_a_peer_that_is_seen_elsewhere_comes_back() {
    for moved in 1..=3 {
        let mut world = world(3, 1);
        world.rebind(moved);
        put(&mut world, "a");
        let deadline = world.now() + LONG;
        let last = world.status(leader(&world)).unwrap().commit;
        let back = world.run_until(deadline, |world| {
            let status = world.status(moved);
            status.is_some_and(|status| status.applied >= last)
        });
        assert!(back, "n{moved} catches up");
        settle(&mut world, 3);
        assert_eq!(world.failure(), None);
    }
}

/// All nodes start at the same moment: one leads within five seconds.
#[test]
fn d16_all_start_at_once() {
    for voters in [3, 7] {
        let mut world = world(voters, 1);
        put(&mut world, "a");
        for node in 1..=voters {
            world.kill(node, false);
        }
        for node in 1..=voters {
            world.start(node).unwrap();
        }
        let deadline = world.now() + Duration::from_secs(5);
        assert!(world.run_until(deadline, |world| world.leader().is_some()));
        assert!(get(&mut world, "a"));
        assert_eq!(world.failure(), None);
    }
}

/// A datagram like a stateless reset: it looks like a packet of a connection, and ends in a token that is a
/// guess.
fn reset(guess: u8) -> Vec<u8> {
    let mut datagram = vec![guess; 60];
    datagram[0] = 0x40 | (guess % 0x40);
    datagram
}

/// A datagram that says which versions a node speaks: none that anybody knows.
fn versions(guess: u8) -> Vec<u8> {
    let mut datagram = vec![0x80 | guess, 0, 0, 0, 0, 8];
    datagram.extend([guess; 8]);
    datagram.push(8);
    datagram.extend([guess; 8]);
    datagram.extend([0x0a, 0x1a, 0x2a, 0x3a]);
    datagram
}

/// Somebody off the path who knows every address sends resets and versions in the names of peers: no
/// connection ends, nobody else leads.
#[test]
fn d17_forged_resets_and_versions_are_ignored() {
    let mut world = world(3, 1);
    let leads = leader(&world);
    let before = term(&world, leads);
    for guess in 0..=255 {
        for from in 1..=3 {
            for to in others(3, from) {
                world.forge(from, to, reset(guess));
                world.forge(from, to, versions(guess));
            }
        }
        world.run_for(Duration::from_millis(10));
    }
    put(&mut world, "a");
    assert_eq!((leader(&world), term(&world, leads)), (leads, before));
    assert_eq!(world.failure(), None);
}

/// Three nodes, so long from each other, and one packet in a hundred lost.
fn lossy(delay_us: u64) -> Params {
    let mut params = params(3);
    params.network.delay_min_us = delay_us;
    params.network.delay_max_us = delay_us;
    params.network.loss_permille = 10;
    params
}

/// Where one packet in a hundred is lost whatever the load, followers 10 ms away are kept up with all the same: 20 MB
/// take 2.3 s, and would take 12 s if each loss were taken for congestion.
#[test]
fn some_loss_does_not_make_a_link_narrow() {
    let mut world = world_as(1, lossy(5_000));
    let client = world.client(1, PATIENCE);
    let writes = |writer: u8| {
        let client = client.clone();
        async move {
            for _ in 0..60 {
                let value = vec![writer; 80_000];
                client.put(vec![writer], value).await.unwrap();
            }
        }
    };
    let began = world.now();
    let pair = |one, other| zip(writes(one), writes(other));
    let done = ask(&mut world, LONG, zip(pair(1, 2), pair(3, 4)));
    done.expect("a minute is enough");
    let took = world.now() - began;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(world.failure(), None);
}

/// The same link and small writes: a packet that is lost costs next to nothing, for it was sent again before anybody
/// could miss it. Without that, one write in sixty takes a round trip more.
#[test]
fn some_loss_makes_few_writes_slow() {
    let mut world = world_as(1, lossy(5_000));
    let client = world.client(1, PATIENCE);
    let (writes, mut slow) = (1_000, 0);
    for _ in 0..writes {
        let (client, began) = (client.clone(), world.now());
        let put = async move { client.put("small", "value").await.map(drop) };
        ask(&mut world, LONG, put).unwrap().unwrap();
        slow += u32::from(world.now() - began > Duration::from_millis(30));
    }
    assert!(slow * 200 < writes, "{slow} of {writes} took long");
    assert_eq!(world.failure(), None);
}

/// Nodes and clients on different continents: 300 ms there and back, with an election timeout to match.
#[test]
fn far_apart() {
    let mut params = lossy(150_000);
    params.election_timeout_ms = 3_000;
    params.heartbeat_interval_ms = 600;
    let mut world = world_as(1, params);
    let (leads, before) = (leader(&world), term(&world, 1));
    for _ in 0..20 {
        put(&mut world, "far");
    }
    assert!(get(&mut world, "far"));
    assert_eq!((leader(&world), term(&world, leads)), (leads, before));
    assert_eq!(world.failure(), None);
}
