//! Writes overlays to the file, one after the other, away from the thread that applies.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{Builder, JoinHandle};

use quorate_persist::StoreFault;

use super::overlay::Overlay;

/// How much less the thread that writes gets of a processor that all want: at 3, half of what others do (nice(2)). It
/// has until the next checkpoint, and everybody else has somebody who waits: 256 clients on two cores had a p99.9
/// of 34 ms before, and of 24 ms with it and [`Job::Drop`]. Higher: a little less still, and more memory (30 MiB more
/// at 10), since more is applied while it writes.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 3;

/// Makes an overlay durable, as one step.
pub(super) type Write = Box<dyn FnMut(&Overlay) -> Result<(), StoreFault> + Send>;

/// Writes at most one overlay at a time. Dropped, it first finishes what it is writing.
///
/// A write that failed is reported once and never retried: after a failed fsync nobody knows what is
/// on the disk.
pub(super) enum Flusher {
    /// On the caller's thread: for a simulation, which has no other.
    Inline(Write),
    /// On a thread of its own.
    Thread(Worker),
}

impl Flusher {
    pub(super) fn inline(write: Write) -> Self {
        Self::Inline(write)
    }

    pub(super) fn thread(write: Write) -> io::Result<Self> {
        Worker::spawn(write).map(Self::Thread)
    }

    /// What is being written.
    pub(super) fn frozen(&self) -> Option<&Arc<Overlay>> {
        match self {
            Self::Inline(_) => None,
            Self::Thread(worker) => worker.frozen.as_ref(),
        }
    }

    /// Writes `overlay`, and returns whether that is already done.
    ///
    /// # Panics
    ///
    /// When something is being written.
    pub(super) fn start(&mut self, overlay: Overlay) -> Result<bool, StoreFault> {
        tracing::debug!(applied = %overlay.applied(), bytes = overlay.bytes(), "flush begins");
        match self {
            Self::Inline(write) => write(&overlay).map(|()| true),
            Self::Thread(worker) => worker.start(overlay).map(|()| false),
        }
    }

    /// Whether something was being written and has just been found to be done.
    pub(super) fn poll(&mut self) -> Result<bool, StoreFault> {
        match self {
            Self::Inline(_) => Ok(false),
            Self::Thread(worker) => worker.poll(),
        }
    }

    /// As [`poll`](Self::poll), once nothing is being written.
    pub(super) fn wait(&mut self) -> Result<bool, StoreFault> {
        match self {
            Self::Inline(_) => Ok(false),
            Self::Thread(worker) => worker.wait(),
        }
    }
}

/// The thread that writes, seen from the one that applies.
pub(super) struct Worker {
    frozen: Option<Arc<Overlay>>,
    /// Holds at most one overlay to write, and one to drop. `None` only while this is being dropped.
    jobs: Option<Sender<Job>>,
    outcomes: Receiver<Result<(), StoreFault>>,
    thread: Option<JoinHandle<()>>,
}

enum Job {
    Write(Arc<Overlay>),
    /// To drop a hundred thousand pairs takes some milliseconds, which nobody should wait for.
    Drop(Arc<Overlay>),
}

impl Worker {
    fn spawn(mut write: Write) -> io::Result<Self> {
        let (jobs, work) = channel::<Job>();
        let (done, outcomes) = channel();
        let thread = Builder::new()
            .name("quorate-kv-flush".into())
            .spawn(move || {
                give_way();
                for job in work {
                    let overlay = match job {
                        Job::Write(overlay) => overlay,
                        Job::Drop(overlay) => {
                            drop(overlay);
                            continue;
                        }
                    };
                    let outcome = write(&overlay);
                    let failed = outcome.is_err();
                    if done.send(outcome).is_err() || failed {
                        return;
                    }
                }
            })?;
        Ok(Self {
            frozen: None,
            jobs: Some(jobs),
            outcomes,
            thread: Some(thread),
        })
    }

    fn start(&mut self, overlay: Overlay) -> Result<(), StoreFault> {
        if let Some(frozen) = &self.frozen {
            panic!("{overlay:?} is to be written while {frozen:?} is being written");
        }
        let overlay = Arc::new(overlay);
        self.frozen = Some(Arc::clone(&overlay));
        let jobs = self.jobs.as_ref().expect("taken only by drop");
        // A thread that is gone has failed or panicked.
        jobs.send(Job::Write(overlay))
            .map_err(|_| StoreFault::Stopped)
    }

    fn poll(&mut self) -> Result<bool, StoreFault> {
        if self.frozen.is_none() {
            return Ok(false);
        }
        match self.outcomes.try_recv() {
            Ok(outcome) => self.ended(outcome),
            Err(TryRecvError::Empty) => Ok(false),
            Err(TryRecvError::Disconnected) => Err(StoreFault::Stopped),
        }
    }

    fn wait(&mut self) -> Result<bool, StoreFault> {
        if self.frozen.is_none() {
            return Ok(false);
        }
        let outcome = self.outcomes.recv().map_err(|_| StoreFault::Stopped)?;
        self.ended(outcome)
    }

    fn ended(&mut self, outcome: Result<(), StoreFault>) -> Result<bool, StoreFault> {
        // After a failure it stays: nothing else has its effects.
        outcome?;
        if let (Some(written), Some(jobs)) = (self.frozen.take(), &self.jobs) {
            // A thread that is gone gives it back, and it is dropped here.
            let _ = jobs.send(Job::Drop(written));
        }
        Ok(true)
    }
}

/// The calling thread lets others go first. Elsewhere than on Linux, that would be the whole process.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "flushes have the priority of everything else");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, the panic has been reported on that thread.
            let _ = thread.join();
        }
    }
}
