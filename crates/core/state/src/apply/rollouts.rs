//! How a new version gets on, when it has failed, and the way back from it.

use berth_model::{AllocationId, AllocationState, JobId, StateMs, UpdatePolicy};

use super::{Step, bounded};
use crate::event::EventKind;
use crate::refusal::Refusal;
use crate::rows::{AllocationRow, JobPhase, JobRow, REASON_BYTES_MAX, Rollout};
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

    /// The time in which a new version is to get on begins anew: it could not meanwhile.
    pub(super) fn restart_progress(&mut self, job: JobId) {
        let now = self.now;
        let rollout = self.state.jobs.get(&job).and_then(|row| row.rollout);
        if let Some(rollout) = rollout.filter(|rollout| !rollout.failed) {
            let rollout = Some(Rollout { progressed_at: now, ..rollout });
            self.state.edit_job(job, |row| row.rollout = rollout);
        }
    }

    /// Before what runs is changed: if all of it is the current version and serves, that is one
    /// that can be gone back to. Costs a pass over the job's live allocations.
    pub(super) fn note_proven(&mut self, row: &JobRow) {
        let has_failed = row.rollout.is_some_and(|rollout| rollout.failed);
        if row.phase != JobPhase::Active || !row.kind().is_named() || has_failed {
            return;
        }
        let (span, now) = (row.spec.update.min_ready, self.now);
        let has_run = |since: StateMs| since.after(span) <= now;
        let serves = self
            .state
            .allocations_of(row.id)
            .any(|one| one.state == READY && one.running_since.is_some_and(has_run));
        let is_all_new = !self.state.allocations_of(row.id).any(|one| row.is_outdated(one));
        if serves && is_all_new {
            self.state.edit_job(row.id, |job| job.proven = Some(job.version));
        }
    }

    /// An attempt has failed. A new version of which one replica does so again and again has
    /// failed with it, until it has run for as long as it had to get on.
    pub(super) fn note_failed(&mut self, row: &AllocationRow, reason: &str) {
        let id = row.id;
        let Some(job) = self.state.jobs.get(&id.job).cloned() else { return };
        let Some(rollout) = job.rollout.filter(|rollout| !rollout.failed) else { return };
        if job.phase != JobPhase::Active || job.held || row.job_version != job.version {
            return;
        }
        let limit = job.spec.update.progress_deadline;
        let is_new = rollout.ready_max == 0
            || limit.is_some_and(|limit| self.now < rollout.progressed_at.after(limit));
        let task = job.spec.tasks.get(usize::from(id.task.0));
        let instances = self.state.tasks.get(&(id.job, id.task));
        let (true, Some(task), Some(instances)) = (is_new, task, instances) else { return };
        let allowed = task.restart.attempts.unwrap_or(UpdatePolicy::FAILURES_MAX);
        let failures = instances.failures_of(id.instance.0);
        if !instances.failed.contains(id.instance.0) && failures <= allowed {
            return;
        }
        let older = self.state.allocations_of(id.job).any(|row| job.is_outdated(row));
        if !older && job.way_back().is_err() {
            return;
        }
        let times = u64::from(allowed) + 1;
        let version = job.version;
        let why = match times {
            1 => format!("a replica of version {version} failed: {reason}"),
            _ => format!("a replica of version {version} failed {times} times: {reason}"),
        };
        self.fail_version(&job, rollout, &why);
    }

    /// The leader has found that a version does not get on.
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
        let limit = row.spec.update.progress_deadline;
        let late = row.rollout.zip(limit).filter(|(rollout, limit)| {
            !rollout.failed && rollout.progressed_at.after(*limit) <= self.now
        });
        let Some((rollout, _)) = late else { return Err(Refusal::TooEarly) };
        self.fail_version(&row, rollout, reason);
        Ok(Reply::Done)
    }

    /// The current version has failed: the one that served before takes its place, or it keeps
    /// what it has and takes no more.
    fn fail_version(&mut self, row: &JobRow, rollout: Rollout, why: &str) {
        let (job, version) = (row.id, row.version);
        let back = row.way_back();
        let then = match &back {
            Ok(proven) => format!("version {proven} comes back as version {}", version + 1),
            Err(stays) => stays.clone(),
        };
        // What follows is shorter than what is cut off.
        let why = bounded(why, REASON_BYTES_MAX.saturating_sub(then.len() + 2));
        let reason = format!("{why}; {then}");
        self.state.edit_job(job, |row| {
            row.rollout = Some(Rollout { failed: true, ..rollout });
            row.reason = reason.clone();
        });
        self.emit_job(job, EventKind::UpdateFailed { version, reason: reason.clone() });
        // Only a version that is not kept is refused, and this one is.
        if back.is_ok_and(|proven| self.roll_back(job, proven).is_ok()) {
            self.state.edit_job(job, |row| row.reason = reason);
        }
    }
}
