//! When what waits starts at the latest, as far as that is known: what runs is ended on a copy of
//! the view when its time limit says so, and planned for what waits, by the code that does both.

use std::collections::BTreeSet;

use berth_model::{AllocationId, JobId, Name, StateMs, StopIntent, TaskIndex, WallMs};
use berth_state::reservation::ends_by;
use berth_state::{AllocationRow, ClusterState, Command, Observation, Observed, Reply};

use crate::budget::Budget;
use crate::planner::Planner;
use crate::soft::SoftView;
use crate::what_if::{apply_one, stopped};

/// Moments at which something ends that are looked at.
const MOMENTS_MAX: u32 = 256;
/// For the plans of all moments together: some tenths of a second, since a person waits.
const CANDIDATES_MAX: u64 = 2_000_000;
const PLACEMENTS_MAX: u32 = 1_024;

/// When the next instance of a task has a place at the latest, if nothing comes that is placed
/// before it and everything starts at once; `None` if what holds its place has no time limit, or if
/// it is too far away to say. Grace is counted in. What is to be preempted is not.
pub(crate) fn expected_start(
    view: &ClusterState,
    soft: &SoftView,
    now: StateMs,
    (job, task): (JobId, TaskIndex),
) -> Option<StateMs> {
    let mut future = Future {
        copy: view.clone(),
        ends: BTreeSet::new(),
        planner: Planner::default(),
        left: CANDIDATES_MAX,
        begun: BTreeSet::new(),
    };
    let live: Vec<AllocationId> = view.allocations().values().map(|row| row.id).collect();
    live.into_iter().for_each(|id| future.expect(id, now));
    let mut at = now;
    for _ in 0..MOMENTS_MAX {
        let planned = future.plan(soft, at);
        if future.begun.contains(&(job, task)) {
            return Some(at);
        }
        planned?;
        at = at.max(future.next(at)?);
        future.end_until(at);
        future.turn(at);
        // A place that was kept for it.
        if future.begun.contains(&(job, task)) {
            return Some(at);
        }
    }
    None
}

/// The cluster as it will be.
struct Future {
    copy: ClusterState,
    /// What ends, by when it has at the latest.
    ends: BTreeSet<(StateMs, AllocationId)>,
    planner: Planner,
    /// Units of work that are left.
    left: u64,
    /// Tasks of which something has started.
    begun: BTreeSet<(JobId, TaskIndex)>,
}

impl Future {
    fn expect(&mut self, id: AllocationId, now: StateMs) {
        let row = self.copy.allocations().get(&id);
        let end = row.and_then(|row| latest_end(&self.copy, row, now));
        self.ends.extend(end.map(|at| (at, id)));
    }

    /// Places what has room, and has it run; `None` when nothing is left to do that with.
    fn plan(&mut self, soft: &SoftView, at: StateMs) -> Option<()> {
        let budget = Budget {
            candidates_examined_max: self.left,
            placements_max: PLACEMENTS_MAX,
            reservations_max: 0,
        };
        loop {
            let outcome = self.planner.plan(&self.copy, soft, at, budget);
            self.left = self.left.saturating_sub(outcome.report.candidates_examined + 1);
            let place = Command::Place { placements: outcome.placements };
            let mut placed = 0;
            if let Ok(Reply::Placed { granted, .. }) = apply_one(&mut self.copy, at, place) {
                placed = granted.len();
                granted.into_iter().for_each(|id| self.begins(id, at));
            }
            if self.left == 0 || (outcome.exhausted && placed == 0) {
                return None;
            }
            if !outcome.exhausted {
                return Some(());
            }
        }
    }

    fn begins(&mut self, id: AllocationId, at: StateMs) {
        self.begun.insert((id.job, id.task));
        let started_at = WallMs(at.0);
        self.observe(id, at, Observed::Running { ready: true, started_at });
        self.expect(id, at);
    }

    /// When something ends next, or a reservation of nodes begins or is over.
    fn next(&self, at: StateMs) -> Option<StateMs> {
        let end = self.ends.first().map(|(at, _)| *at);
        end.into_iter().chain(self.copy.next_turn(at)).min()
    }

    /// Reservations of nodes whose time has come begin, or are over.
    fn turn(&mut self, at: StateMs) {
        let wall = self.copy.wall_at(at);
        let due = self.copy.node_reservations().values().filter(|row| row.is_due(wall));
        let due: Vec<Name> = due.map(|row| row.spec.name.clone()).collect();
        for name in &due {
            let turn = Command::TurnNodeReservation { name: name.clone() };
            drop(apply_one(&mut self.copy, at, turn));
        }
        let live = self.copy.allocations().values().filter(|_| !due.is_empty());
        let asked = live.filter(|row| row.state.stop_intent().is_some());
        let asked: Vec<AllocationId> = asked.map(|row| row.id).collect();
        asked.into_iter().for_each(|id| self.expect(id, at));
    }

    /// Ends what has ended by then.
    fn end_until(&mut self, at: StateMs) {
        while let Some((end, id)) = self.ends.first().copied().filter(|(end, _)| *end <= at) {
            self.ends.remove(&(end, id));
            let running = self.copy.allocations().get(&id);
            if running.is_some_and(|row| row.state.stop_intent().is_none()) {
                let (allocations, reason) = (vec![id], String::new());
                let intent = StopIntent::TimeOut;
                let stop = Command::StopAllocations { allocations, intent, reason };
                // One that is gone already frees nothing more.
                drop(apply_one(&mut self.copy, at, stop));
            }
            let mut kept: Vec<AllocationId> = self.copy.reservations().map(|(id, ..)| id).collect();
            self.observe(id, at, Observed::Ended(stopped(WallMs(at.0))));
            // Whom it ended for has begun.
            kept.retain(|id| self.copy.is_live(*id));
            kept.into_iter().for_each(|id| self.begins(id, at));
        }
    }

    fn observe(&mut self, id: AllocationId, at: StateMs, observed: Observed) {
        let Some(node) = self.copy.allocations().get(&id).map(|row| row.node) else { return };
        let observations = vec![Observation { allocation: id, observed }];
        drop(apply_one(&mut self.copy, at, Command::Observe { node, observations }));
    }
}

/// When a live allocation has ended for sure; `None` if it may run for ever.
fn latest_end(view: &ClusterState, row: &AllocationRow, now: StateMs) -> Option<StateMs> {
    let job = view.jobs().get(&row.id.job)?;
    ends_by(&job.spec, row, now, now)
}

#[cfg(test)]
mod tests {
    use berth_model::{DurationMs, Gang, JobSpec, Policy, TaskSpec};
    use berth_state::JobChange;

    use super::*;
    use crate::fixture::{Cluster, gpu_node, gpu_task, job};
    use crate::plan::plan;

    const HOUR: u64 = 3_600_000;
    const GRACE: u64 = 30_000;

    fn limited(hours: u64, task: TaskSpec) -> JobSpec {
        let time_limit = (hours > 0).then_some(DurationMs(hours * HOUR));
        job(Policy::BestFit, TaskSpec { time_limit, ..task })
    }

    /// What is placed runs at once, and then a second passes.
    fn step(cluster: &mut Cluster) {
        let outcome = plan(&cluster.state, &SoftView::default(), cluster.now, Budget::UNLIMITED);
        cluster.place(outcome.placements);
        let rows: Vec<_> = cluster.state.allocations().values().cloned().collect();
        for row in rows.iter().filter(|row| row.running_since.is_none()) {
            let observed = Observed::Running { ready: true, started_at: WallMs(1) };
            let observations = vec![Observation { allocation: row.id, observed }];
            cluster.apply(Command::Observe { node: row.node, observations }).unwrap();
        }
        cluster.now = cluster.now.after(DurationMs(1_000));
    }

    fn expected(cluster: &Cluster, job: JobId) -> Option<StateMs> {
        expected_start(&cluster.state, &SoftView::default(), cluster.now, (job, TaskIndex(0)))
    }

    #[test]
    fn what_waits_starts_when_what_runs_has_to_have_ended() {
        let mut cluster = Cluster::with_nodes([gpu_node(2)]);
        let begun = cluster.now;
        cluster.submit(limited(1, gpu_task(1)));
        cluster.submit(limited(3, gpu_task(1)));
        step(&mut cluster);
        // The first of those that wait has the place of the first that ends; the next that of the
        // first of those after that; and what needs both that of the last.
        let first = cluster.submit(limited(1, gpu_task(1)));
        let next = cluster.submit(limited(5, gpu_task(1)));
        let both = cluster.submit(limited(1, gpu_task(2)));
        let after =
            |hours: u64, ends: u64| Some(begun.after(DurationMs(hours * HOUR + ends * GRACE)));
        assert_eq!(expected(&cluster, first), after(1, 1));
        assert_eq!(expected(&cluster, next), after(2, 2));
        assert_eq!(expected(&cluster, both), after(7, 3));
        let gang = TaskSpec { count: 2, gang: Some(Gang {}), ..gpu_task(1) };
        let gang = cluster.submit(JobSpec { priority: 90, ..limited(1, gang) });
        assert_eq!(expected(&cluster, gang), after(7, 3), "what is smaller fills in before");
        // One that fits now, one that never does, and one behind what has no limit.
        let none = cluster.submit(limited(0, TaskSpec { gpu: None, ..gpu_task(1) }));
        assert_eq!(expected(&cluster, none), Some(cluster.now));
        let large = cluster.submit(limited(1, gpu_task(3)));
        assert_eq!(expected(&cluster, large), None);
    }

    #[test]
    fn behind_what_has_no_limit_nobody_knows() {
        let mut cluster = Cluster::with_nodes([gpu_node(1)]);
        cluster.submit(limited(0, gpu_task(1)));
        step(&mut cluster);
        let waits = cluster.submit(limited(1, gpu_task(1)));
        assert_eq!(expected(&cluster, waits), None);
        // Unless it ends already: then when its grace has passed.
        let change = JobChange::Stop { reason: String::new() };
        cluster.apply(Command::ChangeJob { job: JobId(1), if_version: None, change }).unwrap();
        assert_eq!(expected(&cluster, waits), Some(cluster.now.after(DurationMs(GRACE))));
    }
}
