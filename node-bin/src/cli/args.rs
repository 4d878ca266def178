//! What can be typed: the commands, in the order in which a newcomer meets them.

use clap::{Parser, Subcommand};

use super::{certs, exit};

/// Raft consensus, encrypted and authenticated from the first packet.
#[derive(Parser, Debug)]
#[command(name = "quorate", version, after_help = exit::HELP, max_term_width = 100)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make and inspect the certificates that nodes and clients need
    #[command(subcommand)]
    Certs(certs::CertsCommand),
}
