//! Linearizable reads: what they see, when they wait, when they fail. That every answered read saw all
//! that was acknowledged before it began is checked in every test by the rig.

use std::collections::BTreeSet;

use quorate_consensus::{Body, Message, ORIGIN, ReadContext, ReadError};

use crate::rig::{Fate, Rig, Setup, id};

fn contexts(rig: &Rig, from: u64) -> BTreeSet<ReadContext> {
    let sent = rig.sent.iter().filter(|(sender, _, _)| *sender == from);
    sent.filter_map(|(_, _, message)| match message.body {
        Body::Heartbeat { read, .. } => read,
        _ => None,
    })
    .collect()
}

/// A read sees what was acknowledged before it, at the leader, at a follower and at a learner.
#[test]
fn h8_a_read_sees_what_was_acknowledged() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    for n in 0..5 {
        let at = rig.commit(1, &format!("{n}"));
        for node in 1..=4 {
            let read = rig.read(node);
            rig.run_until(20, "the read is answered", |rig| {
                rig.read_outcome(read).is_some()
            });
            assert!(rig.read_outcome(read).unwrap().as_ref().unwrap() >= &at.index);
        }
    }
}

/// Where nothing else happens, a follower's read waits for nothing, either: not even for the leader's next tick.
#[test]
fn h8_a_follower_is_answered_at_once() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    let at = rig.commit(1, "a");
    rig.ticks(20);
    let read = rig.read(2);
    assert_eq!(rig.read_outcome(read), Some(&Ok(at.index)));
}

/// A follower whose state machine is behind waits for it.
#[test]
fn h8_a_follower_waits_for_its_state() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.stall_machine(2, true);
    let at = rig.commit(1, "a");
    let read = rig.read(2);
    rig.ticks(20);
    assert_eq!(rig.read_outcome(read), None);
    rig.stall_machine(2, false);
    let seen = rig.read_outcome(read).unwrap().as_ref().unwrap();
    assert!(seen >= &at.index);
}

/// Questions and answers may be lost: it is asked again, under a name that was never used.
#[test]
fn h5_h8_a_follower_asks_again() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    let lost = |message: &Message, question: bool| match message.body {
        Body::ReadIndex { .. } => question,
        Body::ReadIndexAnswer { .. } => !question,
        _ => false,
    };
    for question in [true, false] {
        rig.sent.clear();
        rig.net.rule = Some(Box::new(move |_, _, message| {
            match lost(message, question) {
                true => Fate::Drop,
                false => Fate::Deliver,
            }
        }));
        let read = rig.read(2);
        rig.ticks(25);
        assert_eq!(rig.read_outcome(read), None);
        rig.net.rule = None;
        rig.run_until(15, "the read is answered", |rig| {
            rig.read_outcome(read).is_some()
        });
        assert!(rig.read_outcome(read).unwrap().is_ok());
        let asked = rig
            .sent
            .iter()
            .filter_map(|(_, _, message)| match message.body {
                Body::ReadIndex { context } => Some(context),
                _ => None,
            });
        let asked: Vec<_> = asked.collect();
        let distinct: BTreeSet<_> = asked.iter().collect();
        assert!(
            asked.len() >= 3 && distinct.len() == asked.len(),
            "{asked:?}"
        );
    }
}

/// An answer that takes longer than it is waited for before the question is asked again is an answer all the same,
/// as many as are on their way.
#[test]
fn h8_a_follower_far_from_its_leader_reads() {
    for delay in [5, 12, 20, 40] {
        let mut rig = Rig::led_by(1, Setup::voters(3));
        let at = rig.commit(1, "a");
        rig.net.rule = Some(Box::new(move |from, to, _| match (from, to) {
            (1, 2) => Fate::Delay(delay),
            _ => Fate::Deliver,
        }));
        rig.ticks(60);
        let read = rig.read(2);
        rig.ticks(delay);
        let seen = rig.read_outcome(read).unwrap().as_ref();
        assert!(seen.unwrap() >= &at.index);
    }
}

/// A read is answered only by answers to questions that were asked after it came.
#[test]
fn h5_h8_an_answer_from_before_a_read_is_none_to_it() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    let mut first = None;
    rig.net.rule = Some(Box::new(move |_, _, message| match message.body {
        Body::ReadIndexAnswer { context, .. } if *first.get_or_insert(context) == context => {
            Fate::Delay(20)
        }
        Body::ReadIndexAnswer { .. } => Fate::Drop,
        _ => Fate::Deliver,
    }));
    let before = rig.read(2);
    rig.ticks(12);
    // One of them in a round of its own, and one that waits for its turn.
    rig.commit(1, "b");
    let later = [rig.read(2), rig.read(2)];
    rig.ticks(20);
    assert!(rig.read_outcome(before).unwrap().is_ok());
    for read in later {
        assert_eq!(rig.read_outcome(read), None);
    }
    rig.net.rule = None;
    rig.run_until(15, "they are answered", |rig| {
        later
            .iter()
            .all(|&read| matches!(rig.read_outcome(read), Some(Ok(_))))
    });
}

/// The next leader answers what the former one did not.
#[test]
fn h8_a_follower_reads_through_a_change_of_leader() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.crash(1);
    let read = rig.read(2);
    assert_eq!(rig.read_outcome(read), None, "it still follows n1");
    rig.campaign(3);
    rig.run_until(45, "the read is answered", |rig| {
        rig.read_outcome(read).is_some()
    });
    assert!(rig.read_outcome(read).unwrap().is_ok());
}

/// A member that is cut off answers nothing, however well it knows its former leader.
#[test]
fn h8_a_member_that_is_cut_off_does_not_answer() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    rig.commit(1, "a");
    for node in [3, 4] {
        rig.isolate(node);
    }
    rig.commit(1, "b");
    let reads = [3, 4].map(|node| rig.read(node));
    rig.ticks(60);
    for read in reads {
        let outcome = rig.read_outcome(read).unwrap();
        assert!(
            matches!(
                outcome,
                Err(ReadError::NotLeader { .. } | ReadError::TimedOut)
            ),
            "{outcome:?}"
        );
    }
}

/// A leader that is cut off confirms nothing to a follower that is cut off with it.
#[test]
fn h4_h8_a_minority_answers_nothing() {
    let mut rig = Rig::led_by(1, Setup::voters(5));
    rig.commit(1, "a");
    rig.partition(&[&[1, 2], &[3, 4, 5]]);
    let read = rig.read(2);
    let leader = rig.elect_one_of(&[3, 4, 5]);
    rig.commit(leader, "b");
    rig.ticks(60);
    let outcome = rig.read_outcome(read).unwrap();
    assert!(
        matches!(
            outcome,
            Err(ReadError::NotLeader { .. } | ReadError::TimedOut)
        ),
        "{outcome:?}"
    );
}

/// A node that is alone answers reads without asking anybody, after its first commit.
#[test]
fn a_single_node_reads() {
    let mut rig = Rig::led_by(1, Setup::voters(1));
    let at = rig.commit(1, "a");
    let read = rig.read(1);
    assert_eq!(rig.read_outcome(read), Some(&Ok(at.index)));
}

/// A new leader does not know what its predecessors committed before it has committed itself; its
/// reads wait for that.
#[test]
fn h6_a_read_waits_for_the_first_commit_of_the_term() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    let at = rig.commit(1, "a");
    rig.crash(1);
    rig.net.rule = Some(Box::new(|_, _, message| match message.body {
        Body::AppendAccepted { .. } => Fate::Drop,
        _ => Fate::Deliver,
    }));
    let next = rig.elect_one_of(&[2, 3]);
    let read = rig.read(next);
    rig.ticks(20);
    assert_eq!(rig.read_outcome(read), None);
    rig.net.rule = None;
    rig.run_until(20, "the read is answered", |rig| {
        rig.read_outcome(read).is_some()
    });
    assert!(rig.read_outcome(read).unwrap().as_ref().unwrap() > &at.index);
}

/// Where nobody leads, a read is refused at once and says so, instead of being dropped in silence.
#[test]
fn h6_without_a_leader_a_read_is_refused() {
    let mut rig = Setup::voters(3).build();
    let read = rig.read(1);
    let nobody = Err(ReadError::NotLeader { leader: None });
    assert_eq!(rig.read_outcome(read), Some(&nobody));
}

/// An isolated leader serves no read: it cannot know whether there is another leader by now.
#[test]
fn h4_an_isolated_leader_serves_no_read() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.isolate(1);
    let during = rig.read(1);
    rig.elect(2);
    rig.commit(2, "b");
    let later = rig.read(1);
    rig.run_until(60, "n1 steps down", |rig| !rig.leads(1));
    rig.ticks(60);
    for read in [during, later] {
        let outcome = rig.read_outcome(read).unwrap();
        assert!(
            matches!(
                outcome,
                Err(ReadError::NotLeader { .. } | ReadError::TimedOut)
            ),
            "{outcome:?}"
        );
    }
}

/// A leader that learns of another one fails its reads at once, and says where to read.
#[test]
fn reads_fail_with_the_leadership() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.net.loss_percent = 100;
    let read = rig.read(1);
    let message = Message {
        term: rig.status(1).term.next(),
        body: Body::Heartbeat {
            commit: ORIGIN.index,
            read: None,
        },
    };
    rig.hear(1, 2, message).unwrap();
    rig.pump();
    let leader = Some(id(2));
    let not_leader = Err(ReadError::NotLeader { leader });
    assert_eq!(rig.read_outcome(read), Some(&not_leader));
}

/// A read that nobody confirms gives up in time, although its leader leads on.
#[test]
fn h6_a_read_that_nobody_confirms_times_out() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.net.rule = Some(Box::new(|_, to, message| match (to, &message.body) {
        (1, Body::HeartbeatResponse { .. }) => Fate::Drop,
        _ => Fate::Deliver,
    }));
    let read = rig.read(1);
    for _ in 0..60 {
        rig.commit(1, "acknowledgements show that the followers live");
        rig.tick();
    }
    assert!(rig.leads(1));
    assert_eq!(rig.read_outcome(read), Some(&Err(ReadError::TimedOut)));
}

/// The majority must answer the round itself: acknowledgements of earlier heartbeats do not count.
#[test]
fn h5_old_heartbeat_responses_confirm_nothing() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    // All answers arrive 10 ticks late, so those that arrive first are older than the read.
    rig.net.rule = Some(Box::new(|_, to, message| match (to, &message.body) {
        (1, Body::HeartbeatResponse { .. }) => Fate::Delay(10),
        _ => Fate::Deliver,
    }));
    rig.ticks(20);
    let asked = rig.now;
    let read = rig.read(1);
    rig.run_until(20, "the read is answered", |rig| {
        rig.read_outcome(read).is_some()
    });
    assert!(
        rig.now >= asked + 10,
        "answered after {} ticks",
        rig.now - asked
    );
}

/// A read that was confirmed before a partition is answered by a state that is current for it: nothing
/// acknowledged before it began can be missing, however late the state machine is.
#[test]
fn c5_h7_a_read_confirmed_before_a_partition_is_linearizable() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    let at = rig.commit(1, "a");
    rig.stall_machine(1, true);
    rig.propose(1, "b");
    let read = rig.read(1);
    assert_eq!(rig.read_outcome(read), None, "the state machine is behind");
    rig.isolate(1);
    rig.elect(2);
    rig.commit(2, "c");
    rig.stall_machine(1, false);
    let seen = rig.read_outcome(read).unwrap().clone().unwrap();
    assert!(seen > at.index);
}

/// A read waits for everything that was committed when it was confirmed, although the leader may not
/// apply it yet because its own disk is late.
#[test]
fn h7_a_read_waits_until_its_index_is_applied() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.stall_disk(1, true);
    rig.propose(1, "a");
    let commit = rig.status(1).commit;
    assert!(
        rig.applied_index(1) < commit,
        "committed by n2 and n3 alone"
    );
    let read = rig.read(1);
    rig.ticks(5);
    assert_eq!(rig.read_outcome(read), None);
    rig.stall_disk(1, false);
    assert_eq!(rig.read_outcome(read), Some(&Ok(commit)));
}

/// No read context is ever used twice, not even by another life of the same node.
#[test]
fn h5_contexts_differ_after_a_restart() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    for _ in 0..5 {
        let _ = rig.read(1);
    }
    let before = contexts(&rig, 1);
    assert!(before.len() >= 5);
    rig.crash(1);
    rig.run_until(300, "another leader", |rig| rig.leader().is_some());
    rig.restart(1);
    rig.ticks(60);
    rig.elect(1);
    rig.commit(1, "a");
    rig.sent.clear();
    for _ in 0..5 {
        let _ = rig.read(1);
    }
    let after = contexts(&rig, 1);
    assert!(after.len() >= 5);
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
}

/// Reads share rounds: a hundred at once cost one exchange of heartbeats.
#[test]
fn reads_share_a_round() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.sent.clear();
    let reads: Vec<_> = (0..100).map(|_| rig.read_unpumped(1)).collect();
    rig.pump();
    assert!(
        reads
            .iter()
            .all(|&read| matches!(rig.read_outcome(read), Some(Ok(_))))
    );
    assert_eq!(contexts(&rig, 1).len(), 1);
}

/// How many reads may wait is bounded, and the place of an answered or expired one is free again.
#[test]
fn too_many_reads_are_refused() {
    let setup = Setup::voters(3).config(|config| config.reads_max = 10);
    let mut rig = Rig::led_by(1, setup);
    rig.commit(1, "a");
    rig.net.rule = Some(Box::new(|_, to, message| match (to, &message.body) {
        (1, Body::HeartbeatResponse { .. }) => Fate::Drop,
        _ => Fate::Deliver,
    }));
    let reads: Vec<_> = (0..15).map(|_| rig.read(1)).collect();
    let overloaded = Some(&Err(ReadError::Overloaded));
    let refused = reads
        .iter()
        .filter(|&&read| rig.read_outcome(read) == overloaded);
    assert_eq!(refused.count(), 5);
    rig.ticks(120);
    assert!(
        reads.iter().all(|&read| rig.read_outcome(read).is_some()),
        "none waits for ever"
    );
    rig.heal();
    rig.run_until(300, "a leader", |rig| rig.leader().is_some());
    rig.ticks(20);
    let leader = rig.leader().unwrap();
    let again: Vec<_> = (0..10).map(|_| rig.read(leader)).collect();
    rig.ticks(20);
    assert!(
        again
            .iter()
            .all(|&read| matches!(rig.read_outcome(read), Some(Ok(_))))
    );
}

/// A read whose round is lost on the way is confirmed by a later heartbeat.
#[test]
fn a_lost_round_is_repeated() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.net.loss_percent = 100;
    let read = rig.read(1);
    rig.net.loss_percent = 0;
    assert_eq!(rig.read_outcome(read), None);
    rig.run_until(20, "the read is answered", |rig| {
        rig.read_outcome(read).is_some()
    });
    assert!(rig.read_outcome(read).unwrap().is_ok());
}
