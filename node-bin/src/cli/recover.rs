//! `quorate recover`: what is left of a cluster whose majority is lost for ever goes on as one node.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use quorate::{LOG_FILE, NodeId};
use quorate_consensus::{LogStore, LogWrite};
use quorate_persist::{CheckedLog, Opened, Options, OsFiles, Store, fresh_origin, seconds_now};
use serde_json::{Value, json};

use super::check::{self, Checked};
use super::{Failure, exit};

/// Make a stopped node the only member of its cluster, because the majority is lost for ever
///
/// What it has not got is lost, even where it was acknowledged. Of several nodes that are left, take the one whose last
/// entry, as `quorate check` shows it, has the highest term, and among those the highest index. Should the others
/// come back, there are two clusters: destroy their data folders first.
#[derive(Args, Debug)]
pub(crate) struct RecoverArgs {
    /// The data folder
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Do it, instead of only saying what would be done
    #[arg(long)]
    yes: bool,
    /// Do not look for the state, which a program keeps in a way of its own
    #[arg(long)]
    log_only: bool,
    /// Print JSON, as one line at the end
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &RecoverArgs, out: &mut dyn Write) -> Result<(), Failure> {
    // Nothing is built on a folder that is not in order.
    let Checked { log, .. } = check::check(&args.dir, args.log_only)?;
    let node = log.identity.node;
    let write = log.recovered.alone(node, seconds_now()).ok_or_else(|| {
        let members = log.recovered.membership();
        let (number, those) = (node.value(), check::numbers(members.members()));
        let message =
            format!("node {number} is no member of this cluster any more; those are {those}");
        Failure::new(exit::CONFIG, message).help("recover one of those")
    })?;
    if args.json {
        if args.yes {
            carry_out(args, &log, &write)?;
        }
        let told = in_json(&log, node, &write, args.yes);
        return writeln!(out, "{told}").map_err(Failure::output);
    }
    write!(out, "{}", plan(&log, node)).map_err(Failure::output)?;
    if !args.yes {
        let next = match is_alone(&log, node) {
            true => {
                "There is nothing to do, unless a recovery was cut short: then repeat it with --yes."
            }
            false => {
                "Nothing was changed. If the others are gone for good, repeat the command with --yes."
            }
        };
        return writeln!(out, "{next}").map_err(Failure::output);
    }
    carry_out(args, &log, &write)?;
    let (number, commit) = (node.value(), write.hard_state.commit);
    writeln!(
        out,
        "Done: node {number} is the only member, as of entry {commit}. Start it as before, and then replace the others by new\n\
         nodes under new ids: `quorate members add`, with `quorate start --join` for each."
    )
    .map_err(Failure::output)
}

fn is_alone(log: &CheckedLog, node: NodeId) -> bool {
    others(log, node).next().is_none()
}

fn others(log: &CheckedLog, node: NodeId) -> impl Iterator<Item = NodeId> {
    let members = log.recovered.membership().members();
    members.filter(move |other| *other != node)
}

fn plan(log: &CheckedLog, node: NodeId) -> String {
    let (number, last) = (node.value(), log.last());
    let commit = log.recovered.hard_state.commit;
    let found = format!(
        "Node {number} of cluster {:?}: entries up to {last}, of which it knows that those up to {commit} are committed.\n",
        log.identity.cluster,
    );
    if is_alone(log, node) {
        return found + "It is the only member already.\n";
    }
    let others = check::numbers(others(log, node));
    format!(
        "{found}It becomes the only member, with all of that committed; what only others had is lost. They are: {others}.\n"
    )
}

/// The same facts, and whether it was done.
fn in_json(log: &CheckedLog, node: NodeId, write: &LogWrite, done: bool) -> Value {
    let last = log.last();
    json!({
        "cluster": log.identity.cluster,
        "node": node.value(),
        "last": { "index": last.index.value(), "term": last.term.value() },
        "commit": log.recovered.hard_state.commit.value(),
        "others": others(log, node).map(NodeId::value).collect::<Vec<_>>(),
        "as_of": write.hard_state.commit.value(),
        "done": done,
    })
}

fn carry_out(args: &RecoverArgs, log: &CheckedLog, write: &LogWrite) -> Result<(), Failure> {
    let path = args.dir.join(LOG_FILE);
    let options = Options {
        background: false,
        ..Options::default()
    };
    let opened =
        Store::open(&path, &log.identity, options).map_err(|error| check::failure(&error))?;
    let Opened { mut store, .. } = opened;
    let origin = fresh_origin(&OsFiles)
        .map_err(|error| Failure::new(exit::OS, format!("no randomness: {error}")))?;
    let written = store
        .append(std::slice::from_ref(write))
        .and_then(|()| Ok(store.found_anew(origin)?));
    written.map_err(|error| {
        let message = format!("cannot write {}: {error}", path.display());
        Failure::new(exit::IO, message).help("mend the cause and repeat the command")
    })
}
