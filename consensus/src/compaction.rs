//! When the log gets a new beginning (Raft paper, section 7).

use std::collections::VecDeque;

use crate::config::Config;
use crate::durability::Recovered;
use crate::entry::Entry;
use crate::types::LogIndex;

/// The most bytes of entries that are counted as one: few enough that removing them takes about a
/// millisecond, many enough that a gigabyte of log is some thousands of them.
const CHUNK_BYTES_MAX: u64 = 256 << 10;

/// Into how many chunks the tail that is kept is divided at least.
const CHUNKS_MIN: u64 = 16;

/// How large the log is, and how much of it has to stay.
///
/// Invariants:
/// - `chunks` are in the order of their indexes, and the newest one is still growing;
/// - `bytes` is their sum, which is that of the log's entries to within a chunk.
#[derive(Debug)]
pub(crate) struct Compaction {
    chunks: VecDeque<Chunk>,
    bytes: u64,
    chunk_bytes: u64,
    tail_bytes: u64,
    bytes_max: u64,
    durable: LogIndex,
}

#[derive(Debug)]
struct Chunk {
    last: LogIndex,
    bytes: u64,
}

impl Compaction {
    /// Of the log of `recovered`, whose entries are taken for equally large.
    pub(crate) fn new(config: &Config, recovered: &Recovered) -> Self {
        let tail_bytes = config.log_tail_bytes;
        let mut compaction = Self {
            chunks: VecDeque::new(),
            bytes: recovered.bytes,
            chunk_bytes: (tail_bytes / CHUNKS_MIN).clamp(1, CHUNK_BYTES_MAX),
            tail_bytes,
            bytes_max: config.log_bytes_max,
            durable: recovered.base().index,
        };
        let base = recovered.base().index.value();
        let entries = recovered.last.value() - base;
        let count = (recovered.bytes / compaction.chunk_bytes).clamp(1, entries.max(1));
        let place = |total: u64, at: u64| {
            let place = u128::from(total) * u128::from(at) / u128::from(count);
            u64::try_from(place).expect("at most the total")
        };
        for at in 1..=count {
            compaction.chunks.push_back(Chunk {
                last: LogIndex::new(base + place(entries, at)),
                bytes: place(recovered.bytes, at) - place(recovered.bytes, at - 1),
            });
        }
        compaction
    }

    /// The state machine has the effects of everything up to `index` durably.
    pub(crate) fn is_durable(&mut self, index: LogIndex) {
        self.durable = self.durable.max(index);
    }

    /// The log goes on with `entries`, which replace what it has from the first of them on.
    pub(crate) fn appended(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else {
            return;
        };
        while self
            .chunks
            .back()
            .is_some_and(|chunk| chunk.last >= first.id.index)
        {
            let chunk = self.chunks.pop_back().expect("just seen");
            self.bytes -= chunk.bytes;
        }
        for entry in entries {
            let (last, bytes) = (entry.id.index, entry.bytes());
            self.bytes += bytes;
            match self.chunks.back_mut() {
                Some(chunk) if chunk.bytes < self.chunk_bytes => {
                    chunk.last = last;
                    chunk.bytes += bytes;
                }
                _ => self.chunks.push_back(Chunk { last, bytes }),
            }
        }
    }

    /// The log begins anew after `base`.
    pub(crate) fn restored(&mut self, base: LogIndex) {
        self.chunks.clear();
        self.bytes = 0;
        self.durable = base;
    }

    /// Up to where the log is to be compacted together with a write of `written` bytes, if it is, and
    /// takes that off. Nothing is removed that the state machine does not have durably or that would cut
    /// the tail, nor, unless the log is too large, anything from `held` on.
    ///
    /// Only a little at a time, so that no write takes long; but more than is written, so that the log
    /// does not grow.
    pub(crate) fn cut(&mut self, written: u64, held: Option<LogIndex>) -> Option<LogIndex> {
        let most = self.chunk_bytes + 2 * written;
        let (mut cut, mut removed) = (None, 0);
        while let Some(chunk) = self.chunks.front() {
            let held = held.is_some_and(|held| chunk.last >= held);
            if self.bytes - chunk.bytes < self.tail_bytes
                || chunk.last > self.durable
                || held && self.bytes <= self.bytes_max
                || cut.is_some() && removed + chunk.bytes > most
            {
                break;
            }
            self.bytes -= chunk.bytes;
            removed += chunk.bytes;
            cut = Some(chunk.last);
            self.chunks.pop_front();
        }
        cut
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::entry::{ENTRY_OVERHEAD_BYTES, ORIGIN};
    use crate::membership::Membership;
    use crate::types::{EntryId, NodeId, Term};

    const ENTRY_BYTES: u64 = 1000;

    fn entries(indexes: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
        let command = Bytes::from(vec![0; (ENTRY_BYTES - ENTRY_OVERHEAD_BYTES) as usize]);
        indexes
            .map(|index| {
                let id = EntryId::new(Term::new(1), LogIndex::new(index));
                Entry::command(id, command.clone())
            })
            .collect()
    }

    /// Of a log with entries up to `last`, which keeps at least 32 and, if it can, at most 100.
    fn compaction(last: u64) -> Compaction {
        let node = NodeId::new(1).unwrap();
        let mut config = Config::new(node);
        config.log_tail_bytes = 32 * ENTRY_BYTES;
        config.log_bytes_max = 100 * ENTRY_BYTES;
        let mut recovered = Recovered::founding(Membership::new([node], []).unwrap());
        recovered.last = LogIndex::new(last);
        recovered.bytes = (last - ORIGIN.index.value()) * ENTRY_BYTES;
        Compaction::new(&config, &recovered)
    }

    fn all_cuts(compaction: &mut Compaction, held: Option<u64>) -> Vec<u64> {
        let held = held.map(LogIndex::new);
        let cuts = std::iter::from_fn(|| compaction.cut(0, held));
        cuts.map(LogIndex::value).collect()
    }

    /// The log keeps its tail and what is not durable in the state machine, and goes in small steps.
    #[test]
    fn only_what_is_durable_and_before_the_tail_goes() {
        let mut compaction = compaction(ORIGIN.index.value());
        compaction.appended(&entries(2..=61));
        assert_eq!(all_cuts(&mut compaction, None), []);
        compaction.is_durable(LogIndex::new(10));
        assert_eq!(all_cuts(&mut compaction, None), [3, 5, 7, 9]);
        compaction.is_durable(LogIndex::new(61));
        let cuts = all_cuts(&mut compaction, None);
        assert_eq!((cuts[0], *cuts.last().unwrap()), (11, 29));
        assert_eq!(compaction.bytes, 32 * ENTRY_BYTES);
        compaction.appended(&entries(62..=91));
        compaction.is_durable(LogIndex::new(91));
        let with_a_write = compaction.cut(10 * ENTRY_BYTES, None);
        assert_eq!(
            with_a_write,
            Some(LogIndex::new(51)),
            "22 entries of a write of 10"
        );
    }

    /// What somebody still needs stays until the log is too large.
    #[test]
    fn what_is_held_stays_within_bounds() {
        let mut compaction = compaction(ORIGIN.index.value());
        compaction.appended(&entries(2..=91));
        compaction.is_durable(LogIndex::new(91));
        assert_eq!(all_cuts(&mut compaction, Some(8)), [3, 5, 7]);
        compaction.appended(&entries(92..=111));
        assert_eq!(
            compaction.cut(0, Some(LogIndex::new(8))),
            Some(LogIndex::new(9))
        );
        assert_eq!(all_cuts(&mut compaction, Some(8)), [11]);
        assert_eq!(compaction.bytes, 100 * ENTRY_BYTES);
    }

    /// A recovered log is compacted as well, and a suffix that is replaced no longer counts.
    #[test]
    fn recovered_entries_count_and_replaced_ones_do_not() {
        let mut compaction = compaction(61);
        compaction.is_durable(LogIndex::new(61));
        let cuts = all_cuts(&mut compaction, None);
        assert_eq!(*cuts.last().unwrap(), 29);
        compaction.appended(&entries(40..=41));
        assert!(compaction.bytes <= 12 * ENTRY_BYTES);
        assert_eq!(all_cuts(&mut compaction, None), []);
        compaction.restored(LogIndex::new(500));
        compaction.appended(&entries(501..=540));
        assert_eq!(all_cuts(&mut compaction, None), []);
        compaction.is_durable(LogIndex::new(540));
        assert_eq!(*all_cuts(&mut compaction, None).last().unwrap(), 508);
    }
}
