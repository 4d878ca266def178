//! The durability gate: which messages may leave, and which wait for a write.

use std::collections::VecDeque;

use raft::eraftpb::{Message as PbMessage, MessageType};

use crate::convert;
use crate::durability::{Append, AppendTicket, LogWrite};
use crate::entry::Entry;
use crate::message::Message;
use crate::planted;
use crate::types::{HardState, NodeId};

/// Messages to their receivers.
pub(crate) type Outgoing = Vec<(NodeId, Message)>;

/// Writes that are on their way to the disk, and the messages that wait for them.
///
/// Invariants:
/// - `unpersisted` is in the order in which the writes were asked for;
/// - a message in it leaves with the ticket of its write, or of a later one.
pub(crate) struct DurabilityGate {
    unpersisted: VecDeque<Unpersisted>,
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
    messages: Outgoing,
}

impl DurabilityGate {
    /// The gate of a node whose durable hard state is `durable`.
    pub(crate) fn new(durable: HardState) -> Self {
        Self {
            unpersisted: VecDeque::new(),
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

    /// Whether the hard state and these entries are worth a write. The commit index alone is not: a
    /// restart learns it anew (figure 2 of the paper lists it as volatile). It goes along with the next
    /// write.
    pub(crate) fn needs_write(&self, hard_state: HardState, entries: &[Entry]) -> bool {
        self.changes_vote(hard_state) || !entries.is_empty()
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

    /// The write that the `raft` Ready `number` needs.
    pub(crate) fn write(&mut self, number: u64, write: LogWrite) -> Append {
        let changes_vote = self.changes_vote(write.hard_state);
        self.written = write.hard_state;
        self.unpersisted.push_back(Unpersisted {
            ticket: number,
            number,
            changes_vote,
            messages: Vec::new(),
        });
        Append { number, write }
    }

    /// Lets each message go into `open`, or keeps it behind the writes that it depends on.
    pub(crate) fn pass(&mut self, messages: Vec<PbMessage>, open: &mut Outgoing) {
        let vote_is_durable = self.unpersisted.iter().all(|write| !write.changes_vote)
            || planted::is("vote-before-durable");
        for message in messages {
            let needs = needs(&message);
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
    /// `raft` Ready that is durable now.
    ///
    /// # Panics
    ///
    /// When the ticket belongs to another node or came twice.
    pub(crate) fn persisted(&mut self, ticket: &AppendTicket, open: &mut Outgoing) -> u64 {
        let mut number = None;
        while self
            .unpersisted
            .front()
            .is_some_and(|first| first.ticket <= ticket.number)
        {
            let first = self.unpersisted.pop_front().expect("just seen");
            open.extend(first.messages);
            number = Some(first.number);
        }
        number.expect("a ticket stands for a write that is not yet confirmed")
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
