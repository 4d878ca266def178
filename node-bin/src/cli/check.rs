//! `quorate check`: whether a stopped node's data folder is in order, without changing it.

mod state;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use quorate::{EntryId, LOG_FILE, Membership, NodeId, PEERS_FILE, kv, saved};
use quorate_persist::{CheckedLog, OpenError, OsFiles, check_log, load_peers};
use serde_json::{Value, json};

use self::state::{REPLACE, State};
use super::{Failure, exit};

/// Read every page, checksum, entry and bound of a stopped node's files; nothing is written.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The data folder
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Do not look for the state, which a program keeps in a way of its own
    #[arg(long)]
    log_only: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &CheckArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let result = check(&args.dir, args.log_only);
    if args.json {
        let text = match &result {
            Ok(checked) => checked.in_json(),
            Err(failure) => json!({ "ok": false, "problem": failure.message }),
        };
        writeln!(out, "{text}").map_err(Failure::output)?;
    } else if let Ok(checked) = &result {
        write!(out, "{}", checked.in_words()).map_err(Failure::output)?;
    }
    result.map(drop)
}

/// What was found in order.
pub(super) struct Checked {
    pub(super) log: CheckedLog,
    state: Beside,
}

/// What is beside the log.
enum Beside {
    Known(State),
    /// The log is whole, which makes it again, if there was one.
    Nothing,
    /// Nobody looked.
    Unasked,
}

/// Checks the files in `dir`; with `log_only`, all but the state.
pub(super) fn check(dir: &Path, log_only: bool) -> Result<Checked, Failure> {
    let log = check_log(OsFiles, &dir.join(LOG_FILE)).map_err(|error| not_checked(dir, &error))?;
    load_peers(&OsFiles, &dir.join(PEERS_FILE), &log.identity).map_err(|error| failure(&error))?;
    let state = match log_only {
        true => Beside::Unasked,
        false => State::check(dir, &log)?.map_or(Beside::Nothing, Beside::Known),
    };
    Ok(Checked { log, state })
}

/// Why the log could not be looked at, which is the first thing that is opened.
fn not_checked(dir: &Path, error: &OpenError) -> Failure {
    let dir = dir.display();
    match error {
        OpenError::Missing { .. } => {
            let message = format!("{dir} is no data folder: there is no {LOG_FILE} in it");
            Failure::new(exit::NO_INPUT, message).help(format!(
                "name the data folder of the node; one that lost its log must not start without it: {REPLACE}"
            ))
        }
        OpenError::Locked { .. } => {
            let message = format!("a node is running on {dir}; stop it first");
            Failure::new(exit::UNAVAILABLE, message)
        }
        error => failure(error),
    }
}

pub(super) fn failure(error: &OpenError) -> Failure {
    let code = match error {
        OpenError::Missing { .. } => exit::NO_INPUT,
        OpenError::Locked { .. } => exit::UNAVAILABLE,
        OpenError::Corrupt { .. } => exit::DATA,
        OpenError::WrongCluster { .. }
        | OpenError::WrongNode { .. }
        | OpenError::NewerFormat { .. } => exit::CONFIG,
        _ => exit::IO,
    };
    Failure::new(code, error.to_string())
}

/// The numbers of `nodes`, as people write them.
pub(super) fn numbers(nodes: impl IntoIterator<Item = NodeId>) -> String {
    let numbers = nodes.into_iter().map(|node| node.value().to_string());
    numbers.collect::<Vec<_>>().join(", ")
}

fn members(membership: &Membership) -> String {
    let voters = numbers(membership.voters());
    match numbers(membership.learners()) {
        learners if learners.is_empty() => format!("voters {voters}"),
        learners => format!("voters {voters}, learners {learners}"),
    }
}

impl Checked {
    /// Whether there is a file of the key-value store, which was in order then.
    pub(super) fn has_kv(&self) -> bool {
        matches!(&self.state, Beside::Known(state) if state.file() == kv::STATE_FILE)
    }

    fn in_words(&self) -> String {
        let CheckedLog {
            identity,
            store_id,
            boots,
            recovered,
        } = &self.log;
        let hard_state = &recovered.hard_state;
        let vote = hard_state.vote.map_or_else(String::new, |node| {
            format!(", vote for node {}", node.value())
        });
        let (base, last) = (recovered.base(), self.log.last());
        let entries = match base == last {
            true => format!("no entries after {base}"),
            false => format!("entries from {} to {last}", base.index.next()),
        };
        let (file, state) = match &self.state {
            Beside::Known(state) => (state.file(), state.in_words()),
            Beside::Nothing => (
                "state",
                format!(
                    "none that this program knows ({}, {}); the next start makes it from the log",
                    kv::STATE_FILE,
                    saved::STATE_FILE
                ),
            ),
            Beside::Unasked => ("state", "was not looked at".into()),
        };
        format!(
            "{LOG_FILE}  in order: node {} of cluster {:?}, started {boots} times, store {store_id:032x}\n\
             {:width$}  {entries}, commit {}, term {}{vote}, {}\n\
             {file:width$}  {state}\n",
            identity.node.value(),
            identity.cluster,
            "",
            hard_state.commit,
            hard_state.term,
            members(recovered.membership()),
            width = LOG_FILE.len(),
        )
    }

    fn in_json(&self) -> Value {
        let CheckedLog {
            identity,
            store_id,
            boots,
            recovered,
        } = &self.log;
        json!({
            "ok": true,
            "log": {
                "cluster": identity.cluster,
                "node": identity.node.value(),
                "store": format!("{store_id:032x}"),
                "starts": boots,
                "term": recovered.hard_state.term.value(),
                "vote": recovered.hard_state.vote.map(NodeId::value),
                "commit": recovered.hard_state.commit.value(),
                "base": id_in_json(recovered.base()),
                "last": id_in_json(self.log.last()),
            },
            "state": match &self.state {
                Beside::Known(state) => state.in_json(),
                Beside::Nothing | Beside::Unasked => Value::Null,
            },
        })
    }
}

fn id_in_json(id: EntryId) -> Value {
    json!({ "index": id.index.value(), "term": id.term.value() })
}
