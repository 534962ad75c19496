//! How a new version gets on, and when it has failed.

use berth_model::{AllocationId, AllocationState, JobId};

use super::{Step, bounded};
use crate::event::EventKind;
use crate::refusal::Refusal;
use crate::rows::{JobPhase, REASON_BYTES_MAX, Rollout};
use crate::state::Reply;

const READY: AllocationState = AllocationState::Running { ready: true };

impl Step<'_> {
    /// A replica has got ready. One that comes and goes is no progress: only one more at a time
    /// than ever before is. Costs a pass over the job's live allocations.
    pub(super) fn note_ready(&mut self, id: AllocationId) {
        let Some(job) = self.state.jobs.get(&id.job) else { return };
        let (Some(rollout), version) = (job.rollout.filter(|rollout| !rollout.failed), job.version)
        else {
            return;
        };
        let ready = self.state.allocations_of(id.job).filter(|row| row.job_version == version);
        let ready = ready.filter(|row| row.state == READY).count();
        let ready_max = u32::try_from(ready).unwrap_or(u32::MAX);
        if ready_max > rollout.ready_max {
            let rollout = Some(Rollout { progressed_at: self.now, ready_max, ..rollout });
            self.state.edit_job(id.job, |row| row.rollout = rollout);
        }
    }

    /// The leader has found that a version does not get on. It keeps what it has.
    pub(super) fn fail_update(
        &mut self,
        job: JobId,
        version: u32,
        reason: &str,
    ) -> Result<Reply, Refusal> {
        let row = self.state.job_row(job)?.clone();
        if row.phase != JobPhase::Active {
            return Err(Refusal::JobEnded(job));
        }
        if row.version != version {
            return Err(Refusal::VersionConflict { job, asked: version, found: row.version });
        }
        let limit = row.spec.progress_deadline;
        let late = row.rollout.zip(limit).filter(|(rollout, limit)| {
            !rollout.failed && rollout.progressed_at.after(*limit) <= self.now
        });
        let Some((rollout, _)) = late else { return Err(Refusal::TooEarly) };
        let reason = bounded(reason, REASON_BYTES_MAX);
        self.state.edit_job(job, |row| {
            row.rollout = Some(Rollout { failed: true, ..rollout });
            row.reason = reason.clone();
        });
        self.emit_job(job, EventKind::UpdateFailed { version, reason });
        Ok(Reply::Done)
    }
}
