//! Queueing alone: jobs are submitted at their times to one pool of identical GPUs, and a policy of
//! the cluster's own says who has them. No placement, nothing fails; a job that is preempted keeps
//! what it has done and takes a while to start again.

mod report;

use std::collections::BTreeSet;

use berth_model::{DurationMs, JobId, StateMs};
use berth_placement::queue::{Queue, QueueJob, QueuePhase};
use thiserror::Error;

pub use berth_placement::queue::{QueuePart, QueuePolicy};
pub use report::{Figures, JobOutcome, JobsReport};

/// A job of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceJob {
    pub submitted: StateMs,
    /// What it works once it has its GPUs; at least a millisecond.
    pub duration: DurationMs,
    /// At least one, all at once.
    pub gpus: u32,
    /// Whose it is; see [`QueueJob::class`].
    pub class: u32,
}

/// What is run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobsOptions {
    pub gpus: u32,
    pub policy: QueuePolicy,
    /// What [`QueuePolicy::Berth`] is to leave out.
    pub without: BTreeSet<QueuePart>,
    /// What a job that was preempted takes to start again: it holds its GPUs, and does not get on.
    pub restart: DurationMs,
}

/// Why a list cannot be run to its end. Jobs are named by their positions in the list.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum JobsError {
    #[error("job {job_index} wants {wanted} GPUs of {gpus}: it would wait for ever")]
    TooLarge { job_index: usize, wanted: u32, gpus: u32 },
    #[error("job {job_index} wants no GPU, or no time")]
    Empty { job_index: usize },
    #[error("job {job_index} would end after the end of time")]
    TooLate { job_index: usize },
    #[error("{policy} starts none of {waiting} jobs though nothing is to come")]
    Stalled { policy: &'static str, waiting: usize },
    #[error("{policy} gives away {given} GPUs of {gpus}")]
    TooMany { policy: &'static str, given: u64, gpus: u32 },
}

/// The latest end that any job may come to if all ran one after the other: times stay far
/// from where they would not fit.
const END_MS_MAX: u64 = u64::MAX >> 16;

/// What a job is at, beside what the policy sees of it.
#[derive(Clone, Copy, Default)]
struct Course {
    /// What it had attained, and waited, when it last started or stopped.
    attained_ms: u64,
    waited_ms: u64,
    /// When that was.
    at_ms: u64,
    starts: u64,
    restarting_ms: u64,
    ended_ms: u64,
}

/// Runs the list to the last end. Jobs that are submitted at the same time come in the order of the
/// list.
///
/// # Errors
/// What of the list cannot be run, or what the policy does wrong.
pub fn run(jobs: &[TraceJob], options: &JobsOptions) -> Result<JobsReport, JobsError> {
    check(jobs, options)?;
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|job_index| (jobs[*job_index].submitted, *job_index));
    let mut run = Run {
        jobs,
        options,
        queue: Queue::new(options.policy, options.gpus, &options.without),
        now: StateMs(0),
        order,
        submitted: 0,
        present: Vec::new(),
        courses: vec![Course::default(); jobs.len()],
        wake: None,
        gpus_used: 0,
        gpus_used_max: 0,
        gpu_ms_held: 0,
    };
    while let Some(next) = run.next_event()? {
        run.gpu_ms_held += u128::from(run.gpus_used) * u128::from(next.since(run.now).0);
        run.now = next;
        run.progress();
        run.end();
        run.submit();
        run.decide()?;
    }
    Ok(run.report())
}

fn check(jobs: &[TraceJob], options: &JobsOptions) -> Result<(), JobsError> {
    let mut end_ms = 0_u64;
    for (job_index, job) in jobs.iter().enumerate() {
        if job.gpus > options.gpus {
            let (wanted, gpus) = (job.gpus, options.gpus);
            return Err(JobsError::TooLarge { job_index, wanted, gpus });
        }
        if job.gpus == 0 || job.duration == DurationMs::ZERO {
            return Err(JobsError::Empty { job_index });
        }
        end_ms = end_ms.max(job.submitted.0).saturating_add(job.duration.0);
        if end_ms > END_MS_MAX {
            return Err(JobsError::TooLate { job_index });
        }
    }
    Ok(())
}

/// A run between two events.
struct Run<'a> {
    jobs: &'a [TraceJob],
    options: &'a JobsOptions,
    queue: Queue,
    now: StateMs,
    /// Positions in the order in which they are submitted; ids are positions in this.
    order: Vec<usize>,
    /// How many of them have been.
    submitted: usize,
    /// Those that wait and run, in the order of their ids.
    present: Vec<QueueJob>,
    /// Of each id.
    courses: Vec<Course>,
    /// When the policy wants to be asked again.
    wake: Option<StateMs>,
    gpus_used: u64,
    gpus_used_max: u64,
    gpu_ms_held: u128,
}

impl Run<'_> {
    fn job(&self, id: JobId) -> TraceJob {
        self.jobs[self.order[index_of(id)]]
    }

    /// The next time at which anything happens; `None` once all has.
    fn next_event(&self) -> Result<Option<StateMs>, JobsError> {
        let next = self.order.get(self.submitted).map(|job| self.jobs[*job].submitted);
        let ends = self.present.iter().filter_map(|job| self.ends_at(job));
        let next = ends.chain(next).chain(self.wake).min();
        if next.is_none() && !self.present.is_empty() {
            let policy = self.options.policy.name();
            return Err(JobsError::Stalled { policy, waiting: self.present.len() });
        }
        Ok(next)
    }

    fn ends_at(&self, job: &QueueJob) -> Option<StateMs> {
        let course = &self.courses[index_of(job.id)];
        match job.phase {
            QueuePhase::Waiting => None,
            QueuePhase::Running { works_from, .. } => {
                let left = self.job(job.id).duration.0 - course.attained_ms;
                Some(works_from.after(DurationMs(left)))
            }
        }
    }

    /// Brings what the policy sees up to now.
    fn progress(&mut self) {
        for job in &mut self.present {
            let course = &self.courses[index_of(job.id)];
            match job.phase {
                QueuePhase::Waiting => {
                    job.waited = DurationMs(course.waited_ms + (self.now.0 - course.at_ms));
                }
                QueuePhase::Running { works_from, .. } => {
                    let worked = self.now.since(works_from);
                    job.attained = DurationMs(course.attained_ms + worked.0);
                }
            }
            let duration = self.jobs[self.order[index_of(job.id)]].duration;
            job.remaining = Some(DurationMs(duration.0 - job.attained.0));
        }
    }

    /// Those that have done their work leave.
    fn end(&mut self) {
        let (now, courses, queue) = (self.now, &mut self.courses, &mut self.queue);
        self.present.retain(|job| {
            let is_done = job.remaining == Some(DurationMs::ZERO);
            if is_done {
                let course = &mut courses[index_of(job.id)];
                (course.ended_ms, course.waited_ms) = (now.0, job.waited.0);
                queue.ended(job);
            }
            !is_done
        });
    }

    fn submit(&mut self) {
        while let Some(position) = self.order.get(self.submitted) {
            let job = self.jobs[*position];
            if job.submitted > self.now {
                break;
            }
            self.courses[self.submitted].at_ms = self.now.0;
            self.present.push(QueueJob {
                id: JobId(self.submitted as u64),
                gpus: job.gpus,
                submitted: job.submitted,
                class: job.class,
                attained: DurationMs::ZERO,
                waited: DurationMs::ZERO,
                phase: QueuePhase::Waiting,
                remaining: Some(job.duration),
            });
            self.submitted += 1;
        }
    }

    fn decide(&mut self) -> Result<(), JobsError> {
        let decision = self.queue.decide(self.now, &self.present);
        self.wake = decision.wake.filter(|wake| *wake > self.now);
        let mut given = 0;
        for (job, runs) in self.present.iter_mut().zip(&decision.runs) {
            let course = &mut self.courses[index_of(job.id)];
            match (job.is_running(), *runs) {
                (false, true) => start(job, course, self.now, self.options.restart),
                (true, false) => stop(job, course, self.now),
                (true, true) | (false, false) => {}
            }
            given += if *runs { u64::from(job.gpus) } else { 0 };
        }
        self.gpus_used = given;
        self.gpus_used_max = self.gpus_used_max.max(given);
        if given > u64::from(self.options.gpus) {
            let (policy, gpus) = (self.options.policy.name(), self.options.gpus);
            return Err(JobsError::TooMany { policy, given, gpus });
        }
        Ok(())
    }

    fn report(&self) -> JobsReport {
        let mut outcomes = vec![JobOutcome::default(); self.jobs.len()];
        for (course, position) in self.courses.iter().zip(&self.order) {
            outcomes[*position] = JobOutcome {
                ended: StateMs(course.ended_ms),
                waited: DurationMs(course.waited_ms),
                starts: course.starts,
                restarting: DurationMs(course.restarting_ms),
            };
        }
        JobsReport {
            gpus_used_max: self.gpus_used_max,
            gpu_ms_held: self.gpu_ms_held,
            ..JobsReport::new(self.jobs, self.options.gpus, outcomes)
        }
    }
}

fn index_of(id: JobId) -> usize {
    usize::try_from(id.0).unwrap_or(usize::MAX)
}

fn start(job: &mut QueueJob, course: &mut Course, now: StateMs, restart: DurationMs) {
    let delay = if course.starts > 0 { restart } else { DurationMs::ZERO };
    course.waited_ms = job.waited.0;
    course.starts += 1;
    course.restarting_ms += delay.0;
    job.phase = QueuePhase::Running { since: now, works_from: now.after(delay) };
}

fn stop(job: &mut QueueJob, course: &mut Course, now: StateMs) {
    if let QueuePhase::Running { works_from, .. } = job.phase {
        // What it will not need any more of starting again.
        course.restarting_ms -= works_from.since(now).0;
    }
    course.attained_ms = job.attained.0;
    course.at_ms = now.0;
    job.phase = QueuePhase::Waiting;
}

#[cfg(test)]
mod tests;
