//! What became of a list of jobs.

use berth_model::{DurationMs, StateMs};

use super::TraceJob;

/// What became of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct JobOutcome {
    pub ended: StateMs,
    /// What it was without its GPUs.
    pub waited: DurationMs,
    /// How often it was started: once, and again after each preemption.
    pub starts: u64,
    /// What it held its GPUs for without getting on.
    pub restarting: DurationMs,
}

/// Mean and percentiles (the least value that so many parts of all do not exceed).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    pub mean_ms: u64,
    pub p50_ms: u64,
    pub p90_ms: u64,
    pub p99_ms: u64,
    pub max_ms: u64,
}

/// What became of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobsReport {
    /// Of each job, in the order of the list.
    pub outcomes: Vec<JobOutcome>,
    /// From submit to end, less what the job works: waiting, and starting again.
    pub queueing: Figures,
    /// From submit to end.
    pub completion: Figures,
    /// From the first submit to the last end.
    pub makespan_ms: u64,
    /// GPUs by time that was worked on them.
    pub gpu_ms_worked: u128,
    /// GPUs by time for which jobs held them while they started again.
    pub gpu_ms_restarting: u128,
    /// GPUs by time that were held, as counted while they were: the sum of the two.
    pub gpu_ms_held: u128,
    /// GPUs by time that there were, from the first submit to the last end.
    pub gpu_ms_there: u128,
    pub preemptions: u64,
    /// GPUs that were held at a time, at the most.
    pub gpus_used_max: u64,
}

impl JobsReport {
    /// What follows from how each job fared; what was counted meanwhile is to be filled in.
    pub(super) fn new(jobs: &[TraceJob], gpus: u32, outcomes: Vec<JobOutcome>) -> JobsReport {
        let both = || jobs.iter().zip(&outcomes);
        let completion: Vec<u64> =
            both().map(|(job, outcome)| outcome.ended.since(job.submitted).0).collect();
        let queueing = jobs.iter().zip(&completion).map(|(job, all)| all - job.duration.0);
        let first = jobs.iter().map(|job| job.submitted).min().unwrap_or_default();
        let last = outcomes.iter().map(|outcome| outcome.ended).max().unwrap_or_default();
        let makespan_ms = last.since(first).0;
        let gpu_ms = |(job, ms): (&TraceJob, u64)| u128::from(job.gpus) * u128::from(ms);
        JobsReport {
            queueing: Figures::of(queueing.collect()),
            completion: Figures::of(completion),
            makespan_ms,
            gpu_ms_worked: jobs.iter().map(|job| gpu_ms((job, job.duration.0))).sum(),
            gpu_ms_restarting: both()
                .map(|(job, outcome)| gpu_ms((job, outcome.restarting.0)))
                .sum(),
            gpu_ms_there: u128::from(gpus) * u128::from(makespan_ms),
            preemptions: outcomes.iter().map(|outcome| outcome.starts.saturating_sub(1)).sum(),
            gpus_used_max: 0,
            gpu_ms_held: 0,
            outcomes,
        }
    }
}

impl Figures {
    /// All zero of nothing.
    fn of(mut values: Vec<u64>) -> Figures {
        values.sort_unstable();
        let sum: u128 = values.iter().copied().map(u128::from).sum();
        let mean = sum.checked_div(values.len() as u128).unwrap_or(0);
        let percentile = |percent: usize| {
            let rank = (values.len() * percent).div_ceil(100);
            values.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        Figures {
            mean_ms: u64::try_from(mean).unwrap_or(u64::MAX),
            p50_ms: percentile(50),
            p90_ms: percentile(90),
            p99_ms: percentile(99),
            max_ms: percentile(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occur() {
        let figures = Figures::of((1..=200).rev().collect());
        let expected = Figures { mean_ms: 100, p50_ms: 100, p90_ms: 180, p99_ms: 198, max_ms: 200 };
        assert_eq!(figures, expected);
        assert_eq!(Figures::of(vec![7]).p50_ms, 7);
        assert_eq!(Figures::of(Vec::new()), Figures::default());
    }
}
