//! What a host takes for the time.

use std::time::Duration;

/// A clock that may be wrong: `local` is what it showed at `truth`, and since then it runs at `permille`
/// of the true rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostClock {
    truth: u64,
    local: u64,
    permille: u64,
}

impl Default for HostClock {
    fn default() -> Self {
        Self {
            truth: 0,
            local: 0,
            permille: 1_000,
        }
    }
}

impl HostClock {
    /// What it shows at the true time `now`, both in nanoseconds since the beginning.
    pub(super) fn local(&self, now: u64) -> Duration {
        Duration::from_nanos(self.local_nanos(now))
    }

    /// When it will show `local`: the first moment at which it is not less.
    pub(super) fn truth(&self, local: Duration) -> u64 {
        let local = u64::try_from(local.as_nanos()).unwrap_or(u64::MAX);
        let ahead = u128::from(local.saturating_sub(self.local));
        let truth = (ahead * 1_000).div_ceil(u128::from(self.permille));
        self.truth
            .saturating_add(u64::try_from(truth).unwrap_or(u64::MAX))
    }

    /// Goes forward in one step, as a monotonic clock may, and never back.
    pub(super) fn jump(&mut self, now: u64, by: Duration) {
        self.rebase(now);
        self.local += u64::try_from(by.as_nanos()).expect("a jump of less than centuries");
    }

    pub(super) fn set_rate(&mut self, now: u64, permille: u64) {
        assert!(permille > 0, "a clock that stands still is a pause");
        self.rebase(now);
        self.permille = permille;
    }

    fn rebase(&mut self, now: u64) {
        (self.local, self.truth) = (self.local_nanos(now), now);
    }

    fn local_nanos(&self, now: u64) -> u64 {
        let since = u128::from(now - self.truth);
        let local = since * u128::from(self.permille) / 1_000;
        self.local + u64::try_from(local).expect("the world does not last for centuries")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Through jumps and changes of rate the clock never goes back, and a timer set for what it will
    /// show fires at the first moment at which it does.
    #[test]
    fn a_wrong_clock_is_consistent() {
        let mut clock = HostClock::default();
        let mut shown = Duration::ZERO;
        for (now, permille, jump) in [(10, 500, 0), (1_000, 2_000, 77), (5_003, 1_010, 3)] {
            clock.set_rate(now, permille);
            clock.jump(now, Duration::from_nanos(jump));
            assert!(clock.local(now) >= shown);
            shown = clock.local(now);
            for ahead in [0, 1, 2, 999, 1_000_003] {
                let at = shown + Duration::from_nanos(ahead);
                let due = clock.truth(at);
                assert!(clock.local(due) >= at, "not too early");
                assert!(due == now || clock.local(due - 1) < at, "not too late");
            }
        }
        assert_eq!(
            clock.local(5_003),
            Duration::from_nanos(10 + 495 + 77 + 8_006 + 3)
        );
    }
}
