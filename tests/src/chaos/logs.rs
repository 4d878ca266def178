//! What is on the disks of the nodes once they have stopped.

use std::collections::BTreeMap;

use quorate::kv::{KvOptions, KvStore, Logged, STATE_FILE};
use quorate::{LOG_FILE, LogIndex, NodeId, ORIGIN};
use quorate_consensus::{LogStore, Payload};
use quorate_persist::{Options, Store, StoreIdentity};

use super::nemesis::NODES;
use super::workload::keyspace;
use crate::check::calls::Call;
use crate::check::kv::Keyspace;
use crate::check::once;
use crate::check::witness::{self, CommittedLog};
use crate::process::{CLUSTER, Cluster};

/// How many bytes of a log are read at once.
const READ_BYTES: u64 = 4 << 20;

/// The commands up to an index, by theirs.
type Commands = BTreeMap<u64, Logged>;

/// The log that all nodes of `cluster` have up to `last`, if all of it is there; where it was compacted, what
/// several have must be the same. They must not run.
///
/// # Errors
///
/// What is wrong with the logs, in words.
pub(super) fn common_log(cluster: &Cluster, last: LogIndex) -> Result<Option<Commands>, String> {
    let (mut base, first) = read_log(cluster, 1, last)?;
    for node in 2..=NODES {
        let (other_base, other) = read_log(cluster, node, last)?;
        base = base.max(other_base);
        let (first, other) = (
            first.range(base.value() + 1..),
            other.range(base.value() + 1..),
        );
        let mut pairs = first.clone().zip(other.clone());
        if let Some((one, two)) = pairs.find(|(one, two)| one != two) {
            return Err(format!(
                "log matching: node 1 has {one:?}, node {node} has {two:?}"
            ));
        }
        let (one, two) = (first.count(), other.count());
        if one != two {
            return Err(format!(
                "log matching: node 1 has {one} commands, node {node} has {two}"
            ));
        }
    }
    Ok((base == ORIGIN.index).then_some(first))
}

/// Checks that the states of all nodes are the same. They must not run.
///
/// # Errors
///
/// Which differ, in words.
pub(super) fn equal_states(cluster: &Cluster) -> Result<(), String> {
    let digest = |node: u64| {
        let path = cluster.path(&format!("data{node}")).join(STATE_FILE);
        let store = KvStore::open(&path, &identity(node), KvOptions::default());
        let store = store.map_err(|error| format!("the state of node {node}: {error}"))?;
        store
            .digest()
            .map_err(|error| format!("the state of node {node}: {error}"))
    };
    let first = digest(1)?;
    for node in 2..=NODES {
        let other = digest(node)?;
        if first != other {
            return Err(format!(
                "equal states: node 1 has {first:x}, node {node} {other:x}"
            ));
        }
    }
    Ok(())
}

fn identity(node: u64) -> StoreIdentity {
    StoreIdentity {
        cluster: CLUSTER.into(),
        node: NodeId::new(node).expect("nodes count from one"),
    }
}

/// Where the log of `node` begins, and its commands after that.
fn read_log(cluster: &Cluster, node: u64, last: LogIndex) -> Result<(LogIndex, Commands), String> {
    let trouble = |error: &dyn std::error::Error| format!("the log of node {node}: {error}");
    let path = cluster.path(&format!("data{node}")).join(LOG_FILE);
    let opened = Store::open(&path, &identity(node), Options::default());
    let opened = opened.map_err(|error| trouble(&error))?;
    let (base, store) = (opened.recovered.base().index, opened.store);
    let mut commands = Commands::new();
    let mut next = base.next();
    while next <= last {
        let read = store.read(next, last, READ_BYTES);
        let entries = read.map_err(|error| trouble(&error))?;
        for entry in entries {
            next = entry.id.index.next();
            if let Payload::Command(data) = entry.payload {
                let logged = Logged::decode(&data).map_err(|error| trouble(&error))?;
                commands.insert(entry.id.index.value(), logged);
            }
        }
    }
    Ok((base, commands))
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
    let entries = log.iter().map(|(index, logged)| (*index, logged));
    for (index, command) in once::effective(entries) {
        let mut each = keyspaces.iter();
        let operation = each.find_map(|(number, keyspace)| {
            let operation = keyspace.operation(command)?;
            Some((*number, operation))
        });
        if let Some((number, operation)) = operation {
            logs.entry(number).or_default().insert(index, operation);
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
