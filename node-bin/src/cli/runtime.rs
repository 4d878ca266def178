//! Where a node's futures are awaited. The only file that names async runtimes.
//!
//! Nothing in the library depends on this choice: its futures are channels and wakers. The choice
//! exists so that each runtime is exercised by the same command. async-std is the default and is
//! discontinued upstream (RUSTSEC-2025-0052): building without its feature leaves the others.

use std::pin::Pin;

use super::Failure;

/// What a command does once it waits.
type Work<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

/// A runtime by name.
#[derive(Clone, Copy)]
pub(crate) struct Runtime {
    pub(crate) name: &'static str,
    block_on: fn(Work<'_>) -> Result<(), Failure>,
}

/// The first one is the default.
const RUNTIMES: &[Runtime] = &[
    #[cfg(feature = "async-std")]
    Runtime {
        name: "async-std",
        block_on: |work| async_std::task::block_on(work),
    },
    #[cfg(feature = "smol")]
    Runtime {
        name: "smol",
        block_on: |work| smol::block_on(work),
    },
    #[cfg(feature = "tokio")]
    Runtime {
        name: "tokio",
        block_on: on_tokio,
    },
    Runtime {
        name: "bare",
        block_on: |work| futures_lite::future::block_on(work),
    },
];

impl Runtime {
    /// The runtime called `name`, if it was built in.
    pub(crate) fn named(name: &str) -> Option<Self> {
        RUNTIMES
            .iter()
            .find(|runtime| runtime.name == name)
            .copied()
    }

    /// All that were built in, for messages.
    pub(crate) fn names() -> String {
        let names: Vec<&str> = RUNTIMES.iter().map(|runtime| runtime.name).collect();
        names.join(", ")
    }

    /// Runs `work` to its end on this thread, under this runtime.
    pub(crate) fn block_on(
        self,
        work: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        (self.block_on)(Box::pin(work))
    }
}

impl Default for Runtime {
    fn default() -> Self {
        RUNTIMES[0]
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(feature = "tokio")]
fn on_tokio(work: Work<'_>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .map_err(|error| Failure::new(super::exit::OS, format!("cannot start tokio: {error}")))?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit;

    /// Every runtime that is built in runs a future and gives back its result.
    #[test]
    fn each_runtime_runs_a_future() {
        for runtime in RUNTIMES {
            let found = Runtime::named(runtime.name).unwrap();
            let failure = Failure::new(exit::OS, runtime.name);
            assert_eq!(found.block_on(async { Err(failure.clone()) }), Err(failure));
        }
        assert!(Runtime::named("async-str").is_none());
    }
}
