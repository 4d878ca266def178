//! Every order of a few operations is tried, by a program that knows none of the checker's short cuts.

use quorate_tests::check::calls::{Call, End, calls};
use quorate_tests::check::history::{Answer, Event, History, Kind, Operation, Value};
use quorate_tests::check::wgl::{STEPS_MAX, Verdict, check_key};
use quorate_tests::rng::Rng;

use crate::register::{self, Shape};

/// How many operations are tried in every order.
const OPERATIONS_MAX: u64 = 8;

/// Small histories of all kinds, good and bad: the checker says of each what trying every order says.
#[test]
fn the_verdict_is_that_of_trying_every_order() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..20_000 {
        let calls = small(seed);
        let verdict = match check_key(&calls, 0, STEPS_MAX) {
            Verdict::Linearizable => true,
            Verdict::Violation { .. } => false,
            Verdict::Undecided { .. } => panic!("seed {seed} is undecided: {calls:#?}"),
        };
        let some_order_fits = some_order_fits(&calls, &mut vec![false; calls.len()], None);
        assert_eq!(verdict, some_order_fits, "seed {seed}: {calls:#?}");
        if verdict {
            good += 1;
        } else {
            bad += 1;
        }
    }
    // Otherwise the comparison would say little.
    assert!(good > 4_000 && bad > 4_000, "{good} good, {bad} bad");
}

/// A good history in which some answers may have been replaced by others.
fn small(seed: u64) -> Vec<Call> {
    let mut rng = Rng::stream(seed, "small");
    let mut history = register::history(
        seed,
        Shape {
            operations: rng.within(2..OPERATIONS_MAX + 1),
            clients: rng.within(1..5) as usize,
            keys: 1,
            unknown: *rng.pick(&[0, 20, 50]),
            removals: *rng.pick(&[0, 20, 60]),
        },
    )
    .history;
    let lies = *rng.pick(&[0, 20, 50]);
    for event in &mut history.events {
        if let Kind::Ok { answer, .. } = &mut event.kind
            && rng.chance(lies)
        {
            *answer = lie(answer, &mut rng);
        }
    }
    if rng.chance(30) {
        shorten(&mut history, &mut rng);
    }
    calls(&history).unwrap()
}

fn lie(truth: &Answer, rng: &mut Rng) -> Answer {
    let value = rng.within(0..OPERATIONS_MAX);
    let value = (value > 0).then_some(value);
    match truth {
        Answer::Value(_) => Answer::Value(value),
        Answer::Pairs(_) => Answer::Pairs(value.map(|value| (0, value)).into_iter().collect()),
        Answer::Swapped | Answer::NotSwapped { .. } if rng.chance(50) => Answer::Swapped,
        Answer::Swapped | Answer::NotSwapped { .. } => Answer::NotSwapped { current: value },
        Answer::Deleted { existed } => Answer::Deleted { existed: !existed },
        Answer::Written => Answer::Written,
    }
}

/// Exchanges the places of two events that follow each other and belong to different clients.
fn shorten(history: &mut History, rng: &mut Rng) {
    let events: &mut Vec<Event> = &mut history.events;
    for _ in 0..events.len() {
        let at = rng.within(0..events.len() as u64 - 1) as usize;
        if events[at].client != events[at + 1].client {
            events.swap(at, at + 1);
        }
    }
    for (seq, event) in (0..).zip(events) {
        event.seq = seq;
    }
}

/// Whether what is not `done` yet can be put in some order, given what the register holds.
fn some_order_fits(calls: &[Call], done: &mut Vec<bool>, holds: Option<Value>) -> bool {
    let left: Vec<usize> = (0..calls.len()).filter(|at| !done[*at]).collect();
    let answered = |at: &usize| matches!(calls[*at].end, End::Ok { .. });
    if !left.iter().any(answered) {
        return true;
    }
    let first_answer = left.iter().map(|at| calls[*at].returned()).min();
    for &at in &left {
        if Some(calls[at].invoked) > first_answer || calls[at].end == End::Failed {
            continue;
        }
        let (gives, then) = carry_out(&calls[at].operation, holds);
        if calls[at].answer().is_some_and(|answer| *answer != gives) {
            continue;
        }
        done[at] = true;
        let fits = some_order_fits(calls, done, then);
        done[at] = false;
        if fits {
            return true;
        }
    }
    false
}

fn carry_out(operation: &Operation, holds: Option<Value>) -> (Answer, Option<Value>) {
    match *operation {
        Operation::Get { .. } => (Answer::Value(holds), holds),
        Operation::Scan => {
            let pairs = holds.map(|value| (0, value)).into_iter().collect();
            (Answer::Pairs(pairs), holds)
        }
        Operation::Put { value, .. } => (Answer::Written, Some(value)),
        Operation::Delete { .. } => {
            let existed = holds.is_some();
            (Answer::Deleted { existed }, None)
        }
        Operation::CompareAndSet {
            expected, value, ..
        } => {
            if holds == expected {
                (Answer::Swapped, value)
            } else {
                (Answer::NotSwapped { current: holds }, holds)
            }
        }
    }
}
