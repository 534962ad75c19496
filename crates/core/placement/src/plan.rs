//! Planning: walk the queue, find a node for each waiting instance, and hand
//! out what is free, on a scratch copy only.
//!
//! A task that does not fit now is passed over and those behind it may use what
//! is free (backfill), unless less urgent work ends for it. Where nothing is so
//! much less urgent, smaller tasks may go on taking what becomes free before
//! enough of it has: so what has waited for long has a place kept for it.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{
    AllocationId, Claim, InstanceIndex, JobId, JobKind, Name, Policy, StateMs, TaskIndex, TaskSpec,
};
use berth_state::decision::Stop;
use berth_state::{
    Asker, ClusterState, JobRow, Permit, Placement, QueueKey, Reservation, Right, ScoreParts,
    TaskRow,
};

use crate::budget::{Budget, Meter};
use crate::devices;
use crate::fair::Shares;
use crate::filters::{Pass, Request};
use crate::planner::{Planner, Searches};
use crate::quota::Rooms;
use crate::reckoned::Reckoned;
use crate::report::{PlanOutcome, PlanReport, WaitingTask, Why};
use crate::resources::claim;
use crate::roster::{Census, Roster};
use crate::search::{FitKey, SearchKey, Surface};
use crate::soft::SoftView;
use crate::terms::{Term, terms_of};
use crate::walk;

/// Plans everything that waits. Pure: equal arguments give equal plans.
///
/// Costs O(nodes) for each kind of request among the waiting, and then
/// O(log nodes) for each placement.
pub fn plan(view: &ClusterState, soft: &SoftView, now: StateMs, budget: Budget) -> PlanOutcome {
    Planner::default().plan(view, soft, now, budget)
}

/// Plans some jobs as if nothing else waited. Where nothing else that waits has
/// a place, that is the plan of everything.
pub fn plan_jobs(
    view: &ClusterState,
    soft: &SoftView,
    now: StateMs,
    budget: Budget,
    jobs: &[JobId],
) -> PlanOutcome {
    Planner::default().plan_jobs(view, soft, now, budget, jobs)
}

/// Plans one task alone.
pub(crate) fn plan_task(
    view: &ClusterState,
    soft: &SoftView,
    now: StateMs,
    budget: Budget,
    (job, task): (JobId, TaskIndex),
) -> PlanOutcome {
    let keys = walk::of_jobs(view, &[job]).filter(|key| key.task == task);
    Run::new(&mut Planner::default(), view, soft, now, budget).over(keys)
}

/// One plan of a planner.
pub(crate) struct Run<'p, 'a> {
    view: &'a ClusterState,
    now: StateMs,
    meter: Meter,
    roster: &'p mut Roster,
    searches: &'p mut Searches,
    reckoned: &'p mut Reckoned,
    /// Requests that nothing fits any more; within a plan nothing is freed, so
    /// they need no further search.
    dead: BTreeSet<FitKey>,
    /// The same of gangs, with the fewest members for which it was found.
    dead_gangs: BTreeMap<FitKey, u32>,
    /// Of the last job whose policy looks at its own instances, with what this plan has handed out
    /// for it.
    census: Option<Census>,
    placements: Vec<Placement>,
    /// Of each of the placements.
    handed: Vec<Handed>,
    /// The lowest priority among them.
    least_placed: u8,
    /// What was taken back or given up may be enough for others, who were passed over.
    plans_again: bool,
    /// For whom nobody ends before.
    hopeless: &'p mut BTreeMap<HuntKey, StateMs>,
    gangs: BTreeSet<(JobId, TaskIndex)>,
    report: PlanReport,
    next_wakeup: Option<StateMs>,
    reservations: Vec<Reservation>,
    /// Who ends for them.
    ended: BTreeSet<AllocationId>,
    hunts: BTreeMap<HuntKey, Hunt>,
    /// Places that are kept, by the position of their node, where one was looked at.
    groups: BTreeMap<usize, Vec<Group<'a>>>,
    patience: Patience<'a>,
    rooms: Rooms,
    round: Round,
    /// Namespaces that are sure of something that another plan will take back for them: what they
    /// were given meanwhile would be in its way.
    waits_to_take: BTreeSet<Name>,
    /// What earlier visits did for tasks that are visited again.
    done: AllDone,
    in_turns: bool,
    /// Once several namespaces have turns.
    shares: Option<Shares>,
    turn_instances: usize,
}

/// How many places are kept for which others were asked to end; all that is kept for a gang counts
/// as one.
fn places_kept(view: &ClusterState) -> u32 {
    let kept: BTreeSet<_> = view
        .reservations()
        .filter(|(.., row)| !row.patient)
        .map(|(id, ..)| (id.job, id.task, (!view.is_gang(id.job, id.task)).then_some(id)))
        .collect();
    u32::try_from(kept.len()).unwrap_or(u32::MAX)
}

/// Where a placement is, and at what priority.
#[derive(Clone, Copy)]
struct Handed {
    position: usize,
    priority: u8,
    right: Right,
}

/// The task that is being visited.
#[derive(Clone, Copy)]
struct Visit<'a> {
    key: QueueKey,
    job: &'a JobRow,
    row: &'a TaskRow,
    task: &'a TaskSpec,
    /// By what right the next of it has others end.
    right: Right,
    permit: Permit,
}

impl<'a> Visit<'a> {
    fn request(&self) -> Request<'a> {
        let pass = Pass { permit: self.permit, view: None };
        Request { pass, ..Request::anywhere(&self.job.spec, self.task) }
    }

    fn asker(&self) -> Asker<'a> {
        Asker { job: self.job, right: self.right }
    }

    fn allocation(&self, view: &ClusterState, instance: u32) -> AllocationId {
        AllocationId {
            job: self.key.job,
            task: self.key.task,
            instance: InstanceIndex(instance),
            attempt: view.next_attempt(self.key.job, self.row, instance),
        }
    }

    /// How many instances have their places together.
    fn of_unit(&self) -> u32 {
        if self.task.gang.is_some() { self.task.count } else { 1 }
    }

    /// Whether it would run twice: an orphan of an earlier incarnation runs it.
    fn would_be_twice(&self, view: &ClusterState, instance: u32) -> bool {
        self.job.spec.exclusive && view.has_orphan_of(self.allocation(view, instance))
    }

    /// Whether places are kept for some of its instances, which of a gang is all.
    fn has_kept_places(&self, view: &ClusterState) -> bool {
        view.reservations_of(self.key.job, self.key.task).next().is_some()
    }

    /// How often in a row the instance has failed.
    fn failures(&self, instance: u32) -> u32 {
        self.row.failures_of(instance)
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
    next: Next,
}

impl<'p, 'a> Run<'p, 'a> {
    /// Brings the planner up to date with the view.
    pub fn new(
        planner: &'p mut Planner,
        view: &'a ClusterState,
        soft: &SoftView,
        now: StateMs,
        budget: Budget,
    ) -> Self {
        planner.observe(view, soft, now);
        let Planner { roster, searches, reckoned, hopeless } = planner;
        hopeless.retain(|_, until| now < *until);
        // Where no more is kept anyway, as with each entry that is formed, nobody counts.
        let kept = if budget.reservations_max > 0 { places_kept(view) } else { 0 };
        let next_wakeup = roster.rest_ends(now);
        Run {
            view,
            now,
            meter: Meter::new(budget, kept),
            roster,
            searches,
            reckoned,
            dead: BTreeSet::new(),
            dead_gangs: BTreeMap::new(),
            census: None,
            placements: Vec::new(),
            handed: Vec::new(),
            least_placed: u8::MAX,
            plans_again: false,
            hopeless,
            gangs: BTreeSet::new(),
            report: PlanReport { view_index: view.applied_index(), ..PlanReport::default() },
            next_wakeup,
            reservations: Vec::new(),
            ended: BTreeSet::new(),
            hunts: BTreeMap::new(),
            groups: BTreeMap::new(),
            patience: Patience::of(view),
            rooms: Rooms::default(),
            round: Round::Only,
            waits_to_take: BTreeSet::new(),
            done: AllDone::new(),
            in_turns: false,
            shares: None,
            turn_instances: usize::MAX,
        }
    }

    /// Ends the work where that of an earlier plan ended.
    pub fn ending_at(mut self, stop: Option<Stop>) -> Self {
        stop.into_iter().for_each(|stop| self.meter.end_at(stop));
        self
    }

    pub fn over(mut self, tasks: impl Iterator<Item = QueueKey>) -> PlanOutcome {
        // What waits in a restored cluster may run on a node that has not come
        // back yet: apply would refuse every placement.
        let awaiting = self.view.waits_after_restore(self.now);
        if awaiting && self.view.awaited() == 0 {
            let restore = self.view.cluster().restore.as_ref();
            restore.into_iter().for_each(|restore| self.wake(restore.place_from));
        }
        if !awaiting {
            self.rounds(tasks);
            self.keep_patiently();
        }
        self.report.candidates_examined = self.meter.examined;
        self.report.placements = self.meter.placed;
        PlanOutcome {
            placements: self.placements,
            reservations: self.reservations,
            gangs: self.gangs,
            report: self.report,
            next_wakeup: self.next_wakeup,
            held_back: self.meter.held_back,
            exhausted: self.meter.exhausted || self.plans_again,
            stop: self.meter.stopped(),
        }
    }

    fn visit(&mut self, key: QueueKey) -> Next {
        let view = self.view;
        let job = view.jobs().get(&key.job).filter(|job| job.places());
        let row = view.tasks().get(&(key.job, key.task));
        let Some((job, row)) = job.zip(row) else { return Next::Done };
        let Some(task) = job.spec.tasks.get(usize::from(key.task.0)) else { return Next::Done };
        let permit = view.permit(&job.spec, task);
        let visit = Visit { key, job, row, task, right: Right::Priority, permit };
        let tally = match job.kind() {
            JobKind::Batch | JobKind::Service if task.gang.is_some() => {
                self.place_gang_in_quota(visit)
            }
            JobKind::Batch | JobKind::Service => self.place_pending(visit),
            JobKind::Daemon => self.place_daemon(visit),
        };
        let is_last = self.round != Round::Sure || job.kind() == JobKind::Daemon;
        let is_told = is_last && tally.next == Next::Done;
        self.report.tasks_visited += u64::from(is_told);
        if tally.left > 0 && is_told {
            let why = tally.why.unwrap_or(Why::NoNode);
            let Tally { placed, left, .. } = tally;
            self.report.note(WaitingTask { job: key.job, task: key.task, placed, left, why });
        }
        tally.next
    }

    /// False when no node has room for the instance.
    fn place_one(&mut self, visit: Visit<'a>, key: &SearchKey, instance: u32) -> bool {
        let policy = key.policy;
        self.take_census(visit, policy);
        let nodes = self.roster.len().max(1) as u64;
        let first = usize::try_from(self.view.applied_index() % nodes).unwrap_or(0);
        let census = self.census.as_ref().filter(|census| census.job == visit.key.job);
        if terms_of(policy, visit.task).contains(&Term::Cost) {
            self.reckoned.take_stocks(self.roster);
        }
        let surface = Surface { roster: self.roster, reckoned: self.reckoned, census, first };
        let (search, is_new) = self.searches.entry(key, visit.request(), surface);
        if is_new {
            self.report.searches += 1;
        }
        let allocation = visit.allocation(self.view, instance);
        let Some((position, score)) = search.best(allocation, surface, &mut self.meter) else {
            let port_wakeup = search.port_wakeup(surface, self.now);
            port_wakeup.into_iter().for_each(|at| self.wake(at));
            // A search that the budget cut short has not seen every node, but
            // then the plan ends here.
            self.dead.insert(key.fit.clone());
            return false;
        };
        let look = search.look(position, surface);
        let chosen = devices::choose(policy, look);
        let parts = score.parts(policy, look, self.view.applied_index());
        let Some(chosen) = chosen else { return false };
        let row = &self.roster.host(position).row;
        let used = self.roster.host(position).used();
        let Some(claim) = claim(row, used, self.now, visit.task, allocation, &chosen) else {
            return false;
        };
        self.hand_out(visit, allocation, (position, claim), parts);
        true
    }

    /// Counts where the job's instances are, where its policy asks.
    fn take_census(&mut self, visit: Visit<'a>, policy: Policy) {
        let job = visit.key.job;
        let wanted = terms_of(policy, visit.task).contains(&Term::OnNode);
        if wanted && self.census.as_ref().is_none_or(|census| census.job != job) {
            let mut census = Census::of(self.view, job);
            // What an earlier turn of it was given.
            let given = self.placements.iter().filter(|placement| placement.job == job);
            let given = given.filter_map(|placement| self.roster.position_of(placement.node));
            given.for_each(|position| census.add(&self.roster.host(position).row));
            self.census = Some(census);
        } else if !wanted {
            self.census = None;
        }
    }

    fn hand_out(
        &mut self,
        visit: Visit<'a>,
        allocation: AllocationId,
        (position, claim): (usize, Claim),
        score: ScoreParts,
    ) {
        // Members of a gang do not give way alone, and daemons to nobody.
        let gives_way = visit.task.gang.is_none() && visit.job.kind() != JobKind::Daemon;
        let priority = if gives_way { visit.job.spec.priority } else { u8::MAX };
        self.roster.hand_out(position, &claim, self.now);
        self.count_handed(allocation.job, &claim);
        self.handed.push(Handed { position, priority, right: visit.right });
        self.least_placed = self.least_placed.min(priority);
        let row = &self.roster.host(position).row;
        if let Some(census) = self.census.as_mut().filter(|census| census.job == allocation.job) {
            census.add(row);
        }
        self.meter.placed += 1;
        self.placements.push(Placement::new(allocation, row.id, claim, score));
    }

    /// What a placement of this plan was given.
    fn claim_of(&self, placement: &Placement) -> Option<Claim> {
        let (_, claim) = placement.claim_of(self.view.jobs().get(&placement.job)?)?;
        Some(claim)
    }

    /// Whether a task accepts each kind of device.
    fn suits(&self, task: &TaskSpec) -> Vec<bool> {
        task.gpu.as_ref().map_or_else(Vec::new, |gpu| self.roster.kinds.suiting(gpu))
    }

    fn wake(&mut self, at: StateMs) {
        self.next_wakeup = Some(self.next_wakeup.map_or(at, |earlier| earlier.min(at)));
    }
}

mod daemon;
mod displace;
mod endable;
mod gang;
mod gang_places;
mod lenders;
mod patience;
mod pending;
mod preempt;
mod quota;
mod rounds;
mod turns;

use patience::Patience;
pub(crate) use preempt::{FAILURES_MAX, HuntKey};
use preempt::{Group, Hunt};
use rounds::{AllDone, Round};
use turns::Next;
#[cfg(test)]
mod tests;
