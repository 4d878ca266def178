//! The bytes of a record: what one commit changes in the image, all of it or nothing.
//!
//! The body:
//!
//! | bytes | meaning |
//! |---|---|
//! | 4 | CRC-32C of the salt and of all bytes of the body after this field |
//! | 4 | magic |
//! | 8 | sequence number |
//! | 8 | how many bytes the body has |
//! | 8 | how long the image is afterwards |
//! | 8 | how much of the image before is kept; what lies behind it becomes zeros |
//! | 4 | how many pieces follow |
//! | 16 a piece | where it goes (8), how long it is (4), how many bytes of it are stored (4); the rest is zeros |
//! | rest | what is stored of the pieces, one after the other |
//!
//! On disk the body is cut into parts of 504 bytes, the last one filled with zeros, as are parts up to
//! a whole number of blocks. Each part lies in a sector of 512 bytes, between two marks of 4 bytes: the
//! CRC-32C of salt and sequence number; its complement as the last mark of all.
//!
//! The marks tell a write that a power loss interrupted, which leaves sectors without the mark, from
//! damage to a record that was once whole. Without them, damage to the last record would take back
//! what was acknowledged, silently.

use super::changes::Changes;

/// Records begin at a multiple of this, so that a write that tears can damage no other record: the
/// largest sector there is.
pub(super) const BLOCK_BYTES: u64 = 4096;

const SECTOR_BYTES: usize = 512;
const MARK_BYTES: usize = 4;
const PART_BYTES: usize = SECTOR_BYTES - 2 * MARK_BYTES;
const SECTORS_A_BLOCK: u64 = BLOCK_BYTES / SECTOR_BYTES as u64;

const MAGIC: [u8; 4] = *b"QRec";
const HEAD_BYTES: usize = 4 + 4 + 8 + 8 + 8 + 8 + 4;
const PIECE_BYTES: usize = 8 + 4 + 4;

/// What stands where a record may begin.
#[derive(Debug)]
pub(super) enum Found {
    /// The record that was asked for.
    Record(Record),
    /// It was written there wholly, and is not whole any more.
    Damaged,
    /// Something else, or a part of it.
    Nothing,
}

/// A record, checked and not yet carried out.
#[derive(Debug)]
pub(super) struct Record {
    body: Vec<u8>,
    /// How many bytes it takes up.
    pub(super) span: u64,
}

/// At most how many bytes the record of `changes` takes up.
pub(super) fn span_max(changes: &Changes) -> u64 {
    let (bytes, pieces) = changes.size();
    span(HEAD_BYTES as u64 + pieces as u64 * PIECE_BYTES as u64 + bytes)
}

/// How many bytes a record with so many in its body takes up.
fn span(body_bytes: u64) -> u64 {
    let sectors = body_bytes.div_ceil(PART_BYTES as u64);
    sectors.next_multiple_of(SECTORS_A_BLOCK) * SECTOR_BYTES as u64
}

/// The record of `changes`.
pub(super) fn encode(changes: &Changes, sequence: u64, salt: u128) -> Vec<u8> {
    let body = encode_body(changes, sequence, salt);
    let mark = mark(sequence, salt);
    let mut record = vec![0; usize::try_from(span(body.len() as u64)).expect("it fits in memory")];
    let mut parts = body.chunks(PART_BYTES);
    for sector in record.chunks_exact_mut(SECTOR_BYTES) {
        sector[..MARK_BYTES].copy_from_slice(&mark.to_le_bytes());
        if let Some(part) = parts.next() {
            sector[MARK_BYTES..MARK_BYTES + part.len()].copy_from_slice(part);
        }
        sector[MARK_BYTES + PART_BYTES..].copy_from_slice(&mark.to_le_bytes());
    }
    let last = record.len() - MARK_BYTES;
    record[last..].copy_from_slice(&(!mark).to_le_bytes());
    record
}

fn encode_body(changes: &Changes, sequence: u64, salt: u128) -> Vec<u8> {
    let (bytes, pieces) = changes.size();
    let mut body = Vec::with_capacity(
        HEAD_BYTES + pieces * PIECE_BYTES + usize::try_from(bytes).expect("it is in memory"),
    );
    body.resize(HEAD_BYTES, 0);
    let mut stored_pieces = Vec::with_capacity(pieces);
    for (offset, data) in changes.writes() {
        let stored = without_zeros(data);
        body.extend_from_slice(&offset.to_le_bytes());
        body.extend_from_slice(&small(data.len()).to_le_bytes());
        body.extend_from_slice(&small(stored.len()).to_le_bytes());
        stored_pieces.push(stored);
    }
    for stored in stored_pieces {
        body.extend_from_slice(stored);
    }
    let head = [
        &MAGIC[..],
        &sequence.to_le_bytes(),
        &(body.len() as u64).to_le_bytes(),
        &changes.length().to_le_bytes(),
        &changes.kept().to_le_bytes(),
        &small(pieces).to_le_bytes(),
    ];
    body[4..HEAD_BYTES].copy_from_slice(&head.concat());
    let checksum = checksum(salt, &body[4..]);
    body[..4].copy_from_slice(&checksum.to_le_bytes());
    body
}

/// Looks at the beginning of `bytes` for the record `sequence`.
pub(super) fn find(bytes: &[u8], sequence: u64, salt: u128) -> Found {
    match Record::decode(bytes, salt) {
        Some(record) if record.sequence() == sequence => Found::Record(record),
        _ if was_whole(bytes, mark(sequence, salt)) => Found::Damaged,
        _ => Found::Nothing,
    }
}

/// Whether a record with the number `sequence_min` or a higher one begins `bytes`.
pub(super) fn is_later(bytes: &[u8], sequence_min: u64, salt: u128) -> bool {
    // Most blocks are told apart by their magic alone.
    let magic = bytes
        .get(MARK_BYTES + 4..)
        .is_some_and(|rest| rest.starts_with(&MAGIC));
    magic && Record::decode(bytes, salt).is_some_and(|record| record.sequence() >= sequence_min)
}

/// Whether every sector of a record with this mark was written. One bit of a mark may be another one by
/// now.
fn was_whole(bytes: &[u8], mark: u32) -> bool {
    let is = |found: &[u8], mark: u32| {
        let found = u32::from_le_bytes(*found.first_chunk().expect("a mark"));
        (found ^ mark).count_ones() <= 1
    };
    for sector in bytes.chunks_exact(SECTOR_BYTES) {
        let (first, last) = (&sector[..MARK_BYTES], &sector[MARK_BYTES + PART_BYTES..]);
        if !is(first, mark) {
            return false;
        }
        if is(last, !mark) {
            return true;
        }
        if !is(last, mark) {
            return false;
        }
    }
    false
}

impl Record {
    /// The record that begins `bytes`, if a whole one does.
    fn decode(bytes: &[u8], salt: u128) -> Option<Self> {
        let first = bytes.get(MARK_BYTES..MARK_BYTES + PART_BYTES)?;
        let size = u64::from_le_bytes(*first[16..].first_chunk()?);
        let span = if size <= bytes.len() as u64 {
            usize::try_from(span(size)).ok()?
        } else {
            return None;
        };
        let sectors = bytes.get(..span)?.chunks_exact(SECTOR_BYTES);
        let mut body: Vec<u8> = sectors
            .flat_map(|sector| &sector[MARK_BYTES..MARK_BYTES + PART_BYTES])
            .copied()
            .collect();
        body.truncate(usize::try_from(size).ok()?);
        let head = body.first_chunk::<HEAD_BYTES>()?;
        let expected = u32::from_le_bytes(*head.first_chunk()?);
        (head[4..8] == MAGIC && checksum(salt, &body[4..]) == expected).then_some(Self {
            body,
            span: span as u64,
        })
    }

    fn number(&self, at: usize) -> u64 {
        let field = self.body[at..].first_chunk();
        u64::from_le_bytes(*field.expect("fields lie in the head"))
    }

    fn sequence(&self) -> u64 {
        self.number(8)
    }

    /// Adds what the record changes to `changes`; `None` when it contradicts itself or what came
    /// before, which no record with a right checksum does.
    pub(super) fn replay(&self, changes: &mut Changes) -> Option<()> {
        let (length, kept) = (self.number(24), self.number(32));
        let count = u32::from_le_bytes(*self.body[40..].first_chunk()?) as usize;
        let pieces_end = HEAD_BYTES.checked_add(count.checked_mul(PIECE_BYTES)?)?;
        let (pieces, []) = self
            .body
            .get(HEAD_BYTES..pieces_end)?
            .as_chunks::<PIECE_BYTES>()
        else {
            return None;
        };
        if kept < changes.length() {
            changes.set_length(kept);
        }
        changes.set_length(length);
        let mut data = &self.body[pieces_end..];
        for piece in pieces {
            let offset = u64::from_le_bytes(*piece.first_chunk()?);
            let size = u32::from_le_bytes(*piece[8..].first_chunk()?);
            let stored = u32::from_le_bytes(*piece.last_chunk()?);
            let (stored, rest) = data.split_at_checked(stored as usize)?;
            data = rest;
            if stored.len() > size as usize || offset.checked_add(size.into())? > length {
                return None;
            }
            let mut whole = stored.to_vec();
            whole.resize(size as usize, 0);
            changes.write(offset, whole);
        }
        data.is_empty().then_some(())
    }
}

fn without_zeros(data: &[u8]) -> &[u8] {
    const STEP: usize = 64;
    // In steps, because most of many pages is zeros, and this is on every commit's way.
    let mut rest = data;
    while let Some((before, last)) = rest.split_last_chunk::<STEP>()
        && *last == [0; STEP]
    {
        rest = before;
    }
    let zeros = rest.iter().rev().take_while(|byte| **byte == 0).count();
    &rest[..rest.len() - zeros]
}

fn small(size: usize) -> u32 {
    u32::try_from(size).expect("a commit is smaller than the journal")
}

fn checksum(salt: u128, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), bytes)
}

fn mark(sequence: u64, salt: u128) -> u32 {
    checksum(salt, &sequence.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes() -> Changes {
        let mut changes = Changes::none(9000);
        changes.set_length(5000);
        changes.set_length(20_000);
        changes.write(0, b"head".to_vec());
        changes.write(8192, [&[7; 3000][..], &[0; 1096]].concat());
        changes.write(16_384, vec![0; 512]);
        changes
    }

    fn image(changes: &Changes) -> Vec<u8> {
        let mut image = vec![0; usize::try_from(changes.length()).unwrap()];
        changes.overlay(0, &mut image);
        image
    }

    fn record(bytes: &[u8], sequence: u64, salt: u128) -> Option<Record> {
        match find(bytes, sequence, salt) {
            Found::Record(record) => Some(record),
            Found::Damaged | Found::Nothing => None,
        }
    }

    /// A record comes back as what it was made of, without storing the zeros at the ends of pieces.
    #[test]
    fn a_record_comes_back() {
        let changes = changes();
        let bytes = encode(&changes, 7, 5);
        assert_eq!(bytes.len() as u64, BLOCK_BYTES, "1608 zeros left out");
        assert!(bytes.len() as u64 <= span_max(&changes));
        let found = record(&bytes, 7, 5).unwrap();
        assert_eq!(found.span, BLOCK_BYTES);
        let mut replayed = Changes::none(9000);
        found.replay(&mut replayed).unwrap();
        assert_eq!(image(&replayed), image(&changes));
        assert_eq!(replayed.kept(), 5000);
    }

    /// One turned bit is harmless, where nothing is stored, or found to be damage; another file's record
    /// and one of another number are none.
    #[test]
    fn damage_is_told_from_nothing() {
        let bytes = encode(&changes(), 7, 5);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            match find(&damaged, 7, 5) {
                Found::Damaged => {}
                Found::Record(found) => {
                    let mut replayed = Changes::none(9000);
                    found.replay(&mut replayed).unwrap();
                    assert_eq!(image(&replayed), image(&changes()), "bit {bit}");
                }
                Found::Nothing => panic!("bit {bit} hides the record"),
            }
        }
        assert!(matches!(find(&bytes, 7, 6), Found::Nothing));
        assert!(matches!(find(&bytes, 8, 5), Found::Nothing));
        assert!(matches!(find(&[], 7, 5), Found::Nothing));
        assert!(is_later(&bytes, 7, 5) && !is_later(&bytes, 8, 5));
    }

    /// A write that a power loss interrupts, or tears inside of a sector, is no damage.
    #[test]
    fn an_interrupted_write_is_nothing() {
        let mut large = changes();
        large.write(4096, (0..4096).map(|at| (at % 251) as u8 + 1).collect());
        let (old, new) = (encode(&large, 3, 5), encode(&large, 7, 5));
        assert_eq!(old.len(), new.len());
        for cut in 1..new.len() {
            for (first, last) in [(&new, &old), (&old, &new)] {
                let torn = [&first[..cut], &last[cut..]].concat();
                match find(&torn, 7, 5) {
                    Found::Nothing => {}
                    // Torn where nothing but marks differ.
                    Found::Record(record) => assert_eq!(record.body, encode_body(&large, 7, 5)),
                    Found::Damaged => {
                        let near = cut % SECTOR_BYTES;
                        assert!(!(MARK_BYTES..PART_BYTES).contains(&near), "cut at {cut}");
                    }
                }
            }
        }
    }
}
