//! One key of a history as a register: what each operation needs to find, and what it leaves behind.

use std::collections::BTreeMap;

use super::calls::{Call, End};
use super::history::{Answer, Key, Operation, Value};

/// What the register holds: the number of a value of this key, or [`ABSENT`].
pub(super) type State = usize;

/// It holds nothing. So it begins.
pub(super) const ABSENT: State = 0;

/// What an operation must find to give the answer that it gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Needs {
    /// Whatever there is.
    Any,
    /// Whatever there is, but something.
    Something,
    /// This.
    Exactly(State),
}

/// An operation that took effect.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) call: usize,
    pub(super) invoked: u64,
    pub(super) returned: u64,
    pub(super) needs: Needs,
    /// What the register holds afterwards, if that is something else.
    pub(super) sets: Option<State>,
}

/// An operation of which it is not known whether it took effect. It changes the register if it did.
#[derive(Clone, Debug)]
pub(super) struct Maybe {
    pub(super) invoked: u64,
    /// [`Needs::Any`] or [`Needs::Exactly`]; without that, it took no effect.
    pub(super) needs: Needs,
    pub(super) sets: State,
}

/// Who wrote a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Writer {
    Nobody,
    /// One of the operations.
    Op(usize),
    /// One of the uncertain ones.
    Maybe(usize),
}

/// Everything that happened to one key.
pub(super) struct Register<'a> {
    calls: &'a [Call],
    /// In the order of their invocations.
    pub(super) ops: Vec<Op>,
    /// In the order of their invocations.
    pub(super) maybes: Vec<Maybe>,
    /// Those of them that remove the key, and those that do not.
    pub(super) removers: Vec<usize>,
    pub(super) setters: Vec<usize>,
    /// Of each state; nobody writes [`ABSENT`], since many may.
    pub(super) writers: Vec<Writer>,
    values: Vec<Value>,
    states: BTreeMap<Value, State>,
}

impl<'a> Register<'a> {
    /// What `calls` did to `key`.
    ///
    /// # Errors
    ///
    /// When the answers cannot be right whatever the order, with the reason.
    pub(super) fn new(calls: &'a [Call], key: Key) -> Result<Self, String> {
        let mut register = Self {
            calls,
            ops: Vec::new(),
            maybes: Vec::new(),
            removers: Vec::new(),
            setters: Vec::new(),
            writers: vec![Writer::Nobody],
            values: Vec::new(),
            states: BTreeMap::new(),
        };
        for (index, call) in calls.iter().enumerate() {
            if call.operation.key().is_none_or(|of| of == key) {
                register.add(index, call, key)?;
            }
        }
        register
            .ops
            .iter()
            .try_for_each(|op| register.is_causal(op))?;
        Ok(register)
    }

    /// The operation as its client saw it.
    pub(super) fn call(&self, op: &Op) -> &'a Call {
        &self.calls[op.call]
    }

    /// What `state` means.
    pub(super) fn value(&self, state: State) -> Option<Value> {
        (state != ABSENT).then(|| self.values[state - 1])
    }

    fn state(&mut self, value: Option<Value>) -> State {
        let Some(value) = value else { return ABSENT };
        *self.states.entry(value).or_insert_with(|| {
            self.values.push(value);
            self.writers.push(Writer::Nobody);
            self.values.len()
        })
    }

    fn add(&mut self, index: usize, call: &Call, key: Key) -> Result<(), String> {
        match &call.end {
            End::Failed => {}
            End::Unknown => self.add_maybe(call),
            End::Ok {
                returned, answer, ..
            } => {
                let found = self.effect(&call.operation, answer, key);
                let (needs, sets) = found.ok_or_else(|| format!("impossible: {call}"))?;
                if let Some(state) = sets.filter(|state| *state != ABSENT) {
                    self.writers[state] = Writer::Op(self.ops.len());
                }
                self.ops.push(Op {
                    call: index,
                    invoked: call.invoked,
                    returned: *returned,
                    needs,
                    sets,
                });
            }
        }
        Ok(())
    }

    /// What an operation with such an answer finds and leaves; `None` when it cannot be the answer.
    fn effect(
        &mut self,
        operation: &Operation,
        answer: &Answer,
        key: Key,
    ) -> Option<(Needs, Option<State>)> {
        match (operation, answer) {
            (Operation::Get { .. }, Answer::Value(found)) => {
                Some((Needs::Exactly(self.state(*found)), None))
            }
            (Operation::Scan, Answer::Pairs(pairs)) => {
                let pair = pairs.iter().find(|(of, _)| *of == key);
                let found = pair.map(|(_, value)| *value);
                Some((Needs::Exactly(self.state(found)), None))
            }
            (Operation::Put { value, .. }, Answer::Written) => {
                Some((Needs::Any, Some(self.state(Some(*value)))))
            }
            (Operation::Delete { .. }, Answer::Deleted { existed: true }) => {
                Some((Needs::Something, Some(ABSENT)))
            }
            (Operation::Delete { .. }, Answer::Deleted { existed: false }) => {
                Some((Needs::Exactly(ABSENT), None))
            }
            (
                Operation::CompareAndSet {
                    expected, value, ..
                },
                Answer::Swapped,
            ) => {
                let (expected, value) = (self.state(*expected), self.state(*value));
                let sets = (value != expected).then_some(value);
                Some((Needs::Exactly(expected), sets))
            }
            (Operation::CompareAndSet { expected, .. }, Answer::NotSwapped { current })
                if current != expected =>
            {
                Some((Needs::Exactly(self.state(*current)), None))
            }
            _ => None,
        }
    }

    fn add_maybe(&mut self, call: &Call) {
        let (needs, sets) = match &call.operation {
            Operation::Get { .. } | Operation::Scan => return,
            Operation::Put { value, .. } => (Needs::Any, self.state(Some(*value))),
            Operation::Delete { .. } => (Needs::Any, ABSENT),
            Operation::CompareAndSet {
                expected, value, ..
            } => {
                let (expected, value) = (self.state(*expected), self.state(*value));
                if expected == value {
                    return;
                }
                (Needs::Exactly(expected), value)
            }
        };
        if sets == ABSENT {
            self.removers.push(self.maybes.len());
        } else {
            self.setters.push(self.maybes.len());
            self.writers[sets] = Writer::Maybe(self.maybes.len());
        }
        self.maybes.push(Maybe {
            invoked: call.invoked,
            needs,
            sets,
        });
    }

    /// Whether what `op` saw had been written by then.
    fn is_causal(&self, op: &Op) -> Result<(), String> {
        let Needs::Exactly(state) = op.needs else {
            return Ok(());
        };
        let Some(value) = self.value(state) else {
            return Ok(());
        };
        let invoked = match self.writers[state] {
            Writer::Op(writer) => self.ops[writer].invoked,
            Writer::Maybe(writer) => self.maybes[writer].invoked,
            Writer::Nobody => {
                let call = self.call(op);
                return Err(format!("nobody wrote the value {value}, but {call}"));
            }
        };
        if op.returned < invoked {
            let call = self.call(op);
            return Err(format!(
                "the value {value} was written from event {invoked} on, but {call}"
            ));
        }
        Ok(())
    }
}
