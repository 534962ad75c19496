//! What agents saw, as the log holds it: apart from what they send, so that
//! their protocol may change without the log.

use berth_model::{EndReport, NodeId, WallMs};
use berth_proto::log::v1;
use berth_proto::log::v1::observation::{
    Observed as Kind, Running, Stopping, Unhealthy, Unkillable,
};
use berth_state::{Observation, Observed};

use crate::enumeration;
use crate::frozen::values::{allocation_to_proto, read_allocation};
use crate::problem::{Field, Problems};

pub(super) fn all_to_proto(node: NodeId, observations: &[Observation]) -> v1::Observe {
    v1::Observe { node: node.0, observations: observations.iter().map(to_proto).collect() }
}

fn to_proto(observation: &Observation) -> v1::Observation {
    let kind = match &observation.observed {
        Observed::Starting(phase) => {
            Kind::Starting(enumeration::number::<v1::StartPhase, _>(*phase))
        }
        Observed::Running { ready, started_at } => {
            Kind::Running(Running { ready: *ready, started_wall_ms: started_at.0 })
        }
        Observed::Unhealthy { detail } => Kind::Unhealthy(Unhealthy { detail: detail.clone() }),
        Observed::Stopping => Kind::Stopping(Stopping {}),
        Observed::Unkillable => Kind::Unkillable(Unkillable {}),
        Observed::Ended(report) => Kind::Ended(end_to_proto(report)),
    };
    v1::Observation {
        allocation: Some(allocation_to_proto(observation.allocation)),
        observed: Some(kind),
    }
}

pub(super) fn end_to_proto(report: &EndReport) -> v1::EndReport {
    v1::EndReport {
        cause: enumeration::number::<v1::EndCause, _>(report.cause),
        exit_code: report.exit_code,
        signal: report.signal,
        reason: report.reason.clone(),
        stderr_tail: report.stderr_tail.clone(),
        started_wall_ms: report.started_at.map(|at| at.0),
        finished_wall_ms: report.finished_at.0,
    }
}

pub(super) fn read_all(
    at: Field<'_>,
    protos: Vec<v1::Observation>,
    problems: &mut Problems,
) -> Option<Vec<Observation>> {
    let mut observations = Vec::with_capacity(protos.len());
    for (position, proto) in protos.into_iter().enumerate() {
        let at = at.item(position);
        let allocation = read_allocation(at.named("allocation"), proto.allocation, problems)?;
        let kind = problems.present(at.named("observed"), proto.observed)?;
        observations.push(Observation { allocation, observed: read(at, kind, problems)? });
    }
    Some(observations)
}

fn read(at: Field<'_>, kind: Kind, problems: &mut Problems) -> Option<Observed> {
    Some(match kind {
        Kind::Starting(phase) => Observed::Starting(enumeration::read::<v1::StartPhase, _>(
            at.named("starting"),
            phase,
            problems,
        )?),
        Kind::Running(Running { ready, started_wall_ms }) => {
            Observed::Running { ready, started_at: WallMs(started_wall_ms) }
        }
        Kind::Unhealthy(Unhealthy { detail }) => Observed::Unhealthy { detail },
        Kind::Stopping(Stopping {}) => Observed::Stopping,
        Kind::Unkillable(Unkillable {}) => Observed::Unkillable,
        Kind::Ended(end) => Observed::Ended(read_end(at.named("ended"), end, problems)?),
    })
}

pub(super) fn read_end(
    at: Field<'_>,
    proto: v1::EndReport,
    problems: &mut Problems,
) -> Option<EndReport> {
    Some(EndReport {
        cause: enumeration::read::<v1::EndCause, _>(at.named("cause"), proto.cause, problems)?,
        exit_code: proto.exit_code,
        signal: proto.signal,
        reason: proto.reason,
        stderr_tail: proto.stderr_tail,
        started_at: proto.started_wall_ms.map(WallMs),
        finished_at: WallMs(proto.finished_wall_ms),
    })
}
