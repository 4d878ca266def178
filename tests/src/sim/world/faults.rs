//! What can be done to a world.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use quorate::{MembershipChange, StartError};

use super::{NODE_PORT, Running, SHUTDOWN_WITHIN, STOP_MAX, Stopping, World, node_host, node_id};
use crate::sim::disk::{Disk, Failure};
use crate::sim::engine::HostId;
use crate::sim::network::{Link, address};
use crate::sim::runtime::Process;

/// An old state of a disk.
pub struct Image(Disk);

impl World {
    /// Ends the process of `node` between two instructions. Unless `written`, its machine loses power
    /// as well, and with it what was not synced.
    pub fn kill(&mut self, node: u64, written: bool) {
        let running = self.running.remove(&node);
        let stopping = self.stopping.remove(&node);
        if running.is_none() && stopping.is_none() {
            return;
        }
        self.engine.note(&format!("n{node} is killed"));
        let mut processes = Vec::new();
        processes.extend(stopping.map(|stopping| stopping.process));
        self.disks[&node].cut_off();
        self.engine.kill(node_host(node));
        // Dropping the handle asks a node to stop that has no tasks any more.
        processes.extend(running.map(|running| running.process));
        self.clear(node, &processes);
        if !written {
            self.disks[&node].lose_power();
        }
    }

    /// The machine of `node` loses power, whether or not its process has ended before.
    pub fn lose_power(&mut self, node: u64) {
        self.kill(node, true);
        self.disks[&node].lose_power();
    }

    /// Starts `node` on a disk that breaks after so many operations.
    ///
    /// # Errors
    ///
    /// As the node's; its process has ended then.
    pub fn start_failing(&mut self, node: u64, after: u64) -> Result<(), StartError> {
        self.disks[&node].fail(after, Failure::Broken);
        self.start(node)
    }

    /// Removes what is left of the process of `node`, of which nothing may remain.
    pub(super) fn clear(&mut self, node: u64, processes: &[Weak<Process>]) {
        let host = node_host(node);
        self.network.close(host);
        self.engine.kill(host);
        self.leading.remove(&node);
        let left: usize = processes.iter().map(Weak::strong_count).sum();
        self.book.with(|book| {
            book.must(left == 0, "nothing survives a kill", || {
                format!("n{node} is held {left} times after its end")
            });
        });
    }

    /// Tells `node` to stop in good order, which takes some time.
    pub fn stop(&mut self, node: u64) {
        let Some(running) = self.running.remove(&node) else {
            return;
        };
        let host = node_host(node);
        self.engine.note(&format!("n{node} is told to stop"));
        let done = Arc::new(AtomicBool::new(false));
        let finished = Arc::clone(&done);
        let Running {
            node: stops,
            process,
            ..
        } = running;
        let stop = async move {
            let _ = stops.shutdown(SHUTDOWN_WITHIN).await;
            finished.store(true, Ordering::Relaxed);
        };
        self.spawn_on(host, stop);
        let until = self.now() + STOP_MAX;
        self.stopping.insert(
            node,
            Stopping {
                done,
                process,
                until,
            },
        );
        self.leading.remove(&node);
    }

    /// Freezes a node, or lets it go on.
    pub fn pause(&mut self, node: u64, paused: bool) {
        self.engine.note(&format!("n{node} paused: {paused}"));
        self.engine.pause(node_host(node), paused);
    }

    /// Lets writes of a node wait, or go on.
    pub fn stall_disk(&mut self, node: u64, stalled: bool) {
        self.engine
            .note(&format!("the disk of n{node} stalls: {stalled}"));
        self.engine.stall_disk(node_host(node), stalled);
    }

    /// The disk of a node fails after so many operations, until the process has ended.
    pub fn fail_disk(&mut self, node: u64, after: u64, how: Failure) {
        if !self.runs(node) {
            return;
        }
        self.engine
            .note(&format!("the disk of n{node} fails in {after}: {how:?}"));
        self.disks[&node].fail(after, how);
    }

    /// Loses some of the next writes of a node that are synced, and says that they are there.
    pub fn lose_writes(&mut self, node: u64, writes: u64) {
        self.engine
            .note(&format!("the disk of n{node} will lose {writes} writes"));
        self.disks[&node].lose_writes(writes);
    }

    /// From now on the disk of a node only says that it syncs, until it loses power. Whether anything is
    /// promised then is for the caller to know: see [`World::forget`].
    pub fn lie(&mut self, node: u64) {
        self.engine.note(&format!("the disk of n{node} lies"));
        self.disks[&node].lie();
    }

    /// What the store of a node was told to keep proves nothing any more.
    pub fn forget(&mut self, node: u64) {
        self.damaged.insert(node);
        self.book.with(|book| book.forget_store_of(node_id(node)));
    }

    /// How long a write of a node takes at most.
    pub fn slow_disk(&mut self, node: u64, write_max: Duration) {
        let write_max_us = u64::try_from(write_max.as_micros()).expect("less than centuries");
        self.engine.set_disk(node_host(node), write_max_us);
    }

    /// Whether the disk of a node may be damaged: on more than a minority of disks, nobody promises
    /// anything.
    #[must_use]
    pub fn may_damage(&self, node: u64) -> bool {
        let most = (self.params.voters as usize - 1) / 2;
        // Of few voters, a minority of all nodes may be a majority.
        let counted = !self.changes_voters;
        self.damaged.contains(&node) || counted && self.damaged.len() < most
    }

    /// Turns a bit on the disk of a node that does not run; false when it must not, or holds nothing.
    pub fn flip_bit(&mut self, node: u64) -> bool {
        self.damage(node, "a bit turns", Disk::flip_bit)
    }

    /// Puts a sector where another belongs, on the disk of a node that does not run; false when it must
    /// not, or holds too little.
    pub fn misplace_sector(&mut self, node: u64) -> bool {
        self.damage(node, "a sector is misplaced", Disk::misplace_sector)
    }

    fn damage(&mut self, node: u64, what: &str, damage: impl FnOnce(&Disk) -> bool) -> bool {
        let busy = self.runs(node) || self.stopping.contains_key(&node);
        if busy || !self.may_damage(node) || !damage(&self.disks[&node]) {
            return false;
        }
        self.damaged.insert(node);
        self.engine.note(&format!("{what} on the disk of n{node}"));
        true
    }

    /// Empties the disk of a node that does not run.
    pub fn wipe(&mut self, node: u64) {
        self.engine.note(&format!("the disk of n{node} is wiped"));
        self.disks[&node].wipe();
        self.book.with(|book| book.forget_store_of(node_id(node)));
    }

    /// What is durable on the disk of a node, to be put back later.
    #[must_use]
    pub fn image(&self, node: u64) -> Image {
        Image(self.disks[&node].durable_image())
    }

    /// Puts an old image on the disk of a node that does not run.
    pub fn restore(&mut self, node: u64, image: &Image) {
        self.engine.note(&format!("n{node} gets an old image"));
        self.disks[&node].restore(&image.0);
        self.book.with(|book| book.forget_store_of(node_id(node)));
    }

    /// A clock goes forward.
    pub fn jump_clock(&mut self, node: u64, by: Duration) {
        self.engine
            .note(&format!("the clock of n{node} jumps by {by:?}"));
        self.engine
            .change_clock(node_host(node), |clock, now| clock.jump(now, by));
    }

    /// A clock runs fast or slow.
    pub fn set_clock_rate(&mut self, node: u64, permille: u64) {
        self.engine
            .note(&format!("the clock of n{node} runs at {permille}"));
        self.engine
            .change_clock(node_host(node), |clock, now| clock.set_rate(now, permille));
    }

    /// The time of day at a node is wrong by so many seconds.
    pub fn set_wall_clock(&mut self, node: u64, by_s: i64) {
        self.engine
            .note(&format!("the time of day at n{node} is wrong by {by_s} s"));
        self.engine.set_wall_clock(node_host(node), by_s);
    }

    /// Changes one direction between two hosts.
    pub fn link(&mut self, from: HostId, to: HostId, change: impl FnOnce(&mut Link)) {
        self.network.change(from, to, change);
    }

    /// Cuts or mends, in both directions, what connects `side` with the other nodes.
    pub fn partition(&mut self, side: &[u64], cut: bool) {
        self.engine.note(&format!("{side:?} cut off: {cut}"));
        for a in 1..=self.params.nodes() {
            for b in 1..=self.params.nodes() {
                if side.contains(&a) != side.contains(&b) {
                    self.cut(a, b, cut);
                }
            }
        }
    }

    /// Cuts or mends one direction between two nodes.
    pub fn cut(&mut self, from: u64, to: u64, cut: bool) {
        self.link(node_host(from), node_host(to), |link| match cut {
            true => link.cuts += 1,
            false => link.cuts = link.cuts.saturating_sub(1),
        });
    }

    /// Asks whoever leads to hand over.
    pub fn transfer(&mut self, to: Option<u64>) {
        let Some(host) = self.leader() else { return };
        let leader = self.running[&host].node.handle();
        let to = to.map(node_id);
        self.engine
            .note(&format!("{} is to hand over to {to:?}", leader.id()));
        let transfer = async move {
            let _ = leader.raft().clone().transfer_leader(to).await;
        };
        // With its own process, which it must not outlive; others may take themselves for the leader, too.
        self.spawn_on(node_host(host), transfer);
    }

    /// Asks whoever leads to have `voters` vote, and the others only follow.
    ///
    /// Not where disks were damaged: no more than a minority of the voters' may be.
    pub fn change_voters(&mut self, voters: &[u64]) {
        if !self.damaged.is_empty() {
            return;
        }
        let voters: BTreeSet<_> = voters.iter().copied().map(node_id).collect();
        let all = (1..=self.params.nodes()).map(node_id);
        let learners = all.filter(|node| !voters.contains(node)).collect();
        self.change_members(MembershipChange::Set {
            voters,
            learners,
            addresses: [].into(),
        });
    }

    /// Asks whoever leads to change the members.
    pub fn change_members(&mut self, change: MembershipChange) {
        let Some(host) = self.leader() else { return };
        self.changes_voters = true;
        let leader = self.running[&host].node.handle();
        self.engine
            .note(&format!("{} is asked for {change:?}", leader.id()));
        let change = async move {
            let _ = leader.raft().clone().change_membership(change, None).await;
        };
        self.spawn_on(node_host(host), change);
    }

    /// Where the others reach `node`.
    #[must_use]
    pub fn address_of(&self, node: u64) -> SocketAddr {
        address(node_host(node), NODE_PORT)
    }

    /// Lets `node` call an election.
    pub fn campaign(&mut self, node: u64) {
        if let Some(running) = self.running.get(&node) {
            self.engine.note(&format!("n{node} is to campaign"));
            running.node.raft().campaign();
        }
    }

    /// The router before `node` forgets it: what it sends comes from another port from now on. What is sent
    /// to either reaches it.
    pub fn rebind(&mut self, node: u64) {
        self.engine
            .note(&format!("n{node} is seen at another port"));
        self.network.rebind(node_host(node));
    }

    /// Somebody who sees no packet sends `datagram` to `to` in the name of `from`.
    pub fn forge(&mut self, from: u64, to: u64, datagram: Vec<u8>) {
        let at = |node| address(node_host(node), NODE_PORT);
        self.network.forge(at(from), at(to), datagram);
    }

    /// Ends all faults of the network.
    pub fn heal_network(&mut self) {
        self.engine.note("the network heals");
        self.network.heal();
    }
}
