//! What an agent saw of its allocations.

use berth_model::{AllocationId, EndReport, StartPhase, Violation, WallMs};
use berth_proto::v1;
use berth_proto::v1::observation::State;
use berth_state::rows::{REASON_BYTES_MAX, STDERR_TAIL_BYTES_MAX};
use berth_state::{Observation, Observed};

use crate::enumeration;
use crate::problem::{Cause, Field, Problems, shown};

/// The last millisecond of the year 9999: later ones cannot be written as
/// RFC 3339 has it.
const WALL_MS_MAX: u64 = 253_402_300_799_999;

/// The message for an observation.
pub fn observation_to_proto(observation: &Observation) -> v1::Observation {
    let id = observation.allocation;
    match &observation.observed {
        Observed::Starting(phase) => starting(id, *phase),
        Observed::Running { ready: true, started_at } => running(id, Readiness::Ready, *started_at),
        Observed::Running { ready: false, started_at } => {
            running(id, Readiness::NotYet, *started_at)
        }
        Observed::Unhealthy { detail } => unhealthy(id, detail),
        Observed::Stopping => stopping(id),
        Observed::Unkillable => unkillable(id, ""),
        Observed::Ended(report) => ended(id, report),
    }
}

/// Whether a running worker has passed its health check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readiness {
    Ready,
    NotYet,
}

/// It is being started.
pub fn starting(id: AllocationId, phase: StartPhase) -> v1::Observation {
    let phase = enumeration::number::<v1::StartPhase, _>(phase);
    of(id, State::Starting(v1::Starting { phase }))
}

/// It runs since `started_at` by the node's clock.
pub fn running(id: AllocationId, readiness: Readiness, started_at: WallMs) -> v1::Observation {
    of(
        id,
        State::Running(v1::Running {
            ready: readiness == Readiness::Ready,
            started_at_ms: started_at.0,
            unhealthy: false,
            detail: String::new(),
        }),
    )
}

/// It runs and has failed its health check too often; `detail` says how, and
/// is cut at `REASON_BYTES_MAX`.
pub fn unhealthy(id: AllocationId, detail: &str) -> v1::Observation {
    of(
        id,
        State::Running(v1::Running {
            ready: false,
            started_at_ms: 0,
            unhealthy: true,
            detail: beginning(detail, REASON_BYTES_MAX).to_owned(),
        }),
    )
}

/// It has been asked to end.
pub fn stopping(id: AllocationId) -> v1::Observation {
    of(id, State::Stopping(v1::Stopping {}))
}

/// It was sent SIGKILL and is still there; `detail` is for people.
pub fn unkillable(id: AllocationId, detail: &str) -> v1::Observation {
    let detail = beginning(detail, REASON_BYTES_MAX).to_owned();
    of(id, State::Unkillable(v1::Unkillable { detail }))
}

/// It has ended.
pub fn ended(id: AllocationId, report: &EndReport) -> v1::Observation {
    of(id, State::Ended(end_report_to_proto(report)))
}

fn of(id: AllocationId, state: State) -> v1::Observation {
    v1::Observation { allocation_id: id.to_string(), state: Some(state) }
}

/// The message for an end. Keeps the beginning of a long reason and the end of
/// a long standard error, so that no end is too long to be told.
pub fn end_report_to_proto(report: &EndReport) -> v1::Ended {
    v1::Ended {
        cause: enumeration::number::<v1::EndCause, _>(report.cause),
        exit_code: report.exit_code,
        signal: report.signal,
        reason: beginning(&report.reason, REASON_BYTES_MAX).to_owned(),
        stderr_tail: ending(&report.stderr_tail, STDERR_TAIL_BYTES_MAX).to_owned(),
        started_at_ms: report.started_at.map(|at| at.0),
        finished_at_ms: report.finished_at.0,
    }
}

/// Reads one observation. A report is read one by one: a bad observation is no
/// reason to lose the others.
///
/// # Errors
/// Everything wrong with it, impossible values among that.
pub fn observation_from_proto(proto: v1::Observation) -> Result<Observation, Vec<Violation>> {
    let mut problems = Problems::default();
    let at = Field::ROOT;
    let allocation =
        read_allocation(at.named("allocation_id"), &proto.allocation_id, &mut problems);
    let state = problems.present(at.named("state"), proto.state);
    let observed = state.and_then(|state| read_state(at, state, &mut problems));
    let observation =
        allocation.zip(observed).map(|(allocation, observed)| Observation { allocation, observed });
    problems.verdict(observation)
}

pub(super) fn read_allocation(
    at: Field<'_>,
    text: &str,
    problems: &mut Problems,
) -> Option<AllocationId> {
    let id = text.parse().ok();
    if id.is_none() {
        problems.add(at, Cause::NotAnAllocation(shown(text)));
    }
    id
}

fn read_state(at: Field<'_>, state: State, problems: &mut Problems) -> Option<Observed> {
    match state {
        State::Starting(starting) => {
            let at = at.named("starting");
            enumeration::read::<v1::StartPhase, _>(at.named("phase"), starting.phase, problems)
                .map(Observed::Starting)
        }
        State::Running(running) => read_running(at.named("running"), running, problems),
        State::Stopping(v1::Stopping {}) => Some(Observed::Stopping),
        // The detail is for the agent's own log; the state keeps the fact.
        State::Unkillable(v1::Unkillable { .. }) => Some(Observed::Unkillable),
        State::Ended(ended) => read_end(at.named("ended"), ended, problems).map(Observed::Ended),
    }
}

fn read_running(at: Field<'_>, proto: v1::Running, problems: &mut Problems) -> Option<Observed> {
    if proto.unhealthy {
        if proto.ready {
            problems.add(at, Cause::Contradiction("is both ready and unhealthy"));
        }
        let detail = problems.short(at.named("detail"), proto.detail, REASON_BYTES_MAX)?;
        return Some(Observed::Unhealthy { detail });
    }
    let started_at = read_moment(at.named("started_at_ms"), proto.started_at_ms, problems)?;
    Some(Observed::Running { ready: proto.ready, started_at })
}

/// Reads an end.
///
/// # Errors
/// Everything wrong with it: an exit code beyond 0 to 255, a signal beyond 1
/// to 64, both of them, texts over their limits, times after the year 9999.
pub fn end_report_from_proto(proto: v1::Ended) -> Result<EndReport, Vec<Violation>> {
    let mut problems = Problems::default();
    let report = read_end(Field::ROOT, proto, &mut problems);
    problems.verdict(report)
}

pub(super) fn read_end(
    at: Field<'_>,
    proto: v1::Ended,
    problems: &mut Problems,
) -> Option<EndReport> {
    let cause = enumeration::read::<v1::EndCause, _>(at.named("cause"), proto.cause, problems);
    if let Some(code) = proto.exit_code.filter(|code| !(0..=255).contains(code)) {
        let found = i128::from(code);
        problems.add(at.named("exit_code"), Cause::OutOfRange { allowed: "0 to 255", found });
    }
    if let Some(signal) = proto.signal.filter(|signal| !(1..=64).contains(signal)) {
        let found = i128::from(signal);
        problems.add(at.named("signal"), Cause::OutOfRange { allowed: "1 to 64", found });
    }
    if proto.exit_code.is_some() && proto.signal.is_some() {
        problems.add(at, Cause::Contradiction("has both an exit code and a signal"));
    }
    let reason = problems.short(at.named("reason"), proto.reason, REASON_BYTES_MAX);
    let stderr_tail =
        problems.short(at.named("stderr_tail"), proto.stderr_tail, STDERR_TAIL_BYTES_MAX);
    let started_at = match proto.started_at_ms {
        None => Some(None),
        Some(ms) => read_moment(at.named("started_at_ms"), ms, problems).map(Some),
    };
    let finished_at = read_moment(at.named("finished_at_ms"), proto.finished_at_ms, problems);
    Some(EndReport {
        cause: cause?,
        exit_code: proto.exit_code,
        signal: proto.signal,
        reason: reason?,
        stderr_tail: stderr_tail?,
        started_at: started_at?,
        finished_at: finished_at?,
    })
}

fn read_moment(at: Field<'_>, ms: u64, problems: &mut Problems) -> Option<WallMs> {
    if ms <= WALL_MS_MAX {
        return Some(WallMs(ms));
    }
    let found = i128::from(ms);
    problems.add(at, Cause::OutOfRange { allowed: "a time before the year 10000", found });
    None
}

/// The longest beginning of `text` within `bytes_max` bytes.
fn beginning(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// The longest end of `text` within `bytes_max` bytes.
fn ending(text: &str, bytes_max: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(bytes_max))..]
}
