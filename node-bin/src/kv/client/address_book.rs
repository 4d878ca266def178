//! Where a client finds the nodes: where it was told that they are, and where they say of each other that they are.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use quorate_consensus::{MEMBERS_MAX, NodeId};

use crate::kv::directory::Directory;
use crate::node::ADDRESSES_MAX;

/// All addresses that a client knows.
///
/// What it was told goes first, and is never taken back by what it hears: whoever is on the other side of an address
/// translation knows better than the nodes. A node it was not told of is asked for as long as it is a member.
#[derive(Debug, Default)]
pub(super) struct AddressBook {
    given: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// The newest that was heard.
    heard: Directory,
}

impl AddressBook {
    /// Whether there is room for `node` to be given addresses.
    pub(super) fn has_room_for(&self, node: NodeId) -> bool {
        self.given.contains_key(&node) || self.given.len() < MEMBERS_MAX
    }

    pub(super) fn give(&mut self, node: NodeId, addresses: Vec<SocketAddr>) {
        self.given.insert(node, addresses);
    }

    /// Until a node says that it is a member.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.given.remove(&node);
        self.heard.members.remove(&node);
    }

    /// Takes what a node says, unless it is old, and returns whose addresses may have changed.
    pub(super) fn hear(&mut self, news: Directory) -> BTreeSet<NodeId> {
        // A node could send more than any cluster has.
        if news.as_of < self.heard.as_of || news.members.len() > MEMBERS_MAX {
            return BTreeSet::new();
        }
        let before = std::mem::replace(&mut self.heard, news);
        for (node, address) in &mut self.heard.members {
            // Not every node knows of every other one, and none of itself.
            *address = address.or_else(|| before.members.get(node).copied().flatten());
        }
        let now = &self.heard.members;
        let changed = |node: &&NodeId| before.members.get(node) != now.get(node);
        let all = before.members.keys().chain(now.keys());
        all.filter(changed).copied().collect()
    }

    /// Where to look for `node`, in this order; `None` if nobody has said anything about that.
    pub(super) fn addresses(&self, node: NodeId) -> Option<Vec<SocketAddr>> {
        let given = self.given.get(&node);
        let heard = self.heard.members.get(&node).copied().flatten();
        if given.is_none() && heard.is_none() {
            return None;
        }
        let given = given.into_iter().flatten().take(ADDRESSES_MAX);
        let mut addresses: Vec<_> = given.copied().collect();
        if let Some(heard) = heard.filter(|heard| !addresses.contains(heard)) {
            addresses.push(heard);
        }
        Some(addresses)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use quorate_consensus::LogIndex;

    use super::*;
    use crate::kv::directory::AsOf;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn at(port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port).into()
    }

    fn hear(
        book: &mut AddressBook,
        (founding, index): (u64, u64),
        members: &[(u64, u16)],
    ) -> Vec<u64> {
        let address = |port: &u16| (*port > 0).then(|| at(*port));
        let members = members.iter();
        let changed = book.hear(Directory {
            as_of: AsOf {
                founding,
                index: LogIndex::new(index),
            },
            members: members
                .map(|(id, port)| (node(*id), address(port)))
                .collect(),
        });
        changed.into_iter().map(NodeId::value).collect()
    }

    /// What was told goes first and stays, and what is heard goes behind it.
    #[test]
    fn what_was_told_stays() {
        let mut book = AddressBook::default();
        book.give(node(1), (1..20).map(at).collect());
        let told: Vec<_> = (1..9).map(at).collect();
        assert_eq!(told.len(), ADDRESSES_MAX);
        assert_eq!(book.addresses(node(1)), Some(told.clone()));
        assert_eq!(
            hear(&mut book, (0, 5), &[(1, 90), (2, 2), (3, 0)]),
            [1, 2, 3]
        );
        assert_eq!(book.addresses(node(1)), Some([told, vec![at(90)]].concat()));
        assert_eq!(book.addresses(node(2)), Some(vec![at(2)]));
        assert_eq!(book.addresses(node(3)), None, "nobody knows where it is");
        book.give(node(2), vec![at(2), at(3)]);
        assert_eq!(book.addresses(node(2)), Some(vec![at(2), at(3)]));
        assert_eq!(hear(&mut book, (0, 6), &[(3, 3)]), [1, 2, 3]);
        assert_eq!(book.addresses(node(2)), Some(vec![at(2), at(3)]));
        book.forget(node(2));
        assert_eq!(book.addresses(node(2)), None);
    }

    /// Old news is none, and news of the same members adds to what is known.
    #[test]
    fn the_newest_counts() {
        let mut book = AddressBook::default();
        assert_eq!(hear(&mut book, (0, 5), &[(1, 0), (2, 2)]), [1, 2]);
        assert_eq!(hear(&mut book, (0, 4), &[(3, 3)]), []);
        assert_eq!(hear(&mut book, (0, 5), &[(1, 1), (2, 0)]), [1]);
        assert_eq!(book.addresses(node(2)), Some(vec![at(2)]));
        assert_eq!(
            hear(&mut book, (0, 5), &[(1, 7), (2, 2)]),
            [1],
            "it is there now"
        );
        assert_eq!(hear(&mut book, (1_900_000_000, 3), &[(4, 4)]), [1, 2, 4]);
        assert_eq!(book.addresses(node(1)), None);
        assert_eq!(hear(&mut book, (0, 900), &[(1, 1)]), []);
    }

    /// A node cannot make a client remember more than a cluster has.
    #[test]
    fn there_is_no_room_for_many() {
        let mut book = AddressBook::default();
        let many: Vec<_> = (1..=MEMBERS_MAX as u64 + 1).map(|id| (id, 7)).collect();
        assert_eq!(hear(&mut book, (0, 5), &many), []);
        assert_eq!(hear(&mut book, (0, 5), &many[1..]).len(), MEMBERS_MAX);
    }
}
