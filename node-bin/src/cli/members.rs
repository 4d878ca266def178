//! `quorate members`: who belongs to the cluster, and how that changes.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use quorate::kv::{Client, ClientError, NodeStatus, Refusal};
use quorate_consensus::{LogIndex, Membership, MembershipChange, NodeId};
use serde_json::{Value as Json, json};

use super::connect::{ConnectArgs, Network, failure};
use super::places::Place;
use super::{Failure, config, exit};

/// A change waits for a majority to write it down, twice where voters change, and for a new leader where
/// the old one is to go.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// How long `--wait` waits: time for a snapshot of some gigabytes.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// How often `--wait` looks.
const WAIT_EVERY: Duration = Duration::from_millis(200);

/// Show the members of the cluster and change them; changes need an admin's certificate.
#[derive(Args, Debug)]
pub(crate) struct MembersArgs {
    #[command(subcommand)]
    command: MembersCommand,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Subcommand, Debug)]
enum MembersCommand {
    /// Show who belongs to the cluster, as its leader knows
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Add a new node, which becomes a voter once it has caught up; start it with --join
    Add {
        #[command(flatten)]
        new: NewNode,
        /// Let it only follow
        #[arg(long)]
        learner: bool,
        #[command(flatten)]
        how: How,
    },
    /// Make a learner that has caught up a voter
    Promote {
        /// The learner
        #[arg(value_name = "NODE", value_parser = config::node_id)]
        node: NodeId,
        #[command(flatten)]
        only: Only,
    },
    /// Remove a node for good; a leader hands over first
    Remove {
        /// The node
        #[arg(value_name = "NODE", value_parser = config::node_id)]
        node: NodeId,
        #[command(flatten)]
        only: Only,
    },
    /// Add a new node in place of another, which is removed once the new one has caught up
    Replace {
        /// The node to be replaced, dead or alive
        #[arg(value_name = "OLD", value_parser = config::node_id)]
        old: NodeId,
        #[command(flatten)]
        new: NewNode,
        #[command(flatten)]
        how: How,
    },
    /// Tell the others that a node is reached elsewhere
    Update {
        /// The node whose address changed
        #[arg(value_name = "NODE", value_parser = config::node_id)]
        node: NodeId,
        /// Where the others reach it now
        #[arg(long, value_name = "HOST:PORT", value_parser = Place::to_dial)]
        address: Place,
        #[command(flatten)]
        only: Only,
    },
}

#[derive(Args, Debug, Clone)]
struct NewNode {
    /// Its number, above all that were ever used, by 1,000,000 at most
    #[arg(value_name = "NODE", value_parser = config::node_id)]
    node: NodeId,
    /// Where the others reach it
    #[arg(long, value_name = "HOST:PORT", value_parser = Place::to_dial)]
    address: Place,
}

#[derive(Args, Debug)]
struct Only {
    /// Only if `members list` still shows this index
    #[arg(long, value_name = "INDEX")]
    if_index: Option<u64>,
}

/// For changes that are followed by another one, once a new node has caught up.
#[derive(Args, Debug)]
struct How {
    #[command(flatten)]
    only: Only,
    /// Wait until nobody waits to become a voter any more, at most ten minutes
    #[arg(long)]
    wait: bool,
}

pub(crate) fn run(args: MembersArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let MembersArgs { command, connect } = args;
    let network = connect.open(TIMEOUT)?;
    let (change, only, waits) = match command {
        MembersCommand::List { json } => {
            let status = network.with_client(async |client| look(&client).await)?;
            return match json {
                true => writeln!(out, "{}", in_json(&status)),
                false => for_people(&status, out),
            }
            .map_err(Failure::output);
        }
        MembersCommand::Add { new, learner, how } => {
            (add(&network, &new, !learner, None)?, how.only, how.wait)
        }
        MembersCommand::Replace { old, new, how } => {
            (add(&network, &new, true, Some(old))?, how.only, how.wait)
        }
        MembersCommand::Promote { node, only } => (MembershipChange::Promote { node }, only, false),
        MembersCommand::Remove { node, only } => (MembershipChange::Remove { node }, only, false),
        MembersCommand::Update {
            node,
            address,
            only,
        } => {
            let address = network.address_of(&address)?;
            (MembershipChange::Move { node, address }, only, false)
        }
    };
    let status = network.with_client(async |client| {
        let expected = only.if_index.map(LogIndex::new);
        let changed = client.change_members(change, expected).await;
        let members = changed.map_err(|error| refused(&error))?;
        match waits && members.promotions().next().is_some() {
            true => wait(&client).await,
            false => look(&client).await,
        }
    })?;
    for_people(&status, out).map_err(Failure::output)
}

fn add(
    network: &Network,
    new: &NewNode,
    promote: bool,
    replaces: Option<NodeId>,
) -> Result<MembershipChange, Failure> {
    Ok(MembershipChange::Add {
        node: new.node,
        address: network.address_of(&new.address)?,
        promote,
        replaces,
    })
}

fn refused(error: &ClientError) -> Failure {
    match error {
        ClientError::Refused {
            refusal: Refusal::NotChanged { why },
            ..
        } => Failure::new(exit::DATA, format!("the members stay as they are: {why}")),
        ClientError::Refused {
            refusal: Refusal::NotYet { why },
            ..
        } => Failure::new(
            exit::TEMPORARY,
            format!("the members stay as they are: {why}"),
        ),
        error => failure(error),
    }
}

async fn look(client: &Client) -> Result<NodeStatus, Failure> {
    client
        .leader_status()
        .await
        .map_err(|error| failure(&error))
}

async fn wait(client: &Client) -> Result<NodeStatus, Failure> {
    let begun = Instant::now();
    loop {
        let status = look(client).await?;
        let members = &status.members;
        if members.promotions().next().is_none() && !members.is_joint() {
            return Ok(status);
        }
        if begun.elapsed() >= WAIT_MAX {
            let waits: Vec<String> = members
                .promotions()
                .map(|(node, _)| format!("node {}", node.value()))
                .collect();
            return Err(Failure::new(
                exit::TEMPORARY,
                format!("{} has not caught up within {WAIT_MAX:?}", waits.join(", ")),
            )
            .help("it is a member and becomes a voter by itself; `quorate status` shows how far it is"));
        }
        async_io::Timer::after(WAIT_EVERY).await;
    }
}

const COLUMNS: [&str; 5] = ["NODE", "KIND", "ADDRESS", "STATE", "LAG"];

fn for_people(status: &NodeStatus, out: &mut dyn Write) -> io::Result<()> {
    let members = &status.members;
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(members.members().map(|node| row(status, node)));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(width);
    for row in &rows {
        let cells = row.iter().zip(widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    for peer in &status.peers {
        if members.contains(peer.node) && in_short(&peer.state, status.node) != peer.state {
            writeln!(out, "node {}: {}", peer.node.value(), peer.state)?;
        }
    }
    for (node, replaced) in members.promotions() {
        let place = replaced.map(|old| format!(", in place of node {}", old.value()));
        writeln!(
            out,
            "node {} becomes a voter once it has caught up{}",
            node.value(),
            place.unwrap_or_default()
        )?;
    }
    if members.is_joint() {
        writeln!(out, "a change is under way")?;
    }
    writeln!(
        out,
        "index {}; {}",
        members.index(),
        next_number(members.highest())
    )
}

/// What numbers are left: none above the greatest that there is, with which a cluster may have been founded.
fn next_number(highest: NodeId) -> String {
    match highest.value().checked_add(1) {
        Some(next) => format!("the next new node's number is {next} or above"),
        None => "no number is left for a new node".into(),
    }
}

fn kind(members: &Membership, node: NodeId) -> &'static str {
    match (members.votes_from_now_on(node), members.is_voter(node)) {
        (true, _) => "voter",
        (false, true) => "leaving",
        (false, false) => "learner",
    }
}

fn row(status: &NodeStatus, node: NodeId) -> [String; COLUMNS.len()] {
    let members = &status.members;
    let peer = status.peers.iter().find(|peer| peer.node == node);
    let leads = status.leader == Some(node);
    let own = (node == status.node).then_some(status.listen);
    let known = members.address(node).or(own).or_else(|| peer?.address);
    let lag = peer.and_then(|peer| peer.matched).map(|matched| {
        let lag = status.commit.value().saturating_sub(matched.value());
        lag.to_string()
    });
    [
        node.value().to_string(),
        kind(members, node).to_owned(),
        known.map_or_else(|| "-".to_owned(), |address| address.to_string()),
        match (leads, peer) {
            (true, _) => "leader".to_owned(),
            (false, Some(peer)) => in_short(&peer.state, status.node),
            (false, None) => "-".to_owned(),
        },
        match leads {
            true => "0".to_owned(),
            false => lag.unwrap_or_else(|| "-".to_owned()),
        },
    ]
}

/// What `asked` says about the connection to another node, without its details and the advice, which are for whoever
/// reads a sentence.
fn in_short(state: &str, asked: NodeId) -> String {
    let first = |text: &str| {
        text.split([';', '('])
            .next()
            .map(str::trim_end)
            .map(str::to_owned)
    };
    let short = match state.split_once(" refused us: ") {
        Some((_, why)) => {
            let why = why.split(": ").next().and_then(first);
            why.map(|why| format!("refuses node {}: {why}", asked.value()))
        }
        None => first(state),
    };
    short.unwrap_or_default()
}

fn in_json(status: &NodeStatus) -> Json {
    let members = &status.members;
    let list = members.members().map(|node| {
        let [_, kind, address, ..] = row(status, node);
        let peer = status.peers.iter().find(|peer| peer.node == node);
        json!({
            "node": node,
            "kind": kind,
            "address": Some(address).filter(|address| address != "-"),
            "leader": status.leader == Some(node),
            "matched": peer.and_then(|peer| peer.matched),
        })
    });
    let promotions = members
        .promotions()
        .map(|(node, replaces)| json!({ "node": node, "replaces": replaces }));
    json!({
        "index": members.index(),
        "highest": members.highest(),
        "joint": members.is_joint(),
        "members": list.collect::<Vec<_>>(),
        "promotions": promotions.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster may have been founded with the last number that there is.
    #[test]
    fn numbers_run_out() {
        let next = |highest| next_number(NodeId::new(highest).unwrap());
        assert_eq!(next(3), "the next new node's number is 4 or above");
        assert_eq!(next(u64::MAX), "no number is left for a new node");
    }

    /// A row of the table says what is wrong, and whose refusal it is; the other side's advice is not for this row.
    #[test]
    fn states_in_short() {
        let asked = NodeId::new(2).unwrap();
        for (state, short) in [
            ("connected", "connected"),
            ("not connected", "not connected"),
            (
                "127.0.0.1:3 refused us: stale incarnation (code 11): node 2 lost its data folder: `members replace 2 NEW`",
                "refuses node 2: stale incarnation",
            ),
            (
                "127.0.0.1:3 refused us: unknown CA (alert 48): check that both sides use the same ca.pem",
                "refuses node 2: unknown CA",
            ),
            (
                "no answer from [::1]:3; check the address, that the peer runs, and the firewall (UDP)",
                "no answer from [::1]:3",
            ),
            (
                "127.0.0.1:3 is spiffe://c1/node/4, not spiffe://c1/node/3; correct the address book",
                "127.0.0.1:3 is spiffe://c1/node/4, not spiffe://c1/node/3",
            ),
        ] {
            assert_eq!(in_short(state, asked), short, "{state}");
        }
    }
}
