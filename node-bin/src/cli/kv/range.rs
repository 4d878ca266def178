//! `quorate kv range`: many keys, as many at a time as a page holds.

use std::ffi::OsString;
use std::io::{self, Write};

use bytes::Bytes;
use clap::Args;
use quorate::kv::{Client, ClientError, Page, Pair, Query, RANGE_LIMIT_MAX};
use quorate_consensus::NodeId;
use serde_json::{Map, Value as Json};

use super::{Age, At, field, keys, pair_in_json};
use crate::cli::Failure;
use crate::cli::connect::failure;
use crate::cli::text::printable_line;

#[derive(Args, Debug)]
pub(super) struct RangeArgs {
    start: Option<OsString>,
    end: Option<OsString>,
    /// Only keys that begin with this
    #[arg(long, conflicts_with_all = ["start", "end"])]
    prefix: Option<OsString>,
    /// Print at most this many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Print no values
    #[arg(long)]
    keys_only: bool,
    #[command(flatten)]
    pub(super) at: At,
    /// Whatever that node has, however old; says how old on standard error
    #[arg(long, requires = "at")]
    stale: bool,
}

/// Page after page, each printed before the next is asked for. Each is linearizable, unless stale ones are asked for;
/// together they are not one snapshot.
pub(super) async fn run(
    client: &Client,
    args: RangeArgs,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let (mut start, end) = keys(args.start, args.end, args.prefix);
    let mut left = args.limit;
    let mut printer = Printer::new(json, args.keys_only, out);
    let stale_at = args.at.at.filter(|_| args.stale);
    loop {
        let limit = left.min(RANGE_LIMIT_MAX);
        let (page, age) = match page(client, stale_at, (start, end.clone()), limit).await {
            Ok(page) => page,
            Err(error) => {
                printer.give_up().map_err(Failure::output)?;
                return Err(failure(&error));
            }
        };
        let pairs = &page.pairs[..page.pairs.len().min(limit as usize)];
        printer
            .print(pairs, page.revision, age.as_ref())
            .map_err(Failure::output)?;
        left -= u32::try_from(pairs.len()).expect("never more than the limit, a u32");
        match pairs.last() {
            Some(last) if page.more && left > 0 => {
                start = [&last.key[..], &[0]].concat().into();
            }
            _ => {
                if page.more && !json {
                    // Not part of the data, so not on stdout; if nobody reads it, nothing is lost.
                    let _ = writeln!(io::stderr(), "there are more; raise --limit or start later");
                }
                return printer.end(page.more).map_err(Failure::output);
            }
        }
    }
}

/// One page, and how old it is at most where the state of a node is to do.
async fn page(
    client: &Client,
    stale_at: Option<NodeId>,
    (start, end): (Bytes, Option<Bytes>),
    limit: u32,
) -> Result<(Page, Option<Age>), ClientError> {
    let Some(node) = stale_at else {
        return Ok((client.range(start, end, limit).await?, None));
    };
    let stale = client
        .query_stale(node, Query::Range { start, end, limit })
        .await?;
    let page = Page::of(stale.answer).ok_or(ClientError::Nonsense { node })?;
    let age = Age {
        revision: page.revision,
        leader_silent_for: stale.leader_silent_for,
    };
    Ok((page, Some(age)))
}

/// Prints pairs as they come. In JSON, they are one array, whatever number of pages they come in.
struct Printer<'a> {
    json: bool,
    keys_only: bool,
    out: &'a mut dyn Write,
    /// Whether the array was begun, and whether it has any pairs.
    begun: bool,
    any: bool,
}

impl<'a> Printer<'a> {
    fn new(json: bool, keys_only: bool, out: &'a mut dyn Write) -> Self {
        Self {
            json,
            keys_only,
            out,
            begun: false,
            any: false,
        }
    }

    /// Prints a page of the state at `revision`. That of the first one is printed as well: whoever watches from there on
    /// misses nothing of what changed while the others were read. So is how old that is, if it may be old.
    fn print(&mut self, pairs: &[Pair], revision: u64, age: Option<&Age>) -> io::Result<()> {
        if !self.begun {
            self.begin(revision, age)?;
        }
        self.begun = true;
        for Pair { key, value } in pairs {
            if self.json {
                let comma = if self.any { "," } else { "" };
                let fields = match self.keys_only {
                    true => Json::Object(Map::from_iter([field("key", key)])),
                    false => pair_in_json(key, value),
                };
                write!(self.out, "{comma}{fields}")?;
            } else if self.keys_only {
                writeln!(self.out, "{}", printable_line(key))?;
            } else {
                let (key, value) = (printable_line(key), printable_line(&value.data));
                writeln!(self.out, "{key}\t{value}")?;
            }
            self.any = true;
        }
        Ok(())
    }

    fn begin(&mut self, revision: u64, age: Option<&Age>) -> io::Result<()> {
        if !self.json {
            if let Some(age) = age {
                // Not part of the data, so not on stdout; if nobody reads it, nothing is lost.
                let _ = writeln!(io::stderr(), "{age}");
            }
            return Ok(());
        }
        write!(self.out, "{{\"as_of_revision\":{revision},")?;
        if let Some(age) = age {
            let silent = Json::from(age.silent_ms());
            write!(self.out, "\"leader_silent_for_ms\":{silent},")?;
        }
        write!(self.out, "\"pairs\":[")
    }

    /// There was nothing after that, or what there is was not asked for.
    fn end(self, more: bool) -> io::Result<()> {
        match self.json {
            true => writeln!(self.out, "],\"more\":{more}}}"),
            false => Ok(()),
        }
    }

    /// The next page is not to be had. What was begun is valid all the same, and true: there may be more.
    fn give_up(self) -> io::Result<()> {
        match self.begun {
            true => self.end(true),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quorate::kv::Value;
    use serde_json::json;

    use super::*;

    fn pair(key: &'static str, value: &'static str) -> Pair {
        Pair {
            key: key.into(),
            value: Value {
                data: Bytes::from_static(value.as_bytes()),
                revision: 7,
            },
        }
    }

    /// What is printed for some pages, which end with whether there is more, or without their end.
    fn printed(json: bool, pages: &[&[Pair]], more: Option<bool>) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(json, false, &mut out);
        for (page, revision) in pages.iter().zip(20..) {
            printer.print(page, revision, None).unwrap();
        }
        match more {
            Some(more) => printer.end(more),
            None => printer.give_up(),
        }
        .unwrap();
        String::from_utf8(out).unwrap()
    }

    /// For people, a pair is a line.
    #[test]
    fn pages_for_people() {
        let pages: [&[Pair]; 2] = [&[pair("a", "1\n2")], &[pair("b", "3")]];
        assert_eq!(printed(false, &pages, Some(true)), "a\t1\\n2\nb\t3\n");
        assert_eq!(printed(false, &pages, None), "a\t1\\n2\nb\t3\n");
        assert_eq!(printed(false, &[&[]], Some(false)), "");
    }

    /// In JSON, they are one document, also when there is none, or when the next page was not to be had. Nothing is
    /// printed when the first was not.
    #[test]
    fn pages_in_json() {
        let pages: [&[Pair]; 3] = [&[pair("a", "1"), pair("b", "2")], &[], &[pair("c", "3")]];
        let parsed = |pages: &[&[Pair]], more| {
            let text = printed(true, pages, more);
            assert!(text.ends_with('\n'));
            serde_json::from_str::<Json>(&text).unwrap()
        };
        let expected = |more: bool| {
            json!({ "more": more, "as_of_revision": 20, "pairs": [
                { "key": "a", "value": "1", "revision": 7 },
                { "key": "b", "value": "2", "revision": 7 },
                { "key": "c", "value": "3", "revision": 7 },
            ] })
        };
        assert_eq!(parsed(&pages, Some(false)), expected(false));
        assert_eq!(parsed(&pages, None), expected(true));
        let nothing = json!({ "more": false, "as_of_revision": 20, "pairs": [] });
        assert_eq!(parsed(&[&[]], Some(false)), nothing);
        assert_eq!(printed(true, &[], None), "");
    }

    /// Keys alone, and in JSON how old they may be, which for people is no part of the data.
    #[test]
    fn keys_of_some_age() {
        let age = Age {
            revision: 20,
            leader_silent_for: Some(Duration::from_millis(12)),
        };
        let printed = |json| {
            let mut out = Vec::new();
            let mut printer = Printer::new(json, true, &mut out);
            printer
                .print(&[pair("a", "1"), pair("b", "2")], 20, Some(&age))
                .unwrap();
            printer.end(false).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(printed(false), "a\nb\n");
        assert_eq!(
            serde_json::from_str::<Json>(&printed(true)).unwrap(),
            json!({
                "as_of_revision": 20, "leader_silent_for_ms": 12, "more": false,
                "pairs": [{ "key": "a" }, { "key": "b" }],
            })
        );
    }
}
