//! When a running command is told to stop: by a signal, or because its parent is gone.

use std::io::{self, IsTerminal, Read};
use std::thread;

use async_channel::{Receiver, Sender};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

use super::{Failure, exit, signals};

/// Requests to stop, in order. The first asks for an orderly end; [`Stop::listen`] handles the
/// second itself, because the command may be what hangs.
pub(crate) struct Stop {
    requests: Receiver<&'static str>,
}

impl Stop {
    /// Listens for SIGTERM and SIGINT from now on. With `with_stdin`, the end of standard input asks
    /// for the same: a parent that dies, however it dies, leaves no children running.
    pub(crate) fn listen(with_stdin: bool) -> Result<Self, Failure> {
        Self::listen_for(&[SIGTERM, SIGINT], with_stdin, None)
    }

    /// As [`listen`](Self::listen), and for SIGHUP as well, which asks for a reload: each is passed on. Where
    /// it says that the terminal is gone, it asks for the end. SIGXFSZ ends nothing any more: a file that may
    /// not grow (`ulimit -f`) is an error like a full disk, which whoever writes can tell of.
    pub(crate) fn listen_with_reloads(with_stdin: bool) -> Result<(Self, Receiver<()>), Failure> {
        let (reload, reloads) = async_channel::bounded(1);
        let signals = [SIGTERM, SIGINT, SIGHUP, SIGXFSZ];
        let stop = Self::listen_for(&signals, with_stdin, Some(reload))?;
        Ok((stop, reloads))
    }

    fn listen_for(
        signals: &[i32],
        with_stdin: bool,
        reload: Option<Sender<()>>,
    ) -> Result<Self, Failure> {
        // One place for each possible source: a request is never lost and never waits.
        let (sender, requests) = async_channel::bounded(2);
        let from_signals = sender.clone();
        let had_terminal = io::stdin().is_terminal();
        let mut is_asked = false;
        signals::listen(signals.iter().copied(), move |signal| {
            let terminal_is_gone = had_terminal && !io::stdin().is_terminal();
            match signal {
                SIGXFSZ => {}
                SIGHUP if !terminal_is_gone => {
                    // One that waits is as good as two.
                    let _ = reload.as_ref().map(|reload| reload.try_send(()));
                }
                // As a shell reports a process that a signal ended. Nothing is lost: what was acknowledged is on disk.
                _ if is_asked => std::process::exit(128 + signal),
                _ => {
                    is_asked = true;
                    let _ = from_signals.try_send(name(signal));
                }
            }
            true
        })?;
        if with_stdin {
            thread::Builder::new()
                .name("quorate-parent".into())
                .spawn(move || {
                    let mut ignored = [0; 64];
                    while io::stdin().read(&mut ignored).is_ok_and(|bytes| bytes > 0) {}
                    let _ = sender.try_send("the parent is gone");
                })
                .map_err(|error| {
                    Failure::new(exit::OS, format!("cannot listen to the parent: {error}"))
                })?;
        }
        Ok(Self { requests })
    }

    /// Waits for the first request and says where it came from.
    pub(crate) async fn requested(&self) -> &'static str {
        match self.requests.recv().await {
            Ok(source) => source,
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether a request has come, for loops that do not await one.
    pub(crate) fn is_requested(&self) -> bool {
        !self.requests.is_empty()
    }
}

fn name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "SIGINT",
        SIGHUP => "the terminal is gone",
        _ => "SIGTERM",
    }
}
