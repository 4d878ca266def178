//! Which messages arrive, and when: one link for each direction between two nodes.

use std::collections::BTreeMap;

use crate::plan::Fault;

/// A direction between two nodes, as the faults of the moment leave it.
#[derive(Clone, Copy, Default)]
pub(super) struct Link {
    pub(super) cut: bool,
    /// The sender notices that it is cut.
    pub(super) refused: bool,
    pub(super) loss_permille: u64,
    pub(super) delay_ms: u64,
}

/// All links of a cluster.
pub(super) struct Links {
    nodes: u64,
    links: Vec<Link>,
}

impl Links {
    /// The links of `nodes` nodes under `faults`.
    pub(super) fn under<'a>(nodes: u64, faults: impl Iterator<Item = &'a Fault>) -> Self {
        let mut links = Self {
            nodes,
            links: vec![Link::default(); (nodes * nodes) as usize],
        };
        faults.for_each(|fault| links.suffer(fault));
        links
    }

    pub(super) fn get(&self, from: u64, to: u64) -> Link {
        self.links[self.place(from, to)]
    }

    fn place(&self, from: u64, to: u64) -> usize {
        ((from - 1) * self.nodes + to - 1) as usize
    }

    fn suffer(&mut self, fault: &Fault) {
        match fault {
            Fault::Partition { side, noticed } => {
                let apart = |from, to| side.contains(&from) != side.contains(&to);
                self.cut(*noticed, apart);
            }
            Fault::CutOneWay { from, to } => self.cut(false, |a, b| (a, b) == (*from, *to)),
            Fault::Bridge { node } => self.cut(false, |a, b| a != *node && b != *node),
            Fault::Degrade {
                from,
                to,
                loss_permille,
                delay_ms,
            } => {
                let place = self.place(*from, *to);
                let link = &mut self.links[place];
                link.loss_permille = link.loss_permille.max(*loss_permille);
                link.delay_ms = link.delay_ms.max(*delay_ms);
            }
            _ => {}
        }
    }

    fn cut(&mut self, refused: bool, which: impl Fn(u64, u64) -> bool) {
        for from in 1..=self.nodes {
            for to in 1..=self.nodes {
                if which(from, to) {
                    let place = self.place(from, to);
                    self.links[place].cut = true;
                    self.links[place].refused |= refused;
                }
            }
        }
    }

    /// To whom `from` cannot even connect, as one bit for each node.
    pub(super) fn refused(&self, from: u64) -> u64 {
        let refused = (1..=self.nodes).filter(|&to| self.get(from, to).refused);
        refused.fold(0, |bits, to| bits | 1 << to)
    }
}

/// When the last append of each direction between two nodes arrives.
///
/// A network that is well keeps appends in order, as the product's transport does, which sends them on
/// one stream. To swap them is allowed, but it is weather: what comes before its predecessor is refused,
/// and `raft` then sends one message a round trip until an answer comes. A member that is thousands of
/// messages behind catches up like this too, but in no time that the election timeout could bound.
#[derive(Default)]
pub(super) struct AppendLanes(BTreeMap<(u64, u64), u64>);

impl AppendLanes {
    /// When an append arrives that would arrive at `at` if it were alone: after all before it.
    pub(super) fn in_order(&mut self, from: u64, to: u64, at: u64) -> u64 {
        let last = self.0.entry((from, to)).or_default();
        *last = at.max(*last + 1);
        *last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An append arrives after those before it in its direction, and waits for no other direction.
    #[test]
    fn appends_of_one_direction_arrive_in_order() {
        let mut lanes = AppendLanes::default();
        assert_eq!(lanes.in_order(1, 2, 50), 50);
        assert_eq!(lanes.in_order(1, 2, 20), 51);
        assert_eq!(lanes.in_order(2, 1, 20), 20);
        assert_eq!(lanes.in_order(1, 2, 51), 52);
        assert_eq!(lanes.in_order(1, 2, 80), 80);
    }
}
