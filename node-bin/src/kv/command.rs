//! What the key-value store can be told to do, and what it says it did.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::encoding::codec;
use super::invalid::Invalid;
use super::query::Size;
use super::transaction::{StepOutcome, Transaction};

/// The longest key, in bytes. A few still fit into one page of 4 KiB, so that searching stays short.
pub const KEY_BYTES_MAX: usize = 1024;

/// The longest value, in bytes: 1 MiB, the default limit of a command, less room for the rest of
/// it. A compare-and-set holds two, which together must not be longer, and a transaction many.
pub const VALUE_BYTES_MAX: usize = (1 << 20) - (4 << 10);

/// The shortest time to live of a lease: a few elections, so that a change of leader leaves its owner
/// time to renew it.
pub const LEASE_TTL_MIN: Duration = Duration::from_secs(1);

/// The longest time to live of a lease. What should live longer needs none.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A change of the state.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Sets `key` to `value`.
    Put {
        /// Which key, 1 to [`KEY_BYTES_MAX`] bytes.
        key: Bytes,
        /// Its new value, at most [`VALUE_BYTES_MAX`] bytes.
        value: Bytes,
    },
    /// Removes `key`.
    Delete {
        /// Which key.
        key: Bytes,
    },
    /// Changes `key` if it is as expected.
    CompareAndSet {
        /// Which key.
        key: Bytes,
        /// What its value must be; `None` if it must be absent.
        expected: Option<Bytes>,
        /// Its new value; `None` to remove it.
        value: Option<Bytes>,
    },
    /// Looks at some keys, and does one thing or another for what it finds, in one moment.
    Transact(Transaction),
    /// Makes a lease, which keys can be bound to.
    GrantLease {
        /// For how many milliseconds it lives when it is not renewed, [`LEASE_TTL_MIN`] to
        /// [`LEASE_TTL_MAX`].
        ttl_ms: u64,
    },
    /// Has a lease live for its whole time from the moment on at which the leader proposes this.
    KeepLease {
        /// Which lease.
        lease: u64,
    },
    /// Ends a lease, which removes the keys that are bound to it.
    RevokeLease {
        /// Which lease.
        lease: u64,
    },
    /// Opens a session, in which commands that are sent twice are applied once.
    OpenSession,
}

/// What a command did. The revision is the command's index in the log: where it took effect.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The key has the value.
    Written {
        /// The revision of the write.
        revision: u64,
    },
    /// The key is absent.
    Deleted {
        /// Whether it was there before.
        existed: bool,
        /// The revision of the removal.
        revision: u64,
    },
    /// The key was as expected and was changed.
    Swapped {
        /// The revision of the change.
        revision: u64,
    },
    /// The key was not as expected; nothing changed.
    NotSwapped {
        /// Its value, or `None` if it is absent.
        current: Option<Bytes>,
        /// The revision of the comparison.
        revision: u64,
    },
    /// The command makes no sense; nothing changed.
    Refused(Invalid),
    /// The transaction was carried out.
    Transacted {
        /// Whether everything was as it was to be, so that the first list of steps was taken.
        succeeded: bool,
        /// What each step of the list that was taken did.
        steps: Vec<StepOutcome>,
        /// The revision of all of it.
        revision: u64,
    },
    /// There is a new lease. It counts from when the leader proposed the command: its owner has to count from before
    /// that was sent.
    LeaseGranted {
        /// Its number, which is never given again: the revision at which it was granted.
        lease: u64,
    },
    /// The lease lives on.
    LeaseKept {
        /// For how many milliseconds, counted as those of a new one: not from this answer on.
        ttl_ms: u64,
    },
    /// The lease has ended, and the keys bound to it are gone: 1,024 of them, if there were more, which follow within
    /// moments.
    LeaseRevoked {
        /// The revision of that.
        revision: u64,
    },
    /// There is a new session.
    SessionOpened {
        /// Its number, which is never given again: the revision at which it was opened.
        session: u64,
    },
    /// There is no such session any more. The command was not applied now; whether it was before,
    /// nobody knows any more.
    SessionExpired,
    /// The session has gone on to a later command in that slot. The command was not applied now.
    Superseded,
    /// The command was sent before, and was carried out then: once. What it was answered was too long to be kept.
    AnswerNotKept {
        /// The revision at which it was carried out.
        revision: u64,
    },
}

impl Command {
    /// How many bytes its key and values have, if they are likely to be most of it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value } => key.len() + value.len(),
            _ => 0,
        }
    }

    /// Whether a lease lives its whole time from then on, which its owner counts on.
    pub(super) fn starts_lease(&self) -> bool {
        match self {
            Self::GrantLease { .. } | Self::KeepLease { .. } => true,
            Self::Put { .. }
            | Self::Delete { .. }
            | Self::CompareAndSet { .. }
            | Self::Transact(_)
            | Self::RevokeLease { .. }
            | Self::OpenSession => false,
        }
    }

    /// Whether the state may be larger after it: a leader whose disk is nearly full refuses it. A lease is there for keys to
    /// be bound to it. A session is what every write needs, also one that deletes; there are
    /// [`SESSIONS_MAX`](super::SESSIONS_MAX) of them at most.
    pub(super) fn grows(&self) -> bool {
        match self {
            Self::Put { .. } | Self::GrantLease { .. } => true,
            Self::CompareAndSet { value, .. } => value.is_some(),
            Self::Transact(transaction) => transaction.grows(),
            Self::Delete { .. }
            | Self::KeepLease { .. }
            | Self::RevokeLease { .. }
            | Self::OpenSession => false,
        }
    }

    /// Checks the sizes, as every member does before it applies the command.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the size that is out of bounds.
    pub fn validate(&self) -> Result<(), Invalid> {
        let (key, values) = match self {
            Self::Transact(transaction) => return transaction.validate(),
            Self::GrantLease { ttl_ms } => return validate_ttl(*ttl_ms),
            Self::KeepLease { .. } | Self::RevokeLease { .. } | Self::OpenSession => return Ok(()),
            Self::Put { key, value } => (key, value.len()),
            Self::Delete { key } => (key, 0),
            Self::CompareAndSet {
                key,
                expected,
                value,
            } => {
                let length = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
                (key, length(expected) + length(value))
            }
        };
        validate_key(key)?;
        if values > VALUE_BYTES_MAX {
            let bytes = values as u64;
            return Err(Invalid::ValueTooLong { bytes });
        }
        Ok(())
    }
}

pub(super) fn validate_key(key: &Bytes) -> Result<(), Invalid> {
    match key.len() {
        0 => Err(Invalid::KeyEmpty),
        1..=KEY_BYTES_MAX => Ok(()),
        bytes => Err(Invalid::KeyTooLong {
            bytes: bytes as u64,
        }),
    }
}

fn validate_ttl(ttl_ms: u64) -> Result<(), Invalid> {
    if (LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(&Duration::from_millis(ttl_ms)) {
        return Ok(());
    }
    Err(Invalid::TtlOutOfRange { ttl_ms })
}

codec!(Command, Outcome);

// Keys and values are the user's secrets: the debug forms, which end in logs, show sizes only.

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { key, value } => write!(f, "Put({:?}, {:?})", Size(key), Size(value)),
            Self::Delete { key } => write!(f, "Delete({:?})", Size(key)),
            Self::CompareAndSet {
                key,
                expected,
                value,
            } => {
                let [expected, value] = [expected, value].map(|value| value.as_ref().map(Size));
                write!(f, "CompareAndSet({:?}, {expected:?}, {value:?})", Size(key))
            }
            Self::Transact(transaction) => transaction.fmt(f),
            Self::GrantLease { ttl_ms } => write!(f, "GrantLease({ttl_ms} ms)"),
            Self::KeepLease { lease } => write!(f, "KeepLease({lease})"),
            Self::RevokeLease { lease } => write!(f, "RevokeLease({lease})"),
            Self::OpenSession => write!(f, "OpenSession"),
        }
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written { revision } => write!(f, "Written({revision})"),
            Self::Deleted { existed, revision } => write!(f, "Deleted({existed}, {revision})"),
            Self::Swapped { revision } => write!(f, "Swapped({revision})"),
            Self::NotSwapped { current, revision } => {
                let current = current.as_ref().map(Size);
                write!(f, "NotSwapped({current:?}, {revision})")
            }
            Self::Refused(invalid) => write!(f, "Refused({invalid:?})"),
            Self::Transacted {
                succeeded,
                steps,
                revision,
            } => write!(
                f,
                "Transacted({succeeded}, {} steps, {revision})",
                steps.len()
            ),
            Self::LeaseGranted { lease } => write!(f, "LeaseGranted({lease})"),
            Self::LeaseKept { ttl_ms } => write!(f, "LeaseKept({ttl_ms} ms)"),
            Self::LeaseRevoked { revision } => write!(f, "LeaseRevoked({revision})"),
            Self::SessionOpened { session } => write!(f, "SessionOpened({session})"),
            Self::SessionExpired => write!(f, "SessionExpired"),
            Self::Superseded => write!(f, "Superseded"),
            Self::AnswerNotKept { revision } => write!(f, "AnswerNotKept({revision})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::Swap;
    use super::super::encoding::VERSION;
    use super::super::query::{Answer, Pair, Query, RANGE_LIMIT_MAX, Value};
    use super::*;

    fn bytes(length: usize) -> Bytes {
        vec![7; length].into()
    }

    fn commands() -> Vec<Command> {
        let key = || Bytes::from_static(b"key");
        vec![
            Command::Put {
                key: key(),
                value: bytes(300),
            },
            Command::Delete { key: key() },
            Command::CompareAndSet {
                key: key(),
                expected: None,
                value: Some(bytes(0)),
            },
        ]
    }

    /// A command comes back from its encoding; cut short, prolonged or of another version, it is
    /// refused.
    #[test]
    fn i2_decoding_is_strict() {
        for command in commands() {
            let encoded = command.encode();
            assert_eq!(Command::decode(&encoded), Ok(command));
            for length in 0..encoded.len() {
                assert_eq!(Command::decode(&encoded[..length]), Err(Invalid::Malformed));
            }
            let longer = [&encoded[..], &[0]].concat();
            assert_eq!(Command::decode(&longer), Err(Invalid::Malformed));
            let other = [&[2], &encoded[1..]].concat();
            let unknown = Invalid::UnknownVersion { version: 2 };
            assert_eq!(Command::decode(&other), Err(unknown));
        }
    }

    /// What sets a key grows, wherever it stands, and a lease for keys does; what removes, reads or prolongs does not.
    #[test]
    fn what_makes_the_state_grow() {
        use super::super::transaction::{Compare, Condition, Step};
        let key = || Bytes::from_static(b"key");
        let set = |value| Command::CompareAndSet {
            key: key(),
            expected: Some(bytes(9)),
            value,
        };
        let put = || Step::Put {
            key: key(),
            value: bytes(0),
            lease: None,
        };
        let rest = || vec![Step::Delete { key: key() }, Step::Get { key: key() }];
        let transact = |then, otherwise| {
            let (key, condition) = (key(), Condition::Value(bytes(9)));
            Command::Transact(Transaction {
                compare: vec![Compare { key, condition }],
                then,
                otherwise,
            })
        };
        let [with_put, without] = [[rest(), vec![put()]].concat(), rest()];
        for (command, grows) in [
            (commands().remove(0), true),
            (Command::Delete { key: key() }, false),
            (set(Some(bytes(0))), true),
            (set(None), false),
            (transact(without.clone(), without.clone()), false),
            (transact(with_put.clone(), without.clone()), true),
            (transact(without, with_put), true),
            (Command::GrantLease { ttl_ms: 1_000 }, true),
            (Command::KeepLease { lease: 7 }, false),
            (Command::RevokeLease { lease: 7 }, false),
            (Command::OpenSession, false),
        ] {
            assert_eq!(command.grows(), grows, "{command:?}");
        }
    }

    /// A length that promises more than there is costs an error, not memory.
    #[test]
    fn i1_a_lying_length_is_refused() {
        let length = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        for variant in [0, 1, 2] {
            let lie = [&[VERSION, variant], &length[..]].concat();
            assert_eq!(Command::decode(&lie), Err(Invalid::Malformed));
            // The third kind of query is a number, and this is one.
            assert_eq!(Query::decode(&lie).is_ok(), variant == 2);
            assert!(Answer::decode(&lie).is_err());
        }
    }

    /// Every bound is reached, and one more is refused.
    #[test]
    fn sizes_are_bounded() {
        let put = |key, value| {
            let (key, value) = (bytes(key), bytes(value));
            Command::Put { key, value }.validate()
        };
        assert_eq!(put(KEY_BYTES_MAX, VALUE_BYTES_MAX), Ok(()));
        assert_eq!(put(0, 1), Err(Invalid::KeyEmpty));
        assert_eq!(
            put(KEY_BYTES_MAX + 1, 1),
            Err(Invalid::KeyTooLong { bytes: 1025 })
        );
        let long = Invalid::ValueTooLong {
            bytes: VALUE_BYTES_MAX as u64 + 1,
        };
        assert_eq!(put(1, VALUE_BYTES_MAX + 1), Err(long));

        let swap = |expected, value| Command::CompareAndSet {
            key: bytes(KEY_BYTES_MAX),
            expected: Some(bytes(expected)),
            value: Some(bytes(value)),
        };
        let largest = swap(1000, VALUE_BYTES_MAX - 1000);
        assert_eq!(largest.validate(), Ok(()));
        assert!(
            largest.encode().len() <= 1 << 20,
            "the largest command fits the default limit"
        );
        assert_eq!(swap(1001, VALUE_BYTES_MAX - 1000).validate(), Err(long));

        let range = |start, limit| {
            Query::Range {
                start: bytes(start),
                end: None,
                limit,
            }
            .validate()
        };
        assert_eq!(range(0, 1), Ok(()));
        assert_eq!(range(KEY_BYTES_MAX + 1, RANGE_LIMIT_MAX), Ok(()));
        assert!(range(KEY_BYTES_MAX + 2, 1).is_err());
        for limit in [0, RANGE_LIMIT_MAX + 1] {
            assert_eq!(range(0, limit), Err(Invalid::LimitOutOfRange { limit }));
            let leases = Query::Leases { from: 0, limit };
            assert_eq!(leases.validate(), Err(Invalid::LimitOutOfRange { limit }));
        }
    }

    /// What ends in a log shows no user data.
    #[test]
    fn i15_debug_forms_show_sizes_only() {
        let pair = Pair {
            key: Bytes::from_static(b"secret"),
            value: Value {
                data: Bytes::from_static(b"secret"),
                revision: 9,
            },
        };
        assert_eq!(format!("{pair:?}"), "Pair(6 bytes, Value(6 bytes, 9))");
        let put = &commands()[0];
        assert_eq!(format!("{put:?}"), "Put(3 bytes, 300 bytes)");
        let current = Some(Bytes::from_static(b"secret"));
        let swap = Swap::NotSwapped { current };
        assert_eq!(format!("{swap:?}"), "NotSwapped(Some(6 bytes))");
    }
}
