//! Chance that can be repeated: SplitMix64 (Steele, Lea, Flood 2014).

use std::ops::Range;

/// A stream of numbers that its seed decides.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream of its own for one `purpose`, so that drawing more for one changes nothing for another.
    #[must_use]
    pub fn stream(seed: u64, purpose: &str) -> Self {
        let named = purpose
            .bytes()
            .fold(seed, |state, byte| Self(state ^ u64::from(byte)).next_u64());
        Self(named)
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number in `range`.
    ///
    /// # Panics
    ///
    /// When the range is empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        assert!(!range.is_empty(), "nothing to choose from");
        range.start + self.next_u64() % (range.end - range.start)
    }

    /// True `percent` times of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.within(0..100) < percent
    }

    /// True `permille` times of a thousand.
    pub fn permille(&mut self, permille: u64) -> bool {
        permille > 0 && self.within(0..1000) < permille
    }

    /// One of `from`.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.within(0..from.len() as u64) as usize]
    }
}
