//! The memberships that a log went through.

use std::collections::VecDeque;

use super::Membership;
use crate::durability::Recovered;
use crate::planted;
use crate::types::LogIndex;

/// Every membership from that of the log's base to the one in force, in the order of their indexes. Only
/// entries that were handed out count.
#[derive(Debug)]
pub(crate) struct Memberships(VecDeque<Membership>);

impl Memberships {
    /// Of `recovered`, up to the entry `applied`.
    pub(crate) fn new(recovered: &Recovered, applied: LogIndex) -> Self {
        let mut all = recovered.memberships.iter();
        let base = all.next().expect("a log has members at its base");
        let later = all
            .take_while(|later| later.index() <= applied || planted::is("members-of-the-logs-end"));
        Self([base].into_iter().chain(later).cloned().collect())
    }

    /// The one in force.
    pub(crate) fn current(&self) -> &Membership {
        self.0.back().expect("there is always one")
    }

    /// The one that was in force after the entry `index`, which is not before the base.
    pub(crate) fn at(&self, index: LogIndex) -> &Membership {
        if planted::is("present-members-in-snapshot") {
            return self.current();
        }
        let mut newest = self.0.iter().rev();
        let found = newest.find(|membership| membership.index() <= index);
        found.or(self.0.front()).expect("there is always one")
    }

    pub(crate) fn push(&mut self, membership: Membership) {
        self.0.push_back(membership);
    }

    /// The log begins after `base` now.
    pub(crate) fn compact(&mut self, base: LogIndex) {
        while self.0.get(1).is_some_and(|next| next.index() <= base) {
            self.0.pop_front();
        }
    }

    /// The log begins anew after a snapshot.
    pub(crate) fn restore(&mut self, membership: Membership) {
        self.0 = [membership].into();
    }
}
