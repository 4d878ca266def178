//! `quorate kv lock`: a command that runs while a lock is held.

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use async_channel::Receiver;
use clap::Args;
use futures_lite::future::{or, pending};
use quorate::kv::{Client, ClientError, Lock, Lost};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use super::lease::time_to_live;
use crate::cli::connect::{failure, patience};
use crate::cli::signals::{self, is_ignored};
use crate::cli::{Failure, exit};

/// Where the command finds the lock's fencing number.
const REVISION_VARIABLE: &str = "QUORATE_LOCK_REVISION";
/// And the key that has this number as its revision, as long as the lock is held.
const KEY_VARIABLE: &str = "QUORATE_LOCK_KEY";

/// How many signals may wait to be looked at: nobody presses so many keys in a moment, and of a kind that is lost
/// one was seen.
const SIGNALS_MAX: usize = 16;

/// What a script has to know.
pub(super) const HELP: &str = "\
Exits with what COMMAND exits with; with 75 when the lock was not to be had in time, or was lost
while COMMAND ran, which SIGTERM tells to end then. Who does not hear that goes on: let what the
lock protects refuse lower numbers, in the store by
--if \"revision $QUORATE_LOCK_KEY $QUORATE_LOCK_REVISION\" of `kv txn`.
SIGTERM, SIGINT and SIGHUP are passed on to COMMAND; under nohup (on Linux), SIGHUP is ignored.";

#[derive(Args, Debug)]
pub(super) struct LockArgs {
    name: OsString,
    /// How long others wait for one that has died, from `1s` to `30d`
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time_to_live)]
    ttl: Duration,
    /// Wait for the lock no longer than that, and exit with 75 then [default: wait for ever]
    #[arg(long, value_name = "TIME", value_parser = patience)]
    wait: Option<Duration>,
    /// What to run; QUORATE_LOCK_REVISION and QUORATE_LOCK_KEY tell it the lock's number and key
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

pub(super) async fn run(client: &Client, args: LockArgs) -> Result<(), Failure> {
    let arrivals = Arrivals::listen()?;
    let lock = take(client, &args, &arrivals).await?;
    let ended = match Running::start(&args.command, &lock) {
        Ok(running) => running.wait(&lock, &arrivals).await,
        Err(failure) => {
            give_back(lock, args.ttl).await;
            return Err(failure);
        }
    };
    match give_back(lock, args.ttl).await {
        // Also where the command has succeeded: it did not run alone.
        Some(lost) => Err(Failure::new(
            exit::TEMPORARY,
            format!("the lock was lost while the command ran: {lost}"),
        )),
        None => ended,
    }
}

/// Gives the lock back; returns why it was lost, if it was before that.
async fn give_back(lock: Lock, ttl: Duration) -> Option<Lost> {
    match lock.release().await {
        Ok(()) => None,
        Err(ClientError::LockLost(lost)) => Some(lost),
        Err(error) => {
            say(&format!(
                "the lock could not be given back, and goes within {ttl:?}; whether it was held to the end is \
                 not known: {error}"
            ));
            None
        }
    }
}

/// What ends the waiting for a lock.
#[derive(Clone, Copy)]
enum GaveUp {
    Signal(i32),
    TooLong(Duration),
}

/// Waits for the lock. Without it, nobody waits for us either.
async fn take(client: &Client, args: &LockArgs, arrivals: &Arrivals) -> Result<Lock, Failure> {
    let mut gave_up = None;
    let over = async {
        let signal = async { GaveUp::Signal(arrivals.to_end().await) };
        let too_long = async {
            match args.wait {
                Some(wait) => {
                    async_io::Timer::after(wait).await;
                    GaveUp::TooLong(wait)
                }
                None => pending().await,
            }
        };
        gave_up = Some(or(signal, too_long).await);
    };
    let name = args.name.clone().into_vec();
    let taken = client.lock_unless(name, args.ttl, over).await;
    match (taken, gave_up) {
        (Ok(Some(lock)), _) => Ok(lock),
        (_, Some(GaveUp::Signal(signal))) => Err(silent(128 + signal)),
        (_, Some(GaveUp::TooLong(wait))) => {
            let why = format!("the lock was not to be had within {wait:?}");
            let who = "`quorate kv range --prefix NAME/` shows who has it and who waits";
            Err(Failure::new(exit::TEMPORARY, why).help(who))
        }
        (Err(error), None) => Err(failure(&error)),
        (Ok(None), None) => unreachable!("it is given up for one of these"),
    }
}

/// The command, from its start to its end.
struct Running(Child);

/// What can happen while it runs.
enum Event {
    Lost,
    Arrived(i32),
}

impl Running {
    fn start(command: &[OsString], lock: &Lock) -> Result<Self, Failure> {
        let (program, args) = command.split_first().expect("clap requires one");
        let key = OsString::from_vec(lock.key().to_vec());
        let child = Command::new(program)
            .args(args)
            .env(REVISION_VARIABLE, lock.revision().to_string())
            .env(KEY_VARIABLE, key)
            .spawn();
        child.map(Self).map_err(|error| {
            let code = match error.kind() {
                ErrorKind::NotFound => exit::NO_INPUT,
                ErrorKind::PermissionDenied => exit::NOT_ALLOWED,
                _ => exit::OS,
            };
            let program = program.to_string_lossy();
            Failure::new(code, format!("cannot run `{program}`: {error}"))
        })
    }

    /// Waits for its end, however long that takes: it is told when the lock is lost, and of every signal.
    async fn wait(mut self, lock: &Lock, arrivals: &Arrivals) -> Result<(), Failure> {
        let mut told = false;
        loop {
            if let Some(status) = self.0.try_wait().map_err(|error| not_waited(&error))? {
                return outcome(status);
            }
            let losing = async {
                if told {
                    return pending().await;
                }
                lock.lost().await;
                Event::Lost
            };
            let arrived = async { Event::Arrived(arrivals.next().await) };
            match or(arrived, losing).await {
                Event::Lost => {
                    say("the lock is lost; the command is told to end (SIGTERM)");
                    told = true;
                    self.tell(SIGTERM);
                }
                // Its end, or that of something it has left behind.
                Event::Arrived(SIGCHLD) => {}
                // What is typed at a terminal has reached the command as well: twice is once too often.
                Event::Arrived(SIGINT) if has_terminal() => {}
                Event::Arrived(signal) => self.tell(signal),
            }
        }
    }

    /// Sends it a signal. Its number is its own until its end is looked at here.
    fn tell(&self, signal: i32) {
        let signal = Signal::from_named_raw(signal).expect("one of those that are listened for");
        let _ = kill_process(Pid::from_child(&self.0), signal); // it may have ended
    }
}

fn not_waited(error: &io::Error) -> Failure {
    Failure::new(exit::OS, format!("cannot wait for the command: {error}"))
}

fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}

/// What the command ended with, as a shell reports it.
fn outcome(status: ExitStatus) -> Result<(), Failure> {
    match status.code().or(status.signal().map(|signal| 128 + signal)) {
        Some(0) => Ok(()),
        Some(code) => Err(silent(code)),
        None => Err(Failure::new(exit::OS, "the command ended in no known way")),
    }
}

/// Whoever ended has said why itself.
fn silent(code: i32) -> Failure {
    Failure::new(u8::try_from(code).unwrap_or(exit::SOFTWARE), "")
}

fn say(what: &str) {
    let _ = writeln!(io::stderr(), "quorate: {what}"); // nobody may be left to read it
}

/// The signals that were sent to this process: it lives until its lock is given back.
struct Arrivals(Receiver<i32>);

impl Arrivals {
    /// From now on, none of them ends this process. A hangup that `nohup` has set to be ignored stays so, here and in the
    /// command, which inherits that.
    fn listen() -> Result<Self, Failure> {
        let (sender, arrivals) = async_channel::bounded(SIGNALS_MAX);
        let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
        let heard = [SIGTERM, SIGINT, SIGCHLD].into_iter().chain(hangup);
        // Without room, it waits for the command, which is looked at with each.
        signals::listen(heard, move |signal| sender.send_blocking(signal).is_ok())?;
        Ok(Self(arrivals))
    }

    async fn next(&self) -> i32 {
        match self.0.recv().await {
            Ok(signal) => signal,
            Err(_) => pending().await,
        }
    }

    /// The first that asks for the end.
    async fn to_end(&self) -> i32 {
        loop {
            match self.next().await {
                SIGCHLD => {}
                signal => return signal,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command's exit code is passed on, a signal that ended it as a shell tells it, and nothing is said of either.
    #[test]
    fn the_end_of_the_command_is_the_end() {
        let code = |raw| outcome(ExitStatus::from_raw(raw)).map_err(|it| (it.code, it.message));
        assert_eq!(code(0), Ok(()));
        assert_eq!(code(3 << 8), Err((3, String::new())));
        assert_eq!(code(255 << 8), Err((255, String::new())));
        assert_eq!(code(SIGTERM), Err((143, String::new())));
    }
}
