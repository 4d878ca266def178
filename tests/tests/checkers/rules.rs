//! A history that was not recorded by the rules has no verdict.

use std::time::Duration;

use quorate_tests::check::calls::{Malformed, calls};
use quorate_tests::check::history::{Answer, Event, History, Kind, Operation, Recorder};

fn event(seq: u64, client: u64, op_id: u64, kind: Kind) -> Event {
    Event {
        seq,
        at_ns: 0,
        client,
        op_id,
        kind,
    }
}

fn put(value: u64) -> Kind {
    Kind::Invoke(Operation::Put { key: 1, value })
}

fn written() -> Kind {
    Kind::Ok {
        answer: Answer::Written,
        index: None,
    }
}

/// Every rule, broken once.
#[test]
fn rules_of_recording() {
    let swap = Kind::Invoke(Operation::CompareAndSet {
        key: 1,
        expected: Some(1),
        value: Some(1),
    });
    let broken = [
        (
            vec![event(1, 1, 0, put(1)), event(1, 1, 0, written())],
            Malformed::OutOfOrder { seq: 1 },
        ),
        (
            vec![event(0, 1, 0, put(1)), event(1, 1, 1, put(2))],
            Malformed::Busy { seq: 1 },
        ),
        (
            vec![
                event(0, 1, 0, put(1)),
                event(1, 1, 0, Kind::Unknown),
                event(2, 1, 1, put(2)),
            ],
            Malformed::Busy { seq: 2 },
        ),
        (
            vec![event(0, 1, 0, written())],
            Malformed::NotUnderWay { seq: 0 },
        ),
        (
            vec![
                event(0, 1, 0, put(1)),
                event(1, 1, 0, Kind::Unknown),
                event(2, 1, 0, written()),
            ],
            Malformed::NotUnderWay { seq: 2 },
        ),
        (
            vec![event(0, 1, 0, put(1)), event(1, 1, 1, Kind::Fail)],
            Malformed::NotUnderWay { seq: 1 },
        ),
        (
            vec![event(0, 1, 0, put(1)), event(1, 2, 0, put(2))],
            Malformed::SameOperation { seq: 1 },
        ),
        (
            vec![event(0, 1, 0, put(1)), event(1, 2, 1, put(1))],
            Malformed::SameValue { seq: 1, value: 1 },
        ),
        (vec![event(0, 1, 0, swap)], Malformed::SelfSwap { seq: 0 }),
    ];
    for (events, malformed) in broken {
        assert_eq!(calls(&History { events }), Err(malformed));
    }
}

/// What the recorder writes keeps the rules, also after an unknown outcome and without an end.
#[test]
fn the_recorder_keeps_the_rules() {
    let recorder = Recorder::default();
    let (mut one, mut two) = (recorder.client(), recorder.client());
    let now = Duration::from_millis(1);
    let put = |value| Operation::Put { key: 1, value };
    one.invoke(now, put(1));
    two.invoke(now, put(2));
    one.complete(now, Kind::Unknown);
    one.invoke(now, put(3));
    one.complete(now, written());
    drop(two);
    let history = recorder.take();
    let calls = calls(&history).unwrap();
    let clients: Vec<u64> = calls.iter().map(|call| call.client).collect();
    assert_eq!(clients, [1, 2, 3]);
    let answered: Vec<bool> = calls.iter().map(|call| call.answer().is_some()).collect();
    assert_eq!(answered, [false, false, true]);
    assert_eq!(recorder.take(), History::default());
}
