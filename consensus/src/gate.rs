//! The durability gate: which messages may leave, and which wait for a write.

use std::collections::VecDeque;

use raft::eraftpb::{Message as PbMessage, MessageType};

use crate::convert;
use crate::durability::{Append, AppendTicket, Cut, LogWrite};
use crate::entry::{Entry, ORIGIN};
use crate::message::Message;
use crate::planted;
use crate::types::{HardState, LogIndex, NodeId};

/// Messages to their receivers.
pub(crate) type Outgoing = Vec<(NodeId, Message)>;

/// Writes that are on their way to the disk, and the messages that wait for them.
///
/// Invariants:
/// - `unpersisted` is in the order in which the writes were asked for;
/// - a message in it leaves with the ticket of its write, or of a later one;
/// - `untold` is set only while a write in `unpersisted` replaces what it stands for.
pub(crate) struct DurabilityGate {
    unpersisted: VecDeque<Unpersisted>,
    untold: Option<Untold>,
    /// The hard state of the last write, durable or on its way.
    written: HardState,
}

struct Unpersisted {
    /// The number that the write's ticket will carry.
    ticket: u64,
    /// The number of the last `raft` Ready that this write covers: itself, or a later one that had
    /// nothing to write.
    number: u64,
    /// Whether the term or vote is part of the write.
    changes_vote: bool,
    /// The entry of the members whose commit it makes durable, if any.
    members: Option<LogIndex>,
    /// What it does to the log, if anything.
    replaces: Option<Replaced>,
    messages: Outgoing,
}

/// A write replaces everything from `first` on, and the log ends with `last` then.
#[derive(Clone, Copy)]
struct Replaced {
    first: LogIndex,
    last: LogIndex,
}

impl Replaced {
    /// A snapshot takes the place of the whole log.
    fn by(write: &LogWrite) -> Option<Self> {
        let first = write.entries.first().map(|entry| entry.id.index);
        let last = write.entries.last().map(|entry| entry.id.index);
        match write.cut {
            Some(Cut::Restore { base, .. }) => Some(Self {
                first: ORIGIN.index,
                last: last.unwrap_or(base.index),
            }),
            Some(Cut::Compact { .. }) | None => Some(Self {
                first: first?,
                last: last?,
            }),
        }
    }
}

/// What is durable and `raft` has not been told of.
struct Untold {
    /// The number of the last `raft` Ready.
    number: u64,
    /// The end of the log as written last.
    last: Option<LogIndex>,
}

impl DurabilityGate {
    /// The gate of a node whose durable hard state is `durable`.
    pub(crate) fn new(durable: HardState) -> Self {
        Self {
            unpersisted: VecDeque::new(),
            untold: None,
            written: durable,
        }
    }

    /// Whether nothing is on its way to the disk.
    pub(crate) fn is_clear(&self) -> bool {
        self.unpersisted.is_empty()
    }

    /// The ticket of the oldest write that is on its way to the disk.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.unpersisted.front().map(|first| first.ticket)
    }

    /// Whether the hard state and these entries are worth a write, when the entry of `members` was handed out.
    ///
    /// The commit index alone is not: a restart learns it anew (figure 2 of the paper lists it as volatile). It goes
    /// along with the next write. That of members is: in the paper they count once they are in the log, here, as in all
    /// that uses `raft`, once they are known to be committed. Whoever forgets that asks voters that may be gone for good.
    pub(crate) fn needs_write(
        &self,
        hard_state: HardState,
        entries: &[Entry],
        members: Option<LogIndex>,
    ) -> bool {
        let is_forgotten = self.is_news(members) && !planted::is("members-forgotten");
        self.changes_vote(hard_state) || !entries.is_empty() || is_forgotten
    }

    /// Whether no write tells that the entry of `members` is committed.
    fn is_news(&self, members: Option<LogIndex>) -> bool {
        members.is_some_and(|index| self.written.commit < index)
    }

    /// Whether a restart may not know of members that count here.
    pub(crate) fn may_forget_members(&self) -> bool {
        let mut writes = self.unpersisted.iter();
        writes.any(|write| write.members.is_some())
    }

    fn changes_vote(&self, new: HardState) -> bool {
        (new.term, new.vote) != (self.written.term, self.written.vote)
    }

    /// The `raft` Ready `number` has nothing to write.
    pub(crate) fn skip_write(&mut self, number: u64) {
        if let Some(last) = self.unpersisted.back_mut() {
            last.number = number;
        }
    }

    /// The write that the `raft` Ready `number` needs, in which the entry of `members` was handed out.
    pub(crate) fn write(
        &mut self,
        number: u64,
        write: LogWrite,
        members: Option<LogIndex>,
    ) -> Append {
        let changes_vote = self.changes_vote(write.hard_state);
        let members = members.filter(|_| self.is_news(members));
        self.written = write.hard_state;
        self.unpersisted.push_back(Unpersisted {
            ticket: number,
            number,
            changes_vote,
            members,
            replaces: Replaced::by(&write),
            messages: Vec::new(),
        });
        Append { number, write }
    }

    /// Lets each message go into `open`, or keeps it behind the writes that it depends on.
    pub(crate) fn pass(&mut self, messages: Vec<PbMessage>, open: &mut Outgoing) {
        let vote_is_durable = self.unpersisted.iter().all(|write| !write.changes_vote)
            || planted::is("vote-before-durable");
        let members = self
            .unpersisted
            .iter()
            .filter_map(|write| write.members)
            .min();
        for message in messages {
            let needs = match members {
                // A member that is told that it was removed stops for good: nobody may need it again.
                Some(index) if message.commit >= index.value() => Needs::AllWrites,
                Some(_) | None => needs(&message),
            };
            let Some(message) = convert::message_from_pb(message) else {
                continue;
            };
            match (self.unpersisted.back_mut(), needs) {
                (Some(write), Needs::AllWrites) => write.messages.push(message),
                (Some(write), Needs::Vote) if !vote_is_durable => write.messages.push(message),
                _ => open.push(message),
            }
        }
    }

    /// Releases what waited for the writes of `ticket` into `open`. Returns the number of the last
    /// `raft` Ready that it may take for durable now, if that is another one.
    ///
    /// # Panics
    ///
    /// When the ticket belongs to another node or came twice.
    pub(crate) fn persisted(&mut self, ticket: &AppendTicket, open: &mut Outgoing) -> Option<u64> {
        let before = self.unpersisted.len();
        let mut untold = self.untold.take();
        while self
            .unpersisted
            .front()
            .is_some_and(|first| first.ticket <= ticket.number)
        {
            let first = self.unpersisted.pop_front().expect("just seen");
            open.extend(first.messages);
            let written = first.replaces.map(|replaced| replaced.last);
            untold = Some(Untold {
                number: first.number,
                last: written.or(untold.and_then(|untold| untold.last)),
            });
        }
        assert!(
            self.unpersisted.len() < before,
            "a ticket stands for a write that is not yet confirmed"
        );
        if untold.as_ref().is_some_and(|untold| self.replaces(untold)) {
            self.untold = untold;
            return None;
        }
        untold.map(|untold| untold.number)
    }

    /// Whether a write on its way to the disk replaces the end of what is `untold`.
    ///
    /// `raft` compares what is durable with its log by index and term. A third leader may send an entry again
    /// that was replaced. `raft` would then take the first write of it for the last one, although another entry
    /// comes in between on the disk. A leader that runs this code does not: it asks first where the logs meet,
    /// and the answer waits for the disk. But Raft lets a leader begin anywhere, and a member may lie.
    fn replaces(&self, untold: &Untold) -> bool {
        let mut writes = self.unpersisted.iter().filter_map(|write| write.replaces);
        untold
            .last
            .is_some_and(|last| writes.any(|replaced| replaced.first <= last))
    }
}

/// What must be durable before a message may leave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Term and vote.
    Vote,
    /// Everything that was asked for before.
    AllWrites,
}

fn needs(message: &PbMessage) -> Needs {
    match message.get_msg_type() {
        // A leader's entries travel while its own fsync runs (thesis, section 10.2.1); it counts itself
        // only with the ticket.
        MessageType::MsgAppend
        | MessageType::MsgHeartbeat
        | MessageType::MsgTimeoutNow
        | MessageType::MsgSnapshot => Needs::Vote,
        // It says only that this node follows that leader in that term, and holds up reads.
        MessageType::MsgHeartbeatResponse => Needs::Vote,
        MessageType::MsgRequestVoteResponse if planted::is("vote-before-durable") => Needs::Vote,
        MessageType::MsgAppendResponse if planted::is("entries-before-durable") => Needs::Vote,
        _ => Needs::AllWrites,
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use super::*;
    use crate::membership::Membership;
    use crate::types::{EntryId, Term};

    const HARD_STATE: HardState = HardState {
        term: Term::new(1),
        vote: None,
        commit: LogIndex::new(1),
    };

    fn write(indexes: RangeInclusive<u64>) -> LogWrite {
        let entries = indexes.map(|index| {
            let id = EntryId::new(HARD_STATE.term, LogIndex::new(index));
            Entry::command(id, "x".into())
        });
        LogWrite::new(entries.collect(), HARD_STATE)
    }

    fn without_entries() -> LogWrite {
        LogWrite::new(Vec::new(), HARD_STATE)
    }

    fn snapshot(index: u64) -> LogWrite {
        let node = NodeId::new(1).expect("not zero");
        let cut = Cut::Restore {
            base: EntryId::new(HARD_STATE.term, LogIndex::new(index)),
            membership: Membership::new([node], []).expect("one voter"),
        };
        LogWrite {
            cut: Some(cut),
            ..without_entries()
        }
    }

    /// What `raft` is told, ticket by ticket, when all `writes` are on their way at once.
    fn told<const COUNT: usize>(writes: [LogWrite; COUNT]) -> [Option<u64>; COUNT] {
        let mut gate = DurabilityGate::new(HARD_STATE);
        let appends = (1..)
            .zip(writes)
            .map(|(at, write)| gate.write(at, write, None));
        let numbers: Vec<u64> = appends.map(|append| append.number).collect();
        let mut tell = |number| gate.persisted(&AppendTicket { number }, &mut Vec::new());
        std::array::from_fn(|at| tell(numbers[at]))
    }

    #[test]
    fn raft_is_told_of_what_no_write_on_its_way_replaces() {
        assert_eq!(told([write(5..=6), write(7..=7)]), [Some(1), Some(2)]);
        let again = [write(5..=5), write(5..=5), write(5..=5)];
        assert_eq!(told(again), [None, None, Some(3)]);
        let in_part = [write(5..=5), write(6..=7), write(7..=7), write(8..=8)];
        assert_eq!(told(in_part), [Some(1), None, Some(3), Some(4)]);
        let with_a_vote = [write(5..=5), without_entries(), write(5..=5)];
        assert_eq!(told(with_a_vote), [None, None, Some(3)]);
        let with_a_snapshot = [write(5..=5), snapshot(7), write(8..=8)];
        assert_eq!(told(with_a_snapshot), [None, Some(2), Some(3)]);
    }
}
