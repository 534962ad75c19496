//! Which replica of a task may go next, so that as many as possible serve on.
//! Drains and new versions share this rule; it refuses to take two at once.

use std::collections::BTreeSet;

use berth_model::{AllocationId, AllocationState, JobKind, NodeId, NodeState, TaskIndex, eligible};
use berth_state::{AllocationRow, ClusterState, JobRow, TaskRow};

/// The one of `candidates` that may be stopped now: nothing of its task is
/// stopping or in `going`, and it either does not serve anyway, or all the
/// others do.
pub(crate) fn next_to_go<'a>(
    view: &'a ClusterState,
    job: &JobRow,
    task: TaskIndex,
    going: &BTreeSet<AllocationId>,
    candidates: impl Fn(&AllocationRow) -> bool,
) -> Option<&'a AllocationRow> {
    let rows: Vec<&AllocationRow> =
        view.allocations_of_task(job.id, task).map(|row| &**row).collect();
    if rows.iter().any(|row| row.state.stop_intent().is_some() || going.contains(&row.id)) {
        return None;
    }
    let first = rows
        .iter()
        .filter(|row| candidates(row))
        .min_by_key(|row| (is_ready(view, row), row.id))
        .copied()?;
    let others_serve = rows.iter().all(|row| row.id == first.id || is_ready(view, row));
    let costs_nothing = !is_ready(view, first);
    (costs_nothing || (others_serve && !is_one_missing(view, job, task))).then_some(first)
}

/// What a silent node was last heard to have is no proof that it serves still.
fn is_ready(view: &ClusterState, row: &AllocationRow) -> bool {
    let heard = view.nodes().get(&row.node).is_some_and(|node| node.state == NodeState::Ready);
    heard && row.state == AllocationState::Running { ready: true }
}

/// Whether an instance that should live has no attempt now.
fn is_one_missing(view: &ClusterState, job: &JobRow, task: TaskIndex) -> bool {
    let Some(instances) = view.tasks().get(&(job.id, task)) else { return false };
    match job.kind() {
        // One that failed for good is missing too, or a version that cannot run
        // would be brought to the last replica; one that never lived is not, or
        // a larger new version on a full cluster would never come at all.
        JobKind::Batch | JobKind::Service => {
            !instances.failed.is_empty()
                || instances.retries.keys().any(|instance| instances.pending.contains(*instance))
        }
        JobKind::Daemon => is_daemon_missing(view, job, task, instances),
    }
}

/// Whether a node that had the daemon before, and could take it again, is
/// without it. Nodes that never had it do not count: the new version may not
/// fit there at all.
fn is_daemon_missing(
    view: &ClusterState,
    job: &JobRow,
    task: TaskIndex,
    instances: &TaskRow,
) -> bool {
    let Some(spec) = job.spec.tasks.get(usize::from(task.0)) else { return false };
    let lives = |instance: u32| {
        view.allocations_of_task(job.id, task).any(|row| row.id.instance.0 == instance)
    };
    instances.retries.keys().any(|instance| {
        let node = view.nodes().get(&NodeId(u64::from(*instance)));
        let takes_it = node.is_some_and(|node| {
            node.accepts_work()
                && eligible(&node.name, &node.spec, &job.spec.constraints, spec).is_ok()
        });
        takes_it && !lives(*instance)
    })
}
