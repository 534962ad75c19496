//! The least priority at which less urgent work would end for what waits: found by submitting
//! the like of it to a copy of the view and planning, so that what is said to start does.

use std::sync::Arc;

use berth_model::{JobSpec, Name, PREEMPTION_GAP, StateMs, TaskIndex};
use berth_state::reservation::may_preempt;
use berth_state::{ClusterState, JobRow};

use crate::plan::FAILURES_MAX;
use crate::soft::SoftView;
use crate::what_if::tried;

/// The least priority above a job's own at which an instance of a task, or its whole gang, would
/// have a place; `None` if there is none up to the highest.
///
/// Costs O(log priorities) dry runs.
pub(crate) fn priority_enough(
    view: &ClusterState,
    soft: &SoftView,
    now: StateMs,
    job: &JobRow,
    task: TaskIndex,
) -> Option<u8> {
    let mut spec = JobSpec { priority: JobSpec::PRIORITY_MAX, ..JobSpec::clone(&job.spec) };
    if !may_preempt(&spec) {
        return None;
    }
    let row = view.tasks().get(&(job.id, task))?;
    let first = row.pending.iter().next()?;
    if row.failures_of(first) >= FAILURES_MAX {
        return None;
    }
    let asked = spec.tasks.get_mut(usize::from(task.0))?;
    if asked.gang.is_none() {
        asked.count = 1;
    }
    asked.array = None;
    spec.tasks = vec![asked.clone()];
    // A service of a name that there is would be updated.
    spec.name = Name::new(&format!("what-if-{}", job.id)).ok()?;
    let lower = view.endable_priorities().into_iter();
    let enough = lower.filter_map(|lower| lower.checked_add(PREEMPTION_GAP));
    let higher = job.spec.priority + 1..=JobSpec::PRIORITY_MAX;
    let steps: Vec<u8> = enough.filter(|priority| higher.contains(priority)).collect();
    let is_enough = |priority: &u8| {
        let spec = Arc::new(JobSpec { priority: *priority, ..spec.clone() });
        tried(view, soft, now, &spec).is_ok_and(|tried| tried.has_places())
    };
    // Who may end for a priority may end for every higher one.
    let first = steps.partition_point(|priority| !is_enough(priority));
    steps.get(first).copied()
}

#[cfg(test)]
mod tests {
    use berth_model::{DurationMs, Gang, Policy, Preemption, TaskSpec};

    use super::*;
    use crate::explain::explain;
    use crate::fixture::{Cluster, gpu_node, gpu_task, job};
    use crate::plan::plan;
    use crate::{Budget, PlanOutcome};

    fn planned(cluster: &Cluster) -> PlanOutcome {
        plan(&cluster.state, &SoftView::default(), cluster.now, Budget::UNLIMITED)
    }

    fn submit(cluster: &mut Cluster, priority: u8, task: TaskSpec) -> berth_model::JobId {
        let preemption = Preemption { min_run: DurationMs(0), ..Preemption::default() };
        cluster.submit(JobSpec { priority, preemption, ..job(Policy::BestFit, task) })
    }

    #[test]
    fn the_priority_that_is_named_is_enough_and_no_lower_one() {
        let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(2), gpu_node(0)]);
        for priority in [20, 40, 45] {
            submit(&mut cluster, priority, gpu_task(if priority == 20 { 2 } else { 1 }));
            cluster.place(planned(&cluster).placements);
        }
        cluster.now = cluster.now.after(DurationMs(60_000));
        let gang = |count| TaskSpec { count, gang: Some(Gang {}), ..gpu_task(1) };
        let check = |task: TaskSpec, priority, expected: Option<u8>| {
            let before = cluster.state.clone();
            let mut cluster = Cluster { state: before.clone(), now: cluster.now };
            let id = submit(&mut cluster, priority, task.clone());
            let outcome = planned(&cluster);
            let has_place = !(outcome.placements.is_empty() && outcome.reservations.is_empty());
            let said = explain(&cluster.state, &SoftView::default(), cluster.now, id).unwrap();
            let named = said.smallest_change.split("; or priority ").nth(1);
            let named = named.map(|text| text.split(',').next().unwrap().parse::<u8>().unwrap());
            assert_eq!(named, expected, "{}", said.smallest_change);
            let Some(named) = named else { return };
            assert!(!has_place);
            for (priority, is_enough) in [(named, true), (named - 1, false)] {
                let mut cluster = Cluster { state: before.clone(), now: cluster.now };
                submit(&mut cluster, priority, task.clone());
                let kept = planned(&cluster).reservations.len();
                assert_eq!(kept == task.count as usize, is_enough, "{priority}");
            }
        };
        check(gpu_task(1), 25, Some(30));
        check(gpu_task(2), 25, Some(30));
        check(gang(3), 10, Some(50));
        check(gang(4), 10, Some(55));
        check(gang(4), 54, Some(55));
        // It has no room at any, or has some at its own.
        check(gang(5), 10, None);
        check(gpu_task(1), 60, None);
        check(TaskSpec { gpu: None, ..gpu_task(1) }, 0, None);
    }
}
