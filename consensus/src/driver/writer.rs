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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_lite::future::block_on;

    use super::*;
    use crate::durability::{Cut, LogWrite};
    use crate::entry::Entry;
    use crate::membership::Membership;
    use crate::types::{HardState, LogIndex, NodeId};

    /// Notes what it is asked to do.
    struct Noted(Arc<Mutex<Vec<&'static str>>>);

    impl LogStore for Noted {
        fn append(&mut self, batch: &[LogWrite]) -> Result<(), StoreError> {
            let cut = batch.iter().any(|write| write.cut.is_some());
            let what = if cut { "cut" } else { "append" };
            self.0.lock().unwrap().push(what);
            Ok(())
        }

        fn read(&self, _: LogIndex, _: LogIndex, _: u64) -> Result<Vec<Entry>, StoreError> {
            self.0.lock().unwrap().push("read");
            Ok(Vec::new())
        }

        fn settle(&mut self) -> Result<(), StoreError> {
            self.0.lock().unwrap().push("settle");
            Ok(())
        }
    }

    fn append(number: u64, cut: bool) -> WriterJob {
        let mut write = LogWrite::new(Vec::new(), HardState::default());
        write.cut = cut.then(|| Cut::Compact {
            index: LogIndex::new(5),
            membership: Membership::new([NodeId::new(1).unwrap()], []).unwrap(),
        });
        WriterJob::Append(Append { number, write })
    }

    fn fetch() -> WriterJob {
        WriterJob::Fetch(Fetch::of(2, 4))
    }

    /// What the store is asked to do when all of `queued` waits for the writer.
    fn asked(queued: Vec<WriterJob>) -> Vec<&'static str> {
        let noted = Arc::new(Mutex::new(Vec::new()));
        let (sender, jobs) = async_channel::unbounded();
        let (inbox, _driver) = async_channel::unbounded();
        for job in queued {
            sender.try_send(job).unwrap();
        }
        drop(sender);
        let store = Box::new(Noted(Arc::clone(&noted)));
        block_on(Writer { store, jobs, inbox }.run());
        let noted = noted.lock().unwrap();
        noted.clone()
    }

    /// Clients wait for a write, so it comes before reads; but one that removes entries comes after the reads that
    /// may be for them.
    #[test]
    fn reads_come_before_what_removes_their_entries() {
        assert_eq!(asked(vec![fetch(), append(1, true)]), ["read", "cut"]);
        let queued = vec![fetch(), append(1, false), append(2, true), fetch()];
        assert_eq!(asked(queued), ["read", "read", "cut"]);
        assert_eq!(asked(vec![append(1, false), fetch()]), ["append", "read"]);
        assert_eq!(asked(vec![fetch(), append(1, false)]), ["append", "read"]);
        let queued = vec![WriterJob::Settle, fetch(), append(1, false)];
        assert_eq!(asked(queued), ["append", "read", "settle"]);
    }
}
