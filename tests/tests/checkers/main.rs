//! The checkers are checked: good histories pass, planted faults are found, and for small histories
//! their verdict is that of trying every order.
#![allow(
    clippy::unwrap_used,
    reason = "tests may; these are not in functions marked so"
)]

mod brute;
mod faults;
mod files;
mod histories;
mod register;
mod rules;
