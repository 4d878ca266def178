//! The replicated key-value store that ships with Quorate.
//!
//! What is here, by who needs it:
//!
//! - **Clients**: a [`Client`], with what it is made of ([`ClientConfig`]), what it takes ([`Transaction`], [`Compare`],
//!   [`Step`]), and what it gives ([`Value`], [`Page`], [`Watch`], [`Lock`], [`Lease`], [`ClientError`]).
//! - **Programs that run a node of it**: [`NodeBuilder::start_kv`](crate::NodeBuilder::start_kv). [`KvStore`] is the state
//!   machine behind that, for those who put something around it, and [`KvOptions`] are its options.
//! - **Tools**, such as the commands of `quorate`: for backups, [`Backup`] takes one from a node, [`BackupWriter`] and
//!   [`BackupReader`] have its file, and [`restore`] makes a data folder of it; [`STATE_FILE`] is where the state is in
//!   such a folder, and [`KvStore::compact_in`] makes it smaller.
//! - **The wire** between clients and nodes: [`Request`], [`Response`], [`Refusal`] and [`Notice`]; and what they carry:
//!   a [`Command`] and its [`Outcome`], a [`Query`] and its [`Answer`], a [`NodeStatus`], a [`Directory`] of the members.
//!   A [`Client`] speaks this for its caller, who sees commands and queries where
//!   [`execute`](Client::execute) and [`query`](Client::query) take them as they are.
//! - **The log**: each entry is a [`Logged`], and the [`Tag`] in it, which comes with the request, names the command, so
//!   that it is applied once. Only who reads logs needs them.

mod backup;
mod board;
mod client;
pub(crate) mod command;
mod directory;
mod encoding;
mod history;
mod invalid;
mod logged;
mod metrics;
mod protocol;
pub(crate) mod query;
mod refusals;
mod service;
mod store;
mod telling;
mod timekeeper;
mod transaction;
mod watchers;

pub use backup::{
    BACKUP_FORMAT, BACKUP_IDLE_MAX, BACKUPS_MAX, BackupError, BackupHeader, BackupReader,
    BackupSummary, BackupWriter, RestoreError, Restored, restore,
};
pub use client::{
    Backup, Client, ClientConfig, ClientError, ConnectError, KeptLease, LeasePage, Lock, Lost,
    Page, REQUEST_TIMEOUT, REQUEST_TIMEOUT_MAX, StaleAnswer, Swap, SweepError, Transacted, Tried,
    Unanswered, Watch,
};
pub use command::{Command, KEY_BYTES_MAX, LEASE_TTL_MAX, LEASE_TTL_MIN, Outcome, VALUE_BYTES_MAX};
pub use directory::{AsOf, Directory};
pub use history::{Change, WATCH_HISTORY_BYTES_DEFAULT, WATCH_WAIT_MAX, WATCHERS_MAX, Watched};
pub use invalid::Invalid;
pub use logged::{Logged, SLOTS_MAX, Tag};
pub use protocol::{
    EXPLANATION_BYTES_MAX, Needs, NodeStatus, Notice, PeerStatus, Refusal, Request, Response,
};
pub use query::{
    Answer, BackupPiece, LEASE_KEYS_COUNTED_MAX, Lease, ListedLease, Pair, Query, RANGE_BYTES_MAX,
    RANGE_LIMIT_MAX, Value, end_of_prefix,
};
pub use service::STATE_FILE;
pub use store::{
    CompactError, KV_CACHE_BYTES_DEFAULT, KV_OVERLAY_BYTES_DEFAULT, KvOptions, KvStore, LEASES_MAX,
    LEASES_OF_ONE_MAX, SESSION_TTL, SESSIONS_MAX,
};
pub use transaction::{Compare, Condition, Step, StepOutcome, TRANSACTION_STEPS_MAX, Transaction};
