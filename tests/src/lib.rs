//! What several tests of Quorate share. Published nowhere.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod process;
pub mod raw;
pub mod wait;
