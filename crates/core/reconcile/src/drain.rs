//! Emptying nodes: replicas move one at a time per task, batch work may finish
//! until the deadline, daemons go when all else is gone.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, JobId, JobKind, NodeId, StateMs, StopIntent, TaskIndex};
use berth_state::{AllocationRow, ClusterState, Command, NodeRow, Purpose};

use crate::ALLOCATIONS_IN_COMMAND_MAX;
use crate::replicas::next_to_go;

/// `going` is what this tick has given orders about already; a second order
/// would change why it ends.
pub(crate) fn commands(
    view: &ClusterState,
    going: &BTreeSet<AllocationId>,
    now: StateMs,
) -> Vec<Command> {
    let mut stops: BTreeMap<NodeId, Vec<AllocationId>> = BTreeMap::new();
    let mut replicas: BTreeMap<(JobId, TaskIndex), BTreeSet<AllocationId>> = BTreeMap::new();
    let mut gone = going.clone();
    for node in view.nodes().values() {
        let Purpose::Draining(drain) = node.purpose else { continue };
        let rows = rows_of(view, node, going);
        let stops = stops.entry(node.id).or_default();
        if drain.deadline.is_some_and(|deadline| deadline <= now) {
            stops.extend(rows.iter().map(|row| row.id));
            gone.extend(rows.iter().map(|row| row.id));
            continue;
        }
        let only_daemons = node.live.iter().all(|id| kind(view, *id) == Some(JobKind::Daemon));
        for row in rows {
            match kind(view, row.id) {
                Some(JobKind::Service) => {
                    replicas.entry((row.id.job, row.id.task)).or_default().insert(row.id);
                }
                Some(JobKind::Daemon) if only_daemons => stops.push(row.id),
                Some(JobKind::Daemon | JobKind::Batch) | None => {}
            }
        }
    }
    for ((job, task), here) in replicas {
        let Some(job) = view.jobs().get(&job) else { continue };
        if let Some(row) = next_to_go(view, job, task, &gone, |row| here.contains(&row.id)) {
            stops.entry(row.node).or_default().push(row.id);
        }
    }
    stops.into_iter().filter_map(|(node, stops)| order(view, node, stops)).collect()
}

fn rows_of<'a>(
    view: &'a ClusterState,
    node: &NodeRow,
    going: &BTreeSet<AllocationId>,
) -> Vec<&'a AllocationRow> {
    node.live
        .iter()
        .filter_map(|id| view.allocations().get(id))
        .map(|row| &**row)
        .filter(|row| row.state.stop_intent().is_none() && !going.contains(&row.id))
        .collect()
}

fn order(view: &ClusterState, node: NodeId, mut stops: Vec<AllocationId>) -> Option<Command> {
    stops.truncate(ALLOCATIONS_IN_COMMAND_MAX);
    let name = &view.nodes().get(&node)?.name;
    (!stops.is_empty()).then(|| Command::StopAllocations {
        allocations: stops,
        intent: StopIntent::Drain,
        reason: format!("node {name} is being drained"),
    })
}

fn kind(view: &ClusterState, id: AllocationId) -> Option<JobKind> {
    view.jobs().get(&id.job).map(|job| job.kind())
}
