//! Those who wait for what happens to keys: whom a change concerns, and who makes room for whom. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use quorate_certs::Identity;

use super::history::Watched;
use super::query::end_of_prefix;
use crate::planted;

/// Who waits, the oldest first.
type Ids = BTreeSet<u64>;

/// Those who wait, found by what they watch: most watch one key, or all that begin with something, and of these only
/// those are looked at whom a change concerns, however many others there are.
///
/// Invariants:
/// - each id of `waiting` is in one of `keys`, `prefixes` and `ranges`, under what it watches, and in `of`, under who it is;
///   no others are, and no set is empty;
/// - `counts` are the sizes of the sets of `of`.
#[derive(Debug)]
pub(super) struct Watchers<T> {
    next: u64,
    waiting: BTreeMap<u64, Watcher<T>>,
    /// Of those who watch one key.
    keys: BTreeMap<Bytes, Ids>,
    /// Of those who watch all keys that begin with this.
    prefixes: BTreeMap<Bytes, Ids>,
    /// Of those who watch what is neither: each of these is looked at with every change.
    ranges: BTreeMap<(Bytes, Option<Bytes>), Ids>,
    of: BTreeMap<Arc<Identity>, Ids>,
    counts: BTreeSet<(usize, Arc<Identity>)>,
}

/// One who waits, and what for.
#[derive(Debug)]
pub(super) struct Watcher<T> {
    pub(super) who: Arc<Identity>,
    pub(super) watched: Watched,
    pub(super) what: T,
}

enum Kind {
    Key,
    Prefix,
    Range,
}

fn kind(watched: &Watched) -> Kind {
    let Watched { start, end } = watched;
    if end.as_ref().and_then(|end| end.strip_prefix(&start[..])) == Some(&[0]) {
        Kind::Key
    } else if *end == end_of_prefix(start) {
        Kind::Prefix
    } else {
        Kind::Range
    }
}

impl<T> Default for Watchers<T> {
    fn default() -> Self {
        Self {
            next: 0,
            waiting: BTreeMap::new(),
            keys: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            ranges: BTreeMap::new(),
            of: BTreeMap::new(),
            counts: BTreeSet::new(),
        }
    }
}

impl<T> Watchers<T> {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn add(&mut self, watcher: Watcher<T>) {
        let id = self.next;
        self.next += 1;
        let start = watcher.watched.start.clone();
        let ids = match kind(&watcher.watched) {
            Kind::Key => self.keys.entry(start).or_default(),
            Kind::Prefix => self.prefixes.entry(start).or_default(),
            Kind::Range => {
                let range = (start, watcher.watched.end.clone());
                self.ranges.entry(range).or_default()
            }
        };
        ids.insert(id);
        self.change_ids_of(&watcher.who, |ids| ids.insert(id));
        self.waiting.insert(id, watcher);
    }

    fn change_ids_of(&mut self, who: &Arc<Identity>, change: impl FnOnce(&mut Ids) -> bool) {
        let ids = self.of.entry(Arc::clone(who)).or_default();
        let before = ids.len();
        change(ids);
        let after = ids.len();
        if after == 0 {
            self.of.remove(who);
        }
        self.counts.remove(&(before, Arc::clone(who)));
        if after > 0 {
            self.counts.insert((after, Arc::clone(who)));
        }
    }

    fn take(&mut self, id: u64) -> Option<Watcher<T>> {
        let watcher = self.waiting.remove(&id)?;
        let Watched { start, end } = &watcher.watched;
        match kind(&watcher.watched) {
            Kind::Key => forget(&mut self.keys, start, id),
            Kind::Prefix => forget(&mut self.prefixes, start, id),
            Kind::Range => forget(&mut self.ranges, &(start.clone(), end.clone()), id),
        }
        self.change_ids_of(&watcher.who, |ids| ids.remove(&id));
        Some(watcher)
    }

    /// Takes out all that `which` is true of, the oldest first.
    pub(super) fn take_all(&mut self, which: impl Fn(&Watcher<T>) -> bool) -> Vec<Watcher<T>> {
        let these = self.waiting.iter().filter(|(_, watcher)| which(watcher));
        let ids: Vec<u64> = these.map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    /// Takes out those who watch any of `keys`, which are sorted, and `which` is true of.
    pub(super) fn take_concerned(
        &mut self,
        keys: &[Bytes],
        which: impl Fn(&Watcher<T>) -> bool,
    ) -> Vec<Watcher<T>> {
        let mut found = Ids::new();
        for key in keys {
            found.extend(self.keys.get(key).into_iter().flatten());
            self.find_prefixes_of(key, &mut found);
        }
        for ((start, end), ids) in &self.ranges {
            let first = keys.partition_point(|key| key < start);
            let Some(key) = keys.get(first) else {
                break; // all that follow begin later
            };
            if end.as_ref().is_none_or(|end| key < end) {
                found.extend(ids);
            }
        }
        found.retain(|id| which(&self.waiting[id]));
        found.into_iter().filter_map(|id| self.take(id)).collect()
    }

    /// From the longest to the shortest. If the greatest prefix up to where it is looked is none of `key`, then those of
    /// `key` are no longer than what both have in common.
    fn find_prefixes_of(&self, key: &Bytes, found: &mut Ids) {
        let mut longest = Some(&key[..]);
        while let Some(bound) = longest {
            let upto = (Bound::Unbounded, Bound::Included(bound));
            let Some((prefix, ids)) = self.prefixes.range::<[u8], _>(upto).next_back() else {
                return;
            };
            let pairs = prefix.iter().zip(bound);
            let common = pairs.take_while(|(one, other)| one == other).count();
            longest = if common == prefix.len() {
                found.extend(ids);
                let shorter = common.checked_sub(1).map(|shorter| &bound[..shorter]);
                shorter.filter(|_| !planted::is("shorter-prefixes-missed"))
            } else {
                Some(&bound[..common])
            };
        }
    }

    /// Takes out the oldest watcher of the one who has most, unless `who` would then have as many.
    pub(super) fn displace_for(&mut self, who: &Arc<Identity>) -> Option<Watcher<T>> {
        let own = self.of.get(who).map_or(0, Ids::len);
        let (count, most) = self.counts.last()?;
        if *count <= own + 1 {
            return None;
        }
        let oldest = *self.of.get(most)?.first()?;
        self.take(oldest)
    }
}

fn forget<K: Ord>(map: &mut BTreeMap<K, Ids>, key: &K, id: u64) {
    if let Some(ids) = map.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_certs::{ClusterName, Subject};

    use super::*;

    fn client(number: usize) -> Arc<Identity> {
        let cluster = ClusterName::new("c1").unwrap();
        let subject = Subject::client(&format!("c{number}")).unwrap();
        Arc::new(Identity::new(cluster, subject))
    }

    /// A string of few different letters, so that many are the same, or begin another.
    fn word(random: &mut impl FnMut(usize) -> usize) -> Bytes {
        let letters = [0, 1, b'a', u8::MAX];
        let length = random(4);
        (0..length).map(|_| letters[random(4)]).collect()
    }

    fn watched(random: &mut impl FnMut(usize) -> usize) -> Watched {
        let start = word(random);
        let end = match random(4) {
            0 => Some([&start[..], &[0]].concat().into()),
            1 => end_of_prefix(&start),
            2 => None,
            _ => Some(word(random)),
        };
        Watched { start, end }
    }

    /// Against a list that is looked through from end to end.
    #[test]
    fn whom_a_change_concerns_is_found() {
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % below
        };
        let (mut watchers, mut list) = (Watchers::default(), Vec::<(Watched, i32)>::new());
        let (mut next, mut concerned) = (0, 0);
        for _ in 0..20_000 {
            let what = next;
            match random(8) {
                0 => {
                    let mut keys: Vec<Bytes> = (0..=random(3)).map(|_| word(&mut random)).collect();
                    keys.sort_unstable();
                    let odd = |what: &i32| what % 2 == 1;
                    let taken = watchers.take_concerned(&keys, |it| odd(&it.what));
                    let taken: Vec<i32> = taken.iter().map(|it| it.what).collect();
                    let expected = list.extract_if(.., |(watched, what)| {
                        odd(what) && keys.iter().any(|key| watched.has(key))
                    });
                    let expected: Vec<i32> = expected.map(|(_, what)| what).collect();
                    concerned += expected.len();
                    assert_eq!(taken, expected, "{keys:?}");
                }
                1 => {
                    let rest = random(16) as i32;
                    let taken = watchers.take_all(|it| it.what % 16 == rest);
                    let expected = list.extract_if(.., |(_, what)| *what % 16 == rest);
                    assert_eq!(taken.len(), expected.count());
                }
                _ => {
                    let (who, watched) = (client(random(3)), watched(&mut random));
                    list.push((watched.clone(), what));
                    watchers.add(Watcher { who, watched, what });
                    next += 1;
                }
            }
            assert_eq!(watchers.len(), list.len());
        }
        assert!(concerned > 4_000, "{concerned}");
        watchers.take_all(|_| true);
        let Watchers {
            waiting,
            keys,
            prefixes,
            ranges,
            of,
            counts,
            ..
        } = watchers;
        assert!(waiting.is_empty() && keys.is_empty() && prefixes.is_empty());
        assert!(ranges.is_empty() && of.is_empty() && counts.is_empty());
    }

    /// One key, or all with a prefix, is not looked for among the ranges.
    #[test]
    fn what_is_watched_most_is_found_at_once() {
        let of = |start: &[u8], end: Option<&[u8]>| {
            kind(&Watched {
                start: Bytes::copy_from_slice(start),
                end: end.map(Bytes::copy_from_slice),
            })
        };
        assert!(matches!(of(b"a", Some(b"a\0")), Kind::Key));
        assert!(matches!(of(b"", Some(b"\0")), Kind::Key));
        assert!(matches!(of(b"a/", Some(b"a0")), Kind::Prefix));
        assert!(matches!(of(b"a\xff", Some(b"b")), Kind::Prefix));
        assert!(matches!(of(b"\xff", None), Kind::Prefix));
        assert!(matches!(of(b"", None), Kind::Prefix));
        assert!(matches!(of(b"a", None), Kind::Range));
        assert!(matches!(of(b"a", Some(b"a\0\0")), Kind::Range));
        assert!(matches!(of(b"b", Some(b"a")), Kind::Range));
    }

    /// Who has most makes room, the oldest first; who has no fewer does not get any.
    #[test]
    fn who_has_most_makes_room() {
        let mut watchers = Watchers::default();
        let start = Bytes::new();
        for (what, who) in [0, 0, 1, 0, 1].into_iter().enumerate() {
            let watched = Watched {
                start: start.clone(),
                end: None,
            };
            let who = client(who);
            watchers.add(Watcher { who, watched, what });
        }
        assert!(watchers.displace_for(&client(0)).is_none());
        assert!(watchers.displace_for(&client(1)).is_none());
        assert_eq!(watchers.displace_for(&client(2)).unwrap().what, 0);
        assert_eq!(watchers.displace_for(&client(2)).map(|it| it.what), Some(2));
    }
}
