//! Terms of a cluster that is founded anew: above all before, with the founding in their upper bits.

use crate::types::Term;

/// How many terms there are, in powers of two, before a founding is over: more than there are elections.
const TERMS_OF_FOUNDING_LOG2: u32 = 20;

/// The last moment that counts, in seconds: some forty thousand years. Terms stay far below what is taken from a peer.
const FOUNDED_AT_MAX: u64 = 1 << 40;

impl Term {
    /// When the cluster was founded anew, if it ever was: zero if it was not, or else a number that is higher after
    /// each time, and about that of the seconds between 1970 and then. For numbers that must not be given out again,
    /// also where what was given out is lost.
    #[must_use]
    pub const fn founding(self) -> u64 {
        self.value() >> TERMS_OF_FOUNDING_LOG2
    }

    /// The first term of a cluster that is founded anew `at` so many seconds after 1970, from what one in this term has
    /// left behind: above all that members and clients of that may know, who would take its leaders for old ones.
    #[must_use]
    pub fn founded_anew(self, at: u64) -> Self {
        let founding = at.min(FOUNDED_AT_MAX).max(self.founding() + 1);
        Self::new(founding << TERMS_OF_FOUNDING_LOG2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster that is founded anew is above all terms before, whatever its clock says, and below what is refused.
    #[test]
    fn foundings_rise() {
        let first = Term::new(7);
        assert_eq!(first.founding(), 0);
        let second = first.founded_anew(1_800_000_000);
        assert_eq!(second.founding(), 1_800_000_000);
        for clock in [0, 1_800_000_000, 1_800_000_001, u64::MAX] {
            let third = second.next().founded_anew(clock);
            assert!(third.founding() > second.founding(), "{clock}");
            assert!(third.next().next().founding() == third.founding());
            assert!(third.value() < u64::MAX / 4, "{clock}");
        }
    }
}
