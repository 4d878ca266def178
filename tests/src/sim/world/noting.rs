//! Nodes whose state is saved in a file, and what is asked of them.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate::{NodeHandle, SubmitError};

use super::{Keeps, World, node_host};
use crate::sim::notes::Notes;

/// What came of a number, once that is known.
pub type Submitted = Arc<Mutex<Option<Result<(), SubmitError>>>>;

impl World {
    /// Its nodes keep numbers, in a state that is saved, instead of the key-value store. Clients of that have no
    /// business here: see [`note`](Self::note).
    #[must_use]
    pub fn noting(mut self) -> Self {
        self.keeps = Keeps::Notes;
        self
    }

    /// As [`noting`](Self::noting), with numbers that are written down once, however often they are [sent](Self::submit).
    #[must_use]
    pub fn noting_once(mut self) -> Self {
        self.keeps = Keeps::NotesOnce;
        self
    }

    /// Has `node`, which runs, see to it that a number is written down, without waiting for that. What comes of it is told
    /// there, unless the node ends before.
    pub fn submit(&mut self, node: u64, number: u64, within: Duration) -> Submitted {
        let handle = self.running[&node].node.handle();
        let outcome = Submitted::default();
        let told = Arc::clone(&outcome);
        self.spawn_on(node_host(node), async move {
            let answer = handle.submit(Notes::command(number), within).await;
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer.map(drop));
        });
        outcome
    }

    /// Has `node` write a number down; returns whether that was acknowledged by `deadline`.
    pub fn note(&mut self, node: u64, number: u64, deadline: Duration) -> bool {
        let noted = self.ask_node(node, deadline, move |node| async move {
            node.propose(Notes::command(number)).await.is_ok()
        });
        noted == Some(true)
    }

    /// All numbers in the order in which they came, as `node` has them with all that was acknowledged before;
    /// `None` when it does not say by `deadline`.
    pub fn notes(&mut self, node: u64, deadline: Duration) -> Option<Vec<u64>> {
        let answer = self.ask_node(node, deadline, |node| async move {
            node.query(Bytes::new()).await.ok()
        });
        answer?.map(|answer| Notes::read(&answer))
    }

    /// What comes of `work` with the handle of `node`, unless that ends before, or time does.
    fn ask_node<T: Send + 'static, W>(
        &mut self,
        node: u64,
        deadline: Duration,
        work: impl FnOnce(NodeHandle) -> W,
    ) -> Option<T>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let work = work(self.running.get(&node)?.node.handle());
        let answer = Arc::new(Mutex::new(None));
        let told = Arc::clone(&answer);
        let tell = async move {
            let answer = work.await;
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        };
        // With its own process, which the handle must not outlive.
        self.spawn_on(node_host(node), tell);
        let answered = Arc::clone(&answer);
        self.run_until(deadline, |world| {
            let there = answered.lock().is_ok_and(|answer| answer.is_some());
            there || !world.runs(node)
        });
        let mut answer = answer.lock().unwrap_or_else(PoisonError::into_inner);
        answer.take()
    }
}
