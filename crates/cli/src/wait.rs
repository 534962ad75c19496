//! Waits for a state of a job.

use std::time::Duration;

use berth_proto::v1::{GetJobRequest, Job, JobKind, TaskStatus};
use clap::ValueEnum;
use tokio::time::{Instant, sleep};

use crate::error::CliError;
use crate::interrupt::Doing;
use crate::session::Session;

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// Something of it runs; of a service, every replica is ready
    Running,
    /// It has ended well
    Succeeded,
    /// It has ended, however
    Stopped,
}

/// The first look again comes soon, since many jobs are short; later ones cost
/// the cluster a read a second.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a look at the job says about the target.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Reached,
    NotYet,
    Never,
}

/// The job once it is as wanted.
///
/// # Errors
/// It ended another way, the user's time is up, or the cluster is lost.
pub(crate) async fn until(
    session: &mut Session<'_, '_>,
    job: &str,
    target: Target,
) -> Result<Job, CliError> {
    let end = session.timeout.map(|timeout| Instant::now() + timeout);
    let mut request =
        GetJobRequest { job: Some(session.job(job)), consistency: 0, with_spec: false };
    let mut pause = PAUSE;
    loop {
        let found = session.client.get_job(request.clone()).await?;
        // A name may come to mean another job meanwhile; the id does not.
        request.job = Some(session.job(&found.id.to_string()));
        session.interrupt.set(Doing::Waiting { job_id: found.id });
        match judge(&found, target) {
            Verdict::Reached => {
                session.console.end_progress();
                return Ok(found);
            }
            Verdict::Never => {
                session.console.end_progress();
                return Err(failed(&found));
            }
            Verdict::NotYet => session.console.progress(&progress(&found)),
        }
        if end.is_some_and(|end| Instant::now() + pause >= end) {
            session.console.end_progress();
            let message = format!("job {} ({}) is still {}", found.id, found.name, found.state);
            let hint = Some(format!("`berth job explain {}` tells why", found.id));
            return Err(CliError::TimedOut { message, hint });
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(PAUSE_MAX);
    }
}

fn judge(job: &Job, target: Target) -> Verdict {
    let has_ended =
        matches!(job.state.as_str(), "succeeded" | "failed" | "cancelled" | "timed_out");
    let has_succeeded = job.state == "succeeded";
    let runs = match JobKind::try_from(job.kind) {
        Ok(JobKind::Service | JobKind::Daemon) => {
            job.state == "running"
                && job.tasks.iter().all(|task| task.ready >= u64::from(task.count))
        }
        Ok(JobKind::Batch | JobKind::Unspecified) | Err(_) => job.state == "running",
    };
    let reached = match target {
        Target::Running => runs || has_succeeded,
        Target::Succeeded => has_succeeded,
        Target::Stopped => has_ended,
    };
    match (reached, has_ended) {
        (true, _) => Verdict::Reached,
        (false, true) => Verdict::Never,
        (false, false) => Verdict::NotYet,
    }
}

fn failed(job: &Job) -> CliError {
    let reason = if job.reason.is_empty() { String::new() } else { format!(": {}", job.reason) };
    let message = format!("job {} ({}) {}{reason}", job.id, job.name, job.state);
    let hint = Some(format!("`berth logs {}` shows its output", job.id));
    CliError::JobFailed { message, hint }
}

fn progress(job: &Job) -> String {
    let sum = |part: fn(&TaskStatus) -> u64| job.tasks.iter().map(part).sum::<u64>();
    format!(
        "job {} {}: {} of {} running, {} succeeded, {} failed",
        job.id,
        job.state,
        sum(|task| task.running),
        sum(|task| u64::from(task.count)),
        sum(|task| task.succeeded),
        sum(|task| task.failed),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(kind: JobKind, state: &str, ready: u64) -> Job {
        let task = TaskStatus { count: 2, ready, ..TaskStatus::default() };
        Job { kind: kind.into(), state: state.into(), tasks: vec![task], ..Job::default() }
    }

    #[test]
    fn each_target_is_reached_by_its_states() {
        use Target::{Running, Stopped, Succeeded};
        use Verdict::{Never, NotYet, Reached};
        for (state, target, expected) in [
            ("queued", Running, NotYet),
            ("running", Running, Reached),
            ("succeeded", Running, Reached),
            ("failed", Running, Never),
            ("running", Succeeded, NotYet),
            ("succeeded", Succeeded, Reached),
            ("cancelled", Succeeded, Never),
            ("timed_out", Succeeded, Never),
            ("running", Stopped, NotYet),
            ("failed", Stopped, Reached),
        ] {
            assert_eq!(
                judge(&job(JobKind::Batch, state, 0), target),
                expected,
                "{state} {target:?}"
            );
        }
    }

    #[test]
    fn a_service_runs_when_every_replica_is_ready() {
        let verdict = |ready| judge(&job(JobKind::Service, "running", ready), Target::Running);
        assert_eq!(verdict(1), Verdict::NotYet);
        assert_eq!(verdict(2), Verdict::Reached);
    }
}
