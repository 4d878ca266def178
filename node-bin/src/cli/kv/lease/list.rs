//! `quorate kv lease list`: the leases that there are.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use quorate::kv::{Client, ClientError, LeasePage, ListedLease, RANGE_LIMIT_MAX};
use serde_json::{Value as Json, json};

#[derive(Args, Debug)]
pub(in crate::cli::kv) struct ListArgs {
    /// Begin with this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    from: u64,
    /// Print at most this many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Page after page. Each is of one moment; together they are not.
pub(super) async fn listed(client: &Client, args: &ListArgs) -> Result<LeasePage, ClientError> {
    let mut from = args.from;
    let mut leases: Vec<ListedLease> = Vec::new();
    loop {
        let left = args.limit as usize - leases.len();
        let limit = RANGE_LIMIT_MAX.min(u32::try_from(left).expect("at most a limit that is one"));
        let mut page = client.leases(from, limit).await?;
        page.leases.truncate(left);
        leases.append(&mut page.leases);
        let full = leases.len() >= args.limit as usize;
        match leases.last() {
            // A node that numbers backwards does not keep us for ever.
            Some(last) if page.more && !full && last.number >= from && last.number < u64::MAX => {
                from = last.number + 1;
            }
            _ => {
                let more = page.more;
                return Ok(LeasePage { leases, more });
            }
        }
    }
}

pub(super) fn for_people(page: &LeasePage, out: &mut dyn Write) -> io::Result<()> {
    for listed in &page.leases {
        let ListedLease {
            number,
            lease,
            keys,
            more_keys,
        } = listed;
        let [remaining, ttl] = [lease.remaining_ms, lease.ttl_ms].map(Duration::from_millis);
        let keys = match (keys, more_keys) {
            (1, false) => "1 key".to_owned(),
            (keys, false) => format!("{keys} keys"),
            (keys, true) => format!("more than {keys} keys"),
        };
        writeln!(out, "{number}\tends in {remaining:?}, of {ttl:?}\t{keys}")?;
    }
    if page.more {
        // Not part of the data, so not on stdout; if nobody reads it, nothing is lost.
        let _ = writeln!(io::stderr(), "there are more; raise --limit or use --from");
    }
    Ok(())
}

pub(super) fn in_json(page: &LeasePage) -> Json {
    let leases = page.leases.iter().map(|listed| {
        json!({
            "lease": listed.number,
            "ttl_ms": listed.lease.ttl_ms,
            "remaining_ms": listed.lease.remaining_ms,
            "keys": listed.keys,
            "more_keys": listed.more_keys,
        })
    });
    json!({ "leases": leases.collect::<Vec<_>>(), "more": page.more })
}

#[cfg(test)]
mod tests {
    use quorate::kv::Lease;

    use super::*;

    fn page() -> LeasePage {
        let listed = |number, keys, more_keys| ListedLease {
            number,
            lease: Lease {
                ttl_ms: 10_000,
                remaining_ms: 7_250,
            },
            keys,
            more_keys,
        };
        LeasePage {
            leases: vec![
                listed(7, 1, false),
                listed(9, 0, false),
                listed(12, 10_000, true),
            ],
            more: false,
        }
    }

    /// For people, a lease is a line.
    #[test]
    fn leases_for_people() {
        let mut out = Vec::new();
        for_people(&page(), &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "7\tends in 7.25s, of 10s\t1 key\n\
             9\tends in 7.25s, of 10s\t0 keys\n\
             12\tends in 7.25s, of 10s\tmore than 10000 keys\n"
        );
    }

    /// In JSON, a number is a number, and whether there is more is said.
    #[test]
    fn leases_in_json() {
        let printed = in_json(&page());
        assert_eq!(printed["more"], false);
        let first = json!({
            "lease": 7, "ttl_ms": 10_000, "remaining_ms": 7_250, "keys": 1, "more_keys": false
        });
        assert_eq!(printed["leases"][0], first);
        assert_eq!(printed["leases"][2]["more_keys"], true);
    }
}
