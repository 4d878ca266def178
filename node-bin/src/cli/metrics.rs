//! `quorate metrics`: what one node counts and measures, as Prometheus reads it.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use quorate_consensus::NodeId;

use super::connect::{ConnectArgs, failure};
use super::{Failure, config};

/// As for the status.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Print what one node counts and measures, in the text format of Prometheus and OpenMetrics
///
/// Nodes open no port for that: write it to a file that is collected, such as by node_exporter's textfile collector.
#[derive(Args, Debug)]
pub(crate) struct MetricsArgs {
    /// Which node
    #[arg(value_name = "NODE", value_parser = config::node_id)]
    node: NodeId,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) fn run(args: &MetricsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let network = args.connect.open(TIMEOUT)?;
    let text = network.with_client(async |client| {
        let metrics = client.metrics(args.node).await;
        metrics.map_err(|error| failure(&error))
    })?;
    out.write_all(text.as_bytes()).map_err(Failure::output)
}
