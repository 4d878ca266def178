//! `quorate kv watch`: what happens to keys, as it happens.

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use quorate::kv::{Change, Client, ClientError, Watch};
use serde_json::{Map, Value as Json, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::emulate_default_handler;

use super::{At, keys};
use crate::cli::connect::failure;
use crate::cli::signals::{self, is_ignored};
use crate::cli::text::{field, printable_line};
use crate::cli::{Failure, exit};

/// Between two questions without an answer, each of which waits for a leader itself: doubling from the one to the other.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a script has to know.
pub(super) const HELP: &str = "\
Once it had an answer, it goes on however long no node gives another one; without the first, it
exits as other commands do. On standard error it says when it waits, when it goes on, and, at its
end, up to where everything is printed and with which --after to go on.";

#[derive(Args, Debug)]
pub(super) struct WatchArgs {
    /// The one key, or the first of them when END is given; all keys without
    key: Option<OsString>,
    end: Option<OsString>,
    /// Only keys that begin with this
    #[arg(long, conflicts_with_all = ["key", "end"])]
    prefix: Option<OsString>,
    /// Begin after this revision instead of now; exits with 65 if that is no longer known
    #[arg(long, value_name = "REVISION")]
    after: Option<u64>,
    /// End after this many changes, and those that belong to one transaction with the last
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    pub(super) at: At,
}

pub(super) async fn run(
    client: &Client,
    args: WatchArgs,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let one = args.end.is_none() && args.prefix.is_none();
    let (start, mut end) = keys(args.key, args.end, args.prefix);
    if one && !start.is_empty() {
        end = Some([&start[..], &[0]].concat().into());
    }
    let mut watch = client.watch(start, end, args.after);
    let revision = watch.begin().await.map_err(|error| failure(&error))?;
    let seen = Seen::from(revision)?;
    begin(revision, json, out).map_err(Failure::output)?;
    // Where it is told from when to watch, nobody was asked yet.
    let outage = Outage::new(args.after.is_none());
    let limit = args.limit.unwrap_or(u64::MAX);
    let followed = follow(&mut watch, limit, json, out, (&seen, outage)).await;
    match &followed {
        // What came next is not to be had any more, and the failure says what to do instead.
        Err(failure) if failure.code == exit::DATA => {}
        Ok(()) | Err(_) => seen.tell(),
    }
    followed
}

/// Whoever reads that knows that from now on nothing is missed. For people, it is no part of the data.
fn begin(revision: u64, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        writeln!(out, "{}", json!({ "watching_after": revision }))?;
        return out.flush();
    }
    say(&format!("watching after revision {revision}"));
    Ok(())
}

/// Prints changes until there were `limit`.
async fn follow(
    watch: &mut Watch,
    limit: u64,
    json: bool,
    out: &mut dyn Write,
    (seen, mut outage): (&Seen, Outage),
) -> Result<(), Failure> {
    let mut left = limit;
    while left > 0 {
        let changes = match watch.next().await {
            Ok(changes) => changes,
            Err(error) => {
                let pause = outage.handle_error(&error)?;
                async_io::Timer::after(pause).await;
                continue;
            }
        };
        let revision = watch.revision().expect("known from the first answer on");
        outage.handle_answer(revision);
        let whole = whole_revisions(&changes, left);
        left = left.saturating_sub(whole as u64);
        for change in &changes[..whole] {
            match json {
                true => writeln!(out, "{}", in_json(change)),
                false => for_people(change, out),
            }
            .map_err(Failure::output)?;
        }
        out.flush().map_err(Failure::output)?;
        let cut = changes.get(whole).and(changes[..whole].last());
        seen.set(cut.map_or(revision, |last| last.revision));
    }
    Ok(())
}

/// Waits through times without an answer, and says when one begins and ends.
struct Outage {
    /// Whether there was an answer: before that, something is wrong with the command rather than with the cluster.
    heard: bool,
    /// The last pause, while there is no answer.
    pause: Option<Duration>,
}

impl Outage {
    fn new(heard: bool) -> Self {
        Self { heard, pause: None }
    }

    fn handle_answer(&mut self, revision: u64) {
        self.heard = true;
        if self.pause.take().is_some() {
            say(&format!("watching again, up to revision {revision}"));
        }
    }

    /// How long to wait before asking again, unless that is in vain.
    fn handle_error(&mut self, error: &ClientError) -> Result<Duration, Failure> {
        if !self.heard || !passes(error) {
            return Err(failure(error));
        }
        if self.pause.is_none() {
            say(&format!("waiting for an answer: {error}"));
        }
        let doubled = self.pause.map_or(PAUSE_MIN, |pause| 2 * pause);
        let pause = doubled.min(PAUSE_MAX);
        self.pause = Some(pause);
        Ok(pause)
    }
}

/// Whether it may be otherwise in a moment.
fn passes(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::NoLeader { .. }
            | ClientError::StillRefused { .. }
            | ClientError::TimedOut { .. }
            | ClientError::Unreachable {
                for_good: false,
                ..
            }
    )
}

/// Up to where everything is printed, which is said at the end, also at one by a signal.
struct Seen(Arc<AtomicU64>);

impl Seen {
    fn from(revision: u64) -> Result<Self, Failure> {
        let seen = Arc::new(AtomicU64::new(revision));
        let at_signal = Self(Arc::clone(&seen));
        let heard = [SIGINT, SIGTERM, SIGHUP].into_iter();
        // Not where changes are printed: who reads them may not do so any more, and this ends all the same.
        signals::listen(heard.filter(|signal| !is_ignored(*signal)), move |signal| {
            at_signal.tell();
            emulate_default_handler(signal).is_ok() // it ends the process
        })?;
        Ok(Self(seen))
    }

    fn set(&self, revision: u64) {
        self.0.store(revision, Ordering::Relaxed);
    }

    fn tell(&self) {
        let revision = self.0.load(Ordering::Relaxed);
        say(&format!(
            "seen up to revision {revision}; go on with --after {revision}"
        ));
    }
}

/// What is no part of the data.
fn say(what: &str) {
    let _ = writeln!(io::stderr(), "{what}"); // nobody may be left to read it
}

/// How many of `changes` are the first `limit`, and those of the revision in which they end: whoever goes on after that
/// misses nothing.
fn whole_revisions(changes: &[Change], limit: u64) -> usize {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    match changes.get(..limit) {
        None | Some([]) => changes.len().min(limit),
        Some([.., last]) => changes.partition_point(|change| change.revision <= last.revision),
    }
}

fn for_people(change: &Change, out: &mut dyn Write) -> io::Result<()> {
    let (revision, key) = (change.revision, printable_line(&change.key));
    match &change.value {
        Some(value) => writeln!(out, "{revision}\tput\t{key}\t{}", printable_line(value)),
        None => writeln!(out, "{revision}\tdel\t{key}"),
    }
}

fn in_json(change: &Change) -> Json {
    let value = match &change.value {
        Some(value) => field("value", value),
        None => ("value".into(), Json::Null),
    };
    Json::Object(Map::from_iter([
        ("revision".into(), change.revision.into()),
        field("key", &change.key),
        value,
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passes is waited for, with pauses that grow up to a bound, once there was an answer; everything else ends it.
    #[test]
    fn an_outage_is_waited_for() {
        let no_leader = || ClientError::NoLeader {
            within: Duration::from_secs(5),
            tried: Vec::new(),
            unlisted: None,
        };
        let mut outage = Outage::new(false);
        let unheard = outage.handle_error(&no_leader()).unwrap_err();
        assert_eq!(unheard.code, exit::UNAVAILABLE);
        outage.handle_answer(7);
        let pauses = [(); 6].map(|()| outage.handle_error(&no_leader()).unwrap().as_millis());
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        outage.handle_answer(7);
        assert_eq!(outage.handle_error(&no_leader()), Ok(PAUSE_MIN));
        let for_good = ClientError::NoUsableNode { tried: Vec::new() };
        let ended = outage.handle_error(&for_good).unwrap_err();
        assert_eq!(ended.code, exit::NOT_ALLOWED);
    }

    /// A transaction is not cut: whoever goes on after the last revision would miss the rest of it.
    #[test]
    fn a_limit_ends_between_revisions() {
        let change = |revision| Change {
            key: "k".into(),
            value: None,
            revision,
        };
        let changes = [3, 4, 4, 4, 7].map(change);
        let counts = [0, 1, 2, 3, 4, 5, 6].map(|limit| whole_revisions(&changes, limit));
        assert_eq!(counts, [0, 1, 4, 4, 4, 5, 5]);
        assert_eq!(whole_revisions(&[], 1), 0);
    }
}
