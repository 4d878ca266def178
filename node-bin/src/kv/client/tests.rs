//! The client against nodes that play a part: real sockets, certificates and frames, scripted answers.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use async_channel::{Receiver, Sender};
use futures_lite::future::{block_on, or, yield_now, zip};
use quorate_certs::{Ca, CaOptions, ClusterName, IssueOptions, Subject};
use quorate_consensus::{EntryId, LogIndex, Membership, Role, Term};
use quorate_quic_transport::runtime::IoThread;
use quorate_quic_transport::{Config, Inbound, Inbox, IncomingCall, Reply, Transport};

use super::*;
use crate::kv::logged::Tag;
use crate::kv::protocol::{Needs, NodeStatus, Notice, PeerStatus, Refusal};
use crate::node::SERVICE;

mod ended;
mod late;
mod nodes;
mod search;
mod sweep;
mod unknown;

/// Far longer than anything here takes, and still the end of a test that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a scripted node does with a request.
#[derive(Default)]
struct Part {
    term: u64,
    leader: Option<NodeId>,
    /// Keep requests unanswered, as a node that was killed does.
    silent: bool,
    /// Say of each write that it came before, and that its answer is not kept.
    forgetful: bool,
    held: Vec<Reply>,
    /// Where it says that other members are.
    members: Vec<(NodeId, SocketAddr)>,
    /// Answers to give before any other.
    refusals: Vec<Refusal>,
    writes: u64,
    /// Whether transactions find everything as it is to be; any other write is answered where this ends.
    transacted: Vec<bool>,
    /// How often it was asked for its status, and for who leads.
    asked: (u64, u64),
    /// What each write that arrived was called.
    tags: Vec<Tag>,
    /// How many sessions there are, of which only the last is known.
    sessions: u64,
}

struct ScriptedNode {
    id: NodeId,
    transport: Transport,
    part: Arc<Mutex<Part>>,
    /// One item for each write or read that arrived.
    arrived: Receiver<()>,
}

impl ScriptedNode {
    fn start(id: u64, stage: &Stage) -> Self {
        let issued = stage
            .ca
            .issue(&Subject::node(id).unwrap(), &IssueOptions::default());
        let (transport, inbox) = Transport::bind(
            Config::new(SERVICE, (Ipv4Addr::LOCALHOST, 0).into()),
            issued.unwrap().credentials().unwrap(),
            stage.io.runtime(),
        )
        .unwrap();
        let (part, (arrivals, arrived)) = (Arc::default(), async_channel::unbounded());
        let play = play(node(id), inbox, Arc::clone(&part), arrivals);
        stage.io.runtime().spawn(Box::pin(play));
        Self {
            id: node(id),
            transport,
            part,
            arrived,
        }
    }

    fn part(&self) -> MutexGuard<'_, Part> {
        self.part.lock().unwrap()
    }

    fn believe(&self, term: u64, leader: u64) {
        let mut part = self.part();
        (part.term, part.leader) = (term, NodeId::new(leader));
    }

    /// Believes it, and tells every client.
    fn announce(&self, term: u64, leader: u64) {
        self.believe(term, leader);
        self.tell(&Notice::Leader {
            term: Term::new(term),
            leader: NodeId::new(leader),
        });
    }

    fn tell(&self, notice: &Notice) {
        for client in self.transport.clients() {
            client.try_send(Notice::LANE, 0, notice.clone()).unwrap();
        }
    }

    fn address(&self) -> (NodeId, SocketAddr) {
        (self.id, self.transport.local_addr())
    }
}

async fn play(id: NodeId, mut inbox: Inbox, part: Arc<Mutex<Part>>, arrivals: Sender<()>) {
    while let Some(inbound) = inbox.recv().await {
        if let Inbound::Call(call) = inbound {
            answer(id, &mut part.lock().unwrap(), call, &arrivals);
        }
    }
}

fn answer(id: NodeId, part: &mut Part, call: IncomingCall, arrivals: &Sender<()>) {
    let request = call.decode::<Request>().unwrap();
    let leads = part.leader == Some(id);
    if request == Request::Write(Command::OpenSession) && leads {
        part.sessions += 1;
        let session = part.sessions;
        let opened = Outcome::SessionOpened { session };
        return call.reply.send(&Response::Written(opened));
    }
    match request {
        Request::Status => part.asked.0 += 1,
        Request::Leader => part.asked.1 += 1,
        _ => arrivals.try_send(()).unwrap(),
    }
    if let Request::WriteOnce { tag, .. } = request {
        part.writes += 1;
        part.tags.push(tag);
    }
    if part.silent {
        part.held.push(call.reply);
        return;
    }
    let response = match request {
        Request::Status => Response::Status(Box::new(status(id, part))),
        Request::Leader => Response::Leader {
            term: Term::new(part.term),
            role: role(id, part),
            leader: part.leader,
        },
        _ if !part.refusals.is_empty() => Response::Refused(part.refusals.remove(0)),
        Request::Metrics => Response::Metrics(String::new()),
        _ if !leads => Response::Refused(Refusal::NotLeader {
            leader: part.leader,
        }),
        Request::WriteOnce { .. } if part.forgetful => {
            Response::Written(Outcome::AnswerNotKept { revision: 1 })
        }
        Request::WriteOnce { tag, .. } if tag.session < part.sessions => {
            Response::Written(Outcome::SessionExpired)
        }
        Request::WriteOnce {
            command: Command::GrantLease { .. },
            ..
        } => Response::Written(Outcome::LeaseGranted { lease: 7 }),
        Request::WriteOnce { .. } if !part.transacted.is_empty() => {
            Response::Written(Outcome::Transacted {
                succeeded: part.transacted.remove(0),
                steps: Vec::new(),
                revision: part.writes,
            })
        }
        Request::Write(_) | Request::WriteOnce { .. } => Response::Written(Outcome::Written {
            revision: part.writes,
        }),
        Request::Watch { after, .. } => Response::Watched {
            changes: Vec::new(),
            revision: after + 1,
        },
        Request::Read(_) | Request::ReadHere(_) | Request::ReadStale(_) => {
            Response::Read(Answer::Value {
                value: None,
                revision: part.writes,
            })
        }
        Request::TransferLeader { to } => Response::Transferred {
            leader: to.unwrap_or(id),
        },
        Request::ChangeMembers { .. } => {
            Response::Members(Box::new(Membership::new([id], []).unwrap()))
        }
    };
    call.reply.send(&response);
}

fn status(id: NodeId, part: &Part) -> NodeStatus {
    NodeStatus {
        node: id,
        cluster: "stage".into(),
        listen: (Ipv4Addr::LOCALHOST, 1).into(),
        term: Term::new(part.term),
        role: role(id, part),
        leader: part.leader,
        last: EntryId::default(),
        commit: LogIndex::ZERO,
        applied: LogIndex::ZERO,
        members: Membership::new(part.members.iter().map(|(id, _)| *id).chain([id]), []).unwrap(),
        peers: part.members.iter().map(peer_status).collect(),
        log_bytes: None,
        state_bytes: None,
        certificate_not_after: 0,
        uptime_ms: 0,
        version: "0.0.0".into(),
        disk: None,
        state_machine_stalled_ms: None,
    }
}

fn role(id: NodeId, part: &Part) -> Role {
    match part.leader == Some(id) {
        true => Role::Leader,
        false => Role::Follower,
    }
}

fn peer_status((node, address): &(NodeId, SocketAddr)) -> PeerStatus {
    PeerStatus {
        node: *node,
        address: Some(*address),
        state: "connected".into(),
        matched: None,
        rtt_us: None,
        lost_packets: 0,
        queued: 0,
    }
}

/// A CA and a thread for all.
struct Stage {
    ca: Ca,
    io: IoThread,
}

impl Stage {
    fn new() -> Self {
        let cluster = ClusterName::new("stage").unwrap();
        Self {
            ca: Ca::generate(&cluster, &CaOptions::default()).unwrap(),
            io: IoThread::spawn("stage").unwrap(),
        }
    }

    /// Three nodes that all know that node 1 leads term 1.
    fn three() -> (Self, [ScriptedNode; 3]) {
        let stage = Self::new();
        let nodes = [1, 2, 3].map(|id| ScriptedNode::start(id, &stage));
        for node in &nodes {
            node.believe(1, 1);
        }
        (stage, nodes)
    }

    fn client(&self, nodes: &[ScriptedNode], timeout: Duration) -> Client {
        self.client_on(nodes, timeout, self.io.runtime())
    }

    /// A client that has met `nodes`, so that the little time of its requests is not needed to connect.
    fn hurried(&self, all: &[ScriptedNode], nodes: &[ScriptedNode], timeout: Duration) -> Client {
        let client = self.client(all, timeout);
        patiently(async {
            for node in nodes {
                while client.status(node.id).await.is_err() {
                    yield_now().await;
                }
            }
        });
        client
    }

    fn client_on(
        &self,
        nodes: &[ScriptedNode],
        timeout: Duration,
        runtime: Arc<dyn quinn::Runtime>,
    ) -> Client {
        let issued = self
            .ca
            .issue(&Subject::client("test").unwrap(), &IssueOptions::default());
        let mut config = ClientConfig::new(
            nodes.iter().map(ScriptedNode::address).collect(),
            issued.unwrap().credentials().unwrap(),
        );
        config.request_timeout = timeout;
        Client::connect(config, runtime).unwrap()
    }
}

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

/// Ends the test instead of hanging it.
fn patiently<T>(future: impl Future<Output = T>) -> T {
    let too_long = async {
        async_io::Timer::after(PATIENCE).await;
        panic!("not done within {PATIENCE:?}");
    };
    block_on(or(future, too_long))
}

/// A refusal that names the leader is followed; the write happens once.
#[test]
fn follows_a_hint() {
    let (stage, nodes) = Stage::three();
    let client = stage.client(&nodes, PATIENCE);
    patiently(client.put("k", "v")).unwrap();
    for node in &nodes {
        node.believe(2, 3);
    }
    assert_eq!(patiently(client.put("k", "v")).unwrap(), 1);
    let writes = nodes.each_ref().map(|node| node.part().writes);
    assert_eq!(writes, [2, 0, 1], "refused by node 1, done by node 3");
}

/// When a new leader is announced, a write that the former one swallowed goes to the new one at once, under the
/// same name, by which it is applied once.
#[test]
fn h1_a_write_to_a_dead_leader_is_sent_again_under_its_name() {
    let (stage, nodes) = Stage::three();
    let client = stage.client(&nodes, PATIENCE);
    patiently(client.get("k")).unwrap();
    patiently(nodes[0].arrived.recv()).unwrap();
    nodes[0].part().silent = true;
    let begun = Instant::now();
    let (written, ()) = patiently(zip(client.put("k", "v"), async {
        nodes[0].arrived.recv().await.unwrap();
        nodes[1].announce(2, 2);
    }));
    written.unwrap();
    assert!(begun.elapsed() < PATIENCE / 4, "not the timeout");
    let tags = nodes[0].part().tags.clone();
    assert_eq!(tags.len(), 1);
    assert_eq!(nodes[1].part().tags, tags);
    // The next one has another name.
    patiently(client.put("k", "v")).unwrap();
    let tag = Tag {
        sequence: tags[0].sequence + 1,
        ..tags[0]
    };
    assert_eq!(nodes[1].part().tags, [tags[0], tag]);
}

/// A session that has ended when a write is sent for the first time is replaced; when it is sent again, nobody
/// knows what the first time did.
#[test]
fn h2_an_expired_session_is_said_so() {
    let (stage, nodes) = Stage::three();
    let client = stage.client(&nodes, PATIENCE);
    patiently(client.put("k", "v")).unwrap();
    patiently(nodes[0].arrived.recv()).unwrap();
    nodes[0].part().sessions += 1; // of somebody else
    patiently(client.put("k", "v")).unwrap();
    let sessions: Vec<u64> = nodes[0].part().tags.iter().map(|tag| tag.session).collect();
    assert_eq!(sessions, [1, 1, 3]);
    patiently(nodes[0].arrived.recv()).unwrap();
    patiently(nodes[0].arrived.recv()).unwrap();
    nodes[0].part().silent = true;
    nodes[1].part().sessions = 9;
    let (written, ()) = patiently(zip(client.put("k", "v"), async {
        nodes[0].arrived.recv().await.unwrap();
        nodes[1].announce(2, 2);
    }));
    let Err(ClientError::OutcomeUnknown { node: asked, why }) = written else {
        panic!("{written:?}");
    };
    assert_eq!((asked, why), (node(2), Unanswered::SessionExpired));
    // The next one opens another.
    patiently(client.put("k", "v")).unwrap();
}

/// A write that may have been carried out is not reported as refused when it is sent again and refused.
#[test]
fn h3_a_refusal_says_nothing_of_the_time_before() {
    let (stage, nodes) = Stage::three();
    let client = stage.client(&nodes, PATIENCE);
    patiently(client.get("k")).unwrap();
    patiently(nodes[0].arrived.recv()).unwrap();
    nodes[0].part().silent = true;
    nodes[1].part().refusals = vec![Refusal::malformed("too new")];
    let (written, ()) = patiently(zip(client.put("k", "v"), async {
        nodes[0].arrived.recv().await.unwrap();
        nodes[1].announce(2, 2);
    }));
    let Err(ClientError::OutcomeUnknown { node: asked, why }) = written else {
        panic!("{written:?}");
    };
    assert_eq!((asked, why), (node(1), Unanswered::Superseded));
}

/// A read that the former leader swallowed is repeated at the new one.
#[test]
fn a_read_from_a_dead_leader_is_repeated() {
    let (stage, nodes) = Stage::three();
    let client = stage.client(&nodes, PATIENCE);
    patiently(client.get("k")).unwrap();
    patiently(nodes[0].arrived.recv()).unwrap();
    nodes[0].part().silent = true;
    let (read, ()) = patiently(zip(client.get("k"), async {
        nodes[0].arrived.recv().await.unwrap();
        nodes[1].announce(2, 2);
    }));
    assert_eq!(read.unwrap(), None);
}

/// An announcement of an older term, or of the same leader in a newer one, ends nothing.
#[test]
fn stale_announcements_end_nothing() {
    let (stage, nodes) = Stage::three();
    let client = stage.client(&nodes, PATIENCE);
    patiently(client.get("k")).unwrap();
    patiently(nodes[0].arrived.recv()).unwrap();
    nodes[0].part().silent = true;
    let (written, ()) = patiently(zip(client.put("k", "v"), async {
        nodes[0].arrived.recv().await.unwrap();
        nodes[1].announce(0, 2);
        nodes[1].announce(5, 1);
        // Sent after the announcements on the same lane, so they were heard when this is answered.
        client.status(node(2)).await.unwrap();
        let held: Vec<Reply> = nodes[0].part().held.drain(..).collect();
        for reply in held {
            reply.send(&Response::Written(Outcome::Written { revision: 9 }));
        }
    }));
    assert_eq!(written.unwrap(), 9);
}

/// A connection that breaks under a write leaves its outcome unknown, when nobody else answers in time.
#[test]
fn h3_a_broken_connection_leaves_a_write_unknown() {
    let (stage, nodes) = Stage::three();
    let client = stage.hurried(&nodes, &nodes, Duration::from_secs(1));
    nodes[0].part().silent = false;
    patiently(client.get("k")).unwrap();
    patiently(nodes[0].arrived.recv()).unwrap();
    nodes[0].part().silent = true;
    let (written, ()) = patiently(zip(client.put("k", "v"), async {
        nodes[0].arrived.recv().await.unwrap();
        nodes[0].transport.shutdown(Duration::ZERO).await;
    }));
    let Err(ClientError::OutcomeUnknown { why, .. }) = written else {
        panic!("{written:?}");
    };
    assert_eq!(why, Unanswered::Lost);
}

/// A node that answers a write with the outcome of another kind of write has done something, and nobody
/// knows what.
#[test]
fn h3_an_answer_that_does_not_fit_leaves_a_write_unknown() {
    let (stage, nodes) = Stage::three();
    let client = stage.client(&nodes, PATIENCE);
    // The part that these nodes play answers every write as a put.
    patiently(client.put("k", "v")).unwrap();
    let deleted = patiently(client.delete("k")).map(drop);
    let swapped = patiently(client.compare_and_set("k", None, None)).map(drop);
    for written in [deleted, swapped] {
        let Err(ClientError::OutcomeUnknown { why, .. }) = written else {
            panic!("{written:?}");
        };
        assert_eq!(why, Unanswered::Nonsense);
    }
}

/// The time of a write that nobody answers ends in "unknown", that of a read in "timed out".
#[test]
fn the_deadline_tells_reads_from_writes() {
    let (stage, nodes) = Stage::three();
    let client = stage.hurried(&nodes, &nodes, Duration::from_millis(300));
    patiently(client.get("k")).unwrap();
    nodes[0].part().silent = true;
    let (written, read) = patiently(zip(client.put("k", "v"), client.get("k")));
    let Err(ClientError::OutcomeUnknown { why, .. }) = written else {
        panic!("{written:?}");
    };
    assert_eq!(why, Unanswered::Deadline);
    assert!(
        matches!(read, Err(ClientError::TimedOut { .. })),
        "{read:?}"
    );
}

/// Refusals that mean "later" are waited out, and the write happens once.
#[test]
fn waits_out_an_overloaded_leader() {
    let (stage, nodes) = Stage::three();
    let client = stage.client(&nodes, PATIENCE);
    nodes[0].part().refusals = vec![Refusal::Overloaded; 3];
    assert_eq!(
        patiently(client.put("k", "v")).unwrap(),
        4,
        "three refused, one done"
    );
}

/// A node that is asked itself, and refuses until the time is up, was reached: what it said is reported.
#[test]
fn the_last_refusal_of_one_node_is_reported() {
    let (stage, nodes) = Stage::three();
    let client = stage.hurried(&nodes, &nodes, Duration::from_millis(300));
    let reading = client.reading_at(node(2));
    // Node 2 does not lead, and these nodes answer as if only the leader could.
    let error = patiently(reading.get("k")).unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::StillRefused { node: it, refusal: Refusal::NotLeader { .. }, .. } if it == node(2)
        ),
        "{error:?}"
    );
    nodes[1].part().refusals = vec![Refusal::Overloaded];
    let read = async {
        nodes[1].arrived.recv().await.unwrap();
        nodes[1].part().silent = true;
    };
    while nodes[1].arrived.try_recv().is_ok() {}
    let (error, ()) = patiently(zip(reading.get("k"), read));
    let error = error.unwrap_err();
    assert!(
        matches!(error, ClientError::StillRefused { .. }),
        "it did answer: {error:?}"
    );
}

/// Who waits in vain for another write to open the session is told why there is none, and not that there are
/// too many writes.
#[test]
fn waiting_for_a_session_fails_as_opening_one_does() {
    let (stage, nodes) = Stage::three();
    let client = stage.hurried(&nodes, &nodes, Duration::from_millis(300));
    let opening = patiently(client.shared.sessions.begin_opening());
    let error = patiently(client.put("k", "v")).unwrap_err();
    assert!(matches!(error, ClientError::NoLeader { .. }), "{error:?}");
    patiently(client.get("k")).unwrap();
    let error = patiently(client.put("k", "v")).unwrap_err();
    assert!(
        matches!(error, ClientError::TimedOut { node: it, .. } if it == node(1)),
        "{error:?}"
    );
    drop(opening);
    patiently(client.put("k", "v")).unwrap();
}

/// A refusal for good is reported at once, with what would be needed.
#[test]
fn a_refusal_for_good_is_final() {
    let (stage, nodes) = Stage::three();
    let client = stage.client(&nodes, PATIENCE);
    nodes[0].part().refusals = vec![Refusal::NotAllowed {
        needs: Needs::Admin,
        has: quorate_certs::Role::Client,
    }];
    let refused = patiently(client.transfer_leader(None)).unwrap_err();
    assert!(
        refused.to_string().contains("admin's certificate"),
        "{refused}"
    );
    // What breaks a limit is not even sent.
    let invalid = patiently(client.put("", "v")).unwrap_err();
    assert!(matches!(invalid, ClientError::Invalid(_)), "{invalid:?}");
    assert_eq!(nodes[0].part().writes, 0);
}

/// A leader from which nobody took over is named, and not accused of lacking a majority.
#[test]
fn a_transfer_that_nobody_took() {
    let (stage, nodes) = Stage::three();
    let client = stage.client(&nodes, PATIENCE);
    nodes[0].part().refusals = vec![Refusal::TimedOut];
    let error = patiently(client.transfer_leader(Some(node(2)))).unwrap_err();
    assert!(
        matches!(error, ClientError::NobodyTookOver { node: from } if from == node(1)),
        "{error:?}"
    );
    assert!(error.to_string().contains("it may lead on"), "{error}");
}

/// A node that is asked itself and refuses until the time is up is not called unreachable.
#[test]
fn a_node_that_goes_on_refusing_is_quoted() {
    let (stage, nodes) = Stage::three();
    let client = stage.hurried(&nodes, &nodes, Duration::from_millis(300));
    nodes[1].part().refusals = vec![Refusal::TimedOut; 10_000];
    let error = patiently(client.reading_at(node(2)).get("k")).unwrap_err();
    let ClientError::StillRefused {
        node: by, refusal, ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!((by, refusal), (node(2), Refusal::TimedOut));
}

/// Closing, or dropping the last clone, ends the connections; operations after it fail at once.
#[test]
fn closing_ends_everything() {
    let (stage, nodes) = Stage::three();
    let (closed, dropped) = (
        stage.client(&nodes, PATIENCE),
        stage.client(&nodes, PATIENCE),
    );
    patiently(zip(closed.get("k"), dropped.get("k"))).0.unwrap();
    let clone = closed.clone();
    patiently(closed.close());
    clone.set_addresses(node(9), Vec::new()).unwrap();
    clone.forget(node(1));
    assert!(patiently(clone.get("k")).is_err());
    drop(dropped);
    patiently(async {
        while nodes
            .iter()
            .any(|node| node.transport.client_connections() > 0)
        {
            async_io::Timer::after(Duration::from_millis(5)).await;
        }
    });
}

/// Endpoints and credentials that cannot be meant are refused before anything is bound.
#[test]
fn endpoints_are_checked() {
    let stage = Stage::new();
    let issued = stage
        .ca
        .issue(&Subject::client("test").unwrap(), &IssueOptions::default());
    let credentials = issued.unwrap().credentials().unwrap();
    let connect = |endpoints| {
        let config = ClientConfig::new(endpoints, credentials.clone());
        Client::connect(config, stage.io.runtime()).map(drop)
    };
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    assert!(matches!(connect(vec![]), Err(ConnectError::NoEndpoint)));
    assert!(connect(vec![(node(1), at(1)), (node(1), at(2))]).is_ok());
    let many = connect((1..=32).map(|id| (node(id), at(1))).collect());
    assert!(matches!(many, Err(ConnectError::TooManyEndpoints { .. })));
    let issued = stage
        .ca
        .issue(&Subject::node(1).unwrap(), &IssueOptions::default());
    let config = ClientConfig::new(
        vec![(node(2), at(1))],
        issued.unwrap().credentials().unwrap(),
    );
    let as_a_node = Client::connect(config, stage.io.runtime()).map(drop);
    assert!(matches!(
        as_a_node,
        Err(ConnectError::NodeCredentials { .. })
    ));
}

/// An address that is said later may be of either family.
#[test]
fn a_client_that_knows_no_address_yet_is_open_for_both_families() {
    let stage = Stage::new();
    let has_ipv6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    let issued = stage
        .ca
        .issue(&Subject::client("test").unwrap(), &IssueOptions::default());
    let credentials = issued.unwrap().credentials().unwrap();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    for (addresses, is_ipv6) in [(vec![], has_ipv6), (vec![at], false)] {
        let mut config = ClientConfig::new(vec![(node(2), at)], credentials.clone());
        config.endpoints.insert(node(1), addresses);
        let client = Client::connect(config, stage.io.runtime()).unwrap();
        assert_eq!(client.shared.transport.local_addr().is_ipv6(), is_ipv6);
    }
}
