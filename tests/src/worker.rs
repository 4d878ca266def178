//! Runs cases in a process of its own, so that a panic or a hang costs one process and is known by its
//! case.
//!
//! The parent writes a case on a line, the child answers with a line. A release build ends the process
//! at a panic; its hook says where before that.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::level::{Counts, Failure, Outcome};
use crate::planted;

/// The hidden subcommand of the child.
pub const SUBCOMMAND: &str = "worker";

/// How long one run may take before it counts as hanging: a hundred times what the longest needs.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a child says.
#[derive(Serialize, Deserialize)]
enum Answer {
    Outcome(Outcome),
    Panic { at: String, message: String },
}

/// The child: runs the cases that come in, until there are no more.
///
/// # Errors
///
/// When the parent is gone, or says something that is no case.
pub fn serve() -> io::Result<()> {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        let text = panic.payload().downcast_ref::<String>().cloned();
        let text = text.or_else(|| {
            panic
                .payload()
                .downcast_ref::<&str>()
                .map(ToString::to_string)
        });
        let _ = say(&Answer::Panic {
            at: at.unwrap_or_default(),
            message: text.unwrap_or_default(),
        });
    }));
    for line in io::stdin().lines() {
        let case: Case = serde_json::from_str(&line?)?;
        say(&Answer::Outcome(case.level.run(&case.plan, false)))?;
    }
    Ok(())
}

fn say(answer: &Answer) -> io::Result<()> {
    let line = serde_json::to_string(answer)? + "\n";
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

/// The parent's end of a child, which is started when it is needed and again after it died.
#[derive(Default)]
pub struct Worker {
    /// What is planted in the child, if not what is in this process.
    bug: Option<&'static str>,
    process: Option<Process>,
}

struct Process {
    child: Child,
    cases: ChildStdin,
    answers: Receiver<String>,
}

impl Worker {
    /// A worker whose child has `bug`.
    #[must_use]
    pub fn with_bug(bug: &'static str) -> Self {
        Self {
            bug: Some(bug),
            process: None,
        }
    }

    /// Runs `case`. A child that dies or hangs is a failure like any other.
    ///
    /// # Errors
    ///
    /// When no child can be started.
    pub fn run(&mut self, case: &Case) -> io::Result<Outcome> {
        if self.process.is_none() {
            self.process = Some(Process::start(self.bug)?);
        }
        let process = self.process.as_mut().expect("just started");
        let answer = process.ask(case);
        Ok(answer.unwrap_or_else(|failure| {
            self.process = None;
            Outcome {
                hash: 0,
                simulated: Duration::ZERO,
                counts: Counts::default(),
                failure: Some(failure),
            }
        }))
    }
}

impl Process {
    fn start(bug: Option<&str>) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(SUBCOMMAND)
            .envs(bug.map(|bug| (planted::VARIABLE, bug)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let cases = child.stdin.take().expect("it is a pipe");
        let stdout = child.stdout.take().expect("it is a pipe");
        let (sender, answers) = channel();
        // Ends with the child.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            cases,
            answers,
        })
    }

    fn ask(&mut self, case: &Case) -> Result<Outcome, Failure> {
        let line = serde_json::to_string(case).expect("a case has an encoding") + "\n";
        // A child that is gone says so when its answer is awaited.
        let _ = self.cases.write_all(line.as_bytes());
        let mut panic = None;
        loop {
            match self.answers.recv_timeout(PATIENCE) {
                Ok(line) => match serde_json::from_str(&line) {
                    Ok(Answer::Outcome(outcome)) => return Ok(outcome),
                    // Where panics unwind, the run may have caught it and answer yet.
                    Ok(Answer::Panic { at, message }) => panic = Some((at, message)),
                    Err(_) => eprintln!("{line}"),
                },
                Err(RecvTimeoutError::Timeout) => {
                    return Err(failure("the run ends", format!("not after {PATIENCE:?}")));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Err(match panic {
            Some((at, message)) => failure(&format!("no panic at {at}"), message),
            None => {
                let status = self.child.wait();
                failure("the process lives", format!("{status:?}"))
            }
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failure(invariant: &str, detail: String) -> Failure {
    Failure {
        invariant: invariant.to_owned(),
        detail,
    }
}
