//! How operations with an unknown outcome can lead from what a register holds to what an operation saw.
//!
//! Each way is a chain of uncertain operations, the last of which leaves what is needed. To leave a
//! given value there is only one: the one that writes it. To leave the key absent, or something
//! whatever it is, there may be many; of those that are alike, the one invoked first is as good as any.

use super::register::{ABSENT, Maybe, Needs, State, Writer};
use super::wgl::Search;

/// How many ways are followed up. Further ones are left out, and a search that finds no order
/// without them is undecided.
const CHAINS_MAX: usize = 16;

impl Search<'_> {
    /// The ways from the present state to one that fits `needs`, of operations invoked before
    /// `first_answer`. One without any operation if it fits already.
    pub(super) fn chains(&mut self, needs: Needs, first_answer: u64) -> Vec<Vec<usize>> {
        let fits = match needs {
            Needs::Any => true,
            Needs::Something => self.state != ABSENT,
            Needs::Exactly(state) => self.state == state,
        };
        if fits {
            return vec![Vec::new()];
        }
        if self.is_waited_for(self.state) {
            return Vec::new();
        }
        let mut way = Way {
            first_answer,
            passed: vec![self.state],
        };
        let mut chains = match needs {
            Needs::Any => unreachable!("everything fits"),
            Needs::Exactly(state) => self.ways_to(state, &mut way),
            Needs::Something => self.ways_to_something(&mut way),
        };
        if chains.len() > CHAINS_MAX {
            chains.truncate(CHAINS_MAX);
            self.cut = true;
        }
        chains
    }

    /// Whether somebody still has to see `state`, which will not come back.
    pub(super) fn is_waited_for(&self, state: State) -> bool {
        state != ABSENT && self.waiting[state] > 0
    }

    fn ways_to(&mut self, target: State, way: &mut Way) -> Vec<Vec<usize>> {
        if way.passed.contains(&target) {
            return Vec::new();
        }
        way.passed.push(target);
        let ways = if target == ABSENT {
            self.ways_to_absence(way)
        } else {
            match self.register.writers[target] {
                Writer::Maybe(last) => self.ways_by(last, way),
                Writer::Op(_) | Writer::Nobody => Vec::new(),
            }
        };
        way.passed.pop();
        ways
    }

    /// The ways that end with `last`.
    fn ways_by(&mut self, last: usize, way: &mut Way) -> Vec<Vec<usize>> {
        let maybe = &self.register.maybes[last];
        if !self.is_free(last, way) {
            return Vec::new();
        }
        let before = match maybe.needs {
            Needs::Exactly(before) if before != self.state => before,
            Needs::Any | Needs::Something | Needs::Exactly(_) => return vec![vec![last]],
        };
        if self.is_waited_for(before) {
            return Vec::new();
        }
        let mut ways = self.ways_to(before, way);
        ways.retain(|ops| !ops.contains(&last));
        ways.iter_mut().for_each(|ops| ops.push(last));
        ways
    }

    fn is_free(&self, maybe: usize, way: &Way) -> bool {
        !self.used[maybe] && self.register.maybes[maybe].invoked < way.first_answer
    }

    fn ways_to_absence(&mut self, way: &mut Way) -> Vec<Vec<usize>> {
        let register = self.register;
        let mut ways = Vec::new();
        let mut tried: Vec<Needs> = Vec::new();
        for &last in &register.removers {
            let needs = register.maybes[last].needs;
            if !self.is_free(last, way) || tried.contains(&needs) {
                continue;
            }
            if needs == Needs::Exactly(self.state) {
                // It is of no use to anybody else, or later.
                return vec![vec![last]];
            }
            tried.push(needs);
            ways.extend(self.ways_by(last, way));
        }
        ways
    }

    /// From absence to whatever there may be.
    fn ways_to_something(&mut self, way: &mut Way) -> Vec<Vec<usize>> {
        let register = self.register;
        let mut ways = Vec::new();
        let mut tried: Vec<Needs> = Vec::new();
        for &last in &register.setters {
            let Maybe { needs, sets, .. } = register.maybes[last];
            if !self.is_free(last, way) || self.is_waited_for(sets) || ways.len() > CHAINS_MAX {
                continue;
            }
            if !self.wanted[sets] {
                // Something for its own sake is all that it is good for.
                let needs = match needs {
                    Needs::Any => Needs::Exactly(ABSENT),
                    Needs::Something | Needs::Exactly(_) => needs,
                };
                if tried.contains(&needs) {
                    continue;
                }
                tried.push(needs);
            }
            ways.extend(self.ways_by(last, way));
        }
        ways
    }
}

struct Way {
    first_answer: u64,
    /// The states it leads through, which lie before it in the search from its end.
    passed: Vec<State>,
}
