//! How the leader lets time pass in the replicated state.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use quorate_consensus::{LeaderChange, Role, Term};

use crate::planted;

/// How often a node looks whether it has to let time pass, or to answer who has waited long enough: a tenth of
/// the shortest time to live.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long the leader waits with the time that has passed when nothing is about to end. What it has not told
/// when it stops leading is lost, and leases live that much longer.
const TOLD_AT_LATEST: Duration = Duration::from_secs(5);

/// Into how many parts the time until something ends is divided, each of them told as it has passed: so that a
/// change of leader makes nothing live much longer, and whoever asks how long a lease will live learns it.
const TOLD_PARTS: u32 = 4;

/// The most that is told at once: a process that was stopped for longer lets leases live longer instead.
const ELAPSED_MAX: Duration = Duration::from_secs(10);

/// Measures time in a term in which this node leads.
///
/// Every entry that the leader proposes says how much time has passed since the one before. A node that leads a
/// term and finds itself leading that very term later has led it all the time between, and no entry of another
/// leader's that is ever committed was proposed meanwhile. So the times in the log do not overlap, and their sum
/// is never more than has passed.
#[derive(Default)]
pub(super) struct Timekeeper(Mutex<Option<(Term, Instant)>>);

impl Timekeeper {
    /// How many milliseconds have passed since this was last asked, for an entry that is proposed now.
    pub(super) fn elapsed_ms(&self, known: &LeaderChange, now: Instant) -> u32 {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = elapsed(*told, known, now);
        // Parts of a millisecond are left for the next time.
        let whole = Duration::from_millis(elapsed.as_millis() as u64);
        *told = (known.role == Role::Leader).then(|| (known.term, now - (elapsed - whole)));
        let told = match planted::is("time-runs-ahead") {
            true => 2 * whole,
            false => whole,
        };
        u32::try_from(told.min(ELAPSED_MAX).as_millis()).unwrap_or(u32::MAX)
    }

    /// The entry that was to say that `elapsed_ms` passed in `term` was refused and is in no log: the next one says
    /// it. Otherwise a leader that refuses much would let leases live for as many times longer.
    pub(super) fn take_back(&self, term: Term, elapsed_ms: u32) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((told_in, at)) = &mut *told
            && *told_in == term
        {
            let elapsed = Duration::from_millis(elapsed_ms.into());
            *at = at.checked_sub(elapsed).unwrap_or(*at);
        }
    }

    /// Whether an entry has to be proposed only to let time pass, when something ends `due_in` that time.
    pub(super) fn has_to_tell(
        &self,
        known: &LeaderChange,
        now: Instant,
        due_in: Option<Duration>,
    ) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.role == Role::Leader && told.is_none_or(|(term, _)| term != known.term) {
            // Nothing can be told yet, but from now on time counts.
            *told = Some((known.term, now));
        }
        let wait = due_in.map(|due| (due / TOLD_PARTS).clamp(LOOK_INTERVAL, TOLD_AT_LATEST));
        wait.is_some_and(|wait| elapsed(*told, known, now) >= wait)
    }
}

fn elapsed(told: Option<(Term, Instant)>, known: &LeaderChange, now: Instant) -> Duration {
    match told {
        Some((term, at)) if known.role == Role::Leader && term == known.term => {
            now.saturating_duration_since(at)
        }
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(role: Role, term: u64) -> LeaderChange {
        LeaderChange {
            term: Term::new(term),
            role,
            leader: None,
        }
    }

    /// Time passes only from one moment of a term as the leader to another of the same.
    #[test]
    fn only_time_as_the_leader_counts() {
        let (keeper, begin) = (Timekeeper::default(), Instant::now());
        let told = |role, term, micros| {
            keeper.elapsed_ms(&known(role, term), begin + Duration::from_micros(micros))
        };
        assert_eq!(told(Role::Leader, 1, 0), 0, "nothing was measured yet");
        assert_eq!(told(Role::Leader, 1, 2_700), 2);
        assert_eq!(told(Role::Leader, 1, 4_000), 2, "with what was left over");
        assert_eq!(
            told(Role::Leader, 2, 9_000),
            0,
            "somebody else may have led"
        );
        assert_eq!(told(Role::Follower, 2, 10_000), 0);
        assert_eq!(told(Role::Leader, 2, 20_000), 0, "it forgot");
        assert_eq!(
            told(Role::Leader, 2, 60_000_000),
            10_000,
            "stopped for a minute"
        );
    }

    /// What a refused entry would have told is told by the next one, in the same term only.
    #[test]
    fn time_is_not_lost_with_what_is_refused() {
        let (keeper, begin) = (Timekeeper::default(), Instant::now());
        let leader = known(Role::Leader, 1);
        let told = |ms| keeper.elapsed_ms(&leader, begin + Duration::from_millis(ms));
        assert_eq!(told(0), 0);
        assert_eq!(told(30), 30);
        keeper.take_back(leader.term, 30);
        assert_eq!(told(31), 31);
        keeper.take_back(Term::new(2), 31);
        assert_eq!(told(32), 1);
    }

    /// An entry only for the time is proposed when something ends, and otherwise rarely; never for nothing.
    #[test]
    fn time_is_told_when_something_ends() {
        let (keeper, begin) = (Timekeeper::default(), Instant::now());
        let leader = known(Role::Leader, 1);
        let at = |seconds| begin + Duration::from_secs(seconds);
        let (soon, late) = (Some(Duration::from_secs(2)), Some(Duration::from_secs(600)));
        assert!(!keeper.has_to_tell(&leader, at(0), Some(Duration::ZERO)));
        let soon_after = |ms| begin + Duration::from_millis(ms);
        assert!(!keeper.has_to_tell(&leader, soon_after(499), soon));
        assert!(keeper.has_to_tell(&leader, soon_after(500), soon));
        assert!(!keeper.has_to_tell(&leader, at(4), late));
        assert!(keeper.has_to_tell(&leader, at(5), late));
        assert!(!keeper.has_to_tell(&leader, at(90), None));
        assert!(!keeper.has_to_tell(&known(Role::Follower, 1), at(90), soon));
    }
}
