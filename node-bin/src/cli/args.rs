//! What can be typed: the commands, in the order in which a newcomer meets them.

use clap::{Parser, Subcommand};

use super::{
    bench, certs, check, compact, completions, demo, exit, kv, members, metrics, recover, snapshot,
    start, status, transfer,
};

/// Raft consensus, encrypted and authenticated from the first packet.
#[derive(Parser, Debug)]
#[command(name = "quorate", bin_name = "quorate", version, after_help = exit::HELP, max_term_width = 100)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Show three encrypted nodes on this machine: election, writes, a killed leader, recovery
    Demo(demo::DemoArgs),
    /// Make and inspect the certificates that nodes and clients need
    #[command(subcommand)]
    Certs(certs::CertsCommand),
    /// Run one node until SIGTERM or SIGINT, which hands over leadership; a second one ends it at once
    Start(start::StartArgs),
    /// Read and write keys
    Kv(kv::KvArgs),
    /// Show what each node says about itself
    Status(status::StatusArgs),
    /// Print what a node counts and measures, for Prometheus
    Metrics(metrics::MetricsArgs),
    /// Show who belongs to the cluster, and change that
    Members(members::MembersArgs),
    /// Hand leadership to another node; needs an admin's certificate
    TransferLeader(transfer::TransferArgs),
    /// Measure operations per second and latencies
    Bench(bench::BenchArgs),
    /// Check the files of a stopped node, without changing them
    Check(check::CheckArgs),
    /// Give back what the files of a stopped node hold free, after many deletes
    Compact(compact::CompactArgs),
    /// Save the state of a running cluster to a file, and make a new cluster from one
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Make a stopped node the whole cluster, because the majority is lost for ever
    Recover(recover::RecoverArgs),
    /// Print what a shell needs to complete commands
    Completions(completions::CompletionsArgs),
}
