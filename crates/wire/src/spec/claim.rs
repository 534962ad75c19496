//! What an allocation holds of a node's devices and ports, and its seat in a gang.

use berth_model::{DeviceClaim, GangSeat, MemoryBytes, PortClaim, ShareMilli, Violation};
use berth_proto::v1;

use crate::problem::{Cause, Field, Problems};

/// The message for a claim on a device.
pub fn device_claim_to_proto(claim: &DeviceClaim) -> v1::DeviceClaim {
    v1::DeviceClaim {
        uuid: claim.uuid.clone(),
        share_milli: claim.share.0,
        memory_bytes: claim.memory.0,
    }
}

/// The message for a claim on a port.
pub fn port_claim_to_proto(claim: &PortClaim) -> v1::PortClaim {
    v1::PortClaim { name: claim.name.to_string(), port: u32::from(claim.port) }
}

/// The message for a member's seat in its gang.
pub(crate) fn seat_to_proto(seat: &GangSeat) -> v1::GangSeat {
    v1::GangSeat {
        rank: seat.rank,
        world_size: seat.world_size,
        node_rank: seat.node_rank,
        node_count: seat.node_count,
        local_rank: seat.local_rank,
        local_world_size: seat.local_world_size,
        master_address: seat.master_address.clone(),
        master_port: u32::from(seat.master_port),
    }
}

/// `None`, and a problem, where its port is none.
pub(crate) fn read_seat(
    at: Field<'_>,
    proto: v1::GangSeat,
    problems: &mut Problems,
) -> Option<GangSeat> {
    let master_port = problems.port(at.named("master_port"), proto.master_port)?;
    Some(GangSeat {
        rank: proto.rank,
        world_size: proto.world_size,
        node_rank: proto.node_rank,
        node_count: proto.node_count,
        local_rank: proto.local_rank,
        local_world_size: proto.local_world_size,
        master_address: proto.master_address,
        master_port,
    })
}

/// Every message is a claim in form; whether it makes sense is asked at the
/// edge and by `fits`.
pub(crate) fn read_device_claim(proto: v1::DeviceClaim) -> DeviceClaim {
    DeviceClaim {
        uuid: proto.uuid,
        share: ShareMilli(proto.share_milli),
        memory: MemoryBytes(proto.memory_bytes),
    }
}

/// Reads a claim on a device.
///
/// # Errors
/// No uuid, or a share that is not 1 to 1000 thousandths.
pub fn device_claim_from_proto(proto: v1::DeviceClaim) -> Result<DeviceClaim, Vec<Violation>> {
    let mut problems = Problems::default();
    check_device_claim(Field::ROOT, &proto, &mut problems);
    problems.verdict(Some(read_device_claim(proto)))
}

/// Reads a claim on a port.
///
/// # Errors
/// A bad name, or a port above 65,535.
pub fn port_claim_from_proto(proto: v1::PortClaim) -> Result<PortClaim, Vec<Violation>> {
    let mut problems = Problems::default();
    let claim = read_port_claim(Field::ROOT, proto, &mut problems);
    problems.verdict(claim)
}

/// What the edge asks of a claim beyond its form.
pub(crate) fn check_device_claim(at: Field<'_>, proto: &v1::DeviceClaim, problems: &mut Problems) {
    if proto.uuid.is_empty() {
        problems.add(at.named("uuid"), Cause::Missing);
    }
    if !(1..=ShareMilli::WHOLE.0).contains(&proto.share_milli) {
        let found = i128::from(proto.share_milli);
        problems.add(at.named("share_milli"), Cause::OutOfRange { allowed: "1 to 1000", found });
    }
}

pub(super) fn read_port_claim(
    at: Field<'_>,
    proto: v1::PortClaim,
    problems: &mut Problems,
) -> Option<PortClaim> {
    let name = problems.name(at.named("name"), &proto.name);
    let port = problems.port(at.named("port"), proto.port);
    Some(PortClaim { name: name?, port: port? })
}

pub(crate) fn read_port_claims(
    at: Field<'_>,
    protos: Vec<v1::PortClaim>,
    problems: &mut Problems,
) -> Vec<PortClaim> {
    let mut claims = Vec::with_capacity(protos.len());
    for (position, proto) in protos.into_iter().enumerate() {
        claims.extend(read_port_claim(at.item(position), proto, problems));
    }
    claims
}
