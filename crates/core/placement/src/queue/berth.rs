//! The order of a queue whose durations nobody knows: what ended jobs teach says what each one
//! is worth, those who run are stopped only for a clear gain, and who has waited long gets a
//! turn. What each part buys is measured in docs/queueing.md.

use std::collections::BTreeSet;

use berth_model::{DurationMs, StateMs};

use super::exchange::{Offer, Pool};
use super::history::{History, Knowledge, LEVELS, level_begins, level_of};
use super::line::Line;
use super::worth::SCALE_BITS;
use super::{QueueDecision, QueueJob, QueuePart, QueuePhase};

/// Who has started stays for so long: ten times what it takes to start again, so that at most
/// a tenth is lost, and as long as the first level of which anything is known.
const MINIMUM_RUN: DurationMs = DurationMs::from_secs(300);
/// A gain of less than this many times the loss is not worth starting again for, as both
/// are guesses.
const THRESHOLD: u64 = 3;
/// So many times a job may become worth what it is by having waited: large ones are not passed
/// over again and again. No more than the threshold, so that nobody is stopped for one that has nothing
/// else to say for itself, and equals never take turns.
const PATIENCE_MAX: u128 = THRESHOLD as u128;
/// What patience adds is reckoned in parts of so many bits.
const PART_BITS: u32 = 10;
/// Densities are in so much finer steps than rates.
const DENSITY_BITS: u32 = 16;

#[derive(Clone, Debug)]
pub(super) struct BerthQueue {
    gpus: u32,
    without: BTreeSet<QueuePart>,
    history: History,
    line: Line,
}

impl BerthQueue {
    pub(super) fn new(gpus: u32, without: &BTreeSet<QueuePart>) -> BerthQueue {
        let knowledge = if without.contains(&QueuePart::Learning) {
            Knowledge::Nothing
        } else if without.contains(&QueuePart::Classes) {
            Knowledge::Sizes
        } else {
            Knowledge::Classes
        };
        let (history, line) = (History::new(knowledge), Line::new(gpus));
        BerthQueue { gpus, without: without.clone(), history, line }
    }

    pub(super) fn ended(&mut self, job: &QueueJob) {
        self.history.ended(job);
        self.line.ended(job.id);
    }

    pub(super) fn decide(&mut self, now: StateMs, jobs: &[QueueJob]) -> QueueDecision {
        for job in jobs.iter().filter(|job| job.is_running()) {
            self.history.observe(job);
        }
        if self.has(QueuePart::Line) {
            self.line.look(now, jobs);
        }
        if jobs.iter().all(QueueJob::is_running) {
            return QueueDecision { runs: vec![true; jobs.len()], wake: None };
        }
        let mut runs: Vec<bool> = jobs.iter().map(|job| self.stays(now, job)).collect();
        let mut pool = self.pool(jobs, &runs);
        if self.give_turn(now, jobs, &mut pool) {
            self.choose(&mut pool);
        }
        for offer in pool.running() {
            runs[offer.position] = true;
        }
        let wake = self.wake(now, jobs, &runs);
        QueueDecision { runs, wake }
    }

    fn has(&self, part: QueuePart) -> bool {
        !self.without.contains(&part)
    }

    fn threshold(&self) -> u64 {
        if self.has(QueuePart::Threshold) { THRESHOLD } else { 1 }
    }

    fn minimum_run(&self) -> DurationMs {
        if self.has(QueuePart::MinimumRun) { MINIMUM_RUN } else { DurationMs::ZERO }
    }

    /// Whether a job runs and must not be stopped now.
    fn stays(&self, now: StateMs, job: &QueueJob) -> bool {
        match job.phase {
            QueuePhase::Waiting => false,
            QueuePhase::Running { works_from, .. } => {
                now < works_from.after(self.minimum_run()) || self.line.has_turn(job)
            }
        }
    }

    /// All but those who stay, with the GPUs that these leave.
    fn pool(&mut self, jobs: &[QueueJob], stays: &[bool]) -> Pool {
        let mut gpus = u64::from(self.gpus);
        let (mut kept, mut waiting) = (Vec::new(), Vec::new());
        for (position, job) in jobs.iter().enumerate() {
            if stays[position] {
                gpus = gpus.saturating_sub(u64::from(job.gpus));
                continue;
            }
            let offer = self.offer(position, job);
            if job.is_running() { kept.push(offer) } else { waiting.push(offer) }
        }
        Pool::new(gpus, kept, waiting)
    }

    fn offer(&mut self, position: usize, job: &QueueJob) -> Offer {
        let rate = self.history.rates(job)[level_of(job.attained)];
        let rate = if self.has(QueuePart::Patience) { patient(job, rate) } else { rate };
        let gpus = u64::from(job.gpus).max(1);
        let (worth, density) = if self.has(QueuePart::Size) {
            (rate, (rate << DENSITY_BITS) / gpus)
        } else {
            (rate.saturating_mul(gpus), rate << DENSITY_BITS)
        };
        Offer { position, id: job.id, submitted: job.submitted, gpus, worth, density }
    }

    /// Starts the job whose turn is due, if one is. While it has to wait for those that stay,
    /// nobody else may start; whether anybody may.
    fn give_turn(&mut self, now: StateMs, jobs: &[QueueJob], pool: &mut Pool) -> bool {
        let Some(position) = self.line.head(now, jobs) else { return true };
        let starts = pool.start(position);
        if starts {
            self.line.begin(now, &jobs[position]);
        }
        starts
    }

    fn choose(&self, pool: &mut Pool) {
        if self.has(QueuePart::Exchange) {
            pool.fill();
            pool.exchange(self.threshold());
        } else {
            pool.take_in_order(self.threshold());
        }
    }

    /// When somebody may have to be stopped, or started, for nothing but the time.
    fn wake(&self, now: StateMs, jobs: &[QueueJob], runs: &[bool]) -> Option<StateMs> {
        if runs.iter().all(|runs| *runs) {
            return None;
        }
        let line = if self.has(QueuePart::Line) { self.line.wake(now, jobs) } else { None };
        let running = jobs.iter().zip(runs).filter(|(_, runs)| **runs).map(|(job, _)| job);
        let times = running.flat_map(|job| self.changes_of(now, job)).flatten();
        times.chain(line).filter(|at| *at > now).min()
    }

    /// When a job that runs from now on may be stopped, and when it comes to the next level.
    fn changes_of(&self, now: StateMs, job: &QueueJob) -> [Option<StateMs>; 2] {
        let level = level_of(job.attained) + 1;
        let next = (level < LEVELS).then(|| job.attains_at(level_begins(level), now));
        let from = match job.phase {
            QueuePhase::Waiting => now,
            QueuePhase::Running { works_from, .. } => works_from,
        };
        [Some(from.after(self.minimum_run())), next]
    }
}

/// The rate of a job with what it has waited counted in: twice the rate once it has waited for
/// as long as it is expected to take, as in "highest response ratio next" (Brinch Hansen, 1971).
fn patient(job: &QueueJob, rate: u64) -> u64 {
    let waited_parts = (u128::from(rate) * u128::from(job.waited.0)) >> (SCALE_BITS - PART_BITS);
    let more_parts = waited_parts.min((PATIENCE_MAX - 1) << PART_BITS);
    let more = (u128::from(rate) * more_parts) >> PART_BITS;
    rate.saturating_add(u64::try_from(more).unwrap_or(u64::MAX))
}
