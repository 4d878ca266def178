//! Raft consensus that speaks only authenticated QUIC, keeps its promises on disk, and runs on any async
//! runtime; and a replicated key-value store built on it.
#![forbid(unsafe_code)]

pub mod kv;
