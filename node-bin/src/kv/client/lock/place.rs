//! A place among those who want a lock.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::future::or;

use super::{Client, ClientError, Lost};
use crate::kv::client::Transacted;
use crate::kv::client::keeping::{AGAIN, Keeping};
use crate::kv::protocol::Refusal;
use crate::kv::query::{Answer, Pair, Query, RANGE_LIMIT_MAX};
use crate::kv::transaction::{Compare, Condition, Step, StepOutcome, Transaction};

/// The digits of the largest number of a lease.
const NUMBER_DIGITS: usize = 20;

/// A key below the name of a lock, as long as its lease lives.
pub(super) struct Place {
    client: Client,
    /// In front of all places.
    prefix: Bytes,
    pub(super) key: Bytes,
    pub(super) lease: u64,
    /// That of the key, once it is written.
    pub(super) revision: u64,
    pub(super) keeping: Keeping,
}

impl Place {
    /// For `lease`, which was granted at `begun` or later. Nothing is written yet.
    pub(super) fn new(
        client: Client,
        name: &[u8],
        lease: u64,
        ttl: Duration,
        begun: Instant,
    ) -> Self {
        let keeping = Keeping::begin(&client, lease, ttl, begun);
        Self {
            client,
            prefix: prefix_of(name),
            key: key_of(name, lease),
            lease,
            revision: 0,
            keeping,
        }
    }

    /// Writes the key, once: whoever is not answered and sends it again finds it there, and keeps its place.
    pub(super) async fn enter(&mut self) -> Result<(), ClientError> {
        let key = || self.key.clone();
        // For whoever looks who has a lock and who waits.
        let owner = self.client.shared.transport.identity().subject.to_string();
        let transaction = Transaction {
            compare: vec![Compare {
                key: key(),
                condition: Condition::Absent,
            }],
            then: vec![Step::Put {
                key: key(),
                value: owner.into(),
                lease: Some(self.lease),
            }],
            otherwise: vec![Step::Get { key: key() }],
        };
        let entered = self
            .persist(|| self.client.transact(transaction.clone()))
            .await;
        let Transacted {
            steps, revision, ..
        } = entered.map_err(|error| match error {
            ClientError::LeaseUnknown { .. } => ClientError::LockLost(Lost::Ended),
            error => error,
        })?;
        self.revision = match &steps[..] {
            [StepOutcome::Value(Some(value))] => value.revision,
            _ => revision,
        };
        Ok(())
    }

    /// Waits until no place is before this one.
    pub(super) async fn first(&self) -> Result<(), ClientError> {
        loop {
            let (queue, seen) = self.persist(|| self.look()).await?;
            match queue {
                Queue { own: false, .. } => {
                    return Err(ClientError::LockLost(self.why_gone().await?));
                }
                Queue { before: None, .. } => return Ok(()),
                Queue {
                    before: Some((_, key)),
                    ..
                } => self.persist(|| self.change_of(&key, seen)).await?,
            }
        }
    }

    /// Why its key is not there: it goes with its lease, and not only by that.
    async fn why_gone(&self) -> Result<Lost, ClientError> {
        let lease = self.persist(|| self.client.lease(self.lease)).await?;
        Ok(lease.map_or(Lost::Ended, |_| Lost::KeyGone))
    }

    /// Whether its key is there as it was written, as of no earlier than this call. The leader is asked, whom giving it up
    /// needs as well.
    pub(super) async fn is_there(&self) -> Result<bool, ClientError> {
        let leader = Client {
            reads_at: None,
            ..self.client.clone()
        };
        let found = leader.get(self.key.clone()).await?;
        Ok(found.is_some_and(|value| value.revision == self.revision))
    }

    /// Gives it up; returns whether its lease had lived until then.
    pub(super) async fn leave(self) -> Result<bool, ClientError> {
        self.keeping.leave();
        match self.client.revoke_lease(self.lease).await {
            Ok(()) => Ok(true),
            Err(ClientError::LeaseUnknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Who is there, and as of which revision.
    ///
    /// Pages together are not one moment, but places before this one only become fewer once it is there: if no page has
    /// any, there is none in the end, and one that was seen is worth waiting for.
    async fn look(&self) -> Result<(Queue, u64), ClientError> {
        let mut queue = Queue::default();
        let mut end = self.prefix.to_vec();
        *end.last_mut().expect("it ends in a separator") += 1;
        let mut start = self.prefix.clone();
        loop {
            let query = Query::Range {
                start,
                end: Some(end.clone().into()),
                limit: RANGE_LIMIT_MAX,
            };
            let (node, answer) = self.client.read(query).await?;
            let Answer::Page {
                pairs,
                more,
                revision,
            } = answer
            else {
                return Err(ClientError::Nonsense { node });
            };
            for pair in &pairs {
                queue.count(pair, &self.prefix, &self.key, self.revision);
            }
            match pairs.last() {
                Some(last) if more => start = successor(&last.key),
                _ => return Ok((queue, revision)),
            }
        }
    }

    /// Waits until `key` has changed after the revision `seen`, or may have.
    async fn change_of(&self, key: &Bytes, seen: u64) -> Result<(), ClientError> {
        let mut watch = self
            .client
            .watch(key.clone(), Some(successor(key)), Some(seen));
        loop {
            match watch.next().await {
                Ok(changes) if changes.is_empty() => {}
                Ok(_) => return Ok(()),
                Err(ClientError::Refused {
                    refusal: Refusal::HistoryGone { .. },
                    ..
                }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes `attempt`, which does nothing twice, again and again while it fails for what passes, and the lease lives.
    async fn persist<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let lost = async { Err(ClientError::LockLost(self.keeping.lost().await)) };
        let done = async {
            loop {
                let shared = &self.client.shared;
                match attempt().await {
                    // Without the client's runtime, no time would pass in between.
                    Err(error) if passes(&error) && !shared.is_closed() => {
                        shared.sleep_until(shared.runtime.now() + AGAIN).await;
                    }
                    done => return done,
                }
            }
        };
        or(lost, done).await
    }
}

/// What the places of a lock say to one of them.
#[derive(Default, PartialEq, Eq, Debug)]
struct Queue {
    /// It is there.
    own: bool,
    /// The last one before it, and its revision.
    before: Option<(u64, Bytes)>,
}

impl Queue {
    /// Takes a key below `prefix` into account, for whoever has `own` since `revision`.
    fn count(&mut self, pair: &Pair, prefix: &[u8], own: &[u8], revision: u64) {
        let there = pair.value.revision;
        if !is_place(prefix, &pair.key) {
            return;
        }
        if pair.key == own {
            self.own = there == revision;
        } else if there < revision && self.before.as_ref().is_none_or(|(last, _)| *last < there) {
            self.before = Some((there, pair.key.clone()));
        }
    }
}

/// In front of all places of the lock `name`.
fn prefix_of(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The place of whoever has `lease`. Its number is as `kv lease revoke` takes it, which is how a lock is taken away.
pub(super) fn key_of(name: &[u8], lease: u64) -> Bytes {
    let number = format!("{lease:0NUMBER_DIGITS$}");
    [&prefix_of(name)[..], number.as_bytes()].concat().into()
}

/// Whether `key` is a place, and not another key below the name of a lock.
fn is_place(prefix: &[u8], key: &[u8]) -> bool {
    key.strip_prefix(prefix).is_some_and(|number| {
        number.len() == NUMBER_DIGITS && number.iter().all(u8::is_ascii_digit)
    })
}

/// The key right after `key`.
fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// Whether it may be otherwise in a moment, and an attempt that does nothing twice is made again.
pub(super) fn passes(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::OutcomeUnknown { .. }
            | ClientError::NoLeader { .. }
            | ClientError::StillRefused { .. }
            | ClientError::TimedOut { .. }
            | ClientError::TooManyUnderWay
            | ClientError::Unreachable {
                for_good: false,
                ..
            }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::command::KEY_BYTES_MAX;
    use crate::kv::query::Value;

    fn pair(key: &Bytes, revision: u64) -> Pair {
        let data = Bytes::new();
        Pair {
            key: key.clone(),
            value: Value { data, revision },
        }
    }

    /// What the places of `keys`, each with its revision, say to whoever has the lease 7 since revision 20.
    fn queue(keys: &[(Bytes, u64)]) -> Queue {
        let mut queue = Queue::default();
        for (key, revision) in keys {
            let own = key_of(b"a", 7);
            queue.count(&pair(key, *revision), &prefix_of(b"a"), &own, 20);
        }
        queue
    }

    /// The order is that of the revisions, not that of the leases: who had its lease first may come later.
    #[test]
    fn whoever_wrote_before_is_before() {
        let own = || (key_of(b"a", 7), 20);
        let place = |lease, revision| (key_of(b"a", lease), revision);
        let alone = queue(&[own(), place(3, 21), place(9, 30)]);
        assert_eq!((alone.own, alone.before), (true, None));
        let behind = queue(&[
            place(3, 18),
            own(),
            place(8, 19),
            place(9, 12),
            place(4, 21),
        ]);
        assert_eq!(behind.before, Some((19, key_of(b"a", 8))));
        assert!(behind.own);
    }

    /// Whoever has no place any more does not have the lock, nor does one whose key somebody else has written.
    #[test]
    fn a_place_that_is_gone_is_not_the_first() {
        assert!(!queue(&[]).own);
        assert!(!queue(&[(key_of(b"a", 7), 25)]).own);
    }

    /// Other keys below the name are nobody's place: those of a lock whose name goes on, or a user's.
    #[test]
    fn other_keys_do_not_hold_a_lock() {
        for key in [
            key_of(b"a/b", 1),
            key_of(b"a/", 1),
            "a/readme".into(),
            "a/0000000000000000001".into(),
            "a/000000000000000000001".into(),
            "a/+0000000000000000001".into(),
            "a".into(),
        ] {
            assert_eq!(queue(&[(key.clone(), 1)]), Queue::default(), "{key:?}");
        }
        let digits = key_of(b"a", u64::MAX);
        assert_eq!(digits, "a/18446744073709551615");
        assert!(queue(&[(digits, 1)]).before.is_some());
        assert_eq!(key_of(b"a", 7), "a/00000000000000000007");
    }

    /// The longest name leaves room for the number of any lease.
    #[test]
    fn names_leave_room_for_the_number() {
        let name = vec![b'a'; KEY_BYTES_MAX - 1 - NUMBER_DIGITS];
        assert_eq!(key_of(&name, u64::MAX).len(), KEY_BYTES_MAX);
        assert_eq!(key_of(&name, 0).len(), KEY_BYTES_MAX);
    }
}
