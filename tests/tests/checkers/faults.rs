//! Faults that a store could have are planted in good histories, one at a time. Every one is found.

use std::collections::BTreeSet;

use quorate_tests::check::calls::{Call, calls};
use quorate_tests::check::history::{Answer, Event, History, Kind, Operation, Value};
use quorate_tests::check::witness::{self, CommittedLog, Discord};
use quorate_tests::check::{self, durability, wgl};
use quorate_tests::rng::Rng;

use crate::register::{self, Made, Shape};

/// How many histories each fault is planted in.
const SEEDS: u64 = 200;

/// Plants a fault in each of many histories; where one has no place for it, it does not count.
fn plant(shape: Shape, fault: impl Fn(&mut Made, &mut Rng) -> bool, finds: impl Fn(&Made) -> bool) {
    let mut planted = 0;
    for seed in 0..SEEDS {
        let mut made = register::history(seed, shape);
        assert!(!finds(&made), "seed {seed}: found before it was planted");
        let mut rng = Rng::stream(seed, "fault");
        if fault(&mut made, &mut rng) {
            assert!(finds(&made), "seed {seed}: not found");
            planted += 1;
        }
    }
    assert!(planted > SEEDS / 2, "planted in {planted} of {SEEDS} only");
}

fn one_key(removals: u64) -> Shape {
    Shape {
        operations: 400,
        clients: 8,
        keys: 1,
        unknown: 3,
        removals,
    }
}

/// The search finds it, and is not undecided.
fn search_finds(made: &Made) -> bool {
    let calls = calls(&made.history).unwrap();
    match wgl::check_key(&calls, 0, wgl::STEPS_MAX) {
        wgl::Verdict::Linearizable => false,
        wgl::Verdict::Violation { .. } => true,
        wgl::Verdict::Undecided { steps } => panic!("undecided after {steps}"),
    }
}

fn witness_finds(made: &Made) -> bool {
    discord(made).is_some()
}

fn discord(made: &Made) -> Option<Discord> {
    witness::check(&calls(&made.history).unwrap(), &made.log).err()
}

/// The answer event of `call`.
fn answer_of<'a>(history: &'a mut History, call: &Call) -> &'a mut Event {
    let mut events = history.events.iter_mut();
    events
        .find(|event| event.seq == call.returned())
        .expect("it has been answered")
}

fn set_answer(history: &mut History, call: &Call, new: Answer) {
    match &mut answer_of(history, call).kind {
        Kind::Ok { answer, .. } => *answer = new,
        other => panic!("{other:?} is no answer"),
    }
}

fn set_index(history: &mut History, call: &Call, new: u64) {
    match &mut answer_of(history, call).kind {
        Kind::Ok { index, .. } => *index = Some(new),
        other => panic!("{other:?} is no answer"),
    }
}

fn index_of(call: &Call) -> Option<u64> {
    match call.end {
        check::calls::End::Ok { index, .. } => index,
        _ => None,
    }
}

fn some<'a>(
    calls: &'a [Call],
    rng: &mut Rng,
    condition: impl Fn(&Call) -> bool,
) -> Option<&'a Call> {
    let found: Vec<&Call> = calls.iter().filter(|call| condition(call)).collect();
    (!found.is_empty()).then(|| *rng.pick(&found))
}

fn is_put(call: &Call) -> bool {
    matches!(call.operation, Operation::Put { .. }) && call.answer().is_some()
}

fn is_get(call: &Call) -> bool {
    matches!(call.operation, Operation::Get { .. }) && call.answer().is_some()
}

/// A read gives what had been overwritten before it was asked: a leader that did not know that it was
/// deposed, a follower's state, or a write that was lost after it had been acknowledged.
#[test]
fn a_stale_read() {
    let late = |made: &mut Made, rng: &mut Rng| stale_read(made, rng, 200);
    plant(one_key(0), late, search_finds);
    plant(one_key(10), late, search_finds);
    plant(one_key(0), late, witness_finds);
}

/// One stale read near the end of very many operations is found, not only left undecided. (Removals with
/// an unknown outcome are what makes a search long: with them, the history is shorter.)
#[test]
fn a_stale_read_after_very_many_operations() {
    for (operations, removals) in [(100_000, 0), (10_000, 2)] {
        let shape = Shape {
            operations,
            clients: 20,
            ..one_key(removals)
        };
        for seed in 0..3 {
            let mut made = register::history(seed, shape);
            let mut rng = Rng::stream(seed, "fault");
            let near_the_end = operations as usize * 9 / 10;
            assert!(stale_read(&mut made, &mut rng, near_the_end));
            assert!(search_finds(&made));
        }
    }
}

/// Makes one of the reads after the first `skipped` operations stale.
fn stale_read(made: &mut Made, rng: &mut Rng, skipped: usize) -> bool {
    let calls = calls(&made.history).unwrap();
    let Some(read) = some(&calls[skipped..], rng, is_get) else {
        return false;
    };
    let last_put_before = |seq: u64| {
        let mut puts = calls.iter().rev().filter(|call| is_put(call));
        puts.find(|call| call.returned() < seq)
    };
    let Some(newer) = last_put_before(read.invoked) else {
        return false;
    };
    let Some(older) = last_put_before(newer.invoked) else {
        return false;
    };
    let stale = Answer::Value(older.operation.writes());
    set_answer(&mut made.history, read, stale);
    true
}

/// Two clients swap the same value for another one, and both are told that they did: a lost update.
#[test]
fn two_swaps_of_one_value() {
    let fault = |made: &mut Made, _: &mut Rng| {
        let calls = calls(&made.history).unwrap();
        let mut swapped: BTreeSet<Value> = BTreeSet::new();
        for call in &calls {
            let Operation::CompareAndSet {
                expected: Some(expected),
                value: Some(_),
                ..
            } = call.operation
            else {
                continue;
            };
            match call.answer() {
                Some(Answer::Swapped) => drop(swapped.insert(expected)),
                Some(Answer::NotSwapped { .. }) if swapped.contains(&expected) => {
                    set_answer(&mut made.history, call, Answer::Swapped);
                    return true;
                }
                _ => {}
            }
        }
        false
    };
    plant(one_key(0), fault, search_finds);
    plant(one_key(10), fault, search_finds);
    plant(one_key(0), fault, witness_finds);
}

/// Of two swaps that depend on each other the second is done before the first is asked for.
#[test]
fn swaps_in_the_wrong_order() {
    let fault = |made: &mut Made, _: &mut Rng| {
        let calls = calls(&made.history).unwrap();
        let swaps = |call: &Call| call.answer() == Some(&Answer::Swapped);
        for first in calls.iter().filter(|call| swaps(call)) {
            let Some(written) = first.operation.writes() else {
                continue;
            };
            let second = calls.iter().find(|call| {
                let expects = matches!(
                    call.operation,
                    Operation::CompareAndSet { expected, .. } if expected == Some(written)
                );
                expects && swaps(call) && first.returned() < call.invoked
            });
            if let Some(second) = second {
                exchange(&mut made.history, first, second);
                return true;
            }
        }
        false
    };
    plant(one_key(0), fault, search_finds);
    plant(one_key(0), fault, witness_finds);
}

/// Lets `first` happen when `second` did, and the other way round.
fn exchange(history: &mut History, first: &Call, second: &Call) {
    for (one, other) in [
        (first.invoked, second.invoked),
        (first.returned(), second.returned()),
    ] {
        let place = |seq: u64| {
            let mut events = history.events.iter();
            events.position(|event| event.seq == seq).unwrap()
        };
        let (one, other) = (place(one), place(other));
        let kind = history.events[one].kind.clone();
        history.events[one].kind = std::mem::replace(&mut history.events[other].kind, kind);
    }
}

/// A write that was repeated behind the client's back is seen again after another one had replaced it.
#[test]
fn a_write_applied_twice() {
    let fault = |made: &mut Made, rng: &mut Rng| {
        let calls = calls(&made.history).unwrap();
        // Its value is seen, then another one is, then the first again.
        let reads: Vec<&Call> = calls.iter().filter(|call| is_get(call)).collect();
        let middle = 50 + rng.within(0..50) as usize;
        let Some(&between) = reads.get(middle) else {
            return false;
        };
        let before = |call: &&&Call| call.returned() < between.invoked && is_some(call);
        let after = |call: &&&Call| between.returned() < call.invoked && is_some(call);
        let (Some(&first), Some(&last)) =
            (reads.iter().rev().find(before), reads.iter().find(after))
        else {
            return false;
        };
        let seen = first.answer().unwrap().clone();
        if between.answer() == Some(&seen) {
            return false;
        }
        set_answer(&mut made.history, last, seen);
        true
    };
    plant(one_key(0), fault, search_finds);
    plant(one_key(0), fault, witness_finds);
}

fn is_some(call: &Call) -> bool {
    matches!(call.answer(), Some(Answer::Value(Some(_))))
}

/// A command is in the log twice: even when nobody saw it, its second place is not explained.
#[test]
fn a_command_twice_in_the_log() {
    let fault = |made: &mut Made, _: &mut Rng| {
        let (last, command) = made.log.last_key_value().unwrap();
        made.log.insert(last + 1, *command);
        true
    };
    let finds = |made: &Made| matches!(discord(made), Some(Discord::OutOfNowhere { .. }));
    plant(one_key(0), fault, finds);
}

/// A write that was acknowledged is not in the log, or is another one there.
#[test]
fn an_acknowledged_write_that_is_not_in_the_log() {
    let without = |made: &mut Made, rng: &mut Rng| {
        let calls = calls(&made.history).unwrap();
        let lost = some(&calls, rng, is_put).and_then(index_of);
        lost.is_some_and(|index| made.log.remove(&index).is_some())
    };
    plant(one_key(0), without, witness_finds);
    let replaced = |made: &mut Made, rng: &mut Rng| {
        let calls = calls(&made.history).unwrap();
        let Some(index) = some(&calls, rng, is_put).and_then(index_of) else {
            return false;
        };
        let other = Operation::Delete { key: 0 };
        made.log.insert(index, other);
        true
    };
    plant(one_key(0), replaced, witness_finds);
}

/// An answer from a state that was older than an answer given before the question: right in itself, and
/// still wrong.
#[test]
fn an_answer_out_of_the_past() {
    let fault = |made: &mut Made, rng: &mut Rng| {
        let calls = calls(&made.history).unwrap();
        let Some(read) = some(&calls[200..], rng, is_get) else {
            return false;
        };
        let Some(index) = index_of(read) else {
            return false;
        };
        let back = (2..index).rev().nth(20).unwrap_or(2);
        // What the log says there, so that only time can tell.
        let state = state_at(&made.log, back);
        set_answer(&mut made.history, read, Answer::Value(state));
        set_index(&mut made.history, read, back);
        true
    };
    let finds = |made: &Made| matches!(discord(made), Some(Discord::BackInTime { .. }));
    plant(one_key(0), fault, finds);
}

fn state_at(log: &CommittedLog, index: u64) -> Option<Value> {
    let mut holds = None;
    for command in log.range(..=index).map(|(_, command)| command) {
        match *command {
            Operation::CompareAndSet { expected, .. } if expected != holds => {}
            _ => holds = command.writes(),
        }
    }
    holds
}

/// A scan that mixes two moments: each key is right at some time, all of them at none.
#[test]
fn a_scan_of_no_moment() {
    let shape = Shape {
        keys: 2,
        ..one_key(0)
    };
    let fault = |made: &mut Made, rng: &mut Rng| {
        let calls = calls(&made.history).unwrap();
        let scan = some(
            &calls[200..],
            rng,
            |call| matches!(call.answer(), Some(Answer::Pairs(pairs)) if pairs.len() == 2),
        );
        let Some(scan) = scan else { return false };
        let Some(Answer::Pairs(pairs)) = scan.answer() else {
            return false;
        };
        let mut torn = pairs.clone();
        let newer = calls.iter().find(|call| {
            call.operation.key() == Some(torn[0].0)
                && is_put(call)
                && index_of(call) > index_of(scan)
        });
        let Some(value) = newer.and_then(|call| call.operation.writes()) else {
            return false;
        };
        torn[0].1 = value;
        set_answer(&mut made.history, scan, Answer::Pairs(torn));
        true
    };
    plant(shape, fault, witness_finds);
}

/// What was acknowledged is not there at the end.
#[test]
fn lost_at_the_end() {
    let with_scan = |made: &mut Made, pairs: Vec<(u64, Value)>| {
        let seq = made.history.events.len() as u64;
        let event = |seq, kind| Event {
            seq,
            at_ns: 0,
            client: u64::MAX,
            op_id: u64::MAX,
            kind,
        };
        let answer = Answer::Pairs(pairs);
        let invoke = event(seq, Kind::Invoke(Operation::Scan));
        let told = Kind::Ok {
            answer,
            index: None,
        };
        let told = event(seq + 1, told);
        made.history.events.extend([invoke, told]);
    };
    let lost = |made: &Made| durability::check(&calls(&made.history).unwrap()).is_err();
    for seed in 0..SEEDS {
        for removals in [0, 10] {
            let made = || register::history(seed, one_key(removals));
            let mut good = made();
            let end = state_at(&good.log, u64::MAX);
            with_scan(&mut good, end.map(|value| (0, value)).into_iter().collect());
            assert!(!lost(&good), "seed {seed}");

            let calls = calls(&good.history).unwrap();
            let mut puts = calls.iter().rev().filter(|call| is_put(call));
            let last = puts.next().unwrap();
            let before = puts.find(|call| call.returned() < last.invoked).unwrap();
            let mut stale = made();
            with_scan(&mut stale, vec![(0, before.operation.writes().unwrap())]);
            assert!(lost(&stale), "seed {seed}");
            let mut foreign = made();
            with_scan(&mut foreign, vec![(0, Value::MAX)]);
            assert!(lost(&foreign), "seed {seed}");
        }
        // Only with removals could the key be absent.
        let mut empty = register::history(seed, one_key(0));
        with_scan(&mut empty, Vec::new());
        assert!(lost(&empty), "seed {seed}");
    }
}
