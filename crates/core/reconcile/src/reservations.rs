//! Places that are kept for nothing: for what waits no longer, or where what ends for it does not.

use berth_model::fits::takes_work;
use berth_model::{AllocationId, AllocationState, DeviceClaim};
use berth_state::{ClusterState, Command, NodeRow, ReservationRow};

use crate::ALLOCATIONS_IN_COMMAND_MAX;

pub(crate) fn commands(view: &ClusterState) -> Vec<Command> {
    let mut idle = Vec::new();
    let mut stuck = Vec::new();
    let mut lost = Vec::new();
    for (id, node, reservation) in view.reservations() {
        if !waits(view, id) && !moves(view, reservation) {
            idle.push(id);
        } else if is_stuck(view, reservation) {
            stuck.push(id);
        } else if view.nodes().get(&node).is_some_and(|row| lacks_device(row, reservation, id)) {
            lost.push(id);
        }
    }
    let reasons = [
        (idle, "it waits for a place no longer"),
        (stuck, "what was to end for it does not end, though it was killed"),
        (lost, "a device of the place takes nothing new any more"),
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
    // No gang begins beside a member of an earlier one.
    if view.is_gang(id.job, id.task) && view.has_orphan_of_task(id.job, id.task) {
        return false;
    }
    row.pending.contains(instance) && view.next_attempt(job.id, row, instance) == id.attempt
}

/// Whether it is the next attempt of one that ends elsewhere.
fn moves(view: &ClusterState, reservation: &ReservationRow) -> bool {
    let is_live = |id: &AllocationId| view.allocations().get(id).is_some();
    reservation.is_move() && reservation.awaits.iter().all(is_live)
}

fn lacks_device(node: &NodeRow, reservation: &ReservationRow, id: AllocationId) -> bool {
    let Some(place) = reservation.members.get(&id) else { return false };
    let devices = &place.claim.devices;
    let is_well = |claim: &DeviceClaim| {
        let device = node.spec.device(&claim.uuid);
        device.is_some_and(|device| takes_work(node.capacity(&node.used), device, devices.len()))
    };
    !devices.iter().all(is_well)
}

fn is_stuck(view: &ClusterState, reservation: &ReservationRow) -> bool {
    let mut awaited = reservation.awaits.iter().filter_map(|id| view.allocations().get(id));
    awaited.any(|row| matches!(row.state, AllocationState::Unkillable(_)))
}
