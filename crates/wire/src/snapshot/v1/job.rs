//! Rows of jobs.

use std::sync::Arc;

use berth_model::{JobId, JobSpec, JobState, SpecDigest, StateMs, WallMs};
use berth_proto::log::v1;
use berth_proto::log::v1::job_phase::{Active, Ended, Phase};
use berth_proto::v1 as public;
use berth_state::{JobPhase, JobRow, JobVersionRow, Rollout};
use bytes::Bytes;

use crate::enumeration;
use crate::problem::{Field, Problems};
use crate::spec::{job_spec_to_proto, read_job};

pub(super) fn to_proto(row: &JobRow) -> v1::JobRow {
    v1::JobRow {
        id: row.id.0,
        spec: Some(job_spec_to_proto(&row.spec)),
        digest: Bytes::copy_from_slice(&row.digest.0),
        version: row.version,
        versions: row.versions.iter().map(version_to_proto).collect(),
        key: row.key.clone(),
        phase: Some(phase_to_proto(row.phase)),
        held: row.held,
        submitted_wall_ms: row.submitted_at.0,
        submitted_state_ms: row.submitted_ms.0,
        started_wall_ms: row.started_at.map(|at| at.0),
        finished_wall_ms: row.finished_at.map(|at| at.0),
        reason: row.reason.clone(),
        live: row.live,
        rollout: row.rollout.map(|rollout| v1::Rollout {
            progressed_state_ms: rollout.progressed_at.0,
            ready_max: rollout.ready_max,
            failed: rollout.failed,
        }),
        proven_version: row.proven,
    }
}

fn version_to_proto(version: &JobVersionRow) -> v1::JobVersionRow {
    v1::JobVersionRow {
        version: version.version,
        spec: Some(job_spec_to_proto(&version.spec)),
        digest: Bytes::copy_from_slice(&version.digest.0),
        submitted_wall_ms: version.submitted_at.0,
    }
}

fn phase_to_proto(phase: JobPhase) -> v1::JobPhase {
    let phase = match phase {
        JobPhase::Active => Phase::Active(Active {}),
        JobPhase::Ending(state) => Phase::Ending(enumeration::number::<v1::JobState, _>(state)),
        JobPhase::Ended { state, at } => Phase::Ended(Ended {
            state: enumeration::number::<v1::JobState, _>(state),
            state_ms: at.0,
        }),
    };
    v1::JobPhase { phase: Some(phase) }
}

pub(super) fn read(at: Field<'_>, proto: v1::JobRow, problems: &mut Problems) -> Option<JobRow> {
    let spec = read_spec(at.named("spec"), proto.spec, problems);
    let mut versions = Vec::with_capacity(proto.versions.len());
    for (position, version) in proto.versions.into_iter().enumerate() {
        let versions_at = at.named("versions");
        versions.push(read_version(versions_at.item(position), version, problems)?);
    }
    Some(JobRow {
        id: JobId(proto.id),
        spec: spec?,
        digest: SpecDigest(problems.bytes(at.named("digest"), &proto.digest)?),
        version: proto.version,
        versions,
        key: proto.key,
        phase: read_phase(at.named("phase"), proto.phase, problems)?,
        held: proto.held,
        submitted_at: WallMs(proto.submitted_wall_ms),
        submitted_ms: StateMs(proto.submitted_state_ms),
        started_at: proto.started_wall_ms.map(WallMs),
        finished_at: proto.finished_wall_ms.map(WallMs),
        reason: proto.reason,
        live: proto.live,
        rollout: proto.rollout.map(|rollout| Rollout {
            progressed_at: StateMs(rollout.progressed_state_ms),
            ready_max: rollout.ready_max,
            failed: rollout.failed,
        }),
        proven: proto.proven_version,
    })
}

fn read_spec(
    at: Field<'_>,
    proto: Option<public::JobSpec>,
    problems: &mut Problems,
) -> Option<Arc<JobSpec>> {
    let proto = problems.present(at, proto)?;
    read_job(at, proto, problems).map(Arc::new)
}

fn read_version(
    at: Field<'_>,
    proto: v1::JobVersionRow,
    problems: &mut Problems,
) -> Option<JobVersionRow> {
    Some(JobVersionRow {
        version: proto.version,
        spec: read_spec(at.named("spec"), proto.spec, problems)?,
        digest: SpecDigest(problems.bytes(at.named("digest"), &proto.digest)?),
        submitted_at: WallMs(proto.submitted_wall_ms),
    })
}

fn read_phase(
    at: Field<'_>,
    proto: Option<v1::JobPhase>,
    problems: &mut Problems,
) -> Option<JobPhase> {
    let mut state = |number| -> Option<JobState> {
        enumeration::read::<v1::JobState, _>(at.named("state"), number, problems)
    };
    match proto.and_then(|phase| phase.phase) {
        Some(Phase::Active(Active {})) => Some(JobPhase::Active),
        Some(Phase::Ending(number)) => state(number).map(JobPhase::Ending),
        Some(Phase::Ended(Ended { state: number, state_ms })) => {
            Some(JobPhase::Ended { state: state(number)?, at: StateMs(state_ms) })
        }
        None => problems.present(at, None),
    }
}
