//! Which nodes may connect, besides having a good certificate.

use quorate_consensus::{NodeId, Standing};
use quorate_persist::SeenStore;
use quorate_quic_transport::{Admit, CloseCode, Instance, PeerUp, Refused};

use super::members::Members;
use super::peers::{Met, PeerMemory, Progress, Start};
use crate::planted;

/// Lets members in, each with the store it was first seen with, and never with an older copy of that.
///
/// A member that comes back with another store has lost its log, and with it the votes it cast and the
/// entries it acknowledged; if it took part again, acknowledged writes could be lost (reliability
/// scenarios E1 and E4). A node that is not known yet is treated alike: it may be a member by an entry that is not
/// here yet, and have acknowledged and voted elsewhere.
pub(super) struct Admission {
    members: Members,
    memory: PeerMemory,
    /// A number of the founding members of this node; zero if it joined later, and is told by the members.
    origin: u64,
}

impl Admission {
    pub(super) fn new(members: Members, memory: PeerMemory, origin: u64) -> Self {
        Self {
            members,
            memory,
            origin,
        }
    }

    /// Two nodes that were founded with different members could both lead. Which of the two does not belong to the
    /// cluster is not known here: this one may be it, and the other hears the same words.
    fn check_origin(&self, node: NodeId, origin: u64) -> Result<(), String> {
        let own = match self.origin {
            0 => self.memory.origin(),
            founder => founder,
        };
        if own == 0 || origin == 0 || origin == own {
            return Ok(());
        }
        Err(format!(
            "nodes {} and {} were founded with different members, or one recovered without the other: whichever is \
             not of the cluster has to begin with an empty data folder, with --join if it is to join",
            self.memory.own().value(),
            node.value()
        ))
    }

    fn check(&self, node: NodeId, instance: Instance, start: Start) -> Result<(), String> {
        let standing = self.members.now().standing(node);
        if standing == Standing::Removed {
            return Err(format!(
                "node {} is not a member of this cluster, or not any more; ids are never used again, so \
                 a new node needs a new one",
                node.value()
            ));
        }
        if standing == Standing::Unknown && planted::is("newcomer-not-remembered") {
            return Ok(());
        }
        let Instance { store_id, boot } = instance;
        let seen = SeenStore { store_id, boot };
        let met = match standing {
            Standing::Unknown => self.memory.meet_stranger(node, seen, start),
            _ => self.memory.meet(node, seen, start),
        };
        let node = node.value();
        // The one way that is safe: on any folder but its own newest, it could vote twice. For programs, the method of
        // `NodeHandle`; last, since what is sent is cut at 200 bytes.
        let replace =
            format!("under a new id: `quorate members replace {node} NEW`, `change_membership`");
        match met {
            Met::OtherStore if standing == Standing::Unknown => Err(format!(
                "node {node} was here with another data folder; if it has lost that, let it begin under a new id, \
                 for it may have joined already"
            )),
            Met::OneTooMany => Err(format!(
                "node {node} is not a member, and so many others that are not have been here that no more are \
                 remembered"
            )),
            Met::OtherStore if !planted::is("other-store-admitted") => Err(format!(
                "node {node} lost its data folder or has another one: a node must not rejoin without its log; \
                 replace it {replace}"
            )),
            Met::OlderBoot(known) if !planted::is("older-boot-admitted") => Err(format!(
                "node {node} has an older copy of its data folder (start {boot}, and was seen at start {known}), \
                 and could vote twice; replace it {replace}"
            )),
            Met::Behind(known) if !planted::is("older-log-admitted") => Err(format!(
                "node {node} has an older copy of its data folder (its log ends at {} in term {}, had acknowledged \
                 {} in term {}); replace it {replace}",
                start.progress.last, start.progress.term, known.last, known.term
            )),
            Met::Twin if !planted::is("twin-admitted") => Err(format!(
                "another process was here as start {boot} of node {node}: one of them runs on a copy of the data \
                 folder; stop both, and replace the node {replace}"
            )),
            _ => Ok(()),
        }
    }
}

impl Admit for Admission {
    fn admit(&self, peer: &PeerUp) -> Result<(), Refused> {
        // Clients, readers and admins have no store; what they may do is decided call by call.
        let Some(node) = peer.identity.node_id() else {
            return Ok(());
        };
        let start = Start {
            progress: Progress::from_number(peer.progress),
            process: peer.process,
            origin: peer.origin,
        };
        let node = node.into();
        self.check_origin(node, peer.origin)
            .and_then(|()| self.check(node, peer.instance, start))
            .map_err(|reason| Refused::new(CloseCode::NOT_ADMITTED, reason))?;
        self.memory.learn_origin(&self.members.now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_consensus::Membership;
    use quorate_persist::{OsFiles, StoreIdentity};

    use super::*;
    use crate::node::peers::PEERS_FILE;

    fn id(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn start() -> Start {
        Start {
            progress: Progress::from_number(0),
            process: 1,
            origin: 0,
        }
    }

    fn store(store_id: u128, boot: u64) -> Instance {
        Instance { store_id, boot }
    }

    /// A member is let in as often as it likes with its store, and never with another or an older copy; a
    /// stranger never.
    #[test]
    fn e1_e4_a_member_without_its_log_is_kept_out() {
        let members = Membership::new([id(1), id(3)], [id(2)]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let owner = StoreIdentity {
            cluster: "c".into(),
            node: id(1),
        };
        let path = directory.path().join(PEERS_FILE);
        let memory = PeerMemory::open(Arc::new(OsFiles), path, owner, false).unwrap();
        let admission = Admission::new(Members::new(members), memory, 7);
        let check = |node, instance| admission.check(node, instance, start());
        assert!(check(id(2), store(7, 1)).is_ok());
        assert!(check(id(2), store(7, 1)).is_ok());
        assert!(check(id(2), store(7, 4)).is_ok());
        let lost = check(id(2), store(8, 1)).unwrap_err();
        assert!(lost.contains("without its log"), "{lost}");
        let older = check(id(2), store(7, 3)).unwrap_err();
        assert!(older.contains("older copy"), "{older}");
        let twin = Start {
            process: 2,
            ..start()
        };
        let twin = admission.check(id(2), store(7, 4), twin).unwrap_err();
        assert!(twin.contains("another process"), "{twin}");
        for refused in [lost, older, twin] {
            assert!(
                refused.contains("`quorate members replace 2 NEW`"),
                "{refused}"
            );
            assert!(refused.ends_with(", `change_membership`"), "{refused}");
            assert!(refused.len() <= 200, "what is sent is cut there: {refused}");
        }
        assert!(
            check(id(2), store(7, 4)).is_ok(),
            "the refused ones are not remembered"
        );
        // It may be a member by an entry that is not here yet.
        assert!(check(id(9), store(7, 1)).is_ok());
        let lost = check(id(9), store(8, 1)).unwrap_err();
        assert!(lost.contains("under a new id"), "{lost}");
        assert!(check(id(9), store(7, 2)).is_ok());
    }

    /// Whoever has joined knows from the members who belongs here, also after it was started again; what others say of
    /// themselves is not believed, nor before it has joined what those say whom it was told to join.
    #[test]
    fn e9_a_node_that_joined_learns_the_founding() {
        let directory = tempfile::tempdir().unwrap();
        let owner = StoreIdentity {
            cluster: "c".into(),
            node: id(4),
        };
        let admission = |members: &Membership| {
            let path = directory.path().join(PEERS_FILE);
            let memory = PeerMemory::open(Arc::new(OsFiles), path, owner.clone(), false).unwrap();
            Admission::new(Members::new(members.clone()), memory, 0)
        };
        let up = |admission: &Admission, node: u64, origin| {
            let start = Start { origin, ..start() };
            let checked = admission.check_origin(id(node), origin);
            let checked = checked.and_then(|()| admission.check(id(node), store(1, 1), start));
            admission.memory.learn_origin(&admission.members.now());
            checked
        };
        let told = Membership::joining(id(4), [id(1), id(2)]).unwrap();
        let meet = |joining: &Admission| {
            for (node, origin) in [(2, 8), (9, 9), (1, 7), (3, 0)] {
                up(joining, node, origin).unwrap();
            }
            assert_eq!(joining.memory.origin(), 0);
        };
        meet(&admission(&told));
        // Started again, it meets whom it knows already.
        let joining = admission(&told);
        meet(&joining);
        // It was the cluster of node 1 that took it in.
        let joined = Membership::new([id(1), id(3), id(4)], []).unwrap();
        joining.memory.learn_origin(&joined);
        for admission in [joining, admission(&joined)] {
            assert_eq!(admission.memory.origin(), 7);
            up(&admission, 1, 7).unwrap();
            let other = up(&admission, 9, 9).unwrap_err();
            assert!(
                other.contains("nodes 4 and 9 were founded with different members"),
                "{other}"
            );
        }
    }

    /// A member that was removed stays away, and so does whoever was founded with others.
    #[test]
    fn f5_j7_e9_who_does_not_belong_here() {
        let members = Membership::new([id(1), id(3)], []).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let owner = StoreIdentity {
            cluster: "c".into(),
            node: id(1),
        };
        let path = directory.path().join(PEERS_FILE);
        let memory = PeerMemory::open(Arc::new(OsFiles), path, owner, false).unwrap();
        let admission = Admission::new(Members::new(members), memory, 7);
        let removed = admission.check(id(2), store(7, 1), start());
        let removed = removed.unwrap_err();
        assert!(removed.contains("not a member"), "{removed}");
        assert!(admission.check_origin(id(3), 7).is_ok());
        assert!(admission.check_origin(id(3), 0).is_ok(), "it joined later");
        let other = admission.check_origin(id(3), 8).unwrap_err();
        for said in [
            "nodes 1 and 3 were founded with different members",
            "whichever is not of the cluster",
            "with --join",
        ] {
            assert!(other.contains(said), "{other}");
        }
        assert!(other.len() <= 200, "what is sent is cut there: {other}");
    }
}
