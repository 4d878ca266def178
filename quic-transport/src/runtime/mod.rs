//! Ways to drive the transport. Any `quinn::Runtime` will do; these need no other crate.

mod async_io;
mod inline;
mod thread;

pub use inline::Inline;
pub use thread::IoThread;
