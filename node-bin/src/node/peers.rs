//! Which store each peer had, remembered across this node's own starts.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use quorate_consensus::NodeId;
use quorate_persist::{Files, SeenStore, SeenStores, StoreIdentity, load_peers, save_peers};
use tracing::error;

use super::error::StartError;

/// The name of the file, in a node's data folder, of what it knows of its peers' stores.
pub const PEERS_FILE: &str = "peers";

/// Remembers at once, and on disk a moment later: whoever asks is the I/O thread, which must not wait for
/// a disk. What is lost in that moment is remembered when the peer is met again.
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

#[derive(Default)]
struct Known {
    stores: SeenStores,
    /// Whether something is new since the last save began.
    news: bool,
    /// Whether somebody is saving.
    saving: bool,
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
            stores: load_peers(&*files, &path, &owner)?,
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

    /// What is known of `node`, which is here with the store `seen`: that, if nothing was known before, or
    /// only of earlier starts of it.
    pub(super) fn meet(&self, node: NodeId, seen: SeenStore) -> SeenStore {
        let mut known = self.shared.known();
        let before = known.stores.get(&node).copied();
        let news = match before {
            Some(before) => before.store_id == seen.store_id && before.boot < seen.boot,
            None => true,
        };
        if !news {
            return before.unwrap_or(seen);
        }
        known.stores.insert(node, seen);
        known.news = true;
        let begin = !std::mem::replace(&mut known.saving, true);
        drop(known);
        if begin {
            self.save();
        }
        seen
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
            let stores = known.stores.clone();
            drop(known);
            let saved = save_peers(&*self.files, &self.path, &self.owner, &stores);
            if let Err(err) = saved {
                // The log is on the same disk and will have more to say.
                error!(node = %self.owner.node, %err, "what is known of peers cannot be saved");
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

    /// The next start of this node knows what this one met.
    #[test]
    fn it_outlives_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let open = || {
            let path = directory.path().join(PEERS_FILE);
            let owner = StoreIdentity {
                cluster: "c".into(),
                node: node(1),
            };
            PeerMemory::open(Arc::new(OsFiles), path, owner, false).unwrap()
        };
        let first = open();
        assert_eq!(first.meet(node(2), seen(7, 1)), seen(7, 1));
        assert_eq!(first.meet(node(2), seen(7, 4)), seen(7, 4));
        assert_eq!(first.meet(node(3), seen(9, 1)), seen(9, 1));
        let second = open();
        assert_eq!(second.meet(node(2), seen(8, 1)), seen(7, 4));
        assert_eq!(second.meet(node(2), seen(7, 3)), seen(7, 4));
        assert_eq!(second.meet(node(3), seen(9, 2)), seen(9, 2));
    }
}
