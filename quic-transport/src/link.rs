//! One peer: its queue, its calls, and which of its connections counts.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use async_channel::Receiver;
use quorate_certs::{Identity, Role};

use crate::{
    budget::Budgets,
    call::{CallError, NotSent},
    close::{CloseCode, CloseReason, HandshakeError, Refused},
    config::{Config, Instance},
    copies::Copies,
    credentials::Verdict,
    hello::{Hello, PeerUp},
    message::WireLane,
    outbox::Outbox,
    pending::{InFlight, Pending},
    planted,
    signal::{Signal, lock},
};

/// A connection after hello and welcome.
#[derive(Debug)]
pub(crate) struct Established {
    /// Unique in this process; never 0.
    pub(crate) id: u64,
    pub(crate) connection: quinn::Connection,
    pub(crate) up: PeerUp,
    /// What was found of the peer's certificate.
    pub(crate) verdict: Mutex<Verdict>,
    pub(crate) since: Instant,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) progress: Progress,
    pub(crate) copies: Copies,
    /// What we closed it with.
    pub(crate) closed_with: OnceLock<Refused>,
    /// Set when another connection ended this one's session.
    pub(crate) superseded: OnceLock<CloseReason>,
    /// Closed when everything of this connection was delivered and reported.
    pub(crate) ended: Receiver<Infallible>,
}

impl Established {
    pub(crate) fn close(&self, refused: Refused) {
        refused.close(&self.connection);
        let _ = self.closed_with.set(refused);
    }
}

/// How far the lanes of a connection have come to their ends.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    state: Mutex<ProgressState>,
    pub(crate) signal: Signal,
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct ProgressState {
    /// Tasks still running.
    pub(crate) running: usize,
    /// Lanes the peer has finished and we have read to their end.
    pub(crate) lanes_read: usize,
    /// Lanes we have finished and the peer has acknowledged.
    pub(crate) lanes_written: usize,
}

impl Progress {
    pub(crate) fn state(&self) -> ProgressState {
        *lock(&self.state)
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut ProgressState)) {
        change(&mut lock(&self.state));
        self.signal.notify();
    }
}

#[derive(Debug, Default)]
pub(crate) struct LinkState {
    pub(crate) addrs: Vec<SocketAddr>,
    /// Rises with every change of `addrs` or of our credentials, so that a waiting dialer tries at once.
    pub(crate) dial_generation: u64,
    pub(crate) current: Option<Arc<Established>>,
    /// The end of the connection installed last.
    last_ended: Option<Receiver<Infallible>>,
    session: u64,
    /// Kept after the session, to refuse an older copy of the same store.
    last_instance: Option<Instance>,
    pub(crate) last_error: Option<HandshakeError>,
    pub(crate) last_close: Option<CloseReason>,
    pub(crate) dials: u64,
    pub(crate) lost_packets: u64,
    pub(crate) copied_bytes: u64,
    pub(crate) dialer_runs: bool,
    pub(crate) removed: bool,
}

/// What is to be done with a connection whose hello was good.
///
/// `predecessor_ended` is [`Established::ended`] of the connection that was installed before, if any was: the service
/// hears of it, to its end, before it hears that a session begins or that this connection ended.
#[derive(Debug)]
pub(crate) enum Installed {
    /// It begins a session, once its predecessor has ended.
    New {
        session: u64,
        predecessor_ended: Option<Receiver<Infallible>>,
    },
    /// It takes over the session of its predecessor, which lost the duplicate rule, and ends after it.
    Continues {
        session: u64,
        predecessor_ended: Option<Receiver<Infallible>>,
    },
    /// It lost the duplicate rule; the peer may already have written to it: read to the end.
    Drains { session: u64 },
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) identity: Arc<Identity>,
    pub(crate) outbox: Outbox,
    /// Shared with the identity's other links.
    pub(crate) budgets: Budgets,
    pub(crate) pending: Arc<Pending>,
    /// Anything in `state` changed.
    pub(crate) signal: Signal,
    pub(crate) lanes: &'static [WireLane],
    own: Arc<Identity>,
    state: Mutex<LinkState>,
    /// The lower of our limit and the peer's, by lane.
    frame_bytes_max: [AtomicUsize; WireLane::COUNT],
    calls_max: AtomicUsize,
}

impl Link {
    pub(crate) fn new(
        config: &Config,
        own: &Arc<Identity>,
        identity: Arc<Identity>,
        first_call: u64,
        budgets: Budgets,
    ) -> Arc<Self> {
        let nodes = own.role() == Role::Node && identity.role() == Role::Node;
        let limits = &config.limits;
        Arc::new(Self {
            identity,
            outbox: Outbox::new(limits, Arc::clone(&budgets.replies)),
            budgets,
            pending: Arc::new(Pending::new(first_call)),
            signal: Signal::default(),
            lanes: if nodes {
                &WireLane::ALL
            } else {
                &WireLane::CALLS_ONLY
            },
            own: Arc::clone(own),
            state: Mutex::default(),
            frame_bytes_max: WireLane::ALL
                .map(|lane| AtomicUsize::new(limits.frame_bytes_max(lane))),
            calls_max: AtomicUsize::new(limits.calls_in_flight_max),
        })
    }

    pub(crate) fn is_node(&self) -> bool {
        self.identity.role() == Role::Node
    }

    /// Reads the state.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&LinkState) -> T) -> T {
        read(&lock(&self.state))
    }

    /// Changes the state and tells whoever waits.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut LinkState) -> T) -> T {
        let result = change(&mut lock(&self.state));
        self.signal.notify();
        result
    }

    pub(crate) fn is_current(&self, id: u64) -> bool {
        self.with(|state| {
            state
                .current
                .as_ref()
                .is_some_and(|current| current.id == id)
        })
    }

    pub(crate) fn frame_bytes_max(&self, lane: WireLane) -> usize {
        self.frame_bytes_max[lane as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn calls_max(&self) -> usize {
        self.calls_max.load(Ordering::Relaxed)
    }

    /// Decides which connection counts from now on.
    ///
    /// * An older boot of the same store is refused: it may have forgotten what it promised.
    /// * Another instance, or a second connection in the same direction, means that the peer has
    ///   given up the old one: a new session begins.
    /// * Two connections in opposite directions are two dials at once: the dial of the greater
    ///   identity wins, so that both sides decide alike, and the session goes on.
    pub(crate) fn install(
        &self,
        new: &Arc<Established>,
        hello: &Hello,
        config: &Config,
    ) -> Result<Installed, Refused> {
        let installed = {
            let mut state = lock(&self.state);
            if state.removed {
                // Nobody would find it any more, to judge it or to close it.
                let reason = "you were taken out of the address book; connect again";
                return Err(Refused::new(CloseCode::SHUTDOWN, reason));
            }
            state.refuse_stale(&new.up)?;
            let Some(old) = state.current.clone() else {
                return Ok(self.begin_session(&mut state, new, hello, config));
            };
            let same_instance = old.up.instance == new.up.instance;
            // A dead one has lost messages, which only a new session tells.
            let dead = old.connection.close_reason().is_some();
            if dead || !same_instance || old.up.dialled == new.up.dialled {
                self.supersede(&old, same_instance);
                return Ok(self.begin_session(&mut state, new, hello, config));
            }
            if !self.wins(new) {
                if new.up.dialled {
                    return Ok(Installed::Drains {
                        session: state.session,
                    });
                }
                let reason = "another connection between us is up";
                return Err(Refused::new(CloseCode::DUPLICATE, reason));
            }
            state.current = Some(Arc::clone(new));
            let predecessor_ended = state.last_ended.replace(new.ended.clone());
            self.outbox.assign(new.id);
            Installed::Continues {
                session: state.session,
                predecessor_ended,
            }
        };
        self.signal.notify();
        Ok(installed)
    }

    /// The dial of the greater identity wins. By identity, never by address: both sides see the
    /// same identities, but not the same addresses.
    fn wins(&self, new: &Established) -> bool {
        new.up.dialled == (self.own > self.identity)
    }

    fn begin_session(
        &self,
        state: &mut LinkState,
        new: &Arc<Established>,
        hello: &Hello,
        config: &Config,
    ) -> Installed {
        for lane in WireLane::ALL {
            let theirs = hello.frame_bytes_max[lane as usize] as usize;
            let bytes_max = theirs.min(config.limits.frame_bytes_max(lane));
            self.frame_bytes_max[lane as usize].store(bytes_max, Ordering::Relaxed);
        }
        let calls_max = (hello.calls_in_flight_max as usize).min(config.limits.calls_in_flight_max);
        self.calls_max.store(calls_max, Ordering::Relaxed);
        state.session += 1;
        state.last_instance = Some(new.up.instance);
        state.current = Some(Arc::clone(new));
        state.last_error = None;
        let predecessor_ended = state.last_ended.replace(new.ended.clone());
        self.outbox.open(self.lanes, state.session, new.id);
        self.signal.notify();
        Installed::New {
            session: state.session,
            predecessor_ended,
        }
    }

    fn supersede(&self, old: &Established, same_instance: bool) {
        let reason = if same_instance {
            "the peer connected again"
        } else {
            "another incarnation of the peer connected"
        };
        let refused = Refused::new(CloseCode::DUPLICATE, reason);
        let why = CloseReason::ByUs {
            code: refused.code,
            reason: refused.reason.clone(),
        };
        self.fail_calls(&why);
        let _ = old.superseded.set(why);
        old.close(refused);
    }

    /// Ends all calls: nobody is there any more who would.
    pub(crate) fn abandon_calls(&self) {
        self.fail_calls(&CloseReason::ByUs {
            code: CloseCode::SHUTDOWN,
            reason: "the transport's executor has ended".into(),
        });
    }

    fn fail_calls(&self, why: &CloseReason) {
        let unsent = self.outbox.close();
        let not_sent = CallError::NotSent(NotSent::NotConnected);
        self.pending
            .fail_all(&unsent, &not_sent, &CallError::Unknown(why.clone()));
    }

    /// The connection is gone. Returns why its session ended, or `None` when the session goes on
    /// over another connection. That one is closed when the connection ended before it was wound up: its
    /// messages may be lost, which only the end of the session tells, on both sides.
    pub(crate) fn connection_ended(
        &self,
        ended: &Established,
        session: u64,
        why: CloseReason,
    ) -> Option<CloseReason> {
        let lost = ended.connection.stats().path.lost_packets;
        let result = {
            let mut state = lock(&self.state);
            state.lost_packets += lost;
            state.copied_bytes += ended.copies.sent_bytes();
            if state
                .current
                .as_ref()
                .is_some_and(|current| current.id == ended.id)
            {
                state.current = None;
                state.last_close = Some(why.clone());
                self.fail_calls(&why);
                Some(why)
            } else {
                if state.session == session
                    && !why.is_wound_up()
                    && let Some(current) = &state.current
                {
                    let reason = "the connection that it took over from was not wound up";
                    current.close(Refused::new(CloseCode::DUPLICATE, reason));
                }
                ended.superseded.get().cloned()
            }
        };
        self.signal.notify();
        result
    }
}

impl LinkState {
    fn refuse_stale(&self, up: &PeerUp) -> Result<(), Refused> {
        match self.last_instance {
            Some(last)
                if last.store_id == up.instance.store_id
                    && up.instance.boot < last.boot
                    && !planted::is("older-boot-admitted") =>
            {
                Err(Refused::new(
                    CloseCode::STALE_INCARNATION,
                    format!(
                        "your store was at boot {} and is at {} now: it was restored from an \
                         older copy; do not run it as this node",
                        last.boot, up.instance.boot
                    ),
                ))
            }
            Some(_) | None => Ok(()),
        }
    }
}
