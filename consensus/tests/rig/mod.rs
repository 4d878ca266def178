//! A cluster of [`RaftNode`]s in one thread, on virtual ticks, with disks that can lose what was not
//! persisted and a network that does as it is told.
//!
//! Every message, write and commit passes the [`Checker`], so each test also shows that the safety
//! properties of Raft and the durability gate held on its way.
#![allow(dead_code, reason = "a test uses what it needs")]

mod checker;
mod disk;
mod machine;
mod net;
mod nodes;
mod rng;
mod stand;
mod work;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quorate_consensus::{
    Config, EntryId, Event, Fetch, LeaderChange, LogIndex, Membership, MembershipChange,
    MembershipError, Message, NodeId, ProposalToken, ProposeError, RaftNode, ReadError, ReadToken,
    Refused, TransferError,
};

pub(crate) use checker::Checker;
pub(crate) use disk::{Disk, MemLog};
use machine::Machine;
pub(crate) use net::Fate;
use net::Net;
pub(crate) use rng::Rng;

/// Turns of one tick after which the cluster is said to talk in circles.
const TURNS_MAX: usize = 20_000;

pub(crate) fn id(node: u64) -> NodeId {
    NodeId::new(node).expect("tests count nodes from one")
}

/// What a cluster is made of; [`Setup::voters`] gives one where nothing goes wrong by itself.
pub(crate) struct Setup {
    pub(crate) voters: u64,
    pub(crate) learners: u64,
    pub(crate) seed: u64,
    pub(crate) config: Box<dyn Fn(&mut Config)>,
    /// A write takes between nothing and this many ticks.
    pub(crate) disk_latency_max: u64,
    /// Keep every message for [`Rig::sent`].
    pub(crate) record: bool,
}

impl Setup {
    pub(crate) fn voters(voters: u64) -> Self {
        Self {
            voters,
            learners: 0,
            seed: 1,
            config: Box::new(|_| {}),
            disk_latency_max: 0,
            record: true,
        }
    }

    pub(crate) fn config(mut self, config: impl Fn(&mut Config) + 'static) -> Self {
        self.config = Box::new(config);
        self
    }

    /// Bounds that a handful of entries reach.
    pub(crate) fn small(self) -> Self {
        self.config(|config| {
            config.command_bytes_max = 1000;
            config.uncommitted_bytes_max = 2000;
            config.log_view_bytes_max = 4500;
            config.message_bytes_max = 500;
            config.log_tail_bytes = 1600;
            config.log_bytes_max = 16_000;
        })
    }

    pub(crate) fn learners(mut self, learners: u64) -> Self {
        self.learners = learners;
        self
    }

    pub(crate) fn build(self) -> Rig {
        Rig::new(self)
    }
}

/// The answer to a read: how much of the log the state held.
pub(crate) type ReadOutcome = Result<LogIndex, ReadError>;
/// The answer to a proposal: where it was applied.
pub(crate) type Outcome = Result<EntryId, ProposeError>;

pub(crate) struct Rig {
    slots: BTreeMap<u64, Slot>,
    pub(crate) net: Net,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    pub(crate) checker: Checker,
    pub(crate) sent: Vec<(u64, u64, Message)>,
    pub(crate) disk_latency_max: u64,
    /// Reads of older entries that the stores served.
    pub(crate) fetched: u64,
    /// In how many pieces, one a tick, a state is read that is compared.
    pub(crate) scan_pieces: u64,
    setup: Setup,
    tokens: u64,
    /// Which life of which node was asked, by token.
    asked: BTreeMap<u64, (u64, u64)>,
    commands: BTreeMap<ProposalToken, Bytes>,
    outcomes: BTreeMap<ProposalToken, Outcome>,
    reads: BTreeMap<ReadToken, ReadOutcome>,
    transfers: Vec<(u64, Result<NodeId, TransferError>)>,
    membership_changes: Vec<(u64, Result<Membership, MembershipError>)>,
}

struct Slot {
    node: Option<RaftNode>,
    disk: Disk,
    machine: Machine,
    fetches: VecDeque<Fetch>,
    boot: u64,
    changes: Vec<LeaderChange>,
    events: Vec<Event>,
    /// Why it stopped itself.
    stopped: Option<String>,
    diverged: bool,
}

impl Slot {
    fn new(membership: Membership) -> Self {
        Self {
            node: None,
            disk: Disk::new(membership),
            machine: Machine::default(),
            fetches: VecDeque::new(),
            boot: 0,
            changes: Vec::new(),
            events: Vec::new(),
            stopped: None,
            diverged: false,
        }
    }
}

impl Rig {
    pub(crate) fn new(setup: Setup) -> Self {
        let voters = (1..=setup.voters).map(id);
        let learners = (setup.voters + 1..=setup.voters + setup.learners).map(id);
        let membership = Membership::new(voters, learners).unwrap();
        let mut rig = Self {
            slots: BTreeMap::new(),
            net: Net::default(),
            rng: Rng::new(setup.seed),
            now: 0,
            checker: Checker::new(membership.clone()),
            sent: Vec::new(),
            disk_latency_max: setup.disk_latency_max,
            fetched: 0,
            scan_pieces: 1,
            tokens: 0,
            asked: BTreeMap::new(),
            commands: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            reads: BTreeMap::new(),
            transfers: Vec::new(),
            membership_changes: Vec::new(),
            setup,
        };
        for node in membership.voters().chain(membership.learners()) {
            let slot = Slot::new(membership.clone());
            rig.slots.insert(node.value(), slot);
            rig.restart(node.value());
        }
        rig
    }

    /// A cluster of `voters` that agrees on `leader`.
    pub(crate) fn led_by(leader: u64, setup: Setup) -> Self {
        let mut rig = setup.build();
        rig.elect(leader);
        rig
    }

    // --- time

    /// One tick passes at every node, and all that follows from it at once.
    pub(crate) fn tick(&mut self) {
        self.now += 1;
        for node in self.up() {
            self.core(node).handle_tick();
            self.check(node);
        }
        self.pump();
    }

    pub(crate) fn ticks(&mut self, count: u64) {
        (0..count).for_each(|_| self.tick());
    }

    /// Ticks until `condition` holds.
    pub(crate) fn run_until(
        &mut self,
        ticks_max: u64,
        what: &str,
        condition: impl Fn(&Self) -> bool,
    ) {
        for _ in 0..ticks_max {
            if condition(self) {
                return;
            }
            self.tick();
        }
        assert!(
            condition(self),
            "after {ticks_max} ticks still not: {what}\n{self}"
        );
    }

    /// Carries out everything until nobody has anything to say before the next tick.
    pub(crate) fn pump(&mut self) {
        for _ in 0..TURNS_MAX {
            let mut busy = false;
            for node in self.up() {
                busy |= self.poll(node);
                busy |= self.turn_disk(node);
                busy |= self.turn_machine(node);
            }
            busy |= self.deliver();
            if !busy {
                return;
            }
        }
        panic!("the cluster talks in circles\n{self}");
    }

    // --- what clients do

    pub(crate) fn propose(&mut self, node: u64, command: impl AsRef<[u8]>) -> ProposalToken {
        let token = self.propose_unpumped(node, command);
        self.pump();
        token
    }

    /// Proposes without letting anything happen yet.
    pub(crate) fn propose_unpumped(
        &mut self,
        node: u64,
        command: impl AsRef<[u8]>,
    ) -> ProposalToken {
        self.tokens += 1;
        let token = ProposalToken(self.tokens);
        let command = Bytes::copy_from_slice(command.as_ref());
        self.asked
            .insert(self.tokens, (node, self.slots[&node].boot));
        self.commands.insert(token, command.clone());
        self.core(node).propose(token, command);
        token
    }

    pub(crate) fn read(&mut self, node: u64) -> ReadToken {
        let token = self.read_unpumped(node);
        self.pump();
        token
    }

    pub(crate) fn read_unpumped(&mut self, node: u64) -> ReadToken {
        self.tokens += 1;
        let token = ReadToken(self.tokens);
        self.asked
            .insert(self.tokens, (node, self.slots[&node].boot));
        self.checker.read_begins(token);
        self.core(node).read(token);
        token
    }

    pub(crate) fn transfer(
        &mut self,
        node: u64,
        target: Option<u64>,
    ) -> Result<NodeId, TransferError> {
        let target = self.core(node).transfer_leader(target.map(id));
        self.pump();
        target
    }

    /// Begins to change the members at `node`.
    pub(crate) fn change(
        &mut self,
        node: u64,
        change: &MembershipChange,
    ) -> Result<(), MembershipError> {
        let begun = self.core(node).change_membership(change, None);
        self.pump();
        begun
    }

    /// How the changes that were begun ended, in order.
    pub(crate) fn changes_ended(&self) -> &[(u64, Result<Membership, MembershipError>)] {
        &self.membership_changes
    }

    pub(crate) fn outcome(&self, token: ProposalToken) -> Option<&Outcome> {
        self.outcomes.get(&token)
    }

    pub(crate) fn read_outcome(&self, token: ReadToken) -> Option<&ReadOutcome> {
        self.reads.get(&token)
    }

    pub(crate) fn transfers(&self) -> &[(u64, Result<NodeId, TransferError>)] {
        &self.transfers
    }

    /// Every command that a client was told is applied, with where.
    pub(crate) fn acknowledged(&self) -> Vec<(EntryId, Bytes)> {
        let applied = self.outcomes.iter().filter_map(|(token, outcome)| {
            let id = *outcome.as_ref().ok()?;
            Some((id, self.commands[token].clone()))
        });
        applied.collect()
    }

    /// Proposes and waits until it is applied.
    pub(crate) fn commit(&mut self, node: u64, command: &str) -> EntryId {
        let token = self.propose(node, command);
        self.run_until(50, "the command is applied", |rig| {
            rig.outcome(token).is_some()
        });
        self.outcomes[&token]
            .clone()
            .unwrap_or_else(|error| panic!("{command} failed at n{node}: {error}\n{self}"))
    }

    /// `node` hears `message` from `from` at once, past the network.
    pub(crate) fn hear(&mut self, node: u64, from: u64, message: Message) -> Result<(), Refused> {
        let heard = self.core(node).handle_message(id(from), message);
        self.check(node);
        heard
    }
}

impl std::fmt::Display for Rig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "tick {} of seed {}:", self.now, self.setup.seed)?;
        for (node, slot) in &self.slots {
            match &slot.node {
                Some(core) => writeln!(f, "  {}", core.status())?,
                None => writeln!(f, "  n{node} is down")?,
            }
        }
        Ok(())
    }
}
