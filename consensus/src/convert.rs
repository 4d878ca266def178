//! Our types to those of the `raft` crate, and back. The only place that knows both.

use bytes::Bytes;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeV2, ConfState, Entry as PbEntry, EntryType,
    HardState as PbHardState, Message as PbMessage, MessageType, Snapshot as PbSnapshot,
};

use crate::entry::{Entry, Payload};
use crate::membership::Membership;
use crate::message::{Body, Message, ReadContext};
use crate::types::{EntryId, HardState, LogIndex, NodeId, Term};

/// How `raft` marks a vote request that the leader asked for.
const CAMPAIGN_TRANSFER: &[u8] = b"CampaignTransfer";

/// What the context of an entry says that is neither empty nor a command.
const KIND_COMPARE: &[u8] = b"compare";
const KIND_DIGEST: &[u8] = b"digest";

pub(crate) fn entry_to_pb(entry: Entry) -> PbEntry {
    let mut pb = PbEntry {
        term: entry.id.term.value(),
        index: entry.id.index.value(),
        ..PbEntry::default()
    };
    match entry.payload {
        Payload::Empty => {}
        Payload::Command(command) => pb.data = command,
        Payload::Compare => pb.context = Bytes::from_static(KIND_COMPARE),
        Payload::Digest { at, digest } => {
            let numbers = [at.term.value(), at.index.value(), digest];
            let data = numbers.iter().flat_map(|number| number.to_le_bytes());
            (pb.context, pb.data) = (Bytes::from_static(KIND_DIGEST), data.collect());
        }
        // What `raft` itself would want to read is in no entry but a leader's new ones.
        Payload::Membership(membership) => {
            pb.set_entry_type(EntryType::EntryConfChangeV2);
            pb.context = membership.encode().into();
        }
    }
    pb
}

/// A change that `raft` takes for one, whatever the entry says.
pub(crate) fn some_change() -> ConfChangeV2 {
    let mut change = ConfChangeV2::default();
    change.mut_changes().push(ConfChangeSingle::default());
    change
}

/// The inverse of what [`entry_to_pb`] makes of a digest.
fn digest_from_pb(data: &[u8]) -> Option<Payload> {
    let (&[term, index, digest], []) = data.as_chunks::<8>() else {
        return None;
    };
    let [term, index, digest] = [term, index, digest].map(u64::from_le_bytes);
    let at = EntryId::new(Term::new(term), LogIndex::new(index));
    Some(Payload::Digest { at, digest })
}

pub(crate) fn conf_state(membership: &Membership) -> ConfState {
    ConfState {
        voters: membership.voters().map(NodeId::value).collect(),
        learners: membership.learners().map(NodeId::value).collect(),
        voters_outgoing: membership.outgoing().map(NodeId::value).collect(),
        learners_next: membership.staged().map(NodeId::value).collect(),
        ..ConfState::default()
    }
}

/// Whether `state` says of the members what `membership` does; `raft` has them in no order.
pub(crate) fn is_same_members(state: &ConfState, membership: &Membership) -> bool {
    let sorted = |state: &ConfState| {
        let sets = [
            state.get_voters(),
            state.get_learners(),
            state.get_voters_outgoing(),
            state.get_learners_next(),
        ];
        sets.map(|ids| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        })
    };
    sorted(state) == sorted(&conf_state(membership)) && !state.auto_leave
}

/// A snapshot without its content, which travels by itself.
pub(crate) fn snapshot_to_pb(last: EntryId, membership: &Membership) -> PbSnapshot {
    let mut snapshot = PbSnapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = last.index.value();
    metadata.term = last.term.value();
    metadata.set_conf_state(conf_state(membership));
    snapshot.data = membership.encode().into();
    snapshot
}

/// The last entry in a snapshot, and the members at it; `None` without.
pub(crate) fn snapshot_from_pb(snapshot: &PbSnapshot) -> Option<(EntryId, Membership)> {
    let metadata = snapshot.get_metadata();
    if metadata.index == 0 {
        return None;
    }
    let last = EntryId::new(Term::new(metadata.term), LogIndex::new(metadata.index));
    Some((last, Membership::decode(snapshot.get_data())?))
}

/// `None` for a kind of entry that this version never writes.
pub(crate) fn entry_from_pb(entry: PbEntry) -> Option<Entry> {
    match entry.get_entry_type() {
        EntryType::EntryNormal => Some(Entry {
            id: EntryId::new(Term::new(entry.term), LogIndex::new(entry.index)),
            payload: match &entry.context[..] {
                KIND_COMPARE => Payload::Compare,
                KIND_DIGEST => digest_from_pb(&entry.data)?,
                _ if entry.data.is_empty() => Payload::Empty,
                _ => Payload::Command(entry.data),
            },
        }),
        EntryType::EntryConfChangeV2 => {
            let membership = Membership::decode(&entry.context)?;
            Some(Entry {
                id: EntryId::new(Term::new(entry.term), LogIndex::new(entry.index)),
                payload: Payload::Membership(Box::new(membership)),
            })
        }
        EntryType::EntryConfChange => None,
    }
}

pub(crate) fn hard_state_to_pb(hard_state: HardState) -> PbHardState {
    PbHardState {
        term: hard_state.term.value(),
        vote: hard_state.vote.map_or(0, NodeId::value),
        commit: hard_state.commit.value(),
        ..PbHardState::default()
    }
}

pub(crate) fn hard_state_from_pb(hard_state: &PbHardState) -> HardState {
    HardState {
        term: Term::new(hard_state.term),
        vote: NodeId::new(hard_state.vote),
        commit: LogIndex::new(hard_state.commit),
    }
}

/// The message `raft` is given for `message`, received from `from` at `to`.
pub(crate) fn message_to_pb(from: NodeId, to: NodeId, message: Message) -> PbMessage {
    let mut pb = PbMessage {
        from: from.value(),
        to: to.value(),
        term: message.term.value(),
        ..PbMessage::default()
    };
    match message.body {
        Body::Append {
            previous,
            commit,
            entries,
        } => {
            pb.set_msg_type(MessageType::MsgAppend);
            pb.index = previous.index.value();
            pb.log_term = previous.term.value();
            pb.commit = commit.value();
            pb.entries = entries
                .into_iter()
                .map(entry_to_pb)
                .collect::<Vec<_>>()
                .into();
        }
        Body::AppendAccepted { last, commit } => {
            pb.set_msg_type(MessageType::MsgAppendResponse);
            pb.index = last.value();
            pb.commit = commit.value();
        }
        Body::AppendRejected {
            previous,
            hint,
            commit,
        } => {
            pb.set_msg_type(MessageType::MsgAppendResponse);
            pb.reject = true;
            pb.index = previous.value();
            pb.reject_hint = hint.index.value();
            pb.log_term = hint.term.value();
            pb.commit = commit.value();
        }
        Body::RequestVote {
            pre,
            last,
            commit,
            transfer,
        } => {
            pb.set_msg_type(match pre {
                true => MessageType::MsgRequestPreVote,
                false => MessageType::MsgRequestVote,
            });
            pb.index = last.index.value();
            pb.log_term = last.term.value();
            pb.commit = commit.index.value();
            pb.commit_term = commit.term.value();
            if transfer {
                pb.context = Bytes::from_static(CAMPAIGN_TRANSFER);
            }
        }
        Body::Vote {
            pre,
            granted,
            commit,
        } => {
            pb.set_msg_type(match pre {
                true => MessageType::MsgRequestPreVoteResponse,
                false => MessageType::MsgRequestVoteResponse,
            });
            pb.reject = !granted;
            pb.commit = commit.index.value();
            pb.commit_term = commit.term.value();
        }
        Body::Heartbeat { commit, read } => {
            pb.set_msg_type(MessageType::MsgHeartbeat);
            pb.commit = commit.value();
            pb.context = read_context_to_pb(read);
        }
        Body::HeartbeatResponse { commit, read } => {
            pb.set_msg_type(MessageType::MsgHeartbeatResponse);
            pb.commit = commit.value();
            pb.context = read_context_to_pb(read);
        }
        Body::TimeoutNow => pb.set_msg_type(MessageType::MsgTimeoutNow),
        Body::Snapshot { last, membership } => {
            pb.set_msg_type(MessageType::MsgSnapshot);
            pb.set_snapshot(snapshot_to_pb(last, &membership));
        }
        Body::Transfer(_)
        | Body::Digest { .. }
        | Body::ReadIndex { .. }
        | Body::LeadershipWanted { .. }
        | Body::ReadIndexAnswer { .. } => unreachable!("{:?} is not for `raft`", message.body),
    }
    pb
}

/// The receiver and the message to send for what `raft` produced; `None` for a kind that is never
/// sent to others in this version.
pub(crate) fn message_from_pb(mut pb: PbMessage) -> Option<(NodeId, Message)> {
    let to = NodeId::new(pb.to)?;
    let commit = LogIndex::new(pb.commit);
    let log_id = EntryId::new(Term::new(pb.log_term), LogIndex::new(pb.index));
    let commit_id = EntryId::new(Term::new(pb.commit_term), commit);
    let body = match pb.get_msg_type() {
        MessageType::MsgAppend => Body::Append {
            previous: log_id,
            commit,
            entries: pb
                .take_entries()
                .into_vec()
                .into_iter()
                .map(entry_from_pb)
                .collect::<Option<Vec<_>>>()?,
        },
        MessageType::MsgAppendResponse if pb.reject => Body::AppendRejected {
            previous: LogIndex::new(pb.index),
            hint: EntryId::new(Term::new(pb.log_term), LogIndex::new(pb.reject_hint)),
            commit,
        },
        MessageType::MsgAppendResponse => Body::AppendAccepted {
            last: LogIndex::new(pb.index),
            commit,
        },
        kind @ (MessageType::MsgRequestVote | MessageType::MsgRequestPreVote) => {
            Body::RequestVote {
                pre: kind == MessageType::MsgRequestPreVote,
                last: log_id,
                commit: commit_id,
                transfer: pb.context == CAMPAIGN_TRANSFER,
            }
        }
        kind @ (MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse) => {
            Body::Vote {
                pre: kind == MessageType::MsgRequestPreVoteResponse,
                granted: !pb.reject,
                commit: commit_id,
            }
        }
        MessageType::MsgHeartbeat => Body::Heartbeat {
            commit,
            read: ReadContext::from_bytes(&pb.context),
        },
        MessageType::MsgHeartbeatResponse => Body::HeartbeatResponse {
            commit,
            read: ReadContext::from_bytes(&pb.context),
        },
        MessageType::MsgTimeoutNow => Body::TimeoutNow,
        MessageType::MsgSnapshot => {
            let (last, membership) = snapshot_from_pb(pb.get_snapshot())?;
            Body::Snapshot { last, membership }
        }
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp => return None,
    };
    Some((
        to,
        Message {
            term: Term::new(pb.term),
            body,
        },
    ))
}

fn read_context_to_pb(read: Option<ReadContext>) -> Bytes {
    read.map_or_else(Bytes::new, |context| {
        Bytes::copy_from_slice(&context.to_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_message_survives_the_way_to_raft_and_back() {
        let id = |term, index| EntryId::new(Term::new(term), LogIndex::new(index));
        let (from, to) = (NodeId::new(1).unwrap(), NodeId::new(2).unwrap());
        let read = Some(ReadContext {
            node: 1,
            boot: 2,
            round: u64::MAX,
        });
        let bodies = [
            Body::Append {
                previous: id(3, 7),
                commit: LogIndex::new(6),
                entries: vec![
                    Entry::empty(id(3, 8)),
                    Entry::command(id(4, 9), Bytes::from_static(b"x")),
                    Entry {
                        id: id(4, 10),
                        payload: Payload::Compare,
                    },
                    Entry {
                        id: id(4, 11),
                        payload: Payload::Digest {
                            at: id(4, 10),
                            digest: u64::MAX,
                        },
                    },
                ],
            },
            Body::AppendAccepted {
                last: LogIndex::new(9),
                commit: LogIndex::new(8),
            },
            Body::AppendRejected {
                previous: LogIndex::new(9),
                hint: id(2, 5),
                commit: LogIndex::new(4),
            },
            Body::RequestVote {
                pre: true,
                last: id(3, 7),
                commit: id(2, 6),
                transfer: false,
            },
            Body::RequestVote {
                pre: false,
                last: id(3, 7),
                commit: id(2, 6),
                transfer: true,
            },
            Body::Vote {
                pre: true,
                granted: false,
                commit: id(2, 6),
            },
            Body::Vote {
                pre: false,
                granted: true,
                commit: id(0, 0),
            },
            Body::Heartbeat {
                commit: LogIndex::new(5),
                read,
            },
            Body::HeartbeatResponse {
                commit: LogIndex::new(5),
                read: None,
            },
            Body::TimeoutNow,
            Body::Snapshot {
                last: id(3, 7),
                membership: Membership::new([from, to], []).unwrap(),
            },
        ];
        for body in bodies {
            let message = Message {
                term: Term::new(4),
                body,
            };
            let pb = message_to_pb(from, to, message.clone());
            assert_eq!(message_from_pb(pb), Some((to, message)));
        }
    }
}
