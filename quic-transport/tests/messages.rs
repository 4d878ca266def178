//! Messages and calls between two healthy peers, under each runtime.

#![allow(clippy::unwrap_used)]

mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::*;
use quorate_quic_transport::{
    CallError, Config, Inbound, IncomingCall, Lane, Limits, Message, NotSent, Refusal,
    runtime::IoThread,
};
use serde::{Deserialize, Serialize};

fn next_call(program: &mut Program) -> IncomingCall {
    match program.next() {
        Inbound::Call(call) => call,
        other => panic!("expected a call, got {other:?}"),
    }
}

#[test]
fn every_lane_carries_messages_both_ways_and_names_the_sender() {
    on_each_runtime(|runtime| {
        let (mut one, mut two) = pair(runtime);
        for lane in Lane::ALL {
            one.peer(&two).try_send(lane, 7, Number(11)).unwrap();
            two.peer(&one).try_send(lane, 8, Number(22)).unwrap();
            for (program, from, group, number) in [
                (&mut two, one.identity(), 7, 11),
                (&mut one, two_identity(), 8, 22),
            ] {
                let Inbound::Message(message) = program.next() else {
                    panic!("a message")
                };
                assert_eq!(
                    (&*message.from, message.lane, message.group),
                    (&from, lane, group)
                );
                assert_eq!(message.decode::<Number>().unwrap(), Number(number));
                assert!(
                    message.decode::<Blob>().is_err(),
                    "another kind does not decode"
                );
            }
        }
        one.shutdown();
        two.shutdown();
    });
}

/// Whoever has all the time there is may say so: to a call, and to an orderly end.
#[test]
fn the_longest_time_is_no_mistake() {
    on_each_runtime(|runtime| {
        let (mut one, mut two) = pair(runtime);
        let answer = one
            .peer(&two)
            .call::<Number, Number>(Number(1), Duration::MAX);
        next_call(&mut two).reply.send(&Number(2));
        assert_eq!(block_on(answer).unwrap(), Number(2));
        two.peer(&one).try_send(Lane::Append, 7, Number(3)).unwrap();
        block_on(two.transport.shutdown(Duration::MAX));
        assert_eq!(one.next_message::<Number>(), Number(3));
        let Inbound::Down { reason, .. } = one.next() else {
            panic!("the end")
        };
        assert!(reason.to_string().contains("shutting down"), "{reason}");
        one.shutdown();
    });
}

fn two_identity() -> quorate_certs::Identity {
    quorate_certs::Identity::from_uri("spiffe://c1/node/2").unwrap()
}

#[test]
fn appends_arrive_in_order_and_whole() {
    on_each_runtime(|runtime| {
        let (one, mut two) = pair(runtime);
        let peer = one.peer(&two);
        // Sizes from nothing to several packets and past one write.
        let size = |i: u64| (i * i * 37 % 90_000) as usize;
        for i in 0..300 {
            let mut message = Blob(vec![i as u8; size(i)]);
            // A full queue gives the message back, so nothing is skipped.
            while let Err(rejected) = peer.try_send(Lane::Append, 0, message) {
                assert_eq!(rejected.why, NotSent::QueueFull);
                message = rejected.message;
                std::thread::yield_now();
            }
        }
        for i in 0..300 {
            assert_eq!(
                two.next_message::<Blob>(),
                Blob(vec![i as u8; size(i)]),
                "message {i}"
            );
        }
        one.shutdown();
        two.shutdown();
    });
}

#[test]
fn d14_a_backlog_of_megabytes_does_not_hold_up_control_messages() {
    on_io_thread(|runtime| {
        let limits = Limits {
            inbox_messages_max: 1,
            ..Limits::default()
        };
        let (one, mut two) = pair_with(runtime, config(), Config { limits, ..config() });
        let peer = one.peer(&two);
        // Nobody reads: the inbox, the windows and the queue fill up behind one another.
        let mut appended = 0;
        wait_for("full queue", || {
            peer.try_send(Lane::Append, 0, Blob(vec![1; 100_000]))
                .map(|()| appended += 1)
                .err()
        });
        assert!(appended > 100, "a real backlog, {appended} messages");
        peer.try_send(Lane::Control, 0, Number(1)).unwrap();
        let position = (0..).find(|_| {
            let Inbound::Message(message) = two.next() else {
                panic!("a message")
            };
            message.lane == Lane::Control
        });
        assert!(position < Some(appended / 2), "{position:?} of {appended}");
        drop(two);
        one.shutdown();
    });
}

#[test]
fn hundreds_of_calls_at_once_each_get_their_own_answer() {
    on_each_runtime(|runtime| {
        let (one, mut two) = pair(runtime);
        let peer = one.peer(&two);
        let calls: Vec<_> = (0..500)
            .map(|i| peer.call::<Number, Number>(Number(i), PATIENCE))
            .collect();
        // Answered in reverse, and from another thread: an answer finds its question by its id.
        let answering = std::thread::spawn(move || {
            let asked: Vec<_> = (0..500).map(|_| next_call(&mut two)).collect();
            for call in asked.into_iter().rev() {
                let Number(i) = call.decode().unwrap();
                call.reply.send(&Number(i * 2));
            }
            two
        });
        for (i, call) in calls.into_iter().enumerate() {
            assert_eq!(block_on(call).unwrap(), Number(i as u64 * 2));
        }
        answering.join().unwrap().shutdown();
        one.shutdown();
    });
}

#[test]
fn a_call_ends_by_its_deadline_and_a_late_answer_is_ignored() {
    on_each_runtime(|runtime| {
        let (one, mut two) = pair(runtime);
        let peer = one.peer(&two);
        let late = peer.call::<Number, Number>(Number(1), Duration::from_millis(30));
        let unanswered = next_call(&mut two);
        assert_eq!(block_on(late), Err(CallError::Deadline));
        unanswered.reply.send(&Number(99));
        let call = peer.call::<Number, Number>(Number(2), PATIENCE);
        next_call(&mut two).reply.send(&Number(3));
        assert_eq!(block_on(call), Ok(Number(3)));
        one.shutdown();
        two.shutdown();
    });
}

#[test]
fn a_call_that_nobody_answers_is_never_silence() {
    on_io_thread(|runtime| {
        let (one, mut two) = pair(runtime);
        let peer = one.peer(&two);
        let call = peer.call::<Number, Number>(Number(1), PATIENCE);
        drop(next_call(&mut two));
        assert_eq!(block_on(call), Err(CallError::Remote(Refusal::NoReply)));

        let call = peer.call::<Number, Number>(Number(1), PATIENCE);
        next_call(&mut two).reply.refuse(Refusal::UnknownKind);
        assert_eq!(block_on(call), Err(CallError::Remote(Refusal::UnknownKind)));

        let call = peer.call::<Number, Number>(Number(1), PATIENCE);
        next_call(&mut two).reply.send(&Blob(vec![0; 5 << 20]));
        assert_eq!(block_on(call), Err(CallError::Remote(Refusal::Unsendable)));

        let call = peer.call::<Number, Number>(Number(1), PATIENCE);
        next_call(&mut two).reply.send(&Blob(Vec::new()));
        assert!(matches!(block_on(call), Err(CallError::Decode(_))));
        one.shutdown();
        two.shutdown();
    });
}

/// Whoever dials decides what silence means: a client that says nothing for longer than nodes may is still there, and
/// the node does not ping it.
#[test]
fn a_client_may_be_silent_for_longer_than_a_node() {
    on_io_thread(|runtime| {
        let cluster = Cluster::new();
        let mut times = config();
        times.timings.idle_timeout = Duration::from_millis(200);
        times.timings.keep_alive = Duration::from_millis(50);
        let mut node = Program::start(times, cluster.node(1), Arc::clone(runtime));
        let own_thread = IoThread::spawn("client").unwrap();
        let mut client = Program::start(config(), cluster.client("app"), own_thread.runtime());
        client.dials(&node);
        client.next_up();
        let peer = client.peer(&node);
        // Its process stands still.
        let (pause, paused) = std::sync::mpsc::channel();
        own_thread.runtime().spawn(Box::pin(async move {
            std::thread::sleep(Duration::from_secs(1));
            pause.send(()).unwrap();
        }));
        paused.recv().unwrap();
        assert_eq!(node.transport.client_connections(), 1);
        let call = peer.call::<Number, Number>(Number(1), PATIENCE);
        next_call(&mut node).reply.send(&Number(2));
        assert_eq!(block_on(call), Ok(Number(2)));
        assert!(client.inbox.try_recv().is_none(), "no Down");
        client.shutdown();
        node.shutdown();
        drop(own_thread);
    });
}

/// A transport ends with the executor that it was given: nobody waits for what will not come.
#[test]
fn an_executor_that_ends_takes_the_calls_along() {
    on_io_thread(|runtime| {
        let cluster = Cluster::new();
        let mut node = Program::start(config(), cluster.node(1), Arc::clone(runtime));
        let own_thread = IoThread::spawn("client").unwrap();
        let mut client = Program::start(config(), cluster.client("app"), own_thread.runtime());
        client.dials(&node);
        client.next_up();
        let peer = client.peer(&node);
        let call = peer.call::<Number, Number>(Number(1), 10 * PATIENCE);
        let asked = next_call(&mut node);
        let (ended, end) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let answer = block_on(call);
            while block_on(client.inbox.recv()).is_some() {}
            ended.send(answer).unwrap();
        });
        drop(own_thread);
        let answer = end.recv_timeout(PATIENCE).expect("nobody waits for ever");
        assert!(matches!(answer, Err(CallError::Unknown(_))), "{answer:?}");
        waiting.join().unwrap();
        let later = block_on(peer.call::<Number, Number>(Number(2), PATIENCE));
        assert_eq!(later, Err(CallError::NotSent(NotSent::ShuttingDown)));
        drop(asked);
        node.shutdown();
    });
}

/// Encoded in one go, faster than a connection carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Large(Bytes);

impl Message for Large {
    const KIND: u16 = 77;
}

/// Large answers to many calls at once: those that find no room say so, and asking again helps.
#[test]
fn an_answer_without_room_is_not_silence() {
    on_io_thread(|runtime| {
        let limits = Limits {
            lane_bytes_max: 9 << 20,
            ..Limits::default()
        };
        let (one, mut two) = pair_with(runtime, config(), Config { limits, ..config() });
        let peer = one.peer(&two);
        let large = Large(vec![7; 3 << 20].into());
        let calls: Vec<_> = (0..40)
            .map(|i| peer.call::<Number, Large>(Number(i), PATIENCE))
            .collect();
        let replies: Vec<_> = calls.iter().map(|_| next_call(&mut two).reply).collect();
        for reply in replies {
            reply.send(&large);
        }
        let (mut answered, mut refused) = (0, 0);
        for call in calls {
            match block_on(call) {
                Ok(answer) if answer == large => answered += 1,
                Err(CallError::Remote(Refusal::NoRoom)) => refused += 1,
                other => panic!("{:?}", other.map(|answer| answer.0.len())),
            }
        }
        assert!(answered > 0 && refused > 0, "{answered} answers");
        let again = peer.call::<Number, Large>(Number(40), PATIENCE);
        next_call(&mut two).reply.send(&large);
        assert_eq!(block_on(again), Ok(large));
        one.shutdown();
        two.shutdown();
    });
}

#[test]
fn a_peer_that_dies_makes_outcomes_unknown_not_wrong() {
    on_io_thread(|runtime| {
        let (mut one, mut two) = pair(runtime);
        let call = one.peer(&two).call::<Number, Number>(Number(1), PATIENCE);
        let asked = next_call(&mut two);
        let Program { transport, inbox } = two;
        drop(transport);
        assert!(matches!(block_on(call), Err(CallError::Unknown(_))));
        assert!(matches!(one.next(), Inbound::Down { .. }));
        drop((asked, inbox));
        one.shutdown();
    });
}

#[test]
fn calls_in_flight_are_bounded_on_both_sides() {
    on_io_thread(|runtime| {
        let limits = Limits {
            calls_in_flight_max: 3,
            ..Limits::default()
        };
        // The asked side's limit binds the asking side, through the hello.
        let (one, mut two) = pair_with(runtime, config(), Config { limits, ..config() });
        let peer = one.peer(&two);
        let calls: Vec<_> = (0..3)
            .map(|i| peer.call::<Number, Number>(Number(i), PATIENCE))
            .collect();
        let refused = peer.call::<Number, Number>(Number(3), PATIENCE);
        assert_eq!(
            block_on(refused),
            Err(CallError::NotSent(NotSent::QueueFull))
        );
        for call in calls {
            next_call(&mut two).reply.send(&Number(0));
            block_on(call).unwrap();
        }
        one.shutdown();
        two.shutdown();
    });
}

#[test]
fn what_cannot_be_sent_comes_back_with_its_reason() {
    on_io_thread(|runtime| {
        let limits = Limits {
            inbox_messages_max: 1,
            ..Limits::default()
        };
        let (one, two) = pair_with(runtime, config(), Config { limits, ..config() });
        let peer = one.peer(&two);
        let rejected = peer
            .try_send(Lane::Control, 0, Blob(vec![7; 70_000]))
            .unwrap_err();
        assert_eq!(rejected.message, Blob(vec![7; 70_000]));
        assert!(matches!(
            rejected.why,
            NotSent::TooLarge { bytes_max: 65_536 }
        ));

        // The other side reads nothing: its inbox, then the windows, then the queue fill up.
        let full = wait_for("full queue", || {
            (0..100).find_map(|_| peer.try_send(Lane::Append, 0, Blob(vec![1; 100_000])).err())
        });
        assert_eq!(
            (full.message, full.why),
            (Blob(vec![1; 100_000]), NotSent::QueueFull)
        );

        one.transport.remove_peer(&two.identity());
        wait_for("disconnect", || (!peer.is_connected()).then_some(()));
        let rejected = peer.try_send(Lane::Append, 0, Number(5)).unwrap_err();
        assert_eq!(
            (rejected.message, rejected.why),
            (Number(5), NotSent::NotConnected)
        );
        let Program { transport, inbox } = two;
        drop(inbox);
        block_on(transport.shutdown(Duration::from_secs(1)));
        one.shutdown();
    });
}

#[test]
fn a_newer_beat_replaces_one_that_is_still_queued() {
    on_io_thread(|runtime| {
        // An inbox of one message that nobody empties stops the control lane, so beats queue.
        let limits = Limits {
            inbox_messages_max: 1,
            ..Limits::default()
        };
        let (one, mut two) = pair_with(runtime, config(), Config { limits, ..config() });
        let peer = one.peer(&two);
        let mut sent = 0;
        // Without replacing, 256 would fill the queue; replaced, they never do.
        while sent < 100_000 {
            sent += 1;
            peer.try_send(Lane::Control, 0, Beat(sent)).unwrap();
        }
        let mut received = 0;
        let mut last = 0;
        while last < sent {
            let Beat(beat) = two.next_message();
            assert!(beat > last, "never backwards");
            (last, received) = (beat, received + 1);
        }
        assert!(received < sent, "all {sent} arrived: nothing was replaced");
        one.shutdown();
        two.shutdown();
    });
}

#[test]
fn an_idle_client_stays_connected_and_uses_only_the_call_lane() {
    on_each_runtime(|runtime| {
        let cluster = Cluster::new();
        let mut node = Program::start(config(), cluster.node(1), Arc::clone(runtime));
        // Short times, so that being idle for long takes little of the test's time; and keep-alives so close that no
        // busy machine keeps all of them of a timeout from being sent.
        let idle_timeout = Duration::from_secs(1);
        let mut client = config();
        client.timings.idle_timeout = idle_timeout;
        client.timings.keep_alive = idle_timeout / 20;
        let mut client = Program::start(client, cluster.client("app"), Arc::clone(runtime));
        client.dials(&node);
        client.next_up();
        let peer = client.peer(&node);
        let began = std::time::Instant::now();
        wait_for("more than an idle timeout", || {
            (began.elapsed() > 3 * idle_timeout / 2).then_some(())
        });
        assert!(client.inbox.try_recv().is_none(), "no Down");
        assert_eq!(node.transport.client_connections(), 1);
        let why = peer.try_send(Lane::Control, 0, Number(1)).unwrap_err().why;
        assert_eq!(why, NotSent::NoSuchLane);
        let call = peer.call::<Number, Number>(Number(1), PATIENCE);
        let asked = next_call(&mut node);
        assert_eq!(asked.from.to_string(), "spiffe://c1/client/app");
        asked.reply.send(&Number(2));
        assert_eq!(block_on(call), Ok(Number(2)));
        client.shutdown();
        wait_for("forgotten client", || {
            (node.transport.client_connections() == 0).then_some(())
        });
        node.shutdown();
    });
}
