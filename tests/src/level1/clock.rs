//! Time inside, in nanoseconds since the start, and each node's idea of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use quorate_consensus::Clock;

use super::executor::lock;

pub(super) const MILLISECOND: u64 = 1_000_000;
pub(super) const MICROSECOND: u64 = 1_000;
/// A clock that is right runs at this many thousandths.
const RIGHT_PERMILLE: u64 = 1_000;

/// The true time, and who is to be woken when.
#[derive(Default)]
pub(super) struct Time {
    now: AtomicU64,
    /// Asked for since the world last looked.
    pub(super) asked: Mutex<Vec<(u64, Waker)>>,
}

impl Time {
    pub(super) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, now: u64) {
        self.now.store(now, Ordering::Relaxed);
    }
}

/// What one node takes for the time.
pub(super) struct NodeClock {
    /// Only differences to it are ever seen.
    base: Instant,
    time: Arc<Time>,
    local: Mutex<Local>,
}

struct Local {
    /// At this true time,
    since: u64,
    /// the clock showed this,
    shown: u64,
    /// and has gone at this rate.
    permille: u64,
}

impl Local {
    fn shows(&self, now: u64) -> u64 {
        self.shown + (now - self.since) * self.permille / RIGHT_PERMILLE
    }
}

impl NodeClock {
    pub(super) fn new(time: Arc<Time>, base: Instant) -> Self {
        let local = Mutex::new(Local {
            since: 0,
            shown: 0,
            permille: RIGHT_PERMILLE,
        });
        Self { base, time, local }
    }

    pub(super) fn set_rate(&self, permille: Option<u64>) {
        let now = self.time.now();
        let mut local = lock(&self.local);
        *local = Local {
            since: now,
            shown: local.shows(now),
            permille: permille.unwrap_or(RIGHT_PERMILLE),
        };
    }

    pub(super) fn jump(&self, by_ms: u64) {
        lock(&self.local).shown += by_ms * MILLISECOND;
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Instant {
        self.base + Duration::from_nanos(lock(&self.local).shows(self.time.now()))
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let shown = duration.as_nanos() as u64;
        let permille = lock(&self.local).permille;
        // Rounded up, so that the clock shows at least what was asked for.
        let length = (shown * RIGHT_PERMILLE).div_ceil(permille);
        Box::pin(Sleep {
            until: self.time.now() + length,
            time: Arc::clone(&self.time),
            asked: false,
        })
    }
}

struct Sleep {
    until: u64,
    time: Arc<Time>,
    /// Asked once, because the one task that polls it keeps its waker for life.
    asked: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.time.now() >= self.until {
            return Poll::Ready(());
        }
        if !self.asked {
            lock(&self.time.asked).push((self.until, context.waker().clone()));
            self.asked = true;
        }
        Poll::Pending
    }
}
