//! The values of which log entries and snapshot rows are made.

use berth_model::{
    AllocationId, Attempt, Claim, CpuMilli, Drain, EndCause, Guards, InstanceIndex, JobId,
    JobState, MemoryBytes, NodeState, Shut, StartPhase, StateMs, StopIntent, TaskIndex,
};
use berth_proto::log::v1;
use berth_proto::log::v1::guards::Shut as ShutProto;
use berth_proto::log::v1::purpose::{Cordoned, Draining, Purpose as PurposeKind, Work};
use berth_state::{Purpose, ScoreParts};

use crate::enumeration::enumeration;
use crate::problem::{Field, Problems};
use crate::spec::{
    device_claim_to_proto, port_claim_to_proto, read_device_claim, read_port_claims,
};

enumeration!(StartPhase, v1::StartPhase, [Fetch, Launch, WarmUp]);
enumeration!(StopIntent, v1::StopIntent, [Cancel, TimeOut, Drain, Replace, Unhealthy, Preempt]);
enumeration!(
    EndCause,
    v1::EndCause,
    [Exited, Stopped, CannotStart, PortTaken, OutOfMemory, HostRebooted, Unseen, Fenced, HostFault]
);
enumeration!(JobState, v1::JobState, [Queued, Running, Succeeded, Failed, Cancelled, TimedOut]);
enumeration!(NodeState, v1::NodeState, [Ready, Disconnected, Down]);

pub(crate) fn allocation_to_proto(id: AllocationId) -> v1::AllocationId {
    v1::AllocationId {
        job: id.job.0,
        task: u32::from(id.task.0),
        instance: id.instance.0,
        attempt: id.attempt.0,
    }
}

pub(crate) fn allocations_to_proto<'a>(
    ids: impl IntoIterator<Item = &'a AllocationId>,
) -> Vec<v1::AllocationId> {
    ids.into_iter().map(|id| allocation_to_proto(*id)).collect()
}

pub(crate) fn read_allocation(
    at: Field<'_>,
    proto: Option<v1::AllocationId>,
    problems: &mut Problems,
) -> Option<AllocationId> {
    // An id whose parts are all zero is a message without bytes, never absent.
    let proto = problems.present(at, proto)?;
    Some(AllocationId {
        job: JobId(proto.job),
        task: read_task(at.named("task"), proto.task, problems)?,
        instance: InstanceIndex(proto.instance),
        attempt: Attempt(proto.attempt),
    })
}

pub(crate) fn read_task(at: Field<'_>, task: u32, problems: &mut Problems) -> Option<TaskIndex> {
    problems.narrow(at, "0 to 65535", task).map(TaskIndex)
}

pub(crate) fn read_allocations<C>(
    at: Field<'_>,
    protos: Vec<v1::AllocationId>,
    problems: &mut Problems,
) -> C
where
    C: Default + Extend<AllocationId>,
{
    let mut ids = C::default();
    for (position, proto) in protos.into_iter().enumerate() {
        ids.extend(read_allocation(at.item(position), Some(proto), problems));
    }
    ids
}

pub(crate) fn claim_to_proto(claim: &Claim) -> v1::Claim {
    v1::Claim {
        cpu_milli: claim.cpu.0,
        memory_bytes: claim.memory.0,
        devices: claim.devices.iter().map(device_claim_to_proto).collect(),
        ports: claim.ports.iter().map(port_claim_to_proto).collect(),
    }
}

pub(crate) fn read_claim(
    at: Field<'_>,
    proto: Option<v1::Claim>,
    problems: &mut Problems,
) -> Option<Claim> {
    let proto = problems.present(at, proto)?;
    Some(Claim {
        cpu: CpuMilli(proto.cpu_milli),
        memory: MemoryBytes(proto.memory_bytes),
        devices: proto.devices.into_iter().map(read_device_claim).collect(),
        ports: read_port_claims(at.named("ports"), proto.ports, problems),
    })
}

pub(crate) fn purpose_to_proto(purpose: Purpose) -> v1::Purpose {
    let kind = match purpose {
        Purpose::Work => PurposeKind::Work(Work {}),
        Purpose::Cordoned => PurposeKind::Cordoned(Cordoned {}),
        Purpose::Draining(Drain { deadline }) => {
            PurposeKind::Draining(Draining { deadline_state_ms: deadline.map(|at| at.0) })
        }
    };
    v1::Purpose { purpose: Some(kind) }
}

pub(crate) fn read_purpose(
    at: Field<'_>,
    proto: Option<v1::Purpose>,
    problems: &mut Problems,
) -> Option<Purpose> {
    let kind = proto.and_then(|purpose| purpose.purpose);
    Some(match problems.present(at, kind)? {
        PurposeKind::Work(Work {}) => Purpose::Work,
        PurposeKind::Cordoned(Cordoned {}) => Purpose::Cordoned,
        PurposeKind::Draining(Draining { deadline_state_ms }) => {
            Purpose::Draining(Drain { deadline: deadline_state_ms.map(StateMs) })
        }
    })
}

/// None closed is an absent message, so that there is one encoding.
pub(crate) fn guards_to_proto(guards: Guards) -> Option<v1::Guards> {
    let shut = |shut: Shut| ShutProto {
        used_percent: u32::from(shut.used_percent),
        opens_below_percent: u32::from(shut.opens_below_percent),
    };
    let Guards { cpu, memory } = guards;
    (!guards.are_open()).then(|| v1::Guards { cpu: cpu.map(shut), memory: memory.map(shut) })
}

pub(crate) fn read_guards(
    at: Field<'_>,
    proto: Option<v1::Guards>,
    problems: &mut Problems,
) -> Option<Guards> {
    let v1::Guards { cpu, memory } = proto.unwrap_or_default();
    let cpu = read_shut(at.named("cpu"), cpu, problems)?;
    let memory = read_shut(at.named("memory"), memory, problems)?;
    Some(Guards { cpu, memory })
}

fn read_shut(
    at: Field<'_>,
    proto: Option<ShutProto>,
    problems: &mut Problems,
) -> Option<Option<Shut>> {
    let Some(ShutProto { used_percent, opens_below_percent }) = proto else { return Some(None) };
    let (used_at, opens_at) = (at.named("used_percent"), at.named("opens_below_percent"));
    Some(Some(Shut {
        used_percent: problems.narrow(used_at, "0 to 255", used_percent)?,
        opens_below_percent: problems.narrow(opens_at, "0 to 255", opens_below_percent)?,
    }))
}

/// No score is an absent message, so that there is one encoding.
pub(crate) fn score_to_proto(score: &ScoreParts) -> Option<v1::Score> {
    (*score != ScoreParts::default()).then(|| v1::Score {
        policy: score.policy.clone(),
        parts: score
            .parts
            .iter()
            .map(|(name, value)| v1::score::Part { name: name.clone(), value: *value })
            .collect(),
        view_index: score.view_index,
    })
}

pub(crate) fn read_score(proto: Option<v1::Score>) -> ScoreParts {
    let proto = proto.unwrap_or_default();
    ScoreParts {
        policy: proto.policy,
        parts: proto.parts.into_iter().map(|part| (part.name, part.value)).collect(),
        view_index: proto.view_index,
    }
}
