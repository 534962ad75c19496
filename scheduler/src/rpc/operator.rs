//! The cluster itself: status, joining, handing over, snapshots, backups.

use std::sync::Arc;

use berth_model::JobState;
use berth_proto::v1;
use berth_proto::v1::operator_client::OperatorClient;
use berth_raft::{Member, RaftStatus, Role};
use berth_state::{CLUSTER_VERSION_MAX, ClusterState, Command};
use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::backup::BackupStream;
use super::capture::CaptureStream;
use super::route::{at_leader, where_asked};
use super::{Shared, members, policies, settle, version};
use crate::access::Granted;
use crate::identity::to_hex;
use crate::leader::Leader;
use crate::leader::members::{is_healthy, warnings};
use crate::peers::Agreement;

pub struct OperatorService {
    pub shared: Shared,
}

#[tonic::async_trait]
impl v1::operator_server::Operator for OperatorService {
    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::ClusterStatus>, Status> {
        let stale = request.get_ref().consistency != 0;
        if stale {
            return self
                .here(&Granted::of(&request)?, request.get_ref().consistency)
                .await
                .map(Response::new);
        }
        at_leader!(self.shared, request, OperatorClient::status, |_leader, granted, asked| {
            self.here(granted, asked.consistency)
        })
    }

    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinReply>, Status> {
        at_leader!(self.shared, request, OperatorClient::join, |leader, granted, asked| {
            members::admit(&self.shared, granted, leader, asked)
        })
    }

    async fn promote(
        &self,
        request: Request<v1::PromoteRequest>,
    ) -> Result<Response<v1::PromoteReply>, Status> {
        at_leader!(self.shared, request, OperatorClient::promote, |leader, granted, asked| {
            members::promote(&self.shared, granted, leader, asked.id)
        })
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveRequest>,
    ) -> Result<Response<v1::RemoveReply>, Status> {
        at_leader!(self.shared, request, OperatorClient::remove, |leader, granted, asked| {
            members::remove(&self.shared, granted, leader, asked.id)
        })
    }

    async fn transfer(
        &self,
        request: Request<v1::TransferRequest>,
    ) -> Result<Response<v1::TransferReply>, Status> {
        at_leader!(self.shared, request, OperatorClient::transfer, |_leader, granted, asked| {
            self.hand_over(granted, asked.to)
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

    type BackupStream = BackupStream;

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<BackupStream>, Status> {
        self.shared.backup(&Granted::of(&request)?).await.map(Response::new)
    }

    type CaptureStream = CaptureStream;

    async fn capture(
        &self,
        request: Request<v1::CaptureRequest>,
    ) -> Result<Response<CaptureStream>, Status> {
        let granted = Granted::of(&request)?;
        self.shared.capture(&granted, request.into_inner()).await.map(Response::new)
    }

    async fn resume(
        &self,
        request: Request<v1::ResumeRequest>,
    ) -> Result<Response<v1::ResumeReply>, Status> {
        at_leader!(self.shared, request, OperatorClient::resume, |leader, granted, _asked| {
            self.resume_here(granted, leader)
        })
    }

    async fn finalize(
        &self,
        request: Request<v1::FinalizeRequest>,
    ) -> Result<Response<v1::FinalizeReply>, Status> {
        at_leader!(self.shared, request, OperatorClient::finalize, |leader, granted, _asked| {
            version::finalize(&self.shared, granted, leader)
        })
    }

    async fn set_policy_default(
        &self,
        request: Request<v1::SetPolicyDefaultRequest>,
    ) -> Result<Response<v1::SetPolicyDefaultReply>, Status> {
        at_leader!(
            self.shared,
            request,
            OperatorClient::set_policy_default,
            |leader, granted, asked| policies::set(granted, leader, asked)
        )
    }

    async fn list_policy_defaults(
        &self,
        request: Request<v1::ListPolicyDefaultsRequest>,
    ) -> Result<Response<v1::ListPolicyDefaultsReply>, Status> {
        where_asked!(
            self.shared,
            request,
            OperatorClient::list_policy_defaults,
            |leader, granted, asked| policies::list(&self.shared, granted, leader, asked)
        )
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
    async fn here(&self, granted: &Granted, consistency: i32) -> Result<v1::ClusterStatus, Status> {
        let view = self.shared.read(granted, consistency).await?;
        let raft = self.shared.node.status();
        let leader_id = raft.leader.as_ref().map(|(id, _)| *id);
        let members = raft.members.iter().map(|member| self.member(member, &raft)).collect();
        let state = &view.state;
        let schedulers = &state.cluster().schedulers;
        let removed = schedulers.iter().filter(|(_, row)| row.seat.is_none());
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
            removed: removed.map(|(id, _)| *id).collect(),
            warnings: self.warnings(&raft),
            cluster_version: state.cluster().cluster_version,
            cluster_version_max: CLUSTER_VERSION_MAX,
            incarnation: state.cluster().incarnation,
            awaited_nodes: awaited_nodes(state),
            awaited_for_ms: awaited_for_ms(state, self.shared.leading().as_deref()),
            places_in_ms: places_in_ms(state, self.shared.leading().as_deref()),
            orphans: state.nodes().values().map(|row| row.orphans.len() as u64).sum(),
        })
    }

    fn member(&self, member: &Member, raft: &RaftStatus) -> v1::Member {
        let leader_id = raft.leader.as_ref().map(|(id, _)| *id);
        let itself = member.id == raft.node_id;
        let role = match (Some(member.id) == leader_id, member.voter) {
            (true, _) => "leader",
            (false, true) => "follower",
            (false, false) => "learner",
        };
        let healthy = match itself {
            true => raft.role != Role::Stopped,
            false => leader_id != Some(raft.node_id) || is_healthy(member, raft),
        };
        let said = match itself {
            true => Some(self.shared.published.report()),
            false => self.shared.published.peers.said(member.id),
        };
        v1::Member {
            id: member.id,
            address: member.address.clone(),
            role: role.to_owned(),
            healthy,
            last_log_index: if itself { raft.last_log_index } else { member.matched_index },
            applied_index: itself.then_some(raft.applied_index).flatten(),
            cluster_version_max: said.as_ref().map(|said| said.cluster_version_max),
            version: said.map(|said| said.version).unwrap_or_default(),
        }
    }

    fn warnings(&self, raft: &RaftStatus) -> Vec<String> {
        let clocks = self.shared.published.peers.clocks_off().into_iter();
        let clocks = clocks.map(|(scheduler, ahead_ms)| {
            let side = if ahead_ms > 0 { "ahead of" } else { "behind" };
            let seconds = ahead_ms.unsigned_abs() / 1_000;
            format!(
                "the wall clock of scheduler {scheduler} is {seconds} s {side} the others'; \
                 have its host keep time (chrony, ntpd)"
            )
        });
        warnings(raft).into_iter().chain(self.difference()).chain(clocks).collect()
    }

    fn difference(&self) -> Option<String> {
        match self.shared.published.peers.agreement() {
            Agreement::Split { index, others } => Some(format!(
                "after entry {index} the state of scheduler {} is not that of schedulers \
                 {others:?}, and no majority says which is right",
                self.shared.node.node_id(),
            )),
            Agreement::Whole | Agreement::Odd(_) => None,
        }
    }

    async fn resume_here(
        &self,
        granted: &Granted,
        leader: Arc<Leader>,
    ) -> Result<v1::ResumeReply, Status> {
        let missing = self.shared.read(granted, 0).await?.state.awaited();
        granted.about(format!("without {missing} nodes"));
        settle(&leader, Command::StopAwaiting).await?;
        Ok(v1::ResumeReply { missing: u32::try_from(missing).unwrap_or(u32::MAX) })
    }

    async fn hand_over(
        &self,
        granted: &Granted,
        to: Option<u64>,
    ) -> Result<v1::TransferReply, Status> {
        granted.about("leadership");
        let raft = self.shared.node.status();
        let votes = |id: &u64| raft.members.iter().any(|member| member.voter && member.id == *id);
        let target = match to {
            Some(to) if to == raft.node_id => {
                return Ok(v1::TransferReply { leader_id: to });
            }
            Some(to) => Some(to).filter(votes),
            None => raft.heir(),
        };
        let Some(target) = target else {
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

/// By name, of nodes that a restored cluster waits for.
fn awaited_nodes(state: &ClusterState) -> Vec<String> {
    let awaited = state.cluster().restore.iter().flat_map(|restore| &restore.awaited);
    awaited.filter_map(|node| Some(state.nodes().get(node)?.name.to_string())).collect()
}

fn awaited_for_ms(state: &ClusterState, leader: Option<&Leader>) -> Option<u64> {
    let restore = state.cluster().restore.as_ref().filter(|one| !one.awaited.is_empty())?;
    Some(restore.await_until.since(leader?.clock.now()).0)
}

fn places_in_ms(state: &ClusterState, leader: Option<&Leader>) -> Option<u64> {
    let restore = state.cluster().restore.as_ref().filter(|one| one.awaited.is_empty())?;
    let left_ms = restore.place_from.since(leader?.clock.now()).0;
    (left_ms > 0).then_some(left_ms)
}
