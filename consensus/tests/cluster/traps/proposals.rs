//! Proposals whose fate `raft` does not tell (the page, section 3.6).

use quorate_consensus::{Payload, ProposeError, Role};
use raft::eraftpb::MessageType;
use raft::storage::MemStorage;
use raft::{Error, RawNode, StateRole};

use super::bare::{
    accept, alone, bare, bare_leader, carry_out, config, elected, follows, kinds, members, node,
    pb, pb_entries, settled, settled_leader, write,
};
use crate::rig::{Rig, Setup, id};

/// A follower passes a proposal on and says that all is well (`raft.rs` line 2322), and nobody will know
/// what became of it. Here it is refused, with the leader as the one to go to.
#[test]
fn a_follower_passes_proposals_on() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.run_until(50, "all agree", Rig::agrees);
    rig.sent.clear();
    let before = rig.status(1).last;
    let token = rig.propose(2, "a");
    let leader = Some(id(1));
    let refused = Err(ProposeError::NotLeader { leader });
    assert_eq!(rig.outcome(token), Some(&refused));
    assert!(rig.sent.is_empty() && rig.status(1).last == before);

    let mut node = bare();
    carry_out(&mut node);
    assert_eq!(node.propose(vec![], b"a".to_vec()), Ok(()));
    assert_eq!(kinds(&carry_out(&mut node)), [MessageType::MsgPropose]);
}

/// Whyever a proposal is dropped, raft says the same (`raft.rs` lines 2040, 2099, 2266 and 2319).
/// Here each reason has its error, and all of them say that nothing happened.
#[test]
fn a_proposal_is_dropped() {
    let dropped = Err(Error::ProposalDropped);
    let command = || b"a".to_vec();

    let mut rig = Setup::voters(3).build();
    let token = rig.propose(1, "no leader");
    let nobody = Err(ProposeError::NotLeader { leader: None });
    assert_eq!(rig.outcome(token), Some(&nobody));
    assert_eq!(alone().propose(vec![], command()), dropped);

    rig.isolate(1);
    rig.campaign(1);
    assert_eq!(rig.status(1).role, Role::PreCandidate);
    let token = rig.propose(1, "a candidate");
    assert_eq!(rig.outcome(token), Some(&nobody));
    let mut candidate = bare();
    candidate.campaign().unwrap();
    assert_eq!(candidate.propose(vec![], command()), dropped);

    rig.heal();
    rig.elect(1);
    rig.net.loss_percent = 100;
    rig.transfer(1, Some(3)).unwrap();
    let token = rig.propose(1, "on its way to n3");
    let leader = Some(id(3));
    let target = Err(ProposeError::NotLeader { leader });
    assert_eq!(rig.outcome(token), Some(&target));
    let mut leader = settled_leader();
    leader.transfer_leader(3);
    assert_eq!(leader.propose(vec![], command()), dropped);

    let mut rig = Rig::led_by(1, Setup::voters(3).small());
    rig.net.loss_percent = 100;
    let tokens: Vec<_> = (0..5)
        .map(|n| rig.propose(1, format!("{n:0900}")))
        .collect();
    let overloaded = Err(ProposeError::Overloaded);
    assert_eq!(rig.outcome(tokens[0]), None);
    assert_eq!(rig.outcome(tokens[4]), Some(&overloaded));
    let mut leader = bounded_leader();
    assert_eq!(leader.propose(vec![], vec![0; 900]), Ok(()));
    assert_eq!(leader.propose(vec![], vec![0; 900]), dropped);
}

fn bounded_leader() -> RawNode<MemStorage> {
    let bounded = raft::Config {
        max_size_per_msg: 100,
        max_uncommitted_size: 1000,
        ..config()
    };
    let storage = MemStorage::new_with_conf_state(members(&[1, 2, 3], &[]));
    settled(elected(follows(node(&bounded, storage))))
}

/// What counts against the bound is given back when committed entries are taken, and not as they are
/// committed (`raw_node.rs` line 457). Here the bound is our own, `raft` has none, and a `Ready` is taken
/// after each input.
#[test]
fn what_is_committed_still_counts() {
    let mut rig = Rig::led_by(1, Setup::voters(3).small());
    for n in 0..20 {
        rig.commit(1, &format!("{n:0900}"));
    }

    let mut leader = bounded_leader();
    leader.propose(vec![], vec![0; 900]).unwrap();
    let ready = leader.ready();
    write(leader.store(), &ready);
    let _ = leader.advance_append(ready);
    let last = leader.raft.raft_log.last_index();
    accept(&mut leader, 2, last);
    assert_eq!(leader.raft.raft_log.committed, last);
    let dropped = Err(Error::ProposalDropped);
    assert_eq!(leader.propose(vec![], vec![0; 900]), dropped);
    let _ = leader.ready();
    assert_eq!(leader.propose(vec![], vec![0; 900]), Ok(()));
}

/// A leader's first entry is empty (`raft.rs` line 1236), and is committed like any other: who leaves it out
/// must still count it. Here it is handed out and applied, and a command cannot be empty.
#[test]
fn an_empty_entry_is_committed() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.run_until(50, "all agree", Rig::agrees);
    let entries = rig.durable(1).entries();
    assert_eq!(entries[0].payload, Payload::Empty);
    assert_eq!(rig.applied_index(1), entries.last().unwrap().id.index);
    assert_eq!(rig.status(1).applied, rig.applied_index(1));
    let token = rig.propose(1, "");
    assert_eq!(rig.outcome(token), Some(&Err(ProposeError::Empty)));

    let mut node = bare_leader();
    let first = node.ready();
    assert!(first.entries()[0].data.is_empty());
    assert_eq!(node.raft.state, StateRole::Leader);
}

/// `propose` does not say where a command went, and another leader's may go there (`raw_node.rs` line 354).
/// Here a command is answered by its own entry only, of its index and term.
#[test]
fn an_index_is_given_to_another_command() {
    let mut rig = Rig::led_by(1, Setup::voters(3));
    rig.isolate(1);
    let token = rig.propose(1, "lost");
    let at = rig.status(1).last;
    rig.elect(2);
    rig.commit(2, "instead");
    rig.commit(2, "and more");
    rig.heal();
    rig.run_until(100, "all agree", Rig::agrees);
    assert!(rig.status(1).last.index > at.index && !rig.durable(1).holds(at));
    assert!(rig.outcome(token).unwrap().is_err());

    let mut node = bare_leader();
    assert_eq!(node.propose(vec![], b"lost".to_vec()), Ok(()));
    let lost = carry_out(&mut node)
        .into_iter()
        .flat_map(|message| message.entries.into_vec())
        .last()
        .unwrap();
    let mut instead = pb(MessageType::MsgAppend, 3);
    instead.set_entries(pb_entries(3, &[1, 2]).into());
    instead.commit = 2;
    node.step(instead).unwrap();
    let mut committed = Vec::new();
    while node.has_ready() {
        let mut ready = node.ready();
        write(node.store(), &ready);
        committed.extend(ready.take_committed_entries());
        committed.extend(node.advance_append(ready).take_committed_entries());
    }
    let there = committed.iter().find(|entry| entry.index == lost.index);
    assert_ne!(there.unwrap().data, lost.data);
}
