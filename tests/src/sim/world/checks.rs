//! What nobody reports and the world must look at by itself.

use std::path::Path;
use std::sync::atomic::Ordering;

use quorate::{NodeId, Role};
use quorate_persist::{OpenError, Opened, Options, Store, StoreIdentity};
use quorate_quic_transport::Limits;

use super::{Running, Stopping, WATCH_EVERY, World, node_host, node_id};
use crate::sim::book::Book;

impl World {
    /// Looks at everything that nobody reports.
    pub(super) fn check(&mut self) {
        let mut leaders = Vec::new();
        for (node, running) in &self.running {
            let change = running.node.raft().leader();
            if change.role == Role::Leader && self.leading.get(node) != Some(&change.term) {
                leaders.push((*node, change.term));
            }
        }
        for (node, term) in leaders {
            self.leading.insert(node, term);
            self.engine.note(&format!("n{node} leads term {term}"));
            self.book.with(|book| book.leads(node_id(node), term));
        }
        if self.engine.now() >= self.watched_until {
            self.watched_until = self.engine.now() + WATCH_EVERY.as_nanos() as u64;
            self.check_queues();
            self.bury();
        }
    }

    /// No queue is longer than its bound.
    fn check_queues(&self) {
        let limits = Limits::default();
        for (node, running) in &self.running {
            for peer in running.node.peers() {
                let over = peer.queued.iter().find(|queue| {
                    queue.messages > limits.lane_messages_max || queue.bytes > limits.lane_bytes_max
                });
                self.book.with(|book| {
                    book.must(over.is_none(), "queues are bounded", || {
                        format!("n{node} holds {over:?} for {}", peer.identity)
                    });
                });
            }
        }
    }

    /// Clears away nodes that have ended by themselves, as their disks made them.
    fn bury(&mut self) {
        let ended = |running: &Running| running.ended.lock().ok().and_then(|ended| ended.clone());
        let dead: Vec<(u64, String)> = self
            .running
            .iter()
            .filter_map(|(node, running)| Some((*node, ended(running)?)))
            .collect();
        for (node, why) in dead {
            self.engine
                .note(&format!("n{node} has stopped itself: {why}"));
            // What its disk refused in the middle of a write may be lost, or torn.
            let written = self.rng.chance(50);
            self.kill(node, written);
        }
        self.bury_stopped();
    }

    /// Clears away nodes that have stopped in good order, and of which no task is left.
    fn bury_stopped(&mut self) {
        let nodes: Vec<u64> = self.stopping.keys().copied().collect();
        for node in nodes {
            let Stopping { done, until, .. } = &self.stopping[&node];
            let tasks = self.engine.task_count(node_host(node));
            if done.load(Ordering::Relaxed) && tasks == 0 {
                self.engine.note(&format!("n{node} has stopped"));
                let stopped = self.stopping.remove(&node).expect("it was just there");
                self.disks[&node].cut_off();
                self.clear(node, &[stopped.process]);
            } else if self.now() > *until {
                let done = done.load(Ordering::Relaxed);
                self.book.with(|book| {
                    let detail = format!("n{node} has {tasks} tasks; stopped: {done}");
                    book.fails("a stop comes to an end", detail);
                });
            }
        }
    }

    /// Compares what the disks would keep with what they were told to keep.
    pub fn check_disks(&mut self) {
        for node in 1..=self.params.nodes() {
            if self.lost.contains(&node) || self.damaged.contains(&node) {
                continue;
            }
            match self.durable_log(node) {
                Some(Ok(opened)) => self.book.with(|book| compare(book, node_id(node), &opened)),
                Some(Err(error)) => self.book.with(|book| {
                    book.fails("durable writes survive", format!("n{node}: {error}"));
                }),
                None => {}
            }
        }
    }

    /// The index before the first entry of the log that the disk of `node` would keep, if it would keep one.
    #[must_use]
    pub fn log_base(&self, node: u64) -> Option<u64> {
        let opened = self.durable_log(node)?.ok()?;
        Some(opened.recovered.base().index.value())
    }

    /// The log of `node` as its disk would keep it, if it would keep one.
    fn durable_log(&self, node: u64) -> Option<Result<Opened, OpenError>> {
        let files = self.disks[&node].durable_image().mount(None);
        let identity = StoreIdentity {
            cluster: "sim".into(),
            node: node_id(node),
        };
        let path = Path::new("/data").join(quorate::LOG_FILE);
        if !files.exists(&path).unwrap_or(false) {
            return None;
        }
        let options = Options {
            cache_bytes: 1 << 20,
            background: false,
            ..Options::default()
        };
        Some(Store::open_in(&*files, &path, &identity, options))
    }
}

fn compare(book: &mut Book, node: NodeId, opened: &Opened) {
    let (base, last) = (opened.recovered.base(), opened.recovered.last);
    match quorate_consensus::read_tail(&opened.store, base.index, last) {
        Ok(entries) => book.durable_is(node, opened.recovered.hard_state, base, &entries),
        Err(error) => book.fails("durable writes survive", format!("{node}: {error}")),
    }
}
