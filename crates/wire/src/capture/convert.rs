//! Decisions in both forms, but for their views.

use std::sync::Arc;

use berth_model::{CpuMilli, DurationMs, JobId, MemoryBytes, Name, NodeId, StateMs};
use berth_proto::log::v1;
use berth_state::decision::{
    Asked, Decision, GaveUp, Made, NodeLoad, Scope, Seen, Stop, Waiting, WorkBounds,
};
use berth_state::{ClusterState, Permit, Right, Table, decision};

use super::Origin;
use crate::enumeration::{self, Enumeration};
use crate::frozen::values::read_task;
use crate::log::v1::plan;
use crate::problem::{Cause, Field, Problems};
use crate::spec::{constraints_to_proto, gpu_from_proto, gpu_to_proto, read_constraints};

/// The longest word for what stands in a task's way.
const WHY_BYTES_MAX: usize = 64;

impl Enumeration<v1::DecisionOrigin> for Origin {
    fn to_proto(self) -> v1::DecisionOrigin {
        match self {
            Origin::Capture => v1::DecisionOrigin::Capture,
            Origin::Entry => v1::DecisionOrigin::Entry,
            Origin::Planner => v1::DecisionOrigin::Planner,
        }
    }

    fn from_proto(proto: v1::DecisionOrigin) -> Option<Origin> {
        match proto {
            v1::DecisionOrigin::Unspecified => None,
            v1::DecisionOrigin::Capture => Some(Origin::Capture),
            v1::DecisionOrigin::Entry => Some(Origin::Entry),
            v1::DecisionOrigin::Planner => Some(Origin::Planner),
        }
    }
}

pub(super) fn to_proto(
    origin: Origin,
    decision: &Decision,
    rows: Vec<u64>,
) -> v1::CapturedDecision {
    let Decision { inputs, made } = decision;
    let decision::Inputs { view, now, scope, bounds, loads, asked, gave_up, stop } = inputs;
    v1::CapturedDecision {
        origin: enumeration::number::<v1::DecisionOrigin, _>(origin),
        view_index: view.applied_index(),
        rows,
        now_state_ms: now.0,
        scope: match scope {
            Scope::Everything => None,
            Scope::Jobs(jobs) => {
                Some(v1::CapturedScope { jobs: jobs.iter().map(|job| job.0).collect() })
            }
        },
        candidates_examined_max: bounds.candidates_examined_max,
        placements_max: bounds.placements_max,
        reservations_max: bounds.reservations_max,
        loads: loads.iter().map(|(node, load)| load_to_proto(*node, load)).collect(),
        asked: asked.iter().map(asked_to_proto).collect(),
        gave_up: gave_up.iter().map(gave_up_to_proto).collect(),
        stop: stop.map(|Stop { step, seen }| v1::CapturedStop {
            step,
            seen: seen.map(|Seen { first, of, count }| v1::CapturedSeen { first, of, count }),
        }),
        made: Some(made_to_proto(made)),
    }
}

/// A decision but for its view, of which the rows are elsewhere.
pub(super) fn read(
    at: Field<'_>,
    proto: v1::CapturedDecision,
    problems: &mut Problems,
) -> Option<(Origin, Decision)> {
    let origin =
        enumeration::read::<v1::DecisionOrigin, _>(at.named("origin"), proto.origin, problems)?;
    let jobs = |scope: v1::CapturedScope| scope.jobs.into_iter().map(JobId).collect();
    let mut loads = Table::default();
    for load in proto.loads {
        let (node, load) = read_load(load);
        loads.insert(node, Arc::new(load));
    }
    let made_at = at.named("made");
    let made = problems.present(made_at, proto.made)?;
    let inputs = decision::Inputs {
        view: ClusterState::default(),
        now: StateMs(proto.now_state_ms),
        scope: proto.scope.map_or(Scope::Everything, |scope| Scope::Jobs(jobs(scope))),
        bounds: WorkBounds {
            candidates_examined_max: proto.candidates_examined_max,
            placements_max: proto.placements_max,
            reservations_max: proto.reservations_max,
        },
        loads,
        asked: proto.asked.into_iter().map(read_asked).collect(),
        gave_up: read_all(at.named("gave_up"), proto.gave_up, problems, read_gave_up)?,
        stop: proto.stop.map(|v1::CapturedStop { step, seen }| Stop {
            step,
            seen: seen.map(|v1::CapturedSeen { first, of, count }| Seen { first, of, count }),
        }),
    };
    Some((origin, Decision { inputs, made: read_made(made_at, made, problems)? }))
}

fn read_all<P, T>(
    at: Field<'_>,
    protos: Vec<P>,
    problems: &mut Problems,
    read: fn(Field<'_>, P, &mut Problems) -> Option<T>,
) -> Option<Vec<T>> {
    let one = |(position, proto)| read(at.item(position), proto, problems);
    protos.into_iter().enumerate().map(one).collect()
}

fn load_to_proto(node: NodeId, load: &NodeLoad) -> v1::CapturedLoad {
    let NodeLoad { gpu_util_milli, gpu_memory_used, cpu_used, memory_used, network_used_milli } =
        *load;
    v1::CapturedLoad {
        node: node.0,
        gpu_util_milli,
        gpu_memory_used_bytes: gpu_memory_used.map(|used| used.0),
        cpu_used_milli: cpu_used.map(|used| used.0),
        memory_used_bytes: memory_used.map(|used| used.0),
        network_used_milli,
    }
}

fn read_load(proto: v1::CapturedLoad) -> (NodeId, NodeLoad) {
    let load = NodeLoad {
        gpu_util_milli: proto.gpu_util_milli,
        gpu_memory_used: proto.gpu_memory_used_bytes.map(MemoryBytes),
        cpu_used: proto.cpu_used_milli.map(CpuMilli),
        memory_used: proto.memory_used_bytes.map(MemoryBytes),
        network_used_milli: proto.network_used_milli,
    };
    (NodeId(proto.node), load)
}

fn asked_to_proto(asked: &Asked) -> v1::CapturedAsked {
    let Asked { cpu, gpu, instances } = asked;
    let gpu = gpu.as_ref().map(gpu_to_proto);
    v1::CapturedAsked { cpu_milli: cpu.0, gpu, instances: *instances }
}

fn read_asked(proto: v1::CapturedAsked) -> Asked {
    let gpu = proto.gpu.map(gpu_from_proto);
    Asked { cpu: CpuMilli(proto.cpu_milli), gpu, instances: proto.instances }
}

fn gave_up_to_proto(one: &GaveUp) -> v1::CapturedGaveUp {
    let GaveUp {
        cpu,
        memory,
        port_count,
        in_container,
        gpu,
        constraints,
        permit: Permit { lets_in, lasts },
        priority,
        members,
        by,
        until,
    } = one;
    v1::CapturedGaveUp {
        cpu_milli: cpu.0,
        memory_bytes: memory.0,
        port_count: *port_count,
        in_container: *in_container,
        gpu: gpu.as_ref().map(gpu_to_proto),
        constraints: constraints_to_proto(constraints),
        priority: u32::from(*priority),
        members: *members,
        by: by.as_ref().map(|(namespace, right)| right_to_proto(namespace, *right)),
        until_state_ms: until.0,
        let_in: *lets_in,
        lasts_ms: lasts.map(|lasts| lasts.0),
    }
}

fn read_gave_up(
    at: Field<'_>,
    proto: v1::CapturedGaveUp,
    problems: &mut Problems,
) -> Option<GaveUp> {
    let constraints = proto.constraints.unwrap_or_default();
    let by = match proto.by {
        None => None,
        Some(by) => Some(read_right(at.named("by"), by, problems)?),
    };
    Some(GaveUp {
        cpu: CpuMilli(proto.cpu_milli),
        memory: MemoryBytes(proto.memory_bytes),
        port_count: proto.port_count,
        in_container: proto.in_container,
        gpu: proto.gpu.map(gpu_from_proto),
        constraints: read_constraints(at.named("constraints"), constraints, problems)?,
        permit: Permit { lets_in: proto.let_in, lasts: proto.lasts_ms.map(DurationMs) },
        priority: problems.narrow(at.named("priority"), "0 to 255", proto.priority)?,
        members: proto.members,
        by,
        until: StateMs(proto.until_state_ms),
    })
}

fn right_to_proto(namespace: &Name, right: Right) -> v1::CapturedRight {
    let (guarantee, patience) = match right {
        Right::Priority => (false, false),
        Right::Guarantee => (true, false),
        Right::Patience => (false, true),
    };
    v1::CapturedRight { namespace: namespace.to_string(), guarantee, patience }
}

fn read_right(
    at: Field<'_>,
    proto: v1::CapturedRight,
    problems: &mut Problems,
) -> Option<(Name, Right)> {
    let namespace = problems.name(at.named("namespace"), &proto.namespace)?;
    let right = match (proto.guarantee, proto.patience) {
        (false, false) => Right::Priority,
        (true, false) => Right::Guarantee,
        (false, true) => Right::Patience,
        (true, true) => {
            problems.add(at, Cause::Contradiction("two rights at once"));
            return None;
        }
    };
    Some((namespace, right))
}

fn made_to_proto(made: &Made) -> v1::CapturedMade {
    let Made {
        placements,
        reservations,
        waiting,
        waiting_left_off,
        next_wakeup,
        held_back,
        exhausted,
    } = made;
    let waits = |one: &Waiting| v1::CapturedWaiting {
        job: one.job.0,
        task: u32::from(one.task.0),
        placed: one.placed,
        left: one.left,
        why: one.why.clone(),
    };
    v1::CapturedMade {
        placements: placements.iter().map(plan::placement_to_proto).collect(),
        reservations: reservations.iter().map(plan::reservation_to_proto).collect(),
        waiting: waiting.iter().map(waits).collect(),
        waiting_left_off: *waiting_left_off,
        next_wakeup_state_ms: next_wakeup.map(|at| at.0),
        held_back: *held_back,
        exhausted: *exhausted,
    }
}

fn read_made(at: Field<'_>, proto: v1::CapturedMade, problems: &mut Problems) -> Option<Made> {
    let (placements, reservations) = (proto.placements, proto.reservations);
    Some(Made {
        placements: read_all(at.named("placements"), placements, problems, plan::read_placement)?,
        reservations: read_all(
            at.named("reservations"),
            reservations,
            problems,
            plan::read_reservation,
        )?,
        waiting: read_all(at.named("waiting"), proto.waiting, problems, read_waiting)?,
        waiting_left_off: proto.waiting_left_off,
        next_wakeup: proto.next_wakeup_state_ms.map(StateMs),
        held_back: proto.held_back,
        exhausted: proto.exhausted,
    })
}

fn read_waiting(
    at: Field<'_>,
    proto: v1::CapturedWaiting,
    problems: &mut Problems,
) -> Option<Waiting> {
    Some(Waiting {
        job: JobId(proto.job),
        task: read_task(at.named("task"), proto.task, problems)?,
        placed: proto.placed,
        left: proto.left,
        why: problems.short(at.named("why"), proto.why, WHY_BYTES_MAX)?,
    })
}
