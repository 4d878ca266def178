//! What `raft` does with nonsense.

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
