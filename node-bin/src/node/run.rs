//! What goes on while a node runs: its tasks, its threads, and how their end becomes known.

use std::future::Future;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use async_channel::{Receiver, Sender};
use futures_lite::future;
use quinn::Runtime;
use quorate_consensus::{Applier, Body, Driver, Fatal, LeaderChange, Message, ORIGIN};
use quorate_quic_transport::{Inbound, Inbox, runtime::IoThread};
use tracing::{debug, error, info};

use super::error::StartError;
use super::forward;
use super::peers::{PeerMemory, Progress};
use super::seams::RaftMessage;
use super::service::Service;
use super::{NodeHandle, Outcome};
use crate::planted;

/// Runs the driver and keeps how it ended. `end` is dropped after that is known.
pub(super) async fn drive(
    node: NodeHandle,
    driver: Driver,
    outcome: Arc<Outcome>,
    end: Sender<()>,
) {
    let alarm = Alarm::new("driver", &node, &outcome);
    let ended = driver.run().await;
    alarm.disarm();
    node.facts.subscribers.end();
    if let Err(fatal) = ended {
        match &fatal {
            // As an operator wanted it.
            Fatal::Removed { at, .. } => {
                info!(node = %node.id(), %at, "this node was removed from the cluster, and stops");
            }
            _ => error!(node = %node.id(), err = %fatal, "the node stops itself"),
        }
        let workers_end = !fatal.leaves_a_thread();
        outcome.set(fatal);
        if !workers_end {
            // Whoever waits for the end would wait for the disk, or for the state machine.
            end.close();
        }
    }
    drop(end);
}

/// Runs the applier, and keeps what it could not tell the driver any more.
pub(super) async fn apply(applier: Applier, outcome: Arc<Outcome>) {
    if let Err(fatal) = applier.run().await {
        outcome.set_if_well(fatal);
    }
}

/// Says so when the task that holds it panics, and stops the node: half a node would look alive.
struct Alarm {
    task: &'static str,
    node: NodeHandle,
    outcome: Option<Arc<Outcome>>,
}

impl Alarm {
    fn new(task: &'static str, node: &NodeHandle, outcome: &Arc<Outcome>) -> Self {
        Self {
            task,
            node: node.clone(),
            outcome: Some(Arc::clone(outcome)),
        }
    }

    fn disarm(mut self) {
        self.outcome = None;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // A thread that is ended drops its tasks without a panic.
        if let Some(outcome) = self.outcome.take()
            && thread::panicking()
        {
            outcome.set(Fatal::WorkerGone { worker: self.task });
            self.node.control.stop();
            // Where it is the driver, nobody else says so.
            self.node.facts.subscribers.end();
        }
    }
}

/// Takes what arrives to consensus or to the service, until the transport ends.
///
/// It outlives the driver: what is asked then is answered with a refusal that says so.
pub(super) async fn serve(
    node: NodeHandle,
    mut inbox: Inbox,
    changes: Receiver<LeaderChange>,
    mut service: Box<dyn Service>,
    memory: PeerMemory,
    outcome: Arc<Outcome>,
) {
    let alarm = Alarm::new("service", &node, &outcome);
    drop(outcome);
    service.started(&node);
    loop {
        let arrived = async { inbox.recv().await.map(Event::Inbound) };
        let changed = async {
            match changes.recv().await {
                Ok(change) => Some(Event::Change(change)),
                // The driver has ended.
                Err(_) => future::pending().await,
            }
        };
        match future::or(changed, arrived).await {
            Some(Event::Change(change)) => service.leader_changed(&node, &change),
            Some(Event::Inbound(inbound)) => take(&node, &mut *service, &memory, inbound),
            None => break,
        }
    }
    alarm.disarm();
}

enum Event {
    Inbound(Inbound),
    Change(LeaderChange),
}

fn take(node: &NodeHandle, service: &mut dyn Service, memory: &PeerMemory, inbound: Inbound) {
    match inbound {
        Inbound::Message(received) => {
            let Some(from) = received.from.node_id() else {
                return;
            };
            match received.decode::<RaftMessage>() {
                Ok(RaftMessage(message)) => {
                    if let Some(progress) = promised(&message) {
                        memory.acknowledged(from.into(), progress);
                    }
                    if !node.control.deliver(from.into(), message) {
                        debug!(node = %node.id(), peer = from, "message dropped: the driver is behind");
                    }
                }
                Err(err) => {
                    debug!(node = %node.id(), peer = from, kind = received.kind, %err, "message ignored");
                }
            }
        }
        Inbound::Call(call) if call.kind >= forward::OWN_KINDS => forward::answer(node, call),
        Inbound::Call(call) => service.call(node, call),
        // Raft finds out by itself: its next heartbeat arrives.
        Inbound::Up(_) => {}
        Inbound::Down { identity, .. } => {
            if let Some(peer) = identity.node_id() {
                node.control.report_unreachable(peer.into());
            }
        }
        _ => {}
    }
}

/// How far the log of the sender of `message` is, and stays, if it says so.
fn promised(message: &Message) -> Option<Progress> {
    let last = match message.body {
        Body::AppendAccepted { last, .. } => last,
        Body::Vote {
            pre: false,
            granted: true,
            ..
        } if !planted::is("vote-not-remembered") => ORIGIN.index,
        _ => return None,
    };
    let term = message.term;
    Some(Progress { term, last })
}

/// The threads of a node, or none when it runs inline.
pub(super) struct Threads {
    workers: Vec<JoinHandle<()>>,
    io: Option<IoThread>,
}

impl Threads {
    pub(super) fn new(io: Option<IoThread>) -> Self {
        Self {
            workers: Vec::new(),
            io,
        }
    }

    /// Runs `worker` on a thread of its own, or on `runtime` when the node runs inline.
    pub(super) fn spawn(
        &mut self,
        runtime: &Arc<dyn Runtime>,
        name: String,
        end: &Sender<()>,
        worker: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), StartError> {
        let end = end.clone();
        let work = async move {
            worker.await;
            drop(end);
        };
        if self.io.is_none() {
            runtime.spawn(Box::pin(work));
            return Ok(());
        }
        let thread = thread::Builder::new()
            .name(name)
            .spawn(|| future::block_on(work));
        self.workers.push(thread.map_err(StartError::Thread)?);
        Ok(())
    }

    /// Leaves the workers to themselves: what they wait for may never come.
    pub(super) fn abandon_workers(&mut self) {
        self.workers.clear();
    }

    /// Waits until the workers have ended, which they do once the driver has, then ends the I/O thread. Who is on
    /// one of these threads waits for none of them: they end when it lets them.
    pub(super) fn join(&mut self) {
        let current = thread::current().id();
        let mut workers = self.workers.iter();
        if self.io.as_ref().is_some_and(IoThread::is_current)
            || workers.any(|worker| worker.thread().id() == current)
        {
            self.abandon_workers();
        }
        // The driver needs the I/O thread to end, so the workers come first.
        for worker in self.workers.drain(..) {
            // A worker that panicked has already been reported.
            let _ = worker.join();
        }
        if let Some(io) = self.io.take() {
            io.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_consensus::{EntryId, LogIndex, Term};

    use super::*;

    /// What is durable at the sender once it says so, its next start must have: entries that it accepted, and
    /// the term in which it voted. A rehearsal changes nothing there, and a refusal gives nothing away.
    #[test]
    fn e4_what_a_message_promises() {
        let [last, commit] = [9, 3].map(LogIndex::new);
        let term = Term::new(4);
        let vote = |pre, granted| Body::Vote {
            pre,
            granted,
            commit: ORIGIN,
        };
        let table = [
            (Body::AppendAccepted { last, commit }, Some(last)),
            (vote(false, true), Some(ORIGIN.index)),
            (vote(false, false), None),
            (vote(true, true), None),
            (vote(true, false), None),
            (
                Body::AppendRejected {
                    previous: last,
                    hint: EntryId { term, index: last },
                    commit,
                },
                None,
            ),
            (Body::HeartbeatResponse { commit, read: None }, None),
        ];
        for (body, promise) in table {
            let expected = promise.map(|last| Progress { term, last });
            let message = Message { term, body };
            assert_eq!(promised(&message), expected, "{message:?}");
        }
    }
}
