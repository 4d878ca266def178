//! Files of which everything fails from some operation on, as after a crash, and which can be held up.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::asking::Asking;

#[derive(Clone, Debug)]
pub(super) struct Failing(Arc<Mutex<Record>>);

#[derive(Debug)]
struct Record {
    /// How many operations that change something still succeed.
    left: usize,
    /// What was done.
    done: Vec<&'static str>,
}

impl Failing {
    /// `left` operations succeed.
    pub(super) fn after(left: usize) -> Self {
        let done = Vec::new();
        Self(Arc::new(Mutex::new(Record { left, done })))
    }

    /// What was done so far, in order.
    pub(super) fn done(&self) -> Vec<&'static str> {
        self.record(|record| record.done.clone())
    }

    /// Does `meanwhile` while nobody can change anything.
    pub(super) fn held_up<T>(&self, meanwhile: impl FnOnce() -> T) -> T {
        self.record(|_| meanwhile())
    }

    fn record<T>(&self, with: impl FnOnce(&mut Record) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The files.
    pub(super) fn files(&self) -> Asking {
        let record = self.clone();
        Asking::new(move |what, _| record.step(what))
    }

    fn step(&self, what: &'static str) -> io::Result<()> {
        self.record(|record| {
            record.left = record
                .left
                .checked_sub(1)
                .ok_or_else(|| io::Error::other("the disk is gone"))?;
            record.done.push(what);
            Ok(())
        })
    }
}
