//! Giving leadership away: because somebody asks, or because this node's disk or state machine does not answer.

use std::time::Duration;

use tracing::{info, warn};

use super::RaftNode;
use crate::config::ELECTION_TICKS;
use crate::error::TransferError;
use crate::planted;
use crate::ready::Event;
use crate::stall_watch::Sight;
use crate::types::{NodeId, Role};

pub(super) struct Transfer {
    pub(super) target: NodeId,
    pub(super) until: u64,
}

impl RaftNode {
    /// Hands leadership to `target`, or to the voter that is furthest when `None`. The outcome comes in
    /// [`Ready::transfer`](crate::Ready::transfer) (thesis, section 3.10).
    ///
    /// # Errors
    ///
    /// [`TransferError`] when there is nothing to hand over or nobody to take it.
    pub fn transfer_leader(&mut self, target: Option<NodeId>) -> Result<NodeId, TransferError> {
        if self.seen.role != Role::Leader {
            return Err(TransferError::NotLeader {
                leader: self.seen.leader,
            });
        }
        let other =
            |id: &NodeId| self.membership().votes_from_now_on(*id) && *id != self.config.node;
        let target = target
            .or_else(|| self.furthest_voter(|_| true))
            .filter(other);
        let target = target.ok_or(TransferError::NoTarget)?;
        info!(node = %self.config.node, term = %self.seen.term, peer = %target, "handing over leadership");
        self.raw.transfer_leader(target.value());
        self.transfer = Some(Transfer {
            target,
            until: self.now + 2 * ELECTION_TICKS as u64,
        });
        self.settle();
        Ok(target)
    }

    /// For how long the disk has not answered, once that is
    /// [`Config::disk_hang_timeout`](crate::Config::disk_hang_timeout): the node is to stop then.
    #[must_use]
    pub fn disk_hangs(&self) -> Option<Duration> {
        let waited = self.duration(self.disk.waited(self.now));
        (waited >= self.config.disk_hang_timeout).then_some(waited)
    }

    /// For how long the disk has not answered, once that is long enough for a leader to give up leadership: a
    /// node that is told to stop does not wait for it.
    #[must_use]
    pub fn disk_stalls(&self) -> Option<Duration> {
        let ticks = self.disk.stalled(self.now)?;
        Some(self.duration(ticks))
    }

    /// For how long the state machine has not come back with what it was given, once that is
    /// [`Config::apply_stall_timeout`](crate::Config::apply_stall_timeout): a node that is told to stop does not wait for
    /// it then.
    #[must_use]
    pub fn state_machine_stalls(&self) -> Option<Duration> {
        let ticks = self.state_machine.stalled(self.now)?;
        Some(self.duration(ticks))
    }

    /// Whether the state machine has not come back for half of that time.
    pub(super) fn is_late(&self) -> bool {
        self.state_machine.is_late(self.now) && !planted::is("late-voter-takes-over")
    }

    fn duration(&self, ticks: u64) -> Duration {
        self.config.tick_interval() * u32::try_from(ticks).unwrap_or(u32::MAX)
    }

    /// A leader whose disk does not answer applies nothing, so its clients wait, though the others go on
    /// without it: it gives leadership to one whose disk has everything.
    pub(super) fn watch_disk(&mut self) {
        let Some(sight) = self.disk.look(self.gate.oldest(), self.now) else {
            return;
        };
        let (node, term) = (self.config.node, self.seen.term);
        match sight {
            Sight::Stalled { ticks } => {
                let waited = self.duration(ticks);
                self.out.events.push(Event::DiskStalled { waited });
                warn!(
                    %node, %term, role = %self.seen.role, ?waited,
                    "the disk does not answer: nothing is acknowledged until it does"
                );
            }
            Sight::Recovered { ticks } => {
                let waited = self.duration(ticks);
                self.out.events.push(Event::DiskAnswers { waited });
                info!(%node, %term, ?waited, "the disk answers again");
                return;
            }
        }
        if self.seen.role == Role::Leader && self.transfer.is_none() {
            // Without another voter there is nobody to take it.
            let _ = self.transfer_leader(None);
        }
    }

    /// A leader whose state machine does not come back answers no client, though all it takes on is committed: it
    /// gives leadership to one whose state machine goes on. It cannot see which those are. One that is late itself
    /// refuses, and it asks another one the next time; where all are, because what they were given is to blame, it
    /// leads on.
    pub(super) fn watch_state_machine(&mut self) {
        // A state that is replaced takes as long as it is large, and a node that is about to does not lead. But what
        // has hung before still does: what is to be installed waits for that.
        let installs =
            self.has_uninstalled_snapshot() && self.state_machine.stalled(self.now).is_none();
        let behind = self.applied < self.handed && !installs;
        let oldest = behind.then_some(self.applied.value());
        let Some(sight) = self.state_machine.look(oldest, self.now) else {
            return;
        };
        let (node, term, applied) = (self.config.node, self.seen.term, self.applied);
        match sight {
            Sight::Stalled { ticks } => {
                let waited = self.duration(ticks);
                self.out.events.push(Event::StateMachineStalled { waited });
                warn!(
                    %node, %term, role = %self.seen.role, ?waited, %applied, given = %self.handed,
                    "the state machine does not come back: nothing is answered until it does"
                );
                let stays = planted::is("stalled-leader-stays");
                if self.seen.role == Role::Leader && self.transfer.is_none() && !stays {
                    let target = self.voter_in_turn(self.state_machine.times(ticks));
                    let _ = target.map(|target| self.transfer_leader(Some(target)));
                }
            }
            Sight::Recovered { ticks } => {
                let waited = self.duration(ticks);
                self.out.events.push(Event::StateMachineAnswers { waited });
                info!(%node, %term, ?waited, %applied, "the state machine has come back");
            }
        }
    }

    /// One of an earlier term: whoever should have led has lost leadership again.
    pub(super) fn fail_transfer(&mut self) {
        if let Some(Transfer { target, .. }) = self.transfer.take() {
            self.out.transfer = Some(Err(TransferError::TimedOut { target }));
        }
    }

    pub(super) fn end_transfer(&mut self) {
        let Some(transfer) = &self.transfer else {
            return;
        };
        let outcome = match self.seen.leader {
            Some(leader) if leader != self.config.node => Ok(leader),
            _ if self.now < transfer.until => return,
            _ if self.seen.role == Role::Leader => Err(TransferError::TimedOut {
                target: transfer.target,
            }),
            _ => Err(TransferError::OutcomeUnknown),
        };
        self.transfer = None;
        self.out.transfer = Some(outcome);
    }

    /// Of the other voters that `may` lead, the one that has most of the log.
    pub(super) fn furthest_voter(&self, may: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        self.progress()
            .into_iter()
            .filter(|peer| self.membership().votes_from_now_on(peer.node) && may(peer.node))
            .max_by_key(|peer| (peer.active, peer.matched))
            .map(|peer| peer.node)
    }

    /// Of the other voters that answer, the one whose turn it is the `time`-th time; at first one that has most of the
    /// log.
    fn voter_in_turn(&self, time: u64) -> Option<NodeId> {
        let mut voters = self.progress();
        // What `raft` calls active is forgotten once a round, a moment before somebody answers.
        let (members, rounds) = (self.membership(), &self.rounds);
        voters.retain(|peer| members.votes_from_now_on(peer.node) && rounds.is_active(peer.node));
        voters.sort_by_key(|peer| std::cmp::Reverse((peer.matched, peer.node)));
        let turn = (time - 1).checked_rem(voters.len() as u64)?;
        voters.get(turn as usize).map(|peer| peer.node)
    }
}
