//! A dry run: what a submit would lead to, tried on a copy of the view by the
//! very code that would do it.

use std::sync::Arc;

use berth_model::{EndCause, EndReport, JobId, JobSpec, SpecDigest, StateMs, WallMs};
use berth_state::{
    ClusterState, Command, Entry, Placement, Refusal, Reply, Reservation, SubmitJob,
};

use crate::budget::Budget;
use crate::explain::{Explanation, explain};
use crate::never::never_fits;
use crate::plan::plan_jobs;
use crate::report::PlanOutcome;
use crate::soft::SoftView;

/// What a dry run may cost: it answers a person, who reads no more than this.
const BUDGET: Budget =
    Budget { candidates_examined_max: 1_000_000, placements_max: 10_000, reservations_max: 64 };

/// What would happen at once after a submit, as if nothing else waited.
#[derive(Clone, PartialEq, Debug)]
pub struct PlanPreview {
    /// The id that the job would have had now; an update keeps the job's own.
    pub job: JobId,
    pub version: u32,
    /// As it would be let in: with the defaults of now.
    pub spec: Arc<JobSpec>,
    pub placements: Vec<Placement>,
    /// Places that would be kept until others have ended for it.
    pub reservations: Vec<Reservation>,
    /// The dry run stopped at its budget: more may be placed than is shown.
    pub exhausted: bool,
    /// Instances that would go on waiting, or that were not tried any more.
    pub waiting: u64,
    /// Why they would; `None` when none would.
    pub why: Option<Explanation>,
    /// The warning of a submit that nothing can ever fit.
    pub never_fits: Option<String>,
}

/// Tries `spec` on a copy of the view. The view itself does not change.
///
/// # Errors
/// What apply would refuse the submit with.
pub fn what_would_happen(
    view: &ClusterState,
    soft: &SoftView,
    now: StateMs,
    spec: &Arc<JobSpec>,
) -> Result<PlanPreview, Refusal> {
    let never_fits = never_fits(|| view.nodes().values().map(AsRef::as_ref), spec);
    let Tried { mut copy, job, version, outcome } = tried(view, soft, now, spec)?;
    let PlanOutcome { placements, reservations, exhausted, .. } = outcome;
    apply_one(&mut copy, now, Command::Reserve { reservations: reservations.clone() })?;
    apply_one(&mut copy, now, Command::Place { placements: placements.clone() })?;

    let known = copy.jobs().get(&job);
    let spec = known.map_or_else(|| spec.clone(), |row| row.spec.clone());
    let waiting = waiting_of(&copy, job);
    let why = explain(&copy, soft, now, job).filter(|_| waiting > 0);
    Ok(PlanPreview {
        job,
        version,
        spec,
        placements,
        reservations,
        exhausted,
        waiting,
        why,
        never_fits,
    })
}

/// A copy of the view with a job, and what is planned for that.
pub(crate) struct Tried {
    copy: ClusterState,
    job: JobId,
    version: u32,
    outcome: PlanOutcome,
}

impl Tried {
    /// Whether something of it would start, now or when others have ended for it.
    pub fn has_places(&self) -> bool {
        !self.outcome.placements.is_empty() || !self.outcome.reservations.is_empty()
    }
}

/// Submits to a copy of the view and plans.
pub(crate) fn tried(
    view: &ClusterState,
    soft: &SoftView,
    now: StateMs,
    spec: &Arc<JobSpec>,
) -> Result<Tried, Refusal> {
    let mut copy = view.clone();
    // No stored spec has this digest, so the copy never answers that it knows
    // the job already.
    let digest = SpecDigest([0; 32]);
    let submit = SubmitJob { key: None, spec: spec.clone(), digest, if_version: None };
    let reply = apply_one(&mut copy, now, Command::Submit(submit))?;
    let Reply::Submitted { job, version, .. } = reply else {
        return Err(Refusal::Invalid(format!("a submit was answered by {reply:?}")));
    };
    let outcome = plan_jobs(&copy, soft, now, BUDGET, &[job]);
    Ok(Tried { copy, job, version, outcome })
}

pub(crate) fn apply_one(
    copy: &mut ClusterState,
    now: StateMs,
    command: Command,
) -> Result<Reply, Refusal> {
    let wall_ms = copy.wall_at(now);
    let proposer = String::new();
    let entry = Entry { state_ms: now, wall_ms, proposer, commands: vec![command] };
    let index = copy.applied_index();
    copy.apply(index, &entry).replies.pop().unwrap_or(Ok(Reply::Done))
}

/// How something ends on a copy that was told to.
pub(crate) fn stopped(finished_at: WallMs) -> EndReport {
    EndReport {
        cause: EndCause::Stopped,
        exit_code: None,
        signal: None,
        reason: String::new(),
        stderr_tail: String::new(),
        started_at: None,
        finished_at,
    }
}

/// Waiting instances of all tasks of the job.
fn waiting_of(copy: &ClusterState, job: JobId) -> u64 {
    let Some(row) = copy.jobs().get(&job) else { return 0 };
    let tasks = (0..row.spec.tasks.len()).filter_map(|at| u16::try_from(at).ok());
    let waiting = |task| crate::reasons::waiting_count(copy, row, berth_model::TaskIndex(task));
    tasks.map(waiting).sum()
}

#[cfg(test)]
mod tests;
