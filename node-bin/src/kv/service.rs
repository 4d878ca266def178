//! The server side of the key-value store: who may ask what, and how an answer comes about.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future;
use quorate_certs::Identity;
use quorate_consensus::{
    LeaderChange, LogIndex, MembershipChange, NodeId, ORIGIN, ProposeError, Role, StateMachine,
    TransferError,
};
use quorate_quic_transport::{IncomingCall, PeerState, Reply};
use tracing::debug;

use super::board::Board;
use super::command::{Command, Outcome};
use super::directory::Directory;
use super::history::{Seen, WATCH_WAIT_MAX, Watched};
use super::logged::{Logged, Tag};
use super::metrics::Metrics;
use super::protocol::{NodeStatus, Notice, PeerStatus, Refusal, Request, Response};
use super::query::{Answer, validate_bounds};
use super::refusals::{membership_refusal, propose_refusal, read_refusal, transfer_refusal};
use super::store::{KvOptions, KvStore};
use super::telling::{Announcer, tell_of_leaders, tell_of_members};
use super::timekeeper::{LOOK_INTERVAL, Timekeeper};
use crate::node::{LOG_FILE, Node, NodeBuilder, NodeHandle, Service, StartError};

/// By how much those who wait in vain are answered sooner than others: thousands who began to watch together, as they do
/// after an election, would else ask again together, every ten seconds.
const WATCH_WAIT_SPREAD: Duration = WATCH_WAIT_MAX.checked_div(4).unwrap();

/// Into how many parts that is divided.
const SPREAD_PARTS: u32 = 1024;

/// Serves the key-value store to clients.
pub(crate) struct KvService {
    board: Arc<Board>,
    timekeeper: Arc<Timekeeper>,
    /// Once the node has started.
    metrics: Option<Arc<Metrics>>,
    announcer: Option<Announcer>,
    /// Questions for what happens next, so far.
    watched: AtomicU32,
}

impl KvService {
    fn new(board: Arc<Board>) -> Self {
        Self {
            board,
            timekeeper: Arc::default(),
            metrics: None,
            announcer: None,
            watched: AtomicU32::new(0),
        }
    }

    fn metrics(&self, node: &NodeHandle, reply: Reply) {
        let (node, metrics) = (node.clone(), self.metrics.clone());
        let watchers = self.board.history.waiting();
        node.clone().spawn(async move {
            let response = match (node.metrics().await, metrics) {
                (Ok(mut text), Some(metrics)) => {
                    metrics.encode(&node, watchers, &mut text);
                    Response::Metrics(text)
                }
                _ => Response::Refused(Refusal::Stopping),
            };
            reply.send(&response);
        });
    }

    fn write(
        &self,
        node: &NodeHandle,
        who: &Identity,
        (tag, command): (Option<Tag>, Command),
        reply: Reply,
    ) {
        if command.grows()
            && let Err(full) = node.check_room()
        {
            return refuse(reply, full.into());
        }
        let of_somebody =
            tag.is_some() || matches!(command, Command::OpenSession | Command::GrantLease { .. });
        let logged = Logged {
            elapsed_ms: 0,
            tag,
            command: Some(command),
            owner: match of_somebody {
                true => who.fingerprint(),
                false => 0,
            },
        };
        if let Err(error) = logged.validate() {
            return refuse(reply, error.into());
        }
        propose(node, &self.timekeeper, logged, move |outcome| {
            let response = match outcome {
                Ok(answer) => match Outcome::decode(&answer) {
                    Ok(outcome) => Response::Written(outcome),
                    Err(_) => unreadable(),
                },
                Err(error) => Response::Refused(propose_refusal(error)),
            };
            reply.send(&response);
        });
    }

    fn watch(
        &self,
        node: &NodeHandle,
        who: &Arc<Identity>,
        (watched, after): (Watched, u64),
        reply: Reply,
    ) {
        if let Err(error) = validate_bounds(&watched.start, watched.end.as_ref()) {
            return refuse(reply, error.into());
        }
        // Nothing happened before the first entry.
        let after = after.max(ORIGIN.index.value());
        let asked = self.watched.fetch_add(1, Ordering::Relaxed);
        let until =
            node.now() + WATCH_WAIT_MAX - WATCH_WAIT_SPREAD * (asked % SPREAD_PARTS) / SPREAD_PARTS;
        // Whoever may not wait is answered as well.
        let reply = Arc::new(Mutex::new(Some(reply)));
        let take = |reply: &Mutex<Option<Reply>>| {
            reply.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let waiting = Arc::clone(&reply);
        let taken = self
            .board
            .history
            .watch(who, watched, after, until, move |seen| {
                if let Some(reply) = take(&waiting) {
                    reply.send(&match seen {
                        Seen::Changes { changes, revision } => {
                            Response::Watched { changes, revision }
                        }
                        Seen::Gone { since } => Response::Refused(Refusal::HistoryGone { since }),
                        Seen::Displaced => Response::Refused(Refusal::Overloaded),
                    });
                }
            });
        if !taken && let Some(reply) = take(&reply) {
            refuse(reply, Refusal::Overloaded);
        }
    }
}

/// Lets time pass while this node leads, ends the wait of those who have waited long enough, and lets go of backups
/// that nobody reads any more; until the node ends.
async fn keep_time(node: NodeHandle, board: Arc<Board>, timekeeper: Arc<Timekeeper>) {
    let mut events = node.events();
    let ended = async { while events.next().await.is_some() {} };
    let keeping = async {
        loop {
            node.sleep(LOOK_INTERVAL).await;
            let (known, now) = (node.raft().leader(), node.now());
            board.history.tick(now);
            board.backups.tick(now);
            if timekeeper.has_to_tell(&known, now, board.due_in()) {
                let logged = Logged {
                    elapsed_ms: 0,
                    tag: None,
                    command: None,
                    owner: 0,
                };
                // If it is refused, what should end lives a little longer.
                propose(&node, &timekeeper, logged, |_| ());
            }
        }
    };
    future::or(ended, keeping).await;
    // Nobody is answered any more: their replies say so when they are dropped.
    board.history.end();
    // The file may be opened again in this process.
    board.backups.end();
}

/// Who the members are and where, for clients.
async fn members(node: &NodeHandle) -> Option<Notice> {
    let status = node.status().await.ok()?;
    Directory::of(&describe(node, &status)).map(Notice::Members)
}

impl Service for KvService {
    fn started(&mut self, node: &NodeHandle) {
        self.metrics = Some(Arc::new(Metrics::new(node)));
        let (board, timekeeper) = (Arc::clone(&self.board), Arc::clone(&self.timekeeper));
        node.spawn(keep_time(node.clone(), board, timekeeper));
        node.spawn(tell_of_members(node.clone(), members));
        let (announcer, news) = Announcer::new();
        node.spawn(tell_of_leaders(node.clone(), news));
        self.announcer = Some(announcer);
    }

    fn call(&mut self, node: &NodeHandle, call: IncomingCall) {
        let request = match call.decode::<Request>() {
            Ok(request) => request,
            Err(error) => return refuse(call.reply, Refusal::malformed(error)),
        };
        if let Some(metrics) = &self.metrics {
            metrics.count(&request);
        }
        let (needs, has) = (request.needs(), call.from.role());
        if !needs.allows(has) {
            debug!(node = %node.id(), peer = %call.from, "request refused: not allowed");
            return refuse(call.reply, Refusal::NotAllowed { needs, has });
        }
        match request {
            Request::Write(command) => self.write(node, &call.from, (None, command), call.reply),
            Request::WriteOnce { tag, command } => {
                self.write(node, &call.from, (Some(tag), command), call.reply);
            }
            Request::Watch { watched, after } => {
                self.watch(node, &call.from, (watched, after), call.reply);
            }
            Request::Read(query) => match query.validate() {
                Ok(()) => match node.raft().leader() {
                    known if known.role == Role::Leader => read(node, query.encode(), call.reply),
                    // Who asks so wants to know who leads.
                    LeaderChange { leader, .. } => {
                        refuse(call.reply, Refusal::NotLeader { leader });
                    }
                },
                Err(error) => refuse(call.reply, error.into()),
            },
            Request::ReadHere(query) => match query.validate() {
                Ok(()) => read(node, query.encode(), call.reply),
                Err(error) => refuse(call.reply, error.into()),
            },
            Request::ReadStale(query) => match query.validate() {
                Ok(()) => read_stale(node.clone(), query.encode(), call.reply),
                Err(error) => refuse(call.reply, error.into()),
            },
            Request::Status => status(node.clone(), call.reply),
            Request::Metrics => self.metrics(node, call.reply),
            Request::Leader => {
                let known = node.raft().leader();
                call.reply
                    .send(&who_leads(known, node.raft().has_stopped()));
            }
            Request::TransferLeader { to } => transfer(node.clone(), to, call.reply),
            Request::ChangeMembers { change, expected } => {
                change_members(node.clone(), change, expected, call.reply);
            }
        }
    }

    fn leader_changed(&mut self, _: &NodeHandle, change: &LeaderChange) {
        if let Some(announcer) = &mut self.announcer {
            announcer.handle_change(change);
        }
    }
}

fn refuse(reply: Reply, refusal: Refusal) {
    reply.send(&Response::Refused(refusal));
}

/// Proposes `logged`, which is valid, with the time that has passed since the last entry.
fn propose(
    node: &NodeHandle,
    timekeeper: &Arc<Timekeeper>,
    logged: Logged,
    done: impl FnOnce(Result<Bytes, ProposeError>) + Send + 'static,
) {
    let known = node.raft().leader();
    let (logged, telling) = timekeeper.stamp(&known, node.now(), logged);
    let timekeeper = Arc::clone(timekeeper);
    node.raft().propose_then(logged.encode(), move |outcome| {
        let refused = matches!(
            outcome,
            Err(ProposeError::Overloaded | ProposeError::TooLarge { .. })
        );
        timekeeper.decided(&telling, refused);
        done(outcome);
    });
}

fn read(node: &NodeHandle, query: Bytes, reply: Reply) {
    node.raft().query_then(query, move |outcome| {
        let response = match outcome {
            Ok(answer) => match Answer::decode(&answer) {
                Ok(answer) => Response::Read(answer),
                Err(_) => unreadable(),
            },
            Err(error) => Response::Refused(read_refusal(&error)),
        };
        reply.send(&response);
    });
}

fn read_stale(node: NodeHandle, query: Bytes, reply: Reply) {
    node.clone().spawn(async move {
        let response = match node.query_stale(query).await {
            Ok(stale) => match Answer::decode(&stale.answer) {
                Ok(answer) => Response::Stale {
                    answer,
                    leader_silent_for_ms: stale
                        .leader_silent_for
                        .map(|silent| u64::try_from(silent.as_millis()).unwrap_or(u64::MAX)),
                },
                Err(_) => unreadable(),
            },
            Err(error) => Response::Refused(read_refusal(&error)),
        };
        reply.send(&response);
    });
}

/// The state machine answers in this very version, so this would be a fault of the program.
fn unreadable() -> Response {
    Response::Refused(Refusal::OutcomeUnknown)
}

fn status(node: NodeHandle, reply: Reply) {
    node.clone().spawn(async move {
        let response = match node.status().await {
            Ok(status) => Response::Status(Box::new(describe(&node, &status))),
            Err(_) => Response::Refused(Refusal::Stopping),
        };
        reply.send(&response);
    });
}

/// Without a question to the driver: thousands of clients ask at once when a leader has failed. `stopped` was looked at
/// after `known`.
fn who_leads(known: LeaderChange, stopped: bool) -> Response {
    let LeaderChange { term, role, leader } = known;
    match stopped {
        true => Response::Refused(Refusal::Stopping),
        false => Response::Leader { term, role, leader },
    }
}

fn transfer(node: NodeHandle, to: Option<NodeId>, reply: Reply) {
    node.clone().spawn(async move {
        let response = match node.transfer_leader(to).await {
            Ok(leader) => Response::Transferred { leader },
            // Nothing is left to do, and only a leader says so.
            Err(TransferError::NoTarget) if to == Some(node.id()) => {
                Response::Transferred { leader: node.id() }
            }
            Err(error) => Response::Refused(transfer_refusal(&error, to)),
        };
        reply.send(&response);
    });
}

fn change_members(
    node: NodeHandle,
    change: MembershipChange,
    expected: Option<LogIndex>,
    reply: Reply,
) {
    node.clone().spawn(async move {
        let response = match node.change_membership(change.clone(), expected).await {
            Ok(members) => Response::Members(Box::new(members)),
            Err(error) => Response::Refused(membership_refusal(error, &change)),
        };
        reply.send(&response);
    });
}

fn describe(node: &NodeHandle, status: &quorate_consensus::Status) -> NodeStatus {
    let links = node.peers();
    let peer = |link: &quorate_quic_transport::PeerStatus| {
        let id = NodeId::from(link.identity.node_id()?);
        let progress = status.peers.iter().find(|progress| progress.node == id);
        Some(PeerStatus {
            node: id,
            address: match &link.state {
                PeerState::Connected { up, .. } => Some(up.addr),
                PeerState::Dialling { addrs } => addrs.first().copied(),
                _ => None,
            },
            state: match (&link.state, &link.last_error) {
                (PeerState::Connected { .. }, _) => "connected".into(),
                (_, Some(error)) => error.to_string(),
                (_, None) => "not connected".into(),
            },
            matched: progress.map(|progress| progress.matched),
            rtt_us: link
                .rtt
                .map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            lost_packets: link.lost_packets,
            queued: link.queued.iter().map(|queue| queue.messages as u64).sum(),
        })
    };
    let not_after = node.credentials().not_after();
    NodeStatus {
        node: status.node,
        cluster: node.identity().cluster.to_string(),
        listen: node.local_addr(),
        term: status.term,
        role: status.role,
        leader: status.leader,
        last: status.last,
        commit: status.commit,
        applied: status.applied,
        members: status.membership.clone(),
        peers: links.iter().filter_map(peer).collect(),
        log_bytes: node.file_bytes(LOG_FILE),
        state_bytes: node.file_bytes(STATE_FILE),
        certificate_not_after: not_after
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        uptime_ms: milliseconds(node.uptime()),
        version: env!("CARGO_PKG_VERSION").into(),
        disk: node.disk_space(),
        state_machine_stalled_ms: status.state_machine_stalled.map(milliseconds),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The name of the state's file in a node's data folder.
pub const STATE_FILE: &str = "kv.redb";

impl NodeBuilder {
    /// Starts a node of the replicated key-value store: its state in [`STATE_FILE`], served to clients in the place of
    /// whatever [`service`](Self::service) there was.
    ///
    /// # Errors
    ///
    /// As [`NodeBuilder::start`], and when the state's file cannot be used.
    pub fn start_kv(self) -> Result<Node, StartError> {
        self.start_kv_with(KvOptions::default(), |store| store)
    }

    /// As [`start_kv`](Self::start_kv), with `options` for the store and what `around` makes of it as
    /// the state machine: to watch what is applied.
    ///
    /// # Errors
    ///
    /// As [`start_kv`](Self::start_kv).
    pub fn start_kv_with<M: StateMachine>(
        self,
        options: KvOptions,
        around: impl FnOnce(KvStore) -> M,
    ) -> Result<Node, StartError> {
        let owner = self.store_identity()?;
        self.check_port()?;
        let path = self.prepare_data_dir()?.join(STATE_FILE);
        let data_dir = |error| StartError::DataDir {
            path: path.clone(),
            error,
        };
        let files = self.kept_on();
        let is_new = !files.exists(&path).map_err(data_dir)?;
        if is_new {
            KvStore::create_in(&*files, &path, &owner)?;
        }
        let store = KvStore::open_in(Arc::clone(&files), &path, &owner, options)?;
        let started = self
            .service(KvService::new(store.board()))
            // Clients find the leader themselves, and what a command may say is checked before it is proposed.
            .without_forwarded()
            .start(around(store));
        let lost = matches!(
            started,
            Err(StartError::Consensus(
                quorate_consensus::StartError::StateBehindLog { .. }
            ))
        );
        if is_new && lost {
            // It is empty, and would hide from whoever looks next that there is none.
            files.remove(&path).map_err(data_dir)?;
        }
        started
    }
}

#[cfg(test)]
mod tests {
    use quorate_consensus::Term;

    use super::*;

    /// A node says what it knows, and once it has stopped, nothing of what it knew.
    #[test]
    fn a_stopped_node_names_no_leader() {
        let (term, role, leader) = (Term::new(7), Role::Leader, NodeId::new(1));
        let known = LeaderChange { term, role, leader };
        let said = Response::Leader { term, role, leader };
        assert_eq!(who_leads(known, false), said);
        let stopping = Response::Refused(Refusal::Stopping);
        assert_eq!(who_leads(known, true), stopping);
    }
}
