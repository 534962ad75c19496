//! Schedulers that come, get a vote and go. A call writes the wish into the
//! log; the leader then changes Raft's members, and the call waits a while for
//! that.

use std::sync::Arc;
use std::time::Duration;

use berth_identity::{CERTIFICATE_DAYS, MachineId, requested_key};
use berth_proto::v1;
use berth_raft::{ProposeError, RaftStatus};
use berth_state::{ClusterState, Command, JoinProof, Refusal, Reply, Seat};
use bytes::Bytes;
use tonic::Status;

use super::access::proof;
use super::version::check_newcomer;
use super::{Shared, settle, status};
use crate::access::{Granted, Term};
use crate::leader::Leader;
use crate::leader::members::majority_without;

/// A certificate request is some 300 bytes.
const REQUEST_BYTES_MAX: usize = 4096;

/// How long a call waits for Raft's members to follow: below the 1.5 s after
/// which a client takes an attempt for lost.
const FOLLOW_LIMIT: Duration = Duration::from_secs(1);

/// Gives the scheduler its id. It is brought in beside this call: it is
/// reachable only once it knows its id.
pub async fn admit(
    shared: &Shared,
    granted: &Granted,
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
    granted.about(format!("scheduler at {}", request.address));
    check_newcomer(shared, request.cluster_version_max)?;
    let proof = server_proof(shared, &leader, instance_key, &request)?;
    let seat = if request.learner { Seat::Learner } else { Seat::Voter };
    let command =
        Command::AdmitScheduler { instance_key, address: request.address.clone(), seat, proof };
    let reply = wish(&leader, command).await?;
    let Reply::Admitted { scheduler } = reply else {
        return Err(Status::internal(format!("unexpected answer {reply:?}")));
    };
    let view = shared.published.view();
    let given = match &shared.security {
        Some(security) => {
            let id = MachineId::scheduler(shared.cluster_id, scheduler);
            let times_revoked = view.times_revoked(id.machine, &id.name);
            let term = Term { days: CERTIFICATE_DAYS, times_revoked };
            let signed = security.sign(&view, &request.request, &id, term);
            let signed = signed.map_err(|error| status::not_signed(&error))?;
            Some((signed, security.seal_key().as_bytes().to_vec()))
        }
        None => None,
    };
    let (certificate, authority, seal_key) = match given {
        Some((signed, seal_key)) => (signed.certificate, signed.authority, seal_key),
        None => (Vec::new(), Vec::new(), Vec::new()),
    };
    Ok(v1::JoinReply {
        certificate: certificate.into(),
        authority: authority.into(),
        seal_key: seal_key.into(),
        cluster_id: Bytes::copy_from_slice(&shared.cluster_id),
        node_id: scheduler,
        incarnation: view.cluster().incarnation,
        restore_id: restore_id(&view),
    })
}

/// What a scheduler that joins shows for itself, where the cluster asks for it.
/// The state is asked before anything is proposed: a guess never reaches the
/// log.
fn server_proof(
    shared: &Shared,
    leader: &Leader,
    instance_key: [u8; 16],
    request: &v1::JoinRequest,
) -> Result<Option<JoinProof>, Status> {
    if shared.security.is_none() {
        return Ok(None);
    }
    if request.request.len() > REQUEST_BYTES_MAX {
        let message = format!("expected at most {REQUEST_BYTES_MAX} bytes");
        return Err(status::invalid_field("request", message));
    }
    let key_hash = requested_key(&request.request)
        .map_err(|error| status::invalid_field("request", error.to_string()))?;
    let proof = proof(&request.token, key_hash).ok_or_else(status::join_refused)?;
    let view = shared.published.view();
    match view.server_token_opens(&proof, instance_key, leader.clock.now()) {
        true => Ok(Some(proof)),
        false => Err(status::join_refused()),
    }
}

/// Which restore the cluster's incarnation began with, for messages; empty in
/// the first.
pub fn restore_id(view: &ClusterState) -> Bytes {
    let restore = view.cluster().restore.as_ref();
    restore.map_or_else(Bytes::new, |restore| Bytes::copy_from_slice(&restore.id))
}

pub async fn promote(
    shared: &Shared,
    granted: &Granted,
    leader: Arc<Leader>,
    id: u64,
) -> Result<v1::PromoteReply, Status> {
    granted.about(format!("scheduler {id}"));
    wish(&leader, Command::PromoteScheduler { scheduler: id }).await?;
    let votes = |raft: &RaftStatus| {
        let mut members = raft.members.iter();
        members.any(|member| member.id == id && member.voter) && !raft.membership_is_joint
    };
    let done = followed(shared, &leader, votes).await?;
    Ok(v1::PromoteReply { done })
}

pub async fn remove(
    shared: &Shared,
    granted: &Granted,
    leader: Arc<Leader>,
    id: u64,
) -> Result<v1::RemoveReply, Status> {
    granted.about(format!("scheduler {id}"));
    check_majority(shared, id)?;
    wish(&leader, Command::RemoveScheduler { scheduler: id }).await?;
    let gone = |raft: &RaftStatus| {
        !raft.members.iter().any(|member| member.id == id) && !raft.membership_is_joint
    };
    let done = followed(shared, &leader, gone).await?;
    Ok(v1::RemoveReply { done })
}

/// A removal that was asked for before stands, however it looks now. The last
/// voter is refused by the state, with its own words.
fn check_majority(shared: &Shared, id: u64) -> Result<(), Status> {
    let asked_before = Err(Refusal::SchedulerRemoved(id));
    let raft = shared.node.status();
    let voters = || raft.members.iter().filter(|member| member.voter);
    let others = || voters().filter(|member| member.id != id);
    let votes = voters().any(|member| member.id == id);
    if !votes
        || others().count() == 0
        || majority_without(&raft, id)
        || shared.published.view().cluster().seat(id) == asked_before
    {
        return Ok(());
    }
    let unheard = others().any(|member| member.id != raft.node_id && member.heard_ms.is_none());
    Err(if unheard { status::not_heard_yet() } else { status::needed_for_majority(id) })
}

async fn wish(leader: &Leader, command: Command) -> Result<Reply, Status> {
    let reply = settle(leader, command).await?;
    leader.look_at_members();
    Ok(reply)
}

/// Whether the members came to be as wanted in time. Who asked asks the next
/// leader if this one does not see the end of it.
async fn followed(
    shared: &Shared,
    leader: &Leader,
    wanted: impl Fn(&RaftStatus) -> bool + Send,
) -> Result<bool, Status> {
    let mut changes = shared.node.status_changes();
    let unknown = || status::from_propose(&ProposeError::OutcomeUnknown);
    tokio::select! {
        reached = tokio::time::timeout(FOLLOW_LIMIT, changes.wait_for(wanted)) => match reached {
            Ok(Some(_)) => Ok(true),
            Ok(None) => Err(unknown()),
            Err(_) => Ok(false),
        },
        () = leader.ended.cancelled() => Err(unknown()),
    }
}
