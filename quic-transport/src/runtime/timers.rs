//! The timers of a reactor: who is to be woken when.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    task::{Context, Poll, Waker},
    time::Instant,
};

use crate::signal::lock;

/// Deadlines in order, with those who wait for them.
#[derive(Debug, Default)]
pub(super) struct Timers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Keyed by time, then by timer, so that equal times do not collide.
    waiting: BTreeMap<(Instant, u64), Waker>,
    last_id: u64,
}

impl Timers {
    pub(super) fn new_id(&self) -> u64 {
        let mut state = lock(&self.0);
        state.last_id += 1;
        state.last_id
    }

    /// Notes that `waker` waits for `key`; true when that is now the next deadline.
    pub(super) fn wait(&self, key: (Instant, u64), waker: &Waker) -> bool {
        let mut state = lock(&self.0);
        match state.waiting.get_mut(&key) {
            Some(present) => present.clone_from(waker),
            None => drop(state.waiting.insert(key, waker.clone())),
        }
        state.waiting.first_key_value().map(|(first, _)| *first) == Some(key)
    }

    pub(super) fn forget(&self, key: (Instant, u64)) {
        lock(&self.0).waiting.remove(&key);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        lock(&self.0)
            .waiting
            .first_key_value()
            .map(|((at, _), _)| *at)
    }

    /// Wakes everyone whose time has come.
    pub(super) fn wake(&self, now: Instant) {
        let mut state = lock(&self.0);
        let due = match state.waiting.first_key_value() {
            Some(((at, _), _)) if *at <= now => {
                let later = state.waiting.split_off(&(now, u64::MAX));
                std::mem::replace(&mut state.waiting, later)
            }
            _ => return,
        };
        drop(state);
        due.into_values().for_each(Waker::wake);
    }
}

/// One timer, bound to its `Timers` by whoever holds both.
#[derive(Debug)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    id: u64,
    waits: bool,
}

impl Deadline {
    pub(super) fn new(timers: &Timers, at: Instant) -> Self {
        Self {
            at,
            id: timers.new_id(),
            waits: false,
        }
    }

    pub(super) fn reset(&mut self, timers: &Timers, at: Instant) {
        self.stop(timers);
        self.at = at;
    }

    pub(super) fn stop(&mut self, timers: &Timers) {
        if std::mem::take(&mut self.waits) {
            timers.forget((self.at, self.id));
        }
    }

    /// Whether the time has come; else whether the reactor must look at its deadlines anew.
    pub(super) fn poll(&mut self, timers: &Timers, context: &Context<'_>) -> Poll<()> {
        if self.at <= Instant::now() {
            self.stop(timers);
            return Poll::Ready(());
        }
        self.waits = true;
        timers.wait((self.at, self.id), context.waker());
        Poll::Pending
    }
}
