//! The road of one operation: find the leader, ask it, judge the trouble, try again.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_lite::future;
use quorate_consensus::NodeId;
use quorate_quic_transport::{CallError, NotSent, Refusal as NoAnswer};

use super::error::{ClientError, Tried, Unanswered};
use super::keeper::Job;
use super::retry::{self, Operation, Trouble, Verdict};
use super::routing::Route;
use super::shared::Shared;
use crate::kv::command::{Command, Outcome};
use crate::kv::protocol::{Refusal, Request, Response};
use crate::planted;

/// How long an answer that is on its way may still take once another leader was announced: many round
/// trips in one site, little against an election.
const GRACE: Duration = Duration::from_millis(20);

/// An answer, and how it came about.
pub(super) struct Answered {
    pub(super) node: NodeId,
    pub(super) response: Response,
    /// Why the request may have been carried out before, if it was sent before this answer.
    pub(super) before: Option<Unanswered>,
}

impl Shared {
    /// Asks whoever leads.
    pub(super) async fn request(
        &self,
        operation: Operation,
        request: &Request,
    ) -> Result<(NodeId, Response), ClientError> {
        let deadline = self.runtime.now() + self.within;
        let answered = self.request_until(operation, request, deadline).await?;
        Ok((answered.node, answered.response))
    }

    /// Asks whoever leads, until `deadline`.
    pub(super) async fn request_until(
        &self,
        operation: Operation,
        request: &Request,
        deadline: Instant,
    ) -> Result<Answered, ClientError> {
        // The last time that a write was sent and may have been carried out.
        let mut before = None;
        let answered = self.try_until(operation, request, deadline, &mut before);
        match (answered.await, before) {
            (Ok((node, response)), before) => Ok(Answered {
                node,
                response,
                before: before.map(|(_, why)| why),
            }),
            (Err(_), Some((node, why))) if operation == Operation::Write => {
                Err(ClientError::OutcomeUnknown { node, why })
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn try_until(
        &self,
        operation: Operation,
        request: &Request,
        deadline: Instant,
        before: &mut Option<(NodeId, Unanswered)>,
    ) -> Result<(NodeId, Response), ClientError> {
        let begun = self.runtime.now();
        let mut refused = None;
        for attempt in 1.. {
            let Some(route) = self.route(deadline).await else {
                return Err(self.gave_up(self.runtime.now() - begun, refused));
            };
            let node = route.node;
            let trouble = match self.attempt(&route, operation, request, deadline).await {
                Ok(response) => return Ok((node, response)),
                Err(trouble) => trouble,
            };
            if trouble.is_ambiguous() {
                *before = Some((node, why(&trouble)));
            }
            match retry::decide(operation, &trouble) {
                Verdict::Retry => {}
                Verdict::Unknown => {
                    let why = why(&trouble);
                    return Err(ClientError::OutcomeUnknown { node, why });
                }
                Verdict::Fail => return Err(self.failure(node, trouble)),
            }
            self.learn(node, &trouble);
            let longest = retry::longest_pause(&trouble);
            if let Trouble::Refused(refusal) = trouble {
                refused = Some((node, refusal));
            }
            // The first few hints are followed at once; two nodes that point at each other are not.
            let moved = self.leader().is_some_and(|leader| leader != node);
            if !moved || attempt as usize > self.nodes().len() {
                let pause = retry::pause(attempt, longest, self.draw());
                let until = (self.runtime.now() + pause).min(deadline);
                // A new leader ends every pause: that is what most of them wait for.
                future::or(route.news.happened(), self.sleep_until(until)).await;
            }
        }
        unreachable!("attempts end at the deadline, long before they cannot be counted")
    }

    /// A session, opened if there is none.
    pub(super) async fn session(&self, deadline: Instant) -> Result<u64, ClientError> {
        if let Some(session) = self.sessions.session() {
            return Ok(session);
        }
        // Who opens it has had no answer in all that time.
        let begun = self.runtime.now();
        let late = || match self.leader() {
            Some(node) => self.failure(node, Trouble::Deadline),
            None => self.gave_up(self.runtime.now() - begun, None),
        };
        let opening = self
            .before(deadline, self.sessions.begin_opening(), late)
            .await?;
        if let Some(session) = self.sessions.session() {
            return Ok(session);
        }
        // One that was opened without our learning of it expires.
        let request = Request::Write(Command::OpenSession);
        let answered = self.request_until(Operation::Repeatable, &request, deadline);
        match answered.await? {
            Answered {
                response: Response::Written(Outcome::SessionOpened { session }),
                ..
            } => {
                opening.opened(session);
                Ok(session)
            }
            Answered { node, .. } => Err(ClientError::Nonsense { node }),
        }
    }

    /// Has the leader carry out `command`, once.
    pub(super) async fn write(&self, command: Command) -> Result<(NodeId, Outcome), ClientError> {
        let deadline = self.runtime.now() + self.within;
        loop {
            let session = self.session(deadline).await?;
            let late = || ClientError::TooManyUnderWay;
            let claim = self.before(deadline, self.sessions.claim(), late).await?;
            let tag = claim.tag(session);
            let command = command.clone();
            let request = match planted::is("write-sent-again") {
                true => Request::Write(command),
                false => Request::WriteOnce { tag, command },
            };
            let answered = self.request_until(Operation::Write, &request, deadline);
            let Answered {
                node,
                response,
                before,
            } = answered.await?;
            match (response, before) {
                (Response::Written(Outcome::SessionExpired), before) => {
                    self.sessions.handle_expired(session);
                    if before.is_some() {
                        let why = Unanswered::SessionExpired;
                        return Err(ClientError::OutcomeUnknown { node, why });
                    }
                    // It was never sent before, so that nothing has happened.
                }
                (Response::Written(Outcome::AnswerNotKept { .. }), _) => {
                    let why = Unanswered::NotKept;
                    return Err(ClientError::OutcomeUnknown { node, why });
                }
                (Response::Written(outcome), _) => return Ok((node, outcome)),
                _ => {
                    let why = Unanswered::Nonsense;
                    return Err(ClientError::OutcomeUnknown { node, why });
                }
            }
        }
    }

    /// Waits for others of this client, until `deadline`; then it is `late`.
    async fn before<T>(
        &self,
        deadline: Instant,
        waited_for: impl Future<Output = T>,
        late: impl FnOnce() -> ClientError,
    ) -> Result<T, ClientError> {
        let arrived = async { Ok(waited_for.await) };
        let over = async {
            self.sleep_until(deadline).await;
            Err(late())
        };
        future::or(arrived, over).await
    }

    /// Asks `node` itself, whether it leads or not, something that changes nothing.
    pub(super) async fn ask(
        &self,
        node: NodeId,
        request: &Request,
    ) -> Result<Response, ClientError> {
        let deadline = self.runtime.now() + self.within;
        self.ask_until(node, request, deadline).await
    }

    /// As [`ask`](Self::ask), until `deadline`.
    pub(super) async fn ask_until(
        &self,
        node: NodeId,
        request: &Request,
        deadline: Instant,
    ) -> Result<Response, ClientError> {
        if self.peer(node).is_none() {
            // Whoever says who leads also says where the others are.
            self.route(deadline).await;
        }
        let peer = self.peer(node).ok_or(ClientError::UnknownNode { node })?;
        let begun = self.runtime.now();
        // What it said the last time, if it was reached.
        let mut refused = None;
        for attempt in 1.. {
            let left = deadline.saturating_duration_since(self.runtime.now());
            let trouble = match outcome(peer.call(request.clone(), left).await) {
                Ok(response) => return Ok(response),
                Err(trouble) => trouble,
            };
            let again = retry::decide(Operation::Repeatable, &trouble) == Verdict::Retry;
            let longest = retry::longest_pause(&trouble);
            match trouble {
                Trouble::Refused(refusal) if again => refused = Some(refusal),
                // The time that was left after its refusal was too short.
                Trouble::Deadline if refused.is_some() => {}
                _ if again => refused = None,
                trouble => return Err(self.failure(node, trouble)),
            }
            let next = self.runtime.now() + retry::pause(attempt, longest, self.draw());
            if next >= deadline || self.is_hopeless(node) {
                return Err(match refused {
                    Some(refusal) => ClientError::StillRefused {
                        within: whole_ms(next - begun),
                        node,
                        refusal,
                    },
                    None => self.unreachable(node),
                });
            }
            self.sleep_until(next).await;
        }
        unreachable!("attempts end at the deadline, long before they cannot be counted")
    }

    /// The way to the leader; waits for one until the deadline, unless that is hopeless.
    async fn route(&self, deadline: Instant) -> Option<Route> {
        loop {
            if self.runtime.now() >= deadline || self.is_closed() {
                return None;
            }
            let (_waiting, found, start) = {
                let mut routing = self.routing();
                if let Some(route) = routing.route() {
                    return Some(route);
                }
                if self.all_hopeless() {
                    return None;
                }
                let (found, start) = routing.begin_wait();
                (Waiting(self), found, start)
            };
            if start && self.jobs.try_send(Job::Seek).is_err() {
                // As if nobody had been asked: whoever waits next asks again, and this one after a pause.
                self.routing().seek_failed();
                let pause = self.runtime.now() + retry::PAUSE_MAX;
                future::or(found.happened(), self.sleep_until(pause.min(deadline))).await;
                continue;
            }
            future::or(found.happened(), self.sleep_until(deadline)).await;
        }
    }

    async fn attempt(
        &self,
        route: &Route,
        operation: Operation,
        request: &Request,
        deadline: Instant,
    ) -> Result<Response, Trouble> {
        // It may have been taken out this moment.
        let peer = self.peer(route.node).ok_or(Trouble::NotSent)?;
        let left = deadline.saturating_duration_since(self.runtime.now());
        let mut call = pin!(peer.call(request.clone(), left));
        let answered = async { Some(call.as_mut().await) };
        let superseded = async {
            route.superseded.happened().await;
            None
        };
        if let Some(answer) = future::or(answered, superseded).await {
            return outcome(answer);
        }
        match operation {
            // It is asked again at once.
            Operation::Repeatable | Operation::Write => Err(Trouble::Superseded),
            // The answer may be on its way, and here the difference matters.
            Operation::Transfer => {
                let grace = async {
                    self.sleep_until(self.runtime.now() + GRACE).await;
                    Err(Trouble::Superseded)
                };
                future::or(async { outcome(call.await) }, grace).await
            }
        }
    }

    /// Takes from trouble what it says about who leads.
    fn learn(&self, node: NodeId, trouble: &Trouble) {
        match trouble {
            Trouble::Refused(Refusal::NotLeader { leader }) => {
                self.routing().handle_refusal(node, *leader);
            }
            Trouble::Refused(Refusal::Stopping) => self.routing().handle_refusal(node, None),
            Trouble::NotSent | Trouble::Lost => self.routing().handle_unreachable(node),
            Trouble::Unsendable
            | Trouble::Deadline
            | Trouble::Superseded
            | Trouble::NoRoom
            | Trouble::Nonsense
            | Trouble::Refused(_) => {}
        }
    }

    /// Why there is no answer after `within`.
    fn gave_up(&self, within: Duration, refused: Option<(NodeId, Refusal)>) -> ClientError {
        let within = whole_ms(within);
        match refused {
            Some((node, refusal)) if !matches!(refusal, Refusal::NotLeader { .. }) => {
                ClientError::StillRefused {
                    within,
                    node,
                    refusal,
                }
            }
            _ if self.all_hopeless() => ClientError::NoUsableNode {
                tried: self.tried(),
            },
            _ => ClientError::NoLeader {
                within,
                tried: self.tried(),
                unlisted: self.routing().unlisted(),
            },
        }
    }

    fn tried(&self) -> Vec<Tried> {
        self.nodes()
            .into_iter()
            .map(|node| Tried {
                node,
                why: self.known_of(node),
            })
            .collect()
    }

    fn failure(&self, node: NodeId, trouble: Trouble) -> ClientError {
        match trouble {
            Trouble::Refused(refusal) => ClientError::Refused { node, refusal },
            Trouble::Deadline => ClientError::TimedOut {
                node,
                within: self.within,
            },
            Trouble::Nonsense => ClientError::Nonsense { node },
            Trouble::NotSent
            | Trouble::Unsendable
            | Trouble::Lost
            | Trouble::NoRoom
            | Trouble::Superseded => self.unreachable(node),
        }
    }

    fn unreachable(&self, node: NodeId) -> ClientError {
        ClientError::Unreachable {
            node,
            why: self.known_of(node),
            for_good: self.is_hopeless(node),
        }
    }
}

/// An operation that waits for a leader.
struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.routing().end_wait();
    }
}

/// Shorter to read.
fn whole_ms(time: Duration) -> Duration {
    Duration::from_millis(time.as_millis() as u64)
}

/// What the transport's answer means for an operation.
fn outcome(answer: Result<Response, CallError>) -> Result<Response, Trouble> {
    match answer {
        Ok(Response::Refused(refusal)) => Err(Trouble::Refused(refusal)),
        Ok(response) => Ok(response),
        Err(error) => Err(trouble(&error)),
    }
}

/// What is not known for certain to have left nothing behind counts as lost.
fn trouble(error: &CallError) -> Trouble {
    match error {
        CallError::NotSent(NotSent::NotConnected | NotSent::QueueFull) => Trouble::NotSent,
        CallError::NotSent(_) => Trouble::Unsendable,
        CallError::Deadline => Trouble::Deadline,
        CallError::Remote(NoAnswer::Overloaded) => Trouble::Refused(Refusal::Overloaded),
        CallError::Remote(refusal @ (NoAnswer::UnknownKind | NoAnswer::Malformed)) => {
            Trouble::Refused(Refusal::malformed(refusal))
        }
        CallError::Remote(NoAnswer::Unsendable) | CallError::Decode(_) => Trouble::Nonsense,
        CallError::Remote(NoAnswer::NoRoom) => Trouble::NoRoom,
        CallError::Unknown(_) | CallError::Remote(_) => Trouble::Lost,
        _ => Trouble::Lost,
    }
}

fn why(trouble: &Trouble) -> Unanswered {
    match trouble {
        Trouble::Deadline => Unanswered::Deadline,
        Trouble::Superseded => Unanswered::Superseded,
        Trouble::Nonsense => Unanswered::Nonsense,
        Trouble::Refused(_) => Unanswered::Undecided,
        Trouble::NoRoom => Unanswered::NoRoom,
        Trouble::Lost | Trouble::NotSent | Trouble::Unsendable => Unanswered::Lost,
    }
}
