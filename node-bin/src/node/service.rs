//! What a node serves to clients, besides consensus.

use quorate_consensus::LeaderChange;
use quorate_quic_transport::IncomingCall;

use super::NodeHandle;

/// A protocol that clients speak with a node. Called on the node's I/O thread: never block in it; hand
/// answers on through [`RaftHandle::propose_then`](quorate_consensus::RaftHandle::propose_then) and
/// [`RaftHandle::query_then`](quorate_consensus::RaftHandle::query_then).
pub trait Service: Send + 'static {
    /// The node has started: before anything else, once.
    fn started(&mut self, node: &NodeHandle) {
        let _ = node;
    }

    /// A verified peer asks something. Its role is in `call.from`; deciding what the role may do is the
    /// service's duty: what changes something is not for a [reader](crate::CallerRole::Reader). A call that is dropped
    /// is answered with a refusal. Calls of kinds from 0xff00 on are the node's own, and do not get here.
    ///
    /// Peers connect with the protocol `quorate`, or `quorate-once` where the node was started by
    /// [`start_saved_once`](crate::NodeBuilder::start_saved_once).
    fn call(&mut self, node: &NodeHandle, call: IncomingCall);

    /// The role, term or leader has changed.
    fn leader_changed(&mut self, node: &NodeHandle, change: &LeaderChange) {
        let _ = (node, change);
    }
}

/// Serves nobody: for nodes that are driven through their [`Node`](super::Node) handle only.
pub(super) struct NoService;

impl Service for NoService {
    fn call(&mut self, _node: &NodeHandle, call: IncomingCall) {
        call.reply
            .refuse(quorate_quic_transport::Refusal::UnknownKind);
    }
}
