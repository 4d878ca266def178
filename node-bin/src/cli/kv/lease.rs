//! `quorate kv lease`: keys that go away by themselves.

mod list;

use std::io::{self, Write};
use std::time::Duration;

use clap::Subcommand;
use quorate::kv::{Client, ClientError, LEASE_TTL_MAX, LEASE_TTL_MIN, Lease, LeasePage};
use serde_json::{Value as Json, json};

use self::list::ListArgs;
use crate::cli::connect::failure;
use crate::cli::{Failure, config, exit};

#[derive(Subcommand, Debug)]
pub(super) enum LeaseAction {
    /// Make a lease that ends TTL after it was last kept, and print its number
    Grant {
        /// How long it lives, from `1s` to `30d`
        #[arg(value_parser = time_to_live)]
        ttl: Duration,
    },
    /// Have a lease live for its whole time, counted from the start of the command
    Keep {
        #[arg(value_parser = lease_number)]
        lease: u64,
    },
    /// End a lease, and remove the keys that are bound to it
    Revoke {
        #[arg(value_parser = lease_number)]
        lease: u64,
    },
    /// Print how long a lease will live
    Show {
        #[arg(value_parser = lease_number)]
        lease: u64,
    },
    /// Print the leases that there are, how long each will live, and how many keys it has
    List(ListArgs),
}

/// A time to live, which is longer than the times that operations take: `12h` and `30d` are times as well.
pub(super) fn time_to_live(text: &str) -> Result<Duration, String> {
    let in_minutes =
        |of: &str, minutes: u32| config::time(&format!("{of}m")).map(|it| (it, minutes));
    let parsed = match (text.strip_suffix('h'), text.strip_suffix('d')) {
        (Some(hours), _) => in_minutes(hours, 60),
        (_, Some(days)) => in_minutes(days, 24 * 60),
        (None, None) => config::time(text).map(|time| (time, 1)),
    };
    let wrong = || format!("`{text}` is not a time; expected a whole number of ms, s, m, h or d");
    let (time, times) = parsed.map_err(|_| wrong())?;
    let ttl = time.checked_mul(times).ok_or_else(wrong)?;
    if !(LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(&ttl) {
        return Err("a lease lives for 1s to 30d".to_owned());
    }
    Ok(ttl)
}

/// What `kv lease grant` has printed.
pub(super) fn lease_number(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not a lease's number"))
}

/// What came of it; nothing where there is no such lease.
#[derive(Debug)]
enum Done {
    Granted(u64),
    Kept(Option<Duration>),
    Revoked(bool),
    Shown(Option<Lease>),
    Listed(LeasePage),
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
        LeaseAction::List(args) => Done::Listed(list::listed(client, &args).await?),
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
        Done::Listed(page) => list::for_people(page, out),
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
        Done::Listed(page) => list::in_json(page),
        Done::Kept(None) | Done::Shown(None) => Json::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leases live for seconds to days, within the bounds that are told.
    #[test]
    fn times_to_live() {
        let seconds = |text| time_to_live(text).map(|ttl| ttl.as_secs());
        for (text, expected) in [
            ("1000ms", 1),
            ("30s", 30),
            ("5m", 300),
            ("12h", 43_200),
            ("30d", 2_592_000),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["999ms", "0h", "31d", "721h"] {
            assert!(seconds(text).unwrap_err().contains("1s to 30d"), "{text}");
        }
        assert_eq!(time_to_live("1s"), Ok(LEASE_TTL_MIN));
        assert_eq!(time_to_live("30d"), Ok(LEASE_TTL_MAX));
        for text in [
            "",
            "h",
            "d",
            "5",
            "-1h",
            "1.5h",
            "1w",
            "18446744073709551615d",
        ] {
            let error = seconds(text).unwrap_err();
            assert!(
                error.contains(&format!("`{text}` is not a time")),
                "{error}"
            );
        }
    }
}
