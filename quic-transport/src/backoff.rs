//! When to dial again.

use std::time::Duration;

use crate::rng::Rng;

/// Exponential backoff with full jitter: without jitter, nodes that lost the same switch dial
/// each other in step for ever.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            failures: 0,
        }
    }

    /// The pause before the next attempt; each call counts one more failure.
    pub(crate) fn pause(&mut self, rng: &Rng) -> Duration {
        let ceiling = self
            .min
            .saturating_mul(1 << self.failures.min(16))
            .min(self.max);
        self.failures = self.failures.saturating_add(1);
        rng.up_to(ceiling)
    }

    /// After a connection that lived long enough to be called healthy, or a new address.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_maximum_and_never_beyond() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(2));
        let rng = Rng::new(7);
        let mut backoff = Backoff::new(min, max);
        assert!(backoff.pause(&rng) <= min);
        assert!(backoff.pause(&rng) <= 2 * min);
        let later: Vec<_> = (0..200).map(|_| backoff.pause(&rng)).collect();
        assert!(later.iter().all(|pause| *pause <= max));
        assert!(
            later.iter().any(|pause| *pause > max / 2),
            "jitter reaches high"
        );
        assert!(
            later.iter().any(|pause| *pause < max / 2),
            "jitter reaches low"
        );
        backoff.reset();
        assert!(backoff.pause(&rng) <= min);
    }
}
