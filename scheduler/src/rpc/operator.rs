//! The cluster itself: status, joining, handing over, snapshots.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_model::JobState;
use berth_proto::v1;
use berth_proto::v1::operator_client::OperatorClient;
use berth_raft::Role;
use berth_state::{Command, Reply};
use bytes::Bytes;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use super::route::at_leader;
use super::{Shared, status};
use crate::identity::to_hex;
use crate::leader::Leader;

pub struct OperatorService {
    pub shared: Shared,
    /// Changes of membership go one at a time.
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl OperatorService {
    pub fn new(shared: Shared) -> OperatorService {
        OperatorService { shared, changing: Arc::new(tokio::sync::Mutex::new(())) }
    }
}

#[tonic::async_trait]
impl v1::operator_server::Operator for OperatorService {
    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::ClusterStatus>, Status> {
        let stale = request.get_ref().consistency != 0;
        if stale {
            return self.here(request.get_ref().consistency).await.map(Response::new);
        }
        at_leader!(self.shared, request, OperatorClient::status, |_leader, asked| {
            self.here(asked.consistency)
        })
    }

    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinReply>, Status> {
        at_leader!(self.shared, request, OperatorClient::join, |leader, asked| {
            self.admit(leader, asked)
        })
    }

    async fn transfer(
        &self,
        request: Request<v1::TransferRequest>,
    ) -> Result<Response<v1::TransferReply>, Status> {
        at_leader!(self.shared, request, OperatorClient::transfer, |_leader, asked| {
            self.hand_over(asked.to)
        })
    }

    async fn snapshot(
        &self,
        _request: Request<v1::SnapshotRequest>,
    ) -> Result<Response<v1::SnapshotReply>, Status> {
        let node = &self.shared.node;
        let applied = node.status().applied_index.unwrap_or_default();
        let mut changes = node.status_changes();
        node.trigger_snapshot().await;
        let reached =
            changes.wait_for(|now| now.snapshot_index.is_some_and(|index| index >= applied));
        let limit = std::time::Duration::from_secs(60);
        let done = tokio::time::timeout(limit, reached).await;
        match done.ok().flatten().and_then(|status| status.snapshot_index) {
            Some(index) => Ok(Response::new(v1::SnapshotReply { index })),
            None => Err(Status::deadline_exceeded("the snapshot was not finished in 60 s")),
        }
    }

    async fn state_hash(
        &self,
        _request: Request<v1::StateHashRequest>,
    ) -> Result<Response<v1::StateHashReply>, Status> {
        let view = self.shared.published.view();
        let hash = Bytes::copy_from_slice(&view.hash().to_be_bytes());
        Ok(Response::new(v1::StateHashReply { applied_index: view.applied_index(), hash }))
    }
}

impl OperatorService {
    async fn here(&self, consistency: i32) -> Result<v1::ClusterStatus, Status> {
        let view = self.shared.read(consistency).await?;
        let raft = self.shared.node.status();
        let leader_id = raft.leader.as_ref().map(|(id, _)| *id);
        let leads = leader_id == Some(raft.node_id);
        let members = raft
            .members
            .iter()
            .map(|member| v1::Member {
                id: member.id,
                address: member.address.clone(),
                role: if Some(member.id) == leader_id {
                    "leader"
                } else if member.voter {
                    "follower"
                } else {
                    "learner"
                }
                .to_owned(),
                healthy: if member.id == raft.node_id {
                    raft.role != Role::Stopped
                } else {
                    !leads || is_near(member.matched_index, raft.last_log_index)
                },
                last_log_index: if member.id == raft.node_id {
                    raft.last_log_index
                } else {
                    member.matched_index
                },
                applied_index: (member.id == raft.node_id).then_some(raft.applied_index).flatten(),
            })
            .collect();
        let state = &view.state;
        let open = |job: &berth_state::JobRow| !job.is_ended();
        let queued = state.jobs().values().filter(|job| job.state() == JobState::Queued).count();
        Ok(v1::ClusterStatus {
            cluster_id: to_hex(&self.shared.cluster_id),
            leader_id,
            term: raft.term,
            members,
            nodes: u32::try_from(state.nodes().len()).unwrap_or(u32::MAX),
            jobs: state.jobs().values().filter(|job| open(job)).count() as u64,
            allocations: state.allocations().len() as u64,
            queued: queued as u64,
            answered_by: raft.node_id,
            applied_index: state.applied_index(),
            stale_ms: view.stale_ms,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    /// Gives the scheduler its id, and brings it in beside this call: it is
    /// reachable only once it knows its id.
    async fn admit(
        &self,
        leader: Arc<Leader>,
        request: v1::JoinRequest,
    ) -> Result<v1::JoinReply, Status> {
        let Ok(instance_key) = <[u8; 16]>::try_from(request.instance_key.as_ref()) else {
            return Err(status::invalid_field("instance_key", "expected 16 bytes"));
        };
        if request.address.parse::<std::net::SocketAddr>().is_err() {
            let message = format!("expected HOST:PORT, found `{}`", request.address);
            return Err(status::invalid_field("address", message));
        }
        let address = request.address.clone();
        let command = Command::AdmitScheduler { instance_key, address: address.clone() };
        let answer = leader.propose(command).await.map_err(|error| status::from_propose(&error))?;
        let scheduler = match answer {
            Ok(Reply::Admitted { scheduler }) => scheduler,
            Ok(other) => return Err(Status::internal(format!("unexpected answer {other:?}"))),
            Err(refusal) => return Err(status::from_refusal(&refusal)),
        };
        let node = self.shared.node.clone();
        let changing = self.changing.clone();
        tokio::spawn(async move {
            let _one = changing.lock().await;
            let members = node.status().members;
            let known = members.iter().find(|member| member.id == scheduler);
            if known.is_some_and(|member| member.voter) {
                return;
            }
            if let Err(error) = node.add_learner(scheduler, address).await {
                warn!(scheduler, %error, "scheduler not added; it asks again");
                return;
            }
            match node.promote(BTreeSet::from([scheduler])).await {
                Ok(()) => info!(scheduler, "scheduler is a voter"),
                Err(error) => warn!(scheduler, %error, "scheduler not promoted; it asks again"),
            }
        });
        let cluster_id = Bytes::copy_from_slice(&self.shared.cluster_id);
        Ok(v1::JoinReply { cluster_id, node_id: scheduler })
    }

    async fn hand_over(&self, to: Option<u64>) -> Result<v1::TransferReply, Status> {
        let raft = self.shared.node.status();
        let others = raft.members.iter().filter(|member| member.voter && member.id != raft.node_id);
        let target = match to {
            Some(to) if to == raft.node_id => {
                return Ok(v1::TransferReply { leader_id: to });
            }
            Some(to) => raft.members.iter().find(|member| member.voter && member.id == to),
            None => others.max_by_key(|member| (member.matched_index, member.id)),
        };
        let Some(target) = target.map(|member| member.id) else {
            let voters: Vec<String> = raft
                .members
                .iter()
                .filter(|member| member.voter)
                .map(|member| member.id.to_string())
                .collect();
            let message = format!("no such voter; the voters are {}", voters.join(", "));
            return Err(Status::failed_precondition(message));
        };
        let node = &self.shared.node;
        node.transfer_leader(target).await.map_err(|error| {
            Status::unavailable(format!("leadership was not handed over: {error}"))
        })?;
        Ok(v1::TransferReply { leader_id: target })
    }
}

/// Whether a member follows closely enough to be called healthy.
fn is_near(matched: Option<u64>, last: Option<u64>) -> bool {
    const BEHIND_MAX: u64 = 1000;
    match (matched, last) {
        (Some(matched), Some(last)) => last.saturating_sub(matched) <= BEHIND_MAX,
        (None, Some(_)) => false,
        (Some(_) | None, None) => true,
    }
}
