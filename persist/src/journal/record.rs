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
//! one less than a whole number of blocks. Each part lies in a sector of 512 bytes, between two marks of
//! 4 bytes: the CRC-32C of salt and sequence number. The last sector holds the parity of all parts (their
//! exclusive or), and its last mark is the complement.
//!
//! The marks tell a write that a power loss interrupted, which leaves sectors without the mark, from
//! damage to a record that was once whole; without them, damage to the last record would take back
//! what was acknowledged, silently. One sector without its mark is made good from the parity: it may
//! have been lost or overwritten since, and if it was never written, a record that nobody was told of
//! may as well be there.

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
    let sectors = body_bytes.div_ceil(PART_BYTES as u64) + 1;
    sectors.next_multiple_of(SECTORS_A_BLOCK) * SECTOR_BYTES as u64
}

/// The record of `changes`.
pub(super) fn encode(changes: &Changes, sequence: u64, salt: u128) -> Vec<u8> {
    let body = encode_body(changes, sequence, salt);
    let mark = mark(sequence, salt);
    let mut record = vec![0; usize::try_from(span(body.len() as u64)).expect("it fits in memory")];
    let mut parity = [0; PART_BYTES];
    for (sector, part) in record
        .chunks_exact_mut(SECTOR_BYTES)
        .zip(body.chunks(PART_BYTES))
    {
        sector[MARK_BYTES..MARK_BYTES + part.len()].copy_from_slice(part);
        add(&mut parity, part);
    }
    for sector in record.chunks_exact_mut(SECTOR_BYTES) {
        sector[..MARK_BYTES].copy_from_slice(&mark.to_le_bytes());
        sector[MARK_BYTES + PART_BYTES..].copy_from_slice(&mark.to_le_bytes());
    }
    let last = record.len() - SECTOR_BYTES;
    record[last + MARK_BYTES..][..PART_BYTES].copy_from_slice(&parity);
    record[last + MARK_BYTES + PART_BYTES..].copy_from_slice(&(!mark).to_le_bytes());
    record
}

/// Adds `part` to the parity of others, or takes it out.
fn add(parity: &mut [u8], part: &[u8]) {
    for (sum, byte) in parity.iter_mut().zip(part) {
        *sum ^= byte;
    }
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
    let mark = mark(sequence, salt);
    // The length may be damaged, and so may the last mark; one of them tells.
    let mut damaged = false;
    for sectors in [sectors_by_length(bytes), sectors_by_mark(bytes, mark)] {
        match sectors.map(|count| look(bytes, count, sequence, salt)) {
            Some(Found::Record(record)) => return Found::Record(record),
            Some(Found::Damaged) => damaged = true,
            Some(Found::Nothing) | None => {}
        }
    }
    match damaged {
        true => Found::Damaged,
        false => Found::Nothing,
    }
}

/// Whether a record begins `bytes` whose number is `first` or one of the next, of which there may be `count`.
///
/// What users have written may lie there as well, and may be made to look like a record: of marks that are checksums of
/// numbers, some are equal. Those of numbers as near to each other as records of one journal are not.
pub(super) fn is_later(bytes: &[u8], first: u64, count: u64, salt: u128) -> bool {
    let Some(body) = bytes.get(MARK_BYTES..MARK_BYTES + HEAD_BYTES) else {
        return false;
    };
    let sequence = u64::from_le_bytes(*body[8..].first_chunk().expect("it lies in the head"));
    // Most blocks are told apart by their magic alone.
    body[4..8] == MAGIC
        && (first..=first.saturating_add(count)).contains(&sequence)
        && matches!(find(bytes, sequence, salt), Found::Record(_))
}

/// How many sectors the record that begins `bytes` has by its own word.
fn sectors_by_length(bytes: &[u8]) -> Option<usize> {
    let field = bytes.get(MARK_BYTES + 16..)?.first_chunk()?;
    let body_bytes = u64::from_le_bytes(*field);
    if body_bytes > bytes.len() as u64 {
        return None;
    }
    let span = usize::try_from(span(body_bytes)).ok()?;
    (span <= bytes.len()).then_some(span / SECTOR_BYTES)
}

/// How many sectors there are up to the one with the last mark, at most one of them without its mark.
fn sectors_by_mark(bytes: &[u8], mark: u32) -> Option<usize> {
    let mut missing = 0;
    for (sector, count) in bytes.chunks_exact(SECTOR_BYTES).zip(1..) {
        match marked(sector, mark) {
            Marked::Last => return Some(count),
            Marked::Yes => {}
            Marked::No if missing == 0 => missing += 1,
            Marked::No => return None,
        }
    }
    None
}

enum Marked {
    Yes,
    /// As the last one of the record.
    Last,
    No,
}

fn marked(sector: &[u8], mark: u32) -> Marked {
    // One bit of a mark may be another one by now.
    let is = |found: &[u8], mark: u32| {
        let found = u32::from_le_bytes(*found.first_chunk().expect("a mark"));
        (found ^ mark).count_ones() <= 1
    };
    let last = &sector[MARK_BYTES + PART_BYTES..];
    if !is(sector, mark) {
        Marked::No
    } else if is(last, mark) {
        Marked::Yes
    } else if is(last, !mark) {
        Marked::Last
    } else {
        Marked::No
    }
}

/// Looks for the record `sequence` in the first `count` sectors.
fn look(bytes: &[u8], count: usize, sequence: u64, salt: u128) -> Found {
    let mark = mark(sequence, salt);
    let sectors: Vec<&[u8]> = bytes.chunks_exact(SECTOR_BYTES).take(count).collect();
    let is_right = |at: usize| match marked(sectors[at], mark) {
        Marked::Yes => at + 1 < count,
        Marked::Last => at + 1 == count,
        Marked::No => false,
    };
    let missing: Vec<usize> = (0..count).filter(|at| !is_right(*at)).collect();
    if missing.len() > 1 {
        return Found::Nothing;
    }
    let part = |at: usize| &sectors[at][MARK_BYTES..MARK_BYTES + PART_BYTES];
    let mut body: Vec<u8> = (0..count - 1).flat_map(part).copied().collect();
    if let Some(&at) = missing.first()
        && at < count - 1
    {
        let mut made_good = part(count - 1).to_vec();
        (0..count - 1)
            .filter(|other| *other != at)
            .for_each(|other| add(&mut made_good, part(other)));
        body[at * PART_BYTES..][..PART_BYTES].copy_from_slice(&made_good);
    }
    match Record::new(body, sequence, salt, (count * SECTOR_BYTES) as u64) {
        Some(record) => Found::Record(record),
        None => Found::Damaged,
    }
}

impl Record {
    /// The record with this body, filled up with zeros, if it is whole.
    fn new(mut body: Vec<u8>, sequence: u64, salt: u128, span: u64) -> Option<Self> {
        let head = body.first_chunk::<HEAD_BYTES>()?;
        let size = u64::from_le_bytes(*head[16..].first_chunk()?);
        let right = head[4..8] == MAGIC && head[8..16] == sequence.to_le_bytes();
        let expected = u32::from_le_bytes(*head.first_chunk()?);
        let size = usize::try_from(size)
            .ok()
            .filter(|size| *size <= body.len())?;
        body.truncate(size);
        let whole = checksum(salt, body.get(4..)?) == expected;
        (right && whole).then_some(Self { body, span })
    }

    fn number(&self, at: usize) -> u64 {
        let field = self.body[at..].first_chunk();
        u64::from_le_bytes(*field.expect("fields lie in the head"))
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
        assert!(is_later(&bytes, 7, 0, 5) && !is_later(&bytes, 8, 9, 5));
        // What is further away is none of this journal's.
        assert!(is_later(&bytes, 3, 4, 5) && !is_later(&bytes, 3, 3, 5));
    }

    /// Inside of a record, no other one begins that could lie in the same journal: their marks differ, also in a bit
    /// that has turned.
    #[test]
    fn marks_of_near_numbers_differ() {
        let near = 2 * crate::store::JOURNAL_BYTES_DEFAULT / BLOCK_BYTES;
        let carries = (0..64).map(|bits| (1_u64 << bits).wrapping_sub(near / 2));
        for first in carries.chain([0, 1, 4095, 1_000_000, 123_456_789_012]) {
            let mark_of = |number| mark(number, 5);
            for distance in 1..=near {
                let differ = mark_of(first) ^ mark_of(first.wrapping_add(distance));
                assert!(differ.count_ones() > 1, "{first} and {distance} more");
            }
        }
    }

    /// A sector that was lost, or overwritten with another, is made good; two are as if never written.
    #[test]
    fn a_lost_sector_is_made_good() {
        let mut large = changes();
        large.write(4096, (0..4096).map(|at| (at % 251) as u8 + 1).collect());
        let (old, new) = (encode(&large, 3, 5), encode(&large, 7, 5));
        let sectors = new.len() / SECTOR_BYTES;
        let replace = |record: &mut Vec<u8>, at: usize, from: usize| {
            let sector = &old[from * SECTOR_BYTES..][..SECTOR_BYTES];
            record[at * SECTOR_BYTES..][..SECTOR_BYTES].copy_from_slice(sector);
        };
        for at in 0..sectors {
            for from in [at, (at + 3) % sectors] {
                let mut damaged = new.clone();
                replace(&mut damaged, at, from);
                let found = record(&damaged, 7, 5).unwrap();
                assert_eq!(found.body, encode_body(&large, 7, 5), "sector {at}");
                assert_eq!(found.span, new.len() as u64);
                let other = (at + 1) % sectors;
                replace(&mut damaged, other, other);
                assert!(
                    matches!(find(&damaged, 7, 5), Found::Nothing),
                    "sector {at}"
                );
            }
        }
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
