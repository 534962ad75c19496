//! Places that are kept for nothing: for what waits no longer, or where what ends for it does not.

use berth_model::{AllocationId, AllocationState};
use berth_state::{ClusterState, Command, ReservationRow};

use crate::ALLOCATIONS_IN_COMMAND_MAX;

pub(crate) fn commands(view: &ClusterState) -> Vec<Command> {
    let mut idle = Vec::new();
    let mut stuck = Vec::new();
    for (id, _, place) in view.reservations() {
        if !waits(view, id) {
            idle.push(id);
        } else if is_stuck(view, place) {
            stuck.push(id);
        }
    }
    let reasons = [
        (idle, "it waits for a place no longer"),
        (stuck, "what was to end for it does not end, though it was killed"),
    ];
    let to_drop = reasons.into_iter().filter(|(ids, _)| !ids.is_empty());
    to_drop
        .map(|(mut allocations, reason)| {
            allocations.truncate(ALLOCATIONS_IN_COMMAND_MAX);
            Command::Unreserve { allocations, reason: reason.to_owned() }
        })
        .collect()
}

/// Whether the attempt is the next of an instance that may be placed.
fn waits(view: &ClusterState, id: AllocationId) -> bool {
    let job = view.jobs().get(&id.job).filter(|job| job.places());
    let Some((job, row)) = job.zip(view.tasks().get(&(id.job, id.task))) else { return false };
    let instance = id.instance.0;
    row.pending.contains(instance) && view.next_attempt(job.id, row, instance) == id.attempt
}

fn is_stuck(view: &ClusterState, place: &ReservationRow) -> bool {
    let mut awaited = place.awaits.iter().filter_map(|id| view.allocations().get(id));
    awaited.any(|row| matches!(row.state, AllocationState::Unkillable(_)))
}
