//! The replicated key-value store that ships with Quorate.

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
