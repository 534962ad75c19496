//! The row of the cluster itself, and those of idempotency keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::{
    Attempt, JobId, Name, NodeId, Policy, PolicyDefaults, SpecDigest, StateMs, WallMs,
};
use berth_proto::log::v1;
use berth_proto::v1 as public;
use berth_state::rows::SchedulerRow;
use berth_state::{ClusterRow, KeyRow, RestoreRow, Seat};
use bytes::Bytes;

use crate::enumeration;
use crate::frozen::access::{authority_to_proto, read_authority};
use crate::problem::{Cause, Field, Problems};

pub(super) fn cluster_to_proto(row: &ClusterRow) -> v1::ClusterRow {
    let policy = enumeration::number::<public::Policy, Policy>;
    v1::ClusterRow {
        id: Bytes::copy_from_slice(&row.id),
        incarnation: row.incarnation,
        cluster_version: row.cluster_version,
        job_counter: row.job_counter,
        node_counter: row.node_counter,
        state_ms: row.state_ms.0,
        wall_ms: row.wall_ms.0,
        schedulers: row
            .schedulers
            .iter()
            .map(|(id, scheduler)| v1::SchedulerRow {
                id: *id,
                instance_key: Bytes::copy_from_slice(&scheduler.instance_key),
                address: scheduler.address.clone(),
                learner: scheduler.seat == Some(Seat::Learner),
                removed: scheduler.seat.is_none(),
            })
            .collect(),
        restore: row.restore.as_ref().map(restore_to_proto),
        authority: row.authority.as_deref().map(authority_to_proto),
        fences: row
            .fences
            .iter()
            .map(|(uuid, at)| v1::FenceRow { uuid: uuid.clone(), state_ms: at.0 })
            .collect(),
        policy: row.policies.cluster.map(policy),
        pool_policies: row
            .policies
            .pools
            .iter()
            .map(|(pool, of)| v1::PoolPolicyRow { pool: pool.to_string(), policy: policy(*of) })
            .collect(),
    }
}

fn restore_to_proto(row: &RestoreRow) -> v1::RestoreRow {
    v1::RestoreRow {
        id: Bytes::copy_from_slice(&row.id),
        awaited: row.awaited.iter().map(|node| node.0).collect(),
        place_from_state_ms: row.place_from.0,
        await_until_state_ms: row.await_until.0,
        floor_jobs: row.floor_jobs.0,
        attempt_floor: row.attempt_floor.0,
    }
}

fn read_restore(
    at: Field<'_>,
    proto: v1::RestoreRow,
    problems: &mut Problems,
) -> Option<RestoreRow> {
    let count = proto.awaited.len();
    let awaited: BTreeSet<NodeId> = proto.awaited.into_iter().map(NodeId).collect();
    if awaited.len() != count {
        problems.add(at.named("awaited"), Cause::Contradiction("a node is there twice"));
    }
    Some(RestoreRow {
        id: problems.bytes(at.named("id"), &proto.id)?,
        awaited,
        place_from: StateMs(proto.place_from_state_ms),
        await_until: StateMs(proto.await_until_state_ms),
        floor_jobs: JobId(proto.floor_jobs),
        attempt_floor: Attempt(proto.attempt_floor),
    })
}

fn read_policies(
    at: Field<'_>,
    cluster: Option<i32>,
    rows: Vec<v1::PoolPolicyRow>,
    problems: &mut Problems,
) -> Option<PolicyDefaults> {
    let at_policy = at.named("policy");
    let cluster = enumeration::read_optional::<public::Policy, _>(at_policy, cluster, problems)?;
    let mut pools = BTreeMap::new();
    let rows_at = at.named("pool_policies");
    for (position, v1::PoolPolicyRow { pool, policy }) in rows.into_iter().enumerate() {
        let at = rows_at.item(position);
        let pool = problems.name(at.named("pool"), &pool)?;
        let policy = enumeration::read::<public::Policy, _>(at.named("policy"), policy, problems)?;
        if pools.insert(pool, policy).is_some() {
            problems.add(at, Cause::Contradiction("a pool is there twice"));
        }
    }
    Some(PolicyDefaults { cluster, pools })
}

pub(super) fn read_cluster(
    at: Field<'_>,
    proto: v1::ClusterRow,
    problems: &mut Problems,
) -> Option<ClusterRow> {
    let mut schedulers = BTreeMap::new();
    for (position, scheduler) in proto.schedulers.into_iter().enumerate() {
        let schedulers_at = at.named("schedulers");
        let at = schedulers_at.item(position);
        let instance_key = problems.bytes(at.named("instance_key"), &scheduler.instance_key)?;
        let seat = match (scheduler.removed, scheduler.learner) {
            (false, false) => Some(Seat::Voter),
            (false, true) => Some(Seat::Learner),
            (true, false) => None,
            (true, true) => {
                problems.add(at, Cause::Contradiction("removed, and a learner"));
                None
            }
        };
        let row = SchedulerRow { instance_key, address: scheduler.address, seat };
        if schedulers.insert(scheduler.id, row).is_some() {
            problems.add(at, Cause::Contradiction("an id is there twice"));
        }
    }
    let count = proto.fences.len();
    let fences: BTreeMap<String, StateMs> =
        proto.fences.into_iter().map(|row| (row.uuid, StateMs(row.state_ms))).collect();
    if fences.len() != count {
        problems.add(at.named("fences"), Cause::Contradiction("a GPU is there twice"));
    }
    let restore = match proto.restore {
        Some(restore) => Some(read_restore(at.named("restore"), restore, problems)?),
        None => None,
    };
    Some(ClusterRow {
        id: problems.bytes(at.named("id"), &proto.id)?,
        incarnation: proto.incarnation,
        cluster_version: proto.cluster_version,
        job_counter: proto.job_counter,
        node_counter: proto.node_counter,
        state_ms: StateMs(proto.state_ms),
        wall_ms: WallMs(proto.wall_ms),
        schedulers,
        restore,
        authority: proto.authority.as_ref().map(read_authority).map(Arc::new),
        fences,
        policies: read_policies(at, proto.policy, proto.pool_policies, problems)?,
    })
}

pub(super) fn key_to_proto(namespace: &Name, key: &str, row: &KeyRow) -> v1::KeyRow {
    v1::KeyRow {
        namespace: namespace.to_string(),
        key: key.to_owned(),
        job: row.job.0,
        digest: Bytes::copy_from_slice(&row.digest.0),
        version: row.version,
        forget_state_ms: row.forget_at.map(|at| at.0),
    }
}

pub(super) fn read_key(
    at: Field<'_>,
    proto: v1::KeyRow,
    problems: &mut Problems,
) -> Option<(Name, String, KeyRow)> {
    let namespace = problems.name(at.named("namespace"), &proto.namespace)?;
    let row = KeyRow {
        job: JobId(proto.job),
        digest: SpecDigest(problems.bytes(at.named("digest"), &proto.digest)?),
        version: proto.version,
        forget_at: proto.forget_state_ms.map(StateMs),
    };
    Some((namespace, proto.key, row))
}
