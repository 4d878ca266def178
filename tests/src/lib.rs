//! What the tests of the whole system share: clusters in this process, and waiting for conditions.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod wait;
