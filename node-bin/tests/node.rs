//! A node as an embedder meets it: what it refuses to start with, and how it ends.
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::{self, block_on};
use quorate::certs::{Ca, CaOptions, ClusterName, IssueOptions, Subject};
use quorate::consensus::{Entry, Event, INBOX_BYTES_MAX, LogIndex, LogStore, LogWrite, StoreError};
use quorate::kv::{Client, ClientConfig, ClientError};
use quorate::transport::runtime::IoThread;
use quorate::transport::{IncomingCall, Message, PeerState, PeerStatus};
use quorate::{
    Batch, CommandError, Credentials, EntryId, Fatal, LeaderChange, Node, NodeConfig, NodeHandle,
    NodeId, ORIGIN, ProposeError, Service, StartError, StateMachine, StateMachineError,
};
use serde::{Deserialize, Serialize};

/// Far above anything expected: reached only by a fault.
const PATIENCE: Duration = Duration::from_secs(20);

fn ca() -> Ca {
    let name = ClusterName::new("test").unwrap();
    Ca::generate(&name, &CaOptions::default()).unwrap()
}

fn issued(ca: &Ca, subject: &Subject) -> Credentials {
    let issued = ca.issue(subject, &IssueOptions::default()).unwrap();
    issued.credentials().unwrap()
}

fn credentials(node: u64) -> Credentials {
    issued(&ca(), &Subject::node(node).unwrap())
}

fn config(directory: &Path, peers: &[u64]) -> NodeConfig {
    let mut config = NodeConfig::new("127.0.0.1:0".parse().unwrap(), directory.join("data"));
    // Nobody listens there; these nodes only have to be known.
    let nowhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
    config.peers = peers
        .iter()
        .map(|peer| (NodeId::new(*peer).unwrap(), vec![nowhere]))
        .collect();
    config
}

/// Counts commands, in memory.
struct Count(u64);

impl StateMachine for Count {
    fn applied(&self) -> EntryId {
        ORIGIN
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
        let count = |_| {
            self.0 += 1;
            self.0.to_string().into()
        };
        Ok(batch.commands.iter().map(count).collect())
    }

    fn query(&mut self, _query: &[u8]) -> Result<Bytes, StateMachineError> {
        Ok(self.0.to_string().into())
    }
}

/// A state machine in memory is rebuilt from the log, on the same files.
#[test]
fn a_state_machine_in_memory_comes_back_from_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let credentials = credentials(1);
    for life in 1..=3_u64 {
        let builder = Node::builder(config(directory.path(), &[]), credentials.clone());
        let node = builder.start(Count(0)).unwrap();
        let counted = block_on(async {
            loop {
                match node.propose("one".into()).await {
                    Err(CommandError::Propose(ProposeError::NotLeader { .. })) => {}
                    outcome => break outcome.unwrap(),
                }
            }
        });
        assert_eq!(counted, life.to_string());
        assert_eq!(
            block_on(node.query(Bytes::new())).unwrap(),
            life.to_string()
        );
        block_on(node.shutdown(Duration::from_secs(1))).unwrap();
    }
}

/// Two nodes that disagree about the members could both lead: other members than the recorded ones are
/// refused, more as well as fewer.
#[test]
fn e9_other_members_than_the_recorded_ones_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let credentials = credentials(1);
    let start = |peers: &[u64]| {
        Node::builder(config(directory.path(), peers), credentials.clone()).start(Count(0))
    };
    drop(start(&[2, 3]).unwrap());
    for peers in [&[][..], &[2], &[2, 3, 4], &[2, 4]] {
        let error = start(peers).expect_err("other members");
        assert!(matches!(error, StartError::OtherMembers { .. }), "{error}");
        assert!(error.to_string().contains("nodes 1, 2, 3"), "{error}");
    }
    drop(start(&[1, 2, 3]).unwrap());
}

/// Whoever forgot `--join` and repeats the start with it hears that the folder is in the way, and not that all is well;
/// without it, the node is at home there.
#[test]
fn e9_a_node_that_was_founded_joins_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let credentials = credentials(4);
    let start = |join| {
        let mut config = config(directory.path(), &[1, 2, 3]);
        config.join = join;
        Node::builder(config, credentials.clone()).start(Count(0))
    };
    drop(start(false).unwrap());
    let error = start(true).expect_err("it was founded");
    assert!(matches!(error, StartError::NotJoining { .. }), "{error}");
    for said in ["founded with nodes 1, 2, 3, 4", "empty data folder"] {
        assert!(error.to_string().contains(said), "{error}");
    }
    drop(start(false).unwrap());
}

/// A port in use is noticed before any file is made, so that the mended start is a first start.
#[test]
fn a_port_in_use_leaves_no_files_behind() {
    let directory = tempfile::tempdir().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config = config(directory.path(), &[]);
    config.listen = socket.local_addr().unwrap();
    let error = Node::builder(config, credentials(1))
        .start_kv()
        .expect_err("the port is in use");
    assert!(matches!(error, StartError::Bind(_)), "{error}");
    assert!(!directory.path().join("data").exists());
}

/// A client's certificate starts no node.
#[test]
fn only_a_node_starts_a_node() {
    let directory = tempfile::tempdir().unwrap();
    let name = ClusterName::new("test").unwrap();
    let ca = Ca::generate(&name, &CaOptions::default()).unwrap();
    let client = ca
        .issue(&Subject::client("c").unwrap(), &IssueOptions::default())
        .unwrap();
    let builder = Node::builder(config(directory.path(), &[]), client.credentials().unwrap());
    let error = builder.start(Count(0)).expect_err("a client's certificate");
    assert!(
        error.to_string().contains("quorate certs issue --node"),
        "{error}"
    );
}

/// A service that panics takes the node down, loudly: one that no longer hears anybody is no node.
#[test]
fn a_service_that_panics_stops_the_node() {
    struct Panics;
    impl Service for Panics {
        fn call(&mut self, _node: &NodeHandle, _call: IncomingCall) {}
        fn leader_changed(&mut self, _node: &NodeHandle, _change: &LeaderChange) {
            panic!("meant to be seen");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let builder = Node::builder(config(directory.path(), &[]), credentials(1)).service(Panics);
    let node = builder.start(Count(0)).unwrap();
    let fatal = block_on(node.stopped()).expect_err("it panicked");
    assert!(
        matches!(*fatal, Fatal::WorkerGone { worker: "service" }),
        "{fatal}"
    );
}

/// A command on its way to who leads.
#[derive(Serialize, Deserialize)]
struct Forwarded(String);

impl Message for Forwarded {
    const KIND: u16 = 1;
}

/// What came of it there, unless nothing did.
#[derive(Serialize, Deserialize)]
struct Done(Option<Bytes>);

impl Message for Done {
    const KIND: u16 = 2;
}

/// Proposes what other nodes forward.
struct Proposes;

impl Service for Proposes {
    fn call(&mut self, node: &NodeHandle, call: IncomingCall) {
        let Forwarded(command) = call.decode().unwrap();
        let reply = call.reply;
        node.raft().propose_then(command.into(), move |outcome| {
            reply.send(&Done(outcome.ok()));
        });
    }
}

/// A node that follows calls the leader, whose service proposes. Who is not known is not called.
#[test]
fn a_command_is_forwarded_to_the_leader() {
    let (directory, ca) = (tempfile::tempdir().unwrap(), ca());
    let nodes = [1, 2].map(|number| {
        let folder = directory.path().join(number.to_string());
        let credentials = issued(&ca, &Subject::node(number).unwrap());
        let builder = Node::builder(config(&folder, &[3 - number]), credentials);
        builder.service(Proposes).start(Count(0)).unwrap()
    });
    let [one, two] = &nodes;
    one.set_addresses(two.id(), vec![two.local_addr()]);
    two.set_addresses(one.id(), vec![one.local_addr()]);
    let mut events = one.events();
    block_on(async {
        let (follower, count) = loop {
            let Some(leader) = one.leader().leader else {
                events.next().await.expect("somebody leads");
                continue;
            };
            let follower = if leader == one.id() { two } else { one };
            let peer = follower.peer(leader).expect("it is known");
            let call = peer.call(Forwarded("one".into()), PATIENCE);
            if let Ok(Done(Some(count))) = call.await {
                break (follower, count);
            }
        };
        assert_eq!(follower.query(Bytes::new()).await.unwrap(), count);
        let connected = follower.peers();
        let is_up = |peer: &PeerStatus| matches!(peer.state, PeerState::Connected { .. });
        assert!(
            connected.len() == 1 && is_up(&connected[0]),
            "{connected:?}"
        );
    });
    assert!(one.peer(one.id()).is_none(), "it does not call itself");
    assert!(one.peer(NodeId::new(3).unwrap()).is_none());
}

/// Panics when it is told to.
struct Touchy;

impl StateMachine for Touchy {
    fn applied(&self) -> EntryId {
        ORIGIN
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
        let told = batch.commands.iter().any(|it| it.data == "panic");
        assert!(!told, "meant to be seen");
        Ok(vec![Bytes::new(); batch.commands.len()])
    }

    fn query(&mut self, _query: &[u8]) -> Result<Bytes, StateMachineError> {
        panic!("meant to be seen");
    }
}

/// A panic of the state machine, or of what the driver calls, stops the node, which names the part; who waits for its
/// events or its end does not wait for ever.
#[test]
fn a_panic_of_any_part_stops_the_node() {
    type Provoke = fn(&Node);
    let applies: Provoke = |node| node.raft().propose_then("panic".into(), |_| {});
    let reads: Provoke = |node| node.raft().query_then("panic".into(), |_| {});
    let drives: Provoke = |node| {
        let refused = vec![0; INBOX_BYTES_MAX as usize].into();
        node.raft().propose_then(refused, |outcome| {
            panic!("meant to be seen: {outcome:?}");
        });
    };
    for (part, provoke) in [("applier", applies), ("applier", reads), ("driver", drives)] {
        let directory = tempfile::tempdir().unwrap();
        let builder = Node::builder(config(directory.path(), &[]), credentials(1));
        let node = builder.start(Touchy).unwrap();
        let mut events = node.events();
        block_on(async {
            while node.propose("one".into()).await.is_err() {}
            provoke(&node);
            let fatal = node.stopped().await.expect_err("it panicked");
            let named = matches!(*fatal, Fatal::WorkerGone { worker } if worker == part);
            assert!(named, "{part}: {fatal}");
            let late = node.propose("late".into()).await;
            assert_eq!(late, Err(ProposeError::Stopped.into()));
            let end = async { while events.next().await.is_some() {} };
            let late = async {
                async_io::Timer::after(PATIENCE).await;
                panic!("{part}: who waits for an event is not told of the end");
            };
            future::or(end, late).await;
        });
    }
}

/// A node that led when it stopped claims nothing of the kind to clients, who are told that it has stopped.
#[test]
fn a_node_that_has_stopped_does_not_lead() {
    let (directory, ca) = (tempfile::tempdir().unwrap(), ca());
    let builder = Node::builder(
        config(directory.path(), &[]),
        issued(&ca, &Subject::node(1).unwrap()),
    );
    let node = builder.start_kv().unwrap();
    let io = IoThread::spawn("clients").unwrap();
    let client = || {
        let mut config = ClientConfig::new(
            vec![(node.id(), node.local_addr())],
            issued(&ca, &Subject::client("test").unwrap()),
        );
        config.request_timeout = Duration::from_secs(1);
        Client::connect(config, io.runtime()).unwrap()
    };
    while block_on(client().put("k", "v")).is_err() {}
    let refused = vec![0; INBOX_BYTES_MAX as usize].into();
    node.raft()
        .propose_then(refused, |outcome| panic!("meant to be seen: {outcome:?}"));
    block_on(node.stopped()).expect_err("it panicked");
    let error = block_on(client().get("k")).unwrap_err();
    let ClientError::NoLeader { tried, .. } = &error else {
        panic!("it leads: {error:?}");
    };
    let said: Vec<&str> = tried.iter().map(|tried| tried.why.as_str()).collect();
    assert_eq!(said, ["it is stopping"]);
}

/// The log of a node, on a disk that can be made to hang.
struct Hanging {
    log: Box<dyn LogStore>,
    hangs: Arc<AtomicBool>,
}

impl LogStore for Hanging {
    fn append(&mut self, batch: &[LogWrite]) -> Result<(), StoreError> {
        while self.hangs.load(Ordering::Relaxed) {
            thread::park();
        }
        self.log.append(batch)
    }

    fn read(&self, first: LogIndex, last: LogIndex, max: u64) -> Result<Vec<Entry>, StoreError> {
        self.log.read(first, last, max)
    }
}

/// A node whose disk never answers stops itself, and its end does not wait for the disk either.
#[test]
fn b16_a_node_whose_disk_hangs_ends() {
    let directory = tempfile::tempdir().unwrap();
    let hangs = Arc::new(AtomicBool::new(false));
    let mut config = config(directory.path(), &[]);
    config.raft.disk_hang_timeout = Duration::from_secs(2);
    let disk = Arc::clone(&hangs);
    let builder = Node::builder(config, credentials(1));
    let builder = builder.around_log(move |_, _, log| Box::new(Hanging { log, hangs: disk }));
    let node = builder.start(Count(0)).unwrap();
    block_on(async {
        while node.propose("one".into()).await.is_err() {}
        hangs.store(true, Ordering::Relaxed);
        let lost = node.propose("two".into()).await;
        let unknown = matches!(
            lost,
            Err(CommandError::Propose(ProposeError::OutcomeUnknown { .. }))
        );
        assert!(unknown, "{lost:?}");
        let fatal = node.stopped().await.expect_err("it stops by itself");
        assert!(matches!(*fatal, Fatal::DiskHangs { .. }), "{fatal}");
        let end = node.shutdown(Duration::from_secs(1)).await;
        assert!(end.is_err(), "the threads are not waited for");
    });
}

/// What `future` gives, which may not take for ever.
fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let late = async {
        async_io::Timer::after(PATIENCE).await;
        panic!("waited {PATIENCE:?} for {what}");
    };
    block_on(future::or(future, late))
}

/// Remembers its commands, and takes no batch while somebody holds the lock.
struct Held(Vec<Bytes>, Arc<Mutex<()>>);

impl StateMachine for Held {
    fn applied(&self) -> EntryId {
        ORIGIN
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, StateMachineError> {
        let _may = self.1.lock();
        let commands = batch.commands.iter().map(|command| command.data.clone());
        self.0.extend(commands);
        Ok(vec![Bytes::new(); batch.commands.len()])
    }

    fn query(&mut self, _query: &[u8]) -> Result<Bytes, StateMachineError> {
        Ok(self.0.join(&b' ').into())
    }
}

/// Three nodes, and what holds their state machines.
fn three_held(
    directory: &Path,
    configure: impl Fn(&mut NodeConfig),
) -> Vec<(Node, Arc<Mutex<()>>)> {
    let ca = ca();
    let mut nodes: Vec<(Node, Arc<Mutex<()>>)> = Vec::new();
    for number in 1..=3 {
        let mut config = config(&directory.join(number.to_string()), &[1, 2, 3]);
        configure(&mut config);
        let credentials = issued(&ca, &Subject::node(number).unwrap());
        let lock = Arc::new(Mutex::new(()));
        let held = Held(Vec::new(), Arc::clone(&lock));
        let node = Node::builder(config, credentials).start(held).unwrap();
        for (other, _) in &nodes {
            other.set_addresses(node.id(), vec![node.local_addr()]);
            node.set_addresses(other.id(), vec![other.local_addr()]);
        }
        nodes.push((node, lock));
    }
    nodes
}

/// Has one of `nodes` take `command`, and returns which.
fn propose_at_one<'a>(nodes: &[&'a Node], command: &'static str) -> &'a Node {
    in_time(command, async {
        loop {
            for node in nodes {
                match node.propose(command.into()).await {
                    Ok(_) => return *node,
                    Err(CommandError::Propose(
                        ProposeError::NotLeader { .. } | ProposeError::OutcomeUnknown { .. },
                    )) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            async_io::Timer::after(Duration::from_millis(5)).await;
        }
    })
}

/// What `node` has taken, which is all that was answered before.
fn read(node: &Node) -> Bytes {
    in_time("a read", async {
        loop {
            if let Ok(taken) = node.query(Bytes::new()).await {
                return taken;
            }
            async_io::Timer::after(Duration::from_millis(5)).await;
        }
    })
}

/// A leader whose state machine blocks: whoever waits for a command is told that its outcome is unknown, the node says
/// so, another one leads and takes commands while it lasts, and afterwards the node has what the others have.
#[test]
fn b19_others_go_on_while_a_state_machine_hangs() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let directory = tempfile::tempdir().unwrap();
    let nodes = three_held(directory.path(), |config| {
        config.raft.apply_stall_timeout = TIMEOUT;
    });
    let all: Vec<&Node> = nodes.iter().map(|(node, _)| node).collect();
    let hangs_in = |_| {
        let leader = propose_at_one(&all, "before");
        let (node, lock) = nodes.iter().find(|it| it.0.id() == leader.id()).unwrap();
        let events = node.events();
        let hang = lock.lock().unwrap();
        match in_time("an outcome", node.propose("during".into())) {
            // It has lost leadership meanwhile, as may happen on a busy machine.
            Err(CommandError::Propose(ProposeError::NotLeader { .. })) => None,
            outcome => Some((node, events, hang, outcome)),
        }
    };
    let (hung, mut events, hang, outcome) = (1..=5).find_map(hangs_in).expect("a leader");
    let Err(CommandError::Propose(ProposeError::OutcomeUnknown { at: Some(at) })) = outcome else {
        panic!("{outcome:?}");
    };
    let mut next = async |is: fn(&Event) -> bool| loop {
        let event = events.next().await.expect("it runs");
        if is(&event) {
            return event;
        }
    };
    let stalled = |event: &Event| matches!(event, Event::StateMachineStalled { .. });
    let said = in_time("the event", next(stalled));
    assert_eq!(said, Event::StateMachineStalled { waited: TIMEOUT });

    let others: Vec<&Node> = all
        .iter()
        .copied()
        .filter(|it| it.id() != hung.id())
        .collect();
    for _ in 0..10 {
        propose_at_one(&others, "meanwhile");
    }
    let status = in_time("a status", hung.status()).unwrap();
    assert!(status.state_machine_stalled >= Some(TIMEOUT));
    assert!(status.applied < at.index, "its state machine still hangs");

    drop(hang);
    let back = |event: &Event| matches!(event, Event::StateMachineAnswers { .. });
    in_time("it to say that it is back", next(back));
    let taken = read(hung);
    assert_eq!(taken, read(others[0]));
    let words = taken.split(|it| *it == b' ');
    assert!(words.filter(|it| *it == b"meanwhile").count() >= 10);
    let status = in_time("a status", hung.status()).unwrap();
    assert_eq!(status.state_machine_stalled, None);
}

/// It can be stopped all the same, and says why it did not wait.
#[test]
fn b19_a_node_whose_state_machine_hangs_can_be_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path(), &[]);
    config.raft.apply_stall_timeout = Duration::from_secs(1);
    let lock = Arc::new(Mutex::new(()));
    let held = Held(Vec::new(), Arc::clone(&lock));
    let node = Node::builder(config, credentials(1)).start(held).unwrap();
    propose_at_one(&[&node], "before");
    let hang = lock.lock().unwrap();
    let unknown = in_time("an outcome", node.propose("during".into()));
    assert!(matches!(
        unknown,
        Err(CommandError::Propose(ProposeError::OutcomeUnknown { .. }))
    ));
    let stopped = in_time("its end", node.shutdown(Duration::from_millis(100)));
    let fatal = stopped.expect_err("it says so");
    assert!(matches!(*fatal, Fatal::StateMachineHangs { .. }), "{fatal}");
    drop(hang);
}

/// Proposals that a stop overtakes are told what is true: most of them that nothing happened.
#[test]
fn k8_a_stop_answers_every_proposal() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::builder(config(directory.path(), &[]), credentials(1))
        .start(Count(0))
        .unwrap();
    while block_on(node.propose("first".into())).is_err() {}
    let handle = node.handle();
    let (answered, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut proposed = 0;
    let mut propose_until = |enough: &dyn Fn(u64) -> bool| {
        while !enough(proposed) {
            proposed += 1;
            let (answered, refused) = (Arc::clone(&answered), Arc::clone(&refused));
            handle.raft().propose_then("x".into(), move |outcome| {
                answered.fetch_add(1, Ordering::Relaxed);
                let nothing_happened = matches!(outcome, Err(ProposeError::Stopped));
                refused.fetch_add(u64::from(nothing_happened), Ordering::Relaxed);
            });
        }
    };
    propose_until(&|proposed| proposed == 1000);
    let stop = thread::spawn(move || block_on(node.shutdown(Duration::from_secs(1))));
    // They overtake the stop, come with it, and come too late.
    propose_until(&|_| refused.load(Ordering::Relaxed) >= 1000);
    stop.join().unwrap().unwrap();
    let answered = answered.load(Ordering::Relaxed);
    assert_eq!(answered, proposed, "everyone has exactly one answer");
}

/// A node that is dropped leaves its port to others, though somebody still has a handle, which says that it has
/// stopped.
#[test]
fn a_dropped_node_frees_its_port() {
    let directory = tempfile::tempdir().unwrap();
    let builder = Node::builder(config(directory.path(), &[]), credentials(1));
    let node = builder.start(Count(0)).unwrap();
    let (handle, port) = (node.handle(), node.local_addr());
    UdpSocket::bind(port).expect_err("it is the node's");
    drop(node);
    UdpSocket::bind(port).unwrap();
    let refused = block_on(handle.propose("late".into()));
    assert_eq!(refused, Err(ProposeError::Stopped.into()));
}

/// Whoever learns something on a thread of the node may drop the node there: no thread waits for itself.
#[test]
fn a_node_may_be_dropped_on_its_own_threads() {
    for on_io in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let builder = Node::builder(config(directory.path(), &[]), credentials(1));
        let node = builder.start(Count(0)).unwrap();
        while block_on(node.propose("first".into())).is_err() {}
        let (handle, raft) = (node.handle(), node.raft().clone());
        let (told, dropped) = mpsc::channel();
        let end = move || {
            let name = thread::current().name().unwrap_or_default().to_owned();
            drop(node);
            told.send(name).unwrap();
        };
        match on_io {
            true => handle.spawn(async move { end() }),
            false => raft.propose_then("last".into(), move |_| end()),
        }
        let name = dropped.recv_timeout(PATIENCE).expect("it does not wait");
        let expected = if on_io {
            "quorate-io-n1"
        } else {
            "quorate-state-n1"
        };
        assert_eq!(name, expected);
        assert!(block_on(handle.status()).is_err());
    }
}

/// What a crash has left half made goes at the next start, and nothing else does.
#[test]
fn drafts_are_removed_at_a_start() {
    let directory = tempfile::tempdir().unwrap();
    let start = || {
        let builder = Node::builder(config(directory.path(), &[]), credentials(1));
        builder.start(Count(0)).unwrap()
    };
    drop(start());
    let data = directory.path().join("data");
    let draft = |name: &str| data.join(format!("{name}.creating-0123"));
    for name in ["kv.redb", "kv.redb.received", "peers"] {
        std::fs::write(draft(name), "half").unwrap();
    }
    std::fs::write(data.join("notes"), "an operator's").unwrap();
    drop(start());
    for name in ["kv.redb", "kv.redb.received", "peers"] {
        assert!(!draft(name).exists(), "{name}");
    }
    assert!(data.join("notes").exists());
}
