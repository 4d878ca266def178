//! The one long-lived task of a client: hears what nodes say unasked, and starts what must run on the
//! client's runtime.
//!
//! Operations are awaited on any executor, but timers and new tasks of a `quinn::Runtime` may only work
//! inside it (tokio's do). So operations send a [`Job`] here instead.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use futures_lite::future;
use quinn::Runtime;
use quorate_certs::Identity;
use quorate_consensus::{NodeId, Role, Term};
use quorate_quic_transport::runtime::sleep_until;
use quorate_quic_transport::{CallError, Inbound, Inbox, NotSent, Received, Transport};
use tracing::debug;

use super::retry;
use super::search::Search;
use super::shared::Shared;
use crate::kv::protocol::{Notice, Request, Response};

/// How many jobs may wait for the keeper. It takes microseconds for each; beyond this, operations wait.
pub(super) const JOBS_MAX: usize = 1024;

/// How long a node has to answer when asked who leads. It is not asked again meanwhile, and what is lost on the way is sent
/// again below. Smaller: who is as far away as can be, or behind a bad link, never hears of the leader. Larger: a node that
/// was paused is asked later.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long closing waits for what is under way: whoever closes wants no more answers.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(20);

/// What an operation asks of the keeper.
#[derive(Debug)]
pub(super) enum Job {
    /// Ask every node who leads, again and again, until that is known.
    Seek,
    /// Drop the sender at the given time.
    Wake(Instant, Sender<Infallible>),
    /// Close the transport, then drop the sender.
    Close(Sender<Infallible>),
}

/// What operations ask for. Once it is dropped, nothing more can be asked, and nobody waits for what was: an operation that
/// still asks at that moment would find its job in a channel that nobody reads, and wait for ever.
struct Jobs(Receiver<Job>);

impl Drop for Jobs {
    fn drop(&mut self) {
        self.0.close();
        while self.0.try_recv().is_ok() {}
    }
}

enum Input {
    Inbound(Inbound),
    Job(Job),
    /// The last client is gone, or the transport is.
    End,
}

/// Runs until the last clone of the client is dropped or one of them closes it.
pub(super) async fn run(
    shared: Weak<Shared>,
    transport: Transport,
    mut inbox: Inbox,
    jobs: Receiver<Job>,
    runtime: Arc<dyn Runtime>,
) {
    let jobs = Jobs(jobs);
    let closing = loop {
        let arrived = async { inbox.recv().await.map_or(Input::End, Input::Inbound) };
        let asked = async { jobs.0.recv().await.map_or(Input::End, Input::Job) };
        match future::or(asked, arrived).await {
            Input::Inbound(inbound) => hear(&shared, inbound),
            Input::Job(Job::Seek) => runtime.spawn(Box::pin(seek(shared.clone(), runtime.clone()))),
            Input::Job(Job::Wake(at, wake)) => {
                let due = sleep_until(&*runtime, at);
                runtime.spawn(Box::pin(async move {
                    // The waiter may be gone first; then the timer ends with it.
                    future::or(due, wake.closed()).await;
                }));
            }
            Input::Job(Job::Close(done)) => break Some(done),
            Input::End => break None,
        }
    };
    // Operations end at once.
    drop(jobs);
    transport.shutdown(CLOSE_TIMEOUT).await;
    drop(closing);
}

fn hear(shared: &Weak<Shared>, inbound: Inbound) {
    let Some(shared) = shared.upgrade() else {
        return;
    };
    match inbound {
        Inbound::Message(received) => hear_notice(&shared, &received),
        Inbound::Down { identity, .. } => {
            if let Some(node) = node_of(&identity) {
                shared.routing().handle_unreachable(node);
            }
        }
        // A client serves nobody: dropping a call tells the caller so. And a new connection means
        // nothing until its node says something.
        Inbound::Up(_) | Inbound::Call(_) => {}
        other => debug!(?other, "ignored"),
    }
}

fn hear_notice(shared: &Shared, received: &Received) {
    let Some(from) = node_of(&received.from) else {
        return;
    };
    match received.decode::<Notice>() {
        Ok(Notice::Leader { term, leader }) => {
            debug!(peer = %from, %term, leader = ?leader, "leader announced");
            shared.routing().handle_announcement(from, term, leader);
        }
        Ok(Notice::Members(directory)) => shared.hear(directory),
        Err(err) => debug!(peer = %from, kind = received.kind, %err, "message ignored"),
    }
}

fn node_of(identity: &Identity) -> Option<NodeId> {
    identity.node_id().map(NodeId::from)
}

/// Asks every node who leads, in rounds, until a leader is known, or cannot be, or nobody wants to know.
async fn seek(shared: Weak<Shared>, runtime: Arc<dyn Runtime>) {
    let Some(follow_members) = shared.upgrade().map(|shared| shared.follow_members) else {
        return;
    };
    let search = Arc::new(Mutex::new(Search::new(follow_members)));
    for round in 1.. {
        let (found, pause) = {
            let Some(shared) = shared.upgrade() else {
                return;
            };
            if shared.all_hopeless() {
                shared.routing().give_up();
                return;
            }
            let Some(found) = shared.routing().seek_on() else {
                return;
            };
            for node in shared.nodes() {
                let question = lock(&search).question(node, runtime.now());
                if let Some(question) = question {
                    let probe = probe(Arc::downgrade(&shared), node, question, search.clone());
                    runtime.spawn(Box::pin(probe));
                }
            }
            (found, retry::pause(round, retry::PAUSE_MAX, shared.draw()))
        };
        let at = runtime.now() + pause;
        future::or(found.happened(), sleep_until(&*runtime, at)).await;
    }
}

async fn probe(shared: Weak<Shared>, node: NodeId, question: Request, search: Arc<Mutex<Search>>) {
    let Some(peer) = shared.upgrade().and_then(|shared| shared.peer(node)) else {
        lock(&search).handle_end(node);
        return;
    };
    let answer = peer
        .call::<Request, Response>(question.clone(), PROBE_TIMEOUT)
        .await;
    lock(&search).handle_end(node);
    let Some(shared) = shared.upgrade() else {
        return;
    };
    let (term, role, leader) = match answer {
        Ok(Response::Status(status)) => {
            // First, for the leader may be one of whom only this node says where it is.
            shared.hear_of(&status);
            (status.term, status.role, status.leader)
        }
        Ok(Response::Leader { term, role, leader }) => (term, role, leader),
        Ok(Response::Refused(refusal)) => return shared.routing().note(node, refusal.to_string()),
        Ok(_) => {
            return shared
                .routing()
                .note(node, "gave a senseless answer".into());
        }
        Err(CallError::NotSent(why)) => {
            lock(&search).handle_not_sent(node, &question);
            let said = match why {
                NotSent::NotConnected => "not connected yet when it was asked".into(),
                why => CallError::NotSent(why).to_string(),
            };
            return shared.routing().note(node, said);
        }
        Err(error) => return shared.routing().note(node, error.to_string()),
    };
    let names_a_stranger = leader.is_some_and(|leader| shared.peer(leader).is_none());
    lock(&search).handle_answer(node, &question, names_a_stranger);
    let mut routing = shared.routing();
    routing.note(node, describe(term, role, leader));
    routing.handle_announcement(node, term, leader);
}

/// Every change of a search is complete before its lines could panic.
fn lock(search: &Mutex<Search>) -> MutexGuard<'_, Search> {
    search.lock().unwrap_or_else(PoisonError::into_inner)
}

fn describe(term: Term, role: Role, leader: Option<NodeId>) -> String {
    match leader {
        Some(leader) => format!("{role} in term {term}, follows node {}", leader.value()),
        None => format!("{role} in term {term}, knows of no leader"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_channel::TryRecvError;

    use super::*;

    /// Whoever asked for something at the very moment at which the client was closed does not wait for it.
    #[test]
    fn what_was_asked_last_ends_as_well() {
        let (sender, receiver) = async_channel::bounded(JOBS_MAX);
        let (wake, woken) = async_channel::bounded(1);
        let (done, closed) = async_channel::bounded(1);
        let at = Instant::now() + Duration::from_secs(3600);
        sender.try_send(Job::Wake(at, wake)).unwrap();
        sender.try_send(Job::Close(done)).unwrap();
        drop(Jobs(receiver));
        assert_eq!(woken.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(closed.try_recv(), Err(TryRecvError::Closed));
        assert!(sender.try_send(Job::Seek).is_err());
    }
}
