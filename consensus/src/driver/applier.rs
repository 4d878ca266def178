//! The thread that owns the state machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender, TrySendError};
use bytes::Bytes;

use super::done::Done;
use super::handle::Input;
use super::seams::{Batch, Clock, Command, StateMachine, StateMachineError};
use super::unanswered::Unanswered;
use super::worker::Alarm;
use crate::entry::{Entry, ORIGIN, Payload};
use crate::error::{Fatal, ReadError};
use crate::types::{EntryId, LogIndex};

/// How many bytes of entries one call of `apply` gets: enough to share what a call costs, little
/// enough that the first client does not wait long.
const APPLY_BATCH_BYTES_MAX: u64 = 4 << 20;

/// What the driver asks of the applier.
pub(super) enum ApplierJob {
    Apply(Vec<Entry>),
    Query(Bytes, Done<Bytes, ReadError>),
    /// A member needs a snapshot.
    Snapshot,
    /// The state is to be replaced by the snapshot up to this entry.
    Install(EntryId),
    /// Time has passed: a checkpoint may be due.
    Tick,
}

/// Applies committed entries and answers queries, in the order in which the driver gave them. What has
/// queued up meanwhile is applied as one batch.
pub struct Applier {
    pub(super) state_machine: Box<dyn StateMachine>,
    pub(super) jobs: Receiver<ApplierJob>,
    pub(super) inbox: Sender<Input>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) checkpoints: Checkpoints,
    pub(super) unanswered: Arc<Unanswered>,
    /// What was last told to be durable.
    pub(super) durable: LogIndex,
}

/// When the state machine is asked to begin to make itself durable.
pub(super) struct Checkpoints {
    pub(super) bytes: u64,
    pub(super) interval: Duration,
    pub(super) unsaved_bytes: u64,
    pub(super) unsaved_since: Option<Instant>,
    /// The last entry that was applied.
    applied: LogIndex,
    /// What was applied when it was last asked.
    asked: LogIndex,
}

impl Checkpoints {
    pub(super) fn new(bytes: u64, interval: Duration) -> Self {
        Self {
            bytes,
            interval,
            unsaved_bytes: 0,
            unsaved_since: None,
            applied: ORIGIN.index,
            asked: ORIGIN.index,
        }
    }

    fn applied(&mut self, last: LogIndex, bytes: u64, now: Instant) {
        self.applied = last;
        self.unsaved_bytes += bytes;
        self.unsaved_since.get_or_insert(now);
    }

    fn due(&self, now: Instant) -> bool {
        self.unsaved_since.is_some_and(|since| {
            self.unsaved_bytes >= self.bytes || now.duration_since(since) >= self.interval
        })
    }

    fn asked(&mut self) {
        self.asked = self.applied;
        self.unsaved_bytes = 0;
        self.unsaved_since = None;
    }

    /// Whether what has now become durable shows that the last call was left out, because an earlier checkpoint
    /// was under way: no entry may ever come to make another one due.
    fn left_out(&self, durable: LogIndex) -> bool {
        durable < self.asked
    }
}

impl Applier {
    /// Works until the driver stops, then closes the state machine. Blocks on the state machine: give
    /// it a thread of its own, or, in a simulation, a task.
    ///
    /// # Errors
    ///
    /// [`Fatal`] that the driver cannot tell, because it had stopped already: the state could not be saved at the end.
    pub async fn run(mut self) -> Result<(), Fatal> {
        let alarm = Alarm::new("applier", self.inbox.clone());
        let worked = self.work().await;
        alarm.disarm();
        let Err(error) = worked else {
            return Ok(());
        };
        tracing::error!(err = %error, "the state machine failed");
        let failed = Input::Failed(Fatal::StateMachine(error));
        match self
            .inbox
            .try_send(failed)
            .map_err(TrySendError::into_inner)
        {
            Err(Input::Failed(fatal)) => Err(fatal),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn work(&mut self) -> Result<(), StateMachineError> {
        while let Ok(job) = self.jobs.recv().await {
            self.turn(job)?;
            if self.checkpoints.due(self.clock.now()) {
                self.checkpoint()?;
            }
            self.tell_durable()?;
        }
        // Also when the driver stopped because of another part: what was applied is committed and
        // durable in the log. And always, because an earlier checkpoint may still be going on.
        self.state_machine.close()
    }

    fn turn(&mut self, first: ApplierJob) -> Result<(), StateMachineError> {
        let mut work = Work::default();
        let mut queries = Vec::new();
        let mut snapshot = false;
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                ApplierJob::Apply(entries) => {
                    work.commands.reserve(entries.len());
                    for entry in entries {
                        let (at, compare) = (entry.id, entry.payload == Payload::Compare);
                        work.add(entry);
                        if compare {
                            self.apply(std::mem::take(&mut work))?;
                            let scan = self.state_machine.scan()?;
                            let _ = self.inbox.try_send(Input::Scan(at, scan));
                        }
                    }
                }
                ApplierJob::Query(query, done) => queries.push((query, done)),
                ApplierJob::Snapshot => snapshot = true,
                ApplierJob::Install(last) => {
                    // What was to be applied before is in the snapshot; but somebody may wait for it.
                    self.apply(std::mem::take(&mut work))?;
                    self.install(last)?;
                }
                ApplierJob::Tick => {}
            }
            next = (work.bytes < APPLY_BATCH_BYTES_MAX)
                .then(|| self.jobs.try_recv().ok())
                .flatten();
        }
        self.apply(work)?;
        // After the batch, which may hold more than a query asked for: a read may see writes that are
        // concurrent with it.
        for (query, done) in queries {
            done.call(Ok(self.state_machine.query(&query)?));
        }
        if snapshot {
            // The one after it, if this is too old for whoever needs it.
            self.checkpoint()?;
            let snapshot = self.state_machine.snapshot()?;
            let _ = self.inbox.try_send(Input::Snapshot(snapshot));
        }
        Ok(())
    }

    fn install(&mut self, last: EntryId) -> Result<(), StateMachineError> {
        self.state_machine.install(last)?;
        let applied = self.state_machine.applied();
        if applied != last {
            let wrong =
                format!("the state is that after {applied}, and the snapshot's after {last}");
            return Err(StateMachineError::new(wrong));
        }
        self.checkpoints.applied = last.index;
        self.checkpoints.asked();
        let _ = self.inbox.try_send(Input::Applied(last.index));
        Ok(())
    }

    fn tell_durable(&mut self) -> Result<(), StateMachineError> {
        let durable = self.state_machine.durable()?.index;
        if durable > self.durable {
            self.durable = durable;
            let _ = self.inbox.try_send(Input::Durable(durable));
            if self.checkpoints.left_out(durable) {
                self.checkpoint()?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, work: Work) -> Result<(), StateMachineError> {
        let Some(last) = work.last else { return Ok(()) };
        let commands = work.commands;
        let batch = Batch { commands, last };
        let answers = self.state_machine.apply(&batch)?;
        if answers.len() != batch.commands.len() {
            let wrong = format!(
                "the state machine gave {} answers to {} commands",
                answers.len(),
                batch.commands.len()
            );
            return Err(StateMachineError::new(wrong));
        }
        let waiting = self.unanswered.take_to(last.index);
        let mut waiting = waiting.into_iter().peekable();
        for (command, answer) in batch.commands.iter().zip(answers) {
            if let Some((_, done)) = waiting.next_if(|(id, _)| *id == command.id) {
                done.call(Ok(answer));
            }
        }
        assert!(
            waiting.next().is_none(),
            "nobody proposes what is no command"
        );
        self.checkpoints
            .applied(last.index, work.bytes, self.clock.now());
        let _ = self.inbox.try_send(Input::Applied(last.index));
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), StateMachineError> {
        self.checkpoints.asked();
        self.state_machine.checkpoint()
    }
}

/// Entries for one call of `apply`.
#[derive(Default)]
struct Work {
    commands: Vec<Command>,
    last: Option<EntryId>,
    bytes: u64,
}

impl Work {
    fn add(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.last = Some(entry.id);
        match entry.payload {
            Payload::Command(data) => self.commands.push(Command { id: entry.id, data }),
            Payload::Empty | Payload::Compare | Payload::Digest { .. } | Payload::Membership(_) => {
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::Mutex;

    use futures_lite::future::{block_on, poll_once};

    use super::*;
    use crate::types::Term;

    /// Notes what it is asked to do; fails when it is told to "fail".
    struct Noted(Arc<Mutex<Vec<&'static str>>>);

    impl Noted {
        fn note(&self, what: &'static str) {
            self.0.lock().unwrap().push(what);
        }
    }

    impl StateMachine for Noted {
        fn applied(&self) -> EntryId {
            ORIGIN
        }

        fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
            self.note("apply");
            if batch.commands.iter().any(|command| command.data == "fail") {
                return Err(StateMachineError::new("told to fail"));
            }
            Ok(vec![Bytes::new(); batch.commands.len()])
        }

        fn query(&mut self, _query: &[u8]) -> Result<Bytes, StateMachineError> {
            self.note("query");
            Ok(Bytes::new())
        }

        fn checkpoint(&mut self) -> Result<(), StateMachineError> {
            self.note("checkpoint");
            Ok(())
        }

        fn close(&mut self) -> Result<(), StateMachineError> {
            self.note("close");
            Ok(())
        }
    }

    struct Standstill(Instant);

    impl Clock for Standstill {
        fn now(&self) -> Instant {
            self.0
        }

        fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(std::future::pending())
        }
    }

    /// Notes for each checkpoint up to where it saves, or that it is left out. One ends when the test says so.
    #[derive(Clone, Default)]
    struct Slow(Arc<Mutex<Flushes>>);

    struct Flushes {
        applied: EntryId,
        durable: EntryId,
        under_way: Option<EntryId>,
        asked: Vec<Option<EntryId>>,
    }

    impl Default for Flushes {
        fn default() -> Self {
            Self {
                applied: ORIGIN,
                durable: ORIGIN,
                under_way: None,
                asked: Vec::new(),
            }
        }
    }

    impl Slow {
        fn ends(&self) {
            let mut flushes = self.0.lock().unwrap();
            flushes.durable = flushes.under_way.take().expect("it is under way");
        }
    }

    impl StateMachine for Slow {
        fn applied(&self) -> EntryId {
            ORIGIN
        }

        fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
            self.0.lock().unwrap().applied = batch.last;
            Ok(vec![Bytes::new(); batch.commands.len()])
        }

        fn query(&mut self, _query: &[u8]) -> Result<Bytes, StateMachineError> {
            Ok(Bytes::new())
        }

        fn checkpoint(&mut self) -> Result<(), StateMachineError> {
            let mut flushes = self.0.lock().unwrap();
            let begun = flushes.under_way.is_none().then_some(flushes.applied);
            flushes.under_way = flushes.under_way.or(begun);
            flushes.asked.push(begun);
            Ok(())
        }

        fn durable(&mut self) -> Result<EntryId, StateMachineError> {
            Ok(self.0.lock().unwrap().durable)
        }
    }

    fn id(index: u64) -> EntryId {
        EntryId::new(Term::new(1), LogIndex::new(index))
    }

    fn applier(
        state_machine: Box<dyn StateMachine>,
        checkpoint_bytes: u64,
    ) -> (Applier, Sender<ApplierJob>) {
        let (sender, jobs) = async_channel::unbounded();
        let (inbox, _driver) = async_channel::unbounded();
        let applier = Applier {
            state_machine,
            jobs,
            inbox,
            clock: Arc::new(Standstill(Instant::now())),
            checkpoints: Checkpoints::new(checkpoint_bytes, Duration::from_secs(5)),
            unanswered: Arc::default(),
            durable: ORIGIN.index,
        };
        (applier, sender)
    }

    fn applies(index: u64, command: &'static str) -> ApplierJob {
        let entry = Entry {
            id: id(index),
            payload: Payload::Command(Bytes::from(command)),
        };
        ApplierJob::Apply(vec![entry])
    }

    /// A checkpoint that is left out while an earlier one is under way is asked for again as soon as that one has
    /// ended, also when nothing is written any more; and not once more.
    #[test]
    fn a_checkpoint_that_was_left_out_is_asked_for_again() {
        let slow = Slow::default();
        let (applier, jobs) = applier(Box::new(slow.clone()), 1);
        let mut run = Box::pin(applier.run());
        let mut turn = |job| {
            jobs.try_send(job).unwrap();
            assert!(block_on(poll_once(&mut run)).is_none());
            slow.0.lock().unwrap().asked.clone()
        };
        turn(applies(2, "a"));
        turn(applies(3, "b"));
        assert_eq!(turn(ApplierJob::Tick), [Some(id(2)), None]);
        slow.ends();
        let all = [Some(id(2)), None, Some(id(3))];
        assert_eq!(turn(ApplierJob::Tick), all);
        slow.ends();
        turn(ApplierJob::Tick);
        assert_eq!(turn(ApplierJob::Tick), all);
    }

    /// What the state machine is asked to do when the driver hands over `commands` and stops.
    fn asked(commands: &[&'static str], checkpoint_bytes: u64) -> Vec<&'static str> {
        let noted = Arc::new(Mutex::new(Vec::new()));
        let (applier, jobs) = applier(Box::new(Noted(Arc::clone(&noted))), checkpoint_bytes);
        for (index, command) in (2..).zip(commands) {
            jobs.try_send(applies(index, command)).unwrap();
        }
        drop(jobs);
        // Nobody takes what it says any more.
        let told = block_on(applier.run());
        assert_eq!(told.is_err(), commands.contains(&"fail"));
        let noted = noted.lock().unwrap();
        noted.clone()
    }

    /// An orderly stop closes the state machine, whether or not a checkpoint was due or is going on;
    /// after an error of its own it is not asked again.
    #[test]
    fn an_orderly_stop_closes_the_state_machine() {
        assert_eq!(asked(&[], 1 << 20), ["close"]);
        assert_eq!(asked(&["a", "b"], 1 << 20), ["apply", "close"]);
        assert_eq!(asked(&["a"], 1), ["apply", "checkpoint", "close"]);
        assert_eq!(asked(&["fail"], 1), ["apply"]);
    }
}
