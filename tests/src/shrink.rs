//! Makes a failing plan smaller while it fails in the same way.

use crate::case::Case;
use crate::level::Failure;
use crate::params::Params;
use crate::plan::PlannedFault;

/// What is left of a plan.
pub struct Shrunk {
    /// The smallest case found.
    pub case: Case,
    /// How it fails.
    pub failure: Failure,
    /// How many runs it took.
    pub runs: u64,
}

/// Makes the parameters simpler; one that is simple already is left as it is.
type Simplify = fn(&mut Params);

/// What is tried on the parameters, the most telling first.
const SIMPLER: &[Simplify] = &[
    |params| params.network.loss_permille = 0,
    |params| params.network.duplicate_permille = 0,
    |params| params.network.corrupt_permille = 0,
    |params| params.network.delay_max_us = params.network.delay_min_us,
    |params| params.clients.count = (params.clients.count / 2).max(1),
    |params| params.clients.watchers = 0,
    |params| params.clients.holders = 0,
    |params| params.clients.keys = 1,
    |params| params.clients.read_percent = 0,
    |params| params.learners = 0,
    |params| params.chaos_ms /= 2,
    |params| params.chaos_ms -= params.chaos_ms / 8,
];

/// Shrinks `case`, whose runs `fails` judges. `None` when it does not fail.
///
/// # Errors
///
/// What `fails` reports.
pub fn shrink<E>(
    case: &Case,
    fails: impl FnMut(&Case) -> Result<Option<Failure>, E>,
) -> Result<Option<Shrunk>, E> {
    let mut search = Search { fails, runs: 0 };
    let Some(failure) = search.run(case)? else {
        return Ok(None);
    };
    let mut best = Shrunk {
        case: case.clone(),
        failure,
        runs: 0,
    };
    // What was needed at first may not be once something else is gone.
    loop {
        let before = best.case.clone();
        search.drop_faults(&mut best)?;
        search.shorten_faults(&mut best)?;
        search.simplify(&mut best)?;
        if best.case == before {
            break;
        }
    }
    best.runs = search.runs;
    Ok(Some(best))
}

struct Search<F> {
    fails: F,
    runs: u64,
}

impl<E, F: FnMut(&Case) -> Result<Option<Failure>, E>> Search<F> {
    fn run(&mut self, case: &Case) -> Result<Option<Failure>, E> {
        self.runs += 1;
        (self.fails)(case)
    }

    /// Takes `case` over if it fails like the best one so far.
    fn take(&mut self, best: &mut Shrunk, case: Case) -> Result<bool, E> {
        if case == best.case {
            return Ok(false);
        }
        let failure = self.run(&case)?;
        let same = failure.filter(|failure| failure.invariant == best.failure.invariant);
        let Some(failure) = same else {
            return Ok(false);
        };
        best.case = case;
        best.failure = failure;
        Ok(true)
    }

    /// Leaves out faults: half of them, a quarter, and at last one by one (delta debugging: Zeller and
    /// Hildebrandt, 2002).
    fn drop_faults(&mut self, best: &mut Shrunk) -> Result<(), E> {
        let mut size = best.case.plan.faults.len();
        while size > 0 {
            let mut at = 0;
            while at < best.case.plan.faults.len() {
                let mut case = best.case.clone();
                let faults = &mut case.plan.faults;
                let end = (at + size).min(faults.len());
                faults.drain(at..end);
                if !self.take(best, case)? {
                    at += size;
                }
            }
            size /= 2;
        }
        Ok(())
    }

    fn shorten_faults(&mut self, best: &mut Shrunk) -> Result<(), E> {
        for at in 0..best.case.plan.faults.len() {
            let mut case = best.case.clone();
            let PlannedFault { lasts_ms, .. } = &mut case.plan.faults[at];
            *lasts_ms = (*lasts_ms / 2).max(1);
            self.take(best, case)?;
        }
        Ok(())
    }

    fn simplify(&mut self, best: &mut Shrunk) -> Result<(), E> {
        for simplify in SIMPLER {
            let mut case = best.case.clone();
            simplify(&mut case.plan.params);
            let end_ms = case.plan.params.chaos_ms;
            case.plan.faults.retain(|fault| fault.at_ms < end_ms);
            self.take(best, case)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::level::Level;
    use crate::plan::Fault;

    fn failing(invariant: &str) -> Failure {
        Failure {
            invariant: invariant.into(),
            detail: String::new(),
        }
    }

    /// Of hundreds of faults, the two that are needed together are left, and a different failure met on
    /// the way is not taken for the one that is looked for.
    #[test]
    fn what_is_needed_is_left() {
        let case = (0..)
            .map(|seed| Case::of(Level::Consensus, seed))
            .find(|case| {
                let kinds = kinds(case);
                kinds.0 > 2 && kinds.1 > 2 && case.plan.faults.len() > 50
            })
            .expect("seeds do not end");
        let shrunk = shrink(&case, |case| {
            let (kills, pauses) = kinds(case);
            Ok::<_, Infallible>(match (kills > 0, pauses > 0) {
                (true, true) => Some(failing("both")),
                (false, true) => Some(failing("another")),
                _ => None,
            })
        });
        let shrunk = shrunk.expect("infallible").expect("it fails");
        assert_eq!(shrunk.failure.invariant, "both");
        assert_eq!(kinds(&shrunk.case), (1, 1));
        assert_eq!(shrunk.case.plan.faults.len(), 2);
        let lasts = |case: &Case| case.plan.faults.iter().map(|f| f.lasts_ms).max();
        assert_eq!(lasts(&shrunk.case), Some(1));
    }

    /// What does not fail is not shrunk.
    #[test]
    fn what_does_not_fail_is_left_alone() {
        let shrunk = shrink(&Case::of(Level::Consensus, 1), |_| {
            Ok::<_, Infallible>(None)
        });
        assert!(shrunk.expect("infallible").is_none());
    }

    fn kinds(case: &Case) -> (usize, usize) {
        let faults = || case.plan.faults.iter().map(|planned| &planned.fault);
        let kills = faults().filter(|fault| matches!(fault, Fault::Kill { .. }));
        let pauses = faults().filter(|fault| matches!(fault, Fault::Pause { .. }));
        (kills.count(), pauses.count())
    }
}
