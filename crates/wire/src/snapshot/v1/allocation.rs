//! Rows of live attempts.

use berth_model::{
    AllocationState, Claim, CpuMilli, MemoryBytes, NodeId, SpecDigest, StateMs, WallMs,
};
use berth_proto::log::v1;
use berth_proto::log::v1::allocation_state::{Planned, Running, State};
use berth_state::{AllocationRow, Draining};
use bytes::Bytes;

use crate::enumeration;
use crate::frozen::values::{allocation_to_proto, read_allocation, read_score, score_to_proto};
use crate::problem::{Field, Problems};
use crate::spec::{
    device_claim_to_proto, port_claim_to_proto, read_device_claim, read_port_claims, read_seat,
    seat_to_proto,
};

pub(super) fn to_proto(row: &AllocationRow) -> v1::AllocationRow {
    v1::AllocationRow {
        id: Some(allocation_to_proto(row.id)),
        node: row.node.0,
        job_version: row.job_version,
        spec_digest: Bytes::copy_from_slice(&row.spec_digest.0),
        cpu_milli: row.claim.cpu.0,
        memory_bytes: row.claim.memory.0,
        devices: row.claim.devices.iter().map(device_claim_to_proto).collect(),
        ports: row.claim.ports.iter().map(port_claim_to_proto).collect(),
        state: Some(state_to_proto(row.state)),
        reason: row.reason.clone(),
        planned_state_ms: row.planned_at.0,
        running_since_state_ms: row.running_since.map(|at| at.0),
        started_wall_ms: row.started_at.map(|at| at.0),
        score: score_to_proto(&row.score),
        seat: row.seat.as_ref().map(seat_to_proto),
        draining: row
            .draining
            .map(|Draining { by, since_index }| v1::Draining { by_state_ms: by.0, since_index }),
    }
}

fn state_to_proto(state: AllocationState) -> v1::AllocationState {
    let state = match state {
        AllocationState::Planned => State::Planned(Planned {}),
        AllocationState::Starting(phase) => {
            State::Starting(enumeration::number::<v1::StartPhase, _>(phase))
        }
        AllocationState::Running { ready } => State::Running(Running { ready }),
        AllocationState::Stopping(intent) => {
            State::Stopping(enumeration::number::<v1::StopIntent, _>(intent))
        }
        AllocationState::Unkillable(intent) => {
            State::Unkillable(enumeration::number::<v1::StopIntent, _>(intent))
        }
    };
    v1::AllocationState { state: Some(state) }
}

pub(super) fn read(
    at: Field<'_>,
    proto: v1::AllocationRow,
    problems: &mut Problems,
) -> Option<AllocationRow> {
    let seat = match proto.seat {
        None => None,
        Some(seat) => Some(read_seat(at.named("seat"), seat, problems)?),
    };
    Some(AllocationRow {
        id: read_allocation(at.named("id"), proto.id, problems)?,
        node: NodeId(proto.node),
        job_version: proto.job_version,
        spec_digest: SpecDigest(problems.bytes(at.named("spec_digest"), &proto.spec_digest)?),
        claim: Claim {
            cpu: CpuMilli(proto.cpu_milli),
            memory: MemoryBytes(proto.memory_bytes),
            devices: proto.devices.into_iter().map(read_device_claim).collect(),
            ports: read_port_claims(at.named("ports"), proto.ports, problems),
        },
        state: read_state(at.named("state"), proto.state, problems)?,
        reason: proto.reason,
        planned_at: StateMs(proto.planned_state_ms),
        running_since: proto.running_since_state_ms.map(StateMs),
        started_at: proto.started_wall_ms.map(WallMs),
        score: read_score(proto.score),
        seat,
        draining: proto.draining.map(|v1::Draining { by_state_ms, since_index }| Draining {
            by: StateMs(by_state_ms),
            since_index,
        }),
    })
}

fn read_state(
    at: Field<'_>,
    proto: Option<v1::AllocationState>,
    problems: &mut Problems,
) -> Option<AllocationState> {
    let state = proto.and_then(|state| state.state);
    Some(match problems.present(at, state)? {
        State::Planned(Planned {}) => AllocationState::Planned,
        State::Starting(phase) => AllocationState::Starting(
            enumeration::read::<v1::StartPhase, _>(at.named("starting"), phase, problems)?,
        ),
        State::Running(Running { ready }) => AllocationState::Running { ready },
        State::Stopping(intent) => AllocationState::Stopping(
            enumeration::read::<v1::StopIntent, _>(at.named("stopping"), intent, problems)?,
        ),
        State::Unkillable(intent) => {
            AllocationState::Unkillable(enumeration::read::<v1::StopIntent, _>(
                at.named("unkillable"),
                intent,
                problems,
            )?)
        }
    })
}
