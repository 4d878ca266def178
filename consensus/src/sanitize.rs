//! What a message must be before `raft` may see it.
//!
//! `raft` takes its peers at their word, and answers nonsense with a panic. A member may be broken, of
//! another version or hostile, so every rule that `raft` relies on is checked here first.

use crate::driver::PLACE_BYTES_MAX;
use crate::entry::{Entry, ORIGIN, Payload};
use crate::membership::{Membership, Standing};
use crate::message::{Body, Message, Transfer};
use crate::planted;
use crate::types::{EntryId, LogIndex, NodeId, Role, Term};

/// Terms above this are refused: `raft` adds one to a term, which must not overflow, and no honest
/// cluster gets there (an election every millisecond would take 290 million years).
const TERM_MAX: Term = Term::new(u64::MAX / 2);

/// Indexes above this are refused likewise.
const INDEX_MAX: LogIndex = LogIndex::new(u64::MAX / 2);

/// The most entries in one message; far above what `message_bytes_max` lets an honest leader send.
const ENTRIES_MAX: usize = 1 << 20;

/// The state of the receiver that decides whether a message makes sense.
pub(crate) struct Receiver<'a> {
    pub(crate) node: NodeId,
    pub(crate) role: Role,
    pub(crate) term: Term,
    pub(crate) leader: Option<NodeId>,
    pub(crate) last: LogIndex,
    pub(crate) membership: &'a Membership,
}

/// Why a message was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The sender does not belong to the cluster.
    #[error("the sender is not a member of this cluster")]
    NotAMember,
    /// The sender belongs to the cluster, but may not say this.
    #[error("only a voter may send this")]
    NotAVoter,
    /// Another node leads in this term.
    #[error("{leader} leads this term, not the sender")]
    NotTheLeader {
        /// Who leads.
        leader: NodeId,
    },
    /// The term is zero or absurd.
    #[error("term {term} cannot be")]
    BadTerm {
        /// The term.
        term: Term,
    },
    /// The entries do not follow each other, or do not fit the message's own term.
    #[error("the entries after {previous} are not a piece of a log")]
    BadEntries {
        /// The entry they claim to follow.
        previous: EntryId,
    },
    /// It speaks of entries that cannot exist.
    #[error("it speaks of index {index}, but the log ends at {last}")]
    BeyondLog {
        /// The index.
        index: LogIndex,
        /// The last index here.
        last: LogIndex,
    },
    /// The leader knows that this node had acknowledged entries which it no longer has.
    #[error("the leader says that {commit} was acknowledged here, but the log ends at {last}")]
    LostEntries {
        /// What this node had acknowledged.
        commit: LogIndex,
        /// What it has.
        last: LogIndex,
    },
    /// The snapshot cannot be, or not for this node.
    #[error("a snapshot up to {last} for other members, or one that cannot be")]
    BadSnapshot {
        /// The last entry in it.
        last: EntryId,
    },
    /// A read's context that belongs to another node.
    #[error("the context of a read belongs to another node")]
    BadContext,
    /// A vote for a node that has not asked for it, or not in this term.
    #[error("a vote that was not asked for")]
    NotAsked,
    /// Entries that are not durable or not applied fill the memory; the leader is told once they do not.
    #[error("too many entries wait for the disk or the state machine")]
    Busy,
}

/// Checks `message`, which came from `from`.
pub(crate) fn check(
    receiver: &Receiver<'_>,
    from: NodeId,
    message: &Message,
) -> Result<(), Refused> {
    let standing = receiver.membership.standing(from);
    if from == receiver.node || standing == Standing::Removed {
        return Err(Refused::NotAMember);
    }
    // It may be a member by an entry that is not here yet, and lead, or be about to (thesis, section 4.1).
    // Nothing else is asked of it.
    if standing == Standing::Unknown && !is_said_by_newer(&message.body) {
        return Err(Refused::NotAMember);
    }
    if message.term == Term::ZERO || message.term > TERM_MAX {
        return Err(Refused::BadTerm { term: message.term });
    }
    match &message.body {
        Body::Append {
            previous, entries, ..
        } => {
            check_leader(receiver, from, message.term)?;
            check_entries(message.term, *previous, entries)
        }
        Body::Heartbeat { commit, .. } => {
            check_leader(receiver, from, message.term)?;
            // A leader sends what it knows this node to hold. Raft would panic; the cause is a disk
            // that was wiped or rolled back (reliability scenario E5).
            if message.term >= receiver.term && *commit > receiver.last {
                return Err(Refused::LostEntries {
                    commit: *commit,
                    last: receiver.last,
                });
            }
            Ok(())
        }
        Body::TimeoutNow => {
            check_leader(receiver, from, message.term)?;
            // Only the leader itself may hand over; anybody else would only disturb it.
            match receiver.leader {
                Some(leader) if leader == from => Ok(()),
                Some(leader) => Err(Refused::NotTheLeader { leader }),
                None => Err(Refused::NotAVoter),
            }
        }
        Body::AppendAccepted { last, .. } => within_log(receiver, message.term, *last),
        Body::AppendRejected { previous, hint, .. } => {
            // Below the origin there is nothing to match, and Raft would wait for a snapshot.
            if hint.index < ORIGIN.index {
                return Err(Refused::BadEntries { previous: *hint });
            }
            within_log(receiver, message.term, *previous)?;
            within_log(receiver, message.term, hint.index)
        }
        Body::Vote {
            pre: true,
            granted: true,
            ..
        } => {
            check_voter(receiver, from)?;
            // Raft counts every grant that comes; one of an earlier rehearsal says nothing about this one.
            match message.term == receiver.term.next() {
                true => Ok(()),
                false => Err(Refused::NotAsked),
            }
        }
        // Only for a voter does anybody turn away from a leader that is alive.
        Body::RequestVote { transfer: true, .. } => check_voter(receiver, from),
        Body::RequestVote { .. } => Ok(()),
        Body::Vote { .. } => check_voter(receiver, from),
        Body::LeadershipWanted { .. } => check_voter(receiver, from),
        Body::HeartbeatResponse { .. } | Body::Digest { .. } => Ok(()),
        // Contexts are one node's own, so that nobody has an answer meant for another.
        Body::ReadIndex { context } => match context.node == from.value() {
            true => Ok(()),
            false => Err(Refused::BadContext),
        },
        Body::ReadIndexAnswer { context, .. } => {
            check_leader(receiver, from, message.term)?;
            match context.node == receiver.node.value() {
                true => Ok(()),
                false => Err(Refused::BadContext),
            }
        }
        Body::Snapshot { last, membership } => {
            check_leader(receiver, from, message.term)?;
            check_snapshot(receiver, message.term, *last, membership)
        }
        Body::Transfer(transfer) => check_transfer(transfer),
    }
}

fn check_voter(receiver: &Receiver<'_>, from: NodeId) -> Result<(), Refused> {
    if receiver.membership.is_voter(from) {
        Ok(())
    } else {
        Err(Refused::NotAVoter)
    }
}

fn is_said_by_newer(body: &Body) -> bool {
    match body {
        Body::Append { .. }
        | Body::Heartbeat { .. }
        | Body::TimeoutNow
        | Body::Snapshot { .. }
        | Body::Transfer(Transfer::Chunk { .. } | Transfer::Gone { .. })
        | Body::ReadIndexAnswer { .. }
        | Body::RequestVote { .. } => true,
        Body::AppendAccepted { .. }
        | Body::AppendRejected { .. }
        | Body::Vote { .. }
        | Body::HeartbeatResponse { .. }
        | Body::ReadIndex { .. }
        | Body::LeadershipWanted { .. }
        // The whole state is for members.
        | Body::Transfer(Transfer::Request { .. })
        | Body::Digest { .. } => false,
    }
}

/// What only a leader says comes, in a term with a known leader, from that one (Election Safety, Raft paper,
/// figure 3). Whether it is a voter, this node may not know yet.
fn check_leader(receiver: &Receiver<'_>, from: NodeId, term: Term) -> Result<(), Refused> {
    match receiver.leader {
        Some(leader) if term == receiver.term && leader != from => {
            Err(Refused::NotTheLeader { leader })
        }
        _ => Ok(()),
    }
}

fn check_entries(term: Term, previous: EntryId, entries: &[Entry]) -> Result<(), Refused> {
    let bad = Err(Refused::BadEntries { previous });
    // Raft answers the term of an index it does not have with zero, so that a `previous` of term zero
    // would match any index beyond its log.
    if previous.index < ORIGIN.index || previous.term == Term::ZERO || previous.term > term {
        return bad;
    }
    if entries.len() > ENTRIES_MAX || previous.index > INDEX_MAX {
        return bad;
    }
    let mut last = previous;
    for entry in entries {
        if entry.id.index != last.index.next() || entry.id.term < last.term || entry.id.term > term
        {
            return bad;
        }
        if let Payload::Membership(membership) = &entry.payload
            && membership.index() != entry.id.index
        {
            return bad;
        }
        last = entry.id;
    }
    Ok(())
}

/// `raft` panics on a snapshot whose members make no sense, and ignores one without its receiver. One whose giver does not
/// know who they were would let a few decide for all.
fn check_snapshot(
    receiver: &Receiver<'_>,
    term: Term,
    last: EntryId,
    membership: &Membership,
) -> Result<(), Refused> {
    let possible = (ORIGIN.index..=INDEX_MAX).contains(&last.index)
        && membership.index() <= last.index
        && (!membership.is_provisional() || planted::is("told-members-in-snapshot"))
        && (ORIGIN.term..=term).contains(&last.term);
    match possible && membership.contains(receiver.node) {
        true => Ok(()),
        false => Err(Refused::BadSnapshot { last }),
    }
}

/// Names of places are bounded; everything else about a transfer is compared with what was asked for.
fn check_transfer(transfer: &Transfer) -> Result<(), Refused> {
    let (last, places) = match transfer {
        Transfer::Request { last, after } => (*last, [Some(after), None]),
        Transfer::Chunk {
            last, after, next, ..
        } => (*last, [Some(after), next.as_ref()]),
        Transfer::Gone { last } => (*last, [None, None]),
    };
    let mut places = places.into_iter().flatten();
    match places.all(|place| place.len() <= PLACE_BYTES_MAX) {
        true => Ok(()),
        false => Err(Refused::BadSnapshot { last }),
    }
}

/// An acknowledgement in the leader's own term can only speak of entries the leader has.
fn within_log(receiver: &Receiver<'_>, term: Term, index: LogIndex) -> Result<(), Refused> {
    if receiver.role == Role::Leader && term == receiver.term && index > receiver.last {
        return Err(Refused::BeyondLog {
            index,
            last: receiver.last,
        });
    }
    Ok(())
}
