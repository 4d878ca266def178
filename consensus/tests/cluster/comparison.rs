//! Comparing states through the log (reliability scenarios B18 and G14).

use std::time::Duration;

use quorate_consensus::{Payload, ProposeError};

use crate::rig::{Fate, Rig, Setup};

/// Ticks between two comparisons: a second.
const INTERVAL: u64 = 100;

fn comparing(voters: u64) -> Setup {
    Setup::voters(voters).config(|config| config.compare_interval = Duration::from_secs(1))
}

/// Writes and ticks until `node` has seen one comparison more.
fn compare_once(rig: &mut Rig, leader: u64, node: u64) {
    rig.commit(leader, &format!("at {}", rig.now));
    let before = rig.compared(node);
    rig.run_until(3 * INTERVAL, "a comparison", |rig| {
        rig.compared(node) > before
    });
}

/// Members that agree go on agreeing, learners included, and nobody compares what has not changed.
#[test]
fn equal_states_are_found_equal() {
    let mut rig = Rig::led_by(1, comparing(3).learners(1));
    for _ in 0..3 {
        compare_once(&mut rig, 1, 4);
    }
    assert!((1..=4).all(|node| !rig.diverged(node)));
    let before = rig.compared(1);
    rig.ticks(10 * INTERVAL);
    assert_eq!(rig.compared(1), before, "nothing was written");
}

/// Whose memory has changed by itself learns of it, whether it follows, learns or leads; the others do not
/// stop.
#[test]
fn b18_the_one_that_differs_stops() {
    for flipped in 1..=4 {
        let mut rig = Rig::led_by(1, comparing(3).learners(1));
        compare_once(&mut rig, 1, 1);
        rig.flip_memory(flipped);
        compare_once(&mut rig, 1, flipped);
        rig.ticks(2);
        for node in 1..=4 {
            assert_eq!(rig.diverged(node), node == flipped, "n{node}");
        }
    }
}

/// Without a majority nobody knows who is right, so nobody stops.
#[test]
fn two_that_differ_decide_nothing() {
    let mut rig = Rig::led_by(1, comparing(2));
    rig.flip_memory(2);
    rig.commit(1, "a");
    rig.ticks(5 * INTERVAL);
    assert_eq!(rig.compared(1), 0);
    let asked = |rig: &Rig| {
        let log = rig.durable(1).entries().iter();
        log.filter(|entry| entry.payload == Payload::Compare)
            .count()
    };
    assert!(asked(&rig) > 0);
    assert!((1..=2).all(|node| !rig.diverged(node)));
}

/// A leader that goes in between leaves the decision to the next one, and a message that is lost is said
/// again.
#[test]
fn the_next_leader_decides() {
    let mut rig = Rig::led_by(1, comparing(3));
    rig.flip_memory(3);
    rig.commit(1, "a");
    let to_leader = |message: &quorate_consensus::Message| {
        matches!(message.body, quorate_consensus::Body::Digest { .. })
    };
    rig.net.rule = Some(Box::new(move |_, _, message| match to_leader(message) {
        true => Fate::Drop,
        false => Fate::Deliver,
    }));
    rig.ticks(2 * INTERVAL);
    assert_eq!(rig.compared(2), 0);
    rig.elect(2);
    rig.net.rule = None;
    rig.run_until(INTERVAL, "the decision", |rig| rig.compared(3) > 0);
    assert!(rig.diverged(3));
    assert!(!rig.diverged(1) && !rig.diverged(2));
}

/// A state that takes longer to read than comparisons are apart is compared less often, and compared.
#[test]
fn a_large_state_is_compared_too() {
    let mut rig = Rig::led_by(1, comparing(3));
    rig.scan_pieces = 5 * INTERVAL / 2;
    for n in 0..60 {
        rig.commit(1, &format!("{n}"));
        rig.ticks(INTERVAL / 10);
    }
    assert!((1..=3).all(|node| rig.compared(node) > 0));
}

/// One that can never be decided is given up at last, for the next one.
#[test]
fn a_comparison_that_comes_to_nothing_is_given_up() {
    let mut rig = Rig::led_by(1, comparing(3));
    rig.scan_pieces = u64::MAX;
    for n in 0..20 {
        rig.commit(1, &format!("{n}"));
        rig.ticks(INTERVAL / 2);
    }
    assert_eq!(rig.compared(1), 0);
    rig.scan_pieces = 1;
    rig.run_until(10 * INTERVAL, "a comparison", |rig| rig.compared(3) > 0);
}

/// A comparison is no command: nobody's proposal is answered by it.
#[test]
fn proposals_go_on_beside_it() {
    let mut rig = Rig::led_by(1, comparing(3));
    for n in 0..20 {
        let token = rig.propose(1, format!("{n}"));
        rig.ticks(INTERVAL / 4);
        assert!(!matches!(
            rig.outcome(token),
            None | Some(Err(ProposeError::OutcomeUnknown { .. }))
        ));
    }
    assert!(rig.compared(1) >= 3);
    rig.check_answers();
}
