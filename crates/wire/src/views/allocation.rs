//! Live attempts, and, by their last rows, ended ones.

use berth_model::{AllocationState, StartPhase};
use berth_proto::v1;
use berth_state::{AllocationRow, ClusterState};

use super::node_name;
use crate::spec::{device_claim_to_proto, port_claim_to_proto, seat_to_proto};

/// An allocation. Its job and its node may be forgotten already.
pub fn allocation(state: &ClusterState, row: &AllocationRow) -> v1::Allocation {
    let ready = match row.state {
        AllocationState::Running { ready } => ready,
        AllocationState::Planned
        | AllocationState::Starting(_)
        | AllocationState::Stopping(_)
        | AllocationState::Unkillable(_) => false,
    };
    v1::Allocation {
        id: row.id.to_string(),
        job_id: row.id.job.0,
        task: task_name(state, row),
        index: row.id.instance.0,
        attempt: row.id.attempt.0,
        node: node_name(state, row.node),
        state: state_name(row).to_owned(),
        reason: row.reason.clone(),
        devices: row.claim.devices.iter().map(device_claim_to_proto).collect(),
        ports: row.claim.ports.iter().map(port_claim_to_proto).collect(),
        started_at_ms: row.started_at.map(|at| at.0),
        finished_at_ms: None,
        exit_code: None,
        signal: None,
        ready,
        job_version: row.job_version,
        device_indices: device_indices(state, row).unwrap_or_default(),
        phase: phase(row.state).to_owned(),
        isolation: isolation(state, row).to_owned(),
        seat: row.seat.as_ref().map(seat_to_proto),
    }
}

/// One that ends what it was asked before it is stopped drains, whatever for.
fn state_name(row: &AllocationRow) -> &'static str {
    match row.draining {
        Some(_) => "draining",
        None => row.state.name(),
    }
}

/// Of GPUs that are shared only the leader knows whether their memory is watched.
pub const TIME_SLICED: &str = "time-sliced";

/// What keeps others on the same GPUs from it.
fn isolation(state: &ClusterState, row: &AllocationRow) -> &'static str {
    let Some(claim) = row.claim.devices.first() else { return "" };
    let node = state.nodes().get(&row.node);
    let device = node.and_then(|node| node.spec.device(&claim.uuid));
    if device.is_some_and(|device| device.slice.is_some()) {
        "MIG: hardware"
    } else if claim.share.is_part() {
        TIME_SLICED
    } else {
        "whole GPU"
    }
}

/// What a starting allocation waits for, else nothing.
pub(super) fn phase(state: AllocationState) -> &'static str {
    match state {
        AllocationState::Starting(StartPhase::Fetch) => "fetch",
        AllocationState::Starting(StartPhase::Launch) => "launch",
        AllocationState::Starting(StartPhase::WarmUp) => "warm-up",
        AllocationState::Planned
        | AllocationState::Running { .. }
        | AllocationState::Stopping(_)
        | AllocationState::Unkillable(_) => "",
    }
}

/// The name in the version that it runs; the position once that is forgotten.
fn task_name(state: &ClusterState, row: &AllocationRow) -> String {
    let job = state.jobs().get(&row.id.job);
    let spec = job.and_then(|job| {
        if job.version == row.job_version {
            return Some(&job.spec);
        }
        let earlier = job.versions.iter().find(|version| version.version == row.job_version);
        earlier.map(|version| &version.spec)
    });
    let task = spec.and_then(|spec| spec.tasks.get(usize::from(row.id.task.0)));
    task.map_or_else(|| row.id.task.0.to_string(), |task| task.name.to_string())
}

fn device_indices(state: &ClusterState, row: &AllocationRow) -> Option<Vec<u32>> {
    let node = state.nodes().get(&row.node)?;
    let index = |uuid: &str| node.spec.device(uuid).map(|device| device.index);
    row.claim.devices.iter().map(|claim| index(&claim.uuid)).collect()
}
