//! What the state machine lets the rest of the node see while it works on its own thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::backup::Held;
use super::history::{Change, History};

/// Stands for "nothing ends".
const NEVER: u64 = u64::MAX;

/// Shared by a store and the service in front of it.
pub(crate) struct Board {
    /// What has happened of late.
    pub(crate) history: History,
    /// Of what backups are being read.
    pub(crate) backups: Held,
    /// In how many milliseconds a session or a lease ends, or [`NEVER`].
    due_in_ms: AtomicU64,
}

impl Board {
    pub(crate) fn new(history_bytes: usize, background: bool) -> Self {
        Self {
            history: History::new(history_bytes, 0),
            backups: Held::new(background),
            due_in_ms: AtomicU64::new(NEVER),
        }
    }

    /// The state is that of `applied`, and how it came there is not known.
    pub(crate) fn begin_anew(&self, applied: u64, due_in_ms: Option<u64>) {
        self.set_due(due_in_ms);
        self.history.begin_anew(applied);
    }

    /// `changes` have happened up to `applied`.
    pub(crate) fn tell(&self, changes: Vec<Change>, applied: u64, due_in_ms: Option<u64>) {
        self.set_due(due_in_ms);
        self.history.tell(changes, applied);
    }

    fn set_due(&self, due_in_ms: Option<u64>) {
        self.due_in_ms
            .store(due_in_ms.unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// How much time has to pass until something ends, if anything will.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        match self.due_in_ms.load(Ordering::Relaxed) {
            NEVER => None,
            ms => Some(Duration::from_millis(ms)),
        }
    }
}
