//! Which keys may be bound to a lease, in memory: so that a write of any other need not look into the table.

use std::hash::{DefaultHasher, Hash, Hasher};

/// How many counters there are, a byte each. A thousand bound keys make one look-up in a thousand writes vain, and a
/// hundred thousand one in ten.
const COUNTERS: usize = 1 << 20;

/// Keys counted by a hash of them: it may say "perhaps" of any, and never "no" of one that is bound. The memory is always
/// the same, and none before the first key.
#[derive(Default)]
pub(super) struct BoundKeys(Vec<u8>);

impl BoundKeys {
    pub(super) fn add(&mut self, key: &[u8]) {
        if self.0.is_empty() {
            self.0 = vec![0; COUNTERS];
        }
        let counter = &mut self.0[place(key)];
        *counter = counter.saturating_add(1);
    }

    /// Of a key that was added.
    pub(super) fn remove(&mut self, key: &[u8]) {
        // One that was at its end may stand for more, and stays there.
        if let Some(counter) = self.0.get_mut(place(key))
            && *counter < u8::MAX
        {
            *counter = counter.saturating_sub(1);
        }
    }

    pub(super) fn may_have(&self, key: &[u8]) -> bool {
        self.0.get(place(key)).is_some_and(|counter| *counter > 0)
    }
}

fn place(key: &[u8]) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish() as usize % COUNTERS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key is there from when it is added until it is removed, and of the others few seem to be.
    #[test]
    fn few_seem_to_be_bound_that_are_not() {
        let mut bound = BoundKeys::default();
        assert!(!bound.may_have(b"key0"));
        let key = |number: usize| format!("key{number}");
        let all = |bound: &BoundKeys, keys: std::ops::Range<usize>| {
            keys.filter(|number| bound.may_have(key(*number).as_bytes()))
                .count()
        };
        (0..10_000).for_each(|number| bound.add(key(number).as_bytes()));
        assert_eq!(all(&bound, 0..10_000), 10_000);
        assert!(all(&bound, 10_000..20_000) < 200);
        (0..10_000).for_each(|number| bound.remove(key(number).as_bytes()));
        assert_eq!(all(&bound, 0..20_000), 0);
    }

    /// A counter at its end is not believed to say how many there are.
    #[test]
    fn a_full_counter_stays() {
        let mut bound = BoundKeys::default();
        (0..300).for_each(|_| bound.add(b"key"));
        (0..299).for_each(|_| bound.remove(b"key"));
        assert!(bound.may_have(b"key"));
    }
}
