//! What happens to the processes and to the network between them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use quorate::kv::Client;

use super::network::{CLIENTS, Network, Rule, USUAL};
use super::runtime::Runtime;
use crate::plan::Fault;
use crate::process::Cluster;
use crate::rng::Rng;

/// How many nodes the cluster has.
pub(super) const NODES: u64 = 3;

/// How long nothing happens between two faults at most: time to find each other again, most of the time.
const CALM_MAX_MS: u64 = 1_500;

/// How long a fault lasts at most: several elections.
const FAULT_MAX_MS: u64 = 2_000;

/// The same where there is nothing but kills: a node is often killed soon after it has started, or
/// soon after it leads.
const KILLS_APART_MAX_MS: u64 = 400;

/// How often something happened, by name.
pub type Faults = BTreeMap<&'static str, u64>;

/// Three processes, and who troubles them.
pub(super) struct Nemesis {
    pub(super) cluster: Cluster,
    pub(super) network: Arc<Network>,
    pub(super) runtime: Runtime,
    /// Whether it does nothing but kill.
    pub(super) kills_only: bool,
    pub(super) log_tail: Option<String>,
    /// May hand leadership over, and knows who leads.
    pub(super) admin: Client,
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    /// What is not as it should be, besides what clients see.
    pub(super) troubles: Vec<String>,
}

impl Nemesis {
    /// Starts `node`, whose peers are behind the network.
    pub(super) fn start(&mut self, node: u64) {
        let door = |peer| self.network.door(node, peer);
        let mut args = self.cluster.start_args_reaching(node, door);
        args.push(format!("--runtime={}", self.runtime));
        // In the end every operation is held against the logs, which have to be whole for that.
        let tail = self.log_tail.as_deref().unwrap_or("1024GiB");
        args.push(format!("--log-tail={tail}"));
        self.cluster.start_with(node, &args);
    }

    /// Causes trouble until told to stop, and then leaves everything whole and running.
    pub(super) fn rage(&mut self, stop: &Receiver<()>) {
        match self.kills_only {
            true => self.kill_again_and_again(stop),
            false => self.cause_anything(stop),
        }
    }

    fn kill_again_and_again(&mut self, stop: &Receiver<()>) {
        while goes_on(stop, self.rng.within(1..KILLS_APART_MAX_MS)) {
            let node = self.some_node();
            let fault = match self.rng.chance(5) {
                true => Fault::KillAll { written: false },
                false => Fault::Kill {
                    node,
                    written: false,
                },
            };
            self.begin(&fault);
            let goes_on = goes_on(stop, self.rng.within(1..KILLS_APART_MAX_MS));
            self.end(&fault);
            if !goes_on {
                break;
            }
        }
    }

    fn cause_anything(&mut self, stop: &Receiver<()>) {
        while goes_on(stop, self.rng.within(1..CALM_MAX_MS)) {
            let mut faults = Vec::new();
            // One of each at most: a process that is both frozen and told to stop would never do so.
            let kinds = self.rng.within(0..3);
            if kinds != 0 {
                faults.push(self.draw_process_fault());
            }
            if kinds != 1 {
                faults.push(self.draw_network_fault());
            }
            for fault in &faults {
                self.begin(fault);
            }
            let goes_on = goes_on(stop, self.rng.within(1..FAULT_MAX_MS));
            self.network.heal();
            for fault in &faults {
                self.end(fault);
            }
            if !goes_on {
                break;
            }
        }
    }

    /// Often whoever leads, about whom there is most to find out.
    fn some_node(&mut self) -> u64 {
        match self.admin.leader() {
            Some(leader) if self.rng.chance(50) => leader.value(),
            _ => self.rng.within(1..NODES + 1),
        }
    }

    fn draw_process_fault(&mut self) -> Fault {
        let node = self.some_node();
        match self.rng.within(0..10) {
            0..4 => Fault::Kill {
                node,
                written: false,
            },
            4..7 => Fault::Pause { node },
            7 => Fault::Stop { node },
            8 => Fault::Transfer { to: None },
            _ => Fault::KillAll { written: false },
        }
    }

    fn draw_network_fault(&mut self) -> Fault {
        let node = self.some_node();
        let other = node % NODES + 1;
        match self.rng.within(0..10) {
            0..4 => Fault::Partition {
                side: vec![node],
                noticed: false,
            },
            4 => Fault::CutOneWay {
                from: node,
                to: other,
            },
            5 => Fault::CutOneWay {
                from: node,
                to: CLIENTS,
            },
            6 => Fault::Bridge { node },
            _ => Fault::Degrade {
                from: *self.rng.pick(&[node, CLIENTS]),
                to: other,
                loss_permille: *self.rng.pick(&[10, 100, 500]),
                delay_ms: *self.rng.pick(&[5, 50, 500]),
            },
        }
    }

    fn begin(&mut self, fault: &Fault) {
        let name = match fault {
            Fault::Kill { node, .. } => {
                self.cluster.signal(*node, "KILL");
                "kill"
            }
            Fault::KillAll { .. } => {
                for node in 1..=NODES {
                    self.cluster.signal(node, "KILL");
                }
                "kill all"
            }
            Fault::Stop { node } => {
                let code = self.cluster.signal(*node, "TERM");
                if code != 0 {
                    let trouble = format!("node {node}, told to stop, ended with {code}");
                    self.troubles.push(trouble);
                }
                "stop"
            }
            Fault::Pause { node } => {
                self.cluster.send(*node, "STOP");
                "pause"
            }
            Fault::Transfer { .. } => {
                // Nobody may lead, or nobody may take over: both are as well.
                let _ = smol::block_on(self.admin.transfer_leader(None));
                "transfer"
            }
            Fault::Partition { side, .. } => {
                let across = |from: &u64, to: &u64| side.contains(from) != side.contains(to);
                self.cut_where(across);
                "partition"
            }
            Fault::CutOneWay { from, to } => {
                self.network.set(*from, *to, CUT);
                "cut one way"
            }
            Fault::Bridge { node } => {
                self.cut_where(|from, to| from != node && to != node);
                "bridge"
            }
            Fault::Degrade {
                from,
                to,
                loss_permille,
                delay_ms,
            } => {
                let rule = Rule {
                    loss_permille: *loss_permille,
                    late_permille: 1_000,
                    late_max: Duration::from_millis(*delay_ms),
                    ..USUAL
                };
                self.network.set(*from, *to, rule);
                "degrade"
            }
            other => unreachable!("{other:?} is not drawn"),
        };
        *self.faults.entry(name).or_default() += 1;
    }

    /// Undoes it, besides what [`Network::heal`] does.
    fn end(&mut self, fault: &Fault) {
        match fault {
            Fault::Kill { node, .. } | Fault::Stop { node } => self.start(*node),
            Fault::KillAll { .. } => (1..=NODES).for_each(|node| self.start(node)),
            Fault::Pause { node } => self.cluster.send(*node, "CONT"),
            _ => {}
        }
    }

    fn cut_where(&self, condition: impl Fn(&u64, &u64) -> bool) {
        for from in 1..=NODES {
            for to in (1..=NODES).filter(|to| *to != from) {
                if condition(&from, &to) {
                    self.network.set(from, to, CUT);
                }
            }
        }
    }
}

const CUT: Rule = Rule { cut: true, ..USUAL };

/// Waits; false once there is word to stop.
fn goes_on(stop: &Receiver<()>, ms: u64) -> bool {
    stop.recv_timeout(Duration::from_millis(ms)) == Err(RecvTimeoutError::Timeout)
}
