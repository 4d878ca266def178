//! Notices a disk or a state machine that does not answer.

use crate::config::ELECTION_TICKS;

/// How long a write may take before the disk counts as stalled: four election timeouts, a second by
/// default. Cloud disks pause for a few hundred milliseconds now and then, and a change of leader costs
/// about as much; a write that takes longer than this holds up clients longer than the change would.
pub(crate) const STALLED_TICKS: u64 = 4 * ELECTION_TICKS as u64;

/// Watches the oldest piece of work that somebody else was given and has not brought back.
#[derive(Debug)]
pub(crate) struct StallWatch {
    /// After how many ticks it counts as stalled.
    ticks_max: u64,
    oldest: Option<Oldest>,
}

#[derive(Debug)]
struct Oldest {
    number: u64,
    since: u64,
}

/// What there is to say about who works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sight {
    /// A piece takes too long. Said again each time as much time has passed.
    Stalled {
        /// For how many ticks.
        ticks: u64,
    },
    /// A piece that took too long is done.
    Recovered {
        /// After how many ticks.
        ticks: u64,
    },
}

impl StallWatch {
    pub(crate) fn new(ticks_max: u64) -> Self {
        assert!(ticks_max > 0, "work takes time");
        Self {
            ticks_max,
            oldest: None,
        }
    }

    /// For how many ticks the oldest piece has been on its way.
    pub(crate) fn waited(&self, now: u64) -> u64 {
        self.oldest.as_ref().map_or(0, |oldest| now - oldest.since)
    }

    /// The same, once that is too long.
    pub(crate) fn stalled(&self, now: u64) -> Option<u64> {
        Some(self.waited(now)).filter(|&ticks| ticks >= self.ticks_max)
    }

    /// Whether the oldest piece has been on its way for half of what is too long.
    pub(crate) fn is_late(&self, now: u64) -> bool {
        self.waited(now) >= self.ticks_max.div_ceil(2)
    }

    /// How often it was said that a piece takes too long, up to the one that has been on its way for `ticks`.
    pub(crate) fn times(&self, ticks: u64) -> u64 {
        ticks / self.ticks_max
    }

    /// Looks once a tick: `oldest` is the number of the oldest piece that is not done.
    pub(crate) fn look(&mut self, oldest: Option<u64>, now: u64) -> Option<Sight> {
        let before = self.oldest.as_ref();
        if let Some(same) = before.filter(|before| Some(before.number) == oldest) {
            let ticks = now - same.since;
            let due = ticks > 0 && ticks.is_multiple_of(self.ticks_max);
            return due.then_some(Sight::Stalled { ticks });
        }
        let done = before.map(|before| now - before.since);
        self.oldest = oldest.map(|number| Oldest { number, since: now });
        done.filter(|&ticks| ticks >= self.ticks_max)
            .map(|ticks| Sight::Recovered { ticks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `watch` says at each tick of `ticks` while `oldest` is the oldest piece.
    fn seen(
        watch: &mut StallWatch,
        oldest: Option<u64>,
        ticks: std::ops::Range<u64>,
    ) -> Vec<Sight> {
        ticks.filter_map(|now| watch.look(oldest, now)).collect()
    }

    #[test]
    fn one_slow_piece_is_seen_and_many_quick_ones_are_not() {
        let mut watch = StallWatch::new(100);
        let quick = (0..500).filter_map(|now| watch.look(Some(now / 50), now));
        assert_eq!(quick.count(), 0, "each takes half of the time allowed");
        assert!(!watch.is_late(499));
        let slow = seen(&mut watch, Some(99), 500..701);
        let stalled = |ticks| Sight::Stalled { ticks };
        assert_eq!(slow, [100, 200].map(stalled));
        assert_eq!([100, 199, 200].map(|ticks| watch.times(ticks)), [1, 1, 2]);
        assert_eq!([549, 550].map(|now| watch.is_late(now)), [false, true]);
        assert_eq!([599, 600].map(|now| watch.stalled(now)), [None, Some(100)]);
        let ticks = 210;
        assert_eq!(
            watch.look(None, 500 + ticks),
            Some(Sight::Recovered { ticks })
        );
        assert_eq!(watch.look(None, 501 + ticks), None);
    }
}
