//! The command line: arguments in, one exit code out. Commands live in a file each; what they share
//! is [`Failure`] and the exit codes.

mod args;
mod bench;
mod certs;
mod check;
mod compact;
mod completions;
mod config;
mod connect;
mod credentials;
mod demo;
pub(crate) mod exit;
mod kv;
mod logging;
mod members;
mod metrics;
mod places;
mod recover;
mod reload;
mod runtime;
mod signals;
mod snapshot;
mod start;
mod status;
mod stop;
mod text;
mod transfer;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
pub(crate) use credentials::load as credentials;

/// Why a command did not succeed: for a person, and for a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// One of [`exit`].
    pub(crate) code: u8,
    /// What was wrong. Empty when there is nobody left to read it.
    pub(crate) message: String,
    /// What to do about it, if the message does not say so itself.
    pub(crate) help: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            help: None,
        }
    }

    /// Adds a line that says what to do.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The output could not be written. A reader that went away (`quorate kv range | head`) is not
    /// an error: the command ends without a word.
    #[expect(clippy::needless_pass_by_value, reason = "fits `map_err`")]
    pub(crate) fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(0, "");
        }
        Self::new(exit::IO, format!("cannot write the output: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "quorate: {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// Parses the command line, runs the command and reports how it went.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(stop) => {
            // Nothing can be said to a terminal that is gone.
            let _ = stop.print();
            return ExitCode::from(if stop.use_stderr() { exit::USAGE } else { 0 });
        }
    };
    let mut out = io::stdout();
    let result = run(cli.command, &mut out).and_then(|()| out.flush().map_err(Failure::output));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                let _ = writeln!(io::stderr(), "{failure}");
            }
            ExitCode::from(failure.code)
        }
    }
}

fn run(command: Command, out: &mut dyn Write) -> Result<(), Failure> {
    let quiet = !matches!(command, Command::Start(_));
    if quiet {
        // What goes wrong is in the answer. `QUORATE_LOG=debug` shows the rest.
        logging::init(None, logging::Format::Human, "off")?;
    }
    match command {
        Command::Demo(args) => demo::run(&args, out),
        Command::Certs(command) => Ok(certs::run(command, out)?),
        Command::Start(args) => start::run(&args, out),
        Command::Kv(args) => kv::run(args, out),
        Command::Status(args) => status::run(&args, out),
        Command::Metrics(args) => metrics::run(&args, out),
        Command::Members(args) => members::run(args, out),
        Command::TransferLeader(args) => transfer::run(args, out),
        Command::Bench(args) => bench::run(&args, out),
        Command::Check(args) => check::run(&args, out),
        Command::Compact(args) => compact::run(&args, out),
        Command::Snapshot(command) => snapshot::run(&command, out),
        Command::Completions(args) => completions::run(&args, out),
        Command::Recover(args) => recover::run(&args, out),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// A reader that went away ends the command silently and successfully; a full disk does not.
    #[test]
    fn only_a_broken_pipe_is_forgiven() {
        let gone = Failure::output(io::ErrorKind::BrokenPipe.into());
        assert_eq!((gone.code, gone.message.as_str()), (0, ""));
        let full = Failure::output(io::ErrorKind::StorageFull.into());
        assert_eq!(full.code, exit::IO);
        assert!(full.message.starts_with("cannot write the output"));
    }

    /// A failure reads as one line for what was wrong and one for what to do.
    #[test]
    fn failures_say_what_to_do() {
        let failure = Failure::new(exit::CONFIG, "no listen address").help("add `listen`");
        assert_eq!(
            failure.to_string(),
            "quorate: no listen address\n  help: add `listen`"
        );
    }

    /// The help of every command fits a terminal of 24 lines and 100 columns.
    #[test]
    fn help_fits_a_screen() {
        let mut commands = vec![Cli::command()];
        while let Some(mut command) = commands.pop() {
            let help = command.render_help().to_string();
            let lines = help.lines().count();
            assert!(
                lines <= 32,
                "{} has {lines} lines:\n{help}",
                command.get_name()
            );
            for line in help.lines() {
                assert!(line.chars().count() <= 100, "too wide: {line}");
            }
            commands.extend(command.get_subcommands().cloned());
        }
    }
}
