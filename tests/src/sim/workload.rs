//! Clients that write and read, follow what happens, and hold leases; and write down what they are told.

mod holder;
mod watcher;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quorate::kv::{Client, Logged};

use self::holder::Holder;
use self::watcher::{Noted, Watcher};
use super::runtime::Process;
use super::world::World;
use crate::check;
use crate::check::calls::calls;
use crate::check::history::{History, Kind, Operation, RecordedClient, Recorder};
use crate::check::kv::Keyspace;
use crate::check::once;
use crate::check::replay::{self, Told};
use crate::check::witness::{self, CommittedLog};
use crate::params::Clients;
use crate::plan::{Fault, Plan};
use crate::rng::Rng;

/// Of a hundred operations, how many are followed by a write that nobody checks: it makes the log and
/// the state as large as the parameters want them.
const BALLAST_PERCENT: u64 = 30;

/// How long a client that was not served waits before it tries again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// What the clients of a run share.
#[derive(Clone)]
pub(super) struct Workload {
    recorder: Recorder,
    keyspace: Keyspace,
    tally: Arc<Tally>,
    noted: Noted,
}

#[derive(Default)]
struct Tally {
    value: AtomicU64,
    acknowledged: AtomicU64,
    reads: AtomicU64,
    operations: AtomicU64,
    leases: AtomicU64,
    finish: AtomicBool,
    finished: AtomicU64,
}

impl Tally {
    fn is_to_finish(&self) -> bool {
        self.finish.load(Ordering::Relaxed)
    }
}

impl Workload {
    pub(super) fn new() -> Self {
        Self {
            recorder: Recorder::default(),
            keyspace: Keyspace::new("h"),
            tally: Arc::default(),
            noted: Noted::default(),
        }
    }

    /// Lets all clients work.
    pub(super) fn begin(&self, world: &World, plan: &Plan) {
        let clients = &plan.params.clients;
        let mut number = 0;
        for _ in 0..clients.count {
            number += 1;
            self.begin_worker(world, plan.seed, number, clients);
        }
        for _ in 0..clients.watchers {
            number += 1;
            self.begin_watcher(world, plan.seed, number, clients);
        }
        for _ in 0..clients.holders {
            number += 1;
            self.begin_holder(world, plan, number);
        }
    }

    fn begin_worker(&self, world: &World, seed: u64, number: u64, clients: &Clients) {
        let process = world.client_process(number);
        let worker = Worker {
            client: world.client(number, Duration::from_millis(clients.patience_ms)),
            recorded: self.recorder.client(),
            keyspace: self.keyspace.clone(),
            tally: Arc::clone(&self.tally),
            rng: Rng::stream(seed ^ number.rotate_left(40), "client"),
            clients: clients.clone(),
            process: Arc::clone(&process),
        };
        world.spawn_on(process.host, worker.run());
    }

    fn begin_watcher(&self, world: &World, seed: u64, number: u64, clients: &Clients) {
        let process = world.client_process(number);
        let watcher = Watcher {
            client: world.client(number, Duration::from_millis(clients.patience_ms)),
            process: Arc::clone(&process),
            tally: Arc::clone(&self.tally),
            noted: self.noted.clone(),
            rng: Rng::stream(seed ^ number.rotate_left(40), "watcher"),
        };
        world.spawn_on(process.host, watcher.run());
    }

    fn begin_holder(&self, world: &World, plan: &Plan, number: u64) {
        let process = world.client_process(number);
        let patience = Duration::from_millis(plan.params.clients.patience_ms);
        let mut faults = plan.faults.iter();
        let bends_time =
            |fault: &Fault| matches!(fault, Fault::ClockJump { .. } | Fault::ClockRate { .. });
        let holder = Holder {
            client: world.client(number, patience),
            process: Arc::clone(&process),
            tally: Arc::clone(&self.tally),
            book: world.book.clone(),
            rng: Rng::stream(plan.seed ^ number.rotate_left(40), "holder"),
            clocks_are_right: !faults.any(|planned| bends_time(&planned.fault)),
        };
        world.spawn_on(process.host, holder.run());
    }

    /// Every client is to come to an end: with a write and a read that succeed, or without leases.
    pub(super) fn finish(&self) {
        self.tally.finish.store(true, Ordering::Relaxed);
    }

    /// How many clients have come to an end.
    pub(super) fn finished(&self) -> u64 {
        self.tally.finished.load(Ordering::Relaxed)
    }

    /// How many leases were granted.
    pub(super) fn leases(&self) -> u64 {
        self.tally.leases.load(Ordering::Relaxed)
    }

    /// Of how many changes watchers were told.
    pub(super) fn changes(&self) -> u64 {
        self.noted
            .with(|noted| noted.iter().map(|told| told.changes.len() as u64).sum())
    }

    /// Whether `watchers` of them have seen everything up to `revision`.
    pub(super) fn have_seen(&self, watchers: u64, revision: u64) -> bool {
        let there = |noted: &mut Vec<_>| {
            let there = noted.iter().filter(|told: &&Told| told.upto >= revision);
            there.count() as u64 >= watchers
        };
        self.noted.with(there)
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.tally.acknowledged.load(Ordering::Relaxed)
    }

    pub(super) fn reads(&self) -> u64 {
        self.tally.reads.load(Ordering::Relaxed)
    }

    pub(super) fn operations(&self) -> u64 {
        self.tally.operations.load(Ordering::Relaxed)
    }

    /// Holds everything that clients were told against the order of one single copy, and against the
    /// commands that were applied.
    ///
    /// # Errors
    ///
    /// Which promise was broken, and how.
    pub(super) fn judge(&self, world: &World) -> Result<(), (&'static str, String)> {
        let history = self.recorder.take();
        let log: Vec<(u64, Logged)> = world.book.with(|book| {
            let commands = book.commands().iter();
            let logged = |(index, data): (&quorate::LogIndex, &Bytes)| {
                Some((index.value(), Logged::decode(data).ok()?))
            };
            commands.filter_map(logged).collect()
        });
        judge(&history, &self.applied(&log))?;
        let changes = replay::changes(&log);
        let hold = |told: &Told| replay::hold_against(&changes, told).map_err(|it| ("watches", it));
        self.noted.with(|noted| noted.iter().try_for_each(hold))
    }

    fn applied(&self, log: &[(u64, Logged)]) -> CommittedLog {
        let log = log.iter().map(|(index, logged)| (*index, logged));
        let effective = once::effective(log).into_iter();
        let operations = effective
            .filter_map(|(index, command)| Some((index, self.keyspace.operation(command)?)));
        operations.collect()
    }
}

fn judge(history: &History, applied: &CommittedLog) -> Result<(), (&'static str, String)> {
    let malformed =
        |error: check::calls::Malformed| ("histories are well-formed", error.to_string());
    let report = check::check(history).map_err(malformed)?;
    if !report.is_good() {
        return Err(("linearizability", report.to_string()));
    }
    let calls = calls(history).map_err(malformed)?;
    witness::check(&calls, applied).map_err(|discord| ("index witness", discord.to_string()))
}

struct Worker {
    client: Client,
    recorded: RecordedClient,
    keyspace: Keyspace,
    tally: Arc<Tally>,
    rng: Rng,
    clients: Clients,
    process: Arc<Process>,
}

impl Worker {
    async fn run(mut self) {
        while !self.tally.is_to_finish() {
            let think = self.rng.within(0..self.clients.think_max_ms * 1_000 + 1);
            self.process.sleep(Duration::from_micros(think)).await;
            let operation = self.draw();
            self.carry_out(operation).await;
            if self.rng.chance(BALLAST_PERCENT) {
                let key = self.rng.within(0..self.clients.keys);
                let length = self.rng.within(0..self.clients.value_bytes_max + 1);
                let value = Bytes::from(vec![0; length as usize]);
                let _ = self.client.put(format!("ballast{key}"), value).await;
            }
        }
        // Without faults, each of these succeeds at last. A client that is told at once that it cannot be
        // served, as while a node's calendar is wrong, has to let time pass.
        while !self.put().await {
            self.process.sleep(AGAIN_AFTER).await;
        }
        while !self.carry_out(Operation::Scan).await {
            self.process.sleep(AGAIN_AFTER).await;
        }
        self.tally.finished.fetch_add(1, Ordering::Relaxed);
    }

    fn at(&self) -> Duration {
        Duration::from_nanos(self.process.engine.now())
    }

    fn value(&self) -> u64 {
        self.tally.value.fetch_add(1, Ordering::Relaxed) + 1
    }

    async fn put(&mut self) -> bool {
        let key = self.rng.within(0..self.clients.keys);
        let value = self.value();
        self.carry_out(Operation::Put { key, value }).await
    }

    fn draw(&mut self) -> Operation {
        let key = self.rng.within(0..self.clients.keys);
        if self.rng.chance(self.clients.read_percent) {
            return match self.rng.chance(10) {
                true => Operation::Scan,
                false => Operation::Get { key },
            };
        }
        let value = self.value();
        match self.rng.within(0..10) {
            0 => Operation::Delete { key },
            1 => Operation::CompareAndSet {
                key,
                expected: None,
                value: Some(value),
            },
            2 | 3 => Operation::CompareAndSet {
                key,
                expected: Some(self.rng.within(value.saturating_sub(20)..value)),
                value: Some(value),
            },
            _ => Operation::Put { key, value },
        }
    }

    /// Whether there was an answer.
    async fn carry_out(&mut self, operation: Operation) -> bool {
        self.recorded.invoke(self.at(), operation);
        let kind = self.keyspace.run(&self.client, operation).await;
        let answered = matches!(kind, Kind::Ok { .. });
        self.recorded.complete(self.at(), kind);
        self.tally.operations.fetch_add(1, Ordering::Relaxed);
        if answered {
            let counter = match operation.is_read() {
                true => &self.tally.reads,
                false => &self.tally.acknowledged,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        answered
    }
}
