//! The states of which backups are being read at a node.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quorate_consensus::{Chunk, EntryId, SnapshotSource, StateMachineError};

/// Of how many states backups can be read at a node at the same time. Each holds on to what was in memory, at most
/// twice [`KvOptions::overlay_bytes_max`](crate::kv::KvOptions::overlay_bytes_max), and to pages of the file that
/// are written anew meanwhile. One more takes the place of the one that was not asked for the longest.
pub const BACKUPS_MAX: usize = 2;

/// For how long a node holds on to a state of which nobody asks for another piece: longer than a client that has
/// not given up needs for one.
pub const BACKUP_IDLE_MAX: Duration = Duration::from_secs(60);

/// Shared by the store, which reads, and the service in front of it, which knows the time.
#[derive(Default)]
pub(crate) struct Held(Mutex<Vec<Reading>>);

/// Those asked last come last.
struct Reading {
    source: Box<dyn SnapshotSource>,
    /// How many began to read it and have not said that they are through.
    readers: u32,
    /// When it is forgotten, once somebody has looked at the clock since it was asked.
    until: Option<Instant>,
}

impl Held {
    /// Holds `source` for one more reader, until it is through or asks for no more. Two of the same entry are the same.
    pub(crate) fn hold(&self, source: Box<dyn SnapshotSource>) {
        let mut held = self.lock();
        let readers = match position(&held, source.last()) {
            Some(at) => held.remove(at).readers,
            None => 0,
        };
        if held.len() == BACKUPS_MAX {
            held.remove(0);
        }
        held.push(Reading {
            source,
            readers: readers.saturating_add(1),
            until: None,
        });
    }

    /// A reader of the state after the entry `last` is through.
    pub(crate) fn release(&self, last: EntryId) {
        let mut held = self.lock();
        if let Some(at) = position(&held, last) {
            held[at].readers -= 1;
            if held[at].readers == 0 {
                held.remove(at);
            }
        }
    }

    /// The piece after the place `after` of the state after the entry `last`, or `None` if that is not held.
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
        let mut held = self.lock();
        let Some(at) = position(&held, last) else {
            return Ok(None);
        };
        let mut reading = held.remove(at);
        reading.until = None;
        let chunk = reading.source.chunk(after, bytes_max);
        held.push(reading);
        chunk.map(Some)
    }

    /// It is `now`: forgets those of which nobody has asked for more in [`BACKUP_IDLE_MAX`].
    pub(crate) fn tick(&self, now: Instant) {
        self.lock().retain_mut(|reading| {
            let until = *reading.until.get_or_insert(now + BACKUP_IDLE_MAX);
            now < until
        });
    }

    /// Holds none any more.
    pub(crate) fn end(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Reading>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn position(held: &[Reading], last: EntryId) -> Option<usize> {
    held.iter()
        .position(|reading| reading.source.last() == last)
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held: Vec<EntryId> = self.lock().iter().map(|held| held.source.last()).collect();
        write!(f, "Held({held:?})")
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate_consensus::{LogIndex, Term};

    use super::*;

    struct Source(EntryId);

    impl SnapshotSource for Source {
        fn last(&self) -> EntryId {
            self.0
        }

        fn chunk(&mut self, after: &[u8], _: u64) -> Result<Chunk, StateMachineError> {
            let data = Bytes::copy_from_slice(after);
            Ok(Chunk { data, next: None })
        }
    }

    fn id(index: u64) -> EntryId {
        EntryId::new(Term::new(1), LogIndex::new(index))
    }

    fn hold(held: &Held, index: u64) {
        held.hold(Box::new(Source(id(index))));
    }

    fn has(held: &Held, index: u64) -> bool {
        held.chunk(id(index), b"a", 1).unwrap().is_some()
    }

    /// There are never more than the bound, and the one that goes is the one that was not asked for the longest.
    #[test]
    fn the_one_not_asked_for_the_longest_goes() {
        let held = Held::default();
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

    /// It goes when the last one is through, and not before.
    #[test]
    fn who_is_through_lets_go() {
        let held = Held::default();
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
        let held = Held::default();
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
