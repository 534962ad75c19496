//! Who should have the GPUs: which of the jobs that wait and run, given one pool of identical
//! GPUs, gangs, and no placement. A policy sees what has been, never how long a job will take,
//! but for those that are marked as clairvoyant and exist to be compared with. Nothing here
//! starts, stops or times anything, and equal inputs give equal answers.

mod attained;
mod berth;
mod exchange;
mod history;
mod line;
mod order;
mod worth;

use std::collections::BTreeSet;
use std::str::FromStr;

use berth_model::{DurationMs, JobId, StateMs};

use berth::BerthQueue;
pub use line::{PACE, QUANTUM, WAIT_MAX};

/// A job that wants its GPUs, all at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueJob {
    pub id: JobId,
    pub gpus: u32,
    pub submitted: StateMs,
    /// Whose it is, as a number: what ended jobs of the same class and size took is what this
    /// one is expected to take.
    pub class: u32,
    /// What it has worked with its GPUs so far; what restarts took is not in it.
    pub attained: DurationMs,
    /// What it has been without GPUs so far, since it was submitted.
    pub waited: DurationMs,
    pub phase: QueuePhase,
    /// What it still has to work; for clairvoyant policies alone.
    pub remaining: Option<DurationMs>,
}

/// Whether a job has its GPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueuePhase {
    Waiting,
    /// It holds them from `since` on; before `works_from` it starts again, without progress.
    Running {
        since: StateMs,
        works_from: StateMs,
    },
}

/// What should be so from now on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueDecision {
    /// Of each job, in the order in which they were given, whether it should run. They fit the
    /// pool together.
    pub runs: Vec<bool>,
    /// When the answer may be another one even though nothing is submitted and nothing ends.
    /// In the future.
    pub wake: Option<StateMs>,
}

/// In which order jobs get their GPUs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum QueuePolicy {
    /// As submitted; who does not fit holds up all behind. Nobody is preempted.
    Fifo,
    /// As submitted, but whoever fits starts. Nobody is preempted.
    Backfill,
    /// The shortest first, whoever fits starts; clairvoyant. Nobody is preempted.
    Sjf,
    /// The shortest remaining time first; clairvoyant.
    Srtf,
    /// The least remaining time, times GPUs, first; clairvoyant.
    Srsf,
    /// The least attained service first, in three classes (Tiresias, NSDI 2019).
    Las2d,
    /// The most expected ends for each GPU second first, as learnt from jobs that ended.
    Berth,
}

/// What [`QueuePolicy::Berth`] is made of; each may be left out, to see what it buys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum QueuePart {
    /// What jobs that ended teach about those that have not.
    Learning,
    /// That jobs of one class are like each other.
    Classes,
    /// That a job that needs many GPUs keeps many others waiting.
    Size,
    /// That who has waited is worth more.
    Patience,
    /// That those who make room are weighed together against those who get it.
    Exchange,
    /// That the gain must be a multiple of the loss.
    Threshold,
    /// That who has started stays for a while.
    MinimumRun,
    /// That who has waited long gets a turn whatever it is worth.
    Line,
}

/// A policy with what it remembers.
#[derive(Clone, Debug)]
pub struct Queue {
    policy: QueuePolicy,
    /// Of the pool.
    gpus: u32,
    berth: BerthQueue,
}

impl Queue {
    /// For a pool of so many GPUs. `without` says what [`QueuePolicy::Berth`] is to leave out.
    #[must_use]
    pub fn new(policy: QueuePolicy, gpus: u32, without: &BTreeSet<QueuePart>) -> Queue {
        Queue { policy, gpus, berth: BerthQueue::new(gpus, without) }
    }

    /// Who should run. `jobs` are those that wait and run, in ascending order of their ids, each
    /// of at most the GPUs of the pool, and those that run fit it together.
    /// O(jobs log jobs).
    pub fn decide(&mut self, now: StateMs, jobs: &[QueueJob]) -> QueueDecision {
        match self.policy {
            QueuePolicy::Fifo
            | QueuePolicy::Backfill
            | QueuePolicy::Sjf
            | QueuePolicy::Srtf
            | QueuePolicy::Srsf
            | QueuePolicy::Las2d => order::decide(self.policy, self.gpus, now, jobs),
            QueuePolicy::Berth => self.berth.decide(now, jobs),
        }
    }

    /// Takes note of a job that has done its work, with what it attained in the end.
    pub fn ended(&mut self, job: &QueueJob) {
        match self.policy {
            QueuePolicy::Fifo
            | QueuePolicy::Backfill
            | QueuePolicy::Sjf
            | QueuePolicy::Srtf
            | QueuePolicy::Srsf
            | QueuePolicy::Las2d => {}
            QueuePolicy::Berth => self.berth.ended(job),
        }
    }
}

impl QueueJob {
    pub fn is_running(&self) -> bool {
        match self.phase {
            QueuePhase::Waiting => false,
            QueuePhase::Running { .. } => true,
        }
    }

    /// When it will have attained `attained` if it goes on from `now`, or starts now: at the
    /// earliest, since what it will take to start again is not known here.
    fn attains_at(&self, attained: DurationMs, now: StateMs) -> StateMs {
        let from = match self.phase {
            QueuePhase::Waiting => now,
            QueuePhase::Running { works_from, .. } => works_from.max(now),
        };
        from.after(DurationMs(attained.0.saturating_sub(self.attained.0)))
    }
}

impl QueuePolicy {
    pub const ALL: [QueuePolicy; 7] = [
        QueuePolicy::Fifo,
        QueuePolicy::Backfill,
        QueuePolicy::Sjf,
        QueuePolicy::Srtf,
        QueuePolicy::Srsf,
        QueuePolicy::Las2d,
        QueuePolicy::Berth,
    ];

    pub fn name(self) -> &'static str {
        match self {
            QueuePolicy::Fifo => "fifo",
            QueuePolicy::Backfill => "backfill",
            QueuePolicy::Sjf => "sjf",
            QueuePolicy::Srtf => "srtf",
            QueuePolicy::Srsf => "srsf",
            QueuePolicy::Las2d => "las2d",
            QueuePolicy::Berth => "berth",
        }
    }
}

impl QueuePart {
    pub const ALL: [QueuePart; 8] = [
        QueuePart::Learning,
        QueuePart::Classes,
        QueuePart::Size,
        QueuePart::Patience,
        QueuePart::Exchange,
        QueuePart::Threshold,
        QueuePart::MinimumRun,
        QueuePart::Line,
    ];

    pub fn name(self) -> &'static str {
        match self {
            QueuePart::Learning => "learning",
            QueuePart::Classes => "classes",
            QueuePart::Size => "size",
            QueuePart::Patience => "patience",
            QueuePart::Exchange => "exchange",
            QueuePart::Threshold => "threshold",
            QueuePart::MinimumRun => "minimum-run",
            QueuePart::Line => "line",
        }
    }
}

impl FromStr for QueuePolicy {
    type Err = ();

    fn from_str(text: &str) -> Result<QueuePolicy, ()> {
        QueuePolicy::ALL.into_iter().find(|policy| policy.name() == text).ok_or(())
    }
}

impl FromStr for QueuePart {
    type Err = ();

    fn from_str(text: &str) -> Result<QueuePart, ()> {
        QueuePart::ALL.into_iter().find(|part| part.name() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests;
