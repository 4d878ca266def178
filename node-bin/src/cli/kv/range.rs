//! `quorate kv range`: many keys, as many at a time as a page holds.

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Args;
use quorate::kv::{Client, Pair, RANGE_LIMIT_MAX};

use super::{At, keys, pair_in_json};
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
    #[command(flatten)]
    pub(super) at: At,
}

/// Page after page, each printed before the next is asked for. Each is linearizable; together they are not one
/// snapshot.
pub(super) async fn run(
    client: &Client,
    args: RangeArgs,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let (mut start, end) = keys(args.start, args.end, args.prefix);
    let mut left = args.limit;
    let mut printer = Printer::new(json, out);
    loop {
        let limit = left.min(RANGE_LIMIT_MAX);
        let page = match client.range(start, end.clone(), limit).await {
            Ok(page) => page,
            Err(error) => {
                printer.give_up().map_err(Failure::output)?;
                return Err(failure(&error));
            }
        };
        let pairs = &page.pairs[..page.pairs.len().min(limit as usize)];
        printer
            .print(pairs, page.revision)
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

/// Prints pairs as they come. In JSON, they are one array, whatever number of pages they come in.
struct Printer<'a> {
    json: bool,
    out: &'a mut dyn Write,
    /// Whether the array was begun, and whether it has any pairs.
    begun: bool,
    any: bool,
}

impl<'a> Printer<'a> {
    fn new(json: bool, out: &'a mut dyn Write) -> Self {
        Self {
            json,
            out,
            begun: false,
            any: false,
        }
    }

    /// Prints a page of the state at `revision`. That of the first one is printed as well: whoever watches from there on
    /// misses nothing of what changed while the others were read.
    fn print(&mut self, pairs: &[Pair], revision: u64) -> io::Result<()> {
        if self.json && !self.begun {
            write!(self.out, "{{\"as_of_revision\":{revision},\"pairs\":[")?;
        }
        self.begun = true;
        for Pair { key, value } in pairs {
            if self.json {
                let comma = if self.any { "," } else { "" };
                write!(self.out, "{comma}{}", pair_in_json(key, value))?;
            } else {
                let (key, value) = (printable_line(key), printable_line(&value.data));
                writeln!(self.out, "{key}\t{value}")?;
            }
            self.any = true;
        }
        Ok(())
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
    use bytes::Bytes;
    use quorate::kv::Value;
    use serde_json::{Value as Json, json};

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
        let mut printer = Printer::new(json, &mut out);
        for (page, revision) in pages.iter().zip(20..) {
            printer.print(page, revision).unwrap();
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
}
