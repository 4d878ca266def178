//! What a load run measured. Pure: times come in, figures come out.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use quorate::kv::{ClientError, Refusal};
use serde_json::{Value as Json, json};

/// Latencies are counted in microseconds up to this; what is slower counts as this.
const LATENCY_MAX_US: u64 = 60_000_000;

/// Counts what completes between two moments.
#[derive(Debug)]
pub(super) struct Tally {
    start: Instant,
    latencies_us: Histogram<u64>,
    errors: BTreeMap<&'static str, u64>,
    last_success: Instant,
    longest_gap: Duration,
}

impl Tally {
    /// Counts from `start` on; what completes earlier is warm-up.
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            latencies_us: Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)
                .expect("1 us to 60 s at three digits are valid bounds"),
            errors: BTreeMap::new(),
            last_success: start,
            longest_gap: Duration::ZERO,
        }
    }

    pub(super) fn success(&mut self, begun: Instant, done: Instant) {
        if done < self.start {
            return;
        }
        let us = u64::try_from((done - begun).as_micros()).unwrap_or(u64::MAX);
        self.latencies_us.saturating_record(us.max(1));
        self.close_gap(done);
    }

    pub(super) fn error(&mut self, kind: &'static str, done: Instant) {
        if done >= self.start {
            *self.errors.entry(kind).or_default() += 1;
        }
    }

    pub(super) fn successes(&self) -> u64 {
        self.latencies_us.len()
    }

    fn close_gap(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.last_success);
        self.longest_gap = self.longest_gap.max(gap);
        self.last_success = self.last_success.max(now);
    }

    /// The figures at `end`. A silence that is still going on counts as a gap.
    pub(super) fn figures(&mut self, end: Instant) -> Figures {
        self.close_gap(end);
        let elapsed = end.saturating_duration_since(self.start);
        let at = |quantile| self.latencies_us.value_at_quantile(quantile);
        Figures {
            elapsed,
            ops: self.latencies_us.len(),
            ops_per_second: self.latencies_us.len() as f64 / elapsed.as_secs_f64().max(1e-6),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.latencies_us.max(),
            longest_gap: self.longest_gap,
            errors: self.errors.clone(),
        }
    }
}

/// The result of a run.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    elapsed: Duration,
    pub(super) ops: u64,
    ops_per_second: f64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
    longest_gap: Duration,
    pub(super) errors: BTreeMap<&'static str, u64>,
}

impl Figures {
    pub(super) fn in_json(&self) -> Json {
        json!({
            "seconds": self.elapsed.as_secs_f64(),
            "ops": self.ops,
            "ops_per_second": self.ops_per_second,
            "latency_us": {
                "p50": self.p50_us,
                "p99": self.p99_us,
                "p99_9": self.p999_us,
                "max": self.max_us,
            },
            "longest_gap_ms": milliseconds(self.longest_gap),
            "errors": self.errors,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| us as f64 / 1000.0;
        writeln!(
            f,
            "{:.0} op/s  ({} in {:.1} s)",
            self.ops_per_second,
            self.ops,
            self.elapsed.as_secs_f64()
        )?;
        writeln!(
            f,
            "latency      p50 {:.2} ms  p99 {:.2} ms  p99.9 {:.2} ms  max {:.2} ms",
            ms(self.p50_us),
            ms(self.p99_us),
            ms(self.p999_us),
            ms(self.max_us)
        )?;
        writeln!(
            f,
            "longest gap  {:.1} ms without a success",
            milliseconds(self.longest_gap)
        )?;
        if self.errors.is_empty() {
            return write!(f, "errors       none");
        }
        let kinds: Vec<String> = self
            .errors
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        write!(f, "errors       {}", kinds.join(", "))
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The name under which an error is counted.
pub(super) fn kind(error: &ClientError) -> &'static str {
    match error {
        ClientError::OutcomeUnknown { .. } => "outcome unknown",
        ClientError::NoLeader { .. } => "no leader",
        ClientError::NoUsableNode { .. } => "no usable node",
        ClientError::TimedOut { .. } => "timed out",
        ClientError::StillRefused { refusal, .. } => match refusal {
            Refusal::Overloaded => "overloaded",
            _ => "refused",
        },
        ClientError::Refused { refusal, .. } => match refusal {
            Refusal::DiskNearlyFull { .. } => "disk nearly full",
            _ => "refused",
        },
        ClientError::Unreachable { .. } => "unreachable",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Warm-up is not counted, neither its operations, nor its errors, nor its silence.
    #[test]
    fn warm_up_does_not_count() {
        let begun = Instant::now();
        let start = begun + ms(1000);
        let mut tally = Tally::new(start);
        tally.success(begun, begun + ms(900));
        tally.error("no leader", begun + ms(950));
        tally.success(begun + ms(995), begun + ms(1005));
        let figures = tally.figures(begun + ms(1010));
        assert_eq!((figures.ops, figures.errors.len()), (1, 0));
        assert_eq!(figures.longest_gap, ms(5));
    }

    /// The longest gap is found at the start, in the middle, and when it has not ended yet.
    #[test]
    fn the_longest_gap_counts_wherever_it_is() {
        let start = Instant::now();
        let gap = |successes: &[u64], end| {
            let mut tally = Tally::new(start);
            for at in successes {
                tally.success(start, start + ms(*at));
            }
            tally.figures(start + ms(end)).longest_gap
        };
        assert_eq!(gap(&[500, 510, 520], 530), ms(500));
        assert_eq!(gap(&[10, 20, 620, 630], 640), ms(600));
        assert_eq!(gap(&[10, 20], 720), ms(700));
        assert_eq!(gap(&[], 800), ms(800));
    }

    /// A success that is recorded late does not open a gap that was not there.
    #[test]
    fn order_of_recording_does_not_matter() {
        let start = Instant::now();
        let mut tally = Tally::new(start);
        for at in [10, 30, 20, 40] {
            tally.success(start, start + ms(at));
        }
        assert_eq!(tally.figures(start + ms(40)).longest_gap, ms(20));
    }

    /// The report of known latencies has known figures, in words and in JSON.
    #[test]
    fn a_report() {
        let start = Instant::now();
        let mut tally = Tally::new(start);
        for n in 1..=1000 {
            let done = start + ms(2 * n);
            tally.success(done - Duration::from_micros(n), done);
        }
        tally.error("no leader", start + ms(7));
        tally.error("outcome unknown", start + ms(8));
        tally.error("outcome unknown", start + ms(9));
        let figures = tally.figures(start + ms(2000));
        assert_eq!(
            figures.to_string(),
            "500 op/s  (1000 in 2.0 s)\n\
             latency      p50 0.50 ms  p99 0.99 ms  p99.9 1.00 ms  max 1.00 ms\n\
             longest gap  2.0 ms without a success\n\
             errors       1 no leader, 2 outcome unknown"
        );
        let json = figures.in_json();
        assert_eq!(json["ops"], 1000);
        assert_eq!(json["latency_us"]["p99"], 990);
        assert_eq!(json["errors"]["outcome unknown"], 2);
    }

    /// An operation slower than the histogram reaches counts as its slowest, not as an error.
    #[test]
    fn very_slow_operations_count() {
        let start = Instant::now();
        let mut tally = Tally::new(start);
        tally.success(start, start + Duration::from_secs(3600));
        let figures = tally.figures(start + Duration::from_secs(3600));
        assert_eq!(figures.ops, 1);
        assert!(figures.max_us >= LATENCY_MAX_US);
    }
}
