//! The side that has a snapshot.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{ChunkWanted, STALLED_TICKS};
use crate::config::{Config, ELECTION_TICKS};
use crate::membership::Membership;
use crate::types::{EntryId, NodeId};

/// For how many ticks a snapshot that nobody asks for is kept: long enough for the next member that comes
/// back, and no longer, because a state machine that changes keeps a second copy of what it changes.
const KEPT_TICKS: u64 = 2 * STALLED_TICKS;

/// After how many ticks without a request the offer is repeated, a second by default: a member that was
/// started again has forgotten it, and one that has the snapshot says so.
const OFFER_TICKS: u64 = 4 * ELECTION_TICKS as u64;

/// The snapshot that this node gives away, and to whom.
///
/// Invariants:
/// - at most one piece is read at a time, and each member waits for at most one;
/// - what is read in a second is at most what the configuration says, and one piece.
#[derive(Debug)]
pub(crate) struct Giving {
    held: Option<Held>,
    /// The tick from which on the state machine may be asked for a snapshot; none while it is being asked.
    ask_from: Option<u64>,
    /// Who is to get the snapshot.
    transfers: BTreeMap<NodeId, Progress>,
    waiting: VecDeque<ChunkWanted>,
    reading: Option<ChunkWanted>,
    /// How many bytes may be read now; a piece may overdraw it.
    budget: i64,
    bytes_per_tick: u64,
}

#[derive(Debug)]
struct Held {
    last: EntryId,
    /// The members after `last`, which the log may have forgotten since.
    membership: Membership,
    used: u64,
}

/// The ticks at which a member last asked for a piece, and was last told that there is a snapshot.
#[derive(Debug)]
struct Progress {
    asked: u64,
    offered: u64,
}

/// Whom to tell what.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// These have not asked for a while: the offer, or what followed, may be lost.
    pub(crate) offers: Vec<NodeId>,
    /// These have not for so long that they are given up.
    pub(crate) stalled: Vec<NodeId>,
}

impl Giving {
    pub(crate) fn new(config: &Config) -> Self {
        let per_tick =
            config.tick_interval().as_secs_f64() * config.snapshot_bytes_per_second as f64;
        Self {
            held: None,
            ask_from: Some(0),
            transfers: BTreeMap::new(),
            waiting: VecDeque::new(),
            reading: None,
            budget: 0,
            bytes_per_tick: (per_tick as u64).max(1),
        }
    }

    /// The snapshot that is there.
    pub(crate) fn held(&self) -> Option<EntryId> {
        self.held.as_ref().map(|held| held.last)
    }

    /// What a member is told of it.
    pub(crate) fn offer(&self) -> Option<(EntryId, &Membership)> {
        let held = self.held.as_ref()?;
        Some((held.last, &held.membership))
    }

    /// A member needs a snapshot. Returns whether the state machine is to be asked for one.
    pub(crate) fn is_wanted(&mut self, now: u64) -> bool {
        self.ask_from.take_if(|from| *from <= now).is_some()
    }

    /// The state machine has given a snapshot, with these members; or it has none, and is left alone for a
    /// while.
    pub(crate) fn taken(&mut self, snapshot: Option<(EntryId, Membership)>, now: u64) {
        let last = snapshot.as_ref().map(|(last, _)| *last);
        let newer = last.is_some() && last != self.held();
        self.ask_from = Some(match newer {
            true => now,
            false => now + OFFER_TICKS,
        });
        if last.is_some() && !newer {
            // Whoever gets it goes on.
            return;
        }
        self.waiting.clear();
        self.reading = None;
        self.held = snapshot.map(|(last, membership)| Held {
            last,
            membership,
            used: now,
        });
    }

    /// `raft` has told `to` of the snapshot and waits until it has it.
    pub(crate) fn begins(&mut self, to: NodeId, now: u64) {
        let progress = Progress {
            asked: now,
            offered: now,
        };
        self.transfers.insert(to, progress);
        if let Some(held) = &mut self.held {
            held.used = now;
        }
    }

    /// The member no longer waits for the snapshot, or cannot be reached. Returns whether it did wait.
    pub(crate) fn ends(&mut self, member: NodeId) -> bool {
        self.waiting.retain(|wanted| wanted.to != member);
        self.transfers.remove(&member).is_some()
    }

    /// Forgets the members that no longer wait.
    pub(crate) fn keep(&mut self, waits: impl Fn(NodeId) -> bool) {
        let over = self
            .transfers
            .keys()
            .copied()
            .filter(|&member| !waits(member));
        for member in over.collect::<Vec<_>>() {
            self.ends(member);
        }
    }

    /// `to` asks for the piece of `last` after `after`. Returns whether there is such a snapshot.
    pub(crate) fn asks(&mut self, to: NodeId, last: EntryId, after: Bytes, now: u64) -> bool {
        let Some(held) = self.held.as_mut().filter(|held| held.last == last) else {
            return false;
        };
        held.used = now;
        if let Some(progress) = self.transfers.get_mut(&to) {
            progress.asked = now;
        }
        // One that asks again does not get more for it.
        self.waiting.retain(|wanted| wanted.to != to);
        if self.reading.as_ref().is_none_or(|reading| reading.to != to) {
            self.waiting.push_back(ChunkWanted { to, last, after });
        }
        true
    }

    /// The next piece to read, if one may be read now.
    pub(crate) fn next(&mut self) -> Option<ChunkWanted> {
        if self.reading.is_some() || self.budget <= 0 {
            return None;
        }
        let wanted = self.waiting.pop_front()?;
        self.reading = Some(wanted.clone());
        Some(wanted)
    }

    /// A piece of `bytes` was read, as `wanted`.
    pub(crate) fn read(&mut self, wanted: &ChunkWanted, bytes: u64) {
        // One of a former snapshot may come late.
        self.reading.take_if(|reading| reading == wanted);
        self.budget -= i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// A tick has passed.
    pub(crate) fn tick(&mut self, now: u64) -> Due {
        let most = i64::try_from(self.bytes_per_tick).unwrap_or(i64::MAX);
        self.budget = self.budget.saturating_add(most).min(most);
        let mut due = Due::default();
        for (&member, progress) in &mut self.transfers {
            if now >= progress.asked + STALLED_TICKS {
                due.stalled.push(member);
            } else if now >= progress.asked.max(progress.offered) + OFFER_TICKS {
                progress.offered = now;
                due.offers.push(member);
            }
        }
        for &member in &due.stalled {
            self.ends(member);
        }
        due
    }

    /// Whether the snapshot is not needed any more; then it is forgotten.
    pub(crate) fn is_over(&mut self, now: u64) -> bool {
        let unused = |held: &Held| now >= held.used + KEPT_TICKS;
        let over = self.transfers.is_empty() && self.held.as_ref().is_some_and(unused);
        if over {
            self.held = None;
            self.waiting.clear();
            self.reading = None;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::{LogIndex, Term};

    fn id(node: u64) -> NodeId {
        NodeId::new(node).unwrap()
    }

    fn last(index: u64) -> EntryId {
        EntryId::new(Term::new(3), LogIndex::new(index))
    }

    /// That gives 1,000 bytes a tick and holds a snapshot up to entry 9.
    fn giving() -> Giving {
        let mut config = Config::new(id(1));
        config.snapshot_bytes_per_second = 100_000;
        let mut giving = Giving::new(&config);
        assert!(
            giving.is_wanted(0) && !giving.is_wanted(9),
            "asked for once"
        );
        let membership = Membership::new([id(1), id(2), id(3)], []).unwrap();
        giving.taken(Some((last(9), membership)), 0);
        giving
    }

    /// Pieces are read one at a time, in turns, and no faster than configured.
    #[test]
    fn pieces_are_read_in_turns_at_a_limited_rate() {
        let mut giving = giving();
        assert!(
            !giving.asks(id(2), last(8), Bytes::new(), 0),
            "another snapshot"
        );
        for to in [2, 3, 2] {
            assert!(giving.asks(id(to), last(9), Bytes::new(), 0));
        }
        assert_eq!(giving.next(), None, "no time has passed");
        giving.tick(1);
        let wanted = giving.next().unwrap();
        assert_eq!(wanted.to, id(3));
        let late = ChunkWanted {
            last: last(8),
            ..wanted.clone()
        };
        giving.read(&late, 0);
        assert_eq!(giving.next(), None, "one at a time");
        giving.read(&wanted, 2_500);
        let ticks: Vec<u64> = (2..10)
            .filter(|&now| {
                giving.tick(now);
                giving.next().is_some()
            })
            .collect();
        assert_eq!(
            ticks,
            [3],
            "2,500 bytes are three ticks' worth, two of them to come"
        );
    }

    /// The slowest rate that is valid: some members at once still get each piece before they give up.
    #[test]
    fn at_a_valid_rate_no_member_gives_up() {
        let mut valid = 0;
        for (election_millis, rate) in [
            (20, 64 << 10),
            (20, 2 << 20),
            (250, 64 << 10),
            (250, 140 << 10),
        ] {
            let mut config = Config::new(id(1));
            config.election_timeout = Duration::from_millis(election_millis);
            config.heartbeat_interval = config.election_timeout / 5;
            config.snapshot_bytes_per_second = rate;
            if !config.mistakes().is_empty() {
                continue;
            }
            valid += 1;
            let piece = config.message_bytes_max.max(config.command_bytes_max);
            let mut giving = Giving::new(&config);
            giving.is_wanted(0);
            let membership = Membership::new([id(1)], []).unwrap();
            giving.taken(Some((last(9), membership)), 0);
            let mut got: BTreeMap<NodeId, u64> = (2..6).map(|to| (id(to), 0)).collect();
            for &to in got.keys() {
                giving.asks(to, last(9), Bytes::new(), 0);
            }
            for now in 1..3 * STALLED_TICKS {
                giving.tick(now);
                if let Some(wanted) = giving.next() {
                    giving.read(&wanted, piece);
                    got.insert(wanted.to, now);
                    giving.asks(wanted.to, last(9), Bytes::new(), now);
                }
                let longest = got.values().map(|last| now - last).max().unwrap();
                assert!(longest < STALLED_TICKS, "{rate} bytes a second");
            }
        }
        assert_eq!(valid, 2);
    }

    /// A state machine that has no snapshot is not asked again with every message of a member that needs one.
    #[test]
    fn who_has_none_is_asked_now_and_then() {
        let mut giving = Giving::new(&Config::new(id(1)));
        let asked: Vec<u64> = (0..3 * OFFER_TICKS)
            .filter(|&now| {
                let asked = giving.is_wanted(now);
                if asked {
                    giving.taken(None, now);
                }
                asked
            })
            .collect();
        assert_eq!(asked, [0, OFFER_TICKS, 2 * OFFER_TICKS]);
    }

    /// A transfer that does not get on is given up, and a snapshot that nobody wants is forgotten.
    #[test]
    fn g7_nothing_is_kept_for_ever() {
        let mut giving = giving();
        giving.begins(id(2), 10);
        assert!(giving.asks(id(2), last(9), Bytes::new(), 20));
        let end = 20 + STALLED_TICKS;
        let ticks: Vec<(u64, Due)> = (21..=end).map(|now| (now, giving.tick(now))).collect();
        let offers = ticks.iter().filter(|(_, due)| due.offers == [id(2)]);
        let offers: Vec<u64> = offers.map(|&(now, _)| now).collect();
        assert_eq!(offers[..3], [120, 220, 320]);
        let stalled = ticks.iter().filter(|(_, due)| due.stalled == [id(2)]);
        let stalled: Vec<u64> = stalled.map(|&(now, _)| now).collect();
        assert_eq!(stalled, [end]);
        assert!(!giving.ends(id(2)), "it has ended");
        let end = 20 + KEPT_TICKS;
        assert!(!giving.is_over(end - 1));
        assert!(giving.is_over(end) && !giving.is_over(end));
        assert!(!giving.asks(id(2), last(9), Bytes::new(), end));
    }
}
