//! The bytes of every row. `docs/disk.md` says the same in words, for a second implementation.

use std::borrow::Cow;

use bytes::Bytes;
use quorate_consensus::{
    ENTRY_OVERHEAD_BYTES, Entry, EntryId, HardState, LogIndex, MEMBERS_MAX, Membership, NodeId,
    ORIGIN, Payload, Term,
};
use redb::{ReadableTable, TableDefinition};

use crate::error::{Corruption, StoreFault};
use crate::identity::StoreIdentity;
use crate::planted;

/// The table of single rows, keyed by name. Every file of a node has it.
pub const META_TABLE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

/// The entries, keyed by index.
pub(crate) const LOG_TABLE: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");

pub(crate) const BASE: &str = "base";
pub(crate) const BOOT: &str = "boot";
pub(crate) const ORIGIN_ROW: &str = "origin";
pub(crate) const HARD_STATE: &str = "hard_state";
pub(crate) const MEMBERSHIP: &str = "membership";

/// Checksum, term, kind.
const ENTRY_HEADER_BYTES: usize = 4 + 8 + 1;
const KIND_EMPTY: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_COMPARE: u8 = 2;
const KIND_DIGEST: u8 = 3;
const KIND_MEMBERSHIP: u8 = 4;

/// The only Raft group there is. In every entry's checksum, so that a file with more groups cannot
/// be mixed up with one that has this group alone.
const GROUP: u32 = 0;

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

    fn entry_checksum(&self, index: LogIndex, rest: &[&[u8]; 3]) -> u32 {
        let [term, kind, payload] = rest;
        self.checksum(&[
            b"e",
            &GROUP.to_le_bytes(),
            &index.value().to_le_bytes(),
            term,
            kind,
            payload,
        ])
    }
}

/// How many bytes the row of `entry` has.
pub(crate) fn entry_row_bytes(entry: &Entry) -> usize {
    ENTRY_HEADER_BYTES
        + usize::try_from(entry.bytes() - ENTRY_OVERHEAD_BYTES).expect("it is in memory")
}

/// Writes the row of `entry` into `row`, which has exactly [`entry_row_bytes`].
pub(crate) fn encode_entry(seal: &Seal, entry: &Entry, row: &mut [u8]) {
    let term = entry.id.term.value().to_le_bytes();
    let (kind, payload) = kind_and_payload(entry);
    let payload = &payload[..];
    let checksum = seal.entry_checksum(entry.id.index, &[&term, &[kind], payload]);
    row[..4].copy_from_slice(&checksum.to_le_bytes());
    row[4..12].copy_from_slice(&term);
    row[12] = kind;
    row[ENTRY_HEADER_BYTES..].copy_from_slice(payload);
}

fn kind_and_payload(entry: &Entry) -> (u8, Cow<'_, [u8]>) {
    match &entry.payload {
        Payload::Empty => (KIND_EMPTY, Cow::default()),
        Payload::Command(command) => (KIND_COMMAND, Cow::Borrowed(command)),
        Payload::Compare => (KIND_COMPARE, Cow::default()),
        Payload::Digest { at, digest } => {
            let mut payload = encode_entry_id(*at);
            payload.extend_from_slice(&digest.to_le_bytes());
            (KIND_DIGEST, Cow::Owned(payload))
        }
        Payload::Membership(membership) => (KIND_MEMBERSHIP, Cow::Owned(membership.encode())),
    }
}

fn decode_payload(kind: u8, payload: &[u8]) -> Option<Payload> {
    match (kind, payload.is_empty()) {
        (KIND_EMPTY, true) => Some(Payload::Empty),
        (KIND_COMMAND, false) => Some(Payload::Command(Bytes::copy_from_slice(payload))),
        (KIND_COMPARE, true) => Some(Payload::Compare),
        (KIND_DIGEST, _) => {
            let (at, digest) = payload.split_first_chunk::<16>()?;
            let digest = u64::from_le_bytes(digest.try_into().ok()?);
            let at = decode_entry_id(*at);
            Some(Payload::Digest { at, digest })
        }
        (KIND_MEMBERSHIP, _) => {
            let membership = Membership::decode(payload)?;
            Some(Payload::Membership(Box::new(membership)))
        }
        _ => None,
    }
}

/// An entry's row, checked but not yet copied.
pub(crate) struct EntryRow<'a> {
    pub(crate) id: EntryId,
    kind: u8,
    payload: &'a [u8],
}

impl<'a> EntryRow<'a> {
    /// Checks the row found under `index`.
    pub(crate) fn decode(seal: &Seal, index: LogIndex, row: &'a [u8]) -> Result<Self, Corruption> {
        let content = Corruption::EntryContent { index };
        let Some((header, payload)) = row.split_first_chunk::<ENTRY_HEADER_BYTES>() else {
            return Err(content);
        };
        let [checksum @ .., _, _, _, _, _, _, _, _, _] = *header;
        let [_, _, _, _, term @ .., kind] = *header;
        if seal.entry_checksum(index, &[&term, &[kind], payload]) != u32::from_le_bytes(checksum)
            && !planted::is("row-checksum-skipped")
        {
            return Err(Corruption::EntryChecksum { index });
        }
        let valid = match kind {
            // Not copied before somebody wants it.
            KIND_COMMAND => !payload.is_empty(),
            _ => decode_payload(kind, payload).is_some(),
        };
        if !valid {
            return Err(content);
        }
        Ok(Self {
            id: EntryId::new(Term::new(u64::from_le_bytes(term)), index),
            kind,
            payload,
        })
    }

    /// What the entry counts for in byte bounds; see [`Entry::bytes`].
    pub(crate) fn bytes(&self) -> u64 {
        ENTRY_OVERHEAD_BYTES + self.payload.len() as u64
    }

    /// The members that it names, if it is about them.
    pub(crate) fn membership(&self) -> Option<Membership> {
        let members = Some(self.payload).filter(|_| self.kind == KIND_MEMBERSHIP);
        members.and_then(Membership::decode)
    }

    /// The entry, with a copy of its payload.
    pub(crate) fn to_entry(&self) -> Entry {
        let payload = decode_payload(self.kind, self.payload);
        Entry {
            id: self.id,
            payload: payload.expect("checked when the row was decoded"),
        }
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

    fn seal() -> Seal {
        let node = NodeId::new(1).unwrap();
        Seal::new(
            &StoreIdentity {
                cluster: "c".into(),
                node,
            },
            7,
        )
    }

    fn members() -> Membership {
        Membership::new([NodeId::new(1).unwrap()], []).unwrap()
    }

    fn row(entry: &Entry) -> Vec<u8> {
        let mut row = vec![0; entry_row_bytes(entry)];
        encode_entry(&seal(), entry, &mut row);
        row
    }

    /// An entry comes back from its row, and from no other place, owner or file.
    #[test]
    fn a_row_is_valid_only_where_it_was_written() {
        let id = EntryId::new(Term::new(3), LogIndex::new(9));
        for entry in [
            Entry::empty(id),
            Entry::command(id, Bytes::from_static(b"put")),
            Entry {
                id,
                payload: Payload::Compare,
            },
            Entry {
                id,
                payload: Payload::Digest {
                    at: id,
                    digest: u64::MAX,
                },
            },
            Entry {
                id,
                payload: Payload::Membership(Box::new(members())),
            },
        ] {
            let row = row(&entry);
            let decoded = EntryRow::decode(&seal(), id.index, &row).unwrap();
            assert_eq!(decoded.to_entry(), entry);
            assert!(EntryRow::decode(&seal(), id.index.next(), &row).is_err());
            let node = NodeId::new(1).unwrap();
            for (cluster, node, store) in [
                ("d", node, 7),
                ("c", NodeId::new(2).unwrap(), 7),
                ("c", node, 8),
            ] {
                let other = Seal::new(
                    &StoreIdentity {
                        cluster: cluster.into(),
                        node,
                    },
                    store,
                );
                assert!(EntryRow::decode(&other, id.index, &row).is_err());
            }
        }
    }

    /// Every flipped bit and every cut of a row is found.
    #[test]
    fn a_damaged_row_is_refused() {
        let id = EntryId::new(Term::new(3), LogIndex::new(9));
        let row = row(&Entry::command(id, Bytes::from_static(b"some command")));
        for bit in 0..row.len() * 8 {
            let mut damaged = row.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                EntryRow::decode(&seal(), id.index, &damaged).is_err(),
                "bit {bit}"
            );
        }
        for length in 0..row.len() {
            assert!(
                EntryRow::decode(&seal(), id.index, &row[..length]).is_err(),
                "cut {length}"
            );
        }
    }

    /// A kind from the future, an empty command and an empty entry with a payload are refused even
    /// under a right checksum.
    #[test]
    fn an_impossible_row_is_refused() {
        let index = LogIndex::new(2);
        let term = 1u64.to_le_bytes();
        for (kind, payload, good) in [
            (0u8, &b""[..], true),
            (1, b"x", true),
            (0, b"x", false),
            (1, b"", false),
            (2, b"", true),
            (2, b"x", false),
            (3, &[1; 24], true),
            (3, &[1; 23], false),
            (3, &[1; 25], false),
            (4, b"x", false),
            (4, &members().encode(), true),
            (5, b"x", false),
            (255, b"", false),
        ] {
            let checksum = seal().entry_checksum(index, &[&term, &[kind], payload]);
            let row = [&checksum.to_le_bytes(), &term[..], &[kind], payload].concat();
            assert_eq!(
                EntryRow::decode(&seal(), index, &row).is_ok(),
                good,
                "{kind}"
            );
        }
    }

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
