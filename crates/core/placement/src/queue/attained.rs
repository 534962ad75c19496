//! Attained service in classes, as Tiresias has it (Gu et al., NSDI 2019, "discretized 2D-LAS"):
//! who has had little comes before who has had more, and within a class who came first.

use berth_model::DurationMs;

use super::QueueJob;

/// Where a class ends, in GPU milliseconds: one GPU hour, and ten.
const LIMITS_GPU_MS: [u64; 2] = [3_600_000, 36_000_000];

/// The class that a job is in; less comes first.
pub(super) fn class_of(job: &QueueJob) -> u64 {
    let service = job.attained.0.saturating_mul(u64::from(job.gpus));
    let passed = LIMITS_GPU_MS.iter().filter(|limit| service >= **limit).count();
    u64::try_from(passed).unwrap_or(u64::MAX)
}

/// What it will have attained when it falls into the next class.
pub(super) fn next_limit(job: &QueueJob) -> Option<DurationMs> {
    let gpus = u64::from(job.gpus).max(1);
    let limits = LIMITS_GPU_MS.iter().map(|limit| limit.div_ceil(gpus));
    limits.map(DurationMs).find(|limit| *limit > job.attained)
}
