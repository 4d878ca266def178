//! `quorate check`: whether a stopped node's data folder is in order, without changing it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use quorate::kv::{KvOptions, KvStore, STATE_FILE};
use quorate::{EntryId, LOG_FILE, Membership, NodeId, ORIGIN, PEERS_FILE, StateMachine};
use quorate_persist::{CheckedLog, OpenError, OsFiles, Unchanged, check_log, load_peers};
use serde_json::{Value, json};

use super::{Failure, exit};

/// Read every page, checksum, entry and bound of a stopped node's files; nothing is written.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The data folder
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &CheckArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let result = check(&args.dir);
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
    /// `None` when there is no such file, and the log is whole, which makes it again.
    state: Option<State>,
}

struct State {
    applied: EntryId,
    digest: u64,
}

pub(super) fn check(dir: &Path) -> Result<Checked, Failure> {
    let log = check_log(OsFiles, &dir.join(LOG_FILE)).map_err(|error| not_checked(dir, &error))?;
    load_peers(&OsFiles, &dir.join(PEERS_FILE), &log.identity).map_err(|error| failure(&error))?;
    let path = dir.join(STATE_FILE);
    let there = path.try_exists().map_err(|error| {
        Failure::new(
            exit::NO_INPUT,
            format!("cannot read {}: {error}", path.display()),
        )
    })?;
    if !there && !is_whole(&log) {
        let message = format!("{} is not there", path.display());
        return Err(rebuilt(&log, Failure::new(exit::DATA, message)));
    }
    let state = there.then(|| check_state(&path, &log)).transpose()?;
    Ok(Checked { log, state })
}

fn check_state(path: &Path, log: &CheckedLog) -> Result<State, Failure> {
    let options = KvOptions {
        background: false,
        ..KvOptions::default()
    };
    let store = KvStore::open_in(Arc::new(Unchanged(OsFiles)), path, &log.identity, options)
        .map_err(|error| rebuilt(log, failure(&error)))?;
    let applied = store.applied();
    let base = log.recovered.base();
    let damaged = |error| {
        let message = format!("{} is damaged: {error}", path.display());
        rebuilt(log, Failure::new(exit::DATA, message))
    };
    if applied.index < base.index && store.received().map_err(damaged)? == Some(base) {
        let message = format!(
            "{} is the state of entry {applied}, and a snapshot up to {base} is received but not in its place",
            path.display()
        );
        return Err(Failure::new(exit::DATA, message).help("the next start puts it there"));
    }
    if applied.index < base.index {
        let message = format!(
            "{} has applied no more than entry {applied}, but the log begins after {base}: the state was lost or \
             rolled back",
            path.display()
        );
        return Err(rebuilt(log, Failure::new(exit::DATA, message)));
    }
    if !holds(log, applied) {
        let message = format!(
            "{} has applied entry {applied}, which the log, from {base} to {}, does not hold",
            path.display(),
            log.last()
        );
        return Err(Failure::new(exit::DATA, message).help(
            "the log was lost or replaced: do not start this node on it; `quorate members replace` puts a new one in its place",
        ));
    }
    let digest = store.digest().map_err(damaged)?;
    Ok(State { applied, digest })
}

/// Whether `entry` is one of the log's.
fn holds(log: &CheckedLog, entry: EntryId) -> bool {
    let runs = log.recovered.terms.iter().rev();
    let run = runs.into_iter().find(|first| first.index <= entry.index);
    // The base is the first of the runs.
    entry.index <= log.recovered.last && run.is_some_and(|first| first.term == entry.term)
}

/// Whether nothing was ever compacted.
fn is_whole(log: &CheckedLog) -> bool {
    log.recovered.base() == ORIGIN
}

/// What to do where only the state is damaged or missing, and the log is in order.
fn rebuilt(log: &CheckedLog, failure: Failure) -> Failure {
    failure.help(match is_whole(log) {
        true => "the log is in order: move the file away, and the next start makes it again from the log",
        false => {
            "the log is in order, but its beginning was compacted into the state: do not start this node \
             on it; `quorate members replace` puts a new one in its place"
        }
    })
}

/// Why the log could not be looked at, which is the first thing that is opened.
fn not_checked(dir: &Path, error: &OpenError) -> Failure {
    let dir = dir.display();
    match error {
        OpenError::Missing { .. } => {
            let message = format!("{dir} is no data folder: there is no {LOG_FILE} in it");
            Failure::new(exit::NO_INPUT, message).help(
                "name the folder that `data-dir` names; a node that lost its log must not start without it: \
                 `quorate members replace` puts a new one in its place",
            )
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
    /// Whether there is a file of the state, which was in order then.
    pub(super) fn has_state(&self) -> bool {
        self.state.is_some()
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
        let state = match &self.state {
            Some(State { applied, digest }) => {
                format!("in order: applied {applied}, digest {digest:016x}")
            }
            None => "is not there; the next start makes it from the log".into(),
        };
        format!(
            "{LOG_FILE}  in order: node {} of cluster {:?}, started {boots} times, store {store_id:032x}\n\
             {:width$}  {entries}, commit {}, term {}{vote}, {}\n\
             {STATE_FILE:width$}  {state}\n",
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
        let id = |id: EntryId| json!({ "index": id.index.value(), "term": id.term.value() });
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
                "base": id(recovered.base()),
                "last": id(self.log.last()),
            },
            "state": self.state.as_ref().map(|state| json!({
                "applied": id(state.applied),
                "digest": format!("{:016x}", state.digest),
            })),
        })
    }
}
