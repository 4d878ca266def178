//! Those of a crowd who watch: what it costs the others that they are there, and how soon they are told.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate::kv::{Client, ClientError, Refusal};
use quorate::{NodeId, Term};
use smol::future::or;
use smol::{LocalExecutor, Timer};

use super::{NODES, VALUE_BYTES};

/// How many of those who have a key of their own are told something, one after the other.
const TOLD_ALONE: usize = 100;

/// How long it may take until all have been told.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// How long a node may take to say who leads.
const STATUS_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked whether they have.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);

/// How soon they were told.
#[derive(Debug)]
pub(super) struct Told {
    /// From before the write of a key of one's own until its watcher had it, sorted.
    alone: Vec<Duration>,
    /// How many watch the key that others watch as well.
    together: usize,
    /// From before its write until the last one had it.
    all: Duration,
    /// Whether the leader, or its term, changed while they were told.
    elections: bool,
    /// Questions that failed, and were asked again.
    failed: u64,
    /// Watches that had to begin anew.
    gone: u64,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |it: Duration| it.as_secs_f64() * 1e3;
        let at = |part: usize| self.alone[(self.alone.len() - 1) * part / 100];
        write!(
            f,
            "who watches alone is told {:.1} ms after a write began (p99 {:.1} ms), all {} who watch the same key {:.0} ms \
             after, {} an election; {} questions failed, {} watches began anew",
            ms(at(50)),
            ms(at(99)),
            self.together,
            ms(self.all),
            if self.elections { "with" } else { "without" },
            self.failed,
            self.gone
        )
    }
}

/// What watchers have seen.
#[derive(Default)]
pub(super) struct Seen {
    /// The last revision that each has seen.
    revisions: RefCell<BTreeMap<usize, u64>>,
    failed: Cell<u64>,
    /// How often somebody had to begin anew, since a node did not remember what came next.
    gone: Cell<u64>,
}

fn key(watcher: usize) -> String {
    match watcher.is_multiple_of(2) {
        true => format!("watched/{watcher}"),
        false => "watched/all".to_owned(),
    }
}

/// Lets each of `clients` watch until the executor ends, every other one a key of its own, the rest one and the same; returns
/// once all have begun.
pub(super) async fn begin(executor: &LocalExecutor<'_>, clients: &[Client]) -> Rc<Seen> {
    let seen = Rc::<Seen>::default();
    let begun = Rc::new(Cell::new(0));
    for (number, client) in clients.iter().enumerate() {
        let (seen, begun) = (Rc::clone(&seen), Rc::clone(&begun));
        let client = client.clone();
        let follow = async move {
            let end = Bytes::from(format!("{}\0", key(number)));
            let mut watch = client.watch(key(number), Some(end.clone()), None);
            while watch.begin().await.is_err() {
                seen.failed.update(|it| it + 1);
            }
            begun.update(|it| it + 1);
            loop {
                match watch.next().await {
                    Ok(changes) => {
                        if let Some(last) = changes.last() {
                            seen.revisions.borrow_mut().insert(number, last.revision);
                        }
                    }
                    // As after a read of the keys.
                    Err(ClientError::Refused {
                        refusal: Refusal::HistoryGone { .. },
                        ..
                    }) => {
                        seen.gone.update(|it| it + 1);
                        watch = client.watch(key(number), Some(end.clone()), None);
                    }
                    Err(_) => seen.failed.update(|it| it + 1),
                }
            }
        };
        executor.spawn(follow).detach();
    }
    let all = || begun.get() == clients.len();
    assert!(until(all).await, "everybody begins to watch");
    // A question is asked right after the revision is known.
    Timer::after(Duration::from_secs(1)).await;
    seen
}

/// Writes what is watched by `count`.
pub(super) async fn tell(client: &Client, seen: &Seen, count: usize) -> Told {
    let before = leader(client).await;
    let apart = (count / 2 / TOLD_ALONE).max(1);
    let some = (0..count).step_by(2).step_by(apart).take(TOLD_ALONE);
    let mut alone = Vec::new();
    for watcher in some {
        let begun = Instant::now();
        let revision = put(client, key(watcher)).await;
        let told = || seen.revisions.borrow().get(&watcher) >= Some(&revision);
        assert!(until(told).await, "watcher {watcher} is told");
        alone.push(begun.elapsed());
    }
    alone.sort_unstable();
    let begun = Instant::now();
    let revision = put(client, key(1)).await;
    let together = count / 2;
    let all_told = || {
        let revisions = seen.revisions.borrow();
        revisions.values().filter(|it| **it == revision).count() == together
    };
    assert!(until(all_told).await, "all {together} are told");
    let all = begun.elapsed();
    // Whoever was held up would ask for votes by then.
    Timer::after(Duration::from_secs(1)).await;
    Told {
        alone,
        together,
        all,
        elections: leader(client).await != before,
        failed: seen.failed.get(),
        gone: seen.gone.get(),
    }
}

async fn until(told: impl Fn() -> bool) -> bool {
    let wait = async {
        while !told() {
            Timer::after(LOOK_INTERVAL).await;
        }
        true
    };
    let give_up = async {
        Timer::after(TOLD_WITHIN).await;
        false
    };
    or(wait, give_up).await
}

async fn put(client: &Client, key: String) -> u64 {
    let written = client.put(key, vec![7; VALUE_BYTES]).await;
    written.expect("it is written")
}

/// Who leads, as the first node says that is up.
async fn leader(client: &Client) -> (Term, Option<NodeId>) {
    let nodes = (1..=NODES).filter_map(NodeId::new);
    for node in nodes {
        let late = async {
            Timer::after(STATUS_WITHIN).await;
            None
        };
        if let Some(status) = or(async { client.status(node).await.ok() }, late).await {
            return (status.term, status.leader);
        }
    }
    panic!("no node says who leads");
}
