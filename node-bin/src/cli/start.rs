//! `quorate start`: one node, from its configuration to its orderly end.

use std::io::Write;
use std::time::Duration;

use futures_lite::future::or;
use quorate::{Fatal, LOG_FILE, Node, NodeConfig, NodeId, StartError};
use quorate_certs::Credentials;
use quorate_persist::OpenError;
use rustix::process::{Resource, getrlimit};
use tracing::info;

use super::config::{Flags, Settings};
use super::places::PeerNames;
use super::reload::WatchedFolder;
use super::stop::Stop;
use super::{Failure, exit, logging};

/// How long saying goodbye to peers and clients may take before the node ends anyway: many round trips.
/// Handing over leadership and saving the state come before and have bounds of their own.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(1);

/// How many files and sockets the process must be allowed to have open. A node has some twenty, and a few more while
/// it sends or takes a snapshot; running out of them half-way would stop it later, and with less to go by.
const DESCRIPTORS_MIN: u64 = 64;

/// Runs one node until it is told to stop
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The file may also say connections-max (12000) and connections-per-client-max (64)."
)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    flags: Flags,
    /// On the first start, join the cluster of the peers instead of founding one; see `members add`
    #[arg(long)]
    join: bool,
    /// On the first start, found a cluster of this node alone; without it, peers are needed
    #[arg(long, conflicts_with = "join")]
    alone: bool,
    /// Also stop when standard input ends: for parents that must not leave nodes behind
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

pub(crate) fn run(args: &StartArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let settings = args.flags.settings()?;
    check_descriptors()?;
    let log = logging::init_in_background(settings.log.as_deref(), settings.log_format, "info")?;
    let credentials = super::credentials(&settings.cert)?;
    agree(&credentials, &settings)?;
    if !args.alone {
        refuse_to_found_alone(&credentials, &settings, args.join)?;
    }
    // Before anything is opened, so that a signal during a long recovery is not lost.
    let (stop, reloads) = Stop::listen_with_reloads(args.until_stdin_closes)?;
    let runtime = settings.runtime;
    let watched = WatchedFolder::new(settings.cert.clone(), reloads);
    let telling = async { match log.tell_losses().await {} };
    let serving = serve(settings, args.join, credentials, watched, stop, out);
    runtime.block_on(or(serving, telling))
}

fn check_descriptors() -> Result<(), Failure> {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < DESCRIPTORS_MIN => Err(Failure::new(
            exit::OS,
            format!("this process may have {limit} files open; a node needs {DESCRIPTORS_MIN}"),
        )
        .help("raise the limit: `ulimit -n`, or LimitNOFILE of a service of systemd")),
        _ => Ok(()),
    }
}

/// Refuses a configuration that says another node or cluster than the certificate: a file copied
/// from another node must not start this one under the wrong name.
fn agree(credentials: &Credentials, settings: &Settings) -> Result<(), Failure> {
    let identity = credentials.identity();
    let configured = match (&settings.node, &settings.cluster) {
        (Some(node), _) if identity.node_id() != Some((*node).into()) => {
            format!("node {}", node.value())
        }
        (_, Some(cluster)) if cluster != identity.cluster.as_str() => format!("cluster {cluster}"),
        _ => return Ok(()),
    };
    let cert = settings.cert.display();
    Err(Failure::new(
        exit::CONFIG,
        format!("the configuration is for {configured}, the certificate in {cert} is {identity}"),
    )
    .help("correct one of them; `quorate certs issue --node ID` makes a node's certificate"))
}

/// A node that finds no data where it looks for them, and knows of no peers, would found another cluster of the same
/// name: clients that reach it would write to that.
fn refuse_to_found_alone(
    credentials: &Credentials,
    settings: &Settings,
    join: bool,
) -> Result<(), Failure> {
    let own = credentials.identity().node_id().map(NodeId::from);
    let alone = settings.peers.keys().all(|peer| Some(*peer) == own);
    // What cannot be looked at is told of when it is opened.
    if !alone
        || settings
            .data_dir
            .join(LOG_FILE)
            .try_exists()
            .unwrap_or(true)
    {
        return Ok(());
    }
    if join {
        return Err(start_failure(&StartError::NobodyToJoin)
            .help("a --peer for each member of the cluster, or some of them in the file"));
    }
    let data_dir = settings.data_dir.display();
    Err(Failure::new(
        exit::CONFIG,
        format!("{data_dir} holds no data of a node, and no peers are configured to found a cluster with"),
    )
    .help("give the folder that has the data, or list the peers (--peer); --alone founds a cluster of this node alone"))
}

async fn serve(
    settings: Settings,
    join: bool,
    credentials: Credentials,
    watched: WatchedFolder,
    stop: Stop,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut config = NodeConfig::new(settings.listen.first_address()?, settings.data_dir);
    let (peers, names) = PeerNames::of(settings.peers);
    config.peers = peers;
    config.join = join;
    let raft = &mut config.raft;
    raft.set_election_timeout(settings.election_timeout.unwrap_or(raft.election_timeout));
    raft.heartbeat_interval = settings
        .heartbeat_interval
        .unwrap_or(raft.heartbeat_interval);
    raft.priority = settings.priority.unwrap_or(raft.priority);
    raft.log_tail_bytes = settings.log_tail.unwrap_or(raft.log_tail_bytes);
    raft.log_bytes_max = raft.log_bytes_max.max(raft.log_tail_bytes);
    let reserve = &mut config.disk_reserve_bytes;
    *reserve = settings.disk_reserve.unwrap_or(*reserve);
    let limits = &mut config.limits;
    limits.connections_max = settings.connections_max.unwrap_or(limits.connections_max);
    limits.connections_per_client_max = settings
        .connections_per_client_max
        .unwrap_or(limits.connections_per_client_max);
    let cluster = credentials.identity().cluster.clone();
    let data_dir = config.data_dir.display().to_string();
    let node = Node::builder(config, credentials)
        .start_kv()
        .map_err(|error| start_failure(&error))?;

    let (id, listen) = (node.id().value(), node.local_addr());
    let ready = format!("node {id} of cluster {cluster} listening on {listen}, data in {data_dir}");
    // A parent that does not read this is no reason to stop.
    let _ = writeln!(out, "{ready}").and_then(|()| out.flush());

    let requested = async { Some(stop.requested().await) };
    let by_itself = async {
        let _ = node.stopped().await;
        None
    };
    let watching = async {
        or(watched.keep_current(&node), names.keep_current(&node)).await;
        None
    };
    match or(or(requested, by_itself), watching).await {
        Some(source) => info!(node = %node.id(), source, "stopping in order"),
        None => info!(node = %node.id(), "the node has stopped by itself"),
    }
    node.shutdown(SHUTDOWN_WITHIN)
        .await
        .map_err(|fatal| ended(id, &fatal))
}

fn ended(id: u64, fatal: &Fatal) -> Failure {
    let (code, help) = match fatal {
        Fatal::Removed { .. } => (exit::CONFIG, "its data folder is not needed any more"),
        Fatal::StateDiverged { .. } => (
            exit::DATA,
            "`quorate members replace` puts a new node in its place; do not start this one again",
        ),
        _ => (
            exit::IO,
            "its acknowledged data is safe on the other nodes; mend the cause and start it again",
        ),
    };
    Failure::new(code, format!("node {id} stopped: {fatal}")).help(help)
}

fn start_failure(error: &StartError) -> Failure {
    // The system would say that the file exists, which is no help.
    if let StartError::DataDir { path, .. } = error
        && path.exists()
        && !path.is_dir()
    {
        let message = format!("the data folder {} is not a folder", path.display());
        return Failure::new(exit::CANNOT_CREATE, message)
            .help("move that file away, or name another folder with data-dir or --data-dir");
    }
    let code = match error {
        StartError::NotANode { .. }
        | StartError::Membership(_)
        | StartError::Consensus(_)
        | StartError::LogLost { .. }
        | StartError::NobodyToJoin
        | StartError::NotJoining { .. }
        | StartError::OtherMembers { .. } => exit::CONFIG,
        StartError::DataDir { .. } | StartError::Create(_) => exit::CANNOT_CREATE,
        StartError::Open(OpenError::Locked { .. }) | StartError::Bind { .. } => exit::UNAVAILABLE,
        StartError::Open(
            OpenError::WrongNode { .. }
            | OpenError::WrongCluster { .. }
            | OpenError::NewerFormat { .. }
            | OpenError::Missing { .. },
        ) => exit::CONFIG,
        StartError::Open(OpenError::Corrupt { .. }) => exit::DATA,
        StartError::Open(_) | StartError::Log(_) | StartError::StateMachine(_) => exit::IO,
        StartError::Thread(_) => exit::OS,
        // What has no code of its own yet needs a person: never "try again".
        _ => exit::CONFIG,
    };
    Failure::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A data folder that is a file is called so; one that cannot be made says what the system said.
    #[test]
    fn a_data_folder_that_is_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let failure = |path: &std::path::Path| {
            start_failure(&StartError::DataDir {
                path: path.into(),
                error: io::ErrorKind::AlreadyExists.into(),
            })
        };
        let not_a_folder = failure(file.path());
        assert_eq!(not_a_folder.code, exit::CANNOT_CREATE);
        assert!(
            not_a_folder.message.ends_with("is not a folder"),
            "{not_a_folder}"
        );
        let folder = failure(file.path().parent().unwrap());
        assert!(folder.message.contains("cannot use"), "{folder}");
    }
}
