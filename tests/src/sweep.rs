//! Runs many seeds on several cores and adds up what came of them.

use std::io::{self, IsTerminal, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::case::Case;
use crate::level::{Failure, Level, Outcome};
use crate::report::Totals;
use crate::worker::Worker;

/// After so many failures there is enough to look at.
const FAILURES_MAX: usize = 10;
/// How often a person sees that it goes on, and how often a log file does.
const PROGRESS_TERMINAL: Duration = Duration::from_millis(500);
const PROGRESS_LOG: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The level.
    pub level: Level,
    /// The seeds.
    pub seeds: Range<u64>,
    /// How many runs at the same time.
    pub jobs: usize,
    /// When to begin no further run.
    pub within: Option<Duration>,
    /// Each seed in two processes, which must give the same.
    pub twice: bool,
}

struct Shared {
    sweep: Sweep,
    next: AtomicU64,
    stop: AtomicBool,
    began: Instant,
}

impl Shared {
    fn take_seed(&self) -> Option<u64> {
        let late = self
            .sweep
            .within
            .is_some_and(|max| self.began.elapsed() >= max);
        if late || self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let seed = self.next.fetch_add(1, Ordering::Relaxed);
        (seed < self.sweep.seeds.end).then_some(seed)
    }
}

type Ran = (u64, io::Result<Outcome>, Duration);

/// Runs `sweep`, printing how it goes and each failure as it is found.
///
/// # Errors
///
/// When no process can be started to run a seed.
pub fn run(sweep: &Sweep) -> io::Result<Totals> {
    let mut totals = Totals::new(sweep.level, sweep.twice);
    let shared = Shared {
        next: AtomicU64::new(sweep.seeds.start),
        stop: AtomicBool::new(false),
        began: Instant::now(),
        sweep: sweep.clone(),
    };
    let (sender, results) = channel();
    thread::scope(|scope| {
        for _ in 0..sweep.jobs.max(1) {
            let (shared, sender) = (&shared, sender.clone());
            scope.spawn(move || work(shared, &sender));
        }
        drop(sender);
        let mut progress = Progress::new();
        loop {
            match results.recv_timeout(progress.interval) {
                Ok((seed, outcome, busy)) => {
                    let outcome =
                        outcome.inspect_err(|_| shared.stop.store(true, Ordering::Relaxed))?;
                    let failed = outcome.failure.is_some();
                    totals.add(seed, outcome, busy);
                    if let Some(failure) = totals.failures.last().filter(|_| failed) {
                        progress.clear();
                        println!("{failure}");
                    }
                    let enough = totals.failures.len() >= FAILURES_MAX;
                    shared.stop.fetch_or(enough, Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            progress.show(&totals);
        }
        progress.clear();
        totals.wall = shared.began.elapsed();
        Ok(totals)
    })
}

fn work(shared: &Shared, results: &Sender<Ran>) {
    let (mut worker, mut second) = (Worker::default(), Worker::default());
    while let Some(seed) = shared.take_seed() {
        let began = Instant::now();
        let case = Case::of(shared.sweep.level, seed);
        let mut outcome = worker.run(&case);
        if shared.sweep.twice {
            outcome = outcome.and_then(|first| Ok(compare(first, &second.run(&case)?)));
        }
        if results.send((seed, outcome, began.elapsed())).is_err() {
            break;
        }
    }
}

/// The outcome of two runs of one case.
fn compare(first: Outcome, second: &Outcome) -> Outcome {
    if first.failure.is_some() || first == *second {
        return first;
    }
    let detail = format!(
        "hash {:016x} in one process, {:016x} in another; the other's failure: {:?}",
        first.hash, second.hash, second.failure
    );
    Outcome {
        failure: Some(Failure {
            invariant: "determinism".to_owned(),
            detail,
        }),
        ..first
    }
}

/// Shows a person that it goes on.
struct Progress {
    terminal: bool,
    interval: Duration,
    shown: Instant,
}

impl Progress {
    fn new() -> Self {
        let terminal = io::stderr().is_terminal();
        let interval = if terminal {
            PROGRESS_TERMINAL
        } else {
            PROGRESS_LOG
        };
        Self {
            terminal,
            interval,
            shown: Instant::now(),
        }
    }

    fn show(&mut self, totals: &Totals) {
        if self.shown.elapsed() < self.interval {
            return;
        }
        self.shown = Instant::now();
        let line = totals.progress();
        let mut out = io::stderr().lock();
        let _ = match self.terminal {
            true => write!(out, "\r{line}\x1b[K"),
            false => writeln!(out, "{line}"),
        };
        let _ = out.flush();
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::Counts;

    fn outcome(hash: u64) -> Outcome {
        Outcome {
            hash,
            simulated: Duration::from_secs(1),
            counts: Counts::default(),
            failure: None,
        }
    }

    /// Two processes that differ are a failure of their own; two that agree are none.
    #[test]
    fn a_difference_between_two_processes_is_a_failure() {
        assert_eq!(compare(outcome(1), &outcome(1)).failure, None);
        let failure = compare(outcome(1), &outcome(2)).failure;
        assert_eq!(failure.map(|f| f.invariant), Some("determinism".into()));
    }
}
