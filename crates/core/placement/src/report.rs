//! What a plan came to, and why each task is or is not in it.

use std::collections::BTreeSet;

use berth_model::{JobId, StateMs, TaskIndex};
use berth_state::decision::{Made, Stop, Waiting};
use berth_state::{Placement, Reservation};

/// Tasks that a report names; the rest are counted.
pub const WAITING_SHOWN_MAX: usize = 256;

/// A plan: placements to propose, and what to know about it.
#[derive(Clone, PartialEq, Debug)]
pub struct PlanOutcome {
    /// In the order in which they were decided; apply grants them in it.
    pub placements: Vec<Placement>,
    /// Places to keep, for which others end.
    pub reservations: Vec<Reservation>,
    /// Tasks of which the placements, which stand next to each other, count only together.
    pub gangs: BTreeSet<(JobId, TaskIndex)>,
    pub report: PlanReport,
    /// When something that was passed over now may be placed, though nothing
    /// else changes: a retry's wait or a port's block ends.
    pub next_wakeup: Option<StateMs>,
    /// Something may have a place for which others end, which this budget did not allow.
    pub held_back: bool,
    /// The budget ended before the work did: plan again.
    pub exhausted: bool,
    /// Where the work ended, if what ended was the budget of work.
    pub stop: Option<Stop>,
}

impl PlanOutcome {
    /// What is decided, as it is written down. The plan's own work is left out: it depends on
    /// what the planner knew already.
    pub fn made(&self) -> Made {
        let PlanOutcome { placements, reservations, report, .. } = self;
        let waiting = |one: &WaitingTask| Waiting {
            job: one.job,
            task: one.task,
            placed: one.placed,
            left: one.left,
            why: one.why.code().to_owned(),
        };
        Made {
            placements: placements.clone(),
            reservations: reservations.clone(),
            waiting: report.waiting.iter().map(waiting).collect(),
            waiting_left_off: report.waiting_left_off,
            next_wakeup: self.next_wakeup,
            held_back: self.held_back,
            exhausted: self.exhausted,
        }
    }
}

/// How much work a plan was, and what it left waiting.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PlanReport {
    /// The log index of the view.
    pub view_index: u64,
    /// Units of the budget that were spent.
    pub candidates_examined: u64,
    pub placements: u32,
    pub tasks_visited: u64,
    /// Rankings of nodes built from nothing; the other tasks shared one.
    pub searches: u64,
    /// In queue order, at most `WAITING_SHOWN_MAX`.
    pub waiting: Vec<WaitingTask>,
    /// Tasks left waiting that `waiting` does not name.
    pub waiting_left_off: u64,
}

/// A task of which something was left waiting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WaitingTask {
    pub job: JobId,
    pub task: TaskIndex,
    pub placed: u32,
    /// Instances that go on waiting.
    pub left: u64,
    pub why: Why,
}

/// The last thing that stood in the way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Why {
    /// No node that takes work has room for it.
    NoNode,
    /// As many as its array may run at once are running.
    ParallelLimit,
    /// Its next attempt has to wait for its time.
    Backoff,
    /// It is exclusive, and an orphan still runs what it is.
    Orphan,
    /// A place is kept for it until others have ended there.
    Reserved,
    /// Members of its gang live, or have yet to wait again.
    GangEnding,
    /// Its namespace has no room in its quota.
    Quota,
    /// The plan's budget was spent.
    Budget,
}

impl Why {
    /// A stable name for programs.
    pub fn code(self) -> &'static str {
        match self {
            Why::NoNode => "no-node",
            Why::ParallelLimit => "parallel-limit",
            Why::Backoff => "backoff",
            Why::Orphan => "orphan",
            Why::Reserved => "reserved",
            Why::GangEnding => "gang-ending",
            Why::Quota => "quota",
            Why::Budget => "budget",
        }
    }
}

impl PlanReport {
    pub(crate) fn note(&mut self, waiting: WaitingTask) {
        if self.waiting.len() < WAITING_SHOWN_MAX {
            self.waiting.push(waiting);
        } else {
            self.waiting_left_off += 1;
        }
    }

    /// A place has come to be kept for what was noted before.
    pub(crate) fn has_place_kept(&mut self, job: JobId, task: TaskIndex) {
        let noted = self.waiting.iter_mut().find(|one| (one.job, one.task) == (job, task));
        noted.into_iter().for_each(|one| one.why = Why::Reserved);
    }
}
