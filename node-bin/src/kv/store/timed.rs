//! What ends by itself: sessions and leases, and the time they live by.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use quorate_persist::{Corruption, StoreFault};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bound::BoundKeys;
use super::overlay::Overlay;
use super::rows;
use super::view::Below;
use crate::kv::invalid::Invalid;
use crate::kv::query::Lease;
use crate::kv::query::Value;
use crate::planted;

/// How many sessions there may be; one more ends one of the identity that has most, the one that was not used for the
/// longest time. Some for each of ten thousand clients.
pub const SESSIONS_MAX: usize = 16_384;

/// How many leases there may be: each takes some hundred bytes of memory.
pub const LEASES_MAX: usize = 65_536;

/// How many of them one identity may have: a quarter, so that it takes four who want all there are before others get none.
/// A lease is nobody's to take away, for locks rest on it, so whoever would have more is refused. A service that holds a
/// lease for each of some thousand clients is far from it.
pub const LEASES_OF_ONE_MAX: usize = LEASES_MAX / 4;

/// After how long without a command a session ends, or up to an eighth of that sooner: far longer than any command is
/// repeated.
pub const SESSION_TTL: Duration = Duration::from_secs(10 * 60);

/// Using a session renews it when this part of its time has passed, so that most commands need not write it.
const SESSION_RENEWED: u64 = 8;

const SESSION_TTL_MS: u64 = SESSION_TTL.as_secs() * 1000;

/// Sessions, leases and the time, in memory as they stand in the rows.
///
/// Invariants:
/// - `due` holds each of them once, at the time at which it ends;
/// - `owners` holds each session once that was not told to end;
/// - `shares` counts each lease once whose owner is known.
#[derive(Default)]
pub(super) struct Timed {
    /// The milliseconds that have passed with a leader.
    now: u64,
    /// The last entry in which time passed.
    at: u64,
    sessions: BTreeMap<u64, Session>,
    leases: BTreeMap<u64, Granted>,
    /// The keys that are bound to any of them.
    bound: BoundKeys,
    due: BTreeSet<(u64, Ending)>,
    owners: Owners,
    pub(super) shares: Shares,
}

/// How many leases each identity has, and how many it may have.
pub(super) struct Shares {
    of: BTreeMap<u64, usize>,
    /// [`LEASES_OF_ONE_MAX`], but in tests.
    pub(super) most: usize,
}

/// Whose the sessions are that are not yet ending, so that one more than there can be ends one of whoever has most.
///
/// Invariant: `most` holds each owner that has any once, as [`standing`](Self::standing) says.
#[derive(Default)]
struct Owners {
    /// With when each ends.
    sessions: BTreeMap<u64, BTreeSet<(u64, u64)>>,
    most: BTreeSet<(usize, Reverse<(u64, u64)>)>,
    count: usize,
}

/// What can end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Ending {
    Session(u64),
    Lease(u64),
}

/// When a session ends that was told to.
const ENDED: u64 = 0;

#[derive(Clone, Copy, Default)]
struct Session {
    ends: u64,
    /// Who may use it; zero for anybody, where it was opened before that was noted.
    owner: u64,
}

#[derive(Clone, Copy)]
struct Granted {
    term: Term,
    /// In whose share it counts; zero for nobody's, where it was granted before that was noted.
    owner: u64,
}

/// The content of a lease's row.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Term {
    ttl: u64,
    ends: u64,
}

/// A row to write, or to remove.
pub(super) type Row = (Bytes, Option<Value>);

impl Timed {
    /// As it stands in the rows of a table.
    pub(super) fn load(below: &Below<'_>, nothing: &Overlay) -> Result<Self, StoreFault> {
        let mut timed = Self::default();
        if let Some(value) = below.find_own(nothing, &rows::clock())? {
            (timed.now, timed.at) = (decode(&value.data)?, value.revision);
        }
        let [sessions, owners, leases, grantees] = rows::sessions_and_leases();
        each(below, nothing, &sessions, |id, ends| {
            timed.set_session(id, ends);
        })?;
        each(below, nothing, &owners, |id, owner| {
            timed.set_owner(id, owner);
        })?;
        each(below, nothing, &leases, |id, term| {
            timed.set_lease(id, term);
        })?;
        each(below, nothing, &grantees, |id, owner| {
            timed.set_grantee(id, owner);
        })?;
        let bound = rows::lease_of(&[]);
        below.scan(nothing, &bound, Some(&rows::after(&bound)), |row, _| {
            timed.bound.add(&row[bound.len()..]);
            ControlFlow::Continue(())
        })?;
        Ok(timed)
    }

    /// Time has passed, in the entry `at`. A clock at its end stands still.
    pub(super) fn advance(&mut self, elapsed_ms: u32, at: u64) {
        self.now = self.now.saturating_add(elapsed_ms.into());
        self.at = at;
    }

    /// The row of the clock. It says the same whatever entries were applied together.
    pub(super) fn clock_row(&self) -> Row {
        (rows::clock(), Some(row(&self.now, self.at)))
    }

    /// The entry in which time last passed.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// In how many milliseconds something ends; `None` when nothing will.
    pub(super) fn due_in(&self) -> Option<u64> {
        let (first, _) = self.due.first()?;
        Some(first.saturating_sub(self.now))
    }

    /// What has to end by now.
    pub(super) fn due(&self) -> Option<Ending> {
        let (at, ending) = self.due.first()?;
        (*at <= self.now).then_some(*ending)
    }

    /// Whether a session is there to be used by `owner`.
    pub(super) fn has_session(&self, session: u64, owner: u64) -> bool {
        self.sessions.get(&session).is_some_and(|known| {
            let may = [0, owner].contains(&known.owner) || planted::is("sessions-are-anybodys");
            known.ends > self.now && may
        })
    }

    /// Opens for `owner` the session that is named after the entry it is opened in. Returns its rows, and that of the
    /// session which has to go for it.
    pub(super) fn open_session(&mut self, session: u64, owner: u64) -> Vec<Row> {
        let mut written = Vec::new();
        if self.owners.count >= SESSIONS_MAX {
            let oldest = self.owners.first_of_most(owner);
            // Its slots go before it does, as many at a time as of others.
            written.extend(oldest.map(|oldest| self.end_session_at(oldest, ENDED, session)));
        }
        let ends = self.now.saturating_add(SESSION_TTL_MS);
        written.push(self.end_session_at(session, ends, session));
        if owner != 0 {
            self.set_owner(session, owner);
            written.push((rows::owner(session), Some(row(&owner, session))));
        }
        written
    }

    /// A session was used. Returns its row if that changes.
    pub(super) fn use_session(&mut self, session: u64, at: u64) -> Option<Row> {
        let ends = self.now.saturating_add(SESSION_TTL_MS);
        let known = self.sessions.get(&session)?;
        let renew = known.ends.saturating_add(SESSION_TTL_MS / SESSION_RENEWED) <= ends;
        renew.then(|| self.end_session_at(session, ends, at))
    }

    fn end_session_at(&mut self, session: u64, ends: u64, at: u64) -> Row {
        self.set_session(session, ends);
        (rows::session(session), Some(row(&ends, at)))
    }

    fn set_session(&mut self, session: u64, ends: u64) {
        let known = self.sessions.entry(session).or_default();
        let before = std::mem::replace(&mut known.ends, ends);
        self.owners.remove(known.owner, (before, session));
        self.owners.add(known.owner, (ends, session));
        self.due.remove(&(before, Ending::Session(session)));
        self.due.insert((ends, Ending::Session(session)));
    }

    /// Of a session that is there.
    fn set_owner(&mut self, session: u64, owner: u64) {
        if let Some(known) = self.sessions.get_mut(&session) {
            let before = std::mem::replace(&mut known.owner, owner);
            self.owners.remove(before, (known.ends, session));
            self.owners.add(owner, (known.ends, session));
        }
    }

    /// The keys that are bound to leases, or to what was left behind by one.
    pub(super) fn bound(&mut self) -> &mut BoundKeys {
        &mut self.bound
    }

    /// A lease as it stands, if it is there.
    pub(super) fn lease(&self, lease: u64) -> Option<Lease> {
        let granted = self.leases.get(&lease)?;
        self.alive(&granted.term)
    }

    /// The leases that are there, in order, from the number `from` on.
    pub(super) fn leases_from(&self, from: u64) -> impl Iterator<Item = (u64, Lease)> {
        let leases = self.leases.range(from..);
        leases.filter_map(|(number, granted)| Some((*number, self.alive(&granted.term)?)))
    }

    /// One whose end has come may have left keys behind, and is not there all the same.
    fn alive(&self, term: &Term) -> Option<Lease> {
        (term.ends > self.now).then(|| Lease {
            ttl_ms: term.ttl,
            remaining_ms: term.ends - self.now,
        })
    }

    /// Makes a lease for `owner`, unless there are too many, or it has its share.
    pub(super) fn grant(&mut self, lease: u64, ttl: u64, owner: u64) -> Result<Vec<Row>, Invalid> {
        if self.shares.is_used_up(owner) {
            return Err(Invalid::TooManyLeasesOfOne);
        }
        if self.leases.len() >= LEASES_MAX {
            return Err(Invalid::TooManyLeases);
        }
        let mut written = vec![self.let_live(lease, ttl, lease)];
        if owner != 0 {
            self.set_grantee(lease, owner);
            written.push((rows::grantee(lease), Some(row(&owner, lease))));
        }
        Ok(written)
    }

    /// Has a lease, which is there, live on.
    pub(super) fn let_live(&mut self, lease: u64, ttl: u64, at: u64) -> Row {
        let ends = self.now.saturating_add(ttl);
        self.end_lease_at(lease, Term { ttl, ends }, at)
    }

    /// Has a lease end at once.
    pub(super) fn revoke(&mut self, lease: u64, at: u64) -> Row {
        self.end_lease_at(lease, Term { ttl: 0, ends: 0 }, at)
    }

    fn end_lease_at(&mut self, lease: u64, term: Term, at: u64) -> Row {
        self.set_lease(lease, term);
        (rows::lease(lease), Some(row(&term, at)))
    }

    fn set_lease(&mut self, lease: u64, term: Term) {
        let granted = self
            .leases
            .entry(lease)
            .or_insert(Granted { term, owner: 0 });
        let before = std::mem::replace(&mut granted.term, term);
        self.due.remove(&(before.ends, Ending::Lease(lease)));
        self.due.insert((term.ends, Ending::Lease(lease)));
    }

    /// Of a lease that is there.
    fn set_grantee(&mut self, lease: u64, owner: u64) {
        if let Some(granted) = self.leases.get_mut(&lease) {
            let before = std::mem::replace(&mut granted.owner, owner);
            self.shares.remove(before);
            self.shares.add(owner);
        }
    }

    /// It has ended, and all that belonged to it is gone. Returns its rows.
    pub(super) fn ended(&mut self, ending: Ending) -> Vec<Row> {
        let (ends, rows) = match ending {
            Ending::Session(id) => {
                let session = self.sessions.remove(&id);
                if let Some(session) = session {
                    self.owners.remove(session.owner, (session.ends, id));
                }
                let rows = vec![rows::session(id), rows::owner(id)];
                (session.map(|it| it.ends), rows)
            }
            Ending::Lease(id) => {
                let granted = self.leases.remove(&id);
                if let Some(granted) = granted {
                    self.shares.remove(granted.owner);
                }
                let rows = vec![rows::lease(id), rows::grantee(id)];
                (granted.map(|it| it.term.ends), rows)
            }
        };
        if let Some(ends) = ends {
            self.due.remove(&(ends, ending));
        }
        rows.into_iter().map(|row| (row, None)).collect()
    }
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            of: BTreeMap::new(),
            most: LEASES_OF_ONE_MAX,
        }
    }
}

impl Shares {
    fn add(&mut self, owner: u64) {
        if owner != 0 {
            *self.of.entry(owner).or_default() += 1;
        }
    }

    /// One that was added.
    fn remove(&mut self, owner: u64) {
        if let Some(count) = self.of.get_mut(&owner) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&owner);
            }
        }
    }

    fn is_used_up(&self, owner: u64) -> bool {
        let used_up = |&count: &usize| count >= self.most && !planted::is("leases-without-shares");
        self.of.get(&owner).is_some_and(used_up)
    }
}

impl Owners {
    fn add(&mut self, owner: u64, session: (u64, u64)) {
        if session.0 != ENDED {
            self.change(owner, |sessions| sessions.insert(session));
        }
    }

    fn remove(&mut self, owner: u64, session: (u64, u64)) {
        self.change(owner, |sessions| sessions.remove(&session));
    }

    fn change(&mut self, owner: u64, change: impl FnOnce(&mut BTreeSet<(u64, u64)>) -> bool) {
        let sessions = self.sessions.entry(owner).or_default();
        if let Some(standing) = Self::standing(sessions) {
            self.most.remove(&standing);
        }
        self.count -= sessions.len();
        change(sessions);
        self.count += sessions.len();
        match Self::standing(sessions) {
            Some(standing) => drop(self.most.insert(standing)),
            None => drop(self.sessions.remove(&owner)),
        }
    }

    /// How many somebody has, and of these the one that ends first, which is nobody else's.
    fn standing(sessions: &BTreeSet<(u64, u64)>) -> Option<(usize, Reverse<(u64, u64)>)> {
        Some((sessions.len(), Reverse(*sessions.first()?)))
    }

    /// The session that ends first of whoever has most; of `owner` itself, which opens one more, if nobody would have more than it then.
    /// Where several have as many, of the one whose first ends first.
    fn first_of_most(&self, owner: u64) -> Option<u64> {
        let (most, Reverse((_, first))) = *self.most.last()?;
        let own = self.sessions.get(&owner).and_then(Self::standing);
        match own {
            Some((count, Reverse((_, session)))) if count + 1 >= most => Some(session),
            _ => Some(first),
        }
    }
}

impl Ending {
    /// In front of all rows that belong to it.
    pub(super) fn belongings(self) -> Bytes {
        match self {
            Self::Session(session) => rows::slots(session),
            Self::Lease(lease) => rows::bound_keys(lease),
        }
    }
}

fn row(content: &impl Serialize, revision: u64) -> Value {
    let data = postcard::to_stdvec(content).expect("numbers have a form that postcard can write");
    let data = data.into();
    Value { data, revision }
}

fn decode<T: DeserializeOwned>(data: &[u8]) -> Result<T, StoreFault> {
    postcard::from_bytes(data).map_err(|_| Corruption::RowContent { row: "kv" }.into())
}

/// The number at the end of a row's key.
fn number(row: &[u8]) -> Result<u64, StoreFault> {
    let number = row
        .last_chunk::<8>()
        .map(|bytes| u64::from_be_bytes(*bytes));
    number.ok_or_else(|| Corruption::RowContent { row: "kv" }.into())
}

/// Brings number and content of all rows that begin with `prefix`, in their order.
fn each<T: DeserializeOwned>(
    below: &Below<'_>,
    nothing: &Overlay,
    prefix: &[u8],
    mut bring: impl FnMut(u64, T),
) -> Result<(), StoreFault> {
    let mut fault = None;
    below.scan(
        nothing,
        prefix,
        Some(&rows::after(prefix)),
        |row, record| match number(row).and_then(|id| Ok((id, decode(record.data)?))) {
            Ok((id, content)) => {
                bring(id, content);
                ControlFlow::Continue(())
            }
            Err(error) => {
                fault = Some(error);
                ControlFlow::Break(())
            }
        },
    )?;
    fault.map_or(Ok(()), Err)
}
