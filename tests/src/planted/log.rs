//! Bugs between a node and its durable log.

use quorate_consensus::{Entry, LogIndex, LogStore, LogWrite, ORIGIN, StoreError};

use super::is;

/// `log`, with the bug that is planted there, if one is.
pub(crate) fn around(log: Box<dyn LogStore>) -> Box<dyn LogStore> {
    let planted = APPENDS.iter().find(|(bug, _)| is(bug));
    match planted {
        Some(&(_, append)) => Box::new(Faulty {
            log,
            late: Vec::new(),
            append,
        }),
        None => log,
    }
}

type Append = fn(&mut Faulty, &[LogWrite]) -> Result<(), StoreError>;

const APPENDS: &[(&str, Append)] = &[
    ("acknowledged-before-written", one_batch_late),
    ("vote-not-saved", without_votes),
    ("hard-state-not-saved", only_with_entries),
    ("two-transactions", in_two_steps),
];

/// A log that does not quite write what it is told.
struct Faulty {
    log: Box<dyn LogStore>,
    /// What was acknowledged and is still to be written.
    late: Vec<LogWrite>,
    append: Append,
}

impl LogStore for Faulty {
    fn append(&mut self, batch: &[LogWrite]) -> Result<(), StoreError> {
        (self.append)(self, batch)
    }

    fn read(
        &self,
        first: LogIndex,
        last: LogIndex,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, StoreError> {
        self.log.read(first, last, bytes_max)
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        self.log.settle()
    }
}

fn one_batch_late(faulty: &mut Faulty, batch: &[LogWrite]) -> Result<(), StoreError> {
    let due = std::mem::replace(&mut faulty.late, batch.to_vec());
    faulty.log.append(&due)
}

fn without_votes(faulty: &mut Faulty, batch: &[LogWrite]) -> Result<(), StoreError> {
    let mut batch = batch.to_vec();
    for write in &mut batch {
        write.hard_state.vote = None;
    }
    faulty.log.append(&batch)
}

fn only_with_entries(faulty: &mut Faulty, batch: &[LogWrite]) -> Result<(), StoreError> {
    let mut batch = batch.to_vec();
    batch.retain(|write| !write.entries.is_empty());
    faulty.log.append(&batch)
}

fn in_two_steps(faulty: &mut Faulty, batch: &[LogWrite]) -> Result<(), StoreError> {
    for write in batch {
        let mut hard_state = write.hard_state;
        // The entries that it may speak of are still to come.
        hard_state.commit = ORIGIN.index;
        let first = LogWrite {
            cut: None,
            entries: Vec::new(),
            hard_state,
        };
        faulty.log.append(&[first])?;
        faulty.log.append(std::slice::from_ref(write))?;
    }
    Ok(())
}
