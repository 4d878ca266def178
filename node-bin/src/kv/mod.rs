//! The replicated key-value store that ships with Quorate.

mod client;
pub(crate) mod command;
mod protocol;
mod service;
mod store;

pub use client::{
    Client, ClientConfig, ClientError, ConnectError, Page, REQUEST_TIMEOUT, StaleAnswer, Swap,
    Tried, Unanswered,
};
pub use command::{
    Answer, Command, Invalid, KEY_BYTES_MAX, Outcome, Pair, Query, RANGE_BYTES_MAX,
    RANGE_LIMIT_MAX, VALUE_BYTES_MAX, Value,
};
pub use protocol::{
    EXPLANATION_BYTES_MAX, Needs, NodeStatus, Notice, PeerStatus, Refusal, Request, Response,
};
pub use service::{KvService, STATE_FILE};
pub use store::{KV_CACHE_BYTES_DEFAULT, KV_OVERLAY_BYTES_DEFAULT, KvOptions, KvStore};
