//! Where the journal begins: the first blocks of the file, twice the same.
//!
//! | bytes | meaning |
//! |---|---|
//! | 8 | magic |
//! | 4 | format |
//! | 16 | salt: the store id |
//! | 8 | how many bytes each half has |
//! | 8 | generation: rises with every change |
//! | 8 | start: the first record that may not be in the image yet |
//! | 8 | the half that begins with it, 0 or 1 |
//! | 8 | known: the last record that was certainly durable |
//! | 4 | CRC-32C of the image's first 4096 bytes when all records before `start` were in it |
//! | 4 | CRC-32C of all bytes before |

use super::record::BLOCK_BYTES;
use crate::error::Corruption;

const MAGIC: [u8; 8] = *b"QRMLOG\r\n";
const HEADER_BYTES: usize = 8 + 4 + 16 + 8 + 8 + 8 + 8 + 8 + 4 + 4;

/// How many copies there are; one is always whole.
pub(super) const COPIES: u64 = 2;

/// What a copy says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) format: u32,
    pub(super) salt: u128,
    pub(super) half_bytes: u64,
    pub(super) generation: u64,
    pub(super) start: u64,
    pub(super) half: u64,
    pub(super) known: u64,
    /// redb's own header decides which commit is read. Records bring it along; where there is none to
    /// be carried out, this notices that an older one is there.
    pub(super) image_head: u32,
}

impl Header {
    /// Where half 0 or 1 begins in the file.
    pub(super) fn offset_of_half(&self, half: u64) -> u64 {
        COPIES * BLOCK_BYTES + half * self.half_bytes
    }

    /// Where the image begins in the file.
    pub(super) fn offset_of_image(&self) -> u64 {
        self.offset_of_half(2)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut block = [
            &MAGIC[..],
            &self.format.to_le_bytes(),
            &self.salt.to_le_bytes(),
            &self.half_bytes.to_le_bytes(),
            &self.generation.to_le_bytes(),
            &self.start.to_le_bytes(),
            &self.half.to_le_bytes(),
            &self.known.to_le_bytes(),
            &self.image_head.to_le_bytes(),
        ]
        .concat();
        block.extend_from_slice(&crc32c::crc32c(&block).to_le_bytes());
        block.resize(BLOCK_BYTES as usize, 0);
        block
    }

    /// The newest whole one of `copies`.
    pub(super) fn newest(copies: &[Vec<u8>]) -> Result<Self, Corruption> {
        if copies.iter().all(|copy| !copy.starts_with(&MAGIC)) {
            return Err(Corruption::NotALog);
        }
        copies
            .iter()
            .filter_map(|copy| Self::decode(copy))
            .max_by_key(|header| header.generation)
            .ok_or(Corruption::JournalHeader)
    }

    fn decode(block: &[u8]) -> Option<Self> {
        let bytes = block.first_chunk::<HEADER_BYTES>()?;
        let (body, checksum) = bytes.split_last_chunk()?;
        if !body.starts_with(&MAGIC) || crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let number = |at: usize| {
            let field = body[at..].first_chunk().expect("fields lie in the header");
            u64::from_le_bytes(*field)
        };
        let header = Self {
            format: u32::from_le_bytes(*body[8..].first_chunk()?),
            salt: u128::from_le_bytes(*body[12..].first_chunk()?),
            half_bytes: number(28),
            generation: number(36),
            start: number(44),
            half: number(52),
            known: number(60),
            image_head: u32::from_le_bytes(*body[68..].first_chunk()?),
        };
        (header.half < 2).then_some(header)
    }
}
