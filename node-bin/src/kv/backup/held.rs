//! The states of which backups are being read at a node.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_consensus::{Chunk, EntryId, SnapshotSource, StateMachineError};
use tracing::debug;

/// Of how many states backups can be read at a node at the same time. Each holds on to what was in memory, at most
/// twice [`KvOptions::overlay_bytes_max`](crate::kv::KvOptions::overlay_bytes_max), and to pages of the file that
/// are written anew meanwhile. One more takes the place of the one that was not asked for the longest.
pub const BACKUPS_MAX: usize = 2;

/// For how long a node holds on to a state of which nobody asks for another piece: longer than a client that has
/// not given up needs for one.
pub const BACKUP_IDLE_MAX: Duration = Duration::from_secs(60);

/// How many places a reader can go on from: the last ones that were named, of which the source knows the digest.
/// To go on from any other costs a walk through all that comes before it, for which everybody would wait; only whoever is
/// far behind another reader of the same state would ask for that, or means harm.
const PLACES_MAX: usize = 32;

/// Shared by the store, which reads, and the service in front of it, which knows the time and must not wait for a disk:
/// so nothing is read under the lock.
pub(crate) struct Held {
    inner: Mutex<Inner>,
    /// Whether there are threads: a simulation has none.
    background: bool,
}

#[derive(Default)]
struct Inner {
    /// Those asked last come last.
    held: Vec<Reading>,
    /// What drops those that are held no more.
    dropping: Vec<JoinHandle<()>>,
    ended: bool,
}

struct Reading {
    source: Box<dyn SnapshotSource>,
    /// How many began to read it and have not said that they are through.
    readers: u32,
    /// The places that were named last, the oldest first.
    places: VecDeque<Bytes>,
    /// When it is forgotten, once somebody has looked at the clock since it was asked.
    until: Option<Instant>,
}

impl Held {
    pub(crate) fn new(background: bool) -> Self {
        let inner = Mutex::default();
        Self { inner, background }
    }

    /// Holds `source` for one more reader, until it is through or asks for no more. Two of the same entry are the same.
    pub(crate) fn hold(&self, source: Box<dyn SnapshotSource>) {
        let mut inner = self.lock();
        let mut reading = inner.take(source.last()).unwrap_or(Reading {
            source,
            readers: 0,
            places: VecDeque::new(),
            until: None,
        });
        if inner.held.len() == BACKUPS_MAX {
            inner.held.remove(0);
        }
        reading.readers = reading.readers.saturating_add(1);
        reading.until = None;
        inner.put(reading);
    }

    /// A reader of the state after the entry `last` is through.
    pub(crate) fn release(&self, last: EntryId) {
        let mut inner = self.lock();
        if let Some(mut reading) = inner.take(last) {
            reading.readers -= 1;
            if reading.readers > 0 {
                inner.put(reading);
            }
        }
    }

    /// The piece after the place `after` of the state after the entry `last`, or `None` if that is not held, or that
    /// place was not named of late.
    ///
    /// # Errors
    ///
    /// As the source's.
    pub(crate) fn chunk(
        &self,
        last: EntryId,
        after: &[u8],
        bytes_max: u64,
    ) -> Result<Option<Chunk>, StateMachineError> {
        let taken = self.lock().take(last);
        let Some(mut reading) = taken else {
            return Ok(None);
        };
        let chunk = match reading.knows(after) {
            true => reading.chunk(after, bytes_max).map(Some),
            false => Ok(None),
        };
        self.lock().put(reading);
        chunk
    }

    /// It is `now`: lets go of those of which nobody has asked for more in [`BACKUP_IDLE_MAX`].
    pub(crate) fn tick(&self, now: Instant) {
        let is_over = |reading: &mut Reading| {
            let until = *reading.until.get_or_insert(now + BACKUP_IDLE_MAX);
            now >= until
        };
        let over: Vec<Reading> = self.lock().held.extract_if(.., is_over).collect();
        if !over.is_empty() {
            self.drop_elsewhere(over);
        }
    }

    /// Holds none any more. When this returns, all is dropped that was held: the file may be opened again.
    pub(crate) fn end(&self) {
        let (held, dropping) = {
            let mut inner = self.lock();
            inner.ended = true;
            let Inner { held, dropping, .. } = &mut *inner;
            (std::mem::take(held), std::mem::take(dropping))
        };
        drop(held);
        for thread in dropping {
            // If it panicked, the panic has been reported on that thread.
            let _ = thread.join();
        }
    }

    /// Who looks at the clock has packets that wait: to drop a hundred thousand pairs takes some milliseconds. So a
    /// thread is made for that, which is nothing once a minute. Where there is none to be had, they are dropped here.
    fn drop_elsewhere(&self, over: Vec<Reading>) {
        if !self.background {
            return drop(over);
        }
        let dropping = Builder::new().name("quorate-kv-drop".into());
        match dropping.spawn(move || drop(over)) {
            Ok(thread) => {
                let mut inner = self.lock();
                inner.dropping.retain(|thread| !thread.is_finished());
                inner.dropping.push(thread);
            }
            Err(error) => debug!(%error, "what a backup held was dropped where others wait"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is one line.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self, last: EntryId) -> Option<Reading> {
        let mut held = self.held.iter();
        let at = held.position(|reading| reading.source.last() == last)?;
        Some(self.held.remove(at))
    }

    fn put(&mut self, reading: Reading) {
        if !self.ended {
            self.held.push(reading);
        }
    }
}

impl Reading {
    fn knows(&self, place: &[u8]) -> bool {
        place.is_empty() || self.places.iter().any(|known| known == place)
    }

    fn chunk(&mut self, after: &[u8], bytes_max: u64) -> Result<Chunk, StateMachineError> {
        self.until = None;
        let chunk = self.source.chunk(after, bytes_max)?;
        if let Some(next) = &chunk.next
            && !self.places.contains(next)
        {
            if self.places.len() == PLACES_MAX {
                self.places.pop_front();
            }
            self.places.push_back(next.clone());
        }
        Ok(chunk)
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        let held: Vec<EntryId> = inner.held.iter().map(|held| held.source.last()).collect();
        write!(f, "Held({held:?})")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::thread::{self, ThreadId};

    use quorate_consensus::{LogIndex, Term};

    use super::*;

    struct Source(EntryId);

    impl SnapshotSource for Source {
        fn last(&self) -> EntryId {
            self.0
        }

        fn chunk(&mut self, after: &[u8], _: u64) -> Result<Chunk, StateMachineError> {
            let data = Bytes::copy_from_slice(after);
            let next = Some([after, b"+"].concat().into());
            Ok(Chunk { data, next })
        }
    }

    /// Says on which thread it is dropped.
    struct Told(Sender<ThreadId>);

    impl SnapshotSource for Told {
        fn last(&self) -> EntryId {
            id(7)
        }

        fn chunk(&mut self, _: &[u8], _: u64) -> Result<Chunk, StateMachineError> {
            unreachable!("nobody reads it")
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).unwrap();
        }
    }

    /// The thread that looks at the clock, whose packets wait meanwhile, drops nothing where there are others; and the
    /// end comes after all is dropped.
    #[test]
    fn what_is_let_go_is_dropped_elsewhere() {
        for background in [true, false] {
            let (told, dropped) = channel();
            let held = Held::new(background);
            let now = Instant::now();
            held.hold(Box::new(Told(told)));
            held.tick(now);
            assert!(dropped.try_recv().is_err() && held.lock().held.len() == 1);
            held.tick(now + BACKUP_IDLE_MAX);
            held.end();
            let here = thread::current().id();
            assert_eq!(dropped.try_recv().unwrap() == here, !background);
        }
    }

    fn id(index: u64) -> EntryId {
        EntryId::new(Term::new(1), LogIndex::new(index))
    }

    fn hold(held: &Held, index: u64) {
        held.hold(Box::new(Source(id(index))));
    }

    fn has(held: &Held, index: u64) -> bool {
        held.chunk(id(index), b"", 1).unwrap().is_some()
    }

    /// One goes on from where it was, or a little before, and from nowhere else.
    #[test]
    fn a_place_has_to_be_named() {
        let held = Held::new(true);
        hold(&held, 7);
        let ask = |after: &[u8]| held.chunk(id(7), after, 1).unwrap();
        assert!(ask(b"+").is_none());
        let mut place = Bytes::new();
        for _ in 0..2 * PLACES_MAX {
            let next = ask(&place).unwrap().next.unwrap();
            // The answer may have been lost.
            assert_eq!(ask(&place).unwrap().next, Some(next.clone()));
            place = next;
        }
        assert!(ask(b"+").is_none());
        assert!(ask(&place[..place.len() - PLACES_MAX / 2]).is_some());
        assert!(ask(b"").is_some() && ask(b"+").is_some());
    }

    /// There are never more than the bound, and the one that goes is the one that was not asked for the longest.
    #[test]
    fn the_one_not_asked_for_the_longest_goes() {
        let held = Held::new(true);
        hold(&held, 7);
        hold(&held, 8);
        assert!(has(&held, 7));
        hold(&held, 9);
        assert!(!has(&held, 8));
        assert!(has(&held, 7) && has(&held, 9));
        // The same state once more is no further one.
        hold(&held, 9);
        assert!(has(&held, 7) && has(&held, 9));
    }

    /// After the end nothing is held, whatever was being read then.
    #[test]
    fn nothing_is_held_after_the_end() {
        let held = Held::new(true);
        hold(&held, 7);
        let reading = held.lock().take(id(7)).unwrap();
        held.end();
        held.lock().put(reading);
        hold(&held, 8);
        assert!(!has(&held, 7) && !has(&held, 8));
    }

    /// It goes when the last one is through, and not before.
    #[test]
    fn who_is_through_lets_go() {
        let held = Held::new(true);
        hold(&held, 7);
        hold(&held, 7);
        held.release(id(8));
        held.release(id(7));
        assert!(has(&held, 7));
        held.release(id(7));
        assert!(!has(&held, 7));
        held.release(id(7));
    }

    /// Whoever goes on asking keeps it, however long it takes; whoever does not, does not.
    #[test]
    fn nothing_is_held_for_nobody() {
        let held = Held::new(true);
        let mut now = Instant::now();
        hold(&held, 7);
        hold(&held, 8);
        for _ in 0..10 {
            held.tick(now);
            now += BACKUP_IDLE_MAX - Duration::from_secs(1);
            held.tick(now);
            assert!(has(&held, 7));
        }
        assert!(!has(&held, 8));
        held.tick(now);
        held.tick(now + BACKUP_IDLE_MAX);
        assert!(!has(&held, 7));
    }
}
