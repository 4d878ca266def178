//! The numbers of what a node sends.

use async_channel::{Receiver, Sender};
use bytes::Bytes;
use quorate_consensus::{NodeId, ProposeError};

use super::form::{TAG_BYTES_MAX, join};
use super::{SLOTS_MAX, Tag};

/// The slots of one start of a node that are free, with the number of the next command of each.
pub(crate) struct Slots {
    free: Receiver<Tag>,
    back: Sender<Tag>,
    /// How large a command may be, with its number.
    bytes_max: u64,
}

impl Slots {
    /// Those of the node `node`, the log of which has been opened `start` times.
    pub(crate) fn new(node: NodeId, start: u64, bytes_max: u64) -> Self {
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
        Self {
            free,
            back,
            bytes_max,
        }
    }

    /// Whether `command` can be sent, whatever its number will be.
    pub(crate) fn check(&self, command: &[u8]) -> Result<(), ProposeError> {
        let bytes = command.len() as u64;
        let bytes_max = self.bytes_max.saturating_sub(TAG_BYTES_MAX as u64);
        match bytes {
            0 => Err(ProposeError::Empty),
            _ if bytes > bytes_max => Err(ProposeError::TooLarge { bytes, bytes_max }),
            _ => Ok(()),
        }
    }

    /// The next number, once there is a slot for it: whoever came first gets the first.
    pub(crate) async fn take(&self) -> Numbered {
        let tag = self.free.recv().await.expect("this end holds the other");
        self.numbered(tag)
    }

    /// The next number, if there is a slot for it.
    pub(crate) fn try_take(&self) -> Option<Numbered> {
        let tag = self.free.try_recv().ok()?;
        Some(self.numbered(tag))
    }

    fn numbered(&self, tag: Tag) -> Numbered {
        let back = self.back.clone();
        Numbered { tag, back }
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
