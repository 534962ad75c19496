//! Bringing replicas to the current version, one at a time, and only while the
//! others are ready.

use berth_model::{AllocationState, StopIntent, TaskIndex, TaskSpec};
use berth_state::{AllocationRow, ClusterState, Command, JobRow};

pub(crate) fn commands(view: &ClusterState) -> Vec<Command> {
    view.jobs()
        .values()
        .filter(|job| job.places() && job.kind().is_named() && job.version > 1 && job.live > 0)
        .flat_map(|job| next_of(view, job))
        .collect()
}

fn next_of(view: &ClusterState, job: &JobRow) -> Vec<Command> {
    let mut commands = Vec::new();
    for position in 0..job.spec.tasks.len() {
        let task = TaskIndex(u16::try_from(position).unwrap_or(u16::MAX));
        let Some(instances) = view.tasks().get(&(job.id, task)) else { continue };
        if !instances.pending.is_empty() {
            continue;
        }
        let rows: Vec<&AllocationRow> =
            view.allocations_of_task(job.id, task).map(|row| &**row).collect();
        let old = rows.iter().filter(|row| is_outdated(job, row));
        // One that is not ready anyway goes first: replacing it costs nothing.
        let Some(first) = old.min_by_key(|row| (is_ready(row), row.id)) else { continue };
        let others_ready = rows.iter().all(|row| row.id == first.id || is_ready(row));
        let stopping = rows.iter().any(|row| row.state.stop_intent().is_some());
        let costs_a_replica = is_ready(first) && !others_ready;
        if stopping || costs_a_replica {
            continue;
        }
        commands.push(Command::StopAllocations {
            allocations: vec![first.id],
            intent: StopIntent::Replace,
            reason: format!("version {} takes its place", job.version),
        });
    }
    commands
}

fn is_ready(row: &AllocationRow) -> bool {
    row.state == AllocationState::Running { ready: true }
}

/// Whether it runs something else than the current version asks for. The
/// number of replicas does not matter to one of them.
pub fn is_outdated(job: &JobRow, row: &AllocationRow) -> bool {
    if row.job_version == job.version {
        return false;
    }
    let position = usize::from(row.id.task.0);
    let old = job.versions.iter().find(|old| old.version == row.job_version);
    let tasks = (old.and_then(|old| old.spec.tasks.get(position)), job.spec.tasks.get(position));
    let (Some(old_task), Some(new_task)) = tasks else { return true };
    let same_place = old.is_some_and(|old| old.spec.constraints == job.spec.constraints);
    !same_place || without_count(old_task) != without_count(new_task)
}

fn without_count(task: &TaskSpec) -> TaskSpec {
    TaskSpec { count: 0, ..task.clone() }
}
