//! `quorate metrics`: what one node counts and measures, as Prometheus and what collects for it read it.

use std::io::Write;
use std::time::Duration;

use clap::{Args, ValueEnum};
use quorate::prometheus_text;
use quorate_consensus::NodeId;

use super::connect::{ConnectArgs, failure};
use super::{Failure, config};

/// As for the status.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);

/// Print what one node counts and measures, in a text format of Prometheus
///
/// Nodes open no port for that: write it to a file that is collected, such as by node_exporter's textfile collector.
#[derive(Args, Debug)]
pub(crate) struct MetricsArgs {
    /// Which node
    #[arg(value_name = "NODE", value_parser = config::node_id)]
    node: NodeId,
    /// That of Prometheus 0.0.4, which node_exporter reads, or OpenMetrics 1.0
    #[arg(long, value_enum, default_value_t = Format::Prometheus)]
    format: Format,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// How metrics are written down.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum Format {
    Prometheus,
    #[value(name = "openmetrics")]
    OpenMetrics,
}

pub(crate) fn run(args: &MetricsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let network = args.connect.open(TIMEOUT)?;
    let text = network.with_client(async |client| {
        let metrics = client.metrics(args.node).await;
        metrics.map_err(|error| failure(&error))
    })?;
    let text = match args.format {
        Format::Prometheus => prometheus_text(&text),
        Format::OpenMetrics => text,
    };
    out.write_all(text.as_bytes()).map_err(Failure::output)
}
