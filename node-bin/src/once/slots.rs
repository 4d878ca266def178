//! The numbers of what a node sends.

use async_channel::{Receiver, Sender};
use bytes::Bytes;
use quorate_consensus::NodeId;

use super::form::join;
use super::{SLOTS_MAX, Tag};

/// The slots of one start of a node that are free, with the number of the next command of each.
pub(crate) struct Slots {
    free: Receiver<Tag>,
    back: Sender<Tag>,
}

impl Slots {
    /// Those of the node `node`, the log of which has been opened `start` times.
    pub(crate) fn new(node: NodeId, start: u64) -> Self {
        let (back, free) = async_channel::bounded(usize::from(SLOTS_MAX));
        for slot in 0..SLOTS_MAX {
            let tag = Tag {
                node,
                start,
                slot,
                number: 1,
            };
            back.try_send(tag).expect("there is room for each");
        }
        Self { free, back }
    }

    /// The next number, once there is a slot for it: whoever came first gets the first.
    pub(crate) async fn take(&self) -> Numbered {
        let tag = self.free.recv().await.expect("this end holds the other");
        Numbered {
            tag,
            back: self.back.clone(),
        }
    }
}

/// The number of a command. Dropped, it is never used again, and its slot is free.
pub(crate) struct Numbered {
    tag: Tag,
    back: Sender<Tag>,
}

impl Numbered {
    /// `command` with its number.
    pub(crate) fn join(&self, command: &[u8]) -> Bytes {
        join(&self.tag, command)
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.tag.number += 1;
        // It came from there; where nobody takes any more, the node has gone.
        let _ = self.back.try_send(self.tag);
    }
}
