//! The thread that reads the snapshot this node gives away, puts in the one it gets, and reads the state to
//! compare it.

use async_channel::{Receiver, Sender};

use super::handle::Input;
use super::seams::{SnapshotSink, SnapshotSource, StateMachineError, StateScan};
use super::worker::Alarm;
use crate::config::SCAN_BYTES_PER_TICK;
use crate::error::Fatal;
use crate::snapshots::{ChunkWanted, Take, TakeStep};
use crate::types::EntryId;

/// What the driver asks of the courier.
pub(super) enum CourierJob {
    /// Give this away, and nothing else.
    Keep(Box<dyn SnapshotSource>),
    Release,
    Read(ChunkWanted),
    Take(Take),
    /// Compare this state, and no other any more.
    Scan(EntryId, Box<dyn StateScan>),
    /// Read on in it.
    ReadOn,
}

/// Works on snapshots and comparisons while the state machine goes on.
pub struct Courier {
    pub(super) source: Option<Box<dyn SnapshotSource>>,
    pub(super) scan: Option<(EntryId, Box<dyn StateScan>)>,
    pub(super) sink: Option<Box<dyn SnapshotSink>>,
    pub(super) chunk_bytes_max: u64,
    pub(super) jobs: Receiver<CourierJob>,
    pub(super) inbox: Sender<Input>,
}

impl Courier {
    /// Works until the driver stops. Blocks on the disk: give it a thread of its own, or, in a
    /// simulation, a task.
    pub async fn run(mut self) {
        let alarm = Alarm::new("snapshot", self.inbox.clone());
        while let Ok(job) = self.jobs.recv().await {
            if let Err(error) = self.turn(job) {
                tracing::error!(err = %error, "a snapshot failed");
                let _ = self
                    .inbox
                    .try_send(Input::Failed(Fatal::StateMachine(error)));
                break;
            }
        }
        alarm.disarm();
    }

    fn turn(&mut self, job: CourierJob) -> Result<(), StateMachineError> {
        match job {
            CourierJob::Keep(source) => self.source = Some(source),
            CourierJob::Release => self.source = None,
            CourierJob::Read(wanted) => {
                let Some(source) = &mut self.source else {
                    return Ok(());
                };
                let chunk = source.chunk(&wanted.after, self.chunk_bytes_max)?;
                let _ = self.inbox.try_send(Input::Chunk(wanted, chunk));
            }
            CourierJob::Scan(at, scan) => self.scan = Some((at, scan)),
            CourierJob::ReadOn => {
                let Some((at, scan)) = &mut self.scan else {
                    return Ok(());
                };
                let at = *at;
                let digest = scan.read_on(SCAN_BYTES_PER_TICK)?;
                if digest.is_some() {
                    // It may hold on to much that the state does not have any more.
                    self.scan = None;
                }
                let _ = self.inbox.try_send(Input::Scanned(at, digest));
            }
            CourierJob::Take(Take { number, step }) => {
                let accepted = match &mut self.sink {
                    Some(sink) => take(&mut **sink, step)?,
                    None => false,
                };
                let _ = self.inbox.try_send(Input::Taken { number, accepted });
            }
        }
        Ok(())
    }
}

fn take(sink: &mut dyn SnapshotSink, step: TakeStep) -> Result<bool, StateMachineError> {
    match step {
        TakeStep::Begin(last) => sink.begin(last).map(|()| true),
        TakeStep::Add(data) => sink.add(&data),
        TakeStep::Finish => sink.finish(),
    }
}
