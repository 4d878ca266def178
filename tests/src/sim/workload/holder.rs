//! A client that holds leases, and lets go of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate::kv::Client;

use super::{AGAIN_AFTER, Tally};
use crate::rng::Rng;
use crate::sim::book::SharedBook;
use crate::sim::runtime::Process;

/// How long its leases live, in milliseconds.
const TTL_MS: std::ops::Range<u64> = 1_000..3_000;
/// How often it renews a lease at most.
const RENEWALS: u64 = 6;

pub(super) struct Holder {
    pub(super) client: Client,
    pub(super) process: Arc<Process>,
    pub(super) tally: Arc<Tally>,
    pub(super) book: SharedBook,
    pub(super) rng: Rng,
    /// Whether every node's clock tells how much time passes. If not, a lease may end before its time.
    pub(super) clocks_are_right: bool,
}

impl Holder {
    /// Until all clients are to come to an end; and then until all that it let go of is gone.
    pub(super) async fn run(mut self) {
        while !self.tally.is_to_finish() {
            if !self.hold().await {
                self.process.sleep(AGAIN_AFTER).await;
            }
        }
        loop {
            let left = self.client.range("lease/", Some("lease0".into()), 1).await;
            if left.is_ok_and(|left| left.pairs.is_empty()) {
                break;
            }
            self.process.sleep(AGAIN_AFTER).await;
        }
        self.tally.finished.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.process.engine.now())
    }

    /// Holds a lease, with a key bound to it, for a while. Returns whether it could be had.
    async fn hold(&mut self) -> bool {
        let ttl = Duration::from_millis(self.rng.within(TTL_MS));
        let mut lives_until = self.now() + ttl;
        let Ok(lease) = self.client.grant_lease(ttl).await else {
            return false;
        };
        self.tally.leases.fetch_add(1, Ordering::Relaxed);
        let key = format!("lease/{lease}");
        let bound = self.client.put_with_lease(key.clone(), "held", lease).await;
        if bound.is_err() {
            return true;
        }
        for _ in 0..self.rng.within(0..RENEWALS) {
            let wait = self.rng.within(0..ttl.as_millis() as u64);
            self.process.sleep(Duration::from_millis(wait)).await;
            let asked = self.now();
            if self.client.keep_lease(lease).await.is_ok() {
                lives_until = asked + ttl;
            }
            if let Ok(None) = self.client.get(key.clone()).await {
                let lasted = self.now() >= lives_until || !self.clocks_are_right;
                self.must(lasted, "leases last", &key);
                return true;
            }
        }
        if self.rng.chance(50) && self.client.revoke_lease(lease).await.is_ok() {
            let gone = self.client.get(key.clone()).await;
            self.must(!matches!(gone, Ok(Some(_))), "leases end", &key);
        }
        true
    }

    fn must(&self, holds: bool, invariant: &str, key: &str) {
        self.book
            .with(|book| book.must(holds, invariant, || key.to_owned()));
    }
}
