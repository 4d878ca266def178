//! Clients who write and read a few keys at once and write down what happens to them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate::kv::Client;

use super::runtime::{Runtime, Task};
use crate::check::history::{
    Answer, History, Key, Kind, Operation, RecordedClient, Recorder, Value,
};
use crate::check::kv::Keyspace;
use crate::rng::Rng;

/// How many clients there are: enough to contend for every key, few enough to be searched.
const CLIENTS: u64 = 10;

/// How many keys they share.
const KEYS: u64 = 3;

/// How many operations one history has. The next one has keys of its own, so that each is searched alone.
pub(super) const ROUND_OPERATIONS: u64 = 5_000;

/// How long the scan at the end of a round is tried: many times longer than any fault lasts.
const SCAN_WITHIN: Duration = Duration::from_secs(60);

/// What decides a round.
pub(super) struct Round {
    /// Its place among the rounds, from one.
    pub(super) number: u64,
    /// How many operations are to be invoked.
    pub(super) operations: u64,
    /// When to stop all the same.
    pub(super) until: Instant,
    pub(super) seed: u64,
    /// Whether clients sometimes keep what they have read, which is the fault that must be found.
    pub(super) stale_reads: bool,
}

struct Shared {
    keyspace: Keyspace,
    recorder: Recorder,
    begun: Instant,
    until: Instant,
    left: AtomicU64,
    values: AtomicU64,
    stale_reads: bool,
}

/// The keys of round `number`.
pub(super) fn keyspace(number: u64) -> Keyspace {
    Keyspace::new(&format!("r{number}"))
}

/// Lets clients work, over the connections in `clients`, and then looks at all keys. `None` when that
/// last look did not succeed.
pub(super) fn run(runtime: Runtime, clients: &[Client], round: &Round) -> Option<History> {
    let shared = Arc::new(Shared {
        keyspace: keyspace(round.number),
        recorder: Recorder::default(),
        begun: Instant::now(),
        until: round.until,
        left: AtomicU64::new(round.operations),
        values: AtomicU64::new(1),
        stale_reads: round.stale_reads,
    });
    let each = (0..CLIENTS).map(|number| -> Task {
        let client = clients[number as usize % clients.len()].clone();
        let seed = round.seed ^ (round.number << 8) ^ number;
        Box::pin(work(
            Arc::clone(&shared),
            client,
            Rng::stream(seed, "client"),
        ))
    });
    runtime.run_all(each.collect());
    let (sender, scanned) = std::sync::mpsc::channel();
    let (last, client) = (Arc::clone(&shared), clients[0].clone());
    let scan: Task = Box::pin(async move {
        let _ = sender.send(scan(last, client).await);
    });
    runtime.run_all(vec![scan]);
    let scanned = scanned.recv().expect("a scan ends");
    scanned.then(|| shared.recorder.take())
}

/// One client, from its first to its last operation.
fn work(shared: Arc<Shared>, client: Client, rng: Rng) -> impl Future<Output = ()> + Send {
    let mut person = Person {
        rng,
        last_seen: BTreeMap::new(),
        kept: BTreeMap::new(),
    };
    async move {
        let mut recorded = shared.recorder.client();
        while shared.goes_on() {
            let operation = person.next(&shared.values);
            let kept = if shared.stale_reads {
                person.kept(operation)
            } else {
                None
            };
            recorded.invoke(shared.begun.elapsed(), operation);
            let kind = match kept {
                Some(kind) => kind,
                None => shared.keyspace.run(&client, operation).await,
            };
            person.learn(operation, &kind);
            recorded.complete(shared.begun.elapsed(), kind);
        }
    }
}

async fn scan(shared: Arc<Shared>, client: Client) -> bool {
    let until = Instant::now() + SCAN_WITHIN;
    let mut recorded: RecordedClient = shared.recorder.client();
    while Instant::now() < until {
        recorded.invoke(shared.begun.elapsed(), Operation::Scan);
        let kind = shared.keyspace.run(&client, Operation::Scan).await;
        let seen = matches!(kind, Kind::Ok { .. });
        recorded.complete(shared.begun.elapsed(), kind);
        if seen {
            return true;
        }
    }
    false
}

impl Shared {
    /// Whether there is an operation left to do.
    fn goes_on(&self) -> bool {
        let take = |left: u64| left.checked_sub(1);
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.is_ok() && Instant::now() < self.until
    }
}

/// What one client decides.
struct Person {
    rng: Rng,
    last_seen: BTreeMap<Key, Option<Value>>,
    /// The first answer to a read of each key.
    kept: BTreeMap<Key, Kind>,
}

impl Person {
    fn next(&mut self, values: &AtomicU64) -> Operation {
        let key = self.rng.within(0..KEYS);
        let fresh = || values.fetch_add(1, Ordering::Relaxed);
        match self.rng.within(0..100) {
            0..50 => Operation::Get { key },
            50..70 => Operation::Put {
                key,
                value: fresh(),
            },
            70..94 => Operation::CompareAndSet {
                key,
                expected: self.last_seen.get(&key).copied().flatten(),
                value: Some(fresh()),
            },
            94..97 => Operation::Delete { key },
            97 => Operation::CompareAndSet {
                key,
                expected: self.last_seen.get(&key).copied().flatten(),
                value: None,
            },
            _ => Operation::Scan,
        }
    }

    /// A planted fault: an answer of some time ago instead of one of now.
    fn kept(&mut self, operation: Operation) -> Option<Kind> {
        match operation {
            Operation::Get { key } if self.rng.chance(1) => self.kept.get(&key).cloned(),
            _ => None,
        }
    }

    fn learn(&mut self, operation: Operation, kind: &Kind) {
        let (Some(key), Kind::Ok { answer, .. }) = (operation.key(), kind) else {
            return;
        };
        let seen = match answer {
            Answer::Value(value) => {
                self.kept.entry(key).or_insert_with(|| kind.clone());
                *value
            }
            Answer::NotSwapped { current } => *current,
            Answer::Written | Answer::Swapped => operation.writes(),
            Answer::Deleted { .. } | Answer::Pairs(_) => None,
        };
        self.last_seen.insert(key, seen);
    }
}
