//! How each fault is injected, and ended.

use std::collections::BTreeSet;
use std::future::Future;
use std::task::{Context, Waker};

use super::clock::MILLISECOND;
use super::executor::{Part, TaskId, lock};
use super::network::Links;
use super::world::{Event, World, id};
use quorate_consensus::MembershipChange;

use crate::plan::Fault;

/// What the faults of the moment do to nodes; derived from them whenever one begins or ends.
#[derive(Default)]
pub(super) struct Suffering {
    /// By their number in the plan.
    active: BTreeSet<usize>,
    /// As one bit for each node.
    paused: u64,
    disk_stalled: u64,
    disk_fails: u64,
    machine_stalled: u64,
    down: u64,
}

impl Suffering {
    /// Whether `task` cannot run now.
    pub(super) fn holds(&self, task: TaskId) -> bool {
        let stalled = match task.part {
            Part::Driver => 0,
            Part::Writer => self.disk_stalled,
            Part::Applier | Part::Courier => self.machine_stalled,
        };
        (self.paused | stalled) & (1 << task.node) != 0
    }

    fn keeps_down(&self, node: u64) -> bool {
        self.down & (1 << node) != 0
    }

    fn suffer(&mut self, fault: &Fault) {
        match fault {
            Fault::Kill { node, .. }
            | Fault::Stop { node }
            | Fault::Wipe { node }
            | Fault::RestoreImage { node } => self.down |= 1 << node,
            Fault::FailDisk { node } => {
                self.disk_fails |= 1 << node;
                self.down |= 1 << node;
            }
            Fault::KillAll { .. } => self.down = u64::MAX,
            Fault::Pause { node } => self.paused |= 1 << node,
            Fault::StallDisk { node } => self.disk_stalled |= 1 << node,
            Fault::StallMachine { node } => self.machine_stalled |= 1 << node,
            // This level has no files, no certificates and no datagrams.
            Fault::TurnBit { .. }
            | Fault::MisplaceSector { .. }
            | Fault::WallClock { .. }
            | Fault::Throttle { .. }
            | Fault::Clog { .. }
            | Fault::ShrinkMtu { .. }
            | Fault::Flap { .. }
            | Fault::ClockJump { .. }
            | Fault::ClockRate { .. }
            | Fault::Partition { .. }
            | Fault::CutOneWay { .. }
            | Fault::Bridge { .. }
            | Fault::Degrade { .. }
            | Fault::Transfer { .. }
            | Fault::ChangeVoters { .. }
            | Fault::Campaign { .. } => {}
        }
    }
}

impl World {
    pub(super) fn begin_fault(&mut self, number: usize) {
        let planned = self.plan.faults[number].clone();
        self.trace.note(self.time.now(), &[number as u64], || {
            format!("begins: {:?}", planned.fault)
        });
        self.suffering.active.insert(number);
        self.suffer();
        self.inject(&planned.fault);
        self.schedule(planned.lasts_ms * MILLISECOND, Event::FaultEnds(number));
    }

    pub(super) fn end_fault(&mut self, number: usize) {
        if !self.suffering.active.remove(&number) {
            return;
        }
        let fault = self.plan.faults[number].fault.clone();
        self.trace.note(self.time.now(), &[number as u64], || {
            format!("ends: {fault:?}")
        });
        if let Fault::ClockRate { node, .. } = fault {
            self.member(node).clock.set_rate(None);
        }
        self.suffer();
        self.revive();
    }

    fn inject(&mut self, fault: &Fault) {
        let counts = &mut self.counts;
        match *fault {
            Fault::ChangeVoters { ref voters } => {
                counts.membership_faults += 1;
                self.change_voters(voters);
            }
            Fault::Kill { node, written } => self.kill(node, written),
            Fault::KillAll { written } => {
                (1..=self.members.len() as u64).for_each(|node| self.kill(node, written));
            }
            Fault::Stop { node } => {
                counts.stops += 1;
                if let Some(process) = &mut self.member_mut(node).process {
                    process.control.stop();
                    process.stopping = true;
                }
            }
            Fault::Pause { .. } => counts.pauses += 1,
            Fault::FailDisk { .. } | Fault::StallDisk { .. } | Fault::StallMachine { .. } => {
                counts.disk_faults += 1;
            }
            Fault::TurnBit { .. }
            | Fault::MisplaceSector { .. }
            | Fault::WallClock { .. }
            | Fault::Throttle { .. }
            | Fault::Clog { .. }
            | Fault::ShrinkMtu { .. }
            | Fault::Flap { .. } => {}
            Fault::ClockJump { node, by_ms } => {
                counts.clock_faults += 1;
                self.member(node).clock.jump(by_ms);
            }
            Fault::ClockRate { node, permille } => {
                counts.clock_faults += 1;
                self.member(node).clock.set_rate(Some(permille));
            }
            Fault::Partition { .. } | Fault::CutOneWay { .. } | Fault::Bridge { .. } => {
                counts.partitions += 1;
            }
            Fault::Degrade { .. } => counts.link_faults += 1,
            Fault::Transfer { to } => {
                counts.leadership_faults += 1;
                self.transfer(to);
            }
            Fault::Campaign { node } => {
                counts.leadership_faults += 1;
                if let Some(process) = self.process_of(node) {
                    process.handle.campaign();
                }
            }
            // Who is who is decided above this crate: a node whose store is not what it was is refused
            // by the others, which is as if it were away.
            Fault::Wipe { node } | Fault::RestoreImage { node } => {
                counts.identity_faults += 1;
                self.member_mut(node).gone = true;
                self.kill(node, false);
            }
        }
    }

    /// The end of all that goes wrong.
    pub(super) fn heal(&mut self) {
        self.healed = true;
        for number in self.suffering.active.clone() {
            self.end_fault(number);
        }
    }

    /// Derives what nodes and links suffer from the faults of the moment.
    fn suffer(&mut self) {
        let active = std::mem::take(&mut self.suffering.active);
        let mut suffering = Suffering::default();
        let paused = self.suffering.paused;
        let faults = || active.iter().map(|&number| &self.plan.faults[number].fault);
        faults().for_each(|fault| suffering.suffer(fault));
        self.links = Links::under(self.members.len() as u64, faults());
        for member in &self.members {
            *lock(&member.refused) = self.links.refused(member.id);
            lock(&member.disk).fails = suffering.disk_fails & (1 << member.id) != 0;
        }
        suffering.active = active;
        self.suffering = suffering;
        let now = self.now();
        for node in 1..=self.members.len() as u64 {
            if paused & (1 << node) != 0 {
                self.member_mut(node).undisturbed_since = now;
            }
            for task in std::mem::take(&mut self.member_mut(node).held) {
                self.schedule_task(task);
            }
        }
    }

    /// Starts every node that nothing keeps down any more.
    fn revive(&mut self) {
        for node in 1..=self.members.len() as u64 {
            let member = self.member(node);
            if member.process.is_none() && !member.gone && !self.suffering.keeps_down(node) {
                self.start(node);
            }
        }
    }

    pub(super) fn start(&mut self, node: u64) {
        let Self {
            members,
            plan,
            woken,
            effects,
            ..
        } = self;
        let member = &mut members[node as usize - 1];
        let started = member.start(plan.seed, &plan.params, woken, effects);
        let life = member.life;
        self.trace.note(self.time.now(), &[node, life], || {
            format!("n{node} starts for the {life}. time")
        });
        if let Err(error) = started {
            self.invariants
                .require("every node starts again", false, || {
                    format!("n{node}: {error}")
                });
        }
    }

    fn kill(&mut self, node: u64, written: bool) {
        if !self.member_mut(node).kill(written) {
            return;
        }
        self.counts.kills += 1;
        self.buried(node);
    }

    /// The process of `node` has ended by itself: in good order, or because its disk failed.
    pub(super) fn has_ended(&mut self, node: u64) {
        let Some(process) = self.member_mut(node).process.take() else {
            return;
        };
        let (end, stopping) = (lock(&process.end).take(), process.stopping);
        drop(process);
        let failed = lock(&self.member(node).disk).has_failed;
        if let Some(Err(fatal)) = end {
            // Told to stop, it does not wait for what does not answer, and says so.
            let reason = failed || stopping && fatal.leaves_a_thread();
            self.invariants
                .require("nodes stop for a reason only", reason, || {
                    format!("n{node} stops: {fatal}")
                });
        }
        self.buried(node);
        self.revive();
    }

    fn buried(&mut self, node: u64) {
        self.trace
            .note(self.time.now(), &[node], || format!("n{node} has ended"));
        let member = self.member_mut(node);
        member.held.clear();
        let alone = member.is_alone();
        self.invariants.ended(node);
        self.invariants
            .require("nothing outlives a process", alone, || {
                format!("something of n{node} is still held")
            });
        self.notice_end(node);
    }

    fn change_voters(&mut self, voters: &[u64]) {
        let Some(leader) = self.leader() else { return };
        if let Some(process) = self.process_of(leader) {
            let all = (1..=self.members.len() as u64).map(id);
            let voters: BTreeSet<_> = voters.iter().copied().map(id).collect();
            let learners = all.filter(|node| !voters.contains(node)).collect();
            let change = MembershipChange::Set {
                voters,
                learners,
                addresses: [].into(),
            };
            let handle = process.handle.clone();
            let mut asked = Box::pin(async move { handle.change_membership(change, None).await });
            let mut context = Context::from_waker(Waker::noop());
            let _ = asked.as_mut().poll(&mut context);
        }
    }

    fn transfer(&mut self, to: Option<u64>) {
        let Some(leader) = self.leader() else { return };
        if let Some(process) = self.process_of(leader) {
            let handle = process.handle.clone();
            let mut asked = Box::pin(async move { handle.transfer_leader(to.map(id)).await });
            // Whoever asked does not wait for the outcome.
            let mut context = Context::from_waker(Waker::noop());
            let _ = asked.as_mut().poll(&mut context);
        }
    }
}
