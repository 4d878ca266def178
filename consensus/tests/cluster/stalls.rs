//! State machines that do not come back with what they were given to apply.

use std::time::Duration;

use quorate_consensus::Event;

use crate::rig::{Rig, Setup, id};

/// `apply_stall_timeout`, 30 s, at ticks of 10 ms.
const STALL_TICKS: u64 = 3000;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What `node` said of its state machine.
fn said(rig: &Rig, node: u64) -> Vec<Event> {
    let about = |event: &&Event| {
        matches!(
            event,
            Event::StateMachineStalled { .. } | Event::StateMachineAnswers { .. }
        )
    };
    rig.events(node).iter().filter(about).cloned().collect()
}

/// A leader whose state machine hangs gives leadership away; what it had taken on is committed, and it follows. When
/// the state machine comes back all is as before, without a restart.
#[test]
fn b19_a_leader_whose_state_machine_hangs_hands_over() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.ticks(2 * STALL_TICKS);
    rig.stall_machine(1, true);
    let token = rig.propose(1, "b");
    rig.ticks(STALL_TICKS - 1);
    assert!(
        rig.leads(1),
        "one that has nothing to do, or is slow, is no reason"
    );
    assert_eq!(said(&rig, 1), []);
    rig.run_until(10, "another leads", |rig| {
        [2, 3].iter().any(|&node| rig.leads(node))
    });
    let next = rig.leader().unwrap();
    rig.commit(next, "c");
    assert_eq!(rig.applied(next), ["a", "b", "c"]);
    assert_eq!(rig.applied(1), ["a"], "its state machine still hangs");
    let stalled = |waited| Event::StateMachineStalled { waited };
    assert_eq!(said(&rig, 1), [stalled(seconds(30))]);
    rig.ticks(STALL_TICKS);
    assert!(rig.leads(next), "it does not disturb who leads");
    assert_eq!(said(&rig, 1), [30, 60].map(seconds).map(stalled));
    assert!(rig.status(1).state_machine_stalled >= Some(seconds(60)));
    assert_eq!(said(&rig, next), []);
    assert_eq!(rig.status(next).state_machine_stalled, None);
    rig.stall_machine(1, false);
    rig.run_until(100, "all agree", Rig::agrees);
    rig.tick();
    assert!(matches!(rig.outcome(token), Some(Ok(_))));
    assert!(matches!(
        said(&rig, 1)[2..],
        [Event::StateMachineAnswers { .. }]
    ));
    assert_eq!(rig.status(1).state_machine_stalled, None);
    rig.transfer(next, Some(1)).unwrap();
    rig.commit(1, "d");
}

/// Who is late itself does not take leadership, so that it ends at the one that goes on, whichever that is.
#[test]
fn leadership_comes_to_the_one_whose_state_machine_goes_on() {
    for well in [2, 3] {
        let mut rig = Rig::led_by(1, Setup::voters(3));
        rig.commit(1, "a");
        for node in [1, 5 - well] {
            rig.stall_machine(node, true);
        }
        rig.propose(1, "b");
        rig.run_until(2 * STALL_TICKS + 10, "it leads", |rig| rig.leads(well));
        assert!(
            !rig.changes(5 - well)
                .iter()
                .any(|change| { change.leader == Some(id(5 - well)) })
        );
        rig.commit(well, "c");
    }
}

/// What hangs every state machine, a command for which they need minutes, moves leadership nowhere.
#[test]
fn a_leader_stays_when_every_state_machine_hangs() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    for node in [1, 2, 3] {
        rig.stall_machine(node, true);
    }
    let token = rig.propose(1, "b");
    for _ in 0..4 * STALL_TICKS {
        rig.tick();
        assert!(rig.leads(1));
    }
    for node in [1, 2, 3] {
        assert!(!said(&rig, node).is_empty(), "n{node} says so");
        rig.stall_machine(node, false);
    }
    rig.run_until(100, "all agree", Rig::agrees);
    assert!(matches!(rig.outcome(token), Some(Ok(_))));
    rig.commit(1, "c");
}

/// A single voter has nobody to hand over to; it says so all the same.
#[test]
fn a_single_voter_waits_for_its_state_machine() {
    let mut rig = Rig::led_by(1, Setup::voters(1));
    rig.stall_machine(1, true);
    let token = rig.propose(1, "a");
    rig.ticks(2 * STALL_TICKS + 10);
    assert!(rig.leads(1));
    assert_eq!(said(&rig, 1).len(), 2);
    rig.stall_machine(1, false);
    assert!(matches!(rig.outcome(token), Some(Ok(_))));
}

/// One that is preferred does not ask for leadership while its state machine hangs, and gets it afterwards.
#[test]
fn a_preferred_voter_does_not_ask_while_its_state_machine_hangs() {
    let setup = Setup::voters(3);
    let setup = setup.config(|config| config.priority = if config.node == id(3) { 1 } else { 0 });
    let mut rig = Rig::led_by(3, setup);
    rig.stall_machine(3, true);
    rig.propose(3, "a");
    rig.run_until(STALL_TICKS + 10, "another leads", |rig| !rig.leads(3));
    rig.ticks(2 * STALL_TICKS);
    let by_others = |rig: &Rig| rig.transfers().iter().any(|(node, _)| *node != 3);
    assert!(!by_others(&rig), "{:?}", rig.transfers());
    rig.stall_machine(3, false);
    rig.run_until(2 * STALL_TICKS, "n3 leads again", |rig| rig.leads(3));
}

/// A state that is replaced by a snapshot takes as long as it is large. But what hung before a snapshot came still does.
#[test]
fn to_install_a_snapshot_is_no_stall() {
    for hung in [false, true] {
        let mut rig = Rig::led_by(1, Setup::voters(3).small());
        if hung {
            rig.stall_machine(3, true);
            rig.commit(1, "b");
            rig.ticks(STALL_TICKS + 10);
        }
        rig.isolate(3);
        rig.ticks(60);
        for n in 0..100 {
            rig.commit(1, &format!("{n}"));
            [1, 2].iter().for_each(|&node| rig.checkpoint(node));
        }
        rig.stall_machine(3, true);
        rig.heal();
        let base = rig.status(1).commit;
        rig.run_until(2_000, "the log begins anew", |rig| {
            rig.durable(3).base().index.value() + 40 > base.value()
        });
        rig.ticks(2 * STALL_TICKS);
        assert_eq!(!said(&rig, 3).is_empty(), hung, "{:?}", said(&rig, 3));
        assert_eq!(rig.status(3).state_machine_stalled.is_some(), hung);
        rig.stall_machine(3, false);
        rig.run_until(300, "all agree", Rig::agrees);
        rig.ticks(10);
        assert_eq!(rig.status(3).state_machine_stalled, None);
    }
}
