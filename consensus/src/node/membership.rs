//! Changing the members: joint consensus, one change at a time (Raft paper, section 6). Here a node decides when a
//! change begins and goes on; what the members are, and what may follow, is said in [`membership`](crate::membership).

use std::collections::{BTreeMap, BTreeSet};

use raft::eraftpb::ConfChangeV2;
use tracing::{debug, error, info};

use super::RaftNode;
use crate::config::ELECTION_TICKS;
use crate::convert;
use crate::entry::{Entry, Payload};
use crate::error::{Fatal, MembershipError};
use crate::membership::{Membership, MembershipChange, Standing, Transition, path, transition};
use crate::planted;
use crate::types::{EntryId, LogIndex, NodeId, Role, Term};

/// How often the leader looks who has caught up: a member has if it holds what was committed one round ago.
const ROUND_TICKS: u64 = ELECTION_TICKS as u64;

/// For how many rounds on end a member must have caught up before it becomes a voter (thesis, section 4.2.1,
/// which counts rounds as well): one could be luck on a link that is too slow.
const ROUNDS_MIN: u32 = 4;

/// A change that was asked for at this leader.
#[derive(Debug)]
pub(super) struct Changing {
    /// The first entry of it.
    first: EntryId,
    /// Who the members are now that it is complete. Whoever asked for it is told when that is durable here: then the
    /// former voters may be turned off for good.
    complete: Option<Membership>,
}

/// Who keeps up with the leader.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// What was committed when this round began. None in a leader's first, which began before it led: in that one
    /// nobody is counted.
    commit: Option<u64>,
    /// For how many rounds each has kept up.
    kept_up: BTreeMap<NodeId, u32>,
    /// Who was heard of in this round, and in the one before.
    heard: [BTreeSet<NodeId>; 2],
}

impl RaftNode {
    /// Begins to change the members. Only if they are still those of the entry `expected`, if one is given.
    /// The outcome comes in [`Ready::changed`](crate::Ready::changed).
    ///
    /// # Errors
    ///
    /// [`MembershipError`]; nothing happened, except that a leader that would be removed hands over.
    pub fn change_membership(
        &mut self,
        change: &MembershipChange,
        expected: Option<LogIndex>,
    ) -> Result<(), MembershipError> {
        let leader = self.seen.leader;
        if self.seen.role != Role::Leader {
            return Err(MembershipError::NotLeader { leader });
        }
        if let Some(transfer) = &self.transfer {
            let leader = Some(transfer.target);
            return Err(MembershipError::NotLeader { leader });
        }
        let is_changing = self.changing.is_some() || self.memberships.current().is_joint();
        if is_changing || !self.may_append_membership() {
            return Err(MembershipError::ChangeInProgress);
        }
        let current = self.memberships.current();
        let actual = current.index();
        if expected.is_some_and(|expected| expected != actual) {
            return Err(MembershipError::Stale { actual });
        }
        let target = current.after(change)?;
        self.check_voters(&target)?;
        let leaves = current.is_voter(self.config.node) && !target.is_voter(self.config.node);
        // Where no voter stays, it takes the first step and hands over to one that votes from then on.
        if leaves && self.may_take_over(&target).is_some() {
            return Err(self.hand_over_to(&target));
        }
        let first = self.append_step(&target)?;
        self.changing = Some(Changing {
            first,
            complete: None,
        });
        self.settle();
        Ok(())
    }

    /// Nothing may be lost or stand still because of who votes from now on.
    fn check_voters(&self, target: &Membership) -> Result<(), MembershipError> {
        let prs = self.raw.raft.prs();
        let own = self.config.node;
        let commit = self.raw.raft.raft_log.committed;
        for node in target.voters() {
            if self.memberships.current().is_voter(node) {
                continue;
            }
            let matched = prs.get(node.value()).map_or(0, |progress| progress.matched);
            if !self.rounds.has_kept_up(node, 1) && !planted::is("lagging-learner-promoted") {
                return Err(MembershipError::LearnerBehind {
                    node,
                    matched: LogIndex::new(matched),
                    commit: LogIndex::new(commit),
                });
            }
        }
        let is_active = |node: NodeId| {
            let now = prs.get(node.value());
            let now = now.is_some_and(|progress| progress.recent_active);
            node == own || now || self.rounds.is_active(node)
        };
        let active = target.voters().filter(|&node| is_active(node)).count();
        let voters = target.voters().len();
        match 2 * active > voters {
            true => Ok(()),
            false => Err(MembershipError::WouldLoseQuorum { active, voters }),
        }
    }

    /// A leader that is to go first gives leadership to one that stays.
    fn hand_over_to(&mut self, target: &Membership) -> MembershipError {
        let handed = self
            .may_take_over(target)
            .and_then(|node| self.transfer_leader(Some(node)).ok());
        MembershipError::NotLeader { leader: handed }
    }

    fn may_take_over(&self, target: &Membership) -> Option<NodeId> {
        self.furthest_voter(|node| target.votes_from_now_on(node))
    }

    /// Whether this leader may add an entry that changes the members: it knows all that is committed, and has
    /// applied every earlier change.
    fn may_append_membership(&self) -> bool {
        self.may_append_own() && !self.raw.raft.has_pending_conf()
    }

    fn append_step(&mut self, target: &Membership) -> Result<EntryId, MembershipError> {
        // What was proposed before comes before.
        self.append_proposals();
        let index = LogIndex::new(self.raw.raft.raft_log.last_index()).next();
        let current = self.memberships.current();
        let step = current.step_to(target, index).map_err(|invalid| {
            MembershipError::Refused(crate::membership::ChangeRefused::Invalid(invalid))
        })?;
        self.append_membership(step)
    }

    fn append_membership(&mut self, next: Membership) -> Result<EntryId, MembershipError> {
        let id = EntryId::new(Term::new(self.raw.raft.term), next.index());
        let wanted = match transition(self.memberships.current(), &next) {
            Some(Transition::Change(change)) => change,
            // `raft` takes an entry without changes for one that leaves a joint membership.
            Some(Transition::Same) => convert::some_change(),
            None if planted::is("voters-changed-in-one-step") => convert::some_change(),
            None => unreachable!("a step from {} to {next}", self.memberships.current()),
        };
        let bytes = next.encode();
        let size = Entry {
            id,
            payload: Payload::Membership(Box::new(next)),
        };
        if self.raw.propose_conf_change(bytes, wanted).is_err() {
            return Err(MembershipError::ChangeInProgress);
        }
        self.proposals.appended_own(id, size.bytes());
        Ok(id)
    }

    /// The leader sees changes through, whoever began them.
    pub(super) fn watch_membership(&mut self) {
        if self.seen.role != Role::Leader {
            return;
        }
        // `raft` forgets who is active at the end of each of its own rounds, which are as long.
        let active = self.raw.raft.prs().iter();
        let active = active.filter(|(_, progress)| progress.recent_active);
        let active = active.filter_map(|(&id, _)| NodeId::new(id));
        self.rounds.heard[0].extend(active);
        if self.now.is_multiple_of(ROUND_TICKS) {
            self.count_round();
        }
        if self.transfer.is_some() {
            return;
        }
        if !self.memberships.current().is_voter(self.config.node) {
            // Elected by those who did not know yet that its leaving was complete. `raft` lets it lead on.
            let current = self.memberships.current().clone();
            self.hand_over_to(&current);
            return;
        }
        if !self.may_append_membership() {
            return;
        }
        if self.memberships.current().is_joint() {
            if planted::is("joint-left-by-its-beginner-only") && self.changing.is_none() {
                return;
            }
            return self.leave_joint();
        }
        if let Some(node) = self.next_promotion() {
            let change = MembershipChange::Promote { node };
            match self.change_membership(&change, None) {
                Ok(()) => info!(
                    node = %self.config.node, term = %self.seen.term, peer = %node,
                    "promoting a learner that has caught up"
                ),
                Err(err) => {
                    debug!(node = %self.config.node, peer = %node, %err, "not promoted yet");
                }
            }
        }
    }

    fn next_promotion(&self) -> Option<NodeId> {
        let due = self.memberships.current().promotions();
        let mut due = due.map(|(node, _)| node);
        due.find(|&node| self.rounds.has_kept_up(node, ROUNDS_MIN))
    }

    /// One that is leaving gives leadership to one that stays, who then completes the change: it could not
    /// tell the others that it is complete.
    fn leave_joint(&mut self) {
        let current = self.memberships.current().clone();
        if !current.votes_from_now_on(self.config.node) {
            self.hand_over_to(&current);
            return;
        }
        let index = LogIndex::new(self.raw.raft.raft_log.last_index()).next();
        let _ = self.append_membership(current.left(index));
    }

    fn count_round(&mut self) {
        let committed = self.raw.raft.raft_log.committed;
        let commit = self.rounds.commit.replace(committed);
        let members = self.raw.raft.prs().iter();
        let commit = commit.or(planted::is("first-round-counted").then_some(0));
        let holds = |matched| commit.is_some_and(|commit| matched >= commit);
        let kept_up = members.filter(|(_, progress)| holds(progress.matched));
        let rounds = &self.rounds;
        let kept_up = kept_up.filter_map(|(&id, _)| {
            let node = NodeId::new(id).filter(|node| rounds.heard[0].contains(node))?;
            let before = rounds.kept_up.get(&node).copied().unwrap_or_default();
            Some((node, before.saturating_add(1)))
        });
        self.rounds.kept_up = kept_up.collect();
        self.rounds.heard.swap(0, 1);
        self.rounds.heard[0].clear();
    }

    /// An entry that is committed changes the members from now on. Returns whether this node goes on.
    pub(super) fn take_membership(&mut self, at: EntryId, next: Membership) -> bool {
        let own = self.config.node;
        let current = self.memberships.current();
        if next.standing(own) == Standing::Removed && !current.is_provisional() {
            info!(node = %own, term = %self.seen.term, index = %at.index, "removed from the cluster");
            self.out.membership = Some(next);
            return self.ends(Fatal::Removed { node: own, at });
        }
        let changes = match transition(current, &next) {
            Some(Transition::Same) => Some(Vec::new()),
            Some(Transition::Change(change)) => Some(vec![change]),
            None if current.is_provisional() || planted::is("voters-changed-in-one-step") => {
                Some(path(current, &next))
            }
            None => None,
        };
        let possible = changes.is_some_and(|changes| self.apply_changes(&changes, &next));
        if !possible || next.index() != at.index {
            error!(node = %own, index = %at.index, %next, "the members cannot change like that");
            return self.ends(Fatal::ImpossibleMembership { at });
        }
        info!(node = %own, term = %self.seen.term, index = %at.index, members = %next, "members changed");
        if let Some(changing) = &mut self.changing
            && !next.is_joint()
            && changing.first <= at
        {
            changing.complete = Some(next.clone());
        }
        self.out.membership = Some(next.clone());
        self.memberships.push(next);
        true
    }

    /// Whether `raft` got to the members that the entry names.
    fn apply_changes(&mut self, changes: &[ConfChangeV2], next: &Membership) -> bool {
        let mut state = None;
        for change in changes {
            match self.raw.apply_conf_change(change) {
                Ok(applied) => state = Some(applied),
                Err(_) => return false,
            }
        }
        state.is_none_or(|state| convert::is_same_members(&state, next))
    }

    fn ends(&mut self, fatal: Fatal) -> bool {
        self.out.stop = Some(fatal);
        self.over = true;
        false
    }

    /// A change that is complete is told once that is durable.
    pub(super) fn tell_change(&mut self) {
        if self.gate.may_forget_members() {
            return;
        }
        let told = |changing: &mut Changing| changing.complete.is_some();
        let complete = self.changing.take_if(told).and_then(|it| it.complete);
        if let Some(members) = complete {
            self.out.changed = Some(Ok(members));
        }
    }

    /// Whoever waits for a change here cannot know how it ends.
    pub(super) fn forget_change(&mut self) {
        if let Some(changing) = self.changing.take() {
            let complete = changing.complete;
            self.out.changed = Some(complete.ok_or(MembershipError::OutcomeUnknown));
        }
        self.rounds = Rounds::default();
    }
}

impl Rounds {
    fn has_kept_up(&self, node: NodeId, rounds: u32) -> bool {
        self.kept_up.get(&node).is_some_and(|kept| *kept >= rounds)
    }

    pub(super) fn is_active(&self, node: NodeId) -> bool {
        self.heard.iter().any(|round| round.contains(&node))
    }
}
