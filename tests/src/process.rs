//! The `quorate` executable as an operator meets it: commands, exit codes, and clusters of processes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use quorate::NodeId;
use quorate::kv::{Client, ClientConfig};
use quorate_certs::{Ca, CaOptions, ClusterName, Credentials, IssueOptions, Issued, Subject};
use quorate_quic_transport::quinn::Runtime;

use crate::ports::Ports;

/// How long anything here may take. Everything takes well under a second on an idle machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The name of every cluster made here.
pub const CLUSTER: &str = "c1";

/// The executable, built as this test was.
pub fn executable() -> &'static Path {
    static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();
    EXECUTABLE.get_or_init(|| built("--bin", "quorate").join("quorate"))
}

/// The example `name`, built as this test was.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    built("--example", name).join("examples").join(name)
}

/// Builds the `kind` of target called `name` as this test was; returns the folder for all that was built so.
///
/// Cargo offers the path of an executable only to tests of the same package, and builds it for them
/// only; so it is built here. Naming a test beside it makes Cargo choose the features of
/// dependencies as it did for this test: otherwise half of them would be compiled a second time.
fn built(kind: &str, name: &str) -> PathBuf {
    // target/<profile>/deps/<a test>, or target/<profile>/<a command>
    let this = std::env::current_exe().expect("a running program has a path");
    let folder = this.parent().expect("a program lies in a folder");
    let folder = match folder.parent() {
        Some(profile) if folder.ends_with("deps") => profile,
        _ => folder,
    };
    // Not the one that built this: without rustup's proxy before it, rustc would obey the toolchain files
    // of the dependencies.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .args(["build", "--quiet", "--locked", "--workspace"])
        .args([kind, name, "--test", "bad_input"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if folder.ends_with("release") {
        build.arg("--release");
    }
    // Build scripts (ring's) ask to run again when these change, and with them half of the
    // dependencies would be compiled again: here and, without them, in the next build from outside.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_MANIFEST_") || text.starts_with("CARGO_PKG_") {
            build.env_remove(&name);
        }
    }
    let built = build.status().expect("cargo runs");
    assert!(built.success(), "{name} does not build");
    folder.to_owned()
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; 128 and the signal's number if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// Asserts that the command succeeded.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// Asserts that the command failed with `code`, named everything in `named`, and did not panic.
    #[track_caller]
    pub fn failed(self, code: i32, named: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        for word in named {
            assert!(self.err.contains(word), "does not name `{word}`: {self:#?}");
        }
        // Of a node that had begun to start, the log comes first.
        let says_so = |line: &str| line.starts_with("quorate: ");
        assert!(self.err.lines().any(says_so), "{self:#?}");
        assert!(!self.err.contains("panicked"), "{self:#?}");
        self
    }
}

/// Runs `quorate` with `args` to its end.
#[track_caller]
pub fn quorate<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Ended {
    quorate_reading(args, Vec::new())
}

/// Runs `quorate` with `args` to its end, and with `input` to read.
#[track_caller]
pub fn quorate_reading<A: AsRef<OsStr>>(
    args: impl IntoIterator<Item = A>,
    input: Vec<u8>,
) -> Ended {
    let mut running = Running::begin(args);
    let mut stdin = running.stdin.take().expect("piped");
    // It ends early with a command that does not read all of it, which is the command's right.
    thread::spawn(move || stdin.write_all(&input));
    running.ended()
}

/// A command that runs, no longer than this is there: a test that fails leaves nothing behind.
pub struct Running {
    child: Owned,
    /// Held open: who reads it waits.
    stdin: Option<ChildStdin>,
    out: Receiver<String>,
    err: Receiver<String>,
}

impl Running {
    /// Begins to run `quorate` with `args`.
    ///
    /// # Panics
    ///
    /// When there is no executable to run.
    pub fn begin<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Self {
        Self::of(Command::new(executable()).args(args))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command
            .env_remove("QUORATE_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the executable runs");
        let stdin = child.stdin.take();
        let out = drain(child.stdout.take().expect("piped"));
        let err = drain(child.stderr.take().expect("piped"));
        Self {
            child: Owned(child),
            stdin,
            out,
            err,
        }
    }

    /// Sends it a signal (`INT`, `TERM`, ..).
    pub fn send(&self, signal: &str) {
        send(&self.child.0, signal);
    }

    /// Ends its standard input, and waits for its end.
    #[track_caller]
    pub fn ended_of_input(mut self) -> Ended {
        drop(self.stdin.take());
        self.ended()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(mut self) -> Ended {
        let status = wait(&mut self.child.0);
        let said = |stream: Receiver<String>| stream.recv().expect("read to its end");
        Ended {
            code: code(status.unwrap_or_else(|| panic!("still runs after {DEADLINE:?}"))),
            out: said(self.out),
            err: said(self.err),
        }
    }
}

struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It fails only for a process that has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn send(child: &Child, signal: &str) {
    let sent = Command::new("kill")
        .arg(format!("-{signal}"))
        .arg(child.id().to_string())
        .status();
    assert!(sent.expect("kill runs").success());
}

fn drain(mut stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A broken pipe ends it like an end of file: what was said until then counts.
        let _ = stream.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

/// Waits for the end of `child`, and kills it when it does not end.
fn wait(child: &mut Child) -> Option<ExitStatus> {
    let mut status = None;
    let ended = eventually(|| {
        status = child.try_wait().expect("a child can be waited for");
        status.is_some()
    });
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
    }
    status
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Looks until `condition` holds; false when it does not before [`DEADLINE`].
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + DEADLINE;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// How many nodes found a cluster, unless more are asked for.
const FOUNDERS: u64 = 3;

/// Nodes as processes, a CA, and a client's and an admin's certificate, all in one folder.
///
/// Dropping it kills the nodes and removes the folder.
pub struct Cluster {
    folder: tempfile::TempDir,
    ca: Ca,
    founders: u64,
    addresses: BTreeMap<u64, SocketAddr>,
    /// Behind the addresses: nodes end here and start again.
    _ports: Ports,
    running: BTreeMap<u64, Child>,
}

impl Cluster {
    /// Makes everything and starts nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::with_newcomers(0)
    }

    /// As [`new`](Self::new), with so many nodes more that are no members yet.
    #[must_use]
    pub fn with_newcomers(count: u64) -> Self {
        Self::founded_by(FOUNDERS, count)
    }

    /// So many founders, and `newcomers` that are no members yet.
    #[must_use]
    pub fn founded_by(founders: u64, newcomers: u64) -> Self {
        let nodes = founders + newcomers;
        let ports = Ports::claim(nodes as usize);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let name = ClusterName::new(CLUSTER).expect("a name");
        let ca = Ca::create(&folder.path().join("ca"), &name, &CaOptions::default());
        let cluster = Self {
            founders,
            folder,
            ca: ca.expect("a CA"),
            addresses: (1..).zip(ports.addresses()).collect(),
            _ports: ports,
            running: BTreeMap::new(),
        };
        for node in 1..=nodes {
            cluster.issue(&Subject::node(node).expect("not zero"), &format!("n{node}"));
        }
        cluster.issue(&Subject::client("tester").expect("a name"), "client");
        cluster.issue(&Subject::admin("tester").expect("a name"), "admin");
        cluster
    }

    /// A cluster whose three nodes run and have a leader.
    #[must_use]
    pub fn started() -> Self {
        let mut cluster = Self::new();
        for node in 1..=FOUNDERS {
            cluster.start(node);
        }
        cluster.takes_writes("started");
        cluster
    }

    /// A file or folder of the cluster.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text, for arguments.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// Where `node` listens.
    #[must_use]
    pub fn address(&self, node: u64) -> SocketAddr {
        self.addresses[&node]
    }

    /// Issues a certificate into a folder.
    pub fn issue(&self, subject: &Subject, folder: &str) {
        issue(&self.ca, subject)
            .write(&self.path(folder))
            .expect("written");
    }

    /// The CA, which is in the folder `ca`.
    #[must_use]
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// The arguments that start `node` as it should be.
    #[must_use]
    pub fn start_args(&self, node: u64) -> Vec<String> {
        self.start_args_reaching(node, |peer| self.addresses[&peer])
    }

    /// The arguments that start node 1 as a cluster of one.
    #[must_use]
    pub fn start_args_alone(&self) -> Vec<String> {
        let mut args = self.start_args(1);
        args.retain(|arg| !arg.starts_with("--peer="));
        args.push("--alone".into());
        args
    }

    /// As [`start_args`](Self::start_args), where `node` reaches the founders at the addresses or names that `reach` says.
    #[must_use]
    pub fn start_args_reaching<A: Display>(
        &self,
        node: u64,
        reach: impl Fn(u64) -> A,
    ) -> Vec<String> {
        let mut args = vec![
            "start".into(),
            "--until-stdin-closes".into(),
            format!("--cert={}", self.text(&format!("n{node}"))),
            format!("--data-dir={}", self.text(&format!("data{node}"))),
            format!("--listen={}", self.addresses[&node]),
        ];
        for peer in (1..=self.founders).filter(|peer| *peer != node) {
            args.push(format!("--peer={peer}={}", reach(peer)));
        }
        args
    }

    /// Starts the newcomer `node`.
    pub fn join(&mut self, node: u64) {
        let mut args = self.start_args(node);
        args.push("--join".into());
        self.start_with(node, &args);
    }

    /// Waits for `node` to end by itself, and returns its exit code.
    pub fn ended(&mut self, node: u64) -> i32 {
        let mut child = self.running.remove(&node).expect("the node runs");
        code(wait(&mut child).expect("it ends by itself"))
    }

    /// Starts `node` and waits until it says that it is ready.
    pub fn start(&mut self, node: u64) {
        self.start_with(node, &self.start_args(node));
    }

    /// Starts `node` with arguments of one's own and waits until it says that it is ready.
    pub fn start_with(&mut self, node: u64, args: &[String]) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("log{node}")))
            .expect("a log can be written");
        let (child, said) = start_logging_to(args, log);
        self.running.insert(node, child);
        assert!(
            said.contains("listening on"),
            "node {node} did not start: {}",
            self.log(node)
        );
    }

    /// Everything `node` has logged.
    #[must_use]
    pub fn log(&self, node: u64) -> String {
        std::fs::read_to_string(self.path(&format!("log{node}"))).unwrap_or_default()
    }

    /// Ends `node` with a signal (`KILL`, `TERM`, ..) and returns its exit code.
    pub fn signal(&mut self, node: u64, signal: &str) -> i32 {
        self.send(node, signal);
        let mut child = self.running.remove(&node).expect("the node runs");
        code(wait(&mut child).expect("a node ends when it is told to"))
    }

    /// Sends `node` a signal and does not wait for its end (`STOP`, `CONT`).
    pub fn send(&self, node: u64, signal: &str) {
        send(self.running.get(&node).expect("the node runs"), signal);
    }

    /// The most memory that `node` has had at a time, in MiB: what Linux calls the high water mark of its
    /// resident set. `None` where the system does not say, or when it does not run.
    #[must_use]
    pub fn memory_mib(&self, node: u64) -> Option<u64> {
        let child = self.running.get(&node)?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib / 1024)
    }

    /// Runs a client command with the certificate in the folder `cert`.
    #[track_caller]
    pub fn run_as(&self, cert: &str, args: &[&str]) -> Ended {
        quorate(self.client_args(cert, args))
    }

    fn client_args(&self, cert: &str, args: &[&str]) -> Vec<String> {
        // Before what is not for `quorate`.
        let own = args.iter().position(|arg| *arg == "--");
        let (own, rest) = args.split_at(own.unwrap_or(args.len()));
        let mut all: Vec<String> = own.iter().map(ToString::to_string).collect();
        all.push(format!("--cert={}", self.text(cert)));
        for (node, address) in &self.addresses {
            all.push(format!("--node={node}={address}"));
        }
        all.extend(rest.iter().map(ToString::to_string));
        all
    }

    /// Begins to run a client command with the client's certificate.
    #[must_use]
    pub fn begin(&self, args: &[&str]) -> Running {
        Running::begin(self.client_args("client", args))
    }

    /// As [`begin`](Self::begin), by `nohup`.
    ///
    /// # Panics
    ///
    /// Where there is no such program.
    #[must_use]
    pub fn begin_by_nohup(&self, args: &[&str]) -> Running {
        let args = self.client_args("client", args);
        Running::of(Command::new("nohup").arg(executable()).args(args))
    }

    /// Runs a client command with the client's certificate.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Ended {
        self.run_as("client", args)
    }

    /// The same with something to read.
    #[track_caller]
    pub fn run_reading(&self, args: &[&str], input: Vec<u8>) -> Ended {
        quorate_reading(self.client_args("client", args), input)
    }

    /// Credentials of this cluster for `subject`.
    ///
    /// # Panics
    ///
    /// When they cannot be made.
    #[must_use]
    pub fn credentials(&self, subject: &Subject) -> Credentials {
        let issued = issue(&self.ca, subject);
        issued.credentials().expect("credentials")
    }

    /// A client in this process that knows all nodes, and whose I/O runs on `runtime`.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn client(&self, runtime: Arc<dyn Runtime>) -> Client {
        self.client_as(&Subject::client("inside").expect("a name"), runtime)
    }

    /// As [`client`](Self::client), with a certificate of `subject`.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn client_as(&self, subject: &Subject, runtime: Arc<dyn Runtime>) -> Client {
        let credentials = self.credentials(subject);
        let node = |(node, address): (&u64, &SocketAddr)| {
            (NodeId::new(*node).expect("not zero"), *address)
        };
        let mut config = ClientConfig::new(self.addresses.iter().map(node).collect(), credentials);
        config.request_timeout = DEADLINE;
        Client::connect(config, runtime).expect("a client")
    }

    /// Asserts that the cluster takes a write, returns it, and that no node has panicked.
    #[track_caller]
    pub fn takes_writes(&self, key: &str) {
        self.run(&["kv", "put", key, "value"]).succeeded();
        let found = self.run(&["kv", "get", key]).succeeded();
        assert_eq!(found.out, "value\n");
        for node in self.addresses.keys() {
            let log = self.log(*node);
            assert!(!log.contains("panicked"), "node {node}: {log}");
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            // It fails only for a process that has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a node that logs to `log`, and waits for the first line that it says besides.
///
/// # Panics
///
/// When there is no executable to run.
pub fn start_logging_to(args: &[String], log: impl Into<Stdio>) -> (Child, String) {
    let mut child = Command::new(executable())
        .args(args)
        .stdin(Stdio::piped()) // held open: the node ends with this process
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("the executable runs");
    let mut said = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    // Ends with a line or with the process.
    let _ = out.read_line(&mut said);
    (child, said)
}

/// A CA of its own, also for a name that another one has.
///
/// # Panics
///
/// When `cluster` is no name of a cluster.
#[must_use]
pub fn ca(cluster: &str) -> Ca {
    let cluster = ClusterName::new(cluster).expect("a name");
    Ca::generate(&cluster, &CaOptions::default()).expect("a CA")
}

/// A certificate with the default life.
///
/// # Panics
///
/// Never for a CA made by [`ca`].
#[must_use]
pub fn issue(ca: &Ca, subject: &Subject) -> Issued {
    ca.issue(subject, &IssueOptions::default()).expect("issued")
}
