//! A member: what survives its process, and the process while there is one.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quorate_consensus::{
    Config, DriverControl, Event, Fatal, Membership, NodeId, Parts, RaftHandle, RaftNode, Running,
    Status, Stopped, assemble, read_tail,
};

use super::clock::NodeClock;
use super::executor::{Part, Task, TaskId, Woken, lock};
use super::seams::{Disk, Effect, Effects, Machine, Memory, Store, Wire, new_disk};
use crate::params::Params;

/// How long a state machine may keep what it applied to itself.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// How often members compare their states.
const COMPARE_INTERVAL: Duration = Duration::from_secs(4);

/// How many bytes of snapshots, and of the logs that go along with them, a node gives away in a second.
const SNAPSHOT_RATE: u64 = 1 << 30;

pub(super) struct Member {
    pub(super) id: u64,
    pub(super) disk: Arc<Mutex<Disk>>,
    pub(super) memory: Arc<Mutex<Memory>>,
    pub(super) clock: Arc<NodeClock>,
    pub(super) refused: Arc<Mutex<u64>>,
    /// Counts the starts, and names the present one.
    pub(super) life: u64,
    pub(super) process: Option<Process>,
    /// Its store is not what it was, so that the others would refuse it: it stays away.
    pub(super) gone: bool,
    /// When a message of each other arrived last.
    pub(super) heard: BTreeMap<u64, u64>,
    /// Since when it has been running, without a pause or a change of role.
    pub(super) undisturbed_since: u64,
    /// Woken while it could not run.
    pub(super) held: Vec<TaskId>,
}

/// A running node.
pub(super) struct Process {
    pub(super) handle: RaftHandle,
    pub(super) control: DriverControl,
    driver: Task,
    writer: Task,
    applier: Task,
    courier: Task,
    /// How the driver ended.
    pub(super) end: Arc<Mutex<Option<Result<(), Fatal>>>>,
    probe: Option<Probe>,
    /// Whether it was told to stop.
    pub(super) stopping: bool,
}

type Probe = Pin<Box<dyn Future<Output = Result<Status, Stopped>>>>;

impl Member {
    pub(super) fn new(id: u64, membership: Membership, clock: NodeClock) -> Self {
        Self {
            id,
            disk: new_disk(membership),
            memory: Arc::new(Mutex::new(Memory::new())),
            clock: Arc::new(clock),
            refused: Arc::default(),
            life: 0,
            process: None,
            gone: false,
            heard: BTreeMap::new(),
            undisturbed_since: 0,
            held: Vec::new(),
        }
    }

    /// Starts a process on what the disk holds.
    pub(super) fn start(
        &mut self,
        seed: u64,
        params: &Params,
        woken: &Woken,
        effects: &Effects,
    ) -> Result<(), String> {
        self.life += 1;
        lock(&self.disk).has_failed = false;
        let recovered = lock(&self.disk).log.recovered();
        let mut memory = lock(&self.memory);
        memory.restart(recovered.base());
        let applied = memory.now.applied;
        drop(memory);
        let store = Store {
            node: self.id,
            disk: Arc::clone(&self.disk),
            memory: Arc::clone(&self.memory),
            effects: Arc::clone(effects),
        };
        let tail = read_tail(&store, applied.index, recovered.last);
        let tail = tail.map_err(|error| error.to_string())?;
        let config = config(self.id, self.life, seed, params);
        let node = RaftNode::new(config, &recovered, applied, tail);
        let node = node.map_err(|error| error.to_string())?;
        let noted = Arc::clone(effects);
        let id = self.id;
        let parts = Parts {
            transport: Box::new(Wire {
                node: id,
                effects: Arc::clone(effects),
                refused: Arc::clone(&self.refused),
            }),
            store: Box::new(store),
            state_machine: Box::new(Machine {
                node: id,
                memory: Arc::clone(&self.memory),
                disk: Arc::clone(&self.disk),
                effects: Arc::clone(effects),
            }),
            clock: Arc::clone(&self.clock) as Arc<_>,
            observer: Box::new(move |event| {
                if let Event::Leader(change) = *event {
                    lock(&noted).push(Effect::Changed { node: id, change });
                }
            }),
        };
        self.process = Some(Process::new(assemble(node, parts), id, self.life, woken));
        Ok(())
    }

    /// Ends the process between two instructions. If it was `written`, the write it had begun is on the
    /// disk, though nobody was told.
    pub(super) fn kill(&mut self, written: bool) -> bool {
        let Some(mut process) = self.process.take() else {
            return false;
        };
        if written {
            process.writer.run();
        }
        drop(process);
        self.held.clear();
        true
    }

    /// Whether nothing of an ended process is left.
    pub(super) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.disk) == 1
            && Arc::strong_count(&self.memory) == 1
            && Arc::strong_count(&self.clock) == 1
    }
}

fn config(id: u64, life: u64, seed: u64, params: &Params) -> Config {
    let mut config = Config::new(NodeId::new(id).expect("counted from one"));
    config.boot = life;
    config.seed = seed.wrapping_mul(1_000).wrapping_add(id * 100 + life);
    config.election_timeout = Duration::from_millis(params.election_timeout_ms);
    config.heartbeat_interval = Duration::from_millis(params.heartbeat_interval_ms);
    config.priority = params.priority(id);
    config.command_bytes_max = params.bounds.command;
    config.uncommitted_bytes_max = params.bounds.uncommitted;
    config.message_bytes_max = params.bounds.message;
    config.log_view_bytes_max = params.bounds.log_view.max(config.log_view_bytes_min());
    config.checkpoint_bytes = params.bounds.checkpoint;
    config.checkpoint_interval = CHECKPOINT_INTERVAL;
    config.compare_interval = COMPARE_INTERVAL;
    params.bounds.compaction.set(&mut config);
    // The log goes along with a snapshot here, and is many times the state: at a rate for the state alone,
    // members would be late through no fault of theirs (seed 401543).
    config.snapshot_bytes_per_second = SNAPSHOT_RATE;
    config
}

impl Process {
    fn new(running: Running, node: u64, life: u64, woken: &Woken) -> Self {
        let end = Arc::new(Mutex::new(None));
        let ended = Arc::clone(&end);
        let Running {
            handle,
            control,
            driver,
            writer,
            applier,
            courier,
        } = running;
        let driver = async move {
            let outcome = driver.run().await;
            *lock(&ended) = Some(outcome);
        };
        let applier = async move {
            // Where its disk fails at the end, what was applied is in the log.
            let _ = applier.run().await;
        };
        let id = |part| TaskId { node, life, part };
        Self {
            handle,
            control,
            driver: Task::new(id(Part::Driver), woken, driver),
            writer: Task::new(id(Part::Writer), woken, writer.run()),
            applier: Task::new(id(Part::Applier), woken, applier),
            courier: Task::new(id(Part::Courier), woken, courier.run()),
            end,
            probe: None,
            stopping: false,
        }
    }

    pub(super) fn run(&mut self, part: Part) {
        match part {
            Part::Driver => self.driver.run(),
            Part::Writer => self.writer.run(),
            Part::Applier => self.applier.run(),
            Part::Courier => self.courier.run(),
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        let workers = [&self.writer, &self.applier, &self.courier];
        self.driver.has_ended() && workers.iter().all(|worker| worker.has_ended())
    }

    /// Asks for the status, and returns what the last question brought.
    pub(super) fn probe(&mut self) -> Option<Status> {
        let answer = self.probe.take().and_then(poll_once);
        let handle = self.handle.clone();
        let mut asked: Probe = Box::pin(async move { handle.status().await });
        // The question is on its way after this.
        let mut context = Context::from_waker(Waker::noop());
        if asked.as_mut().poll(&mut context).is_pending() {
            self.probe = Some(asked);
        }
        answer?.ok()
    }
}

fn poll_once(mut probe: Probe) -> Option<Result<Status, Stopped>> {
    let mut context = Context::from_waker(Waker::noop());
    match probe.as_mut().poll(&mut context) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}
