//! Which store each peer had, remembered across this node's own starts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use quorate_consensus::{LogIndex, MEMBERS_MAX, Membership, NodeId, Term};
use quorate_persist::{
    Files, SEEN_STORES_MAX, SeenPeers, SeenStore, StoreIdentity, load_peers, save_peers,
};
use tracing::error;

use super::error::StartError;

/// The name of the file, in a node's data folder, of what it knows of its peers' stores.
pub const PEERS_FILE: &str = "peers";

/// Remembers at once, and on disk a moment later: whoever asks is the I/O thread, which must not wait for
/// a disk. What a crash loses in that moment is remembered when the peer is met again; until then another store would
/// be taken for its own.
#[derive(Clone)]
pub(super) struct PeerMemory {
    shared: Arc<Shared>,
}

struct Shared {
    known: Mutex<Known>,
    files: Arc<dyn Files>,
    path: PathBuf,
    owner: StoreIdentity,
    /// Whether to save on a thread of its own.
    background: bool,
}

/// What becomes of a peer that is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Met {
    /// It is as far as it was, or further, or was never met.
    Known,
    /// It had another store.
    OtherStore,
    /// It had been started more often.
    OlderBoot(u64),
    /// It had acknowledged more.
    Behind(Progress),
    /// Another process was there with this very store and start.
    Twin,
    /// It was never met, and no more can be remembered.
    OneTooMany,
}

/// A start of a node, as it tells of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Start {
    /// How far its log was.
    pub(super) progress: Progress,
    /// Which process it is.
    pub(super) process: u64,
    /// What its log was made with; zero where it does not know that either.
    pub(super) origin: u64,
}

/// How far a log has come: its term, and in that, its last index. A log that was acknowledged up to some
/// point never ends before it again: within a term entries are only added to what matches the leader's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Progress {
    pub(super) term: Term,
    pub(super) last: LogIndex,
}

impl Progress {
    pub(super) fn to_number(self) -> u128 {
        u128::from(self.term.value()) << 64 | u128::from(self.last.value())
    }

    pub(super) fn from_number(number: u128) -> Self {
        let low = |number: u128| u64::try_from(number & u128::from(u64::MAX));
        let low = |number| low(number).expect("64 bits");
        Self {
            term: Term::new(low(number >> 64)),
            last: LogIndex::new(low(number)),
        }
    }
}

#[derive(Default)]
struct Known {
    /// What is on disk, or will be.
    peers: SeenPeers,
    /// What each has acknowledged to this start of this node. Not on disk: it changes with every write.
    acknowledged: BTreeMap<NodeId, Progress>,
    /// Which process stood behind the start that was seen last. Not on disk either.
    processes: BTreeMap<NodeId, u64>,
    /// What each has said of its origin. Not on disk either.
    origins: BTreeMap<NodeId, u64>,
    /// Whether something is new since the last save began.
    news: bool,
    /// Whether somebody is saving.
    saving: bool,
}

impl Known {
    /// `most` are known before it at most.
    fn meet(&mut self, node: NodeId, seen: SeenStore, start: Start, most: usize) -> Met {
        match self.peers.stores.get(&node) {
            Some(before) if before.store_id != seen.store_id => return Met::OtherStore,
            Some(before) if before.boot > seen.boot => return Met::OlderBoot(before.boot),
            Some(before) if before.boot == seen.boot => {
                // Since then it has told itself how far it is.
                let process = *self.processes.entry(node).or_insert(start.process);
                if process != start.process {
                    return Met::Twin;
                }
                // This may be another start of this node, which has not heard it yet.
                self.origins.insert(node, start.origin);
                return Met::Known;
            }
            None if self.peers.stores.len() >= most => return Met::OneTooMany,
            Some(_) | None => {}
        }
        let acknowledged = self.acknowledged.get(&node).copied();
        if let Some(acknowledged) = acknowledged.filter(|it| *it > start.progress) {
            return Met::Behind(acknowledged);
        }
        self.peers.stores.insert(node, seen);
        self.processes.insert(node, start.process);
        self.origins.insert(node, start.origin);
        self.news = true;
        Met::Known
    }
}

impl PeerMemory {
    /// What the node `owner` remembers in the file at `path`.
    ///
    /// # Errors
    ///
    /// [`StartError::Open`] when the file cannot be trusted.
    pub(super) fn open(
        files: Arc<dyn Files>,
        path: PathBuf,
        owner: StoreIdentity,
        background: bool,
    ) -> Result<Self, StartError> {
        let known = Known {
            peers: load_peers(&*files, &path, &owner)?,
            ..Known::default()
        };
        let shared = Arc::new(Shared {
            known: Mutex::new(known),
            files,
            path,
            owner,
            background,
        });
        Ok(Self { shared })
    }

    /// The member `node` is here with the store `seen`, which had come so far when it was started. That is
    /// remembered, unless it contradicts what is known already.
    pub(super) fn meet(&self, node: NodeId, seen: SeenStore, start: Start) -> Met {
        self.meet_one(node, seen, start, SEEN_STORES_MAX)
    }

    /// The same of a node that is no member, as far as is known here: they leave room for members.
    pub(super) fn meet_stranger(&self, node: NodeId, seen: SeenStore, start: Start) -> Met {
        self.meet_one(node, seen, start, SEEN_STORES_MAX - MEMBERS_MAX)
    }

    fn meet_one(&self, node: NodeId, seen: SeenStore, start: Start, most: usize) -> Met {
        let mut known = self.shared.known();
        let met = known.meet(node, seen, start, most);
        self.save_news(known);
        met
    }

    /// Whose memory it is.
    pub(super) fn own(&self) -> NodeId {
        self.shared.owner.node
    }

    /// The origin of the members that this node has joined; zero where that is not known.
    pub(super) fn origin(&self) -> u64 {
        self.shared.known().peers.origin
    }

    /// Learns the origin from `members`, once they are those of a cluster that this node has joined. Whom it was told to
    /// join, and whoever is no member, may belong to another one.
    pub(super) fn learn_origin(&self, members: &Membership) {
        let mut known = self.shared.known();
        if known.peers.origin == 0 && !members.is_provisional() {
            let mut said = known.origins.iter();
            let said = said.find(|(node, origin)| members.contains(**node) && **origin != 0);
            if let Some((_, &origin)) = said {
                known.peers.origin = origin;
                known.news = true;
            }
        }
        self.save_news(known);
    }

    /// `node` has said that its log is as far as this.
    pub(super) fn acknowledged(&self, node: NodeId, progress: Progress) {
        let mut known = self.shared.known();
        let before = known.acknowledged.entry(node).or_insert(progress);
        *before = progress.max(*before);
    }

    /// Forgets those that are not to be kept, because they will never be members again.
    pub(super) fn keep(&self, keep: impl Fn(NodeId) -> bool) {
        let mut known = self.shared.known();
        known.acknowledged.retain(|node, _| keep(*node));
        known.processes.retain(|node, _| keep(*node));
        known.origins.retain(|node, _| keep(*node));
        let before = known.peers.stores.len();
        known.peers.stores.retain(|node, _| keep(*node));
        known.news |= known.peers.stores.len() != before;
        self.save_news(known);
    }

    /// Begins to save what is new, unless somebody does.
    fn save_news(&self, mut known: MutexGuard<'_, Known>) {
        let begin = known.news && !std::mem::replace(&mut known.saving, true);
        drop(known);
        if begin {
            self.save();
        }
    }

    fn save(&self) {
        let shared = Arc::clone(&self.shared);
        if !shared.background {
            return shared.save_all();
        }
        let thread = thread::Builder::new().name("quorate-peers".into());
        if let Err(err) = thread.spawn(move || shared.save_all()) {
            error!(%err, "no thread to save what is known of peers");
            self.shared.known().saving = false;
        }
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves until nothing is new: at most one thread does.
    fn save_all(&self) {
        loop {
            let mut known = self.known();
            if !std::mem::take(&mut known.news) {
                known.saving = false;
                return;
            }
            let peers = known.peers.clone();
            drop(known);
            let saved = save_peers(&*self.files, &self.path, &self.owner, &peers);
            if let Err(err) = saved {
                error!(
                    node = %self.owner.node, %err,
                    "what is known of peers cannot be saved; it is tried again when one connects"
                );
                let mut known = self.known();
                (known.news, known.saving) = (true, false);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_persist::OsFiles;

    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn seen(store_id: u128, boot: u64) -> SeenStore {
        SeenStore { store_id, boot }
    }

    fn at(term: u64, last: u64) -> Progress {
        Progress {
            term: Term::new(term),
            last: LogIndex::new(last),
        }
    }

    fn by(process: u64, progress: Progress) -> Start {
        Start {
            progress,
            process,
            origin: 0,
        }
    }

    fn memory(directory: &tempfile::TempDir) -> PeerMemory {
        let path = directory.path().join(PEERS_FILE);
        let owner = StoreIdentity {
            cluster: "c".into(),
            node: node(1),
        };
        PeerMemory::open(Arc::new(OsFiles), path, owner, false).unwrap()
    }

    /// The next start of this node knows what this one met.
    #[test]
    fn it_outlives_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let first = memory(&directory);
        let start = by(1, at(1, 1));
        assert_eq!(first.meet(node(2), seen(7, 1), start), Met::Known);
        assert_eq!(first.meet(node(2), seen(7, 4), start), Met::Known);
        assert_eq!(first.meet(node(3), seen(9, 1), start), Met::Known);
        let second = memory(&directory);
        assert_eq!(second.meet(node(2), seen(8, 1), start), Met::OtherStore);
        assert_eq!(second.meet(node(2), seen(7, 3), start), Met::OlderBoot(4));
        assert_eq!(second.meet(node(3), seen(9, 2), start), Met::Known);
    }

    /// What could not be saved is saved when somebody is met again, though nothing is new about them.
    #[test]
    fn a_save_that_failed_is_made_up_for() {
        let directory = tempfile::tempdir().unwrap();
        let first = memory(&directory);
        let path = directory.path().join(PEERS_FILE);
        // Nothing can be put where a folder is that is not empty.
        std::fs::create_dir_all(path.join("in the way")).unwrap();
        let start = by(1, at(1, 1));
        assert_eq!(first.meet(node(2), seen(7, 1), start), Met::Known);
        std::fs::remove_dir_all(&path).unwrap();
        assert_eq!(first.meet(node(2), seen(7, 1), start), Met::Known);
        let second = memory(&directory);
        assert_eq!(second.meet(node(2), seen(8, 1), start), Met::OtherStore);
    }

    /// Nodes with certificates are many, and members few; who is known already is let in all the same.
    #[test]
    fn what_is_remembered_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let memory = memory(&directory);
        let most = u64::try_from(SEEN_STORES_MAX - MEMBERS_MAX).unwrap();
        let of = |id: u64, boot| (node(id), seen(u128::from(id), boot), by(boot, at(1, 1)));
        let meet = |(node, seen, start)| memory.meet_stranger(node, seen, start);
        for id in 1..=most {
            assert_eq!(meet(of(id, 1)), Met::Known);
        }
        assert_eq!(meet(of(most + 1, 1)), Met::OneTooMany);
        assert_eq!(meet(of(most, 2)), Met::Known);
        let (member, its, start) = of(most + 2, 1);
        assert_eq!(memory.meet(member, its, start), Met::Known);
        memory.keep(|id| id > node(2));
        assert_eq!(meet(of(most + 1, 1)), Met::Known);
    }

    /// What a node has acknowledged, its next start must still have; the same start need not say it again.
    #[test]
    fn a_log_that_went_back_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let memory = memory(&directory);
        assert_eq!(
            memory.meet(node(2), seen(7, 1), by(1, at(1, 1))),
            Met::Known
        );
        memory.acknowledged(node(2), at(3, 20));
        memory.acknowledged(node(2), at(3, 15));
        assert_eq!(
            memory.meet(node(2), seen(7, 1), by(1, at(1, 1))),
            Met::Known
        );
        for older in [at(2, 99), at(3, 19)] {
            let met = memory.meet(node(2), seen(7, 2), by(2, older));
            assert_eq!(met, Met::Behind(at(3, 20)));
        }
        for as_far in [at(3, 20), at(4, 8)] {
            assert_eq!(Progress::from_number(as_far.to_number()), as_far);
            let boot = as_far.term.value();
            assert_eq!(
                memory.meet(node(2), seen(7, boot), by(boot, as_far)),
                Met::Known
            );
        }
    }

    /// Two processes on copies of one folder, at the same start: the first one counts.
    #[test]
    fn e6_a_second_process_of_one_start_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let memory = memory(&directory);
        let meet = |boot, process| memory.meet(node(2), seen(7, boot), by(process, at(1, 1)));
        assert_eq!(meet(1, 11), Met::Known);
        assert_eq!(meet(1, 11), Met::Known, "it comes back");
        assert_eq!(meet(1, 12), Met::Twin);
        assert_eq!(meet(2, 13), Met::Known);
        assert_eq!(meet(2, 12), Met::Twin);
    }
}
