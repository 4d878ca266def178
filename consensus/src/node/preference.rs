//! Who leads if all is well: the voter with the highest priority.
//!
//! A preferred voter that follows asks its leader for leadership, and gets it by a transfer once it has
//! everything that is committed. `raft` has priorities of its own, by which voters refuse their votes; then a
//! cluster may be without a leader for a preference, and so they are not used.

use tracing::debug;

use super::RaftNode;
use crate::config::ELECTION_TICKS;
use crate::message::{Body, Message};
use crate::types::{NodeId, Role, Term};

/// How often a preferred voter asks: seldom enough for the one before to be over.
const ASK_TICKS: u64 = 4 * ELECTION_TICKS as u64;

/// The longest it waits after it has lost leadership again and again: a minute by default.
const WAIT_TICKS_MAX: u64 = 64 * ASK_TICKS;

/// When this node asks for leadership.
///
/// One that loses leadership soon after it got it, because its disk or its network are no good, waits twice as
/// long each time.
#[derive(Debug)]
pub(super) struct Preference {
    ask_at: u64,
    wait: u64,
    led_since: Option<u64>,
}

impl Default for Preference {
    fn default() -> Self {
        Self {
            ask_at: ASK_TICKS,
            wait: ASK_TICKS,
            led_since: None,
        }
    }
}

impl Preference {
    /// A tick has passed in which this node led, or not. Returns whether it may ask now.
    fn tick(&mut self, leads: bool, now: u64) -> bool {
        match (leads, self.led_since) {
            (true, None) => self.led_since = Some(now),
            (true, Some(_)) => {}
            (false, Some(since)) => {
                self.led_since = None;
                self.wait = match now - since >= WAIT_TICKS_MAX {
                    true => ASK_TICKS,
                    false => (2 * self.wait).min(WAIT_TICKS_MAX),
                };
                self.ask_at = now + self.wait;
            }
            (false, None) => return now >= self.ask_at,
        }
        false
    }

    fn asked(&mut self, now: u64) {
        self.ask_at = now + ASK_TICKS;
    }
}

impl RaftNode {
    /// Asks for leadership when this node is preferred and could take it.
    pub(super) fn watch_preference(&mut self) {
        let (id, priority) = (self.config.node, self.config.priority);
        let leads = self.seen.role == Role::Leader;
        if priority == 0 || !self.preference.tick(leads, self.now) {
            return;
        }
        let follows = self.seen.role == Role::Follower && self.membership().votes_from_now_on(id);
        let healthy = self.disk.waited(self.now) == 0
            && !self.state_machine.is_late(self.now)
            && !self.is_writing_snapshot();
        if let Some(leader) = self.seen.leader
            && follows
            && healthy
        {
            self.preference.asked(self.now);
            let wanted = Message {
                term: self.seen.term,
                body: Body::LeadershipWanted { priority },
            };
            self.out.messages.push((leader, wanted));
        }
    }

    /// A member asks for leadership in `term`: it gets it if it is preferred to this node, and has everything
    /// that is committed, so that the transfer takes a round trip.
    pub(super) fn handle_leadership_wanted(&mut self, from: NodeId, term: Term, priority: u8) {
        let leads = self.seen.role == Role::Leader && term == self.seen.term;
        let commit = self.raw.raft.raft_log.committed;
        let mut progress = self.progress().into_iter();
        let ready = progress.any(|peer| peer.node == from && peer.matched.value() >= commit);
        if leads && priority > self.config.priority && ready && self.transfer.is_none() {
            debug!(node = %self.config.node, peer = %from, priority, "leadership is wanted");
            // It is refused to one that will not vote any more.
            let _ = self.transfer_leader(Some(from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It asks again and again while it follows, later each time it has lost leadership soon, and as at first
    /// once it has led for long.
    #[test]
    fn one_that_cannot_keep_it_asks_less_often() {
        let mut preference = Preference::default();
        let mut now = 0;
        let mut ask = |preference: &mut Preference, led_for: u64| {
            for _ in 0..led_for {
                now += 1;
                assert!(!preference.tick(true, now));
            }
            let lost = now;
            loop {
                now += 1;
                if preference.tick(false, now) {
                    preference.asked(now);
                    return now - lost;
                }
            }
        };
        assert_eq!(ask(&mut preference, 0), ASK_TICKS);
        assert_eq!(ask(&mut preference, 0), ASK_TICKS);
        assert_eq!(ask(&mut preference, 5), 2 * ASK_TICKS + 1);
        assert_eq!(ask(&mut preference, 5), 4 * ASK_TICKS + 1);
        for _ in 0..9 {
            ask(&mut preference, 1);
        }
        assert_eq!(ask(&mut preference, 1), WAIT_TICKS_MAX + 1);
        assert_eq!(ask(&mut preference, WAIT_TICKS_MAX + 2), ASK_TICKS + 1);
    }
}
