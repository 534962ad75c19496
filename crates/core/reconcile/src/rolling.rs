//! Bringing replicas to the current version, one at a time, and only while the
//! others are ready. A version that does not get on keeps what it has, and takes no more.

use std::collections::BTreeSet;

use berth_model::{AllocationId, StateMs, StopIntent, TaskIndex, TaskSpec};
use berth_state::{AllocationRow, ClusterState, Command, JobRow};

use crate::replicas::next_to_go;

/// `going` is what this tick has given orders about already.
pub(crate) fn commands(
    view: &ClusterState,
    going: &BTreeSet<AllocationId>,
    now: StateMs,
) -> Vec<Command> {
    let has_failed = |job: &JobRow| job.rollout.is_some_and(|rollout| rollout.failed);
    view.jobs()
        .values()
        .filter(|job| job.places() && job.kind().is_named() && job.version > 1 && job.live > 0)
        .filter(|job| !has_failed(job))
        .flat_map(|job| {
            let next = next_of(view, job, going);
            if next.is_empty() { failure(view, job, now).into_iter().collect() } else { next }
        })
        .collect()
}

/// That a version has failed of which no further replica got ready in time, while others run an
/// older one.
fn failure(view: &ClusterState, job: &JobRow, now: StateMs) -> Option<Command> {
    let (rollout, limit) = job.rollout.zip(job.spec.progress_deadline)?;
    // What takes a place begins when the callers of what had it are gone.
    if view.allocations_of(job.id).any(|row| row.draining.is_some()) {
        return None;
    }
    let older = view.allocations_of(job.id).filter(|row| is_outdated(job, row)).count();
    if older == 0 || now < rollout.progressed_at.after(limit) {
        return None;
    }
    let version = job.version;
    let ready = match rollout.ready_max {
        0 => format!("no replica of version {version} got ready"),
        count => format!("only {count} of version {version} got ready, and no further one"),
    };
    let reason = format!(
        "{ready} within {} s; {older} of an older version go on until a new version or a rollback",
        limit.0 / 1000
    );
    Some(Command::FailUpdate { job: job.id, version, reason })
}

fn next_of(view: &ClusterState, job: &JobRow, going: &BTreeSet<AllocationId>) -> Vec<Command> {
    let mut commands = Vec::new();
    for position in 0..job.spec.tasks.len() {
        let task = TaskIndex(u16::try_from(position).unwrap_or(u16::MAX));
        let Some(first) = next_to_go(view, job, task, going, |row| is_outdated(job, row)) else {
            continue;
        };
        commands.push(Command::StopAllocations {
            allocations: vec![first.id],
            intent: StopIntent::Replace,
            reason: format!("version {} takes its place", job.version),
        });
    }
    commands
}

/// Whether it runs something else than the current version asks for. The
/// number of replicas does not matter to one of them.
fn is_outdated(job: &JobRow, row: &AllocationRow) -> bool {
    if row.job_version == job.version {
        return false;
    }
    let position = usize::from(row.id.task.0);
    let old = job.versions.iter().find(|old| old.version == row.job_version);
    let tasks = (old.and_then(|old| old.spec.tasks.get(position)), job.spec.tasks.get(position));
    let (Some(old_task), Some(new_task)) = tasks else { return true };
    // A worker of a version that was not exclusive ends with no lease: only
    // one of the new version keeps the promise.
    let same_terms = old.is_some_and(|old| {
        old.spec.constraints == job.spec.constraints && old.spec.exclusive == job.spec.exclusive
    });
    !same_terms || without_count(old_task) != without_count(new_task)
}

fn without_count(task: &TaskSpec) -> TaskSpec {
    TaskSpec { count: 0, ..task.clone() }
}
