//! The promises of Raft and of the durability gate, checked at every step.

use std::collections::BTreeMap;

use quorate_consensus::{
    Body, Entry, EntryId, LogIndex, Membership, Message, NodeId, ORIGIN, Payload, ReadToken, Ready,
    Role, Status,
};

use super::disk::MemLog;
use super::id;

pub(crate) struct Checker {
    /// That of the founding, and those of committed entries.
    memberships: Vec<Membership>,
    /// Election Safety: who led each term.
    leaders: BTreeMap<u64, u64>,
    /// Whom each node voted for in each term, over all its lives.
    votes: BTreeMap<(u64, u64), u64>,
    /// State Machine Safety: the one committed log.
    committed: Vec<Entry>,
    /// The commit index and term of each node in its present life.
    seen: BTreeMap<u64, (LogIndex, u64)>,
    /// What a read has to see at least.
    floor: LogIndex,
    reads: BTreeMap<ReadToken, LogIndex>,
    /// Some members lie, so that only what a node promises by itself can be expected.
    pub(crate) byzantine: bool,
    /// Collect violations instead of failing: for the controls.
    pub(crate) collect: bool,
    pub(crate) violations: Vec<String>,
}

impl Checker {
    pub(crate) fn new(membership: Membership) -> Self {
        Self {
            memberships: vec![membership],
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            committed: Vec::new(),
            seen: BTreeMap::new(),
            floor: ORIGIN.index,
            reads: BTreeMap::new(),
            byzantine: false,
            collect: false,
            violations: Vec::new(),
        }
    }

    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.collect {
            self.violations.push(what());
        } else {
            assert!(holds, "{}", what());
        }
    }

    /// The one committed log, as far as anybody was told to apply it.
    pub(crate) fn committed(&self) -> &[Entry] {
        &self.committed
    }

    pub(crate) fn is_new_leader(&self, status: &Status) -> bool {
        let known = self.byzantine || self.leaders.contains_key(&status.term.value());
        status.role == Role::Leader && !known
    }

    /// `log` is the leader's whole log when it is new in its term.
    pub(crate) fn status(&mut self, status: &Status, log: Option<MemLog>) {
        let (node, term) = (status.node.value(), status.term.value());
        let (commit, seen_term) = self.seen.get(&node).copied().unwrap_or_default();
        self.require(status.commit >= commit && term >= seen_term, || {
            format!("{status} went back from commit={commit} term={seen_term}")
        });
        self.require(
            status.applied <= status.commit && status.commit <= status.last.index,
            || format!("{status} is out of order"),
        );
        self.seen.insert(node, (status.commit, term));
        if status.role != Role::Leader || self.byzantine {
            return;
        }
        let leader = *self.leaders.entry(term).or_insert(node);
        self.require(leader == node, || {
            format!("Election Safety: n{leader} and n{node} lead term {term}")
        });
        if let Some(log) = log {
            // Leader Completeness. What the leader has just appended is not in the log yet.
            let missing = self.committed.iter().find(|entry| !log.holds(entry.id));
            let missing = missing.map(|entry| entry.id);
            self.require(missing.is_none(), || {
                format!("Leader Completeness: n{node} leads term {term} without {missing:?}")
            });
        }
    }

    pub(crate) fn ready(&mut self, node: u64, ready: &Ready, disks: &BTreeMap<u64, &MemLog>) {
        for (to, message) in &ready.messages {
            self.message(node, to.value(), message, disks[&node]);
        }
        for committed in &ready.committed {
            self.commit(node, &committed.entry, disks);
        }
    }

    /// The durability gate: what a message promises is on the sender's disk.
    fn message(&mut self, node: u64, to: u64, message: &Message, disk: &MemLog) {
        if let Body::Transfer(_)
        | Body::Digest { .. }
        | Body::LeadershipWanted { .. }
        | Body::ReadIndex { .. } = message.body
        {
            // It promises nothing, and nobody looks at its term.
            return;
        }
        let (term, durable) = (message.term, disk.hard_state);
        let rehearsal = matches!(
            message.body,
            Body::RequestVote { pre: true, .. } | Body::Vote { pre: true, .. }
        );
        self.require(rehearsal || durable.term >= term, || {
            format!("n{node} speaks in term {term} while {durable:?} is durable: {message:?}")
        });
        let vote = match message.body {
            Body::RequestVote { pre: false, .. } => Some(node),
            Body::Vote {
                pre: false,
                granted: true,
                ..
            } => Some(to),
            _ => None,
        };
        if let Some(vote) = vote {
            let durably = durable.term > term || durable.vote == Some(id(vote));
            self.require(durably, || {
                format!("n{node} votes for n{vote} in {term} while {durable:?} is durable")
            });
            let first = *self.votes.entry((node, term.value())).or_insert(vote);
            self.require(first == vote, || {
                format!("n{node} votes for n{first} and n{vote} in term {term}")
            });
        }
        if let Body::AppendAccepted { last, .. } = message.body {
            // An acknowledgement of an older term may outlive what it acknowledged; so may one to a
            // leader that contradicts itself within its term, which only a liar does.
            let held = durable.term > term || disk.last().index >= last || self.byzantine;
            self.require(held, || {
                format!(
                    "n{node} acknowledges {last} while {} is durable",
                    disk.last()
                )
            });
        }
    }

    fn commit(&mut self, node: u64, entry: &Entry, disks: &BTreeMap<u64, &MemLog>) {
        self.require(disks[&node].holds(entry.id), || {
            format!("n{node} applies {} which its disk does not hold", entry.id)
        });
        if self.byzantine {
            return;
        }
        let at = (entry.id.index.value() - ORIGIN.index.value() - 1) as usize;
        if let Some(first) = self.committed.get(at).cloned() {
            self.require(first == *entry, || {
                format!("State Machine Safety: n{node} applies {entry:?}, but {first:?} was")
            });
            return;
        }
        assert_eq!(at, self.committed.len(), "commits come in order");
        self.committed.push(entry.clone());
        // A leader counts by what it has applied, which may be the members before the last change.
        let holds = |voter: NodeId| {
            let disk = disks.get(&voter.value());
            disk.is_some_and(|disk| disk.holds(entry.id))
        };
        let mut newest = self.memberships.iter().rev().take(2);
        let quorum = newest.any(|membership| membership.is_quorum(holds));
        self.require(quorum, || {
            let holders: Vec<_> = disks.keys().filter(|disk| holds(id(**disk))).collect();
            format!("n{node} commits {} which {holders:?} hold", entry.id)
        });
        if let Payload::Membership(membership) = &entry.payload {
            self.memberships.push((**membership).clone());
        }
    }

    /// A client was told that `id` is applied: every read that begins now must see it.
    pub(crate) fn acknowledged(&mut self, id: EntryId) {
        self.floor = self.floor.max(id.index);
    }

    pub(crate) fn read_begins(&mut self, token: ReadToken) {
        self.reads.insert(token, self.floor);
    }

    pub(crate) fn read_ends(&mut self, token: ReadToken, seen: LogIndex) {
        let floor = self.reads[&token];
        self.require(self.byzantine || seen >= floor, || {
            format!("{token:?} saw {seen}, but {floor} was acknowledged before it began")
        });
    }

    pub(crate) fn crashed(&mut self, node: u64) {
        self.seen.remove(&node);
    }

    pub(crate) fn log_matching(&mut self, logs: &[MemLog]) {
        for (at, a) in logs.iter().enumerate() {
            for b in &logs[at + 1..] {
                let pairs = a.entries().iter().zip(b.entries());
                let meet = pairs.clone().rposition_compat(|(a, b)| a.id == b.id);
                let equal = pairs.take(meet.map_or(0, |last| last + 1));
                let differ = equal.clone().find(|(a, b)| a != b);
                self.require(differ.is_none(), || format!("Log Matching: {differ:?}"));
            }
        }
    }
}

trait RpositionCompat: Iterator + Sized {
    /// The last position that satisfies `test`; the logs' lengths are not known from behind.
    fn rposition_compat(self, test: impl Fn(Self::Item) -> bool) -> Option<usize> {
        let mut last = None;
        for (at, item) in self.enumerate() {
            if test(item) {
                last = Some(at);
            }
        }
        last
    }
}

impl<I: Iterator> RpositionCompat for I {}
