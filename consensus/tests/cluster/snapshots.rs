//! Compaction, and snapshots for members that need what was compacted.

use quorate_consensus::{Body, LogIndex, MembershipChange, Term, Transfer};

use crate::rig::{Fate, Rig, Setup, id};

fn small() -> Setup {
    Setup::voters(3).small()
}

/// Commits `count` commands, and has every member that is up save its state now and then.
fn write(rig: &mut Rig, leader: u64, from: u64, count: u64) {
    for n in from..from + count {
        rig.commit(leader, &format!("{n}"));
        if n % 5 == 0 {
            for node in rig.up() {
                rig.checkpoint(node);
            }
        }
    }
}

/// `node` is down for long enough that the leader does not wait for it.
fn away(rig: &mut Rig, node: u64) {
    rig.crash(node);
    rig.ticks(60);
}

fn base(rig: &Rig, node: u64) -> LogIndex {
    rig.durable(node).base().index
}

fn offers(rig: &Rig, to: u64) -> usize {
    let offers = rig.sent.iter();
    let offers = offers
        .filter(|(_, at, message)| *at == to && matches!(message.body, Body::Snapshot { .. }));
    offers.count()
}

/// A log whose state is durable keeps its tail; one whose state is not keeps everything.
#[test]
fn only_what_is_durable_in_the_state_is_compacted() {
    let mut rig = Rig::led_by(1, small());
    for n in 0..60 {
        rig.commit(1, &format!("{n}"));
    }
    assert_eq!(base(&rig, 1), LogIndex::new(1));
    rig.checkpoint(1);
    let durable = rig.applied_index(1);
    write(&mut rig, 1, 60, 60);
    for node in 1..=3 {
        let (base, last) = (base(&rig, node), rig.durable(node).last().index);
        assert!(base > durable, "n{node}: {base}");
        let kept = last.value() - base.value();
        assert!((14..40).contains(&kept), "n{node} keeps {kept} entries");
    }
}

/// A member that was away for longer than the log reaches back gets a snapshot, in pieces, and then what
/// follows it from the log.
#[test]
fn a_member_that_needs_what_was_compacted_gets_a_snapshot() {
    let mut rig = Rig::led_by(1, small());
    write(&mut rig, 1, 0, 10);
    away(&mut rig, 3);
    write(&mut rig, 1, 10, 100);
    assert!(base(&rig, 1) > rig.durable(3).last().index);
    rig.restart(3);
    rig.run_until(200, "all agree", Rig::agrees);
    assert_eq!(offers(&rig, 3), 1);
    assert_eq!(rig.applied(3), rig.applied(1));
    assert!(base(&rig, 3) > LogIndex::new(1));
    write(&mut rig, 1, 110, 30);
    rig.run_until(200, "all agree", Rig::agrees);
    assert_eq!(offers(&rig, 3), 1, "the log goes on after the snapshot");
}

/// The member 3 is getting a snapshot from 1, each piece of which takes as long as `net` says, and node 2 has what 1 has.
fn being_given(net: impl Fn(u64) -> Fate + 'static) -> Rig {
    let mut rig = Rig::led_by(1, small());
    away(&mut rig, 3);
    write(&mut rig, 1, 0, 100);
    rig.run_until(50, "others agree", |rig| {
        rig.applied_index(2) == rig.applied_index(1)
    });
    rig.checkpoint(2);
    let mut pieces = 0;
    rig.net.rule = Some(Box::new(move |_, _, message| match message.body {
        Body::Transfer(Transfer::Chunk { .. }) => {
            pieces += 1;
            net(pieces)
        }
        _ => Fate::Deliver,
    }));
    rig.restart(3);
    rig.ticks(60);
    assert!(rig.applied(3).is_empty());
    rig
}

/// Whom the member 3 has asked for a piece, in order.
fn asked(rig: &Rig) -> Vec<u64> {
    let requests = rig.sent.iter().filter_map(|(from, to, message)| {
        let asks = matches!(message.body, Body::Transfer(Transfer::Request { .. }));
        (*from == 3 && asks).then_some(*to)
    });
    requests.collect()
}

/// G2: the leader that gives a snapshot goes away in the middle of it; the member gets the next one's all the same,
/// and at once.
#[test]
fn g2_the_leader_changes_while_a_snapshot_is_sent() {
    let mut rig = being_given(|piece| match piece > 3 {
        true => Fate::Drop,
        false => Fate::Deliver,
    });
    rig.crash(1);
    rig.net.rule = None;
    let leader = rig.elect_one_of(&[2]);
    rig.run_until(50, "the member has it", |rig| {
        rig.applied_index(3) == rig.applied_index(leader)
    });
    rig.restart(1);
    rig.run_until(300, "all agree", Rig::agrees);
}

/// A leader that has handed over, and gives on, keeps the next one's waiting no longer: that one waits for its own to
/// arrive in any case.
#[test]
fn g2_who_has_handed_over_is_not_asked_any_more() {
    let mut rig = being_given(|_| Fate::Delay(10));
    assert_eq!(asked(&rig).last(), Some(&1));
    rig.transfer(1, Some(2)).unwrap();
    let offered = |rig: &Rig| {
        let is_offer = |body: &Body| matches!(body, Body::Snapshot { .. });
        let mut sent = rig.sent.iter();
        sent.any(|(from, to, message)| (*from, *to) == (2, 3) && is_offer(&message.body))
    };
    rig.run_until(50, "the next one offers its own", offered);
    let before = asked(&rig).len();
    rig.run_until(400, "all agree", Rig::agrees);
    assert!(asked(&rig)[before..].iter().all(|&giver| giver == 2));
}

/// A former leader does not know that it is one: what it offers, in its own term or as if it led this one, does not take
/// the place of what the leader gives.
#[test]
fn a_former_leader_displaces_no_snapshot() {
    let mut rig = being_given(|piece| match piece > 3 {
        true => Fate::Drop,
        false => Fate::Deliver,
    });
    let (membership, last) = (rig.status(1).membership, rig.durable(1).last());
    let former = rig.term(1);
    rig.crash(1);
    rig.net.rule = Some(Box::new(|_, _, message| match message.body {
        // Slow enough for whoever is quicker.
        Body::Transfer(Transfer::Chunk { .. }) => Fate::Delay(40),
        _ => Fate::Deliver,
    }));
    rig.elect_one_of(&[2]);
    rig.run_until(50, "the leader's is asked for", |rig| {
        asked(rig).last() == Some(&2)
    });
    let before = asked(&rig).len();
    rig.ticks(35);
    for term in [former, rig.term(2)] {
        let membership = membership.clone();
        let offer = quorate_consensus::Message {
            term: Term::new(term),
            body: Body::Snapshot { last, membership },
        };
        let _ = rig.hear(3, 1, offer);
    }
    rig.net.rule = None;
    rig.run_until(400, "the member has it", |rig| {
        rig.applied_index(3) == rig.applied_index(2)
    });
    assert!(asked(&rig)[before..].iter().all(|&giver| giver == 2));
    rig.restart(1);
    rig.run_until(300, "all agree", Rig::agrees);
}

/// G3: a crash at each step of installing a snapshot: before the log's new beginning is on the disk, after
/// that without anybody knowing, before the state is replaced, and after.
#[test]
fn g3_a_crash_at_any_step_of_installing_a_snapshot() {
    for step in 0..4 {
        let mut rig = Rig::led_by(1, small());
        away(&mut rig, 3);
        write(&mut rig, 1, 0, 60);
        rig.stall_machine(3, true);
        rig.restart(3);
        rig.stall_disk(3, true);
        rig.run_until(200, "the snapshot is there", |rig| rig.queued_writes(3) > 0);
        assert!(rig.applied(3).is_empty(), "step {step}");
        let kept = usize::from(step == 1);
        if step > 1 {
            rig.persist_one(3);
        }
        // The state waits for the log, however ready it is.
        rig.stall_machine(3, step == 1 || step == 2);
        assert_eq!(rig.applied(3).is_empty(), step < 3, "step {step}");
        rig.crash_keeping(3, kept);
        let restored = base(&rig, 3) > LogIndex::new(1);
        assert_eq!(restored, step > 0, "step {step}");
        rig.stall_disk(3, false);
        rig.restart(3);
        assert_eq!(rig.applied(3).is_empty(), step == 0, "step {step}");
        rig.stall_machine(3, false);
        // Nobody tells the leader that the transfer broke off: it offers again.
        rig.run_until(200, "all agree", Rig::agrees);
    }
}

/// G4: a second snapshot is not taken in while the first is still to be installed, whose place it would
/// take.
#[test]
fn g4_a_second_snapshot_waits_until_the_first_is_installed() {
    let mut rig = Rig::led_by(1, small());
    away(&mut rig, 3);
    write(&mut rig, 1, 0, 60);
    rig.restart(3);
    rig.stall_disk(3, true);
    rig.run_until(200, "the first is there", |rig| rig.queued_writes(3) > 0);
    let asked = |rig: &Rig| {
        let requests = rig.sent.iter().filter(|(from, _, message)| {
            *from == 3 && matches!(message.body, Body::Transfer(Transfer::Request { .. }))
        });
        requests.count()
    };
    write(&mut rig, 1, 60, 100);
    let (before, membership) = (asked(&rig), rig.status(1).membership);
    let second = quorate_consensus::Message {
        term: rig.status(1).term,
        body: Body::Snapshot {
            last: rig.durable(1).last(),
            membership,
        },
    };
    rig.hear(3, 1, second.clone()).unwrap();
    rig.ticks(5);
    assert_eq!(asked(&rig), before);
    rig.stall_disk(3, false);
    rig.run_until(400, "all agree", Rig::agrees);
}

/// G5: a snapshot of what the member has already only tells the leader so.
#[test]
fn g5_a_snapshot_older_than_what_is_committed_changes_nothing() {
    let mut rig = Rig::led_by(1, small());
    write(&mut rig, 1, 0, 40);
    rig.run_until(50, "all agree", Rig::agrees);
    let membership = rig.status(3).membership;
    let last = rig.durable(1).base();
    let before = (rig.durable(3).last(), rig.applied(3));
    let message = quorate_consensus::Message {
        term: rig.status(1).term,
        body: Body::Snapshot { last, membership },
    };
    rig.hear(3, 1, message).unwrap();
    rig.ticks(5);
    assert_eq!((rig.durable(3).last(), rig.applied(3)), before);
    assert!(
        !rig.sent
            .iter()
            .any(|(from, _, message)| { *from == 3 && matches!(message.body, Body::Transfer(_)) })
    );
}

/// G8: a follower that catches up from the log keeps the leader from compacting what it needs, within
/// bounds; beyond them it gets a snapshot.
#[test]
fn g8_compaction_waits_for_a_follower_that_gets_on_within_bounds() {
    let mut rig = Rig::led_by(1, small());
    write(&mut rig, 1, 0, 20);
    // It hears and answers, but its disk does not keep up.
    rig.stall_disk(3, true);
    let there = rig.durable(3).last().index;
    write(&mut rig, 1, 20, 60);
    assert!(base(&rig, 1) <= there, "what it needs is still there");
    assert!(base(&rig, 2) > there, "who does not lead does not know");
    write(&mut rig, 1, 80, 200);
    assert!(base(&rig, 1) > there, "the log has a bound");
    rig.stall_disk(3, false);
    rig.run_until(8_000, "all agree", Rig::agrees);
    assert!(offers(&rig, 3) > 0);
}

/// G9: a learner that never had anything, and a leader that has no log left for it and nothing new to say.
#[test]
fn g9_a_new_learner_gets_what_was_compacted_away_without_a_write() {
    let mut rig = small().learners(1).build();
    away(&mut rig, 4);
    rig.elect(1);
    write(&mut rig, 1, 0, 60);
    rig.run_until(50, "all know", |rig| {
        rig.applied_index(2) == rig.applied_index(1) && rig.applied_index(3) == rig.applied_index(1)
    });
    assert!(base(&rig, 1) > LogIndex::new(1));
    rig.ticks(100);
    rig.restart(4);
    rig.run_until(400, "the learner has it", |rig| {
        rig.applied_index(4) == rig.applied_index(1)
    });
    assert!(offers(&rig, 4) > 0);
}

/// A transfer whose pieces are lost goes on where it was, and one whose receiver cannot be reached is
/// offered again.
#[test]
fn lost_pieces_are_asked_for_again() {
    let mut rig = Rig::led_by(1, small());
    away(&mut rig, 3);
    write(&mut rig, 1, 0, 80);
    let mut pieces = 0;
    rig.net.rule = Some(Box::new(move |_, _, message| {
        match message.body {
            Body::Transfer(Transfer::Chunk { .. } | Transfer::Request { .. }) => pieces += 1,
            _ => return Fate::Deliver,
        }
        if pieces % 3 == 0 {
            Fate::Drop
        } else {
            Fate::Deliver
        }
    }));
    rig.restart(3);
    rig.run_until(20_000, "all agree", Rig::agrees);
    let asked = rig
        .sent
        .iter()
        .filter_map(|(_, _, message)| match &message.body {
            Body::Transfer(Transfer::Request { after, .. }) => {
                Some(after.first_chunk().map_or(0, |at| u64::from_le_bytes(*at)))
            }
            _ => None,
        });
    let asked: Vec<u64> = asked.collect();
    assert!(asked.is_sorted(), "it never begins anew: {asked:?}");
    assert!(asked.windows(2).any(|pair| pair[0] == pair[1]), "{asked:?}");
}

/// An offer that is repeated names the members of the snapshot, also when the log has gone beyond a change
/// of members since: others would be refused, and the member get nothing before the transfer has stalled.
#[test]
fn a_repeated_offer_names_the_members_of_its_snapshot() {
    let mut rig = Rig::led_by(1, Setup::voters(4).small());
    away(&mut rig, 3);
    write(&mut rig, 1, 0, 60);
    rig.net.rule = Some(Box::new(|_, to, message| {
        match to == 3 && matches!(message.body, Body::Snapshot { .. }) {
            true => Fate::Drop,
            false => Fate::Deliver,
        }
    }));
    rig.restart(3);
    rig.run_until(200, "an offer is lost", |rig| offers(rig, 3) > 0);
    let learner = MembershipChange::Set {
        voters: [id(1), id(2), id(3)].into(),
        learners: [id(4)].into(),
        addresses: [].into(),
    };
    rig.change(1, &learner).unwrap();
    write(&mut rig, 1, 60, 200);
    assert!(base(&rig, 1) > rig.status(1).membership.index());
    rig.net.rule = None;
    rig.run_until(400, "all agree", Rig::agrees);
}

/// A node that joined, and was told of one founding member of three, replays the log from its beginning. A snapshot from
/// before the entry that added it would say that this one is the only voter, who would then decide alone.
#[test]
fn f10_what_a_node_was_told_when_it_joined_is_no_membership_for_others() {
    let mut rig = Rig::led_by(1, small());
    rig.run_until(50, "all agree", Rig::agrees);
    away(&mut rig, 2);
    for n in 0..40 {
        rig.commit(1, &format!("before {n}"));
    }
    let before = rig.applied_index(1);
    rig.join(4, &[2]);
    let add = MembershipChange::Add {
        node: id(4),
        address: ([127, 0, 0, 1], 7004).into(),
        promote: true,
        replaces: None,
    };
    rig.change(1, &add).unwrap();
    rig.run_until(400, "n4 votes", |rig| {
        rig.members(1)[0] == [1, 2, 3, 4] && rig.members(1)[1].is_empty()
    });
    for n in 0..40 {
        rig.commit(1, &format!("after {n}"));
    }
    rig.run_until(100, "n4 has all", |rig| {
        rig.applied_index(4) == rig.applied_index(1)
    });
    // Only what came before its own entry is saved, and a write later the log begins there.
    rig.checkpoint_at(4, before);
    rig.transfer(1, Some(4)).unwrap();
    rig.run_until(100, "n4 leads", |rig| rig.leads(4));
    for n in 0..5 {
        rig.commit(4, &format!("more {n}"));
    }
    assert!(
        base(&rig, 4) > rig.durable(2).last().index,
        "n2 needs a snapshot"
    );
    rig.restart(2);
    rig.ticks(100);
    assert_eq!(rig.members(2)[0], [1, 2, 3], "nobody said otherwise");
    // With a state that is saved later, it gets one.
    rig.checkpoint(4);
    rig.run_until(400, "all agree", Rig::agrees);
    assert_eq!(rig.members(2)[0], [1, 2, 3, 4]);
}
