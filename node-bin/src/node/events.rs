//! Who is told of what happens to a node.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender};
use quorate_consensus::Event;

/// How many events wait for a subscriber that does not look. Events are rare: this is hours of a healthy
/// cluster, and a kilobyte or so for each who forgets about it.
pub const EVENTS_MAX: usize = 256;

/// What happens to a node from now on, in order. Whoever does not keep up misses the oldest, never the
/// newest, and never holds up the node.
#[derive(Debug)]
pub struct Events(Receiver<Event>);

impl Events {
    /// The next one; `None` once the node has stopped.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await.ok()
    }
}

/// All who want to know; `None` once the node has stopped.
#[derive(Clone)]
pub(super) struct Subscribers(Arc<Mutex<Option<Vec<Sender<Event>>>>>);

impl Default for Subscribers {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some(Vec::new()))))
    }
}

impl Subscribers {
    /// One more, who is told of the end at once if it has come.
    pub(super) fn add(&self) -> Events {
        let (sender, receiver) = async_channel::bounded(EVENTS_MAX);
        if let Some(all) = &mut *self.all() {
            all.push(sender);
        }
        Events(receiver)
    }

    /// Forgets whoever has gone.
    pub(super) fn tell(&self, event: &Event) {
        if let Some(all) = &mut *self.all() {
            all.retain(|subscriber| subscriber.force_send(event.clone()).is_ok());
        }
    }

    /// The node has stopped.
    pub(super) fn end(&self) {
        *self.all() = None;
    }

    fn all(&self) -> MutexGuard<'_, Option<Vec<Sender<Event>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_lite::future::block_on;

    use super::*;

    fn event(seconds: u64) -> Event {
        Event::DiskStalled {
            waited: Duration::from_secs(seconds),
        }
    }

    /// A subscriber that is late misses the oldest; one that is gone costs nothing; the end is told.
    #[test]
    fn the_newest_are_kept() {
        let subscribers = Subscribers::default();
        let (mut late, gone) = (subscribers.add(), subscribers.add());
        drop(gone);
        for seconds in 0..EVENTS_MAX as u64 + 10 {
            subscribers.tell(&event(seconds));
        }
        assert_eq!(block_on(late.next()), Some(event(10)));
        assert_eq!(subscribers.all().as_ref().unwrap().len(), 1);
        subscribers.end();
        let rest = std::iter::from_fn(|| block_on(late.next()));
        assert_eq!(rest.count(), EVENTS_MAX - 1);
        let mut after = subscribers.add();
        assert_eq!(
            block_on(after.next()),
            None,
            "who asks after the end as well"
        );
    }
}
