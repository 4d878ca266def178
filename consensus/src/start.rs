//! What a node starts from: the settings of `raft`, and whether log and state machine fit together.

use raft::ReadOnlyOption;

use crate::config::{Config, ELECTION_TICKS};
use crate::durability::Recovered;
use crate::error::StartError;
use crate::membership::Standing;
use crate::planted;
use crate::types::{EntryId, LogIndex, NodeId};

/// Append messages that may be on their way to one member. With [`Config::message_bytes_max`] this
/// bounds what one slow member can hold in queues: 8 MiB at the default size, half of what the
/// transport queues for a lane. A queue that ran over would be filled again with what it holds already.
/// While that many are on their way, further entries gather into larger messages.
const INFLIGHT_MESSAGES_MAX: usize = 32;

/// The settings under which `raft` keeps its promises; the defaults do not.
pub(crate) fn raft_config(config: &Config, applied: LogIndex) -> raft::Config {
    raft::Config {
        id: config.node.value(),
        election_tick: ELECTION_TICKS,
        heartbeat_tick: config.heartbeat_ticks(),
        applied: applied.value(),
        max_size_per_msg: config.message_bytes_max,
        max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
        check_quorum: !planted::is("no-check-quorum"),
        pre_vote: !planted::is("no-pre-vote"),
        read_only_option: match planted::is("lease-reads") {
            true => ReadOnlyOption::LeaseBased,
            false => ReadOnlyOption::Safe,
        },
        // Members learn what is committed from the next entries, and at the latest from the next
        // heartbeat. Telling them at once would double the messages of a quiet cluster, and nobody
        // waits for it: a read by a member brings the commit index with it.
        skip_bcast_commit: true,
        // Proposals are bounded before they reach `raft`, whose own bound drops whole batches.
        max_uncommitted_size: raft::NO_LIMIT,
        max_committed_size_per_ready: config.uncommitted_bytes_max,
        ..raft::Config::default()
    }
}

/// Whether a state machine that has applied everything up to `applied` can go on with this log.
pub(crate) fn check_recovered(
    node: NodeId,
    recovered: &Recovered,
    applied: EntryId,
) -> Result<(), StartError> {
    let members = recovered.membership_at(applied.index);
    if members.standing(node) == Standing::Removed {
        let members = members.to_string();
        return Err(StartError::NotAMember { node, members });
    }
    let last = EntryId::new(recovered.last_term(), recovered.last);
    if applied.index > recovered.last {
        return Err(StartError::StateAheadOfLog { applied, last });
    }
    let base = recovered.base();
    if applied.index < base.index {
        return Err(StartError::StateBehindLog { applied, base });
    }
    let run = recovered
        .terms
        .iter()
        .rev()
        .find(|first| first.index <= applied.index);
    let term = run.map_or(base.term, |first| first.term);
    if term != applied.term {
        return Err(StartError::StateNotOfThisLog {
            applied,
            term: term.value(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `raft` takes unless told otherwise (its `config.rs`, line 103) keeps no promise and bounds
    /// nothing; each of these is told otherwise, or harmless as it is used here.
    #[test]
    fn defaults_of_raft_that_must_not_be_kept() {
        let default = raft::Config::default();
        assert!(!default.check_quorum && !default.pre_vote);
        assert_eq!((default.max_size_per_msg, default.applied), (0, 0));
        assert_eq!(default.max_committed_size_per_ready, raft::NO_LIMIT);
        assert_eq!(default.max_uncommitted_size, raft::NO_LIMIT);

        let node = NodeId::new(3).expect("not zero");
        let config = Config::new(node);
        let ours = raft_config(&config, LogIndex::new(7));
        assert_eq!(ours.validate(), Ok(()));
        assert_eq!((ours.id, ours.applied), (3, 7));
        assert!(ours.check_quorum && ours.pre_vote);
        assert_eq!(ours.read_only_option, ReadOnlyOption::Safe);
        assert!((64 << 10..=1 << 20).contains(&ours.max_size_per_msg));
        assert_ne!(ours.max_committed_size_per_ready, raft::NO_LIMIT);
        assert!(ours.max_inflight_msgs as u64 * ours.max_size_per_msg <= 8 << 20);
        // Nobody is preferred: a voter refuses one of lower priority whose log is as long as its own.
        assert_eq!(ours.priority, 0);
        // The bound of `raft` is not used, because `may_propose` has one that answers each command.
        assert_eq!(ours.max_uncommitted_size, raft::NO_LIMIT);
        assert_ne!(config.uncommitted_bytes_max, raft::NO_LIMIT);
    }
}
