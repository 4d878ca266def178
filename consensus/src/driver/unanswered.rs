//! Those whose commands are committed, and whom the state machine has not answered yet.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::done::Done;
use crate::error::ProposeError;
use crate::planted;
use crate::types::{EntryId, LogIndex};

/// Shared by the driver, which knows when somebody has waited for too long, and the applier, which has the answers.
#[derive(Default)]
pub(super) struct Unanswered(Mutex<VecDeque<Waits>>);

/// Somebody waits for the outcome of this entry.
pub(super) type Waits = (EntryId, Done<Bytes, ProposeError>);

impl Unanswered {
    /// More of them, in the order of the log, before the applier is given their entries.
    pub(super) fn add(&self, more: Vec<Waits>) {
        self.all().extend(more);
    }

    /// Those who wait for entries up to `last`: the caller has their answers.
    pub(super) fn take_to(&self, last: LogIndex) -> VecDeque<Waits> {
        let mut all = self.all();
        let later = all.partition_point(|(id, _)| id.index <= last);
        let rest = all.split_off(later);
        std::mem::replace(&mut *all, rest)
    }

    /// Tells all of them that the outcome is not known: it is committed, but what was answered is not here.
    pub(super) fn give_up(&self) {
        if planted::is("stall-not-told") {
            return;
        }
        let all = std::mem::take(&mut *self.all());
        for (id, done) in all {
            let mut error = ProposeError::OutcomeUnknown { at: Some(id) };
            if planted::is("stall-reported-as-failure") {
                error = ProposeError::NotLeader { leader: None };
            }
            done.call(Err(error));
        }
    }

    fn all(&self) -> MutexGuard<'_, VecDeque<Waits>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
