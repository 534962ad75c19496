//! Emptying nodes: replicas move one at a time per task, batch work may finish
//! until the deadline, daemons go last.

use std::collections::BTreeMap;

use berth_model::{AllocationId, JobId, JobKind, StateMs, StopIntent, TaskIndex};
use berth_state::{AllocationRow, ClusterState, Command, NodeRow, Purpose};

use crate::ALLOCATIONS_IN_COMMAND_MAX;

pub(crate) fn commands(view: &ClusterState, now: StateMs) -> Vec<Command> {
    let mut moving: BTreeMap<(JobId, TaskIndex), u32> = BTreeMap::new();
    let draining: Vec<&NodeRow> = view
        .nodes()
        .values()
        .filter(|node| matches!(node.purpose, Purpose::Draining(_)))
        .map(|node| &**node)
        .collect();
    if draining.is_empty() {
        return Vec::new();
    }
    for row in view.allocations().values().filter(|row| is_moving(row)) {
        *moving.entry((row.id.job, row.id.task)).or_default() += 1;
    }
    let mut commands = Vec::new();
    for node in draining {
        let Purpose::Draining(drain) = node.purpose else { continue };
        let over = drain.deadline.is_some_and(|deadline| deadline <= now);
        let rows: Vec<&AllocationRow> = node
            .live
            .iter()
            .filter_map(|id| view.allocations().get(id))
            .map(|row| &**row)
            .filter(|row| row.state.stop_intent().is_none())
            .collect();
        let only_daemons = rows.iter().all(|row| kind(view, row) == Some(JobKind::Daemon));
        let mut stops: Vec<AllocationId> = Vec::new();
        for row in rows {
            let go = over
                || match kind(view, row) {
                    Some(JobKind::Service) => {
                        let others = moving.entry((row.id.job, row.id.task)).or_default();
                        *others += 1;
                        *others == 1
                    }
                    Some(JobKind::Daemon) => only_daemons,
                    Some(JobKind::Batch) | None => false,
                };
            if go && stops.len() < ALLOCATIONS_IN_COMMAND_MAX {
                stops.push(row.id);
            }
        }
        if !stops.is_empty() {
            commands.push(Command::StopAllocations {
                allocations: stops,
                intent: StopIntent::Drain,
                reason: format!("node {} is being drained", node.name),
            });
        }
    }
    commands
}

/// Being moved, or just moved and not ready yet.
fn is_moving(row: &AllocationRow) -> bool {
    row.state.stop_intent().is_some()
        || row.state != berth_model::AllocationState::Running { ready: true }
}

fn kind(view: &ClusterState, row: &AllocationRow) -> Option<JobKind> {
    view.jobs().get(&row.id.job).map(|job| job.kind())
}
