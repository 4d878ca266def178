//! What every command that talks to a cluster shares: where it is, who we are, and what its errors mean
//! to a script.

mod names;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_lite::future::{block_on, or};
use quorate::kv::{Client, ClientConfig, ClientError, ConnectError, Needs, Refusal};
use quorate_consensus::NodeId;
use quorate_quic_transport::runtime::IoThread;

use self::names::{Late, Whereabouts};
use super::places::Place;
use super::{Failure, config, exit};

/// Used when `--cert` is not given.
const CERT_VARIABLE: &str = "QUORATE_CERT";
/// Used when no `--node` is given: `1=host:port,2=host:port`.
const NODES_VARIABLE: &str = "QUORATE_NODES";

/// How long a command that has its answer waits to see its connections closed. The nodes were told at
/// once; only those that do not answer make it longer.
const CLOSE_MAX: Duration = Duration::from_millis(50);

/// What to do about nodes that refuse us, or that we refuse.
pub(crate) const FOR_GOOD: &str = "waiting will not change it: check that --node names the nodes of this cluster, and that \
     --cert has a certificate from its CA that is still good";

/// Where the cluster is and who we are.
#[derive(Args, Debug, Clone)]
pub(crate) struct ConnectArgs {
    /// Folder with key.pem, cert.pem and ca.pem [or: QUORATE_CERT]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) cert: Option<PathBuf>,
    /// A node and its address; repeat for more, any of which finds the others [or: QUORATE_NODES, with commas]
    #[arg(long = "node", value_name = "ID=HOST:PORT", global = true)]
    pub(crate) nodes: Vec<String>,
    /// How long an operation may take, such as 500ms [default: 5s; status, metrics: 2s; members: 10s;
    /// snapshot: 20s]
    #[arg(long, value_name = "TIME", value_parser = patience, global = true)]
    pub(crate) timeout: Option<Duration>,
}

/// What the arguments and the environment come to, before anything is resolved or read.
#[derive(Debug, PartialEq, Eq)]
struct Given {
    cert: PathBuf,
    nodes: Vec<(NodeId, Place)>,
}

/// The network of one command: clients on one I/O thread.
pub(crate) struct Network {
    io: IoThread,
    config: ClientConfig,
    late: Late,
}

impl ConnectArgs {
    /// Reads the credentials, resolves the addresses and starts the I/O thread.
    pub(crate) fn open(&self, timeout: Duration) -> Result<Network, Failure> {
        self.open_if(timeout, Whereabouts::enough)
    }

    /// The same for whoever tells of each node [why](Network::why_unknown) it cannot be asked, though it may be all of them.
    pub(crate) fn open_for_each(&self, timeout: Duration) -> Result<Network, Failure> {
        self.open_if(timeout, Ok)
    }

    fn open_if(
        &self,
        timeout: Duration,
        is_enough: impl FnOnce(Whereabouts) -> Result<Whereabouts, Failure>,
    ) -> Result<Network, Failure> {
        let given = given(self, |name| std::env::var(name).ok())?;
        let credentials = super::credentials(&given.cert)?;
        let mut config = ClientConfig::new(Vec::new(), credentials);
        let within = self.timeout.unwrap_or(timeout);
        let found = block_on(Whereabouts::find(given.nodes, within, Place::look_up));
        let found = is_enough(found)?;
        config.endpoints = found.endpoints;
        config.request_timeout = within;
        let io = IoThread::spawn("client")
            .map_err(|error| Failure::new(exit::OS, format!("cannot start a thread: {error}")))?;
        let late = found.late;
        Ok(Network { io, config, late })
    }
}

impl Network {
    /// A client with connections of its own.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Client::connect(self.config.clone(), self.runtime())
            .map_err(|error| connect_failure(&error))
    }

    /// The nodes that were given, in order.
    pub(crate) fn given(&self) -> impl Iterator<Item = NodeId> {
        self.config.endpoints.keys().copied()
    }

    /// Why it is not known what the name of `node` stands for, if it has one and that is so.
    pub(crate) fn why_unknown(&self, node: NodeId) -> Option<String> {
        self.late.why_unknown(node)
    }

    /// What `place` stands for, looked up in the time that an operation may take.
    pub(crate) fn address_of(&self, place: &Place) -> Result<SocketAddr, Failure> {
        let within = self.config.request_timeout;
        block_on(place.first_address_within(within, Place::look_up))
    }

    pub(crate) fn runtime(&self) -> Arc<dyn quinn::Runtime> {
        self.io.runtime()
    }

    /// Runs one piece of work with one client, and closes it in either case, so that the nodes need not
    /// wait for an idle timeout.
    pub(crate) fn with_client<F, T>(&self, work: impl FnOnce(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let client = self.client()?;
        block_on(async {
            let tell = self.late.tell(client.clone());
            let result = or(work(client.clone()), tell).await;
            or(client.close(), async {
                async_io::Timer::after(CLOSE_MAX).await;
            })
            .await;
            result
        })
    }
}

fn given(args: &ConnectArgs, env: impl Fn(&str) -> Option<String>) -> Result<Given, Failure> {
    let usage = |message: String| Failure::new(exit::USAGE, message);
    let cert = match &args.cert {
        Some(cert) => cert.clone(),
        None => env(CERT_VARIABLE).map(PathBuf::from).ok_or_else(|| {
            usage("no certificate was given".into()).help(format!(
                "add --cert DIR or set {CERT_VARIABLE}; `quorate certs issue --client NAME` makes one"
            ))
        })?,
    };
    let written = if args.nodes.is_empty() {
        let list = env(NODES_VARIABLE).unwrap_or_default();
        let items = list
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        items.map(str::to_owned).collect()
    } else {
        args.nodes.clone()
    };
    if written.is_empty() {
        return Err(usage("no node was given".into()).help(format!(
            "add --node ID=HOST:PORT, for some or all nodes, or set {NODES_VARIABLE}=1=HOST:PORT,2=HOST:PORT"
        )));
    }
    let mut nodes: Vec<(NodeId, Place)> = Vec::new();
    for item in &written {
        let (node, address) = node(item).map_err(usage)?;
        if nodes.iter().any(|(other, _)| *other == node) {
            return Err(usage(format!("node {} was given twice", node.value()))
                .help("give each node once, with its own number and address"));
        }
        nodes.push((node, address));
    }
    Ok(Given { cert, nodes })
}

/// `ID=HOST:PORT`.
fn node(text: &str) -> Result<(NodeId, Place), String> {
    let expected = || format!("`{text}` is not ID=HOST:PORT, such as 1=127.0.0.1:7001");
    if text.contains(',') {
        return Err(format!(
            "`{text}` is more than one node: repeat --node for each; commas are for {NODES_VARIABLE} only"
        ));
    }
    let (id, place) = text.split_once('=').ok_or_else(expected)?;
    if !place.contains(':') {
        return Err(expected());
    }
    Ok((config::node_id(id)?, Place::to_dial(place)?))
}

/// A time in which something can happen.
pub(crate) fn patience(text: &str) -> Result<Duration, String> {
    let time = config::time(text)?;
    if time.is_zero() {
        return Err("no operation is done in no time; give at least 1ms".into());
    }
    Ok(time)
}

fn connect_failure(error: &ConnectError) -> Failure {
    let code = match error {
        ConnectError::Bind(_) | ConnectError::NoRandomness(_) => exit::OS,
        ConnectError::NodeCredentials { .. } => exit::NOT_ALLOWED,
        _ => exit::USAGE,
    };
    Failure::new(code, error.to_string())
}

/// What an error means to a script.
pub(crate) fn failure(error: &ClientError) -> Failure {
    let code = match error {
        ClientError::OutcomeUnknown { .. }
        | ClientError::TimedOut { .. }
        | ClientError::TooManyLeases
        | ClientError::TooManyLeasesOfOne
        | ClientError::TooManyUnderWay
        // Of versions that differ for as long as one is rolled out; where a write's answer is not understood, its
        // outcome is unknown, which has the same code.
        | ClientError::Nonsense { .. }
        | ClientError::LockLost(_)
        | ClientError::BackupGone { .. }
        | ClientError::NobodyTookOver { .. } => exit::TEMPORARY,
        ClientError::LeaseUnknown { .. } => exit::NEGATIVE,
        ClientError::StillRefused { refusal, .. } => match refusal {
            Refusal::Stopping | Refusal::NotLeader { .. } => exit::UNAVAILABLE,
            _ => exit::TEMPORARY,
        },
        ClientError::NoUsableNode { .. } | ClientError::Unreachable { for_good: true, .. } => {
            exit::NOT_ALLOWED
        }
        ClientError::NoLeader { .. } | ClientError::Unreachable { .. } => exit::UNAVAILABLE,
        ClientError::Refused { refusal, .. } => match refusal {
            Refusal::NotAllowed { .. } => exit::NOT_ALLOWED,
            Refusal::TooLarge { .. }
            | Refusal::Malformed { .. }
            | Refusal::NotChanged { .. }
            | Refusal::HistoryGone { .. } => exit::DATA,
            _ => exit::TEMPORARY,
        },
        ClientError::Invalid(_) => exit::DATA,
        ClientError::UnknownNode { .. } => exit::USAGE,
        _ => exit::SOFTWARE,
    };
    let failure = Failure::new(code, error.to_string());
    match error {
        ClientError::NoLeader { .. } => failure.help(
            "check that a majority of the nodes runs and that --node and --cert are theirs; \
             `quorate status` shows what each says",
        ),
        ClientError::NoUsableNode { .. } | ClientError::Unreachable { for_good: true, .. } => {
            failure.help(FOR_GOOD)
        }
        ClientError::Refused {
            refusal: Refusal::NotAllowed { needs, .. },
            ..
        } => failure.help(format!(
            "use --cert with a folder made by `quorate certs issue --{} NAME`",
            least(*needs)
        )),
        ClientError::Refused {
            refusal: Refusal::HistoryGone { .. },
            ..
        } => failure.help(
            "read the keys anew with `quorate kv range`, and watch without --after, or with a later one",
        ),
        _ => failure,
    }
}

/// The role with the fewest rights that is enough.
fn least(needs: Needs) -> &'static str {
    match needs {
        Needs::Reader => "reader",
        Needs::Client => "client",
        Needs::Admin => "admin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::CallerRole;
    use quorate::kv::Unanswered;

    fn args(cert: Option<&str>, nodes: &[&str]) -> ConnectArgs {
        ConnectArgs {
            cert: cert.map(PathBuf::from),
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            timeout: None,
        }
    }

    fn id(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    /// Flags win over the environment, which fills in what they leave out.
    #[test]
    fn flags_then_environment() {
        let env = |name: &str| match name {
            CERT_VARIABLE => Some("env".to_owned()),
            NODES_VARIABLE => Some(" 1=a:1, 2=b:2,".to_owned()),
            _ => None,
        };
        let from_env = given(&args(None, &[]), env).unwrap();
        assert_eq!(from_env.cert, PathBuf::from("env"));
        let at = |text| Place::parse(text).unwrap();
        let pairs = vec![(id(1), at("a:1")), (id(2), at("b:2"))];
        assert_eq!(from_env.nodes, pairs);
        let from_flags = given(&args(Some("flag"), &["3=[::1]:3"]), env).unwrap();
        assert_eq!(from_flags.cert, PathBuf::from("flag"));
        assert_eq!(from_flags.nodes, [(id(3), at("[::1]:3"))]);
    }

    /// Each mistake is a usage error that shows the offending text or names the missing flag.
    #[test]
    fn mistakes_are_named() {
        let none = |_: &str| None;
        for (args, expected) in [
            (args(None, &["1=a:1"]), "--cert"),
            (args(Some("c"), &[]), "--node"),
            (args(Some("c"), &["a:1"]), "`a:1`"),
            (args(Some("c"), &["1=a"]), "`1=a`"),
            (args(Some("c"), &["0=a:1"]), "`0`"),
            (args(Some("c"), &["1=a:1,3=b:1"]), "repeat --node"),
            (
                args(Some("c"), &["1=a:1", "1=b:1"]),
                "node 1 was given twice",
            ),
        ] {
            let failure = given(&args, none).unwrap_err();
            assert_eq!(failure.code, exit::USAGE);
            assert!(failure.to_string().contains(expected), "{failure}");
        }
    }

    /// The help says how long each command waits.
    #[test]
    fn the_help_has_every_timeout() {
        use super::super::{args::Cli, members, metrics, snapshot, status};
        let command = <Cli as clap::CommandFactory>::command();
        let members_command = command.find_subcommand("members").unwrap();
        let mut arguments = members_command.get_arguments();
        let timeout = arguments.find(|argument| argument.get_id() == "timeout");
        let help = timeout.and_then(clap::Arg::get_help).unwrap().to_string();
        let (_, defaults) = help.split_once("[default: ").unwrap();
        assert_eq!(status::TIMEOUT, metrics::TIMEOUT);
        let said = format!(
            "{:?}; status, metrics: {:?}; members: {:?}; snapshot: {:?}]",
            quorate::kv::REQUEST_TIMEOUT,
            status::TIMEOUT,
            members::TIMEOUT,
            snapshot::TIMEOUT
        );
        assert_eq!(defaults, said);
    }

    /// A time of nothing is refused, in whichever unit.
    #[test]
    fn no_time_is_no_timeout() {
        assert_eq!(patience("1ms"), Ok(Duration::from_millis(1)));
        for bad in ["0s", "0ms", "00m", "0"] {
            assert!(patience(bad).is_err(), "{bad}");
        }
    }

    /// Whoever may not do something is told to use the certificate with the fewest rights that is enough.
    #[test]
    fn the_help_names_the_certificate_that_is_needed() {
        for (needs, flag) in [
            (Needs::Reader, "--reader"),
            (Needs::Client, "--client"),
            (Needs::Admin, "--admin"),
        ] {
            let refusal = Refusal::NotAllowed {
                needs,
                has: CallerRole::Node,
            };
            let node = id(1);
            let failure = failure(&ClientError::Refused { node, refusal });
            assert_eq!(failure.code, exit::NOT_ALLOWED);
            let help = failure.help.unwrap();
            assert!(
                help.contains(&format!("`quorate certs issue {flag} NAME`")),
                "{help}"
            );
        }
    }

    /// A script can tell "try again" from "ask for permission" from "nobody is there".
    #[test]
    fn errors_have_their_exit_codes() {
        let node = id(1);
        let refused = |refusal| ClientError::Refused { node, refusal };
        let unknown = ClientError::OutcomeUnknown {
            node,
            why: Unanswered::Deadline,
        };
        let no_leader = ClientError::NoLeader {
            within: Duration::from_secs(5),
            tried: Vec::new(),
            unlisted: None,
        };
        let too_large = Refusal::TooLarge {
            bytes: 2,
            bytes_max: 1,
        };
        let no_room = Refusal::DiskNearlyFull {
            free_bytes: 1,
            reserve_bytes: 2,
        };
        let still = |refusal| ClientError::StillRefused {
            within: Duration::from_secs(5),
            node,
            refusal,
        };
        let unreachable = |for_good| ClientError::Unreachable {
            node,
            why: "?".into(),
            for_good,
        };
        for (error, code) in [
            (still(Refusal::TimedOut), 75),
            (still(Refusal::NotLeader { leader: None }), 69),
            (unknown, 75),
            (no_leader, 69),
            (refused(too_large), 65),
            (refused(Refusal::malformed("?")), 65),
            (refused(Refusal::HistoryGone { since: 7 }), 65),
            (ClientError::LeaseUnknown { lease: 7 }, 1),
            (ClientError::TooManyLeases, 75),
            (ClientError::TooManyLeasesOfOne, 75),
            (ClientError::TooManyUnderWay, 75),
            (ClientError::Nonsense { node }, 75),
            (ClientError::LockLost(quorate::kv::Lost::Ended), 75),
            (ClientError::UnknownNode { node }, 64),
            (ClientError::NoUsableNode { tried: Vec::new() }, 77),
            (unreachable(true), 77),
            (unreachable(false), 69),
            (refused(Refusal::not_yet("?")), 75),
            (refused(no_room), 75),
            (ClientError::NobodyTookOver { node }, 75),
        ] {
            assert_eq!(failure(&error).code, code, "{error}");
        }
    }
}
