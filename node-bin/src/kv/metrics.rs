//! What the key-value store counts, behind what the node does.

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::protocol::Request;
use super::service::STATE_FILE;
use crate::node::NodeHandle;

/// Counted while the node runs.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<[(&'static str, &'static str); 1], Counter>,
    state_bytes: Gauge<u64, AtomicU64>,
    watchers: Gauge<u64, AtomicU64>,
}

impl Metrics {
    pub(super) fn new(node: &NodeHandle) -> Self {
        let mut registry = node.metrics_registry();
        let requests = Family::default();
        let help = "Requests of clients, readers and admins, refused ones included";
        registry.register("kv_requests", help, Family::clone(&requests));
        let state_bytes = Gauge::default();
        let help = "The size of the state's file";
        registry.register_with_unit("kv_state", help, Unit::Bytes, Gauge::clone(&state_bytes));
        let watchers = Gauge::default();
        let help = "Questions for what happens next that wait for that";
        registry.register("kv_watchers", help, Gauge::clone(&watchers));
        Self {
            registry,
            requests,
            state_bytes,
            watchers,
        }
    }

    /// Counts `request`.
    pub(super) fn count(&self, request: &Request) {
        let kind = match request {
            Request::Write(_) | Request::WriteOnce { .. } => "write",
            Request::Read(query) | Request::ReadHere(query) | Request::ReadStale(query)
                if query.is_backup() =>
            {
                "backup"
            }
            Request::Read(_) => "read",
            Request::ReadHere(_) => "read_here",
            Request::ReadStale(_) => "read_stale",
            Request::Watch { .. } => "watch",
            Request::Status => "status",
            Request::Metrics => "metrics",
            Request::Leader => "leader",
            Request::TransferLeader { .. } => "transfer_leader",
            Request::ChangeMembers { .. } => "change_members",
        };
        self.requests.get_or_create(&[("request", kind)]).inc();
    }

    /// Writes everything as it is now, with so many `watchers`, behind `text`, which the node has written, and the end.
    pub(super) fn encode(&self, node: &NodeHandle, watchers: usize, text: &mut String) {
        self.watchers.set(watchers as u64);
        self.state_bytes
            .set(node.file_bytes(STATE_FILE).unwrap_or(0));
        text::encode_registry(text, &self.registry)
            .and_then(|()| text::encode_eof(text))
            .expect("a string takes everything");
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}
