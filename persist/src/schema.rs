//! The bytes of every single row. `docs/disk.md` says the same in words, for a second implementation.

use std::io;
use std::num::NonZeroU64;
use std::time::{SystemTime, UNIX_EPOCH};

use quorate_consensus::{
    EntryId, HardState, LogIndex, MEMBERS_MAX, Membership, NodeId, ORIGIN, Term,
};
use redb::{ReadableTable, TableDefinition};

use crate::error::{Corruption, StoreFault};
use crate::files::Files;
use crate::identity::StoreIdentity;

/// The table of single rows, keyed by name. Every file of a node has it.
pub const META_TABLE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

pub(crate) const BASE: &str = "base";
pub(crate) const BOOT: &str = "boot";
pub(crate) const ORIGIN_ROW: &str = "origin";
pub(crate) const HARD_STATE: &str = "hard_state";
pub(crate) const MEMBERSHIP: &str = "membership";

/// Checksums that only hold in one file: a row that is valid elsewhere fails here.
///
/// CRC-32C detects damage; it is not meant to resist someone who can write to the disk.
#[derive(Clone, Copy, Debug)]
pub struct Seal {
    seed: u32,
}

impl Seal {
    /// The seal of the file that belongs to `identity` and has the random id `store_id`.
    #[must_use]
    pub fn new(identity: &StoreIdentity, store_id: u128) -> Self {
        let seed = crc32c::crc32c(identity.cluster.as_bytes());
        let seed = crc32c::crc32c_append(seed, &identity.node.value().to_le_bytes());
        let seed = crc32c::crc32c_append(seed, &store_id.to_le_bytes());
        Self { seed }
    }

    /// The checksum over `parts`, one after the other. The caller makes sure that the same bytes
    /// cannot be split into different parts, and names the place of the row in the first ones.
    #[must_use]
    pub fn checksum(&self, parts: &[&[u8]]) -> u32 {
        parts
            .iter()
            .fold(self.seed, |sum, part| crc32c::crc32c_append(sum, part))
    }

    /// The row of [`META_TABLE`] called `name` with the content `body`.
    #[must_use]
    pub fn close_row(&self, name: &str, mut body: Vec<u8>) -> Vec<u8> {
        let checksum = self.checksum(&[b"m", name.as_bytes(), b"\0", &body]);
        body.extend_from_slice(&checksum.to_le_bytes());
        body
    }

    /// Reads the row called `name`, which has always `N` bytes of content.
    ///
    /// # Errors
    ///
    /// [`StoreFault`] when it is missing, damaged or of another length, or the database fails.
    pub fn open_row<const N: usize>(
        &self,
        table: &impl ReadableTable<&'static str, &'static [u8]>,
        name: &'static str,
    ) -> Result<[u8; N], StoreFault> {
        let body = self.open_row_any(table, name)?;
        let content = Corruption::RowContent { row: name };
        body.try_into().map_err(|_| content.into())
    }

    fn open_row_any(
        &self,
        table: &impl ReadableTable<&'static str, &'static [u8]>,
        name: &'static str,
    ) -> Result<Vec<u8>, StoreFault> {
        let row = table
            .get(name)?
            .ok_or(Corruption::RowMissing { row: name })?;
        let (body, checksum) = row
            .value()
            .split_last_chunk::<4>()
            .ok_or(Corruption::RowContent { row: name })?;
        let expected = self.checksum(&[b"m", name.as_bytes(), b"\0", body]);
        if u32::from_le_bytes(*checksum) != expected {
            return Err(Corruption::RowChecksum { row: name }.into());
        }
        Ok(body.to_vec())
    }
}

pub(crate) fn encode_hard_state(hard_state: &HardState) -> Vec<u8> {
    let vote = hard_state.vote.map_or(0, NodeId::value);
    [hard_state.term.value(), vote, hard_state.commit.value()]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

pub(crate) fn decode_hard_state(body: [u8; 24]) -> HardState {
    let [term, vote, commit] = numbers(&body);
    HardState {
        term: Term::new(term),
        vote: NodeId::new(vote),
        commit: LogIndex::new(commit),
    }
}

pub(crate) fn encode_entry_id(id: EntryId) -> Vec<u8> {
    [id.term.value(), id.index.value()]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

pub(crate) fn decode_entry_id(body: [u8; 16]) -> EntryId {
    let [term, index] = numbers(&body);
    EntryId::new(Term::new(term), LogIndex::new(index))
}

fn numbers<const N: usize>(body: &[u8]) -> [u64; N] {
    let (chunks, []) = body.as_chunks::<8>() else {
        unreachable!("{} bytes are not whole numbers", body.len());
    };
    std::array::from_fn(|number| u64::from_le_bytes(chunks[number]))
}

/// The members at the base of a file of `format`.
pub(crate) fn read_membership(
    seal: &Seal,
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    format: u32,
) -> Result<Membership, StoreFault> {
    let body = seal.open_row_any(table, MEMBERSHIP)?;
    let membership = match format <= FOUNDERS_ONLY {
        true => decode_founders(&body),
        false => Membership::decode(&body),
    };
    membership.ok_or_else(|| Corruption::RowContent { row: MEMBERSHIP }.into())
}

/// No cluster is founded by its members with such a number: see [`origin_of`].
const FOUNDED_ANEW: u64 = 1 << 63;

/// A number for a cluster that is founded anew, by one node: no other has it, and no cluster that was founded by its
/// members.
///
/// # Errors
///
/// When there is no randomness.
pub fn fresh_origin(files: &dyn Files) -> io::Result<NonZeroU64> {
    let mut random = [0; 8];
    files.random(&mut random)?;
    let origin = u64::from_le_bytes(random) | FOUNDED_ANEW;
    Ok(NonZeroU64::new(origin).expect("one bit is set"))
}

/// How many seconds it is since 1970, by the clock of this machine: for
/// [`Term::founded_anew`](quorate_consensus::Term::founded_anew).
#[must_use]
pub fn seconds_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// A number of the founding members `founders`, equal for equal ones; zero for a node that joins.
pub(crate) fn origin_of(founders: &Membership) -> u64 {
    match founders.index() < ORIGIN.index {
        true => 0,
        false => 1 << 32 | u64::from(crc32c::crc32c(&founders.encode())),
    }
}

/// What the file of `format` was made with; `membership` are the members at its base.
pub(crate) fn read_origin(
    seal: &Seal,
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    format: u32,
    membership: &Membership,
) -> Result<u64, StoreFault> {
    match format <= FOUNDERS_ONLY {
        true => Ok(origin_of(membership)),
        false => Ok(u64::from_le_bytes(seal.open_row(table, ORIGIN_ROW)?)),
    }
}

/// The last format in which the members never changed: two counts of a byte each, and the ids.
const FOUNDERS_ONLY: u32 = 3;

fn decode_founders(body: &[u8]) -> Option<Membership> {
    let (&[voters, learners], ids) = body.split_first_chunk::<2>()?;
    let (voters, learners) = (usize::from(voters), usize::from(learners));
    let (ids, rest) = ids.as_chunks::<8>();
    if !rest.is_empty() || ids.len() != voters + learners || ids.len() > MEMBERS_MAX {
        return None;
    }
    let ids: Option<Vec<NodeId>> = ids
        .iter()
        .map(|id| NodeId::new(u64::from_le_bytes(*id)))
        .collect();
    let ids = ids?;
    let (voters, learners) = ids.split_at(voters);
    if !voters.is_sorted_by(|a, b| a < b) || !learners.is_sorted_by(|a, b| a < b) {
        return None;
    }
    Membership::new(voters.iter().copied(), learners.iter().copied()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the members of an older file are, and what they cannot be.
    #[test]
    fn founders_have_one_encoding() {
        let id = |id| NodeId::new(id).unwrap();
        let ids = |ids: &[u64]| {
            ids.iter()
                .flat_map(|id| id.to_le_bytes())
                .collect::<Vec<_>>()
        };
        let body = [&[2, 1][..], &ids(&[1, 5, 3])].concat();
        let membership = Membership::new([id(1), id(5)], [id(3)]).unwrap();
        assert_eq!(decode_founders(&body), Some(membership));
        for length in 0..body.len() {
            assert_eq!(decode_founders(&body[..length]), None, "cut {length}");
        }
        for (counts, members) in [
            ([2, 0], &[5, 1][..]),
            ([2, 0], &[1, 1]),
            ([1, 1], &[1, 1]),
            ([0, 1], &[1]),
            ([1, 0], &[0]),
            ([1, 0], &[1, 2]),
        ] {
            let body = [&counts[..], &ids(members)].concat();
            assert_eq!(decode_founders(&body), None, "{counts:?} {members:?}");
        }
    }
}
