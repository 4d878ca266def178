//! What several tests of Quorate share. Published nowhere.
#![forbid(unsafe_code)]

pub mod chaos;
pub mod check;
pub mod cluster;
pub mod level;
pub mod level1;
pub mod params;
pub mod plan;
pub mod process;
pub mod raw;
pub mod rng;
pub mod sim;
pub mod wait;
