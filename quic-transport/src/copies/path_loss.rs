//! Whether a path is one on which copies help.

use std::time::{Duration, Instant};

use quinn::PathStats;

use crate::{congestion::LOSS_MAX, planted};

/// How often quinn is asked, at most: it takes a lock, and what is asked for changes slowly.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Where a round trip is shorter, a copy would hardly be sooner than what is sent again because it was missed.
const ROUND_TRIP_MIN: Duration = Duration::from_millis(4);

/// Copies follow after this part of a round trip: some time, for packets are often lost with those beside them, and
/// little of what they are there to save.
const DELAY_PART: u32 = 8;
const DELAY_MIN: Duration = Duration::from_millis(1);
const DELAY_MAX: Duration = Duration::from_millis(10);

/// One packet in so many that is lost makes a path one that loses packets: a write takes some packets, so that more than
/// one in a thousand then waits for one that was lost. Smaller: more of the slowest wait. Larger: twice the bytes, for
/// next to nothing.
const LOSES_ONE_IN_MAX: u64 = 500;

/// Where more than one in [`LOSS_MAX`] is lost, too much is sent already. Of so few packets, none of that can be said.
const FEW_PACKETS: u64 = 64;

/// Among so many packets, and up to twice as many, the lost ones are counted. Larger: copies begin, and end, later.
/// Smaller: they come and go by chance.
const COUNTED_PACKETS: u64 = 2_048;

/// What is written at once and is longer has no copies: to send it takes a while itself, and it would be
/// room that others need.
const COPIED_BYTES_MAX: usize = 48 << 10;

/// What is known of the path of one connection.
#[derive(Debug, Default)]
pub(super) struct PathLoss {
    looked: Option<Instant>,
    /// Packets since the connection began, as of the last look.
    sent: u64,
    lost: u64,
    /// Of those counted.
    counted: u64,
    counted_lost: u64,
    round_trip: Duration,
    window: u64,
    /// Of what was written in the last round trip, with the copies, when that was last asked.
    used: u64,
    used_at: Option<Instant>,
}

impl PathLoss {
    /// Asks `look` from time to time.
    pub(super) fn look(&mut self, now: Instant, look: impl FnOnce() -> PathStats) {
        let recently = |at| now.saturating_duration_since(at) < LOOK_INTERVAL;
        if self.looked.is_some_and(recently) {
            return;
        }
        self.looked = Some(now);
        let path = look();
        self.counted += path.sent_packets.saturating_sub(self.sent);
        self.counted_lost += path.lost_packets.saturating_sub(self.lost);
        (self.sent, self.lost) = (path.sent_packets, path.lost_packets);
        while self.counted > 2 * COUNTED_PACKETS {
            self.counted /= 2;
            self.counted_lost /= 2;
        }
        (self.round_trip, self.window) = (path.rtt, path.cwnd);
    }

    /// After what time `bytes` that are written now should be sent again.
    pub(super) fn delay(&mut self, now: Instant, bytes: usize) -> Option<Duration> {
        if !self.is_lossy() || planted::is("nothing-is-copied") {
            return None;
        }
        self.forget(now);
        let with_copy = self.used + 2 * bytes as u64;
        // Or the copies would take the room of what waits for it.
        if bytes > COPIED_BYTES_MAX || with_copy > self.window {
            self.used += bytes as u64;
            return None;
        }
        self.used = with_copy;
        Some((self.round_trip / DELAY_PART).clamp(DELAY_MIN, DELAY_MAX))
    }

    fn is_lossy(&self) -> bool {
        let some = self.counted_lost * LOSES_ONE_IN_MAX >= self.counted.max(1);
        let much = self.counted_lost * LOSS_MAX > self.counted.max(FEW_PACKETS);
        self.round_trip >= ROUND_TRIP_MIN && some && !much
    }

    /// A window was free again after a round trip.
    fn forget(&mut self, now: Instant) {
        let Some(before) = self.used_at.replace(now) else {
            return;
        };
        let trips = now
            .saturating_duration_since(before)
            .div_duration_f64(self.round_trip);
        let freed = (self.window as f64 * trips) as u64;
        self.used = self.used.saturating_sub(freed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(sent: u64, lost: u64) -> PathStats {
        let mut stats = PathStats::default();
        stats.rtt = Duration::from_millis(10);
        stats.cwnd = 12_000;
        (stats.sent_packets, stats.lost_packets) = (sent, lost);
        stats
    }

    /// As of a path that has `stats`, the delay of something short.
    fn delay_on(stats: PathStats) -> Option<Duration> {
        let now = Instant::now();
        let mut path = PathLoss::default();
        path.look(now, || stats);
        path.delay(now, 100)
    }

    #[test]
    fn copies_are_for_paths_that_lose_some() {
        for (sent, lost, expected) in [
            (1_000, 0, false),
            (1_000, 1, false),
            (1_000, 2, true),
            (100, 1, true),
            (1_000, 50, true),
            (1_000, 80, false),
            (40, 4, true),
            (40, 5, false),
        ] {
            let found = delay_on(stats(sent, lost));
            assert_eq!(found.is_some(), expected, "{lost} of {sent}");
        }
    }

    #[test]
    fn a_copy_follows_after_a_part_of_a_round_trip() {
        for (round_trip, delay) in [(3, None), (4, Some(1)), (40, Some(5)), (400, Some(10))] {
            let mut stats = stats(100, 1);
            stats.rtt = Duration::from_millis(round_trip);
            let delay = delay.map(Duration::from_millis);
            assert_eq!(delay_on(stats), delay, "{round_trip} ms");
        }
    }

    /// What was lost long ago does not count for ever, and what is lost now soon.
    #[test]
    fn a_path_that_becomes_better_or_worse_is_noticed() {
        let mut now = Instant::now();
        let mut path = PathLoss::default();
        let (mut sent, mut lost) = (0, 0);
        let mut packets_until = |wanted: bool, loses_one_in: u64| {
            let before = sent;
            loop {
                (sent, lost) = (sent + loses_one_in, lost + 1);
                now += LOOK_INTERVAL;
                path.look(now, || stats(sent, lost));
                if path.delay(now, 1).is_some() == wanted {
                    return sent - before;
                }
            }
        };
        assert!(packets_until(true, 100) <= 100);
        let better = packets_until(false, 5_000);
        assert!(better <= 25_000, "{better}");
        let worse = packets_until(true, 100);
        assert!(worse <= 2_000, "{worse}");
    }

    /// Everything written in a round trip has to fit into the window together with its copies; what is too
    /// long has none in any case.
    #[test]
    fn copies_take_no_room_that_is_needed() {
        let begun = Instant::now();
        let mut path = PathLoss::default();
        path.look(begun, || stats(100, 1));
        let mut copied = |after, bytes| {
            let now = begun + Duration::from_millis(after);
            path.delay(now, bytes).is_some()
        };
        assert!(copied(0, 5_000));
        assert!(!copied(0, 1_001), "only 2,000 are left");
        assert!(!copied(0, 500), "and 999 after that, which had no copy");
        assert!(copied(0, 249), "of 499");
        assert!(!copied(1, 601), "a tenth of 12,000 is free again");
        assert!(copied(10, 5_000));
        let mut wide = stats(100, 1);
        wide.cwnd = u64::MAX;
        let mut path = PathLoss::default();
        path.look(begun, || wide);
        assert!(path.delay(begun, COPIED_BYTES_MAX).is_some());
        assert!(path.delay(begun, COPIED_BYTES_MAX + 1).is_none());
    }

    /// quinn is not asked at every write.
    #[test]
    fn looks_are_far_between() {
        let begun = Instant::now();
        let mut path = PathLoss::default();
        let mut looks = 0;
        for after in 0..1_000 {
            path.look(begun + Duration::from_millis(after), || {
                looks += 1;
                stats(0, 0)
            });
        }
        assert_eq!(looks, 10);
    }
}
