//! The world: members, links and clients, and what happens to them one event after the other.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use quorate_consensus::{Membership, Message, NodeId, Role};

use super::clients::Clients;
use super::clock::{MICROSECOND, MILLISECOND, NodeClock, Time};
use super::executor::{Part, TaskId, Woken, lock};
use super::faults::Suffering;
use super::invariants::Invariants;
use super::member::{Member, Process};
use super::network::{AppendLanes, Links};
use super::seams::Effects;
use super::trace::Trace;
use crate::level::Counts;
use crate::log;
use crate::plan::Plan;
use crate::rng::Rng;

/// A leader that hears from no majority steps down within so many election timeouts, also by a clock at
/// half the rate.
const STEPS_DOWN_WITHIN_TIMEOUTS: u64 = 6;

/// How often each node is asked how it stands.
const PROBE_INTERVAL: u64 = 500 * MILLISECOND;

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) rng: Rng,
    pub(super) time: Arc<Time>,
    pub(super) members: Vec<Member>,
    pub(super) links: Links,
    pub(super) lanes: AppendLanes,
    pub(super) suffering: Suffering,
    pub(super) clients: Clients,
    pub(super) invariants: Invariants,
    pub(super) counts: Counts,
    pub(super) trace: Trace,
    pub(super) effects: Effects,
    pub(super) woken: Woken,
    pub(super) buffer: Vec<u8>,
    /// The network has no weather of its own any more.
    pub(super) healed: bool,
    events: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
}

/// Something that is going to happen.
pub(super) enum Event {
    Run(TaskId),
    Wake(Waker),
    /// Boxed, so that events are small: they move often.
    Deliver {
        from: u64,
        to: u64,
        message: Box<Message>,
    },
    /// A node learns that its connection with a peer is gone.
    Disconnected {
        node: u64,
        peer: u64,
    },
    FaultBegins(usize),
    FaultEnds(usize),
    ClientTurn {
        client: u64,
        turn: u64,
    },
    /// A client has waited long enough for the answer to an operation.
    ClientGivesUp {
        client: u64,
        operation: u64,
    },
    Probe,
}

struct Scheduled {
    at: u64,
    /// Decides between what happens at the same time: first by chance, then by age.
    order: (u32, u64),
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

pub(super) fn id(node: u64) -> NodeId {
    NodeId::new(node).expect("nodes are counted from one")
}

impl World {
    pub(super) fn new(plan: &Plan, trace: bool) -> Self {
        let params = &plan.params;
        let voters = (1..=params.voters).map(id);
        let learners = (params.voters + 1..=params.nodes()).map(id);
        let membership = Membership::new(voters, learners).expect("a plan has voters");
        let time = Arc::new(Time::default());
        let base = Instant::now();
        let member = |node| {
            let clock = NodeClock::new(Arc::clone(&time), base);
            Member::new(node, membership.clone(), clock)
        };
        let mut world = Self {
            rng: Rng::stream(plan.seed, "world"),
            members: (1..=params.nodes()).map(member).collect(),
            links: Links::under(params.nodes(), std::iter::empty()),
            lanes: AppendLanes::default(),
            suffering: Suffering::default(),
            clients: Clients::new(&params.clients),
            invariants: Invariants::new(membership.clone()),
            counts: Counts::default(),
            trace: Trace::new(trace),
            effects: Effects::default(),
            woken: Woken::default(),
            buffer: Vec::new(),
            healed: false,
            events: BinaryHeap::new(),
            scheduled: 0,
            plan: plan.clone(),
            time,
        };
        for node in 1..=world.plan.params.nodes() {
            world.start(node);
        }
        for (number, fault) in plan.faults.iter().enumerate() {
            world.schedule_at(fault.at_ms * MILLISECOND, Event::FaultBegins(number));
        }
        for client in 0..plan.params.clients.count {
            world.schedule_turn(client, MILLISECOND);
        }
        world.schedule(PROBE_INTERVAL, Event::Probe);
        world
    }

    pub(super) fn now(&self) -> u64 {
        self.time.now()
    }

    pub(super) fn schedule(&mut self, after: u64, event: Event) {
        self.schedule_at(self.now() + after, event);
    }

    pub(super) fn schedule_at(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        let order = (self.rng.next_u64() as u32, self.scheduled);
        self.events.push(Reverse(Scheduled { at, order, event }));
    }

    /// Lets everything happen that does until `end`, or until a promise is broken.
    pub(super) fn run_until(&mut self, end: u64) {
        while self.invariants.violations().is_empty() {
            match self.events.peek() {
                Some(Reverse(next)) if next.at <= end => {}
                _ => break,
            }
            let Reverse(next) = self.events.pop().expect("just seen");
            self.time.set(next.at);
            self.happen(next.event);
            self.settle();
        }
        self.time.set(end.max(self.now()));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Run(task) => self.run_task(task),
            Event::Wake(waker) => waker.wake(),
            Event::Deliver { from, to, message } => self.deliver(from, to, *message),
            Event::Disconnected { node, peer } => {
                if let Some(process) = &self.member(node).process {
                    process.control.report_unreachable(id(peer));
                }
            }
            Event::FaultBegins(number) => self.begin_fault(number),
            Event::FaultEnds(number) => self.end_fault(number),
            Event::ClientTurn { client, turn } => self.client_turn(client, turn),
            Event::ClientGivesUp { client, operation } => self.client_gives_up(client, operation),
            Event::Probe => self.probe(),
        }
    }

    /// Takes in what the last event has caused.
    fn settle(&mut self) {
        loop {
            let effects = std::mem::take(&mut *lock(&self.effects));
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.take_effect(effect);
            }
        }
        let asked = std::mem::take(&mut *lock(&self.time.asked));
        for (at, waker) in asked {
            self.schedule_at(at, Event::Wake(waker));
        }
        let woken = std::mem::take(&mut *lock(&self.woken));
        for task in woken {
            self.schedule_task(task);
        }
    }

    pub(super) fn schedule_task(&mut self, task: TaskId) {
        let (write_max, apply_max) = match self.healed {
            true => (1, 1),
            false => (self.plan.params.write_max_us, self.plan.params.apply_max_us),
        };
        let delay = match task.part {
            Part::Driver => 0,
            Part::Writer => self.rng.within(0..write_max * MICROSECOND),
            Part::Applier | Part::Courier => self.rng.within(0..apply_max * MICROSECOND),
        };
        self.schedule(delay, Event::Run(task));
    }

    fn run_task(&mut self, task: TaskId) {
        let held = self.suffering.holds(task);
        log::moment(self.time.now(), task.node);
        let member = self.member_mut(task.node);
        if member.life != task.life {
            return;
        }
        let Some(process) = &mut member.process else {
            return;
        };
        if held {
            return member.held.push(task);
        }
        process.run(task.part);
        self.trace
            .note(self.time.now(), &[task.node, task.part as u64], || {
                format!("n{} runs its {:?}", task.node, task.part)
            });
        if self.process_of(task.node).is_some_and(Process::has_ended) {
            self.has_ended(task.node);
        }
    }

    fn deliver(&mut self, from: u64, to: u64, message: Message) {
        if self.links.get(from, to).cut {
            return;
        }
        let now = self.now();
        self.member_mut(to).heard.insert(from, now);
        if let Some(process) = &self.member(to).process {
            process.control.deliver(id(from), message);
        }
    }

    fn probe(&mut self) {
        for node in 1..=self.members.len() as u64 {
            let process = self.member_mut(node).process.as_mut();
            if let Some(status) = process.and_then(Process::probe) {
                self.invariants.status(&status);
                if status.role == Role::Leader {
                    self.leads_for_a_reason(node, &status.membership);
                }
            }
        }
        self.schedule(PROBE_INTERVAL, Event::Probe);
    }

    /// A leader that hears from no majority steps down (thesis, section 6.2), or clients and followers
    /// would stay with it for ever.
    fn leads_for_a_reason(&mut self, node: u64, membership: &Membership) {
        let timeout = self.plan.params.election_timeout_ms * MILLISECOND;
        let since = self
            .now()
            .saturating_sub(STEPS_DOWN_WITHIN_TIMEOUTS * timeout);
        let member = self.member(node);
        if member.undisturbed_since >= since {
            return;
        }
        let heard = |voter: NodeId| {
            let at = member.heard.get(&voter.value());
            voter.value() == node || at.is_some_and(|&at| at >= since)
        };
        let reason = membership.is_quorum(heard);
        self.invariants
            .require("leaders have a majority", reason, || {
                format!("n{node} leads, although it hears from no majority of {membership}")
            });
    }

    pub(super) fn member(&self, node: u64) -> &Member {
        &self.members[node as usize - 1]
    }

    pub(super) fn member_mut(&mut self, node: u64) -> &mut Member {
        &mut self.members[node as usize - 1]
    }

    pub(super) fn process_of(&self, node: u64) -> Option<&Process> {
        self.member(node).process.as_ref()
    }

    /// The node that last claimed to lead, as any node knows it.
    pub(super) fn leader(&self) -> Option<u64> {
        let processes = self.members.iter().filter_map(|m| m.process.as_ref());
        let known = processes.map(|process| process.handle.leader());
        let newest = known.filter(|known| known.leader.is_some());
        newest
            .max_by_key(|known| known.term)?
            .leader
            .map(NodeId::value)
    }
}
