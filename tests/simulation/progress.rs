//! What a cluster without trouble must come to.

use std::collections::BTreeSet;

use berth_model::{AllocationId, AllocationState, JobKind, NodeState, TaskIndex};
use berth_state::{ClusterState, JobPhase, JobRow};

use crate::world::World;

impl World {
    /// What is not yet as it should be; `None` when all is done.
    pub fn unfinished(&self) -> Option<String> {
        if !self.clients_are_idle() {
            return Some("clients wait for answers".to_owned());
        }
        let Some(leader) = self.schedulers.values().find(|one| one.term.is_some()) else {
            return Some("nobody leads".to_owned());
        };
        let view = leader.view();
        for other in self.schedulers.values() {
            let state = other.view();
            if other.node().is_none() || state.applied_index() != view.applied_index() {
                let (at, of) = (state.applied_index(), view.applied_index());
                return Some(format!("scheduler {} is at {at} of {of}", other.id));
            }
            if state.hash() != view.hash() {
                return Some(format!("scheduler {} has another state", other.id));
            }
        }
        self.nodes_unfinished(&view)
            .or_else(|| view.jobs().values().find_map(|job| job_unfinished(&view, job)))
            .or_else(|| self.workers_unfinished(&view))
    }

    fn nodes_unfinished(&self, view: &ClusterState) -> Option<String> {
        if view.nodes().len() < self.plan.agents {
            return Some("an agent has never come".to_owned());
        }
        let away = view.nodes().values().find(|node| !node.accepts_work());
        away.map(|node| format!("node {} is {:?} for {:?}", node.id, node.state, node.purpose))
    }

    /// Exactly what the state says runs, truly runs.
    fn workers_unfinished(&self, view: &ClusterState) -> Option<String> {
        let wanted: BTreeSet<AllocationId> = view.allocations().iter().map(|(id, _)| *id).collect();
        let alive: BTreeSet<AllocationId> =
            self.agents.iter().flat_map(|agent| agent.host.processes.keys().copied()).collect();
        let odd: Vec<String> =
            wanted.symmetric_difference(&alive).map(ToString::to_string).collect();
        (!odd.is_empty()).then(|| format!("only wanted or only alive: {}", odd.join(", ")))
    }
}

fn job_unfinished(view: &ClusterState, job: &JobRow) -> Option<String> {
    let wants = |what: &str| Some(format!("job {} ({:?}) {what}", job.id, job.phase));
    match (job.phase, job.kind()) {
        (JobPhase::Ended { .. }, _) => return None,
        (JobPhase::Ending(_), _) => return wants("is still ending"),
        (JobPhase::Active, JobKind::Batch) => {
            let rows: Vec<_> = view.allocations_of_task(job.id, TaskIndex(0)).collect();
            let task = view.tasks().get(&(job.id, TaskIndex(0)));
            return wants(&format!("has not ended: {rows:?}, {task:?}, {:?}", job.spec));
        }
        (JobPhase::Active, JobKind::Service | JobKind::Daemon) => {}
    }
    let rows: Vec<_> = view.allocations_of_task(job.id, TaskIndex(0)).collect();
    let serving =
        rows.iter().filter(|row| row.state == AllocationState::Running { ready: true }).count();
    let failed = view.tasks().get(&(job.id, TaskIndex(0))).map_or(0, |task| task.failed.len());
    let asked = match job.kind() {
        JobKind::Daemon => {
            view.nodes().values().filter(|node| node.state == NodeState::Ready).count()
        }
        JobKind::Batch | JobKind::Service => job.spec.tasks[0].count as usize,
    };
    let failed = usize::try_from(failed).unwrap();
    if serving + failed != asked || rows.len() != serving {
        let task = view.tasks().get(&(job.id, TaskIndex(0)));
        return wants(&format!(
            "has {serving} of {asked} replicas: {rows:?}, {task:?}, {:?}",
            job.spec
        ));
    }
    let outdated = rows.iter().any(|row| {
        let old = job.versions.iter().find(|old| old.version == row.job_version);
        row.job_version != job.version
            && old.is_some_and(|old| old.spec.tasks[0].gpu != job.spec.tasks[0].gpu)
    });
    if outdated { wants("runs an old version") } else { None }
}
