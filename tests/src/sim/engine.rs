//! Time, events and tasks of a simulated world: one thread, one clock, and chance from a seed.
//!
//! Tasks belong to hosts. Which of several ready tasks runs next is drawn, so that each seed is another
//! schedule; time moves to the next event only when nothing is ready.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use super::clock::HostClock;
use super::trace::Trace;
use crate::log;
use crate::rng::Rng;

/// A machine of the world: a node's, or a client's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId(pub u16);

/// What runs on hosts.
pub(super) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How often tasks may run without time moving on, before it is taken for a livelock.
const POLLS_PER_INSTANT_MAX: u64 = 1_000_000;

/// Shared by everything in one world.
#[derive(Clone)]
pub(super) struct Engine(Arc<Mutex<State>>);

/// When an event happens, and its number, which keeps events of one instant in order.
pub(super) type EventKey = (u64, u64);

enum Event {
    /// The timer of a task on a host.
    Timer {
        host: HostId,
        waker: Waker,
    },
    /// A task whose disk had to be waited for may go on.
    Ready(u64),
    Call(Box<dyn FnOnce() + Send>),
}

struct State {
    now: u64,
    base: Instant,
    numbers: u64,
    events: BTreeMap<EventKey, Event>,
    tasks: BTreeMap<u64, Slot>,
    ready: Vec<u64>,
    hosts: BTreeMap<HostId, Host>,
    /// The task that is being polled.
    current: Option<u64>,
    rng: Rng,
    polls: u64,
    trace: Trace,
}

struct Slot {
    host: HostId,
    /// Taken out while it is polled.
    task: Option<Task>,
    waker: Waker,
    /// Ready, parked or waiting for its disk.
    queued: bool,
    /// It has written to a disk: it is the one that blocks on it.
    uses_disk: bool,
}

struct Host {
    clock: HostClock,
    /// Counts its processes. A handle of an earlier one does nothing any more.
    life: u64,
    paused: bool,
    disk_stalled: bool,
    parked: Vec<u64>,
    disk_us: u64,
    /// By how many seconds its time of day is wrong.
    wall_clock_s: i64,
}

struct TaskWaker {
    id: u64,
    engine: Weak<Mutex<State>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(engine) = self.engine.upgrade() {
            lock(&engine).wake(self.id);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn schedule(&mut self, at: u64, event: Event) -> EventKey {
        let key = (at.max(self.now), self.number());
        self.events.insert(key, event);
        key
    }

    fn wake(&mut self, id: u64) {
        let Some(slot) = self.tasks.get_mut(&id) else {
            return;
        };
        if slot.queued {
            return;
        }
        slot.queued = true;
        let disk_us = self.hosts[&slot.host].disk_us;
        if slot.uses_disk && disk_us > 0 {
            let wait = self.rng.within(1..disk_us + 1) * 1_000;
            self.schedule(self.now + wait, Event::Ready(id));
        } else {
            self.make_ready(id);
        }
    }

    fn make_ready(&mut self, id: u64) {
        let Some(slot) = self.tasks.get(&id) else {
            return;
        };
        let host = self.hosts.get_mut(&slot.host).expect("tasks have a host");
        if host.paused || (host.disk_stalled && slot.uses_disk) {
            host.parked.push(id);
        } else {
            self.ready.push(id);
        }
    }

    fn unpark(&mut self, host: HostId) {
        let host = self.hosts.get_mut(&host).expect("the host exists");
        for id in std::mem::take(&mut host.parked) {
            self.make_ready(id);
        }
    }

    fn insert(&mut self, host: HostId, task: Task, engine: Weak<Mutex<State>>) {
        let id = self.number();
        let slot = Slot {
            host,
            task: Some(task),
            waker: Waker::from(Arc::new(TaskWaker { id, engine })),
            queued: false,
            uses_disk: false,
        };
        self.tasks.insert(id, slot);
        self.wake(id);
    }

    /// Takes one of the ready tasks, whichever chance picks.
    fn next_ready(&mut self) -> Option<(u64, Task, Waker)> {
        while !self.ready.is_empty() {
            let pick = match self.ready.len() {
                1 => 0,
                count => self.rng.within(0..count as u64) as usize,
            };
            let id = self.ready.swap_remove(pick);
            let Some(slot) = self.tasks.get_mut(&id) else {
                continue;
            };
            slot.queued = false;
            let task = slot.task.take().expect("only one task is polled at a time");
            log::moment(self.now, slot.host.0.into());
            self.current = Some(id);
            self.polls += 1;
            return Some((id, task, slot.waker.clone()));
        }
        None
    }
}

impl Engine {
    pub(super) fn new(seed: u64, keep_trace: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            now: 0,
            // Only differences to it are ever used.
            base: Instant::now(),
            numbers: 0,
            events: BTreeMap::new(),
            tasks: BTreeMap::new(),
            ready: Vec::new(),
            hosts: BTreeMap::new(),
            current: None,
            rng: Rng::stream(seed, "schedule"),
            polls: 0,
            trace: Trace::new(keep_trace),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// True time in nanoseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        self.state().now
    }

    pub(super) fn polls(&self) -> u64 {
        self.state().polls
    }

    pub(super) fn add_host(&self, host: HostId, disk_us: u64) {
        let host_state = Host {
            clock: HostClock::default(),
            life: 0,
            paused: false,
            disk_stalled: false,
            parked: Vec::new(),
            disk_us,
            wall_clock_s: 0,
        };
        self.state().hosts.insert(host, host_state);
    }

    /// What `host` takes for the time, as an `Instant`.
    pub(super) fn host_now(&self, host: HostId) -> Instant {
        let state = self.state();
        state.base + state.hosts[&host].clock.local(state.now)
    }

    /// When, in true time, the clock of `host` will show `at`.
    pub(super) fn due(&self, host: HostId, at: Instant) -> u64 {
        let state = self.state();
        let local = at.saturating_duration_since(state.base);
        state.hosts[&host].clock.truth(local)
    }

    /// Changes the clock of `host`; every timer of it is looked at anew.
    pub(super) fn change_clock(&self, host: HostId, change: impl FnOnce(&mut HostClock, u64)) {
        let mut state = self.state();
        let now = state.now;
        let clock = &mut state.hosts.get_mut(&host).expect("the host exists").clock;
        change(clock, now);
        let of_host = |event: &Event| match event {
            Event::Timer { host: of, waker } if *of == host => Some(waker.clone()),
            Event::Timer { .. } | Event::Ready(_) | Event::Call(_) => None,
        };
        let wakers: Vec<Waker> = state.events.values().filter_map(of_host).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// How long the disk of `host` takes at most, in microseconds.
    pub(super) fn set_disk(&self, host: HostId, disk_us: u64) {
        let mut state = self.state();
        state.hosts.get_mut(&host).expect("the host exists").disk_us = disk_us;
    }

    /// True time in nanoseconds, and by how many seconds `host` is wrong about the time of day.
    pub(super) fn wall_clock(&self, host: HostId) -> (u64, i64) {
        let state = self.state();
        (state.now, state.hosts[&host].wall_clock_s)
    }

    pub(super) fn set_wall_clock(&self, host: HostId, by_s: i64) {
        let mut state = self.state();
        let host = state.hosts.get_mut(&host).expect("the host exists");
        host.wall_clock_s = by_s;
    }

    pub(super) fn life(&self, host: HostId) -> u64 {
        self.state().hosts[&host].life
    }

    /// Runs `task` on `host`, if the process `life` still runs there.
    pub(super) fn spawn(&self, host: HostId, life: u64, task: Task) {
        let mut state = self.state();
        if state.hosts[&host].life == life {
            state.insert(host, task, Arc::downgrade(&self.0));
            return;
        }
        // Its end may lead back here.
        drop(state);
        drop(task);
    }

    /// Ends the process of `host`: none of its tasks runs again, and each is dropped.
    pub(super) fn kill(&self, host: HostId) {
        let mut state = self.state();
        let killed = state.hosts.get_mut(&host).expect("the host exists");
        killed.life += 1;
        killed.paused = false;
        killed.disk_stalled = false;
        killed.parked.clear();
        let ids: Vec<u64> = state
            .tasks
            .iter()
            .filter(|(_, slot)| slot.host == host)
            .map(|(id, _)| *id)
            .collect();
        let tasks: Vec<Option<Slot>> = ids.iter().map(|id| state.tasks.remove(id)).collect();
        drop(state);
        drop(tasks);
    }

    pub(super) fn task_count(&self, host: HostId) -> usize {
        let state = self.state();
        state
            .tasks
            .values()
            .filter(|slot| slot.host == host)
            .count()
    }

    /// Freezes or thaws all tasks of `host`; its clock goes on.
    pub(super) fn pause(&self, host: HostId, paused: bool) {
        let mut state = self.state();
        state.hosts.get_mut(&host).expect("the host exists").paused = paused;
        if paused {
            let ready = std::mem::take(&mut state.ready);
            ready.into_iter().for_each(|id| state.make_ready(id));
        } else {
            state.unpark(host);
        }
    }

    /// Lets whoever uses the disk of `host` wait, or go on.
    pub(super) fn stall_disk(&self, host: HostId, stalled: bool) {
        let mut state = self.state();
        state
            .hosts
            .get_mut(&host)
            .expect("the host exists")
            .disk_stalled = stalled;
        if !stalled {
            state.unpark(host);
        }
    }

    /// The running task has written to its disk. From now on it waits for the disk before it goes on,
    /// as a thread that blocks on fsync does.
    pub(super) fn note_disk_use(&self) {
        let mut state = self.state();
        if let Some(current) = state.current
            && let Some(slot) = state.tasks.get_mut(&current)
        {
            slot.uses_disk = true;
        }
    }

    /// Waits, in `armed`, for `at` in true time.
    pub(super) fn arm(&self, armed: &mut Option<EventKey>, at: u64, host: HostId, waker: &Waker) {
        let mut state = self.state();
        if let Some(key) = *armed {
            if key.0 == at
                && let Some(Event::Timer { waker: old, .. }) = state.events.get_mut(&key)
            {
                old.clone_from(waker);
                return;
            }
            state.events.remove(&key);
        }
        let waker = waker.clone();
        *armed = Some(state.schedule(at, Event::Timer { host, waker }));
    }

    pub(super) fn disarm(&self, armed: &mut Option<EventKey>) {
        if let Some(key) = armed.take() {
            let event = self.state().events.remove(&key);
            drop(event);
        }
    }

    /// Does `call` at `at`.
    pub(super) fn call_at(&self, at: u64, call: impl FnOnce() + Send + 'static) {
        self.state().schedule(at, Event::Call(Box::new(call)));
    }

    /// Runs tasks until none is ready.
    ///
    /// # Panics
    ///
    /// When they keep each other busy without time moving on.
    pub(super) fn run_ready(&self) {
        let begun = self.polls();
        loop {
            let Some((id, mut task, waker)) = self.state().next_ready() else {
                return;
            };
            let polled = task.as_mut().poll(&mut Context::from_waker(&waker));
            let mut state = self.state();
            state.current = None;
            assert!(
                state.polls - begun < POLLS_PER_INSTANT_MAX,
                "tasks ran {POLLS_PER_INSTANT_MAX} times at {} ns and are still not done",
                state.now
            );
            let over = match polled {
                Poll::Ready(()) => state.tasks.remove(&id).map(|_| task),
                Poll::Pending => match state.tasks.get_mut(&id) {
                    Some(slot) => {
                        slot.task = Some(task);
                        None
                    }
                    None => Some(task),
                },
            };
            drop(state);
            drop(over);
        }
    }

    /// Moves time to the next event and carries it out, or to `until` if there is none before.
    pub(super) fn advance(&self, until: u64) -> bool {
        let mut state = self.state();
        match state.events.first_key_value() {
            Some((&(at, _), _)) if at <= until => {}
            Some(_) | None => {
                state.now = state.now.max(until);
                return false;
            }
        }
        let ((at, _), event) = state.events.pop_first().expect("there is one");
        state.now = state.now.max(at);
        match event {
            Event::Ready(id) => state.make_ready(id),
            Event::Timer { waker, .. } => {
                drop(state);
                waker.wake();
            }
            Event::Call(call) => {
                drop(state);
                call();
            }
        }
        true
    }

    /// Drops everything that was still to happen, and with it what it holds.
    pub(super) fn end(&self) {
        let mut state = self.state();
        let events = std::mem::take(&mut state.events);
        let tasks = std::mem::take(&mut state.tasks);
        drop(state);
        drop((events, tasks));
    }

    /// Adds `bytes` to the hash of all that happened.
    pub(super) fn hash(&self, parts: &[&[u8]]) {
        self.state().trace.hash(parts);
    }

    /// Notes something worth reading.
    pub(super) fn note(&self, line: &str) {
        let mut state = self.state();
        let now = state.now;
        state.trace.note(now, line);
    }

    pub(super) fn trace(&self) -> Trace {
        self.state().trace.clone()
    }
}
