//! What happens to keys, as it happens.

use std::fmt;

use super::Client;
use super::error::ClientError;
use super::retry::Operation;
use crate::kv::history::{Change, WATCH_WAIT_MAX, Watched};
use crate::kv::protocol::{Request, Response};
use crate::kv::query::{Answer, Query};

/// Follows what happens to a range of keys, from one revision on: in order, each change once, none left out. It
/// goes on after a change of leader, and can be taken up again later from [`Watch::revision`].
pub struct Watch {
    client: Client,
    watched: Watched,
    /// Up to where everything was seen; `None` before the first question.
    after: Option<u64>,
}

impl Watch {
    pub(super) fn new(client: Client, watched: Watched, after: Option<u64>) -> Self {
        Self {
            client,
            watched,
            after,
        }
    }

    /// Up to which revision everything has been seen: where to go on later. `None` before that is known.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        self.after
    }

    /// Finds out which revision there is now, if it is not known from where on to watch, so that everything which
    /// is acknowledged from now on will be seen.
    ///
    /// # Errors
    ///
    /// As a read; it can be tried again.
    pub async fn begin(&mut self) -> Result<u64, ClientError> {
        if let Some(after) = self.after {
            return Ok(after);
        }
        let query = Query::Range {
            start: self.watched.start.clone(),
            end: self.watched.end.clone(),
            limit: 1,
        };
        match self.client.read(query).await? {
            (_, Answer::Page { revision, .. }) => {
                self.after = Some(revision);
                Ok(revision)
            }
            (node, _) => Err(ClientError::Nonsense { node }),
        }
    }

    /// What has happened since the last time; waits until something has. Returns nothing when nothing did for ten
    /// seconds, or less where much happens to other keys: then [`revision`](Self::revision) has moved on.
    ///
    /// Dropping the future loses nothing: the next one returns what it would have returned. Only a watch from now on has not
    /// begun before [`begin`](Self::begin), or this, has once returned.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with [`Refusal::HistoryGone`](crate::kv::Refusal::HistoryGone) when the node does
    /// not remember what came next: nodes remember little, and what they did before they started only as far as
    /// their log goes. Read the keys then, and watch from the revision of the answer
    /// ([`Page::revision`](super::Page::revision)). After any other error, ask again.
    pub async fn next(&mut self) -> Result<Vec<Change>, ClientError> {
        let after = self.begin().await?;
        let request = Request::Watch {
            watched: self.watched.clone(),
            after,
        };
        let shared = &self.client.shared;
        let deadline = shared.runtime.now() + WATCH_WAIT_MAX + shared.within;
        let (node, response) = match self.client.reads_at {
            Some(node) => (node, shared.ask_until(node, &request, deadline).await?),
            None => {
                let answered = shared
                    .request_until(Operation::Repeatable, &request, deadline)
                    .await?;
                (answered.node, answered.response)
            }
        };
        match response {
            Response::Watched { changes, revision } if revision >= after => {
                self.after = Some(revision);
                Ok(changes)
            }
            _ => Err(ClientError::Nonsense { node }),
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({:?}, after {:?})", self.watched, self.after)
    }
}
