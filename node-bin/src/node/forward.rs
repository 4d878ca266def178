//! What one member asks of another: to propose a command, since it leads.

use bytes::Bytes;
use quorate_consensus::{NodeId, ProposeError};
use quorate_quic_transport::{IncomingCall, Message, Refusal};
use serde::{Deserialize, Serialize};

use super::NodeHandle;
use super::space::{CommandError, DiskNearlyFull};
use crate::once::split;

/// Kinds from here on are the node's own, and never reach a [`Service`](super::Service).
pub(super) const OWN_KINDS: u16 = 0xff00;

/// Propose this.
#[derive(Serialize, Deserialize)]
pub(super) struct Forward(pub(super) Bytes);

impl Message for Forward {
    const KIND: u16 = OWN_KINDS;
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Forwarded {
    /// It was applied.
    Answer(Bytes),
    /// Nothing happened: somebody else leads.
    NotLeader { leader: Option<NodeId> },
    /// Nothing happened: there is too much to do.
    Overloaded,
    /// Nothing happened: the node stops.
    Stopped,
    /// It may have been applied, or may yet be.
    OutcomeUnknown,
    /// Nothing happened, and nothing will.
    Refused(ForGood),
}

impl Message for Forwarded {
    const KIND: u16 = OWN_KINDS + 1;
}

/// Why a command is never taken as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum ForGood {
    TooLarge { bytes: u64, bytes_max: u64 },
    Empty,
    DiskNearlyFull(DiskNearlyFull),
}

impl From<ForGood> for CommandError {
    fn from(refused: ForGood) -> Self {
        match refused {
            ForGood::TooLarge { bytes, bytes_max } => {
                ProposeError::TooLarge { bytes, bytes_max }.into()
            }
            ForGood::Empty => ProposeError::Empty.into(),
            ForGood::DiskNearlyFull(full) => full.into(),
        }
    }
}

impl From<Result<Bytes, CommandError>> for Forwarded {
    fn from(outcome: Result<Bytes, CommandError>) -> Self {
        match outcome {
            Ok(answer) => Self::Answer(answer),
            Err(CommandError::DiskNearlyFull(full)) => Self::Refused(ForGood::DiskNearlyFull(full)),
            Err(CommandError::Propose(error)) => match error {
                ProposeError::NotLeader { leader } => Self::NotLeader { leader },
                ProposeError::Overloaded => Self::Overloaded,
                ProposeError::Stopped => Self::Stopped,
                ProposeError::TooLarge { bytes, bytes_max } => {
                    Self::Refused(ForGood::TooLarge { bytes, bytes_max })
                }
                ProposeError::Empty => Self::Refused(ForGood::Empty),
                _ => Self::OutcomeUnknown,
            },
        }
    }
}

/// Answers a call of one of the node's own kinds. Members may propose whatever they like, under their own numbers where there are any; nobody
/// else may, past the service that checks it.
pub(super) fn answer(node: &NodeHandle, call: IncomingCall) {
    let from = call.from.node_id().map(NodeId::from);
    let from = from.filter(|from| node.facts.book.is_member(*from));
    let Some(from) = from.filter(|_| node.facts.takes_forwarded) else {
        return call.reply.refuse(Refusal::UnknownKind);
    };
    let Ok(Forward(command)) = call.decode() else {
        return call.reply.refuse(Refusal::Malformed);
    };
    // Under another one's numbers, it could have all that one sends taken for late.
    let is_own = || split(&command).is_some_and(|(tag, _)| tag.is_of(from));
    if node.facts.slots.is_some() && !is_own() {
        return call.reply.refuse(Refusal::Malformed);
    }
    let (proposed, reply) = (node.propose_as_it_is(command), call.reply);
    node.spawn(async move {
        let outcome = proposed.await;
        reply.send(&Forwarded::from(outcome));
    });
}
