//! Rows of nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::node::DeviceUse;
use berth_model::{
    AllocationId, CpuMilli, MemoryBytes, NodeId, NodeUse, ShareMilli, SpecDigest, StateMs, WallMs,
};
use berth_proto::log::v1;
use berth_state::{AwayRow, KeptPlace, NodeRow, OrphanRow, ReservationRow};
use bytes::Bytes;

use super::allocation;
use crate::enumeration;
use crate::frozen::values::{
    allocation_to_proto, allocations_to_proto, claim_to_proto, guards_to_proto, purpose_to_proto,
    read_allocation, read_allocations, read_claim, read_guards, read_purpose, read_score,
    score_to_proto,
};
use crate::problem::{Cause, Field, Problems};
use crate::spec::{node_spec_to_proto, read_node};

pub(super) fn to_proto(row: &NodeRow) -> v1::NodeRow {
    v1::NodeRow {
        id: row.id.0,
        name: row.name.to_string(),
        instance_key: Bytes::copy_from_slice(&row.instance_key),
        spec: Some(node_spec_to_proto(&row.spec)),
        state: enumeration::number::<v1::NodeState, _>(row.state),
        purpose: Some(purpose_to_proto(row.purpose)),
        session: row.session,
        generation: row.generation,
        used: Some(use_to_proto(&row.used)),
        live: allocations_to_proto(&row.live),
        since_state_ms: row.since.0,
        blocked_ports: row
            .blocked_ports
            .iter()
            .map(|(port, until)| v1::BlockedPort {
                port: u32::from(*port),
                until_state_ms: until.0,
            })
            .collect(),
        rests_until_state_ms: row.rests_until.0,
        stock_incarnation: row.stock_incarnation,
        orphans: row.orphans.iter().map(orphan_to_proto).collect(),
        cordoned_devices: row.cordoned_devices.iter().cloned().collect(),
        away: row.away.values().map(away_to_proto).collect(),
        reservations: row.reservations.iter().map(reservation_to_proto).collect(),
        guards: guards_to_proto(row.guards),
    }
}

fn use_to_proto(used: &NodeUse) -> v1::NodeUse {
    v1::NodeUse {
        cpu_milli: used.cpu.0,
        memory_bytes: used.memory.0,
        devices: used
            .devices
            .iter()
            .map(|(uuid, device)| v1::DeviceUse {
                uuid: uuid.clone(),
                share_milli: device.share.0,
                memory_bytes: device.memory.0,
                tasks: device.tasks,
            })
            .collect(),
        ports: used.ports.iter().map(|port| u32::from(*port)).collect(),
    }
}

pub(super) fn read(at: Field<'_>, proto: v1::NodeRow, problems: &mut Problems) -> Option<NodeRow> {
    let spec_at = at.named("spec");
    let spec = problems.present(spec_at, proto.spec)?;
    let used = problems.present(at.named("used"), proto.used)?;
    let mut blocked_ports = BTreeMap::new();
    for v1::BlockedPort { port, until_state_ms } in proto.blocked_ports {
        let at = at.named("blocked_ports");
        if blocked_ports.insert(problems.port(at, port)?, StateMs(until_state_ms)).is_some() {
            problems.add(at, Cause::Contradiction("a port is there twice"));
        }
    }
    let live_count = proto.live.len();
    let live: BTreeSet<_> = read_allocations(at.named("live"), proto.live, problems);
    if live.len() != live_count {
        problems.add(at.named("live"), Cause::Contradiction("an allocation is there twice"));
    }
    let mut reservations = Vec::with_capacity(proto.reservations.len());
    for (position, proto) in proto.reservations.into_iter().enumerate() {
        let reservations_at = at.named("reservations");
        reservations.push(read_reservation(reservations_at.item(position), proto, problems)?);
    }
    Some(NodeRow {
        id: NodeId(proto.id),
        name: problems.name(at.named("name"), &proto.name)?,
        instance_key: problems.bytes(at.named("instance_key"), &proto.instance_key)?,
        spec: Arc::new(read_node(spec_at, spec, problems)?),
        state: enumeration::read::<v1::NodeState, _>(at.named("state"), proto.state, problems)?,
        purpose: read_purpose(at.named("purpose"), proto.purpose, problems)?,
        session: proto.session,
        generation: proto.generation,
        used: read_use(at.named("used"), used, problems)?,
        live,
        since: StateMs(proto.since_state_ms),
        blocked_ports,
        rests_until: StateMs(proto.rests_until_state_ms),
        stock_incarnation: proto.stock_incarnation,
        orphans: read_orphans(at.named("orphans"), proto.orphans, problems)?,
        cordoned_devices: proto.cordoned_devices.into_iter().collect(),
        away: read_away(at.named("away"), proto.away, problems)?,
        reservations,
        guards: read_guards(at.named("guards"), proto.guards, problems)?,
    })
}

fn orphan_to_proto((id, row): (&AllocationId, &OrphanRow)) -> v1::Orphan {
    v1::Orphan {
        allocation: Some(allocation_to_proto(*id)),
        claim: Some(claim_to_proto(&row.claim)),
        namespace: row.namespace.clone(),
        job_name: row.job_name.clone(),
        found_wall_ms: row.found_at.0,
        why: row.why.clone(),
        stop: row.stop.clone(),
        spec_digest: row.spec_digest.map(|digest| Bytes::copy_from_slice(&digest.0)),
    }
}

fn read_orphans(
    at: Field<'_>,
    protos: Vec<v1::Orphan>,
    problems: &mut Problems,
) -> Option<BTreeMap<AllocationId, OrphanRow>> {
    let mut orphans = BTreeMap::new();
    for (position, proto) in protos.into_iter().enumerate() {
        let at = at.item(position);
        let id = read_allocation(at.named("allocation"), proto.allocation, problems)?;
        let spec_digest = match proto.spec_digest {
            Some(digest) => Some(SpecDigest(problems.bytes(at.named("spec_digest"), &digest)?)),
            None => None,
        };
        let row = OrphanRow {
            spec_digest,
            claim: read_claim(at.named("claim"), proto.claim, problems)?,
            namespace: proto.namespace,
            job_name: proto.job_name,
            found_at: WallMs(proto.found_wall_ms),
            why: proto.why,
            stop: proto.stop,
        };
        if orphans.insert(id, row).is_some() {
            problems.add(at, Cause::Contradiction("an allocation is there twice"));
        }
    }
    Some(orphans)
}

fn away_to_proto(away: &AwayRow) -> v1::Away {
    v1::Away { row: Some(allocation::to_proto(&away.row)), stop: away.stop.clone() }
}

fn read_away(
    at: Field<'_>,
    protos: Vec<v1::Away>,
    problems: &mut Problems,
) -> Option<BTreeMap<AllocationId, AwayRow>> {
    let mut away = BTreeMap::new();
    for (position, proto) in protos.into_iter().enumerate() {
        let at = at.item(position);
        let row_at = at.named("row");
        let row = problems.present(row_at, proto.row)?;
        let row = allocation::read(row_at, row, problems)?;
        let stop = proto.stop;
        if away.insert(row.id, AwayRow { row: Arc::new(row), stop }).is_some() {
            problems.add(at, Cause::Contradiction("an allocation is there twice"));
        }
    }
    Some(away)
}

fn reservation_to_proto(row: &ReservationRow) -> v1::Reservation {
    let member = |(id, place): (&AllocationId, &KeptPlace)| v1::reservation::Member {
        allocation: Some(allocation_to_proto(*id)),
        claim: Some(claim_to_proto(&place.claim)),
        score: score_to_proto(&place.score),
    };
    v1::Reservation {
        members: row.members.iter().map(member).collect(),
        awaits: allocations_to_proto(&row.awaits),
        held: Some(use_to_proto(&row.held)),
        patient: row.patient,
    }
}

fn read_reservation(
    at: Field<'_>,
    proto: v1::Reservation,
    problems: &mut Problems,
) -> Option<ReservationRow> {
    let mut members = BTreeMap::new();
    for (position, proto) in proto.members.into_iter().enumerate() {
        let members_at = at.named("members");
        let at = members_at.item(position);
        let id = read_allocation(at.named("allocation"), proto.allocation, problems)?;
        let claim = read_claim(at.named("claim"), proto.claim, problems)?;
        let place = KeptPlace { claim, score: read_score(proto.score) };
        if members.insert(id, place).is_some() {
            problems.add(at, Cause::Contradiction("an allocation is there twice"));
        }
    }
    let held_at = at.named("held");
    let held = problems.present(held_at, proto.held)?;
    Some(ReservationRow {
        members,
        awaits: read_allocations(at.named("awaits"), proto.awaits, problems),
        held: read_use(held_at, held, problems)?,
        patient: proto.patient,
    })
}

fn read_use(at: Field<'_>, proto: v1::NodeUse, problems: &mut Problems) -> Option<NodeUse> {
    let mut devices = BTreeMap::new();
    for device in proto.devices {
        let used = DeviceUse {
            share: ShareMilli(device.share_milli),
            memory: MemoryBytes(device.memory_bytes),
            tasks: device.tasks,
        };
        if devices.insert(device.uuid, used).is_some() {
            problems.add(at.named("devices"), Cause::Contradiction("a device is there twice"));
        }
    }
    let mut ports = BTreeSet::new();
    for port in proto.ports {
        if !ports.insert(problems.port(at.named("ports"), port)?) {
            problems.add(at.named("ports"), Cause::Contradiction("a port is there twice"));
        }
    }
    Some(NodeUse {
        cpu: CpuMilli(proto.cpu_milli),
        memory: MemoryBytes(proto.memory_bytes),
        devices,
        ports,
    })
}
