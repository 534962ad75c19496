//! Jobs as people change them: submit, update, stop, restart, hold, roll back.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_model::{
    JobId, JobKind, JobSpec, JobState, Name, Outcome, RangeSet, SpecDigest, StateMs, StopIntent,
    TaskIndex,
};

use super::Step;
use crate::command::{KEY_BYTES_MAX, SubmitJob};
use crate::event::EventKind;
use crate::refusal::Refusal;
use crate::rows::{JobPhase, JobRow, JobVersionRow, KeyRow, Rollout, TaskRow, VERSIONS_MAX};
use crate::state::Reply;
use crate::version::job_id_step;

impl Step<'_> {
    pub(super) fn submit(&mut self, submit: &SubmitJob) -> Result<Reply, Refusal> {
        if self.state.cluster.id == [0; 16] {
            return Err(Refusal::NotFounded);
        }
        let namespace = &submit.spec.namespace;
        if let Some(key) = &submit.key {
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                return Err(Refusal::Invalid(format!("a key has 1 to {KEY_BYTES_MAX} bytes")));
            }
            if let Some(known) = self.state.keys.get(&(namespace.clone(), key.clone())) {
                let (job, version) = (known.job, known.version);
                return if known.digest == submit.digest {
                    Ok(Reply::Submitted { job, version, existed: true })
                } else {
                    Err(Refusal::KeyConflict { key: key.clone(), job })
                };
            }
        }
        // From here on it is what its namespace, and what is set of policies, make of it; a repeat
        // is known by what was asked.
        let asked = submit.digest;
        let submit = &self.in_range(&self.with_policy(submit))?;
        let problems = berth_model::validate(&submit.spec);
        if let Some(first) = problems.first() {
            return Err(Refusal::Invalid(format!("{}: {}", first.field, first.message)));
        }
        let reply = match self.named_job(&submit.spec) {
            Some(job) => self.update_named(job, submit)?,
            None => match submit.if_version {
                Some(asked) if asked > 0 => return Err(Refusal::NothingToUpdate { asked }),
                Some(_) | None => {
                    self.state.check_queue(namespace)?;
                    self.create(submit)
                }
            },
        };
        if let (Some(key), Reply::Submitted { job, version, .. }) = (&submit.key, &reply) {
            let (job, version) = (*job, *version);
            let row = KeyRow { job, digest: asked, version, forget_at: None };
            self.state.put_key(namespace.clone(), key.clone(), row);
            let before = self.state.jobs.get(&job).and_then(|row| row.key.clone());
            if let Some(old) = before.filter(|old| old != key) {
                self.release_key(namespace, &old);
            }
            self.state.edit_job(job, |row| row.key = Some(key.clone()));
        }
        Ok(reply)
    }

    /// The job that a submit of this spec would update.
    fn named_job(&self, spec: &JobSpec) -> Option<Arc<JobRow>> {
        if !spec.kind.is_named() {
            return None;
        }
        self.state
            .jobs_named(&spec.namespace, &spec.name)
            .rfind(|job| job.kind().is_named())
            .cloned()
    }

    fn create(&mut self, submit: &SubmitJob) -> Reply {
        self.state.cluster.job_counter += job_id_step(self.state.cluster.cluster_version);
        let job = JobId(self.state.cluster.job_counter);
        let spec = submit.spec.clone();
        self.state.insert_job(JobRow {
            id: job,
            spec: spec.clone(),
            digest: submit.digest,
            version: 1,
            versions: Vec::new(),
            key: submit.key.clone(),
            phase: JobPhase::Active,
            held: false,
            submitted_at: self.wall,
            submitted_ms: self.now,
            started_at: None,
            finished_at: None,
            reason: String::new(),
            live: 0,
            rollout: None,
            proven: None,
        });
        for (position, task) in spec.tasks.iter().enumerate() {
            let pending = match spec.kind {
                JobKind::Batch | JobKind::Service => RangeSet::first(task.count),
                JobKind::Daemon => RangeSet::new(),
            };
            let row = TaskRow { pending, ..TaskRow::default() };
            self.state.insert_task(job, task_index(position), row);
        }
        let (namespace, name) = (spec.namespace.clone(), spec.name.clone());
        self.emit_job(job, EventKind::JobSubmitted { namespace, name });
        self.emit_queued(job);
        Reply::Submitted { job, version: 1, existed: false }
    }

    fn update_named(&mut self, row: Arc<JobRow>, submit: &SubmitJob) -> Result<Reply, Refusal> {
        let job = row.id;
        if row.kind() != submit.spec.kind {
            let (found, asked) = (row.kind().name(), submit.spec.kind.name());
            return Err(Refusal::KindChanged { job, found, asked });
        }
        if let Some(asked) = submit.if_version.filter(|asked| *asked != row.version) {
            return Err(Refusal::VersionConflict { job, asked, found: row.version });
        }
        if row.digest == submit.digest && row.phase == JobPhase::Active {
            return Ok(Reply::Submitted { job, version: row.version, existed: true });
        }
        self.may_revive(&row)?;
        let spec = Step::with_replicas(&row, submit.spec.clone());
        let version = self.new_version(&row, spec, submit.digest);
        Ok(Reply::Submitted { job, version, existed: false })
    }

    /// Makes `spec` the current version. What no longer belongs is stopped at
    /// once; what merely runs an older version is replaced by the leader's
    /// orders, a few at a time.
    fn new_version(&mut self, row: &JobRow, spec: Arc<JobSpec>, digest: SpecDigest) -> u32 {
        let job = row.id;
        let version = row.version + 1;
        self.note_proven(row);
        let in_use: BTreeSet<u32> =
            self.state.allocations_of(job).map(|allocation| allocation.job_version).collect();
        let (wall, now) = (self.wall, self.now);
        let revived = row.phase != JobPhase::Active;
        let new_spec = spec.clone();
        self.state.edit_job(job, |row| {
            row.versions.push(JobVersionRow {
                version: row.version,
                spec: row.spec.clone(),
                digest: row.digest,
                submitted_at: row.submitted_at,
            });
            let surplus = (row.versions.len() + 1).saturating_sub(VERSIONS_MAX);
            let keep_from = row.versions.get(surplus).map_or(0, |kept| kept.version);
            let proven = row.proven;
            row.versions.retain(|old| {
                let is_needed = in_use.contains(&old.version) || proven == Some(old.version);
                old.version >= keep_from || is_needed
            });
            row.version = version;
            row.spec = new_spec;
            row.digest = digest;
            row.submitted_at = wall;
            if revived {
                row.phase = JobPhase::Active;
                row.submitted_ms = now;
                row.finished_at = None;
                row.held = false;
            }
            row.reason = String::new();
            row.rollout = Some(Rollout { progressed_at: now, ready_max: 0, failed: false });
        });
        // What they were kept for is not what is asked for now.
        self.drop_places_of(job, "its job has a new version");
        let old_spec = row.spec.clone();
        let positions = old_spec.tasks.len().max(spec.tasks.len());
        for position in 0..positions {
            let old = old_spec.tasks.get(position);
            let new = spec.tasks.get(position);
            let kept = match (old, new) {
                (Some(old), Some(new)) if old.name != new.name => Kept::Other,
                (Some(old), Some(new)) if old.gang.is_some() || new.gang.is_some() => Kept::Gang,
                (Some(_), Some(_)) => Kept::Same,
                (None, Some(_) | None) | (Some(_), None) => Kept::Other,
            };
            let count = new.map_or(0, |task| task.count);
            self.resize_task(job, task_index(position), Resize { kind: spec.kind, count, kept });
        }
        self.emit_job(job, EventKind::JobUpdated { version });
        self.emit_queued(job);
        self.settle_job(job, row.state());
        version
    }

    /// Gives a task of a named job `count` instances. Attempts already made
    /// are remembered for ever: an allocation's id is never used twice.
    fn resize_task(&mut self, job: JobId, task: TaskIndex, to: Resize) {
        let Resize { kind, count, kept } = to;
        if self.state.tasks.get(&(job, task)).is_none() {
            self.state.insert_task(job, task, TaskRow::default());
        }
        let live: Vec<_> = self
            .state
            .allocations_of_task(job, task)
            .map(|row| (row.id, row.state.stop_intent()))
            .collect();
        let alive: RangeSet = live.iter().map(|(id, _)| id.instance.0).collect();
        self.state.edit_task(job, task, |row| {
            let mut retries = std::mem::take(&mut row.retries);
            for retry in retries.values_mut() {
                retry.failures = 0;
                retry.not_before = StateMs(0);
            }
            let live = row.live;
            *row = TaskRow {
                retries,
                live,
                failures: std::mem::take(&mut row.failures),
                ..TaskRow::default()
            };
            if kind == JobKind::Service {
                row.pending = (0..count).filter(|instance| !alive.contains(*instance)).collect();
            }
        });
        for (id, intent) in live {
            let wanted = match kind {
                JobKind::Service => id.instance.0 < count,
                JobKind::Batch | JobKind::Daemon => true,
            };
            let (order, reason) = match (wanted, kept, intent) {
                (false, _, _) => (StopIntent::Cancel, "no longer part of the job"),
                (true, Kept::Other, _) => (StopIntent::Replace, "another task took its place"),
                // It was being stopped for good; the new version wants it.
                (true, Kept::Same, Some(StopIntent::Cancel)) => {
                    (StopIntent::Replace, "replaced by a new version")
                }
                (true, Kept::Gang, _) => (StopIntent::Replace, "replaced by a new version"),
                (true, Kept::Same, _) => continue,
            };
            self.stop_allocation(id, order, reason);
        }
    }

    pub(super) fn stop_job(&mut self, job: JobId, reason: &str) -> Result<Reply, Refusal> {
        let row = self.state.job_row(job)?;
        if row.is_ended() {
            return Err(Refusal::JobEnded(job));
        }
        let reason = super::bounded(reason, crate::rows::REASON_BYTES_MAX);
        let row = row.clone();
        self.note_proven(&row);
        self.emit_job(job, EventKind::JobStopping { reason: reason.clone() });
        self.end_job(job, JobState::Cancelled, &reason);
        Ok(Reply::Done)
    }

    pub(super) fn expire_job(&mut self, job: JobId) -> Result<Reply, Refusal> {
        let row = self.state.job_row(job)?;
        if row.phase != JobPhase::Active {
            return Err(Refusal::JobEnded(job));
        }
        let over = row.spec.deadline.is_some_and(|span| row.submitted_ms.after(span) <= self.now);
        if !over {
            return Err(Refusal::TooEarly);
        }
        self.end_job(job, JobState::TimedOut, "the job's deadline passed");
        Ok(Reply::Done)
    }

    /// Nothing of the job starts any more; what lives is stopped.
    fn end_job(&mut self, job: JobId, state: JobState, reason: &str) {
        let (outcome, intent) = if state == JobState::TimedOut {
            (Outcome::TimedOut, StopIntent::TimeOut)
        } else {
            (Outcome::Cancelled, StopIntent::Cancel)
        };
        let Some(before) = self.state.jobs.get(&job).map(|row| row.state()) else { return };
        for task in self.state.task_indices(job) {
            self.state.edit_task(job, task, |row| {
                let waiting = std::mem::take(&mut row.pending);
                for (start, end) in waiting.ranges() {
                    row.ended_mut(outcome).insert_range(start, end);
                }
            });
        }
        self.state.edit_job(job, |row| {
            row.phase = JobPhase::Ending(state);
            row.reason = reason.to_owned();
        });
        let live: Vec<_> = self.state.allocations_of(job).map(|row| row.id).collect();
        for id in live {
            self.stop_allocation(id, intent, reason);
        }
        self.settle_job(job, before);
    }

    pub(super) fn restart_job(&mut self, job: JobId) -> Result<Reply, Refusal> {
        if self.state.job_row(job)?.phase != JobPhase::Active {
            return Err(Refusal::JobEnded(job));
        }
        let live: Vec<_> = self.state.allocations_of(job).map(|row| row.id).collect();
        for id in live {
            self.stop_allocation(id, StopIntent::Replace, "restart asked for");
        }
        self.dismiss_away_of(job, "restart asked for");
        Ok(Reply::Done)
    }

    pub(super) fn set_held(&mut self, job: JobId, kind: EventKind) -> Result<Reply, Refusal> {
        if self.state.job_row(job)?.phase != JobPhase::Active {
            return Err(Refusal::JobEnded(job));
        }
        let held = kind == EventKind::JobHeld;
        if self.state.job_row(job)?.held != held {
            self.state.edit_job(job, |row| {
                row.held = held;
            });
            self.restart_progress(job);
            self.emit_job(job, kind);
            self.emit_queued(job);
        }
        Ok(Reply::Done)
    }

    pub(super) fn roll_back(&mut self, job: JobId, to_version: u32) -> Result<Reply, Refusal> {
        let row = self.state.job_row(job)?.clone();
        let wanted = if to_version == 0 { row.version.saturating_sub(1) } else { to_version };
        let old = row.versions.iter().find(|old| old.version == wanted);
        let Some(old) = old.filter(|_| row.kind().is_named()) else {
            return Err(Refusal::NoSuchVersion { job, version: wanted });
        };
        self.may_revive(&row)?;
        let spec = Step::with_replicas(&row, old.spec.clone());
        let version = self.new_version(&row, spec, old.digest);
        Ok(Reply::Submitted { job, version, existed: false })
    }

    pub(super) fn purge_job(&mut self, job: JobId) -> Result<Reply, Refusal> {
        if !self.state.job_row(job)?.is_ended() {
            return Err(Refusal::JobNotEnded(job));
        }
        self.forget_job(job);
        Ok(Reply::Done)
    }

    /// Says that instances wait, if any do and may be placed.
    pub(super) fn emit_queued(&mut self, job: JobId) {
        if !self.state.jobs.get(&job).is_some_and(|row| row.places()) {
            return;
        }
        let tasks = self.state.task_indices(job);
        let waiting = |task: &TaskIndex| {
            self.state.tasks.get(&(job, *task)).map_or(0, |row| row.pending.len())
        };
        let count = tasks.iter().map(waiting).sum();
        self.emit_job(job, EventKind::InstancesQueued { count });
    }

    /// Lets a key go after the time for which it is still remembered.
    pub(super) fn release_key(&mut self, namespace: &Name, key: &str) {
        let id = (namespace.clone(), key.to_owned());
        if let Some(row) = self.state.keys.get(&id) {
            let forget_at = Some(self.now.after(super::reap::KEY_KEPT));
            let row = KeyRow { forget_at, ..(**row).clone() };
            self.state.put_key(id.0, id.1, row);
        }
    }
}

/// What a task of a named job becomes.
#[derive(Clone, Copy)]
struct Resize {
    kind: JobKind,
    count: u32,
    kept: Kept,
}

/// Whether a position still holds the task that it held before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Same,
    /// Or it is or was a gang: its members go together.
    Gang,
    Other,
}

pub(super) fn task_index(position: usize) -> TaskIndex {
    // Validation allows 64 tasks.
    TaskIndex(u16::try_from(position).unwrap_or(u16::MAX))
}
