//! Bytes that may wait in several queues together.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use futures_lite::future::or;

use crate::signal::{Signal, lock};

/// How many bytes may wait, as a part of how many may wait elsewhere as well.
#[derive(Debug)]
pub(crate) struct Budget {
    taken: AtomicUsize,
    /// Held by whoever takes some, of this or of a part of it.
    taking: Mutex<()>,
    bytes_max: usize,
    whole: Option<Arc<Budget>>,
    /// Some was given back.
    returned: Signal,
}

/// What there is for one identity, on all its connections together.
#[derive(Debug, Clone)]
pub(crate) struct Budgets {
    /// Replies that wait for it to take them.
    pub(crate) replies: Arc<Budget>,
    /// Large frames of it that have not arrived whole.
    pub(crate) frames: Arc<Budget>,
}

/// Some of a [`Budget`], and of the whole that it is a part of, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            taking: Mutex::default(),
            bytes_max,
            whole: None,
            returned: Signal::default(),
        })
    }

    /// No more than `bytes_max` of `whole`.
    pub(crate) fn part_of(whole: &Arc<Self>, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            taking: Mutex::default(),
            bytes_max,
            whole: Some(Arc::clone(whole)),
            returned: Signal::default(),
        })
    }

    /// `None` when it would be too much, here or in the whole.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        // One at a time, or what is taken here for a moment and given back could send somebody else to sleep.
        let _one = lock(&self.whole.as_ref().unwrap_or(self).taking);
        if !self.add(bytes) {
            return None;
        }
        let whole_has_room = self.whole.as_ref().is_none_or(|whole| whole.add(bytes));
        if !whole_has_room {
            self.taken.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        let budget = Arc::clone(self);
        Some(Share { budget, bytes })
    }

    /// Waits until there is room for `bytes`, of which there must not be more than there can be.
    pub(crate) async fn room_for(self: &Arc<Self>, bytes: usize) -> Share {
        loop {
            let here = self.returned.generation();
            let whole = self.whole.as_ref().map(|whole| &whole.returned);
            let elsewhere = whole.map(|whole| (whole, whole.generation()));
            if let Some(share) = self.take(bytes) {
                return share;
            }
            or(self.returned.changed(here), async {
                match elsewhere {
                    Some((whole, seen)) => whole.changed(seen).await,
                    None => std::future::pending().await,
                }
            })
            .await;
        }
    }

    fn add(&self, bytes: usize) -> bool {
        let sum = |taken: usize| {
            let sum = taken.checked_add(bytes)?;
            (sum <= self.bytes_max).then_some(sum)
        };
        let relaxed = Ordering::Relaxed;
        self.taken.fetch_update(relaxed, relaxed, sum).is_ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let budgets = [Some(&self.budget), self.budget.whole.as_ref()];
        for budget in budgets.into_iter().flatten() {
            budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
            budget.returned.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    fn taken(budget: &Budget) -> usize {
        budget.taken.load(Ordering::Relaxed)
    }

    /// Neither a part nor the whole gives more than it has, and what did not fit has taken nothing.
    #[test]
    fn no_more_is_taken_than_there_is() {
        let whole = Budget::new(10);
        let parts = [Budget::part_of(&whole, 6), Budget::part_of(&whole, 6)];
        let first = parts[0].take(6).unwrap();
        assert!(parts[0].take(1).is_none(), "of its own");
        assert!(parts[1].take(5).is_none(), "of the whole");
        let second = parts[1].take(4).unwrap();
        assert_eq!((taken(&parts[1]), taken(&whole)), (4, 10));
        assert!(parts[1].take(usize::MAX).is_none());
        drop(first);
        assert_eq!((taken(&parts[0]), taken(&whole)), (0, 4));
        drop((second, parts[0].take(6).unwrap()));
        assert_eq!(taken(&whole), 0);
    }

    /// Who waits is woken by room here as well as in the whole.
    #[test]
    fn room_is_waited_for() {
        let whole = Budget::new(10);
        let parts = [Budget::part_of(&whole, 6), Budget::part_of(&whole, 10)];
        for other in [&parts[0], &parts[1]] {
            let other = other.take(6).unwrap();
            let mut waits = pin!(parts[0].room_for(6));
            assert!(block_on(poll_once(waits.as_mut())).is_none());
            drop(other);
            drop(block_on(waits));
        }
    }
}
