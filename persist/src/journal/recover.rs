//! Carries out again what the journal holds, or finds that it is not what was written.

use std::io;
use std::path::Path;

use super::changes::Changes;
use super::header::{COPIES, Header};
use super::record::{BLOCK_BYTES, Found, find, is_later};
use super::{FORMAT, Journal, empty, fault, image_head, lock};
use crate::error::{Corruption, OpenError, StoreFault};
use crate::storage::Storage;

impl Journal {
    /// Opens what [`create`](Self::create) has made. `name` stands for the
    /// path in errors. Full halves are brought to the image by a thread, or not in the `background`.
    pub(crate) fn open(
        storage: Box<dyn Storage>,
        name: &Path,
        background: bool,
    ) -> Result<Self, OpenError> {
        let failed = |fault: StoreFault| fault.at_open(name);
        lock(&*storage).map_err(|error| OpenError::from_redb(name.to_owned(), error))?;
        let header = read_header(&*storage).map_err(failed)?;
        if header.format > FORMAT {
            return Err(OpenError::NewerFormat {
                path: name.to_owned(),
                found: header.format,
                supported: FORMAT,
            });
        }
        recover(storage, header, background).map_err(failed)
    }
}

/// The header that counts.
fn read_header(storage: &dyn Storage) -> Result<Header, StoreFault> {
    if storage.length().map_err(fault)? < COPIES * BLOCK_BYTES {
        return Err(Corruption::NotALog.into());
    }
    let copies: Result<Vec<Vec<u8>>, StoreFault> = (0..COPIES)
        .map(|copy| read(storage, copy * BLOCK_BYTES, BLOCK_BYTES))
        .collect();
    Ok(Header::newest(&copies?)?)
}

fn recover(
    storage: Box<dyn Storage>,
    header: Header,
    background: bool,
) -> Result<Journal, StoreFault> {
    let image_bytes = storage
        .length()
        .map_err(fault)?
        .checked_sub(header.offset_of_image())
        .ok_or(Corruption::NotADatabase)?;
    let mut halves = Vec::new();
    for half in 0..2 {
        let at = header.offset_of_half(half);
        halves.push(read(&*storage, at, header.half_bytes)?);
    }
    let (changes, next) = replay(&header, &halves, image_bytes)?;
    if next == header.start && image_head(&*storage, &header).map_err(fault)? != header.image_head {
        return Err(Corruption::ImageHead.into());
    }
    let journal = Journal::starting(storage, header, image_bytes, background);
    if next > header.start {
        tracing::info!(records = next - header.start, "journal carried out again");
    }
    let begun = journal.0.change(|storage, state| {
        // What was never completed may have left sectors that carry the mark of its number, and the next
        // record may go where they are. Torn in its turn, it would be taken for a whole one with damage. And
        // both copies of the header must say the same before anything is appended: the older one may say that
        // records begin where the next ones go.
        state.next = next + 1;
        state.pending = Changes::none(changes.length());
        state.recorded = changes;
        empty(&**storage, state)
    });
    begun.map_err(fault)?;
    Ok(journal)
}

/// What the records say, one after the other, and the number of the one that would come next.
///
/// A record is written only once the one before is durable. So one that is missing before another
/// one, or that is known to have been durable, was damaged; any other was never completed.
fn replay(
    header: &Header,
    halves: &[Vec<u8>],
    image_bytes: u64,
) -> Result<(Changes, u64), Corruption> {
    let mut changes = Changes::none(image_bytes);
    let mut next = header.start;
    let (mut half, mut at) = (usize::from(header.half == 1), 0);
    loop {
        let damaged = Corruption::JournalRecord { number: next };
        match find(&halves[half][at..], next, header.salt) {
            Found::Record(record) => {
                record.replay(&mut changes).ok_or(damaged)?;
                at += usize::try_from(record.span).expect("it lies in memory");
                next += 1;
            }
            Found::Damaged => return Err(damaged),
            // The half was full.
            Found::Nothing if at > 0 && half as u64 == header.half => (half, at) = (1 - half, 0),
            Found::Nothing => break,
        }
    }
    let mut blocks = halves.iter().flat_map(|half| {
        let starts = (0..half.len()).step_by(BLOCK_BYTES as usize);
        starts.map(|at| &half[at..])
    });
    let most = 2 * header.half_bytes / BLOCK_BYTES;
    if next <= header.known || blocks.any(|bytes| is_later(bytes, next, most, header.salt)) {
        return Err(Corruption::JournalRecord { number: next });
    }
    Ok((changes, next))
}

fn read(storage: &dyn Storage, at: u64, bytes: u64) -> Result<Vec<u8>, StoreFault> {
    let bytes = usize::try_from(bytes).map_err(io::Error::other);
    let mut content = vec![0; bytes.map_err(fault)?];
    storage.read(at, &mut content).map_err(fault)?;
    Ok(content)
}
