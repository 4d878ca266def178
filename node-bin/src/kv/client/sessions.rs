//! Names for the commands of one client, so that each is applied once however often it is sent.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender};

use crate::kv::logged::{SLOTS_MAX, Tag};

/// The session of a client and its slots, which all its clones share.
pub(super) struct Sessions {
    inner: Mutex<Inner>,
    /// The slots that nobody uses, with the numbers of their last commands.
    free: (Sender<Slot>, Receiver<Slot>),
    /// Whoever takes this may open a session; the others wait for it.
    opening: (Sender<()>, Receiver<()>),
}

#[derive(Default)]
struct Inner {
    session: Option<u64>,
    /// How many slots there are: as many as commands were ever under way at a time.
    slots: u16,
}

#[derive(Clone, Copy)]
struct Slot {
    number: u16,
    sequence: u64,
}

/// The right to send one command. Given back when dropped, whatever has become of the command: the next one in
/// the slot has a greater number, after which this one is no longer applied.
pub(super) struct Claim<'a> {
    sessions: &'a Sessions,
    slot: Slot,
}

/// The right to open a session.
pub(super) struct Opening<'a>(&'a Sessions);

impl Sessions {
    pub(super) fn new() -> Self {
        let opening = async_channel::bounded(1);
        let _ = opening.0.try_send(());
        Self {
            inner: Mutex::default(),
            free: async_channel::bounded(usize::from(SLOTS_MAX)),
            opening,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change is complete before its lines could panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session that is open, as far as is known.
    pub(super) fn session(&self) -> Option<u64> {
        self.inner().session
    }

    /// Waits until nobody else opens a session.
    pub(super) async fn begin_opening(&self) -> Opening<'_> {
        // It is never closed: this holds both ends.
        let _ = self.opening.1.recv().await;
        Opening(self)
    }

    /// `session` has ended.
    pub(super) fn handle_expired(&self, session: u64) {
        let mut inner = self.inner();
        if inner.session == Some(session) {
            inner.session = None;
        }
    }

    /// Waits until one more command may be under way.
    pub(super) async fn claim(&self) -> Claim<'_> {
        let slot = match self.free.1.try_recv() {
            Ok(slot) => slot,
            Err(_) => match self.new_slot() {
                Some(slot) => slot,
                None => self.free.1.recv().await.expect("this holds both ends"),
            },
        };
        let sequence = slot.sequence + 1;
        Claim {
            sessions: self,
            slot: Slot { sequence, ..slot },
        }
    }

    fn new_slot(&self) -> Option<Slot> {
        let mut inner = self.inner();
        let number = inner.slots;
        (number < SLOTS_MAX).then(|| {
            inner.slots += 1;
            Slot {
                number,
                sequence: 0,
            }
        })
    }
}

impl Opening<'_> {
    /// It was opened.
    pub(super) fn opened(self, session: u64) {
        self.0.inner().session = Some(session);
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let _ = self.0.opening.0.try_send(());
    }
}

impl Claim<'_> {
    /// The name of the command in `session`.
    pub(super) fn tag(&self, session: u64) -> Tag {
        Tag {
            session,
            slot: self.slot.number,
            sequence: self.slot.sequence,
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // There is room: it holds all slots that there are.
        let _ = self.sessions.free.0.try_send(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    /// No two commands have the same name, and those that follow each other in a slot have rising numbers.
    #[test]
    fn names_are_never_given_twice() {
        block_on(async {
            let sessions = Sessions::new();
            let mut seen = BTreeSet::new();
            for _ in 0..10 {
                let two = [sessions.claim().await, sessions.claim().await];
                for claim in &two {
                    let Tag { slot, sequence, .. } = claim.tag(7);
                    assert!(slot < 2, "no more slots than commands under way");
                    assert!(seen.insert((slot, sequence)));
                    assert!(sequence == 1 || seen.contains(&(slot, sequence - 1)));
                }
            }
        });
    }

    /// When all slots are used, the next command waits for one.
    #[test]
    fn commands_under_way_are_bounded() {
        block_on(async {
            let sessions = Sessions::new();
            let mut claims = Vec::new();
            for _ in 0..SLOTS_MAX {
                claims.push(sessions.claim().await);
            }
            assert!(poll_once(sessions.claim()).await.is_none());
            claims.pop();
            assert!(poll_once(sessions.claim()).await.is_some());
        });
    }

    /// One opens a session, the others wait; if it gives up, the next one does.
    #[test]
    fn one_opens_for_all() {
        block_on(async {
            let sessions = Sessions::new();
            let first = sessions.begin_opening().await;
            assert!(poll_once(sessions.begin_opening()).await.is_none());
            drop(first);
            sessions.begin_opening().await.opened(5);
            assert_eq!(sessions.session(), Some(5));
            sessions.handle_expired(4);
            assert_eq!(sessions.session(), Some(5), "another one");
            sessions.handle_expired(5);
            assert_eq!(sessions.session(), None);
        });
    }
}
