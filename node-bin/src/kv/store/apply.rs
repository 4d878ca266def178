//! What an entry of the log does to the state.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use quorate_consensus::{Batch, Command as LogCommand, EntryId};
use quorate_persist::{Corruption, StoreFault};

use super::overlay::Overlay;
use super::timed::{Ending, Row, Timed};
use super::view::Below;
use super::{revision_of, rows};
use crate::kv::command::{Command, Outcome};
use crate::kv::encoding::{SHORT_BYTES, encode_behind};
use crate::kv::history::Change;
use crate::kv::invalid::Invalid;
use crate::kv::logged::{Logged, Tag};
use crate::kv::query::{RANGE_BYTES_MAX, Value};
use crate::kv::transaction::{Step, StepOutcome, Transaction};
use crate::planted;

/// How many rows that belong to what has ended are removed with one entry, so that none takes long: of all that its
/// time ends, and as many again of what its command does.
pub(super) const ENDED_ROWS_MAX: usize = 1024;

/// The longest answer that is kept for a command which is sent again, encoded. Every member keeps it on its disk, for each
/// slot of each session, whereas a command that reads 1 MiB may have a hundred bytes. What is longer has read much: what is
/// written is answered with a few bytes, and what 128 steps found of values of a hundred bytes fits.
pub(super) const KEPT_ANSWER_BYTES_MAX: usize = 16 << 10;

/// Commands are applied once each, in the order of the log; anything else would make this member
/// differ from the others (State Machine Safety, Raft paper, figure 3).
pub(super) fn check_order(applied: EntryId, batch: &Batch) {
    let mut previous = applied;
    for command in &batch.commands {
        let id = command.id;
        assert!(
            id.index > previous.index && id.term >= previous.term,
            "command {id} after {previous}"
        );
        previous = id;
    }
    let last = batch.last;
    assert!(
        last.index > applied.index && last.index >= previous.index && last.term >= previous.term,
        "a batch that ends in {last} after {previous}, with {applied} applied"
    );
}

/// The state while entries are applied to it.
pub(super) struct Applying<'a> {
    pub(super) active: &'a mut Overlay,
    /// What lies below that.
    pub(super) below: Below<'a>,
    pub(super) timed: &'a mut Timed,
    /// What has happened to users' keys, for those who watch.
    pub(super) changes: Vec<Change>,
}

impl Applying<'_> {
    /// Carries out one entry of the log. Returns its encoded outcome.
    pub(super) fn apply(&mut self, entry: &LogCommand) -> Result<Bytes, StoreFault> {
        let revision = revision_of(entry.id);
        // Sizes again: what is in the log may have come from a member that did not check.
        let logged = Logged::decode(&entry.data).and_then(|logged| {
            logged.validate()?;
            Ok(logged)
        });
        let Logged {
            elapsed_ms,
            tag,
            command,
            owner,
        } = match logged {
            Ok(logged) => logged,
            Err(invalid) => return Ok(refuse(invalid).encode()),
        };
        if elapsed_ms > 0 {
            self.timed.advance(elapsed_ms, revision);
            self.end_what_is_due(revision)?;
        }
        let sender = Sender {
            owner,
            grantee: match Logged::names_grantees(&entry.data) {
                true => owner,
                false => 0,
            },
        };
        match (tag, command) {
            (_, None) => Ok(Outcome::Written { revision }.encode()),
            (None, Some(command)) => Ok(self.carry_out(command, sender, revision)?.encode()),
            (Some(tag), Some(command)) => self.apply_once(&tag, command, sender, revision),
        }
    }

    /// The row of the clock once all entries of a batch are applied, if time has passed after `before`.
    pub(super) fn write_clock(&mut self, before: u64) {
        if self.timed.at() != before {
            let row = self.timed.clock_row();
            self.write(row);
        }
    }

    /// The same command again has the answer of the first time, and no effect. But for one that keeps a lease: what
    /// it was told then says nothing of how long the lease lives now, or that it does. And but for one that only reads and
    /// whose answer was too long to be kept: it has no effect that could come twice.
    fn apply_once(
        &mut self,
        tag: &Tag,
        command: Command,
        sender: Sender,
        revision: u64,
    ) -> Result<Bytes, StoreFault> {
        if !self.timed.has_session(tag.session, sender.owner) {
            // Also where it is somebody else's, who is not told so: numbers of sessions are easily guessed.
            return Ok(Outcome::SessionExpired.encode());
        }
        let row = rows::slot(tag);
        if let Some(kept) = self.below.find_own(self.active, &row)? {
            let kept = Kept::decode(&kept.data)?;
            if tag.sequence == kept.sequence
                && !kept.is_done_again(&command)
                && !planted::is("command-applied-again")
            {
                return Ok(kept.answer);
            }
            if tag.sequence < kept.sequence {
                return Ok(Outcome::Superseded.encode());
            }
        }
        let outcome = self.carry_out(command, sender, revision)?;
        let (data, answer) = Kept::encode(tag.sequence, &outcome, revision);
        // Opening a session may have ended this one: nothing would remove what is kept in it now, or, where some of
        // what was kept is gone already, it would live on without that.
        if self.timed.has_session(tag.session, sender.owner) {
            self.active.set_own(&row, Some(Value { data, revision }));
            if let Some(row) = self.timed.use_session(tag.session, revision) {
                self.write(row);
            }
        }
        Ok(answer)
    }

    fn carry_out(
        &mut self,
        command: Command,
        sender: Sender,
        revision: u64,
    ) -> Result<Outcome, StoreFault> {
        match command {
            Command::Put { key, value } => {
                self.set(key, Some(value), revision)?;
                Ok(Outcome::Written { revision })
            }
            Command::Delete { key } => {
                let existed = self.find(&key)?.is_some();
                if existed {
                    self.set(key, None, revision)?;
                }
                Ok(Outcome::Deleted { existed, revision })
            }
            Command::CompareAndSet {
                key,
                expected,
                value,
            } => {
                let current = self.find(&key)?.map(|value| value.data);
                if current != expected {
                    return Ok(Outcome::NotSwapped { current, revision });
                }
                if current.is_some() || value.is_some() {
                    self.set(key, value, revision)?;
                }
                Ok(Outcome::Swapped { revision })
            }
            Command::Transact(transaction) => self.transact(&transaction, revision),
            Command::GrantLease { ttl_ms } => {
                Ok(match self.timed.grant(revision, ttl_ms, sender.grantee) {
                    Ok(rows) => {
                        rows.into_iter().for_each(|row| self.write(row));
                        Outcome::LeaseGranted { lease: revision }
                    }
                    // Its own doing, as often as it likes: no warning.
                    Err(invalid @ Invalid::TooManyLeasesOfOne) => Outcome::Refused(invalid),
                    Err(invalid) => refuse(invalid),
                })
            }
            Command::KeepLease { lease } => Ok(match self.timed.lease(lease) {
                Some(known) => {
                    let row = self.timed.let_live(lease, known.ttl_ms, revision);
                    self.write(row);
                    Outcome::LeaseKept {
                        ttl_ms: known.ttl_ms,
                    }
                }
                None => Outcome::Refused(Invalid::LeaseUnknown { lease }),
            }),
            Command::RevokeLease { lease } => {
                if self.timed.lease(lease).is_none() {
                    return Ok(Outcome::Refused(Invalid::LeaseUnknown { lease }));
                }
                let row = self.timed.revoke(lease, revision);
                self.write(row);
                // At once: what else is due, which may be much, has time.
                self.end(Ending::Lease(lease), ENDED_ROWS_MAX, revision)?;
                Ok(Outcome::LeaseRevoked { revision })
            }
            Command::OpenSession => {
                for row in self.timed.open_session(revision, sender.owner) {
                    self.write(row);
                }
                self.end_what_is_due(revision)?;
                Ok(Outcome::SessionOpened { session: revision })
            }
        }
    }

    /// All of it, or nothing: what it writes goes to the state when it is certain that nothing is wrong.
    fn transact(
        &mut self,
        transaction: &Transaction,
        revision: u64,
    ) -> Result<Outcome, StoreFault> {
        let mut succeeded = true;
        for compare in &transaction.compare {
            let value = self.find(&compare.key)?;
            succeeded &= compare.condition.holds(value.as_ref());
        }
        let steps = match succeeded {
            true => &transaction.then,
            false => &transaction.otherwise,
        };
        let mut written: BTreeMap<&Bytes, Option<(&Bytes, Option<u64>)>> = BTreeMap::new();
        let mut outcomes = Vec::with_capacity(steps.len());
        let mut read = 0;
        for step in steps {
            let known = match written.get(step.key()) {
                Some(value) => value.map(|(data, _)| Value {
                    data: data.clone(),
                    revision,
                }),
                None if matches!(step, Step::Put { .. }) => None,
                None => self.find(step.key())?,
            };
            outcomes.push(match step {
                Step::Put { key, value, lease } => {
                    if let Some(lease) = *lease
                        && self.timed.lease(lease).is_none()
                    {
                        return Ok(Outcome::Refused(Invalid::LeaseUnknown { lease }));
                    }
                    written.insert(key, Some((value, *lease)));
                    StepOutcome::Written
                }
                Step::Delete { key } => {
                    let existed = known.is_some();
                    // Also where it is absent: a step before may have written it.
                    written.insert(key, None);
                    StepOutcome::Deleted { existed }
                }
                Step::Get { .. } => {
                    read += known.as_ref().map_or(0, |value| value.data.len());
                    StepOutcome::Value(known)
                }
            });
            if read > RANGE_BYTES_MAX {
                return Ok(refuse(Invalid::AnswerTooLong));
            }
        }
        for (key, value) in written {
            match value {
                None if self.find(key)?.is_none() => {}
                None => self.set(key.clone(), None, revision)?,
                Some((value, lease)) => {
                    self.set(key.clone(), Some(value.clone()), revision)?;
                    if let Some(lease) = lease {
                        self.bind(key, lease, revision);
                    }
                }
            }
        }
        Ok(Outcome::Transacted {
            succeeded,
            steps: outcomes,
            revision,
        })
    }

    /// Removes what belongs to the sessions and leases whose time has come, and then them. What is more
    /// than one entry should do is left for the next.
    fn end_what_is_due(&mut self, revision: u64) -> Result<(), StoreFault> {
        let mut left = ENDED_ROWS_MAX;
        while let Some(ending) = self.timed.due() {
            match self.end(ending, left, revision)? {
                Some(removed) => left -= removed,
                None => break,
            }
        }
        Ok(())
    }

    /// Removes what belongs to `ending`, at most `left` rows, and then it. Returns how many rows belonged to it, or
    /// `None` if they are too many. Then a part of them goes if the entry has removed no others, and else none, so
    /// that what one entry can end is never seen half gone.
    fn end(
        &mut self,
        ending: Ending,
        left: usize,
        revision: u64,
    ) -> Result<Option<usize>, StoreFault> {
        if planted::is("leases-never-end") && matches!(ending, Ending::Lease(_)) {
            return Ok(None);
        }
        let prefix = ending.belongings();
        let mut belongings = self.rows_from(&prefix, left + 1)?;
        let fits = belongings.len() <= left;
        if !fits && left < ENDED_ROWS_MAX {
            return Ok(None);
        }
        belongings.truncate(left);
        let removed = belongings.len();
        for (row, bound_at) in belongings {
            if let Ending::Lease(_) = ending {
                self.unbind(
                    Bytes::copy_from_slice(&row[prefix.len()..]),
                    bound_at,
                    revision,
                )?;
            }
            self.write((row, None));
        }
        if !fits {
            return Ok(None);
        }
        for row in self.timed.ended(ending) {
            self.write(row);
        }
        Ok(Some(removed))
    }

    /// Removes `key` if it still is what was bound to the lease: another write takes it away from it, and did so without
    /// removing the row in files of before.
    fn unbind(&mut self, key: Bytes, bound_at: u64, revision: u64) -> Result<(), StoreFault> {
        let value = self.find(&key)?;
        let same = |value: Value| {
            value.revision == bound_at || planted::is("lease-takes-what-was-written-since")
        };
        if value.is_some_and(same) {
            self.set(key, None, revision)?;
        }
        Ok(())
    }

    /// Binds `key`, which has just been written, to a lease, in both directions.
    fn bind(&mut self, key: &Bytes, lease: u64, revision: u64) {
        let row = |data| Some(Value { data, revision });
        self.write((rows::bound_key(lease, key), row(Bytes::new())));
        let number = Bytes::copy_from_slice(&lease.to_le_bytes());
        self.write((rows::lease_of(key), row(number)));
        self.timed.bound().add(key);
    }

    /// Takes `key` away from its lease, if it has one: or whoever writes and removes many keys under one lease would
    /// leave a row behind for each.
    fn loosen(&mut self, key: &Bytes) -> Result<(), StoreFault> {
        if !self.timed.bound().may_have(key) || planted::is("lease-takes-what-was-written-since") {
            return Ok(());
        }
        let row = rows::lease_of(key);
        let Some(value) = self.below.find_own(self.active, &row)? else {
            return Ok(());
        };
        let lease = value.data[..].try_into().map(u64::from_le_bytes);
        let lease = lease.map_err(|_| Corruption::RowContent { row: "kv" })?;
        self.write((rows::bound_key(lease, key), None));
        self.write((row, None));
        self.timed.bound().remove(key);
        Ok(())
    }

    /// At most `limit` rows, which is not 0, that begin with `prefix`, with their revisions.
    fn rows_from(&self, prefix: &Bytes, limit: usize) -> Result<Vec<(Bytes, u64)>, StoreFault> {
        let mut found = Vec::new();
        let end = rows::after(prefix);
        self.below
            .scan(self.active, prefix, Some(&end), |row, record| {
                found.push((Bytes::copy_from_slice(row), record.revision));
                match found.len() < limit {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
        Ok(found)
    }

    fn find(&self, key: &Bytes) -> Result<Option<Value>, StoreFault> {
        self.below.find(self.active, &rows::of_user(key))
    }

    fn set(&mut self, key: Bytes, value: Option<Bytes>, revision: u64) -> Result<(), StoreFault> {
        self.loosen(&key)?;
        let row = rows::of_user(&key);
        let written = value.clone().map(|data| Value { data, revision });
        self.changes.push(Change {
            key,
            value,
            revision,
        });
        self.active.set(row, written);
        Ok(())
    }

    fn write(&mut self, (row, value): Row) {
        self.active.set_own(&row, value);
    }
}

/// Who sent a command.
#[derive(Clone, Copy)]
struct Sender {
    /// Who may use the session it names, and has the one it opens.
    owner: u64,
    /// In whose share the lease counts that it gets.
    grantee: u64,
}

/// The content of a slot's row: the number of its last command, and that one's encoded outcome, or that it is not kept.
struct Kept {
    sequence: u64,
    answer: Bytes,
}

impl Kept {
    /// The content, and the encoded outcome, which is a part of it unless it is too long for that.
    fn encode(sequence: u64, outcome: &Outcome, revision: u64) -> (Bytes, Bytes) {
        let sequence = sequence.to_le_bytes();
        let behind = |outcome: &Outcome| {
            let mut content = Vec::with_capacity(sequence.len() + SHORT_BYTES);
            content.extend_from_slice(&sequence);
            Bytes::from(encode_behind(content, outcome))
        };
        let content = behind(outcome);
        let answer = content.slice(sequence.len()..);
        match answer.len() {
            ..=KEPT_ANSWER_BYTES_MAX => (content, answer),
            _ => (behind(&Outcome::AnswerNotKept { revision }), answer),
        }
    }

    /// Whether `command` is carried out again: to keep a lease that was kept the first time, or to read what is not kept.
    fn is_done_again(&self, command: &Command) -> bool {
        match command {
            Command::KeepLease { .. } => {
                matches!(Outcome::decode(&self.answer), Ok(Outcome::LeaseKept { .. }))
            }
            Command::Transact(transaction) if transaction.only_reads() => {
                let answer = Outcome::decode(&self.answer);
                matches!(answer, Ok(Outcome::AnswerNotKept { .. }))
            }
            Command::Transact(_)
            | Command::Put { .. }
            | Command::Delete { .. }
            | Command::CompareAndSet { .. }
            | Command::GrantLease { .. }
            | Command::RevokeLease { .. }
            | Command::OpenSession => false,
        }
    }

    fn decode(data: &Bytes) -> Result<Self, StoreFault> {
        let Some((sequence, answer)) = data.split_first_chunk() else {
            return Err(Corruption::RowContent { row: "kv" }.into());
        };
        Ok(Self {
            sequence: u64::from_le_bytes(*sequence),
            answer: data.slice_ref(answer),
        })
    }
}

fn refuse(invalid: Invalid) -> Outcome {
    tracing::warn!(err = %invalid, "a command in the log was refused");
    Outcome::Refused(invalid)
}
