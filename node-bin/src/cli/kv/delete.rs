//! `quorate kv del`: one key, or all that begin alike.

use std::ffi::OsString;
use std::io::{self, Write};

use bytes::Bytes;
use clap::Args;
use quorate::kv::{Client, ClientError, Page, RANGE_LIMIT_MAX, SweepError, TRANSACTION_STEPS_MAX};
use serde_json::{Value as Json, json};

use super::keys;
use crate::cli::connect::failure;
use crate::cli::{Failure, exit};

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct DelArgs {
    pub(super) key: Option<OsString>,
    /// All keys that begin with this, 128 at a time; what is written meanwhile stays
    #[arg(long)]
    prefix: Option<OsString>,
    /// Every key that there is, in the same way
    #[arg(long)]
    all: bool,
}

/// What became of the keys that were there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Swept {
    deleted: u64,
    /// Those that were written since the command began.
    kept: u64,
}

/// Deletes page after page, which is not one moment; and nothing that was written after it began.
pub(super) async fn run(
    client: &Client,
    args: DelArgs,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let (start, end) = args.range()?;
    let mut swept = Swept::default();
    if let Err(error) = sweep(client, start, end, &mut swept).await {
        let Failure { code, help, .. } = failure(&error);
        let deleted = swept.deleted;
        let message = SweepError { deleted, error }.to_string();
        return Err(Failure {
            code,
            message,
            help,
        });
    }
    match json {
        true => writeln!(out, "{}", swept.in_json()),
        false => swept.for_people(out),
    }
    .map_err(Failure::output)?;
    swept.verdict(json)
}

async fn sweep(
    client: &Client,
    mut start: Bytes,
    end: Option<Bytes>,
    swept: &mut Swept,
) -> Result<(), ClientError> {
    let began_at = client
        .watch(start.clone(), end.clone(), None)
        .begin()
        .await?;
    loop {
        let Page { pairs, more, .. } = client.range(start, end.clone(), RANGE_LIMIT_MAX).await?;
        let before = pairs.iter().filter(|pair| pair.value.revision <= began_at);
        let keys = before.map(|pair| (pair.key.clone(), pair.value.revision));
        let keys: Vec<(Bytes, u64)> = keys.collect();
        let found = swept.deleted + swept.kept + pairs.len() as u64;
        for keys in keys.chunks(TRANSACTION_STEPS_MAX) {
            let (deleted, failed) = match client.delete_unchanged(keys).await {
                Ok(deleted) => (deleted, None),
                Err(SweepError { deleted, error }) => (deleted, Some(error)),
            };
            swept.deleted += deleted;
            failed.map_or(Ok(()), Err)?;
        }
        swept.kept = found - swept.deleted;
        match pairs.last() {
            Some(last) if more => start = [&last.key[..], &[0]].concat().into(),
            _ => return Ok(()),
        }
    }
}

impl DelArgs {
    /// The keys that are meant, where it is not one.
    fn range(self) -> Result<(Bytes, Option<Bytes>), Failure> {
        match self.prefix {
            Some(prefix) if prefix.is_empty() => {
                let why = "every key begins with an empty prefix";
                Err(Failure::new(exit::USAGE, why).help("use --all if every key is meant"))
            }
            prefix => Ok(keys(None, None, prefix)),
        }
    }
}

impl Swept {
    fn for_people(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { deleted, kept } = self;
        if *deleted > 0 {
            writeln!(out, "deleted {}", in_words(*deleted))?;
        }
        if *kept > 0 {
            writeln!(out, "left {}, written or gone meanwhile", in_words(*kept))?;
        }
        Ok(())
    }

    fn in_json(&self) -> Json {
        json!({ "deleted": self.deleted, "left": self.kept })
    }

    /// Nothing to delete is a negative answer, as it is for one key.
    fn verdict(&self, json: bool) -> Result<(), Failure> {
        if self.deleted > 0 || self.kept > 0 {
            return Ok(());
        }
        let why = if json { "" } else { "no such keys" };
        Err(Failure::new(exit::NEGATIVE, why))
    }
}

fn in_words(count: u64) -> String {
    match count {
        1 => "1 key".into(),
        count => format!("{count} keys"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(prefix: Option<&str>, all: bool) -> DelArgs {
        DelArgs {
            key: None,
            prefix: prefix.map(OsString::from),
            all,
        }
    }

    /// All keys are deleted only where that is said in so many words.
    #[test]
    fn an_empty_prefix_is_refused() {
        let failure = args(Some(""), false).range().unwrap_err();
        assert_eq!(failure.code, exit::USAGE);
        assert!(failure.to_string().contains("--all"), "{failure}");
        assert_eq!(args(None, true).range().unwrap(), (Bytes::new(), None));
        let end = Some(Bytes::from_static(b"b"));
        let one = (Bytes::from_static(b"a"), end);
        assert_eq!(args(Some("a"), false).range().unwrap(), one);
    }

    /// It is said how many keys are deleted, and how many are not; none at all is a negative answer.
    #[test]
    fn what_was_swept() {
        for (deleted, kept, text, code) in [
            (3, 0, "deleted 3 keys\n", 0),
            (
                1,
                2,
                "deleted 1 key\nleft 2 keys, written or gone meanwhile\n",
                0,
            ),
            (0, 1, "left 1 key, written or gone meanwhile\n", 0),
            (0, 0, "", exit::NEGATIVE),
        ] {
            let swept = Swept { deleted, kept };
            let mut out = Vec::new();
            swept.for_people(&mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), text);
            let verdict = swept.verdict(false).map_err(|failure| failure.code);
            assert_eq!(verdict.err().unwrap_or(0), code, "{swept:?}");
        }
        let swept = Swept {
            deleted: 3,
            kept: 1,
        };
        assert_eq!(swept.in_json().to_string(), r#"{"deleted":3,"left":1}"#);
    }
}
