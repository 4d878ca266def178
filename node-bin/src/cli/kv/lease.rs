//! `quorate kv lease`: keys that go away by themselves.

use std::io::{self, Write};
use std::time::Duration;

use clap::Subcommand;
use quorate::kv::{Client, Lease};
use serde_json::{Value as Json, json};

use crate::cli::connect::failure;
use crate::cli::{Failure, config, exit};

#[derive(Subcommand, Debug)]
pub(super) enum LeaseAction {
    /// Make a lease that ends TTL after it was last kept, and print its number
    Grant {
        /// How long it lives, as `30s` or `5m`; at least 1s
        #[arg(value_parser = config::time)]
        ttl: Duration,
    },
    /// Have a lease live for its whole time from now on
    Keep { lease: u64 },
    /// End a lease, and remove the keys that are bound to it
    Revoke { lease: u64 },
    /// Print how long a lease will live
    Show { lease: u64 },
}

/// What came of it.
#[derive(Debug)]
enum Done {
    Granted(u64),
    Kept(Duration),
    Revoked,
    Shown(Option<Lease>),
}

pub(super) async fn run(
    client: &Client,
    action: LeaseAction,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let done = carry_out(client, action)
        .await
        .map_err(|error| failure(&error))?;
    match json {
        true => writeln!(out, "{}", in_json(&done)),
        false => for_people(&done, out),
    }
    .map_err(Failure::output)?;
    match done {
        Done::Shown(None) => Err(Failure::new(
            exit::NEGATIVE,
            match json {
                true => String::new(),
                false => "no such lease: it has ended, or never was".into(),
            },
        )),
        _ => Ok(()),
    }
}

async fn carry_out(client: &Client, action: LeaseAction) -> Result<Done, quorate::kv::ClientError> {
    Ok(match action {
        LeaseAction::Grant { ttl } => Done::Granted(client.grant_lease(ttl).await?),
        LeaseAction::Keep { lease } => Done::Kept(client.keep_lease(lease).await?),
        LeaseAction::Revoke { lease } => {
            client.revoke_lease(lease).await?;
            Done::Revoked
        }
        LeaseAction::Show { lease } => Done::Shown(client.lease(lease).await?),
    })
}

fn for_people(done: &Done, out: &mut dyn Write) -> io::Result<()> {
    match done {
        Done::Granted(lease) => writeln!(out, "{lease}"),
        Done::Kept(ttl) => writeln!(out, "lives for {ttl:?} from now on"),
        Done::Revoked => writeln!(out, "revoked"),
        Done::Shown(Some(lease)) => {
            let [remaining, ttl] = [lease.remaining_ms, lease.ttl_ms].map(Duration::from_millis);
            writeln!(out, "ends in {remaining:?}, of {ttl:?}")
        }
        Done::Shown(None) => Ok(()),
    }
}

fn in_json(done: &Done) -> Json {
    match done {
        Done::Granted(lease) => json!({ "lease": lease }),
        Done::Kept(ttl) => json!({ "ttl_ms": ttl.as_millis() as u64 }),
        Done::Revoked => json!({ "revoked": true }),
        Done::Shown(Some(lease)) => {
            json!({ "ttl_ms": lease.ttl_ms, "remaining_ms": lease.remaining_ms })
        }
        Done::Shown(None) => Json::Null,
    }
}
