//! Whether members that have applied the same entries have the same state.
//!
//! The leader writes a [`Payload::Compare`](crate::Payload::Compare) into the log; each member reads its
//! state as it is after that entry, a little at every tick, and tells the leader the digest. What a majority
//! of the voters found goes into the log as well, so that every member learns of it, also the leader, and
//! also one that was away: whoever found another digest stops itself. It notices what checksums on the disk
//! cannot: memory that changed by itself, and state machines that are not deterministic.
//!
//! This is what one comparison knows; `node/comparing.rs` takes it to the log and to the other members.

use std::collections::BTreeMap;

use crate::config::ELECTION_TICKS;
use crate::membership::Membership;
use crate::types::{EntryId, NodeId};

/// How often a member tells its digest again until the log says what the majority's is: messages may be
/// lost, and leaders change.
const TELL_TICKS: u64 = 2 * ELECTION_TICKS as u64;

/// After how many intervals a comparison that was not decided is given up for the next one: a state that takes
/// longer to read than an interval is still compared, and one that too few members answer holds up no other.
const PATIENCE_INTERVALS: u64 = 8;

/// What this node knows of the last comparison.
#[derive(Debug)]
pub(crate) struct Comparison {
    interval: u64,
    /// The tick from which on a leader begins the next one.
    due: u64,
    /// Whether the state machine can be compared, as far as is known.
    possible: bool,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    at: EntryId,
    /// The tick at which this node learnt of it.
    begun: u64,
    scan: Scan,
    own: Option<u64>,
    /// The majority's digest, once it is in the log.
    agreed: Option<u64>,
    found: BTreeMap<NodeId, u64>,
    tell_at: u64,
    /// Whether this leader has written down what was found, or that nothing can be.
    decided: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scan {
    Waiting,
    Idle,
    Reading,
    Done,
}

/// What a leader makes of the digests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decision {
    /// A majority of the voters found this.
    Agreed(EntryId, u64),
    /// All have answered, and there is no majority.
    Undecided(EntryId),
}

/// This node's state is not that of the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Diverged {
    pub(crate) at: EntryId,
    pub(crate) own: u64,
    pub(crate) agreed: u64,
}

impl Comparison {
    /// One comparison every `interval` ticks.
    pub(crate) fn new(interval: u64) -> Self {
        Self {
            interval,
            due: interval,
            possible: true,
            current: None,
        }
    }

    /// Whether a leader whose state machine has changed up to `applied` should begin a comparison.
    pub(crate) fn is_due(&self, now: u64, applied: EntryId) -> bool {
        let patience = self.interval.saturating_mul(PATIENCE_INTERVALS);
        let over = |current: &Current| current.is_over() || now - current.begun >= patience;
        let news = |current: &Current| current.at.index.next() < applied.index;
        let next = |current: &Current| over(current) && news(current);
        self.possible && now >= self.due && self.current.as_ref().is_none_or(next)
    }

    /// The comparison that would be given up for another one now.
    pub(crate) fn unfinished(&self) -> Option<EntryId> {
        let current = self.current.as_ref();
        let current = current.filter(|current| !current.is_over());
        current.map(|current| current.at)
    }

    /// A comparison was begun, here or not: the next one comes an interval later.
    pub(crate) fn put_off(&mut self, now: u64) {
        // An interval of any length may be configured, also one that means "never".
        self.due = now.saturating_add(self.interval);
    }

    /// The state as it is after the entry `at` will be compared; what was not finished before is given up.
    pub(crate) fn begins(&mut self, at: EntryId, now: u64) {
        self.put_off(now);
        self.current = Some(Current {
            at,
            begun: now,
            scan: Scan::Waiting,
            own: None,
            agreed: None,
            found: BTreeMap::new(),
            tell_at: 0,
            decided: false,
        });
    }

    /// The state after `at` can be read now, or never can.
    pub(crate) fn scan_begins(&mut self, at: EntryId, possible: bool) {
        self.possible = possible;
        if let Some(current) = self.current_at(at) {
            current.scan = match possible {
                true => Scan::Idle,
                false => Scan::Done,
            };
        }
    }

    /// Whether to read on now.
    pub(crate) fn reads_on(&mut self) -> bool {
        let idle = self.current.as_mut();
        let idle = idle.filter(|current| current.scan == Scan::Idle);
        idle.map(|current| current.scan = Scan::Reading).is_some()
    }

    /// A piece was read; `digest` with the last one.
    pub(crate) fn was_read(&mut self, at: EntryId, digest: Option<u64>) -> Option<Diverged> {
        let current = self.current_at(at)?;
        current.own = digest;
        current.scan = match digest {
            Some(_) => Scan::Done,
            None => Scan::Idle,
        };
        current.diverged()
    }

    /// What this node has to tell its leader, who may be itself.
    pub(crate) fn tells(&mut self, now: u64) -> Option<(EntryId, u64)> {
        let current = self.current.as_mut()?;
        let own = current.own?;
        let due = current.agreed.is_none() && now >= current.tell_at;
        due.then(|| {
            current.tell_at = now + TELL_TICKS;
            (current.at, own)
        })
    }

    /// A member tells what it found.
    pub(crate) fn heard(&mut self, from: NodeId, at: EntryId, digest: u64) {
        if let Some(current) = self.current_at(at) {
            current.found.insert(from, digest);
        }
    }

    /// Another node may have decided already, but not in the log.
    pub(crate) fn leader_changed(&mut self) {
        if let Some(current) = &mut self.current {
            current.decided = false;
        }
    }

    /// What this leader has to write down, once.
    pub(crate) fn decides(&mut self, membership: &Membership) -> Option<Decision> {
        let current = self.current.as_mut()?;
        if current.is_over() {
            return None;
        }
        let decision = current.decision(membership)?;
        current.decided = true;
        Some(decision)
    }

    /// The log says what a majority found after the entry `at`.
    pub(crate) fn agreed(&mut self, at: EntryId, digest: u64) -> Option<Diverged> {
        let current = self.current_at(at)?;
        current.agreed.get_or_insert(digest);
        current.diverged()
    }

    fn current_at(&mut self, at: EntryId) -> Option<&mut Current> {
        self.current.as_mut().filter(|current| current.at == at)
    }
}

impl Current {
    /// Whether nothing is to be written down any more.
    fn is_over(&self) -> bool {
        self.decided || self.agreed.is_some()
    }

    fn diverged(&self) -> Option<Diverged> {
        let (own, agreed) = (self.own?, self.agreed?);
        let at = self.at;
        (own != agreed).then_some(Diverged { at, own, agreed })
    }

    fn decision(&self, membership: &Membership) -> Option<Decision> {
        let found = |digest| move |voter: NodeId| self.found.get(&voter) == Some(digest);
        let mut digests = self.found.values();
        let agreed = digests.find(|&digest| membership.is_quorum(found(digest)));
        let all = || {
            let mut voters = membership.voters().chain(membership.outgoing());
            voters.all(|voter| self.found.contains_key(&voter))
        };
        match agreed {
            Some(digest) => Some(Decision::Agreed(self.at, *digest)),
            None => all().then_some(Decision::Undecided(self.at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::MembershipChange;
    use crate::types::{LogIndex, Term};

    fn id(node: u64) -> NodeId {
        NodeId::new(node).unwrap()
    }

    fn at(index: u64) -> EntryId {
        EntryId::new(Term::new(2), LogIndex::new(index))
    }

    fn of_three() -> Membership {
        Membership::new([id(1), id(2), id(3)], [id(4)]).unwrap()
    }

    /// Two of three voters decide, whatever learners say, and only once.
    #[test]
    fn a_majority_of_the_voters_decides() {
        let mut comparison = Comparison::new(100);
        comparison.begins(at(9), 5);
        comparison.heard(id(1), at(9), 7);
        comparison.heard(id(4), at(9), 7);
        comparison.heard(id(2), at(8), 7);
        assert_eq!(comparison.decides(&of_three()), None);
        comparison.heard(id(2), at(9), 6);
        assert_eq!(comparison.decides(&of_three()), None);
        comparison.heard(id(3), at(9), 6);
        let agreed = Some(Decision::Agreed(at(9), 6));
        assert_eq!(comparison.decides(&of_three()), agreed);
        assert_eq!(comparison.decides(&of_three()), None);
        comparison.leader_changed();
        assert_eq!(comparison.decides(&of_three()), agreed);
    }

    #[test]
    fn three_opinions_decide_nothing() {
        let mut comparison = Comparison::new(100);
        comparison.begins(at(9), 5);
        for (node, digest) in [(1, 1), (2, 2), (3, 3)] {
            assert_eq!(comparison.decides(&of_three()), None);
            comparison.heard(id(node), at(9), digest);
        }
        let undecided = Some(Decision::Undecided(at(9)));
        assert_eq!(comparison.decides(&of_three()), undecided);
    }

    /// Of joint members both majorities decide, so also those who are leaving are waited for.
    #[test]
    fn joint_members_all_have_a_say() {
        let former = Membership::new([id(1), id(2), id(3)], [id(4), id(5)]).unwrap();
        let change = MembershipChange::Set {
            voters: [id(1), id(4), id(5)].into(),
            learners: [].into(),
            addresses: [].into(),
        };
        let target = former.after(&change).unwrap();
        let joint = former.step_to(&target, LogIndex::new(20)).unwrap();
        assert!(joint.is_joint());
        for (last, decision) in [
            (7, Decision::Agreed(at(9), 7)),
            (6, Decision::Undecided(at(9))),
        ] {
            let mut comparison = Comparison::new(100);
            comparison.begins(at(9), 5);
            for voter in joint.voters() {
                comparison.heard(voter, at(9), 7);
            }
            assert_eq!(comparison.decides(&joint), None);
            comparison.heard(id(2), at(9), last);
            if last != 7 {
                assert_eq!(comparison.decides(&joint), None);
                comparison.heard(id(3), at(9), last);
            }
            assert_eq!(comparison.decides(&joint), Some(decision));
        }
    }

    /// Whichever comes last, the own digest or the majority's.
    #[test]
    fn a_node_that_differs_notices() {
        for own_first in [true, false] {
            for own in [6, 7] {
                let mut comparison = Comparison::new(100);
                comparison.begins(at(9), 5);
                comparison.scan_begins(at(9), true);
                assert!(comparison.reads_on() && !comparison.reads_on());
                assert_eq!(comparison.was_read(at(9), None), None);
                assert!(comparison.reads_on());
                let found = match own_first {
                    true => {
                        assert_eq!(comparison.was_read(at(9), Some(own)), None);
                        comparison.agreed(at(9), 6)
                    }
                    false => {
                        assert_eq!(comparison.agreed(at(9), 6), None);
                        comparison.was_read(at(9), Some(own))
                    }
                };
                assert_eq!(found.is_some(), own != 6);
                assert!(!comparison.reads_on());
            }
        }
    }

    /// Who is told never to begin a comparison takes part in those of others, and begins none after.
    #[test]
    fn an_interval_without_end_never_ends() {
        let mut comparison = Comparison::new(u64::MAX);
        comparison.begins(at(9), 5);
        comparison.heard(id(1), at(9), 7);
        comparison.heard(id(2), at(9), 7);
        let agreed = Some(Decision::Agreed(at(9), 7));
        assert_eq!(comparison.decides(&of_three()), agreed);
        assert!(!comparison.is_due(u64::MAX - 1, at(12)));
    }

    /// Digests of another comparison say nothing, and a finding is told again until it is decided.
    #[test]
    fn it_tells_until_the_log_says_so() {
        let mut comparison = Comparison::new(100);
        assert!(comparison.is_due(100, at(9)) && !comparison.is_due(99, at(9)));
        comparison.begins(at(9), 100);
        let given_up = 100 + 100 * PATIENCE_INTERVALS;
        assert!(
            !comparison.is_due(given_up - 1, at(12)),
            "it may be decided"
        );
        assert!(comparison.is_due(given_up, at(12)) && comparison.unfinished() == Some(at(9)));
        assert!(!comparison.is_due(given_up, at(10)), "nothing new");
        assert_eq!(comparison.was_read(at(8), Some(1)), None);
        assert_eq!(comparison.tells(101), None);
        assert_eq!(comparison.was_read(at(9), Some(1)), None);
        assert_eq!(comparison.tells(101), Some((at(9), 1)));
        assert_eq!(comparison.tells(102), None);
        assert_eq!(comparison.tells(101 + TELL_TICKS), Some((at(9), 1)));
        assert_eq!(comparison.agreed(at(9), 1), None);
        assert_eq!(comparison.tells(1000), None);
        assert!(!comparison.is_due(199, at(12)) && comparison.is_due(200, at(12)));
        assert!(!comparison.is_due(200, at(10)), "nothing new");
        assert_eq!(comparison.unfinished(), None);
    }
}
