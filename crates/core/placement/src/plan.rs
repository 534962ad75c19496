//! Planning: walk the queue, find a node for each waiting instance, and hand
//! out what is free, on a scratch copy only.
//!
//! A task that does not fit now is passed over and those behind it may use what
//! is free (backfill). There are no reservations yet, so a large task can wait
//! for as long as smaller ones keep taking what becomes free before enough of
//! it has: its age puts it first in every plan, which helps it only once
//! enough is free at one moment.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, InstanceIndex, JobKind, Policy, StateMs, TaskSpec};
use berth_state::{ClusterState, JobRow, Placement, QueueKey, ScoreParts, TaskRow};

use crate::budget::{Budget, Meter};
use crate::choose::{FitKey, Search, SearchKey, Surface};
use crate::filters::Request;
use crate::report::{PlanOutcome, PlanReport, WaitingTask, Why};
use crate::resources::claim;
use crate::scratch::{Census, Scratch};
use crate::soft::SoftView;
use crate::walk;

/// Searches kept at once; the one unused for longest makes room. With 5,000
/// nodes each holds well under a megabyte.
const SEARCHES_MAX: usize = 64;

/// Plans everything that waits. Pure: equal arguments give equal plans.
///
/// Costs O(nodes) for each kind of request among the waiting, and then
/// O(log nodes) for each placement.
pub fn plan(view: &ClusterState, soft: &SoftView, now: StateMs, budget: Budget) -> PlanOutcome {
    Planner::new(view, soft, now, budget).run(walk::everything(view))
}

/// Plans some jobs as if nothing else waited. Where nothing else that waits has
/// a place, that is the plan of everything.
pub fn plan_jobs(
    view: &ClusterState,
    soft: &SoftView,
    now: StateMs,
    budget: Budget,
    jobs: &[berth_model::JobId],
) -> PlanOutcome {
    Planner::new(view, soft, now, budget).run(walk::of_jobs(view, jobs))
}

/// Plans one task alone.
pub(crate) fn plan_task(
    view: &ClusterState,
    soft: &SoftView,
    now: StateMs,
    budget: Budget,
    (job, task): (berth_model::JobId, berth_model::TaskIndex),
) -> PlanOutcome {
    let keys = walk::of_jobs(view, &[job]).filter(|key| key.task == task);
    Planner::new(view, soft, now, budget).run(keys)
}

struct Planner<'a> {
    view: &'a ClusterState,
    now: StateMs,
    meter: Meter,
    scratch: Scratch<'a>,
    searches: BTreeMap<SearchKey<'a>, Search<'a>>,
    /// Requests that nothing fits any more; within a plan nothing is freed, so
    /// they need no further search.
    dead: BTreeSet<FitKey<'a>>,
    /// Of the last job under `spread`. Its tasks are neighbours in the queue, so
    /// what this plan hands out for it is counted until they are done.
    census: Option<Census<'a>>,
    placements: Vec<Placement>,
    report: PlanReport,
    next_wakeup: Option<StateMs>,
}

/// The task that is being visited.
#[derive(Clone, Copy)]
struct Visit<'a> {
    key: QueueKey,
    job: &'a JobRow,
    row: &'a TaskRow,
    task: &'a TaskSpec,
}

impl<'a> Visit<'a> {
    fn request(&self) -> Request<'a> {
        Request { task: self.task, constraints: &self.job.spec.constraints }
    }

    fn allocation(&self, view: &ClusterState, instance: u32) -> AllocationId {
        AllocationId {
            job: self.key.job,
            task: self.key.task,
            instance: InstanceIndex(instance),
            attempt: view.next_attempt(self.key.job, self.row, instance),
        }
    }

    /// Whether it would run twice: an orphan of an earlier incarnation runs it.
    fn would_be_twice(&self, view: &ClusterState, instance: u32) -> bool {
        self.job.spec.exclusive && view.has_orphan_of(self.allocation(view, instance))
    }

    /// When the instance may be placed, if not before `now`.
    fn waits_until(&self, instance: u32, now: StateMs) -> Option<StateMs> {
        self.row.retries.get(&instance).map(|retry| retry.not_before).filter(|at| *at > now)
    }
}

/// What a visit came to.
#[derive(Default)]
struct Tally {
    placed: u32,
    left: u64,
    why: Option<Why>,
}

impl<'a> Planner<'a> {
    fn new(view: &'a ClusterState, soft: &'a SoftView, now: StateMs, budget: Budget) -> Self {
        let resting = view.nodes().values().filter(|row| row.accepts_work() && row.rests(now));
        Planner {
            view,
            now,
            meter: Meter::new(budget),
            scratch: Scratch::new(view, soft, now),
            searches: BTreeMap::new(),
            dead: BTreeSet::new(),
            census: None,
            placements: Vec::new(),
            report: PlanReport { view_index: view.applied_index(), ..PlanReport::default() },
            next_wakeup: resting.map(|row| row.rests_until).min(),
        }
    }

    fn run(mut self, tasks: impl Iterator<Item = QueueKey>) -> PlanOutcome {
        // What waits in a restored cluster may run on a node that has not come
        // back yet: apply would refuse every placement.
        let awaiting = self.view.waits_after_restore(self.now);
        if awaiting && self.view.awaited() == 0 {
            let restore = self.view.cluster().restore.as_ref();
            restore.into_iter().for_each(|restore| self.wake(restore.place_from));
        }
        for key in tasks.take_while(|_| !awaiting) {
            if !self.meter.spend() {
                break;
            }
            self.visit(key);
            if self.meter.exhausted {
                break;
            }
        }
        self.report.candidates_examined = self.meter.examined;
        self.report.placements = self.meter.placed;
        PlanOutcome {
            placements: self.placements,
            report: self.report,
            next_wakeup: self.next_wakeup,
            exhausted: self.meter.exhausted,
        }
    }

    fn visit(&mut self, key: QueueKey) {
        let view = self.view;
        let Some(job) = view.jobs().get(&key.job).filter(|job| job.places()) else { return };
        let Some(row) = view.tasks().get(&(key.job, key.task)) else { return };
        let Some(task) = job.spec.tasks.get(usize::from(key.task.0)) else { return };
        let visit = Visit { key, job, row, task };
        self.report.tasks_visited += 1;
        let tally = match job.kind() {
            JobKind::Batch | JobKind::Service => self.place_pending(visit),
            JobKind::Daemon => self.place_daemon(visit),
        };
        if tally.left > 0 {
            let why = tally.why.unwrap_or(Why::NoNode);
            let Tally { placed, left, .. } = tally;
            self.report.note(WaitingTask { job: key.job, task: key.task, placed, left, why });
        }
    }

    fn place_pending(&mut self, visit: Visit<'a>) -> Tally {
        let fit = FitKey::of(visit.request());
        let mut parallel_left = visit.task.parallel_max().saturating_sub(visit.row.live);
        let mut tally = Tally::default();
        for instance in visit.row.pending.iter() {
            if parallel_left == 0 {
                tally.why = Some(Why::ParallelLimit);
                break;
            }
            if let Some(at) = visit.waits_until(instance, self.now) {
                self.wake(at);
                tally.why = Some(Why::Backoff);
                if !self.meter.spend() {
                    break;
                }
                continue;
            }
            if visit.would_be_twice(self.view, instance) {
                tally.why = Some(Why::Orphan);
                continue;
            }
            if self.dead.contains(&fit) {
                tally.why = Some(Why::NoNode);
                break;
            }
            if !self.meter.may_place() {
                break;
            }
            if !self.place_one(visit, fit, instance) {
                tally.why = Some(Why::NoNode);
                break;
            }
            tally.placed += 1;
            parallel_left -= 1;
        }
        if self.meter.exhausted {
            tally.why = Some(Why::Budget);
        }
        tally.left = visit.row.pending.len() - u64::from(tally.placed);
        tally
    }

    /// False when no node has room for the instance.
    fn place_one(&mut self, visit: Visit<'a>, fit: FitKey<'a>, instance: u32) -> bool {
        let policy = visit.job.spec.policy;
        self.take_census(visit.key.job, policy);
        let key = SearchKey { fit, policy };
        if !self.searches.contains_key(&key) {
            self.begin_search(key, visit.request(), policy);
        }
        let census = self.census.as_ref().filter(|_| policy == Policy::Spread);
        let surface = Surface { scratch: &self.scratch, census, now: self.now, first: 0 };
        let allocation = visit.allocation(self.view, instance);
        let Some(search) = self.searches.get_mut(&key) else { return false };
        search.last_used = self.report.tasks_visited;
        let Some((position, score)) = search.best(allocation, surface, &mut self.meter) else {
            let port_wakeup = search.port_wakeup;
            port_wakeup.into_iter().for_each(|at| self.wake(at));
            // A search that the budget cut short has not seen every node, but
            // then the plan ends here.
            self.dead.insert(fit);
            self.searches.remove(&key);
            return false;
        };
        let parts = score.parts(self.view.applied_index());
        self.hand_out(visit, allocation, position, parts)
    }

    fn take_census(&mut self, job: berth_model::JobId, policy: Policy) {
        let wanted = policy == Policy::Spread;
        if wanted && self.census.as_ref().is_none_or(|census| census.job != job) {
            self.census = Some(Census::of(self.view, job));
        }
    }

    fn begin_search(&mut self, key: SearchKey<'a>, request: Request<'a>, policy: Policy) {
        if self.searches.len() >= SEARCHES_MAX {
            let oldest = self.searches.iter().min_by_key(|(key, search)| (search.last_used, **key));
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.searches.remove(&oldest);
            }
        }
        let nodes = self.scratch.len().max(1) as u64;
        let first = usize::try_from(self.view.applied_index() % nodes).unwrap_or(0);
        let census = self.census.as_ref().filter(|_| policy == Policy::Spread);
        let surface = Surface { scratch: &self.scratch, census, now: self.now, first };
        let search = Search::build(request, policy, surface, &mut self.meter);
        self.report.searches += 1;
        self.searches.insert(key, search);
    }

    fn hand_out(
        &mut self,
        visit: Visit<'a>,
        allocation: AllocationId,
        position: usize,
        score: ScoreParts,
    ) -> bool {
        let slot = self.scratch.slot(position);
        let row = slot.row;
        let Some(claim) = claim(row, slot.used(), self.now, visit.task, allocation) else {
            return false;
        };
        self.scratch.hand_out(position, &claim);
        if let Some(census) = self.census.as_mut().filter(|census| census.job == allocation.job) {
            census.add(row);
        }
        self.meter.placed += 1;
        self.placements.push(Placement {
            job: allocation.job,
            task: allocation.task,
            instance: allocation.instance,
            attempt: allocation.attempt,
            node: row.id,
            devices: claim.devices,
            ports: claim.ports,
            score,
        });
        true
    }

    fn wake(&mut self, at: StateMs) {
        self.next_wakeup = Some(self.next_wakeup.map_or(at, |earlier| earlier.min(at)));
    }
}

mod daemon;
#[cfg(test)]
mod tests;
