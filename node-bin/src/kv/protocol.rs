//! What clients and nodes say to each other: one request type, one response type, one notice.
//!
//! All of it travels on the transport's call lane, the only one that exists between a node and a client.
//! The role in the caller's certificate decides what it may ask for; see [`Request::needs`].

use std::fmt;
use std::net::SocketAddr;

use quorate_certs::Role as Caller;
use quorate_consensus::{EntryId, LogIndex, Membership, MembershipChange, NodeId, Role, Term};
use quorate_quic_transport::{Lane, Message};
use serde::{Deserialize, Serialize};

use super::command::{Command, KEY_BYTES_MAX, Outcome, VALUE_BYTES_MAX};
use super::directory::Directory;
use super::history::{Change, Watched};
use super::invalid::Invalid;
use super::logged::Tag;
use super::query::{Answer, Query};
use crate::node::{DiskNearlyFull, DiskSpace, mib};

/// The most bytes of explanation in [`Refusal::Malformed`]: enough for a sentence, too little to be a
/// burden when a hostile peer provokes many of them.
pub const EXPLANATION_BYTES_MAX: usize = 256;

/// What a client asks of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Replicate a command, apply it, and answer with its outcome. Only the leader can.
    Write(Command),
    /// Answer from a state that holds every write acknowledged before this request was sent
    /// (linearizable; Raft thesis, section 6.4). Only the leader can.
    Read(Query),
    /// As `Read`, at whatever member is asked.
    ReadHere(Query),
    /// Answer from the state as it is here, however old.
    ReadStale(Query),
    /// How this very node is doing. Every node answers for itself.
    Status,
    /// Hand leadership to `to`, or to the voter with the longest log. Only the leader can.
    TransferLeader {
        /// Who should lead.
        to: Option<NodeId>,
    },
    /// Change the members, and answer once that is complete. Only the leader can.
    ChangeMembers {
        /// How.
        change: MembershipChange,
        /// Only if the members are still those of this entry.
        expected: Option<LogIndex>,
    },
    /// As `Write`, and applied once however often it is sent.
    WriteOnce {
        /// Which command of which session it is.
        tag: Tag,
        /// The command.
        command: Command,
    },
    /// Answer what has happened to keys, as it is known here, once something has; after
    /// [`WATCH_WAIT_MAX`](super::WATCH_WAIT_MAX) also that nothing has.
    Watch {
        /// Which keys.
        watched: Watched,
        /// The revision after which it is of interest.
        after: u64,
    },
    /// What this very node counts and measures.
    Metrics,
    /// Who leads, as far as this very node knows: the little of `Status` that whoever looks for a leader asks again
    /// and again.
    Leader,
}

impl Request {
    /// The least role that may ask this.
    #[must_use]
    pub fn needs(&self) -> Needs {
        match self {
            Self::Read(query) | Self::ReadHere(query) | Self::ReadStale(query)
                if query.is_backup() =>
            {
                Needs::Admin
            }
            Self::Read(_)
            | Self::ReadHere(_)
            | Self::ReadStale(_)
            | Self::Watch { .. }
            | Self::Status
            | Self::Metrics
            | Self::Leader => Needs::Reader,
            // Sessions and leases among them: whatever changes the state or the time that something in it lasts.
            Self::Write(_) | Self::WriteOnce { .. } => Needs::Client,
            Self::TransferLeader { .. } | Self::ChangeMembers { .. } => Needs::Admin,
        }
    }
}

impl Message for Request {
    const KIND: u16 = 0x0100;
}

/// What a request asks of the caller's certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Needs {
    /// A client's or an admin's.
    Client,
    /// An admin's.
    Admin,
    /// A reader's, a client's or an admin's.
    Reader,
}

impl Needs {
    /// Whether a certificate with the role `caller` is enough. A node's never is: it speaks for the
    /// cluster, not for a user, and a stolen node key should not also write data under that name.
    #[must_use]
    pub fn allows(self, caller: Caller) -> bool {
        match self {
            Self::Reader => matches!(caller, Caller::Reader | Caller::Client | Caller::Admin),
            Self::Client => matches!(caller, Caller::Client | Caller::Admin),
            Self::Admin => matches!(caller, Caller::Admin),
        }
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reader => "a reader's, a client's or an admin's certificate",
            Self::Client => "a client's or an admin's certificate",
            Self::Admin => "an admin's certificate",
        })
    }
}

/// What a node answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Response {
    /// The command was committed and applied.
    Written(Outcome),
    /// The query was answered.
    Read(Answer),
    /// The query was answered from a state that may be old.
    Stale {
        /// The answer.
        answer: Answer,
        /// For how many milliseconds the node had not heard of a leader; `None` where it knew none.
        leader_silent_for_ms: Option<u64>,
    },
    /// How the node is doing. Boxed because it is by far the largest variant and the rarest.
    Status(Box<NodeStatus>),
    /// Leadership moved.
    Transferred {
        /// Who leads now.
        leader: NodeId,
    },
    /// The members are these now. Boxed as the status is.
    Members(Box<Membership>),
    /// The request was not carried out, or it is not known whether it was.
    Refused(Refusal),
    /// This has happened.
    Watched {
        /// In the order in which it did; empty when nothing did.
        changes: Vec<Change>,
        /// There is no more up to this revision: ask again for what comes after it.
        revision: u64,
    },
    /// What the node counts and measures, in the text format of OpenMetrics.
    Metrics(String),
    /// Who leads.
    Leader {
        /// The current term of the node.
        term: Term,
        /// What it is in that term.
        role: Role,
        /// Who leads that term, as far as it knows.
        leader: Option<NodeId>,
    },
}

impl Message for Response {
    const KIND: u16 = 0x0101;
}

/// Why a request was not carried out. Unless it says otherwise, nothing happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Ask `leader` instead.
    #[error("it is not the leader{}", hint(*leader))]
    NotLeader {
        /// Who leads, as far as the node knows.
        leader: Option<NodeId>,
    },
    /// Too much is waiting already. Ask again after a pause.
    #[error("it is overloaded; try again after a pause")]
    Overloaded,
    /// The command or query is over a limit and always will be.
    #[error("{bytes} bytes are too large; at most {bytes_max} are accepted")]
    TooLarge {
        /// The size of what was sent.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The command may have been applied, or may yet be: leadership was lost before it was decided, or the state machine
    /// did not answer, or the node stopped.
    #[error("it does not know whether the write happened, or will")]
    OutcomeUnknown,
    /// No majority confirmed the leader in time, so that a read could not be answered; or nobody took
    /// over in time, so that the leader still leads. Never the answer to a write.
    #[error("no majority answered it in time")]
    TimedOut,
    /// The node is shutting down and takes nothing new. Ask another one.
    #[error("it is stopping")]
    Stopping,
    /// The caller's certificate does not allow it.
    #[error("this needs {needs}, and the role in the one presented is {}", has.as_str())]
    NotAllowed {
        /// What would.
        needs: Needs,
        /// The role in the certificate that was presented.
        has: Caller,
    },
    /// Another change of the members is under way, or the leader is new. Ask again after a pause.
    #[error("another change of the members is under way; try again after a moment")]
    Busy,
    /// The members cannot be changed like that now.
    #[error("{why}")]
    NotChanged {
        /// Why, and what to do; at most [`EXPLANATION_BYTES_MAX`] bytes.
        why: String,
    },
    /// The request makes no sense to the node, and always will.
    #[error("it cannot accept the request: {what}")]
    Malformed {
        /// What is wrong with it, at most [`EXPLANATION_BYTES_MAX`] bytes.
        what: String,
    },
    /// What came right after the revision asked for is no longer known here.
    #[error(
        "it knows what has happened since revision {since} only; read the keys, and watch from there"
    )]
    HistoryGone {
        /// What came after this revision is known.
        since: u64,
    },
    /// The members cannot be changed like that yet. Ask again later.
    #[error("{why}")]
    NotYet {
        /// What has to be so first; at most [`EXPLANATION_BYTES_MAX`] bytes.
        why: String,
    },
    /// The disk of the leader is nearly full, and the command makes the state grow. What does not is carried out.
    #[error(
        "its disk is nearly full ({} MiB are free, of the {} MiB that it keeps): free space there; \
         reads and deletes go on", mib(*free_bytes), mib(*reserve_bytes)
    )]
    DiskNearlyFull {
        /// How many bytes are free.
        free_bytes: u64,
        /// How many are kept free.
        reserve_bytes: u64,
    },
}

impl Refusal {
    /// Whether what was refused may have happened all the same, or happen yet.
    pub(super) fn is_ambiguous(&self) -> bool {
        match self {
            Self::OutcomeUnknown | Self::TimedOut => true,
            Self::NotLeader { .. }
            | Self::Overloaded
            | Self::TooLarge { .. }
            | Self::Stopping
            | Self::NotAllowed { .. }
            | Self::Busy
            | Self::NotChanged { .. }
            | Self::Malformed { .. }
            | Self::HistoryGone { .. }
            | Self::NotYet { .. }
            | Self::DiskNearlyFull { .. } => false,
        }
    }

    /// [`Refusal::Malformed`] with `what` cut to [`EXPLANATION_BYTES_MAX`].
    #[must_use]
    pub fn malformed(what: impl fmt::Display) -> Self {
        let what = explanation(what);
        Self::Malformed { what }
    }

    /// [`Refusal::NotChanged`] with `why` cut to [`EXPLANATION_BYTES_MAX`].
    #[must_use]
    pub fn not_changed(why: impl fmt::Display) -> Self {
        let why = explanation(why);
        Self::NotChanged { why }
    }

    /// [`Refusal::NotYet`] with `why` cut to [`EXPLANATION_BYTES_MAX`].
    #[must_use]
    pub fn not_yet(why: impl fmt::Display) -> Self {
        let why = explanation(why);
        Self::NotYet { why }
    }
}

fn explanation(what: impl fmt::Display) -> String {
    let mut what = what.to_string();
    let mut end = what.len().min(EXPLANATION_BYTES_MAX);
    while !what.is_char_boundary(end) {
        end -= 1;
    }
    what.truncate(end);
    what
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::KeyTooLong { bytes } => Self::TooLarge {
                bytes,
                bytes_max: KEY_BYTES_MAX as u64,
            },
            Invalid::ValueTooLong { bytes } => Self::TooLarge {
                bytes,
                bytes_max: VALUE_BYTES_MAX as u64,
            },
            invalid => Self::malformed(invalid),
        }
    }
}

impl From<DiskNearlyFull> for Refusal {
    fn from(full: DiskNearlyFull) -> Self {
        // Whoever is told knows who says so.
        let DiskNearlyFull {
            node: _,
            free_bytes,
            reserve_bytes,
        } = full;
        Self::DiskNearlyFull {
            free_bytes,
            reserve_bytes,
        }
    }
}

fn hint(leader: Option<NodeId>) -> String {
    leader.map_or_else(
        || "; it knows of none".into(),
        |leader| format!("; it says that node {} is", leader.value()),
    )
}

/// What a node tells its connected clients unasked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Notice {
    /// The node learned who leads, or became the leader, or has stopped being it. A killed leader does
    /// not close its connections, so without this a client would wait for an idle timeout. Clients that
    /// connect later ask for the status.
    Leader {
        /// The term in which it is so.
        term: Term,
        /// Who leads, if that is known.
        leader: Option<NodeId>,
    },
    /// These are the members now, and that is where they are. Without this, a client that lives longer than the members
    /// it was given would be left with nobody to ask.
    Members(Directory),
}

impl Notice {
    /// Where notices are sent. Clients have no control lane; changes of leader are rare enough to queue
    /// behind answers.
    pub const LANE: Lane = Lane::Call;
}

impl Message for Notice {
    const KIND: u16 = 0x0102;
}

/// How one node is doing, in its own words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node that answers.
    pub node: NodeId,
    /// The cluster it belongs to.
    pub cluster: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its current term.
    pub term: Term,
    /// What it is in that term.
    pub role: Role,
    /// Who leads that term, as far as it knows.
    pub leader: Option<NodeId>,
    /// The last entry of its log.
    pub last: EntryId,
    /// The last index it knows to be committed.
    pub commit: LogIndex,
    /// The last index its state machine holds.
    pub applied: LogIndex,
    /// Who belongs to the cluster, as far as it knows.
    pub members: Membership,
    /// How it sees the other members, in order.
    pub peers: Vec<PeerStatus>,
    /// The size of its log on disk, in bytes, if that is cheap to know.
    pub log_bytes: Option<u64>,
    /// The size of its state on disk, in bytes, if that is cheap to know.
    pub state_bytes: Option<u64>,
    /// When its certificate expires, in seconds since 1970.
    pub certificate_not_after: u64,
    /// For how long it has been running, in milliseconds.
    pub uptime_ms: u64,
    /// The version of its program.
    pub version: String,
    /// How much room its disk has, if it looks after that.
    pub disk: Option<DiskSpace>,
    /// For how many milliseconds its state machine has not come back with what it was given to apply, once that is
    /// [`Config::apply_stall_timeout`](quorate_consensus::Config::apply_stall_timeout).
    pub state_machine_stalled_ms: Option<u64>,
}

/// How a node sees another one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The other node.
    pub node: NodeId,
    /// Where it is reached.
    pub address: Option<SocketAddr>,
    /// The state of the connection in a word or, when there is none, the reason.
    pub state: String,
    /// The last index it is known to hold; only a leader knows.
    pub matched: Option<LogIndex>,
    /// The smoothed round-trip time in microseconds, while connected.
    pub rtt_us: Option<u64>,
    /// How many packets were lost on all connections with it, since this node was started.
    pub lost_packets: u64,
    /// How many messages wait to be sent to it.
    pub queued: u64,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    /// Readers read, clients write as well, admins do everything, nodes nothing.
    #[test]
    fn j9_j10_j11_roles_decide_what_may_be_asked() {
        let transfer = Request::TransferLeader { to: None };
        for read in [Request::Read, Request::ReadHere, Request::ReadStale] {
            let key = Bytes::from_static(b"k");
            assert_eq!(read(Query::Get { key }).needs(), Needs::Reader);
            assert_eq!(read(Query::Lease { lease: 7 }).needs(), Needs::Reader);
            assert_eq!(read(Query::BeginBackup).needs(), Needs::Admin);
            let (of, after) = (EntryId::new(Term::new(1), LogIndex::new(2)), Bytes::new());
            let piece = Query::BackupPiece { of, after };
            assert_eq!(read(piece).needs(), Needs::Admin);
            assert_eq!(read(Query::EndBackup { of }).needs(), Needs::Admin);
        }
        let tag = Tag {
            session: 1,
            slot: 0,
            sequence: 1,
        };
        for command in [
            Command::OpenSession,
            Command::GrantLease { ttl_ms: 1_000 },
            Command::KeepLease { lease: 7 },
        ] {
            assert_eq!(Request::Write(command.clone()).needs(), Needs::Client);
            assert_eq!(Request::WriteOnce { tag, command }.needs(), Needs::Client);
        }
        assert_eq!(Request::Status.needs(), Needs::Reader);
        assert_eq!(Request::Metrics.needs(), Needs::Reader);
        assert_eq!(Request::Leader.needs(), Needs::Reader);
        assert_eq!(transfer.needs(), Needs::Admin);
        for (needs, node, reader, client, admin) in [
            (Needs::Reader, false, true, true, true),
            (Needs::Client, false, false, true, true),
            (Needs::Admin, false, false, false, true),
        ] {
            let found = [Caller::Node, Caller::Reader, Caller::Client, Caller::Admin]
                .map(|caller| needs.allows(caller));
            assert_eq!(found, [node, reader, client, admin], "{needs}");
        }
        let refused = |needs, has| Refusal::NotAllowed { needs, has }.to_string();
        assert_eq!(
            refused(Needs::Admin, Caller::Client),
            "this needs an admin's certificate, and the role in the one presented is client"
        );
        assert_eq!(
            refused(Needs::Client, Caller::Reader),
            "this needs a client's or an admin's certificate, and the role in the one presented is reader"
        );
    }

    /// An explanation is cut at a character boundary, however long or foreign the text is.
    #[test]
    fn explanations_are_bounded() {
        let Refusal::Malformed { what } = Refusal::malformed("ß€".repeat(1000)) else {
            panic!("malformed");
        };
        assert!(what.len() <= EXPLANATION_BYTES_MAX && what.len() > EXPLANATION_BYTES_MAX - 4);
    }

    /// Node 0 means "nobody" to Raft: no notice can name it.
    #[test]
    fn nobody_cannot_be_announced() {
        let good = Notice::Leader {
            term: Term::new(7),
            leader: Some(node(3)),
        };
        let mut bytes = postcard::to_stdvec(&good).unwrap();
        assert_eq!(postcard::from_bytes::<Notice>(&bytes).unwrap(), good);
        *bytes.last_mut().unwrap() = 0;
        assert!(postcard::from_bytes::<Notice>(&bytes).is_err());
    }
}
