//! What a plan proposes: placements, and places that are kept.

use berth_model::{AllocationId, NodeId};
use berth_proto::log::v1;
use berth_proto::log::v1::command::Command as Kind;
use berth_state::{Command, Placement, Reservation};

use crate::frozen::packed::{pack, unpack};
use crate::frozen::values::{
    allocation_to_proto, allocations_to_proto, read_allocation, read_allocations, read_score,
    score_to_proto,
};
use crate::problem::{Cause, Field, Problems};
use crate::spec::{
    device_claim_to_proto, port_claim_to_proto, read_device_claim, read_port_claims,
};

pub(super) fn place_to_proto(placements: &[Placement]) -> v1::Place {
    v1::Place { placements: placements.iter().map(placement_to_proto).collect() }
}

pub(super) fn reserve_to_proto(reservations: &[Reservation]) -> v1::Reserve {
    v1::Reserve { reservations: reservations.iter().map(reservation_to_proto).collect() }
}

pub(crate) fn reservation_to_proto(reservation: &Reservation) -> v1::reserve::Reservation {
    v1::reserve::Reservation {
        placement: Some(placement_to_proto(&reservation.placement)),
        awaits: allocations_to_proto(&reservation.awaits),
        patient: reservation.patient,
    }
}

pub(super) fn unreserve_to_proto(allocations: &[AllocationId], reason: &str) -> Kind {
    let allocations = allocations_to_proto(allocations);
    Kind::Unreserve(v1::Unreserve { allocations, reason: reason.to_owned() })
}

pub(crate) fn placement_to_proto(placement: &Placement) -> v1::Placement {
    let Placement { node, devices, ports, score, .. } = placement;
    let packed = pack(devices);
    let plain = if packed.is_some() { &[][..] } else { devices };
    v1::Placement {
        allocation: Some(allocation_to_proto(placement.allocation())),
        node: node.0,
        packed,
        devices: plain.iter().map(device_claim_to_proto).collect(),
        ports: ports.iter().map(port_claim_to_proto).collect(),
        score: score_to_proto(score),
    }
}

pub(super) fn read_place(
    at: Field<'_>,
    proto: v1::Place,
    problems: &mut Problems,
) -> Option<Command> {
    let mut placements = Vec::with_capacity(proto.placements.len());
    for (position, proto) in proto.placements.into_iter().enumerate() {
        let placements_at = at.named("placements");
        placements.push(read_placement(placements_at.item(position), proto, problems)?);
    }
    Some(Command::Place { placements })
}

pub(super) fn read_reserve(
    at: Field<'_>,
    proto: v1::Reserve,
    problems: &mut Problems,
) -> Option<Command> {
    let mut reservations = Vec::with_capacity(proto.reservations.len());
    for (position, proto) in proto.reservations.into_iter().enumerate() {
        let reservations_at = at.named("reservations");
        reservations.push(read_reservation(reservations_at.item(position), proto, problems)?);
    }
    Some(Command::Reserve { reservations })
}

pub(crate) fn read_reservation(
    at: Field<'_>,
    proto: v1::reserve::Reservation,
    problems: &mut Problems,
) -> Option<Reservation> {
    let placement_at = at.named("placement");
    let placement = problems.present(placement_at, proto.placement)?;
    Some(Reservation {
        placement: read_placement(placement_at, placement, problems)?,
        awaits: read_allocations(at.named("awaits"), proto.awaits, problems),
        patient: proto.patient,
    })
}

pub(super) fn read_unreserve(
    at: Field<'_>,
    proto: v1::Unreserve,
    problems: &mut Problems,
) -> Command {
    let allocations = read_allocations(at.named("allocations"), proto.allocations, problems);
    Command::Unreserve { allocations, reason: proto.reason }
}

pub(crate) fn read_placement(
    at: Field<'_>,
    proto: v1::Placement,
    problems: &mut Problems,
) -> Option<Placement> {
    let id = read_allocation(at.named("allocation"), proto.allocation, problems)?;
    let devices = match proto.packed {
        None => proto.devices.into_iter().map(read_device_claim).collect(),
        Some(packed) if proto.devices.is_empty() => unpack(at.named("packed"), &packed, problems)?,
        Some(_) => {
            let cause = Cause::Contradiction("is beside devices that are not");
            problems.add(at.named("packed"), cause);
            return None;
        }
    };
    Some(Placement {
        job: id.job,
        task: id.task,
        instance: id.instance,
        attempt: id.attempt,
        node: NodeId(proto.node),
        devices,
        ports: read_port_claims(at.named("ports"), proto.ports, problems),
        score: read_score(proto.score),
    })
}
