//! A command as it stands in the log: with who wants it once only, and how much time has passed.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::command::Command;
use super::encoding::VERSION;
use super::invalid::Invalid;
use super::transaction::Transaction;

/// How many commands of a session may be under way at a time: those of a busy service, and few enough that
/// their answers do not amount to much.
pub const SLOTS_MAX: u16 = 4096;

/// The version in front of what is written here; [`VERSION`] is that of a command alone, as logs had it
/// before there were sessions.
const LOGGED: u8 = 4;

/// The same, as logs had it before leases belonged to somebody: whoever gets one in such an entry is not noted, also where
/// it is applied again by a version that would, so that all members have the same.
const SESSIONS_OWNED: u8 = 3;

/// The same without an owner, as logs had it before sessions belonged to somebody.
const UNOWNED: u8 = 2;

/// What an entry has besides keys and values, mostly: then memory for it is allocated once.
const FORM_BYTES: usize = 56;

/// Names one command of one client, so that it is applied once however often it is sent.
///
/// A session has slots, as those of NFS 4.1 do (RFC 8881, section 2.10.6.1): of each slot, the state keeps
/// the number of the last command and its answer. So a client that has many under way needs no window, and
/// what is kept is bounded by how many it really had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tag {
    /// The session, as [`Outcome::SessionOpened`](super::Outcome::SessionOpened) named it.
    pub session: u64,
    /// Which of its slots, less than [`SLOTS_MAX`].
    pub slot: u16,
    /// Greater than that of every other command before it in the slot; from 1 on.
    pub sequence: u64,
}

/// An entry of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Logged {
    /// How many milliseconds have passed at the leader since it last said so. Leases and sessions live by
    /// the sum of these, which is the same at all members, and never runs ahead of anyone's clock: each is
    /// a time in which that leader led, and no two lead at a time as far as the log is concerned.
    pub elapsed_ms: u32,
    /// Whose command it is; without, it is applied as often as it stands in the log.
    pub tag: Option<Tag>,
    /// The command; without one, only time has passed.
    pub command: Option<Command>,
    /// Who sent it, as the leader saw it: the [fingerprint](quorate_certs::Identity::fingerprint) of the identity in
    /// the certificate. A session is used by whoever opened it, and nobody else, and a lease counts in the share of
    /// whoever got it. Zero where nobody asks: without a tag, and where no session is opened and no lease granted.
    pub owner: u64,
}

impl Logged {
    /// The encoding, with its version in front.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let values = self.command.as_ref().map_or(0, Command::bytes);
        let mut encoded = Vec::with_capacity(values + FORM_BYTES);
        encoded.push(LOGGED);
        postcard::to_extend(self, encoded)
            .expect("these types have no form that postcard cannot write")
            .into()
    }

    /// Decodes what [`encode`](Self::encode) returns, and a command alone. Sizes are not checked here. Keys and
    /// values of the most frequent commands are parts of `bytes`.
    ///
    /// # Errors
    ///
    /// [`Invalid::UnknownVersion`], or [`Invalid::Malformed`] for anything else that is wrong, bytes left
    /// over included.
    pub fn decode(bytes: &Bytes) -> Result<Self, Invalid> {
        let malformed = |_| Invalid::Malformed;
        match bytes.split_first() {
            Some((&version @ (LOGGED | SESSIONS_OWNED | UNOWNED), body)) => {
                let taken = postcard::take_from_bytes::<InPlace<'_>>(body);
                let (logged, rest) = taken.map_err(malformed)?;
                let (owner, rest) = match version {
                    LOGGED | SESSIONS_OWNED => {
                        postcard::take_from_bytes(rest).map_err(malformed)?
                    }
                    _ => (0, rest),
                };
                match rest {
                    [] => Ok(logged.owned(bytes, owner)),
                    _ => Err(Invalid::Malformed),
                }
            }
            Some((&VERSION, _)) => Ok(Command::decode(bytes)?.into()),
            Some((&version, _)) => Err(Invalid::UnknownVersion { version }),
            None => Err(Invalid::Malformed),
        }
    }

    /// Whether the entry of which these are the bytes names who gets a lease by it.
    pub(super) fn names_grantees(bytes: &[u8]) -> bool {
        bytes.first() == Some(&LOGGED)
    }

    /// Checks the sizes, as every member does before it applies the command.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names what is out of bounds.
    pub fn validate(&self) -> Result<(), Invalid> {
        if let Some(tag) = &self.tag {
            tag.validate()?;
        }
        self.command.as_ref().map_or(Ok(()), Command::validate)
    }
}

impl Tag {
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        if self.slot >= SLOTS_MAX {
            return Err(Invalid::SlotOutOfRange { slot: self.slot });
        }
        Ok(())
    }
}

/// [`Logged`] up to the owner, with what is copied often left where it is: the state, and who watches, keep keys and
/// values for a while, and would allocate memory for each.
#[derive(Deserialize)]
struct InPlace<'a> {
    elapsed_ms: u32,
    tag: Option<Tag>,
    #[serde(borrow)]
    command: Option<CommandInPlace<'a>>,
}

/// [`Command`], variant by variant.
#[derive(Deserialize)]
enum CommandInPlace<'a> {
    Put {
        key: &'a [u8],
        value: &'a [u8],
    },
    Delete {
        key: &'a [u8],
    },
    CompareAndSet {
        key: &'a [u8],
        #[serde(borrow)]
        expected: Option<&'a [u8]>,
        #[serde(borrow)]
        value: Option<&'a [u8]>,
    },
    Transact(Transaction),
    GrantLease {
        ttl_ms: u64,
    },
    KeepLease {
        lease: u64,
    },
    RevokeLease {
        lease: u64,
    },
    OpenSession,
}

impl InPlace<'_> {
    /// The same as parts of `bytes`, from which this was decoded.
    fn owned(self, bytes: &Bytes, owner: u64) -> Logged {
        use CommandInPlace as In;
        let part = |part| bytes.slice_ref(part);
        let command = self.command.map(|command| match command {
            In::Put { key, value } => Command::Put {
                key: part(key),
                value: part(value),
            },
            In::Delete { key } => Command::Delete { key: part(key) },
            In::CompareAndSet {
                key,
                expected,
                value,
            } => {
                // Key and value stay in the state. A part keeps all of `bytes` in memory, and what is compared with,
                // which may be long, would stay with them, counted by nobody.
                let stays = key.len() + value.map_or(0, <[u8]>::len);
                let apart = expected.is_some_and(|expected| expected.len() > stays);
                let own = |it| match apart {
                    true => Bytes::copy_from_slice(it),
                    false => part(it),
                };
                Command::CompareAndSet {
                    key: own(key),
                    expected: expected.map(part),
                    value: value.map(own),
                }
            }
            In::Transact(transaction) => Command::Transact(transaction),
            In::GrantLease { ttl_ms } => Command::GrantLease { ttl_ms },
            In::KeepLease { lease } => Command::KeepLease { lease },
            In::RevokeLease { lease } => Command::RevokeLease { lease },
            In::OpenSession => Command::OpenSession,
        });
        Logged {
            elapsed_ms: self.elapsed_ms,
            tag: self.tag,
            command,
            owner,
        }
    }
}

impl From<Command> for Logged {
    fn from(command: Command) -> Self {
        Self {
            elapsed_ms: 0,
            tag: None,
            command: Some(command),
            owner: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged() -> Logged {
        logged_as(Command::Delete {
            key: Bytes::from_static(b"k"),
        })
    }

    fn logged_as(command: Command) -> Logged {
        Logged {
            elapsed_ms: 7,
            tag: Some(Tag {
                session: 5,
                slot: 3,
                sequence: 9,
            }),
            command: Some(command),
            owner: u64::MAX - 7,
        }
    }

    /// What stays of a command does not keep in memory what it was compared with.
    #[test]
    fn long_expectations_do_not_stay() {
        let compare_with = |expected: usize| {
            let bytes = logged_as(Command::CompareAndSet {
                key: Bytes::from_static(b"key"),
                expected: Some(vec![7; expected].into()),
                value: Some(Bytes::from_static(b"value")),
            })
            .encode();
            let Some(Command::CompareAndSet { key, value, .. }) =
                Logged::decode(&bytes).unwrap().command
            else {
                panic!("it is another command");
            };
            let parts = [key, value.unwrap()];
            assert_eq!(parts, [&b"key"[..], b"value"]);
            let whole = bytes.as_ptr_range();
            parts.map(|part| whole.contains(&part.as_ptr()))
        };
        assert_eq!(compare_with(1), [true; 2]);
        assert_eq!(compare_with(100_000), [false; 2]);
    }

    /// What is decoded in place is what it is elsewhere, for every command there is.
    #[test]
    fn every_command_comes_back() {
        let (key, value) = (Bytes::from_static(b"key"), Bytes::from_static(b"value"));
        let commands = [
            Command::Put {
                key: key.clone(),
                value: value.clone(),
            },
            Command::Delete { key: key.clone() },
            Command::CompareAndSet {
                key: key.clone(),
                expected: None,
                value: Some(value.clone()),
            },
            Command::CompareAndSet {
                key,
                expected: Some(value),
                value: None,
            },
            Command::Transact(Transaction::default()),
            Command::GrantLease { ttl_ms: 5 },
            Command::KeepLease { lease: 6 },
            Command::RevokeLease { lease: 7 },
            Command::OpenSession,
        ];
        for command in commands {
            let logged = logged_as(command);
            let encoded = logged.encode();
            assert_eq!(Logged::decode(&encoded), Ok(logged.clone()));
            let elsewhere: Logged = postcard::from_bytes(&encoded[1..]).unwrap();
            assert_eq!(elsewhere, logged);
        }
    }

    /// It comes back from its encoding; cut short, prolonged or of another version, it is refused.
    #[test]
    fn i2_decoding_of_entries_is_strict() {
        let encoded = logged().encode();
        assert_eq!(Logged::decode(&encoded), Ok(logged()));
        for length in 0..encoded.len() {
            assert_eq!(
                Logged::decode(&encoded.slice(..length)),
                Err(Invalid::Malformed)
            );
        }
        let longer = Bytes::from([&encoded[..], &[0]].concat());
        assert_eq!(Logged::decode(&longer), Err(Invalid::Malformed));
        let other = Bytes::from([&[5], &encoded[1..]].concat());
        let unknown = Invalid::UnknownVersion { version: 5 };
        assert_eq!(Logged::decode(&other), Err(unknown));
    }

    /// A log of before there were sessions means what it meant, and so does one of before they belonged to somebody.
    #[test]
    fn what_was_written_before_is_read() {
        let command = logged().command.unwrap();
        let expected = Logged::from(command.clone());
        assert_eq!(Logged::decode(&command.encode()), Ok(expected));
        let before = [&[SESSIONS_OWNED], &logged().encode()[1..]].concat();
        assert_eq!(Logged::decode(&before.clone().into()), Ok(logged()));
        assert!(!Logged::names_grantees(&before) && Logged::names_grantees(&logged().encode()));
        let mut unowned = logged();
        unowned.owner = 0;
        let encoded = unowned.encode();
        let (owner, before) = encoded[1..].split_last().unwrap();
        assert_eq!(*owner, 0);
        let before = Bytes::from([&[UNOWNED], before].concat());
        assert_eq!(Logged::decode(&before), Ok(unowned));
    }

    /// A slot beyond the last is refused.
    #[test]
    fn slots_are_bounded() {
        let mut logged = logged();
        assert_eq!(logged.validate(), Ok(()));
        logged.tag.as_mut().unwrap().slot = SLOTS_MAX;
        let slot = SLOTS_MAX;
        assert_eq!(logged.validate(), Err(Invalid::SlotOutOfRange { slot }));
    }
}
