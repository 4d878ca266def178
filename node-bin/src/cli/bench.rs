//! `quorate bench`: a closed loop of clients, each with one operation under way.
//!
//! It usually shares the machine with the cluster it measures, so it must cost little: all loops run on
//! one I/O thread, the same that receives the answers, so that no operation changes threads.

mod tally;

use std::convert::Infallible;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use quorate::kv::{Client, ClientError, REQUEST_TIMEOUT, Refusal, VALUE_BYTES_MAX};
use quorate_quic_transport::runtime::sleep_until;
use serde_json::json;

use super::connect::{ConnectArgs, Network, failure};
use super::stop::Stop;
use super::{Failure, exit};
use tally::{Figures, Tally, kind};

/// Not counted: connections, caches and the leader's pipeline fill in this time.
const WARM_UP: Duration = Duration::from_secs(1);

/// How often the bar moves and an interruption is noticed.
const REFRESH: Duration = Duration::from_millis(100);

/// After an operation failed at once: a loop must not spin on an error.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

/// Clients share connections, as they do in etcd's load tool: fewer packets, one handshake for many.
const CLIENTS_PER_CONNECTION: usize = 16;

/// More would be refused: nodes bound the connections of one client identity.
const CONNECTIONS_MAX: usize = 64;

/// For its help: what it leaves behind, and how to be rid of it.
const HELP: &str = "\
The keys that it writes, bench/00000000 and on, stay. To remove them:
  quorate kv del --prefix bench/";

/// Measure the cluster under load.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(crate) struct BenchArgs {
    /// Write values, or read them linearizably
    operation: Operation,
    /// How many operations are under way at once
    #[arg(long, default_value_t = 64, value_parser = count(1, 10_000))]
    clients: usize,
    /// How long to measure, after one second of warm-up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256, value_name = "BYTES", value_parser = count(0, VALUE_BYTES_MAX))]
    value: usize,
    /// Connections the clients share, at most 64 [default: one for 16 clients]
    #[arg(long, value_parser = count(1, CONNECTIONS_MAX))]
    connections: Option<usize>,
    /// How many keys, chosen at random; `get` writes them first
    #[arg(long, default_value_t = 100_000, value_parser = count(1, 1_000_000))]
    keys: usize,
    /// `get` at every node in turn, one connection after the other, instead of at the leader
    #[arg(long)]
    spread: bool,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Put,
    Get,
}

fn count(min: usize, max: usize) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync {
    move |text| {
        text.parse()
            .ok()
            .filter(|count| (min..=max).contains(count))
            .ok_or_else(|| format!("expected a whole number from {min} to {max}"))
    }
}

pub(crate) fn run(args: &BenchArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let stop = Stop::listen(false)?;
    let network = args.connect.open(REQUEST_TIMEOUT)?;
    let connections = connections(args.clients, args.connections);
    let clients = (0..connections)
        .map(|_| network.client())
        .collect::<Result<Vec<Client>, Failure>>()?;
    let data = Arc::new(Data::new(args.keys, args.value));
    prepare(&network, &clients, args, &data, &stop)?;
    let readers = match args.spread {
        true => spread(&clients),
        false => clients.clone(),
    };
    let figures = measure(&network, &readers, args, &data, &stop);
    drop(readers);
    futures_lite::future::block_on(async {
        for client in clients {
            client.close().await;
        }
    });
    print(args, connections, &figures, out).map_err(Failure::output)?;
    if figures.ops > 0 {
        return Ok(());
    }
    let why = figures
        .errors
        .keys()
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    Err(Failure::new(
        exit::UNAVAILABLE,
        format!("not one operation succeeded: {why}"),
    ))
}

/// The same clients, each reading at another node.
fn spread(clients: &[Client]) -> Vec<Client> {
    let at = |(number, client): (usize, &Client)| {
        let nodes: Vec<_> = client.nodes().collect();
        client.reading_at(nodes[number % nodes.len()])
    };
    clients.iter().enumerate().map(at).collect()
}

fn connections(clients: usize, chosen: Option<usize>) -> usize {
    let wanted = chosen.unwrap_or(clients.div_ceil(CLIENTS_PER_CONNECTION));
    wanted.min(clients).min(CONNECTIONS_MAX)
}

/// What is written and read.
struct Data {
    keys: Vec<Bytes>,
    value: Bytes,
}

impl Data {
    fn new(keys: usize, value_bytes: usize) -> Self {
        let mut random = Random(1);
        let value: Vec<u8> = (0..value_bytes)
            .map(|_| random.next().to_le_bytes()[0])
            .collect();
        Self {
            keys: (0..keys)
                .map(|key| format!("bench/{key:08}").into())
                .collect(),
            value: value.into(),
        }
    }
}

/// xorshift64*: which key comes next need not be secret, only spread.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize // the bound is at most a million, so bias is nil
    }
}

/// Finds out whether operations work at all, with one; then has everybody connect, of which nothing is to be measured, and
/// for `get` writes every key.
fn prepare(
    network: &Network,
    clients: &[Client],
    args: &BenchArgs,
    data: &Arc<Data>,
    stop: &Stop,
) -> Result<(), Failure> {
    let first = clients[0].put(data.keys[0].clone(), data.value.clone());
    futures_lite::future::block_on(first).map_err(|error| not_written(args.operation, &error))?;
    let loops = start_loops(network, clients, clients.len(), |client, _| {
        let data = Arc::clone(data);
        async move {
            // What goes wrong here will do so while it is measured.
            let _ = client.put(data.keys[0].clone(), data.value.clone()).await;
        }
    });
    until_ended(&loops, stop, "connecting", || {})?;
    if args.operation == Operation::Put {
        return Ok(());
    }
    let bar = bar(data.keys.len() as u64, "writing keys");
    let filler = Arc::new(Filler {
        next: AtomicUsize::new(1),
        failed: Mutex::new(None),
    });
    let loops = start_loops(network, clients, args.clients, |client, _| {
        fill(client, Arc::clone(data), Arc::clone(&filler))
    });
    until_ended(&loops, stop, "writing the keys", || {
        bar.set_position(
            (filler.next.load(Ordering::Relaxed) as u64).min(bar.length().unwrap_or(0)),
        );
    })?;
    bar.finish_and_clear();
    let failed = locked(&filler.failed).take();
    failed.map_or(Ok(()), |error| Err(failure(&error)))
}

/// Why the first key could not be written. Whoever only wanted to read is told why there was a write.
fn not_written(operation: Operation, error: &ClientError) -> Failure {
    let failure = failure(error);
    let refused = matches!(
        error,
        ClientError::Refused {
            refusal: Refusal::NotAllowed { .. },
            ..
        }
    );
    match operation {
        Operation::Get if refused => Failure {
            message: format!(
                "`bench get` writes its keys before it reads them, and may not: {}",
                failure.message
            ),
            ..failure
        },
        Operation::Get | Operation::Put => failure,
    }
}

struct Filler {
    next: AtomicUsize,
    failed: Mutex<Option<ClientError>>,
}

async fn fill(client: Client, data: Arc<Data>, filler: Arc<Filler>) {
    while let Some(key) = data.keys.get(filler.next.fetch_add(1, Ordering::Relaxed)) {
        let written = loop {
            match client.put(key.clone(), data.value.clone()).await {
                // The same value again does no harm here.
                Err(ClientError::OutcomeUnknown { .. }) => {}
                other => break other,
            }
        };
        if let Err(error) = written {
            filler.next.store(data.keys.len(), Ordering::Relaxed);
            *locked(&filler.failed) = Some(error);
            return;
        }
    }
}

/// What the loops of one measurement share.
struct Run {
    operation: Operation,
    data: Arc<Data>,
    end: Instant,
    stopped: AtomicBool,
    tally: Mutex<Tally>,
    runtime: Arc<dyn quinn::Runtime>,
}

fn measure(
    network: &Network,
    clients: &[Client],
    args: &BenchArgs,
    data: &Arc<Data>,
    stop: &Stop,
) -> Figures {
    let start = Instant::now() + WARM_UP;
    let end = start + Duration::from_secs(args.seconds);
    let run = Arc::new(Run {
        operation: args.operation,
        data: Arc::clone(data),
        end,
        stopped: AtomicBool::new(false),
        tally: Mutex::new(Tally::new(start)),
        runtime: network.runtime(),
    });
    let loops = start_loops(network, clients, args.clients, |client, seed| {
        closed_loop(client, Arc::clone(&run), seed)
    });
    let bar = bar(args.seconds * 10, "measuring");
    while !ended(&loops) {
        let now = Instant::now();
        bar.set_position(now.saturating_duration_since(start).as_millis() as u64 / 100);
        if stop.is_requested() {
            run.stopped.store(true, Ordering::Relaxed);
            bar.finish_and_clear();
            return locked(&run.tally).figures(now.clamp(start, end));
        }
        let so_far = locked(&run.tally).successes();
        bar.set_message(format!("{so_far} operations"));
    }
    bar.finish_and_clear();
    locked(&run.tally).figures(end)
}

async fn closed_loop(client: Client, run: Arc<Run>, seed: u64) {
    let mut random = Random(seed);
    loop {
        let begun = Instant::now();
        if begun >= run.end || run.stopped.load(Ordering::Relaxed) {
            return;
        }
        let key = run.data.keys[random.below(run.data.keys.len())].clone();
        let result = match run.operation {
            Operation::Put => client.put(key, run.data.value.clone()).await.map(|_| true),
            Operation::Get => client.get(key).await.map(|value| value.is_some()),
        };
        let done = Instant::now();
        if done >= run.end {
            return; // not in the time that is measured
        }
        match result {
            Ok(true) => locked(&run.tally).success(begun, done),
            Ok(false) => locked(&run.tally).error("key missing", done),
            Err(error) => {
                locked(&run.tally).error(kind(&error), done);
                if done - begun < PAUSE_AFTER_ERROR {
                    sleep_until(&*run.runtime, done + PAUSE_AFTER_ERROR).await;
                }
            }
        }
    }
}

/// Starts `count` loops on the I/O thread, dealt out over `clients`. The receiver ends with the last of
/// them.
fn start_loops<F>(
    network: &Network,
    clients: &[Client],
    count: usize,
    body: impl Fn(Client, u64) -> F,
) -> Receiver<Infallible>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (running, loops) = sync_channel(0);
    let runtime = network.runtime();
    for (seed, client) in (1..).zip(clients.iter().cycle()).take(count) {
        let work = body(client.clone(), seed);
        let running: SyncSender<Infallible> = running.clone();
        runtime.spawn(Box::pin(async move {
            work.await;
            drop(running);
        }));
    }
    loops
}

/// Waits for all loops, and does `meanwhile` again and again, unless somebody interrupts what they are `doing`.
fn until_ended(
    loops: &Receiver<Infallible>,
    stop: &Stop,
    doing: &str,
    meanwhile: impl Fn(),
) -> Result<(), Failure> {
    while !ended(loops) {
        meanwhile();
        if stop.is_requested() {
            let message = format!("interrupted while {doing}");
            return Err(Failure::new(exit::INTERRUPTED, message));
        }
    }
    Ok(())
}

/// Waits a little; tells whether all loops have ended.
fn ended(loops: &Receiver<Infallible>) -> bool {
    match loops.recv_timeout(REFRESH) {
        Ok(never) => match never {},
        Err(RecvTimeoutError::Timeout) => false,
        Err(RecvTimeoutError::Disconnected) => true,
    }
}

/// Every change under these locks is complete before its lines could panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// On standard error, and only if that is a terminal.
fn bar(length: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {msg}")
        .expect("the template is well-formed");
    ProgressBar::new(length).with_style(style).with_prefix(what)
}

fn print(
    args: &BenchArgs,
    connections: usize,
    figures: &Figures,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let operation = match args.operation {
        Operation::Put => "put",
        Operation::Get => "get",
    };
    let (clients, value) = (args.clients, args.value);
    if args.json {
        let setting = json!({
            "operation": operation,
            "clients": clients,
            "connections": connections,
            "value_bytes": value,
            "keys": args.keys,
        });
        return writeln!(
            out,
            "{}",
            json!({ "setting": setting, "result": figures.in_json() })
        );
    }
    let plural = if connections == 1 { "" } else { "s" };
    writeln!(
        out,
        "{operation}  {clients} clients over {connections} connection{plural}, {value} B values"
    )?;
    writeln!(out, "{figures}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients share connections sixteen to one, never more connections than clients or than nodes take.
    #[test]
    fn clients_share_connections() {
        assert_eq!(connections(1, None), 1);
        assert_eq!(connections(256, None), 16);
        assert_eq!(connections(10_000, None), CONNECTIONS_MAX);
        assert_eq!(connections(3, Some(8)), 3);
    }

    /// Keys are spread over the whole range, differently for each client.
    #[test]
    fn keys_are_spread() {
        let drawn = |seed| {
            let mut random = Random(seed);
            (0..2000).map(|_| random.below(100)).collect::<Vec<_>>()
        };
        let mut seen = drawn(1);
        assert_ne!(seen, drawn(2));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 100);
    }

    /// Keys differ, and the value has the size asked for.
    #[test]
    fn data_is_as_asked() {
        let data = Data::new(1000, 300);
        assert_eq!(data.value.len(), 300);
        assert_eq!(&data.keys[999][..], b"bench/00000999");
    }
}
