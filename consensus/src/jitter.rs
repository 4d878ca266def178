//! Where election timeouts get their chance from: a pure function of a seed and a counter, so that a
//! run can be repeated exactly.

use std::ops::Range;

use crate::planted;

/// The `draw`-th election timeout of the node with `seed`, in ticks within `range`.
pub(crate) fn election_ticks(seed: u64, draw: u64, range: Range<usize>) -> usize {
    assert!(
        !range.is_empty(),
        "an election timeout needs a range: {range:?}"
    );
    if planted::is("timeouts-not-random") {
        return range.start;
    }
    let span = (range.end - range.start) as u64;
    range.start + (mix(seed ^ mix(draw)) % span) as usize
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every input bit moves every output bit.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_repeat_for_a_seed_and_fill_their_range() {
        let draws = |seed| (0..1000).map(move |draw| election_ticks(seed, draw, 25..50));
        assert!(draws(7).eq(draws(7)));
        assert!(draws(7).ne(draws(8)));
        for ticks in 25..50 {
            let count = draws(7).filter(|&drawn| drawn == ticks).count();
            assert!(
                (15..=80).contains(&count),
                "{ticks} was drawn {count} times of 1000"
            );
        }
    }
}
