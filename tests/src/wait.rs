//! Waiting for conditions, never for time.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use async_io::Timer;

/// How long anything may take before a test gives up: far above what a busy machine needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls `condition` until it gives a value.
///
/// # Panics
///
/// After [`PATIENCE`], naming `what` never came.
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: impl Debug,
    mut condition: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} for {what:?}"
        );
        Timer::after(Duration::from_millis(5)).await;
    }
}
