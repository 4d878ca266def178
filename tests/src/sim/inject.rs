//! Carries out the faults of a plan: an arm for each, where it begins and where it ends.

use std::collections::BTreeMap;
use std::time::Duration;

use super::disk::Failure;
use super::network::DATAGRAM_BYTES_MAX;
use super::world::{Image, World, node_host};
use crate::level::Counts;
use crate::plan::{Fault, Plan, PlannedFault};
use crate::rng::Rng;

/// Whether a fault begins or ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Edge {
    Begins {
        until: Duration,
    },
    /// It is there again, after it was gone for a moment.
    Returns,
    Ends,
}

/// When `planned` begins and ends: a link that flaps does it again and again.
fn edges(planned: &PlannedFault) -> Vec<(Duration, Edge, Fault)> {
    let begins = Duration::from_millis(planned.at_ms);
    let ends = begins + Duration::from_millis(planned.lasts_ms);
    let edge = |at: Duration, edge: Edge| (at, edge, planned.fault.clone());
    let first = edge(begins, Edge::Begins { until: ends });
    let Fault::Flap { every_ms, .. } = planned.fault else {
        return vec![first, edge(ends, Edge::Ends)];
    };
    let every = Duration::from_millis(every_ms.max(1));
    let mut edges = vec![first];
    let mut at = begins;
    while at < ends {
        edges.push(edge((at + every).min(ends), Edge::Ends));
        at += 2 * every;
        if at < ends {
            edges.push(edge(at, Edge::Returns));
        }
    }
    edges
}

/// The faults of a plan, in the order of time.
pub(super) struct Injector {
    edges: Vec<(Duration, Edge, Fault)>,
    next: usize,
    /// How many faults keep a node from being started.
    held: BTreeMap<u64, u32>,
    images: BTreeMap<u64, Image>,
    rng: Rng,
    pub(super) counts: Counts,
}

impl Injector {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut edges: Vec<_> = plan.faults.iter().flat_map(edges).collect();
        edges.sort_by_key(|(at, _, _)| *at);
        Self {
            edges,
            next: 0,
            held: BTreeMap::new(),
            images: BTreeMap::new(),
            rng: Rng::stream(plan.seed, "faults"),
            counts: Counts::default(),
        }
    }

    /// When something happens next.
    pub(super) fn next_at(&self) -> Option<Duration> {
        self.edges.get(self.next).map(|(at, _, _)| *at)
    }

    /// Does what is due, and starts nodes that nothing keeps down.
    pub(super) fn inject(&mut self, world: &mut World, nodes: u64) {
        while self.next_at().is_some_and(|at| at <= world.now()) {
            let (_, edge, fault) = self.edges[self.next].clone();
            self.next += 1;
            match edge {
                Edge::Begins { until } => self.begin(world, &fault, until, nodes),
                Edge::Returns => recur(world, &fault),
                Edge::Ends => self.end(world, &fault, nodes),
            }
        }
        self.start_free(world, nodes);
    }

    /// Everything that lasts ends now.
    pub(super) fn end_all(&mut self, world: &mut World, nodes: u64) {
        for node in 1..=nodes {
            world.pause(node, false);
            world.stall_disk(node, false);
            world.set_clock_rate(node, 1_000);
            world.set_wall_clock(node, 0);
        }
        self.next = self.edges.len();
        self.held.clear();
        world.heal_network();
        self.start_free(world, nodes);
    }

    pub(super) fn start_free(&mut self, world: &mut World, nodes: u64) {
        for node in 1..=nodes {
            if self.held.get(&node).copied().unwrap_or(0) == 0 {
                world.restart(node);
            }
        }
    }

    fn hold(&mut self, node: u64) {
        *self.held.entry(node).or_default() += 1;
    }

    fn release(&mut self, node: u64) {
        let held = self.held.entry(node).or_default();
        *held = held.saturating_sub(1);
    }

    fn begin(&mut self, world: &mut World, fault: &Fault, until: Duration, nodes: u64) {
        match *fault {
            Fault::Kill { node, written } => {
                self.counts.kills += u64::from(world.runs(node));
                self.hold(node);
                world.kill(node, written);
            }
            Fault::KillAll { written } => {
                for node in 1..=nodes {
                    self.counts.kills += u64::from(world.runs(node));
                    self.hold(node);
                    world.kill(node, written);
                }
            }
            Fault::Stop { node } => {
                self.counts.stops += u64::from(world.runs(node));
                self.hold(node);
                // A frozen process does not hear that it is to stop.
                world.pause(node, false);
                world.stall_disk(node, false);
                world.stop(node);
            }
            Fault::Pause { node } => {
                self.counts.pauses += 1;
                world.pause(node, true);
            }
            Fault::StallDisk { node } | Fault::StallMachine { node } => {
                self.counts.disk_faults += 1;
                world.stall_disk(node, true);
            }
            Fault::FailDisk { node } => {
                self.counts.disk_faults += 1;
                let failures = [
                    Failure::Broken,
                    Failure::Full,
                    Failure::ShortRead,
                    Failure::LostSync,
                ];
                let how = *self.rng.pick(&failures);
                self.hold(node);
                world.fail_disk(node, self.rng.within(1..40), how);
            }
            Fault::TurnBit { node } => {
                self.hold(node);
                if world.may_damage(node) {
                    world.kill(node, true);
                    self.counts.disk_faults += u64::from(world.flip_bit(node));
                }
            }
            Fault::MisplaceSector { node } => {
                self.hold(node);
                if world.may_damage(node) {
                    world.kill(node, true);
                    self.counts.disk_faults += u64::from(world.misplace_sector(node));
                }
            }
            Fault::ClockJump { node, by_ms } => {
                self.counts.clock_faults += 1;
                world.jump_clock(node, Duration::from_millis(by_ms));
            }
            Fault::ClockRate { node, permille } => {
                self.counts.clock_faults += 1;
                world.set_clock_rate(node, permille);
            }
            Fault::WallClock { node, by_s } => {
                self.counts.clock_faults += 1;
                world.set_wall_clock(node, by_s);
            }
            Fault::Partition { ref side, .. } => {
                self.counts.partitions += 1;
                world.partition(side, true);
            }
            Fault::CutOneWay { from, to } => {
                self.counts.partitions += 1;
                world.cut(from, to, true);
            }
            Fault::Bridge { node } => {
                self.counts.partitions += 1;
                bridge(world, node, nodes, true);
            }
            Fault::Degrade {
                from,
                to,
                loss_permille,
                delay_ms,
            } => {
                self.counts.link_faults += 1;
                world.link(node_host(from), node_host(to), |link| {
                    link.loss_permille = loss_permille;
                    link.delay_us = delay_ms * 1_000;
                });
            }
            Fault::Throttle {
                from,
                to,
                bytes_per_second,
            } => {
                self.counts.link_faults += 1;
                world.link(node_host(from), node_host(to), |link| {
                    link.bytes_per_second = Some(bytes_per_second);
                });
            }
            Fault::Clog { from, to } => {
                self.counts.link_faults += 1;
                world.link(node_host(from), node_host(to), |link| {
                    link.clogged_until = link.clogged_until.max(until.as_nanos() as u64);
                });
            }
            Fault::ShrinkMtu {
                from,
                to,
                datagram_bytes,
            } => {
                self.counts.link_faults += 1;
                world.link(node_host(from), node_host(to), |link| {
                    link.datagram_bytes_max = datagram_bytes as usize;
                });
            }
            Fault::Flap { .. } => {
                self.counts.link_faults += 1;
                recur(world, fault);
            }
            Fault::Transfer { to } => {
                self.counts.leadership_faults += 1;
                world.transfer(to);
            }
            Fault::ChangeVoters { ref voters } => {
                self.counts.membership_faults += 1;
                world.change_voters(voters);
            }
            Fault::Campaign { node } => {
                self.counts.leadership_faults += 1;
                world.campaign(node);
            }
            Fault::Wipe { node } => {
                self.counts.identity_faults += 1;
                self.hold(node);
                world.kill(node, true);
                world.wipe(node);
            }
            Fault::RestoreImage { node } => {
                self.counts.identity_faults += 1;
                self.images.insert(node, world.image(node));
            }
        }
    }

    fn end(&mut self, world: &mut World, fault: &Fault, nodes: u64) {
        match *fault {
            Fault::Kill { node, .. }
            | Fault::Stop { node }
            | Fault::TurnBit { node }
            | Fault::MisplaceSector { node }
            | Fault::Wipe { node } => self.release(node),
            Fault::KillAll { .. } => (1..=nodes).for_each(|node| self.release(node)),
            Fault::Pause { node } => world.pause(node, false),
            Fault::StallDisk { node } | Fault::StallMachine { node } => {
                world.stall_disk(node, false);
            }
            // A disk that has failed is replaced with the process still on it.
            Fault::FailDisk { node } => {
                world.kill(node, true);
                self.release(node);
            }
            Fault::ClockRate { node, .. } => world.set_clock_rate(node, 1_000),
            Fault::WallClock { node, .. } => world.set_wall_clock(node, 0),
            Fault::Partition { ref side, .. } => world.partition(side, false),
            Fault::CutOneWay { from, to } => world.cut(from, to, false),
            Fault::Bridge { node } => bridge(world, node, nodes, false),
            Fault::Degrade { from, to, .. } => {
                world.link(node_host(from), node_host(to), |link| {
                    link.loss_permille = 0;
                    link.delay_us = 0;
                });
            }
            Fault::Throttle { from, to, .. } => {
                world.link(node_host(from), node_host(to), |link| {
                    link.bytes_per_second = None;
                });
            }
            Fault::ShrinkMtu { from, to, .. } => {
                world.link(node_host(from), node_host(to), |link| {
                    link.datagram_bytes_max = DATAGRAM_BYTES_MAX;
                });
            }
            Fault::Flap { one, other, .. } => {
                world.cut(one, other, false);
                world.cut(other, one, false);
            }
            Fault::RestoreImage { node } => {
                if let Some(image) = self.images.remove(&node) {
                    world.kill(node, true);
                    world.restore(node, &image);
                }
            }
            Fault::ClockJump { .. }
            | Fault::Clog { .. }
            | Fault::Transfer { .. }
            | Fault::ChangeVoters { .. }
            | Fault::Campaign { .. } => {}
        }
    }
}

/// A link that flaps is gone again.
fn recur(world: &mut World, fault: &Fault) {
    if let Fault::Flap { one, other, .. } = *fault {
        world.cut(one, other, true);
        world.cut(other, one, true);
    }
}

/// All but `middle` lose each other.
fn bridge(world: &mut World, middle: u64, nodes: u64, cut: bool) {
    for from in 1..=nodes {
        for to in 1..=nodes {
            if from != to && from != middle && to != middle {
                world.cut(from, to, cut);
            }
        }
    }
}
