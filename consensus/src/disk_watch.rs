//! Notices a disk that does not answer.

use crate::config::ELECTION_TICKS;

/// How long a write may take before the disk counts as stalled: four election timeouts, a second by
/// default. Cloud disks pause for a few hundred milliseconds now and then, and a change of leader costs
/// about as much; a write that takes longer than this holds up clients longer than the change would.
pub(crate) const STALLED_TICKS: u64 = 4 * ELECTION_TICKS as u64;

/// Watches the oldest write that is on its way to the disk.
#[derive(Debug, Default)]
pub(crate) struct DiskWatch {
    oldest: Option<Oldest>,
}

#[derive(Debug)]
struct Oldest {
    ticket: u64,
    since: u64,
}

/// What there is to say about the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sight {
    /// A write takes too long. Said again each time as much time has passed.
    Stalled {
        /// For how many ticks.
        ticks: u64,
    },
    /// A write that took too long is done.
    Recovered {
        /// After how many ticks.
        ticks: u64,
    },
}

impl DiskWatch {
    /// For how many ticks the oldest write has been on its way.
    pub(crate) fn waited(&self, now: u64) -> u64 {
        self.oldest.as_ref().map_or(0, |oldest| now - oldest.since)
    }

    /// Looks once a tick: `oldest` is the ticket of the oldest write that is not done.
    pub(crate) fn look(&mut self, oldest: Option<u64>, now: u64) -> Option<Sight> {
        let before = self.oldest.as_ref();
        if let Some(same) = before.filter(|before| Some(before.ticket) == oldest) {
            let ticks = now - same.since;
            let due = ticks > 0 && ticks.is_multiple_of(STALLED_TICKS);
            return due.then_some(Sight::Stalled { ticks });
        }
        let done = before.map(|before| now - before.since);
        self.oldest = oldest.map(|ticket| Oldest { ticket, since: now });
        done.filter(|&ticks| ticks >= STALLED_TICKS)
            .map(|ticks| Sight::Recovered { ticks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `watch` says at each tick of `ticks` while `oldest` is the oldest write.
    fn seen(watch: &mut DiskWatch, oldest: Option<u64>, ticks: std::ops::Range<u64>) -> Vec<Sight> {
        ticks.filter_map(|now| watch.look(oldest, now)).collect()
    }

    #[test]
    fn one_slow_write_is_seen_and_many_quick_ones_are_not() {
        let mut watch = DiskWatch::default();
        let quick = (0..500).filter_map(|now| watch.look(Some(now / 50), now));
        assert_eq!(quick.count(), 0, "each takes half of the time allowed");
        let slow = seen(&mut watch, Some(99), 500..500 + 2 * STALLED_TICKS + 1);
        let stalled = |ticks| Sight::Stalled { ticks };
        assert_eq!(slow, [STALLED_TICKS, 2 * STALLED_TICKS].map(stalled));
        let ticks = 2 * STALLED_TICKS + 10;
        assert_eq!(
            watch.look(None, 500 + ticks),
            Some(Sight::Recovered { ticks })
        );
        assert_eq!(watch.look(None, 501 + ticks), None);
    }
}
