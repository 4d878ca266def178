//! What has happened to keys of late, and who waits for what happens next.
//!
//! It is in memory only: a node that starts knows what it applies again from its log. Whoever asks for more
//! than there is learns it, reads the keys anew, and goes on from the revision of that.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_certs::Identity;
use serde::{Deserialize, Serialize};

use super::query::{RANGE_BYTES_MAX, Size};
use super::watchers::{Watcher, Watchers};
use crate::planted;

/// How many bytes of changes a node remembers, unless told otherwise: some seconds of full load.
pub const WATCH_HISTORY_BYTES_DEFAULT: usize = 8 << 20;

/// For how long a question for what happens next may wait at a node. Then it is answered with how far the
/// node is, and asked again.
pub const WATCH_WAIT_MAX: Duration = Duration::from_secs(10);

/// How many such questions may wait at a node: one or a few for each of the clients that it may have connected by default, about
/// half a kilobyte each with short keys. Where there are more, whoever has most of them waiting is told that it is overloaded.
pub const WATCHERS_MAX: usize = 16_384;

/// How many may wait and still be told how far it is whenever half of what is remembered was written since, so that the
/// next leader remembers what comes after that. More: at full load, when half is a quarter of a second, their questions would cost
/// more than a twentieth of what a node does.
const REMINDED_MAX: usize = 64;

/// How many changes are looked through for one question, so that nobody waits long for it.
const LOOKED_THROUGH_MAX: usize = 10_000;

/// What a change counts for besides its bytes.
const CHANGE_OVERHEAD_BYTES: usize = 96;

/// What happened to a key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which key.
    pub key: Bytes,
    /// Its value now, or `None` if it was removed.
    pub value: Option<Bytes>,
    /// The revision of the change. What one transaction does has one revision.
    pub revision: u64,
}

/// The keys that somebody watches: from `start` on and before `end`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// The first key; empty for the very first.
    pub start: Bytes,
    /// The first key that no longer belongs to them; `None` for no end.
    pub end: Option<Bytes>,
}

/// What there is to say to one who watches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// What happened to the keys, complete up to a revision: go on after that.
    Changes {
        /// In the order in which it happened; empty if nothing did.
        changes: Vec<Change>,
        /// The revision.
        revision: u64,
    },
    /// What came right after the revision asked for is no longer known.
    Gone {
        /// What comes after this revision is.
        since: u64,
    },
    /// Somebody who has fewer questions waiting has the place now.
    Displaced,
}

impl Watched {
    pub(super) fn has(&self, key: &Bytes) -> bool {
        *key >= self.start && self.end.as_ref().is_none_or(|end| key < end)
    }
}

impl Change {
    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

type Answer = Box<dyn FnOnce(Seen) + Send>;

/// What one who waits has seen, for how long it does, and how it is told.
struct Wait {
    after: u64,
    until: Instant,
    answer: Answer,
}

/// What a store has applied of late. Shared by the store, which tells, and those who serve who asks.
pub(crate) struct History {
    bytes_max: usize,
    inner: Mutex<Inner>,
}

/// Invariants:
/// - `changes` are all that happened after `since`, up to `applied`;
/// - who waits has seen everything up to `applied`.
#[derive(Default)]
struct Inner {
    changes: VecDeque<Change>,
    bytes: usize,
    /// How many bytes came since those who wait were last told how far it is.
    unreminded: usize,
    since: u64,
    applied: u64,
    watchers: Watchers<Wait>,
}

impl History {
    /// Nothing is known of what happened up to `applied`.
    pub(crate) fn new(bytes_max: usize, applied: u64) -> Self {
        let history = Self {
            bytes_max,
            inner: Mutex::default(),
        };
        history.begin_anew(applied);
        history
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change is complete before its lines could panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state is that of `applied`, and how it came there is not known.
    pub(crate) fn begin_anew(&self, applied: u64) {
        let mut inner = self.inner();
        inner.changes.clear();
        (inner.bytes, inner.since, inner.applied) = (0, applied, applied);
        let lost = inner.watchers.take_all(|it| it.what.after < applied);
        drop(inner);
        for watcher in lost {
            (watcher.what.answer)(Seen::Gone { since: applied });
        }
    }

    /// `changes` have happened, and the state is that of `applied` now.
    pub(crate) fn tell(&self, changes: Vec<Change>, applied: u64) {
        let mut inner = self.inner();
        let before = std::mem::replace(&mut inner.applied, applied);
        let ready = match changes.is_empty() || inner.watchers.is_empty() {
            true => Vec::new(),
            false => {
                let mut keys: Vec<Bytes> = changes.iter().map(|it| it.key.clone()).collect();
                keys.sort_unstable();
                keys.dedup();
                let behind = |it: &Watcher<Wait>| it.what.after < applied;
                inner.watchers.take_concerned(&keys, behind)
            }
        };
        for change in changes {
            let bytes = change.bytes() + CHANGE_OVERHEAD_BYTES;
            inner.bytes += bytes;
            inner.unreminded += bytes;
            inner.changes.push_back(change);
        }
        // Before anything is forgotten: who waits has missed nothing, however long ago it asked.
        let seen = ready.into_iter().map(|it| {
            let seen = inner.seen(&it.watched, it.what.after.max(before));
            (it.what.answer, seen)
        });
        let answers: Vec<(Answer, Seen)> = seen.collect();
        inner.forget(self.bytes_max);
        let reminded = inner.take_reminded(self.bytes_max);
        drop(inner);
        reminded
            .into_iter()
            .for_each(|it| it.what.tell_nothing(applied));
        // Those who serve take the lock as well, and many large answers take their time.
        for (answer, seen) in answers {
            answer(seen);
        }
    }

    /// Answers `who` asks what happened to the keys after the revision `after`, once something has, or `until`.
    /// Returns whether it does: not when too many wait already, and nobody has more of them waiting. Whoever has
    /// makes room with its oldest, which is told so.
    pub(crate) fn watch(
        &self,
        who: &Arc<Identity>,
        watched: Watched,
        after: u64,
        until: Instant,
        answer: impl FnOnce(Seen) + Send + 'static,
    ) -> bool {
        let mut inner = self.inner();
        let waits = |changes: &[Change], revision| changes.is_empty() && revision >= inner.applied;
        match inner.seen(&watched, after) {
            Seen::Changes { changes, revision } if waits(&changes, revision) => {
                let mut displaced = None;
                if inner.watchers.len() >= WATCHERS_MAX {
                    displaced = inner.watchers.displace_for(who);
                    if displaced.is_none() {
                        return false;
                    }
                }
                let what = Wait {
                    after: revision,
                    until,
                    answer: Box::new(answer),
                };
                let who = Arc::clone(who);
                inner.watchers.add(Watcher { who, watched, what });
                drop(inner);
                if let Some(watcher) = displaced {
                    (watcher.what.answer)(Seen::Displaced);
                }
            }
            seen => {
                drop(inner);
                answer(seen);
            }
        }
        true
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.inner().watchers.len()
    }

    /// Nobody waits any more, and nobody is told.
    pub(crate) fn end(&self) {
        let waiting = self.inner().watchers.take_all(|_| true);
        drop(waiting);
    }

    /// Answers those who have waited long enough.
    pub(crate) fn tick(&self, now: Instant) {
        let mut inner = self.inner();
        let over = inner.watchers.take_all(|it| it.what.until <= now);
        let applied = inner.applied;
        drop(inner);
        over.into_iter()
            .for_each(|it| it.what.tell_nothing(applied));
    }
}

impl Wait {
    /// Nothing has happened to its keys up to `applied`.
    fn tell_nothing(self, applied: u64) {
        (self.answer)(Seen::Changes {
            changes: Vec::new(),
            revision: self.after.max(applied),
        });
    }
}

impl Inner {
    /// Takes out those who wait, if they are few, whenever half of `bytes_max` was written since the last time.
    fn take_reminded(&mut self, bytes_max: usize) -> Vec<Watcher<Wait>> {
        if self.unreminded <= bytes_max / 2 {
            return Vec::new();
        }
        self.unreminded = 0;
        let applied = self.applied;
        match self.watchers.len() <= REMINDED_MAX {
            true => self.watchers.take_all(|it| it.what.after < applied),
            false => Vec::new(),
        }
    }

    /// Forgets the oldest, whole revisions at a time.
    fn forget(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max
            && let Some(oldest) = self.changes.front().map(|change| change.revision)
        {
            while self.changes.front().is_some_and(|it| it.revision == oldest)
                && let Some(change) = self.changes.pop_front()
            {
                self.bytes -= change.bytes() + CHANGE_OVERHEAD_BYTES;
            }
            self.since = oldest;
        }
    }

    fn seen(&self, watched: &Watched, after: u64) -> Seen {
        if after < self.since && !planted::is("watch-gap-not-told") {
            return Seen::Gone { since: self.since };
        }
        let first = self
            .changes
            .partition_point(|change| change.revision <= after);
        let mut changes: Vec<Change> = Vec::new();
        let (mut bytes, mut last) = (0, after);
        // How much is whole: a transaction is seen in one piece.
        let (mut whole, mut complete) = (0, after);
        for (looked, change) in self.changes.range(first..).enumerate() {
            if change.revision != last {
                (whole, complete) = (changes.len(), last);
                last = change.revision;
            }
            if watched.has(&change.key) {
                bytes += change.bytes() + CHANGE_OVERHEAD_BYTES;
                changes.push(change.clone());
            }
            if complete > after && (looked >= LOOKED_THROUGH_MAX || bytes > RANGE_BYTES_MAX) {
                changes.truncate(whole);
                let revision = complete;
                return Seen::Changes { changes, revision };
            }
        }
        Seen::Changes {
            changes,
            revision: self.applied.max(after),
        }
    }
}

/// Keys and values are the user's secrets: sizes only.
impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.as_ref().map(Size);
        write!(
            f,
            "Change({:?}, {value:?}, {})",
            Size(&self.key),
            self.revision
        )
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.end.as_ref().map(Size);
        write!(f, "Watched({:?}, {end:?})", Size(&self.start))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use quorate_certs::{ClusterName, Subject};

    use super::*;

    fn change(key: &str, revision: u64) -> Change {
        Change {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Some(Bytes::from(vec![7; 100])),
            revision,
        }
    }

    fn key(key: &str) -> Watched {
        let start = Bytes::copy_from_slice(key.as_bytes());
        let end = [key.as_bytes(), &[0]].concat();
        Watched {
            start,
            end: Some(end.into()),
        }
    }

    fn everything() -> Watched {
        Watched {
            start: Bytes::new(),
            end: None,
        }
    }

    fn client(name: &str) -> Arc<Identity> {
        let cluster = ClusterName::new("c1").unwrap();
        Arc::new(Identity::new(cluster, Subject::client(name).unwrap()))
    }

    fn ask(history: &History, watched: Watched, after: u64, until: Instant) -> Receiver<Seen> {
        ask_as(&client("a"), history, watched, after, until)
    }

    fn ask_as(
        who: &Arc<Identity>,
        history: &History,
        watched: Watched,
        after: u64,
        until: Instant,
    ) -> Receiver<Seen> {
        let (told, heard) = channel();
        assert!(history.watch(who, watched, after, until, move |seen| {
            let _ = told.send(seen);
        }));
        heard
    }

    fn revisions(seen: Seen) -> (Vec<u64>, u64) {
        match seen {
            Seen::Changes { changes, revision } => (
                changes.iter().map(|change| change.revision).collect(),
                revision,
            ),
            other => panic!("{other:?}"),
        }
    }

    /// Who asks for what has happened is answered at once, and who asks for what has not, when it does; others
    /// are not woken.
    #[test]
    fn who_waits_tell_nothing() {
        let (history, now) = (History::new(1 << 20, 5), Instant::now());
        history.tell(vec![change("a", 7), change("b", 9)], 10);
        let heard = ask(&history, key("a"), 5, now);
        assert_eq!(revisions(heard.recv().unwrap()), (vec![7], 10));
        let (a, b) = (
            ask(&history, key("a"), 10, now),
            ask(&history, key("b"), 10, now + WATCH_WAIT_MAX),
        );
        history.tell(vec![change("b", 12)], 13);
        assert!(a.try_recv().is_err(), "it is of no concern");
        assert_eq!(revisions(b.recv().unwrap()), (vec![12], 13));
        let late = ask(&history, key("b"), 99, now + WATCH_WAIT_MAX);
        history.tick(now);
        assert_eq!(revisions(a.recv().unwrap()), (vec![], 13), "its time is up");
        assert!(late.try_recv().is_err());
        history.tell(vec![change("b", 98)], 98);
        assert!(
            late.try_recv().is_err(),
            "that is before what was asked for"
        );
        history.tell(vec![change("b", 100)], 100);
        assert_eq!(revisions(late.recv().unwrap()), (vec![100], 100));
    }

    /// The oldest are forgotten, whole revisions at a time, and whoever asks for them is told so.
    #[test]
    fn the_past_is_bounded() {
        let (history, now) = (History::new(1000, 1), Instant::now());
        for revision in 2..50 {
            history.tell(vec![change("a", revision), change("b", revision)], revision);
        }
        let gone = ask(&history, everything(), 1, now).recv().unwrap();
        let Seen::Gone { since } = gone else {
            panic!("{gone:?}");
        };
        let (seen, upto) = revisions(ask(&history, everything(), since, now).recv().unwrap());
        assert_eq!(
            (seen[..3].to_vec(), upto),
            (vec![since + 1, since + 1, since + 2], 49)
        );
        assert!(
            seen.len() * 200 > 500 && seen.len() * 200 <= 1200,
            "{seen:?}"
        );
        let gone = ask(&history, everything(), since - 1, now).recv().unwrap();
        assert_eq!(gone, Seen::Gone { since });
        // A state that came from elsewhere has no past, and those who wait learn it.
        let waits = ask(&history, everything(), 49, now);
        history.begin_anew(80);
        assert_eq!(waits.recv().unwrap(), Seen::Gone { since: 80 });
    }

    /// Who waits has missed nothing, however much happens to other keys meanwhile, or at once with what it waits
    /// for: not even where so many wait that nobody is told how far it is.
    #[test]
    fn who_waits_for_a_quiet_key_misses_nothing() {
        let (history, now) = (History::new(1000, 1), Instant::now());
        let ask = |name| ask(&history, key(name), 1, now + WATCH_WAIT_MAX);
        let heard = ask("b");
        let others: Vec<_> = (0..=REMINDED_MAX).map(|_| ask("c")).collect();
        for revision in 2..50 {
            history.tell(vec![change("a", revision)], revision);
        }
        let flood = (50..90).map(|revision| change("a", revision));
        history.tell([change("b", 50)].into_iter().chain(flood).collect(), 90);
        assert_eq!(revisions(heard.recv().unwrap()), (vec![50], 90));
        assert!(others.iter().all(|heard| heard.try_recv().is_err()));
        let gone = ask("b").recv().unwrap();
        assert!(
            matches!(gone, Seen::Gone { .. }),
            "a new question: {gone:?}"
        );
    }

    /// Few who wait for quiet keys know how far it is, so that another node remembers what comes next if theirs goes.
    #[test]
    fn another_node_remembers_what_comes_next() {
        let (here, elsewhere) = (History::new(4000, 1), History::new(4000, 1));
        let now = Instant::now();
        let (mut after, mut reminders) = (1, 0);
        let mut heard = ask(&here, key("b"), after, now);
        for revision in 2..500 {
            for history in [&here, &elsewhere] {
                history.tell(vec![change("a", revision)], revision);
            }
            if let Ok(seen) = heard.try_recv() {
                let (none, upto) = revisions(seen);
                assert_eq!((none, upto), (vec![], revision));
                (after, reminders) = (upto, reminders + 1);
                heard = ask(&here, key("b"), after, now);
            }
            let next = ask(&elsewhere, key("b"), after, now);
            elsewhere.tick(now);
            let (none, upto) = revisions(next.recv().unwrap());
            assert_eq!((none, upto), (vec![], revision), "after {after}");
        }
        assert!((30..100).contains(&reminders), "{reminders}");
    }

    /// An answer is bounded, and ends between two revisions; the next one goes on there.
    #[test]
    fn answers_are_bounded_and_whole() {
        let (history, now) = (History::new(64 << 20, 1), Instant::now());
        for revision in 2..3_000 {
            let changes = (0..5).map(|_| change("a", revision)).collect();
            history.tell(changes, revision);
        }
        let (mut after, mut all, mut answers) = (1, Vec::new(), 0);
        while after < 2_999 {
            let heard = ask(&history, everything(), after, now);
            let (seen, upto) = revisions(heard.recv().unwrap());
            assert!(seen.len().is_multiple_of(5) && seen.last() == Some(&upto));
            assert!(seen.len() * 100 <= RANGE_BYTES_MAX);
            (after, answers) = (upto, answers + 1);
            all.extend(seen);
        }
        assert_eq!(all.len(), 5 * 2_998);
        assert!(all.is_sorted() && answers > 2, "{answers} answers");
        // Who finds nothing among many is told how far that is true.
        let heard = ask(&history, key("b"), 1, now);
        let (none, upto) = revisions(heard.recv().unwrap());
        assert!(none.is_empty() && upto > 1_000 && upto < 2_999, "{upto}");
    }

    /// Only so many wait.
    #[test]
    fn watchers_are_bounded() {
        let (history, now) = (History::new(1 << 20, 1), Instant::now());
        let all: Vec<_> = (0..WATCHERS_MAX)
            .map(|_| ask(&history, everything(), 1, now))
            .collect();
        assert_eq!(history.waiting(), WATCHERS_MAX);
        let may_not_wait = |_| panic!("it may not wait");
        assert!(!history.watch(&client("a"), everything(), 1, now, may_not_wait));
        history.end();
        assert!(
            all.iter().all(|heard| heard.recv().is_err()),
            "nobody is told"
        );
    }

    /// One who has all the places gives some up to others who ask, the oldest first, and is told so; among
    /// equals, nobody does.
    #[test]
    fn nobody_keeps_others_from_watching() {
        let (history, now) = (History::new(1 << 20, 1), Instant::now());
        let (greedy, modest) = (client("greedy"), client("modest"));
        let ask = |who| ask_as(who, &history, everything(), 1, now);
        let all: Vec<_> = (0..WATCHERS_MAX).map(|_| ask(&greedy)).collect();
        let others: Vec<_> = (0..WATCHERS_MAX / 2).map(|_| ask(&modest)).collect();
        let (first, last) = all.split_at(WATCHERS_MAX / 2);
        for heard in first {
            assert_eq!(heard.try_recv(), Ok(Seen::Displaced));
        }
        assert!(
            last.iter()
                .chain(&others)
                .all(|heard| heard.try_recv().is_err())
        );
        for who in [&greedy, &modest] {
            assert!(!history.watch(who, everything(), 1, now, |_| panic!("it may not wait")));
        }
        history.watch(&client("third"), everything(), 1, now, |_| {});
        let told = last
            .iter()
            .chain(&others)
            .filter(|heard| heard.try_recv().is_ok());
        assert_eq!(told.count(), 1);
    }
}
