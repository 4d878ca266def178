//! Linearizable reads by ReadIndex (thesis, section 6.4), at the leader and at any other member.
//!
//! A read waits in `waiting`, then in a round until a majority has confirmed the leader, then until
//! the round's index has been handed to the state machine. All reads that wait share the next round. At
//! a member that follows, a round is a question to the leader, who has it confirmed together with its own
//! reads and answers with the index.

use std::collections::VecDeque;

use crate::config::ELECTION_TICKS;
use crate::error::ReadError;
use crate::message::ReadContext;
use crate::planted;
use crate::types::{LogIndex, NodeId};

/// Names a read to the one who waits for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadToken(pub u64);

/// How many rounds may wait for a majority at once. Each round costs a heartbeat exchange with every
/// member; two keep the pipe full while one is on its way back, and more only add packets.
const ROUNDS_MAX: usize = 2;

/// After how many ticks without an answer a follower asks its leader anew, by a context that was never used:
/// the question or the answer may be lost. Two fifths of an election timeout leave time for several.
const ASK_AGAIN_TICKS: u64 = ELECTION_TICKS as u64 * 2 / 5;

/// By how many contexts a follower asks for one round: as often as there is time for while its reads wait.
const CONTEXTS_MAX: usize = 5;

/// Reads that are not yet answered.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Vec<Read>,
    rounds: VecDeque<Round>,
    confirmed: VecDeque<(LogIndex, Vec<Read>)>,
    count: usize,
}

/// A read, and the tick at which it gives up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Read {
    reader: Reader,
    deadline: u64,
}

/// Who wants to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reader {
    /// Somebody here.
    Here(ReadToken),
    /// All who read at another member in its round.
    There(NodeId, ReadContext),
}

/// Reads that share an answer.
///
/// Invariant: each context was used after all of the reads had come, so that what answers any of them
/// answers the reads.
#[derive(Debug)]
struct Round {
    contexts: Vec<ReadContext>,
    reads: Vec<Read>,
    /// The tick at which the last context was used.
    asked: u64,
}

impl Reads {
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Adds a read that gives up at the tick `deadline`.
    pub(crate) fn push(&mut self, reader: Reader, deadline: u64) {
        self.waiting.push(Read { reader, deadline });
        self.count += 1;
    }

    /// Whether a new round should start now.
    pub(crate) fn wants_round(&self) -> bool {
        !self.waiting.is_empty() && self.rounds.len() < ROUNDS_MAX
    }

    /// All waiting reads share the round `context`, which begins at the tick `now`.
    pub(crate) fn start_round(&mut self, context: ReadContext, now: u64) {
        self.check_unused(context);
        self.rounds.push_back(Round {
            contexts: vec![context],
            reads: std::mem::take(&mut self.waiting),
            asked: now,
        });
    }

    /// Whether there is a round that was not answered for so long that it should be asked for again.
    pub(crate) fn has_late_round(&self, now: u64) -> bool {
        self.rounds.iter().any(|round| round.is_late(now))
    }

    /// The late round is also asked for by `context`, at the tick `now`. Other reads that wait do not join it: an
    /// earlier question may still be answered.
    pub(crate) fn ask_again(&mut self, context: ReadContext, now: u64) {
        self.check_unused(context);
        let late = self.rounds.iter_mut().find(|round| round.is_late(now));
        if let Some(round) = late {
            round.contexts.push(context);
            round.asked = now;
        }
    }

    fn check_unused(&self, context: ReadContext) {
        let mut used = self.rounds.iter().flat_map(|round| &round.contexts);
        assert!(
            used.all(|used| *used < context),
            "a context is used once only"
        );
    }

    /// The majority has confirmed the round of `context`: its reads may see the state at `index`. Returns whom
    /// to tell elsewhere.
    pub(crate) fn confirmed(
        &mut self,
        context: ReadContext,
        index: LogIndex,
    ) -> Vec<(NodeId, ReadContext)> {
        let Some(at) =
            self.rounds
                .iter()
                .position(|round| match planted::is("late-answer-forgotten") {
                    true => round.contexts.last() == Some(&context),
                    false => round.contexts.contains(&context),
                })
        else {
            return Vec::new();
        };
        let round = self
            .rounds
            .remove(at)
            .expect("position is within the queue");
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for read in round.reads {
            match read.reader {
                Reader::Here(_) => here.push(read),
                Reader::There(node, context) => there.push((node, context)),
            }
        }
        self.count -= there.len();
        if !here.is_empty() {
            self.confirmed.push_back((index, here));
        }
        there
    }

    /// The reads whose index is at or below `handed`, the last entry given to the state machine.
    pub(crate) fn take_ready(&mut self, handed: LogIndex) -> Vec<ReadToken> {
        let mut ready = Vec::new();
        // A follower's rounds may be answered by one leader after the other, with indexes in any order.
        self.confirmed.retain(|(index, reads)| {
            let is_ready = *index <= handed || planted::is("read-before-apply");
            if is_ready {
                ready.extend(reads.iter().filter_map(|read| read.reader.token()));
            }
            !is_ready
        });
        self.count -= ready.len();
        ready
    }

    /// All reads, to be failed with one reason: the node no longer leads.
    pub(crate) fn take_all(&mut self) -> Vec<ReadToken> {
        let rounds = self.rounds.drain(..).flat_map(|round| round.reads);
        let confirmed = self.confirmed.drain(..).flat_map(|(_, reads)| reads);
        let all = self.waiting.drain(..).chain(rounds).chain(confirmed);
        let tokens = all.filter_map(|read| read.reader.token()).collect();
        self.count = 0;
        tokens
    }

    /// Another node is to be asked: whatever was asked of the one before is not waited for any more.
    pub(crate) fn begin_anew(&mut self) {
        let reads = self.rounds.drain(..).flat_map(|round| round.reads);
        self.waiting.extend(reads);
    }

    /// The reads whose deadline is at or before the tick `now`.
    pub(crate) fn take_expired(&mut self, now: u64) -> Vec<(ReadToken, ReadError)> {
        let mut expired = Vec::new();
        let mut gone = 0;
        let mut sift = |reads: &mut Vec<Read>| {
            reads.retain(|read| {
                let over = read.deadline <= now;
                if over {
                    gone += 1;
                    let token = read.reader.token();
                    expired.extend(token.map(|token| (token, ReadError::TimedOut)));
                }
                !over
            });
        };
        sift(&mut self.waiting);
        self.rounds
            .iter_mut()
            .for_each(|round| sift(&mut round.reads));
        self.confirmed.iter_mut().for_each(|(_, reads)| sift(reads));
        // A round without readers would still hold a place; its confirmation is then ignored.
        self.rounds.retain(|round| !round.reads.is_empty());
        self.confirmed.retain(|(_, reads)| !reads.is_empty());
        self.count -= gone;
        expired
    }
}

impl Round {
    fn is_late(&self, now: u64) -> bool {
        now >= self.asked + ASK_AGAIN_TICKS && self.contexts.len() < CONTEXTS_MAX
    }
}

impl Reader {
    fn token(self) -> Option<ReadToken> {
        match self {
            Self::Here(token) => Some(token),
            Self::There(..) => None,
        }
    }
}
