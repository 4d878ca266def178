//! Bugs, and who has to notice them.

use crate::level::Level;

/// A bug, and who has to notice it.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    /// As [`VARIABLE`](super::VARIABLE) has it.
    pub name: &'static str,
    /// What goes wrong.
    pub breaks: &'static str,
    /// Who notices.
    pub finder: Finder,
}

/// Who has to notice a bug.
#[derive(Clone, Copy, Debug)]
pub enum Finder {
    /// A simulation, in one of so many seeds from zero on.
    Seeds {
        /// The level.
        level: Level,
        /// How many.
        allowed: u64,
    },
    /// A test, where the simulations have no such enemy or the fault is in what they replace.
    Test {
        /// The folder of the crate.
        folder: &'static str,
        /// The file or folder below `tests` in it; `lib` for a test beside the code.
        target: &'static str,
        /// With its modules.
        test: &'static str,
    },
}

impl Finder {
    /// Which tests have to be built.
    pub(super) fn target(self) -> Option<&'static str> {
        match self {
            Self::Seeds { .. } => None,
            Self::Test { target, .. } => Some(target),
        }
    }
}

/// Stands for the tests beside the code.
pub(super) const UNITS: &str = "lib";

pub(super) const fn bug(name: &'static str, breaks: &'static str, finder: Finder) -> Bug {
    Bug {
        name,
        breaks,
        finder,
    }
}

pub(super) const fn level1(allowed: u64) -> Finder {
    let level = Level::Consensus;
    Finder::Seeds { level, allowed }
}

pub(super) const fn level2(allowed: u64) -> Finder {
    let level = Level::Stack;
    Finder::Seeds { level, allowed }
}

pub(super) const fn test(folder: &'static str, target: &'static str, test: &'static str) -> Finder {
    Finder::Test {
        folder,
        target,
        test,
    }
}

/// A test of a whole cluster of cores.
pub(super) const fn cluster(name: &'static str) -> Finder {
    test("consensus", "cluster", name)
}

/// A test beside the code.
pub(super) const fn unit(folder: &'static str, name: &'static str) -> Finder {
    test(folder, UNITS, name)
}
