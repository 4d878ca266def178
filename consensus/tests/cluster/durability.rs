//! Persist before acknowledge, before vote, before commit, before apply.

use quorate_consensus::{Body, Message};

use crate::rig::{Fate, Rig, Setup};

fn count(rig: &Rig, from: u64, what: impl Fn(&Body) -> bool) -> usize {
    let sent = rig.sent.iter();
    sent.filter(|(sender, _, message)| *sender == from && what(&message.body))
        .count()
}

fn is_vote(body: &Body) -> bool {
    matches!(
        body,
        Body::Vote {
            pre: false,
            granted: true,
            ..
        }
    )
}

fn is_accepted(body: &Body) -> bool {
    matches!(body, Body::AppendAccepted { .. })
}

fn is_heartbeat_response(body: &Body) -> bool {
    matches!(body, Body::HeartbeatResponse { .. })
}

/// A vote leaves only after it is durable; so does the request of a candidate, which votes for itself.
#[test]
fn a4_no_vote_before_its_ticket() {
    let mut rig = Setup::voters(2).build();
    rig.stall_disk(1, true);
    rig.stall_disk(2, true);
    rig.campaign(1);
    let asks = |body: &Body| matches!(body, Body::RequestVote { pre: false, .. });
    assert_eq!(count(&rig, 1, asks), 0, "its own vote is not durable");
    rig.stall_disk(1, false);
    assert_eq!(count(&rig, 1, asks), 1);
    assert_eq!(count(&rig, 2, is_vote), 0);
    assert!(!rig.leads(1));
    rig.stall_disk(2, false);
    assert_eq!(count(&rig, 2, is_vote), 1);
    assert!(rig.leads(1));
}

/// A vote lost in a crash was never sent, so the voter may vote anew.
#[test]
fn a_vote_that_was_not_durable_is_forgotten_and_was_never_sent() {
    let mut rig = Setup::voters(3).build();
    rig.isolate(3);
    rig.stall_disk(2, true);
    rig.campaign(1);
    rig.crash(2);
    rig.stall_disk(2, false);
    rig.restart(2);
    rig.heal();
    rig.isolate(1);
    rig.run_until(200, "n2 and n3 elect", |rig| rig.leader().is_some());
}

/// An acknowledgement leaves only after the entries are durable, and the commit waits for it.
#[test]
fn no_acknowledgement_before_its_ticket() {
    let mut rig = Rig::led_by(1, Setup::voters(2));
    rig.stall_disk(2, true);
    let before = count(&rig, 2, is_accepted);
    let token = rig.propose(1, "a");
    rig.ticks(10);
    assert_eq!(count(&rig, 2, is_accepted), before);
    assert_eq!(rig.outcome(token), None);
    rig.stall_disk(2, false);
    assert!(matches!(rig.outcome(token), Some(Ok(_))));
}

/// A leader does not count itself before its own fsync.
#[test]
fn a_leader_counts_itself_only_with_its_ticket() {
    let mut rig = Rig::led_by(1, Setup::voters(2));
    let commit = rig.status(1).commit;
    rig.stall_disk(1, true);
    let token = rig.propose(1, "a");
    assert_eq!(
        rig.durable(2).last(),
        rig.status(1).last,
        "the follower has it"
    );
    rig.ticks(10);
    assert_eq!(rig.status(1).commit, commit);
    assert_eq!(rig.outcome(token), None);
    rig.stall_disk(1, false);
    assert!(matches!(rig.outcome(token), Some(Ok(_))));
}

/// Two followers are a majority without the leader's disk, but the leader applies only what it holds.
#[test]
fn followers_commit_without_the_leaders_disk() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.stall_disk(1, true);
    let token = rig.propose(1, "a");
    rig.ticks(10);
    assert_eq!(rig.applied(2), ["a"], "committed by n2 and n3");
    assert_eq!(rig.status(1).commit, rig.status(1).last.index);
    assert!(rig.applied(1).is_empty());
    assert_eq!(rig.outcome(token), None);
    rig.stall_disk(1, false);
    assert!(matches!(rig.outcome(token), Some(Ok(_))));
}

/// A slow disk does not hold back heartbeat responses, so reads go on and the leader stays.
#[test]
fn heartbeat_responses_pass_a_slow_disk() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.isolate(3);
    rig.stall_disk(2, true);
    rig.propose(1, "a");
    assert!(rig.queued_writes(2) > 0);
    let before = count(&rig, 2, is_heartbeat_response);
    let read = rig.read(1);
    assert!(count(&rig, 2, is_heartbeat_response) > before);
    assert!(matches!(rig.read_outcome(read), Some(Ok(_))));
    rig.ticks(200);
    assert!(
        rig.leads(1),
        "it hears n2 although the disk of n2 stands still"
    );
}

/// While a term is not durable, even a heartbeat response in it is held back.
#[test]
fn heartbeat_responses_wait_for_the_term() {
    let mut rig = Setup::voters(3).build();
    rig.isolate(3);
    rig.elect(1);
    rig.heal();
    rig.stall_disk(3, true);
    rig.ticks(20);
    assert_eq!(rig.term(3), rig.term(1), "n3 follows the new term");
    assert_eq!(count(&rig, 3, is_heartbeat_response), 0);
    rig.stall_disk(3, false);
    rig.ticks(20);
    assert!(count(&rig, 3, is_heartbeat_response) > 0);
}

/// Writes that become durable one by one release exactly what each of them covers.
#[test]
fn tickets_come_one_by_one() {
    let mut rig = Rig::led_by(1, Setup::voters(2));
    rig.stall_disk(2, true);
    let tokens: Vec<_> = ["a", "b", "c"]
        .map(|command| rig.propose(1, command))
        .into();
    assert_eq!(rig.queued_writes(2), 3);
    for (done, _) in tokens.iter().enumerate() {
        // Heartbeats come in between, and more Readies without a write.
        rig.ticks(7);
        rig.persist_one(2);
        let decided = tokens.iter().filter(|&&token| rig.outcome(token).is_some());
        assert_eq!(decided.count(), done + 1);
    }
}

/// Inputs that need no write, while a write is on its way, do not confuse its ticket.
#[test]
fn a_ticket_is_good_after_later_readies_without_writes() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    for node in 1..=3 {
        rig.stall_disk(node, true);
    }
    let token = rig.propose(1, "a");
    rig.ticks(30);
    for node in 1..=3 {
        rig.stall_disk(node, false);
    }
    assert!(matches!(rig.outcome(token), Some(Ok(_))));
}

/// Control: a disk that reports success and keeps nothing is caught by the checker at its first
/// promise, so the checks above mean something.
#[test]
fn a16_a_lying_disk_is_caught() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.checker.collect = true;
    rig.isolate(3);
    rig.disk(2).lies = true;
    let token = rig.propose(1, "a");
    assert!(matches!(rig.outcome(token), Some(Ok(_))), "promised");
    let found = &rig.checker.violations;
    assert!(
        found.iter().any(|v| v.contains("n2 acknowledges")),
        "{found:?}"
    );
    assert!(
        found.iter().any(|v| v.contains("which [1] hold")),
        "{found:?}"
    );
    // And the promise is indeed broken: n2 and n3 are a majority without the entry.
    rig.crash(2);
    rig.crash(1);
    rig.disk(2).lies = false;
    rig.heal();
    rig.restart(2);
    rig.run_until(300, "n2 and n3 elect", |rig| rig.leader().is_some());
    let found = &rig.checker.violations;
    assert!(
        found.iter().any(|v| v.contains("Leader Completeness")),
        "{found:?}"
    );
}

/// Control: a lying disk forgets a vote, and the checker sees that.
#[test]
fn a_forgotten_vote_is_caught() {
    let mut rig = Setup::voters(2).build();
    rig.checker.collect = true;
    rig.disk(2).lies = true;
    rig.campaign(1);
    let found = &rig.checker.violations;
    assert!(
        found.iter().any(|v| v.contains("n2 votes for n1")),
        "{found:?}"
    );
}

/// A crash right after the write reached the disk, but before the ticket, loses no safety.
#[test]
fn a3_a_write_may_be_durable_without_anybody_knowing() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.isolate(3);
    rig.stall_disk(2, true);
    let token = rig.propose(1, "a");
    rig.crash_keeping(2, usize::MAX);
    rig.stall_disk(2, false);
    assert_eq!(rig.outcome(token), None);
    rig.restart(2);
    rig.run_until(100, "it is committed after all", |rig| {
        matches!(rig.outcome(token), Some(Ok(_)))
    });
}

/// The message type itself has no way around the gate: a `Ready` with a write shows no promise of it.
#[test]
fn the_ready_that_asks_for_a_write_does_not_carry_its_promise() {
    let mut rig = Rig::led_by(1, Setup::voters(2));
    rig.stall_disk(2, true);
    let entry = quorate_consensus::Entry::command(
        quorate_consensus::EntryId::new(rig.status(1).term, rig.status(1).last.index.next()),
        "x".into(),
    );
    let message = Message {
        term: rig.status(1).term,
        body: Body::Append {
            previous: rig.status(1).last,
            commit: rig.status(1).commit,
            entries: vec![entry],
        },
    };
    let core = rig.core(2);
    core.handle_message(crate::rig::id(1), message).unwrap();
    let ready = core.poll_ready().unwrap();
    assert_eq!(ready.append.as_ref().unwrap().write().entries.len(), 1);
    assert!(ready.messages.is_empty(), "{:?}", ready.messages);
    assert!(core.poll_ready().is_none());
}

/// A new leader asks where logs meet before it sends what another one had sent, and the answer waits for the
/// disk. So no entry is on its way to a disk twice, with another leader's in between, as long as all members
/// run this code; `traps/ready.rs` has what happens where one does not.
#[test]
fn no_entry_is_on_its_way_to_a_disk_twice() {
    let mut rig = Rig::led_by(1, Setup::voters(5));
    rig.commit(1, "a");
    rig.stall_disk(2, true);
    rig.partition(&[&[1, 2], &[3, 4, 5]]);
    rig.propose(1, "b");
    let first = rig.status(1).last;
    let queued = |rig: &mut Rig| {
        let writes = rig.disk(2).queue.iter();
        let entries = writes.flat_map(|(_, append)| append.write().entries.clone());
        entries.map(|entry| entry.id).collect::<Vec<_>>()
    };
    assert_eq!(queued(&mut rig), [first]);
    // n3 leads, and only n2 hears what it begins with.
    rig.heal();
    rig.isolate(1);
    rig.net.rule = Some(Box::new(|from, to, message| match message.body {
        Body::Append { .. } if from == 3 && to != 2 => Fate::Drop,
        _ => Fate::Deliver,
    }));
    rig.elect(3);
    let other = rig.status(3).last;
    assert_eq!((rig.status(2).last, other.index), (other, first.index));
    assert_eq!(queued(&mut rig), [first, other]);
    // n1 leads again, with the entry that n3 has replaced.
    rig.heal();
    rig.isolate(3);
    rig.run_until(400, "n1 leads again", |rig| {
        rig.leads(1) && rig.term(1) > other.term.value()
    });
    rig.ticks(300);
    assert!(rig.leads(1) && rig.holders(first).len() == 3);
    let term = rig.status(1).term;
    let asks =
        |message: &Message| message.term == term && matches!(message.body, Body::Append { .. });
    let mut sent = rig.sent.iter();
    assert!(sent.any(|(_, to, message)| *to == 2 && asks(message)));
    assert_eq!(queued(&mut rig), [first, other], "n1 waits for its answer");
    while rig.queued_writes(2) > 0 && rig.status(2).last == other {
        rig.persist_one(2);
    }
    assert!(!queued(&mut rig).contains(&other), "that is durable before");
    rig.stall_disk(2, false);
    rig.heal();
    rig.run_until(200, "all agree", Rig::agrees);
    rig.check_log_matching();
}

/// A leader whose disk hangs gives leadership away, to one whose disk has everything; what it had taken on is
/// committed there, and it follows.
#[test]
fn b16_a_leader_whose_disk_hangs_hands_over() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.stall_disk(1, true);
    rig.propose(1, "b");
    rig.ticks(50);
    assert!(rig.leads(1), "a short stall is no reason");
    rig.run_until(200, "another leads", |rig| {
        [2, 3].iter().any(|&node| rig.leads(node))
    });
    let next = rig.leader().unwrap();
    rig.commit(next, "c");
    assert_eq!(rig.applied(next), ["a", "b", "c"]);
    assert_eq!(rig.applied(1), ["a"], "its disk still hangs");
    rig.ticks(500);
    assert!(rig.leads(next), "it does not disturb who leads");
    rig.stall_disk(1, false);
    rig.run_until(100, "all agree", Rig::agrees);
}

/// Where nobody could do better, it stays.
#[test]
fn a_leader_whose_disk_hangs_stays_when_the_others_hang_too() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    for node in [1, 2, 3] {
        rig.stall_disk(node, true);
    }
    let token = rig.propose(1, "b");
    rig.ticks(600);
    assert!(rig.leads(1));
    for node in [1, 2, 3] {
        rig.stall_disk(node, false);
    }
    rig.run_until(100, "all agree", Rig::agrees);
    assert!(matches!(rig.outcome(token), Some(Ok(_))));
    rig.commit(1, "c");
}

/// A single voter has nobody to hand over to.
#[test]
fn a_single_voter_waits_for_its_disk() {
    let mut rig = Rig::led_by(1, Setup::voters(1));
    rig.stall_disk(1, true);
    let token = rig.propose(1, "a");
    rig.ticks(600);
    assert!(rig.leads(1));
    rig.stall_disk(1, false);
    assert!(matches!(rig.outcome(token), Some(Ok(_))));
}
