//! How the leader lets time pass in the replicated state.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quorate_consensus::{LeaderChange, Role, Term};

use super::command::Command;
use super::logged::Logged;
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
/// is never more than has passed. Behind an entry that starts a lease, that is so from this entry on: what
/// passed before it is told before it, or never.
#[derive(Default)]
pub(super) struct Timekeeper {
    told: Mutex<Option<Told>>,
}

/// What was told in a term.
struct Told {
    term: Term,
    /// Up to when.
    until: Instant,
    /// How many entries there were to tell it.
    entries: u64,
    /// The last of them that starts a lease and is known not to be refused.
    started: u64,
    /// Those that start a lease and may yet be refused, with the time that refused ones before each were to tell. No
    /// more than a leader has proposals under way.
    undecided: BTreeMap<u64, Duration>,
}

/// What an entry tells.
pub(super) struct Telling {
    /// How many milliseconds have passed.
    pub(super) elapsed_ms: u32,
    term: Term,
    entry: u64,
}

impl Timekeeper {
    /// `logged` as it is proposed now, before another one is stamped: with how much time has passed since the last one
    /// was.
    pub(super) fn stamp(
        &self,
        known: &LeaderChange,
        now: Instant,
        logged: Logged,
    ) -> (Logged, Telling) {
        let command = logged.command.as_ref();
        let starts_lease = command.is_some_and(Command::starts_lease);
        let telling = self.tell(known, now, starts_lease);
        let elapsed_ms = telling.elapsed_ms;
        (
            Logged {
                elapsed_ms,
                ..logged
            },
            telling,
        )
    }

    fn tell(&self, known: &LeaderChange, now: Instant, starts_lease: bool) -> Telling {
        let mut telling = Telling {
            elapsed_ms: 0,
            term: known.term,
            entry: 0,
        };
        let mut told = self.told();
        if known.role != Role::Leader {
            *told = None;
            return telling;
        }
        let told = Told::in_term(&mut told, known.term, now);
        let elapsed = now.saturating_duration_since(told.until);
        // Parts of a millisecond are left for the next time.
        let whole = Duration::from_millis(elapsed.as_millis() as u64);
        told.until = now - (elapsed - whole);
        told.entries += 1;
        telling.entry = told.entries;
        if starts_lease {
            told.undecided.insert(telling.entry, Duration::ZERO);
        }
        let whole = match planted::is("time-runs-ahead") {
            true => 2 * whole,
            false => whole,
        };
        telling.elapsed_ms = u32::try_from(whole.min(ELAPSED_MAX).as_millis()).unwrap_or(u32::MAX);
        telling
    }

    /// It is decided whether the entry with `telling` is in the log. If it is `refused`, it is in none, and the next one
    /// tells its time: otherwise a leader that refuses much would let leases live for as many times longer. But if
    /// one after it has started a lease meanwhile, which would end that much early, its time is lost.
    pub(super) fn decided(&self, telling: &Telling, refused: bool) {
        let mut told = self.told();
        let Some(told) = told.as_mut().filter(|told| told.term == telling.term) else {
            return;
        };
        let owed = told.undecided.remove(&telling.entry);
        if !refused {
            if owed.is_some() {
                told.started = told.started.max(telling.entry);
            }
            return;
        }
        if telling.entry < told.started {
            return;
        }
        let elapsed = Duration::from_millis(telling.elapsed_ms.into()) + owed.unwrap_or_default();
        match told.undecided.range_mut(telling.entry..).next() {
            // If that one is refused as well, the next one tells it.
            Some((_, owed)) => *owed += elapsed,
            None => told.until = told.until.checked_sub(elapsed).unwrap_or(told.until),
        }
    }

    /// Whether an entry has to be proposed only to let time pass, when something ends `due_in` that time.
    pub(super) fn has_to_tell(
        &self,
        known: &LeaderChange,
        now: Instant,
        due_in: Option<Duration>,
    ) -> bool {
        if known.role != Role::Leader {
            return false;
        }
        // In a new term nothing can be told yet, but from now on time counts.
        let until = Told::in_term(&mut self.told(), known.term, now).until;
        let wait = due_in.map(|due| (due / TOLD_PARTS).clamp(LOOK_INTERVAL, TOLD_AT_LATEST));
        wait.is_some_and(|wait| now.saturating_duration_since(until) >= wait)
    }

    fn told(&self) -> MutexGuard<'_, Option<Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    /// In `term`, which begins `now` unless something was told in it before.
    fn in_term(told: &mut Option<Self>, term: Term, now: Instant) -> &mut Self {
        if told.as_ref().is_some_and(|told| told.term != term) {
            *told = None;
        }
        told.get_or_insert_with(|| Self {
            term,
            until: now,
            entries: 0,
            started: 0,
            undecided: BTreeMap::new(),
        })
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
            let at = begin + Duration::from_micros(micros);
            keeper.tell(&known(role, term), at, false).elapsed_ms
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
        let tell = |ms| keeper.tell(&leader, begin + Duration::from_millis(ms), false);
        assert_eq!(tell(0).elapsed_ms, 0);
        let refused = tell(30);
        assert_eq!(refused.elapsed_ms, 30);
        keeper.decided(&refused, true);
        let refused = tell(31);
        assert_eq!(refused.elapsed_ms, 31);
        let term = Term::new(2);
        keeper.decided(&Telling { term, ..refused }, true);
        assert_eq!(tell(32).elapsed_ms, 1);
    }

    /// Time that passed before a lease was started does not count for it, also where it was to be told by an entry that
    /// was refused later; where the lease was refused as well, it is not lost.
    #[test]
    fn no_lease_ends_early_by_what_was_refused() {
        for (starts_lease, grant_first, grant_refused, told) in [
            (true, true, false, 100),
            (true, false, false, 100),
            (true, true, true, 2_101),
            (true, false, true, 2_101),
            (false, true, false, 2_100),
        ] {
            let (keeper, begin) = (Timekeeper::default(), Instant::now());
            let leader = known(Role::Leader, 1);
            let tell = |ms, starts| keeper.tell(&leader, begin + Duration::from_millis(ms), starts);
            assert_eq!(tell(0, false).elapsed_ms, 0);
            let write = tell(2_000, false);
            let grant = tell(2_001, starts_lease);
            assert_eq!((write.elapsed_ms, grant.elapsed_ms), (2_000, 1));
            let decide_grant = || keeper.decided(&grant, grant_refused);
            if grant_first {
                decide_grant();
            }
            keeper.decided(&write, true);
            if !grant_first {
                // Nobody knows yet.
                let known = tell(2_001, false);
                assert_eq!(known.elapsed_ms, 0);
                decide_grant();
            }
            let after = tell(2_101, false);
            assert_eq!(after.elapsed_ms, told, "{grant_first} {grant_refused}");
            keeper.decided(&after, true);
            assert_eq!(tell(2_201, false).elapsed_ms, told + 100);
        }
    }

    /// What starts a lease is known by the command: time that passed before one is granted or kept ends neither early.
    #[test]
    fn never_early_whatever_starts_the_lease() {
        let lease = 7;
        for (command, told) in [
            (Command::GrantLease { ttl_ms: 5_000 }, 100),
            (Command::KeepLease { lease }, 100),
            (Command::RevokeLease { lease }, 2_100),
            (Command::OpenSession, 2_100),
        ] {
            let (keeper, begin) = (Timekeeper::default(), Instant::now());
            let leader = known(Role::Leader, 1);
            let stamp = |ms, command: Option<&Command>| {
                let logged = Logged {
                    elapsed_ms: 0,
                    tag: None,
                    command: command.cloned(),
                    owner: 0,
                };
                let (stamped, telling) =
                    keeper.stamp(&leader, begin + Duration::from_millis(ms), logged);
                assert_eq!(stamped.elapsed_ms, telling.elapsed_ms);
                assert_eq!(stamped.command.as_ref(), command);
                telling
            };
            stamp(0, None);
            let refused = stamp(2_000, None);
            let starts = stamp(2_000, Some(&command));
            keeper.decided(&starts, false);
            keeper.decided(&refused, true);
            assert_eq!(stamp(2_100, None).elapsed_ms, told, "{command:?}");
        }
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
