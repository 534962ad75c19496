//! As many replicas as a service's load asks for, within the range that its job gives.

use std::sync::Arc;

use berth_model::{JobId, JobSpec, RangeSet, StateMs, StopIntent, TaskIndex};

use super::jobs::task_index;
use super::{Step, bounded};
use crate::event::EventKind;
use crate::refusal::Refusal;
use crate::rows::{JobPhase, JobRow, REASON_BYTES_MAX};
use crate::state::Reply;

impl Step<'_> {
    /// Gives a service `count` replicas in the place of `from`. Its version stays: what runs is the
    /// same, and who changes the job meanwhile has not missed anything.
    pub(super) fn scale(
        &mut self,
        job: JobId,
        from: u32,
        count: u32,
        reason: &str,
    ) -> Result<Reply, Refusal> {
        let row = self.state.job_row(job)?.clone();
        if row.phase != JobPhase::Active {
            return Err(Refusal::JobEnded(job));
        }
        let Some((position, rule)) = row.spec.scaled() else {
            let why = format!("the replicas of job {job} do not follow its load");
            return Err(Refusal::Invalid(why));
        };
        let found = row.spec.tasks[position].count;
        if found != from {
            return Err(Refusal::ScaledMeanwhile { job, asked: from, found });
        }
        let (min, max) = (rule.min, rule.max);
        if !(min..=max).contains(&count) || count == from {
            let why = format!("expected other than {from} replicas, {min} to {max}; found {count}");
            return Err(Refusal::Invalid(why));
        }
        self.note_proven(&row);
        let mut spec = (*row.spec).clone();
        spec.tasks[position].count = count;
        self.state.edit_job(job, |row| row.spec = Arc::new(spec));
        let task = task_index(position);
        if from == 0 {
            self.restart_progress(job);
        }
        if count > from {
            self.add_replicas(job, task, from, count);
        } else {
            self.drop_replicas(job, task, count);
        }
        let reason = bounded(reason, REASON_BYTES_MAX);
        self.emit_job(job, EventKind::ReplicasScaled { from, to: count, reason });
        self.emit_queued(job);
        self.settle_job(job, row.state());
        Ok(Reply::Done)
    }

    fn add_replicas(&mut self, job: JobId, task: TaskIndex, from: u32, count: u32) {
        let live: Vec<_> = self
            .state
            .allocations_of_task(job, task)
            .filter(|row| row.id.instance.0 >= from)
            .map(|row| row.id)
            .collect();
        let alive: RangeSet = live.iter().map(|id| id.instance.0).collect();
        self.state.edit_task(job, task, |row| {
            // It is asked for anew, whatever became of it before.
            for (_, retry) in row.retries.range_mut(from..count) {
                retry.failures = 0;
                retry.not_before = StateMs(0);
            }
            for instance in (from..count).filter(|instance| !alive.contains(*instance)) {
                row.pending.insert(instance);
            }
        });
        // What was stopped for good comes again when it has ended.
        for id in live.into_iter().filter(|id| id.instance.0 < count) {
            self.stop_allocation(id, StopIntent::Replace, "wanted again");
        }
    }

    fn drop_replicas(&mut self, job: JobId, task: TaskIndex, count: u32) {
        let is_surplus = |instance: u32| instance >= count;
        self.state.edit_task(job, task, |row| {
            for set in [
                &mut row.pending,
                &mut row.succeeded,
                &mut row.failed,
                &mut row.cancelled,
                &mut row.timed_out,
                &mut row.lost,
            ] {
                *set = set.iter().filter(|instance| !is_surplus(*instance)).collect();
            }
        });
        // A place that was kept for what is not wanted.
        self.drop_places_of(job, "fewer replicas are wanted");
        let live: Vec<_> = self
            .state
            .allocations_of_task(job, task)
            .filter(|row| is_surplus(row.id.instance.0))
            .map(|row| row.id)
            .collect();
        for id in live {
            self.stop_allocation(id, StopIntent::Cancel, "fewer replicas are wanted");
        }
    }

    /// A version of a service that is scaled goes on with as many replicas as there are, wherever
    /// its file begins.
    pub(super) fn with_replicas(row: &JobRow, spec: Arc<JobSpec>) -> Arc<JobSpec> {
        let Some((position, rule)) = spec.scaled() else { return spec };
        let name = &spec.tasks[position].name;
        let before = row.spec.tasks.iter().find(|task| task.name == *name).map(|task| task.count);
        let count = rule.count(before.filter(|_| row.phase == JobPhase::Active));
        if spec.tasks[position].count == count {
            return spec;
        }
        let mut spec = (*spec).clone();
        spec.tasks[position].count = count;
        Arc::new(spec)
    }
}
