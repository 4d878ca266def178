//! Worlds and plans that scenarios begin with, and what they all do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate::kv::{Client, ClientError};
use quorate_tests::level::{Counts, Level};
use quorate_tests::params::{Clients, Network, Params};
use quorate_tests::plan::{Fault, Plan, PlannedFault};
use quorate_tests::rng::Rng;
use quorate_tests::sim::{self, World};

/// Longer than anything takes that comes to an end.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// How long a client waits for one answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// The election timeout of every stage.
pub(crate) const ELECTION: Duration = Duration::from_millis(250);

/// A cluster on a good network and good disks, and a few clients who read as often as they write.
pub(crate) fn params(voters: u64) -> Params {
    let mut params = Params::draw(Level::Stack, &mut Rng::new(1));
    params.voters = voters;
    params.election_timeout_ms = ELECTION.as_millis() as u64;
    params.heartbeat_interval_ms = 50;
    params.write_max_us = 500;
    params.network = Network {
        delay_min_us: 200,
        delay_max_us: 500,
        loss_permille: 0,
        duplicate_permille: 0,
        corrupt_permille: 0,
    };
    params.bounds.command = 100_000;
    params.bounds.uncommitted = 400_000;
    params.bounds.message = 64 << 10;
    params.bounds.log_view = 1 << 20;
    params.clients = Clients {
        count: 3,
        think_max_ms: 100,
        patience_ms: 1_000,
        keys: 2,
        read_percent: 50,
        value_bytes_max: 100,
        watchers: 1,
        holders: 1,
    };
    params
}

/// `voters` nodes, one of which leads, and no clients but those that a test makes.
pub(crate) fn world(voters: u64, seed: u64) -> World {
    world_as(seed, params(voters))
}

/// The same with other parameters.
pub(crate) fn world_as(seed: u64, mut params: Params) -> World {
    params.clients.count = 2;
    let mut world = World::new(seed, &params, false);
    for node in 1..=params.voters {
        world.start(node).unwrap();
    }
    settle(&mut world, params.voters);
    world
}

/// Waits until one leads and all follow.
pub(crate) fn settle(world: &mut World, voters: u64) {
    let deadline = world.now() + LONG;
    let settled = world.run_until(deadline, |world| {
        let status = |node| world.status(node).filter(|status| status.leader.is_some());
        let all: Option<Vec<_>> = (1..=voters).map(status).collect();
        all.is_some_and(|all| {
            all.iter()
                .all(|one| (one.term, one.leader) == (all[0].term, all[0].leader))
        })
    });
    assert!(settled, "one leads and all follow: {:?}", world.failure());
}

/// Who leads.
pub(crate) fn leader(world: &World) -> u64 {
    world.leader().unwrap()
}

/// The nodes of `1..=voters` without `node`.
pub(crate) fn others(voters: u64, node: u64) -> Vec<u64> {
    (1..=voters).filter(|other| *other != node).collect()
}

/// The term that `node` said it is in.
pub(crate) fn term(world: &World, node: u64) -> u64 {
    world.status(node).unwrap().term.value()
}

/// What comes of `work`, if anything does in time.
pub(crate) fn ask<T: Send + 'static>(
    world: &mut World,
    within: Duration,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let answer = Arc::new(Mutex::new(None));
    let told = Arc::clone(&answer);
    let deadline = world.now() + within;
    let done = async move { *told.lock().unwrap() = Some(work.await) };
    world.run_to_end(done, deadline);
    answer.lock().unwrap().take()
}

/// Writes `key` and waits until that is acknowledged, however often it has to be tried.
pub(crate) fn put(world: &mut World, key: &'static str) {
    served(world, |client| async move {
        client.put(key, "value").await.map(drop)
    });
}

/// Whether `key` is there, as whoever leads says.
pub(crate) fn get(world: &mut World, key: &'static str) -> bool {
    served(world, |client| async move {
        client.get(key).await.map(|found| found.is_some())
    })
}

/// Asks until there is an answer.
fn served<T, W>(world: &mut World, work: impl Fn(Client) -> W) -> T
where
    T: Send + 'static,
    W: Future<Output = Result<T, ClientError>> + Send + 'static,
{
    let client = world.client(1, PATIENCE);
    let deadline = world.now() + LONG;
    while world.now() < deadline && world.failure().is_none() {
        if let Some(Ok(answer)) = ask(world, LONG, work(client.clone())) {
            return answer;
        }
        // A refusal that takes no time must not be asked for again and again at the same moment.
        world.run_for(Duration::from_millis(20));
    }
    panic!("nobody is served within {LONG:?}: {:?}", world.failure());
}

/// Asks `node` and nobody else for `key`.
pub(crate) fn get_at(world: &mut World, node: u64, key: &'static str) -> Result<bool, ClientError> {
    let client = world.client_at(1, node, PATIENCE);
    let get = async move { client.get(key).await.map(|found| found.is_some()) };
    ask(world, LONG, get).expect("nothing waits without a limit")
}

/// A fault at a time, for a time, both in milliseconds.
pub(crate) fn fault(at_ms: u64, lasts_ms: u64, fault: Fault) -> PlannedFault {
    PlannedFault {
        at_ms,
        lasts_ms,
        fault,
    }
}

/// A run under `faults` for some seconds: no promise is broken, clients are served, all recover.
pub(crate) fn survives(params: Params, seconds: u64, faults: Vec<PlannedFault>) -> Counts {
    let mut plan = Plan {
        seed: 1,
        params,
        faults,
    };
    plan.params.chaos_ms = seconds * 1_000;
    let outcome = sim::run(&plan, false);
    assert_eq!(outcome.failure, None, "{plan:?}");
    assert!(outcome.counts.acknowledged > 0, "{:?}", outcome.counts);
    outcome.counts
}
