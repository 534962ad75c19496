//! A namespace: what is set for it, and what it uses.

use berth_model::{Amounts, Name, Resource};
use berth_proto::v1;
use berth_state::ClusterState;

use crate::spec::namespace_spec_to_proto;

/// A namespace, also one for which nothing is set; `capacity` is that of the cluster. Costs
/// O(reservations).
pub fn namespace(state: &ClusterState, capacity: Amounts, name: &Name) -> v1::Namespace {
    let used = state.quota_use(name);
    let milli =
        |held: Amounts| u32::try_from(held.dominant_ppm(capacity) / 1000).unwrap_or(u32::MAX);
    let (now, lately) = (milli(used), milli(state.average_use(name).amounts()));
    let used = v1::QuotaUse {
        gpu_milli: used.of(Resource::Gpus),
        gpu_memory_bytes: used.of(Resource::GpuMemory),
        cpu_milli: used.of(Resource::Cpu),
        memory_bytes: used.of(Resource::Memory),
        running_tasks: used.of(Resource::RunningTasks),
        queued_jobs: used.of(Resource::QueuedJobs),
    };
    let unset = || v1::NamespaceSpec { name: name.to_string(), ..v1::NamespaceSpec::default() };
    let row = state.namespace(name);
    v1::Namespace {
        spec: Some(row.map_or_else(unset, |row| namespace_spec_to_proto(&row.spec))),
        version: row.map_or(0, |row| row.version),
        changed_at_ms: row.map(|row| row.changed_at.0),
        used: Some(used),
        stale_ms: None,
        share_now_milli: now,
        share_lately_milli: lately,
    }
}
