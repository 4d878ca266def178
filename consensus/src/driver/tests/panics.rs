//! What a panic of any part does: the node stops and says which part it was, and whoever waits has an answer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_lite::future::{block_on, poll_once};

use super::*;
use crate::entry::Payload;
use crate::membership::MembershipChange;
use crate::snapshots::{ChunkWanted, Take, TakeStep};

/// How often each part is polled until all that can happen has.
const ROUNDS: usize = 8;

type Part<T> = Option<Pin<Box<dyn Future<Output = T>>>>;

/// A node that leads in term 2 and has its first entry, 2, committed by node 2, which says only what it is told to.
struct Stage {
    seams: Seams,
    handle: RaftHandle,
    control: DriverControl,
    /// Until they are used: workers end with the last of their senders.
    jobs: Option<(Sender<ApplierJob>, Sender<CourierJob>)>,
    driver: Part<Result<(), Fatal>>,
    workers: [(&'static str, Part<()>); 3],
    ended: Option<Result<(), Fatal>>,
    panicked: Vec<&'static str>,
}

impl Stage {
    fn leading() -> Self {
        let seams = Seams::default();
        let Running {
            handle,
            control,
            driver,
            writer,
            applier,
            courier,
        } = assembled(&seams);
        let mut stage = Self {
            seams,
            handle,
            control,
            jobs: Some((driver.applier.clone(), driver.courier.clone())),
            driver: Some(Box::pin(driver.run())),
            workers: [
                ("writer", Some(Box::pin(writer.run()))),
                (
                    "applier",
                    Some(Box::pin(async { drop(applier.run().await) })),
                ),
                ("snapshot", Some(Box::pin(courier.run()))),
            ],
            ended: None,
            panicked: Vec::new(),
        };
        stage.handle.campaign();
        for pre in [true, false] {
            stage.turn();
            let commit = EntryId::new(Term::new(0), LogIndex::new(0));
            let granted = true;
            stage.hear(Body::Vote {
                pre,
                granted,
                commit,
            });
        }
        stage.turn();
        stage.accept(2);
        stage.turn();
        assert_eq!(stage.handle.leader().role, Role::Leader);
        stage
    }

    /// Node 2 says `body`.
    fn hear(&self, body: Body) {
        let term = Term::new(2);
        assert!(self.control.deliver(node(2), Message { term, body }));
    }

    /// Node 2 has all entries up to this one.
    fn accept(&self, last: u64) {
        let (last, commit) = (LogIndex::new(last), ORIGIN.index);
        self.hear(Body::AppendAccepted { last, commit });
    }

    /// Every part does what it can; one that panics or ends is gone, as its thread would be.
    fn turn(&mut self) {
        for _ in 0..ROUNDS {
            for (name, worker) in &mut self.workers {
                poll(name, worker, &mut self.panicked);
            }
            let ended = poll("driver", &mut self.driver, &mut self.panicked);
            self.ended = self.ended.take().or(ended);
        }
    }

    /// Makes somebody call `called`.
    fn provoke(&mut self, called: Called) {
        let (applier, courier) = self.jobs.take().expect("once");
        let apply = |job| applier.try_send(job).unwrap();
        let carry = |job| courier.try_send(job).unwrap();
        let take = |step| carry(CourierJob::Take(Take { number: 1, step }));
        match called {
            // The change of the members and the first command, but not the second one.
            Called::Send | Called::SetMembers | Called::Observer | Called::Apply => self.accept(4),
            // With every turn, or with the read of whoever stands at the applier.
            Called::Now | Called::Sleep | Called::Query | Called::Durable => {}
            Called::Checkpoint | Called::Snapshot => apply(ApplierJob::Snapshot),
            Called::Install => apply(ApplierJob::Install(at(9))),
            Called::Scan => {
                let (id, payload) = (at(2), Payload::Compare);
                apply(ApplierJob::Apply(vec![Entry { id, payload }]));
            }
            Called::Begin => take(TakeStep::Begin(at(9))),
            Called::Add => take(TakeStep::Add(Bytes::new())),
            Called::Finish => take(TakeStep::Finish),
            Called::Chunk => {
                carry(CourierJob::Keep(Box::new(self.seams.clone())));
                carry(CourierJob::Read(ChunkWanted {
                    to: node(2),
                    last: ORIGIN,
                    after: Bytes::new(),
                }));
            }
            Called::ReadOn => {
                let scan = Box::new(self.seams.clone());
                carry(CourierJob::Scan(at(2), scan));
                carry(CourierJob::ReadOn);
            }
            Called::Append | Called::Read | Called::Settle => {
                unreachable!("the writer's: see tests/driver.rs")
            }
        }
    }
}

fn poll<T>(name: &'static str, part: &mut Part<T>, panicked: &mut Vec<&'static str>) -> Option<T> {
    let future = part.as_mut()?;
    let polled = catch_unwind(AssertUnwindSafe(|| block_on(poll_once(future))));
    if polled.is_err() {
        panicked.push(name);
    }
    let ended = polled.unwrap_or(None);
    if ended.is_some() || panicked.contains(&name) {
        *part = None;
    }
    ended
}

/// Something panics at `called`, on the part called `part`, while a change of the members, a command and a read
/// wait for the other voter, and another read for the state.
fn panics(part: &'static str, called: Called) {
    let mut stage = Stage::leading();
    let handle = stage.handle.clone();
    let change = MembershipChange::Add {
        node: node(3),
        address: ([127, 0, 0, 1], 7000).into(),
        promote: false,
        replaces: None,
    };
    let mut change = Box::pin(handle.change_membership(change, None));
    let mut first = Box::pin(handle.propose("first".into()));
    let mut second = Box::pin(handle.propose("second".into()));
    let mut read = Box::pin(handle.query(Bytes::new()));
    assert_eq!(block_on(poll_once(&mut change)), None);
    assert_eq!(block_on(poll_once(&mut first)), None);
    assert_eq!(block_on(poll_once(&mut second)), None);
    assert_eq!(block_on(poll_once(&mut read)), None);
    stage.turn();
    assert_eq!(stage.panicked, [""; 0]);

    stage.seams.panic_at(called);
    let mut stale = Box::pin(handle.query_stale(Bytes::new()));
    assert_eq!(block_on(poll_once(&mut stale)), None);
    stage.provoke(called);
    stage.turn();
    assert_eq!(stage.panicked, [part]);
    match part {
        "driver" => assert!(stage.ended.is_none()),
        worker => {
            let ended = stage.ended.as_ref().expect("the node stops");
            let fatal = ended.as_ref().expect_err("not as if it had been told to");
            let named = matches!(fatal, Fatal::WorkerGone { worker: gone } if *gone == worker);
            assert!(named, "{fatal}");
        }
    }
    let rest = stage.workers.iter().filter(|(_, part)| part.is_some());
    assert_eq!(rest.count(), 0, "no worker waits for a driver that is gone");

    assert!(handle.has_stopped());
    let known = handle.leader();
    assert_eq!((known.role, known.leader), (Role::Follower, None), "{part}");

    let unknown = |outcome| matches!(outcome, Some(Err(ProposeError::OutcomeUnknown { .. })));
    assert!(unknown(block_on(poll_once(&mut second))));
    let first = block_on(poll_once(&mut first));
    assert!(matches!(first, Some(Ok(_))) || unknown(first));
    let stopped = Some(Err(ReadError::Stopped));
    assert_eq!(block_on(poll_once(&mut read)), stopped);
    let stale = block_on(poll_once(&mut stale)).expect("an answer");
    assert!(matches!(stale, Ok(_) | Err(ReadError::Stopped)));
    let change = block_on(poll_once(&mut change)).expect("an answer");
    assert!(matches!(
        change,
        Ok(_) | Err(MembershipError::OutcomeUnknown)
    ));
    let late = block_on(poll_once(handle.propose("late".into())));
    assert_eq!(late, Some(Err(ProposeError::Stopped)));
    let late = block_on(poll_once(handle.query(Bytes::new())));
    assert_eq!(late, Some(Err(ReadError::Stopped)));
}

/// Negative control: where nothing panics, nobody has an answer yet, and the node goes on.
#[test]
fn control_without_a_panic_the_node_goes_on() {
    let mut stage = Stage::leading();
    let handle = stage.handle.clone();
    let mut command = Box::pin(handle.propose("first".into()));
    let mut read = Box::pin(handle.query(Bytes::new()));
    assert_eq!(block_on(poll_once(&mut command)), None);
    assert_eq!(block_on(poll_once(&mut read)), None);
    stage.turn();
    assert_eq!(block_on(poll_once(&mut command)), None);
    assert_eq!(block_on(poll_once(&mut read)), None);
    assert!(stage.panicked.is_empty() && stage.ended.is_none());
    assert!(!handle.has_stopped() && handle.leader().leader == Some(node(1)));
    stage.accept(3);
    stage.turn();
    assert_eq!(block_on(poll_once(&mut command)), Some(Ok(Bytes::new())));
}

/// The thread of the state machine, whatever it calls.
#[test]
fn a_panic_of_the_applier_stops_the_node() {
    for called in [
        Called::Apply,
        Called::Query,
        Called::Checkpoint,
        Called::Durable,
        Called::Snapshot,
        Called::Install,
        Called::Scan,
    ] {
        panics("applier", called);
    }
}

/// The thread that gives snapshots away, takes them in and reads the state to compare it.
#[test]
fn a_panic_of_the_courier_stops_the_node() {
    for called in [
        Called::Begin,
        Called::Add,
        Called::Finish,
        Called::Chunk,
        Called::ReadOn,
    ] {
        panics("snapshot", called);
    }
}

/// The driver itself, by what an embedder brought: nobody waits for it, and the workers end.
#[test]
fn a_panic_of_the_driver_leaves_nobody_waiting() {
    for called in [
        Called::Send,
        Called::SetMembers,
        Called::Observer,
        Called::Now,
        Called::Sleep,
    ] {
        panics("driver", called);
    }
}

/// Whoever is called back with an answer is called on the thread that has it.
#[test]
fn a_panic_of_who_is_answered_is_one_of_the_part_that_answers() {
    for (command, part) in [
        ("answered by the applier".into(), "applier"),
        // Refused by the core for its size.
        (Bytes::from(vec![0; 16 << 20]), "driver"),
    ] {
        let mut stage = Stage::leading();
        let handle = stage.handle.clone();
        let meant = |outcome| panic!("meant to be seen: {outcome:?}");
        handle.propose_then(command, meant);
        let mut second = Box::pin(handle.propose("second".into()));
        assert_eq!(block_on(poll_once(&mut second)), None);
        stage.turn();
        if part == "applier" {
            assert!(stage.panicked.is_empty());
            stage.accept(3);
            stage.turn();
        }
        assert_eq!(stage.panicked, [part]);
        assert_eq!(stage.ended.is_some(), part == "applier");
        let second = block_on(poll_once(&mut second));
        let unknown = matches!(second, Some(Err(ProposeError::OutcomeUnknown { .. })));
        assert!(unknown, "{second:?}");
    }
}
