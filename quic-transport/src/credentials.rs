//! Our own credentials, which may be replaced, and what becomes of open connections: TLS judges a
//! certificate once, and nobody looks at it again.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_lite::future::{or, yield_now};
use quorate_certs::{Credentials, Identity, Verified, VerifyError};
use rustls::pki_types::{CertificateDer, UnixTime};
use tracing::{debug, warn};

use crate::{
    close::{CloseCode, Refused},
    link::Established,
    planted,
    runtime::sleep_until,
    shared::Shared,
    signal::{Signal, lock},
};

/// Longest until connections are looked at again. They are known to end later, so it costs next to nothing.
const LOOK_AFTER_MAX: Duration = Duration::from_secs(3600);

/// How many certificates are judged before others have their turn: some milliseconds. With thousands of connections,
/// all of them at once would keep a node from its heartbeats.
const JUDGED_AT_ONCE: usize = 32;

/// Shortest: with connections whose certificates end one after the other, all are looked at for each.
const LOOK_AFTER_MIN: Duration = Duration::from_millis(100);

/// Why credentials cannot take the place of others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "these are the credentials of {offered}, and this is {own}: nobody becomes another while it runs"
)]
pub struct OtherIdentity {
    /// Who runs.
    pub own: Identity,
    /// Whose credentials were offered.
    pub offered: Identity,
}

/// What new handshakes are made with.
#[derive(Debug)]
pub(crate) struct Own {
    current: Mutex<Current>,
    /// When open connections are looked at next.
    next_look: Mutex<Option<Instant>>,
    /// They are to be looked at now.
    signal: Signal,
}

#[derive(Debug, Clone)]
pub(crate) struct Current {
    pub(crate) credentials: Credentials,
    /// Rises with every replacement.
    pub(crate) generation: u64,
}

impl Own {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self {
            current: Mutex::new(Current {
                credentials,
                generation: 0,
            }),
            next_look: Mutex::default(),
            signal: Signal::default(),
        }
    }

    pub(crate) fn current(&self) -> Current {
        lock(&self.current).clone()
    }

    pub(crate) fn replace(&self, new: Credentials) -> Result<(), OtherIdentity> {
        let mut current = lock(&self.current);
        let own = current.credentials.identity();
        if own != new.identity() {
            return Err(OtherIdentity {
                own: own.clone(),
                offered: new.identity().clone(),
            });
        }
        current.credentials = new;
        current.generation += 1;
        drop(current);
        self.signal.notify();
        Ok(())
    }

    /// Notes the verdict on a connection that others can see by now: it may be due before the next look.
    pub(crate) fn note(&self, verdict: Verdict) {
        let outdated = verdict.generation != lock(&self.current).generation;
        let is_next = lock(&self.next_look).is_none_or(|next| verdict.until < next);
        if outdated || is_next {
            self.signal.notify();
        }
    }

    /// Lets [`recheck_for_ever`] see that everything has ended.
    pub(crate) fn stop(&self) {
        self.signal.notify();
    }
}

/// What was found of the peer's certificate, and when.
///
/// The clock on the wall is read once, in the handshake; from then on time is counted by one that nobody
/// sets. Or a clock that jumps ahead by ten years would end all connections of a cluster at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict {
    at: Instant,
    /// What the clock on the wall said then.
    time: SystemTime,
    /// When the certificate ends.
    until: Instant,
    /// With which of our credentials.
    generation: u64,
}

impl Verdict {
    pub(crate) fn new(shared: &Shared, verified: &Verified, generation: u64) -> Self {
        let (at, time) = (shared.runtime.now(), shared.config.environment.now());
        Self::given(at, time, verified, generation)
    }

    fn given(at: Instant, time: SystemTime, verified: &Verified, generation: u64) -> Self {
        let left = verified.not_after.duration_since(time).unwrap_or_default();
        Self {
            at,
            time,
            until: at + left,
            generation,
        }
    }

    /// Of the same peer, by other credentials.
    fn again(
        &self,
        now: Instant,
        connection: &quinn::Connection,
        own: &Current,
    ) -> Result<Self, VerifyError> {
        let chain = connection.peer_identity();
        let chain = chain.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let time = self.time + now.saturating_duration_since(self.at);
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let verified = own.credentials.trust().verify(
            &chain.unwrap_or_default(),
            UnixTime::since_unix_epoch(since),
        )?;
        Ok(Self::given(now, time, &verified, own.generation))
    }
}

/// Ends connections whose certificate has expired, or is not trusted any more.
pub(crate) async fn recheck_for_ever(shared: Arc<Shared>) {
    while !shared.is_finished() {
        let seen = shared.own.signal.generation();
        let now = shared.runtime.now();
        let next = look(&shared, now).await;
        or(
            sleep_until(&*shared.runtime, next),
            shared.own.signal.changed(seen),
        )
        .await;
    }
}

/// Looks at every connection once. Returns when that is to be done again.
async fn look(shared: &Shared, now: Instant) -> Instant {
    let own = shared.own.current();
    // First of all: a connection that comes while we look wakes us again if it ends before that.
    let mut next = now + LOOK_AFTER_MAX;
    *lock(&shared.own.next_look) = Some(next);
    let (mut judged, mut clients) = (0, 0);
    for link in shared.links() {
        let Some(connection) = link.with(|state| state.current.clone()) else {
            continue;
        };
        if is_outdated(&connection, &own) {
            judged += 1;
            if judged % JUDGED_AT_ONCE == 0 {
                yield_now().await;
            }
        }
        let (code, why) = match end_of(&connection, now, &own) {
            Ok(until) if until > now || planted::is("expired-connections-kept") => {
                next = next.min(until.max(now + LOOK_AFTER_MIN));
                continue;
            }
            Ok(_) => (CloseCode::EXPIRED, "it has expired".to_owned()),
            Err(why) => (CloseCode::REVOKED, why.to_string()),
        };
        let peer = &link.identity;
        if link.is_node() {
            warn!(%peer, why, "the peer's certificate is not good any more; its connection ends");
        } else {
            clients += 1;
            debug!(%peer, why, "the client's certificate is not good any more; its connection ends");
        }
        let reason = "your certificate is not good here any more: renew it, and load it";
        connection.close(Refused::new(code, reason));
    }
    if clients > 0 {
        // One line for all: there may be thousands.
        warn!(
            clients,
            "connections end: the certificates of clients are not good any more"
        );
    }
    *lock(&shared.own.next_look) = Some(next);
    next
}

fn is_outdated(connection: &Established, own: &Current) -> bool {
    lock(&connection.verdict).generation != own.generation
}

/// When the connection ends, judged again if our credentials are others by now.
fn end_of(connection: &Established, now: Instant, own: &Current) -> Result<Instant, VerifyError> {
    let mut verdict = lock(&connection.verdict);
    if verdict.generation != own.generation
        && verdict.until > now
        && !planted::is("open-connections-not-judged-again")
    {
        *verdict = verdict.again(now, &connection.connection, own)?;
    }
    Ok(verdict.until)
}
