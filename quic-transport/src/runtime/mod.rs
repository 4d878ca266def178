//! Ways to drive the transport. Any `quinn::Runtime` will do; these need no other crate.

mod async_io;
mod inline;
mod reactor;
mod thread;
mod timers;
mod udp;

use std::{
    future::{Future, poll_fn},
    time::Instant,
};

use quinn::Runtime;

pub use inline::Inline;
pub use thread::IoThread;

/// Completes at `at`, by the clock of `runtime`. To be called and awaited inside of that: tokio's timers need its
/// context.
pub fn sleep_until(
    runtime: &dyn Runtime,
    at: Instant,
) -> impl Future<Output = ()> + Send + Unpin + use<> {
    let mut timer = runtime.new_timer(at);
    poll_fn(move |context| timer.as_mut().poll(context))
}
