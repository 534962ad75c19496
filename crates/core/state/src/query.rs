//! Questions that several readers ask of the state.

use berth_model::{
    AllocationId, AllocationState, Attempt, InstanceIndex, JobId, Name, NodeId, StateMs, TaskIndex,
};

use crate::command::{Observation, Observed};
use crate::node::NodeRow;
use crate::rows::{AllocationRow, JobRow};
use crate::state::ClusterState;
use std::sync::Arc;

/// What a text that names a job stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    One(Arc<JobRow>),
    None,
    /// Several unfinished jobs of this name, or several ids with this prefix;
    /// at most `AMBIGUOUS_SHOWN_MAX` of them.
    Several(Vec<Arc<JobRow>>),
}

/// How many candidates an ambiguous name lists.
pub const AMBIGUOUS_SHOWN_MAX: usize = 10;

impl ClusterState {
    /// The job that `text` stands for in `namespace`: an exact id, else a name
    /// (the newest unfinished job of it, else the newest), else an unambiguous
    /// prefix of an id.
    pub fn find_job(&self, namespace: &Name, text: &str) -> Found {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let exact = text.parse::<JobId>().ok().and_then(|id| self.jobs.get(&id));
        if let Some(job) = exact.filter(|job| job.namespace() == namespace) {
            return Found::One(job.clone());
        }
        if digits {
            return self.find_by_prefix(namespace, text);
        }
        Name::new(text).map_or(Found::None, |name| self.find_by_name(namespace, &name))
    }

    /// The jobs of a name, oldest first.
    pub fn jobs_named<'a>(
        &'a self,
        namespace: &Name,
        name: &Name,
    ) -> impl DoubleEndedIterator<Item = &'a Arc<JobRow>> {
        let first = (namespace.clone(), name.clone(), JobId(0));
        let last = (namespace.clone(), name.clone(), JobId(u64::MAX));
        self.index.names.range(first..=last).filter_map(|(_, _, id)| self.jobs.get(id))
    }

    fn find_by_name(&self, namespace: &Name, name: &Name) -> Found {
        let unfinished: Vec<Arc<JobRow>> = self
            .jobs_named(namespace, name)
            .filter(|job| !job.is_ended())
            .take(AMBIGUOUS_SHOWN_MAX)
            .cloned()
            .collect();
        match unfinished.as_slice() {
            [one] => Found::One(one.clone()),
            [] => self
                .jobs_named(namespace, name)
                .next_back()
                .map_or(Found::None, |newest| Found::One(newest.clone())),
            [_, _, ..] => Found::Several(unfinished),
        }
    }

    fn find_by_prefix(&self, namespace: &Name, prefix: &str) -> Found {
        // Every id with this prefix lies in one range per number of digits.
        let mut found = Vec::new();
        let Ok(start) = prefix.parse::<u64>() else { return Found::None };
        if start == 0 || start.to_string() != prefix {
            return Found::None;
        }
        let mut range = (start, start);
        while range.0 <= self.cluster.job_counter && found.len() < AMBIGUOUS_SHOWN_MAX {
            let ids = JobId(range.0)..=JobId(range.1);
            let jobs = self.jobs.range(ids).map(|(_, job)| job);
            found.extend(
                jobs.filter(|job| job.namespace() == namespace)
                    .take(AMBIGUOUS_SHOWN_MAX - found.len())
                    .cloned(),
            );
            range = (range.0.saturating_mul(10), range.1.saturating_mul(10).saturating_add(9));
        }
        match found.as_slice() {
            [] => Found::None,
            [one] => Found::One(one.clone()),
            [_, _, ..] => Found::Several(found),
        }
    }

    /// The node with this name, or this id.
    pub fn find_node(&self, text: &str) -> Option<&Arc<NodeRow>> {
        let by_id = text.parse::<NodeId>().ok();
        let by_name = || Name::new(text).ok().and_then(|name| self.node_named(&name));
        by_id.or_else(by_name).and_then(|id| self.nodes.get(&id))
    }

    pub fn node_named(&self, name: &Name) -> Option<NodeId> {
        self.index.node_names.get(name).copied()
    }

    /// Whether what an agent observed would change anything; apply ignores what does not.
    pub fn is_news(&self, node: NodeId, observation: &Observation) -> bool {
        use AllocationState as A;
        let row = self.allocations.get(&observation.allocation).filter(|row| row.node == node);
        let Some(row) = row else {
            let Some(node) = self.nodes.get(&node) else { return false };
            if let Some(away) = node.away.get(&observation.allocation) {
                return away.is_news(&observation.observed);
            }
            let orphan = node.orphans.contains_key(&observation.allocation);
            return orphan && matches!(observation.observed, Observed::Ended(_));
        };
        let to = match &observation.observed {
            Observed::Starting(phase) => A::Starting(*phase),
            Observed::Running { ready, .. } => A::Running { ready: *ready },
            Observed::Unhealthy { .. } => return row.state.stop_intent().is_none(),
            Observed::Stopping => return false,
            Observed::Unkillable => match row.state.stop_intent() {
                Some(intent) => A::Unkillable(intent),
                None => return false,
            },
            Observed::Ended(_) => return true,
        };
        row.state != to && row.state.advance(to).is_ok()
    }

    /// The live allocations of a job, by task, instance and attempt.
    pub fn allocations_of(&self, job: JobId) -> impl Iterator<Item = &Arc<AllocationRow>> {
        let first = AllocationId { job, ..AllocationId::default() };
        let last = AllocationId {
            job,
            task: TaskIndex(u16::MAX),
            instance: InstanceIndex(u32::MAX),
            attempt: Attempt(u32::MAX),
        };
        self.allocations.range(first..=last).map(|(_, row)| row)
    }

    /// The live allocations of one task.
    pub fn allocations_of_task(
        &self,
        job: JobId,
        task: TaskIndex,
    ) -> impl Iterator<Item = &Arc<AllocationRow>> {
        let first = AllocationId { job, task, ..AllocationId::default() };
        let last = AllocationId {
            job,
            task,
            instance: InstanceIndex(u32::MAX),
            attempt: Attempt(u32::MAX),
        };
        self.allocations.range(first..=last).map(|(_, row)| row)
    }

    /// Whether any attempt of the instance of `id` is live.
    pub fn is_live(&self, id: AllocationId) -> bool {
        let first = AllocationId { attempt: Attempt(0), ..id };
        let last = AllocationId { attempt: Attempt(u32::MAX), ..id };
        self.allocations.range(first..=last).next().is_some()
    }

    /// Ended jobs, the one that ended first first, with when that was.
    pub fn finished(&self) -> impl Iterator<Item = (StateMs, JobId)> + '_ {
        self.index.finished.iter().copied()
    }

    /// The job that ended last; it is not too much, whatever it weighs.
    pub fn newest_finished(&self) -> Option<JobId> {
        self.index.finished.get_max().map(|(_, job)| *job)
    }

    /// Instances of ended jobs, in all and by namespace.
    pub fn finished_instances(&self) -> impl Iterator<Item = (&Name, u64)> {
        self.index.finished_instances.iter().map(|(namespace, count)| (namespace, *count))
    }

    /// Keys that may be forgotten at `now`.
    pub fn forgettable_keys(&self, now: StateMs) -> impl Iterator<Item = (&Name, &str)> {
        self.index
            .stale_keys
            .iter()
            .take_while(move |(at, _, _)| *at <= now)
            .map(|(_, namespace, key)| (namespace, key.as_str()))
    }

    /// Jobs whose deadline has passed at `now`.
    pub fn overdue(&self, now: StateMs) -> impl Iterator<Item = JobId> + '_ {
        self.index.deadlines.iter().take_while(move |(at, _)| *at <= now).map(|(_, job)| *job)
    }
}
