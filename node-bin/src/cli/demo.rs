//! `quorate demo`: a cluster's life in a few seconds, with real processes, sockets, disks and a real
//! SIGKILL. Everything shown is measured; nothing is rehearsed.

mod cluster;
mod load;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_io::Timer;
use quorate::kv::{Client, ClientConfig, NodeStatus};
use quorate_consensus::{NodeId, Role};
use quorate_quic_transport::runtime::IoThread;

use super::stop::Stop;
use super::{Failure, connect, exit};
use cluster::Cluster;

/// How many keys are written, read back, and compared.
const KEYS: u32 = 1_000;

/// How long any single step may take. Generous, because a demonstration that fails on a busy machine
/// shows the wrong thing; every step is expected to end within a second.
const STEP_MAX: Duration = Duration::from_secs(20);

/// How often the nodes are asked how they are while the demonstration waits for them.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Shows three encrypted nodes on this machine: election, writes, a killed leader, reads, recovery
#[derive(clap::Args, Debug)]
pub(crate) struct DemoArgs {
    /// Keep the cluster in DIR (must not exist) instead of removing it
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

pub(crate) fn run(args: &DemoArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let stop = Stop::listen(false)?;
    let temporary = match &args.keep {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("quorate-demo-")
                .tempdir()
                .map_err(|error| {
                    Failure::new(exit::CANNOT_CREATE, format!("no temporary folder: {error}"))
                })?,
        ),
    };
    let folder = match (&args.keep, &temporary) {
        (Some(keep), _) => keep.clone(),
        (None, Some(temporary)) => temporary.path().join("cluster"),
        (None, None) => unreachable!("one of the two was just made"),
    };
    let mut story = Story { out };
    // Dropping the story's future kills the nodes, and dropping `temporary` removes their folder:
    // that is all there is to an interruption and to a failure.
    futures_lite::future::block_on(futures_lite::future::or(
        story.tell(&folder, args.keep.is_some()),
        async {
            stop.requested().await;
            Err(Failure::new(
                exit::INTERRUPTED,
                "interrupted; the nodes were stopped",
            ))
        },
    ))
}

/// Tells what happens, one line a step, with its time at the right.
struct Story<'a> {
    out: &'a mut dyn Write,
}

impl Story<'_> {
    async fn tell(&mut self, folder: &Path, keep: bool) -> Result<(), Failure> {
        let version = env!("CARGO_PKG_VERSION");
        self.line(&format!(
            "Quorate {version}: three encrypted nodes on this machine\n"
        ))?;

        let begun = Instant::now();
        let mut cluster = Cluster::create(folder)?;
        let what = format!("a CA, three nodes and a client, in {}", folder.display());
        self.step("certificates", &what, begun)?;

        let begun = Instant::now();
        for node in cluster.nodes() {
            cluster.start(node)?;
        }
        for node in cluster.nodes() {
            cluster.ready(node, STEP_MAX).await?;
        }
        let ports: Vec<String> = cluster
            .addresses()
            .map(|at| at.port().to_string())
            .collect();
        let what = format!(
            "three processes, UDP ports {} of 127.0.0.1",
            ports.join(", ")
        );
        self.step("start", &what, begun)?;

        let io = IoThread::spawn("demo")
            .map_err(|error| Failure::new(exit::OS, format!("cannot start a thread: {error}")))?;
        let endpoints = cluster
            .nodes()
            .into_iter()
            .zip(cluster.addresses())
            .collect();
        let mut config =
            ClientConfig::new(endpoints, super::credentials(&cluster.client_folder())?);
        config.request_timeout = STEP_MAX;
        let client = Client::connect(config, io.runtime())
            .map_err(|error| Failure::new(exit::UNAVAILABLE, error.to_string()))?;

        let leader = until("a leader was elected", || leader(&client)).await?;
        let what = format!("{} leads term {}", name(leader.node), leader.term);
        self.step("election", &what, begun)?;

        let begun = Instant::now();
        load::write_all(&client, KEYS).await?;
        let rate = f64::from(KEYS) / begun.elapsed().as_secs_f64();
        let what = format!("{KEYS} keys, each fsynced on two disks of three ({rate:.0} a second)");
        self.step("write", &what, begun)?;

        let begun = Instant::now();
        cluster.kill(leader.node)?;
        load::write_one(&client, "after the kill").await?;
        let away = begun.elapsed();
        let next = until("a new leader was elected", || {
            leader_other_than(&client, leader.node)
        })
        .await?;
        let what = format!(
            "SIGKILL to {}, the leader: it could say and save nothing",
            name(leader.node)
        );
        self.line(&row("kill", &what, None))?;
        let what = format!(
            "{} leads term {}; writes were away for",
            name(next.node),
            next.term
        );
        self.line(&row("fail-over", &what, Some(away)))?;

        let begun = Instant::now();
        load::read_all(&client, KEYS).await?;
        let what = format!("{KEYS} of {KEYS} keys are there and right (linearizable reads)");
        self.step("read", &what, begun)?;

        let begun = Instant::now();
        let goal = client.status(next.node).await.map_err(asking)?.commit;
        cluster.start(leader.node)?;
        cluster.ready(leader.node, STEP_MAX).await?;
        let back = until("the killed node caught up", async || {
            let status = client.status(leader.node).await.ok()?;
            (status.applied >= goal).then_some(status)
        })
        .await?;
        let what = format!(
            "{} is back and caught up to entry {}",
            name(back.node),
            back.applied
        );
        self.step("restart", &what, begun)?;

        let begun = Instant::now();
        client.close().await;
        cluster.stop(STEP_MAX).await;
        let left = if keep {
            "kept as it is"
        } else {
            "nothing is left behind"
        };
        self.step(
            "stop",
            &format!("all nodes shut down in order; {left}"),
            begun,
        )?;
        if keep {
            self.by_hand(&cluster)?;
        }
        Ok(())
    }

    fn by_hand(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        let program = std::env::args().next().unwrap_or_else(|| "quorate".into());
        self.line("\nStart these nodes by hand, each on a terminal of its own, and talk to them:")?;
        for node in cluster.nodes() {
            let config = cluster.config_file(node);
            self.line(&format!("  {program} start --config {}", config.display()))?;
        }
        let client = cluster.client_folder();
        let nodes: String = cluster
            .nodes()
            .iter()
            .zip(cluster.addresses())
            .map(|(node, at)| format!(" --node {}={at}", node.value()))
            .collect();
        self.line(&format!(
            "  {program} status --cert {}{nodes}",
            client.display()
        ))
    }

    fn step(&mut self, step: &str, what: &str, begun: Instant) -> Result<(), Failure> {
        self.line(&row(step, what, Some(begun.elapsed())))
    }

    fn line(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.out, "{line}")
            .and_then(|()| self.out.flush())
            .map_err(Failure::output)
    }
}

fn row(step: &str, what: &str, took: Option<Duration>) -> String {
    let line = format!("  {step:<13} {what:<70}");
    match took {
        Some(took) => format!("{line} {:>6} ms", took.as_millis()),
        None => line.trim_end().to_owned(),
    }
}

fn name(node: NodeId) -> String {
    format!("node {}", node.value())
}

/// The node that says it leads, in the highest term anyone claims to lead.
async fn leader(client: &Client) -> Option<NodeStatus> {
    let mut leader: Option<NodeStatus> = None;
    for node in client.nodes() {
        // A node that does not answer is asked again in the next round.
        let Some(Ok(status)) = answered(client.status(node)).await else {
            continue;
        };
        let newer = leader.as_ref().is_none_or(|known| known.term < status.term);
        if status.role == Role::Leader && newer {
            leader = Some(status);
        }
    }
    leader
}

async fn leader_other_than(client: &Client, former: NodeId) -> Option<NodeStatus> {
    leader(client).await.filter(|leader| leader.node != former)
}

/// The answer, unless it takes so long that the node must be dead.
async fn answered<T>(question: impl Future<Output = T>) -> Option<T> {
    futures_lite::future::or(async { Some(question.await) }, async {
        Timer::after(20 * POLL_INTERVAL).await;
        None
    })
    .await
}

/// Asks again and again until there is an answer.
async fn until<T>(what: &str, question: impl AsyncFn() -> Option<T>) -> Result<T, Failure> {
    let deadline = Instant::now() + STEP_MAX;
    while Instant::now() < deadline {
        if let Some(answer) = question().await {
            return Ok(answer);
        }
        Timer::after(POLL_INTERVAL).await;
    }
    Err(Failure::new(
        exit::UNAVAILABLE,
        format!("waited {} s, but not until {what}", STEP_MAX.as_secs()),
    )
    .help("run `quorate demo --keep DIR` and look at DIR/n1.log"))
}

#[expect(clippy::needless_pass_by_value, reason = "fits `map_err`")]
fn asking(error: quorate::kv::ClientError) -> Failure {
    connect::failure(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times line up at the right, and no line is wider than a terminal of 100 columns.
    #[test]
    fn times_line_up() {
        let short = row("start", "three", Some(Duration::from_millis(7)));
        let long = row(
            "election",
            &"x".repeat(70),
            Some(Duration::from_millis(12_345)),
        );
        assert_eq!(short.len(), long.len());
        assert!(long.len() <= 100 && long.ends_with(" 12345 ms"));
        assert_eq!(row("kill", "SIGKILL", None), "  kill          SIGKILL");
    }
}
