//! Ways to drive the transport. Any `quinn::Runtime` will do; these need no other crate.

mod async_io;
mod inline;
mod reactor;
mod thread;
mod timers;
mod udp;

pub use inline::Inline;
pub use thread::IoThread;
