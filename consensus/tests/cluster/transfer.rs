//! Handing over leadership (thesis, section 3.10).

use quorate_consensus::{Body, ProposeError, TransferError};

use crate::rig::{Fate, Rig, Setup, id};

/// The target takes over within a few messages, and the outcome is told.
#[test]
fn leadership_moves_to_the_target() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    assert_eq!(rig.transfer(1, Some(3)), Ok(id(3)));
    assert_eq!(rig.leader(), Some(3));
    assert_eq!(rig.transfers(), [(1, Ok(id(3)))]);
    rig.commit(3, "b");
}

/// Without a target, the voter that is furthest takes over; a learner never does.
#[test]
fn the_furthest_voter_takes_over() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    rig.isolate(2);
    rig.commit(1, "a");
    assert_eq!(rig.transfer(1, None), Ok(id(3)));
    rig.run_until(20, "n3 leads", |rig| rig.leads(3));
}

/// A target that is behind is brought up to date first.
#[test]
fn a_target_that_is_behind_catches_up_first() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.isolate(3);
    for n in 0..20 {
        let _ = rig.commit(1, &format!("{n}"));
    }
    rig.heal();
    assert_eq!(rig.transfer(1, Some(3)), Ok(id(3)));
    rig.run_until(24, "n3 leads", |rig| rig.leads(3));
    rig.run_until(24, "n3 has everything", |rig| rig.applied(3).len() == 20);
}

/// Who cannot hand over, or cannot be handed to, is told so at once.
#[test]
fn impossible_transfers_are_refused() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    let leader = Some(id(1));
    assert_eq!(
        rig.transfer(2, Some(3)),
        Err(TransferError::NotLeader { leader })
    );
    for target in [1, 4, 9] {
        assert_eq!(rig.transfer(1, Some(target)), Err(TransferError::NoTarget));
    }
    let mut alone = Rig::led_by(1, Setup::voters(1));
    assert_eq!(alone.transfer(1, None), Err(TransferError::NoTarget));
}

/// A leader that has to follow before it hears of the target cannot say that nothing came of it.
#[test]
fn a_transfer_whose_end_is_not_heard_is_unknown() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.isolate(1);
    assert_eq!(rig.transfer(1, Some(3)), Ok(id(3)));
    rig.run_until(120, "it is told", |rig| !rig.transfers().is_empty());
    assert_eq!(rig.transfers(), [(1, Err(TransferError::OutcomeUnknown))]);
    assert!(!rig.leads(1));
}

/// A target that does not answer costs a pause, then the leader leads on.
#[test]
fn a_transfer_to_a_dead_node_times_out() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.crash(3);
    let term = rig.term(1);
    assert_eq!(rig.transfer(1, Some(3)), Ok(id(3)));
    let token = rig.propose(1, "meanwhile");
    let leader = Some(id(3));
    assert_eq!(
        rig.outcome(token),
        Some(&Err(ProposeError::NotLeader { leader }))
    );
    rig.run_until(60, "the transfer ends", |rig| !rig.transfers().is_empty());
    assert_eq!(
        rig.transfers(),
        [(1, Err(TransferError::TimedOut { target: id(3) }))]
    );
    assert!(rig.leads(1) && rig.term(1) == term);
    rig.commit(1, "after");
    assert!(
        !rig.applied(1).contains(&"meanwhile".to_string()),
        "it was refused"
    );
}

/// Proposals of the same turn as a transfer are refused with the target as the one to go to.
#[test]
fn h9_a_proposal_in_the_turn_of_a_transfer_is_sent_to_the_target() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.net.loss_percent = 100;
    let token = rig.propose_unpumped(1, "a");
    rig.transfer(1, Some(2)).unwrap();
    match rig.outcome(token) {
        Some(Err(ProposeError::NotLeader { leader })) => assert_eq!(*leader, Some(id(2))),
        other => panic!("{other:?}"),
    }
}

/// What is open when a transfer begins is decided by the next leader and answered truly.
#[test]
fn open_proposals_survive_a_transfer() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.net.latency_max = 2;
    let tokens: Vec<_> = (0..10).map(|n| rig.propose(1, format!("{n}"))).collect();
    rig.transfer(1, Some(2)).unwrap();
    rig.run_until(60, "n2 leads", |rig| rig.leads(2));
    rig.run_until(100, "all agree", Rig::agrees);
    rig.ticks(60);
    for &token in &tokens {
        assert!(
            matches!(rig.outcome(token), Some(Ok(_))),
            "{:?}",
            rig.outcome(token)
        );
    }
}

/// The request to take over is lost: the leader goes on, and a second try succeeds.
#[test]
fn a_lost_request_can_be_repeated() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.net.rule = Some(Box::new(|_, _, message| match message.body {
        Body::TimeoutNow => Fate::Drop,
        _ => Fate::Deliver,
    }));
    rig.transfer(1, Some(2)).unwrap();
    rig.run_until(60, "it times out", |rig| rig.transfers().len() == 1);
    rig.net.rule = None;
    rig.transfer(1, Some(2)).unwrap();
    assert_eq!(rig.leader(), Some(2));
    assert_eq!(rig.transfers()[1], (1, Ok(id(2))));
}

fn preferring(setup: Setup) -> Setup {
    setup.config(|config| config.priority = if config.node == id(3) { 1 } else { 0 })
}

/// A voter that is preferred gets leadership once it has everything; not before, and from everyone but one that is
/// preferred more.
#[test]
fn a_preferred_voter_leads() {
    let mut rig = Rig::led_by(1, preferring(Setup::voters(3)));
    rig.commit(1, "a");
    rig.run_until(150, "n3 leads", |rig| rig.leads(3));
    rig.commit(3, "b");
    // Nobody asks it for leadership.
    rig.ticks(400);
    assert!(rig.leads(3));
    // While it is away, somebody else leads; when it comes back, it catches up and leads again.
    rig.isolate(3);
    rig.run_until(150, "another leads", |rig| {
        rig.leader().is_some_and(|leader| leader != 3)
    });
    let leader = rig.leader().expect("it leads");
    for n in 0..20 {
        rig.commit(leader, &format!("{n}"));
    }
    rig.heal();
    rig.run_until(1_000, "n3 leads again", |rig| rig.leads(3));
}

/// A learner does not get it, however much it is preferred.
#[test]
fn a_preferred_learner_does_not_lead() {
    let setup = Setup::voters(2).learners(1);
    let mut rig = Rig::led_by(1, preferring(setup));
    let term = rig.term(1);
    rig.ticks(400);
    assert!(rig.leads(1) && rig.term(1) == term);
}
