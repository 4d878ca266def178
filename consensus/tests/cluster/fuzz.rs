//! Random well-typed messages into nodes that also live a normal life.

use bytes::Bytes;
use quorate_consensus::{
    Body, Entry, EntryId, LogIndex, Membership, Message, Payload, ReadContext, Refused, Role,
    Status, Term, Transfer,
};

use crate::rig::{Rig, Rng, Setup, id};

/// Together more than 200,000 messages of a member that lies, and of strangers.
const HOSTILE_SEEDS: u64 = 24;
const HOSTILE_MESSAGES: u64 = 9_000;
/// How many times as much is tried as with every `cargo test`: `scripts/hostile.sh` sets it.
const TIMES: &str = "QUORATE_TIMES";
const REPLAY_SEEDS: u64 = 10;
const REPLAY_MESSAGES: u64 = 5_000;

/// Near `value` mostly, sometimes anywhere.
fn around(rng: &mut Rng, value: u64) -> u64 {
    match rng.within(0..40) {
        0 => 0,
        1 => u64::MAX - rng.within(0..3),
        2 => u64::MAX / 2 + rng.within(0..3),
        3 => rng.within(0..1000),
        _ => value.saturating_add(rng.within(0..7)).saturating_sub(3),
    }
}

/// A term a node could be talked into without ending all elections for good, or one it must refuse.
fn term(rng: &mut Rng, near: Term) -> Term {
    // Mostly the present one: in an endless series of new terms nobody would ever lead.
    if rng.chance(85) {
        return near;
    }
    let term = around(rng, near.value());
    let plausible = near.value().saturating_add(1000);
    Term::new(if term > plausible && term <= u64::MAX / 2 {
        plausible
    } else {
        term
    })
}

fn index(rng: &mut Rng, status: &Status) -> LogIndex {
    let near = match rng.within(0..3) {
        0 => status.commit,
        1 => status.applied,
        _ => status.last.index,
    };
    LogIndex::new(around(rng, near.value()))
}

fn entry_id(rng: &mut Rng, status: &Status) -> EntryId {
    match rng.within(0..4) {
        0 => status.last,
        1 => EntryId::new(status.last.term, index(rng, status)),
        _ => EntryId::new(term(rng, status.last.term), index(rng, status)),
    }
}

/// Members that may be, as the entry `index`, mostly such that something follows from `members`.
fn membership_at(rng: &mut Rng, members: &Membership, index: LogIndex) -> Membership {
    let mut bytes = members.encode();
    bytes[14..22].copy_from_slice(&index.value().to_le_bytes());
    if rng.chance(50) {
        let at = rng.within(0..bytes.len() as u64) as usize;
        bytes[at] = rng.within(0..8) as u8;
    }
    Membership::decode(&bytes).unwrap_or_else(|| members.clone())
}

fn entries(
    rng: &mut Rng,
    members: &Membership,
    previous: EntryId,
    message_term: Term,
) -> Vec<Entry> {
    let mut next = previous;
    let count = rng.within(0..6);
    let entries = (0..count).map(|_| {
        let skipped = u64::from(rng.chance(3));
        next.index = LogIndex::new(next.index.value().saturating_add(1 + skipped));
        if rng.chance(10) {
            next.term = term(rng, message_term);
        } else if next.term < message_term && rng.chance(30) {
            next.term = message_term;
        }
        let kinds = if rng.chance(1) { 6 } else { 3 };
        match rng.within(0..kinds) {
            0 => Entry::empty(next),
            3 => Entry {
                id: next,
                payload: Payload::Compare,
            },
            4 => Entry {
                id: next,
                payload: Payload::Digest {
                    at: previous,
                    digest: rng.within(0..3),
                },
            },
            5 => Entry {
                id: next,
                payload: Payload::Membership(Box::new(membership_at(rng, members, next.index))),
            },
            _ => Entry::command(next, vec![b'h'; rng.within(1..200) as usize].into()),
        }
    });
    entries.collect()
}

fn read(rng: &mut Rng) -> Option<ReadContext> {
    rng.chance(50).then(|| context(rng))
}

fn context(rng: &mut Rng) -> ReadContext {
    ReadContext {
        node: rng.within(1..5),
        boot: rng.within(0..3),
        round: rng.within(0..20),
    }
}

fn membership(rng: &mut Rng, status: &Status) -> Membership {
    if rng.chance(70) {
        return status.membership.clone();
    }
    let first = rng.within(1..6);
    let voters = (first..first + rng.within(1..4)).map(id);
    Membership::new(voters, []).expect("at least one voter")
}

/// Pieces of snapshots, most of which make no sense, and questions for them.
fn transfer(rng: &mut Rng, status: &Status) -> Transfer {
    let last = entry_id(rng, status);
    let place = |rng: &mut Rng| Bytes::from(vec![0; *rng.pick(&[0, 0, 0, 8, 2048, 2049])]);
    match rng.within(0..4) {
        0 => Transfer::Request {
            last,
            after: place(rng),
        },
        1 => Transfer::Gone { last },
        _ => Transfer::Chunk {
            last,
            after: place(rng),
            data: vec![7; rng.within(0..40) as usize].into(),
            next: rng.chance(30).then(|| place(rng)),
        },
    }
}

fn random_message(rng: &mut Rng, status: &Status) -> Message {
    let message_term = term(rng, status.term);
    let body = match rng.within(0..17) {
        16 => Body::LeadershipWanted {
            priority: rng.within(0..3) as u8,
        },
        14 => Body::ReadIndex {
            context: context(rng),
        },
        15 => Body::ReadIndexAnswer {
            context: context(rng),
            index: index(rng, status),
        },
        13 => Body::Digest {
            at: entry_id(rng, status),
            digest: rng.within(0..3),
        },
        10 => Body::Snapshot {
            last: entry_id(rng, status),
            membership: membership(rng, status),
        },
        11..13 => Body::Transfer(transfer(rng, status)),
        0..3 => {
            let previous = entry_id(rng, status);
            Body::Append {
                previous,
                commit: index(rng, status),
                entries: entries(rng, &status.membership, previous, message_term),
            }
        }
        3 => Body::AppendAccepted {
            last: index(rng, status),
            commit: index(rng, status),
        },
        4 => Body::AppendRejected {
            previous: index(rng, status),
            hint: entry_id(rng, status),
            commit: index(rng, status),
        },
        5 => Body::RequestVote {
            pre: rng.chance(50),
            last: entry_id(rng, status),
            commit: entry_id(rng, status),
            transfer: rng.chance(30),
        },
        6 => Body::Vote {
            pre: rng.chance(50),
            granted: rng.chance(70),
            commit: entry_id(rng, status),
        },
        7 => Body::Heartbeat {
            commit: index(rng, status),
            read: read(rng),
        },
        8 => Body::HeartbeatResponse {
            commit: index(rng, status),
            read: read(rng),
        },
        _ => Body::TimeoutNow,
    };
    Message {
        term: message_term,
        body,
    }
}

/// What nodes go through besides: time, clients, power losses, slow disks.
fn live(rig: &mut Rig, commands: &mut u64) {
    rig.tick();
    let up = rig.up();
    let node = *rig.rng.pick(&up);
    match rig.rng.within(0..40) {
        0..10 => {
            *commands += 1;
            let node = rig.leader().unwrap_or(node);
            rig.propose_unpumped(node, format!("{commands}"));
        }
        10..14 => drop(rig.read_unpumped(node)),
        14 if up.len() > 1 => rig.crash_keeping(node, 1),
        15..18 => {
            for node in 1..=4 {
                if !rig.is_up(node) {
                    rig.restart(node);
                }
            }
        }
        18 => rig.stall_disk(node, true),
        19..23 => rig.stall_disk(node, false),
        23 => rig.stall_machine(node, true),
        24..28 => rig.stall_machine(node, false),
        28 => rig.campaign(node),
        29 => drop(rig.core(node).transfer_leader(None)),
        30 => rig.checkpoint(node),
        _ => {}
    }
}

fn hostile_seeds() -> u64 {
    let times = std::env::var(TIMES).ok();
    HOSTILE_SEEDS * times.map_or(1, |times| times.parse().expect("a number of times"))
}

fn hostile(seeds: impl Iterator<Item = u64>) {
    let (mut heard, mut refused, mut led, mut committed) = (0_u64, 0_u64, 0, 0);
    let mut stopped = 0;
    for seed in seeds {
        let mut setup = Setup::voters(3).learners(1);
        if seed % 2 == 0 {
            setup = setup.small();
        }
        setup.seed = seed;
        setup.record = false;
        let mut rig = setup.build();
        // A member that lies can break agreement (Raft does not claim otherwise), but must not panic
        // anybody, nor make a node break a promise of its own.
        rig.checker.byzantine = true;
        let mut commands = 0;
        let quiet = 1 + seed % 5;
        for count in 0..HOSTILE_MESSAGES {
            if count % quiet == 0 {
                live(&mut rig, &mut commands);
            }
            let up = rig.up();
            if up
                .iter()
                .filter(|&&node| rig.stopped(node).is_some())
                .count()
                > 1
            {
                // The others cannot elect anybody.
                stopped += 1;
                break;
            }
            let node = *rig.rng.pick(&up);
            let status = rig.status(node);
            let message = random_message(&mut rig.rng, &status);
            let from = rig.rng.within(1..6);
            match rig.hear(node, from, message) {
                Ok(()) => heard += 1,
                Err(_) => refused += 1,
            }
            if rig.rng.chance(50) {
                rig.pump();
            }
        }
        let changes = (1..=4).flat_map(|node| rig.changes(node));
        led += changes.filter(|change| change.role == Role::Leader).count();
        committed += rig.acknowledged().len();
    }
    println!(
        "{heard} heard, {refused} refused, {led} led, {committed} acknowledged, {stopped} stopped"
    );
    assert!(
        heard > 30_000 && refused > 30_000,
        "{heard} heard, {refused} refused"
    );
    assert!(
        led > 100 && committed > 100,
        "{led} led, {committed} acknowledged"
    );
}

/// No message panics a node, or makes it vote twice, take back a commit, or promise what is not durable.
#[test]
fn i7_hostile_messages_panic_nobody() {
    hostile((0..hostile_seeds()).filter(|seed| seed % 4 < 2));
}

/// The other half of the seeds, so that two cores share them.
#[test]
fn i7_hostile_messages_panic_nobody_either() {
    hostile((0..hostile_seeds()).filter(|seed| seed % 4 >= 2));
}

/// Genuine messages, repeated at any later time and in any order, break none of Raft's properties.
#[test]
fn replayed_messages_break_nothing() {
    let mut acknowledged = 0;
    for seed in 0..REPLAY_SEEDS {
        let mut setup = Setup::voters(3).learners(1);
        setup.seed = seed;
        let mut rig = setup.build();
        rig.net.latency_max = 3;
        let mut commands = 0;
        for _ in 0..REPLAY_MESSAGES {
            if rig.rng.chance(40) {
                live(&mut rig, &mut commands);
            }
            let sent = rig.sent.len() as u64;
            if sent == 0 {
                continue;
            }
            let recent = sent.saturating_sub(*rig.rng.pick(&[10, 100, 100_000]));
            let (from, to, message) = rig.sent[rig.rng.within(recent..sent) as usize].clone();
            if rig.is_up(to) {
                let heard = rig.hear(to, from, message);
                assert!(
                    !matches!(heard, Err(Refused::LostEntries { .. })),
                    "{heard:?}"
                );
            }
        }
        for node in 1..=4 {
            if !rig.is_up(node) {
                rig.restart(node);
            }
            rig.stall_disk(node, false);
            rig.stall_machine(node, false);
        }
        rig.run_until(1000, "all agree", Rig::agrees);
        rig.ticks(120);
        rig.check_log_matching();
        rig.check_answers();
        acknowledged += rig.acknowledged().len();
    }
    assert!(
        acknowledged > 100,
        "only {acknowledged} commands were acknowledged"
    );
}
