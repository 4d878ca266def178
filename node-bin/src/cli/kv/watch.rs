//! `quorate kv watch`: what happens to keys, as it happens.

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Args;
use quorate::kv::{Change, Client};
use serde_json::{Map, Value as Json, json};

use super::{At, keys};
use crate::cli::Failure;
use crate::cli::connect::failure;
use crate::cli::text::{field, printable_line};

#[derive(Args, Debug)]
pub(super) struct WatchArgs {
    /// The one key, or the first of them when END is given; all keys without
    key: Option<OsString>,
    end: Option<OsString>,
    /// Only keys that begin with this
    #[arg(long, conflicts_with_all = ["key", "end"])]
    prefix: Option<OsString>,
    /// Begin after this revision instead of now; exits with 65 if that is no longer known
    #[arg(long, value_name = "REVISION")]
    after: Option<u64>,
    /// End after this many changes, and those that belong to one transaction with the last
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    pub(super) at: At,
}

pub(super) async fn run(
    client: &Client,
    args: WatchArgs,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let one = args.end.is_none() && args.prefix.is_none();
    let (start, mut end) = keys(args.key, args.end, args.prefix);
    if one && !start.is_empty() {
        end = Some([&start[..], &[0]].concat().into());
    }
    let mut watch = client.watch(start, end, args.after);
    let mut left = args.limit.unwrap_or(u64::MAX);
    let revision = watch.begin().await.map_err(|error| failure(&error))?;
    // Whoever reads it knows that from now on nothing is missed.
    match json {
        true => {
            let begun = json!({ "watching_after": revision });
            writeln!(out, "{begun}")
                .and_then(|()| out.flush())
                .map_err(Failure::output)?;
        }
        // Not part of the data.
        false => {
            let _ = writeln!(io::stderr(), "watching after revision {revision}");
        }
    }
    while left > 0 {
        let changes = watch.next().await.map_err(|error| failure(&error))?;
        let whole = whole_revisions(&changes, left);
        left = left.saturating_sub(whole as u64);
        for change in &changes[..whole] {
            match json {
                true => writeln!(out, "{}", in_json(change)),
                false => for_people(change, out),
            }
            .map_err(Failure::output)?;
        }
        out.flush().map_err(Failure::output)?;
    }
    Ok(())
}

/// How many of `changes` are the first `limit`, and those of the revision in which they end: whoever goes on after that
/// misses nothing.
fn whole_revisions(changes: &[Change], limit: u64) -> usize {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    match changes.get(..limit) {
        None | Some([]) => changes.len().min(limit),
        Some([.., last]) => changes.partition_point(|change| change.revision <= last.revision),
    }
}

fn for_people(change: &Change, out: &mut dyn Write) -> io::Result<()> {
    let (revision, key) = (change.revision, printable_line(&change.key));
    match &change.value {
        Some(value) => writeln!(out, "{revision}\tput\t{key}\t{}", printable_line(value)),
        None => writeln!(out, "{revision}\tdel\t{key}"),
    }
}

fn in_json(change: &Change) -> Json {
    let value = match &change.value {
        Some(value) => field("value", value),
        None => ("value".into(), Json::Null),
    };
    Json::Object(Map::from_iter([
        ("revision".into(), change.revision.into()),
        field("key", &change.key),
        value,
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A transaction is not cut: whoever goes on after the last revision would miss the rest of it.
    #[test]
    fn a_limit_ends_between_revisions() {
        let change = |revision| Change {
            key: "k".into(),
            value: None,
            revision,
        };
        let changes = [3, 4, 4, 4, 7].map(change);
        let counts = [0, 1, 2, 3, 4, 5, 6].map(|limit| whole_revisions(&changes, limit));
        assert_eq!(counts, [0, 1, 4, 4, 4, 5, 5]);
        assert_eq!(whole_revisions(&[], 1), 0);
    }
}
