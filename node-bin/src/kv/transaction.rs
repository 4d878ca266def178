//! Several keys in one moment: what has to be so, what is done then, and what otherwise.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::command::{VALUE_BYTES_MAX, validate_key};
use super::invalid::Invalid;
use super::query::{Size, Value};

/// The most keys that a transaction looks at, and the most steps in each of its lists: enough to move a
/// dozen things at once, and few enough that nobody waits for one.
pub const TRANSACTION_STEPS_MAX: usize = 128;

/// What a comparison or a step counts for besides its key and value: more than it takes.
const STEP_OVERHEAD_BYTES: usize = 24;

/// Several keys in one moment. All of it takes effect at one revision, or nothing does.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Transaction {
    /// What has to be so, all of it, at most [`TRANSACTION_STEPS_MAX`].
    #[serde(deserialize_with = "few")]
    pub compare: Vec<Compare>,
    /// What is done then, in order, each step seeing the ones before it.
    #[serde(deserialize_with = "few")]
    pub then: Vec<Step>,
    /// What is done otherwise.
    #[serde(deserialize_with = "few")]
    pub otherwise: Vec<Step>,
}

/// No more than [`TRANSACTION_STEPS_MAX`]. A step can be sent in two bytes and takes eighty in memory, so a list is not
/// read first and counted then: whoever sends it may not even be allowed to write.
fn few<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Few<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "at most {TRANSACTION_STEPS_MAX} steps")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut steps: A) -> Result<Vec<T>, A::Error> {
            let mut few = Vec::new();
            while let Some(step) = steps.next_element()? {
                if few.len() == TRANSACTION_STEPS_MAX {
                    return Err(A::Error::invalid_length(TRANSACTION_STEPS_MAX + 1, &self));
                }
                few.push(step);
            }
            Ok(few)
        }
    }

    deserializer.deserialize_seq(Few(PhantomData))
}

/// What has to be so of one key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// Which key.
    pub key: Bytes,
    /// What has to be so.
    pub condition: Condition,
}

/// A condition on a key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// It is absent.
    Absent,
    /// It is there.
    Present,
    /// Its value is this one.
    Value(Bytes),
    /// It was last written at this revision.
    Revision(u64),
}

/// A step of a transaction.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Sets a key.
    Put {
        /// Which key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// The lease it is bound to: it goes with the lease, unless it is written again before that.
        lease: Option<u64>,
    },
    /// Removes a key.
    Delete {
        /// Which key.
        key: Bytes,
    },
    /// Reads a key.
    Get {
        /// Which key.
        key: Bytes,
    },
}

/// What a step did or found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StepOutcome {
    /// The key has the value.
    Written,
    /// The key is absent.
    Deleted {
        /// Whether it was there before.
        existed: bool,
    },
    /// The key's value, or `None` if it is absent.
    Value(Option<Value>),
}

impl Condition {
    /// Whether it holds of a key that has `value`.
    #[must_use]
    pub fn holds(&self, value: Option<&Value>) -> bool {
        match self {
            Self::Absent => value.is_none(),
            Self::Present => value.is_some(),
            Self::Value(expected) => value.is_some_and(|value| value.data == *expected),
            Self::Revision(expected) => value.is_some_and(|value| value.revision == *expected),
        }
    }
}

impl Step {
    /// The key that it is about.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::Get { key } => key,
        }
    }

    fn value_bytes(&self) -> usize {
        match self {
            Self::Put { value, .. } => value.len(),
            Self::Delete { .. } | Self::Get { .. } => 0,
        }
    }
}

impl Transaction {
    /// Whether it changes nothing, whatever it finds.
    pub(super) fn only_reads(&self) -> bool {
        let mut steps = self.then.iter().chain(&self.otherwise);
        steps.all(|step| matches!(step, Step::Get { .. }))
    }

    /// Whether either of its lists sets a key: which of them will be taken, nobody knows yet.
    pub(super) fn grows(&self) -> bool {
        let mut steps = self.then.iter().chain(&self.otherwise);
        steps.any(|step| matches!(step, Step::Put { .. }))
    }

    pub(super) fn validate(&self) -> Result<(), Invalid> {
        let most = [self.compare.len(), self.then.len(), self.otherwise.len()];
        if let Some(steps) = most.into_iter().find(|&it| it > TRANSACTION_STEPS_MAX) {
            let steps = steps as u64;
            return Err(Invalid::TooManySteps { steps });
        }
        let compared = self.compare.iter().map(|compare| {
            let value = match &compare.condition {
                Condition::Value(value) => value.len(),
                Condition::Absent | Condition::Present | Condition::Revision(_) => 0,
            };
            (&compare.key, value)
        });
        let steps = self.then.iter().chain(&self.otherwise);
        let steps = steps.map(|step| (step.key(), step.value_bytes()));
        let mut bytes = 0;
        for (key, value) in compared.chain(steps) {
            validate_key(key)?;
            bytes += key.len() + value + STEP_OVERHEAD_BYTES;
        }
        if bytes > VALUE_BYTES_MAX {
            let bytes = bytes as u64;
            return Err(Invalid::ValueTooLong { bytes });
        }
        Ok(())
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            compare,
            then,
            otherwise,
        } = self;
        let (compare, then, otherwise) = (compare.len(), then.len(), otherwise.len());
        write!(
            f,
            "Transact({compare} compared, {then} then, {otherwise} otherwise)"
        )
    }
}

impl fmt::Debug for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compare({:?}, {:?})", Size(&self.key), self.condition)
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(f, "Absent"),
            Self::Present => write!(f, "Present"),
            Self::Value(value) => write!(f, "Value({:?})", Size(value)),
            Self::Revision(revision) => write!(f, "Revision({revision})"),
        }
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { key, value, lease } => {
                write!(f, "Put({:?}, {:?}, {lease:?})", Size(key), Size(value))
            }
            Self::Delete { key } => write!(f, "Delete({:?})", Size(key)),
            Self::Get { key } => write!(f, "Get({:?})", Size(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::{Command, KEY_BYTES_MAX};
    use super::*;

    /// The largest transaction fits the default limit of a command; one step or byte more is refused.
    #[test]
    fn sizes_are_bounded() {
        let step = |bytes: usize| Step::Put {
            key: vec![1; KEY_BYTES_MAX].into(),
            value: vec![2; bytes].into(),
            lease: Some(u64::MAX),
        };
        let fixed = (KEY_BYTES_MAX + STEP_OVERHEAD_BYTES) * TRANSACTION_STEPS_MAX;
        let mut then = vec![step(0); TRANSACTION_STEPS_MAX - 1];
        then.push(step(VALUE_BYTES_MAX - fixed));
        let mut transaction = Transaction {
            then,
            ..Transaction::default()
        };
        assert_eq!(transaction.validate(), Ok(()));
        let encoded = Command::Transact(transaction.clone()).encode();
        assert!(encoded.len() <= 1 << 20, "{}", encoded.len());
        transaction.otherwise.push(Step::Get {
            key: Bytes::from_static(b"k"),
        });
        let bytes = (VALUE_BYTES_MAX + 1 + STEP_OVERHEAD_BYTES) as u64;
        assert_eq!(transaction.validate(), Err(Invalid::ValueTooLong { bytes }));
        let many = Transaction {
            compare: vec![
                Compare {
                    key: Bytes::from_static(b"k"),
                    condition: Condition::Absent
                };
                TRANSACTION_STEPS_MAX + 1
            ],
            ..Transaction::default()
        };
        assert_eq!(many.validate(), Err(Invalid::TooManySteps { steps: 129 }));
    }

    /// A long list is refused while it is read: the first step too many ends it, however much follows.
    #[test]
    fn no_more_than_few_steps_are_read() {
        let get = Step::Get { key: Bytes::new() };
        for (steps, is_read) in [(TRANSACTION_STEPS_MAX, true), (100_000, false)] {
            let then = vec![get.clone(); steps];
            let transaction = Transaction {
                then,
                ..Transaction::default()
            };
            let bytes = postcard::to_allocvec(&transaction).unwrap();
            let read: Result<Transaction, _> = postcard::from_bytes(&bytes);
            assert_eq!(read.is_ok(), is_read, "{steps}");
            // Cut off behind the first step too many: nothing behind it was wanted.
            let cut = postcard::take_from_bytes::<Transaction>(&bytes[..bytes.len() / 2]);
            let expected = match is_read {
                true => postcard::Error::DeserializeUnexpectedEnd,
                false => postcard::Error::SerdeDeCustom,
            };
            assert_eq!(cut.unwrap_err(), expected);
        }
    }
}
