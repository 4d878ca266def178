//! A run: a cluster and its clients under the faults of a plan, then healed, then judged.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use quorate::{LogIndex, Role};

use super::inject::Injector;
use super::workload::Workload;
use super::world::{World, client_host};
use crate::level::{Counts, Failure, Outcome};
use crate::plan::Plan;

/// How often nodes that have ended are started again and disks looked at.
const TEND_EVERY: Duration = Duration::from_millis(100);
/// How often, in those, the disks are looked at: each look reads every one of them.
const DISKS_EVERY: u64 = 100;

/// How long a healthy cluster may take to apply one write everywhere. A network that swaps packets carries
/// little, and some may lack much, ..
const EQUAL_WITHIN: Duration = Duration::from_secs(60);
/// .. but they must get on: the largest message is there within this.
const STILL_MAX: Duration = Duration::from_secs(10);

/// How long those who watch may take to see what was applied when all was well: they ask for ten seconds, and
/// may have asked a node that does not come back.
const SEEN_WITHIN: Duration = Duration::from_secs(60);

/// A run, and what is worth reading of it.
pub struct Report {
    /// What came of it.
    pub outcome: Outcome,
    /// What happened, line by line, if it was to be kept.
    pub trace: Vec<String>,
}

/// Runs `plan` from beginning to end; prints every event when `trace` is set.
#[must_use]
pub fn run(plan: &Plan, trace: bool) -> Outcome {
    let report = report(plan, trace);
    for line in &report.trace {
        println!("{line}");
    }
    report.outcome
}

/// Runs `plan`; keeps the lines of what happened if `keep_trace`.
#[must_use]
pub fn report(plan: &Plan, keep_trace: bool) -> Report {
    let mut world = World::new(plan.seed, &plan.params, keep_trace);
    let workload = Workload::new();
    let mut injector = Injector::new(plan);
    let lived = catch_unwind(AssertUnwindSafe(|| {
        live(&mut world, plan, &workload, &mut injector);
    }));
    let failure = match lived {
        Ok(()) => world.failure(),
        Err(panic) => Some(Failure {
            invariant: "no panic".into(),
            detail: panic_text(&*panic),
        }),
    };
    if let Some(failure) = &failure {
        world.engine.note(&format!("FAILED {failure}"));
    }
    let trace = world.engine.trace();
    let simulated = world.now();
    let counts = count(&world, &workload, injector.counts);
    if failure.is_none() {
        world.end();
    }
    Report {
        outcome: Outcome {
            hash: trace.digest(),
            simulated,
            counts,
            failure,
        },
        trace: trace.lines().to_vec(),
    }
}

fn live(world: &mut World, plan: &Plan, workload: &Workload, injector: &mut Injector) {
    let params = &plan.params;
    let nodes = params.nodes();
    for node in 1..=nodes {
        world.restart(node);
    }
    workload.begin(world, plan);
    suffer(
        world,
        injector,
        Duration::from_millis(params.chaos_ms),
        nodes,
    );
    injector.end_all(world, nodes);
    recover(world, plan, workload, injector);
    if world.failure().is_none() {
        judge(world, plan, workload, injector);
    }
}

/// Safety phase: faults as planned.
fn suffer(world: &mut World, injector: &mut Injector, until: Duration, nodes: u64) {
    for tended in 1.. {
        injector.inject(world, nodes);
        if world.now() >= until || world.failure().is_some() {
            return;
        }
        let next = injector.next_at().unwrap_or(until).min(until);
        let step = (world.now() + TEND_EVERY).min(next.max(world.now()));
        world.run_until(step, |_| false);
        if tended % DISKS_EVERY == 0 {
            world.check_disks();
        }
    }
}

/// Liveness phase: without faults, all is well in time, and every client can write and read.
fn recover(world: &mut World, plan: &Plan, workload: &Workload, injector: &mut Injector) {
    let recovery_max = Duration::from_millis(plan.params.recovery_max_ms);
    let mut deadline = world.now() + recovery_max;
    workload.finish();
    let clients = plan.params.clients.count + plan.params.clients.holders;
    let nodes = plan.params.nodes();
    let well = |world: &World| is_well(world, nodes) && workload.finished() == clients;
    while world.now() < deadline && !well(world) && world.failure().is_none() {
        injector.start_free(world, nodes);
        if world.is_stopping() {
            // Its connections may have to drain for long; the stop has a bound of its own.
            deadline = world.now() + recovery_max;
        }
        let step = world.now() + TEND_EVERY;
        world.run_until(step, |_| false);
    }
    if !well(world) {
        let statuses: Vec<String> = world.statuses().iter().map(ToString::to_string).collect();
        let detail = format!(
            "{statuses:?} {} ms after the last fault, {} of {clients} clients are served",
            plan.params.recovery_max_ms,
            workload.finished()
        );
        world
            .book
            .with(|book| book.fails("recovery in time", detail));
    }
}

/// Final judgement: the states are equal, the disks hold what they should, and what clients were told
/// was true.
fn judge(world: &mut World, plan: &Plan, workload: &Workload, injector: &mut Injector) {
    let nodes = plan.params.nodes();
    let from = world.statuses().iter().map(|status| status.applied).max();
    world.book.with(|book| book.compare_all = true);
    let last = world.client(1, Duration::from_secs(5));
    world.spawn_on(client_host(1), async move {
        let _ = last.put("last", "word").await;
    });
    let equal = become_equal(world, injector, nodes, from.unwrap_or_default());
    let statuses = world.statuses();
    world.book.with(|book| {
        book.must(equal, "all apply the same", || {
            let statuses: Vec<String> = statuses.iter().map(ToString::to_string).collect();
            format!("a last write is not applied everywhere, and nothing moves: {statuses:?}")
        });
    });
    let to = from.unwrap_or_default().value();
    let watchers = plan.params.clients.watchers;
    let seen = wait_up(world, injector, nodes, SEEN_WITHIN, |_| {
        workload.have_seen(watchers, to)
    });
    world.book.with(|book| {
        book.must(seen, "watches get on", || {
            format!("not up to revision {to}")
        });
    });
    world.check_disks();
    if let Err((invariant, detail)) = workload.judge(world) {
        world.book.with(|book| book.fails(invariant, detail));
    }
}

/// Waits until all have applied the same, `from` and what came after it; false when they get no further.
fn become_equal(world: &mut World, injector: &mut Injector, nodes: u64, from: LogIndex) -> bool {
    let end = world.now() + EQUAL_WITHIN;
    let lasts = |world: &World| {
        world
            .statuses()
            .iter()
            .map(|status| status.last.index.value())
            .sum::<u64>()
    };
    while world.now() < end {
        let before = lasts(world);
        if wait_up(world, injector, nodes, STILL_MAX, |world| {
            world.states_compared(from)
        }) {
            return true;
        }
        if lasts(world) == before {
            return false;
        }
    }
    false
}

/// Waits until `done`, at most for `patience`; false when it was not, or when a promise was broken: then time
/// does not pass any more. A disk that was to fail may do so only now: its node is started again.
fn wait_up(
    world: &mut World,
    injector: &mut Injector,
    nodes: u64,
    patience: Duration,
    done: impl Fn(&World) -> bool,
) -> bool {
    let deadline = world.now() + patience;
    while world.now() < deadline && world.failure().is_none() {
        injector.start_free(world, nodes);
        let step = world.now() + TEND_EVERY;
        if world.run_until(step, &done) {
            return true;
        }
    }
    false
}

/// One leads, and all follow it.
fn is_well(world: &World, nodes: u64) -> bool {
    let statuses = world.statuses();
    let Some(leader) = statuses.iter().find(|status| status.role == Role::Leader) else {
        return false;
    };
    let present = nodes as usize - world.lost().len();
    statuses.len() == present
        && statuses
            .iter()
            .all(|status| status.term == leader.term && status.leader == Some(leader.node))
}

fn count(world: &World, workload: &Workload, faults: Counts) -> Counts {
    let (_, messages) = world.effort();
    let (elections, writes, entries, memberships) = world.book.with(|book| {
        let (entries, changes) = (book.committed_count(), book.changes());
        (book.elections, book.writes, entries, changes)
    });
    Counts {
        memberships,
        elections,
        messages,
        writes,
        entries,
        acknowledged: workload.acknowledged(),
        reads: workload.reads(),
        operations: workload.operations(),
        changes: workload.changes(),
        leases: workload.leases(),
        ..faults
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".into())
}
