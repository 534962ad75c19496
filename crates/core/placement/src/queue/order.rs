//! Policies that are an order: the GPUs are given away in it until they are gone. Who is late
//! in the order and runs is preempted.

use berth_model::{JobId, StateMs};

use super::{QueueDecision, QueueJob, QueuePolicy, attained};

/// Less comes first. Those who must not be preempted come before all others, then what the
/// policy goes by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    may_lose: bool,
    value: u64,
    submitted: StateMs,
    id: JobId,
}

/// Who should run under any policy but [`QueuePolicy::Berth`], for which this is backfill.
pub(super) fn decide(
    policy: QueuePolicy,
    gpus: u32,
    now: StateMs,
    jobs: &[QueueJob],
) -> QueueDecision {
    let mut order: Vec<(Rank, usize)> =
        jobs.iter().enumerate().map(|(position, job)| (rank(policy, job), position)).collect();
    order.sort_unstable();
    let mut runs = vec![false; jobs.len()];
    let mut free = gpus;
    for (_, position) in order {
        let job = &jobs[position];
        if job.gpus <= free {
            free -= job.gpus;
            runs[position] = true;
        } else if policy == QueuePolicy::Fifo {
            break;
        }
    }
    let wake = if policy == QueuePolicy::Las2d { next_fall(now, jobs, &runs) } else { None };
    QueueDecision { runs, wake }
}

fn rank(policy: QueuePolicy, job: &QueueJob) -> Rank {
    let remaining = job.remaining.map_or(u64::MAX, |remaining| remaining.0);
    let (may_lose, value) = match policy {
        QueuePolicy::Fifo | QueuePolicy::Backfill | QueuePolicy::Berth => (!job.is_running(), 0),
        QueuePolicy::Sjf => (!job.is_running(), remaining),
        QueuePolicy::Srtf => (true, remaining),
        QueuePolicy::Srsf => (true, remaining.saturating_mul(u64::from(job.gpus))),
        QueuePolicy::Las2d => (true, attained::class_of(job)),
    };
    Rank { may_lose, value, submitted: job.submitted, id: job.id }
}

/// When the first of those that run falls into another class, if that makes a difference.
fn next_fall(now: StateMs, jobs: &[QueueJob], runs: &[bool]) -> Option<StateMs> {
    let running = jobs.iter().zip(runs).filter(|(_, runs)| **runs);
    let fall = |(job, _): (&QueueJob, &bool)| {
        attained::next_limit(job).map(|limit| job.attains_at(limit, now))
    };
    if runs.iter().all(|runs| *runs) { None } else { running.filter_map(fall).min() }
}
