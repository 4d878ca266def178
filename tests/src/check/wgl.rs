//! Is there an order in which one key's operations could have happened one at a time? (Wing and Gong
//! 1993; Lowe 2017.) Keys are independent (Herlihy and Wing 1990, section 3.3), so each is asked alone.
//!
//! The search builds such an order from the front. An operation may come next if it was invoked before
//! every remaining one has returned. Configurations that were left without success are remembered, and
//! four facts keep their number small; each relies on values being written once only:
//!
//! - a read that fits what the register holds comes next at once: it changes nothing, so no order that
//!   has it later is lost;
//! - a value is not replaced while somebody remains who saw it: it will not come back;
//! - a write that nobody saw is put in as early as it does no harm (see `blind`);
//! - an operation with an unknown outcome is put in only right before one that could not come next
//!   otherwise, together with others that it needs in turn (see `chains`). If it took effect unseen, the
//!   order without it is as good. Only removals with an unknown outcome, which are all alike, still
//!   multiply the search, and a configuration reached with fewer of them stands for those with more.

use std::collections::HashMap;

use super::blind::blind;
use super::calls::Call;
use super::history::Key;
use super::register::{ABSENT, Needs, Op, Register, State};
use crate::rng::Rng;

/// How many configurations are looked at before the search gives up: a minute or so.
pub const STEPS_MAX: u64 = 20_000_000;

/// What is known about one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none.
    Violation {
        /// As far as one comes, and what does not fit then.
        reason: String,
    },
    /// The search was given up. That is no success.
    Undecided {
        /// After so many configurations.
        steps: u64,
    },
}

/// Whether the operations on `key` among `calls` are linearizable, looking at no more than `steps_max`
/// configurations. `calls` are in the order of their invocations.
#[must_use]
pub fn check_key(calls: &[Call], key: Key, steps_max: u64) -> Verdict {
    match Register::new(calls, key) {
        Ok(register) => Search::new(&register).run(steps_max),
        Err(reason) => Verdict::Violation { reason },
    }
}

/// One step back.
enum Undo {
    Op(usize),
    Maybe(usize),
    State(State),
}

/// A configuration on the way, and where one can go from it.
struct Frame {
    trail: usize,
    choices: std::vec::IntoIter<Choice>,
}

/// What can come next.
enum Choice {
    /// An operation, and the uncertain ones that come right before it.
    Op(usize, Vec<usize>),
    /// The writes that nobody saw.
    Blind,
}

pub(super) struct Search<'a> {
    pub(super) register: &'a Register<'a>,
    /// The operations that remain, linked in the order of invocation; the last place is the head.
    next: Vec<usize>,
    previous: Vec<usize>,
    left: usize,
    pub(super) state: State,
    /// How many of those that remain saw each value.
    pub(super) waiting: Vec<usize>,
    /// Whether somebody saw each value; and whether any operation, certain or not, depends on it.
    seen: Vec<bool>,
    pub(super) wanted: Vec<bool>,
    pub(super) used: Vec<bool>,
    /// Whether ways to use uncertain operations were left out because there were too many.
    pub(super) cut: bool,
    /// Which operations are writes that nobody saw.
    blind: Vec<bool>,
    /// By when each operation's effect is needed.
    deadlines: Vec<u64>,
    /// The uncertain operations that were put in and are not given away by somebody who saw their effect.
    spent: Vec<usize>,
    /// What was done, as the exclusive or of a random number for each operation.
    done: u128,
    trail: Vec<Undo>,
    furthest: Furthest,
}

/// The configurations that were looked at: what was done and what the register holds, in one number, and
/// for each the uncertain operations that had been spent to get there. (Two configurations with one
/// number of 128 bits among millions are less likely than a fault of the memory.)
#[derive(Default)]
struct Visited(HashMap<u128, Vec<Vec<usize>>>);

impl Visited {
    /// Takes note of a configuration; false if one that was visited before could do all that it can.
    fn insert(&mut self, configuration: u128, spent: &[usize]) -> bool {
        let mut spent = spent.to_vec();
        spent.sort_unstable();
        let before = self.0.entry(configuration).or_default();
        if before.iter().any(|less| is_part(less, &spent)) {
            return false;
        }
        before.retain(|more| !is_part(&spent, more));
        before.push(spent);
        true
    }
}

/// Whether all of `part` is in `whole`; both are sorted.
fn is_part(part: &[usize], whole: &[usize]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|one| whole.any(|other| other == one))
}

/// The configuration with the fewest operations left.
struct Furthest {
    left: usize,
    state: State,
    next: Vec<usize>,
}

impl<'a> Search<'a> {
    fn new(register: &'a Register<'a>) -> Self {
        let count = register.ops.len();
        let mut waiting = vec![0; register.writers.len()];
        let mut seen_by = vec![u64::MAX; register.writers.len()];
        for op in &register.ops {
            if let Needs::Exactly(state) = op.needs {
                waiting[state] += 1;
                seen_by[state] = seen_by[state].min(op.returned);
            }
        }
        let mut seen: Vec<bool> = waiting.iter().map(|count| *count > 0).collect();
        // Many may have left it.
        seen[ABSENT] = false;
        let mut wanted = seen.clone();
        for maybe in &register.maybes {
            if let Needs::Exactly(state) = maybe.needs {
                wanted[state] = true;
            }
        }
        let deadline = |op: &Op| match op.sets {
            Some(state) if state != ABSENT => op.returned.min(seen_by[state]),
            _ => op.returned,
        };
        Self {
            register,
            next: (1..=count).chain([0]).collect(),
            previous: [count].into_iter().chain(0..count).collect(),
            left: count,
            state: ABSENT,
            waiting,
            blind: blind(register, &wanted),
            seen,
            wanted,
            used: vec![false; register.maybes.len()],
            cut: false,
            deadlines: register.ops.iter().map(deadline).collect(),
            spent: Vec::new(),
            done: 0,
            trail: Vec::new(),
            furthest: Furthest {
                left: usize::MAX,
                state: ABSENT,
                next: Vec::new(),
            },
        }
    }

    fn run(mut self, steps_max: u64) -> Verdict {
        let mut visited = Visited::default();
        let mut steps = 0;
        let mut frames = Vec::new();
        self.settle();
        frames.push(self.frame());
        while let Some(frame) = frames.last_mut() {
            if self.left == 0 {
                return Verdict::Linearizable;
            }
            self.undo_to(frame.trail);
            let Some(choice) = frame.choices.next() else {
                frames.pop();
                continue;
            };
            if steps == steps_max {
                return Verdict::Undecided { steps };
            }
            steps += 1;
            self.go(choice);
            if visited.insert(self.configuration(), &self.spent) {
                frames.push(self.frame());
            }
        }
        if self.cut {
            return Verdict::Undecided { steps };
        }
        Verdict::Violation {
            reason: self.furthest(),
        }
    }

    /// Those that may come next, and the first answer among those that remain: nothing invoked after it
    /// may come now.
    fn candidates(&self) -> (Vec<usize>, u64) {
        let head = self.register.ops.len();
        let mut found = Vec::new();
        let mut first_answer = u64::MAX;
        let mut at = self.next[head];
        while at != head {
            let op = &self.register.ops[at];
            if op.invoked > first_answer {
                break;
            }
            first_answer = first_answer.min(op.returned);
            found.push(at);
            at = self.next[at];
        }
        (found, first_answer)
    }

    /// Takes every read that fits.
    fn settle(&mut self) {
        loop {
            let before = self.left;
            for at in self.candidates().0 {
                let op = &self.register.ops[at];
                if op.sets.is_none() && op.needs == Needs::Exactly(self.state) {
                    self.take(at);
                }
            }
            if self.left == before {
                return;
            }
        }
    }

    fn frame(&mut self) -> Frame {
        let (mut next, first_answer) = self.candidates();
        if self.left < self.furthest.left {
            self.furthest = Furthest {
                left: self.left,
                state: self.state,
                next: next.clone(),
            };
        }
        next.sort_by_key(|at| self.deadlines[*at]);
        let mut choices = Vec::new();
        let mut dear = Vec::new();
        let mut unseen = false;
        for at in next {
            if self.blind[at] {
                unseen = true;
                continue;
            }
            for maybes in self.chains(self.register.ops[at].needs, first_answer) {
                if self.may_follow(at, &maybes) {
                    let spends = maybes.iter().any(|maybe| self.is_spent_by(*maybe));
                    let list = if spends { &mut dear } else { &mut choices };
                    list.push(Choice::Op(at, maybes));
                }
            }
        }
        if unseen && !self.is_waited_for(self.state) {
            choices.push(Choice::Blind);
        }
        // Who has spent less can do whatever the others can: it is to be visited first.
        choices.append(&mut dear);
        Frame {
            trail: self.trail.len(),
            choices: choices.into_iter(),
        }
    }

    fn go(&mut self, choice: Choice) {
        match choice {
            Choice::Blind => self.take_blind(),
            Choice::Op(op, maybes) => {
                let needs = match maybes.first() {
                    Some(first) => self.register.maybes[*first].needs,
                    None => self.register.ops[op].needs,
                };
                // What there is will be overwritten, and is not needed for that.
                if needs == Needs::Any || (needs == Needs::Something && self.state != ABSENT) {
                    self.take_blind();
                }
                maybes.into_iter().for_each(|maybe| self.use_maybe(maybe));
                self.take(op);
            }
        }
        self.settle();
    }

    /// Takes every write that nobody saw and that may come next, or then may.
    fn take_blind(&mut self) {
        loop {
            let before = self.left;
            for at in self.candidates().0 {
                if self.blind[at] {
                    self.take(at);
                }
            }
            if self.left == before {
                return;
            }
        }
    }

    /// What was done and what the register holds, where one value that nobody needs is like another.
    fn configuration(&self) -> u128 {
        let alike = self.state != ABSENT && !self.wanted[self.state];
        let state = if alike { usize::MAX } else { self.state };
        self.done ^ number(1, state)
    }

    /// Whether an operation leaves no value behind that somebody still has to see.
    fn may_follow(&self, at: usize, maybes: &[usize]) -> bool {
        let op = &self.register.ops[at];
        let before = maybes
            .last()
            .map_or(self.state, |maybe| self.register.maybes[*maybe].sets);
        let itself = usize::from(op.needs == Needs::Exactly(before));
        op.sets.is_none() || before == ABSENT || self.waiting[before] == itself
    }

    fn take(&mut self, at: usize) {
        let op = &self.register.ops[at];
        self.next[self.previous[at]] = self.next[at];
        self.previous[self.next[at]] = self.previous[at];
        self.left -= 1;
        self.done ^= number(0, at);
        if let Needs::Exactly(state) = op.needs {
            self.waiting[state] -= 1;
        }
        self.trail.push(Undo::Op(at));
        if let Some(state) = op.sets {
            self.become_state(state);
        }
    }

    fn use_maybe(&mut self, maybe: usize) {
        self.used[maybe] = true;
        if self.is_spent_by(maybe) {
            self.spent.push(maybe);
        }
        self.trail.push(Undo::Maybe(maybe));
        self.become_state(self.register.maybes[maybe].sets);
    }

    /// Whether nobody saw what `maybe` left: who did is right behind it, and gives it away.
    fn is_spent_by(&self, maybe: usize) -> bool {
        !self.seen[self.register.maybes[maybe].sets]
    }

    fn become_state(&mut self, state: State) {
        self.trail.push(Undo::State(self.state));
        self.state = state;
    }

    fn undo_to(&mut self, length: usize) {
        while self.trail.len() > length {
            match self.trail.pop().expect("longer than `length`") {
                Undo::State(state) => self.state = state,
                Undo::Maybe(maybe) => {
                    self.used[maybe] = false;
                    if self.is_spent_by(maybe) {
                        self.spent.pop();
                    }
                }
                Undo::Op(at) => {
                    // Its links still say where it was.
                    self.next[self.previous[at]] = at;
                    self.previous[self.next[at]] = at;
                    self.left += 1;
                    self.done ^= number(0, at);
                    if let Needs::Exactly(state) = self.register.ops[at].needs {
                        self.waiting[state] += 1;
                    }
                }
            }
        }
    }

    fn furthest(&self) -> String {
        let Furthest { left, state, next } = &self.furthest;
        let (all, value) = (self.register.ops.len(), self.register.value(*state));
        let mut reason = format!(
            "at most {} of {all} operations can be put in order; then the value is {value:?}, and \
             none of these can be next:",
            all - left
        );
        for at in next {
            let call = self.register.call(&self.register.ops[*at]);
            reason += &format!("\n  {call}");
        }
        reason
    }
}

/// The random number of `index` among those of its `kind`.
fn number(kind: u64, index: usize) -> u128 {
    let mut random = Rng::new((index as u64).wrapping_mul(8) + 2 * kind + 1);
    (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64())
}
