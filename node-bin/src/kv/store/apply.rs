//! What a command of the log does to the state.

use quorate_consensus::{Batch, Command as LogCommand, EntryId};
use quorate_persist::StoreFault;

use super::overlay::Overlay;
use super::view::Below;
use crate::kv::command::{Command, Invalid, Outcome, Value};

/// Commands are applied once each, in the order of the log; anything else would make this member
/// differ from the others (State Machine Safety, Raft paper, figure 3).
pub(super) fn check_order(applied: EntryId, batch: &Batch) {
    let mut previous = applied;
    for command in &batch.commands {
        let id = command.id;
        assert!(
            id.index > previous.index && id.term >= previous.term,
            "command {id} after {previous}"
        );
        previous = id;
    }
    let last = batch.last;
    assert!(
        last.index > applied.index && last.index >= previous.index && last.term >= previous.term,
        "a batch that ends in {last} after {previous}, with {applied} applied"
    );
}

/// Carries out one command of the log on `active`, reading through to what lies below.
pub(super) fn apply_command(
    active: &mut Overlay,
    below: &Below<'_>,
    entry: &LogCommand,
) -> Result<Outcome, StoreFault> {
    // Sizes again: what is in the log may have come from a member that did not check.
    let command = Command::decode(&entry.data).and_then(|command| {
        command.validate()?;
        Ok(command)
    });
    let revision = entry.id.index.value();
    let written = |data| Value { data, revision };
    match command {
        Ok(Command::Put { key, value }) => {
            active.set(key, Some(written(value)));
            Ok(Outcome::Written { revision })
        }
        Ok(Command::Delete { key }) => {
            let existed = below.find(active, &key)?.is_some();
            if existed {
                active.set(key, None);
            }
            Ok(Outcome::Deleted { existed, revision })
        }
        Ok(Command::CompareAndSet {
            key,
            expected,
            value,
        }) => {
            let current = below.find(active, &key)?.map(|value| value.data);
            if current != expected {
                return Ok(Outcome::NotSwapped { current, revision });
            }
            if current.is_some() || value.is_some() {
                active.set(key, value.map(written));
            }
            Ok(Outcome::Swapped { revision })
        }
        Err(invalid) => Ok(refuse(invalid)),
    }
}

fn refuse(invalid: Invalid) -> Outcome {
    tracing::warn!(err = %invalid, "a command in the log was refused");
    Outcome::Refused(invalid)
}
