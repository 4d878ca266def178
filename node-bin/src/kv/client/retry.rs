//! Whether an attempt that failed may be made again. Pure: one table.

use std::time::Duration;

use super::super::protocol::Refusal;
use crate::planted;

/// What an operation does to the cluster, which decides whether doing it twice is harmless.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    /// Changes nothing: may be repeated at will.
    Read,
    /// Applying it twice may differ from applying it once.
    Write,
    /// Moves leadership, or changes the members. As with a write, but a refusal for lack of time is definite:
    /// the leader leads on.
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
    /// The write may have happened. Never sent again.
    Unknown,
    /// Nothing happened, and trying again would not help.
    Fail,
}

/// The table. A write is repeated only when it is certain that nothing happened.
pub(super) fn decide(operation: Operation, trouble: &Trouble) -> Verdict {
    use {Operation as O, Trouble as T};
    match (operation, trouble) {
        (_, T::NotSent) => Verdict::Retry,
        (_, T::Unsendable) => Verdict::Fail,
        (O::Read, T::Lost | T::Superseded) => Verdict::Retry,
        (O::Read, T::Deadline | T::Nonsense) => Verdict::Fail,
        (O::Write, T::Lost | T::Superseded) if planted::is("write-sent-again") => Verdict::Retry,
        (O::Write, T::Deadline) if planted::is("deadline-reported-as-failure") => Verdict::Fail,
        (O::Write | O::Transfer, T::Lost | T::Superseded | T::Deadline | T::Nonsense) => {
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
            Operation::Read => Verdict::Retry,
            Operation::Write | Operation::Transfer => Verdict::Unknown,
        },
        Refusal::TimedOut => match operation {
            Operation::Read => Verdict::Retry,
            // The protocol never gives it to a write. Should a node do so, this is the careful reading.
            Operation::Write => Verdict::Unknown,
            Operation::Transfer => Verdict::Fail,
        },
        Refusal::TooLarge { .. }
        | Refusal::NotAllowed { .. }
        | Refusal::NotChanged { .. }
        | Refusal::Malformed { .. } => Verdict::Fail,
    }
}

/// The first pause between two attempts: about what a small batch takes to commit.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(2);
/// The longest pause: short against an election, long enough that hundreds of waiting clients do not
/// slow down the election they wait for.
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How long to wait before attempt `attempt` (1 is the first repetition): doubling, bounded, and drawn
/// between half and all of that, so that clients who failed together do not return together.
pub(super) fn pause(attempt: u32, random: u64) -> Duration {
    let full = PAUSE_MIN
        .saturating_mul(1 << attempt.saturating_sub(1).min(16))
        .min(PAUSE_MAX);
    let half = full / 2;
    let spread = u64::try_from(half.as_nanos()).expect("half of PAUSE_MAX fits 64 bits") + 1;
    half + Duration::from_nanos(random % spread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::protocol::Needs;

    /// Every pair of operation and trouble has the verdict that follows from one rule: a write goes out
    /// again only after a definite "nothing happened", a read unless it is pointless.
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
        for (trouble, read, write, transfer) in [
            (Trouble::NotSent, Retry, Retry, Retry),
            (Trouble::Unsendable, Fail, Fail, Fail),
            (Trouble::Lost, Retry, Unknown, Unknown),
            (Trouble::Superseded, Retry, Unknown, Unknown),
            (Trouble::Deadline, Fail, Unknown, Unknown),
            (Trouble::Nonsense, Fail, Unknown, Unknown),
            (not_leader, Retry, Retry, Retry),
            (refused(Refusal::Overloaded), Retry, Retry, Retry),
            (refused(Refusal::Stopping), Retry, Retry, Retry),
            (refused(Refusal::Busy), Retry, Retry, Retry),
            (refused(Refusal::not_changed("?")), Fail, Fail, Fail),
            (refused(Refusal::OutcomeUnknown), Retry, Unknown, Unknown),
            (refused(Refusal::TimedOut), Retry, Unknown, Fail),
            (too_large, Fail, Fail, Fail),
            (not_allowed, Fail, Fail, Fail),
            (refused(Refusal::malformed("?")), Fail, Fail, Fail),
        ] {
            assert_eq!(decide(Operation::Read, &trouble), read, "{trouble:?}");
            assert_eq!(decide(Operation::Write, &trouble), write, "{trouble:?}");
            assert_eq!(
                decide(Operation::Transfer, &trouble),
                transfer,
                "{trouble:?}"
            );
        }
    }

    /// Pauses grow, stay within their bounds for any attempt and any draw, and differ between draws.
    #[test]
    fn pauses_are_bounded_and_jittered() {
        for attempt in [1, 2, 5, 17, 1000, u32::MAX] {
            for random in [0, 1, 12_345_678_901, u64::MAX] {
                let pause = pause(attempt, random);
                assert!(pause >= PAUSE_MIN / 2 && pause <= PAUSE_MAX, "{pause:?}");
            }
        }
        assert!(pause(1, 0) < pause(4, 0));
        assert_ne!(pause(3, 1), pause(3, 1_000_000));
    }
}
