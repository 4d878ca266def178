//! How often something happens.

use std::time::{Duration, Instant};

/// Counts what happens in one stretch of time after the other.
#[derive(Debug)]
pub(crate) struct Rate {
    length: Duration,
    began: Option<Instant>,
    count: usize,
}

impl Rate {
    pub(crate) fn new(length: Duration) -> Self {
        Self {
            length,
            began: None,
            count: 0,
        }
    }

    /// One more at `now`: how many there were in this stretch.
    pub(crate) fn count(&mut self, now: Instant) -> usize {
        let is_over = |began| now.saturating_duration_since(began) >= self.length;
        if self.began.is_none_or(is_over) {
            (self.began, self.count) = (Some(now), 0);
        }
        self.count += 1;
        self.count
    }
}
