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
    #[command(flatten)]
    to: Target,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Whom to hand it to: exactly one, so that a forgotten number hands it to nobody.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Target {
    /// Who should lead
    #[arg(value_name = "NODE", value_parser = config::node_id)]
    node: Option<NodeId>,
    /// Whichever node is best placed
    #[arg(long)]
    any: bool,
}

pub(crate) fn run(args: TransferArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let TransferArgs {
        to: Target { node, any: _ },
        connect,
    } = args;
    let network = connect.open(REQUEST_TIMEOUT)?;
    let (leader, already) = network.with_client(async |client| {
        let failed = |error| failure(&error);
        // Only for the words: it is asked for all the same.
        let before = match node {
            Some(_) => client.leader_status().await.map_err(failed)?.leader,
            None => None,
        };
        let leader = client.transfer_leader(node).await.map_err(failed)?;
        Ok((leader, before == Some(leader)))
    })?;
    let already = if already { " already" } else { "" };
    writeln!(out, "node {} leads{already}", leader.value()).map_err(Failure::output)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::Cli;

    /// Without a target both ways to give one are named; two are too many.
    #[test]
    fn exactly_one_target() {
        let parse = |args: &[&str]| {
            Cli::try_parse_from(["quorate", "transfer-leader"].iter().chain(args))
                .map(drop)
                .map_err(|error| error.to_string())
        };
        assert_eq!(parse(&["2"]), Ok(()));
        assert_eq!(parse(&["--any"]), Ok(()));
        assert!(parse(&["2", "--any"]).is_err());
        let missing = parse(&[]).unwrap_err();
        assert!(
            missing.contains("NODE") && missing.contains("--any"),
            "{missing}"
        );
    }
}
