//! Logs that differ become equal; logs that are behind catch up.

use quorate_consensus::{
    Body, Config, ENTRY_OVERHEAD_BYTES, Entry, EntryId, MembershipChange, Message, ProposeError,
    Refused, Status,
};

use crate::rig::{Fate, Rig, Setup, id};

const LARGE: [u8; 400] = [b'x'; 400];

/// A follower with a conflicting suffix rejects, is probed, and converges; its proposals failed for sure.
#[test]
fn g1_a_conflicting_suffix_is_replaced() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.isolate(1);
    let lost: Vec<_> = (0..5)
        .map(|n| rig.propose(1, format!("lost {n}")))
        .collect();
    let conflicting = rig.durable(1).last();
    rig.crash(1);
    rig.elect(2);
    // More than was lost, so that every lost index gets another entry.
    for n in 0..8 {
        let _ = rig.commit(2, &format!("kept {n}"));
    }
    rig.restart(1);
    rig.heal();
    rig.run_until(100, "n1 converges", Rig::agrees);
    assert!(!rig.durable(1).holds(conflicting));
    assert_eq!(rig.applied(1).len(), 9);
    assert!(
        lost.iter().all(|&token| rig.outcome(token).is_none()),
        "n1 forgot"
    );
    let rejected = |body: &Body| matches!(body, Body::AppendRejected { .. });
    assert!(
        rig.sent
            .iter()
            .any(|(from, _, m)| *from == 1 && rejected(&m.body))
    );
    rig.check_log_matching();
}

/// What an earlier term left is not committed because a majority holds it, but with an entry of the leader's
/// own term: until then another leader may replace it (Raft paper, figure 8).
#[test]
fn an_entry_of_an_older_term_is_not_committed_by_counting() {
    // One entry a message, so that the old one is acknowledged without the new one.
    let one_each = |config: &mut Config| config.message_bytes_max = 1;
    let mut rig = Rig::led_by(1, Setup::voters(3).config(one_each));
    rig.commit(1, "a");
    rig.partition(&[&[1], &[2], &[3]]);
    rig.propose(1, "b");
    let old = rig.durable(1).last();
    rig.run_until(60, "n1 steps down", |rig| !rig.leads(1));
    rig.ticks(60);
    rig.heal();
    // n1 hears that they have the old one, and nothing of the new one.
    rig.net.rule = Some(Box::new(move |_, _, message| match message.body {
        Body::AppendAccepted { last, .. } if last > old.index => Fate::Drop,
        _ => Fate::Deliver,
    }));
    rig.elect(1);
    rig.ticks(10);
    assert_eq!(rig.holders(old).len(), 3);
    assert!(rig.status(1).commit < old.index);
    rig.heal();
    rig.run_until(100, "both are committed", |rig| {
        rig.status(1).commit > old.index
    });
}

/// Suffixes of several terms, none committed, give way to whoever leads in the end.
#[test]
fn g1_suffixes_of_many_terms_converge() {
    let mut rig = Rig::led_by(1, Setup::voters(5));
    for round in 0..6_u64 {
        let leader = round % 5 + 1;
        rig.heal();
        rig.run_until(300, "some leader", |rig| rig.leader().is_some());
        rig.ticks(60);
        rig.elect(leader);
        rig.ticks(5);
        rig.isolate(leader);
        for n in 0..=round {
            let _ = rig.propose(leader, format!("{round}.{n}"));
        }
        rig.run_until(60, "it steps down", |rig| !rig.leads(leader));
    }
    rig.heal();
    rig.run_until(500, "all agree", Rig::agrees);
    rig.check_log_matching();
}

/// A follower that was away far longer than the leader's window is served from the leader's store.
#[test]
fn a_follower_far_behind_catches_up_through_fetches() {
    let mut rig = Rig::led_by(1, Setup::voters(3).small());
    rig.crash(3);
    for n in 0..200 {
        rig.commit(1, &format!("{n:0>200}"));
    }
    assert_eq!(rig.fetched, 0);
    rig.restart(3);
    rig.run_until(400, "n3 catches up", Rig::agrees);
    assert!(rig.fetched > 10, "{} reads of older entries", rig.fetched);
    assert_eq!(rig.applied(3).len(), 200);
    assert!(rig.leads(1), "nobody was disturbed");
}

/// The new leader has a small window too, and serves a follower that is behind its terms.
#[test]
fn a_new_leader_serves_older_entries_after_its_restart() {
    let mut rig = Rig::led_by(1, Setup::voters(3).small());
    rig.isolate(3);
    for n in 0..50 {
        rig.commit(1, &format!("{n:0>200}"));
    }
    rig.checkpoint(2);
    rig.crash(2);
    rig.restart(2);
    rig.run_until(60, "n2 follows", |rig| rig.status(2).leader.is_some());
    rig.heal();
    rig.crash(1);
    // n2 alone knows everything; its window begins after its checkpoint.
    rig.run_until(300, "n2 leads", |rig| rig.leads(2));
    rig.run_until(300, "n3 catches up", |rig| rig.applied(3).len() == 50);
    assert!(rig.fetched > 0);
}

/// While older entries are on their way from a slow store, the leader leads on and loses nothing, and
/// answers that arrive after its leadership do no harm.
#[test]
fn fetches_that_arrive_late_are_harmless() {
    let mut rig = Rig::led_by(1, Setup::voters(3).small());
    rig.crash(3);
    for n in 0..50 {
        rig.commit(1, &format!("{n:0>200}"));
    }
    rig.stall_disk(1, true);
    rig.restart(3);
    rig.ticks(30);
    assert!(rig.leads(1));
    rig.isolate(1);
    rig.run_until(60, "n1 steps down", |rig| !rig.leads(1));
    rig.stall_disk(1, false);
    rig.ticks(5);
    rig.heal();
    rig.run_until(500, "all agree", Rig::agrees);
    assert_eq!(rig.applied(3).len(), 50);
}

/// A slow state machine fills the window: proposals and appends are refused, and flow again later.
#[test]
fn a_full_window_refuses_and_recovers() {
    let mut rig = Rig::led_by(1, Setup::voters(3).small());
    rig.stall_machine(3, true);
    let mut accepted = 0;
    for _ in 0..60 {
        let token = rig.propose(1, LARGE);
        rig.ticks(1);
        accepted += usize::from(matches!(rig.outcome(token), Some(Ok(_))));
    }
    assert_eq!(accepted, 60, "n1 and n2 are a majority");
    assert!(
        rig.status(3).last.index < rig.status(1).last.index,
        "n3 refuses more"
    );
    rig.stall_machine(1, true);
    let refused = (0..60).map(|_| rig.propose(1, LARGE)).last().unwrap();
    assert_eq!(rig.outcome(refused), Some(&Err(ProposeError::Overloaded)));
    rig.stall_machine(1, false);
    rig.stall_machine(3, false);
    rig.run_until(500, "n3 catches up", Rig::agrees);
    rig.commit(1, "after");
}

/// Uncommitted entries of several terms must not fill the windows for good: nobody could commit them,
/// because the new leader's entry, which would commit them, found no room.
#[test]
fn uncommitted_entries_of_many_terms_do_not_block_the_cluster() {
    let mut rig = Rig::led_by(1, Setup::voters(2).small());
    for _ in 0..6 {
        // n2 takes everything, but n1 never hears of it.
        rig.net.rule = Some(Box::new(|from, _, message| match (from, &message.body) {
            (2, Body::AppendAccepted { .. }) => Fate::Drop,
            _ => Fate::Deliver,
        }));
        for _ in 0..8 {
            rig.propose(1, LARGE);
            rig.ticks(1);
        }
        rig.isolate(1);
        rig.run_until(60, "n1 steps down", |rig| !rig.leads(1));
        rig.ticks(60);
        rig.net.heal();
        rig.elect(1);
    }
    rig.heal();
    rig.run_until(300, "the cluster goes on", |rig| {
        rig.status(1).commit == rig.status(1).last.index
    });
    rig.run_until(300, "both agree", Rig::agrees);
    let leader = rig.leader().unwrap();
    rig.commit(leader, "after");
}

/// Messages that are lost, doubled and late delay the log but do not change it.
#[test]
fn a_bad_network_only_delays() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.net.loss_percent = 20;
    rig.net.duplicate_percent = 20;
    rig.net.latency_max = 6;
    for n in 0..30 {
        rig.propose_unpumped(rig.leader().unwrap_or(1), format!("{n}"));
        rig.ticks(3);
    }
    rig.net.loss_percent = 0;
    rig.run_until(500, "all agree", Rig::agrees);
    rig.check_log_matching();
}

/// Entries that nobody knows to be committed fill every window, an empty one for each term in which a
/// leader learnt nothing. The entry that commits them all must still find room.
#[test]
fn windows_full_of_uncommitted_entries_take_the_entry_that_commits_them() {
    let mut rig = Rig::led_by(1, Setup::voters(3).small());
    let _ = rig.commit(1, "a");
    for _ in 0..50 {
        let learns_nothing = |_, _, message: &Message| match message.body {
            Body::AppendAccepted { .. } => Fate::Drop,
            _ => Fate::Deliver,
        };
        rig.net.rule = Some(Box::new(learns_nothing));
        rig.run_until(200, "a leader", |rig| rig.leader().is_some());
        let leader = rig.leader().expect("just seen");
        // Its first entry gets around; then another one is elected.
        rig.ticks(10);
        rig.isolate(leader);
        rig.run_until(200, "it steps down", |rig| !rig.leads(leader));
        rig.heal();
    }
    let commit = rig.status(1).commit;
    let uncommitted = rig.durable(1).entries().iter();
    let uncommitted = uncommitted.filter(|entry| entry.id.index > commit);
    let bytes: u64 = uncommitted.map(Entry::bytes).sum();
    assert!(bytes > rig.core(1).config().log_view_bytes_max, "{bytes}");
    rig.run_until(1000, "all agree", Rig::agrees);
    let leader = rig.leader().expect("they agree on one");
    let _ = rig.commit(leader, "b");
}

/// What a leader may leave uncommitted, beyond the bound of its configuration too, must leave room for the entry
/// that commits it; or the configuration is refused.
#[test]
fn a_window_that_is_valid_takes_the_entry_that_commits_what_is_there() {
    let least = bounds(0).log_view_bytes_min();
    for log_view_bytes in [128, 200, 1_000, least - 1, least] {
        if !bounds(log_view_bytes).mistakes().is_empty() {
            assert!(log_view_bytes < least);
            continue;
        }
        for own in [false, true] {
            let setup = Setup::voters(3).learners(1);
            let set = move |config: &mut Config| {
                config.command_bytes_max = bounds(0).command_bytes_max;
                config.uncommitted_bytes_max = bounds(0).uncommitted_bytes_max;
                config.log_view_bytes_max = log_view_bytes;
            };
            let mut rig = Rig::led_by(1, setup.config(set));
            rig.ticks(60);
            rig.net.rule = Some(Box::new(|_, to, message| match message.body {
                Body::AppendAccepted { .. } if to == 1 => Fate::Drop,
                _ => Fate::Deliver,
            }));
            let before = rig.status(1).last.index;
            match own {
                true => rig
                    .change(1, &MembershipChange::Remove { node: id(4) })
                    .unwrap(),
                false => drop(rig.propose(1, [b'x'; 64])),
            }
            rig.ticks(2);
            rig.isolate(1);
            assert!((1..=3).all(|node| rig.status(node).last.index == before.next()));
            let leader = rig.elect_one_of(&[2, 3]);
            rig.run_until(300, "the entry is committed", |rig| {
                rig.status(leader).commit > before.next()
            });
        }
    }
}

/// The smallest bounds for commands of 64 bytes.
fn bounds(log_view_bytes: u64) -> Config {
    let mut config = Config::new(id(1));
    config.command_bytes_max = 64;
    config.uncommitted_bytes_max = 64;
    config.log_view_bytes_max = log_view_bytes;
    config
}

/// Entries one byte below, at and above what a message holds, the smallest ones and very many of them:
/// all arrive, in order; only the empty command is refused.
#[test]
fn g13_entries_at_the_limits_of_size_arrive() {
    let bound = 500;
    let fits = bound - ENTRY_OVERHEAD_BYTES as usize;
    let setup = Setup::voters(3).config(move |config| config.message_bytes_max = bound as u64);
    let mut rig = Rig::led_by(1, setup);
    let mut proposed = 0;
    for bytes in [fits - 1, fits, fits + 1, 10 * bound, 1] {
        let token = rig.propose(1, vec![b'x'; bytes]);
        assert!(matches!(rig.outcome(token), Some(Ok(_))), "{bytes} bytes");
        proposed += 1;
    }
    let empty = rig.propose(1, "");
    assert_eq!(rig.outcome(empty), Some(&Err(ProposeError::Empty)));
    for _ in 0..20_000 {
        let _ = rig.propose_unpumped(1, "y");
        proposed += 1;
    }
    rig.pump();
    rig.run_until(100, "n3 has applied all", |rig| {
        rig.applied(3).len() == proposed
    });
}

/// A leader that proposes without a bound is refused once it alone would fill a follower's window.
#[test]
fn proposals_without_a_bound_are_refused() {
    let mut rig = Rig::led_by(1, Setup::voters(3).small());
    rig.checker.byzantine = true;
    let Status { term, commit, .. } = rig.status(1);
    let mut previous = rig.status(2).last;
    let refused = loop {
        let id = EntryId::new(term, previous.index.next());
        let body = Body::Append {
            previous,
            commit,
            entries: vec![Entry::command(id, LARGE.to_vec().into())],
        };
        if let Err(refused) = rig.hear(2, 1, Message { term, body }) {
            break refused;
        }
        rig.pump();
        previous = id;
        assert!(id.index.value() < 100, "n2 takes whatever comes");
    };
    assert_eq!(refused, Refused::Busy);
}

/// Heartbeats overtake entries, so a response to one does not show that the entries were lost: a member behind
/// a slow link must not be sent another copy with each of them.
#[test]
fn a_slow_link_is_not_filled_with_copies() {
    const SLOW_TICKS: u64 = 400;
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.isolate(3);
    rig.commit(1, &"b".repeat(2_000));
    rig.heal();
    rig.net.rule = Some(Box::new(|_, to, message| match message.body {
        Body::Append { .. } if to == 3 => Fate::Delay(SLOW_TICKS),
        _ => Fate::Deliver,
    }));
    let (before, last) = (rig.sent.len(), rig.status(1).last);
    rig.run_until(2 * SLOW_TICKS, "n3 catches up", |rig| {
        rig.status(3).last == last
    });
    let to_n3 = |body: fn(&Body) -> bool| {
        let sent = rig.sent[before..].iter();
        sent.filter(|(_, to, message)| *to == 3 && body(&message.body))
            .count()
    };
    let heartbeats = to_n3(|body| matches!(body, Body::Heartbeat { .. }));
    let copies = to_n3(|body| matches!(body, Body::Append { entries, .. } if !entries.is_empty()));
    assert!(heartbeats > 50, "{heartbeats} heartbeats");
    assert!((1..10).contains(&copies), "{copies} copies");
}

/// A transport may lose messages without telling: what was held back as a copy comes after all.
#[test]
fn entries_lost_without_a_word_are_sent_again() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    let mut lost = 0;
    rig.net.rule = Some(Box::new(move |_, to, message| match message.body {
        Body::Append { .. } if to == 3 && lost < 4 => {
            lost += 1;
            Fate::Drop
        }
        _ => Fate::Deliver,
    }));
    rig.commit(1, &"b".repeat(2_000));
    rig.run_until(3_000, "n3 catches up", Rig::agrees);
}

/// How often a leader shows that it is alive, by default.
const HEARTBEAT_TICKS: u64 = 5;

/// A member had no room for entries. It gets them with a heartbeat after it has, however long the leader would
/// wait by then before it sends them again to one that is silent; and until then it is not sent copy after copy.
#[test]
fn entries_that_found_no_room_come_soon_after_there_is_some() {
    for full_ticks in [20, 120, 350, 800] {
        let bounds = |config: &mut Config| {
            config.command_bytes_max = 2_000;
            config.uncommitted_bytes_max = 4_000;
            config.log_view_bytes_max = 8_000;
            config.message_bytes_max = 2_000;
        };
        let mut rig = Rig::led_by(1, Setup::voters(3).config(bounds));
        rig.stall_machine(3, true);
        for n in 0..20 {
            rig.commit(1, &format!("{n:0>1500}"));
        }
        let before = rig.sent.len();
        rig.ticks(full_ticks);
        let copies = entries_sent_to_3(&rig, before);
        assert!((1..10).contains(&copies), "{copies} copies");
        assert!(rig.status(3).last < rig.status(1).last, "n3 is full");
        rig.stall_machine(3, false);
        rig.run_until(2 * HEARTBEAT_TICKS, "n3 catches up", Rig::agrees);
    }
}

/// What the leader's own transport had no room for is tried once with each heartbeat.
#[test]
fn entries_that_were_not_sent_are_tried_with_every_heartbeat() {
    const FULL_TICKS: u64 = 200;
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.commit(1, "a");
    rig.net.rule = Some(Box::new(|_, to, message| match &message.body {
        Body::Append { entries, .. } if to == 3 && !entries.is_empty() => Fate::Refuse,
        _ => Fate::Deliver,
    }));
    let before = rig.sent.len();
    rig.commit(1, &"b".repeat(2_000));
    rig.ticks(FULL_TICKS);
    let tries = entries_sent_to_3(&rig, before) as u64;
    let heartbeats = FULL_TICKS / HEARTBEAT_TICKS;
    assert!((heartbeats - 2..heartbeats + 3).contains(&tries), "{tries}");
    rig.net.rule = None;
    rig.run_until(2 * HEARTBEAT_TICKS, "n3 catches up", Rig::agrees);
}

fn entries_sent_to_3(rig: &Rig, before: usize) -> usize {
    let sent = rig.sent[before..].iter();
    let entries = |body: &Body| matches!(body, Body::Append { entries, .. } if !entries.is_empty());
    sent.filter(|(_, to, message)| *to == 3 && entries(&message.body))
        .count()
}
