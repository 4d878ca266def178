//! Why a command or a query is refused by every member alike.

use serde::{Deserialize, Serialize};

use super::command::{KEY_BYTES_MAX, LEASE_TTL_MAX, LEASE_TTL_MIN, VALUE_BYTES_MAX};
use super::logged::SLOTS_MAX;
use super::query::{RANGE_BYTES_MAX, RANGE_LIMIT_MAX};
use super::store::{LEASES_MAX, LEASES_OF_ONE_MAX};
use super::transaction::TRANSACTION_STEPS_MAX;

/// The longest life of a lease is a whole number of days.
const DAY_S: u64 = 24 * 60 * 60;

/// Why a command or query makes no sense. Nothing happened, and nothing will if it is repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// The bytes are not an encoding of what they should be.
    #[error("the message cannot be decoded; check that client and server are of matching versions")]
    Malformed,
    /// The encoding has another version.
    #[error("encoding version {version} is unknown; use matching versions")]
    UnknownVersion {
        /// The version found.
        version: u8,
    },
    /// There is no key.
    #[error("the key is empty; it needs 1 to {KEY_BYTES_MAX} bytes")]
    KeyEmpty,
    /// The key is too long.
    #[error("a key of {bytes} bytes is too long; at most {KEY_BYTES_MAX} are possible")]
    KeyTooLong {
        /// How long it is.
        bytes: u64,
    },
    /// The value, or both values of a compare-and-set together, are too long.
    #[error("{bytes} bytes of values are too long; at most {VALUE_BYTES_MAX} are possible")]
    ValueTooLong {
        /// How long they are.
        bytes: u64,
    },
    /// A page of that size cannot be had.
    #[error("a limit of {limit} is impossible; ask for 1 to {RANGE_LIMIT_MAX}, then for more")]
    LimitOutOfRange {
        /// The limit asked for.
        limit: u32,
    },
    /// A transaction looks at too many keys, or has too many steps.
    #[error(
        "{steps} steps are too many for a transaction; at most {TRANSACTION_STEPS_MAX} are possible"
    )]
    TooManySteps {
        /// How many there are.
        steps: u64,
    },
    /// What a transaction was to read is too much for one answer. Nothing of it was carried out.
    #[error("what the transaction reads is more than {RANGE_BYTES_MAX} bytes; read less in it")]
    AnswerTooLong,
    /// A lease cannot live that long, or that briefly.
    #[error(
        "a time to live of {ttl_ms} ms is impossible; it can be {}s to {}d",
        LEASE_TTL_MIN.as_secs(),
        LEASE_TTL_MAX.as_secs() / DAY_S
    )]
    TtlOutOfRange {
        /// The time asked for.
        ttl_ms: u64,
    },
    /// There is no such lease.
    #[error("there is no lease {lease}: it has expired, was revoked, or never was")]
    LeaseUnknown {
        /// Its number.
        lease: u64,
    },
    /// There are as many leases as there can be.
    #[error("there are {LEASES_MAX} leases already; revoke some, or let them expire")]
    TooManyLeases,
    /// A session has no such slot.
    #[error("slot {slot} is impossible; a session has {SLOTS_MAX}")]
    SlotOutOfRange {
        /// Its number.
        slot: u16,
    },
    /// The node does not hold the state of which a piece was asked.
    #[error(
        "the node does not hold that state any more: it was started anew, nobody asked for a minute, or other \
         backups took its place; begin the backup again"
    )]
    BackupGone,
    /// The identity that asks has as many leases as one may have.
    #[error(
        "this identity has {LEASES_OF_ONE_MAX} leases, as many as one may have; revoke what is not needed, bind several \
         keys to one lease, or use more identities"
    )]
    TooManyLeasesOfOne,
}
