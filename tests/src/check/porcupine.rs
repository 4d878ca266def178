//! Histories for porcupine (Go), so that someone else's checker can look at them too.
//!
//! The file is one JSON array with an object for each operation, in the fields of porcupine's
//! `Operation`: `ClientId`, `Input`, `Call`, `Output`, `Return`. Its `Input` and `Output` are `any` in Go:
//!
//! | field | in | meaning |
//! |---|---|---|
//! | `op` | `Input` | `get`, `put`, `cas` or `delete` |
//! | `key` | `Input` | a number; keys are independent, for `Partition` |
//! | `value` | `Input` | what `put` and `cas` write; `null` for absent |
//! | `expected` | `Input` | what `cas` expects; `null` for absent |
//! | `unknown` | `Output` | the outcome is unknown: any state fits, and the key has changed or not |
//! | `value` | `Output` | what `get`, or a `cas` that found something else, saw; `null` for absent |
//! | `done` | `Output` | whether `cas` swapped, `delete` removed |
//!
//! Operations that failed are left out; a scan is one `get` for each key of the history. `Call` and `Return`
//! are places in the history; an operation with an unknown outcome returns after everything else, and
//! one that reads is left out.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde_json::{Value as Json, json};

use super::calls::{Call, End};
use super::history::{Answer, Key, Operation};

/// Writes `calls` to `out`.
///
/// # Errors
///
/// Those of `out`.
pub fn export(calls: &[Call], mut out: impl Write) -> io::Result<()> {
    let keys: BTreeSet<Key> = calls
        .iter()
        .filter_map(|call| call.operation.key())
        .collect();
    let returns = calls.iter().map(|call| match call.end {
        End::Ok { returned, .. } => returned,
        End::Failed | End::Unknown => call.invoked,
    });
    let end = returns.max().unwrap_or_default() + 1;
    let mut separator = "[\n";
    for call in calls {
        for (input, output) in inputs(call, &keys).into_iter().zip(outputs(call, &keys)) {
            let returned = call.returned().min(end);
            let operation = json!({
                "ClientId": call.client, "Input": input, "Call": call.invoked,
                "Output": output, "Return": returned,
            });
            write!(out, "{separator}{operation}")?;
            separator = ",\n";
        }
    }
    // Nothing was written yet when there is no operation.
    let begin = if separator == "[\n" { "[" } else { "" };
    writeln!(out, "{begin}\n]")
}

fn inputs(call: &Call, keys: &BTreeSet<Key>) -> Vec<Json> {
    match call.operation {
        Operation::Get { key } => vec![json!({ "op": "get", "key": key })],
        Operation::Put { key, value } => vec![json!({ "op": "put", "key": key, "value": value })],
        Operation::CompareAndSet {
            key,
            expected,
            value,
        } => vec![json!({ "op": "cas", "key": key, "expected": expected, "value": value })],
        Operation::Delete { key } => vec![json!({ "op": "delete", "key": key })],
        Operation::Scan => {
            let get = |key: &Key| json!({ "op": "get", "key": key });
            keys.iter().map(get).collect()
        }
    }
}

fn outputs(call: &Call, keys: &BTreeSet<Key>) -> Vec<Json> {
    let answer = match &call.end {
        End::Ok { answer, .. } => answer,
        End::Unknown if !call.operation.is_read() => return vec![json!({ "unknown": true })],
        End::Unknown | End::Failed => return Vec::new(),
    };
    match answer {
        Answer::Value(value) => vec![json!({ "value": value })],
        Answer::Written => vec![json!({})],
        Answer::Swapped => vec![json!({ "done": true })],
        Answer::NotSwapped { current } => vec![json!({ "done": false, "value": current })],
        Answer::Deleted { existed } => vec![json!({ "done": existed })],
        Answer::Pairs(pairs) => {
            let value = |key: &Key| {
                pairs
                    .iter()
                    .find(|(of, _)| of == key)
                    .map(|(_, value)| value)
            };
            keys.iter()
                .map(|key| json!({ "value": value(key) }))
                .collect()
        }
    }
}
