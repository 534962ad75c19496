//! Commands, one arm per kind.

use std::sync::Arc;

use berth_model::{AllocationId, Guards, JobId, Name, NodeId, NodeSpec, SpecDigest, TokenId};
use berth_proto::log::v1;
use berth_proto::log::v1::change_job::{Change, Hold, Purge, Release, Restart, Rollback, Stop};
use berth_proto::log::v1::command::Command as Kind;
use berth_proto::v1 as public;
use berth_state::{Command, DevicePurpose, JobChange, JoinProof, Purpose, Seat, SubmitJob};
use bytes::Bytes;

use super::{access, ends, namespace, node_reservation, observation, plan, policy, stock};
use crate::frozen::values::{
    allocations_to_proto, guards_to_proto, purpose_to_proto, read_allocations, read_guards,
    read_purpose,
};
use crate::problem::{Field, Problems};
use crate::spec::{job_spec_to_proto, node_spec_to_proto, read_job, read_node};

pub(super) fn to_proto(command: &Command) -> v1::Command {
    let kind = match command {
        Command::Found { cluster_id, security } => {
            Kind::Found(access::found_to_proto(*cluster_id, security.as_deref()))
        }
        Command::AdmitScheduler { instance_key, address, seat, proof } => {
            Kind::AdmitScheduler(admit_to_proto(*instance_key, address, *seat, proof.as_ref()))
        }
        Command::PromoteScheduler { scheduler } => promote_to_proto(*scheduler),
        Command::RemoveScheduler { scheduler } => {
            Kind::RemoveScheduler(v1::RemoveScheduler { scheduler: *scheduler })
        }
        Command::RaiseClusterVersion { version } => raise_to_proto(*version),
        Command::Submit(submit) => Kind::Submit(submit_to_proto(submit)),
        Command::ChangeJob { job, if_version, change } => {
            let (if_version, change) = (*if_version, Some(change_to_proto(change)));
            Kind::ChangeJob(v1::ChangeJob { job: job.0, if_version, change })
        }
        Command::RegisterNode { name, instance_key, spec } => {
            Kind::RegisterNode(register_to_proto(name, *instance_key, spec))
        }
        Command::TakeStock { name, instance_key, spec, stock } => {
            Kind::TakeStock(stock::to_proto(name, *instance_key, spec, stock))
        }
        Command::StopOrphans { node, orphans, reason } => {
            Kind::StopOrphans(stock::stop_to_proto(*node, orphans, reason))
        }
        Command::ForgetOrphans { node, session, orphans } => {
            Kind::ForgetOrphans(stock::forget_to_proto(*node, *session, orphans))
        }
        Command::StopAwaiting => Kind::StopAwaiting(v1::StopAwaiting {}),
        Command::DisconnectNode { node, session } => disconnect_to_proto(*node, *session),
        Command::DownNode { node, session } => down_to_proto(*node, *session),
        Command::SetSchedulable { node, purpose } => set_node_to_proto(*node, *purpose),
        Command::SetDevicePurpose { node, uuid, purpose } => {
            set_device_to_proto(*node, uuid, *purpose)
        }
        Command::SetGuards { node, guards } => set_guards_to_proto(*node, *guards),
        Command::LoseAllocations { node, session, allocations, reason } => {
            Kind::LoseAllocations(lose_to_proto(*node, *session, allocations, reason))
        }
        Command::Place { placements } => Kind::Place(plan::place_to_proto(placements)),
        Command::Reserve { reservations } => Kind::Reserve(plan::reserve_to_proto(reservations)),
        Command::Unreserve { allocations, reason } => plan::unreserve_to_proto(allocations, reason),
        Command::LetGo { allocations, reason } => ends::let_go(allocations, reason),
        Command::Scale { job, from, count, reason } => scale(*job, *from, *count, reason),
        Command::StopAllocations { allocations, intent, reason } => {
            ends::stop(allocations, *intent, reason)
        }
        Command::Observe { node, observations } => {
            Kind::Observe(observation::all_to_proto(*node, observations))
        }
        Command::FailUpdate { job, version, reason } => fail_to_proto(*job, *version, reason),
        Command::ExpireJob { job } => Kind::ExpireJob(v1::ExpireJob { job: job.0 }),
        Command::Reap { jobs, nodes, keys } => Kind::Reap(reap_to_proto(jobs, nodes, keys)),
        Command::CreateToken(new) => Kind::CreateToken(access::create_to_proto(new)),
        Command::RevokeToken { token } => Kind::RevokeToken(v1::RevokeToken { token: token.0 }),
        Command::UseJoinToken { proof, machine, name, pool } => {
            Kind::UseJoinToken(access::use_to_proto(proof, *machine, name, pool.as_ref()))
        }
        Command::RevokeMachine { machine, name } => {
            Kind::RevokeMachine(access::revoke_to_proto(*machine, name))
        }
        Command::ApplyNamespace { spec, if_version } => namespace::apply(spec, *if_version),
        Command::DeleteNamespace { name, if_version } => namespace::delete(name, *if_version),
        Command::ReserveNodes { spec, if_version } => node_reservation::set(spec, *if_version),
        Command::FreeNodes { name, if_version } => node_reservation::free(name, *if_version),
        Command::TurnNodeReservation { name } => node_reservation::turn(name),
        Command::SetPolicyDefault { pool, policy } => policy::set(pool.as_ref(), *policy),
    };
    v1::Command { command: Some(kind) }
}

fn promote_to_proto(scheduler: u64) -> Kind {
    Kind::PromoteScheduler(v1::PromoteScheduler { scheduler })
}

fn disconnect_to_proto(node: NodeId, session: u64) -> Kind {
    Kind::DisconnectNode(v1::DisconnectNode { node: node.0, session })
}

fn down_to_proto(node: NodeId, session: u64) -> Kind {
    Kind::DownNode(v1::DownNode { node: node.0, session })
}

fn raise_to_proto(version: u32) -> Kind {
    Kind::RaiseClusterVersion(v1::RaiseClusterVersion { version })
}

fn admit_to_proto(
    instance_key: [u8; 16],
    address: &str,
    seat: Seat,
    proof: Option<&JoinProof>,
) -> v1::AdmitScheduler {
    v1::AdmitScheduler {
        instance_key: Bytes::copy_from_slice(&instance_key),
        address: address.to_owned(),
        learner: seat == Seat::Learner,
        proof: proof.map(access::proof_to_proto),
    }
}

fn register_to_proto(name: &Name, instance_key: [u8; 16], spec: &NodeSpec) -> v1::RegisterNode {
    v1::RegisterNode {
        name: name.to_string(),
        instance_key: Bytes::copy_from_slice(&instance_key),
        spec: Some(node_spec_to_proto(spec)),
    }
}

fn scale(job: JobId, from: u32, count: u32, reason: &str) -> Kind {
    Kind::Scale(v1::Scale { job: job.0, from, count, reason: reason.to_owned() })
}

fn read_scale(proto: v1::Scale) -> Command {
    let v1::Scale { job, from, count, reason } = proto;
    Command::Scale { job: JobId(job), from, count, reason }
}

fn fail_to_proto(job: JobId, version: u32, reason: &str) -> Kind {
    Kind::FailUpdate(v1::FailUpdate { job: job.0, version, reason: reason.to_owned() })
}

fn set_node_to_proto(node: NodeId, purpose: Purpose) -> Kind {
    let purpose = Some(purpose_to_proto(purpose));
    Kind::SetSchedulable(v1::SetSchedulable { node: node.0, purpose })
}

fn set_device_to_proto(node: NodeId, uuid: &str, purpose: DevicePurpose) -> Kind {
    let cordoned = purpose == DevicePurpose::Cordoned;
    Kind::SetDevicePurpose(v1::SetDevicePurpose { node: node.0, uuid: uuid.to_owned(), cordoned })
}

fn set_guards_to_proto(node: NodeId, guards: Guards) -> Kind {
    Kind::SetGuards(v1::SetGuards { node: node.0, guards: guards_to_proto(guards) })
}

fn lose_to_proto(
    node: NodeId,
    session: u64,
    allocations: &[AllocationId],
    reason: &str,
) -> v1::LoseAllocations {
    v1::LoseAllocations {
        node: node.0,
        session,
        allocations: allocations_to_proto(allocations),
        reason: reason.to_owned(),
    }
}

fn submit_to_proto(submit: &SubmitJob) -> v1::Submit {
    v1::Submit {
        key: submit.key.clone(),
        spec: Some(job_spec_to_proto(&submit.spec)),
        digest: Bytes::copy_from_slice(&submit.digest.0),
        if_version: submit.if_version,
    }
}

fn reap_to_proto(jobs: &[JobId], nodes: &[NodeId], keys: &[(Name, String)]) -> v1::Reap {
    let key = |(namespace, key): &(Name, String)| v1::reap::Key {
        namespace: namespace.to_string(),
        key: key.clone(),
    };
    v1::Reap {
        jobs: jobs.iter().map(|job| job.0).collect(),
        nodes: nodes.iter().map(|node| node.0).collect(),
        keys: keys.iter().map(key).collect(),
    }
}

fn change_to_proto(change: &JobChange) -> Change {
    match change {
        JobChange::Stop { reason } => Change::Stop(Stop { reason: reason.clone() }),
        JobChange::Restart => Change::Restart(Restart {}),
        JobChange::Hold => Change::Hold(Hold {}),
        JobChange::Release => Change::Release(Release {}),
        JobChange::Rollback { to_version } => {
            Change::Rollback(Rollback { to_version: *to_version })
        }
        JobChange::Purge => Change::Purge(Purge {}),
    }
}

pub(super) fn read(at: Field<'_>, proto: v1::Command, problems: &mut Problems) -> Option<Command> {
    Some(match problems.present(at, proto.command)? {
        Kind::Found(found) => access::read_found(at, found, problems)?,
        Kind::AdmitScheduler(admit) => read_admit(at, admit, problems)?,
        Kind::PromoteScheduler(v1::PromoteScheduler { scheduler }) => {
            Command::PromoteScheduler { scheduler }
        }
        Kind::RemoveScheduler(v1::RemoveScheduler { scheduler }) => {
            Command::RemoveScheduler { scheduler }
        }
        Kind::RaiseClusterVersion(v1::RaiseClusterVersion { version }) => {
            Command::RaiseClusterVersion { version }
        }
        Kind::Submit(submit) => Command::Submit(read_submit(at, submit, problems)?),
        Kind::ChangeJob(change) => read_change(at, change, problems)?,
        Kind::RegisterNode(register) => read_register(at, register, problems)?,
        Kind::TakeStock(proto) => stock::read(at, proto, problems)?,
        Kind::StopOrphans(stop) => stock::read_stop(at, stop, problems),
        Kind::ForgetOrphans(forget) => stock::read_forget(at, forget, problems),
        Kind::StopAwaiting(v1::StopAwaiting {}) => Command::StopAwaiting,
        Kind::DisconnectNode(v1::DisconnectNode { node, session }) => {
            Command::DisconnectNode { node: NodeId(node), session }
        }
        Kind::DownNode(v1::DownNode { node, session }) => {
            Command::DownNode { node: NodeId(node), session }
        }
        Kind::SetSchedulable(v1::SetSchedulable { node, purpose }) => Command::SetSchedulable {
            node: NodeId(node),
            purpose: read_purpose(at.named("purpose"), purpose, problems)?,
        },
        Kind::SetDevicePurpose(set) => read_set_device(set),
        Kind::SetGuards(set) => read_set_guards(at, set, problems)?,
        Kind::LoseAllocations(lose) => Command::LoseAllocations {
            node: NodeId(lose.node),
            session: lose.session,
            allocations: read_allocations(at.named("allocations"), lose.allocations, problems),
            reason: lose.reason,
        },
        Kind::Place(place) => plan::read_place(at, place, problems)?,
        Kind::Reserve(reserve) => plan::read_reserve(at, reserve, problems)?,
        Kind::Unreserve(unreserve) => plan::read_unreserve(at, unreserve, problems),
        Kind::StopAllocations(stop) => ends::read_stop(at, stop, problems)?,
        Kind::LetGo(let_go) => ends::read_let_go(at, let_go, problems),
        Kind::Scale(proto) => read_scale(proto),
        Kind::Observe(v1::Observe { node, observations }) => Command::Observe {
            node: NodeId(node),
            observations: observation::read_all(at.named("observations"), observations, problems)?,
        },
        Kind::FailUpdate(proto) => read_fail(proto),
        Kind::ExpireJob(v1::ExpireJob { job }) => Command::ExpireJob { job: JobId(job) },
        Kind::Reap(reap) => read_reap(at, reap, problems)?,
        Kind::CreateToken(v1::CreateToken { token }) => {
            Command::CreateToken(access::read_token(at.named("token"), token, problems)?)
        }
        Kind::RevokeToken(revoke) => Command::RevokeToken { token: TokenId(revoke.token) },
        Kind::UseJoinToken(proto) => access::read_use(at, proto, problems)?,
        Kind::RevokeMachine(proto) => access::read_revoke_machine(at, proto, problems)?,
        Kind::ApplyNamespace(proto) => namespace::read_apply(at, proto, problems)?,
        Kind::DeleteNamespace(proto) => namespace::read_delete(at, proto, problems)?,
        Kind::ReserveNodes(proto) => node_reservation::read_set(at, proto, problems)?,
        Kind::FreeNodes(proto) => node_reservation::read_free(at, proto, problems)?,
        Kind::TurnNodeReservation(proto) => node_reservation::read_turn(at, proto, problems)?,
        Kind::SetPolicyDefault(proto) => policy::read_set(at, proto, problems)?,
    })
}

fn read_fail(proto: v1::FailUpdate) -> Command {
    let v1::FailUpdate { job, version, reason } = proto;
    Command::FailUpdate { job: JobId(job), version, reason }
}

fn read_set_device(proto: v1::SetDevicePurpose) -> Command {
    let v1::SetDevicePurpose { node, uuid, cordoned } = proto;
    let purpose = if cordoned { DevicePurpose::Cordoned } else { DevicePurpose::Work };
    Command::SetDevicePurpose { node: NodeId(node), uuid, purpose }
}

fn read_set_guards(
    at: Field<'_>,
    proto: v1::SetGuards,
    problems: &mut Problems,
) -> Option<Command> {
    let v1::SetGuards { node, guards } = proto;
    let guards = read_guards(at.named("guards"), guards, problems)?;
    Some(Command::SetGuards { node: NodeId(node), guards })
}

fn read_admit(
    at: Field<'_>,
    proto: v1::AdmitScheduler,
    problems: &mut Problems,
) -> Option<Command> {
    let proof = match proto.proof {
        Some(proof) => Some(access::read_proof(at.named("proof"), &proof, problems)?),
        None => None,
    };
    Some(Command::AdmitScheduler {
        instance_key: problems.bytes(at.named("instance_key"), &proto.instance_key)?,
        address: proto.address,
        seat: if proto.learner { Seat::Learner } else { Seat::Voter },
        proof,
    })
}

fn read_submit(at: Field<'_>, proto: v1::Submit, problems: &mut Problems) -> Option<SubmitJob> {
    let spec_at = at.named("spec");
    let spec = problems.present(spec_at, proto.spec)?;
    Some(SubmitJob {
        key: proto.key,
        spec: Arc::new(read_job(spec_at, spec, problems)?),
        digest: SpecDigest(problems.bytes(at.named("digest"), &proto.digest)?),
        if_version: proto.if_version,
    })
}

fn read_change(at: Field<'_>, proto: v1::ChangeJob, problems: &mut Problems) -> Option<Command> {
    let change = match problems.present(at.named("change"), proto.change)? {
        Change::Stop(Stop { reason }) => JobChange::Stop { reason },
        Change::Restart(Restart {}) => JobChange::Restart,
        Change::Hold(Hold {}) => JobChange::Hold,
        Change::Release(Release {}) => JobChange::Release,
        Change::Rollback(Rollback { to_version }) => JobChange::Rollback { to_version },
        Change::Purge(Purge {}) => JobChange::Purge,
    };
    Some(Command::ChangeJob { job: JobId(proto.job), if_version: proto.if_version, change })
}

fn read_register(
    at: Field<'_>,
    proto: v1::RegisterNode,
    problems: &mut Problems,
) -> Option<Command> {
    let spec_at = at.named("spec");
    let spec: public::NodeSpec = problems.present(spec_at, proto.spec)?;
    Some(Command::RegisterNode {
        name: problems.name(at.named("name"), &proto.name)?,
        instance_key: problems.bytes(at.named("instance_key"), &proto.instance_key)?,
        spec: Arc::new(read_node(spec_at, spec, problems)?),
    })
}

fn read_reap(at: Field<'_>, proto: v1::Reap, problems: &mut Problems) -> Option<Command> {
    let mut keys = Vec::with_capacity(proto.keys.len());
    for (position, v1::reap::Key { namespace, key }) in proto.keys.into_iter().enumerate() {
        let keys_at = at.named("keys");
        keys.push((problems.name(keys_at.item(position).named("namespace"), &namespace)?, key));
    }
    Some(Command::Reap {
        jobs: proto.jobs.into_iter().map(JobId).collect(),
        nodes: proto.nodes.into_iter().map(NodeId).collect(),
        keys,
    })
}
