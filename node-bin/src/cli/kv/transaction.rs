//! `quorate kv txn`: several keys in one moment.

use std::io::{self, Write};

use bytes::Bytes;
use clap::Args;
use quorate::kv::{Client, Compare, Condition, Step, StepOutcome, Transacted, Transaction};
use serde_json::{Map, Value as Json};

use crate::cli::connect::failure;
use crate::cli::text::{field, printable_line};
use crate::cli::{Failure, exit};

#[derive(Args, Debug)]
pub(super) struct TransactionArgs {
    /// What has to be so: `absent KEY`, `present KEY`, `value KEY VALUE`, `revision KEY NUMBER`; may be repeated
    #[arg(long = "if", value_name = "CONDITION", value_parser = compare)]
    compare: Vec<Compare>,
    /// What is done then: `put KEY VALUE`, `lease NUMBER KEY VALUE`, `del KEY`, `get KEY`; may be repeated
    #[arg(long, value_name = "STEP", value_parser = step)]
    then: Vec<Step>,
    /// What is done otherwise; may be repeated
    #[arg(long = "else", value_name = "STEP", value_parser = step)]
    otherwise: Vec<Step>,
}

impl TransactionArgs {
    fn transaction(self) -> Result<Transaction, Failure> {
        if self.then.is_empty() && self.otherwise.is_empty() {
            return Err(Failure::new(exit::USAGE, "there is nothing to do")
                .help("add a step, such as --then 'put KEY VALUE'"));
        }
        Ok(Transaction {
            compare: self.compare,
            then: self.then,
            otherwise: self.otherwise,
        })
    }
}

/// The next word of `text`, and what comes after the space behind it, if there is one.
fn word(text: &str) -> (&str, Option<&str>) {
    match text.split_once(' ') {
        Some((word, rest)) => (word, Some(rest)),
        None => (text, None),
    }
}

fn key<'a>(text: Option<&'a str>, of: &str) -> Result<(Bytes, Option<&'a str>), String> {
    match word(text.unwrap_or_default()) {
        ("", _) => Err(format!("`{of}` needs a key, which has no space in it")),
        (key, rest) => Ok((Bytes::copy_from_slice(key.as_bytes()), rest)),
    }
}

fn nothing_more(rest: Option<&str>, of: &str) -> Result<(), String> {
    match rest {
        None | Some("") => Ok(()),
        Some(rest) => Err(format!(
            "`{rest}` is too much: `{of}` needs only a key, without a space"
        )),
    }
}

fn number(text: Option<&str>) -> Result<u64, String> {
    let text = text.unwrap_or_default();
    text.parse()
        .map_err(|_| format!("`{text}` is not a number"))
}

/// A value goes on to the end. One that was forgotten is not taken for an empty one.
fn value(rest: Option<&str>, of: &str) -> Result<Bytes, String> {
    rest.map(|value| Bytes::copy_from_slice(value.as_bytes()))
        .ok_or_else(|| {
            format!("`{of}` needs a value behind the key; an empty one is a space and nothing more")
        })
}

/// A condition as it is written.
fn compare(text: &str) -> Result<Compare, String> {
    let (kind, rest) = word(text);
    if kind == "revision" {
        return revision(rest, kind);
    }
    let (key, rest) = key(rest, kind)?;
    let condition = match kind {
        "absent" | "present" => {
            nothing_more(rest, kind)?;
            match kind {
                "absent" => Condition::Absent,
                _ => Condition::Present,
            }
        }
        "value" => Condition::Value(value(rest, kind)?),
        other => {
            return Err(format!(
                "`{other}` is no condition; there are absent, present, value and revision"
            ));
        }
    };
    Ok(Compare { key, condition })
}

/// The number is what stands last: the key before it may have spaces, as that of a lock whose name has some.
fn revision(rest: Option<&str>, of: &str) -> Result<Compare, String> {
    let rest = rest.unwrap_or_default();
    let (text, last) = match rest.rsplit_once(' ') {
        Some((text, last)) => (text, Some(last)),
        None => (rest, None),
    };
    if text.is_empty() {
        return Err(format!("`{of}` needs a key"));
    }
    Ok(Compare {
        key: Bytes::copy_from_slice(text.as_bytes()),
        condition: Condition::Revision(number(last)?),
    })
}

/// A step as it is written.
fn step(text: &str) -> Result<Step, String> {
    let (kind, rest) = word(text);
    let (lease, rest) = match kind {
        "lease" => {
            let (lease, rest) = word(rest.unwrap_or_default());
            (Some(number(Some(lease))?), rest)
        }
        _ => (None, rest),
    };
    let (key, rest) = key(rest, kind)?;
    match kind {
        "put" | "lease" => Ok(Step::Put {
            key,
            value: value(rest, kind)?,
            lease,
        }),
        "del" | "get" => {
            nothing_more(rest, kind)?;
            Ok(match kind {
                "del" => Step::Delete { key },
                _ => Step::Get { key },
            })
        }
        other => Err(format!(
            "`{other}` is no step; there are put, lease, del and get"
        )),
    }
}

pub(super) async fn run(
    client: &Client,
    args: TransactionArgs,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let transaction = args.transaction()?;
    let done = client.transact(transaction.clone()).await;
    let done = done.map_err(|error| failure(&error))?;
    let steps = match done.succeeded {
        true => transaction.then,
        false => transaction.otherwise,
    };
    match json {
        true => writeln!(out, "{}", in_json(&steps, &done)),
        false => for_people(&steps, &done, out),
    }
    .map_err(Failure::output)?;
    if done.succeeded {
        return Ok(());
    }
    let message = match json {
        true => String::new(),
        false => format!("not everything was so; at revision {}", done.revision),
    };
    Err(Failure::new(exit::NEGATIVE, message))
}

fn for_people(steps: &[Step], done: &Transacted, out: &mut dyn Write) -> io::Result<()> {
    for (step, outcome) in steps.iter().zip(&done.steps) {
        let key = printable_line(step.key());
        match outcome {
            StepOutcome::Written => writeln!(out, "put\t{key}")?,
            StepOutcome::Deleted { existed: true } => writeln!(out, "del\t{key}")?,
            StepOutcome::Deleted { existed: false } => writeln!(out, "del\t{key}\tno such key")?,
            StepOutcome::Value(Some(value)) => {
                writeln!(out, "get\t{key}\t{}", printable_line(&value.data))?;
            }
            StepOutcome::Value(None) => writeln!(out, "get\t{key}\tno such key")?,
        }
    }
    match done.succeeded {
        true => writeln!(out, "done at revision {}", done.revision),
        false => Ok(()),
    }
}

fn in_json(steps: &[Step], done: &Transacted) -> Json {
    let steps = steps.iter().zip(&done.steps).map(|(step, outcome)| {
        let mut fields = Map::from_iter([field("key", step.key())]);
        match outcome {
            StepOutcome::Written => drop(fields.insert("step".into(), "put".into())),
            StepOutcome::Deleted { existed } => {
                fields.insert("step".into(), "del".into());
                fields.insert("existed".into(), (*existed).into());
            }
            StepOutcome::Value(value) => {
                fields.insert("step".into(), "get".into());
                let (name, value, revision) = match value {
                    Some(value) => {
                        let (name, data) = field("value", &value.data);
                        (name, data, value.revision.into())
                    }
                    None => ("value".into(), Json::Null, Json::Null),
                };
                fields.insert(name, value);
                fields.insert("revision".into(), revision);
            }
        }
        Json::Object(fields)
    });
    Json::Object(Map::from_iter([
        ("succeeded".into(), done.succeeded.into()),
        ("revision".into(), done.revision.into()),
        ("steps".into(), steps.collect::<Vec<_>>().into()),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    /// Conditions and steps as they are written; a value may have spaces, or be empty, and so may the key of a revision
    /// have them.
    #[test]
    fn words_become_steps() {
        for (text, key, condition) in [
            ("absent a", "a", Condition::Absent),
            ("present a", "a", Condition::Present),
            ("value a b c", "a", Condition::Value(bytes("b c"))),
            ("value a ", "a", Condition::Value(bytes(""))),
            ("revision a 7", "a", Condition::Revision(7)),
            ("revision a b/01 7", "a b/01", Condition::Revision(7)),
        ] {
            let key = bytes(key);
            assert_eq!(compare(text), Ok(Compare { key, condition }), "{text}");
        }
        let put = |value, lease| Step::Put {
            key: bytes("a"),
            value: bytes(value),
            lease,
        };
        for (text, expected) in [
            ("put a b c", put("b c", None)),
            ("put a ", put("", None)),
            ("lease 7 a b", put("b", Some(7))),
            ("del a", Step::Delete { key: bytes("a") }),
            ("get a", Step::Get { key: bytes("a") }),
        ] {
            assert_eq!(step(text), Ok(expected), "{text}");
        }
    }

    /// What is not one says what there is.
    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("", "needs a key"),
            ("absent", "needs a key"),
            ("absent a b", "`b` is too much"),
            ("revision", "needs a key"),
            ("revision a b", "`b` is not a number"),
            ("revision a 7 ", "`` is not a number"),
            ("revision a", "`` is not a number"),
            ("value a", "needs a value"),
            ("older a", "`older` is no condition"),
        ] {
            let error = compare(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        for (text, expected) in [
            ("put", "needs a key"),
            ("lease a b c", "`a` is not a number"),
            ("put a", "needs a value"),
            ("lease 7 a", "needs a value"),
            ("get a b", "`b` is too much"),
            ("incr a", "`incr` is no step"),
        ] {
            let error = step(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
