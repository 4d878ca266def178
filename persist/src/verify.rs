//! Reads and checks a whole log file before any of it is believed.

use quorate_consensus::{HardState, ORIGIN, Recovered};
use redb::ReadTransaction;

use crate::error::{Corruption, StoreFault};
use crate::log_table::each_row;
use crate::schema::{
    BASE, BOOT, HARD_STATE, META_TABLE, Seal, decode_entry_id, decode_hard_state, read_membership,
    read_origin,
};
use crate::shape::LogShape;

/// What a log file holds, apart from the entries themselves.
pub(crate) struct Contents {
    pub(crate) recovered: Recovered,
    pub(crate) shape: LogShape,
    pub(crate) boot: u64,
    pub(crate) origin: u64,
}

/// The last format in which logs were never compacted.
const WHOLE_LOGS: u32 = 2;

/// Checks every row of the file that `transaction` sees, which is of `format`, and says what is in it.
pub(crate) fn verify(
    transaction: &ReadTransaction,
    seal: &Seal,
    format: u32,
) -> Result<Contents, StoreFault> {
    let meta = transaction.open_table(META_TABLE)?;
    let base = decode_entry_id(seal.open_row(&meta, BASE)?);
    let before_any = base.index < ORIGIN.index || base.term < ORIGIN.term;
    if before_any || (format <= WHOLE_LOGS && base != ORIGIN) {
        return Err(Corruption::RowContent { row: BASE }.into());
    }
    let boot = u64::from_le_bytes(seal.open_row(&meta, BOOT)?);
    let mut memberships = vec![read_membership(seal, &meta, format)?];
    let origin = read_origin(seal, &meta, format, &memberships[0])?;
    let hard_state = decode_hard_state(seal.open_row(&meta, HARD_STATE)?);

    let mut shape = LogShape::new(base);
    let mut bytes = 0;
    each_row(transaction, seal, |row| {
        for entry in row.entries() {
            shape.push(entry.id)?;
            bytes += entry.bytes();
            memberships.extend(entry.membership());
        }
        Ok(())
    })?;
    check_hard_state(&hard_state, &shape)?;

    let recovered = Recovered {
        hard_state,
        memberships,
        terms: shape.terms().to_vec(),
        last: shape.last().index,
        bytes,
    };
    Ok(Contents {
        recovered,
        shape,
        boot,
        origin,
    })
}

/// What holds between the hard state and the log at every durable point (Raft paper, figure 2): an
/// entry is never from a term that the node has not reached, and only what is there is committed.
fn check_hard_state(hard_state: &HardState, shape: &LogShape) -> Result<(), Corruption> {
    let (base, last) = (shape.base(), shape.last());
    if hard_state.term < last.term {
        return Err(Corruption::TermBehindLog {
            term: hard_state.term,
            last_term: last.term,
        });
    }
    if hard_state.commit < base.index || hard_state.commit > last.index {
        return Err(Corruption::CommitOutsideLog {
            commit: hard_state.commit,
            last: last.index,
        });
    }
    Ok(())
}
