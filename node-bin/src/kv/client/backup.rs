//! The whole state, read from one node.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use quorate_consensus::{EntryId, NodeId};

use super::error::ClientError;
use super::{Client, refused};
use crate::kv::backup::BackupHeader;
use crate::kv::protocol::{Request, Response};
use crate::kv::query::{Answer, BackupPiece, Query};

/// How long a node has to hear that a backup is complete: nobody wants to wait for that.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// The state of one moment, on its way from one node.
pub struct Backup {
    client: Client,
    node: NodeId,
    last: EntryId,
    /// The place after which the next piece begins; `None` after the last one.
    after: Option<Bytes>,
}

impl Backup {
    pub(super) fn new(client: Client, node: NodeId, last: EntryId) -> Self {
        Self {
            client,
            node,
            last,
            after: Some(Bytes::new()),
        }
    }

    /// Who gives it.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The last entry whose effect is in it.
    #[must_use]
    pub fn last(&self) -> EntryId {
        self.last
    }

    /// What to write in front of its pieces, with the time as it is now.
    #[must_use]
    pub fn header(&self) -> BackupHeader {
        let cluster = self.client.shared.transport.identity().cluster.to_string();
        BackupHeader::new(cluster, self.node, self.last)
    }

    /// The next piece, for a [`BackupWriter`](crate::kv::BackupWriter); `None` after the last one.
    ///
    /// # Errors
    ///
    /// [`ClientError::BackupGone`] when the node does not have it any more; after any other, ask again.
    pub async fn next_piece(&mut self) -> Result<Option<Bytes>, ClientError> {
        let Some(after) = self.after.clone() else {
            return Ok(None);
        };
        let of = self.last;
        // Whether the node is up to date matters when it begins, and not to what it holds.
        let request = Request::ReadStale(Query::BackupPiece { of, after });
        let node = self.node;
        match self.client.shared.ask(node, &request).await? {
            Response::Stale {
                answer: Answer::BackupPiece(BackupPiece { data, next }),
                ..
            } => {
                self.after = next;
                if self.after.is_none() {
                    self.end().await;
                }
                Ok(Some(data))
            }
            Response::Stale {
                answer: Answer::Refused(invalid),
                ..
            } => Err(refused(node, invalid)),
            _ => Err(ClientError::Nonsense { node }),
        }
    }

    /// Lets the node let go. If it does not hear that, it does so in a while.
    async fn end(&self) {
        let request = Request::ReadStale(Query::EndBackup { of: self.last });
        let shared = &self.client.shared;
        let deadline = shared.runtime.now() + END_TIMEOUT;
        let _ = shared.ask_until(self.node, &request, deadline).await;
    }
}

impl fmt::Debug for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backup({} of {})", self.last, self.node)
    }
}
