//! What a client is told about its proposal, and whether that is true.

use quorate_consensus::{Body, ProposalToken, ProposeError};

use crate::rig::{Fate, Rig, Setup, id};

/// Only the leader takes proposals; the others name it when they know it.
#[test]
fn a_follower_names_the_leader() {
    let mut rig = Setup::voters(3).build();
    let token = rig.propose(2, "a");
    assert_eq!(
        rig.outcome(token),
        Some(&Err(ProposeError::NotLeader { leader: None }))
    );
    rig.elect(1);
    let token = rig.propose(2, "a");
    let leader = Some(id(1));
    assert_eq!(
        rig.outcome(token),
        Some(&Err(ProposeError::NotLeader { leader }))
    );
    assert!(rig.applied(1).is_empty(), "nothing was forwarded");
}

/// Commands that can never be are refused at once, at their exact bounds.
#[test]
fn h9_impossible_commands_are_refused() {
    let mut rig = Rig::led_by(1, Setup::voters(1).small());
    let token = rig.propose(1, "");
    assert_eq!(rig.outcome(token), Some(&Err(ProposeError::Empty)));
    let token = rig.propose(1, vec![1; 1001]);
    let too_large = ProposeError::TooLarge {
        bytes: 1001,
        bytes_max: 1000,
    };
    assert_eq!(rig.outcome(token), Some(&Err(too_large)));
    let token = rig.propose(1, vec![1; 1000]);
    assert!(matches!(rig.outcome(token), Some(Ok(_))));
}

/// What waits to be committed is bounded; what is refused can be proposed again later.
#[test]
fn h9_too_many_uncommitted_bytes_are_refused() {
    let mut rig = Rig::led_by(1, Setup::voters(2).small());
    rig.stall_disk(2, true);
    let tokens: Vec<_> = (0..10).map(|_| rig.propose(1, vec![1; 500])).collect();
    let overloaded = Some(&Err(ProposeError::Overloaded));
    let refused = tokens
        .iter()
        .filter(|&&token| rig.outcome(token) == overloaded);
    assert_eq!(refused.count(), 7, "three of 596 bytes fit into 2000");
    rig.stall_disk(2, false);
    let applied = tokens
        .iter()
        .filter(|&&token| matches!(rig.outcome(token), Some(Ok(_))));
    assert_eq!(applied.count(), 3);
    rig.commit(1, "again");
}

/// Proposals of one turn go out as one append to each member.
#[test]
fn proposals_of_one_turn_share_a_message() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.sent.clear();
    let tokens: Vec<_> = (0..100)
        .map(|n| rig.propose_unpumped(1, format!("{n}")))
        .collect();
    rig.pump();
    assert!(
        tokens
            .iter()
            .all(|&token| matches!(rig.outcome(token), Some(Ok(_))))
    );
    let with_entries = rig.sent.iter().filter(|(_, _, message)| {
        matches!(&message.body, Body::Append { entries, .. } if !entries.is_empty())
    });
    assert_eq!(with_entries.count(), 2);
    rig.run_until(50, "all agree", Rig::agrees);
    let order: Vec<_> = (0..100).map(|n| format!("{n}")).collect();
    assert_eq!(rig.applied(3), order);
}

/// When leadership is lost and nobody decides, the outcome is unknown, and the entry is named.
#[test]
fn h10_an_undecided_proposal_is_unknown() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.isolate(1);
    let token = rig.propose(1, "a");
    let at = Some(rig.status(1).last);
    rig.run_until(60, "n1 steps down", |rig| !rig.leads(1));
    assert_eq!(rig.outcome(token), None, "the next leader may still decide");
    rig.ticks(60);
    assert_eq!(
        rig.outcome(token),
        Some(&Err(ProposeError::OutcomeUnknown { at }))
    );
}

/// When another entry was committed at the index, the proposal is gone for good, and the client may
/// propose it again.
#[test]
fn h10_an_overwritten_proposal_failed_for_sure() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.isolate(1);
    rig.ticks(5);
    let token = rig.propose(1, "a");
    let next = rig.elect_one_of(&[2, 3]);
    rig.commit(next, "b");
    rig.commit(next, "c");
    rig.heal();
    rig.run_until(50, "n1 knows", |rig| rig.outcome(token).is_some());
    let leader = Some(id(next));
    assert_eq!(
        rig.outcome(token),
        Some(&Err(ProposeError::NotLeader { leader }))
    );
    rig.run_until(50, "all agree", Rig::agrees);
    assert_eq!(rig.applied(1), ["b", "c"]);
}

/// When the next leader has the entry and commits it, the old leader still tells its client so.
#[test]
fn h10_a_proposal_survives_a_change_of_leader() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    // n2 and n3 take the entry; n1 hears nothing back.
    rig.net.rule = Some(Box::new(|_, to, message| match (to, &message.body) {
        (1, Body::AppendAccepted { .. }) => Fate::Drop,
        _ => Fate::Deliver,
    }));
    let token = rig.propose(1, "a");
    assert_eq!(rig.outcome(token), None);
    rig.isolate(1);
    rig.elect_one_of(&[2, 3]);
    rig.heal();
    rig.run_until(50, "n1 knows", |rig| rig.outcome(token).is_some());
    assert!(matches!(rig.outcome(token), Some(Ok(_))));
    assert_eq!(rig.applied(1), ["a"]);
}

/// A node that loses and regains leadership with open proposals answers each exactly once and truly.
#[test]
fn h10_leadership_lost_and_regained_with_open_proposals() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.net.rule = Some(Box::new(|_, to, message| match (to, &message.body) {
        (1, Body::AppendAccepted { .. }) => Fate::Drop,
        _ => Fate::Deliver,
    }));
    let first = propose_three(&mut rig, "first");
    rig.isolate(1);
    rig.run_until(60, "n1 steps down", |rig| !rig.leads(1));
    rig.heal();
    rig.elect(1);
    let second = propose_three(&mut rig, "second");
    rig.run_until(100, "all agree", Rig::agrees);
    for token in first.iter().chain(&second) {
        let outcome = rig.outcome(*token);
        assert!(matches!(outcome, Some(Ok(_))), "{outcome:?}");
    }
    assert_eq!(rig.applied(2).len(), 6);
}

/// A node that leads again, while proposals of its former term still wait at indexes that are taken
/// again now, keeps its answers apart.
#[test]
fn proposals_of_two_terms_at_the_same_indexes_are_kept_apart() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.isolate(1);
    let first = propose_three(&mut rig, "first");
    rig.run_until(60, "n1 steps down", |rig| !rig.leads(1));
    rig.heal();
    rig.elect(1);
    let second = propose_three(&mut rig, "second");
    rig.ticks(120);
    for token in first {
        let outcome = rig.outcome(token).unwrap();
        assert!(outcome.is_err(), "{outcome:?}");
    }
    for token in second {
        let outcome = rig.outcome(token).unwrap();
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    assert_eq!(rig.applied(1), ["second 0", "second 1", "second 2"]);
}

fn propose_three(rig: &mut Rig, name: &str) -> Vec<ProposalToken> {
    let tokens = (0..3).map(|n| rig.propose(1, format!("{name} {n}")));
    tokens.collect()
}

/// The same, but meanwhile another leader replaced the entries.
#[test]
fn leadership_regained_over_a_shorter_log() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.isolate(1);
    let lost: Vec<_> = (0..9)
        .map(|n| rig.propose(1, format!("lost {n}")))
        .collect();
    rig.elect(2);
    rig.commit(2, "kept");
    rig.heal();
    rig.run_until(40, "n1 follows n2", |rig| {
        rig.status(1).leader == Some(id(2))
    });
    rig.transfer(2, Some(1)).unwrap();
    rig.run_until(40, "n1 leads again", |rig| rig.leads(1));
    let token = rig.propose(1, "new");
    rig.run_until(40, "all agree", Rig::agrees);
    assert!(matches!(rig.outcome(token), Some(Ok(_))));
    rig.ticks(120);
    for token in lost {
        let outcome = rig.outcome(token).unwrap();
        assert!(
            matches!(
                outcome,
                Err(ProposeError::NotLeader { .. } | ProposeError::OutcomeUnknown { .. })
            ),
            "{outcome:?}"
        );
    }
    assert_eq!(rig.applied(1), ["kept", "new"]);
}

/// A proposal taken in the turn in which leadership is lost has not happened.
#[test]
fn a_proposal_in_the_turn_of_losing_leadership_did_not_happen() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    let term = rig.term(1);
    let token = rig.propose_unpumped(1, "a");
    let message = quorate_consensus::Message {
        term: quorate_consensus::Term::new(term + 1),
        body: Body::Heartbeat {
            commit: quorate_consensus::ORIGIN.index,
            read: None,
        },
    };
    rig.core(1).handle_message(id(2), message).unwrap();
    rig.pump();
    let leader = Some(id(2));
    assert_eq!(
        rig.outcome(token),
        Some(&Err(ProposeError::NotLeader { leader }))
    );
    rig.run_until(300, "a leader again", |rig| rig.leader().is_some());
    rig.run_until(300, "all agree", Rig::agrees);
    assert!(rig.applied(1).is_empty());
}
