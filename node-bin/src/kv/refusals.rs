//! What the errors of consensus are to a client: whether to ask again, and words without the notation of logs.

use quorate_consensus::{
    ChangeRefused, MembershipChange, MembershipError, NodeId, ProposeError, ReadError,
    TransferError,
};

use super::protocol::Refusal;

pub(super) fn propose_refusal(error: ProposeError) -> Refusal {
    match error {
        ProposeError::NotLeader { leader } => Refusal::NotLeader { leader },
        ProposeError::Overloaded => Refusal::Overloaded,
        ProposeError::TooLarge { bytes, bytes_max } => Refusal::TooLarge { bytes, bytes_max },
        ProposeError::Stopped => Refusal::Stopping,
        ProposeError::OutcomeUnknown { .. } => Refusal::OutcomeUnknown,
        error => Refusal::malformed(error),
    }
}

pub(super) fn read_refusal(error: ReadError) -> Refusal {
    match error {
        ReadError::NotLeader { leader } => Refusal::NotLeader { leader },
        ReadError::Overloaded => Refusal::Overloaded,
        ReadError::TimedOut => Refusal::TimedOut,
        ReadError::Stopped => Refusal::Stopping,
        error => Refusal::malformed(error),
    }
}

/// Why leadership was not handed `to` it.
pub(super) fn transfer_refusal(error: TransferError, to: Option<NodeId>) -> Refusal {
    match error {
        TransferError::NotLeader { leader } => Refusal::NotLeader { leader },
        TransferError::TimedOut { .. } => Refusal::TimedOut,
        TransferError::Stopped => Refusal::Stopping,
        TransferError::NoTarget => Refusal::malformed(match to {
            Some(to) => format!(
                "there is no such voter as node {} to hand leadership to",
                to.value()
            ),
            None => "there is no other voter to hand leadership to".to_owned(),
        }),
        error => Refusal::malformed(error),
    }
}

/// Why the members were not changed as `change` says.
pub(super) fn membership_refusal(error: MembershipError, change: &MembershipChange) -> Refusal {
    match error {
        MembershipError::NotLeader { leader } => Refusal::NotLeader { leader },
        MembershipError::ChangeInProgress => Refusal::Busy,
        MembershipError::OutcomeUnknown => Refusal::OutcomeUnknown,
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
        error => Refusal::not_changed(error),
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
        ChangeRefused::NoAddress { node } => {
            format!("an address is needed for the new node {}", node.value())
        }
        why => why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use quorate_consensus::LogIndex;

    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
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
        let nobody = transfer_refusal(TransferError::NoTarget, Some(node(9)));
        assert!(
            nobody.to_string().contains("no such voter as node 9"),
            "{nobody}"
        );
    }
}
