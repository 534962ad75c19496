//! Who of what a cluster runs may be moved for the good of others: what loses little by beginning
//! again elsewhere and whose owner has agreed to being interrupted.

use berth_model::{AllocationState, JobKind, StateMs};

use crate::reservation::work_lost;
use crate::rows::{AllocationRow, JobRow};
use crate::state::ClusterState;

/// Without a check, or with one that passes.
const RUNS: AllocationState = AllocationState::Running { ready: true };

/// Why somebody is left where it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stays {
    Gang,
    Daemon,
    NotPreemptible,
    NotRunning,
    TooYoung,
    NoRestart,
    OnlyReplica,
}

impl Stays {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Stays::Gang => "a member of a gang, which would end as a whole",
            Stays::Daemon => "a daemon, which belongs to its node",
            Stays::NotPreemptible => "its job may not be preempted",
            Stays::NotRunning => "not running, or not ready",
            Stays::TooYoung => "not running for as long as its job is left alone",
            Stays::NoRestart => "its job allows no further attempt",
            Stays::OnlyReplica => "the only replica of its service that is ready",
        }
    }
}

/// What moving a live allocation costs, in thousandths of a GPU times milliseconds of work that
/// is done again.
///
/// A task of a batch job moves only where its job allows a further attempt after a failed one:
/// whoever rules that out has said that the work may not begin twice.
///
/// # Errors
/// Why it stays where it is.
pub fn may_move(
    view: &ClusterState,
    job: &JobRow,
    row: &AllocationRow,
    now: StateMs,
) -> Result<u64, Stays> {
    let spec = &job.spec;
    let task = spec.tasks.get(usize::from(row.id.task.0));
    if task.is_some_and(|task| task.gang.is_some()) {
        return Err(Stays::Gang);
    }
    if spec.kind == JobKind::Daemon {
        return Err(Stays::Daemon);
    }
    if !spec.preemption.preemptible {
        return Err(Stays::NotPreemptible);
    }
    if row.state != RUNS {
        return Err(Stays::NotRunning);
    }
    let since = row.running_since.unwrap_or(row.planned_at);
    if now < since.after(spec.preemption.min_run) {
        return Err(Stays::TooYoung);
    }
    let may_restart = task.is_some_and(|task| task.restart.attempts != Some(0));
    let is_alone = || {
        let replicas = view.allocations_of_task(row.id.job, row.id.task);
        replicas.filter(|other| other.state == RUNS).nth(1).is_none()
    };
    match spec.kind {
        JobKind::Batch if !may_restart => Err(Stays::NoRestart),
        JobKind::Service if is_alone() => Err(Stays::OnlyReplica),
        JobKind::Batch | JobKind::Service | JobKind::Daemon => Ok(work_lost(row, now)),
    }
}
