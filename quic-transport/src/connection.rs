//! The life of one connection after hello and welcome: its lanes, its session, its end.

use std::{convert::Infallible, sync::Arc};

use async_channel::Sender;
use bytes::Bytes;
use futures_lite::future::or;
use quinn::{ConnectionError, VarInt};
use tracing::{debug, info};

use crate::{
    close::{CloseCode, CloseReason, Refused},
    copies::{send_waiting, takes_copies},
    inbox::Inbound,
    link::{Established, Installed, Link},
    message::WireLane,
    reader,
    shared::Shared,
    signal::{lock, sleep},
};

/// What the tasks of one connection share.
#[derive(Debug, Clone)]
pub(crate) struct Lanes {
    pub(crate) shared: Arc<Shared>,
    pub(crate) link: Arc<Link>,
    pub(crate) established: Arc<Established>,
    pub(crate) session: u64,
}

/// Runs the connection to its end. `ended` is dropped last, which lets a successor report.
pub(crate) async fn run(
    shared: Arc<Shared>,
    link: Arc<Link>,
    established: Arc<Established>,
    installed: Installed,
    ended: Sender<Infallible>,
) {
    // Before anything that may take long.
    shared.own.note(*lock(&established.verdict));
    let (session, predecessor_ended) = match installed {
        Installed::New {
            session,
            predecessor_ended,
        } => {
            // The former session's `Down` comes first, or the service would read it as ours.
            if let Some(predecessor_ended) = predecessor_ended {
                let _ = predecessor_ended.recv().await;
            }
            announce(&shared, &link, &established).await;
            (session, None)
        }
        Installed::Continues {
            session,
            predecessor_ended,
        } => (session, predecessor_ended),
        Installed::Drains { session } => (session, None),
    };
    let lanes = Lanes {
        shared,
        link,
        established,
        session,
    };
    lanes.spawn_tasks();
    let error = or(
        lanes.established.connection.closed(),
        or(lanes.close_when_done(), lanes.close_when_stuck()),
    )
    .await;
    lanes.all_tasks_ended().await;
    if let Some(predecessor_ended) = predecessor_ended {
        let _ = predecessor_ended.recv().await;
    }
    lanes.report_end(&error).await;
    drop(ended);
}

async fn announce(shared: &Shared, link: &Link, established: &Established) {
    let up = &established.up;
    if link.is_node() {
        info!(peer = %up.identity, addr = %up.addr, dialled = up.dialled, "connected");
        shared.inbox.push(Inbound::Up(up.clone())).await;
    } else {
        debug!(peer = %up.identity, addr = %up.addr, "client connected");
    }
}

impl Lanes {
    fn spawn_tasks(&self) {
        for lane in self.link.lanes {
            self.spawn(self.clone().write(*lane));
        }
        self.spawn(reader::read(self.clone()));
    }

    /// Starts a task that counts as running until it ends or is dropped.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let running = Running::new(Arc::clone(&self.established));
        self.shared.runtime.spawn(Box::pin(async move {
            task.await;
            drop(running);
        }));
    }

    /// The one writer of a lane: takes whatever is queued, writes it, never waits for more.
    async fn write(self, lane: WireLane) {
        match self.write_until_detached(lane).await {
            Ok(()) => self
                .established
                .progress
                .update(|state| state.lanes_written += 1),
            Err(err) => {
                debug!(peer = %self.link.identity, lane = lane.name(), %err, "writer ends");
                if !matches!(err, quinn::WriteError::ConnectionLost(_)) {
                    // Without one of its lanes a connection would look healthy, and lose what is sent there.
                    let refused = Refused::new(CloseCode::PROTOCOL, "a lane was stopped");
                    self.established.close(refused);
                }
            }
        }
    }

    async fn write_until_detached(&self, lane: WireLane) -> Result<(), quinn::WriteError> {
        let (connection, copies) = (&self.established.connection, &self.established.copies);
        let mut stream = LaneStream(connection.open_uni().await?);
        let _ = stream.0.set_priority(lane.priority());
        stream.0.write_all(&[lane as u8]).await?;
        let mut offset = 1;
        while let Some(mut batch) = self.link.outbox.next_batch(lane, self.established.id).await {
            let bytes = batch.chunks.iter().map(Bytes::len).sum();
            let now = self.shared.runtime.now();
            let delay = copies.delay(now, bytes, || connection.stats().path);
            let copied = delay
                .filter(|_| takes_copies(connection))
                .map(|delay| (delay, batch.chunks.clone()));
            stream.0.write_all_chunks(&mut batch.chunks).await?;
            if let Some((delay, chunks)) = copied {
                let at = self.shared.runtime.now() + delay;
                if copies.send_at(at, lane, offset, chunks) {
                    self.spawn(send_waiting(self.clone()));
                }
            }
            offset += bytes as u64;
        }
        let _ = stream.0.finish();
        // Ready when the peer has acknowledged everything, or the connection has ended.
        match stream.0.stopped().await {
            Ok(_) => Ok(()),
            Err(quinn::StoppedError::ConnectionLost(lost)) => Err(lost.into()),
            Err(quinn::StoppedError::ZeroRttRejected) => Err(quinn::WriteError::ZeroRttRejected),
        }
    }

    /// After another connection took over: both directions are delivered, so nothing is lost by
    /// closing.
    async fn close_when_done(&self) -> ConnectionError {
        let (progress, count) = (&self.established.progress, self.link.lanes.len());
        loop {
            let seen = progress.signal.generation();
            let state = progress.state();
            if state.lanes_read == count && state.lanes_written == count {
                break;
            }
            progress.signal.changed(seen).await;
        }
        let reason = "another connection is kept";
        self.established
            .close(Refused::new(CloseCode::DELIVERED, reason));
        self.established.connection.closed().await
    }

    /// A connection that somebody began to wind up must not linger.
    async fn close_when_stuck(&self) -> ConnectionError {
        or(self.until_superseded(), self.until_a_lane_ends()).await;
        sleep(
            &*self.shared.runtime,
            self.shared.config.timings.drain_timeout,
        )
        .await;
        let reason = "winding up took too long";
        self.established
            .close(Refused::new(CloseCode::DUPLICATE, reason));
        self.established.connection.closed().await
    }

    async fn until_superseded(&self) {
        loop {
            let seen = self.link.signal.generation();
            if !self.link.is_current(self.established.id) {
                return;
            }
            self.link.signal.changed(seen).await;
        }
    }

    async fn until_a_lane_ends(&self) {
        let progress = &self.established.progress;
        loop {
            let seen = progress.signal.generation();
            if progress.state().lanes_read > 0 {
                return;
            }
            progress.signal.changed(seen).await;
        }
    }

    /// What was received is delivered before the end is told.
    async fn all_tasks_ended(&self) {
        // Writers wait for messages, not for the connection: let them see that it is over.
        self.link.outbox.release(self.established.id);
        let progress = &self.established.progress;
        loop {
            let seen = progress.signal.generation();
            if progress.state().running == 0 {
                return;
            }
            progress.signal.changed(seen).await;
        }
    }

    async fn report_end(&self, error: &ConnectionError) {
        let why = CloseReason::from_quic(error, self.established.closed_with.get());
        let Some(reason) = self
            .link
            .connection_ended(&self.established, self.session, why)
        else {
            return;
        };
        if self.link.is_node() {
            info!(peer = %self.link.identity, err = %reason, "disconnected");
            let identity = Arc::clone(&self.link.identity);
            self.shared
                .inbox
                .push(Inbound::Down { identity, reason })
                .await;
        } else {
            debug!(peer = %self.link.identity, err = %reason, "client disconnected");
        }
    }
}

/// Counts a task of a connection, even one that is dropped or panics.
struct Running(Arc<Established>);

impl Running {
    fn new(established: Arc<Established>) -> Self {
        established.progress.update(|state| state.running += 1);
        Self(established)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.progress.update(|state| state.running -= 1);
    }
}

/// quinn finishes a stream whose handle is dropped: a writer that was cancelled or panicked would
/// look complete (quinn#2411). This one resets; only `finish` finishes.
struct LaneStream(quinn::SendStream);

impl Drop for LaneStream {
    fn drop(&mut self) {
        // An error means finished already, which is what we want to keep.
        let _ = self.0.reset(VarInt::from_u32(CloseCode::PROTOCOL.0));
    }
}
