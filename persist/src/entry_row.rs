//! The bytes of a row of entries: one entry, or several in a row. `docs/disk.md` says the same in words.
//!
//! A row costs redb a search, and pages that are filled in order stay half empty: so entries that are written
//! together share rows of one to four pages. docs/disk.md says what that was measured to save.

use std::borrow::Cow;

use bytes::Bytes;
use quorate_consensus::{
    ENTRY_OVERHEAD_BYTES, Entry, EntryId, LogIndex, Membership, Payload, Term,
};

use crate::error::Corruption;
use crate::planted;
use crate::schema::{Seal, decode_entry_id, encode_entry_id};

/// Checksum, term, kind.
const HEADER_BYTES: usize = 4 + 8 + 1;
const KIND_EMPTY: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_COMPARE: u8 = 2;
const KIND_DIGEST: u8 = 3;
const KIND_MEMBERSHIP: u8 = 4;
/// Not an entry, but several of one term.
const KIND_SEVERAL: u8 = 5;

/// Kind and length, before the payload of each of several entries.
const PART_HEADER_BYTES: usize = 1 + 4;

/// The rows that entries share, the longest first: with one of these, its key and what redb adds, one, two or four
/// pages of 4 KiB are full. One byte more would take twice as many.
///
/// A longer one is one search less and one page less to keep account of; but where the log is cut inside of
/// one, what stays of it is written again.
const SHARED_ROW_BYTES: [usize; 3] = [4 * 4096 - 16, 2 * 4096 - 16, 4096 - 16];

/// The longest of them.
pub(crate) const SHARED_ROW_BYTES_MAX: usize = SHARED_ROW_BYTES[0];

/// The only Raft group there is. In every row's checksum, so that a file with more groups cannot
/// be mixed up with one that has this group alone.
const GROUP: u32 = 0;

/// Of what follows the checksum in the row under `index`.
fn checksum(seal: &Seal, index: LogIndex, rest: &[u8]) -> u32 {
    let (group, index) = (GROUP.to_le_bytes(), index.value().to_le_bytes());
    seal.checksum(&[b"e", &group, &index, rest])
}

fn payload_bytes(entry: &Entry) -> usize {
    usize::try_from(entry.bytes() - ENTRY_OVERHEAD_BYTES).expect("it is in memory")
}

/// How many of `entries`, from the first on, go into one row: of one term, and as many as fill the longest of
/// [`SHARED_ROW_BYTES`] that they can fill, but at least one.
pub(crate) fn share(entries: &[&Entry]) -> usize {
    let Some(first) = entries.first() else {
        return 0;
    };
    let mut bytes = HEADER_BYTES;
    let mut counts = SHARED_ROW_BYTES.map(|_| 0);
    for entry in entries
        .iter()
        .take_while(|entry| entry.id.term == first.id.term)
    {
        bytes += PART_HEADER_BYTES + payload_bytes(entry);
        for (count, bytes_max) in counts.iter_mut().zip(SHARED_ROW_BYTES) {
            *count += usize::from(bytes <= bytes_max);
        }
        if bytes > SHARED_ROW_BYTES_MAX {
            break;
        }
    }
    let filled = SHARED_ROW_BYTES
        .iter()
        .position(|bytes_max| bytes > *bytes_max);
    let shortest = counts.len() - 1;
    counts[filled.unwrap_or(shortest)].max(1)
}

/// How many bytes the row of `entries` has.
pub(crate) fn row_bytes(entries: &[&Entry]) -> usize {
    let payloads: usize = entries.iter().map(|entry| payload_bytes(entry)).sum();
    match entries.len() {
        1 => HEADER_BYTES + payloads,
        several => HEADER_BYTES + several * PART_HEADER_BYTES + payloads,
    }
}

/// Writes the row of `entries`, which [`share`] one, into `row`, which has exactly [`row_bytes`].
pub(crate) fn encode(seal: &Seal, entries: &[&Entry], row: &mut [u8]) {
    let first = entries[0];
    row[4..12].copy_from_slice(&first.id.term.value().to_le_bytes());
    if let [alone] = entries {
        let (kind, payload) = kind_and_payload(alone);
        row[12] = kind;
        row[HEADER_BYTES..].copy_from_slice(&payload);
    } else {
        row[12] = KIND_SEVERAL;
        let mut rest = &mut row[HEADER_BYTES..];
        for entry in entries {
            let (kind, payload) = kind_and_payload(entry);
            let length = u32::try_from(payload.len()).expect("shared rows are short");
            let (part, behind) = rest.split_at_mut(PART_HEADER_BYTES + payload.len());
            part[0] = kind;
            part[1..PART_HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
            part[PART_HEADER_BYTES..].copy_from_slice(&payload);
            rest = behind;
        }
    }
    let checksum = checksum(seal, first.id.index, &row[4..]);
    row[..4].copy_from_slice(&checksum.to_le_bytes());
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

/// A row, checked but not yet copied.
pub(crate) struct Row<'a> {
    first: EntryId,
    last: LogIndex,
    parts: Parts<'a>,
}

impl<'a> Row<'a> {
    /// Checks the row found under `index`.
    pub(crate) fn decode(seal: &Seal, index: LogIndex, row: &'a [u8]) -> Result<Self, Corruption> {
        let content = Corruption::EntryContent { index };
        let Some((header, body)) = row.split_first_chunk::<HEADER_BYTES>() else {
            return Err(content);
        };
        let [expected @ .., _, _, _, _, _, _, _, _, _] = *header;
        let [_, _, _, _, term @ .., kind] = *header;
        if checksum(seal, index, &row[4..]) != u32::from_le_bytes(expected)
            && !planted::is("row-checksum-skipped")
        {
            return Err(Corruption::EntryChecksum { index });
        }
        let parts = Parts::new(kind, body);
        let Some(last) = last_of(index, parts) else {
            return Err(content);
        };
        Ok(Self {
            first: EntryId::new(Term::new(u64::from_le_bytes(term)), index),
            last,
            parts,
        })
    }

    /// Its first entry.
    pub(crate) fn first(&self) -> EntryId {
        self.first
    }

    /// The index of its last entry.
    pub(crate) fn last(&self) -> LogIndex {
        self.last
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = RowEntry<'a>> + use<'a> {
        let term = self.first.term;
        let indexes = self.first.index.value()..=self.last.value();
        self.parts.zip(indexes).map(move |(part, index)| {
            let (kind, payload) = part.expect("checked when the row was decoded");
            RowEntry {
                id: EntryId::new(term, LogIndex::new(index)),
                kind,
                payload,
            }
        })
    }
}

/// The index of the last of `parts`, of which the first stands at `index`; `None` if they are impossible.
fn last_of(index: LogIndex, parts: Parts<'_>) -> Option<LogIndex> {
    let several = parts.alone.is_none();
    let mut count = 0;
    for part in parts {
        let (kind, payload) = part?;
        match kind {
            // Not copied before somebody wants it.
            KIND_COMMAND => (!payload.is_empty()).then_some(())?,
            _ => decode_payload(kind, payload).map(drop)?,
        }
        count += 1;
    }
    if count < 1 + u64::from(several) {
        return None;
    }
    index.value().checked_add(count - 1).map(LogIndex::new)
}

/// Kinds and payloads of the entries in a row; `None` for what is none.
#[derive(Clone, Copy)]
struct Parts<'a> {
    /// The kind of the only one.
    alone: Option<u8>,
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    fn new(kind: u8, body: &'a [u8]) -> Self {
        Self {
            alone: Some(kind).filter(|&kind| kind != KIND_SEVERAL),
            rest: body,
        }
    }

    fn split(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[kind, ref length @ ..], rest) =
            self.rest.split_first_chunk::<PART_HEADER_BYTES>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (payload, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some((kind, payload))
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Option<(u8, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(kind) = self.alone.take() {
            return Some(Some((kind, std::mem::take(&mut self.rest))));
        }
        if self.rest.is_empty() {
            return None;
        }
        let part = self.split();
        if part.is_none() {
            self.rest = &[];
        }
        Some(part)
    }
}

/// An entry in a row, checked but not yet copied.
pub(crate) struct RowEntry<'a> {
    pub(crate) id: EntryId,
    kind: u8,
    payload: &'a [u8],
}

impl RowEntry<'_> {
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

#[cfg(test)]
mod tests {
    use quorate_consensus::NodeId;

    use super::*;
    use crate::identity::StoreIdentity;

    fn seal_of(cluster: &str, node: u64, store: u128) -> Seal {
        let (cluster, node) = (cluster.into(), NodeId::new(node).unwrap());
        Seal::new(&StoreIdentity { cluster, node }, store)
    }

    fn seal() -> Seal {
        seal_of("c", 1, 7)
    }

    fn members() -> Membership {
        Membership::new([NodeId::new(1).unwrap()], []).unwrap()
    }

    fn id(index: u64) -> EntryId {
        EntryId::new(Term::new(3), LogIndex::new(index))
    }

    /// One entry of every kind, from index 9 on.
    fn every_kind() -> Vec<Entry> {
        let payloads = [
            Payload::Empty,
            Payload::Command(Bytes::from_static(b"put")),
            Payload::Compare,
            Payload::Digest {
                at: id(9),
                digest: u64::MAX,
            },
            Payload::Membership(Box::new(members())),
        ];
        let entries = (9..).zip(payloads);
        entries
            .map(|(at, payload)| Entry {
                id: id(at),
                payload,
            })
            .collect()
    }

    fn row(entries: &[Entry]) -> Vec<u8> {
        let entries: Vec<&Entry> = entries.iter().collect();
        let mut row = vec![0; row_bytes(&entries)];
        encode(&seal(), &entries, &mut row);
        row
    }

    fn decoded(seal: &Seal, index: u64, row: &[u8]) -> Result<Vec<Entry>, Corruption> {
        let row = Row::decode(seal, LogIndex::new(index), row)?;
        let entries: Vec<Entry> = row.entries().map(|entry| entry.to_entry()).collect();
        assert_eq!(row.first(), entries[0].id);
        assert_eq!(row.last(), entries[entries.len() - 1].id.index);
        Ok(entries)
    }

    /// Entries come back from their row, and from no other place, owner or file.
    #[test]
    fn a_row_is_valid_only_where_it_was_written() {
        let all = every_kind();
        let alone = all.iter().map(std::slice::from_ref);
        for entries in alone.chain([&all[..]]) {
            let row = row(entries);
            let at = entries[0].id.index.value();
            assert_eq!(decoded(&seal(), at, &row).unwrap(), entries);
            assert!(decoded(&seal(), at + 1, &row).is_err());
            for (cluster, node, store) in [("d", 1, 7), ("c", 2, 7), ("c", 1, 8)] {
                assert!(decoded(&seal_of(cluster, node, store), at, &row).is_err());
            }
        }
    }

    /// Every flipped bit and every cut of a row is found.
    #[test]
    fn a_damaged_row_is_refused() {
        let all = every_kind();
        for entries in [&all[1..2], &all[..]] {
            let row = row(entries);
            let at = entries[0].id.index.value();
            for bit in 0..row.len() * 8 {
                let mut damaged = row.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(decoded(&seal(), at, &damaged).is_err(), "bit {bit}");
            }
            for length in 0..row.len() {
                assert!(
                    decoded(&seal(), at, &row[..length]).is_err(),
                    "cut {length}"
                );
            }
        }
    }

    /// Under a right checksum, `kind` and `body` at `index`.
    fn sealed(index: u64, kind: u8, body: &[u8]) -> Vec<u8> {
        let rest = [&1u64.to_le_bytes()[..], &[kind], body].concat();
        let checksum = checksum(&seal(), LogIndex::new(index), &rest);
        [&checksum.to_le_bytes()[..], &rest].concat()
    }

    /// A kind from the future, an empty command and an empty entry with a payload are refused even
    /// under a right checksum, alone and among others.
    #[test]
    fn an_impossible_row_is_refused() {
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
            (5, b"", false),
            (6, b"x", false),
            (255, b"", false),
        ] {
            let alone = decoded(&seal(), 2, &sealed(2, kind, payload));
            assert_eq!(alone.is_ok(), good, "{kind}");
            let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
            let part = [&[kind], &length[..], payload].concat();
            let among = [&part[..], &[0; 5]].concat();
            assert_eq!(
                decoded(&seal(), 2, &sealed(2, 5, &among)).is_ok(),
                good,
                "{kind} and an empty one"
            );
        }
    }

    /// A row of several has at least two, nothing behind the last, and none beyond the last index.
    #[test]
    fn a_row_of_several_is_whole() {
        let empty = |count: usize| [0; PART_HEADER_BYTES].repeat(count);
        let is_read = |at: u64, body: &[u8]| decoded(&seal(), at, &sealed(at, 5, body)).is_ok();
        assert!(is_read(2, &empty(2)) && is_read(u64::MAX - 1, &empty(2)));
        assert!(!is_read(2, &empty(0)) && !is_read(2, &empty(1)));
        assert!(!is_read(u64::MAX, &empty(2)), "beyond the last index");
        for behind in 1..PART_HEADER_BYTES {
            assert!(!is_read(2, &[empty(2), vec![0; behind]].concat()));
        }
        let mut too_long = empty(2);
        too_long[PART_HEADER_BYTES + 1] = 1;
        assert!(!is_read(2, &too_long));
    }

    fn command(term: u64, index: u64, bytes: usize) -> Entry {
        let id = EntryId::new(Term::new(term), LogIndex::new(index));
        Entry::command(id, vec![7; bytes].into())
    }

    fn shared(entries: &[Entry]) -> usize {
        share(&entries.iter().collect::<Vec<_>>())
    }

    /// Entries share a row as long as it fits the longest and the term stays.
    #[test]
    fn entries_share_a_row_up_to_the_longest() {
        assert_eq!(shared(&[]), 0);
        assert_eq!(shared(&[command(1, 2, 1), command(1, 3, 1)]), 2);
        assert_eq!(shared(&[command(1, 2, 1), command(2, 3, 1)]), 1);
        assert_eq!(shared(&[command(1, 2, 100_000), command(1, 3, 1)]), 1);
        let half = (SHARED_ROW_BYTES_MAX - HEADER_BYTES) / 2 - PART_HEADER_BYTES;
        let rest = SHARED_ROW_BYTES_MAX - HEADER_BYTES - 2 * PART_HEADER_BYTES - half;
        let full = [command(1, 2, half), command(1, 3, rest), command(1, 4, 1)];
        assert_eq!(shared(&full), 2);
        assert_eq!(row(&full[..2]).len(), SHARED_ROW_BYTES_MAX);
        assert_eq!(shared(&[command(1, 2, half), command(1, 3, rest + 1)]), 1);
    }

    /// Rows are nearly full: all but the last of them, and those before an entry that is long itself.
    #[test]
    fn rows_fill_their_pages() {
        for total in 1..=130 {
            let entries: Vec<Entry> = (0..total).map(|at| command(1, 2 + at, 280)).collect();
            let (mut rest, mut rows) = (&entries[..], Vec::new());
            while !rest.is_empty() {
                let (row_entries, behind) = rest.split_at(shared(rest));
                rows.push(row(row_entries).len());
                rest = behind;
            }
            let last = rows.pop().unwrap();
            assert!(last <= SHARED_ROW_BYTES[2], "{total}: {last}");
            for bytes in rows {
                let fills = SHARED_ROW_BYTES.map(|max| bytes <= max && bytes + 285 > max);
                assert!(fills.contains(&true), "{total}: {bytes}");
            }
        }
    }
}
