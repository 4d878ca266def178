//! The nodes themselves: how they do, who they are, and all that they hold.

use quorate_consensus::{LogIndex, Membership, MembershipChange, NodeId};

use super::Client;
use super::backup::Backup;
use super::error::{ClientError, Unanswered};
use super::retry::Operation;
use crate::kv::protocol::{NodeStatus, Refusal, Request, Response};
use crate::kv::query::{Answer, Query};

impl Client {
    /// How `node` itself says it is doing.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] or [`ClientError::TimedOut`] when it cannot be asked, or
    /// [`ClientError::StillRefused`] when it would not answer.
    pub async fn status(&self, node: NodeId) -> Result<NodeStatus, ClientError> {
        match self.shared.ask(node, &Request::Status).await? {
            Response::Status(status) => {
                self.shared.hear_of(&status);
                Ok(*status)
            }
            _ => Err(ClientError::Nonsense { node }),
        }
    }

    /// How the leader says it is doing, and so what the members are.
    ///
    /// # Errors
    ///
    /// Any; nothing happened.
    pub async fn leader_status(&self) -> Result<NodeStatus, ClientError> {
        match self
            .shared
            .request(Operation::Repeatable, &Request::Status)
            .await?
        {
            (_, Response::Status(status)) => {
                self.shared.hear_of(&status);
                Ok(*status)
            }
            (node, _) => Err(ClientError::Nonsense { node }),
        }
    }

    /// What `node` counts and measures, in the text format of OpenMetrics, which Prometheus reads;
    /// [`prometheus_text`](crate::prometheus_text) makes the older format of it.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub async fn metrics(&self, node: NodeId) -> Result<String, ClientError> {
        match self.shared.ask(node, &Request::Metrics).await? {
            Response::Metrics(text) => Ok(text),
            _ => Err(ClientError::Nonsense { node }),
        }
    }

    /// Hands leadership to `to`, unless that leads already, or to the best placed other voter; returns who leads. Needs an
    /// admin's certificate.
    ///
    /// # Errors
    ///
    /// [`ClientError::NobodyTookOver`]; [`ClientError::OutcomeUnknown`] when that is not known.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, ClientError> {
        let request = Request::TransferLeader { to };
        match self.shared.request(Operation::Transfer, &request).await {
            Ok((_, Response::Transferred { leader })) => Ok(leader),
            Ok((node, _)) => Err(ClientError::Nonsense { node }),
            // The announcement overtook the answer, and says the same.
            Err(ClientError::OutcomeUnknown { node, why }) if why == Unanswered::Superseded => {
                match self.leader() {
                    Some(leader) if to.is_none_or(|to| to == leader) => Ok(leader),
                    _ => Err(ClientError::OutcomeUnknown { node, why }),
                }
            }
            Err(ClientError::Refused {
                node,
                refusal: Refusal::TimedOut,
            }) => Err(ClientError::NobodyTookOver { node }),
            Err(error) => Err(error),
        }
    }

    /// Changes the members, and returns them once that is complete; only if they are still those of the entry
    /// `expected`, if one is given. Needs an admin's certificate.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with [`Refusal::NotChanged`] when it cannot be done, and with [`Refusal::NotYet`] when
    /// somebody has to catch up first;
    /// [`ClientError::OutcomeUnknown`] when that is not known: ask for the members then.
    pub async fn change_members(
        &self,
        change: MembershipChange,
        expected: Option<LogIndex>,
    ) -> Result<Membership, ClientError> {
        let request = Request::ChangeMembers { change, expected };
        match self.shared.request(Operation::Transfer, &request).await? {
            (_, Response::Members(members)) => Ok(*members),
            (node, _) => Err(ClientError::Nonsense { node }),
        }
    }

    /// Begins to read the whole state as of no earlier than this call, with what the store keeps for itself, such as
    /// sessions and leases: at the leader, or where this client [reads](Self::reading_at). The node holds on to it for
    /// [`BACKUP_IDLE_MAX`](crate::kv::BACKUP_IDLE_MAX) after each piece. Needs an admin's certificate.
    ///
    /// # Errors
    ///
    /// Any; nothing happened.
    pub async fn backup(&self) -> Result<Backup, ClientError> {
        match self.read(Query::BeginBackup).await? {
            (node, Answer::BackupBegun { last }) => Ok(Backup::new(self.clone(), node, last)),
            (node, _) => Err(ClientError::Nonsense { node }),
        }
    }

    /// As [`backup`](Self::backup), of the state as it is at `node`, however old: for what is left of a cluster
    /// that has no leader any more. **Not linearizable.**
    ///
    /// # Errors
    ///
    /// As [`query_stale`](Self::query_stale).
    pub async fn backup_stale(&self, node: NodeId) -> Result<Backup, ClientError> {
        match self.query_stale(node, Query::BeginBackup).await?.answer {
            Answer::BackupBegun { last } => Ok(Backup::new(self.clone(), node, last)),
            _ => Err(ClientError::Nonsense { node }),
        }
    }
}
