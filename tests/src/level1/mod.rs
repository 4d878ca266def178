//! Level 1: the consensus crate, core and driver, in a world of its own.
//!
//! Real are `RaftNode`, the driver, the writer, the applier and the handle, as `assemble` connects them.
//! Simulated are the network, the disk, the state machine and time. One thread runs it all; the plan
//! and its seed decide everything.

mod clients;
mod clock;
mod effects;
mod executor;
mod faults;
pub mod invariants;
pub mod log;
mod member;
mod network;
mod seams;
mod trace;
mod world;

use std::time::Duration;

use clock::MILLISECOND;
use executor::lock;
use quorate_consensus::{NodeId, Term};
use world::World;

use crate::level::Outcome;
use crate::plan::Plan;

/// How often it is looked whether all is well again.
const LOOK_INTERVAL: u64 = 100 * MILLISECOND;
/// How often the members are looked at once more before they disagree.
const LOOKS_AGAIN: u64 = 10;
/// After so many election timeouts whoever was promised an answer has one.
const ANSWERED_WITHIN_TIMEOUTS: u64 = 4;

/// Runs `plan`: chaos, healing, recovery, and a last look at everything.
#[must_use]
pub fn run(plan: &Plan, trace: bool) -> Outcome {
    let mut world = World::new(plan, trace);
    world.run_until(plan.params.chaos_ms * MILLISECOND);
    world.heal();
    world.recover();
    world.last_look();
    world.outcome()
}

impl World {
    /// Waits until all is well, at most as long as the plan allows.
    fn recover(&mut self) {
        if !self.can_recover() {
            return;
        }
        let deadline = self.now() + self.plan.params.recovery_max_ms * MILLISECOND;
        loop {
            self.run_until(self.now() + LOOK_INTERVAL);
            if !self.invariants.violations().is_empty() {
                return;
            }
            let missing = match self.clients.all_served() {
                true => self.disagreement(),
                false => Some("not every client has written and read".to_owned()),
            };
            let Some(missing) = missing else { break };
            if self.now() >= deadline {
                return self.invariants.require("liveness", false, || missing);
            }
        }
        let rest = ANSWERED_WITHIN_TIMEOUTS * self.plan.params.election_timeout_ms * MILLISECOND;
        let agreed_on = self.known_leader();
        self.run_until(self.now() + rest);
        // A comparison of states may be on its way through the log.
        let mut disagreement = self.disagreement();
        for _ in 0..LOOKS_AGAIN {
            if disagreement.is_some() {
                self.run_until(self.now() + LOOK_INTERVAL);
                disagreement = self.disagreement();
            }
        }
        let agree = disagreement.is_none() && self.still_leads(agreed_on);
        let detail = || disagreement.unwrap_or_else(|| "another leader".to_owned());
        self.invariants.require("agreement lasts", agree, detail);
    }

    /// The leader and its term, as the first member that is here knows it.
    fn known_leader(&self) -> Option<(Term, NodeId)> {
        let first = self.members.iter().find(|member| !member.gone)?;
        let known = first.process.as_ref()?.handle.leader();
        Some((known.term, known.leader?))
    }

    /// Whether `before` leads still, or has handed over to a voter that is preferred to it.
    fn still_leads(&self, before: Option<(Term, NodeId)>) -> bool {
        let now = self.known_leader();
        let priority = |leads: Option<(Term, NodeId)>| {
            leads.map(|(_, node)| self.plan.params.priority(node.value()))
        };
        now == before || priority(now) > priority(before)
    }

    /// Whether a majority of the voters is left.
    fn can_recover(&self) -> bool {
        let here = |node: NodeId| {
            let mut members = self.members.iter();
            members.any(|member| member.id == node.value() && !member.gone)
        };
        self.invariants.membership().is_quorum(here)
    }

    /// What is not yet as it should be when all is well: one leader that all know, and everywhere the
    /// same log, applied to the end.
    fn disagreement(&self) -> Option<String> {
        let here: Vec<_> = self.members.iter().filter(|member| !member.gone).collect();
        let first = here.first()?;
        let known = first
            .process
            .as_ref()
            .map(|process| process.handle.leader());
        let last = lock(&first.disk).log.last();
        let digest = lock(&first.disk).log.digest(last.index);
        let registers = lock(&first.memory).now.clone();
        for member in &here {
            let node = member.id;
            let Some(process) = &member.process else {
                return Some(format!("n{node} is down"));
            };
            let knows = process.handle.leader();
            let known = known.filter(|known| known.leader.is_some());
            if known.is_none_or(|known| (known.term, known.leader) != (knows.term, knows.leader)) {
                return Some(format!("n{node} knows {knows:?}, n{} {known:?}", first.id));
            }
            let log = &lock(&member.disk).log;
            if log.last() != last || log.digest(last.index) != digest {
                return Some(format!(
                    "n{node} holds {}, n{} {last}",
                    log.last(),
                    first.id
                ));
            }
            let memory = lock(&member.memory);
            if memory.now.applied != last || memory.now != registers {
                return Some(format!(
                    "n{node} has applied {} of {last}",
                    memory.now.applied
                ));
            }
        }
        None
    }

    fn last_look(&mut self) {
        if self.invariants.violations().is_empty() && self.can_recover() {
            self.clients.check(&mut self.invariants);
        }
    }

    fn outcome(mut self) -> Outcome {
        self.counts.entries = self.invariants.committed().len() as u64;
        self.counts.memberships = self.invariants.changes();
        Outcome {
            hash: self.trace.hash(),
            simulated: Duration::from_nanos(self.now()),
            counts: self.counts,
            failure: self.invariants.violations().first().map(|first| {
                let at = Duration::from_nanos(self.now());
                let mut failure = first.clone();
                failure.detail = format!("{} (after {at:?})", failure.detail);
                failure
            }),
        }
    }
}
