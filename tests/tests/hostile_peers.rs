//! Peers of a running cluster with a good certificate and bad intentions: a client that speaks as a
//! node, a member that sends garbage, a second process with a member's name, and a client without the
//! client library. Whatever they send, the cluster keeps its leader, its term and its promises.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use futures_lite::future::block_on;
use quorate::kv::{
    Client, Command, KEY_BYTES_MAX, Needs, NodeStatus, Outcome, Query, Refusal, Request, Response,
    VALUE_BYTES_MAX,
};
use quorate::{CallerRole, EntryId, LogIndex, NodeId, ORIGIN, Term};
use quorate_certs::{Credentials, Subject};
use quorate_consensus::{Body, Entry, Message};
use quorate_quic_transport::Message as _;
use quorate_quic_transport::quinn::Runtime;
use quorate_quic_transport::runtime::IoThread;
use quorate_tests::process::{Cluster, eventually};
use quorate_tests::raw::{APPEND, CALL, CONTROL, RAFT, REPLY, Raw, message};
use quorate_tests::wait::until;

/// Close codes of `docs/wire.md`, section 6.
const PROTOCOL: u64 = 8;
const TOO_LARGE: u64 = 9;

/// A term no honest cluster of a test comes near.
const FAR_TERM: Term = Term::new(1_000_000);

/// A client's or a reader's certificate opens no lane for consensus, and what it says there or on the call
/// lane is not heard; the same words from a member's certificate are.
#[test]
fn h13_j9_a_client_cannot_speak_as_a_node() {
    let scene = Scene::start(&[1, 2]);
    let before = scene.at_rest(&[1, 2]);
    for subject in [Subject::client, Subject::reader] {
        let subject = subject("tester").unwrap();
        let caller = scene.credentials(&subject);
        for number in [CONTROL, APPEND] {
            for node in [1, 2] {
                let raw = scene.connect(node, &caller);
                let mut lane = raw.lane(number);
                for words in disruptive() {
                    lane.write(&message(RAFT, &words));
                }
                assert_eq!(raw.closed_with(), PROTOCOL, "lane {number} of node {node}");
            }
        }
        for node in [1, 2] {
            let mut raw = scene.connect(node, &caller);
            let mut calls = raw.lane(CALL);
            for words in disruptive() {
                calls.write(&message(RAFT, &words));
            }
            // Order is kept within a lane: with the answer, the messages have been dealt with.
            let answer = raw.ask(&mut calls, &Request::Status);
            assert!(matches!(answer, Response::Status(_)), "{answer:?}");
            assert!(raw.is_up(), "a message of an unknown kind breaks no rule");
        }
        assert_eq!(scene.at_rest(&[1, 2]), before);
        let identity = format!("c1/{subject}");
        for node in [1, 2] {
            let words = ["WARN", "broke the protocol", &identity, "no such lane"];
            scene.logged(node, &words);
        }
    }
    scene.cluster.takes_writes("client");

    // Negative control: the messages are well formed, and count when a member sends them.
    let member = scene.credentials(&Subject::node(3).unwrap());
    let raw = scene.connect(1, &member);
    let mut control = raw.lane(CONTROL);
    for words in disruptive() {
        control.write(&message(RAFT, &words));
    }
    scene.until("the term of the member", |client| async move {
        let status = client.status(id(1)).await.ok()?;
        (status.term >= FAR_TERM).then_some(())
    });
}

/// A member that sends what nobody can decode, kinds that nobody knows and frames over the limits of
/// their lanes disturbs no write: the others keep their leader, and close its connection as documented.
#[test]
fn i1_i2_i4_j10_garbage_from_a_member_disturbs_no_write() {
    let scene = Scene::start(&[1, 2]);
    let before = scene.at_rest(&[1, 2]);
    let member = scene.credentials(&Subject::node(3).unwrap());
    let load = Load::start(&scene);
    let garbage = undecodable();

    for node in [1, 2] {
        // Nothing of this is a violation: the lanes stay open, and the service ignores it.
        let mut raw = scene.connect(node, &member);
        let mut lanes = [CONTROL, APPEND, CALL].map(|number| raw.lane(number));
        for (at, body) in garbage.iter().enumerate() {
            let lane = &mut lanes[at % 3];
            lane.write(&message(RAFT, body));
            // A kind that nobody has; all kinds of this protocol are below 0x1000.
            lane.write(&message(0x1000 + at as u16, body));
        }
        let ignored = || scene.cluster.log(node).matches("message ignored").count();
        assert!(
            eventually(|| ignored() == 2 * garbage.len()),
            "node {node} ignored {} of {}",
            ignored(),
            2 * garbage.len()
        );
        let [_, _, calls] = &mut lanes;
        for (kind, body) in [(0x7777, &b""[..]), (Request::KIND, b"\xff\xff\xff")] {
            let answer = raw.ask_bytes(calls, kind, body);
            let refused = matches!(answer, Response::Refused(Refusal::Malformed { .. }));
            assert!(refused, "{answer:?}");
        }
        let key = "from a node".into();
        let answer = raw.ask(calls, &Request::Write(Command::Delete { key }));
        let refusal = Refusal::NotAllowed {
            needs: Needs::Client,
            has: CallerRole::Node,
        };
        assert_eq!(answer, Response::Refused(refusal));
        assert!(raw.is_up());
        drop(raw);
        load.goes_on();

        for (number, bytes_max) in [
            (CONTROL, 64 << 10),
            (APPEND, 8 << 20),
            (CALL, 4 << 20),
            (REPLY, 4 << 20),
        ] {
            for bytes in [bytes_max + 1, u32::MAX] {
                let raw = scene.connect(node, &member);
                let mut lane = raw.lane(number);
                lane.write(&bytes.to_le_bytes());
                assert_eq!(raw.closed_with(), TOO_LARGE, "lane {number}, {bytes} bytes");
            }
            let bytes_max = bytes_max.to_string();
            scene.logged(
                node,
                &["WARN", "broke the protocol", "c1/node/3", &bytes_max],
            );
        }
        load.goes_on();
    }
    load.end();
    let after = scene.at_rest(&[1, 2]);
    assert_eq!((after.term, after.leader), (before.term, before.leader));
    scene.cluster.takes_writes("after garbage");
}

/// A second process with node 3's certificate and another data folder is refused with the reason, while
/// the genuine node 3 keeps its place.
#[test]
fn e1_another_process_with_a_members_certificate_is_kept_out() {
    let mut scene = Scene::start(&[1, 2, 3]);
    // Whoever comes first is taken for genuine: so the genuine one has to be known.
    for node in [1, 2] {
        scene.until("node 3 to be connected", |client| {
            connected(client, node, 3)
        });
    }
    let before = scene.at_rest(&[1, 2, 3]);

    let impostor = 4; // Only a name for its log and process here.
    let mut args = start_args(&scene.cluster, 3);
    for arg in &mut args {
        if arg.starts_with("--data-dir=") {
            *arg = format!("--data-dir={}", scene.cluster.text("impostor"));
        } else if arg.starts_with("--listen=") {
            *arg = "--listen=127.0.0.1:0".into();
        }
    }
    scene.cluster.start_with(impostor, &args);
    for node in [1, 2] {
        scene.logged(node, &["WARN", "we refused", "node 3", "without its log"]);
    }
    scene.logged(
        impostor,
        &["refused us", "lost its data folder or has another one"],
    );

    let revision = scene.put("with an impostor around");
    let genuine = scene.until("node 3 to apply the write", |client| async move {
        let status = client.status(id(3)).await.ok()?;
        (status.applied.value() >= revision).then_some(status)
    });
    assert_eq!((genuine.term, genuine.leader), (before.term, before.leader));
    for node in [1, 2] {
        scene.until("node 3 to be connected", |client| {
            connected(client, node, 3)
        });
    }
    assert!(
        !scene.cluster.log(impostor).contains("leader changed"),
        "the impostor took part: {}",
        scene.cluster.log(impostor)
    );
    assert_eq!(scene.cluster.signal(impostor, "TERM"), 0);
    scene.cluster.takes_writes("without it");
}

/// The node itself refuses what the client library would not have sent, says which limit it breaks, and
/// writes none of it.
#[test]
fn a_node_checks_what_the_client_library_would() {
    let scene = Scene::start(&[1, 2]);
    let before = scene.at_rest(&[1, 2]);
    let leader = before.leader.unwrap().value();
    let mut raw = scene.connect(leader, &scene.credentials(&Subject::client("raw").unwrap()));
    let mut calls = raw.lane(CALL);
    let put = |key: usize, value: usize| {
        Request::Write(Command::Put {
            key: vec![b'k'; key].into(),
            value: vec![b'v'; value].into(),
        })
    };
    let too_large = |bytes: usize, bytes_max: usize| Refusal::TooLarge {
        bytes: bytes as u64,
        bytes_max: bytes_max as u64,
    };

    let over = VALUE_BYTES_MAX + 1;
    for (request, refusal) in [
        (put(1, over), too_large(over, VALUE_BYTES_MAX)),
        (
            Request::Write(Command::CompareAndSet {
                key: "k".into(),
                expected: Some(vec![0; VALUE_BYTES_MAX].into()),
                value: Some("v".into()),
            }),
            too_large(over, VALUE_BYTES_MAX),
        ),
        (
            put(KEY_BYTES_MAX + 1, 1),
            too_large(KEY_BYTES_MAX + 1, KEY_BYTES_MAX),
        ),
    ] {
        let answer = raw.ask(&mut calls, &request);
        assert_eq!(answer, Response::Refused(refusal));
    }
    let everything = Request::Read(Query::Range {
        start: "".into(),
        end: None,
        limit: u32::MAX,
    });
    for (request, word) in [(put(0, 1), "key is empty"), (everything, "limit")] {
        malformed(raw.ask(&mut calls, &request), word);
    }
    let good = postcard::to_stdvec(&put(1, 1)).unwrap();
    for body in [[&good[..], b"!"].concat(), good[..good.len() - 1].to_vec()] {
        malformed(raw.ask_bytes(&mut calls, Request::KIND, &body), "");
    }
    assert_eq!(scene.at_rest(&[1, 2]), before, "nothing was written");

    // Negative control: within the limits, the same road leads to a write.
    let answer = raw.ask(&mut calls, &put(KEY_BYTES_MAX, VALUE_BYTES_MAX));
    let written = matches!(answer, Response::Written(Outcome::Written { .. }));
    assert!(written, "{answer:?}");
}

#[track_caller]
fn malformed(answer: Response, word: &str) {
    match answer {
        Response::Refused(Refusal::Malformed { what }) => assert!(what.contains(word), "{what}"),
        other => panic!("not refused as malformed: {other:?}"),
    }
}

/// A running cluster and what is needed to look at it and to connect to it.
struct Scene {
    client: Client,
    cluster: Cluster,
    io: IoThread,
}

/// What must not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rest {
    term: Term,
    leader: Option<NodeId>,
    commit: LogIndex,
}

impl Scene {
    fn start(nodes: &[u64]) -> Self {
        let mut cluster = Cluster::new();
        for node in nodes {
            cluster.start_with(*node, &start_args(&cluster, *node));
        }
        let io = IoThread::spawn("hostile").expect("a thread");
        let client = cluster.client(io.runtime());
        let scene = Self {
            client,
            cluster,
            io,
        };
        scene.put("started");
        scene
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        self.io.runtime()
    }

    fn credentials(&self, subject: &Subject) -> Credentials {
        self.cluster.credentials(subject)
    }

    fn connect(&self, node: u64, credentials: &Credentials) -> Raw {
        Raw::connect(
            node,
            self.cluster.address(node),
            credentials,
            &self.runtime(),
        )
    }

    fn put(&self, key: &'static str) -> u64 {
        block_on(self.client.put(key, "value")).expect("a write")
    }

    fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut condition: impl FnMut(Client) -> F,
    ) -> T {
        block_on(until(what, || condition(self.client.clone())))
    }

    /// The state of `nodes`, once all agree and have nothing left to do.
    fn at_rest(&self, nodes: &[u64]) -> Rest {
        let same = |status: NodeStatus| {
            let rest = Rest {
                term: status.term,
                leader: status.leader,
                commit: status.commit,
            };
            (status.last.index == status.commit && status.applied == status.commit).then_some(rest)
        };
        self.until("the nodes to agree", |client| async move {
            let mut all = None;
            for node in nodes {
                let rest = same(client.status(id(*node)).await.ok()?)?;
                if *all.get_or_insert(rest) != rest {
                    return None;
                }
            }
            all.filter(|rest| rest.leader.is_some())
        })
    }

    /// Waits for a line in the log of `node` that has all of `words`.
    #[track_caller]
    fn logged(&self, node: u64, words: &[&str]) {
        let said = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(
            eventually(|| self.cluster.log(node).lines().any(said)),
            "no line with {words:?}: {}",
            self.cluster.log(node)
        );
    }
}

const NO_PANIC: &str = "nobody panics while holding it";

/// A client that writes without a pause.
struct Load {
    writes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    failed: Arc<Mutex<Vec<String>>>,
    thread: JoinHandle<()>,
}

impl Load {
    fn start(scene: &Scene) -> Self {
        let (writes, stop, failed) = Default::default();
        let load = (
            Arc::<AtomicU64>::clone(&writes),
            Arc::<AtomicBool>::clone(&stop),
            Arc::<Mutex<Vec<String>>>::clone(&failed),
        );
        let client = scene.cluster.client(scene.runtime());
        let thread = thread::spawn(move || {
            let (writes, stop, failed) = load;
            while !stop.load(Ordering::Relaxed) {
                match block_on(client.put("load", "value")) {
                    Ok(_) => drop(writes.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => failed.lock().expect(NO_PANIC).push(error.to_string()),
                }
            }
            block_on(client.close());
        });
        Self {
            writes,
            stop,
            failed,
            thread,
        }
    }

    /// Waits for more writes.
    fn goes_on(&self) {
        let before = self.writes.load(Ordering::Relaxed);
        assert!(
            eventually(|| self.writes.load(Ordering::Relaxed) > before + 5),
            "writes stopped: {:?}",
            self.failed
        );
    }

    /// Asserts that no write failed.
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load does not panic");
        assert_eq!(*self.failed.lock().expect(NO_PANIC), Vec::<String>::new());
    }
}

/// As it should be, but patient, so that a busy machine is no reason for an election; and with a log
/// that also says what is ignored.
fn start_args(cluster: &Cluster, node: u64) -> Vec<String> {
    let mut args = cluster.start_args(node);
    args.push("--election-timeout=1s".into());
    args.push("--log=info,quorate=debug".into());
    args
}

fn id(node: u64) -> NodeId {
    NodeId::new(node).expect("not zero")
}

/// Whether `node` says that it is connected to `peer`.
async fn connected(client: Client, node: u64, peer: u64) -> Option<()> {
    let status = client.status(id(node)).await.ok()?;
    let mut peers = status.peers.iter();
    peers
        .any(|found| found.node == id(peer) && found.state == "connected")
        .then_some(())
}

/// What a member could say to be followed or voted for.
fn disruptive() -> Vec<Vec<u8>> {
    let far = EntryId {
        term: FAR_TERM,
        index: LogIndex::new(1_000_000),
    };
    let next = EntryId {
        term: FAR_TERM,
        index: ORIGIN.index.next(),
    };
    let bodies = [
        Body::RequestVote {
            pre: false,
            last: far,
            commit: ORIGIN,
            transfer: true,
        },
        Body::Append {
            previous: ORIGIN,
            commit: next.index,
            entries: vec![Entry::command(next, "forged".into())],
        },
        Body::Heartbeat {
            commit: ORIGIN.index,
            read: None,
        },
        Body::TimeoutNow,
    ];
    let encoded = |body| {
        postcard::to_stdvec(&Message {
            term: FAR_TERM,
            body,
        })
        .expect("encodable")
    };
    bodies.into_iter().map(encoded).collect()
}

/// Bodies that are no message of Raft, from nothing at all to almost right.
fn undecodable() -> Vec<Vec<u8>> {
    let mut bodies = vec![
        vec![],
        vec![0xff; 20],
        // A kind of message that does not exist.
        vec![5, 200],
        // An append with more entries than fit into memory.
        [&[5, 0, 1, 1, 0][..], &[0xff; 9], &[1]].concat(),
        vec![0; 60 << 10],
    ];
    for good in disruptive() {
        bodies.push([&good[..], b"!"].concat());
        bodies.push(good[..good.len() - 1].to_vec());
    }
    let mut noise: u64 = 0x9E37_79B9_7F4A_7C15;
    for length in 1..100 {
        let mut byte = || {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise.to_le_bytes()[0]
        };
        bodies.push((0..length).map(|_| byte()).collect());
    }
    // Noise could mean something by chance; then it would have to be obeyed.
    bodies.retain(|body| !matches!(postcard::take_from_bytes::<Message>(body), Ok((_, []))));
    assert!(bodies.len() > 100);
    bodies
}
