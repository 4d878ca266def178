//! The pure core: inputs in, [`Ready`]s out.

mod comparing;
mod handover;
mod membership;
mod preference;
mod proposing;
mod reading;
mod room;
mod snapshots;

use raft::eraftpb::Entry as PbEntry;
use raft::{RawNode, StateRole};
use std::fmt;
use tracing::{debug, error, info, warn};

use self::handover::Transfer;
use self::membership::{Changing, Rounds};
use self::preference::Preference;
use crate::compaction::Compaction;
use crate::comparison::Comparison;
use crate::config::{Config, ELECTION_TICKS};
use crate::convert;
use crate::durability::{AppendTicket, LogWrite, Recovered};
use crate::entry::{Entry, Payload};
use crate::error::{ProposeError, ReadError, StartError};
use crate::gate::DurabilityGate;
use crate::jitter;
use crate::log_view::{Fetch, LogView};
use crate::membership::{Membership, Memberships};
use crate::message::{Body, Message, ReadContext};
use crate::planted;
use crate::proposals::Proposals;
use crate::reads::Reads;
use crate::ready::{Committed, LeaderChange, Ready};
use crate::repeats::Repeats;
use crate::sanitize::{self, Receiver, Refused};
use crate::slog_bridge;
use crate::snapshots::{Giving, Taking};
use crate::stall_watch::{STALLED_TICKS, StallWatch};
use crate::start::{check_recovered, raft_config};
use crate::status::{PeerProgress, Status};
use crate::types::{EntryId, HardState, LogIndex, NodeId, Role, Term};

/// How often expired reads and proposals are looked for: fine enough for timeouts of seconds.
const EXPIRY_TICKS: u64 = 5;

/// A Raft node without clock, thread, entropy or I/O.
///
/// Feed it with the `handle_*` methods, [`propose`](Self::propose) and [`read`](Self::read), and after
/// each input carry out what [`poll_ready`](Self::poll_ready) returns until it returns `None`.
///
/// Durability gate: a vote, or an acknowledgement of entries, is in no `Ready` until
/// [`handle_persisted`](Self::handle_persisted) got the ticket of the write it depends on.
pub struct RaftNode {
    config: Config,
    memberships: Memberships,
    raw: RawNode<LogView>,
    proposals: Proposals,
    reads: Reads,
    read_round: u64,
    gate: DurabilityGate,
    disk: StallWatch,
    state_machine: StallWatch,
    repeats: Repeats,
    /// The last append that was refused for want of room, without its entries, and who sent it.
    refused: Option<(NodeId, Message)>,
    compaction: Compaction,
    comparison: Comparison,
    giving: Giving,
    taking: Taking,
    /// While it is not durable: the write by which the log begins after a snapshot, and the last entry in that.
    snapshot_write: Option<(u64, EntryId)>,
    /// The last entry handed to the state machine.
    handed: LogIndex,
    applied: LogIndex,
    /// Ticks since the start.
    now: u64,
    timeouts: Timeouts,
    seen: LeaderChange,
    transfer: Option<Transfer>,
    preference: Preference,
    /// The change of the members that somebody here waits for.
    changing: Option<Changing>,
    rounds: Rounds,
    /// Whether this node has told that it must stop. Nothing else is done then.
    over: bool,
    /// Where the last loss of entries was reported, so that it is said once a term.
    lost_entries_in: Option<Term>,
    /// Likewise for acknowledgements of entries that do not exist.
    foreign_log_in: Option<(Term, NodeId)>,
    /// Bytes of the uncommitted entries that this node found in its log when it began to lead.
    inherited_bytes: u64,
    /// What inputs produced besides what `raft` says; merged into the next `Ready`.
    out: Ready,
}

struct Timeouts {
    seed: u64,
    draws: u64,
    ticks: usize,
}

impl fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftNode")
            .field("node", &self.config.node)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl RaftNode {
    /// A follower that continues from `recovered`, whose state machine has applied everything up to
    /// `applied`. `tail` is the log after `applied`.
    ///
    /// # Errors
    ///
    /// [`StartError`] when the configuration is invalid, the node is not a member, or state machine and
    /// log do not belong together.
    pub fn new(
        config: Config,
        recovered: &Recovered,
        applied: EntryId,
        tail: Vec<Entry>,
    ) -> Result<Self, StartError> {
        let mistakes = config.mistakes();
        if !mistakes.is_empty() {
            return Err(StartError::Config { mistakes });
        }
        check_recovered(config.node, recovered, applied)?;
        let hard_state = HardState {
            // What was applied was committed, whether or not the commit index had reached the disk.
            commit: recovered.hard_state.commit.max(applied.index),
            ..recovered.hard_state
        };
        let view = LogView::new(
            recovered,
            convert::hard_state_to_pb(hard_state),
            applied.index,
            tail,
            config.log_view_bytes_max,
        );
        let raw = RawNode::new(
            &raft_config(&config, applied.index),
            view,
            &slog_bridge::logger(config.node.value()),
        )
        .map_err(|error| StartError::Config {
            mistakes: vec![error.to_string()],
        })?;
        let mut node = Self {
            timeouts: Timeouts {
                seed: config.seed,
                draws: 0,
                ticks: 0,
            },
            memberships: Memberships::new(recovered, applied.index),
            gate: DurabilityGate::new(hard_state),
            disk: StallWatch::new(STALLED_TICKS),
            state_machine: StallWatch::new(config.apply_stall_ticks()),
            repeats: Repeats::default(),
            refused: None,
            compaction: Compaction::new(&config, recovered),
            comparison: Comparison::new(config.compare_ticks()),
            giving: Giving::new(&config),
            taking: Taking::default(),
            snapshot_write: None,
            handed: applied.index,
            applied: applied.index,
            seen: LeaderChange {
                term: hard_state.term,
                role: Role::Follower,
                leader: None,
            },
            raw,
            config,
            proposals: Proposals::default(),
            reads: Reads::default(),
            read_round: 0,
            now: 0,
            transfer: None,
            preference: Preference::default(),
            changing: None,
            rounds: Rounds::default(),
            over: false,
            lost_entries_in: None,
            foreign_log_in: None,
            inherited_bytes: 0,
            out: Ready::default(),
        };
        node.draw_timeout();
        Ok(node)
    }

    /// One [`Config::tick_interval`] has passed. After a pause, call it once, not once for every tick
    /// missed: a burst of ticks would start an election although the leader is alive.
    pub fn handle_tick(&mut self) {
        self.now += 1;
        if self.seen.role == Role::Leader || self.may_campaign() {
            self.raw.tick();
        }
        self.watch_disk();
        self.watch_state_machine();
        self.watch_snapshots();
        self.watch_comparison();
        self.watch_membership();
        self.watch_preference();
        if self.now.is_multiple_of(EXPIRY_TICKS) {
            self.out
                .failed_proposals
                .extend(self.proposals.undecided_at(self.now));
            self.out
                .failed_reads
                .extend(self.reads.take_expired(self.now));
            self.ask_late_again();
        }
        self.settle();
    }

    /// `message` came from the verified identity `from`.
    ///
    /// # Errors
    ///
    /// [`Refused`] when the message makes no sense or must wait; it was dropped and changed nothing.
    pub fn handle_message(&mut self, from: NodeId, message: Message) -> Result<(), Refused> {
        if let Err(refused) = self.check(from, &message) {
            self.note_refused(from, refused);
            if refused == Refused::Busy {
                self.answer_later(from, message);
            }
            return Err(refused);
        }
        if let Body::AppendAccepted { .. } | Body::AppendRejected { .. } = &message.body {
            self.repeats.forget(from.value());
        }
        let term = message.term;
        match message.body {
            Body::Transfer(transfer) => self.handle_transfer(from, transfer),
            Body::Digest { at, digest } => self.comparison.heard(from, at, digest),
            Body::ReadIndex { context } => self.handle_read_index(from, context),
            Body::LeadershipWanted { priority } => {
                self.handle_leadership_wanted(from, term, priority);
            }
            Body::ReadIndexAnswer { context, index } => {
                self.handle_read_answer(from, term, context, index);
            }
            Body::Snapshot { last, membership } => {
                self.handle_offer(from, term, last, membership);
            }
            body => {
                let message = Message { term, body };
                let pb = convert::message_to_pb(from, self.config.node, message);
                // The only errors left are about members that are gone, or proposals, which never come
                // here.
                if let Err(error) = self.raw.step(pb) {
                    debug!(node = %self.config.node, peer = %from, %error, "message ignored");
                }
            }
        }
        planted::commit_by_count(&mut self.raw.raft);
        self.settle();
        Ok(())
    }

    /// The write of `ticket`, and all before it, survive a power loss.
    ///
    /// # Panics
    ///
    /// When the ticket belongs to another node or came twice.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a ticket is good for one use"
    )]
    pub fn handle_persisted(&mut self, ticket: AppendTicket) {
        if let Some(number) = self.gate.persisted(&ticket, &mut self.out.messages) {
            self.raw.on_persist_ready(number);
            let durable = self.snapshot_write.take_if(|(write, _)| *write <= number);
            if let Some((_, last)) = durable {
                // What `raft` calls applied is what it need not look at any more.
                self.raw.advance_apply_to(last.index.value());
                self.out.install = Some(last);
            }
        }
        self.tell_change();
        self.settle();
    }

    /// The state machine has applied everything up to `index`.
    ///
    /// # Panics
    ///
    /// When `index` goes back, or was never handed out.
    pub fn handle_applied(&mut self, index: LogIndex) {
        assert!(
            self.applied <= index && index <= self.handed,
            "applied {index} outside {}..={}",
            self.applied,
            self.handed
        );
        self.applied = index;
        // Behind a snapshot that is still to be installed, `raft` has been told of more.
        if index.value() > self.raw.raft.raft_log.applied {
            self.raw.advance_apply_to(index.value());
        }
        self.settle();
    }

    /// The store has read `entries` for `fetch`.
    pub fn handle_fetched(&mut self, fetch: Fetch, entries: Vec<Entry>) {
        let context = self.raw.mut_store().offer_fetched(fetch, entries);
        self.raw.on_entries_fetched(context);
        self.raw.mut_store().forget_fetched();
        self.settle();
    }

    /// A message to `peer` could not be sent: what was believed to be on its way may be lost.
    pub fn handle_unreachable(&mut self, peer: NodeId) {
        self.repeats.forget(peer.value());
        self.raw.report_unreachable(peer.value());
        self.give_up_snapshot(peer);
        self.settle();
    }

    /// The node begins to run. The only voter has nobody to wait for, and leads at once.
    pub fn handle_started(&mut self) {
        let is_alone = self.membership().is_single_voter(self.config.node);
        if is_alone && !planted::is("lone-node-waits") {
            self.campaign();
        }
    }

    /// Starts an election now, instead of waiting for the election timeout: with a pre-vote (thesis, section 9.6), to
    /// which members say nothing that have heard of a leader of late. So a leader that is alive leads on in its term, and
    /// this node knows of none until it hears of it again. But who calls an election has no leader, and may vote: where
    /// so many do at the same moment that they are a majority, one of them takes over. Nothing happens where this node
    /// leads, is no voter, or may not lead yet.
    pub fn campaign(&mut self) {
        let voter = self.membership().is_voter(self.config.node);
        if voter && self.seen.role != Role::Leader && self.may_campaign() {
            // Refused while a change of the members is committed and not applied.
            let _ = self.raw.campaign();
            self.settle();
        }
    }

    /// What is to be done now; `None` when there is nothing until the next input.
    pub fn poll_ready(&mut self) -> Option<Ready> {
        if self.over {
            let last = std::mem::take(&mut self.out);
            return (!last.is_empty()).then_some(last);
        }
        self.answer_refused();
        self.append_proposals();
        self.start_read_round();
        self.settle();
        self.ask_for_snapshots();
        let mut ready = std::mem::take(&mut self.out);
        // One that only moved the commit index on is nothing to carry out, but there may be more.
        while ready.is_empty() && self.raw.has_ready() {
            self.take_raft_ready(&mut ready);
            // Answers to members whose reads were confirmed.
            ready.messages.append(&mut self.out.messages);
        }
        ready.reads = self.reads.take_ready(self.readable_to());
        ready.fetches = self.raw.mut_store().take_fetches();
        (!ready.is_empty()).then_some(ready)
    }

    /// How the node stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let last = self.raw.raft.raft_log.last_index();
        Status {
            node: self.config.node,
            term: self.seen.term,
            role: self.seen.role,
            leader: self.seen.leader,
            last: EntryId::new(
                Term::new(self.raw.raft.raft_log.last_term()),
                LogIndex::new(last),
            ),
            commit: LogIndex::new(self.raw.raft.raft_log.committed),
            applied: self.applied,
            state_machine_stalled: self.state_machine_stalls(),
            membership: self.membership().clone(),
            peers: if self.seen.role == Role::Leader {
                self.progress()
            } else {
                Vec::new()
            },
        }
    }

    /// Who leads, as far as this node knows.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.seen.leader
    }

    /// The configuration the node runs with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Who belongs to the cluster.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.memberships.current()
    }

    fn take_raft_ready(&mut self, ready: &mut Ready) {
        let mut raft_ready = self.raw.ready();
        let number = raft_ready.number();
        for state in raft_ready.take_read_states() {
            if let Some(context) = ReadContext::from_bytes(&state.request_ctx) {
                self.reads_confirmed(context, LogIndex::new(state.index));
            }
        }
        let committed = raft_ready.take_committed_entries();
        let mut messages = raft_ready.take_messages();
        messages.extend(raft_ready.take_persisted_messages());
        messages.retain(|message| !self.repeats.hold_back(message, self.now));
        self.note_offers(&messages);
        let snapshot = convert::snapshot_from_pb(raft_ready.snapshot());
        let restored = snapshot.map(|(base, membership)| {
            self.snapshot_write = Some((number, base));
            if planted::is("state-installed-before-the-log") {
                ready.install = Some(base);
            }
            self.restore(base, membership)
        });
        let entries = raft_ready.take_entries();
        self.raw.mut_store().append(&entries);
        self.raw.advance_append_async(raft_ready);
        let members = self.hand_out(committed, ready);
        let hard_state = convert::hard_state_from_pb(&self.raw.raft.hard_state());
        let entries: Vec<Entry> = entries.into_iter().map(our_entry).collect();
        let needs_write = self.gate.needs_write(hard_state, &entries, members);
        if needs_write || restored.is_some() {
            self.compaction.appended(&entries);
            let cut = restored.or_else(|| self.compact(&entries));
            let write = LogWrite {
                cut,
                entries,
                hard_state,
            };
            ready.append = Some(self.gate.write(number, write, members));
        } else {
            self.gate.skip_write(number);
        }
        self.tell_change();
        self.gate.pass(messages, &mut ready.messages);
        if self.gate.is_clear() || planted::is("leader-counts-itself-early") {
            self.raw.on_persist_ready(number);
        }
    }

    /// Puts committed entries, with those who wait for them, into `ready`. Returns the last of them that says who the
    /// members are.
    fn hand_out(&mut self, committed: Vec<PbEntry>, ready: &mut Ready) -> Option<LogIndex> {
        let mut lost = Vec::new();
        let mut members = None;
        for pb in committed {
            let entry = our_entry(pb);
            assert_eq!(
                entry.id.index,
                self.handed.next(),
                "entries are handed out in order"
            );
            self.handed = entry.id.index;
            self.compare(&entry);
            let goes_on = match &entry.payload {
                Payload::Membership(next) => {
                    members = Some(entry.id.index);
                    self.take_membership(entry.id, (**next).clone())
                }
                _ => true,
            };
            let token = self.proposals.committed(entry.id, &mut lost);
            ready.committed.push(Committed { entry, token });
            if !goes_on {
                break;
            }
        }
        if let (Some(first), Some(last)) = (ready.committed.first(), ready.committed.last()) {
            debug!(
                node = %self.config.node, term = %self.seen.term, first = %first.entry.id.index,
                index = %last.entry.id.index, commit = %self.raw.raft.raft_log.committed,
                applied = %self.applied, entries = ready.committed.len(), "committed"
            );
        }
        let leader = self.seen.leader;
        let replaced = |token| (token, ProposeError::NotLeader { leader });
        ready
            .failed_proposals
            .extend(lost.into_iter().map(replaced));
        members
    }

    fn check(&self, from: NodeId, message: &Message) -> Result<(), Refused> {
        let receiver = Receiver {
            node: self.config.node,
            role: self.seen.role,
            term: self.seen.term,
            leader: self.seen.leader,
            last: LogIndex::new(self.raw.raft.raft_log.last_index()),
            membership: self.membership(),
        };
        if planted::is("no-sanitizer") {
            return Ok(());
        }
        sanitize::check(&receiver, from, message)?;
        match &message.body {
            Body::Append { entries, .. } if !entries.is_empty() && self.must_wait_for_room() => {
                Err(Refused::Busy)
            }
            // Who leads gives leadership away where its state machine hangs, and what hangs here would hang its clients.
            Body::TimeoutNow if !self.may_campaign() || self.is_late() => Err(Refused::Busy),
            // The gate holds a candidate's requests until its log is durable, so nobody was asked yet.
            Body::Vote { granted: true, .. }
                if self.seen.role != Role::Leader && !self.log_is_durable() =>
            {
                Err(Refused::NotAsked)
            }
            _ => Ok(()),
        }
    }

    /// Whether an election may start. `raft` takes it that a candidate's log is durable when it wins.
    /// Requests to others wait for that by the gate; a single voter asks nobody, so it has to wait here.
    fn may_campaign(&self) -> bool {
        !self.is_writing_snapshot() && self.may_win()
    }

    fn may_win(&self) -> bool {
        let alone = self.membership().is_single_voter(self.config.node);
        !alone || self.log_is_durable()
    }

    fn log_is_durable(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        log.persisted == log.last_index()
    }

    fn note_refused(&mut self, from: NodeId, refused: Refused) {
        let node = self.config.node;
        match refused {
            Refused::LostEntries { commit, last } => {
                // Once a term, not once a heartbeat.
                if self.lost_entries_in.replace(self.seen.term) != Some(self.seen.term) {
                    error!(
                        %node, peer = %from, term = %self.seen.term, %commit, %last,
                        "this node lost entries that it had acknowledged: its disk was wiped or rolled \
                         back; stop it and replace it"
                    );
                }
            }
            Refused::BeyondLog { index, last } => {
                let place = Some((self.seen.term, from));
                if std::mem::replace(&mut self.foreign_log_in, place) != place {
                    warn!(
                        %node, peer = %from, term = %self.seen.term, %index, %last,
                        "a member acknowledges entries that this leader does not have: its data folder is \
                         of another cluster, or this node's was rolled back"
                    );
                }
            }
            refused => debug!(%node, peer = %from, %refused, "message refused"),
        }
    }

    /// After every input: notices a change of role, and draws the election timeout for it.
    fn settle(&mut self) {
        // `raft` hands out only what is durable here, so whatever is applied may be forgotten.
        self.raw.mut_store().evict(self.applied);
        let now = LeaderChange {
            term: Term::new(self.raw.raft.term),
            role: role(self.raw.raft.state),
            leader: NodeId::new(self.raw.raft.leader_id),
        };
        if now != self.seen {
            let before = std::mem::replace(&mut self.seen, now);
            self.changed(before);
        }
        self.end_transfer();
        // `raft` draws from a thread-local generator whenever it resets itself; ours is the one that
        // counts, so that a run can be repeated.
        if self.raw.raft.randomized_election_timeout() != self.timeouts.ticks {
            self.raw
                .raft
                .set_randomized_election_timeout(self.timeouts.ticks);
        }
    }

    fn changed(&mut self, before: LeaderChange) {
        self.draw_timeout();
        let LeaderChange { term, role, leader } = self.seen;
        let leader_field = leader.map_or(0, NodeId::value);
        let status = self.status();
        match (role, leader) {
            (Role::PreCandidate | Role::Candidate, _) | (Role::Follower, None) => {
                debug!(node = %status.node, %term, %role, last = %status.last, "role changed");
            }
            (Role::Leader, _) | (Role::Follower, Some(_)) => info!(
                node = %status.node, %term, %role, leader = leader_field, last = %status.last,
                commit = %status.commit, applied = %status.applied, "leader changed"
            ),
        }
        let leads = |change: LeaderChange| change.role == Role::Leader;
        if leads(before) && (!leads(self.seen) || before.term != term) {
            let lost = |token| (token, ReadError::NotLeader { leader });
            self.out
                .failed_reads
                .extend(self.reads.take_all().into_iter().map(lost));
            self.forget_change();
            self.proposals
                .leadership_lost(self.now + 2 * ELECTION_TICKS as u64);
        }
        self.reads.begin_anew();
        if leads(self.seen) && !(leads(before) && before.term == term) {
            self.fail_transfer();
            self.comparison.leader_changed();
            self.inherited_bytes = self.raw.store().bytes_after(status.commit);
            let unknown = self.proposals.leads_again(status.last.index, term);
            self.out.failed_proposals.extend(unknown);
        }
        self.out.change = Some(self.seen);
    }

    fn draw_timeout(&mut self) {
        let range = ELECTION_TICKS..2 * ELECTION_TICKS;
        self.timeouts.draws += 1;
        self.timeouts.ticks =
            jitter::election_ticks(self.timeouts.seed, self.timeouts.draws, range);
        self.raw
            .raft
            .set_randomized_election_timeout(self.timeouts.ticks);
    }

    fn progress(&self) -> Vec<PeerProgress> {
        let ids = self.membership().members();
        ids.filter(|&id| id != self.config.node)
            .filter_map(|id| {
                let progress = self.raw.raft.prs().get(id.value())?;
                Some(PeerProgress {
                    node: id,
                    matched: LogIndex::new(progress.matched),
                    replicating: progress.state == raft::ProgressState::Replicate,
                    active: progress.recent_active,
                })
            })
            .collect()
    }
}

fn role(state: StateRole) -> Role {
    match state {
        StateRole::Follower => Role::Follower,
        StateRole::PreCandidate => Role::PreCandidate,
        StateRole::Candidate => Role::Candidate,
        StateRole::Leader => Role::Leader,
    }
}

fn our_entry(pb: PbEntry) -> Entry {
    convert::entry_from_pb(pb).expect("only normal entries are proposed, accepted or recovered")
}
