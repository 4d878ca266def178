//! Brings changes from the journal to their places in the image.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use super::changes::Changes;
use crate::planted;
use crate::storage::Storage;

/// Changes on their way to the image.
#[derive(Debug)]
pub(super) struct Flush {
    changes: Arc<Changes>,
    /// Who brings them there; without one, whoever waits for the end does.
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Flush {
    pub(super) fn start(
        storage: &Arc<dyn Storage>,
        image: u64,
        changes: Changes,
        background: bool,
    ) -> io::Result<Self> {
        let changes = Arc::new(changes);
        let thread = background.then(|| {
            let (storage, changes) = (Arc::clone(storage), Arc::clone(&changes));
            Builder::new()
                .name("quorate-journal".into())
                .spawn(move || write_back(&*storage, image, &changes))
        });
        let thread = thread.transpose()?;
        Ok(Self { changes, thread })
    }

    pub(super) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Whether the end need not be waited for.
    pub(super) fn is_done(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Returns once nothing writes to the file any more.
    pub(super) fn stop(self) {
        if let Some(thread) = self.thread {
            // How it ended concerns whoever goes on.
            let _ = thread.join();
        }
    }

    /// Returns once the changes are durable in the image.
    pub(super) fn finish(self, storage: &dyn Storage, image: u64) -> io::Result<()> {
        match self.thread {
            Some(thread) => match thread.join() {
                Ok(_) if planted::is("flush-failure-ignored") => Ok(()),
                Ok(written) => written,
                Err(_) => Err(io::Error::other("the thread that wrote it panicked")),
            },
            None => write_back(storage, image, &self.changes),
        }
    }
}

/// Writes `changes` to the image, which begins at `image` in the file, and syncs it.
pub(super) fn write_back(storage: &dyn Storage, image: u64, changes: &Changes) -> io::Result<()> {
    let (kept, length) = (image + changes.kept(), image + changes.length());
    let before = storage.length()?;
    if before > kept {
        storage.set_length(kept)?;
    }
    if before.min(kept) < length {
        storage.set_length(length)?;
    }
    for (offset, data) in changes.writes() {
        storage.write(image + offset, data)?;
    }
    storage.sync_data()
}
