//! Bringing replicas to the current version, one at a time, and only while the
//! others are ready. A version that does not get on has failed.

use std::collections::BTreeSet;

use berth_model::{AllocationId, AllocationState, StateMs, StopIntent, TaskIndex};
use berth_state::{ClusterState, Command, JobRow};

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
        .filter(|job| job.places() && job.kind().is_named() && job.version > 1)
        .filter(|job| !has_failed(job))
        .flat_map(|job| {
            if is_one_young(view, job, now) {
                return Vec::new();
            }
            let next = next_of(view, job, going);
            if next.is_empty() { failure(view, job, now).into_iter().collect() } else { next }
        })
        .collect()
}

/// Whether a replica of the current version serves that has not run for as long as it is to, before
/// the next one goes.
fn is_one_young(view: &ClusterState, job: &JobRow, now: StateMs) -> bool {
    let span = job.spec.update.min_ready;
    view.allocations_of(job.id).any(|row| {
        let is_new = row.state == AllocationState::Running { ready: true } && !job.is_outdated(row);
        is_new && row.running_since.is_some_and(|since| now < since.after(span))
    })
}

/// That a version has failed of which no further replica got ready in time, while others run an
/// older one, or of which none ever did.
fn failure(view: &ClusterState, job: &JobRow, now: StateMs) -> Option<Command> {
    let (rollout, limit) = job.rollout.zip(job.spec.update.progress_deadline)?;
    // What takes a place begins when the callers of what had it are gone.
    if view.allocations_of(job.id).any(|row| row.draining.is_some()) {
        return None;
    }
    if now < rollout.progressed_at.after(limit) {
        return None;
    }
    let older = view.allocations_of(job.id).filter(|row| job.is_outdated(row)).count();
    if older == 0 && !(rollout.ready_max == 0 && is_any_wanted(view, job) && job.way_back().is_ok())
    {
        return None;
    }
    let version = job.version;
    let ready = match rollout.ready_max {
        0 => format!("no replica of version {version} got ready"),
        count => format!("only {count} of version {version} got ready, and no further one"),
    };
    let seconds = limit.0 / 1000;
    let reason = match older {
        0 => format!("{ready} within {seconds} s"),
        count => format!("{ready} within {seconds} s, while {count} run an older one"),
    };
    Some(Command::FailUpdate { job: job.id, version, reason })
}

/// Of a service that is scaled to zero nothing is to get ready.
fn is_any_wanted(view: &ClusterState, job: &JobRow) -> bool {
    let waits = |position: usize| {
        let task = TaskIndex(u16::try_from(position).unwrap_or(u16::MAX));
        view.tasks().get(&(job.id, task)).is_some_and(|row| !row.pending.is_empty())
    };
    job.live > 0 || (0..job.spec.tasks.len()).any(waits)
}

fn next_of(view: &ClusterState, job: &JobRow, going: &BTreeSet<AllocationId>) -> Vec<Command> {
    let mut commands = Vec::new();
    for position in 0..job.spec.tasks.len() {
        let task = TaskIndex(u16::try_from(position).unwrap_or(u16::MAX));
        let Some(first) = next_to_go(view, job, task, going, |row| job.is_outdated(row)) else {
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
