//! The one seam between the commands and the worlds they run.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::level1;
use crate::plan::Plan;
use crate::sim;

/// How much of the product a run contains.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Level {
    /// Level 1: the consensus crate, core and driver, over a network and a log in memory.
    Consensus,
    /// Level 2: the whole stack, from the client to the disk, over simulated time, sockets and files.
    Stack,
}

impl Level {
    /// Every level there is.
    pub const ALL: &'static [Self] = &[Self::Consensus, Self::Stack];

    /// Runs `plan` from beginning to end; prints every event when `trace` is set.
    #[must_use]
    pub fn run(self, plan: &Plan, trace: bool) -> Outcome {
        match self {
            Self::Consensus => level1::run(plan, trace),
            Self::Stack => sim::run(plan, trace),
        }
    }
}

impl From<Level> for u8 {
    fn from(level: Level) -> Self {
        match level {
            Level::Consensus => 1,
            Level::Stack => 2,
        }
    }
}

impl TryFrom<u8> for Level {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        let level = Self::ALL.iter().find(|&&level| u8::from(level) == number);
        level
            .copied()
            .ok_or_else(|| format!("there is no level {number}"))
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number: u8 = text
            .parse()
            .map_err(|_| format!("{text:?} is not a level"))?;
        Self::try_from(number)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        u8::from(*self).fmt(f)
    }
}

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Over everything that happened, in order: the same plan gives the same hash in every process.
    pub hash: u64,
    /// The time that passed inside.
    pub simulated: Duration,
    /// What happened how often.
    pub counts: Counts,
    /// The first broken promise.
    pub failure: Option<Failure>,
}

/// A promise that did not hold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Which one; two failures of one name count as the same when a plan is shrunk.
    pub invariant: String,
    /// What was seen, and when.
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What happened in a run, or in many.
        #[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// Adds what happened in another run.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Every count with its name, in order.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

counts! {
    /// Nodes killed, alone or all at once.
    kills,
    /// Nodes stopped in good order.
    stops,
    /// Nodes frozen for a while.
    pauses,
    /// Sets of nodes cut off from the rest, and single directions cut.
    partitions,
    /// Links made lossy or slow.
    link_faults,
    /// Disks that failed, stalled, tore or lost what they were told to keep.
    disk_faults,
    /// Clocks that jumped or ran at another rate.
    clock_faults,
    /// Disks wiped, or replaced by an old image.
    identity_faults,
    /// Leaders told to hand over, and elections called for no reason.
    leadership_faults,
    /// Leaders told to change who votes.
    membership_faults,
    /// Entries that changed the members, committed.
    memberships,
    /// Times that a node came to lead.
    elections,
    /// Messages between nodes that were sent.
    messages,
    /// Durable writes to logs.
    writes,
    /// Entries committed.
    entries,
    /// Writes acknowledged to clients.
    acknowledged,
    /// Reads answered to clients.
    reads,
    /// Operations of clients whose answers were checked, whatever they were.
    operations,
    /// Changes of keys that those who watch were told of.
    changes,
    /// Leases granted to clients.
    leases,
}
