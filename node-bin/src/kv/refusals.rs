//! What the errors of consensus are to a client: whether to ask again, and words without the notation of logs.
//!
//! Those enums may grow. What is not known here is told as unknown: a client would take anything else as a promise that
//! nothing happened.

use quorate_consensus::{
    ChangeRefused, MembershipChange, MembershipError, NODE_ID_STEP_MAX, NodeId, ProposeError,
    ReadError, TransferError,
};

use super::protocol::Refusal;

pub(super) fn propose_refusal(error: ProposeError) -> Refusal {
    match error {
        ProposeError::NotLeader { leader } => Refusal::NotLeader { leader },
        ProposeError::Overloaded => Refusal::Overloaded,
        ProposeError::TooLarge { bytes, bytes_max } => Refusal::TooLarge { bytes, bytes_max },
        ProposeError::Stopped => Refusal::Stopping,
        error @ ProposeError::Empty => Refusal::malformed(error),
        _ => Refusal::OutcomeUnknown,
    }
}

pub(super) fn read_refusal(error: &ReadError) -> Refusal {
    match error {
        ReadError::NotLeader { leader } => Refusal::NotLeader { leader: *leader },
        ReadError::Overloaded => Refusal::Overloaded,
        ReadError::TimedOut => Refusal::TimedOut,
        ReadError::Stopped => Refusal::Stopping,
        _ => Refusal::OutcomeUnknown,
    }
}

/// Why leadership was not handed `to` it.
pub(super) fn transfer_refusal(error: &TransferError, to: Option<NodeId>) -> Refusal {
    match error {
        TransferError::NotLeader { leader } => Refusal::NotLeader { leader: *leader },
        TransferError::TimedOut { .. } => Refusal::TimedOut,
        TransferError::Stopped => Refusal::Stopping,
        TransferError::NoTarget => Refusal::malformed(match to {
            Some(to) => format!(
                "there is no such voter as node {} to hand leadership to",
                to.value()
            ),
            None => "there is no other voter to hand leadership to".to_owned(),
        }),
        _ => Refusal::OutcomeUnknown,
    }
}

/// Why the members were not changed as `change` says.
pub(super) fn membership_refusal(error: MembershipError, change: &MembershipChange) -> Refusal {
    match error {
        MembershipError::NotLeader { leader } => Refusal::NotLeader { leader },
        MembershipError::ChangeInProgress => Refusal::Busy,
        MembershipError::Stopped => Refusal::Stopping,
        MembershipError::LearnerBehind {
            node,
            matched,
            commit,
        } => Refusal::not_yet(format_args!(
            "node {} has not caught up yet: it has {matched} of {commit}; try again later",
            node.value()
        )),
        MembershipError::Refused(why) => Refusal::not_changed(senseless(why, change)),
        error @ (MembershipError::Stale { .. } | MembershipError::WouldLoseQuorum { .. }) => {
            Refusal::not_changed(error)
        }
        _ => Refusal::OutcomeUnknown,
    }
}

fn senseless(why: ChangeRefused, change: &MembershipChange) -> String {
    match why {
        ChangeRefused::UnknownNode { node } => {
            format!("node {} is not a member of this cluster", node.value())
        }
        ChangeRefused::AlreadyMember { node } => {
            let what = match change {
                MembershipChange::Promote { .. } => "is a voter already",
                MembershipChange::Move { .. } => "has that address already",
                MembershipChange::Set { .. }
                | MembershipChange::Add { .. }
                | MembershipChange::Remove { .. } => "is a member already",
            };
            format!("node {} {what}", node.value())
        }
        ChangeRefused::NodeIdReused { highest, .. } => format!(
            "numbers of nodes are never used again: give the new one a number above {}",
            highest.value()
        ),
        ChangeRefused::NodeIdTooHigh { node, highest } => format!(
            "number {} is too far above all others, and numbers would run out: give the new node one from {} to {}",
            node.value(),
            highest.value().saturating_add(1),
            highest.value().saturating_add(NODE_ID_STEP_MAX)
        ),
        ChangeRefused::NoSuchPlace { address, .. } => format!(
            "nobody can be reached at {address}: give an address and a port that the others can dial"
        ),
        ChangeRefused::NoAddress { node } => {
            format!("an address is needed for the new node {}", node.value())
        }
        why => why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use quorate_consensus::{EntryId, LogIndex, Term};

    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    /// A write is refused as one that has certainly not happened only if that is so, whatever the reason.
    #[test]
    fn each_error_of_a_write_or_a_read_has_its_refusal() {
        let leader = Some(node(2));
        let (bytes, bytes_max) = (2, 1);
        let at = EntryId::new(Term::new(3), LogIndex::new(7));
        for (error, refusal) in [
            (
                ProposeError::NotLeader { leader },
                Refusal::NotLeader { leader },
            ),
            (ProposeError::Overloaded, Refusal::Overloaded),
            (
                ProposeError::TooLarge { bytes, bytes_max },
                Refusal::TooLarge { bytes, bytes_max },
            ),
            (
                ProposeError::Empty,
                Refusal::malformed("a command must not be empty"),
            ),
            (ProposeError::Stopped, Refusal::Stopping),
            (
                ProposeError::OutcomeUnknown { at: None },
                Refusal::OutcomeUnknown,
            ),
            (
                ProposeError::OutcomeUnknown { at: Some(at) },
                Refusal::OutcomeUnknown,
            ),
        ] {
            let told = propose_refusal(error.clone());
            assert_eq!(told, refusal, "{error}");
            assert_eq!(told.is_ambiguous(), !error.nothing_happened(), "{error}");
        }
        for (error, refusal) in [
            (
                ReadError::NotLeader { leader },
                Refusal::NotLeader { leader },
            ),
            (ReadError::Overloaded, Refusal::Overloaded),
            (ReadError::TimedOut, Refusal::TimedOut),
            (ReadError::Stopped, Refusal::Stopping),
        ] {
            assert_eq!(read_refusal(&error), refusal, "{error}");
        }
    }

    /// The same of what moves leadership or changes the members.
    #[test]
    fn each_error_of_an_operator_s_command_has_its_refusal() {
        let leader = Some(node(2));
        let to = Some(node(3));
        for (error, refusal) in [
            (
                TransferError::NotLeader { leader },
                Refusal::NotLeader { leader },
            ),
            (
                TransferError::TimedOut { target: node(3) },
                Refusal::TimedOut,
            ),
            (TransferError::OutcomeUnknown, Refusal::OutcomeUnknown),
            (TransferError::Stopped, Refusal::Stopping),
        ] {
            assert_eq!(transfer_refusal(&error, to), refusal, "{error}");
        }
        let promote = MembershipChange::Promote { node: node(3) };
        let actual = LogIndex::new(9);
        let (active, voters) = (1, 3);
        let stale = MembershipError::Stale { actual };
        let no_quorum = MembershipError::WouldLoseQuorum { active, voters };
        for (error, refusal) in [
            (
                MembershipError::NotLeader { leader },
                Refusal::NotLeader { leader },
            ),
            (MembershipError::ChangeInProgress, Refusal::Busy),
            (stale.clone(), Refusal::not_changed(stale)),
            (no_quorum.clone(), Refusal::not_changed(no_quorum)),
            (MembershipError::OutcomeUnknown, Refusal::OutcomeUnknown),
            (MembershipError::Stopped, Refusal::Stopping),
        ] {
            let told = membership_refusal(error.clone(), &promote);
            assert_eq!(told, refusal, "{error}");
            let unknown = error == MembershipError::OutcomeUnknown;
            assert_eq!(told.is_ambiguous(), unknown, "{error}");
        }
    }

    /// What may be asked again later is told from what may not, and nodes are called as an operator calls them.
    #[test]
    fn operators_read_what_to_do() {
        let promote = MembershipChange::Promote { node: node(3) };
        let behind = MembershipError::LearnerBehind {
            node: node(3),
            matched: LogIndex::new(5),
            commit: LogIndex::new(7),
        };
        let why = "node 3 has not caught up yet: it has 5 of 7; try again later".into();
        assert_eq!(
            membership_refusal(behind, &promote),
            Refusal::NotYet { why }
        );
        let already = MembershipError::Refused(ChangeRefused::AlreadyMember { node: node(3) });
        let why = "node 3 is a voter already".into();
        assert_eq!(
            membership_refusal(already, &promote),
            Refusal::NotChanged { why }
        );
        for (why, said) in [
            (
                ChangeRefused::NodeIdTooHigh {
                    node: node(u64::MAX),
                    highest: node(3),
                },
                "one from 4 to 1000003",
            ),
            (
                ChangeRefused::NoSuchPlace {
                    node: node(4),
                    address: ([0, 0, 0, 0], 7005).into(),
                },
                "nobody can be reached at 0.0.0.0:7005",
            ),
        ] {
            let refusal = membership_refusal(MembershipError::Refused(why), &promote);
            assert!(refusal.to_string().contains(said), "{refusal}");
        }
        let nobody = transfer_refusal(&TransferError::NoTarget, Some(node(9)));
        assert!(
            nobody.to_string().contains("no such voter as node 9"),
            "{nobody}"
        );
    }
}
