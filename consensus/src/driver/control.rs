//! What feeds a running node, and ends it.

use super::handle::{Input, RaftHandle};
use crate::entry::Entry;
use crate::message::{Body, Message, Transfer};
use crate::types::NodeId;

/// Brings a running node what its peers say, and stops it: for whoever runs it, and verifies who they are. Others
/// get a [`RaftHandle`].
#[derive(Clone, Debug)]
pub struct DriverControl(RaftHandle);

impl DriverControl {
    pub(super) fn new(handle: RaftHandle) -> Self {
        Self(handle)
    }

    /// Brings a message from the verified identity `from`. Dropped when the driver cannot keep up, as
    /// the network might have done; returns whether it was taken.
    pub fn deliver(&self, from: NodeId, message: Message) -> bool {
        let bytes = match &message.body {
            Body::Append { entries, .. } => entries.iter().map(Entry::bytes).sum(),
            Body::Transfer(Transfer::Chunk { data, .. }) => data.len() as u64,
            Body::Transfer(_)
            | Body::Snapshot { .. }
            | Body::Digest { .. }
            | Body::ReadIndex { .. }
            | Body::LeadershipWanted { .. }
            | Body::ReadIndexAnswer { .. }
            | Body::AppendAccepted { .. }
            | Body::AppendRejected { .. }
            | Body::RequestVote { .. }
            | Body::Vote { .. }
            | Body::Heartbeat { .. }
            | Body::HeartbeatResponse { .. }
            | Body::TimeoutNow => 0,
        };
        self.0
            .push_message(
                bytes,
                Input::Message {
                    from,
                    message,
                    bytes,
                },
            )
            .is_none()
    }

    /// The connection with `peer` is gone, and with it what was on its way.
    pub fn report_unreachable(&self, peer: NodeId) {
        let _ = self.0.inbox.try_send(Input::Unreachable(peer));
    }

    /// Stops the driver. Everything that waits is answered with what is known.
    pub fn stop(&self) {
        let _ = self.0.inbox.try_send(Input::Stop);
    }
}
