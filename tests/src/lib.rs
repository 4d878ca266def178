//! What several tests of Quorate share. Published nowhere.
#![forbid(unsafe_code)]
#![allow(missing_debug_implementations, reason = "nobody else uses it")]

pub mod case;
pub mod chaos;
pub mod check;
pub mod cluster;
pub mod corpus;
pub mod crowd;
pub mod evidence;
pub mod level;
pub mod level1;
pub mod log;
pub mod params;
pub mod plan;
pub mod planted;
pub mod ports;
pub mod process;
pub mod raw;
pub mod report;
pub mod rng;
pub mod shrink;
pub mod sim;
pub mod sweep;
pub mod wait;
pub mod worker;
