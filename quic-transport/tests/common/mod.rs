//! A cluster in memory: a CA, transports on loopback, and waiting for conditions.
#![allow(clippy::unwrap_used, dead_code)] // each test file uses its own part
#![allow(missing_docs, unreachable_pub)] // a module of tests has no outside

pub mod raw;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, Once},
    time::{Duration, Instant},
};

use quorate_certs::{Ca, CaOptions, ClusterName, Credentials, Identity, IssueOptions, Subject};
use quorate_quic_transport::{
    Config, Inbound, Inbox, Instance, Message, Peer, Transport,
    quinn::Runtime,
    runtime::{Inline, IoThread},
};
use serde::{Deserialize, Serialize};

/// Far above anything expected on loopback: reached only by a fault.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Number(pub u64);
impl Message for Number {
    const KIND: u16 = 1;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob(pub Vec<u8>);
impl Message for Blob {
    const KIND: u16 = 2;
}

/// Every beat replaces the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat(pub u64);
impl Message for Beat {
    const KIND: u16 = 3;
    fn replaces(&self) -> Option<u64> {
        Some(0)
    }
}

pub struct Cluster {
    pub ca: Ca,
}

impl Cluster {
    pub fn new() -> Self {
        Self::named("c1")
    }

    pub fn named(name: &str) -> Self {
        let name = ClusterName::new(name).unwrap();
        Self {
            ca: Ca::generate(&name, &CaOptions::default()).unwrap(),
        }
    }

    pub fn credentials(&self, subject: &Subject) -> Credentials {
        self.ca
            .issue(subject, &IssueOptions::default())
            .unwrap()
            .credentials()
            .unwrap()
    }

    pub fn node(&self, id: u64) -> Credentials {
        self.credentials(&Subject::node(id).unwrap())
    }

    pub fn client(&self, name: &str) -> Credentials {
        self.credentials(&Subject::client(name).unwrap())
    }
}

pub fn config() -> Config {
    Config::new("test", SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// One program: a transport and what arrived.
pub struct Program {
    pub transport: Transport,
    pub inbox: Inbox,
}

impl Program {
    pub fn start(config: Config, credentials: Credentials, runtime: Arc<dyn Runtime>) -> Self {
        let (transport, inbox) = Transport::bind(config, credentials, runtime).unwrap();
        Self { transport, inbox }
    }

    pub fn identity(&self) -> Identity {
        self.transport.identity().clone()
    }

    pub fn dials(&self, other: &Program) {
        self.transport
            .set_peer(other.identity(), vec![other.transport.local_addr()])
            .unwrap();
    }

    pub fn peer(&self, other: &Program) -> Peer {
        self.transport
            .peer(&other.identity())
            .expect("the peer is known")
    }

    pub fn next(&mut self) -> Inbound {
        block_on(self.inbox.recv()).expect("the transport runs")
    }

    pub fn next_up(&mut self) -> Instance {
        match self.next() {
            Inbound::Up(up) => up.instance,
            other => panic!("expected Up, got {other:?}"),
        }
    }

    pub fn next_message<M: Message>(&mut self) -> M {
        match self.next() {
            Inbound::Message(message) => message.decode().unwrap(),
            other => panic!("expected a message, got {other:?}"),
        }
    }

    pub fn last_error(&self, other: &Identity) -> String {
        wait_for("a dial error", || {
            let status = self
                .transport
                .peers()
                .into_iter()
                .find(|p| p.identity == *other)?;
            status.last_error.map(|err| err.to_string())
        })
    }

    pub fn shutdown(self) {
        block_on(self.transport.shutdown(Duration::from_secs(2)));
    }
}

/// Two connected nodes; both have seen `Up`.
pub fn pair(runtime: &Arc<dyn Runtime>) -> (Program, Program) {
    pair_with(runtime, config(), config())
}

pub fn pair_with(runtime: &Arc<dyn Runtime>, one: Config, two: Config) -> (Program, Program) {
    let cluster = Cluster::new();
    let mut one = Program::start(one, cluster.node(1), Arc::clone(runtime));
    let mut two = Program::start(two, cluster.node(2), Arc::clone(runtime));
    one.dials(&two);
    one.next_up();
    two.next_up();
    (one, two)
}

/// Runs the test on the I/O thread and inline on another executor.
pub fn on_each_runtime(test: impl Fn(&Arc<dyn Runtime>)) {
    let io = IoThread::spawn("test").unwrap();
    test(&io.runtime());
    assert_eq!(io.panics(), 0);
    drop(io);

    let executor: Arc<async_executor::Executor<'static>> = Arc::default();
    let (stop, stopped) = async_channel::bounded::<()>(1);
    let runs = Arc::clone(&executor);
    let thread = std::thread::spawn(move || {
        let _ = futures_lite::future::block_on(runs.run(stopped.recv()));
    });
    test(&Inline::runtime(move |task| executor.spawn(task).detach()));
    stop.close();
    thread.join().expect("no task panicked");
}

pub fn on_io_thread(test: impl Fn(&Arc<dyn Runtime>)) {
    let io = IoThread::spawn("test").unwrap();
    test(&io.runtime());
    assert_eq!(io.panics(), 0);
}

/// A bare block_on, with a limit so that a fault is a failure and not a hang.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    async_io::block_on(futures_lite::future::or(future, async {
        async_io::Timer::after(PATIENCE).await;
        panic!("nothing happened for {PATIENCE:?}")
    }))
}

pub fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Collects what the crate logs at `warn` and above.
pub struct Warnings;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Warnings {
    pub fn collect() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            tracing::subscriber::set_global_default(Self).unwrap();
        });
    }

    /// Waits for a line that has all of `words`.
    pub fn wait_for(words: &[&str]) -> String {
        let began = Instant::now();
        loop {
            let lines = Self::all();
            if let Some(line) = lines
                .iter()
                .find(|line| words.iter().all(|w| line.contains(w)))
            {
                return line.clone();
            }
            assert!(
                began.elapsed() < PATIENCE,
                "no warning with {words:?} in {lines:#?}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn all() -> Vec<String> {
        LINES.lock().unwrap().clone()
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{field}={value:?} ");
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        LINES.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
