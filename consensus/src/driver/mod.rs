//! Carries what the core decides: messages to the transport, writes to the disk, entries to the state
//! machine. No decision is made here.

mod applier;
mod control;
mod courier;
mod done;
mod handle;
mod seams;
#[cfg(test)]
mod tests;
mod unanswered;
mod worker;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use bytes::Bytes;
use futures_lite::future;

pub use applier::Applier;
pub use control::DriverControl;
pub use courier::Courier;
pub use handle::{
    INBOX_BYTES_MAX, INBOX_REQUESTS_MAX, MESSAGES_BYTES_MAX, MESSAGES_MAX, READS_BYTES_MAX,
    READS_MAX, RaftHandle, Stale, Stopped,
};
pub use seams::{
    Batch, Chunk, Clock, Command, LogStore, PLACE_BYTES_MAX, SnapshotSink, SnapshotSource,
    StateMachine, StateMachineError, StateScan, StoreError, Transport, Undelivered,
};
pub use writer::Writer;

use applier::{ApplierJob, Checkpoints};
use courier::CourierJob;
use done::Done;
use handle::{Input, Shared};
use unanswered::Unanswered;
use writer::WriterJob;

use crate::entry::ORIGIN;
use crate::error::{Fatal, MembershipError, ProposeError, ReadError, TransferError};
use crate::membership::Membership;
use crate::message::Body;
use crate::node::RaftNode;
use crate::planted;
use crate::proposals::ProposalToken;
use crate::reads::ReadToken;
use crate::ready::{Event, LeaderChange, Ready};
use crate::types::{NodeId, Role};

/// How many inputs are taken before their outcome is carried out: what arrives together is replicated
/// together, and a tick is never far away.
const TURN_INPUTS_MAX: usize = 1024;

/// How often the applier is told that time passes, in ticks: an idle node saves its state at most this
/// much later than asked.
const APPLIER_TICKS: u64 = 20;

/// What a node is made of besides its core.
pub struct Parts {
    /// The way to the other members.
    pub transport: Box<dyn Transport>,
    /// The durable log.
    pub store: Box<dyn LogStore>,
    /// The replicated state machine.
    pub state_machine: Box<dyn StateMachine>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Told of everything that happens, on the driver's thread. Must not block.
    pub observer: Box<dyn FnMut(&Event) + Send>,
}

/// A node to be run: four futures that know no runtime. `driver` must share a thread with nothing that
/// blocks; the others block and want a thread each.
pub struct Running {
    /// Asks the node.
    pub handle: RaftHandle,
    /// Brings it messages, and stops it.
    pub control: DriverControl,
    /// Carries messages and decisions.
    pub driver: Driver,
    /// Writes the log.
    pub writer: Writer,
    /// Runs the state machine.
    pub applier: Applier,
    /// Gives snapshots away and takes them in.
    pub courier: Courier,
}

/// Connects `node` to `parts`.
#[must_use]
pub fn assemble(node: RaftNode, mut parts: Parts) -> Running {
    // Unbounded as a type. Commands, reads and messages are bounded by `Shared`, and what workers report by the work
    // that the core lets be outstanding. Nobody counts what is small and rare: questions how the node stands,
    // transfers, changes of the members, and connections that are gone. Whoever sends those has to bound them.
    let (inbox_sender, inbox) = async_channel::unbounded();
    let (writer_sender, writer_jobs) = async_channel::unbounded();
    let (applier_sender, applier_jobs) = async_channel::unbounded();
    let (courier_sender, courier_jobs) = async_channel::unbounded();
    let status = node.status();
    parts.transport.set_members(node.membership());
    let shared = Shared::new(LeaderChange {
        term: status.term,
        role: status.role,
        leader: None,
    });
    let config = node.config();
    let checkpoints = Checkpoints::new(config.checkpoint_bytes, config.checkpoint_interval);
    let handle = RaftHandle::new(inbox_sender.clone(), Arc::clone(&shared));
    let unanswered = Arc::<Unanswered>::default();
    Running {
        control: DriverControl::new(handle.clone()),
        handle,
        writer: Writer {
            store: parts.store,
            jobs: writer_jobs,
            inbox: inbox_sender.clone(),
        },
        courier: Courier {
            source: None,
            scan: None,
            sink: parts.state_machine.sink(),
            chunk_bytes_max: config.message_bytes_max,
            jobs: courier_jobs,
            inbox: inbox_sender.clone(),
        },
        applier: Applier {
            state_machine: parts.state_machine,
            jobs: applier_jobs,
            inbox: inbox_sender,
            clock: Arc::clone(&parts.clock),
            checkpoints,
            unanswered: Arc::clone(&unanswered),
            durable: ORIGIN.index,
        },
        driver: Driver {
            awake: parts.clock.now(),
            leader_heard: parts.clock.now(),
            taken: 0,
            next_tick: parts.clock.now() + node.config().tick_interval(),
            node,
            inbox,
            writer: writer_sender,
            applier: applier_sender,
            courier: courier_sender,
            transport: parts.transport,
            clock: parts.clock,
            observer: parts.observer,
            shared,
            waiting: Waiting::default(),
            unanswered,
            sleep: None,
            ticks: 0,
            unsettled: None,
            fatal: None,
        },
    }
}

/// The loop around the core.
pub struct Driver {
    node: RaftNode,
    inbox: Receiver<Input>,
    writer: Sender<WriterJob>,
    applier: Sender<ApplierJob>,
    courier: Sender<CourierJob>,
    transport: Box<dyn Transport>,
    clock: Arc<dyn Clock>,
    observer: Box<dyn FnMut(&Event) + Send>,
    shared: Arc<Shared>,
    waiting: Waiting,
    unanswered: Arc<Unanswered>,
    next_tick: Instant,
    ticks: u64,
    /// When the last turn ended.
    awake: Instant,
    /// When a message of the leader was last taken.
    leader_heard: Instant,
    /// How many inputs were taken since it last waited for one.
    taken: usize,
    /// The tick after which the store was last given something to append, until it has been told that
    /// nothing more came.
    unsettled: Option<u64>,
    /// Why the core must stop.
    fatal: Option<Fatal>,
    /// Completes at about `next_tick`.
    sleep: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Made of what has no words for itself.
macro_rules! opaque {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

opaque!(Parts, Running, Driver, Writer, Applier, Courier);

/// Those who wait for an outcome, by the token under which the core knows them.
#[derive(Default)]
struct Waiting {
    tokens: u64,
    proposals: BTreeMap<ProposalToken, Done<Bytes, ProposeError>>,
    queries: BTreeMap<ReadToken, (Bytes, Done<Bytes, ReadError>)>,
    transfers: Vec<Done<NodeId, TransferError>>,
    change: Option<Done<Membership, MembershipError>>,
}

impl Waiting {
    fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }
}

impl Driver {
    /// Runs the node until it is told to stop.
    ///
    /// # Errors
    ///
    /// [`Fatal`] when the node stopped by itself.
    pub async fn run(mut self) -> Result<(), Fatal> {
        self.node.handle_started();
        self.carry_out();
        let outcome = loop {
            let mut input = self.next().await;
            let mut taken = 0;
            let stop = loop {
                match input {
                    Some(Input::Stop) => break Some(self.stops()),
                    Some(Input::Failed(fatal)) => break Some(Err(fatal)),
                    Some(input) => self.handle(input),
                    None => break None,
                }
                taken += 1;
                input = (taken < TURN_INPUTS_MAX)
                    .then(|| self.inbox.try_recv().ok())
                    .flatten();
            };
            if let Some(outcome) = stop {
                break outcome;
            }
            self.tick_if_due();
            self.carry_out();
            if let Some(waited) = self.node.disk_hangs() {
                break Err(Fatal::DiskHangs { waited });
            }
            if let Some(fatal) = self.fatal.take() {
                break Err(fatal);
            }
            self.awake = self.clock.now();
            self.taken += taken;
            if self.taken >= TURN_INPUTS_MAX {
                // There may always be more: what shares the thread, heartbeats' packets, gets its turn.
                self.taken = 0;
                future::yield_now().await;
            }
        };
        let failed = self.end();
        outcome.and(failed)
    }

    /// A stop waits for the writes that are on their way, and for what the state machine was given, but not for a disk or
    /// a state machine that has not answered for so long that a leader would have given up leadership.
    fn stops(&self) -> Result<(), Fatal> {
        match (self.node.disk_stalls(), self.node.state_machine_stalls()) {
            (Some(waited), _) => Err(Fatal::DiskHangs { waited }),
            (None, Some(waited)) => Err(Fatal::StateMachineHangs { waited }),
            (None, None) => Ok(()),
        }
    }

    /// Answers whoever still waits, with what is certain. Handles may live on, and with them the channel.
    ///
    /// # Errors
    ///
    /// [`Fatal`] that was told too late to be what it stopped for.
    fn end(&mut self) -> Result<(), Fatal> {
        self.close();
        if self.node.state_machine_stalls().is_some() {
            self.unanswered.give_up();
        }
        for token in self.node.abandon_proposals() {
            if let Some(done) = self.waiting.proposals.remove(&token) {
                done.call(Err(ProposeError::Stopped));
            }
        }
        let mut failed = Ok(());
        while let Ok(input) = self.inbox.try_recv() {
            match input {
                Input::Propose { done, .. } => done.call(Err(ProposeError::Stopped)),
                Input::Failed(fatal) => failed = Err(fatal),
                _ => {}
            }
        }
        failed
    }

    /// Nothing is taken any more, and handles, which live on, name nobody as the leader: least of all this node.
    fn close(&self) {
        self.inbox.close();
        let mut leader = self
            .shared
            .leader
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (leader.role, leader.leader) = (Role::Follower, None);
    }

    /// The next input, or `None` when a tick is due first.
    async fn next(&mut self) -> Option<Input> {
        if let Ok(input) = self.inbox.try_recv() {
            return Some(input);
        }
        let Self {
            inbox,
            clock,
            next_tick,
            sleep,
            ..
        } = self;
        // Kept across turns: a new timer for every turn would cost a system call each.
        let sleep = sleep
            .get_or_insert_with(|| clock.sleep(next_tick.saturating_duration_since(clock.now())));
        let input = async { inbox.recv().await.ok() };
        let tick = async {
            sleep.await;
            None
        };
        let next = future::or(input, tick).await;
        self.taken = 0;
        if next.is_none() {
            self.sleep = None;
        }
        next
    }

    fn tick_if_due(&mut self) {
        let now = self.clock.now();
        if now >= self.next_tick {
            self.node.handle_tick();
            // However late it is, this tick and at most one more at once: a burst after a pause would start an
            // election although the leader is alive.
            let interval = self.node.config().tick_interval();
            self.next_tick = (self.next_tick + interval).max(now);
            self.ticks += 1;
            // One waiting tick says as much as many.
            if self.ticks.is_multiple_of(APPLIER_TICKS) && self.applier.is_empty() {
                let _ = self.applier.try_send(ApplierJob::Tick);
            }
            if self.unsettled.is_some_and(|since| since + 1 < self.ticks) {
                self.unsettled = None;
                let _ = self.writer.try_send(WriterJob::Settle);
            }
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Message {
                from,
                message,
                bytes,
            } => {
                self.shared.messages.release(bytes);
                // The core has noted why it refused.
                let accepted = self.node.handle_message(from, message).is_ok();
                if accepted && self.node.leader() == Some(from) {
                    self.leader_heard = self.clock.now();
                }
            }
            Input::Propose { command, done } => {
                self.shared.inbox.release(command.len() as u64);
                let token = ProposalToken(self.waiting.token());
                self.waiting.proposals.insert(token, done);
                self.node.propose(token, command);
            }
            Input::Query { query, done } => {
                self.shared.inbox.release(query.len() as u64);
                let token = ReadToken(self.waiting.token());
                self.waiting.queries.insert(token, (query, done));
                self.node.read(token);
            }
            Input::Stale { query, done } => {
                self.shared.inbox.release(query.len() as u64);
                let leader_silent_for = self.leader_silent_for();
                let done = Done::new(ReadError::Stopped, move |answer: Result<Bytes, _>| {
                    done.call(answer.map(|answer| Stale {
                        answer,
                        leader_silent_for,
                    }));
                });
                let _ = self.applier.try_send(ApplierJob::Query(query, done));
            }
            Input::Transfer { target, done } => match self.node.transfer_leader(target) {
                // From now on it may come about, whatever happens here.
                Ok(_) => {
                    let done = done.or(TransferError::OutcomeUnknown);
                    self.waiting.transfers.push(done);
                }
                Err(error) => done.call(Err(error)),
            },
            Input::ChangeMembership {
                change,
                expected,
                done,
            } => match self.node.change_membership(&change, expected) {
                // There is at most one at a time. From now on others may complete it, whatever happens here.
                Ok(()) if planted::is("change-told-as-not-begun") => {
                    self.waiting.change = Some(done);
                }
                Ok(()) => self.waiting.change = Some(done.or(MembershipError::OutcomeUnknown)),
                Err(error) => done.call(Err(error)),
            },
            Input::Unreachable(peer) => self.node.handle_unreachable(peer),
            Input::Status { done } => done.call(Ok(self.node.status())),
            Input::Campaign => self.node.campaign(),
            Input::Persisted(ticket) => self.node.handle_persisted(ticket),
            Input::Fetched(fetch, entries) => self.node.handle_fetched(fetch, entries),
            Input::Applied(index) => self.node.handle_applied(index),
            Input::Durable(index) => self.node.handle_durable(index),
            Input::Snapshot(source) => self.handle_snapshot(source),
            Input::Chunk(wanted, chunk) => self.node.handle_chunk(wanted, chunk),
            Input::Taken { number, accepted } => self.node.handle_taken(number, accepted),
            Input::Scan(at, scan) => {
                self.node.handle_scan_begun(at, scan.is_some());
                if let Some(scan) = scan {
                    let _ = self.courier.try_send(CourierJob::Scan(at, scan));
                }
            }
            Input::Scanned(at, digest) => self.node.handle_scanned(at, digest),
            Input::Stop | Input::Failed(_) => unreachable!("taken by the loop"),
        }
    }

    /// In time, not in ticks: one that was paused has counted none.
    fn leader_silent_for(&self) -> Option<Duration> {
        let heard = match self.node.leader()? {
            leader if leader == self.node.config().node => self.awake,
            _ => self.leader_heard,
        };
        Some(self.clock.now().saturating_duration_since(heard))
    }

    fn handle_snapshot(&mut self, source: Option<Box<dyn SnapshotSource>>) {
        let last = source.as_ref().map(|source| source.last());
        if let Some(source) = source {
            let _ = self.courier.try_send(CourierJob::Keep(source));
        }
        self.node.handle_snapshot_taken(last);
    }

    fn carry_out(&mut self) {
        while let Some(ready) = self.node.poll_ready() {
            for peer in self.carry(ready) {
                self.node.handle_unreachable(peer);
            }
        }
    }

    /// Carries out `ready` and returns the members to whom entries could not be sent.
    ///
    /// The order is what makes it safe, for whoever is given something may be through with it before the next is given:
    /// - new members are known before anything is sent to them;
    /// - entries that are wanted are asked for before the write that removes them from the log;
    /// - a snapshot replaces the state before what comes after it is applied, and who reads sees all of that;
    /// - who waits for a command is noted before the applier can have the answer, and before a stall of the state
    ///   machine gives up on all who are noted.
    ///
    /// A worker that is gone has rung its alarm, which stops this loop: nobody else needs to notice.
    fn carry(&mut self, mut ready: Ready) -> Vec<NodeId> {
        let unreachable = self.send(&mut ready);
        self.give_writer(&mut ready);
        self.carry_snapshots(&mut ready);
        self.give_applier(&mut ready);
        self.answer(&mut ready);
        self.fatal = self.fatal.take().or(ready.stop.take());
        self.tell(ready);
        unreachable
    }

    fn send(&mut self, ready: &mut Ready) -> Vec<NodeId> {
        let mut unreachable = Vec::new();
        if let Some(membership) = &ready.membership {
            self.transport.set_members(membership);
        }
        for (to, message) in ready.messages.drain(..) {
            let entries = matches!(message.body, Body::Append { .. } | Body::Snapshot { .. });
            if self.transport.send(to, message).is_err() && entries && !unreachable.contains(&to) {
                unreachable.push(to);
            }
        }
        unreachable
    }

    fn give_writer(&mut self, ready: &mut Ready) {
        for fetch in ready.fetches.drain(..) {
            let _ = self.writer.try_send(WriterJob::Fetch(fetch));
        }
        if let Some(append) = ready.append.take() {
            let _ = self.writer.try_send(WriterJob::Append(append));
            self.unsettled = Some(self.ticks);
        }
    }

    fn carry_snapshots(&mut self, ready: &mut Ready) {
        if let Some(last) = ready.install {
            let _ = self.applier.try_send(ApplierJob::Install(last));
        }
        for take in ready.take.drain(..) {
            let _ = self.courier.try_send(CourierJob::Take(take));
        }
        if ready.take_snapshot {
            let _ = self.applier.try_send(ApplierJob::Snapshot);
        }
        for wanted in ready.chunks.drain(..) {
            let _ = self.courier.try_send(CourierJob::Read(wanted));
        }
        if ready.release_snapshot {
            let _ = self.courier.try_send(CourierJob::Release);
        }
        if ready.scan {
            let _ = self.courier.try_send(CourierJob::ReadOn);
        }
    }

    fn give_applier(&mut self, ready: &mut Ready) {
        let committed = mem::take(&mut ready.committed);
        if !committed.is_empty() {
            let waits = committed.iter().filter_map(|committed| {
                let done = self.waiting.proposals.remove(&committed.token?)?;
                Some((committed.entry.id, done))
            });
            self.unanswered.add(waits.collect());
            let entries = committed.into_iter().map(|committed| committed.entry);
            let _ = self.applier.try_send(ApplierJob::Apply(entries.collect()));
        }
        for token in ready.reads.drain(..) {
            if let Some((query, done)) = self.waiting.queries.remove(&token) {
                let _ = self.applier.try_send(ApplierJob::Query(query, done));
            }
        }
    }

    /// Answers those whose outcome is known here, without the state machine.
    fn answer(&mut self, ready: &mut Ready) {
        for (token, error) in ready.failed_proposals.drain(..) {
            if let Some(done) = self.waiting.proposals.remove(&token) {
                done.call(Err(error));
            }
        }
        for (token, error) in ready.failed_reads.drain(..) {
            if let Some((_, done)) = self.waiting.queries.remove(&token) {
                done.call(Err(error));
            }
        }
        if let Some(outcome) = ready.transfer.take() {
            for done in self.waiting.transfers.drain(..) {
                done.call(outcome.clone());
            }
        }
        if let Some(outcome) = ready.changed.take()
            && let Some(done) = self.waiting.change.take()
        {
            done.call(outcome);
        }
    }

    /// Tells the handles who leads, and the observer what happened.
    fn tell(&mut self, ready: Ready) {
        if let Some(change) = ready.change {
            *self
                .shared
                .leader
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = change;
            (self.observer)(&Event::Leader(change));
        }
        if let Some(membership) = ready.membership {
            (self.observer)(&Event::Members(membership));
        }
        for event in &ready.events {
            (self.observer)(event);
            if let Event::StateMachineStalled { .. } = event {
                // Only it knows the answers, and nobody is to wait for ever.
                self.unanswered.give_up();
            }
        }
    }
}

/// However it ends, by a panic or because its executor does: what is still in the channel would stay there for as
/// long as there are handles, and whoever waits for an answer has one.
impl Drop for Driver {
    fn drop(&mut self) {
        self.close();
        while self.inbox.try_recv().is_ok() {}
    }
}
