//! `quorate kv lease`: keys that go away by themselves.

use std::io::{self, Write};
use std::time::Duration;

use clap::Subcommand;
use quorate::kv::{Client, ClientError, Lease};
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
    /// Have a lease live for its whole time, counted from the start of the command
    Keep { lease: u64 },
    /// End a lease, and remove the keys that are bound to it
    Revoke { lease: u64 },
    /// Print how long a lease will live
    Show { lease: u64 },
}

/// What came of it; nothing where there is no such lease.
#[derive(Debug)]
enum Done {
    Granted(u64),
    Kept(Option<Duration>),
    Revoked(bool),
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
        Done::Kept(None) | Done::Revoked(false) | Done::Shown(None) => Err(Failure::new(
            exit::NEGATIVE,
            match json {
                true => String::new(),
                false => "no such lease: it has ended, or never was".into(),
            },
        )),
        _ => Ok(()),
    }
}

async fn carry_out(client: &Client, action: LeaseAction) -> Result<Done, ClientError> {
    Ok(match action {
        LeaseAction::Grant { ttl } => Done::Granted(client.grant_lease(ttl).await?),
        LeaseAction::Keep { lease } => Done::Kept(known(client.keep_lease(lease).await)?),
        LeaseAction::Revoke { lease } => {
            Done::Revoked(known(client.revoke_lease(lease).await)?.is_some())
        }
        LeaseAction::Show { lease } => Done::Shown(client.lease(lease).await?),
    })
}

/// That there is no such lease is an answer here.
fn known<T>(outcome: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match outcome {
        Ok(it) => Ok(Some(it)),
        Err(ClientError::LeaseUnknown { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn for_people(done: &Done, out: &mut dyn Write) -> io::Result<()> {
    match done {
        Done::Granted(lease) => writeln!(out, "{lease}"),
        Done::Kept(Some(ttl)) => writeln!(
            out,
            "lives for {ttl:?}, counted from the start of this command"
        ),
        Done::Revoked(true) => writeln!(out, "revoked"),
        Done::Shown(Some(lease)) => {
            let [remaining, ttl] = [lease.remaining_ms, lease.ttl_ms].map(Duration::from_millis);
            writeln!(out, "ends in {remaining:?}, of {ttl:?}")
        }
        Done::Kept(None) | Done::Revoked(false) | Done::Shown(None) => Ok(()),
    }
}

fn in_json(done: &Done) -> Json {
    match done {
        Done::Granted(lease) => json!({ "lease": lease }),
        Done::Kept(Some(ttl)) => json!({ "ttl_ms": ttl.as_millis() as u64 }),
        Done::Revoked(revoked) => json!({ "revoked": revoked }),
        Done::Shown(Some(lease)) => {
            json!({ "ttl_ms": lease.ttl_ms, "remaining_ms": lease.remaining_ms })
        }
        Done::Kept(None) | Done::Shown(None) => Json::Null,
    }
}
