//! Limits in time: of an attempt, and of a whole job.

use berth_model::{AllocationId, StateMs, StopIntent};
use berth_state::{AllocationRow, ClusterState, Command};

use crate::{ALLOCATIONS_IN_COMMAND_MAX, COMMANDS_MAX};

pub(crate) fn commands(view: &ClusterState, now: StateMs) -> Vec<Command> {
    let mut commands: Vec<Command> =
        view.overdue(now).take(COMMANDS_MAX).map(|job| Command::ExpireJob { job }).collect();
    let over: Vec<AllocationId> = view
        .allocations()
        .values()
        .filter(|row| is_over(view, row, now))
        .map(|row| row.id)
        .take(ALLOCATIONS_IN_COMMAND_MAX)
        .collect();
    if !over.is_empty() {
        commands.push(Command::StopAllocations {
            allocations: over,
            intent: StopIntent::TimeOut,
            reason: "its time limit passed".to_owned(),
        });
    }
    commands
}

fn is_over(view: &ClusterState, row: &AllocationRow, now: StateMs) -> bool {
    let (Some(since), None) = (row.running_since, row.state.stop_intent()) else { return false };
    let limit = view
        .jobs()
        .get(&row.id.job)
        .and_then(|job| job.spec.tasks.get(usize::from(row.id.task.0)))
        .and_then(|task| task.time_limit);
    limit.is_some_and(|limit| now.since(since) >= limit)
}
