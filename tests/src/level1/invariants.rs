//! The promises of Raft and of the durability gate, checked at every step.
//!
//! To add one: a few lines where its event passes, with a name of its own in [`Invariants::require`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use quorate_consensus::{
    Body, Entry, EntryId, HardState, LogIndex, Membership, Message, NodeId, ORIGIN, Payload, Role,
    Status, Term,
};

use super::log::{MemLog, Removed};
use crate::level::Failure;

/// What has been promised so far.
pub struct Invariants {
    /// That of the founding, and those of committed entries.
    memberships: Vec<Membership>,
    leaders: BTreeMap<Term, u64>,
    /// Whom each node voted for in each term, over all its lives.
    votes: BTreeMap<(u64, Term), u64>,
    /// Who said that it would vote for a node in a term.
    rehearsed: BTreeMap<(u64, Term), BTreeSet<u64>>,
    /// The digest of the log up to each entry that ever was durable anywhere.
    digests: BTreeMap<EntryId, u64>,
    committed: Vec<Entry>,
    /// Of each committed entry, the newest term that had a leader by then, and the digest of the log up
    /// to it.
    commits: Vec<(Term, u64)>,
    /// The commit index and term of each node in its present life.
    seen: BTreeMap<u64, (LogIndex, Term)>,
    /// What every read that begins now must see, and every write must come after.
    floor: LogIndex,
    /// Some members lie, so that only what a node promises by itself can be expected.
    pub byzantine: bool,
    violations: Vec<Failure>,
}

/// Where the committed entry at `index` stands in a list of all of them.
fn place_of(index: LogIndex) -> usize {
    (index.value() - ORIGIN.index.value() - 1) as usize
}

impl Invariants {
    /// Of a new cluster.
    #[must_use]
    pub fn new(membership: Membership) -> Self {
        Self {
            memberships: vec![membership],
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            rehearsed: BTreeMap::new(),
            digests: BTreeMap::new(),
            committed: Vec::new(),
            commits: Vec::new(),
            seen: BTreeMap::new(),
            floor: ORIGIN.index,
            byzantine: false,
            violations: Vec::new(),
        }
    }

    /// Notes that `invariant` is broken unless it `holds`.
    pub fn require<D: Display>(
        &mut self,
        invariant: &str,
        holds: bool,
        detail: impl FnOnce() -> D,
    ) {
        if !holds {
            self.violations.push(Failure {
                invariant: invariant.to_owned(),
                detail: detail().to_string(),
            });
        }
    }

    /// What did not hold so far.
    #[must_use]
    pub fn violations(&self) -> &[Failure] {
        &self.violations
    }

    /// The one committed log, as far as anybody applied it.
    #[must_use]
    pub fn committed(&self) -> &[Entry] {
        &self.committed
    }

    /// The members as of the last entry that anybody applied.
    ///
    /// # Panics
    ///
    /// Never: the founding members stay.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.memberships.last().expect("there are founding members")
    }

    /// How often the members changed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.memberships.len() as u64 - 1
    }

    /// What is acknowledged: every read that begins now must see it.
    #[must_use]
    pub fn floor(&self) -> LogIndex {
        self.floor
    }

    // --- who leads

    /// A node says how it stands.
    pub fn status(&mut self, status: &Status) {
        let (node, term, commit) = (status.node.value(), status.term, status.commit);
        let (commit_before, term_before) = self.seen.get(&node).copied().unwrap_or_default();
        self.require(
            "monotone",
            commit >= commit_before && term >= term_before,
            || format!("{status} went back from commit={commit_before} term={term_before}"),
        );
        let ordered = status.applied <= commit && commit <= status.last.index;
        self.require("applied <= commit <= last", ordered, || status.to_string());
        self.seen.insert(node, (commit, term));
        if status.role == Role::Leader {
            self.leads(node, term);
        }
    }

    /// `node` says or shows that it leads `term`. Returns whether that is news.
    pub fn leads(&mut self, node: u64, term: Term) -> bool {
        if self.byzantine {
            return false;
        }
        let news = !self.leaders.contains_key(&term);
        let leader = *self.leaders.entry(term).or_insert(node);
        self.require("election safety", leader == node, || {
            format!("n{leader} and n{node} lead term {term}")
        });
        news
    }

    /// `node`, new in leading `term`, begins with `log`: it holds what was committed in earlier terms. It
    /// may be late, and others may have committed in later terms since.
    pub fn leads_with(&mut self, node: u64, term: Term, log: &MemLog) {
        let count = self.commits.partition_point(|&(by, _)| by < term);
        let Some(last) = count.checked_sub(1) else {
            return;
        };
        let (id, (_, digest)) = (self.committed[last].id, self.commits[last]);
        let complete = log.digest(id.index) == Some(digest);
        self.require("leader completeness", complete, || {
            format!("n{node} leads term {term} without committed entries up to {id}")
        });
    }

    // --- what is said

    /// `node` sends `message` to `to` while `disk` is what it holds for sure.
    pub fn message(&mut self, node: u64, to: u64, message: &Message, disk: &MemLog) {
        self.speaks_durably(node, to, message, disk);
        match &message.body {
            Body::Append { .. }
            | Body::Heartbeat { .. }
            | Body::ReadIndexAnswer { .. }
            | Body::TimeoutNow => {
                self.leads(node, message.term);
            }
            Body::AppendAccepted { last, .. } => {
                // An acknowledgement of an older term may outlive what it acknowledged; so may one to a
                // leader that contradicts itself within its term, which only a liar does.
                let newer = disk.hard_state().term > message.term;
                let held = newer || disk.last().index >= *last || self.byzantine;
                self.require("durable before acknowledged", held, || {
                    format!("n{node} acknowledges {last}, durable is {}", disk.last())
                });
            }
            Body::Vote {
                pre: true,
                granted: true,
                ..
            } => {
                let willing = self.rehearsed.entry((to, message.term)).or_default();
                willing.insert(node);
            }
            Body::RequestVote {
                pre: false,
                transfer: false,
                ..
            } => self.is_rehearsed(node, message.term),
            Body::Snapshot { .. } => {
                self.leads(node, message.term);
            }
            Body::AppendRejected { .. }
            | Body::Transfer(_)
            | Body::Digest { .. }
            | Body::ReadIndex { .. }
            | Body::LeadershipWanted { .. }
            | Body::RequestVote { .. }
            | Body::Vote { .. }
            | Body::HeartbeatResponse { .. } => {}
        }
    }

    /// Nobody begins a term, which deposes a leader, before a majority has said that it would be elected
    /// (thesis, section 9.6).
    fn is_rehearsed(&mut self, node: u64, term: Term) {
        let willing = self.rehearsed.get(&(node, term));
        let mut willing = willing.cloned().unwrap_or_default();
        willing.insert(node);
        let would = |voter: NodeId| willing.contains(&voter.value());
        // By what it has applied, which may be older than what others have.
        let mut known = self.memberships.iter();
        let majority = known.any(|membership| membership.is_quorum(would));
        self.require("elections are rehearsed", majority, || {
            format!("n{node} begins term {term}, for which {willing:?} would elect it")
        });
    }

    /// The term and the vote that a message stands for are on the sender's disk, and the vote is its
    /// only one in that term.
    fn speaks_durably(&mut self, node: u64, to: u64, message: &Message, disk: &MemLog) {
        if let Body::Transfer(_)
        | Body::Digest { .. }
        | Body::LeadershipWanted { .. }
        | Body::ReadIndex { .. } = message.body
        {
            // It promises nothing, and nobody looks at its term.
            return;
        }
        let (term, durable) = (message.term, disk.hard_state());
        let (rehearsal, vote) = match message.body {
            Body::RequestVote { pre, .. } => (pre, (!pre).then_some(node)),
            Body::Vote { pre, granted, .. } => (pre, (!pre && granted).then_some(to)),
            _ => (false, None),
        };
        let said = || format!("n{node} says {message:?} to n{to}, durable is {durable:?}");
        self.require(
            "durable before said",
            rehearsal || durable.term >= term,
            said,
        );
        let Some(vote) = vote else { return };
        let durably = durable.term > term || durable.vote.map(NodeId::value) == Some(vote);
        self.require("durable before voted", durably, said);
        let first = *self.votes.entry((node, term)).or_insert(vote);
        self.require("one vote a term", first == vote, || {
            format!("n{node} votes for n{first} and n{vote} in term {term}")
        });
    }

    // --- what is kept

    /// `node` made a write durable: it had `before`, lost `removed`, and its disk holds `log`, new from
    /// `first` on.
    pub fn wrote(
        &mut self,
        node: u64,
        before: HardState,
        removed: &[Removed],
        first: LogIndex,
        log: &MemLog,
    ) {
        let after = log.hard_state();
        let kept = after.term > before.term
            || (after.term == before.term && (before.vote.is_none() || after.vote == before.vote));
        self.require("term and vote are kept", kept, || {
            format!("n{node} replaces {before:?} by {after:?}")
        });
        let commit_kept = after.commit >= before.commit && after.commit <= log.last().index;
        self.require("commit index is kept", commit_kept, || {
            format!(
                "n{node} replaces {before:?} by {after:?}, its log ends at {}",
                log.last()
            )
        });
        if self.byzantine {
            return;
        }
        let committed = self.last_committed();
        let ordered_in = log.get(first).map_or(after.term, |entry| entry.id.term);
        for gone in removed.iter().filter(|gone| gone.id.index <= committed) {
            let was = self.digests.get(&self.committed_at(gone.id.index)).copied();
            // A slow disk may carry out late what an older leader ordered while the entry was not committed
            // yet. A newer one has the entry, which `leads_with` sees to.
            let late = ordered_in < self.committed_in(gone.id.index);
            let lost = was == Some(gone.digest) && log.digest(gone.id.index) != was && !late;
            self.require("committed is kept", !lost, || {
                format!("n{node} removes {}, which is committed", gone.id)
            });
        }
        self.log_matching(node, first, log);
    }

    /// The log of `node` begins after `base` now, while its state up to `durable` survives a crash: what is
    /// gone from it is committed, and in the state.
    pub fn cut(&mut self, node: u64, base: EntryId, durable: LogIndex) {
        self.require(
            "the log is compacted up to the durable state",
            base.index <= durable,
            || {
                format!(
                    "n{node} removes entries up to {base}, its state is durable up to {durable}"
                )
            },
        );
        if self.byzantine {
            return;
        }
        let committed = self.committed.get(place_of(base.index));
        let committed = committed.map(|entry| entry.id);
        self.require(
            "only what is committed is compacted",
            committed == Some(base),
            || format!("n{node} begins its log after {base}, committed is {committed:?}"),
        );
    }

    /// Log Matching: two logs that hold the same entry hold the same before it.
    fn log_matching(&mut self, node: u64, first: LogIndex, log: &MemLog) {
        for index in first.value()..=log.last().index.value() {
            let index = LogIndex::new(index);
            let (Some(entry), Some(digest)) = (log.get(index), log.digest(index)) else {
                continue;
            };
            let id = entry.id;
            let known = *self.digests.entry(id).or_insert(digest);
            self.require("log matching", known == digest, || {
                format!("n{node} holds {id} after other entries than another node")
            });
        }
    }

    // --- what is committed

    fn last_committed(&self) -> LogIndex {
        self.committed.last().map_or(ORIGIN, |entry| entry.id).index
    }

    /// The newest term that anybody led when the entry at `index` was first applied.
    fn committed_in(&self, index: LogIndex) -> Term {
        self.commits[place_of(index)].0
    }

    fn committed_at(&self, index: LogIndex) -> EntryId {
        self.committed[place_of(index)].id
    }

    /// `node` applies `entry`; `log` gives what is durable at each node.
    pub fn applies<'a>(
        &mut self,
        node: u64,
        entry: &Entry,
        log: impl Fn(u64) -> Option<&'a MemLog>,
    ) {
        let id = entry.id;
        let holds = |node: u64| log(node).is_some_and(|log| log.holds(id));
        self.require("applied is durable here", holds(node), || {
            format!("n{node} applies {id}, which its disk does not hold")
        });
        if self.byzantine {
            return;
        }
        if id.index <= self.last_committed() {
            let same = self.committed.get(place_of(id.index)) == Some(entry);
            return self.require("state machine safety", same, || {
                format!("n{node} applies {entry:?}, but another was applied there")
            });
        }
        let next = self.last_committed().next();
        self.require("applied in order", id.index == next, || {
            format!("n{node} applies {id} before {next}")
        });
        // A leader counts by what it has applied, which may be the members before the last change.
        let mut newest = self.memberships.iter().rev().take(2);
        let quorum = newest.any(|membership| membership.is_quorum(|voter| holds(voter.value())));
        let members = self.membership().clone();
        self.require("committed is durable on a quorum", quorum, || {
            let holders: Vec<_> = members
                .members()
                .filter(|node| holds(node.value()))
                .collect();
            format!("n{node} applies {id}, which {holders:?} hold, of {members}")
        });
        if let Payload::Membership(membership) = &entry.payload {
            self.memberships.push((**membership).clone());
        }
        let by = self
            .leaders
            .last_key_value()
            .map_or(id.term, |(&term, _)| term);
        let digest = log(node).and_then(|log| log.digest(id.index));
        self.commits.push((by, digest.unwrap_or_default()));
        self.committed.push(entry.clone());
    }

    // --- what clients are told

    /// A client that had seen everything up to `seen` when it asked was told that its write is at `at`.
    pub fn acknowledged(&mut self, seen: LogIndex, at: LogIndex) {
        let later = at > seen || self.byzantine;
        self.require("writes are in order", later, || {
            format!("a write at {at} began after {seen} was acknowledged")
        });
        self.floor = self.floor.max(at);
    }

    /// A read that began when everything up to `floor` was acknowledged saw the state of `seen`. What
    /// it saw, later reads must see too.
    pub fn read(&mut self, floor: LogIndex, seen: LogIndex) {
        let fresh = seen >= floor || self.byzantine;
        self.require("reads are fresh", fresh, || {
            format!("a read saw {seen}, but {floor} was seen before it began")
        });
        self.floor = self.floor.max(seen);
    }

    /// `node` ended; it may know less when it comes back.
    pub fn ended(&mut self, node: u64) {
        self.seen.remove(&node);
    }
}

#[cfg(test)]
mod tests;
