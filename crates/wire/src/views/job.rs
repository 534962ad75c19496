//! Jobs with the progress of their tasks.

use berth_model::{AllocationState, JobKind, TaskIndex, TaskSpec};
use berth_proto::v1;
use berth_state::{ClusterState, FailureDetail, JobRow, TaskRow};

use super::node_name;
use crate::enumeration;
use crate::spec::job_spec_to_proto;

/// Failures shown of one job, the newest of each task: at 5 KiB each they stay
/// well below the 4 MiB that a gRPC message may have.
pub const FAILURES_SHOWN_MAX: usize = 100;

/// A job in full, but for its specification. Costs a pass over its live
/// allocations.
pub fn job(state: &ClusterState, row: &JobRow) -> v1::Job {
    let of_each_task = (FAILURES_SHOWN_MAX / row.spec.tasks.len().max(1)).max(1);
    shown(state, row, of_each_task)
}

/// A job as one of many: without the details of failures.
pub fn listed_job(state: &ClusterState, row: &JobRow) -> v1::Job {
    shown(state, row, 0)
}

fn shown(state: &ClusterState, row: &JobRow, failures_max: usize) -> v1::Job {
    let task = |(index, task): (u16, &TaskSpec)| {
        let mut status = progress(state, row, TaskIndex(index), task);
        if let Some(task) = state.tasks().get(&(row.id, TaskIndex(index))) {
            let older = task.failures.len().saturating_sub(failures_max);
            let newest = task.failures.iter().skip(older);
            status.failures = newest.map(|detail| failure(state, detail)).collect();
        }
        status
    };
    v1::Job {
        id: row.id.0,
        name: row.name().to_string(),
        namespace: row.namespace().to_string(),
        kind: enumeration::number::<v1::JobKind, _>(row.kind()),
        state: row.state().name().to_owned(),
        reason: row.reason.clone(),
        version: row.version,
        priority: u32::from(row.spec.priority),
        submitted_at_ms: row.submitted_at.0,
        started_at_ms: row.started_at.map(|at| at.0),
        finished_at_ms: row.finished_at.map(|at| at.0),
        tasks: (0..).zip(&row.spec.tasks).map(task).collect(),
        held: row.held,
        key: row.key.clone().unwrap_or_default(),
        spec: None,
        stale_ms: None,
    }
}

fn progress(
    state: &ClusterState,
    job: &JobRow,
    index: TaskIndex,
    task: &TaskSpec,
) -> v1::TaskStatus {
    let none = TaskRow::default();
    let row = state.tasks().get(&(job.id, index)).map_or(&none, |row| &**row);
    let (mut running, mut ready) = (0, 0);
    for allocation in state.allocations_of_task(job.id, index) {
        match allocation.state {
            AllocationState::Running { ready: is_ready } => {
                running += 1;
                ready += u64::from(is_ready);
            }
            AllocationState::Planned
            | AllocationState::Starting(_)
            | AllocationState::Stopping(_)
            | AllocationState::Unkillable(_) => {}
        }
    }
    let pending = row.pending.len();
    let live = u64::from(row.live);
    v1::TaskStatus {
        name: task.name.to_string(),
        count: match job.kind() {
            JobKind::Batch | JobKind::Service => task.count,
            // One on every matching node: as many as there are.
            JobKind::Daemon => u32::try_from(pending + live).unwrap_or(u32::MAX),
        },
        pending,
        running,
        live,
        succeeded: row.succeeded.len(),
        failed: row.failed.len(),
        cancelled: row.cancelled.len(),
        timed_out: row.timed_out.len(),
        lost: row.lost.len(),
        ready,
        failures: Vec::new(),
    }
}

fn failure(state: &ClusterState, detail: &FailureDetail) -> v1::Failure {
    v1::Failure {
        allocation_id: detail.allocation.to_string(),
        node: node_name(state, detail.node),
        reason: detail.reason.clone(),
        exit_code: detail.exit_code,
        signal: detail.signal,
        stderr_tail: detail.stderr_tail.clone(),
        finished_at_ms: detail.finished_at.0,
    }
}

/// The versions of a job that are kept, oldest first, with their
/// specifications.
pub fn versions(row: &JobRow) -> Vec<v1::JobVersion> {
    let earlier = row.versions.iter().map(|version| v1::JobVersion {
        version: version.version,
        submitted_at_ms: version.submitted_at.0,
        current: false,
        spec: Some(job_spec_to_proto(&version.spec)),
    });
    let current = v1::JobVersion {
        version: row.version,
        submitted_at_ms: row.submitted_at.0,
        current: true,
        spec: Some(job_spec_to_proto(&row.spec)),
    };
    earlier.chain([current]).collect()
}
