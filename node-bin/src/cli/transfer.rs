//! `quorate transfer-leader`: hand leadership to another node, for example before maintenance.

use std::io::Write;

use clap::Args;
use quorate::kv::REQUEST_TIMEOUT;
use quorate_consensus::NodeId;

use super::connect::{ConnectArgs, failure};
use super::{Failure, config};

/// Hand leadership to another node; needs an admin's certificate.
#[derive(Args, Debug)]
pub(crate) struct TransferArgs {
    /// Who should lead
    #[arg(value_name = "NODE", value_parser = config::node_id, required_unless_present = "any")]
    node: Option<NodeId>,
    /// Whichever node is best placed
    #[arg(long, conflicts_with = "node")]
    any: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) fn run(args: TransferArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let TransferArgs {
        node,
        any: _,
        connect,
    } = args;
    let network = connect.open(REQUEST_TIMEOUT)?;
    let leader = network.with_client(async |client| {
        client
            .transfer_leader(node)
            .await
            .map_err(|error| failure(&error))
    })?;
    writeln!(out, "node {} leads", leader.value()).map_err(Failure::output)
}
