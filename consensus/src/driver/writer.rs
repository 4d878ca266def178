//! The thread that owns the disk of the log.

use async_channel::{Receiver, Sender};

use super::handle::Input;
use super::seams::{LogStore, StoreError};
use super::worker::Alarm;
use crate::durability::{Append, persist};
use crate::error::Fatal;
use crate::log_view::Fetch;

/// How many bytes of entries go into one transaction: enough that the fsync is a small part of its
/// time, and little enough that the first in line does not wait long.
const WRITE_BATCH_BYTES_MAX: u64 = 8 << 20;

/// What the driver asks of the writer.
pub(super) enum WriterJob {
    Append(Append),
    Fetch(Fetch),
    /// No append has come for a while.
    Settle,
}

/// Writes the log. Everything that is queued when a write returns goes into the next one (group
/// commit); it never waits for more.
pub struct Writer {
    pub(super) store: Box<dyn LogStore>,
    pub(super) jobs: Receiver<WriterJob>,
    pub(super) inbox: Sender<Input>,
}

impl Writer {
    /// Works until the driver stops. Blocks on the disk: give it a thread of its own, or, in a
    /// simulation, a task.
    pub async fn run(mut self) {
        let alarm = Alarm::new("writer", self.inbox.clone());
        while let Ok(job) = self.jobs.recv().await {
            if let Err(error) = self.turn(job) {
                let _ = self.inbox.try_send(Input::Failed(Fatal::Store(error)));
                break;
            }
        }
        alarm.disarm();
    }

    fn turn(&mut self, first: WriterJob) -> Result<(), StoreError> {
        let mut appends = Vec::new();
        let mut fetches = Vec::new();
        let mut settle = false;
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                WriterJob::Append(append) => {
                    bytes += append.bytes();
                    appends.push(append);
                }
                WriterJob::Fetch(fetch) => fetches.push(fetch),
                WriterJob::Settle => settle = true,
            }
            next = (bytes < WRITE_BATCH_BYTES_MAX)
                .then(|| self.jobs.try_recv().ok())
                .flatten();
        }
        // A read that was asked for before its entries were compacted comes before that.
        let cut = appends.iter().any(|append| append.write().cut.is_some());
        if cut {
            self.fetch(std::mem::take(&mut fetches))?;
        }
        if !appends.is_empty() {
            let ticket = persist(&mut *self.store, appends)?;
            let _ = self.inbox.try_send(Input::Persisted(ticket));
        }
        self.fetch(fetches)?;
        if settle {
            self.store.settle()?;
        }
        Ok(())
    }

    fn fetch(&self, fetches: Vec<Fetch>) -> Result<(), StoreError> {
        for fetch in fetches {
            let entries = self
                .store
                .read(fetch.first(), fetch.last(), FETCH_BYTES_MAX)?;
            let _ = self.inbox.try_send(Input::Fetched(fetch, entries));
        }
        Ok(())
    }
}

/// What one read for a member that is behind brings: one full append message at the default size.
const FETCH_BYTES_MAX: u64 = 256 << 10;
