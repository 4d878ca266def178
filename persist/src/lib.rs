//! The log, hard state, membership and identity of one node in a redb file, durable before anyone
//! is told.
//!
//! [`Store`] implements [`LogStore`](quorate_consensus::LogStore): one call of `append` is one
//! two-phase redb commit, so after a crash either all of it is there or none. A journal in front of
//! redb's pages makes the commit durable with one write instead of some ten and two syncs. Opening
//! verifies the whole file before a single byte of it is believed, and counts the start durably.
//!
//! [`create_database`] and [`open_database`] are the same discipline for another file of a node,
//! such as that of a state machine; [`DatabaseDraft`] makes one little by little. What is in it is the caller's, who
//! writes it through redb: there, and nowhere else but in errors, redb's types are part of this crate's interface, and a
//! new major version of redb is one of this crate. `docs/disk.md` describes every byte.
//!
//! This crate never talks to the network, never waits for anything but the disk, and never repairs
//! what it does not understand.
//!
//! ```
//! use quorate_consensus::{LogStore, Membership, NodeId};
//! use quorate_persist::{Options, Store, StoreIdentity};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("log.redb");
//! let node = NodeId::new(1).expect("one is not zero");
//! let identity = StoreIdentity { cluster: "demo".into(), node };
//! Store::create(&path, &identity, &Membership::new([node], [])?, Options::default())?;
//!
//! let opened = Store::open(&path, &identity, Options::default())?;
//! assert_eq!(opened.boot, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod backend;
mod check;
mod draft;
mod entry_row;
mod error;
mod file;
mod files;
mod identity;
mod journal;
mod log_table;
mod peers;
mod planted;
mod schema;
mod shape;
mod storage;
mod store;
mod through;
mod unchanged;
mod verify;

pub use check::{CheckedLog, check_log};
pub use draft::{DatabaseDraft, FileDraft};
pub use error::{Corruption, CreateError, OpenError, StoreFault};
pub use file::{
    OpenedDatabase, begin_durable, create_database, create_file, directory, make_directory,
    open_database, read_file, remove_drafts, replace_file, write_format,
};
pub use files::{Files, OsFiles};
pub use identity::{CLUSTER_BYTES_MAX, FileKind, StoreIdentity};
pub use peers::{SEEN_STORES_MAX, SeenPeers, SeenStore, SeenStores, load_peers, save_peers};
pub use schema::{META_TABLE, Seal, fresh_origin, seconds_now};
pub use storage::Storage;
pub use store::{CACHE_BYTES_DEFAULT, FORMAT, JOURNAL_BYTES_DEFAULT, Opened, Options, Store};
pub use unchanged::Unchanged;
