//! What is on the disks of the nodes once they have stopped.

use std::collections::BTreeMap;

use quorate::kv::Command;
use quorate::{LOG_FILE, LogIndex, NodeId};
use quorate_consensus::{FIRST_INDEX, LogStore, Payload};
use quorate_persist::{Options, Store, StoreIdentity};

use super::nemesis::NODES;
use super::workload::keyspace;
use crate::check::calls::Call;
use crate::check::kv::Keyspace;
use crate::check::witness::{self, CommittedLog};
use crate::process::{CLUSTER, Cluster};

/// How many bytes of a log are read at once.
const READ_BYTES: u64 = 4 << 20;

/// The commands up to an index, by theirs.
type Commands = BTreeMap<u64, Command>;

/// The log that all nodes of `cluster` have up to `last`. They must not run.
///
/// # Errors
///
/// What is wrong with the logs, in words.
pub(super) fn common_log(cluster: &Cluster, last: LogIndex) -> Result<Commands, String> {
    let first = read_log(cluster, 1, last)?;
    for node in 2..=NODES {
        let other = read_log(cluster, node, last)?;
        let mut pairs = first.iter().zip(&other);
        if let Some((one, two)) = pairs.find(|(one, two)| one != two) {
            return Err(format!(
                "log matching: node 1 has {one:?}, node {node} has {two:?}"
            ));
        }
        if first.len() != other.len() {
            let (one, two) = (first.len(), other.len());
            return Err(format!(
                "log matching: node 1 has {one} commands, node {node} has {two}"
            ));
        }
    }
    Ok(first)
}

fn read_log(cluster: &Cluster, node: u64, last: LogIndex) -> Result<Commands, String> {
    let trouble = |error: &dyn std::error::Error| format!("the log of node {node}: {error}");
    let path = cluster.path(&format!("data{node}")).join(LOG_FILE);
    let identity = StoreIdentity {
        cluster: CLUSTER.into(),
        node: NodeId::new(node).expect("nodes count from one"),
    };
    let opened = Store::open(&path, &identity, Options::default());
    let store = opened.map_err(|error| trouble(&error))?.store;
    let mut commands = Commands::new();
    let mut next = FIRST_INDEX;
    while next <= last {
        let read = store.read(next, last, READ_BYTES);
        let entries = read.map_err(|error| trouble(&error))?;
        for entry in entries {
            next = entry.id.index.next();
            if let Payload::Command(data) = entry.payload {
                let command = Command::decode(&data).map_err(|error| trouble(&error))?;
                commands.insert(entry.id.index.value(), command);
            }
        }
    }
    Ok(commands)
}

/// Holds the operations of each round, by its number, against the log. Returns how many there were.
///
/// # Errors
///
/// What does not fit, in words.
pub(super) fn witness(log: &Commands, rounds: &BTreeMap<u64, Vec<Call>>) -> Result<u64, String> {
    let mut logs: BTreeMap<u64, CommittedLog> = BTreeMap::new();
    let keyspaces = rounds.keys().map(|number| (*number, keyspace(*number)));
    let keyspaces: Vec<(u64, Keyspace)> = keyspaces.collect();
    for (index, command) in log {
        let mut each = keyspaces.iter();
        let operation = each.find_map(|(number, keyspace)| {
            let operation = keyspace.operation(command)?;
            Some((*number, operation))
        });
        if let Some((number, operation)) = operation {
            logs.entry(number).or_default().insert(*index, operation);
        }
    }
    let mut held = 0;
    for (number, calls) in rounds {
        let log = logs.remove(number).unwrap_or_default();
        witness::check(calls, &log).map_err(|discord| format!("round {number}: {discord}"))?;
        held += calls.len() as u64;
    }
    Ok(held)
}
