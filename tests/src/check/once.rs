//! Which entries of a log have an effect, when clients may send a command more than once.
//!
//! Found anew from the log alone, without the store's tables: in a slot of a session that was opened before, a
//! command counts if its number is greater than all before it.

use std::collections::{BTreeMap, BTreeSet};

use quorate::kv::{Command, Logged};

/// The commands that have an effect, by their index, of a log that is there from its beginning. No session may
/// have been left unused for as long as sessions live.
pub fn effective<'a>(
    log: impl IntoIterator<Item = (u64, &'a Logged)>,
) -> BTreeMap<u64, &'a Command> {
    let mut sessions = BTreeSet::new();
    let mut last: BTreeMap<(u64, u16), u64> = BTreeMap::new();
    let mut effective = BTreeMap::new();
    for (index, logged) in log {
        let Some(command) = &logged.command else {
            continue;
        };
        if let Some(tag) = &logged.tag {
            let last = last.entry((tag.session, tag.slot)).or_default();
            // To keep a lease is done again whenever it is sent again.
            let again = tag.sequence == *last && matches!(command, Command::KeepLease { .. });
            if !sessions.contains(&tag.session) || tag.sequence <= *last && !again {
                continue;
            }
            *last = tag.sequence;
        } else if *command == Command::OpenSession {
            sessions.insert(index);
        }
        effective.insert(index, command);
    }
    effective
}

#[cfg(test)]
mod tests {
    use quorate::kv::Tag;

    use super::*;

    /// The second time, a lower number and an unknown session do not count; another slot does.
    #[test]
    fn a_command_counts_once() {
        let entry = |tag: Option<(u64, u16, u64)>, command: Command| Logged {
            elapsed_ms: 0,
            tag: tag.map(|(session, slot, sequence)| Tag {
                session,
                slot,
                sequence,
            }),
            command: Some(command),
            owner: 0,
        };
        let delete = || Command::Delete { key: "k".into() };
        let log = [
            entry(None, Command::OpenSession),
            entry(Some((1, 0, 5)), delete()),
            entry(Some((1, 0, 5)), delete()),
            entry(Some((1, 0, 4)), delete()),
            entry(Some((1, 1, 4)), delete()),
            entry(Some((9, 0, 1)), delete()),
            entry(None, delete()),
            entry(Some((1, 0, 6)), delete()),
            entry(Some((1, 0, 7)), Command::KeepLease { lease: 3 }),
            entry(Some((1, 0, 7)), Command::KeepLease { lease: 3 }),
            entry(Some((1, 0, 6)), Command::KeepLease { lease: 3 }),
        ];
        let found = effective((1..).zip(&log));
        let expected = [1, 2, 5, 7, 8, 9, 10];
        assert_eq!(found.into_keys().collect::<Vec<_>>(), expected);
    }
}
