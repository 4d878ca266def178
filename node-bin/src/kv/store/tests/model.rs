//! The store against a map in memory that does what the documents promise, in the simplest way.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::flushing::Gate;
use super::snapshots::{pieces, receive, source};
use super::*;
use crate::kv::history::Change;
use crate::kv::logged::{Logged, Tag};
use crate::kv::query::Lease;
use crate::kv::store::apply::KEPT_ANSWER_BYTES_MAX;
use crate::kv::transaction::{Compare, Condition, Step, StepOutcome, Transaction};

/// Numbers from a seed (xorshift64).
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    /// One of 24 keys, so that commands meet; a third of them begin as the rows of the store's own do.
    fn key(&mut self) -> Bytes {
        let number = self.below(24);
        Bytes::from(match number % 3 {
            0 => format!("\0\0{number}"),
            _ => format!("key{number}"),
        })
    }

    /// Some are so long that no answer which has them is kept.
    fn value(&mut self) -> Bytes {
        if self.below(2) == 0 {
            return Bytes::from(vec![b'z'; KEPT_ANSWER_BYTES_MAX]);
        }
        Bytes::from(vec![b'a' + self.below(3) as u8; self.below(3) as usize])
    }

    fn maybe_value(&mut self) -> Option<Bytes> {
        (self.below(3) > 0).then(|| self.value())
    }

    /// One of those that there are, or were, or never were.
    fn number(&mut self, known: &[u64]) -> u64 {
        match self.below(8) {
            0 => 1,
            _ if known.is_empty() => 2,
            _ => known[self.below(known.len() as u64) as usize],
        }
    }

    fn step(&mut self, model: &Model) -> Step {
        let key = self.key();
        match self.below(5) {
            0 => Step::Get { key },
            1 => Step::Delete { key },
            _ => Step::Put {
                key,
                value: self.value(),
                lease: (self.below(2) > 0).then(|| self.number(&model.granted)),
            },
        }
    }

    fn condition(&mut self, model: &Model, key: &Bytes) -> Condition {
        let known = model.map.get(key);
        match self.below(5) {
            0 => Condition::Absent,
            1 => Condition::Present,
            2 => Condition::Revision(known.map_or(7, |value| value.revision)),
            3 => Condition::Value(known.map_or(Bytes::new(), |value| value.data.clone())),
            _ => Condition::Value(self.value()),
        }
    }

    fn transaction(&mut self, model: &Model) -> Transaction {
        let compare = (0..self.below(3)).map(|_| {
            let key = self.key();
            let condition = self.condition(model, &key);
            Compare { key, condition }
        });
        let compare = compare.collect();
        if self.below(3) == 0 {
            let gets = (0..3).map(|_| Step::Get { key: self.key() }).collect();
            return Transaction {
                compare,
                then: gets,
                otherwise: Vec::new(),
            };
        }
        let then = (0..self.below(4)).map(|_| self.step(model)).collect();
        let otherwise = (0..self.below(3)).map(|_| self.step(model)).collect();
        Transaction {
            compare,
            then,
            otherwise,
        }
    }

    fn command(&mut self, model: &Model) -> Command {
        let key = self.key();
        match self.below(20) {
            0..5 => Command::Put {
                key,
                value: self.value(),
            },
            5..8 => Command::Delete { key },
            8..11 => Command::CompareAndSet {
                key,
                expected: self.maybe_value(),
                value: self.maybe_value(),
            },
            11..15 => Command::Transact(self.transaction(model)),
            15 => Command::GrantLease {
                ttl_ms: 1000 * (1 + self.below(6)),
            },
            16 | 17 => Command::KeepLease {
                lease: self.number(&model.granted),
            },
            18 => Command::RevokeLease {
                lease: self.number(&model.granted),
            },
            _ => Command::OpenSession,
        }
    }

    /// An entry: some that mean nothing, some that were there before under the same name.
    fn entry(&mut self, model: &Model, before: &[Bytes]) -> Bytes {
        match self.below(16) {
            0 => return self.value(),
            1 if !before.is_empty() => {
                let recent = before.len().min(20) as u64;
                return before[before.len() - 1 - self.below(recent) as usize].clone();
            }
            2 => return self.command(model).encode(),
            3 | 4 if !before.is_empty() => return before[before.len() - 1].clone(),
            _ => {}
        }
        let tag = (self.below(2) > 0).then(|| Tag {
            session: match model.sessions.last_key_value() {
                Some((session, _)) if self.below(2) > 0 => *session,
                _ => self.number(&model.opened),
            },
            slot: self.below(3) as u16,
            sequence: 1 + self.below(1 + before.len() as u64 / 4),
        });
        let elapsed_ms = match self.below(100) {
            0 => 700_000,
            1..50 => self.below(900) as u32,
            _ => 0,
        };
        let command = (self.below(10) > 0).then(|| self.command(model));
        Logged {
            elapsed_ms,
            tag,
            command,
            owner: 1 + self.below(8) / 7,
        }
        .encode()
    }
}

/// How many leases one may have here, so that some are refused.
const SHARE: usize = 2;

type Slots = BTreeMap<u16, (u64, Outcome)>;

/// What the store should be.
#[derive(Default)]
struct Model {
    now: u64,
    map: BTreeMap<Bytes, Value>,
    /// To which lease a key is bound.
    bound: BTreeMap<Bytes, u64>,
    /// Time to live, end, and who got it.
    leases: BTreeMap<u64, (u64, u64, u64)>,
    /// End, and the last command of each slot with its outcome.
    sessions: BTreeMap<u64, (u64, Slots)>,
    owners: BTreeMap<u64, u64>,
    /// All that ever were.
    granted: Vec<u64>,
    opened: Vec<u64>,
    changes: Vec<Change>,
    repeated: usize,
    /// How often the answer to what was sent again was not there any more, and how often it was looked for again.
    not_kept: usize,
    read_again: usize,
    /// How often somebody wanted to use what another one had opened.
    strangers: usize,
    /// How often somebody wanted more leases than one may have.
    greedy: usize,
    ended: usize,
}

impl Model {
    fn apply(&mut self, revision: u64, data: &Bytes) -> Outcome {
        let logged = match Logged::decode(data) {
            Ok(logged) => logged,
            Err(invalid) => return Outcome::Refused(invalid),
        };
        self.now += u64::from(logged.elapsed_ms);
        let now = self.now;
        self.sessions.retain(|_, (ends, _)| *ends > now);
        let over: Vec<u64> = self
            .leases
            .iter()
            .filter(|it| it.1.1 <= now)
            .map(|it| *it.0)
            .collect();
        over.into_iter().for_each(|lease| self.end(lease, revision));
        let Some(command) = logged.command else {
            return Outcome::Written { revision };
        };
        let Some(tag) = logged.tag else {
            return self.carry_out(command, logged.owner, revision);
        };
        let owner = self.owners.get(&tag.session);
        // Some are opened by commands alone, which belong to nobody.
        let own = owner.is_some_and(|owner| [0, logged.owner].contains(owner));
        let Some((_, slots)) = self.sessions.get(&tag.session).filter(|_| own) else {
            self.strangers += usize::from(self.sessions.contains_key(&tag.session));
            return Outcome::SessionExpired;
        };
        // What it was told of a lease says nothing of how long that lives now.
        let done_again = |outcome: &Outcome| match outcome {
            Outcome::LeaseKept { .. } => matches!(command, Command::KeepLease { .. }),
            Outcome::AnswerNotKept { .. } => only_gets(&command),
            _ => false,
        };
        match slots.get(&tag.slot) {
            Some((last, outcome)) if *last == tag.sequence && !done_again(outcome) => {
                self.repeated += 1;
                self.not_kept += usize::from(matches!(outcome, Outcome::AnswerNotKept { .. }));
                return outcome.clone();
            }
            Some((last, _)) if *last > tag.sequence => return Outcome::Superseded,
            Some((last, Outcome::AnswerNotKept { .. })) if *last == tag.sequence => {
                self.read_again += 1;
            }
            _ => {}
        }
        let outcome = self.carry_out(command, logged.owner, revision);
        let (ends, slots) = self.sessions.get_mut(&tag.session).unwrap();
        let kept = match outcome.encode().len() {
            ..=KEPT_ANSWER_BYTES_MAX => outcome.clone(),
            _ => Outcome::AnswerNotKept { revision },
        };
        slots.insert(tag.slot, (tag.sequence, kept));
        // Renewed an eighth at a time.
        if now + 600_000 >= *ends + 75_000 {
            *ends = now + 600_000;
        }
        outcome
    }

    fn set(&mut self, key: &Bytes, data: Option<&Bytes>, revision: u64) {
        self.bound.remove(key);
        let value = data.map(|data| Value {
            data: data.clone(),
            revision,
        });
        match value {
            Some(value) => drop(self.map.insert(key.clone(), value)),
            None => drop(self.map.remove(key)),
        }
    }

    fn end(&mut self, lease: u64, revision: u64) {
        self.leases.remove(&lease);
        let keys = self.bound.iter().filter(|(_, bound)| **bound == lease);
        let keys: Vec<Bytes> = keys.map(|(key, _)| key.clone()).collect();
        self.ended += keys.len();
        for key in keys {
            self.set(&key, None, revision);
        }
    }

    fn carry_out(&mut self, command: Command, owner: u64, revision: u64) -> Outcome {
        match command {
            Command::Put { key, value } => {
                self.set(&key, Some(&value), revision);
                Outcome::Written { revision }
            }
            Command::Delete { key } => {
                let existed = self.map.contains_key(&key);
                self.set(&key, None, revision);
                Outcome::Deleted { existed, revision }
            }
            Command::CompareAndSet {
                key,
                expected,
                value,
            } => {
                let current = self.map.get(&key).map(|value| value.data.clone());
                if current != expected {
                    return Outcome::NotSwapped { current, revision };
                }
                self.set(&key, value.as_ref(), revision);
                Outcome::Swapped { revision }
            }
            Command::Transact(transaction) => self.transact(&transaction, revision),
            Command::GrantLease { ttl_ms } => {
                let own = |lease: &&(u64, u64, u64)| owner != 0 && lease.2 == owner;
                if self.leases.values().filter(own).count() >= SHARE {
                    self.greedy += 1;
                    return Outcome::Refused(Invalid::TooManyLeasesOfOne);
                }
                let ends = self.now + ttl_ms;
                self.leases.insert(revision, (ttl_ms, ends, owner));
                self.granted.push(revision);
                Outcome::LeaseGranted { lease: revision }
            }
            Command::KeepLease { lease } => match self.leases.get_mut(&lease) {
                Some((ttl, ends, _)) => {
                    *ends = self.now + *ttl;
                    Outcome::LeaseKept { ttl_ms: *ttl }
                }
                None => Outcome::Refused(Invalid::LeaseUnknown { lease }),
            },
            Command::RevokeLease { lease } => {
                if !self.leases.contains_key(&lease) {
                    return Outcome::Refused(Invalid::LeaseUnknown { lease });
                }
                self.end(lease, revision);
                Outcome::LeaseRevoked { revision }
            }
            Command::OpenSession => {
                let ends = self.now + 600_000;
                self.sessions.insert(revision, (ends, BTreeMap::new()));
                self.owners.insert(revision, owner);
                self.opened.push(revision);
                Outcome::SessionOpened { session: revision }
            }
        }
    }

    fn transact(&mut self, transaction: &Transaction, revision: u64) -> Outcome {
        let holds = |compare: &Compare| compare.condition.holds(self.map.get(&compare.key));
        let succeeded = transaction.compare.iter().all(holds);
        let steps = match succeeded {
            true => &transaction.then,
            false => &transaction.otherwise,
        };
        for step in steps {
            if let Step::Put {
                lease: Some(lease), ..
            } = step
                && !self.leases.contains_key(lease)
            {
                return Outcome::Refused(Invalid::LeaseUnknown { lease: *lease });
            }
        }
        let mut outcomes = Vec::new();
        for step in steps {
            outcomes.push(match step {
                Step::Get { key } => StepOutcome::Value(self.map.get(key).cloned()),
                Step::Delete { key } => {
                    let existed = self.map.contains_key(key);
                    self.set(key, None, revision);
                    StepOutcome::Deleted { existed }
                }
                Step::Put { key, value, lease } => {
                    self.set(key, Some(value), revision);
                    if let Some(lease) = lease {
                        self.bound.insert(key.clone(), *lease);
                    }
                    StepOutcome::Written
                }
            });
        }
        Outcome::Transacted {
            succeeded,
            steps: outcomes,
            revision,
        }
    }

    /// As [`Model::apply`], and notes which keys are others afterwards.
    fn apply_watched(&mut self, revision: u64, data: &Bytes) -> Outcome {
        let before = self.map.clone();
        let outcome = self.apply(revision, data);
        let keys = before.keys().chain(self.map.keys());
        let keys: std::collections::BTreeSet<&Bytes> = keys.collect();
        for key in keys {
            let now = self.map.get(key);
            if before.get(key) != now {
                self.changes.push(Change {
                    key: key.clone(),
                    value: now.map(|value| value.data.clone()),
                    revision,
                });
            }
        }
        outcome
    }

    fn leases(&self, from: u64, limit: usize) -> Vec<ListedLease> {
        let leases = self.leases.range(from..).map(|(number, (ttl, ends, _))| {
            let keys = self.bound.values().filter(|lease| *lease == number).count();
            ListedLease {
                number: *number,
                lease: Lease {
                    ttl_ms: *ttl,
                    remaining_ms: ends - self.now,
                },
                keys: keys as u32,
                more_keys: false,
            }
        });
        leases.take(limit).collect()
    }

    fn range(&self, start: &[u8], limit: usize) -> Vec<Pair> {
        let bounds = (Bound::Included(start), Bound::Unbounded);
        let pairs = self.map.range::<[u8], _>(bounds).map(|(key, value)| Pair {
            key: key.clone(),
            value: value.clone(),
        });
        pairs.take(limit).collect()
    }
}

fn only_gets(command: &Command) -> bool {
    let Command::Transact(transaction) = command else {
        return false;
    };
    let mut steps = transaction.then.iter().chain(&transaction.otherwise);
    steps.all(|step| matches!(step, Step::Get { .. }))
}

/// How the store under test is set up: with and without a thread of its own, and with an overlay so
/// small that applying waits for the disk.
fn options(seed: u64) -> KvOptions {
    KvOptions {
        background: !seed.is_multiple_of(3),
        overlay_bytes_max: if seed.is_multiple_of(4) {
            1 << 11
        } else {
            KV_OVERLAY_BYTES_DEFAULT
        },
        ..KvOptions::default()
    }
}

/// What each entry has done to each key in all, in the order of keys: a lease that ends in an entry takes a key along that
/// the entry's command may write.
fn in_all(changes: Vec<Change>) -> Vec<Change> {
    let last = changes
        .into_iter()
        .map(|change| ((change.revision, change.key.clone()), change));
    BTreeMap::from_iter(last).into_values().collect()
}

/// What a watch of everything from the beginning has seen.
fn seen(store: &KvStore) -> Vec<Change> {
    use crate::kv::history::{Seen, Watched};
    let (told, heard) = std::sync::mpsc::channel();
    let watched = Watched {
        start: Bytes::new(),
        end: None,
    };
    let mut after = ORIGIN.index.value();
    let mut all = Vec::new();
    let cluster = quorate_certs::ClusterName::new("c1").unwrap();
    let subject = quorate_certs::Subject::client("model").unwrap();
    let who = Arc::new(quorate_certs::Identity::new(cluster, subject));
    loop {
        let told = told.clone();
        let until = std::time::Instant::now();
        let tell = move |seen| told.send(seen).unwrap();
        store
            .board()
            .history
            .watch(&who, watched.clone(), after, until, tell);
        store.board().history.tick(until);
        match heard.recv().unwrap() {
            Seen::Changes { changes, .. } if changes.is_empty() => return all,
            Seen::Changes { changes, revision } => {
                all.extend(changes);
                after = revision;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Random commands in random batches, with checkpoints that take their time, restarts, crashes and snapshots in
/// between, after which the log is applied again from where the store says: outcomes, contents, changes and
/// digest are always those of a map that saw every command once.
#[test]
fn a8_a9_h11_it_is_a_map_through_restarts_and_crashes() {
    let (mut replayed, mut refused, mut during) = (0, 0, 0);
    let (mut not_kept, mut read_again, mut greedy) = (0, 0, 0);
    let (mut repeated, mut ended, mut listed, mut strangers) = (0, 0, 0, 0);
    for seed in 1..=24 {
        let mut rng = Rng(u64::wrapping_mul(seed, 0x9E37_79B9_7F4A_7C15));
        let options = options(seed);
        let holds = options.background && options.overlay_bytes_max == KV_OVERLAY_BYTES_DEFAULT;
        let (directory, mut path, store) = new_store();
        drop(store);
        let (mut gate, mut store) = Gate::open(&path, options);
        let (_other_directory, _, mut steady) = new_store();
        let mut log: Vec<Bytes> = Vec::new();
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut model = Model::default();
        for round in 0..60 {
            let first = log.len();
            for _ in 0..=rng.below(12) {
                let index = log.len() as u64 + 2;
                let entry = rng.entry(&model, &log);
                outcomes.push(model.apply_watched(index, &entry));
                log.push(entry);
            }
            steady.timed.shares.most = SHARE;
            steady
                .apply(&batch(first as u64 + 2, &log[first..]))
                .unwrap();
            match rng.below(9) {
                0..3 => store.checkpoint().unwrap(),
                3 => {
                    gate.release();
                    drop(store);
                    (gate, store) = Gate::open(&path, options);
                }
                4 => {
                    // What a killed process leaves: the file as it is, while it is open, and maybe
                    // while it is being written.
                    let copy = directory.path().join(format!("kv{round}.redb"));
                    fs::copy(&path, &copy).unwrap();
                    path = copy;
                    gate.release();
                    drop(store);
                    (gate, store) = Gate::open(&path, options);
                }
                5 => {
                    gate.release();
                    store.close().unwrap();
                    let closed = store.applied();
                    drop(store);
                    (gate, store) = Gate::open(&path, options);
                    assert_eq!(store.applied(), closed, "seed {seed}");
                }
                6 if holds => gate.hold(),
                7 => {
                    // Another member's state, as of its last checkpoint.
                    steady.checkpoint().unwrap();
                    steady.wait().unwrap();
                    let mut source = source(&mut steady);
                    let (last, pieces) = (source.last(), pieces(&mut *source));
                    gate.release();
                    store.wait().unwrap();
                    if last.index > store.applied().index {
                        assert!(receive(&mut store, last, &pieces).finish().unwrap());
                        store.install(last).unwrap();
                    }
                }
                _ => gate.release(),
            }
            let applied = store.applied().index.value() as usize - 1;
            replayed += first.saturating_sub(applied);
            if applied < log.len() {
                store.timed.shares.most = SHARE;
                let again = store
                    .apply(&batch(applied as u64 + 2, &log[applied..]))
                    .unwrap();
                for (again, outcome) in again.iter().zip(&outcomes[applied..]) {
                    assert_eq!(&Outcome::decode(again).unwrap(), outcome, "seed {seed}");
                }
            }
            during += usize::from(store.flusher.frozen().is_some());
            let start = rng.key();
            let (pairs, _) = range(&mut store, &start, None, 5);
            assert_eq!(pairs, model.range(&start, 5), "seed {seed}");
            let from = rng.number(&model.granted);
            let expected = model.leases(from, 3);
            listed += expected.iter().filter(|lease| lease.keys > 0).count();
            let all = model.leases(from, 4).len();
            assert_eq!(
                leases(&mut store, from, 3),
                (expected, all > 3),
                "seed {seed}"
            );
            assert_eq!(
                store.digest().unwrap(),
                steady.digest().unwrap(),
                "seed {seed}"
            );
        }
        refused += outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Outcome::Refused(_)))
            .count();
        assert_eq!(
            range(&mut store, b"", None, 100).0,
            model.range(b"", 100),
            "seed {seed}"
        );
        assert_eq!(in_all(seen(&steady)), model.changes, "seed {seed}");
        (repeated, ended) = (repeated + model.repeated, ended + model.ended);
        strangers += model.strangers;
        greedy += model.greedy;
        (not_kept, read_again) = (not_kept + model.not_kept, read_again + model.read_again);
        // The control: one more command and the digests differ.
        apply(&mut steady, log.len() as u64 + 2, &put(b"key0", b"more"));
        assert_ne!(
            store.digest().unwrap(),
            steady.digest().unwrap(),
            "seed {seed}"
        );
        gate.release();
    }
    assert!(
        replayed > 100 && refused > 10 && during > 40 && repeated > 20 && ended > 8 && listed > 8,
        "{replayed} replayed, {refused} refused, {during} rounds during a flush, {repeated} repeated, \
         {ended} ended with their lease, {listed} leases listed with keys"
    );
    assert!(
        not_kept > 0 && read_again > 0,
        "{not_kept} answers not kept, {read_again} read again"
    );
    assert!(strangers > 20, "{strangers} commands in sessions of others");
    assert!(greedy > 10, "{greedy} leases beyond what one may have");
}
