//! The driver around the core, on real threads: what it answers when things end or fail.
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::future::{self, block_on};
use quorate_consensus::{
    Batch, Body, Clock, Config, DriverControl, Entry, EntryId, Event, Fatal, LogIndex, LogStore,
    LogWrite, Membership, MembershipChange, MembershipError, Message, NodeId, ORIGIN, Parts,
    ProposeError, READS_BYTES_MAX, RaftHandle, RaftNode, ReadError, Recovered, Running,
    StateMachine, StateMachineError, StoreError, Term, Transport, Undelivered, assemble,
};

struct Nowhere;

impl Transport for Nowhere {
    fn send(&mut self, _to: NodeId, _message: Message) -> Result<(), Undelivered> {
        Err(Undelivered)
    }
}

/// What the disk does with the next write.
#[derive(Clone, Copy, PartialEq)]
enum Disk {
    Works,
    Fails,
    Panics,
    Hangs,
}

struct Log {
    entries: BTreeMap<LogIndex, Entry>,
    disk: Arc<Mutex<Disk>>,
}

impl LogStore for Log {
    fn append(&mut self, batch: &[LogWrite]) -> Result<(), StoreError> {
        let disk = *self.disk.lock().unwrap();
        match disk {
            Disk::Works => {}
            Disk::Fails => return Err(StoreError::new("the disk is gone")),
            Disk::Panics => panic!("meant to be seen"),
            Disk::Hangs => loop {
                thread::park();
            },
        }
        for write in batch {
            self.entries.extend(
                write
                    .entries
                    .iter()
                    .map(|entry| (entry.id.index, entry.clone())),
            );
        }
        Ok(())
    }

    fn read(&self, first: LogIndex, last: LogIndex, _max: u64) -> Result<Vec<Entry>, StoreError> {
        Ok(self
            .entries
            .range(first..=last)
            .map(|(_, entry)| entry.clone())
            .collect())
    }
}

/// Answers every command and query with how many bytes it has seen; fails on "fail".
struct Counter(usize);

impl StateMachine for Counter {
    fn applied(&self) -> EntryId {
        ORIGIN
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
        let answer = |command: &quorate_consensus::Command| {
            if command.data == "fail" {
                return Err(StateMachineError::new("told to fail"));
            }
            self.0 += command.data.len();
            Ok(self.0.to_string().into())
        };
        let loud = |command: &&quorate_consensus::Command| command.data != "say nothing";
        batch.commands.iter().filter(loud).map(answer).collect()
    }

    fn query(&mut self, _query: &[u8]) -> Result<Bytes, StateMachineError> {
        Ok(self.0.to_string().into())
    }
}

struct ThreadClock;

impl Clock for ThreadClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (sender, receiver) = async_channel::bounded::<()>(1);
        thread::spawn(move || {
            thread::sleep(duration);
            drop(sender);
        });
        Box::pin(async move {
            let _ = receiver.recv().await;
        })
    }
}

/// Far above anything expected: reached only by a fault.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than any test takes, but for the one that waits for it.
const DISK_HANG_TIMEOUT: Duration = Duration::from_secs(60);

fn assembled(disk: &Arc<Mutex<Disk>>, hang_timeout: Duration) -> Running {
    let timeout = |config: &mut Config| config.disk_hang_timeout = hang_timeout;
    assembled_with(disk, timeout, Counter(0), |_| {})
}

fn assembled_with(
    disk: &Arc<Mutex<Disk>>,
    timeout: impl FnOnce(&mut Config),
    state_machine: impl StateMachine,
    observer: impl FnMut(&Event) + Send + 'static,
) -> Running {
    let node = NodeId::new(1).unwrap();
    let recovered = Recovered::founding(Membership::new([node], []).unwrap());
    let mut config = Config::new(node);
    config.election_timeout = Duration::from_millis(20);
    config.heartbeat_interval = Duration::from_millis(5);
    timeout(&mut config);
    let core = RaftNode::new(config, &recovered, ORIGIN, Vec::new()).unwrap();
    let log = Log {
        entries: BTreeMap::new(),
        disk: Arc::clone(disk),
    };
    assemble(
        core,
        Parts {
            transport: Box::new(Nowhere),
            store: Box::new(log),
            state_machine: Box::new(state_machine),
            clock: Arc::new(ThreadClock),
            observer: Box::new(observer),
        },
    )
}

struct Started {
    handle: RaftHandle,
    control: DriverControl,
    disk: Arc<Mutex<Disk>>,
    driver: thread::JoinHandle<Result<(), Fatal>>,
    workers: [thread::JoinHandle<()>; 3],
}

/// A cluster of one that leads.
fn start() -> Started {
    start_with(DISK_HANG_TIMEOUT)
}

fn start_with(hang_timeout: Duration) -> Started {
    let disk = Arc::new(Mutex::new(Disk::Works));
    Started::of(assembled(&disk, hang_timeout), disk)
}

impl Started {
    /// Every part on a thread of its own.
    fn of(running: Running, disk: Arc<Mutex<Disk>>) -> Self {
        let Running {
            handle,
            control,
            driver,
            writer,
            applier,
            courier,
        } = running;
        let workers = [
            thread::spawn(|| block_on(writer.run())),
            thread::spawn(|| block_on(applier.run()).unwrap()),
            thread::spawn(|| block_on(courier.run())),
        ];
        let driver = thread::spawn(|| block_on(driver.run()));
        let first = block_on(handle.propose("x".into()));
        assert_eq!(first, Ok("1".into()));
        Self {
            handle,
            control,
            disk,
            driver,
            workers,
        }
    }

    fn end(self) -> Result<(), Fatal> {
        let outcome = self.driver.join().unwrap();
        for worker in self.workers {
            let _ = worker.join();
        }
        outcome
    }
}

/// A node that is alone leads as soon as it runs: nobody has to tell it to, or to wait for its election timeout.
#[test]
fn a_node_that_is_alone_leads_by_itself() {
    let node = start();
    let leader = block_on(node.handle.status()).unwrap().leader;
    assert_eq!(leader, NodeId::new(1));
    node.control.stop();
    node.end().unwrap();
}

/// Writes and reads are answered; after a stop, everything is refused at once, with the truth.
#[test]
fn a_stopped_node_says_that_nothing_happened() {
    let node = start();
    assert_eq!(block_on(node.handle.propose("four".into())), Ok("5".into()));
    assert_eq!(block_on(node.handle.query(Bytes::new())), Ok("5".into()));
    let handle = node.handle.clone();
    node.control.stop();
    node.end().unwrap();
    let refused = block_on(handle.propose("late".into()));
    assert_eq!(refused, Err(ProposeError::Stopped));
    assert_eq!(
        block_on(handle.query(Bytes::new())),
        Err(ReadError::Stopped)
    );
    assert!(block_on(handle.status()).is_err());
}

/// A change of the members that was begun when the node stopped may be completed by others; one that was not has not
/// happened.
#[test]
fn a_change_that_was_begun_is_unknown_after_a_stop() {
    let node = start();
    let change = || {
        let change = MembershipChange::Add {
            node: NodeId::new(2).unwrap(),
            address: ([127, 0, 0, 1], 7000).into(),
            promote: false,
            replaces: None,
        };
        node.handle.change_membership(change, None)
    };
    // It is not committed before the stop.
    *node.disk.lock().unwrap() = Disk::Hangs;
    let mut begun = pin!(change());
    assert_eq!(block_on(future::poll_once(&mut begun)), None);
    node.control.stop();
    assert_eq!(block_on(begun), Err(MembershipError::OutcomeUnknown));
    assert_eq!(block_on(change()), Err(MembershipError::Stopped));
}

/// A failed fsync acknowledges nothing, answers everyone, and stops the node.
#[test]
fn a_failed_write_stops_the_node_and_is_not_acknowledged() {
    let node = start();
    *node.disk.lock().unwrap() = Disk::Fails;
    let outcome = block_on(node.handle.propose("lost?".into()));
    assert!(
        matches!(outcome, Err(ProposeError::OutcomeUnknown { .. })),
        "{outcome:?}"
    );
    assert!(matches!(node.end(), Err(Fatal::Store(_))));
}

/// A write that never comes back stops the driver; whoever waited for it is told what is true.
#[test]
fn b16_a_disk_that_hangs_stops_the_node() {
    let node = start_with(Duration::from_millis(500));
    *node.disk.lock().unwrap() = Disk::Hangs;
    let outcome = block_on(node.handle.propose("lost?".into()));
    assert!(
        matches!(outcome, Err(ProposeError::OutcomeUnknown { .. })),
        "{outcome:?}"
    );
    // The writer's thread is left behind.
    let fatal = node.driver.join().unwrap().expect_err("it stops by itself");
    assert!(matches!(fatal, Fatal::DiskHangs { .. }), "{fatal}");
}

/// Told to stop, a node does not wait for a disk that has not answered for long.
#[test]
fn a_stop_does_not_wait_for_a_disk_that_hangs() {
    let node = start();
    *node.disk.lock().unwrap() = Disk::Hangs;
    let (control, begun) = (node.control.clone(), Instant::now());
    node.handle.propose_then("lost?".into(), |_| {});
    let stop = thread::spawn(move || {
        // Four election timeouts, many times over: nothing outside shows when the driver has noticed.
        thread::sleep(Duration::from_secs(1));
        control.stop();
    });
    let fatal = node.driver.join().unwrap().expect_err("it says so");
    assert!(matches!(fatal, Fatal::DiskHangs { .. }), "{fatal}");
    assert!(begun.elapsed() < DISK_HANG_TIMEOUT / 2, "it was told");
    stop.join().unwrap();
}

/// A writer that panics is as good as a failed write.
#[test]
fn a_worker_that_panics_stops_the_node() {
    let node = start();
    *node.disk.lock().unwrap() = Disk::Panics;
    let outcome = block_on(node.handle.propose("lost?".into()));
    assert!(
        matches!(outcome, Err(ProposeError::OutcomeUnknown { .. })),
        "{outcome:?}"
    );
    assert!(matches!(
        node.end(),
        Err(Fatal::WorkerGone { worker: "writer" })
    ));
}

/// A state machine that cannot go on stops the node; its command's outcome is not claimed.
#[test]
fn a_failed_state_machine_stops_the_node() {
    let node = start();
    let outcome = block_on(node.handle.propose("fail".into()));
    assert!(
        matches!(outcome, Err(ProposeError::OutcomeUnknown { .. })),
        "{outcome:?}"
    );
    assert!(matches!(node.end(), Err(Fatal::StateMachine(_))));
}

/// A [`Counter`] that takes no batch while somebody holds the lock.
struct Held(Counter, Arc<Mutex<()>>);

impl StateMachine for Held {
    fn applied(&self) -> EntryId {
        self.0.applied()
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
        let _may = self.1.lock().unwrap();
        self.0.apply(batch)
    }

    fn query(&mut self, query: &[u8]) -> Result<Bytes, StateMachineError> {
        self.0.query(query)
    }
}

/// A state machine that hangs: who waits for it is told that the outcome is unknown, the node says so and goes on, and
/// without a restart all is well when the state machine comes back, with the answers that are due then.
#[test]
fn b19_a_state_machine_that_hangs_is_told_of_until_it_comes_back() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let (held, (sender, events)) = (Arc::new(Mutex::new(())), mpsc::channel());
    let disk = Arc::new(Mutex::new(Disk::Works));
    let running = assembled_with(
        &disk,
        |config| config.apply_stall_timeout = TIMEOUT,
        Held(Counter(0), Arc::clone(&held)),
        move |event| sender.send(event.clone()).unwrap(),
    );
    let node = Started::of(running, disk);
    let handle = node.handle.clone();
    let stalled = || block_on(handle.status()).unwrap().state_machine_stalled;
    let hang = held.lock().unwrap();
    let (told, outcome) = mpsc::channel();
    handle.propose_then("four".into(), move |outcome| told.send(outcome).unwrap());
    let outcome = outcome.recv_timeout(PATIENCE).expect("somebody is told");
    let Err(ProposeError::OutcomeUnknown { at: Some(at) }) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(stalled() >= Some(TIMEOUT));
    assert_eq!(block_on(handle.status()).unwrap().commit, at.index);
    // What it is asked meanwhile waits for its answer until it is told the same.
    let mut late = pin!(handle.propose("ten bytes.".into()));
    assert_eq!(block_on(future::poll_once(&mut late)), None);
    drop(hang);
    let answer = block_on(late);
    let unknown = matches!(answer, Err(ProposeError::OutcomeUnknown { .. }));
    assert!(unknown || answer == Ok("15".into()), "{answer:?}");
    assert_eq!(block_on(handle.query(Bytes::new())), Ok("15".into()));
    assert_eq!(block_on(handle.propose("xx".into())), Ok("17".into()));
    let back = |event| matches!(event, Event::StateMachineAnswers { .. });
    assert!(events.iter().any(back), "it says so");
    assert_eq!(stalled(), None);
    node.control.stop();
    node.end().unwrap();
}

/// A node that is told to stop does not wait for a state machine that hangs, and nor does whoever waits for a command.
#[test]
fn b19_a_stop_does_not_wait_for_a_state_machine_that_hangs() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let held = Arc::new(Mutex::new(()));
    let disk = Arc::new(Mutex::new(Disk::Works));
    let running = assembled_with(
        &disk,
        |config| config.apply_stall_timeout = TIMEOUT,
        Held(Counter(0), Arc::clone(&held)),
        |_| {},
    );
    let node = Started::of(running, disk);
    let handle = node.handle.clone();
    let hang = held.lock().unwrap();
    let first = block_on(handle.propose("four".into()));
    assert!(matches!(first, Err(ProposeError::OutcomeUnknown { .. })));
    // Nobody looks after this one before the node stops.
    let (told, outcome) = mpsc::channel();
    handle.propose_then("five".into(), move |outcome| told.send(outcome).unwrap());
    block_on(handle.status()).unwrap();
    node.control.stop();
    let outcome = outcome.recv_timeout(PATIENCE).expect("somebody is told");
    assert!(matches!(
        outcome,
        Err(ProposeError::OutcomeUnknown { .. } | ProposeError::Stopped)
    ));
    drop(hang);
    let fatal = node.end().expect_err("it says so");
    assert!(
        matches!(fatal, Fatal::StateMachineHangs { waited } if waited >= TIMEOUT),
        "{fatal}"
    );
}

/// Nobody knows whose answer is missing, so nobody is given another's.
#[test]
fn a_state_machine_that_gives_too_few_answers_stops_the_node() {
    let node = start();
    let outcome = block_on(node.handle.propose("say nothing".into()));
    assert!(
        matches!(outcome, Err(ProposeError::OutcomeUnknown { .. })),
        "{outcome:?}"
    );
    let fatal = node.end().expect_err("it stops by itself");
    assert!(matches!(fatal, Fatal::StateMachine(_)), "{fatal}");
    assert!(
        fatal.to_string().contains("0 answers to 1 commands"),
        "{fatal}"
    );
}

/// What waits for a driver that never takes it is bounded, refused beyond that, and answered at the end.
#[test]
fn the_inbox_is_bounded_and_nobody_waits_for_ever() {
    let Running {
        handle,
        control,
        driver,
        ..
    } = assembled(&Arc::new(Mutex::new(Disk::Works)), DISK_HANG_TIMEOUT);
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let count = quorate_consensus::INBOX_REQUESTS_MAX + 1;
    for _ in 0..count {
        let outcomes = Arc::clone(&outcomes);
        handle.propose_then("x".into(), move |outcome| {
            outcomes.lock().unwrap().push(outcome);
        });
    }
    assert_eq!(
        *outcomes.lock().unwrap(),
        [Err(ProposeError::Overloaded)],
        "the last one only"
    );
    // However much is asked here: a leader without its followers' answers would be none for long.
    let member = NodeId::new(2).unwrap();
    let message = Message {
        term: Term::new(1),
        body: Body::TimeoutNow,
    };
    for number in 1..=quorate_consensus::MESSAGES_MAX + 1 {
        let taken = control.deliver(member, message.clone());
        assert_eq!(taken, number <= quorate_consensus::MESSAGES_MAX, "{number}");
    }
    // Before the driver runs, so that it stops before it takes anything else.
    control.stop();
    block_on(driver.run()).unwrap();
    assert_eq!(
        outcomes.lock().unwrap().len(),
        count,
        "everyone has an answer"
    );
}

/// A driver that panics, or whose executor drops it, answers whoever waits in its inbox.
#[test]
fn nobody_waits_for_a_driver_that_is_dropped() {
    let Running { handle, driver, .. } =
        assembled(&Arc::new(Mutex::new(Disk::Works)), DISK_HANG_TIMEOUT);
    let (sender, outcomes) = mpsc::channel();
    handle.propose_then("x".into(), move |outcome| sender.send(outcome).unwrap());
    let (sender, answers) = mpsc::channel();
    handle.query_then("x".into(), move |answer| sender.send(answer).unwrap());
    drop(driver);
    let outcome = outcomes.try_recv().expect("it is answered");
    assert!(matches!(outcome, Err(ProposeError::OutcomeUnknown { .. })));
    assert_eq!(answers.try_recv(), Ok(Err(ReadError::Stopped)));
}

/// Reads are bounded for as long as they wait, wherever that is: here for a state machine that does not come to
/// them. Others are refused, and answered once there is room again.
#[test]
fn reads_that_wait_for_the_state_machine_are_bounded() {
    let Running {
        handle,
        control,
        driver,
        writer,
        applier,
        ..
    } = assembled(&Arc::new(Mutex::new(Disk::Works)), DISK_HANG_TIMEOUT);
    let driver = thread::spawn(|| block_on(driver.run()));
    let writer = thread::spawn(|| block_on(writer.run()));
    let half = Bytes::from(vec![0; usize::try_from(READS_BYTES_MAX / 2).unwrap()]);
    let mut first = [0, 1].map(|_| Box::pin(handle.query_stale(half.clone())));
    for answer in &mut first {
        assert_eq!(block_on(future::poll_once(answer)), None);
    }
    let refused = block_on(handle.query_stale("one more".into()));
    assert_eq!(refused, Err(ReadError::Overloaded));
    let applier = thread::spawn(|| block_on(applier.run()));
    for answer in first {
        block_on(answer).unwrap();
    }
    block_on(handle.query_stale("one more".into())).unwrap();
    control.stop();
    driver.join().unwrap().unwrap();
    writer.join().unwrap();
    applier.join().unwrap().unwrap();
}

/// Stands still until it is told otherwise.
#[derive(Clone)]
struct HandClock(Arc<Mutex<Instant>>);

impl Clock for HandClock {
    fn now(&self) -> Instant {
        *self.0.lock().unwrap()
    }

    fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(future::pending())
    }
}

/// What a node says of the age of its state counts the time in which it did not run, be it leader or not.
#[test]
fn h8_a_pause_makes_a_stale_read_older() {
    const PAUSE: Duration = Duration::from_secs(10);
    let clock = HandClock(Arc::new(Mutex::new(Instant::now())));
    let [own, other] = [1, 2].map(|node| NodeId::new(node).unwrap());
    let leads = |voters: &[NodeId]| voters.len() == 1;
    for voters in [&[own][..], &[own, other]] {
        let recovered = Recovered::founding(Membership::new(voters.to_vec(), []).unwrap());
        let core = RaftNode::new(Config::new(own), &recovered, ORIGIN, Vec::new()).unwrap();
        let Running {
            handle,
            control,
            driver,
            writer,
            applier,
            ..
        } = assemble(
            core,
            Parts {
                transport: Box::new(Nowhere),
                store: Box::new(Log {
                    entries: BTreeMap::new(),
                    disk: Arc::new(Mutex::new(Disk::Works)),
                }),
                state_machine: Box::new(Counter(0)),
                clock: Arc::new(clock.clone()),
                observer: Box::new(|_| {}),
            },
        );
        let (mut driver, mut writer) = (Box::pin(driver.run()), Box::pin(writer.run()));
        let mut applier = Box::pin(applier.run());
        let mut turns = || {
            for _ in 0..8 {
                assert!(block_on(future::poll_once(&mut driver)).is_none());
                assert!(block_on(future::poll_once(&mut writer)).is_none());
                assert!(block_on(future::poll_once(&mut applier)).is_none());
            }
        };
        let mut silent_for = || {
            let mut answer = Box::pin(handle.query_stale(Bytes::new()));
            assert!(block_on(future::poll_once(&mut answer)).is_none());
            turns();
            block_on(answer).unwrap().leader_silent_for
        };
        if !leads(voters) {
            assert_eq!(silent_for(), None, "no leader is known");
            let commit = ORIGIN.index;
            let (term, body) = (Term::new(2), Body::Heartbeat { commit, read: None });
            assert!(control.deliver(other, Message { term, body }));
        }
        // Whatever waits there comes before the question.
        silent_for();
        assert_eq!(silent_for(), Some(Duration::ZERO));
        *clock.0.lock().unwrap() += PAUSE;
        assert_eq!(silent_for(), Some(PAUSE), "{voters:?}");
    }
}
