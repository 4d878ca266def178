//! The driver and its workers from inside: each is polled by hand, so that a test decides who runs when.

mod order;
mod panics;

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;
use crate::config::Config;
use crate::durability::{LogWrite, Recovered};
use crate::entry::Entry;
use crate::message::Message;
use crate::types::{EntryId, LogIndex, Term};

/// What the driver or one of its workers calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Called {
    Send,
    SetMembers,
    Observer,
    Now,
    Sleep,
    Append,
    Read,
    Settle,
    Apply,
    Query,
    Checkpoint,
    Durable,
    Snapshot,
    Install,
    Scan,
    Begin,
    Add,
    Finish,
    Chunk,
    ReadOn,
}

/// All seams at once: notes what is called, and panics where it is told to.
#[derive(Clone, Default)]
struct Seams(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    calls: Vec<Called>,
    panics: Option<Called>,
}

impl Seams {
    fn note(&self, called: Called) {
        let mut noted = self.0.lock().unwrap();
        noted.calls.push(called);
        let panics = noted.panics == Some(called);
        drop(noted);
        assert!(!panics, "meant to be seen: {called:?}");
    }

    fn panic_at(&self, called: Called) {
        self.0.lock().unwrap().panics = Some(called);
    }

    /// What was called of these, in order.
    fn calls(&self, of: &[Called]) -> Vec<Called> {
        let calls = &self.0.lock().unwrap().calls;
        calls.iter().copied().filter(|it| of.contains(it)).collect()
    }
}

impl Transport for Seams {
    fn send(&mut self, _to: NodeId, _message: Message) -> Result<(), Undelivered> {
        self.note(Called::Send);
        Ok(())
    }

    fn set_members(&mut self, _membership: &Membership) {
        self.note(Called::SetMembers);
    }
}

impl Clock for Seams {
    /// Time stands still.
    fn now(&self) -> Instant {
        static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        self.note(Called::Now);
        *BEGIN.get_or_init(Instant::now)
    }

    fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let seams = self.clone();
        Box::pin(std::future::poll_fn(move |_| {
            seams.note(Called::Sleep);
            std::task::Poll::Pending
        }))
    }
}

impl LogStore for Seams {
    fn append(&mut self, _batch: &[LogWrite]) -> Result<(), StoreError> {
        self.note(Called::Append);
        Ok(())
    }

    fn read(&self, _: LogIndex, _: LogIndex, _: u64) -> Result<Vec<Entry>, StoreError> {
        self.note(Called::Read);
        Ok(Vec::new())
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        self.note(Called::Settle);
        Ok(())
    }
}

impl StateMachine for Seams {
    fn applied(&self) -> EntryId {
        ORIGIN
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
        self.note(Called::Apply);
        Ok(vec![Bytes::new(); batch.commands.len()])
    }

    fn query(&mut self, _query: &[u8]) -> Result<Bytes, StateMachineError> {
        self.note(Called::Query);
        Ok(Bytes::new())
    }

    fn checkpoint(&mut self) -> Result<(), StateMachineError> {
        self.note(Called::Checkpoint);
        Ok(())
    }

    fn durable(&mut self) -> Result<EntryId, StateMachineError> {
        self.note(Called::Durable);
        Ok(ORIGIN)
    }

    fn snapshot(&mut self) -> Result<Option<Box<dyn SnapshotSource>>, StateMachineError> {
        self.note(Called::Snapshot);
        Ok(None)
    }

    fn sink(&mut self) -> Option<Box<dyn SnapshotSink>> {
        Some(Box::new(self.clone()))
    }

    fn install(&mut self, _last: EntryId) -> Result<(), StateMachineError> {
        self.note(Called::Install);
        Ok(())
    }

    fn scan(&mut self) -> Result<Option<Box<dyn StateScan>>, StateMachineError> {
        self.note(Called::Scan);
        Ok(None)
    }
}

impl SnapshotSink for Seams {
    fn begin(&mut self, _last: EntryId) -> Result<(), StateMachineError> {
        self.note(Called::Begin);
        Ok(())
    }

    fn add(&mut self, _data: &[u8]) -> Result<bool, StateMachineError> {
        self.note(Called::Add);
        Ok(true)
    }

    fn finish(&mut self) -> Result<bool, StateMachineError> {
        self.note(Called::Finish);
        Ok(true)
    }
}

impl SnapshotSource for Seams {
    fn last(&self) -> EntryId {
        ORIGIN
    }

    fn chunk(&mut self, _after: &[u8], _bytes_max: u64) -> Result<Chunk, StateMachineError> {
        self.note(Called::Chunk);
        let (data, next) = (Bytes::new(), None);
        Ok(Chunk { data, next })
    }
}

impl StateScan for Seams {
    fn read_on(&mut self, _bytes_max: u64) -> Result<Option<u64>, StateMachineError> {
        self.note(Called::ReadOn);
        Ok(None)
    }
}

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn at(index: u64) -> EntryId {
    EntryId::new(Term::new(2), LogIndex::new(index))
}

fn command(index: u64) -> Entry {
    Entry::command(at(index), "x".into())
}

/// Node 1 of two voters.
fn assembled(seams: &Seams) -> Running {
    let members = Membership::new([node(1), node(2)], []).unwrap();
    let recovered = Recovered::founding(members);
    let core = RaftNode::new(Config::new(node(1)), &recovered, ORIGIN, Vec::new()).unwrap();
    let observer = seams.clone();
    assemble(
        core,
        Parts {
            transport: Box::new(seams.clone()),
            store: Box::new(seams.clone()),
            state_machine: Box::new(seams.clone()),
            clock: Arc::new(seams.clone()),
            observer: Box::new(move |_| observer.note(Called::Observer)),
        },
    )
}
