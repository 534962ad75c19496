//! The line of those who have waited long: whatever they are worth, each gets a turn. So nobody
//! starves, however many there are whose work is worth more.
//!
//! A job that has been without its GPUs for [`WAIT_MAX`] since its last turn joins the line, in
//! the order in which they come to that; the first of those in it that have no GPUs has the next turn,
//! which is [`QUANTUM`] of work that nobody takes from it. Turns come one at a time, and a turn
//! of g of the pool's C GPUs keeps the next one off for [`PACE`] g / C quanta from its start: the
//! line takes about one part in [`PACE`] of the pool, and the order by worth keeps the rest.
//!
//! **Bound.** Let n be the most jobs there are at a time, R what it takes to start again, M how
//! long a job stays once it has started, Q the quantum, and suppose the policy is asked whenever
//! it wants to be. Then a job has waited for at most W + n (PACE Q + Q + M + 2 R) between two
//! turns, or before its first, where W is [`WAIT_MAX`].
//!
//! *Proof.* Having waited W it is in the line. Before it are those who came to that earlier: at
//! most the n - 1 others that are there at the time, each once, since who has had a turn joins
//! again only behind it, as do all who are yet to come. Ends do not add to them, and those that
//! have GPUs anyway let it pass. So at most n - 1 turns are before its own. From the start of a turn,
//! the next is due after the longer of R + Q (its own length) and PACE Q g / C, which is at
//! most PACE Q as g is at most C. When a turn is due, nobody else is given GPUs until its job
//! starts; those who cannot be preempted are those who have started less than R + M ago, and
//! everybody else makes room at once, so that it starts within R + M. Its own delay being the
//! same, n times the sum is a bound. Every turn takes it on by Q or to its end; so whatever takes D to
//! do has waited for at most the bound times D / Q, rounded up, and ends. ∎

use std::collections::BTreeMap;

use berth_model::{DurationMs, JobId, StateMs};

use super::{QueueJob, QueuePhase};

/// Waiting that makes a turn due. Longer than what jobs wait where there is room for all sooner
/// or later, so that the line is empty there.
pub const WAIT_MAX: DurationMs = DurationMs::from_secs(36_000);
/// The work of a turn: some hundred times what it takes to start again, so that turns cost little.
pub const QUANTUM: DurationMs = DurationMs::from_secs(10_800);
/// The part of the pool that goes by the line is one in so many. Twice as much costs an overloaded pool
/// (docs/queueing.md) some hundredths of its mean.
pub const PACE: u64 = 64;

#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Of the pool.
    gpus: u32,
    /// What a job had waited when its last turn began.
    paid: BTreeMap<JobId, DurationMs>,
    /// Since when a job is in the line.
    joined: BTreeMap<JobId, StateMs>,
    /// Who has its turn.
    turn: Option<JobId>,
    next_at: StateMs,
}

impl Line {
    pub(super) fn new(gpus: u32) -> Line {
        Line {
            gpus,
            paid: BTreeMap::new(),
            joined: BTreeMap::new(),
            turn: None,
            next_at: StateMs(0),
        }
    }

    /// Brings the line up to date.
    pub(super) fn look(&mut self, now: StateMs, jobs: &[QueueJob]) {
        for job in jobs.iter().filter(|job| !job.is_running()) {
            if let Some(over) = self.unpaid(job).0.checked_sub(WAIT_MAX.0) {
                self.joined.entry(job.id).or_insert(StateMs(now.0.saturating_sub(over)));
            }
        }
        let has_turn = |job: &QueueJob| self.turn == Some(job.id) && now < turn_ends(job, now);
        if !jobs.iter().any(|job| job.is_running() && has_turn(job)) {
            self.turn = None;
        }
    }

    pub(super) fn has_turn(&self, job: &QueueJob) -> bool {
        self.turn == Some(job.id)
    }

    /// The position of the job whose turn is due.
    pub(super) fn head(&self, now: StateMs, jobs: &[QueueJob]) -> Option<usize> {
        if self.turn.is_some() || now < self.next_at {
            return None;
        }
        let waiting = jobs.iter().enumerate().filter(|(_, job)| !job.is_running());
        let in_line = waiting.filter_map(|(position, job)| {
            self.joined.get(&job.id).map(|joined| (*joined, job.id, position))
        });
        in_line.min().map(|(_, _, position)| position)
    }

    /// A turn begins.
    pub(super) fn begin(&mut self, now: StateMs, job: &QueueJob) {
        self.turn = Some(job.id);
        self.joined.remove(&job.id);
        self.paid.insert(job.id, job.waited);
        let gap = u128::from(QUANTUM.0) * u128::from(PACE) * u128::from(job.gpus)
            / u128::from(self.gpus.max(1));
        self.next_at = now.after(DurationMs(u64::try_from(gap).unwrap_or(u64::MAX)));
    }

    pub(super) fn ended(&mut self, id: JobId) {
        self.paid.remove(&id);
        self.joined.remove(&id);
    }

    /// When something here changes by time alone.
    pub(super) fn wake(&self, now: StateMs, jobs: &[QueueJob]) -> Option<StateMs> {
        let of_job = |job: &QueueJob| {
            if self.has_turn(job) {
                Some(turn_ends(job, now))
            } else if job.is_running() {
                None
            } else if self.joined.contains_key(&job.id) {
                Some(self.next_at)
            } else {
                let left = WAIT_MAX.0.saturating_sub(self.unpaid(job).0);
                Some(now.after(DurationMs(left)))
            }
        };
        jobs.iter().filter_map(of_job).filter(|at| *at > now).min()
    }

    /// What a job has waited since its last turn began.
    fn unpaid(&self, job: &QueueJob) -> DurationMs {
        let paid = self.paid.get(&job.id).map_or(0, |paid| paid.0);
        DurationMs(job.waited.0.saturating_sub(paid))
    }
}

/// When the turn of a job is over, if it has one; of one that starts now at the earliest.
fn turn_ends(job: &QueueJob, now: StateMs) -> StateMs {
    match job.phase {
        QueuePhase::Waiting => now.after(QUANTUM),
        QueuePhase::Running { works_from, .. } => works_from.after(QUANTUM),
    }
}
