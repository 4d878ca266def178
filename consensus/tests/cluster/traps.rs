//! The traps of `raft` 0.7: where it panics, drops something without a word or believes what it is told. The
//! design page "Driving the `raft` crate" lists them; its sections are named here.
//!
//! Each test shows both sides: that `raft` by itself does it, at the line of its source that is named, and
//! that a `RaftNode` does not. Those named without a folder are in `traps/`. The others, elsewhere, show the
//! second side only.
//!
//! | | trap | test |
//! |---|---|---|
//! | 3.1 | a position to be tried before what was acknowledged (#557) | `snapshots::a_position_before_what_was_acknowledged` |
//! | 3.1 | all unapplied entries are read at once (#530) | `storage::what_is_not_applied_is_read_at_once` |
//! | 3.1 | applied beyond the commit index (#561) | `starting::a_state_ahead_of_the_commit_index` |
//! | 3.1 | proposals are forwarded, without a switch (#552) | `proposals::a_follower_passes_proposals_on` |
//! | 3.1 | `protobuf` 2 must not parse what peers send | types: `Message` is serde's, and `Membership::decode` our own |
//! | 3.2 | no check of the quorum, no rehearsal of elections | `leadership::defaults_that_lead_on_and_disturb` |
//! | 3.2 | one entry in a message | `leadership::defaults_that_send_one_by_one` |
//! | 3.2 | priorities | `leadership::priorities_refuse_votes` |
//! | 3.2 | the other defaults | `src/start::defaults_of_raft_that_must_not_be_kept` |
//! | 3.3 | an input between `ready` and `advance` | `ready::an_input_before_a_ready_is_done` |
//! | 3.3 | messages that wait for the disk | `ready::what_must_wait_for_the_disk` |
//! | 3.3 | a snapshot is durable before the log before it is gone | `cluster/snapshots::g3_a_crash_at_any_step_of_installing_a_snapshot` |
//! | 3.3 | applied before the commit index is durable | `cluster/restart::applied_may_be_ahead_of_the_durable_commit` |
//! | 3.3 | `advance_append` takes all for durable | `ready::what_is_not_durable_yet` |
//! | 3.3 | what is written must be readable | `ready::what_is_on_its_way_to_the_disk` |
//! | - | entries that are replaced and come again (not on the page) | `ready::entries_that_are_replaced_and_come_again` |
//! | 3.3 | `advance` takes all for applied | `ready::what_is_not_applied_yet` |
//! | 3.3 | numbers of writes come in order | `cluster/durability::tickets_come_one_by_one` |
//! | 3.3 | the vote is durable before entries of its term | `cluster/durability::a4_no_vote_before_its_ticket` |
//! | 3.4 | the members at the applied entry | `cluster/membership::f11_a_change_that_is_not_committed_does_not_count` |
//! | 3.4 | the commit index is in the log | `starting::a_commit_index_outside_of_the_log` |
//! | 3.4 | applied is not beyond the commit index | `starting::a_state_ahead_of_the_commit_index` |
//! | 3.4 | applied is not set | `starting::a_state_that_raft_is_not_told_of` |
//! | 3.4 | a conflicting tail is cut off | `storage::a_tail_that_is_not_cut_off` |
//! | 3.4 | the term before the first entry | `storage::the_term_before_an_empty_log` |
//! | 3.4 | compaction beyond applied | `storage::a_log_compacted_beyond_the_state` |
//! | 3.4 | errors are fatal; no entries and no error | `storage::errors_of_the_storage` |
//! | 3.4 | a snapshot of nothing, or none | `snapshots::a_snapshot_that_is_none` |
//! | 3.4 | a snapshot without its receiver | `messages::a_snapshot_for_others` |
//! | 3.4 | a snapshot without its receiver, at the leader | `src/log_view::what_is_compacted_is_in_a_snapshot` |
//! | 3.4 | at least one entry, within a size | `src/log_view::entries_are_limited_by_bytes_but_there_is_always_one` |
//! | 3.4 | entries fetched that were not asked for | `storage::entries_that_nobody_waits_for` |
//! | 3.5 | a proposal or a read of nothing; a move of leadership | `messages::i6_kinds_that_have_no_message` |
//! | 3.5 | what a follower forwards, with a term | `messages::i6_kinds_that_a_follower_passes_on` |
//! | 3.5 | a commit index beyond the log | `messages::e5_a_commit_beyond_the_log` |
//! | 3.5 | ... by a previous entry of term zero | `messages::i7_a_previous_entry_of_term_zero` |
//! | 3.5 | entries in place of committed ones | `messages::i7_entries_in_place_of_committed_ones` |
//! | 3.5 | entries with a gap | `messages::i7_entries_with_a_gap` |
//! | 3.5 | entries of impossible terms | `messages::entries_of_impossible_terms` |
//! | 3.5 | previous entries that cannot be | `messages::previous_entries_that_cannot_be` |
//! | 3.5 | a snapshot of impossible members | `messages::i7_a_snapshot_of_impossible_members` |
//! | 3.5 | term zero | `messages::i7_a_message_of_term_zero` |
//! | 3.5 | a term that overflows | `messages::i7_a_term_that_overflows` |
//! | 3.5 | an acknowledgement that overflows | `messages::i7_an_acknowledgement_beyond_the_log` |
//! | 3.5 | a forged answer to a read | `standing::an_answer_to_a_read_that_is_forged` |
//! | 3.5 | a vote request that ends the lease | `standing::learners_do_not_speak_for_voters` |
//! | 3.5 | an election that anybody asks for | `standing::only_the_leader_hands_over` |
//! | 3.5 | senders that are no members | `standing::strangers_are_not_heard` |
//! | 3.5 | two leaders of a term | `standing::a_second_leader_of_a_term` |
//! | 3.5 | a vote of an earlier rehearsal | `standing::a_vote_of_an_earlier_rehearsal` |
//! | 3.5 | votes before the log is durable | `standing::votes_before_the_log_is_durable` |
//! | 3.5 | ... at a single voter | `standing::a_single_voter_waits_for_its_disk_before_it_elects_itself` |
//! | - | a vote that commits (not on the page) | `standing::a_vote_that_commits` |
//! | 3.5 | messages to another, or relayed | types: a `Message` names neither sender nor receiver |
//! | 3.5 | a panic all the same: fail-stop | built so: a release aborts (`panic = "abort"`), and nothing here catches one |
//! | 3.6 | no index is returned | `proposals::an_index_is_given_to_another_command` |
//! | 3.6 | a follower forwards | `proposals::a_follower_passes_proposals_on` |
//! | 3.6 | `ProposalDropped` for every reason | `proposals::a_proposal_is_dropped` |
//! | 3.6 | the bound is given back late | `proposals::what_is_committed_still_counts` |
//! | 3.6 | empty entries | `proposals::an_empty_entry_is_committed` |
//! | 3.7 | a refused change becomes an empty entry | `members::a_change_that_is_refused_becomes_an_empty_entry` |
//! | 3.7 | a change is applied when its entry is | `cluster/membership::f11_a_change_that_is_not_committed_does_not_count` |
//! | 3.7 | a change without data, or context | `members::a_change_without_data` |
//! | 3.7 | `auto_leave` does not fire: not reached, a new leader does leave; here a leader asks | `cluster/membership::f4_the_next_leader_leaves_the_joint_membership` |
//! | 3.7 | a demotion is no removal | `members::a_voter_becomes_a_learner` |
//! | 3.7 | a leader removes itself | `members::a_leader_that_removes_itself` |
//! | 3.7 | the removed are not told | `cluster/membership::f5_f6_a_removed_node_stays_away` |
//! | 3.7 | a change that loses the quorum | `cluster/membership::a_change_that_would_lose_the_quorum_is_refused` |
//! | 3.7 | a new voter that lags | `cluster/membership::f7_a_learner_that_lags_is_not_promoted` |
//! | 3.7 | a change before the first commit of a term | `cluster/membership::f3_a_new_leader_waits_for_its_first_commit` |
//! | 3.7 | learners vote | `standing::votes_of_learners_are_not_counted` |
//! | 3.7 | who does not vote campaigns, and wins without voters | `members::a_campaign_of_somebody_who_does_not_vote` |
//! | 3.8 | reads are dropped | `reads::a_read_is_dropped` |
//! | 3.8 | reads go with the leadership | `reads::reads_that_wait_are_forgotten` |
//! | 3.8 | a context is used twice | `reads::a_context_is_used_again` |
//! | 3.8 | ... by another life of a node | `cluster/reads::h5_contexts_differ_after_a_restart` |
//! | 3.8 | each read is a round | `reads::each_read_asks_everybody` |
//! | 3.8 | confirmed is not applied | `reads::a_read_is_confirmed_before_it_is_applied` |
//! | 3.8 | a single voter without a commit | `reads::a_single_voter_has_not_committed` |
//! | 3.8 | leases | `reads::a_lease_is_believed` |
//! | 3.9 | a snapshot that does not arrive | `snapshots::a_snapshot_that_does_not_arrive` |
//! | 3.9 | messages that could not be sent | `snapshots::appends_that_are_lost` |
//! | 3.9 | the content is in the message | types: `Body::Snapshot` has none |
//! | 3.9 | none yet | `snapshots::a_snapshot_that_is_none` |
//! | 3.9 | only to who was heard of lately | `cluster/snapshots::a_member_that_needs_what_was_compacted_gets_a_snapshot` |
//! | 3.9 | `request_snapshot`, `adjust_max_inflight_msgs` | out of reach: neither is called |
//! | 3.10 | a transfer ends without a word | `leadership::a_transfer_ends_without_a_word` |
//! | 3.10 | changes that are not applied stop elections | `leadership::a_change_that_is_not_applied` |
//! | - | a single voter is told to lead before its log is durable | `leadership::a_single_voter_is_told_to_lead_before_its_log_is_durable` |
//! | 3.10 | bursts of ticks | `leadership::a_burst_of_ticks` |
//! | 3.10 | ... at a leader | `cluster/elections::c10_a_burst_of_ticks_at_the_leader_is_survived` |
//! | 3.10 | pre-vote is the same everywhere | built so: it has no switch |
//! | 3.10 | group commit | out of reach: not used |
//! | 3.11 | an election before a snapshot is installed | `snapshots::an_election_before_a_snapshot_is_installed` |

mod bare;
mod broken;
mod leadership;
mod members;
mod messages;
mod proposals;
mod reads;
mod ready;
mod snapshots;
mod standing;
mod starting;
mod storage;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use quorate_consensus::{Body, Entry, EntryId, LogIndex, Message, Refused, Status, Term};

use crate::rig::{Rig, Setup, id};

fn entry_id(term: u64, index: u64) -> EntryId {
    EntryId::new(Term::new(term), LogIndex::new(index))
}

fn message(term: u64, body: Body) -> Message {
    Message {
        term: Term::new(term),
        body,
    }
}

fn append(previous: EntryId, ids: &[EntryId]) -> Body {
    Body::Append {
        previous,
        commit: LogIndex::new(1),
        entries: ids
            .iter()
            .map(|&id| Entry::command(id, "x".into()))
            .collect(),
    }
}

fn heartbeat(commit: u64) -> Body {
    Body::Heartbeat {
        commit: LogIndex::new(commit),
        read: None,
    }
}

fn vote(pre: bool) -> Body {
    Body::Vote {
        pre,
        granted: true,
        commit: entry_id(0, 0),
    }
}

/// Three voters and a learner (n4), led by n1 in the term returned, with two entries.
fn cluster() -> (Rig, u64, Status) {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1));
    rig.commit(1, "a");
    rig.commit(1, "b");
    let term = rig.term(1);
    let status = rig.status(2);
    (rig, term, status)
}

/// `node` refuses `message` from `from`, and nothing about it changes.
#[track_caller]
fn refuses(rig: &mut Rig, node: u64, from: u64, message: Message) -> Refused {
    let before = rig.status(node);
    let shown = format!("{message:?}");
    let Err(refused) = rig.core(node).handle_message(id(from), message) else {
        panic!("n{node} took {shown}");
    };
    assert_eq!(rig.status(node), before);
    refused
}

/// What was refused has hurt nobody.
#[track_caller]
fn goes_on(rig: &mut Rig) {
    rig.commit(1, "after that");
    rig.run_until(50, "all agree", Rig::agrees);
}

/// The table above names every test here, and none that does not exist.
#[test]
fn the_table_is_true() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| {
        let path = here.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let table = read("tests/cluster/traps.rs");
    let rows = table.lines().filter(|line| line.starts_with("//! |"));
    let named: BTreeSet<&str> = rows
        .filter_map(|row| row.rsplit('`').nth(1).filter(|name| name.contains("::")))
        .filter(|name| !name.starts_with("Membership::") && !name.starts_with("Body::"))
        .collect();
    for name in &named {
        let (module, test) = name.rsplit_once("::").unwrap();
        let file = match module.split_once('/') {
            Some(("src", _)) => format!("{module}.rs"),
            Some(_) => format!("tests/{module}.rs"),
            None => format!("tests/cluster/traps/{module}.rs"),
        };
        let defined = format!("fn {test}() {{");
        assert!(read(&file).contains(&defined), "{name} is not in {file}");
    }
    let modules = table.lines().filter_map(|line| {
        let module = line.strip_prefix("mod ")?;
        module.strip_suffix(';')
    });
    for module in modules {
        let text = read(&format!("tests/cluster/traps/{module}.rs"));
        for after in text.split("#[test]").skip(1) {
            let test = after
                .split("fn ")
                .nth(1)
                .and_then(|rest| rest.split('(').next());
            let name = format!("{module}::{}", test.unwrap());
            assert!(named.contains(&name[..]), "{name} is not in the table");
        }
    }
}
