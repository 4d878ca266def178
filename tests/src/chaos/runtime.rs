//! The runtimes under which nodes and clients run.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;

/// An async runtime that a node can be told to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runtime {
    /// async-std.
    AsyncStd,
    /// smol.
    Smol,
    /// tokio.
    Tokio,
}

/// What one client does.
pub(super) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Runtime {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::AsyncStd, Self::Smol, Self::Tokio];

    /// Runs all `tasks` at once on the runtime's own threads, to their ends.
    pub(super) fn run_all(self, tasks: Vec<Task>) {
        match self {
            Self::AsyncStd => async_std::task::block_on(async {
                let spawned: Vec<_> = tasks.into_iter().map(async_std::task::spawn).collect();
                for task in spawned {
                    task.await;
                }
            }),
            Self::Smol => smol::block_on(async {
                let spawned: Vec<_> = tasks.into_iter().map(smol::spawn).collect();
                for task in spawned {
                    task.await;
                }
            }),
            Self::Tokio => tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .build()
                .expect("a runtime")
                .block_on(async {
                    let spawned: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
                    for task in spawned {
                        task.await.expect("no client panics");
                    }
                }),
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsyncStd => "async-std",
            Self::Smol => "smol",
            Self::Tokio => "tokio",
        })
    }
}

impl FromStr for Runtime {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|runtime| runtime.to_string() == name)
            .ok_or_else(|| format!("{name:?} is none of async-std, smol and tokio"))
    }
}
