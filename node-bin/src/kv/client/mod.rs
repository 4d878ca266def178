//! A client of the key-value store.
//!
//! It keeps a connection to every node it was given, and to every other member that those name, so that a change of
//! leader costs no handshake, and it learns who leads from what nodes announce. Its rules: everything is repeated within its deadline. A
//! write carries its name in a session that the client has opened, so that the nodes apply it once however
//! often it is sent, and answer as they did the first time. What may have happened when the time is up is
//! reported as [`ClientError::OutcomeUnknown`] and left to the caller.
//!
//! Every future here is runtime-neutral: it may be awaited anywhere. The network runs on the
//! [`quinn::Runtime`] given to [`Client::connect`].

mod address_book;
mod backup;
mod cluster;
mod error;
mod keeper;
mod keeping;
mod kept_lease;
mod leader;
mod lock;
mod requests;
mod retry;
mod routing;
mod search;
mod sessions;
mod shared;
mod sweep;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_certs::Credentials;
use quorate_consensus::NodeId;
use quorate_quic_transport::{Environment, OtherIdentity, System};

pub use backup::Backup;
pub use error::{ClientError, ConnectError, Tried, Unanswered};
pub use kept_lease::KeptLease;
pub use lock::{Lock, Lost};
use retry::Operation;
use shared::Shared;
pub use sweep::SweepError;
pub use watch::Watch;

use super::command::{Command, Outcome};
use super::history::Watched;
use super::invalid::Invalid;
use super::protocol::{Request, Response};
use super::query::{Answer, Lease, ListedLease, Pair, Query, Size, Value};
use super::transaction::{Step, StepOutcome, Transaction};

/// How long an operation may take, from the call to its answer, unless [`ClientConfig`] says otherwise:
/// several elections at default settings.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one may take at most, whatever it is told: a day, which no clock runs out of.
pub const REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What a [`Client`] needs to know.
#[derive(Clone)]
pub struct ClientConfig {
    /// The nodes and where they may be, in the order in which that is tried, of each the first
    /// [`ADDRESSES_MAX`](crate::ADDRESSES_MAX); it can also be told [later on](Client::set_addresses). One node that
    /// answers is enough, for it says who the other members are and where it reaches them. Give all of them where some
    /// may be down when the client starts, or where they are reached in another way than by each other.
    pub endpoints: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// Who this client is and whom it trusts. They also name the cluster.
    pub credentials: Credentials,
    /// How long one operation may take, with all its repetitions. Default [`REQUEST_TIMEOUT`]. Too small:
    /// operations fail while a leader is being elected. Too large: a caller waits long for bad news. More than
    /// [`REQUEST_TIMEOUT_MAX`] counts as that.
    pub request_timeout: Duration,
    /// Whether other members are asked as well, which the nodes name. Default `true`. With `false`, those it was given
    /// and no others: for whoever wants to know what one node says, or reaches the nodes in a way of their own.
    pub follow_members: bool,
    /// Where randomness, cryptography, the time of day and sockets come from. Default: the operating
    /// system.
    pub environment: Arc<dyn Environment>,
}

impl ClientConfig {
    /// Talks to `endpoints` as `credentials`, with defaults for the rest. A node may be there with several
    /// addresses.
    #[must_use]
    pub fn new(endpoints: Vec<(NodeId, SocketAddr)>, credentials: Credentials) -> Self {
        let mut nodes: BTreeMap<NodeId, Vec<SocketAddr>> = BTreeMap::new();
        for (node, address) in endpoints {
            nodes.entry(node).or_default().push(address);
        }
        Self {
            endpoints: nodes,
            credentials,
            request_timeout: REQUEST_TIMEOUT,
            follow_members: true,
            environment: Arc::new(System),
        }
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("endpoints", &self.endpoints)
            .field("identity", self.credentials.identity())
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

/// A client of the key-value store. Clones share its connections; when the last one is dropped, they are
/// closed.
///
/// Dropping the future of a read costs nothing. Dropping that of a write, of whichever function, takes nothing back: it is
/// not sent again, and its outcome is unknown, as with [`ClientError::OutcomeUnknown`]. Whoever does not want to wait
/// for so long sets [`ClientConfig::request_timeout`].
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    reads_at: Option<NodeId>,
}

/// An answer that may be old.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaleAnswer {
    /// The answer, with the revision of the state it is from.
    pub answer: Answer,
    /// For how long the node had not heard of a leader, or, at the leader itself, had done nothing; `None` where it
    /// knew of none.
    pub leader_silent_for: Option<Duration>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("nodes", &self.shared.nodes())
            .field("leader", &self.shared.leader())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Opens a socket and begins to dial every node. Does not wait for any of them: the first operation
    /// does, within its own deadline.
    ///
    /// The network runs on `runtime`, whatever the futures are awaited on: that of an
    /// [`IoThread`](crate::transport::runtime::IoThread) of the program's own, which several clients may share. It has to
    /// outlive them: once it is dropped, operations fail, and locks count as lost.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], before anything is sent.
    pub fn connect(
        config: ClientConfig,
        runtime: Arc<dyn quinn::Runtime>,
    ) -> Result<Self, ConnectError> {
        let shared = Shared::open(config, runtime)?;
        Ok(Self {
            shared,
            reads_at: None,
        })
    }

    /// Sets `key` to `value`; returns the revision of the write. Dropping the future leaves the outcome unknown, as with
    /// every write.
    ///
    /// # Errors
    ///
    /// [`ClientError::OutcomeUnknown`] when it may have happened; with any other, nothing happened.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<u64, ClientError> {
        let (key, value) = (key.into(), value.into());
        match self.write(Command::Put { key, value }).await? {
            (_, Outcome::Written { revision }) => Ok(revision),
            (node, _) => Err(not_understood(node)),
        }
    }

    /// The value of `key`, if it has one, as of no earlier than this call (linearizable).
    ///
    /// # Errors
    ///
    /// Any; nothing happened.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Value>, ClientError> {
        self.get_as_of(key).await.map(|(value, _)| value)
    }

    /// As [`get`](Self::get), and the revision of the state that this is of: a [watch](Self::watch) of the key after it sees
    /// every later change.
    ///
    /// # Errors
    ///
    /// Any; nothing happened.
    pub async fn get_as_of(
        &self,
        key: impl Into<Bytes>,
    ) -> Result<(Option<Value>, u64), ClientError> {
        match self.read(Query::Get { key: key.into() }).await? {
            (_, Answer::Value { value, revision }) => Ok((value, revision)),
            (node, _) => Err(ClientError::Nonsense { node }),
        }
    }

    /// Removes `key`; returns whether it was there.
    ///
    /// # Errors
    ///
    /// [`ClientError::OutcomeUnknown`] when it may have happened; with any other, nothing happened.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<bool, ClientError> {
        match self.write(Command::Delete { key: key.into() }).await? {
            (_, Outcome::Deleted { existed, .. }) => Ok(existed),
            (node, _) => Err(not_understood(node)),
        }
    }

    /// Sets `key` to `value`, or removes it for `None`, if it now is `expected`, or absent for `None`.
    ///
    /// # Errors
    ///
    /// [`ClientError::OutcomeUnknown`] when it may have happened; with any other, nothing happened.
    pub async fn compare_and_set(
        &self,
        key: impl Into<Bytes>,
        expected: Option<Bytes>,
        value: Option<Bytes>,
    ) -> Result<Swap, ClientError> {
        let command = Command::CompareAndSet {
            key: key.into(),
            expected,
            value,
        };
        match self.write(command).await? {
            (_, Outcome::Swapped { revision }) => Ok(Swap::Swapped { revision }),
            (_, Outcome::NotSwapped { current, .. }) => Ok(Swap::NotSwapped { current }),
            (node, _) => Err(not_understood(node)),
        }
    }

    /// One page of the keys from `start` up to but without `end`, in order, at most `limit` of them, as
    /// of no earlier than this call. A page may hold fewer: see [`Page::more`].
    ///
    /// # Errors
    ///
    /// Any; nothing happened.
    pub async fn range(
        &self,
        start: impl Into<Bytes>,
        end: Option<Bytes>,
        limit: u32,
    ) -> Result<Page, ClientError> {
        let query = Query::Range {
            start: start.into(),
            end,
            limit,
        };
        let (node, answer) = self.read(query).await?;
        Page::of(answer).ok_or(ClientError::Nonsense { node })
    }

    /// Carries out `command` and returns what it did and at which revision: what [`put`](Self::put),
    /// [`delete`](Self::delete) and [`compare_and_set`](Self::compare_and_set) make simpler. Of
    /// [`Outcome::Superseded`] nobody knows whether it happened, as of [`ClientError::OutcomeUnknown`].
    ///
    /// # Errors
    ///
    /// [`ClientError::OutcomeUnknown`] when it may have happened; with any other, nothing happened.
    pub async fn execute(&self, command: Command) -> Result<Outcome, ClientError> {
        self.write(command).await.map(|(_, outcome)| outcome)
    }

    /// Carries out several steps in one moment, if everything is as it is to be, or else others.
    ///
    /// # Errors
    ///
    /// [`ClientError::OutcomeUnknown`] when it may have happened; with any other, nothing happened.
    pub async fn transact(&self, transaction: Transaction) -> Result<Transacted, ClientError> {
        match self.write(Command::Transact(transaction)).await? {
            (
                _,
                Outcome::Transacted {
                    succeeded,
                    steps,
                    revision,
                },
            ) => Ok(Transacted {
                succeeded,
                steps,
                revision,
            }),
            (node, _) => Err(not_understood(node)),
        }
    }

    /// Makes a lease that ends `ttl` after it was last renewed; returns its number. Time passes for it only
    /// while there is a leader, and never faster than it does. It counts from when the leader proposes it:
    /// its owner counts from before the call.
    ///
    /// # Errors
    ///
    /// [`ClientError::OutcomeUnknown`] when it may have happened, and then the lease ends by itself; with any
    /// other, nothing happened.
    pub async fn grant_lease(&self, ttl: Duration) -> Result<u64, ClientError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        match self.write(Command::GrantLease { ttl_ms }).await? {
            (_, Outcome::LeaseGranted { lease }) => Ok(lease),
            (node, _) => Err(not_understood(node)),
        }
    }

    /// Has `lease` live for its whole time; returns that time, which its owner counts from before the call, and not
    /// from the answer: the leader did so from when it proposed this.
    ///
    /// # Errors
    ///
    /// [`ClientError::LeaseUnknown`] when there is no such lease any more; else as [`put`](Self::put).
    pub async fn keep_lease(&self, lease: u64) -> Result<Duration, ClientError> {
        match self.write(Command::KeepLease { lease }).await? {
            (_, Outcome::LeaseKept { ttl_ms }) => Ok(Duration::from_millis(ttl_ms)),
            (node, _) => Err(not_understood(node)),
        }
    }

    /// Ends `lease`, and removes the keys that are bound to it: a thousand at once, more within a moment.
    ///
    /// # Errors
    ///
    /// [`ClientError::LeaseUnknown`] when there is no such lease any more; else as [`put`](Self::put).
    pub async fn revoke_lease(&self, lease: u64) -> Result<(), ClientError> {
        match self.write(Command::RevokeLease { lease }).await? {
            (_, Outcome::LeaseRevoked { .. }) => Ok(()),
            (node, _) => Err(not_understood(node)),
        }
    }

    /// How `lease` stands, or `None` if there is no such lease.
    ///
    /// # Errors
    ///
    /// Any; nothing happened.
    pub async fn lease(&self, lease: u64) -> Result<Option<Lease>, ClientError> {
        match self.read(Query::Lease { lease }).await? {
            (_, Answer::Lease { lease, .. }) => Ok(lease),
            (node, _) => Err(ClientError::Nonsense { node }),
        }
    }

    /// One page of the leases that there are, from the number `from` on, in order, at most `limit` of them. A page may hold
    /// fewer: see [`LeasePage::more`].
    ///
    /// # Errors
    ///
    /// Any; nothing happened.
    pub async fn leases(&self, from: u64, limit: u32) -> Result<LeasePage, ClientError> {
        match self.read(Query::Leases { from, limit }).await? {
            (_, Answer::Leases { leases, more, .. }) => Ok(LeasePage { leases, more }),
            (node, _) => Err(ClientError::Nonsense { node }),
        }
    }

    /// Sets `key` to `value` until `lease` ends, or until it is written again; returns the revision of the
    /// write.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put), and [`ClientError::LeaseUnknown`] when there is no such lease any more.
    pub async fn put_with_lease(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        lease: u64,
    ) -> Result<u64, ClientError> {
        let put = Step::Put {
            key: key.into(),
            value: value.into(),
            lease: Some(lease),
        };
        let transaction = Transaction {
            then: vec![put],
            ..Transaction::default()
        };
        Ok(self.transact(transaction).await?.revision)
    }

    /// Follows what happens to the keys from `start` up to but without `end` after the revision `after`, or
    /// from now on.
    #[must_use]
    pub fn watch(&self, start: impl Into<Bytes>, end: Option<Bytes>, after: Option<u64>) -> Watch {
        let start = start.into();
        Watch::new(self.clone(), Watched { start, end }, after)
    }

    /// Answers `query` as of no earlier than this call, and says as of which revision: what
    /// [`get`](Self::get) and [`range`](Self::range) make simpler.
    ///
    /// # Errors
    ///
    /// Any; nothing happened.
    pub async fn query(&self, query: Query) -> Result<Answer, ClientError> {
        self.read(query).await.map(|(_, answer)| answer)
    }

    /// A client that shares everything with this one, and reads at `node` instead of at the leader: as
    /// linearizably, with less for the leader to do, and a round trip between the two on top.
    #[must_use]
    pub fn reading_at(&self, node: NodeId) -> Self {
        Self {
            reads_at: Some(node),
            ..self.clone()
        }
    }

    /// Answers `query` from the state as it is at `node`, however old, and says how old at most. **Not
    /// linearizable**: it may lack any number of writes that were acknowledged.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::TimedOut`] when it cannot be asked, or
    /// [`ClientError::StillRefused`] when it would not answer.
    pub async fn query_stale(
        &self,
        node: NodeId,
        query: Query,
    ) -> Result<StaleAnswer, ClientError> {
        query.validate()?;
        match self.shared.ask(node, &Request::ReadStale(query)).await? {
            Response::Stale {
                answer: Answer::Refused(invalid),
                ..
            } => Err(refused(node, invalid)),
            Response::Stale {
                answer,
                leader_silent_for_ms,
            } => Ok(StaleAnswer {
                answer,
                leader_silent_for: leader_silent_for_ms.map(Duration::from_millis),
            }),
            _ => Err(ClientError::Nonsense { node }),
        }
    }

    /// Who leads, as far as this client knows at the moment.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.shared.leader()
    }

    /// The nodes this client knows, in order.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.shared.nodes().into_iter()
    }

    /// Takes other credentials of the same identity from now on, for this client and its clones: a renewed
    /// certificate, other roots. Nothing is interrupted, but by a node that has ceased to trust the old ones.
    ///
    /// # Errors
    /// Credentials of somebody else; nothing has changed then.
    pub fn replace_credentials(&self, new: Credentials) -> Result<(), OtherIdentity> {
        self.shared.transport.replace_credentials(new)
    }

    /// Says where `node` may be found from now on, for this client and its clones: one that has joined the cluster
    /// since, or has moved, or whose name stands for something else. Addresses are tried in their order, the first
    /// [`ADDRESSES_MAX`](crate::ADDRESSES_MAX) of them; whoever answers has to prove that it is that node. A connection
    /// that is open stays. A client that was given only IPv4 addresses reaches no others.
    ///
    /// There is no need to follow the members with this: where the nodes say that they are is tried after what was said
    /// here.
    ///
    /// # Errors
    /// [`ClientError::TooManyNodes`] when it is one more than a cluster may have.
    pub fn set_addresses(
        &self,
        node: NodeId,
        addresses: Vec<SocketAddr>,
    ) -> Result<(), ClientError> {
        self.shared.set_addresses(node, addresses)
    }

    /// Has nothing to do with `node` any more, for this client and its clones: one that it was given and that was
    /// removed from the cluster. One that is a member is met again with the next news. What waits for its answer is asked elsewhere, or ends like that of a node that fails.
    pub fn forget(&self, node: NodeId) {
        self.shared.forget(node);
    }

    /// Closes every connection; operations of other clones fail. Returns when the nodes were told.
    pub async fn close(self) {
        self.shared.close().await;
    }

    async fn write(&self, command: Command) -> Result<(NodeId, Outcome), ClientError> {
        command.validate()?;
        match self.shared.write(command).await? {
            (node, Outcome::Refused(invalid)) => Err(refused(node, invalid)),
            answered => Ok(answered),
        }
    }

    async fn read(&self, query: Query) -> Result<(NodeId, Answer), ClientError> {
        query.validate()?;
        let answered = match self.reads_at {
            None => {
                let request = Request::Read(query);
                self.shared.request(Operation::Repeatable, &request).await?
            }
            Some(node) => {
                let request = Request::ReadHere(query);
                (node, self.shared.ask(node, &request).await?)
            }
        };
        match answered {
            (node, Response::Read(Answer::Refused(invalid))) => Err(refused(node, invalid)),
            (node, Response::Read(answer)) => Ok((node, answer)),
            (node, _) => Err(ClientError::Nonsense { node }),
        }
    }
}

/// A write was carried out, but it is not known how.
fn not_understood(node: NodeId) -> ClientError {
    ClientError::OutcomeUnknown {
        node,
        why: Unanswered::Nonsense,
    }
}

/// What the state does not allow; or what this client holds to be valid and the node does not, where their versions
/// differ.
fn refused(node: NodeId, invalid: Invalid) -> ClientError {
    match invalid {
        Invalid::LeaseUnknown { lease } => ClientError::LeaseUnknown { lease },
        Invalid::TooManyLeases => ClientError::TooManyLeases,
        Invalid::TooManyLeasesOfOne => ClientError::TooManyLeasesOfOne,
        Invalid::BackupGone => ClientError::BackupGone { node },
        invalid => {
            let refusal = invalid.into();
            ClientError::Refused { node, refusal }
        }
    }
}

/// How a compare-and-set went.
#[derive(Clone, PartialEq, Eq)]
pub enum Swap {
    /// The key was as expected and has changed.
    Swapped {
        /// The revision of the change.
        revision: u64,
    },
    /// The key was not as expected; nothing changed.
    NotSwapped {
        /// What it is, or `None` if it is absent.
        current: Option<Bytes>,
    },
}

impl fmt::Debug for Swap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Swapped { revision } => write!(f, "Swapped({revision})"),
            Self::NotSwapped { current } => {
                write!(f, "NotSwapped({:?})", current.as_ref().map(Size))
            }
        }
    }
}

/// How a transaction went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transacted {
    /// Whether everything was as it was to be, so that `then` was carried out, and not `otherwise`.
    pub succeeded: bool,
    /// What each step did or found.
    pub steps: Vec<StepOutcome>,
    /// The revision of all of it.
    pub revision: u64,
}

/// Part of a range of keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Keys and values, in the order of the keys' bytes.
    pub pairs: Vec<Pair>,
    /// Whether the range goes on: ask again from the key after the last one.
    pub more: bool,
    /// The revision of the state that this page is of: a [watch](Client::watch) after it sees every later change, and none
    /// that is in here. Whoever reads several pages watches after that of the first.
    pub revision: u64,
}

impl Page {
    /// That of an answer to [`Query::Range`]; `None` of another one.
    #[must_use]
    pub fn of(answer: Answer) -> Option<Self> {
        let Answer::Page {
            pairs,
            more,
            revision,
        } = answer
        else {
            return None;
        };
        Some(Self {
            pairs,
            more,
            revision,
        })
    }
}

/// Part of the leases that there are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeasePage {
    /// In the order of their numbers.
    pub leases: Vec<ListedLease>,
    /// Whether there are others: ask again from the number after the last one.
    pub more: bool,
}
