//! Whether an attempt that failed may be made again. Pure: one table.

use std::time::Duration;

use super::super::protocol::Refusal;
use crate::planted;

/// What an operation does to the cluster, which decides whether doing it twice is harmless.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    /// Changes nothing, or nothing that matters: may be repeated at will.
    Repeatable,
    /// Is applied once however often it is sent, but must not be reported as not applied when it may have been.
    Write,
    /// Moves leadership, or changes the members. It is not sent again when it may have happened. A refusal for
    /// lack of time is definite: the leader leads on.
    Transfer,
}

/// Why one attempt has no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    /// The request did not leave this process, and may at another time.
    NotSent,
    /// The request did not leave this process, and never will.
    Unsendable,
    /// The connection broke, or the node gave no reply, after the request may have been received.
    Lost,
    /// It was done, but its answer found no room behind others on their way.
    NoRoom,
    /// No answer within the deadline of the operation.
    Deadline,
    /// Another leader was announced while the call was outstanding.
    Superseded,
    /// The answer makes no sense.
    Nonsense,
    /// The node refused.
    Refused(Refusal),
}

/// What follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Nothing happened or repeating does no harm: try again, within the deadline.
    Retry,
    /// It may have happened, and is not sent again.
    Unknown,
    /// Nothing happened, and trying again would not help.
    Fail,
}

impl Trouble {
    /// Whether what was asked may have happened all the same, or happen yet.
    pub(super) fn is_ambiguous(&self) -> bool {
        match self {
            Self::NotSent | Self::Unsendable => false,
            Self::Deadline => !planted::is("deadline-reported-as-failure"),
            Self::Lost | Self::NoRoom | Self::Superseded | Self::Nonsense => true,
            Self::Refused(refusal) => refusal.is_ambiguous(),
        }
    }
}

/// The table. What is not applied twice is sent again as long as there is time; a transfer only when it is
/// certain that nothing happened.
pub(super) fn decide(operation: Operation, trouble: &Trouble) -> Verdict {
    use {Operation as O, Trouble as T};
    match (operation, trouble) {
        (_, T::NotSent) => Verdict::Retry,
        (_, T::Unsendable) => Verdict::Fail,
        (O::Repeatable | O::Write, T::Lost | T::NoRoom | T::Superseded) => Verdict::Retry,
        (O::Repeatable, T::Deadline | T::Nonsense) => Verdict::Fail,
        (O::Write, T::Deadline) if planted::is("deadline-reported-as-failure") => Verdict::Fail,
        (O::Write, T::Deadline | T::Nonsense) => Verdict::Unknown,
        (O::Transfer, T::Lost | T::NoRoom | T::Superseded | T::Deadline | T::Nonsense) => {
            Verdict::Unknown
        }
        (_, T::Refused(refusal)) => refused(operation, refusal),
    }
}

fn refused(operation: Operation, refusal: &Refusal) -> Verdict {
    match refusal {
        Refusal::NotLeader { .. } | Refusal::Overloaded | Refusal::Stopping | Refusal::Busy => {
            Verdict::Retry
        }
        Refusal::OutcomeUnknown => match operation {
            Operation::Repeatable | Operation::Write => Verdict::Retry,
            Operation::Transfer => Verdict::Unknown,
        },
        Refusal::TimedOut => match operation {
            Operation::Repeatable | Operation::Write => Verdict::Retry,
            Operation::Transfer => Verdict::Fail,
        },
        Refusal::TooLarge { .. }
        | Refusal::NotAllowed { .. }
        | Refusal::NotChanged { .. }
        | Refusal::NotYet { .. }
        | Refusal::HistoryGone { .. }
        | Refusal::DiskNearlyFull { .. }
        | Refusal::Malformed { .. } => Verdict::Fail,
    }
}

/// The first pause between two attempts: about what a small batch takes to commit.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(2);
/// The longest pause: short against an election, long enough that hundreds of waiting clients do not
/// slow down the election they wait for.
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(100);

/// The longest pause after "overloaded": ten thousand who get that together ask as often as a node can say it while it
/// does its work.
pub(super) const OVERLOADED_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The longest pause after `trouble`.
pub(super) fn longest_pause(trouble: &Trouble) -> Duration {
    match trouble {
        Trouble::Refused(Refusal::Overloaded) if !planted::is("overload-asked-again-at-once") => {
            OVERLOADED_PAUSE_MAX
        }
        _ => PAUSE_MAX,
    }
}

/// How long to wait before attempt `attempt` (1 is the first repetition): doubling up to `longest`, and drawn
/// between half and all of that, so that clients who failed together do not return together.
pub(super) fn pause(attempt: u32, longest: Duration, random: u64) -> Duration {
    let full = PAUSE_MIN
        .saturating_mul(1 << attempt.saturating_sub(1).min(16))
        .min(longest);
    let half = full / 2;
    let spread = u64::try_from(half.as_nanos()).expect("half of a second fits 64 bits") + 1;
    half + Duration::from_nanos(random % spread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::protocol::Needs;

    /// Every pair of operation and trouble has the verdict that follows from one rule: a transfer goes out
    /// again only after a definite "nothing happened", a write while there is time, a read unless it is
    /// pointless.
    #[test]
    fn h3_the_whole_table() {
        use Verdict::{Fail, Retry, Unknown};
        let refused = Trouble::Refused;
        let not_leader = refused(Refusal::NotLeader { leader: None });
        let too_large = refused(Refusal::TooLarge {
            bytes: 2,
            bytes_max: 1,
        });
        let not_allowed = refused(Refusal::NotAllowed {
            needs: Needs::Admin,
            has: quorate_certs::Role::Client,
        });
        let no_room = refused(Refusal::DiskNearlyFull {
            free_bytes: 1,
            reserve_bytes: 2,
        });
        for (trouble, read, write, transfer) in [
            (Trouble::NotSent, Retry, Retry, Retry),
            (Trouble::Unsendable, Fail, Fail, Fail),
            (Trouble::NoRoom, Retry, Retry, Unknown),
            (Trouble::Lost, Retry, Retry, Unknown),
            (Trouble::Superseded, Retry, Retry, Unknown),
            (Trouble::Deadline, Fail, Unknown, Unknown),
            (Trouble::Nonsense, Fail, Unknown, Unknown),
            (not_leader, Retry, Retry, Retry),
            (refused(Refusal::Overloaded), Retry, Retry, Retry),
            (refused(Refusal::Stopping), Retry, Retry, Retry),
            (refused(Refusal::Busy), Retry, Retry, Retry),
            (refused(Refusal::not_changed("?")), Fail, Fail, Fail),
            (refused(Refusal::not_yet("?")), Fail, Fail, Fail),
            (refused(Refusal::OutcomeUnknown), Retry, Retry, Unknown),
            (refused(Refusal::TimedOut), Retry, Retry, Fail),
            (refused(Refusal::HistoryGone { since: 1 }), Fail, Fail, Fail),
            (too_large, Fail, Fail, Fail),
            (not_allowed, Fail, Fail, Fail),
            (no_room, Fail, Fail, Fail),
            (refused(Refusal::malformed("?")), Fail, Fail, Fail),
        ] {
            assert_eq!(decide(Operation::Repeatable, &trouble), read, "{trouble:?}");
            assert_eq!(decide(Operation::Write, &trouble), write, "{trouble:?}");
            assert_eq!(
                decide(Operation::Transfer, &trouble),
                transfer,
                "{trouble:?}"
            );
            // What is reported as failed has certainly not happened.
            let failed = [write, transfer].contains(&Fail);
            let timed_out = trouble == refused(Refusal::TimedOut);
            assert!(
                !(failed && trouble.is_ambiguous()) || timed_out,
                "{trouble:?}"
            );
        }
    }

    /// Pauses grow, stay within their bounds for any attempt and any draw, and differ between draws.
    #[test]
    fn pauses_are_bounded_and_jittered() {
        for attempt in [1, 2, 5, 17, 1000, u32::MAX] {
            for random in [0, 1, 12_345_678_901, u64::MAX] {
                let pause = pause(attempt, PAUSE_MAX, random);
                assert!(pause >= PAUSE_MIN / 2 && pause <= PAUSE_MAX, "{pause:?}");
            }
        }
        assert!(pause(1, PAUSE_MAX, 0) < pause(4, PAUSE_MAX, 0));
        assert_ne!(pause(3, PAUSE_MAX, 1), pause(3, PAUSE_MAX, 1_000_000));
    }

    /// Whoever is told again and again that a node is overloaded adds less and less to that.
    #[test]
    fn who_hears_of_overload_asks_less_often() {
        let overloaded = Trouble::Refused(Refusal::Overloaded);
        let pause = |trouble: &Trouble| pause(20, longest_pause(trouble), 0);
        assert_eq!(pause(&overloaded), OVERLOADED_PAUSE_MAX / 2);
        assert_eq!(pause(&Trouble::Lost), PAUSE_MAX / 2);
    }
}
