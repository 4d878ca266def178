//! Linearizable reads by ReadIndex (thesis, section 6.4).
//!
//! A read waits in `waiting`, then in a round until a majority has confirmed the leader, then until
//! the round's index has been handed to the state machine. All reads that wait share the next round.

use std::collections::VecDeque;

use crate::error::ReadError;
use crate::message::ReadContext;
use crate::planted;
use crate::types::LogIndex;

/// Names a read to the one who waits for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadToken(pub u64);

/// How many rounds may wait for a majority at once. Each round costs a heartbeat exchange with every
/// member; two keep the pipe full while one is on its way back, and more only add packets.
const ROUNDS_MAX: usize = 2;

/// Reads that are not yet answered.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Vec<(ReadToken, u64)>,
    rounds: VecDeque<Round>,
    confirmed: VecDeque<(LogIndex, Vec<(ReadToken, u64)>)>,
    count: usize,
}

#[derive(Debug)]
struct Round {
    context: ReadContext,
    reads: Vec<(ReadToken, u64)>,
}

impl Reads {
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Adds a read that gives up at the tick `deadline`.
    pub(crate) fn push(&mut self, token: ReadToken, deadline: u64) {
        self.waiting.push((token, deadline));
        self.count += 1;
    }

    /// Whether a new round should start now.
    pub(crate) fn wants_round(&self) -> bool {
        !self.waiting.is_empty() && self.rounds.len() < ROUNDS_MAX
    }

    /// All waiting reads share the round `context`.
    pub(crate) fn start_round(&mut self, context: ReadContext) {
        assert!(
            self.rounds.back().is_none_or(|last| last.context < context),
            "a context is used once only"
        );
        let reads = std::mem::take(&mut self.waiting);
        self.rounds.push_back(Round { context, reads });
    }

    /// The majority has confirmed the round `context`: its reads may see the state at `index`.
    pub(crate) fn confirmed(&mut self, context: ReadContext, index: LogIndex) {
        if let Some(at) = self
            .rounds
            .iter()
            .position(|round| round.context == context)
        {
            let round = self
                .rounds
                .remove(at)
                .expect("position is within the queue");
            self.confirmed.push_back((index, round.reads));
        }
    }

    /// The reads whose index is at or below `handed`, the last entry given to the state machine.
    pub(crate) fn take_ready(&mut self, handed: LogIndex) -> Vec<ReadToken> {
        let mut ready = Vec::new();
        while self
            .confirmed
            .front()
            .is_some_and(|(index, _)| *index <= handed || planted::is("read-before-apply"))
        {
            let (_, reads) = self.confirmed.pop_front().expect("just seen");
            ready.extend(reads.into_iter().map(|(token, _)| token));
        }
        self.count -= ready.len();
        ready
    }

    /// All reads, to be failed with one reason: the node no longer leads.
    pub(crate) fn take_all(&mut self) -> Vec<ReadToken> {
        let rounds = self.rounds.drain(..).flat_map(|round| round.reads);
        let confirmed = self.confirmed.drain(..).flat_map(|(_, reads)| reads);
        let all = self.waiting.drain(..).chain(rounds).chain(confirmed);
        let all: Vec<_> = all.map(|(token, _)| token).collect();
        self.count -= all.len();
        all
    }

    /// The reads whose deadline is at or before the tick `now`.
    pub(crate) fn take_expired(&mut self, now: u64) -> Vec<(ReadToken, ReadError)> {
        let mut expired = Vec::new();
        let mut sift = |reads: &mut Vec<(ReadToken, u64)>| {
            reads.retain(|&(token, deadline)| {
                if deadline <= now {
                    expired.push((token, ReadError::TimedOut));
                }
                deadline > now
            });
        };
        sift(&mut self.waiting);
        self.rounds
            .iter_mut()
            .for_each(|round| sift(&mut round.reads));
        self.confirmed.iter_mut().for_each(|(_, reads)| sift(reads));
        // A round without readers would still hold a place; its confirmation is then ignored.
        self.rounds.retain(|round| !round.reads.is_empty());
        self.count -= expired.len();
        expired
    }
}
