//! What a job has come to after something of it changed.

use berth_model::{JobId, JobKind, JobState};

use super::Step;
use crate::event::EventKind;
use crate::rows::{JobPhase, JobRow};

impl Step<'_> {
    /// Ends the job if nothing of it is left to do, and says so if its state
    /// is no longer `before`.
    pub(super) fn settle_job(&mut self, job: JobId, before: JobState) {
        let Some(row) = self.state.jobs.get(&job).cloned() else { return };
        if row.live == 0 {
            match row.phase {
                JobPhase::Ending(state) => self.finish_job(job, state, row.reason.clone()),
                JobPhase::Active => {
                    if let Some((state, reason)) = self.verdict(&row) {
                        self.finish_job(job, state, reason);
                    }
                }
                JobPhase::Ended { .. } => {}
            }
        }
        self.announce_state(job, before);
    }

    /// Says that the job's state is no longer `before`, if it is not.
    pub(super) fn announce_state(&mut self, job: JobId, before: JobState) {
        let Some(row) = self.state.jobs.get(&job) else { return };
        let (state, reason) = (row.state(), row.reason.clone());
        if state != before {
            self.emit_job(job, EventKind::JobStateChanged { state, reason });
        }
    }

    fn finish_job(&mut self, job: JobId, state: JobState, reason: String) {
        let (now, wall) = (self.now, self.wall);
        self.state.edit_job(job, |row| {
            row.phase = JobPhase::Ended { state, at: now };
            row.finished_at = Some(wall);
            row.reason = reason;
        });
    }

    /// How an active job without live allocations ended, if it did.
    fn verdict(&self, row: &JobRow) -> Option<(JobState, String)> {
        let mut asked: u64 = 0;
        let (mut failed, mut timed_out, mut cancelled, mut lost) = (0, 0, 0, 0);
        // Of gangs of which a member has failed.
        let mut given_up: u64 = 0;
        for (position, task) in row.spec.tasks.iter().enumerate() {
            let index = super::jobs::task_index(position);
            let instances = self.state.tasks.get(&(row.id, index))?;
            if !instances.pending.is_empty() {
                return None;
            }
            asked += u64::from(task.count);
            failed += instances.failed.len();
            if row.is_gang(index) && !instances.failed.is_empty() {
                given_up += instances.cancelled.len();
            }
            timed_out += instances.timed_out.len();
            cancelled += instances.cancelled.len();
            lost += instances.lost.len();
        }
        match row.kind() {
            JobKind::Batch => {}
            // A service ends by itself only when every replica has failed for
            // good; a daemon waits for the next node.
            JobKind::Service if failed > 0 && failed + given_up == asked => {}
            JobKind::Service | JobKind::Daemon => return None,
        }
        let of = |count: u64, what: &str| format!("{count} of {asked} instances {what}");
        Some(if failed > 0 {
            (JobState::Failed, of(failed, "failed"))
        } else if timed_out > 0 {
            (JobState::TimedOut, of(timed_out, "timed out"))
        } else if lost > 0 {
            (JobState::Failed, of(lost, "lost"))
        } else if cancelled > 0 {
            (JobState::Cancelled, of(cancelled, "cancelled"))
        } else {
            (JobState::Succeeded, String::new())
        })
    }
}
