//! Who may be ended for whom. Priorities are compared as they were submitted: waiting makes a
//! task come earlier in the queue, and gives it no right over what runs, so that equals never
//! end each other in turns.

use crate::time::DurationMs;

/// A job ends others only if its priority is higher by so much.
pub const PREEMPTION_GAP: u8 = 10;

/// What has waited for so long may have a place kept for it while others there end by themselves:
/// by then it stands [`PREEMPTION_GAP`] points ahead of what comes now, at a point a minute.
pub const PATIENCE: DurationMs = DurationMs(10 * 60_000);

/// Whether a priority is so far above another that it may end what has that.
#[must_use]
pub fn outranks(priority: u8, other: u8) -> bool {
    other.saturating_add(PREEMPTION_GAP) <= priority
}

/// What a job does to others that run, and what they may do to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Preemption {
    /// Whether it may end what runs at a lower priority, to get its place.
    pub preempts: bool,
    /// Whether it may be ended for what waits at a higher priority.
    pub preemptible: bool,
    /// An instance of it has run for so long before it is ended for another.
    pub min_run: DurationMs,
}

impl Preemption {
    /// Of a job file that says nothing: long enough for a worker to come so far that ending it is
    /// worth its start, short enough that what is urgent need not be told.
    pub const MIN_RUN_DEFAULT: DurationMs = DurationMs::from_secs(30);
}

impl Default for Preemption {
    fn default() -> Preemption {
        Preemption { preempts: true, preemptible: true, min_run: Preemption::MIN_RUN_DEFAULT }
    }
}
