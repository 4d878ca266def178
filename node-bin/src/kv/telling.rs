//! What clients are told unasked.

use async_channel::{Receiver, Sender};
use futures_lite::future;
use quorate_consensus::{Event, LeaderChange, Role};

use super::protocol::Notice;
use crate::node::{GROUP, NodeHandle};

/// How many clients are told before others have their turn: ten thousand at once would hold up the I/O thread for as long
/// as an election must not be held up. This many take about a millisecond.
const TOLD_AT_A_TIME: usize = 256;

/// Tells clients who leads.
pub(super) struct Announcer {
    /// Whether this node led, as of the last change.
    led: bool,
    /// Holds one notice at most, the latest.
    latest: Sender<Notice>,
}

impl Announcer {
    /// Brings it with what [`tell_of_leaders`] takes.
    pub(super) fn new() -> (Self, Receiver<Notice>) {
        let (latest, news) = async_channel::bounded(1);
        (Self { led: false, latest }, news)
    }

    /// That nobody leads is of interest where it comes from who did: clients believe it of nobody else, and in an election
    /// every node would say so several times.
    pub(super) fn handle_change(&mut self, change: &LeaderChange) {
        let led = std::mem::replace(&mut self.led, change.role == Role::Leader);
        if change.leader.is_some() || led {
            let LeaderChange { term, leader, .. } = *change;
            // Nobody takes it any more once the node has ended.
            let _ = self.latest.force_send(Notice::Leader { term, leader });
        }
    }
}

/// Tells clients what comes from the [`Announcer`], until that is gone. Whoever was not told yet when there is news is told
/// these only.
pub(super) async fn tell_of_leaders(node: NodeHandle, news: Receiver<Notice>) {
    while let Ok(mut notice) = news.recv().await {
        loop {
            let told = async {
                tell_clients(&node, &notice).await;
                None
            };
            match future::or(async { news.recv().await.ok() }, told).await {
                Some(newer) => notice = newer,
                None => break,
            }
        }
    }
}

/// Tells clients of members that come, go or move, until the node ends.
pub(super) async fn tell_of_members(
    node: NodeHandle,
    notice: impl AsyncFn(&NodeHandle) -> Option<Notice>,
) {
    let mut events = node.events();
    while let Some(event) = events.next().await {
        if let Event::Members(_) = event
            && let Some(notice) = notice(&node).await
        {
            tell_clients(&node, &notice).await;
        }
    }
}

/// One that cannot keep up with its answers is left out: it learns the same by asking.
async fn tell_clients(node: &NodeHandle, notice: &Notice) {
    let clients = node.clients();
    in_turns(clients, |client| {
        let _ = client.try_send(Notice::LANE, GROUP, notice.clone());
    })
    .await;
}

/// Does something for each, and lets others have their turn in between.
async fn in_turns<T>(all: Vec<T>, mut each: impl FnMut(T)) {
    let mut all = all.into_iter();
    loop {
        all.by_ref().take(TOLD_AT_A_TIME).for_each(&mut each);
        if all.len() == 0 {
            return;
        }
        future::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_lite::future::{block_on, poll_once};
    use quorate_consensus::{NodeId, Term};

    use super::*;

    /// An election is told once by those who follow, and once more by the one who led; of several changes that nobody was
    /// told of yet, the last.
    #[test]
    fn an_election_is_told_once() {
        let (mut announcer, news) = Announcer::new();
        let mut told = |term, role, leader| {
            let (term, leader) = (Term::new(term), NodeId::new(leader));
            announcer.handle_change(&LeaderChange { term, role, leader });
            news.try_recv().is_ok()
        };
        assert!(told(5, Role::Follower, 2));
        for role in [Role::PreCandidate, Role::Candidate, Role::Follower] {
            assert!(!told(6, role, 0));
        }
        assert!(told(7, Role::Leader, 1), "it leads");
        assert!(told(8, Role::Follower, 0), "it has stopped");
        assert!(!told(8, Role::PreCandidate, 0));
        for term in [9, 10] {
            let (term, role, leader) = (Term::new(term), Role::Follower, NodeId::new(3));
            announcer.handle_change(&LeaderChange { term, role, leader });
        }
        let (term, leader) = (Term::new(10), NodeId::new(3));
        assert_eq!(news.try_recv(), Ok(Notice::Leader { term, leader }));
        assert!(news.is_empty());
    }

    /// Many are told in several turns, and all of them once.
    #[test]
    fn others_have_their_turn() {
        let count = 2 * TOLD_AT_A_TIME + 1;
        let told = std::cell::RefCell::new(Vec::new());
        let mut telling = pin!(in_turns((0..count).collect(), |it| {
            told.borrow_mut().push(it);
        }));
        for turn in 1..=2 {
            assert!(block_on(poll_once(telling.as_mut())).is_none());
            assert_eq!(told.borrow().len(), turn * TOLD_AT_A_TIME);
        }
        assert!(block_on(poll_once(telling)).is_some());
        assert!(told.borrow().iter().copied().eq(0..count));
    }
}
