//! A cluster of [`RaftNode`]s in one thread, on virtual ticks, with disks that can lose what was not
//! persisted and a network that does as it is told.
//!
//! Every message, write and commit passes the [`Checker`], so each test also shows that the safety
//! properties of Raft and the durability gate held on its way.
#![allow(dead_code, reason = "a test uses what it needs")]

mod checker;
mod disk;
mod net;
mod rng;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use quorate_consensus::{
    Committed, Config, Entry, EntryId, Fetch, LeaderChange, LogIndex, LogStore, Membership,
    Message, NodeId, ORIGIN, Payload, ProposalToken, ProposeError, RaftNode, ReadError, ReadToken,
    Ready, Refused, Role, StartError, Status, TransferError, persist, read_tail,
};

pub(crate) use checker::Checker;
pub(crate) use disk::{Disk, MemLog};
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
            config.log_view_bytes_max = 4000;
            config.message_bytes_max = 500;
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
    membership: Membership,
    setup: Setup,
    tokens: u64,
    /// Which life of which node was asked, by token.
    asked: BTreeMap<u64, (u64, u64)>,
    commands: BTreeMap<ProposalToken, Bytes>,
    outcomes: BTreeMap<ProposalToken, Outcome>,
    reads: BTreeMap<ReadToken, ReadOutcome>,
    transfers: Vec<(u64, Result<NodeId, TransferError>)>,
}

struct Slot {
    node: Option<RaftNode>,
    disk: Disk,
    machine: Machine,
    fetches: VecDeque<Fetch>,
    boot: u64,
    changes: Vec<LeaderChange>,
}

/// A state machine whose state is the list of what it applied.
#[derive(Default)]
struct Machine {
    applied: Vec<Entry>,
    /// How many of `applied` survive a crash.
    durable: usize,
    queue: VecDeque<Job>,
    stalled: bool,
}

enum Job {
    Apply(Committed),
    Read(ReadToken),
}

impl Machine {
    fn last(&self) -> EntryId {
        self.applied.last().map_or(ORIGIN, |entry| entry.id)
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
            membership: membership.clone(),
            tokens: 0,
            asked: BTreeMap::new(),
            commands: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            reads: BTreeMap::new(),
            transfers: Vec::new(),
            setup,
        };
        for node in membership.voters().chain(membership.learners()) {
            rig.slots.insert(
                node.value(),
                Slot {
                    node: None,
                    disk: Disk::new(membership.clone()),
                    machine: Machine::default(),
                    fetches: VecDeque::new(),
                    boot: 0,
                    changes: Vec::new(),
                },
            );
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

    /// What clients were told is true: what succeeded is in the log where they were told, what failed
    /// for sure is nowhere, and nobody who asked a living node was forgotten. Commands must differ.
    pub(crate) fn check_answers(&self) {
        let mut places = BTreeMap::new();
        for entry in self.checker.committed() {
            if let Payload::Command(command) = &entry.payload {
                let before = places.insert(command.clone(), entry.id);
                assert_eq!(before, None, "{command:?} is committed twice");
            }
        }
        for (token, command) in &self.commands {
            let (node, boot) = self.asked[&token.0];
            let place = places.get(command);
            match self.outcomes.get(token) {
                Some(Ok(at)) => assert_eq!(place, Some(at), "{command:?} was acknowledged"),
                Some(Err(ProposeError::OutcomeUnknown { .. })) => {}
                Some(Err(error)) => assert_eq!(place, None, "{command:?} failed with {error}"),
                None => assert_ne!(self.slots[&node].boot, boot, "n{node} forgot {command:?}"),
            }
        }
        let asked = self.asked.iter();
        let reads = asked.filter(|(token, _)| !self.commands.contains_key(&ProposalToken(**token)));
        for (&token, &(node, boot)) in reads {
            let answered = self.reads.contains_key(&ReadToken(token));
            assert!(
                answered || self.slots[&node].boot != boot,
                "n{node} forgot read {token}"
            );
        }
    }

    // --- what happens to nodes

    /// `node` campaigns until it leads. Whoever else is elected first hands over to it.
    pub(crate) fn elect(&mut self, node: u64) {
        for tick in 0..400 {
            if self.leads(node) {
                return;
            }
            let leader = self.leader_heard_by(node);
            match leader {
                Some(leader) if tick % 60 == 0 => drop(self.transfer(leader, Some(node))),
                Some(_) => {}
                None => self.campaign(node),
            }
            (0..3).for_each(|_| self.tick());
        }
        panic!("n{node} is not elected\n{self}");
    }

    /// Waits until one of `among` leads, and says which.
    pub(crate) fn elect_one_of(&mut self, among: &[u64]) -> u64 {
        self.run_until(200, "one of them leads", |rig| {
            among.iter().any(|&node| rig.leads(node))
        });
        let mut leaders = among.iter().copied().filter(|&node| self.leads(node));
        leaders.next().expect("just seen")
    }

    /// The leader of the highest term, if `node` and it can talk.
    fn leader_heard_by(&self, node: u64) -> Option<u64> {
        let leader = self.leader()?;
        self.net.connects(leader, node).then_some(leader)
    }

    pub(crate) fn campaign(&mut self, node: u64) {
        self.core(node).campaign();
        self.check(node);
        self.pump();
    }

    /// Power loss: what was not durable is gone.
    pub(crate) fn crash(&mut self, node: u64) {
        self.crash_keeping(node, 0);
    }

    /// Power loss after the first `kept` queued writes had reached the disk, unnoticed by the node.
    pub(crate) fn crash_keeping(&mut self, node: u64, kept: usize) {
        let slot = self.slot_mut(node);
        slot.node = None;
        slot.disk.lose_queue(kept);
        slot.fetches.clear();
        slot.machine.queue.clear();
        slot.machine.applied.truncate(slot.machine.durable);
        self.checker.crashed(node);
    }

    pub(crate) fn restart(&mut self, node: u64) {
        self.try_restart(node)
            .unwrap_or_else(|error| panic!("n{node} does not start: {error}"));
    }

    pub(crate) fn try_restart(&mut self, node: u64) -> Result<(), StartError> {
        let mut config = Config::new(id(node));
        config.seed = self.setup.seed * 1000 + node;
        (self.setup.config)(&mut config);
        let slot = self.slot_mut(node);
        assert!(slot.node.is_none(), "n{node} is up");
        slot.boot += 1;
        config.boot = slot.boot;
        let applied = slot.machine.last();
        let recovered = slot.disk.durable().recovered();
        let tail = match applied.index < recovered.last {
            true => read_tail(&slot.disk, applied.index, recovered.last).unwrap(),
            false => Vec::new(),
        };
        slot.node = Some(RaftNode::new(config, &recovered, applied, tail)?);
        Ok(())
    }

    /// Makes the state machine's state survive a crash.
    pub(crate) fn checkpoint(&mut self, node: u64) {
        let machine = &mut self.slot_mut(node).machine;
        machine.durable = machine.applied.len();
    }

    pub(crate) fn stall_disk(&mut self, node: u64, stalled: bool) {
        self.slot_mut(node).disk.stalled = stalled;
        self.pump();
    }

    pub(crate) fn stall_machine(&mut self, node: u64, stalled: bool) {
        self.slot_mut(node).machine.stalled = stalled;
        self.pump();
    }

    /// Makes exactly one queued write of `node` durable, although its disk is stalled.
    pub(crate) fn persist_one(&mut self, node: u64) {
        let slot = self.slots.get_mut(&node).expect("a member");
        let (_, append) = slot.disk.queue.pop_front().expect("a queued write");
        let ticket = persist(&mut slot.disk, vec![append]).unwrap();
        self.core(node).handle_persisted(ticket);
        self.check(node);
        self.pump();
    }

    // --- what happens to the network

    /// Members hear only those in their own group.
    pub(crate) fn partition(&mut self, groups: &[&[u64]]) {
        let group = |node| groups.iter().position(|group| group.contains(&node));
        for &from in self.slots.keys() {
            for &to in self.slots.keys() {
                if group(from) != group(to) || (group(from).is_none() && from != to) {
                    self.net.cut(from, to);
                }
            }
        }
    }

    pub(crate) fn isolate(&mut self, node: u64) {
        for other in self.others(node) {
            self.net.cut(node, other);
            self.net.cut(other, node);
        }
    }

    pub(crate) fn heal(&mut self) {
        self.net.heal();
        self.net.rule = None;
    }

    // --- how things stand

    pub(crate) fn core(&mut self, node: u64) -> &mut RaftNode {
        let slot = self.slot_mut(node);
        slot.node.as_mut().expect("the node is up")
    }

    pub(crate) fn status(&self, node: u64) -> Status {
        let node = self.slots[&node].node.as_ref();
        node.expect("the node is up").status()
    }

    pub(crate) fn is_up(&self, node: u64) -> bool {
        self.slots[&node].node.is_some()
    }

    pub(crate) fn up(&self) -> Vec<u64> {
        let up = self.slots.iter().filter(|(_, slot)| slot.node.is_some());
        up.map(|(&node, _)| node).collect()
    }

    pub(crate) fn others(&self, node: u64) -> Vec<u64> {
        let others = self.slots.keys().copied().filter(|&other| other != node);
        others.collect()
    }

    pub(crate) fn leads(&self, node: u64) -> bool {
        self.is_up(node) && self.status(node).role == Role::Leader
    }

    /// The leader of the highest term.
    pub(crate) fn leader(&self) -> Option<u64> {
        let leaders = self.up().into_iter().filter(|&node| self.leads(node));
        leaders.max_by_key(|&node| self.status(node).term)
    }

    pub(crate) fn term(&self, node: u64) -> u64 {
        self.status(node).term.value()
    }

    /// The commands `node` has applied.
    pub(crate) fn applied(&self, node: u64) -> Vec<String> {
        let entries = self.slots[&node].machine.applied.iter();
        let commands = entries.filter_map(|entry| match &entry.payload {
            Payload::Command(command) => Some(String::from_utf8_lossy(command).into_owned()),
            Payload::Empty => None,
        });
        commands.collect()
    }

    pub(crate) fn applied_index(&self, node: u64) -> LogIndex {
        self.slots[&node].machine.last().index
    }

    pub(crate) fn durable(&self, node: u64) -> &MemLog {
        self.slots[&node].disk.durable()
    }

    pub(crate) fn disk(&mut self, node: u64) -> &mut Disk {
        &mut self.slot_mut(node).disk
    }

    pub(crate) fn queued_writes(&self, node: u64) -> usize {
        self.slots[&node].disk.queue.len()
    }

    pub(crate) fn changes(&self, node: u64) -> &[LeaderChange] {
        &self.slots[&node].changes
    }

    /// All members up, one leader, and the same durable and applied log everywhere.
    pub(crate) fn agrees(&self) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        let last = self.status(leader).last;
        self.slots.keys().all(|&node| {
            self.is_up(node)
                && self.status(node).term == self.status(leader).term
                && self.applied_index(node) == last.index
                && self.durable(node).last() == last
        })
    }

    // --- how the rig works

    fn slot_mut(&mut self, node: u64) -> &mut Slot {
        self.slots.get_mut(&node).expect("a member")
    }

    fn poll(&mut self, node: u64) -> bool {
        let Some(ready) = self.core(node).poll_ready() else {
            return false;
        };
        self.check_ready(node, &ready);
        let due = self.now + self.rng.within(0..self.disk_latency_max + 1);
        for (to, message) in ready.messages {
            self.send(node, to.value(), message);
        }
        let slot = self.slots.get_mut(&node).expect("a member");
        slot.disk
            .queue
            .extend(ready.append.map(|append| (due, append)));
        slot.fetches.extend(ready.fetches);
        let machine = &mut slot.machine;
        machine
            .queue
            .extend(ready.committed.into_iter().map(Job::Apply));
        machine.queue.extend(ready.reads.into_iter().map(Job::Read));
        slot.changes.extend(ready.change);
        for (token, error) in ready.failed_proposals {
            let before = self.outcomes.insert(token, Err(error));
            assert_eq!(before, None, "{token:?} is answered twice");
        }
        for (token, error) in ready.failed_reads {
            let before = self.reads.insert(token, Err(error));
            assert_eq!(before, None, "{token:?} is answered twice");
        }
        self.transfers
            .extend(ready.transfer.map(|outcome| (node, outcome)));
        self.check(node);
        true
    }

    fn send(&mut self, from: u64, to: u64, message: Message) {
        if self.setup.record {
            self.sent.push((from, to, message.clone()));
        }
        let entries = matches!(
            message.body,
            quorate_consensus::Body::Append { ref entries, .. } if !entries.is_empty()
        );
        let sent = self.net.send(self.now, &mut self.rng, (from, to), &message);
        if !sent && entries {
            self.core(from).handle_unreachable(id(to));
        }
    }

    fn turn_disk(&mut self, node: u64) -> bool {
        let now = self.now;
        let slot = self.slots.get_mut(&node).expect("a member");
        if slot.disk.stalled {
            return false;
        }
        let mut appends = Vec::new();
        while slot.disk.queue.front().is_some_and(|(due, _)| *due <= now) {
            appends.push(slot.disk.queue.pop_front().expect("just seen").1);
        }
        let mut busy = !appends.is_empty();
        if busy {
            let ticket = persist(&mut slot.disk, appends).unwrap();
            self.core(node).handle_persisted(ticket);
        }
        while let Some(fetch) = self.slot_mut(node).fetches.pop_front() {
            busy = true;
            self.fetched += 1;
            let bytes_max = self.core(node).config().message_bytes_max;
            let read = self.disk(node).read(fetch.first(), fetch.last(), bytes_max);
            self.core(node).handle_fetched(fetch, read.unwrap());
        }
        if busy {
            self.check(node);
        }
        busy
    }

    fn turn_machine(&mut self, node: u64) -> bool {
        let slot = self.slots.get_mut(&node).expect("a member");
        let machine = &mut slot.machine;
        if machine.stalled || machine.queue.is_empty() {
            return false;
        }
        for job in std::mem::take(&mut machine.queue) {
            match job {
                Job::Apply(Committed { entry, token }) => {
                    assert_eq!(
                        entry.id.index,
                        machine.last().index.next(),
                        "applied in order"
                    );
                    if let Some(token) = token {
                        let command = Payload::Command(self.commands[&token].clone());
                        let same = entry.payload == command || self.checker.byzantine;
                        assert!(same, "{entry:?} answers {command:?}");
                        let before = self.outcomes.insert(token, Ok(entry.id));
                        assert_eq!(before, None, "{token:?} is answered twice");
                        self.checker.acknowledged(entry.id);
                    }
                    machine.applied.push(entry);
                }
                Job::Read(token) => {
                    let seen = machine.last().index;
                    self.checker.read_ends(token, seen);
                    let before = self.reads.insert(token, Ok(seen));
                    assert_eq!(before, None, "{token:?} is answered twice");
                }
            }
        }
        let applied = machine.last().index;
        self.core(node).handle_applied(applied);
        self.check(node);
        true
    }

    fn deliver(&mut self) -> bool {
        let due = self.net.take_due(self.now);
        let busy = !due.is_empty();
        for message in due {
            if self.is_up(message.to) {
                // Refusals are part of normal life here; tests of the sanitizer call the core.
                let _ = self
                    .core(message.to)
                    .handle_message(id(message.from), message.message);
                self.check(message.to);
            }
        }
        busy
    }

    fn check_ready(&mut self, node: u64, ready: &Ready) {
        let disks: BTreeMap<u64, &MemLog> = self
            .slots
            .iter()
            .map(|(&node, slot)| (node, slot.disk.durable()))
            .collect();
        self.checker.ready(node, ready, &disks);
    }

    fn check(&mut self, node: u64) {
        let slot = &self.slots[&node];
        let status = slot.node.as_ref().expect("the node is up").status();
        let log = self
            .checker
            .is_new_leader(&status)
            .then(|| slot.disk.with_queue());
        self.checker.status(&status, log);
    }

    /// Log Matching (Raft paper, figure 3) over all disks.
    pub(crate) fn check_log_matching(&mut self) {
        let logs: Vec<MemLog> = self
            .slots
            .values()
            .map(|slot| slot.disk.durable().clone())
            .collect();
        self.checker.log_matching(&logs);
    }

    /// Every member whose disk holds it.
    pub(crate) fn holders(&self, id: EntryId) -> BTreeSet<u64> {
        let holders = self.slots.iter();
        let holders = holders.filter(|(_, slot)| slot.disk.durable().holds(id));
        holders.map(|(&node, _)| node).collect()
    }

    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
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
