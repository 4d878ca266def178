//! A journal in front of redb's image of the log: what one commit changes all over the image becomes
//! durable in one place, with one write.
//!
//! A commit of redb writes some ten pages, each elsewhere, and syncs twice; on the disks measured that
//! takes four times as long as one write of the same bytes in one place. So writes are gathered in
//! memory and become one record behind the one before. The image follows later, in the background,
//! where a page that many commits have changed is written once. After a crash the records are carried
//! out again.
//!
//! The file: two copies of the [`Header`], two halves full of records, the image. Halves are filled in
//! turn. When one is full, its changes go to the image while the other one is filled.

mod changes;
mod flush;
mod header;
mod record;
mod recover;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{DatabaseError, StorageBackend};

pub(crate) use self::changes::{Changes, read_layers};
use self::flush::{Flush, write_back};
use self::header::{COPIES, Header};
use self::record::BLOCK_BYTES;
use crate::error::StoreFault;
use crate::storage::Storage;

/// The smallest half: some small commits.
const HALF_BYTES_MIN: u64 = 64 << 10;

/// How much of the file is filled with zeros at a time while it is made.
const FILL_BYTES: u64 = 1 << 20;

/// More than the second phase of a redb commit adds to the first: redb's header.
const SECOND_PHASE_BYTES: u64 = 2 * BLOCK_BYTES;

/// A file whose content is an image and a journal before it. Clones are the same.
///
/// redb sees the image, and must be told nothing else: a sync that returns has made durable all that
/// was written before it.
#[derive(Clone, Debug)]
pub(crate) struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    storage: Arc<dyn Storage>,
    state: Mutex<State>,
}

/// Invariants, unless `failed`: every record from `header.start` up to `next` is durable in its place;
/// the image, with `flushing`, `recorded` and `pending` on top of it, in this order, is what redb sees.
#[derive(Debug)]
struct State {
    header: Header,
    /// What redb has written since the last record.
    pending: Changes,
    /// What the records of the half that is being filled say.
    recorded: Changes,
    /// What those of the other half say, on its way to the image.
    flushing: Option<Flush>,
    /// Whether a thread brings it there.
    background: bool,
    /// The number of the next record, and where it goes.
    next: u64,
    half: u64,
    at: u64,
    /// The first record of the half that is being filled.
    first: u64,
    /// Whether syncs are put off until the end of a [`Hold`].
    held: bool,
    /// A write or sync has failed: nobody knows what is on the disk.
    failed: bool,
}

/// The format of the journal, which is not that of the log in it.
const FORMAT: u32 = 2;

impl Journal {
    /// Makes an empty journal and an empty image on empty `storage`, durable when this returns.
    pub(crate) fn create(
        storage: Box<dyn Storage>,
        salt: u128,
        half_bytes: u64,
    ) -> Result<Self, redb::Error> {
        lock(&*storage)?;
        let header = Header {
            format: FORMAT,
            salt,
            half_bytes: half_bytes.max(HALF_BYTES_MIN).next_multiple_of(BLOCK_BYTES),
            generation: 1,
            start: 1,
            half: 0,
            known: 0,
            image_head: crc32c::crc32c(&[]),
        };
        let end = header.offset_of_image();
        storage.set_length(end)?;
        // Blocks that were never written would have to be allocated by the commit that comes to them.
        let zeros = vec![0; usize::try_from(FILL_BYTES.min(end)).expect("a piece fits in memory")];
        for at in (0..end).step_by(zeros.len()) {
            let piece = (end - at).min(zeros.len() as u64);
            storage.write(at, &zeros[..usize::try_from(piece).expect("a part of it")])?;
        }
        for copy in 0..COPIES {
            storage.write(copy * BLOCK_BYTES, &header.encode())?;
        }
        storage.sync_data()?;
        Ok(Self::starting(storage, header, 0, false))
    }

    fn starting(
        storage: Box<dyn Storage>,
        header: Header,
        image_bytes: u64,
        background: bool,
    ) -> Self {
        let state = State {
            header,
            pending: Changes::none(image_bytes),
            recorded: Changes::none(image_bytes),
            flushing: None,
            background,
            next: header.start,
            half: header.half,
            at: 0,
            first: header.start,
            held: false,
            failed: false,
        };
        Self(Arc::new(Inner {
            storage: storage.into(),
            state: Mutex::new(state),
        }))
    }

    /// Puts syncs off until the end of the hold, which then makes all that was written durable as one
    /// step.
    pub(crate) fn hold(&self) -> Hold<'_> {
        self.0.state().held = true;
        Hold(&self.0)
    }

    /// Notes that the last record is durable, so that even its loss would be noticed. Whoever waits for
    /// the disk should not wait for this: the next record says as much.
    pub(crate) fn note_known(&self) -> Result<(), StoreFault> {
        let noted = self.0.change(|storage, state| {
            let last = state.next - 1;
            if state.header.known == last {
                return Ok(());
            }
            state.header.known = last;
            publish(&**storage, &mut state.header)
        });
        noted.map_err(fault)
    }
}

/// While it lives, nothing becomes durable. Dropped without [`release`](Self::release), it stops the
/// journal for good.
pub(crate) struct Hold<'a>(&'a Inner);

impl Hold<'_> {
    /// Makes all that was written durable, as one step.
    pub(crate) fn release(self) -> Result<(), StoreFault> {
        let released = self.0.change(|storage, state| {
            state.held = false;
            append(storage, state)
        });
        released.map_err(fault)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.failed |= state.held;
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out `change` unless an earlier one has failed. A failed one is never tried again.
    fn change<T>(
        &self,
        change: impl FnOnce(&Arc<dyn Storage>, &mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state();
        if state.failed {
            return Err(io::Error::other("an earlier write to the file failed"));
        }
        // Set for the time of the change, so that a panic leaves it set as well.
        state.failed = true;
        let changed = change(&self.storage, &mut state)?;
        state.failed = false;
        Ok(changed)
    }
}

impl State {
    /// Takes what is pending for recorded.
    fn take_over(&mut self) {
        let none = Changes::none(self.pending.length());
        let pending = std::mem::replace(&mut self.pending, none);
        self.recorded.absorb(pending);
    }

    fn take_recorded(&mut self) -> Changes {
        let none = Changes::none(self.recorded.length());
        std::mem::replace(&mut self.recorded, none)
    }

    /// What lies on top of the image, the lowest first.
    fn layers(&self) -> impl Iterator<Item = &Changes> {
        let flushing = self.flushing.iter().map(Flush::changes);
        flushing.chain([&self.recorded, &self.pending])
    }
}

/// Makes what is pending durable as one record.
fn append(storage: &Arc<dyn Storage>, state: &mut State) -> io::Result<()> {
    if state.pending.is_empty() {
        return Ok(());
    }
    if state.flushing.as_ref().is_some_and(Flush::is_done) {
        finish_flush(&**storage, state)?;
    }
    let record = record::encode(&state.pending, state.next, state.header.salt);
    let span = record.len() as u64;
    assert!(
        span <= state.header.half_bytes,
        "a record of {span} bytes in halves of {}",
        state.header.half_bytes
    );
    if state.at + span > state.header.half_bytes {
        turn_over(storage, state)?;
    }
    let offset = state.header.offset_of_half(state.half) + state.at;
    storage.write_through(offset, &record)?;
    state.at += span;
    state.next += 1;
    state.take_over();
    Ok(())
}

/// Goes on in the other half, and begins to bring what this one says to the image.
fn turn_over(storage: &Arc<dyn Storage>, state: &mut State) -> io::Result<()> {
    finish_flush(&**storage, state)?;
    // The image has what the other half says, so its records are not needed any more.
    state.header.start = state.first;
    state.header.half = state.half;
    state.header.known = state.next - 1;
    publish(&**storage, &mut state.header)?;
    let changes = state.take_recorded();
    let image = state.header.offset_of_image();
    state.flushing = Some(Flush::start(storage, image, changes, state.background)?);
    state.half = 1 - state.half;
    state.at = 0;
    state.first = state.next;
    Ok(())
}

fn finish_flush(storage: &dyn Storage, state: &mut State) -> io::Result<()> {
    match state.flushing.take() {
        Some(flush) => flush.finish(storage, state.header.offset_of_image()),
        None => Ok(()),
    }
}

/// Brings all that was recorded to the image, so that no record is needed any more.
fn empty(storage: &dyn Storage, state: &mut State) -> io::Result<()> {
    if state.header.start == state.next {
        return Ok(());
    }
    finish_flush(storage, state)?;
    let recorded = state.take_recorded();
    write_back(storage, state.header.offset_of_image(), &recorded)?;
    state.header.start = state.next;
    state.header.known = state.next - 1;
    state.header.half = 1 - state.half;
    state.header.image_head = image_head(storage, &state.header)?;
    publish(storage, &mut state.header)?;
    (state.half, state.at, state.first) = (state.header.half, 0, state.next);
    Ok(())
}

/// The checksum of the first bytes of the image.
fn image_head(storage: &dyn Storage, header: &Header) -> io::Result<u32> {
    let at = header.offset_of_image();
    let bytes = (storage.length()? - at).min(BLOCK_BYTES);
    let mut head = vec![0; usize::try_from(bytes).expect("a block at most")];
    storage.read(at, &mut head)?;
    Ok(crc32c::crc32c(&head))
}

/// Makes what is pending durable in the image itself, but for its head: for what is larger than half
/// the journal. Not as one step, so it is for the first phase of a commit, whose pages nothing refers
/// to before the head does.
fn write_around(storage: &dyn Storage, state: &mut State) -> io::Result<()> {
    // Or a record would be carried out again over what is newer than it.
    empty(storage, state)?;
    let head = state.pending.take(0, BLOCK_BYTES);
    state.take_over();
    let around = state.take_recorded();
    write_back(storage, state.header.offset_of_image(), &around)?;
    for (offset, data) in head {
        state.pending.write(offset, data);
    }
    Ok(())
}

/// Writes the header: one copy after the other, so that one is always whole, and, once this has
/// returned, whichever is read says the same.
fn publish(storage: &dyn Storage, header: &mut Header) -> io::Result<()> {
    header.generation += 1;
    let block = header.encode();
    for copy in 0..COPIES {
        storage.write_through(copy * BLOCK_BYTES, &block)?;
    }
    Ok(())
}

/// Keeps every other process out, before a byte is changed.
fn lock(storage: &dyn Storage) -> Result<(), redb::Error> {
    match storage.try_lock()? {
        true => Ok(()),
        false => Err(DatabaseError::DatabaseAlreadyOpen.into()),
    }
}

fn fault(error: io::Error) -> StoreFault {
    StoreFault::from(redb::StorageError::Io(error))
}

/// The lock methods stay redb's own, which lock nothing: the file is locked as a whole already.
impl StorageBackend for Journal {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.state().pending.length())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.state();
        let image = state.header.offset_of_image();
        let layers: Vec<&Changes> = state.layers().collect();
        read_layers(&layers, offset, out, |out| {
            self.0.storage.read(image + offset, out)
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.change(|_, state| {
            state.pending.set_length(len);
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.change(|_, state| {
            state.pending.write(offset, data.to_vec());
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.change(|storage, state| {
            let span = record::span_max(&state.pending) + SECOND_PHASE_BYTES;
            if span > state.header.half_bytes {
                write_around(&**storage, state)?;
            }
            if state.held {
                return Ok(());
            }
            append(storage, state)
        })
    }

    fn close(&self) -> io::Result<()> {
        let emptied = self.0.change(|storage, state| empty(&**storage, state));
        // After a failure as well: it would write on, under whoever opens the file next.
        let flushing = self.0.state().flushing.take();
        if let Some(flush) = flushing {
            flush.stop();
        }
        self.0.storage.close()?;
        emptied
    }
}
