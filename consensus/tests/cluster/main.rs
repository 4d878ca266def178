//! The core under proof: clusters of `RaftNode`s on virtual ticks, by theme.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by failing")]

#[path = "../rig/mod.rs"]
mod rig;

mod chaos;
mod comparison;
mod durability;
mod elections;
mod fuzz;
mod log;
mod membership;
mod proposals;
mod reads;
mod restart;
mod snapshots;
mod stalls;
mod transfer;
mod traps;
