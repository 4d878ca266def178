//! Decides what is committed.
#![forbid(unsafe_code)]

mod config;
mod driver;
mod durability;
mod entry;
mod error;
mod membership;
mod message;
mod types;

pub use config::Config;
pub use driver::{
    Batch, Clock, Command, LogStore, StateMachine, StateMachineError, StoreError, Transport,
    Undelivered,
};
pub use durability::{Append, AppendTicket, LogWrite, Recovered, persist};
pub use entry::{ENTRY_OVERHEAD_BYTES, Entry, FIRST_INDEX, ORIGIN, Payload};
pub use error::{Fatal, ProposeError, ReadError, StartError, TransferError};
pub use membership::{InvalidMembership, MEMBERS_MAX, Membership};
pub use message::{Body, Message, ReadContext};
pub use types::{EntryId, HardState, LogIndex, NodeId, Role, Term};
