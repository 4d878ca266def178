//! Bugs that are planted on purpose, one at a time: a test that never fails shows nothing, and neither does
//! a simulation.
//!
//! [`BUGS`] names each, what it breaks and who has to notice. Most are a line of the product, which only a
//! build with `--cfg quorate_planted` contains; the others are between the product and the simulated world.
//! `scripts/planted.sh` makes that build, lets each bug loose, and writes `docs/planted-bugs.md`.

mod bugs;
mod disk;
mod finder;
mod hunt;
mod log;
mod switch;
pub mod table;

pub(crate) use disk::around as around_disk;
pub(crate) use log::around as around_log;
pub(crate) use switch::is;

pub use bugs::BUGS;
pub use finder::{Bug, Finder};
pub use hunt::{HuntError, hunt};

/// Which bug a process has; read once. Without `--cfg quorate_planted` nobody reads it.
pub const VARIABLE: &str = "QUORATE_PLANTED";

/// Whether this build contains the bugs.
pub const PLANTED: bool = cfg!(quorate_planted);
