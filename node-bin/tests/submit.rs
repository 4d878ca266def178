//! Commands that any member is given: who does not lead sends them on, and what was sent twice is applied once.
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::future::{block_on, poll_once};
use quorate::certs::{Ca, CaOptions, ClusterName, IssueOptions, Subject};
use quorate::saved::State;
use quorate::transport::runtime::IoThread;
use quorate::transport::{CallError, Config, Message, Refusal, Transport};
use quorate::{
    Command, CommandError, Credentials, LogIndex, Node, NodeBuilder, NodeConfig, NodeHandle,
    NodeId, Obstacle, ProposeError, ReadError, Role, StartError, SubmitError,
};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// Far above anything expected: reached only by a fault.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where whoever applies may be held up.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn set(&self, closed: bool) {
        *self.0.0.lock().unwrap() = closed;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let closed = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(closed, |closed| *closed).unwrap());
    }
}

/// How often each command was applied.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Counts {
    counts: BTreeMap<Vec<u8>, u64>,
    #[serde(skip)]
    gate: Gate,
}

impl State for Counts {
    const COMPARED: bool = true;

    fn apply(&mut self, command: &Command) -> Bytes {
        self.gate.pass();
        let count = self.counts.entry(command.data.to_vec()).or_default();
        *count += 1;
        count.to_string().into()
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        postcard::to_stdvec(&self.counts).unwrap().into()
    }
}

fn id(node: u64) -> NodeId {
    NodeId::new(node).unwrap()
}

/// Nodes on ports that the system chooses.
struct Cluster {
    ca: Ca,
    directory: TempDir,
    nodes: BTreeMap<u64, Node>,
    gates: BTreeMap<u64, Gate>,
}

type Start = fn(NodeBuilder, Counts) -> Result<Node, StartError>;

impl Cluster {
    fn start(size: u64, start: Start) -> Self {
        let all: Vec<u64> = (1..=size).collect();
        Self::start_some(size, &all, start)
    }

    /// Of `size` members, only some.
    fn start_some(size: u64, nodes: &[u64], start: Start) -> Self {
        let name = ClusterName::new("test").unwrap();
        let mut cluster = Self {
            ca: Ca::generate(&name, &CaOptions::default()).unwrap(),
            directory: TempDir::new().unwrap(),
            nodes: BTreeMap::new(),
            gates: (1..=size).map(|node| (node, Gate::default())).collect(),
        };
        for &node in nodes {
            cluster.start_node(node, start);
        }
        cluster
    }

    fn credentials(&self, subject: &Subject) -> Credentials {
        let issued = self.ca.issue(subject, &IssueOptions::default()).unwrap();
        issued.credentials().unwrap()
    }

    fn start_node(&mut self, node: u64, start: Start) {
        let data = self.directory.path().join(node.to_string());
        let mut config = NodeConfig::new("127.0.0.1:0".parse().unwrap(), data);
        let members = self.gates.keys().map(|peer| (id(*peer), Vec::new()));
        config.peers = members.collect();
        let credentials = self.credentials(&Subject::node(node).unwrap());
        let empty = Counts {
            gate: self.gates[&node].clone(),
            ..Counts::default()
        };
        let started = start(Node::builder(config, credentials), empty).unwrap();
        for other in self.nodes.values() {
            other.set_addresses(id(node), vec![started.local_addr()]);
            started.set_addresses(other.id(), vec![other.local_addr()]);
        }
        self.nodes.insert(node, started);
    }

    /// Who leads, once somebody does, as itself says.
    fn leader(&self) -> u64 {
        let begun = Instant::now();
        loop {
            let leads = |node: &&Node| node.leader().role == Role::Leader;
            if let Some(node) = self.nodes.values().find(leads) {
                return node.id().value();
            }
            assert!(begun.elapsed() < PATIENCE, "nobody leads");
            thread::yield_now();
        }
    }

    fn follower(&self) -> &Node {
        let leader = self.leader();
        self.nodes
            .values()
            .find(|node| node.id().value() != leader)
            .unwrap()
    }

    /// How often each command was applied, as every node has it.
    fn counts(&self) -> BTreeMap<Vec<u8>, u64> {
        let counts = |node: &Node| {
            let answer = block_on(node.query_within(Bytes::new(), PATIENCE)).unwrap();
            postcard::from_bytes::<BTreeMap<Vec<u8>, u64>>(&answer).unwrap()
        };
        let mut all: Vec<_> = self.nodes.values().map(counts).collect();
        let first = all.swap_remove(0);
        assert!(all.iter().all(|other| *other == first));
        first
    }
}

fn submit(node: &NodeHandle, command: &str) -> Result<Bytes, SubmitError> {
    block_on(node.submit(Bytes::copy_from_slice(command.as_bytes()), PATIENCE))
}

const PLAIN: Start = |builder, empty| builder.start_saved(empty);
const ONCE: Start = |builder, empty| builder.start_saved_once(empty);

/// Every member takes commands, before there is a leader as well; what makes no command is refused wherever it is given,
/// and a node that has stopped says so.
#[test]
fn every_member_takes_commands() {
    for start in [PLAIN, ONCE] {
        let mut cluster = Cluster::start(3, start);
        for (node, count) in cluster.nodes.values().zip(1..) {
            assert_eq!(submit(node, "a").unwrap(), count.to_string());
        }
        let leader = cluster.leader();
        let proposed = block_on(cluster.nodes[&leader].propose("a".into()));
        assert_eq!(proposed.unwrap(), "4");
        for node in cluster.nodes.values() {
            let empty = block_on(node.submit(Bytes::new(), PATIENCE));
            let refused = |error| SubmitError::Refused(CommandError::Propose(error));
            assert_eq!(empty, Err(refused(ProposeError::Empty)));
            let large = block_on(node.submit(vec![0; 3 << 20].into(), PATIENCE));
            let is_large = matches!(
                large,
                Err(SubmitError::Refused(CommandError::Propose(
                    ProposeError::TooLarge { .. }
                )))
            );
            assert!(is_large, "{large:?}");
        }
        assert_eq!(cluster.counts(), BTreeMap::from([(b"a".to_vec(), 4)]));
        let handle = cluster.follower().handle();
        let stopped = cluster.nodes.remove(&handle.id().value()).unwrap();
        block_on(stopped.shutdown(Duration::from_secs(1))).unwrap();
        let refused = SubmitError::Refused(ProposeError::Stopped.into());
        assert_eq!(submit(&handle, "a"), Err(refused));
    }
}

/// Who finds nobody that leads waits as long as it was told, and says that nothing happened.
#[test]
fn without_a_leader_nothing_happens() {
    let mut cluster = Cluster::start(3, ONCE);
    cluster.leader();
    let last = cluster.follower().id().value();
    cluster.nodes.retain(|node, _| *node == last);
    let within = Duration::from_secs(2);
    let begun = Instant::now();
    let lone = &cluster.nodes[&last];
    while lone.leader().leader.is_some() {
        assert!(begun.elapsed() < PATIENCE, "nobody leads it");
        thread::yield_now();
    }
    let begun = Instant::now();
    let outcome = block_on(lone.submit("a".into(), within)).unwrap_err();
    assert!(begun.elapsed() >= within);
    assert!(outcome.nothing_happened(), "{outcome}");
    let why = Obstacle::NoLeader;
    assert_eq!(outcome, SubmitError::NotTaken { within, why });
    let begun = Instant::now();
    let unread = block_on(lone.query_within(Bytes::new(), within));
    assert_eq!(unread, Err(ReadError::NotLeader { leader: None }));
    assert!(begun.elapsed() >= within);
    let no_time = block_on(lone.submit("a".into(), Duration::ZERO));
    let (within, why) = (Duration::ZERO, Obstacle::NoTime);
    assert_eq!(no_time, Err(SubmitError::NotTaken { within, why }));
}

/// A leader that was given a command and does not answer leaves its outcome unknown. Where commands are numbered, the
/// next leader is given it as well, and it is applied once although it is in the log twice.
#[test]
fn h1_h3_a_command_that_was_given_to_two_leaders() {
    for (start, numbered) in [(PLAIN, false), (ONCE, true)] {
        let cluster = Cluster::start(3, start);
        let follower = cluster.follower();
        assert_eq!(submit(follower, "before").unwrap(), "1");
        let former = cluster.leader();
        let next = cluster
            .nodes
            .keys()
            .find(|node| **node != former && **node != follower.id().value());
        let next = id(*next.unwrap());
        let status = |node: &NodeHandle| block_on(node.status()).unwrap();
        let before = status(&cluster.nodes[&former]).last.index;
        // It replicates the command and cannot say what came of it.
        cluster.gates[&former].set(true);
        let given = follower.submit("a".into(), Duration::from_secs(3));
        let mut given = std::pin::pin!(given);
        assert!(block_on(poll_once(given.as_mut())).is_none());
        let begun = Instant::now();
        while status(follower).commit <= before {
            assert!(begun.elapsed() < PATIENCE, "it is not committed");
        }
        let transferred = block_on(cluster.nodes[&former].transfer_leader(Some(next)));
        assert_eq!(transferred.unwrap(), next);
        let outcome = block_on(given);
        cluster.gates[&former].set(false);
        match numbered {
            true => assert_eq!(outcome.unwrap(), "1"),
            false => {
                let by = id(former);
                assert_eq!(outcome, Err(SubmitError::OutcomeUnknown { by }));
            }
        }
        // The command, what a new leader writes, and, where it was repeated, the command.
        let after = status(follower).last.index;
        assert_eq!(
            after.value() - before.value(),
            2 + u64::from(numbered),
            "{before} to {after}"
        );
        let counts = [("before", 1), ("a", 1)];
        let counts = counts.map(|(command, count)| (command.as_bytes().to_vec(), count));
        assert_eq!(cluster.counts(), BTreeMap::from(counts));
    }
}

/// Nobody is there to ask what became of a command that a leader was given: that is not the same as nothing.
#[test]
fn h3_a_command_that_was_given_to_a_lost_leader_is_unknown() {
    let mut cluster = Cluster::start(3, ONCE);
    let follower = cluster.follower().handle();
    assert_eq!(submit(&follower, "before").unwrap(), "1");
    let former = cluster.leader();
    let before = block_on(cluster.nodes[&former].status()).unwrap().last;
    let gate = cluster.gates[&former].clone();
    gate.set(true);
    let mut given = std::pin::pin!(follower.submit("a".into(), Duration::from_secs(3)));
    assert!(block_on(poll_once(given.as_mut())).is_none());
    let begun = Instant::now();
    while block_on(follower.status()).unwrap().commit <= before.index {
        assert!(begun.elapsed() < PATIENCE, "it is not committed");
    }
    let own = follower.id().value();
    thread::scope(|scope| {
        let kept = cluster.nodes.remove(&own);
        // Whoever drops a node waits for what it applies.
        for node in std::mem::take(&mut cluster.nodes).into_values() {
            scope.spawn(|| drop(node));
        }
        let outcome = block_on(given);
        gate.set(false);
        let by = id(former);
        assert_eq!(outcome, Err(SubmitError::OutcomeUnknown { by }));
        drop(kept);
    });
}

/// Whatever happens to leaders, each command is applied once and answered, from every member.
#[test]
fn h1_every_command_is_applied_once_while_leaders_go() {
    const COMMANDS: u64 = 400;
    const KILLS: u64 = 3;
    let mut cluster = Cluster::start(3, ONCE);
    let survivor = cluster.follower().handle();
    let own = survivor.id().value();
    let answered = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&answered);
    let submitting = thread::spawn(move || {
        for number in 0..COMMANDS {
            let answer = submit(&survivor, &number.to_string()).unwrap();
            assert_eq!(answer, "1", "command {number}");
            counted.store(number, Ordering::Relaxed);
        }
    });
    let mut kills = 0;
    while !submitting.is_finished() {
        // Some in between, or all the time is spent on elections.
        let before = answered.load(Ordering::Relaxed);
        while !submitting.is_finished() && answered.load(Ordering::Relaxed) < before + COMMANDS / 20
        {
            thread::yield_now();
        }
        let leader = cluster.leader();
        if kills < KILLS && leader != own {
            kills += 1;
            drop(cluster.nodes.remove(&leader));
            cluster.start_node(leader, ONCE);
        } else {
            // Whether anybody takes over does not matter.
            let _ = block_on(cluster.nodes[&leader].transfer_leader(None));
        }
    }
    submitting.join().unwrap();
    assert_eq!(kills, KILLS);
    let counts = cluster.counts();
    assert_eq!(counts.len() as u64, COMMANDS);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
}

/// What only members ask of each other.
#[derive(Serialize, Deserialize)]
struct Forward(Bytes);

impl Message for Forward {
    const KIND: u16 = 0xff00;
}

/// What node 1 of `cluster`, which speaks `service`, says when somebody else calls it with these.
fn forwarded(
    cluster: &Cluster,
    service: &str,
    subject: &Subject,
    commands: &[Bytes],
) -> Vec<Refusal> {
    let io = IoThread::spawn("stranger").unwrap();
    let config = Config::new(service, "127.0.0.1:0".parse().unwrap());
    let credentials = cluster.credentials(subject);
    let (transport, _inbox) = Transport::bind(config, credentials, io.runtime()).unwrap();
    let node = &cluster.nodes[&1];
    let addresses = vec![node.local_addr()];
    transport
        .set_peer(node.identity().clone(), addresses)
        .unwrap();
    let peer = transport.peer(node.identity()).unwrap();
    let begun = Instant::now();
    let call = |command: &Bytes| loop {
        match block_on(peer.call::<_, Forward>(Forward(command.clone()), PATIENCE)) {
            Err(CallError::NotSent(_)) if begun.elapsed() < PATIENCE => {}
            Err(CallError::Remote(refusal)) => break refusal,
            outcome => panic!("{subject:?}: {:?}", outcome.map(drop)),
        }
    };
    commands.iter().map(call).collect()
}

/// Nobody but a member has a node propose past the service that checks what may be.
#[test]
fn who_is_no_member_forwards_nothing() {
    let cluster = Cluster::start(1, PLAIN);
    cluster.leader();
    let strangers = [
        Subject::client("c").unwrap(),
        Subject::admin("a").unwrap(),
        Subject::node(9).unwrap(),
    ];
    for subject in strangers {
        let refused = forwarded(&cluster, "quorate", &subject, &["a".into()]);
        assert_eq!(refused, [Refusal::UnknownKind]);
    }
    assert!(cluster.counts().is_empty());
}

/// A member proposes under its own numbers: under another one's, or without any, it would change what that one's
/// commands are taken for.
#[test]
fn a_member_has_numbers_of_its_own() {
    let member = Subject::node(2).unwrap();
    // Version, node, start, slot, number; then the command.
    let tagged = |node| Bytes::copy_from_slice(&[1, node, 9, 0, 1, b'a']);
    let cluster = Cluster::start_some(3, &[1, 3], ONCE);
    cluster.leader();
    let wrong = [tagged(1), tagged(3), "a".into()];
    let refused = forwarded(&cluster, "quorate-once", &member, &wrong);
    assert_eq!(refused, [Refusal::Malformed; 3]);
}

/// A member that numbers no commands would take those of the others for other ones, and acknowledge as the leader what they do
/// not carry out: it does not get in.
#[test]
fn members_number_commands_all_or_none() {
    let mut cluster = Cluster::start_some(3, &[1, 2], ONCE);
    cluster.start_node(3, PLAIN);
    assert_eq!(submit(&cluster.nodes[&1], "a").unwrap(), "1");
    let begun = Instant::now();
    let refused = |node: &Node| {
        let said =
            |peer: quorate::transport::PeerStatus| peer.last_error.map(|error| error.to_string());
        let mut errors = node.peers().into_iter().filter_map(said);
        errors.any(|error| error.contains("we speak quorate"))
    };
    while !refused(&cluster.nodes[&3]) {
        assert!(
            begun.elapsed() < PATIENCE,
            "{:?}",
            cluster.nodes[&3].peers()
        );
    }
    let lone = &cluster.nodes[&3];
    let status = block_on(lone.status()).unwrap();
    assert_eq!(status.applied, LogIndex::new(1), "it has heard nothing");
    assert_eq!(lone.leader().leader, None);
}

/// A leader that is overloaded until the time is up was given nothing.
#[test]
fn an_overloaded_leader_was_given_nothing() {
    // More than may wait to be applied.
    const LARGE: u8 = 12;
    let cluster = Cluster::start(3, ONCE);
    let follower = cluster.follower();
    assert_eq!(submit(follower, "before").unwrap(), "1");
    let gate = cluster.gates[&cluster.leader()].clone();
    gate.set(true);
    let refused = thread::scope(|scope| {
        for number in 0..LARGE {
            let submitted = follower.submit(vec![number; 1_000_000].into(), PATIENCE);
            scope.spawn(|| assert_eq!(block_on(submitted).unwrap(), "1"));
        }
        let mut late = 0;
        let refused = loop {
            late += 1;
            let command = Bytes::from(format!("late {late}"));
            let outcome = block_on(follower.submit(command, Duration::from_millis(500)));
            match outcome.unwrap_err() {
                // There was room for it still.
                SubmitError::OutcomeUnknown { .. } if late < 20 => {}
                refused => break (format!("late {late}"), refused),
            }
        };
        gate.set(false);
        refused
    });
    let (late, refused) = refused;
    assert!(refused.nothing_happened(), "{refused}");
    assert!(refused.to_string().contains("is overloaded"), "{refused}");
    assert!(!cluster.counts().contains_key(late.as_bytes()));
}

/// `propose` waits for no slot: who cannot lead says so although all are taken.
#[test]
fn propose_does_not_wait_for_others() {
    let mut cluster = Cluster::start(3, ONCE);
    cluster.leader();
    cluster.nodes.remove(&1);
    cluster.nodes.remove(&2);
    let lone = &cluster.nodes[&3];
    let mut held: Vec<_> = (0..quorate::once::SLOTS_MAX)
        .map(|_| Box::pin(lone.submit("a".into(), PATIENCE)))
        .collect();
    block_on(async {
        for submitted in &mut held {
            assert!(poll_once(submitted.as_mut()).await.is_none());
        }
        let busy = lone.submit("a".into(), Duration::from_millis(50)).await;
        let busy = matches!(
            busy,
            Err(SubmitError::NotTaken {
                why: Obstacle::Busy,
                ..
            })
        );
        assert!(busy);
        loop {
            match lone.propose("a".into()).await {
                Err(CommandError::Propose(ProposeError::NotLeader { .. })) => break,
                // It led when the others went.
                Err(CommandError::Propose(ProposeError::Overloaded)) => {}
                outcome => panic!("{outcome:?}"),
            }
        }
    });
}
