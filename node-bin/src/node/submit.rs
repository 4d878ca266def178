//! Commands and questions that wait for a leader; commands from every member: one that does not lead sends them to who does.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::future;
use quorate_consensus::{LeaderChange, NodeId, ProposeError, ReadError, Role, Stopped};
use quorate_quic_transport::{CallError, NotSent, Ran, Refusal};

use super::NodeHandle;
use super::forward::{Forward, Forwarded};
use super::space::CommandError;
use crate::once::{Numbered, Said};
use crate::planted;

/// The first pause before a command that nobody took is offered again: about what a small batch takes to commit.
const PAUSE_MIN: Duration = Duration::from_millis(2);

/// The longest: short against an election.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// How often whoever waits for an answer looks whether that node still leads: short against an election.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The longest time that a command may have: longer than anybody waits, and short enough to be added to any clock.
const WITHIN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Why [`NodeHandle::submit`] gives no answer of the state machine.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// It was refused for good: too large, empty, no room on the leader's disk, or this node has stopped. Nothing happened.
    #[error(transparent)]
    Refused(CommandError),
    /// Nobody took it in time. Nothing happened.
    #[error("not done within {within:?}; nothing happened: {why}")]
    NotTaken {
        /// How long was tried.
        within: Duration,
        /// What was in the way at last.
        why: Obstacle,
    },
    /// It may have been applied, or may yet be. Repeat it only if applying it twice does no harm.
    #[error(
        "outcome unknown: node {} was given the command, and what came of it is not known; it may have been \
         applied, or may yet be",
        .by.value()
    )]
    OutcomeUnknown {
        /// Who was given it last.
        by: NodeId,
    },
    /// It was applied, and its answer is lost: too large to be sent by another node that leads
    /// ([`call_frame_bytes_max`](crate::transport::Limits::call_frame_bytes_max), 4 MiB), or, where it had to be asked for again, to be
    /// [kept](crate::once::ANSWER_BYTES_MAX).
    #[error("the command was applied, but its answer is too large to be had; ask for less at once")]
    AnswerLost,
}

impl SubmitError {
    /// Whether the command has not been applied, and never will be: it may be submitted again.
    #[must_use]
    pub fn nothing_happened(&self) -> bool {
        match self {
            Self::Refused(_) | Self::NotTaken { .. } => true,
            Self::OutcomeUnknown { .. } | Self::AnswerLost => false,
        }
    }
}

/// Why nobody takes a command for the moment.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// Nobody is known to lead.
    #[error("no leader is known; a majority of the nodes must run and reach each other")]
    NoLeader,
    /// The leader is not reached.
    #[error("node {}, which leads, is not reached: {why}", .leader.value())]
    Unreached {
        /// Who leads, as far as is known.
        leader: NodeId,
        /// What keeps it from there.
        why: NotSent,
    },
    /// The leader takes no commands from other members: it runs another program or version.
    #[error("node {}, which leads, takes no commands from other members; run the same program on all", .leader.value())]
    NotServed {
        /// Who leads.
        leader: NodeId,
    },
    /// The leader has too much to do.
    #[error("node {}, which leads, is overloaded; submit less at a time", .leader.value())]
    Overloaded {
        /// Who leads.
        leader: NodeId,
    },
    /// So many commands of this node are under way that this one never came to be sent.
    #[error(
        "{} commands of this node had no answer all the time; submit fewer at a time",
        crate::once::SLOTS_MAX
    )]
    Busy,
    /// It was given no time.
    #[error("there was no time to offer it")]
    NoTime,
}

/// What came of offering a command to who leads.
enum Offered {
    /// The state machine's answer, as it is at this node.
    Answered(Bytes, NodeId),
    /// Nothing happened, and it may be taken later.
    NotYet(Obstacle),
    /// It is not the leader, and thinks that this one is.
    Elsewhere(Option<NodeId>),
    /// Nothing more will come of it.
    Failed(SubmitError),
    /// It may have been applied, or may yet be.
    Unknown(NodeId),
}

impl NodeHandle {
    /// Replicates `command` from any member, and resolves to the answer of the state machine of who leads. While nobody does,
    /// or the leader has too much to do, it waits, for `within` altogether (a day at most). This node's own state may be
    /// behind that: [`query`](Self::query) sees it, [`query_stale`](Self::query_stale) may not yet.
    ///
    /// The command is applied once at most. A leader may be lost before it has answered, and nobody knows then whether it
    /// was applied: [`SubmitError::OutcomeUnknown`]. Where the node was started by
    /// [`start_saved_once`](super::NodeBuilder::start_saved_once), the next leader knows, and is asked: the outcome is unknown
    /// only if that takes longer than `within`, or this node stops meanwhile. A command is some bytes shorter there
    /// than it may be otherwise (34), and [`SLOTS_MAX`](crate::once::SLOTS_MAX) are under way at a time; others wait.
    ///
    /// As with [`propose`](Self::propose), nothing is sent before the future is first polled, and dropping it after that takes
    /// nothing back. It can be awaited anywhere. Two that are under way at a time are applied in any order.
    ///
    /// # Errors
    ///
    /// [`SubmitError`], each of whose variants says whether anything happened.
    pub fn submit(
        &self,
        command: Bytes,
        within: Duration,
    ) -> impl Future<Output = Result<Bytes, SubmitError>> + Send + use<> {
        let node = self.clone();
        async move {
            let submission = Submission(Patience::new(node, within));
            let numbered = submission.number(&command).await?;
            match numbered {
                Some(number) => {
                    let (answer, by) = submission.carry(number.join(&command), true).await?;
                    said(&answer, by)
                }
                None => {
                    let (answer, _) = submission.carry(command, false).await?;
                    Ok(answer)
                }
            }
        }
    }

    /// As [`query`](Self::query), and asks again while nobody leads or too much is asked, for `within` altogether (a day at
    /// most). It can be awaited anywhere.
    ///
    /// # Errors
    ///
    /// [`ReadError`]: what was in the way at last; [`ReadError::TimedOut`] if nothing was but time. Reading again is always safe.
    pub fn query_within(
        &self,
        query: Bytes,
        within: Duration,
    ) -> impl Future<Output = Result<Bytes, ReadError>> + Send + use<> {
        let node = self.clone();
        async move {
            let patience = Patience::new(node, within);
            let (mut pause, mut last) = (PAUSE_MIN, ReadError::TimedOut);
            while !patience.is_over() {
                let late = async {
                    let rested = patience.rest(Duration::MAX).await;
                    Err(rested.map_or(ReadError::Stopped, |()| last.clone()))
                };
                let asked = patience.node.query(query.clone());
                last = match future::or(asked, late).await {
                    Err(error) if error != ReadError::Stopped => error,
                    outcome => return outcome,
                };
                let paused = patience.pause(&mut pause).await;
                paused.map_err(|Stopped| ReadError::Stopped)?;
            }
            Err(last)
        }
    }

    /// Sleeps on the node's clock, wherever this is awaited. Fails when the node's executor has ended.
    pub(super) async fn rest(&self, duration: Duration) -> Result<(), Stopped> {
        let (wake, woken) = async_channel::bounded(1);
        let node = self.clone();
        // Timers of the runtime are made on the runtime. It is let go with whoever waits.
        self.spawn(async move {
            let slept = async {
                node.sleep(duration).await;
                let _ = wake.try_send(());
            };
            future::or(slept, wake.closed()).await;
        });
        woken.recv().await.map_err(|_| Stopped)
    }
}

/// How long something may be tried at a node.
struct Patience {
    node: NodeHandle,
    within: Duration,
    until: Instant,
}

impl Patience {
    fn new(node: NodeHandle, within: Duration) -> Self {
        let until = node.now() + within.min(WITHIN_MAX);
        Self {
            node,
            within,
            until,
        }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(self.node.now())
    }

    fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// As [`NodeHandle::rest`], and no longer than there is time.
    async fn rest(&self, duration: Duration) -> Result<(), Stopped> {
        self.node.rest(duration.min(self.left())).await
    }

    /// Rests for `pause`, the next of which is longer.
    async fn pause(&self, pause: &mut Duration) -> Result<(), Stopped> {
        let rested = self.rest(*pause).await;
        *pause = (*pause * 2).min(PAUSE_MAX);
        rested
    }
}

/// A command that has to be taken in time.
struct Submission(Patience);

impl Submission {
    fn node(&self) -> &NodeHandle {
        &self.0.node
    }

    fn stopped() -> SubmitError {
        SubmitError::Refused(ProposeError::Stopped.into())
    }

    /// A number for it, where commands have any.
    async fn number(&self, command: &Bytes) -> Result<Option<Numbered>, SubmitError> {
        let Some(slots) = &self.node().facts.slots else {
            return Ok(None);
        };
        let checked = slots.check(command);
        checked.map_err(|refused| SubmitError::Refused(refused.into()))?;
        let free = async { Ok(Some(slots.take().await)) };
        let late = async {
            Err(match self.0.rest(Duration::MAX).await {
                Ok(()) => self.not_taken(Obstacle::Busy),
                Err(Stopped) => Self::stopped(),
            })
        };
        future::or(free, late).await
    }

    fn not_taken(&self, why: Obstacle) -> SubmitError {
        let within = self.0.within;
        SubmitError::NotTaken { within, why }
    }

    /// Offers `command` until it is taken or the time is up; and again when nobody knows what came of it, if it is
    /// `numbered`. Returns the answer, and who gave it.
    async fn carry(&self, command: Bytes, numbered: bool) -> Result<(Bytes, NodeId), SubmitError> {
        let (mut hint, mut pause) = (None, PAUSE_MIN);
        let (mut given, mut why) = (None, Obstacle::NoTime);
        loop {
            // Before it is offered: what is on its way may be applied.
            if self.0.is_over() {
                return Err(unless_given(given, self.not_taken(why)));
            }
            let offered = self.offer(&command, hint.take(), numbered).await;
            why = match offered {
                Offered::Answered(answer, by) => return Ok((answer, by)),
                // What became of it before is known once there is room to ask.
                Offered::Failed(SubmitError::Refused(CommandError::DiskNearlyFull(full)))
                    if given.is_some() =>
                {
                    Obstacle::Overloaded { leader: full.node }
                }
                // What is refused now may have been taken before.
                Offered::Failed(error @ SubmitError::Refused(_)) => {
                    return Err(unless_given(given, error));
                }
                Offered::Failed(error) => return Err(error),
                Offered::Unknown(by) if numbered => {
                    given = Some(by);
                    Obstacle::NoLeader
                }
                Offered::Unknown(by) => return Err(SubmitError::OutcomeUnknown { by }),
                Offered::NotYet(why) => why,
                Offered::Elsewhere(leader) => {
                    hint = leader;
                    Obstacle::NoLeader
                }
            };
            let paused = self.0.pause(&mut pause).await;
            paused.map_err(|Stopped| unless_given(given, Self::stopped()))?;
        }
    }

    /// Offers it once: to `hint`, or to who leads as far as this node knows.
    async fn offer(&self, command: &Bytes, hint: Option<NodeId>, numbered: bool) -> Offered {
        let known = self.node().raft.leader();
        let (own, leader) = (self.node().id(), hint.or(known.leader));
        if known.role == Role::Leader {
            return future::or(self.offer_here(command), self.overtaken(known, own, false)).await;
        }
        match leader {
            Some(leader) if leader != own => {
                let there = self.offer_there(command, leader);
                future::or(there, self.overtaken(known, leader, numbered)).await
            }
            _ if self.node().raft.has_stopped() => Offered::Failed(Self::stopped()),
            _ => Offered::NotYet(Obstacle::NoLeader),
        }
    }

    async fn offer_here(&self, command: &Bytes) -> Offered {
        let own = self.node().id();
        let proposed = self.node().propose_as_it_is(command.clone()).await;
        match proposed {
            Ok(answer) => Offered::Answered(answer, own),
            Err(CommandError::Propose(ProposeError::NotLeader { leader })) => {
                Offered::Elsewhere(leader)
            }
            Err(CommandError::Propose(ProposeError::Overloaded)) => {
                Offered::NotYet(Obstacle::Overloaded { leader: own })
            }
            Err(CommandError::Propose(ProposeError::OutcomeUnknown { .. })) => {
                Offered::Unknown(own)
            }
            Err(refused) => Offered::Failed(SubmitError::Refused(refused)),
        }
    }

    async fn offer_there(&self, command: &Bytes, leader: NodeId) -> Offered {
        let Some(peer) = self.node().peer(leader) else {
            return Offered::NotYet(Obstacle::NoLeader);
        };
        let call = peer.call(Forward(command.clone()), self.0.left());
        match call.await {
            Ok(Forwarded::Answer(answer)) => Offered::Answered(answer, leader),
            Ok(Forwarded::NotLeader { leader }) => Offered::Elsewhere(leader),
            Ok(Forwarded::Overloaded) => Offered::NotYet(Obstacle::Overloaded { leader }),
            // Another one will lead.
            Ok(Forwarded::Stopped) => Offered::NotYet(Obstacle::NoLeader),
            Ok(Forwarded::OutcomeUnknown) => Offered::Unknown(leader),
            Ok(Forwarded::Refused(refused)) => {
                Offered::Failed(SubmitError::Refused(refused.into()))
            }
            Err(error) => unanswered(leader, &error, command),
        }
    }

    /// Completes when the time is up; if the command is `asked_elsewhere` then, also as soon as another node than `by` leads
    /// that did not when that was as `known`.
    async fn overtaken(&self, known: LeaderChange, by: NodeId, asked_elsewhere: bool) -> Offered {
        loop {
            let leader = self.node().raft.leader();
            let is_news = (leader.term, leader.leader) != (known.term, known.leader);
            let other = is_news && leader.leader.is_some_and(|leader| leader != by);
            if self.0.is_over() || asked_elsewhere && other {
                return Offered::Unknown(by);
            }
            let look = match asked_elsewhere {
                true => LOOK_INTERVAL,
                false => Duration::MAX,
            };
            if self.0.rest(look).await.is_err() {
                return Offered::Unknown(by);
            }
        }
    }
}

/// What the state of `by` has said of a numbered command.
fn said(answer: &Bytes, by: NodeId) -> Result<Bytes, SubmitError> {
    match Said::decode(answer) {
        Some(Said::Answer(answer)) => Ok(answer),
        Some(Said::NotKept) => Err(SubmitError::AnswerLost),
        // Another process runs as this very node, or other members with a state of another kind.
        Some(Said::Late | Said::Malformed) | None => Err(SubmitError::OutcomeUnknown { by }),
    }
}

/// `error`, unless somebody was given the command before.
fn unless_given(given: Option<NodeId>, error: SubmitError) -> SubmitError {
    match given {
        Some(by) if !planted::is("given-command-not-taken") => SubmitError::OutcomeUnknown { by },
        _ => error,
    }
}

/// What it means that a call to `leader` had no answer.
fn unanswered(leader: NodeId, error: &CallError, command: &Bytes) -> Offered {
    let not_yet = |why| Offered::NotYet(Obstacle::Unreached { leader, why });
    match (error, error.ran()) {
        (CallError::NotSent(NotSent::TooLarge { bytes_max }), _) => {
            let (bytes, bytes_max) = (command.len() as u64, *bytes_max as u64);
            let refused = ProposeError::TooLarge { bytes, bytes_max };
            Offered::Failed(SubmitError::Refused(refused.into()))
        }
        (CallError::NotSent(NotSent::ShuttingDown), _) => Offered::Failed(Submission::stopped()),
        (CallError::NotSent(why), _) => not_yet(*why),
        (CallError::Remote(Refusal::Overloaded), _) => {
            Offered::NotYet(Obstacle::Overloaded { leader })
        }
        (_, Ran::No) => Offered::NotYet(Obstacle::NotServed { leader }),
        // Only an answer of the state machine is ever too large.
        (CallError::Remote(Refusal::Unsendable), _) => Offered::Failed(SubmitError::AnswerLost),
        // Of what found no room, or cannot be read, nobody knows what it was: a refusal, perhaps.
        (_, Ran::Yes | Ran::Unknown) => Offered::Unknown(leader),
    }
}

#[cfg(test)]
mod tests {
    use quorate_quic_transport::{CloseReason, DecodeError};

    use super::*;

    /// Whatever leaves it open whether a command was proposed makes it unknown; only what is certain is offered again.
    #[test]
    fn h3_what_a_call_without_an_answer_means() {
        let leader = NodeId::new(2).unwrap();
        let command = Bytes::from_static(b"add 7");
        let said = |error: CallError| match unanswered(leader, &error, &command) {
            Offered::Unknown(by) if by == leader => "unknown".to_owned(),
            Offered::NotYet(why) => format!("not yet: {why}"),
            Offered::Failed(error) if error.nothing_happened() => format!("never: {error}"),
            Offered::Failed(error) => format!("applied: {error}"),
            _ => panic!("there is no answer"),
        };
        for error in [
            CallError::Deadline,
            CallError::Unknown(CloseReason::TimedOut),
            CallError::Decode(DecodeError::Kind {
                expected: 1,
                received: 2,
            }),
            CallError::Remote(Refusal::NoReply),
            CallError::Remote(Refusal::NoRoom),
            CallError::Remote(Refusal::Other(77)),
        ] {
            let text = error.to_string();
            assert_eq!(said(error), "unknown", "{text}");
        }
        let table = [
            (
                CallError::NotSent(NotSent::NotConnected),
                "not yet: node 2, which leads, is not reached",
            ),
            (
                CallError::NotSent(NotSent::QueueFull),
                "not yet: node 2, which leads, is not reached",
            ),
            (
                CallError::Remote(Refusal::Overloaded),
                "not yet: node 2, which leads, is overloaded",
            ),
            (
                CallError::Remote(Refusal::UnknownKind),
                "not yet: node 2, which leads, takes no commands",
            ),
            (
                CallError::Remote(Refusal::Malformed),
                "not yet: node 2, which leads, takes no commands",
            ),
            (
                CallError::NotSent(NotSent::TooLarge { bytes_max: 4 }),
                "never: command of 5 bytes",
            ),
            (
                CallError::NotSent(NotSent::ShuttingDown),
                "never: the node is stopping",
            ),
            (
                CallError::Remote(Refusal::Unsendable),
                "applied: the command was applied",
            ),
        ];
        for (error, begins) in table {
            let said = said(error);
            assert!(said.starts_with(begins), "{said}");
        }
    }
}
