//! How much room the disk has, and that a leader takes nothing that grows while it has little.
//!
//! A disk that is full stops a node, in order and without loss; where all are full at once, it stops the cluster, and
//! nothing can be deleted any more. So a node looks before that: what it still needs to run stays free.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::future;
use quorate_consensus::{NodeId, ProposeError};
use quorate_persist::Files;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::NodeHandle;

/// How much of the disk is kept free unless told otherwise: what a node with its defaults still writes when nothing grows
/// any more. The journal's halves are there already, and hard state takes its way through them. A log that is not as
/// long as its tail yet grows by up to 144 MiB (64 MiB of entries, and what redb adds); what is applied in memory, by up to
/// 288 MiB (two of 72 MiB, in values that take twice their size); and for the second until it is noticed, with
/// what is on its way by then, there are some 80 MiB: at full load a node writes some 60 in that time.
pub const DISK_RESERVE_BYTES_DEFAULT: u64 = 512 << 20;

/// How much more than the reserve has to be free again before commands that grow are taken: an eighth of it, and at most
/// this, so that a log that is written and cut does not make it flap.
const SLACK_BYTES_MAX: u64 = 64 << 20;

/// How often the disk is looked at: what a fast one takes in that time is part of the reserve.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How much room there is where a node keeps its files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskSpace {
    /// How many bytes an ordinary user may still write.
    pub free_bytes: u64,
    /// How many of them are kept free.
    pub reserve_bytes: u64,
    /// Whether it is too little, or was and is not enough yet to be sure: who leads then refuses what makes the state grow.
    pub nearly_full: bool,
}

/// A command that makes the state grow was not taken, since the disk of the leader is nearly full. Nothing happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error(
    "nothing happened: the disk of node {} is nearly full ({} MiB are free, of the {} MiB that it keeps). Free \
     space there", .node.value(), mib(*free_bytes), mib(*reserve_bytes)
)]
pub struct DiskNearlyFull {
    /// The leader.
    pub node: NodeId,
    /// How many bytes are free.
    pub free_bytes: u64,
    /// How many are kept free.
    pub reserve_bytes: u64,
}

/// In whole MiB, rounded down.
pub(crate) fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// Why [`NodeHandle::propose`] gives no answer of the state machine.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// Consensus did not take it, or does not know what became of it.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// There is no room for it. Nothing happened.
    #[error(transparent)]
    DiskNearlyFull(#[from] DiskNearlyFull),
}

impl CommandError {
    /// Whether the command has not been applied, and never will be: it may be proposed again.
    #[must_use]
    pub fn nothing_happened(&self) -> bool {
        match self {
            Self::Propose(error) => error.nothing_happened(),
            Self::DiskNearlyFull(_) => true,
        }
    }
}

/// Whether a command makes the state no larger.
pub(super) type Shrinks = dyn Fn(&[u8]) -> bool + Send + Sync;

/// What a node knows of its disk's room.
pub(super) struct Space {
    node: NodeId,
    reserve_bytes: u64,
    known: Mutex<Option<DiskSpace>>,
}

impl Space {
    pub(super) fn new(node: NodeId, reserve_bytes: u64) -> Self {
        Self {
            node,
            reserve_bytes,
            known: Mutex::new(None),
        }
    }

    /// Whether anybody is to look.
    pub(super) fn is_measured(&self) -> bool {
        self.reserve_bytes > 0
    }

    pub(super) fn known(&self) -> Option<DiskSpace> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was measured, and says so where it changes anything.
    fn note(&self, room: &mut Room, free: Option<u64>) {
        let before = std::mem::replace(room, room.after(free, self.reserve_bytes));
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) =
            free.map(|free_bytes| DiskSpace {
                free_bytes,
                reserve_bytes: self.reserve_bytes,
                nearly_full: *room == Room::Little,
            });
        let (free, reserve) = (free.unwrap_or_default(), self.reserve_bytes);
        match (before, *room) {
            (Room::Unmeasured | Room::Enough, Room::Little) => warn!(
                node = %self.node, free, reserve,
                "the disk is nearly full: as the leader, this node refuses what makes the state grow; free space"
            ),
            (Room::Little, Room::Enough) => info!(
                node = %self.node, free, reserve, "the disk has room again: what makes the state grow is taken"
            ),
            (Room::Unmeasured | Room::Little | Room::Enough, Room::Unmeasured)
            | (Room::Unmeasured | Room::Enough, Room::Enough)
            | (Room::Little, Room::Little) => {}
        }
    }
}

/// How it stands, from one measurement to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Room {
    /// Nobody has measured it yet, or it failed: nothing is refused for that.
    Unmeasured,
    Enough,
    Little,
}

impl Room {
    /// How it stands with so many bytes `free`, if that could be measured.
    fn after(self, free: Option<u64>, reserve: u64) -> Self {
        let enough = match self {
            Self::Little => reserve.saturating_add((reserve / 8).min(SLACK_BYTES_MAX)),
            Self::Unmeasured | Self::Enough => reserve,
        };
        match free {
            None => Self::Unmeasured,
            Some(free) if free < enough => Self::Little,
            Some(_) => Self::Enough,
        }
    }
}

/// Measures at once, and whenever it is due, until nobody asks any more. That may take as long as the disk likes, so it has a
/// thread of its own.
pub(super) async fn watch(
    space: Arc<Space>,
    files: Arc<dyn Files>,
    directory: PathBuf,
    due: Receiver<()>,
) {
    let mut room = Room::Unmeasured;
    let mut has_failed = false;
    loop {
        let measured = files.free_bytes(&directory);
        if let Err(error) = &measured
            && !has_failed
        {
            has_failed = true;
            warn!(
                node = %space.node, %error, path = %directory.display(),
                "how much room the disk has cannot be measured: while it cannot, nothing is refused for want of it"
            );
        }
        space.note(&mut room, measured.ok());
        if due.recv().await.is_err() {
            return;
        }
    }
}

/// Says when it is due, until the node ends. Where the disk does not answer, nobody waits for it.
pub(super) fn ask(node: NodeHandle, due: Sender<()>) -> impl Future<Output = ()> + Send {
    let mut events = node.events();
    async move {
        let ended = async { while events.next().await.is_some() {} };
        let asking = async {
            loop {
                node.sleep(LOOK_INTERVAL).await;
                let _ = due.try_send(());
            }
        };
        future::or(ended, asking).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// It begins with one byte less than the reserve, and ends an eighth of that above it: what lies between
    /// changes nothing, in either direction.
    #[test]
    fn it_does_not_flap() {
        let reserve = 80 * MIB;
        let mut room = Room::Unmeasured;
        for (free, expected) in [
            (90 * MIB, Room::Enough),
            (80 * MIB, Room::Enough),
            (80 * MIB - 1, Room::Little),
            (80 * MIB, Room::Little),
            (90 * MIB - 1, Room::Little),
            (0, Room::Little),
            (90 * MIB, Room::Enough),
            (80 * MIB, Room::Enough),
        ] {
            room = room.after(Some(free), reserve);
            assert_eq!(room, expected, "{free}");
        }
        assert_eq!(Room::Unmeasured.after(Some(0), reserve), Room::Little);
    }

    /// What has to be free beyond a large reserve is bounded, and nothing overflows.
    #[test]
    fn the_slack_is_bounded() {
        let reserve = 100 << 30;
        let enough = reserve + SLACK_BYTES_MAX;
        assert_eq!(Room::Little.after(Some(enough - 1), reserve), Room::Little);
        assert_eq!(Room::Little.after(Some(enough), reserve), Room::Enough);
        let all = Some(u64::MAX);
        assert_eq!(Room::Little.after(all, u64::MAX), Room::Enough);
    }

    /// What cannot be measured refuses nothing, also where there was little room; nobody is told a number then.
    #[test]
    fn what_cannot_be_measured_refuses_nothing() {
        let space = Space::new(NodeId::new(1).unwrap(), 80 * MIB);
        let mut room = Room::Unmeasured;
        assert_eq!(space.known(), None);
        space.note(&mut room, Some(MIB));
        assert!(space.known().is_some_and(|known| known.nearly_full));
        space.note(&mut room, None);
        assert_eq!((space.known(), room), (None, Room::Unmeasured));
        space.note(&mut room, Some(80 * MIB));
        let known = space.known().unwrap();
        assert_eq!((known.free_bytes, known.nearly_full), (80 * MIB, false));
    }
}
