//! Who may say what (the page, section 3.5): raft believes whoever speaks.

use bytes::Bytes;
use quorate_consensus::{Body, LogIndex, ReadContext, Refused, Role, Transfer};
use raft::StateRole;
use raft::eraftpb::{Entry as PbEntry, MessageType};

use super::bare::{bare, carry_out, config, follows, kinds, members, node, panics, pb, pb_append};
use super::broken::{How, Nothing};
use super::storage::three_entries;
use super::{append, cluster, entry_id, heartbeat, message, refuses, vote};
use crate::rig::{Fate, Rig, Setup, id};

/// Only members may speak, and a node does not hear itself; raft looks at the sender of a response only
/// (`raw_node.rs` lines 402 to 411).
#[test]
fn strangers_are_not_heard() {
    let (mut rig, term, _) = cluster();
    let vote = Body::RequestVote {
        pre: false,
        last: entry_id(term + 9, 99),
        commit: entry_id(1, 1),
        transfer: true,
    };
    for body in [
        vote.clone(),
        heartbeat(1),
        append(entry_id(1, 1), &[]),
        Body::TimeoutNow,
    ] {
        let refused = refuses(&mut rig, 2, 2, message(term + 9, body));
        assert_eq!(refused, Refused::NotAMember);
    }
    // Who is not known yet may lead, but has nothing to answer, and nothing to ask for.
    for from in [5, u64::MAX] {
        let refused = refuses(&mut rig, 2, from, message(term + 9, vote.clone()));
        assert_eq!(refused, Refused::NotAVoter);
        let index = LogIndex::new(1);
        for body in [
            Body::AppendAccepted {
                last: index,
                commit: index,
            },
            Body::HeartbeatResponse {
                commit: index,
                read: None,
            },
            Body::Digest {
                at: entry_id(1, 1),
                digest: 7,
            },
            self::vote(true),
            Body::Transfer(Transfer::Request {
                last: entry_id(1, 1),
                after: Bytes::new(),
            }),
        ] {
            let refused = refuses(&mut rig, 2, from, message(term, body));
            assert_eq!(refused, Refused::NotAMember);
        }
    }
    let mut node = bare();
    let mut message = pb(MessageType::MsgHeartbeat, 9);
    message.from = 77;
    node.step(message).unwrap();
    assert_eq!(node.raft.leader_id, 77, "raft follows a stranger");
}

/// Only the leader answers for up to where a follower may read, and to whom asked; raft believes anybody
/// (`raft.rs` lines 2384 to 2403: it is not among the responses of which the sender is looked up).
#[test]
fn an_answer_to_a_read_that_is_forged() {
    let (mut rig, term, _) = cluster();
    let context = |node| ReadContext {
        node,
        boot: 1,
        round: 1,
    };
    let index = LogIndex::new(1);
    let answer = |node| Body::ReadIndexAnswer {
        context: context(node),
        index,
    };
    let refused = refuses(&mut rig, 2, 3, message(term, answer(2)));
    assert!(matches!(refused, Refused::NotTheLeader { .. }), "{refused}");
    let refused = refuses(&mut rig, 2, 1, message(term, answer(3)));
    assert_eq!(refused, Refused::BadContext);
    let asked = Body::ReadIndex {
        context: context(3),
    };
    let refused = refuses(&mut rig, 1, 2, message(term, asked));
    assert_eq!(refused, Refused::BadContext);

    let mut node = bare();
    node.step(pb_append((0, 0), &[1])).unwrap();
    carry_out(&mut node);
    let mut forged = pb(MessageType::MsgReadIndexResp, 1);
    (forged.from, forged.index) = (77, 1);
    forged.set_entries(vec![PbEntry::default()].into());
    node.step(forged).unwrap();
    assert_eq!(node.ready().read_states()[0].index, 1, "a stranger's");
    assert_eq!(node.raft.raft_log.committed, 1, "which commits as well");
}

/// A learner has no say in elections. Raft takes the request of anybody for one that the leader asked for,
/// and turns away from a leader that is alive (`raft.rs` line 1332); a voter might do so here as well, which
/// costs an election and no more.
#[test]
fn learners_do_not_speak_for_voters() {
    let (mut rig, term, _) = cluster();
    let asks = Body::RequestVote {
        pre: false,
        last: entry_id(term, 9),
        commit: entry_id(1, 1),
        transfer: true,
    };
    for body in [asks, vote(false)] {
        let refused = refuses(&mut rig, 2, 4, message(term + 1, body));
        assert_eq!(refused, Refused::NotAVoter);
    }

    for transfer in [true, false] {
        let mut node = bare();
        carry_out(&mut node);
        let mut asks = pb(MessageType::MsgRequestVote, 2);
        asks.from = 77;
        if transfer {
            asks.context = "CampaignTransfer".into();
        }
        node.step(asks).unwrap();
        let sent = carry_out(&mut node);
        let granted = kinds(&sent) == [MessageType::MsgRequestVoteResponse];
        assert_eq!(granted && !sent[0].reject, transfer);
        assert_eq!(node.raft.leader_id == 2, !transfer);
    }
}

/// A learner gives its vote to whoever asks (the page, section 3.7); raft counts those of voters only
/// (`tracker.rs` line 310), and here they are refused before that.
#[test]
fn votes_of_learners_are_not_counted() {
    let (mut rig, term, _) = cluster();
    let refused = refuses(&mut rig, 2, 4, message(term, vote(false)));
    assert_eq!(refused, Refused::NotAVoter);
    let refused = refuses(&mut rig, 2, 4, message(term + 1, vote(true)));
    assert_eq!(refused, Refused::NotAVoter);

    let storage = raft::storage::MemStorage::new_with_conf_state(members(&[2, 3], &[1]));
    let mut learner = follows(node(&config(), storage));
    carry_out(&mut learner);
    let mut asks = pb(MessageType::MsgRequestVote, 2);
    asks.context = "CampaignTransfer".into();
    learner.step(asks).unwrap();
    assert!(!carry_out(&mut learner)[0].reject, "it votes");
}

/// A vote of an earlier rehearsal says nothing about the one that goes on; raft counts it (`raft.rs` line
/// 2295).
#[test]
fn a_vote_of_an_earlier_rehearsal() {
    let (mut rig, term, _) = cluster();
    for asked in [term - 1, term, term + 2] {
        let refused = refuses(&mut rig, 2, 3, message(asked, vote(true)));
        assert_eq!(refused, Refused::NotAsked);
    }
    let mut node = bare();
    node.campaign().unwrap();
    node.step(pb(MessageType::MsgRequestPreVoteResponse, 1))
        .unwrap();
    assert_eq!(node.raft.state, StateRole::Candidate, "for term 2");
}

/// There is one leader in a term: what another claims to lead is refused, by followers and the leader. Raft
/// follows whoever spoke last (`raft.rs` lines 2326 and 2331).
#[test]
fn a_second_leader_of_a_term() {
    let (mut rig, term, _) = cluster();
    let leader = id(1);
    for node in [1, 2] {
        for body in [heartbeat(1), append(entry_id(1, 1), &[])] {
            let refused = refuses(&mut rig, node, 3, message(term, body));
            assert_eq!(refused, Refused::NotTheLeader { leader });
        }
    }
    let mut node = bare();
    let mut message = pb(MessageType::MsgHeartbeat, 1);
    message.from = 3;
    node.step(message).unwrap();
    assert_eq!(node.raft.leader_id, 3, "raft changes sides within a term");
}

/// Only the present leader may ask for an election; raft lets anybody (`raft.rs` line 2351).
#[test]
fn only_the_leader_hands_over() {
    let (mut rig, term, _) = cluster();
    let leader = id(1);
    for term in [term, term + 1] {
        let refused = refuses(&mut rig, 2, 3, message(term, Body::TimeoutNow));
        assert_eq!(refused, Refused::NotTheLeader { leader });
    }
    let mut node = bare();
    let mut message = pb(MessageType::MsgTimeoutNow, 1);
    message.from = 3;
    node.step(message).unwrap();
    assert_eq!(node.raft.state, StateRole::Candidate);
}

/// Votes that nobody asked for, at a node whose log is not durable yet: raft relies on candidates
/// asking only after that, and panics (`raft.rs` line 1214).
#[test]
fn votes_before_the_log_is_durable() {
    let (mut rig, term, _) = cluster();
    rig.stall_disk(2, true);
    rig.propose(1, "c");
    rig.isolate(2);
    rig.run_until(60, "n2 asks", |rig| {
        rig.status(2).role == Role::PreCandidate
    });
    assert!(rig.queued_writes(2) > 0);
    let _ = rig
        .core(2)
        .handle_message(id(3), message(term + 1, vote(true)));
    let _ = rig
        .core(2)
        .handle_message(id(3), message(term + 1, vote(false)));
    assert!(!rig.leads(2), "it leads although it asked nobody");
    rig.stall_disk(2, false);
    rig.heal();
    rig.run_until(100, "all agree", Rig::agrees);

    let at = panics(bare(), |node| {
        node.step(pb_append((0, 0), &[1])).unwrap();
        node.campaign().unwrap();
        node.step(pb(MessageType::MsgRequestPreVoteResponse, 2))
            .unwrap();
        let _ = node.step(pb(MessageType::MsgRequestVoteResponse, 2));
    });
    assert_eq!(at, "raft.rs:1214");
}

/// A single voter wins the moment it asks, so it asks only when its log is durable.
#[test]
fn a_single_voter_waits_for_its_disk_before_it_elects_itself() {
    let mut rig = Rig::led_by(1, Setup::voters(1).learners(1));
    rig.stall_disk(1, true);
    let token = rig.propose(1, "a");
    // A learner with a higher term, as after a voter lost its disk: n1 has to step down.
    let response = Body::HeartbeatResponse {
        commit: LogIndex::new(1),
        read: None,
    };
    rig.core(1)
        .handle_message(id(2), message(50, response))
        .unwrap();
    rig.pump();
    rig.core(1).campaign();
    rig.ticks(200);
    assert!(!rig.leads(1));
    rig.stall_disk(1, false);
    rig.run_until(100, "it leads again", |rig| rig.leads(1));
    rig.commit(1, "b");
    assert!(rig.outcome(token).is_some());
    rig.run_until(100, "the learner follows", Rig::agrees);
}

/// Votes, given or asked for, carry what their sender knows to be committed, and raft commits up to there
/// (`raft.rs` line 2182), whoever sends it; a candidate panics if it cannot read those entries at once (line
/// 2203). Here answers are a voter's only, and what is not committed is in memory. A request may come from
/// who is no voter as far as is known here, like all that a leader says.
#[test]
fn a_vote_that_commits() {
    let mut rig = Rig::led_by(1, Setup::voters(3).learners(1).small());
    rig.commit(1, "a");
    rig.ticks(10);
    rig.net.rule = Some(Box::new(|_, _, message| match message.body {
        Body::AppendAccepted { .. } => Fate::Drop,
        _ => Fate::Deliver,
    }));
    let tokens = [(); 20].map(|()| rig.propose(1, "x".repeat(200)));
    assert!(rig.outcome(tokens[0]).is_none() && rig.outcome(tokens[19]).is_some());
    rig.isolate(2);
    rig.run_until(100, "n2 asks", |rig| {
        rig.status(2).role == Role::PreCandidate
    });
    let status = rig.status(2);
    assert!(status.commit < status.last.index);
    let knows = |commit| Body::Vote {
        pre: true,
        granted: false,
        commit,
    };
    let term = status.term.value();
    for from in [4, 5] {
        let said = message(term, knows(status.last));
        let _ = refuses(&mut rig, 2, from, said);
    }
    rig.hear(2, 3, message(term, knows(status.last))).unwrap();
    assert_eq!(rig.status(2).commit, status.last.index);
    rig.net.rule = None;
    rig.heal();
    rig.run_until(200, "all agree", Rig::agrees);

    let mut asked = bare();
    asked.step(pb_append((0, 0), &[1])).unwrap();
    carry_out(&mut asked);
    let mut asks = pb(MessageType::MsgRequestVote, 1);
    (asks.from, asks.commit, asks.commit_term) = (77, 1, 1);
    asked.step(asks).unwrap();
    assert_eq!(asked.raft.raft_log.committed, 1);

    let mut candidate = three_entries(&config());
    candidate.campaign().unwrap();
    candidate.mut_store().how = How::Entries(Nothing::Later);
    let at = panics(candidate, |node| {
        let mut refuses = pb(MessageType::MsgRequestPreVoteResponse, 1);
        refuses.reject = true;
        (refuses.commit, refuses.commit_term) = (3, 1);
        let _ = node.step(refuses);
    });
    assert_eq!(at, "raft.rs:2203");
}
