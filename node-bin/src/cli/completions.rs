//! `quorate completions`: what a shell completes.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Failure;
use super::args::Cli;

/// Print a script that has a shell complete commands and flags; how to use it is in its manual
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let mut script = Vec::new();
    // It panics where it cannot write.
    clap_complete::generate(args.shell, &mut Cli::command(), "quorate", &mut script);
    out.write_all(&script).map_err(Failure::output)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    /// For every shell there is a script, and it knows every command.
    #[test]
    fn every_command_is_completed() {
        for &shell in Shell::value_variants() {
            let mut script = Vec::new();
            run(&CompletionsArgs { shell }, &mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            for command in Cli::command().get_subcommands() {
                let name = command.get_name();
                assert!(script.contains(name), "{shell} does not know {name}");
            }
        }
    }
}
