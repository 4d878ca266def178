//! Writes that nobody saw. They could have come anywhere in their time, so every subset of those under way at
//! once would be a configuration of its own. Instead they are put in as soon as they do no harm: right
//! before another operation that overwrites whatever there is. What was possible before still is.

use super::register::{Needs, Op, Register};

/// Which operations are writes whose value nobody needs: neither one that saw it, nor a removal that
/// needs something to be there and that could have come right after.
pub(super) fn blind(register: &Register<'_>, wanted: &[bool]) -> Vec<bool> {
    let removals = Removals::new(&register.ops);
    let is_blind = |op: &Op| {
        op.needs == Needs::Any
            && op.sets.is_some_and(|state| !wanted[state])
            && !removals.one_may_follow(op)
    };
    register.ops.iter().map(is_blind).collect()
}

/// The operations that need something to be there.
struct Removals {
    /// Of each operation, by invocation: the first answer among it and all later ones.
    invoked: Vec<u64>,
    first_answers: Vec<u64>,
    /// Of each removal, by invocation: the last answer among it and all earlier ones.
    removed: Vec<u64>,
    last_answers: Vec<u64>,
}

impl Removals {
    fn new(ops: &[Op]) -> Self {
        let mut first_answers: Vec<u64> = ops.iter().map(|op| op.returned).collect();
        for at in (1..first_answers.len()).rev() {
            first_answers[at - 1] = first_answers[at - 1].min(first_answers[at]);
        }
        let removals = || ops.iter().filter(|op| op.needs == Needs::Something);
        let mut last_answers: Vec<u64> = removals().map(|op| op.returned).collect();
        for at in 1..last_answers.len() {
            last_answers[at] = last_answers[at].max(last_answers[at - 1]);
        }
        Self {
            invoked: ops.iter().map(|op| op.invoked).collect(),
            first_answers,
            removed: removals().map(|op| op.invoked).collect(),
            last_answers,
        }
    }

    /// Whether one may have come right after `write`: it had not returned when that began, and no
    /// operation lies wholly between the two.
    fn one_may_follow(&self, write: &Op) -> bool {
        let later = self.invoked.partition_point(|at| *at <= write.returned);
        let limit = self.first_answers.get(later).copied().unwrap_or(u64::MAX);
        let near = self.removed.partition_point(|at| *at <= limit);
        near > 0 && self.last_answers[near - 1] > write.invoked
    }
}
